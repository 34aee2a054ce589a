/** Search trees: which there are, the river of one, and the text of what is chosen. */
import { html, nothing } from "lit-html";
import { ref } from "lit-html/directives/ref.js";
import { value } from "./data.js";
import { redraw } from "./draw.js";
import { childrenOf, pathTo } from "./layout.js";
import { River, best, fateName, lineOf, modelOf } from "./river.js";
import { seen, shadeLegend, stepToken } from "./shade.js";
import { choice, choose, link, number, settle } from "./state.js";
import { asked, clip, solution } from "./text.js";
import { badge, bar, figure, finder, finds, list, missing, notes, percent, plural, questionHead, stageHere, stageTabs, strip, within } from "./parts.js";

const PART = "trees";
let tip = null;
const river = new River(
  (node) => choose({ node }),
  (node, x, y) => {
    const before = tip?.node;
    tip = node === null ? null : { node, x, y };
    if (before !== tip?.node) redraw();
  },
);
const attach = (box) => river.attach(box);
const kin = new WeakMap();

/** What is shown: the stage, its trees, the tree, its model, the chosen node and particle. */
function shown(run) {
  const stage = stageHere(run, PART);
  const trees = stage === null ? undefined : value(`${PART}/${run}/${stage}`);
  if (!trees || trees.error) return { stage, trees };
  const at = placeOf(`${run}/${stage}`, trees, choice("tree"));
  if (at < 0) return { stage, trees, at, tree: { error: `Tree ${choice("tree")} is not here (any more).` } };
  // Rows come in between while a run goes on: a step that was chosen is one of this tree.
  if (trees.id.length && (choice("node") ?? choice("particle")) !== undefined) settle("tree", trees.id[at]);
  const name = `tree/${run}/${stage}/${trees.id[at]}`;
  const tree = trees.id.length ? value(name) : undefined;
  if (!tree || tree.error) return { stage, trees, at, name, tree };
  const model = modelOf(tree);
  const slot = number("particle");
  const particle = slot !== null && slot >= 0 && slot < tree.leaves.length ? slot : null;
  const node = number("node") ?? (particle === null ? first(model) : (lineOf(model, particle)[0] ?? 0));
  return { stage, trees, at, name, tree, model, particle, node: within(node, model.parent.length) };
}

const spooled = new Map();

/**
 * The place in the list of the tree that is named: the first where none is, -1 where it is not there. A tree whose
 * shard was not whole yet gets another name when it is, and is found by its question then.
 */
function placeOf(key, trees, wanted) {
  if (!spooled.has(key)) spooled.set(key, new Map());
  const known = spooled.get(key);
  trees.id.forEach((id, i) => id.startsWith("s") && known.set(id, trees.problem[i]));
  if (wanted === undefined) return 0;
  const at = trees.id.indexOf(wanted);
  return at < 0 && known.has(wanted) ? trees.problem.indexOf(known.get(wanted)) : at;
}

/** Where the reader begins: the heaviest first step. */
const first = (model) => heaviest(model, childrenAt(model, 0)) ?? 0;

function childrenAt(model, node) {
  if (!kin.has(model)) kin.set(model, childrenOf(model.parent));
  return kin.get(model)[node];
}

const heaviest = (model, nodes) =>
  nodes.length ? nodes.reduce((top, node) => (model.weight[node] > model.weight[top] ? node : top), nodes[0]) : null;

/** Places of the trees that the search for a question leaves. */
const listed = (trees) => trees.id.map((_, i) => i).filter((i) => finds(trees.problem[i], trees.question[i]));

function treeRow(trees, i) {
  const rightly = trees.right[i];
  const told = trees.outcome[i] === "extinct" ? "extinct" : rightly === null ? "not graded" : `${percent(rightly, 0)} right`;
  return html`${questionHead(trees.problem[i], trees.question[i])}
    <span class="lines">${strip([["correct", rightly ?? 0], ["rest", 1 - (rightly ?? 0)]], told)} <span class="share">${trees.after ? `step ${figure(trees.after[i])}, ` : ""}${told}</span></span>`;
}

