/**
 * Texts of models and questions. They are shown as they are, never as markup; characters that draw nothing or turn
 * their neighbours around are shown by their code, and long texts are cut until the reader asks for all.
 */
import { html, nothing } from "lit-html";
import { redraw } from "./draw.js";

const LONG = 6000;
const LONGEST_BOX = 1000;
const whole = new Set();

/**
 * Control characters, those that draw nothing and those that change the direction of writing, by their code:
 * "⟨U+202E⟩". Joiners and variation selectors stay: letters of several scripts, and emoji, are made with them.
 */
export function visible(text) {
  return text.replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu,
    (mark) => `⟨U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

/** One line of at most `most` characters. */
export function clip(text, most) {
  const line = visible(String(text ?? "").slice(0, 4 * most)).replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}

/** The first sentence of a text, and the others. A point in a number or an abbreviation ends none. */
export function sentences(text) {
  const end = /[.!?](?=\s+[^\sa-z])/.exec(text);
  return end ? [text.slice(0, end.index + 1), text.slice(end.index + 1).trim()] : [text, ""];
}

/** A short text that may be written from right to left. */
export const short = (text, most = 80) => html`<bdi>${clip(text, most)}</bdi>`;

/** Every closed `\boxed{...}` of a text: [[begin, end, begin of what it holds, its end], ...]. */
export function boxes(text) {
  const found = [];
  const begin = /\\(?:boxed|fbox)\s*\{/g;
  for (let match; (match = begin.exec(text)); ) {
    let depth = 1;
    let at = begin.lastIndex;
    const end = Math.min(text.length, at + LONGEST_BOX);
    for (; at < end && depth; at++) {
      if (text[at] === "\\") at++;
      else if (text[at] === "{") depth++;
      else if (text[at] === "}") depth--;
    }
    if (depth === 0) {
      found.push([match.index, at, begin.lastIndex, at - 1]);
      begin.lastIndex = at;
    }
  }
  return found;
}

/**
 * The steps of a text, each in pieces [text, mark]: mark is "box" for a box, "answer" for what the last one holds,
 * and "" elsewhere. A box may reach over steps.
 */
export function marked(steps) {
  const found = boxes(steps.join(""));
  const cuts = [];
  found.forEach(([begin, end, inner, close], i) => {
    const last = i === found.length - 1;
    cuts.push([begin, inner, "box"], [inner, close, last ? "answer" : "box"], [close, end, "box"]);
  });
  let at = 0;
  return steps.map((step) => {
    const pieces = [];
    let done = at;
    for (const [begin, end, mark] of cuts) {
      const from = Math.max(begin, done);
      const to = Math.min(end, at + step.length);
      if (from >= to) continue;
      if (from > done) pieces.push([step.slice(done - at, from - at), ""]);
      pieces.push([step.slice(from - at, to - at), mark]);
      done = to;
    }
    if (done < at + step.length || !pieces.length) pieces.push([step.slice(done - at), ""]);
    at += step.length;
    return pieces;
  });
}

/** The shade of a token by its log-probability in nats: 0 (sure) to 5. */
export function shadeOf(logprob) {
  if (logprob === null || logprob === undefined) return 0;
  const limits = [-0.11, -0.36, -0.92, -1.9, -3.5];
  return limits.filter((limit) => logprob < limit).length;
}

const drawn = (pieces) =>
  pieces.map(([text, mark]) =>
    mark === "answer"
      ? html`<strong class="answer">${visible(text)}</strong>`
      : mark
        ? html`<span class=${mark}>${visible(text)}</span>`
        : visible(text),
  );

/** A button for the rest of a text that was cut. */
function more(key, length) {
  const all = () => {
    whole.add(key);
    redraw();
  };
  return html`<button class="more" @click=${all}>show all ${length.toLocaleString("en")} characters</button>`;
}

/** Where a text is cut that may have so many characters and lines. */
export function cutAt(text, characters, lines) {
  let end = 0;
  for (let line = 0; line < lines; line++) {
    end = text.indexOf("\n", end) + 1;
    if (!end || end > characters) return Math.min(text.length, characters);
  }
  return end - 1;
}

/**
 * A text, cut where it is long until the reader asks for all of it.
 * @param key: names the text, so that the reader's wish is kept.
 */
export function prose(text, key, characters = LONG, lines = 200) {
  const end = whole.has(key) ? text.length : cutAt(text, characters, lines);
  const cut = end < text.length;
  if (!text) return html`<p class="faint small">no text</p>`;
  const shown = marked([cut ? text.slice(0, end) : text])[0];
  return html`<div class="text"><bdi>${drawn(shown)}</bdi>${cut ? html`… ${more(key, text.length)}` : nothing}</div>`;
}

/** A question: as a text, but short at first. */
export const asked = (text, key) => prose(text ?? "", key, 1000, 12);

/**
 * A solution in numbered steps, with boxes and the answer marked.
 * @param steps: [{text, tokens: strings or null, logprobs: nats or null, aside: template or null, current: bool}]
 * @param shade: whether tokens are shaded by their log-probability; a step without tokens has its mean.
 */
export function solution(steps, key, { shade = false, first = 1 } = {}) {
  const total = steps.reduce((sum, step) => sum + step.text.length, 0);
  const open = whole.has(key);
  let room = open ? Infinity : LONG;
  const kept = [];
  for (const step of steps) {
    if (room <= 0) break;
    kept.push({ ...step, text: step.text.slice(0, room), cut: step.text.length > room });
    room -= step.text.length;
  }
  const pieces = marked(kept.map((step) => step.text));
  const body = (step, i) => {
    if (!shade || !step.logprobs) return drawn(pieces[i]);
    if (!step.tokens || step.cut) {
      const known = step.logprobs.filter((value) => value !== null);
      const mean = known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
      return html`<span class="p${shadeOf(mean)}">${drawn(pieces[i])}</span>`;
    }
    return step.tokens.map((token, j) => {
      const nats = step.logprobs[j];
      const told = nats === null || nats === undefined ? "not sampled" : `probability ${(100 * Math.exp(nats)).toPrecision(3)} %`;
      return html`<span class="p${shadeOf(nats)}" title=${told}>${visible(token)}</span>`;
    });
  };
  return html`<ol class="steps" start=${first}>
      ${kept.map(
        (step, i) => html`<li class=${step.current ? "current" : ""} value=${first + i}>
          ${step.aside ?? nothing}
          <div class="text"><bdi>${body(step, i)}</bdi></div>
        </li>`,
      )}
    </ol>
    ${total > LONG && !open ? html`<p>… ${more(key, total)}</p>` : nothing}`;
}
