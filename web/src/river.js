/**
 * The river: draws a laid-out tree (layout.js) on two canvases, the water below and what the reader points at above,
 * so that a step redraws the upper one alone. Beneath the water stand, on the same axis, what died at each step
 * with its best reward, the effective sample size and the evidence.
 */
import { FATES, OPEN, ancestry, deaths, depths, essShare, extended, fateOf, gathered, layOut, nearest, normalised, pathTo, strandOf } from "./layout.js";
import { visible } from "./text.js";

const TOP = 22;
const BANDS = { died: 46, ess: 34, evidence: 34 };
const models = new WeakMap();

/** Everything about a tree that does not depend on the size of the page; computed once. */
export function modelOf(tree) {
  if (models.has(tree)) return models.get(tree);
  const { nodes, populations } = tree;
  const parent = nodes.parent;
  const depth = nodes.depth ?? depths(parent);
  const fate = nodes.status.map((status) => fateOf(tree.statuses[status]));
  const weights = normalised(tree.log_weights);
  const long = extended({ parent, depth, leaves: tree.leaves, weights, fate });
  const laid = layOut(long);
  const ends = [];
  populations.sizes.reduce((end, size, t) => (ends[t] = end + size), 0);
  const part = (list, t) => list.slice(ends[t] - populations.sizes[t], ends[t]);
  const ess = tree.ess ?? ends.map((_, t) => essShare(part(populations.log_weights, t)));
  const taken = new Map();
  for (const piece of tree.taken ?? []) for (const node of piece.nodes) taken.set(node, [...(taken.get(node) ?? []), piece]);
  const deepest = depth.reduce((most, value) => Math.max(most, value), 0);
  // The copies of a node by which particles that stand on it go on to the last step.
  const after = new Map();
  for (let i = parent.length; i < long.node.length; i++) after.set(long.node[i], [...(after.get(long.node[i]) ?? []), i]);
  const copies = long.copies.slice(0, parent.length);
  const mouth = laid.columns[long.last] ?? [];
  const nameOf = (node) => tree.answers[nodes.answer[node]] ?? (tree.statuses[nodes.status[node]] ?? "open").replace("_", " ");
  const strands = mouth.map((i) => ({ name: nameOf(long.node[i]), fate: fate[long.node[i]], weight: long.weight[i] }));
  const model = {
    mouth, after, delta: gathered(strands),
    tree, parent, depth, fate, weights, long, laid, ess, taken, copies, steps: Math.max(deepest, 1),
    weight: long.weight.slice(0, parent.length),
    died: deaths(parent, depth, copies, nodes.reward),
    // One population a step, in order: then the two share an axis.
    aligned: populations.sizes.length === deepest && !populations.ancestors.slice(populations.sizes[0] ?? 0).includes(-1),
    order: tree.leaves.map((_, slot) => slot).sort((a, b) => weights[b] - weights[a] || a - b),
  };
  models.set(tree, model);
  return model;
}

/** The nodes that final particle `slot` stood on, one a population where that is known, else its path. */
export function lineOf(model, slot) {
  const { populations } = model.tree;
  const last = populations.sizes[populations.sizes.length - 1];
  if (!model.aligned || last !== model.tree.leaves.length) return pathTo(model.parent, model.tree.leaves[slot]);
  const slots = ancestry(populations, slot);
  let end = 0;
  const line = slots.map((at, t) => {
    const node = at === null ? 0 : populations.nodes[end + at];
    end += populations.sizes[t];
    return node;
  });
  return [...new Set(line)];
}

const REWARDS = 7;
const bucket = (reward) => (reward === null || reward === undefined ? -1 : Math.min(REWARDS - 1, Math.floor(reward * REWARDS)));

export class River {
  /** @param pick(node): called when a node is clicked; point(node or null, x, y): when the pointer is over one. */
  constructor(pick, point) {
    this.pick = pick;
    this.point = point;
  }

  attach(box) {
    if (!box || box === this.box) return;
    this.box = box;
    [this.water, this.above] = box.querySelectorAll("canvas");
    const place = (event) => {
      const edge = this.above.getBoundingClientRect();
      return [event.clientX - edge.left, event.clientY - edge.top];
    };
    this.above.onclick = (event) => {
      const node = this.nodeAt(...place(event));
      if (node !== null) this.pick(node);
    };
    this.above.onpointermove = (event) => {
      const [x, y] = place(event);
      const node = this.nodeAt(x, y);
      this.point(node, x, y);
    };
    this.above.onpointerleave = () => this.point(null, 0, 0);
    this.drawn = null;
    this.watch?.disconnect();
    this.watch = new ResizeObserver(([entry]) => {
      this.room = entry.contentRect.width;
      this.update?.();
    });
    this.watch.observe(box.parentElement);
    this.room = box.parentElement.clientWidth;
  }

