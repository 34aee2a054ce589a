/** Which questions of two evaluations are the same. */

/** What tells questions apart, the surest first: the digest of the whole text, as `question` is but its beginning. An id alone does so where no text is known. */
const KEYS = [
  (problem) => problem.same && JSON.stringify([problem.set, problem.same]),
  (problem) => problem.same,
  (problem) => (problem.same ? "" : JSON.stringify([problem.set, problem.id])),
];

/** The questions that both have: Map of a place in `own` -> its place in `others`. Of equal ones the first is the first. */
export function paired(own, others) {
  const found = new Map();
  const taken = new Set();
  for (const keyOf of KEYS) {
    const free = new Map();
    others.forEach((problem, j) => {
      const key = keyOf(problem);
      if (key && !taken.has(j)) free.set(key, [...(free.get(key) ?? []), j]);
    });
    own.forEach((problem, i) => {
      const j = found.has(i) ? undefined : free.get(keyOf(problem))?.shift();
      if (j === undefined) return;
      found.set(i, j);
      taken.add(j);
    });
  }
  return found;
}
