/**
 * The layout of the river: pure functions of a tree's columns. Time runs to the right, a node stands at
 * its depth. Every final particle is a strand as wide as its weight; strands that share a path lie on
 * one another's edges, so a node is as wide as the weight of the final particles that descend from it.
 *
 * Sizes: K nodes (the root first, parents before children), M final particles, D steps of the longest path.
 */

export const RIGHT = 0;
export const OPEN = 1;
export const WRONG = 2;
export const FATES = ["right", "open", "wrong"];

/** The fate of a node by its verdict: no verdict is open, and so is one that says nothing of an answer. */
export function fateOf(status) {
  return status === "correct" ? RIGHT : status === "wrong" ? WRONG : OPEN;
}

/** Depth of every node (K,), the root's is 0. */
export function depths(parent) {
  const depth = new Int32Array(parent.length);
  for (let node = 1; node < parent.length; node++) depth[node] = depth[parent[node]] + 1;
  return depth;
}

/** Children of every node in their order of birth, as a list of lists (K,). */
export function childrenOf(parent) {
  const children = Array.from(parent, () => []);
  for (let node = 1; node < parent.length; node++) children[parent[node]].push(node);
  return children;
}

/** Nodes from the first step to `node`; the root, which holds no text, is left out. */
export function pathTo(parent, node) {
  const path = [];
  for (let at = node; at > 0; at = parent[at]) path.push(at);
  return path.reverse();
}

/**
 * What flows through each node.
 * @returns weight (K,): of its final particles; fates (3K,): parted by their fate; copies (K,): how many
 *   final particles descend from it; standing (K,): how many stand on it.
 */
export function flows({ parent, leaves, weights, fate }) {
  const size = parent.length;
  const weight = new Float64Array(size);
  const fates = new Float64Array(3 * size);
  const copies = new Int32Array(size);
  const standing = new Int32Array(size);
  leaves.forEach((leaf, i) => {
    weight[leaf] += weights[i];
    fates[3 * leaf + fate[leaf]] += weights[i];
    copies[leaf] += 1;
    standing[leaf] += 1;
  });
  for (let node = size - 1; node > 0; node--) {
    const up = parent[node];
    weight[up] += weight[node];
    copies[up] += copies[node];
    for (let f = 0; f < 3; f++) fates[3 * up + f] += fates[3 * node + f];
  }
  return { weight, fates, copies, standing };
}

/** Normalised weights (M,) of log-weights; equal ones where none is finite (an extinct search). */
export function normalised(logWeights) {
  const top = logWeights.reduce((most, value) => (value !== null && value > most ? value : most), -Infinity);
  if (top === -Infinity) return logWeights.map(() => 1 / Math.max(1, logWeights.length));
  const raw = logWeights.map((value) => (value === null ? 0 : Math.exp(value - top)));
  const sum = raw.reduce((a, b) => a + b, 0);
  return raw.map((value) => value / sum);
}

/**
 * What died at each step: the ends of paths that no final particle stands on or descends from. A path dies at
 * the last step that was written for it, as the resampling after that did not choose it.
 * @returns one {ends: [nodes], best: reward or null} for each depth, 0 to D.
 */
export function deaths(parent, depth, copies, reward) {
  const inner = new Uint8Array(parent.length);
  for (let node = 1; node < parent.length; node++) inner[parent[node]] = 1;
  const steps = [];
  for (let node = 0; node < parent.length; node++) {
    while (steps.length <= depth[node]) steps.push({ ends: [], best: null });
    if (!node || copies[node] || inner[node]) continue;
    const step = steps[depth[node]];
    step.ends.push(node);
    if (reward[node] !== null && (step.best === null || reward[node] > step.best)) step.best = reward[node];
  }
  return steps;
}

/**
 * The living part of the tree in which every strand reaches the last step: where particles stand on a node
 * of a lesser depth, copies of it go on to the end, as finished particles do in a population.
 * @returns parent, depth, node (the node of the tree that it is or copies) and the flows of each.
 */
export function extended({ parent, depth, leaves, weights, fate }) {
  const flow = flows({ parent, leaves, weights, fate });
  const last = leaves.reduce((most, leaf) => Math.max(most, depth[leaf]), 0);
  const long = { parent: [...parent], depth: [...depth], node: Array.from(parent, (_, node) => node) };
  const ends = [];
  for (let node = 0; node < parent.length; node++) {
    ends[node] = node;
    if (!flow.standing[node]) continue;
    for (let step = depth[node] + 1; step <= last; step++) {
      ends[node] = long.parent.push(ends[node]) - 1;
      long.depth.push(step);
      long.node.push(node);
    }
  }
  const moved = leaves.map((leaf) => ends[leaf]);
  const fates = long.node.map((node) => fate[node]);
  return { ...long, last, ...flows({ parent: long.parent, leaves: moved, weights, fate: fates }) };
}

/**
 * Places of the living nodes of an extended tree.
 *
 * A node's strands are ordered as its children are: right answers above, wrong ones below, so that the
 * currents part as the answers come. Between neighbours of one column there is a gap, and all columns are
 * centred, so that the river opens to the right.
 * @param gap: between neighbours, as a share of the height, before it is narrowed to fit.
 * @returns order: living nodes, parents first; columns: those of each depth from above; top, height (K,):
 *   in [0, 1]; from (K,): where a node's ribbon leaves its parent; strands: of each node
 *   [[fate, weight], ...] from above; scale: the height of weight 1.
 */