  /** Draws what has changed. look: {node, slot or null, colour: "answer" | "reward", theme}. */
  show(model, look) {
    this.update = () => this.show(model, look);
    if (!this.box || !this.room) return;
    const size = this.measure(model, this.room);
    const key = [size.width, size.height, look.colour, look.theme, devicePixelRatio].join();
    if (this.drawn !== key || this.model !== model) {
      this.model = model;
      this.drawn = key;
      this.size = size;
      this.colours = this.readColours();
      this.drawWater(look.colour);
    }
    this.keepInSight(look.node);
    this.drawAbove(look);
  }

  /** Where the river is wider than the page, it is moved so that the chosen step is in sight; once for each. */
  keepInSight(node) {
    if (node === this.sought) return;
    this.sought = node;
    const box = this.box.parentElement;
    if (this.size.width <= this.room) return;
    const x = this.x(this.model.depth[node]);
    if (x < box.scrollLeft + 30 || x > box.scrollLeft + this.room - 30) box.scrollLeft = x - this.room / 2;
  }

  measure(model, width) {
    const narrow = width < 560;
    const left = narrow ? 12 : 78;
    const right = narrow ? 84 : 176;
    const inner = Math.max(width - left - right, model.steps * (narrow ? 8 : 13));
    const water = narrow ? 260 : Math.round(Math.max(240, Math.min(innerHeight - 420, 430)));
    const height = TOP + water + BANDS.died + BANDS.ess + (model.tree.evidence ? BANDS.evidence : 0) + 8;
    return { width: Math.round(left + inner + right), height, left, right, inner, water, narrow };
  }

  readColours() {
    const style = getComputedStyle(this.box);
    const get = (name) => style.getPropertyValue(`--${name}`).trim();
    const ramp = Array.from({ length: REWARDS }, (_, i) => get(`r${i}`));
    return {
      fates: [get("right"), get("open"), get("wrong")], ink: get("ink"), muted: get("muted"), rule: get("rule"),
      paper: get("paper"), accent: get("accent"), died: get("died"), ramp, font: style.fontFamily,
      roles: { solution: get("right"), recovery: get("right"), mistake: get("wrong"), doubt: get("doubt"), answer: get("right") },
    };
  }

  x = (step) => this.size.left + (this.size.inner * step) / this.model.steps;
  y = (share) => TOP + this.size.water * share;

  nodeAt(x, y) {
    const { model, size } = this;
    const step = Math.max(1, Math.min(model.steps, Math.round(((x - size.left) / size.inner) * model.steps)));
    const water = (y - TOP) / size.water;
    if (water > 1.02) {
      const ends = model.died[step]?.ends ?? [];
      return y < TOP + size.water + BANDS.died && ends.length ? best(ends, model.tree.nodes.reward) : null;
    }
    const { laid, long } = model;
    const found = nearest(laid.columns[step], laid.top, laid.height, water);
    return found === null ? null : long.node[found];
  }

  prepare(canvas) {
    const { width, height } = this.size;
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      this.box.style.width = `${width}px`;
      this.box.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `11px ${this.colours.font}`;
    pen.textBaseline = "middle";
    return pen;
  }

  /** Adds a ribbon of one strand to a path: from the parent's column to the node's. */
  ribbon(path, i, offset, share) {
    const { laid, long } = this.model;
    const step = long.depth[i];
    const thick = Math.max(share * laid.scale * this.size.water, 0.7);
    const y0 = this.y(laid.from[i] + offset * laid.scale);
    const y1 = this.y(laid.top[i] + offset * laid.scale);
    const [x0, x1] = [this.x(step - 1), this.x(step)];
    const bend = x0 + (x1 - x0) * 0.45;
    path.moveTo(x0, y0);
    path.bezierCurveTo(bend, y0, bend, y1, x1, y1);
    path.lineTo(x1, y1 + thick);
    path.bezierCurveTo(bend, y1 + thick, bend, y0 + thick, x0, y0 + thick);
    path.closePath();
  }

