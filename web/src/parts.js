/** Parts that several pages share: numbers, marks of verdicts, lists that draw only what is seen, messages. */
import { html, nothing } from "lit-html";
import { ref } from "lit-html/directives/ref.js";
import { redraw } from "./draw.js";
import { choice, choose, link, path } from "./state.js";
import { clip, short } from "./text.js";
import { known } from "./data.js";

const grouped = new Intl.NumberFormat("en");

/** A number in few digits: 12,345  0.0312  1.2e-7. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return grouped.format(value);
  const size = Math.abs(value);
  if (size >= 1000) return grouped.format(Math.round(value));
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** A share as percent: "73.4 %". */
export function percent(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const least = 10 ** -digits;
  return value > 0 && 100 * value < least / 2 ? `< ${least} %` : `${(100 * value).toFixed(digits)} %`;
}

/** Seconds as a person says them: "41 s", "3 min", "2 h 5 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** How long ago an ISO time was. */
export function ago(time) {
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds < 5) return "just now";
  if (seconds < 48 * 3600) return `${duration(seconds)} ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export const plural = (count, one, many = `${one}s`) => `${figure(count)} ${count === 1 ? one : many}`;

/** The head of a list's row: the question, and its name. */
export const questionHead = (id, question) =>
  html`<span class="head">${question ? html`${short(question, 80)} <bdi class="id">${clip(id, 40)}</bdi>` : html`<bdi>${clip(id, 60)}</bdi>`}</span>`;

/** Whether a question is among those that the reader searches for, by its text or its name. */
export function finds(id, question) {
  const wanted = choice("find")?.toLowerCase();
  return !wanted || id.toLowerCase().includes(wanted) || (question ?? "").toLowerCase().includes(wanted);
}

/** The search for a question, above a list, and what the list holds. */
export const finder = (told) => html`<div class="finder">
  <input type="search" id="find" placeholder="find a question" aria-label="find a question" .value=${choice("find") ?? ""}
    @input=${(event) => choose({ find: event.target.value })}>
  <p class="faint small" role="status">${told}</p></div>`;

const SIGNS = { correct: "✓", wrong: "✗", no_answer: "∅", truncated: "…", ungradable: "?" };
const SHOWN = { no_answer: "no answer" };

/** The name of a verdict as it is read. */
export const statusName = (status) => SHOWN[status] ?? status;

/** A verdict: a sign and a word, in its colour. */
export function badge(status) {
  if (!status) return html`<span class="badge open">open</span>`;
  return html`<span class="badge ${status}"><span aria-hidden="true">${SIGNS[status] ?? "·"}</span> ${statusName(status)}</span>`;
}

/** A share as a bar with a name for those who do not see it. */
export function bar(share, label, kind = "") {
  const width = `width:${Math.max(0, Math.min(100, 100 * (share ?? 0))).toFixed(2)}%`;
  return html`<span class="bar ${kind}" role="img" aria-label=${label}><span .style=${width}></span></span>`;
}

/** Shares side by side: [[class, share, name], ...]. */
export function strip(parts, label) {
  const drawn = parts.filter(([, share]) => share > 0);
  return html`<span class="strip" role="img" aria-label=${label}>
    ${drawn.map(([kind, share]) => html`<span class=${kind} .style=${`flex-grow:${share}`}></span>`)}
  </span>`;
}

export const message = (text) => html`<p class="message" role="status">${text}</p>`;
export const waiting = () => html`<p class="message faint" role="status">Loading …</p>`;

/** What stands in place of a resource that is not there: null where it is there and well. */
export function missing(value) {
  if (value === undefined) return waiting();
  return value.error ? message(value.error) : null;
}

/** What could not be read (yet), in the server's words. */
export const notes = (value) => (value.notes ?? []).map((note) => html`<p class="flag small"><bdi>${note}</bdi></p>`);

const seen = new Map();

/**
 * A list of rows of one height, of which only those in sight are drawn. It is a listbox: the keys that choose
 * belong to the page, which also hears them elsewhere.
 * @param rows: how many; row(i): a template; selected: place of the chosen one or -1; pick(i): chooses.
 */
export function list({ id, label, rows, height, row, selected, pick }) {
  const state = seen.get(id) ?? { top: 0, room: 600, selected: null };
  seen.set(id, state);
  state.keep ??= (element) => {
    if (element === state.element) return;
    state.watch?.disconnect();
    state.element = element;
    if (!element) return;
    state.watch = new ResizeObserver(([entry]) => {
      state.room = entry.contentRect.height || 600;
      redraw();
    });
    state.watch.observe(element);
  };
  if (state.selected !== selected || state.rows !== rows) {
    const had = state.selected;
    state.selected = selected;
    state.rows = rows;
    if (selected >= 0) {
      const at = selected * height;
      const above = at < state.top;
      const below = at + height > state.top + state.room;
      if (above || below) {
        state.top = had === null ? Math.max(0, at - state.room / 3) : Math.max(0, above ? at : at + height - state.room);
        queueMicrotask(() => state.element && (state.element.scrollTop = state.top));
      }
    }
  }
  const scrolled = (event) => {
    state.top = event.currentTarget.scrollTop;
    redraw();
  };
  const first = Math.max(0, Math.min(Math.floor(state.top / height) - 4, rows - 1));
  const last = Math.min(rows, Math.ceil((state.top + state.room) / height) + 4);
  const places = [];
  for (let i = first; i < last; i++) places.push(i);
  const chosen = selected >= first && selected < last ? `${id}-${selected}` : nothing;
  return html`<div class="list" id=${id} role="listbox" tabindex="0" aria-label=${label} aria-activedescendant=${chosen}
    @scroll=${scrolled} ${ref(state.keep)}>
    <div class="spacer" role="presentation" .style=${`height:${rows * height}px`}>
      ${places.map(
        (i) => html`<div class="row" role="option" id="${id}-${i}" aria-selected=${i === selected ? "true" : "false"}
          aria-setsize=${rows} aria-posinset=${i + 1} .style=${`height:${height}px;top:${i * height}px`}
          @click=${() => pick(i)}>${row(i)}</div>`,
      )}
    </div>
  </div>`;
}

/** The stages of the run that hold something of a page, as links; `here` is the one that is shown. */
export function stageTabs(run, page, part, here) {
  const stages = known(`run/${run}`)?.stages?.filter((stage) => stage.has.includes(part)) ?? [];
  if (stages.length < 2) return nothing;
  return html`<nav class="tabs" aria-label="Stages">
    ${stages.map(
      (stage) => html`<a href=${link(["run", run, page, stage.name])} aria-current=${stage.name === here ? "page" : nothing}
        ><bdi>${stage.name}</bdi> <span class="faint">${stage.kind}</span></a>`,
    )}
  </nav>`;
}

/** The stage of the address, or the first that holds something of this page; null where there is none. */
export function stageHere(run, part) {
  const named = path()[3];
  if (named !== undefined) return named;
  return known(`run/${run}`)?.stages?.find((stage) => stage.has.includes(part))?.name ?? null;
}

/** Moves a choice within [0, count). */
export const within = (place, count) => Math.max(0, Math.min(count - 1, place));
