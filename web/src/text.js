/**
 * Texts of models and questions. They are shown as they are, never as markup; characters that draw nothing or turn
 * their neighbours around are shown by their code, and long texts are cut until the reader asks for all.
 */
import { html, nothing } from "lit-html";
import { guard } from "lit-html/directives/guard.js";
import { keyed } from "lit-html/directives/keyed.js";
import { redraw } from "./draw.js";
import { cut, pointing, shadeOf, spread } from "./shade.js";

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

const drawn = (pieces) => pieces.map(([text, mark]) => under(mark, visible(text)));

/** Text as a mark has it. */
function under(mark, text) {
  if (mark === "answer") return html`<strong class="answer">${text}</strong>`;
  return mark ? html`<span class=${mark}>${text}</span>` : text;
}

/** Pieces [text, mark] with their tokens shaded. */
const shaded = (pieces, own) =>
  cut(pieces, own).map(([mark, cuts]) =>
    under(
      mark,
      cuts.map(([text, token]) =>
        token === null
          ? visible(text)
          : html`<span class="p${shadeOf(token.logprob)}" data-token="${token.from} ${token.to} ${token.logprob ?? ""}">${visible(text)}</span>`,
      ),
    ),
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
 * @param steps: [{text, logprobs: nats or null, aside: template or null, current: bool}]
 * @param shade: whether steps are shaded by their tokens' log-probabilities.
 * @param tokens: those of the whole text (`seen`); without them a step has the shade of its `logprobs`' mean.
 */
export function solution(steps, key, { shade = false, tokens = null, first = 1 } = {}) {
  const total = steps.reduce((sum, step) => sum + step.text.length, 0);
  const open = whole.has(key);
  let room = open ? Infinity : LONG;
  const kept = [];
  for (const step of steps) {
    if (room <= 0) break;
    kept.push({ ...step, text: step.text.slice(0, room) });
    room -= step.text.length;
  }
  const texts = kept.map((step) => step.text);
  const pieces = marked(texts);
  const plain = (step, i) => {
    if (!shade || !step.logprobs) return drawn(pieces[i]);
    const known = step.logprobs.filter((value) => value !== null);
    const mean = known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
    return html`<span class="p${shadeOf(mean)}">${drawn(pieces[i])}</span>`;
  };
  const list = (body) => html`<ol class="steps" start=${first}>
      ${kept.map(
        (step, i) => html`<li class=${step.current ? "current" : ""} value=${first + i}>
          ${step.aside ?? nothing}
          <div class="text"><bdi>${body(step, i)}</bdi></div>
        </li>`,
      )}
    </ol>`;
  const byToken = () => {
    const own = spread(texts, tokens);
    return list((_, i) => shaded(pieces[i], own[i]));
  };
  // Thousands of tokens are not drawn anew for every one that is pointed at.
  const drawnList = shade && tokens ? keyed(key, pointing(key, guard([tokens, open], byToken))) : list(plain);
  return html`${drawnList}${total > LONG && !open ? html`<p>… ${more(key, total)}</p>` : nothing}`;
}
