/** Keys: what a page and the whole page listen to, and the help that lists them. */
import { html } from "lit-html";
import { redraw } from "./draw.js";

const NAMES = { ArrowDown: "↓", ArrowUp: "↑", ArrowRight: "→", ArrowLeft: "←" };
const store = { get: () => null, set: () => {} };
try {
  store.get = (name) => localStorage.getItem(name);
  store.set = (name, value) => localStorage.setItem(name, value);
  store.get("keys");
} catch {
  // A page from disk may have no storage: choices then last as long as the page.
  store.get = () => null;
  store.set = () => {};
}
export const remembered = store;
let single = store.get("keys") !== "off";
let groups = () => [];

/** Begins to listen; `of()` gives [[title, [[keys, what they do, action], ...]], ...], the first match counts. */
export function listen(of) {
  groups = of;
  addEventListener("keydown", pressed);
}

const typing = (element) => element?.closest?.("input:not([type=checkbox]), select, textarea, [contenteditable]");

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const dialog = document.getElementById("help");
  if (dialog?.open) {
    if (event.key === "?" || event.key === "Escape") dialog.close(); // at once: the next key is for the page
    return;
  }
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (!single && event.key.length === 1) return;
  const key = event.shiftKey && event.key.length > 1 ? `Shift+${event.key}` : event.key;
  for (const [, keys] of groups()) {
    for (const [names, , action] of keys) {
      if (!names.split(" ").includes(key)) continue;
      event.preventDefault();
      action(event);
      return;
    }
  }
}

const shown = (names) =>
  names.split(" ").map((name, i) => {
    const parts = name.split("+").map((part) => html`<kbd>${NAMES[part] ?? part}</kbd>`);
    return html`${i ? " or " : ""}${parts}`;
  });

const toggle = (event) => {
  single = event.target.checked;
  remembered.set("keys", single ? "on" : "off");
  redraw();
};

/** The help: every key of this page. */
export function help() {
  return html`<dialog id="help" aria-labelledby="help-title">
    <h2 id="help-title">Keys</h2>
    <div class="help">${groups().map(
      ([title, keys]) => html`<section><h3>${title}</h3><dl>${keys.map(([names, told]) => html`<div><dt>${shown(names)}</dt><dd>${told}</dd></div>`)}</dl></section>`,
    )}</div>
    <p><label><input type="checkbox" ?checked=${single} @change=${toggle}> keys of one letter</label></p>
    <form method="dialog"><button>Close</button></form>
  </dialog>`;
}

export function openHelp() {
  const dialog = document.getElementById("help");
  if (!dialog.open) dialog.showModal();
}
