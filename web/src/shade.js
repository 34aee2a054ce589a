/**
 * Tokens of a text, shaded by their probability. Lengths are in units of JavaScript's strings. A text is one stop of
 * the Tab key: within it arrow keys go from token to token, and a line above tells of the one that is pointed at.
 */
import { html } from "lit-html";
import { redraw } from "./draw.js";

/** Probabilities at which the shade changes. */
const LIMITS = [0.9, 0.7, 0.4, 0.15, 0.03];
const NATS = LIMITS.map(Math.log);

/** The shade of a token by its log-probability in nats: 0 (sure) to 5. */
export function shadeOf(logprob) {
  if (logprob === null || logprob === undefined) return 0;
  return NATS.filter((limit) => logprob < limit).length;
}

/**
 * The tokens that are seen in a text: [{length, logprob, from, to}, ...]. Those of no length (parts of a character,
 * special tokens) go with the next one, by the product of their probabilities; from and to count all tokens.
 */
export function seen(lengths, logprobs) {
  const found = [];
  let from = 0;
  let sum = 0;
  lengths.forEach((length, i) => {
    sum = sum === null || logprobs[i] === null ? null : sum + logprobs[i];
    if (!length) return;
    found.push({ length, logprob: sum, from, to: i });
    from = i + 1;
    sum = 0;
  });
  return found;
}

/** Tokens over the parts of a text: for each part [[length in it, token], ...], as far as the tokens reach. */
export function spread(parts, tokens) {
  let at = 0;
  let left = tokens[0]?.length ?? 0;
  return parts.map((part) => {
    const own = [];
    for (let room = part.length; room > 0 && at < tokens.length; ) {
      const taken = Math.min(left, room);
      own.push([taken, tokens[at]]);
      room -= taken;
      left -= taken;
      if (!left) left = tokens[++at]?.length ?? 0;
    }
    return own;
  });
}

/** Pieces [text, mark] of a part, each cut at its tokens' ends: [[mark, [[text, token], ...]], ...]. */
export function cut(pieces, own) {
  let at = 0;
  let left = own[0]?.[0] ?? 0;
  return pieces.map(([text, mark]) => {
    const cuts = [];
    for (let done = 0; done < text.length; ) {
      const taken = at < own.length ? Math.min(left, text.length - done) : text.length - done;
      cuts.push([text.slice(done, done + taken), own[at]?.[1] ?? null]);
      done += taken;
      left -= taken;
      if (at < own.length && !left) left = own[++at]?.[0] ?? 0;
    }
    return [mark, cuts];
  });
}

/** What is said of a token: [its place among all, its probability]. */
export function tokenTold(logprob, from, to) {
  const place = to > from ? `tokens ${from + 1} to ${to + 1}` : `token ${from + 1}`;
  if (logprob === null) return [place, "not sampled"];
  return [place, `probability ${(100 * Math.exp(logprob)).toPrecision(3)} %, ${logprob.toFixed(2)} nats`];
}

/** What each shade means. */
export const shadeLegend = () => {
  const percents = LIMITS.map((limit) => Math.round(100 * limit));
  const names = [`over ${percents[0]} %`, ...percents.slice(1).map((low, i) => `${low} to ${percents[i]}`), `under ${percents.at(-1)}`];
  return html`<span class="shades small">probability of a token: ${names.map((name, i) => html`<span class="p${i}">${name}</span>`)}</span>`;
};

const told = new Map();
/** Characters of a token in the line that tells of it. */
const LONGEST = 40;

/** The line that tells of the token that is pointed at in a text, and where its tokens are. */
export function pointing(key, body) {
  return html`<p class="of-token small" role="status">${told.get(key) ?? "Point at a token, or step through them by the keys , and ."}</p>
    <div class="shaded" data-key=${key} tabindex="0" role="group" aria-label="Tokens; the arrow keys left and right step through them"
      @mouseover=${(event) => point(event.currentTarget, event.target.closest("[data-token]"))}
      @click=${(event) => point(event.currentTarget, event.target.closest("[data-token]"))}
      @keydown=${pressed}>${body}</div>`;
}

function point(box, element) {
  if (!element) return;
  box.querySelectorAll("[data-at]").forEach((one) => one.removeAttribute("data-at"));
  const parts = [...box.querySelectorAll(`[data-token="${element.dataset.token}"]`)];
  parts.forEach((one) => one.setAttribute("data-at", ""));
  const [from, to, logprob] = element.dataset.token.split(" ");
  const here = new Set([...document.querySelectorAll(".shaded")].map((one) => one.dataset.key));
  for (const key of told.keys()) if (!here.has(key)) told.delete(key);
  const [place, probability] = tokenTold(logprob === "" ? null : Number(logprob), Number(from), Number(to));
  const text = parts.map((one) => one.textContent).join("").replaceAll("\n", "⏎");
  const shown = text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
  told.set(box.dataset.key, html`${place} <bdi>“${shown}”</bdi>: ${probability}`);
  redraw();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  stepToken(by, event.currentTarget);
}

/** Points at the next token (1), the one before (-1), the first or the last (infinite); by itself in the first text that is shown. */
export function stepToken(by, box = document.querySelector(".shaded")) {
  if (!box) return;
  const here = Number.isFinite(by) ? box.querySelector("[data-at]") : null;
  const all = box.querySelectorAll("[data-token]");
  const element = here ? beside(box, here, by) : all[by === Infinity ? all.length - 1 : 0];
  point(box, element);
  element?.scrollIntoView({ block: "nearest" });
}

/** The nearest part of another token; null at the ends. */
function beside(box, part, by) {
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_ELEMENT);
  walker.currentNode = part;
  const token = part.dataset.token;
  let at = part;
  while (at && (!at.dataset.token || at.dataset.token === token)) at = by > 0 ? walker.nextNode() : walker.previousNode();
  return at;
}
