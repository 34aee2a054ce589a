/** All runs with their stages, and one run: its verdict, evaluations and stages. */
import { html, nothing } from "lit-html";
import { value } from "./data.js";
import { link } from "./state.js";
import { ago, bar, duration, figure, missing, percent, plural } from "./parts.js";
import { sentences } from "./text.js";

const PAGES = { attempts: "attempts", trees: "trees", examples: "data", training: "training" };

/** Links to what a stage holds. */
function ways(run, stage, has) {
  return (has ?? []).filter((part) => PAGES[part]).map(
    (part) => html`<a href=${link(["run", run, PAGES[part], stage])} aria-label="${PAGES[part]} of ${stage}">${PAGES[part]}</a> `,
  );
}

function stageProgress(stage) {
  const share = stage.state === "finished" ? 1 : stage.total ? stage.done / stage.total : 0;
  const told = stage.total && stage.state !== "finished" ? `${figure(stage.done)} of ${figure(stage.total)}` : stage.state;
  return html`<li class="stage ${stage.state}">
    <span class="name"><bdi>${stage.name}</bdi></span>
    ${bar(share, `${stage.name}: ${told}`, stage.state)}
    <span class="faint">${told}${stage.seconds ? html` · ${duration(stage.seconds)}` : nothing}</span>
  </li>`;
}

/** What a run does now: state, stage, rate, time left, last error. */
function live(run) {
  const facts = [
    (run.told || run.state).replace(new RegExp(`^${run.state},? *`), ""),
    run.state === "running" && run.rate ? `${figure(run.rate)} a second` : "",
    run.state === "running" && run.left_s !== null && run.left_s !== undefined ? `${duration(run.left_s)} left` : "",
    run.updated ? `last wrote ${ago(run.updated)}` : "",
  ].filter(Boolean);
  return html`<p class="live"><span class="state ${run.state}">${run.state}</span> <span class="faint">${facts.join(" · ")}</span></p>
    ${run.error ? html`<p class="flag">${run.state === "gone" ? nothing : html`<strong>Last error</strong>`} <bdi>${run.error}</bdi></p>` : nothing}
    ${run.figures && Object.keys(run.figures).length && run.state === "running"
      ? html`<p class="faint small">${run.task ? `${run.task}: ` : ""}${Object.entries(run.figures).map(([name, told]) => `${name} ${told}`).join("  ·  ")}</p>`
      : nothing}
    ${run.workers?.length
      ? html`<p class="faint small">${plural(run.workers.length, "worker")}: ${run.workers.map((worker) => `${worker.index} ${worker.state}`).join(", ")}</p>`
      : nothing}`;
}

export function runsPage() {
  const runs = value("runs");
  const none = missing(runs);
  if (none) return none;
  if (!runs.runs.length) return html`<p class="message">No run yet. <code>butwait run RECIPE</code> begins one.</p>`;
  return html`<h1>Runs</h1>
    <div class="cards">
      ${runs.runs.map(
        (run) => html`<section class="card" aria-labelledby="run-${run.id}">
          <h2 id="run-${run.id}"><a href=${link(["run", run.id])}><bdi>${run.name}</bdi></a></h2>
          <p class="faint small path"><bdi>${run.folder}</bdi></p>
          ${live(run)}
          <ol class="pipeline">${run.stages.map(stageProgress)}</ol>
        </section>`,
      )}
    </div>`;
}

function interval(evaluation) {
  const { interval: bounds, pass_at_1: rate } = evaluation;
  if (rate === null || rate === undefined) return nothing;
  const [low, high] = bounds ?? [rate, rate];
  return html`<span class="interval" aria-hidden="true">
    <span class="reach" .style=${`left:${100 * low}%;width:${Math.max(0.5, 100 * (high - low))}%`}></span>
    <span class="point" .style=${`left:${100 * rate}%`}></span>
  </span>`;
}