/** The texts of a path's steps, as far as they have come. */
function stepsOf(name, tree, path, current) {
  const { nodes } = tree;
  return path.map((node) => {
    const at = `${name}/texts/${Math.floor(node / tree.chunk)}`;
    const part = value(at);
    const place = node % tree.chunk;
    const text = part?.error ? part.error : (part?.texts[place] ?? nodes.shows?.[node] ?? "…");
    const reward = nodes.reward[node];
    const aside = html`<span class="margin">${reward === null
      ? html`<span class="faint">${tree.finishes[nodes.finish[node]] === "inserted" ? "inserted" : "no reward"}</span>`
      : html`${bar(reward, `reward ${percent(reward, 0)}`, "reward")} <span>${reward.toFixed(2)}</span>`}</span>`;
    const tokens = part?.tokens?.[place] ?? null;
    return { text, tokens, logprobs: part?.logprobs?.[place] ?? null, aside, current: node === current };
  });
}

/** The tokens of all steps; null where those of a step are not known, or not there yet. */
function tokensOf(steps) {
  const lengths = steps.map(({ text, tokens, logprobs }) => {
    if (tokens) return tokens.map((token) => token.length);
    // An inserted text is as one.
    return logprobs?.length && logprobs.every((nats) => nats === null) ? logprobs.map((_, i) => (i ? 0 : text.length)).reverse() : null;
  });
  return lengths.includes(null) ? null : seen(lengths.flat(), steps.flatMap((step) => step.logprobs));
}

function nodeFacts({ tree, model, node }) {
  const { nodes } = tree;
  const status = tree.statuses[nodes.status[node]];
  const answer = tree.answers[nodes.answer[node]];
  const dead = !model.copies[node];
  return html`<p class="facts-line">
    ${status ? badge(status) : dead ? html`<span class="badge dead">dead</span>` : html`<span class="badge open">open</span>`}
    <span>weight <strong>${percent(model.weight[node])}</strong></span>
    <span>reward <strong>${nodes.reward[node] === null ? "–" : nodes.reward[node].toFixed(3)}</strong></span>
    <span>${dead ? "no final particle comes from it" : plural(model.copies[node], "final particle")}</span>
    ${answer === undefined ? nothing : html`<span>answer <strong><bdi>${clip(answer, 40)}</bdi></strong></span>`}
    <span class="faint">${plural(nodes.tokens[node], "token")}, ended by ${tree.finishes[nodes.finish[node]]}</span>
  </p>
  ${dead && !status ? html`<p class="faint small">Dead means not resampled: unfinished and unjudged, not wrong.</p>` : nothing}`;
}

function takenBy(run, { model, node }) {
  const pieces = model.taken.get(node);
  if (!pieces) return nothing;
  return html`<p class="small">Taken as ${pieces.slice(0, 8).map(
    (piece, i) => html`${i ? ", " : ""}<a href=${link(["run", run, "data", piece.stage], { example: piece.example })}><span class="role ${piece.role}">${piece.role}</span> by <bdi>${piece.stage}</bdi>, example ${piece.example + 1}</a>`,
  )}${pieces.length > 8 ? ` and ${pieces.length - 8} more` : ""}</p>`;
}

/** The other ways that were open at this step, the best first. */
function ways({ tree, model, node }) {
  const depth = model.depth[node];
  const column = (model.laid.columns[depth] ?? []).map((i) => model.long.node[i]).filter((one) => model.depth[one] === depth);
  column.sort((a, b) => model.weight[b] - model.weight[a]);
  const dead = [...(model.died[depth]?.ends ?? [])].sort((a, b) => (tree.nodes.reward[b] ?? -1) - (tree.nodes.reward[a] ?? -1));
  const row = (one) => html`<li><button class="way" aria-pressed=${one === node ? "true" : "false"} @click=${() => choose({ node: one })}>
      <span class="dot ${model.copies[one] ? fateName(model, one) : "dead"}"></span>
      <span class="num">${model.copies[one] ? percent(model.weight[one], 0) : "dead"}</span>
      <span class="num">${tree.nodes.reward[one] === null ? "–" : tree.nodes.reward[one].toFixed(2)}</span>
      <bdi>${clip(tree.nodes.shows?.[one] ?? "", 60)}</bdi></button></li>`;
  return html`<details open><summary>Step ${depth}: ${plural(column.length, "living way")}, ${plural(model.died[depth]?.ends.length ?? 0, "path")} died here</summary>
    <ul class="ways">${column.slice(0, 40).map(row)}${dead.slice(0, 12).map(row)}</ul>
    ${column.length > 40 || dead.length > 12 ? html`<p class="faint small">The 40 heaviest and the 12 best dead ones; the arrow keys reach all.</p>` : nothing}
  </details>`;
}

