import assert from "node:assert/strict";
import test from "node:test";
import { paired } from "../src/pairs.js";

const BEGINNING = "Examples, which all questions begin with.";
const set = (name, ...texts) => texts.map((same, i) => ({ set: name, id: String(i + 1), question: same && BEGINNING, same }));

test("questions are the same by their text, whatever their ids and sets are called", () => {
  const own = set("test", "What is 3 + 4?", "What is 1 + 1?");
  assert.deepEqual([...paired(own, set("mine", "What is 1 + 1?", "What is 2 + 2?", "What is 3 + 4?"))], [[0, 2], [1, 0]]);
  assert.deepEqual([...paired(own, set("test", "What is 5 + 2?", "What is 6 + 2?"))], []);
});

test("of equal questions that of the same set is meant, then the first", () => {
  const own = [...set("dev", "a?"), ...set("test", "a?", "b?", "b?")];
  assert.deepEqual([...paired(own, set("test", "b?", "a?", "b?"))], [[1, 1], [2, 0], [3, 2]]);
});

test("where no text is known, the id tells, and where one is, it does not", () => {
  assert.deepEqual([...paired(set("test", "", ""), set("test", "", "a?"))], [[0, 0]]);
  assert.deepEqual([...paired(set("test", ""), set("mine", ""))], []);
});