function evaluations(run, rows) {
  if (!rows?.length) return nothing;
  return html`<h2>Evaluations</h2>
    <div class="scroll" tabindex="0" role="group" aria-label="Evaluations"><table>
      <thead><tr><th class="t">stage</th><th class="t">set</th><th class="t">method</th><th>n</th><th>k</th><th>pass@1</th><th>95 % interval</th><th class="t">0 … 100 %</th></tr></thead>
      <tbody>${rows.map(
        (row) => html`<tr>
          <th class="t" scope="row"><a href=${link(["run", run, "attempts", row.stage], { set: row.set, method: row.method })}><bdi>${row.stage}</bdi></a></th>
          <td class="t"><bdi>${row.set}</bdi></td><td class="t"><bdi>${row.method}</bdi></td><td>${figure(row.n)}</td><td>${figure(row.k)}</td>
          <td><strong>${percent(row.pass_at_1)}</strong></td>
          <td>${row.interval ? `${(100 * row.interval[0]).toFixed(1)} to ${(100 * row.interval[1]).toFixed(1)}` : "–"}</td>
          <td class="t">${interval(row)}</td>
        </tr>`,
      )}</tbody>
    </table></div>`;
}

/** Side-by-side views of two evaluations that the run compares. */
function comparisons(run, rows) {
  if (!rows?.length) return nothing;
  return html`<h2>Comparisons</h2>
    <ul class="plain">${rows.map((row) => {
      const [, set, method] = row.b.split("/");
      const [first, stage] = row.at;
      const told = row.sentence ?? `${row.b} against ${row.a}: ${(100 * row.delta).toFixed(1)} points`;
      const beside = first && stage && link(["run", run, "attempts", stage], { set, method, other: `${run}/${first}`, other_method: row.a.split("/")[2] });
      return html`<li><bdi>${told}</bdi> ${beside ? html`<a href=${beside} aria-label="${row.b} against ${row.a}, side by side">side by side</a>` : nothing}</li>`;
    })}</ul>`;
}

export function runPage(run) {
  const found = value(`run/${run}`);
  const none = missing(found);
  if (none) return none;
  const now = value("runs")?.runs?.find((one) => String(one.id) === String(run));
  const states = new Map((now?.stages ?? []).map((stage) => [stage.name, stage]));
  const names = new Set(found.stages.map((stage) => stage.name));
  const stages = [...found.stages, ...(now?.stages ?? []).filter((stage) => !names.has(stage.name))];
  const [head, rest] = sentences(found.verdict ?? "");
  return html`
    <h1 class=${found.verdict ? "verdict" : ""}><bdi>${head || found.name}</bdi></h1>
    ${rest ? html`<p class="rest"><bdi>${rest}</bdi></p>` : nothing}
    ${found.verdict ? html`<p class="faint">Run <strong><bdi>${found.name}</bdi></strong> in <bdi>${found.folder}</bdi></p>` : nothing}
    ${now ? live(now) : nothing}
    ${evaluations(run, found.evaluations)}
    ${comparisons(run, found.comparisons)}
    <h2>Stages</h2>
    <div class="scroll" tabindex="0" role="group" aria-label="Stages"><table class="stages">
      <thead><tr><th class="t">stage</th><th class="t">kind</th><th class="t">state</th><th class="t">takes from</th><th>time</th><th class="t">look at</th></tr></thead>
      <tbody>${stages.map((stage) => {
        const at = { ...stage, ...states.get(stage.name) };
        const told = at.total && at.state !== "finished" ? `${at.state}, ${figure(at.done)} of ${figure(at.total)}` : at.state;
        return html`<tr>
          <th class="t" scope="row"><bdi>${stage.name}</bdi></th><td class="t"><bdi>${stage.kind}</bdi></td>
          <td class="t"><span class="state ${at.state}">${told}</span></td>
          <td class="t faint"><bdi>${(stage.from ?? []).join(", ") || "–"}</bdi></td>
          <td>${duration(stage.seconds ?? at.seconds)}</td><td class="t">${ways(run, stage.name, stage.has)}</td>
        </tr>`;
      })}</tbody>
    </table></div>
    <h2>Figures</h2>
    ${stages.filter((stage) => Object.keys(stage.metrics ?? {}).length).map(
      (stage) => html`<details><summary><bdi>${stage.name}</bdi> <span class="faint">${plural(Object.keys(stage.metrics).length, "figure")}</span></summary>
        <dl class="facts">${Object.entries({ ...stage.metrics, ...stage.cost }).map(
          ([name, told]) => html`<div><dt><bdi>${name}</bdi></dt><dd><bdi>${figure(told)}</bdi></dd></div>`,
        )}</dl></details>`,
    )}
    ${found.log?.length
      ? html`<details><summary>Log <span class="faint">last ${plural(found.log.length, "line")}</span></summary>
          <pre class="log" tabindex="0"><bdi>${found.log.join("\n")}</bdi></pre></details>`
      : nothing}`;
}
