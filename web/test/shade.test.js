import assert from "node:assert/strict";
import test from "node:test";
import { cut, seen, shadeOf, spread, tokenTold } from "../src/shade.js";
import { marked } from "../src/text.js";

test("shades follow probability, and what was not sampled has none", () => {
  assert.deepEqual([0, -0.1, -0.3, -0.5, -1.5, -3, -9, null, undefined].map(shadeOf), [0, 0, 1, 2, 3, 4, 5, 0, 0]);
});

test("tokens of no length go with the next one, by the product of their probabilities", () => {
  assert.deepEqual(seen([2, 0, 0, 2, 1, 0], [-1, -0.5, -0.25, -2, null, -3]), [
    { length: 2, logprob: -1, from: 0, to: 0 },
    { length: 2, logprob: -2.75, from: 1, to: 3 },
    { length: 1, logprob: null, from: 4, to: 4 },
  ]);
  assert.deepEqual(seen([0, 3, 2], [null, null, -1]).map((token) => token.logprob), [null, -1]);
});

test("tokens are spread over steps, and the cuts of all pieces are the text", () => {
  const steps = [String.raw`so 😀 \boxed{1`, "7} end"];
  const tokens = seen([3, 0, 2, 1, 7, 2, 5], [-0.1, -1, -1, -2, -3, -4, -5]);
  const own = spread(steps, tokens);
  const cuts = marked(steps).map((pieces, i) => cut(pieces, own[i]));
  assert.deepEqual(cuts.map((step) => step.map(([, parts]) => parts.map(([text]) => text).join("")).join("")), steps);
  const all = cuts.flat().flatMap(([mark, parts]) => parts.map(([text, token]) => [mark, text, token.to]));
  assert.deepEqual(all, [
    ["", "so ", 0], ["", "😀", 2], ["", " ", 3], ["box", "\\boxed{", 4], ["answer", "1", 5],
    ["answer", "7", 5], ["box", "}", 6], ["", " end", 6],
  ]);
});

test("a text that goes on after its tokens is shown", () => {
  assert.deepEqual(cut([["abcd", ""], ["ef", "box"]], [[3, "t"]]), [
    ["", [["abc", "t"], ["d", null]]],
    ["box", [["ef", null]]],
  ]);
  assert.deepEqual(cut([["", ""]], []), [["", []]]);
});

test("a token is told by its place and probability", () => {
  assert.deepEqual(tokenTold(Math.log(0.25), 4, 4), ["token 5", "probability 25.0 %, -1.39 nats"]);
  assert.deepEqual(tokenTold(null, 0, 2), ["tokens 1 to 3", "not sampled"]);
});
