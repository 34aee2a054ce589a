import assert from "node:assert/strict";
import test from "node:test";
import { boxes, clip, cutAt, marked, sentences, visible } from "../src/text.js";

test("boxes are found by their braces, unclosed ones are none", () => {
  const text = String.raw`a \boxed{\frac{1}{2}} b \fbox {3} c \boxed{4`;
  assert.deepEqual(boxes(text).map(([from, to, begin, end]) => [text.slice(from, to), text.slice(begin, end)]), [
    [String.raw`\boxed{\frac{1}{2}}`, String.raw`\frac{1}{2}`],
    [String.raw`\fbox {3}`, "3"],
  ]);
  assert.deepEqual(boxes(String.raw`\boxed{\}}`).length, 1);
  assert.deepEqual(boxes("\\boxed{".repeat(2000)), []);
});

test("the last box holds the answer, also over steps, and the pieces are the text", () => {
  const steps = [String.raw`so \boxed{1}, `, String.raw`no, \boxed{1`, "7} end", ""];
  const pieces = marked(steps);
  assert.deepEqual(pieces.map((step) => step.map(([text]) => text).join("")), steps);
  const of = (mark) => pieces.flat().filter(([, each]) => each === mark).map(([text]) => text);
  assert.deepEqual(of("answer"), ["1", "7"]);
  assert.deepEqual(of("box"), ["\\boxed{", "1", "}", "\\boxed{", "}"]);
});

test("what draws nothing or turns the writing is shown by its code", () => {
  assert.equal(visible("a\0b\u202ec\n\td"), "a⟨U+0000⟩b⟨U+202E⟩c\n\td");
  assert.equal(clip("one\n two   three", 8), "one two…");
  assert.equal(clip(null, 8), "");
  assert.equal(visible("مرحبا"), "مرحبا");
});

test("a text is cut at so many characters or lines", () => {
  assert.equal(cutAt("abcdef", 4, 9), 4);
  assert.equal(cutAt("abc", 9, 9), 3);
  assert.equal(cutAt("a\nb\nc\nd", 99, 2), 3);
  assert.equal(cutAt("a\nb", 99, 2), 3);
  assert.equal(cutAt("", 9, 2), 0);
});

test("what draws nothing is shown by its code, letters made of joiners stay", () => {
  const hidden = ["\u00ad", "\u200b", "\u2028", "\u2029", "\u2060", "\u2064", "\u202e", "\u{e0041}", "\ufeff"];
  for (const mark of hidden) assert.match(visible(`a${mark}b`), /^a⟨U\+[0-9A-F]{4,5}⟩b$/);
  const kept = "👩‍🔬 ❤️ नमस्‍ते a\tb\nc";
  assert.equal(visible(kept), kept);
});

test("a headline is the first sentence", () => {
  assert.deepEqual(sentences("NOT EVIDENCE: 10/30 against 9/30 (p = 0.7). It would take 500."), [
    "NOT EVIDENCE: 10/30 against 9/30 (p = 0.7).", "It would take 500.",
  ]);
  assert.deepEqual(sentences("Solves 3.5 % of e.g. these"), ["Solves 3.5 % of e.g. these", ""]);
});