  drawWater(colour) {
    const { model, colours } = this;
    const { laid, long, tree } = model;
    const pen = this.prepare(this.water);
    this.drawAxis(pen);
    const strong = new Map();
    const faint = new Map();
    const real = (i) => i < model.parent.length;
    for (const i of laid.order) {
      if (!long.depth[i]) continue;
      const target = real(i) ? strong : faint;
      const add = (name) => (target.has(name) || target.set(name, new Path2D()), target.get(name));
      if (colour === "reward") this.ribbon(add(bucket(tree.nodes.reward[long.node[i]])), i, 0, long.weight[i]);
      else {
        let offset = 0;
        for (const [fate, share] of laid.strands[i]) {
          this.ribbon(add(fate), i, offset, share);
          offset += share;
        }
      }
    }
    // Water is undecided at its spring and takes the colour of its answers on the way.
    const current = (fate) => {
      const blend = pen.createLinearGradient(this.x(0), 0, this.x(model.steps), 0);
      blend.addColorStop(0, colours.fates[OPEN]);
      blend.addColorStop(0.5, colours.fates[fate]);
      return blend;
    };
    const paint = (name) => (colour === "reward" ? (name < 0 ? colours.rule : colours.ramp[name]) : current(name));
    for (const [paths, alpha] of [[faint, 0.38], [strong, 0.82]]) {
      pen.globalAlpha = alpha;
      for (const [name, path] of paths) {
        pen.fillStyle = paint(name);
        pen.fill(path);
      }
    }
    pen.globalAlpha = 1;
    this.drawAnswers(pen, (fate) => (colour === "reward" ? colours.fates[fate] : current(fate)));
    this.drawNodes(pen);
    this.drawBands(pen);
  }

  drawAxis(pen) {
    const { model, size, colours } = this;
    pen.fillStyle = colours.muted;
    pen.strokeStyle = colours.rule;
    pen.lineWidth = 1;
    const every = Math.ceil((26 * model.steps) / size.inner);
    pen.textAlign = "center";
    for (let step = 1; step <= model.steps; step++) {
      const x = Math.round(this.x(step)) + 0.5;
      pen.globalAlpha = 0.7;
      pen.beginPath();
      pen.moveTo(x, TOP - 4);
      pen.lineTo(x, size.height - 6);
      pen.stroke();
      pen.globalAlpha = 1;
      if (step % every === 0 || step === 1) pen.fillText(String(step), x, 9);
    }
    if (size.narrow) return;
    pen.textAlign = "right";
    pen.fillText("step", size.left - 10, 9);
  }

  /** A bar where a step ends, and the marks of what data builders took. */
  drawNodes(pen) {
    const { model, colours } = this;
    const { laid, long } = model;
    pen.fillStyle = colours.paper;
    for (const i of laid.order) {
      if (!long.depth[i] || i >= model.parent.length) continue;
      const column = laid.columns[long.depth[i]].length;
      if (column < 40) pen.fillRect(this.x(long.depth[i]) - 0.75, this.y(laid.top[i]), 1.5, Math.max(1, laid.height[i] * this.size.water));
    }
    for (const [node, pieces] of model.taken) {
      const dead = !model.copies[node];
      const x = this.x(model.depth[node]);
      const y = dead ? TOP + this.size.water + 8 : this.y(laid.top[node] + laid.height[node] / 2);
      const roles = [...new Set(pieces.map((piece) => piece.role))];
      roles.forEach((role, j) => {
        pen.beginPath();
        pen.arc(x, y + 9 * j, 3.6, 0, 7);
        pen.fillStyle = colours.paper;
        pen.fill();
        pen.lineWidth = 2;
        pen.strokeStyle = colours.roles[role] ?? colours.ink;
        pen.stroke();
      });
    }
  }

  /** The delta: strands gathered by answer, with its name and share where there is room, the widest first. */
  drawAnswers(pen, paint) {
    const { model, colours, size } = this;
    const { laid, long, mouth, delta } = model;
    const x0 = this.x(model.steps);
    const x1 = x0 + (size.narrow ? 26 : 56);
    const bend = x0 + (x1 - x0) * 0.5;
    const paths = [new Path2D(), new Path2D(), new Path2D()];
    mouth.forEach((i, j) => {
      const [y0, y1] = [this.y(laid.top[i]), this.y(delta.ends[j])];
      const [thick0, thick1] = [laid.scale, delta.scale].map((scale) => Math.max(0.7, long.weight[i] * scale * size.water));
      const path = paths[model.fate[long.node[i]]];
      path.moveTo(x0, y0);
      path.bezierCurveTo(bend, y0, bend, y1, x1, y1);
      path.lineTo(x1, y1 + thick1);
      path.bezierCurveTo(bend, y1 + thick1, bend, y0 + thick0, x0, y0 + thick0);
      path.closePath();
    });
    pen.globalAlpha = 0.38;
    paths.forEach((path, fate) => {
      pen.fillStyle = paint(fate);
      pen.fill(path);
    });
    pen.globalAlpha = 1;
    const placed = [];
    for (const group of [...delta.groups].sort((a, b) => b.weight - a.weight)) {
      pen.fillStyle = colours.fates[group.fate];
      pen.fillRect(x1, this.y(group.top), 4, Math.max(1, group.height * size.water));
      const y = this.y(group.top + group.height / 2);
      if (placed.some((other) => Math.abs(other - y) < 13)) continue;
      placed.push(y);
      const sign = group.fate === OPEN ? "" : group.fate === 0 ? "✓ " : "✗ ";
      const clean = [...visible(group.name).replace(/\s+/g, " ")];
      const room = size.narrow ? 7 : 11;
      pen.textAlign = "left";
      pen.fillStyle = colours.ink;
      pen.fillText(`${sign}${clean.length > room ? `${clean.slice(0, room - 1).join("")}…` : clean.join("")}`, x1 + 9, y);
      if (size.narrow) continue;
      pen.fillStyle = colours.muted;
      pen.textAlign = "right";
      pen.fillText(group.weight < 0.005 ? "<1%" : `${(100 * group.weight).toFixed(0)}%`, size.width - 4, y);
    }
  }