/** What the canvas shows, in words and numbers: a row a step. */
function table({ tree, model, node }) {
  const { populations } = tree;
  const rows = [];
  for (let step = 1; step <= model.steps; step++) {
    const t = model.aligned ? step - 1 : null;
    const alive = (model.laid.columns[step] ?? []).filter((i) => model.depth[model.long.node[i]] === step);
    rows.push(html`<tr class=${step === model.depth[node] ? "current" : ""}>
      <th scope="row"><button class="plain" @click=${() => alive.length && choose({ node: model.long.node[alive[0]] })}>${step}</button></th>
      <td>${figure(alive.length)}</td><td>${figure(model.died[step]?.ends.length ?? 0)}</td>
      <td>${model.died[step]?.best?.toFixed(2) ?? "–"}</td>
      <td>${t === null ? "–" : percent(model.ess[t], 0)}</td>
      <td>${t === null || !tree.evidence ? "–" : figure(tree.evidence[t])}</td>
      <td class="t">${t !== null && populations.resampled[t] ? "yes" : ""}</td></tr>`);
  }
  return html`<details class="table"><summary>The river as a table</summary>
    <div class="scroll" tabindex="0" role="group" aria-label="The river as a table"><table><thead><tr><th>step</th><th>living steps</th><th>died</th><th>best reward of those</th><th>ESS</th><th>log evidence</th><th class="t">resampled</th></tr></thead>
    <tbody>${rows}</tbody></table></div></details>`;
}

function legend(colour, reward) {
  return html`<p class="legend small">
    ${colour === "reward"
      ? html`<span class="ramp" aria-hidden="true"></span> reward 0 to 1`
      : html`<span class="dot right"></span> right <span class="dot wrong"></span> wrong <span class="dot open"></span> open`}
    <span class="faint">· pale: finished · ▲ resampled${reward ? " · ○ taken by a data builder" : ""}</span></p>`;
}

function told({ tree, model, node, particle }) {
  const { nodes } = tree;
  const status = tree.statuses[nodes.status[node]];
  const t = model.depth[node] - 1;
  const now = model.aligned && t >= 0 ? ` · ESS ${percent(model.ess[t], 0)}${tree.evidence ? `, log-evidence ${figure(tree.evidence[t])}` : ""}` : "";
  return `Step ${model.depth[node]} of ${model.steps}, weight ${percent(model.weight[node], 0)}, reward ${nodes.reward[node]?.toFixed(2) ?? "none"}, ${status ?? (model.copies[node] ? "open" : "dead")}${particle === null ? "" : `, following particle ${model.order.indexOf(particle) + 1} of ${tree.leaves.length}`}${now}`;
}

