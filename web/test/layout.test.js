import assert from "node:assert/strict";
import test from "node:test";
import * as layout from "../src/layout.js";

// 0 - 1 - 3 (right, two particles)     1 - 4 (wrong)     0 - 2 (dead) - 5 (dead)     0 - 6 (open)
const parent = [-1, 0, 0, 1, 1, 2, 0];
const fate = parent.map(() => layout.OPEN);
fate[3] = layout.RIGHT;
fate[4] = layout.WRONG;
const leaves = [3, 3, 4, 6];
const weights = [0.25, 0.25, 0.3, 0.2];
const reward = [null, 0.5, 0.4, 0.9, 0.1, 0.7, 0.3];

const depth = layout.depths(parent);

function laidOut() {
  const long = layout.extended({ parent, depth, leaves, weights, fate });
  return { ...long, ...layout.layOut(long) };
}

test("a node is as wide as the weight of its final particles", () => {
  const { weight, copies, standing, fates } = layout.flows({ parent, leaves, weights, fate });
  assert.deepEqual([...weight].map((w) => +w.toFixed(9)), [1, 0.8, 0, 0.5, 0.3, 0, 0.2]);
  assert.deepEqual([...copies], [4, 3, 0, 2, 1, 0, 1]);
  assert.deepEqual([...standing], [0, 0, 0, 2, 1, 0, 1]);
  assert.deepEqual([...fates.slice(3, 6)].map((w) => +w.toFixed(9)), [0.5, 0, 0.3]);
});

test("a dead path is counted where it ends, with the best reward of those that end there", () => {
  const { copies } = layout.flows({ parent, leaves, weights, fate });
  const died = layout.deaths(parent, depth, copies, reward);
  assert.deepEqual(died, [
    { ends: [], best: null },
    { ends: [], best: null },
    { ends: [5], best: 0.7 },
  ]);
});

test("a path that ends before the last step goes on as copies of its last node", () => {
  const { node, depth: deep, weight, last } = laidOut();
  assert.equal(last, 2);
  assert.deepEqual([node[7], deep[7], +weight[7].toFixed(9)], [6, 2, 0.2]);
  assert.equal(node.length, 8);
});

test("columns hold living nodes from above, right answers first, and nothing overlaps or leaves the page", () => {
  const { columns, top, height } = laidOut();
  assert.deepEqual(columns, [[0], [1, 6], [3, 4, 7]]);
  for (const column of columns) {
    let floor = -1e-9;
    for (const node of column) {
      assert.ok(top[node] >= floor - 1e-9, `node ${node}`);
      floor = top[node] + height[node];
    }
    assert.ok(floor <= 1 + 1e-9);
  }
});

test("strands of one fate are joined, and weigh what the node weighs", () => {
  const { strands, weight } = laidOut();
  const rounded = (list) => list.map(([f, w]) => [f, +w.toFixed(9)]);
  assert.deepEqual(rounded(strands[1]), [[layout.RIGHT, 0.5], [layout.WRONG, 0.3]]);
  assert.deepEqual(rounded(strands[0]), [[layout.RIGHT, 0.5], [layout.WRONG, 0.3], [layout.OPEN, 0.2]]);
  for (const node of [0, 1, 3, 4, 6]) {
    const sum = strands[node].reduce((total, [, share]) => total + share, 0);
    assert.ok(Math.abs(sum - weight[node]) < 1e-9);
  }
});

test("particles that stand on a node with children keep their strand there", () => {
  const chain = { parent: [-1, 0, 1], depth: [0, 1, 2], leaves: [1, 2], weights: [0.5, 0.5], fate: [1, 0, 2] };
  const { strands } = layout.layOut(layout.extended(chain));
  assert.deepEqual(strands[1], [[layout.RIGHT, 0.5], [layout.WRONG, 0.5]]);
});

test("a ribbon leaves its parent where its strand lies, and is as wide there", () => {
  const { from, top, height, parent: up, order, weight, scale } = laidOut();
  for (const node of order.slice(1)) {
    assert.ok(from[node] >= top[up[node]] - 1e-9);
    assert.ok(from[node] + height[node] <= top[up[node]] + height[up[node]] + 1e-9);
    assert.ok(Math.abs(height[node] - weight[node] * scale) < 1e-12);
  }
});

