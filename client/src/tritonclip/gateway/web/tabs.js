// Tabs following the ARIA pattern: arrow keys, Home and End select a tab; only the selected one is focusable.

const MOVES = { ArrowRight: (at) => at + 1, ArrowLeft: (at) => at - 1, Home: () => 0, End: () => -1 };

// Returns a function that chooses a tab.
export function startTabs(list, onChoose) {
  const tabs = [...list.querySelectorAll("[role=tab]")];

  function choose(tab) {
    for (const each of tabs) {
      const isChosen = each === tab;
      each.setAttribute("aria-selected", String(isChosen));
      each.tabIndex = isChosen ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !isChosen;
    }
    onChoose(document.getElementById(tab.getAttribute("aria-controls")));
  }

  for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
  list.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const to = tabs.at(move(tabs.indexOf(document.activeElement)) % tabs.length);
    to.focus();
    choose(to);
  });
  return choose;
}