function treeView(run, at) {
  const { tree, model, node, particle, name } = at;
  const colour = choice("colour") ?? "answer";
  const theme = document.documentElement.dataset.theme;
  const dead = tree.nodes.parent.length - 1 - model.copies.slice(1).filter(Boolean).length;
  queueMicrotask(() => river.show(model, { node, slot: particle, colour, theme }));
  // Of a particle that is followed the whole text stays, so that it does not jump at every step.
  const line = particle === null ? [] : pathTo(model.parent, tree.leaves[particle]);
  const path = line.includes(node) ? line : pathTo(model.parent, node);
  const shade = choice("shade") === "1";
  const steps = stepsOf(name, tree, path, node);
  const rank = particle === null ? 0 : model.order.indexOf(particle);
  return html`
    <section class="question" aria-label="Question">
      ${asked(tree.question, `question/${name}`)}
      <p>gold answer <strong class="gold"><bdi>${clip(tree.gold, 200) || "–"}</bdi></strong>
        <span class="faint">· <bdi>${tree.sampler}</bdi>, ${tree.outcome}, ${plural(tree.leaves.length, "particle")}, ${plural(model.parent.length - 1, "step")} of which ${figure(dead)} dead,
        ${plural(tree.policy_tokens, "policy token")}${tree.log_evidence === null ? "" : `, log-evidence ${figure(tree.log_evidence)}`}</span></p>
    </section>
    ${tree.outcome === "extinct" ? html`<p class="flag">Extinct: the weight of every particle became zero. Those that were left are drawn alike.</p>` : nothing}
    <p class="small faint">From left to right, step by step: each stream is a line of reasoning, as wide as its share of the final weight, in the colour of its answer. What died is counted beneath.</p>
    <div class="toolbar" role="group" aria-label="River">
      <button aria-pressed=${particle === null ? "false" : "true"} id="follow" @click=${() => follow(run)}>${particle === null ? "Follow a particle" : `Particle ${rank + 1} of ${tree.leaves.length}, weight ${percent(model.weights[particle])}`}</button>
      ${particle === null ? nothing : html`<button aria-label="next heavier particle" @click=${() => other(run, -1)}>‹</button><button aria-label="next lighter particle" @click=${() => other(run, 1)}>›</button>`}
      <button aria-pressed=${colour === "reward" ? "true" : "false"} @click=${() => choose({ colour: colour === "reward" ? null : "reward" })}>Colour by reward</button>
      <button aria-pressed=${shade ? "true" : "false"} @click=${() => choose({ shade: shade ? null : 1 })}>Shade by probability</button>
      ${legend(colour, model.taken.size)}
    </div>
    <div class="river" tabindex="0" role="group" aria-label="River of the search; the arrow keys step through it">
      <div class="canvases" ${ref(attach)}>
        <canvas role="img" aria-label="The search as a river: ${plural(model.steps, "step")}, ${plural(tree.leaves.length, "final particle")}; the table below has its numbers"></canvas>
        <canvas aria-hidden="true"></canvas>
        ${tip ? tooltip(tree, model) : nothing}
      </div>
    </div>
    <p class="narrow-only faint small">Beneath the water: how many died and their best reward, ESS, evidence.</p>
    <p class="told" role="status" id="told">${told(at)}</p>
    <div class="below">
      <section aria-label="Chosen step">
        <h2>Step ${model.depth[node]} <span class="faint">${path === line ? "of the particle that is followed" : "and the path to it"}</span></h2>
        ${nodeFacts(at)}${takenBy(run, at)}
        ${shade ? html`<p>${shadeLegend()}</p>` : nothing}
        ${solution(steps, `${name}/${path[path.length - 1]}`, { shade, tokens: shade ? tokensOf(steps) : null })}
      </section>
      <section aria-label="Other ways">${ways(at)}${table(at)}</section>
    </div>`;
}

function tooltip(tree, model) {
  const { node, x, y } = tip;
  if (node >= model.parent.length) return nothing;
  return html`<div class="tip" .style=${`left:${Math.max(4, Math.min(x + 14, river.size.width - 270))}px;top:${y + 16}px`}>
    <strong>${model.copies[node] ? `${percent(model.weight[node])} · ${plural(model.copies[node], "particle")}` : "dead"}</strong>
    <span>reward ${tree.nodes.reward[node]?.toFixed(2) ?? "–"}</span><br><bdi>${clip(tree.nodes.shows?.[node] ?? "", 60)}</bdi></div>`;
}

export function treesPage(run) {
  const at = shown(run);
  if (at.stage === null) return html`<h1>Trees</h1><p class="message">This run has no search trees yet: a stage of kind search or grpo_direct makes them.</p>`;
  const tabs = stageTabs(run, "trees", PART, at.stage);
  const title = html`<div class="title"><h1>Trees of <bdi>${at.stage}</bdi></h1>${tabs}</div>`;
  const none = missing(at.trees);
  if (none) return html`${title}${none}`;
  const { trees } = at;
  if (!trees.problem.length) return html`${title}<p class="message">No search has ended yet.</p>`;
  const rows = listed(trees);
  return html`${title}${notes(trees)}
    <div class="split">
      <div class="aside">
        ${finder(`${plural(rows.length, "tree")}`)}
        ${list({
          id: "trees",
          label: "Trees",
          rows: rows.length,
          height: 48,
          selected: rows.indexOf(at.at),
          row: (i) => treeRow(trees, rows[i]),
          pick: (i) => choose({ tree: trees.id[rows[i]], node: null, particle: null }),
        })}
      </div>
      <div class="main">${missing(at.tree) ?? treeView(run, at)}</div>
    </div>`;
}