test("a strand lies one below the other in all of its ancestors", () => {
  const laid = laidOut();
  const [[, first], [leaves, reaches]] = layout.strandOf([1, 4], laid, 0.1);
  assert.ok(Math.abs(reaches - laid.top[4] - 0.1) < 1e-12);
  assert.ok(Math.abs(leaves - laid.from[4] - 0.1) < 1e-12);
  assert.ok(Math.abs(first - leaves) < 1e-12);
});

test("the mouth is gathered by answer, right ones above and wrong ones below", () => {
  const mouth = [
    { name: "7", fate: layout.WRONG, weight: 0.1 },
    { name: "4", fate: layout.RIGHT, weight: 0.2 },
    { name: "9", fate: layout.WRONG, weight: 0.4 },
    { name: "4", fate: layout.RIGHT, weight: 0.3 },
  ];
  const { groups, ends, scale } = layout.gathered(mouth, 0.05);
  assert.deepEqual(groups.map(({ name, fate }) => [name, fate]), [["4", 0], ["9", 2], ["7", 2]]);
  assert.deepEqual(groups.map(({ weight }) => +weight.toFixed(9)), [0.5, 0.4, 0.1]);
  assert.ok(Math.abs(scale - 0.9) < 1e-12);
  assert.deepEqual(ends.map((end) => +end.toFixed(9)), [0.91, 0, 0.5, 0.18]);
});

test("paths, depths and children", () => {
  assert.deepEqual([...layout.depths(parent)], [0, 1, 1, 2, 2, 2, 1]);
  assert.deepEqual(layout.pathTo(parent, 5), [2, 5]);
  assert.deepEqual(layout.pathTo(parent, 0), []);
  assert.deepEqual(layout.childrenOf(parent)[0], [1, 2, 6]);
});

test("weights of log-weights, with zeros and none", () => {
  assert.deepEqual(layout.normalised([0, 0, null]), [0.5, 0.5, 0]);
  assert.deepEqual(layout.normalised([null, null]), [0.5, 0.5]);
  assert.deepEqual(layout.normalised([]), []);
  assert.equal(layout.essShare([0, 0, 0, 0]), 1);
  assert.equal(layout.essShare([0, null, null, null]), 0.25);
  assert.equal(layout.essShare([null, null]), null);
});

test("a particle's ancestors, through a resampling and to the begin of its sweep", () => {
  const populations = { sizes: [2, 2, 3], ancestors: [-1, -1, 1, 1, 0, 0, 1] };
  assert.deepEqual(layout.ancestry(populations, 2), [1, 1, 2]);
  const swept = { sizes: [2, 2], ancestors: [-1, -1, -1, -1] };
  assert.deepEqual(layout.ancestry(swept, 1), [null, 1]);
});

test("the nearest node of a column", () => {
  const { columns, top, height } = laidOut();
  assert.equal(layout.nearest(columns[1], top, height, 0), 1);
  assert.equal(layout.nearest(columns[1], top, height, 1), 6);
  assert.equal(layout.nearest(undefined, top, height, 0.5), null);
});

test("512 particles of 30 steps are laid out at once", () => {
  const N = 512;
  const parents = [-1];
  let last = new Array(N).fill(0);
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let step = 0; step < 30; step++) {
    const chosen = step % 3 ? last : last.map(() => last[Math.floor(random() * N)]);
    last = chosen.map((node) => parents.push(node) - 1);
  }
  const tree = { parent: parents, depth: layout.depths(parents), leaves: last };
  const long = layout.extended({ ...tree, weights: last.map(() => 1 / N), fate: parents.map((_, i) => i % 3) });
  const { columns, top, height } = layout.layOut(long);
  assert.equal(columns.length, 31);
  assert.equal(columns[30].length, N);
  for (const column of columns) {
    let floor = -1e-9;
    for (const node of column) {
      assert.ok(top[node] >= floor - 1e-9);
      floor = top[node] + height[node];
    }
    assert.ok(floor <= 1 + 1e-9);
  }
});
