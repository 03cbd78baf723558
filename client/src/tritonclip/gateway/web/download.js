// Saves results as JSON or CSV.

import { save } from "./dom.js";

const FORMULA = /^'*[=+\-@\t\r\n]/; // a spreadsheet would run such a text

function cell(value) {
  if (typeof value === "number") return String(value);
  const text = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const saveJson = (name, value) => save(name, JSON.stringify(value), "application/json");

export function saveCsv(name, columns, rows) {
  save(name, [columns, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join(""), "text/csv");
}
