/** Training data: examples with their spans, the loss mask and where each span came from. */
import { html, nothing } from "lit-html";
import { entry, value } from "./data.js";
import { choice, choose, link, number } from "./state.js";
import { asked, clip, prose } from "./text.js";
import { figure, finder, finds, list, missing, percent, plural, questionHead, stageHere, stageTabs, strip, waiting, within } from "./parts.js";

const PART = "examples";

function shown(run) {
  const stage = stageHere(run, PART);
  const data = stage === null ? undefined : value(`${PART}/${run}/${stage}`);
  if (!data || data.error) return { stage, data, places: [] };
  const role = choice("role");
  const wanted = role ? data.roles.indexOf(role) : -1;
  const places = data.problem.map((_, i) => i).filter(
    (i) => (wanted < 0 || data.spans[i].includes(wanted)) && finds(data.problems[data.problem[i]].id, data.problems[data.problem[i]].question),
  );
  const example = number("example", places[0] ?? 0);
  return { stage, data, places, row: Math.max(0, places.indexOf(example)), example: places.includes(example) ? example : (places[0] ?? null) };
}

function exampleRow(data, i) {
  const problem = data.problems[data.problem[i]];
  const roles = data.spans[i].map((role) => data.roles[role]);
  return html`${questionHead(problem.id, problem.question)}
    <span class="lines"><span class="spans">${roles.slice(0, 24).map((role) => html`<span class="cell ${role}"></span>`)}</span>
      <span class="share">${figure(data.tokens[i])}</span></span>`;
}

/** Links to the nodes that a span was made of. */
function origin(run, pieces) {
  return (pieces ?? []).map((piece) =>
    piece.tree
      ? html`<a href=${link(["run", run, "trees", piece.tree.stage], { tree: piece.tree.id, node: piece.nodes[piece.nodes.length - 1] })}
          >tree ${piece.tree.id} of <bdi>${piece.tree.stage}</bdi>, ${plural(piece.nodes.length, "step")}</a> `
      : html`<span class="faint">${piece.text === null || piece.text === undefined ? "" : "inserted"}</span> `,
  );
}

function spanView(run, span, key) {
  return html`<section class="span ${span.role} ${span.loss ? "" : "masked"}" aria-label="${span.role}, ${span.loss ? "carries loss" : "no loss"}">
    <p class="span-head"><span class="role ${span.role}">${span.role}</span> <span>${plural(span.tokens, "token")}</span>
      <span class="mask">${span.loss ? "loss" : "no loss"}</span> <span class="from">${origin(run, span.pieces)}</span></p>
    ${prose(span.text, key)}
  </section>`;
}

export function dataPage(run) {
  const { stage, data, places, row, example } = shown(run);
  if (stage === null) return html`<h1>Data</h1><p class="message">This run has no training data yet: stages such as verified and backtrack make it.</p>`;
  const title = html`<div class="title"><h1>Data of <bdi>${stage}</bdi></h1>${stageTabs(run, "data", PART, stage)}</div>`;
  const none = missing(data);
  if (none) return html`${title}${none}`;
  const sum = Object.values(data.counts).reduce((a, b) => a + b, 0);
  const found = example === null ? null : entry(`${PART}/${run}/${stage}/texts/${Math.floor(example / data.chunk)}`, "examples", example % data.chunk);
  const problem = example === null ? null : data.problems[data.problem[example]];
  return html`${title}
    <div class="overview">
      ${strip(Object.entries(data.counts).map(([role, tokens]) => [`cell ${role}`, tokens, role]), "tokens by role")}
      <p class="legend small" role="group" aria-label="Roles">${Object.entries(data.counts).map(
        ([role, tokens]) => html`<button class="chip" aria-pressed=${choice("role") === role ? "true" : "false"} @click=${() => choose({ role: choice("role") === role ? null : role, example: null })}>
          <span class="cell ${role}"></span> ${role} <span class="count">${figure(tokens)} tokens, ${percent(tokens / (sum || 1), 0)}</span></button>`,
      )}</p>
    </div>
    <div class="split">
      <div class="aside">
        ${finder(`${plural(places.length, "example")} by ${data.kind}`)}
        ${list({
          id: "examples",
          label: "Examples",
          rows: places.length,
          height: 48,
          selected: places.length ? row : -1,
          row: (i) => exampleRow(data, places[i]),
          pick: (i) => choose({ example: places[i] }),
        })}
      </div>
      <div class="main">
        ${problem
          ? html`<section class="question" aria-label="Question">
              <p class="faint small"><bdi>${clip(problem.id, 80)}</bdi></p>
              ${asked(problem.question, `question/${run}/${stage}/${problem.id}`)}
              <p>gold answer <strong class="gold"><bdi>${clip(problem.gold, 200) || "–"}</bdi></strong>
              <span class="faint">· example ${example + 1}, ${plural(data.tokens[example], "token")}, ${figure(data.loss_tokens[example])} with loss</span></p>
            </section>
            ${found === undefined
              ? waiting()
              : found.error
                ? html`<p class="message">${found.error}</p>`
                : html`<div class="spans-view">${found.spans.map((span, i) => spanView(run, span, `example/${run}/${stage}/${example}/${i}`))}</div>
                  <details><summary>Prompt</summary>${found.prompt.map((turn, i) => html`<p class="faint small">${turn.role}</p>${prose(turn.content, `prompt/${run}/${stage}/${example}/${i}`)}`)}</details>
                  ${facts("Provenance", found.facts)}`}`
          : html`<p class="message">No example has this role.</p>`}
        ${facts("Figures of the set", data.facts)}
      </div>
    </div>`;
}

function facts(title, found) {
  const rows = Object.entries(found ?? {});
  if (!rows.length) return nothing;
  return html`<details><summary>${title}</summary>
    <dl class="facts">${rows.map(([name, told]) => html`<div><dt><bdi>${name}</bdi></dt><dd><bdi>${clip(figure(told), 400)}</bdi></dd></div>`)}</dl></details>`;
}

export function dataKeys(run) {
  const move = (by) => () => {
    const { places, row } = shown(run);
    if (places.length) choose({ example: places[within(row + by, places.length)] });
  };
  const open = () => document.querySelector(".spans-view a")?.click();
  const role = () => {
    const roles = ["", ...Object.keys(shown(run).data?.counts ?? {})];
    choose({ role: roles[(roles.indexOf(choice("role") ?? "") + 1) % roles.length], example: null });
  };
  return [
    ["ArrowDown j", "next example", move(1)],
    ["ArrowUp k", "example before", move(-1)],
    ["o", "the tree of the first span", open],
    ["e", "examples that have the next role", role],
    ["/", "find a question", () => document.getElementById("find")?.focus()],
  ];
}