export function layOut({ parent, depth, weight, fates, copies }, gap = 0.02) {
  const size = parent.length;
  const children = childrenOf(parent);
  const rank = (node) => (fates[3 * node] - fates[3 * node + WRONG]) / (weight[node] || 1);
  const order = [];
  const columns = [];
  const stack = copies[0] ? [0] : [];
  while (stack.length) {
    const node = stack.pop();
    order.push(node);
    (columns[depth[node]] ??= []).push(node);
    const kept = children[node].filter((child) => copies[child] > 0);
    if (kept.length > 1) kept.sort((a, b) => rank(b) - rank(a) || weight[b] - weight[a] || a - b);
    children[node] = kept;
    for (let i = kept.length - 1; i >= 0; i--) stack.push(kept[i]);
  }
  const top = new Float64Array(size);
  const height = new Float64Array(size);
  const from = new Float64Array(size);
  const widest = columns.reduce((most, column) => Math.max(most, column.length), 1);
  const space = widest > 1 ? Math.min(gap, 0.4 / (widest - 1)) : 0;
  const scale = 1 - space * (widest - 1);
  for (const column of columns) {
    let y = (1 - scale - space * (column.length - 1)) / 2;
    for (const node of column) {
      top[node] = y;
      height[node] = weight[node] * scale;
      y += height[node] + space;
    }
  }
  for (const node of order) {
    let y = top[node];
    for (const child of children[node]) {
      from[child] = y;
      y += height[child];
    }
  }
  return { order, columns, top, height, from, scale, strands: strandsOf(order, children, fates, weight) };
}

/** Of each living node its strands from above, neighbours of one fate joined: [[fate, weight], ...]. */
function strandsOf(order, children, fates, weight) {
  const strands = [];
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i];
    const list = [];
    if (children[node].length === 0) {
      for (let fate = 0; fate < 3; fate++) if (fates[3 * node + fate] > 0) list.push([fate, fates[3 * node + fate]]);
      if (!list.length) list.push([OPEN, weight[node]]);
    }
    for (const child of children[node]) {
      for (const [fate, share] of strands[child]) {
        const last = list[list.length - 1];
        if (last && last[0] === fate) last[1] += share;
        else list.push([fate, share]);
      }
    }
    strands[node] = list;
  }
  return strands;
}

/**
 * Where the strand of a part of a living node lies in each of its ancestors, as strands keep their width:
 * the heights [0, 1] of its upper edge at each node of `path` (from the root on) and `inside` at the last.
 * @returns [[where the ribbon leaves the parent, where it reaches the node], ...], one a node of `path`.
 */
export function strandOf(path, { top, from }, inside = 0) {
  const edges = [];
  let below = inside;
  for (let i = path.length - 1; i >= 0; i--) {
    const node = path[i];
    edges[i] = [from[node] + below, top[node] + below];
    if (i > 0) below += from[node] - top[path[i - 1]];
  }
  return edges;
}

/**
 * The strands of the mouth gathered by their answer: right ones above, open ones between, wrong ones below, the
 * heaviest first.
 * @param mouth: [{name, fate, weight}, ...], the strands of the last column from above.
 * @returns groups: [{name, fate, weight, top, height}, ...] from above, in [0, 1]; ends: where each strand's
 *   upper edge reaches its group; scale: the height of weight 1.
 */
export function gathered(mouth, gap = 0.02) {
  const groups = new Map();
  for (const { name, fate, weight } of mouth) {
    const key = `${fate} ${name}`;
    if (!groups.has(key)) groups.set(key, { name, fate, weight: 0 });
    groups.get(key).weight += weight;
  }
  const ordered = [...groups.values()].sort((a, b) => a.fate - b.fate || b.weight - a.weight || (a.name < b.name ? -1 : 1));
  const space = ordered.length > 1 ? Math.min(gap, 0.3 / (ordered.length - 1)) : 0;
  const scale = 1 - space * (ordered.length - 1);
  let y = 0;
  for (const group of ordered) {
    group.top = group.filled = y;
    group.height = group.weight * scale;
    y += group.height + space;
  }
  const ends = mouth.map(({ name, fate, weight }) => {
    const group = groups.get(`${fate} ${name}`);
    const end = group.filled;
    group.filled += weight * scale;
    return end;
  });
  return { groups: ordered.map(({ name, fate, weight, top, height }) => ({ name, fate, weight, top, height })), ends, scale };
}

/** The living node of a column nearest to height y, in [0, 1]; null where the column is empty. */
export function nearest(column, top, height, y) {
  let best = null;
  let least = Infinity;
  for (const node of column ?? []) {
    const away = y < top[node] ? top[node] - y : Math.max(0, y - top[node] - height[node]);
    if (away < least) [best, least] = [node, away];
  }
  return best;
}

/** The slots that final particle `slot` came from, one a population, the first first; null before a sweep. */
export function ancestry(populations, slot) {
  const ends = [];
  let end = 0;
  for (const size of populations.sizes) ends.push((end += size));
  const slots = new Array(ends.length).fill(null);
  for (let t = ends.length - 1, at = slot; t >= 0 && at >= 0; t--) {
    slots[t] = at;
    at = populations.ancestors[ends[t] - populations.sizes[t] + at];
  }
  return slots;
}

/** Effective sample size of a population as a share of its particles; null where all weights are zero. */
export function essShare(logWeights) {
  if (!logWeights.some((value) => value !== null && value > -Infinity)) return null;
  const weights = normalised(logWeights);
  return 1 / weights.reduce((sum, value) => sum + value * value, 0) / weights.length;
}
