/**
 * Where the reader is: the path and the choices after the `#` of the address, so that a link shows what one sees.
 * `#/run/0/attempts/base?problem=12&status=wrong`. Choices change at once and reach the address a moment later.
 */

let draw = () => {};
let written = null;
let timer = 0;
const here = { path: [], choices: {} };

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const decode = (part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  here.path = path.split("/").filter(Boolean).map(decode);
  here.choices = Object.fromEntries(new URLSearchParams(query ?? ""));
}

/** The address of a page: `link(["run", 0, "trees", "hunt"], {tree: 3})`. */
export function link(path, choices = {}) {
  const kept = Object.entries(choices).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${path.map((part) => encodeURIComponent(part)).join("/")}${query ? `?${query}` : ""}`;
}

/** Begins to follow the address; `redraw` is called after every change. */
export function follow(redraw) {
  draw = redraw;
  read();
  addEventListener("hashchange", () => {
    const own = location.hash === written;
    written = null; // the same address may come again, by a key or by going back
    if (own) return;
    clearTimeout(timer);
    read();
    draw();
    scrollTo(0, 0);
  });
}

export const path = () => here.path;
export const choice = (name) => here.choices[name];

/** A choice that is a number; `otherwise` where it is none. */
export function number(name, otherwise = null) {
  const value = here.choices[name];
  return value !== undefined && /^-?\d+$/.test(value) ? Number(value) : otherwise;
}

/** Changes choices; null takes one away. */
export function choose(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") delete here.choices[name];
    else here.choices[name] = String(value);
  }
  // Browsers refuse hundreds of changes of the address in a few seconds, as a held key makes them.
  clearTimeout(timer);
  timer = setTimeout(() => {
    const address = link(here.path, here.choices);
    if (location.hash === address) return;
    written = address;
    location.replace(address);
  }, 250);
  draw();
}

/** Makes what is shown by default a choice, so that what was chosen within it stays with it. To be called while drawing. */
export function settle(name, value) {
  here.choices[name] ??= String(value);
}

/** Goes to another page. */
export function go(path, choices) {
  clearTimeout(timer); // of choices on the page that is left
  written = link(path, choices);
  if (location.hash === written) written = null;
  else location.hash = written;
  read(); // at once: the next key is for the page that comes
  draw();
  scrollTo(0, 0);
}
