/**
 * What the page knows. A resource is `data/NAME.js`, one statement that calls `butwait.receive`; it is loaded by a
 * script tag, so that a folder on disk serves as well as the server. `value(name)` asks for what is not there yet
 * and gives undefined until it comes; the page is drawn again when it does.
 */

const values = new Map();
const asked = new Map();
const failed = new Map();
const AGAIN_MS = 4000;

/** How many of what is large are kept: those that were looked at last. A path may reach over a hundred chunks of text. */
const KEPT = { texts: 300, tokens: 24, tree: 12, table: 6 };
const TABLES = ["attempts", "trees", "examples", "training"];

function kindOf(name) {
  if (name.includes("/texts/")) return "texts";
  if (name.includes("/tokens/")) return "tokens";
  if (name.startsWith("tree/")) return "tree";
  return TABLES.includes(name.split("/")[0]) ? "table" : null;
}
let changed = () => {};
let served = 0;
let lost = false;

/** Calls `draw` after anything new has come. */
export function whenChanged(draw) {
  changed = draw;
}

/** Whether the last question went unanswered: the server has ended, or the folder lacks the file. */
export const isLost = () => lost;

/** Where a resource lies, relative to the page. */
export function address(name) {
  return `data/${name.split("/").map(encodeURIComponent).join("/")}.js`;
}

function ask(name, query = "") {
  if (asked.has(name)) return;
  const script = document.createElement("script");
  asked.set(name, script);
  const done = (fails) => {
    script.remove();
    asked.delete(name);
    if (name === "runs" || !fails) lost = fails;
    if (fails && !values.has(name)) keep(name, { error: "This part could not be loaded." });
    changed();
  };
  script.onload = () => done(false);
  script.onerror = () => done(true);
  script.src = address(name) + query;
  document.head.append(script);
}

/** Tables whose parts have names of their own, and what those begin with. */
const parts = (name) => [`${name}/texts/`, `${name}/tokens/`, ...(name.startsWith("trees/") ? [`tree/${name.slice(6)}/`] : [])];

function keep(name, value) {
  // A stage that was made anew, from other settings or inputs, has other trees and texts under the same names.
  const made = values.get(name)?.made;
  if (made && value.made && made !== value.made) {
    const stale = parts(name);
    for (const one of values.keys()) if (stale.some((begin) => one.startsWith(begin))) values.delete(one);
  }
  values.delete(name);
  values.set(name, value);
  if (value.error) failed.set(name, Date.now());
  else failed.delete(name);
  const kind = kindOf(name);
  if (!kind) return;
  const alike = [...values.keys()].filter((one) => kindOf(one) === kind);
  alike.slice(0, Math.max(0, alike.length - KEPT[kind])).forEach((one) => values.delete(one));
}

/** The value of a resource; undefined until it has come. One that says {error} is a value, and asked for again at times. */
export function value(name) {
  const found = values.get(name);
  if (found === undefined) ask(name);
  else if (found.error) {
    if (values.get("runs")?.live && Date.now() - failed.get(name) > AGAIN_MS) refresh(name);
  } else if (kindOf(name)) {
    // What was looked at last goes last.
    values.delete(name);
    values.set(name, found);
  }
  return found;
}

/** Asks for a resource again; the old value stays until the new one is there. */
export function refresh(name) {
  ask(name, `?${++served}`);
}

/** The value if it is there; asks for nothing. */
export const known = (name) => values.get(name);

/** An entry of a list that comes in chunks; undefined until its chunk is there, {error} where that cannot be read. */
export function entry(chunk, list, place) {
  const part = value(chunk);
  if (part?.error) return { error: part.error };
  return part?.[list][place];
}

window.butwait = {
  receive: keep,
};
