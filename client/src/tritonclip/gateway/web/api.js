// Calls to the gateway: sends the key, limits concurrency, honours Retry-After, and unifies errors.

import { fromOne } from "./dom.js";
import { readTiming } from "./timing.js";

const MAX_CONCURRENT = 4;
const MAX_RETRIES = 3;
const LONGEST_WAIT_S = 60;
const STORED = "tritonclip-key";

// "unauthorized": a response had status 401.
export const events = new EventTarget();

class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let key = remembered();

export function remembered() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return ""; // storage is disabled
  }
}

export const hasKey = () => key !== "";

export function useKey(value, remember) {
  key = value;
  try {
    sessionStorage.removeItem(STORED);
    if (remember) sessionStorage.setItem(STORED, value);
  } catch {
    // storage is disabled; the key lasts until the page is closed
  }
}

// Paths are relative, because a proxy may serve the gateway under a path prefix.
export const address = (path) => new URL(path, document.baseURI).href;

export const getJson = (path, options = {}) => request(path, {}, options);

// Requests the result of one image. Options: signal, and onWait(text), called before each retry.
export async function requestForImage(path, { address, file, name }, fields, options) {
  const body = new FormData();
  if (address) body.append("images", address);
  else body.append("images", file, name);
  for (const [field, value] of fields) body.append(field, value);
  const answer = await queued(options, () => request(path, { method: "POST", body }, options));
  const [result] = answer.results;
  if (result.error) throw new ApiError(forSingleFile(result.error.message));
  return { ...result, warnings: answer.warnings, timing: answer.timing };
}

export const postForm = (path, body, options) => queued(options, () => request(path, { method: "POST", body }, options));

// Fetches a file that requires the key, as a blob.
export async function getBlob(path, options) {
  const response = await queued(options, () => send(path, {}, options.signal));
  if (!response.ok) throw new ApiError(`HTTP ${response.status}.`, response.status);
  return response.blob();
}

export function postJson(path, value, options) {
  const init = { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
  return queued(options, () => request(path, init, options));
}

let free = MAX_CONCURRENT;
const waiting = [];

async function queued({ signal }, work) {
  if (free > 0) free -= 1;
  else await new Promise((go) => waiting.push(go));
  try {
    signal?.throwIfAborted();
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else free += 1;
  }
}

async function request(path, init, { signal, onWait }) {
  for (let attempt = 1; ; attempt += 1) {
    const sent_ms = performance.now();
    const response = await send(path, init, signal);
    const wait_s = retryAfter(response);
    if (wait_s === null || attempt > MAX_RETRIES) return answerOf(response, sent_ms, signal);
    onWait?.(`The server is busy. Retry in ${wait_s} s (${attempt} of ${MAX_RETRIES}).`);
    await sleep(wait_s, signal);
  }
}

async function send(path, init, signal) {
  const headers = { ...init.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(address(path), { ...init, headers, signal, cache: "no-store" });
  } catch (error) {
    signal?.throwIfAborted();
    const isOut = error.name === "TypeError";
    throw new ApiError(isOut ? "No answer. The server or the file cannot be reached." : error.message);
  }
}

function retryAfter({ status, headers }) {
  const wait_s = Number(headers.get("Retry-After") ?? NaN);
  return (status === 429 || status === 503) && wait_s >= 0 && wait_s <= LONGEST_WAIT_S ? wait_s : null;
}

async function answerOf(response, sent_ms, signal) {
  const { ok, status, headers } = response;
  let body = null;
  try {
    body = await response.json();
  } catch {
    signal?.throwIfAborted(); // otherwise the body was not JSON, for example from a proxy
  }
  if (status === 401) events.dispatchEvent(new Event("unauthorized"));
  if (ok && body) return { ...body, timing: readTiming(headers.get("X-Timing"), performance.now() - sent_ms) };
  const trace = status >= 500 && headers.has("X-Request-ID") ? ` (request ${headers.get("X-Request-ID")})` : "";
  throw new ApiError(forSingleFile(body?.error?.message ?? `HTTP ${status}.`) + trace, status);
}

// The server's messages number the images of a request, but each request here has one image.
const forSingleFile = (message) =>
  fromOne(message).replace(/^image 0\b/, "The file").replace(/^The file: ./, (start) => start.at(-1).toUpperCase());

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}