  drawBands(pen) {
    const { model, size, colours } = this;
    const named = (text, y) => {
      if (size.narrow) return;
      pen.fillStyle = colours.muted;
      pen.textAlign = "right";
      pen.fillText(text, size.left - 10, y);
    };
    // Deaths: a thin band, darker where more died; its count, and the best reward as a tick that is high where it was.
    let y = TOP + size.water + 6;
    const most = model.died.reduce((top, step) => Math.max(top, step.ends.length), 1);
    named("died", y + 8);
    named("best reward", y + 27);
    if (!model.died.some((step) => step.ends.length) && model.steps) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "left";
      pen.fillText("none: every path reached its end", this.x(1) + 6, y + 8);
    }
    const half = Math.min(size.inner / model.steps / 2 - 1, 26);
    model.died.forEach((step, depth) => {
      if (!step.ends.length) return;
      const x = this.x(depth);
      pen.globalAlpha = 0.25 + (0.75 * Math.log1p(step.ends.length)) / Math.log1p(most);
      pen.fillStyle = colours.died;
      pen.fillRect(x - half, y, 2 * half, 4);
      pen.globalAlpha = 1;
      pen.fillStyle = colours.muted;
      pen.textAlign = "center";
      if (half > 9) pen.fillText(`−${step.ends.length}`, x, y + 12);
      if (step.best === null) return;
      pen.fillStyle = colours.ramp[bucket(step.best)];
      const tall = 3 + 17 * step.best;
      pen.fillRect(x - Math.min(half, 4), y + 40 - tall, 2 * Math.min(half, 4), tall);
    });
    y += BANDS.died;
    named("ESS", y + 14);
    this.drawSeries(pen, model.ess, y, 24, colours.accent, [0, 1], true);
    y += BANDS.ess;
    if (!model.tree.evidence) return;
    named("evidence", y + 14);
    this.drawSeries(pen, model.tree.evidence, y, 24, colours.ink, null, false);
  }

  /** One number a population, on the steps' axis where they share it, else spread over it. */
  drawSeries(pen, values, y, tall, colour, range, filled) {
    const { model, colours } = this;
    const finite = values.filter((value) => value !== null);
    if (!finite.length) return;
    const [low, high] = range ?? [Math.min(...finite), Math.max(...finite)];
    const at = (t) => this.x(model.aligned ? t + 1 : ((t + 1) * model.steps) / values.length);
    const up = (value) => y + tall - (tall * (value - low)) / (high - low || 1);
    pen.beginPath();
    let open = false;
    values.forEach((value, t) => {
      if (value === null) open = false;
      else if (open) pen.lineTo(at(t), up(value));
      else {
        pen.moveTo(at(t), up(value));
        open = true;
      }
    });
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    pen.stroke();
    if (filled && !values.includes(null)) {
      pen.lineTo(at(values.length - 1), y + tall);
      pen.lineTo(at(0), y + tall);
      pen.globalAlpha = 0.13;
      pen.fillStyle = colour;
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.strokeStyle = colours.rule;
    pen.lineWidth = 1;
    pen.strokeRect(this.size.left, y + tall + 0.5, this.size.inner, 0);
    if (!range) return;
    // A small mark under each resampling.
    pen.fillStyle = colours.muted;
    model.tree.populations.resampled.forEach((flag, t) => {
      if (!flag) return;
      pen.beginPath();
      pen.moveTo(at(t) - 3, y + tall + 6);
      pen.lineTo(at(t) + 3, y + tall + 6);
      pen.lineTo(at(t), y + tall + 2);
      pen.fill();
    });
  }

  /** The chosen step's path in ink; where a particle is followed, everything else recedes. */
  drawAbove({ node, slot }) {
    const { model, size, colours } = this;
    const { laid, long } = model;
    const pen = this.prepare(this.above);
    const followed = slot === null ? null : lineOf(model, slot);
    if (followed) {
      pen.globalAlpha = 0.72;
      pen.fillStyle = colours.paper;
      pen.fillRect(size.left - 1, TOP - 4, size.inner + 2, size.water + 6);
      pen.globalAlpha = 1;
    }
    if (node > 0) {
      const x = Math.round(this.x(model.depth[node])) + 0.5;
      pen.strokeStyle = colours.accent;
      pen.globalAlpha = 0.55;
      pen.setLineDash([2, 3]);
      pen.beginPath();
      pen.moveTo(x, TOP - 4);
      pen.lineTo(x, size.height - 4);
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    const alive = (nodes) => nodes.filter((one) => model.copies[one]);
    if (followed) {
      const leaf = model.tree.leaves[slot];
      const before = model.tree.leaves.reduce((sum, one, i) => (one === leaf && i < slot ? sum + model.weights[i] : sum), 0);
      const path = [...alive(pathTo(model.parent, leaf)), ...(model.after.get(leaf) ?? [])];
      pen.globalAlpha = 0.4;
      this.fillStrand(pen, path, long.weight[path[path.length - 1]], 0, colours.fates[model.fate[leaf]]);
      pen.globalAlpha = 1;
      this.fillStrand(pen, path, model.weights[slot], before * laid.scale, colours.fates[model.fate[leaf]]);
    }
    if (node <= 0) return;
    const path = pathTo(model.parent, node);
    const living = alive(path);
    const share = living.length === path.length ? long.weight[node] : 0;
    pen.globalAlpha = followed ? 0.15 : 0.3;
    const [x, y] = this.fillStrand(pen, living, share, 0, colours.ink);
    pen.globalAlpha = 1;
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 2;
    const dead = path.slice(living.length);
    const band = TOP + size.water + 8;
    if (dead.length) {
      pen.beginPath();
      pen.setLineDash([4, 3]);
      pen.moveTo(x, y);
      const [endX, startX] = [this.x(model.depth[node]), x];
      pen.bezierCurveTo(startX + (endX - startX) * 0.6, y, endX, y + (band - y) * 0.4, endX, band);
      pen.stroke();
      pen.setLineDash([]);
    }
    const tall = dead.length ? 10 : Math.max(10, laid.height[node] * size.water);
    const middle = dead.length ? band : this.y(laid.top[node] + laid.height[node] / 2);
    pen.fillStyle = colours.paper;
    pen.beginPath();
    pen.roundRect(this.x(model.depth[node]) - 4, middle - tall / 2, 8, tall, 4);
    pen.fill();
    pen.stroke();
  }

  /** Fills the strand of a weight along living nodes; gives the place of its end. */
  fillStrand(pen, path, weight, inside, colour) {
    const { laid, long } = this.model;
    if (!path.length) return [this.x(0), this.y(0.5)];
    const thick = Math.max(2, weight * laid.scale * this.size.water);
    const shape = new Path2D();
    const edges = strandOf(path, laid, weight ? inside : laid.height[path[path.length - 1]] / 2);
    path.forEach((node, i) => {
      const step = long.depth[node];
      const [x0, x1] = [this.x(step - 1), this.x(step)];
      const [y0, y1] = edges[i].map(this.y);
      const bend = x0 + (x1 - x0) * 0.45;
      shape.moveTo(x0, y0);
      shape.bezierCurveTo(bend, y0, bend, y1, x1, y1);
      shape.lineTo(x1, y1 + thick);
      shape.bezierCurveTo(bend, y1 + thick, bend, y0 + thick, x0, y0 + thick);
      shape.closePath();
    });
    pen.fillStyle = colour;
    pen.fill(shape);
    return [this.x(long.depth[path[path.length - 1]]), this.y(edges[edges.length - 1][1]) + thick / 2];
  }
}

/** The node with the highest reward; the first where there is none. */
export function best(nodes, reward) {
  return nodes.reduce((top, node) => ((reward[node] ?? -1) > (reward[top] ?? -1) ? node : top), nodes[0]);
}

/** The name of the fate that most of what flows through a living node comes to. */
export function fateName(model, node) {
  const shares = [0, 1, 2].map((fate) => model.long.fates[3 * node + fate]);
  return FATES[shares.indexOf(Math.max(...shares))];
}