/** Follows the heaviest final particle that comes from the chosen step, or lets go. */
function follow(run) {
  const { model, particle, node, tree } = shown(run);
  if (!model) return;
  if (particle !== null) return choose({ particle: null });
  const slot = model.order.find((one) => {
    for (let at = tree.leaves[one]; at > 0; at = model.parent[at]) if (at === node) return true;
    return false;
  });
  choose({ particle: slot ?? model.order[0], node: slot === undefined ? null : node });
}

function other(run, by) {
  const { model, particle } = shown(run);
  if (!model?.order.length) return;
  const rank = particle === null ? (by > 0 ? -1 : 0) : model.order.indexOf(particle);
  const next = model.order[within(rank + by, model.order.length)];
  choose({ particle: next, node: model.tree.leaves[next] });
}

export function treesKeys(run) {
  const move = (find) => () => {
    const at = shown(run);
    if (!at.model) return;
    const node = find(at);
    if (node !== null && node !== undefined && node > 0) choose({ node });
  };
  const onward = ({ model, node, particle }) => {
    if (particle !== null) {
      const line = lineOf(model, particle);
      const place = line.indexOf(node);
      if (place >= 0) return line[place + 1];
    }
    return heaviest(model, childrenAt(model, node));
  };
  const beside = (by) => ({ model, node }) => {
    const depth = model.depth[node];
    if (!model.copies[node]) {
      const dead = model.died[depth].ends;
      const place = dead.indexOf(node);
      return place < 0 ? node : dead[within(place + by, dead.length)];
    }
    const column = model.laid.columns[depth].map((i) => model.long.node[i]).filter((one) => model.depth[one] === depth);
    return column[within(column.indexOf(node) + by, column.length)];
  };
  const dead = ({ tree, model, node }) => {
    const branches = model.died[model.depth[node]]?.ends ?? [];
    if (!model.copies[node]) return heaviest(model, (model.laid.columns[model.depth[node]] ?? []).map((i) => model.long.node[i]));
    return branches.length ? best(branches, tree.nodes.reward) : null;
  };
  const end = ({ model, node, particle }) => {
    let at = particle === null ? node : model.tree.leaves[particle];
    for (let next; (next = heaviest(model, childrenAt(model, at))) !== null && particle === null; ) at = next;
    return at;
  };
  const inList = (event) => event.target.closest?.("#trees");
  const tree = (by) => () => {
    const { trees, at } = shown(run);
    const rows = trees?.id ? listed(trees) : [];
    if (rows.length) choose({ tree: trees.id[rows[within(rows.indexOf(at) + by, rows.length)]], node: null, particle: null });
  };
  return [
    ["ArrowRight l", "next step, along the particle or the most weight", move(onward)],
    ["ArrowLeft h", "step before", move(({ model, node }) => model.parent[node])],
    ["ArrowUp k", "the step above in this column; in the list, the tree before", (event) => (inList(event) ? tree(-1) : move(beside(-1)))()],
    ["ArrowDown j", "the step below in this column; in the list, the next tree", (event) => (inList(event) ? tree(1) : move(beside(1)))()],
    ["Home", "first step", move(({ model, node }) => { let at = node; while (model.parent[at] > 0) at = model.parent[at]; return at; })],
    ["End", "last step", move(end)],
    ["d", "the best branch that died here, and back", move(dead)],
    ["f", "follow a particle's ancestry, or let go", () => follow(run)],
    ["]", "next lighter particle", () => other(run, 1)],
    ["[", "next heavier particle", () => other(run, -1)],
    ["c", "colour by answer or reward", () => choose({ colour: choice("colour") === "reward" ? null : "reward" })],
    ["p", "shade tokens by probability", () => choose({ shade: choice("shade") === "1" ? null : 1 })],
    [".", "next token of a shaded text", () => stepToken(1)],
    [",", "token before", () => stepToken(-1)],
    ["n", "next tree", tree(1)],
    ["N", "tree before", tree(-1)],
    ["/", "find a question", () => document.getElementById("find")?.focus()],
  ];
}
