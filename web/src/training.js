/** Trainings: their curves, the looks, what the plateau rule sees, and texts over time. */
import { html, nothing } from "lit-html";
import { ref } from "lit-html/directives/ref.js";
import uPlot from "uplot";
import { value } from "./data.js";
import { choice, choose, link, number } from "./state.js";
import { clip, prose } from "./text.js";
import { badge, figure, missing, percent, plural, stageHere, stageTabs, within } from "./parts.js";

const PART = "training";
const FIRST = ["loss", "eval_loss", "reward", "accuracy", "entropy", "completions/mean_length", "grad_norm", "learning_rate", "kl"];
const plots = new Map();

function shown(run) {
  const stage = stageHere(run, PART);
  return { stage, data: stage === null ? undefined : value(`${PART}/${run}/${stage}`) };
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The series of a training, looks among them, the ones most asked for first. */
function curves(data) {
  const found = data.series.filter((one) => one.values.filter((each) => each !== null).length > 1);
  const looks = data.looks ?? [];
  if (looks.length > 1) {
    found.unshift({
      name: "held-out accuracy", steps: looks.map((look) => look.step), values: looks.map((look) => look.accuracy),
      low: looks.map((look) => look.interval?.[0] ?? null), high: looks.map((look) => look.interval?.[1] ?? null),
    });
  }
  const rank = (one) => (one.low ? -1 : FIRST.indexOf(one.name) < 0 ? FIRST.length : FIRST.indexOf(one.name));
  return found.map((one, i) => [one, i]).sort(([a, i], [b, j]) => rank(a) - rank(b) || i - j).map(([one]) => one);
}

/** Draws a curve into a box, anew where its data, its width or the theme has changed. */
function plot(box, key, series, plateau) {
  if (!box) return;
  const theme = document.documentElement.dataset.theme;
  const width = box.clientWidth;
  const state = `${theme}/${width}/${series.values.length}/${series.steps.at(-1)}/${key}`;
  if (!width || box.dataset.state === state) return;
  box.dataset.state = state;
  plots.get(box)?.destroy();
  const axis = {
    stroke: colour("muted"), grid: { stroke: colour("rule"), width: 1 }, ticks: { show: false },
    font: `11px ${getComputedStyle(document.body).fontFamily}`,
  };
  const rows = [series.steps, series.values];
  const drawn = [{ label: "step" }, { label: series.name, stroke: colour("accent"), width: 1.5, spanGaps: true, points: { show: series.values.length < 40, size: 5 } }];
  const bands = [];
  if (series.low) {
    rows.push(series.high, series.low);
    const edge = { stroke: "transparent", points: { show: false } };
    drawn.push({ ...edge, label: "high" }, { ...edge, label: "low" });
    bands.push({ series: [2, 3], fill: colour("band") });
  }
  const mark = (chart) => {
    // The looks' accuracy is a curve of its own, with its interval.
    if (!plateau || (plateau.column === "accuracy" ? !series.low : plateau.column !== series.name)) return;
    const { ctx: pen, bbox } = chart;
    pen.save();
    const last = plateau.looks[plateau.looks.length - 1];
    if (last) {
      const [from, to] = [last.step - last.window, last.step].map((step) => chart.valToPos(step, "x", true));
      pen.fillStyle = colour("band");
      pen.fillRect(from, bbox.top, to - from, bbox.height);
    }
    if (plateau.stop_step !== null) {
      const x = chart.valToPos(plateau.stop_step, "x", true);
      pen.strokeStyle = colour("wrong");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(x, bbox.top);
      pen.lineTo(x, bbox.top + bbox.height);
      pen.stroke();
    }
    pen.restore();
  };
  const chart = new uPlot(
    {
      width, height: 168, padding: [10, 16, 0, 0], legend: { show: false }, cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } }, bands,
      scales: { x: { time: false } }, axes: [{ ...axis, size: 30 }, { ...axis, size: 58, values: (_, ticks) => ticks.map(figure) }], series: drawn,
      hooks: {
        draw: [mark],
        setCursor: [
          (one) => {
            const told = box.parentElement.querySelector(".reading");
            const i = one.cursor.idx;
            if (told) told.textContent = i === null || i === undefined ? ending(series) : `step ${figure(series.steps[i])}: ${figure(series.values[i])}`;
          },
        ],
      },
    },
    rows,
    box,
  );
  plots.set(box, chart);
  for (const [old, drawn] of plots) {
    if (old.isConnected || old === box) continue;
    drawn.destroy(); // it listens to the window, too
    plots.delete(old);
  }
}

/** How a curve ends, in words. */
function ending(series) {
  const known = series.values.filter((each) => each !== null);
  return known.length ? `${figure(known[0])} → ${figure(known[known.length - 1])}` : "";
}

/** @param key: names the training, so that another one's curve is drawn anew. */
function chart(key, series, plateau) {
  const known = series.values.filter((each) => each !== null);
  if (known.length < 3) return html`<figure class="curve"><figcaption><bdi>${series.name}</bdi></figcaption><p>${ending(series)} <span class="faint">at steps ${series.steps.map(figure).join(", ")}</span></p></figure>`;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const label = `${series.name} by step: from ${figure(known[0])} to ${figure(known[known.length - 1])}, between ${figure(low)} and ${figure(high)}`;
  return html`<figure class="curve"><figcaption><bdi>${series.name}</bdi> <span class="faint reading" .textContent=${ending(series)}></span></figcaption>
    <div class="plot" role="img" aria-label=${label} ${ref((box) => plot(box, `${key}/${series.name}`, series, plateau))}></div></figure>`;
}

function plateauView(plateau) {
  if (!plateau) return nothing;
  return html`<section class="panel" aria-label="Plateau rule"><h2>What the plateau rule sees</h2>
    <p><bdi>${plateau.verdict}</bdi></p>
    <p class="faint small">It stops when the next ${figure(plateau.horizon)} steps improve ${plateau.column} by less than ${figure(plateau.delta)}, with ${percent(plateau.confidence, 0)} confidence over the whole run.</p>
    ${plateau.looks.length
      ? html`<details><summary>${plural(plateau.looks.length, "look")}</summary><div class="scroll" tabindex="0" role="group" aria-label="Looks of the plateau rule"><table>
        <thead><tr><th>step</th><th>steps looked at</th><th>slope a step</th><th>improves by at most</th><th class="t">verdict</th></tr></thead>
        <tbody>${plateau.looks.map((look) => html`<tr><th scope="row">${figure(look.step)}</th><td>${figure(look.window)}</td><td>${figure(look.slope)}</td><td>${figure(look.upper)}</td><td class="t"><bdi>${look.stop ? "stop" : "go on"}${look.reason ? `: ${look.reason}` : ""}</bdi></td></tr>`)}</tbody></table></div></details>`
      : nothing}
  </section>`;
}

/** Steps at which texts were kept, and the place of the chosen one: the last, unless the reader chose. */
function times(data) {
  const steps = [...new Set((data?.samples ?? []).map((one) => one.step))].sort((a, b) => a - b);
  const wanted = number("at");
  // By its step and not its place: a training that goes on has more of them, or every other.
  return [steps, wanted === null ? steps.length - 1 : Math.max(0, steps.findLastIndex((step) => step <= wanted))];
}

function samples(key, data) {
  if (!data.samples?.length) return nothing;
  const [steps, at] = times(data);
  const here = data.samples.filter((one) => one.step === steps[at]);
  return html`<h2>Texts over time</h2>
    <p class="slider"><label>step <input id="when" type="range" min="0" max=${steps.length - 1} .value=${String(at)} aria-valuetext="step ${steps[at]}" @input=${(event) => choose({ at: steps[event.target.value] })}></label>
      <output for="when">${figure(steps[at])}</output> <span class="faint">${at + 1} of ${steps.length}</span></p>
    <div class="samples">${here.slice(0, 24).map(
      (one, i) => html`<article class="sample"><p class="facts-line">${one.status ? badge(one.status) : nothing}
          ${one.answer ? html`<span>answer <strong><bdi>${clip(one.answer, 40)}</bdi></strong></span>` : nothing}
          ${one.gold ? html`<span class="faint">gold <bdi>${clip(one.gold, 40)}</bdi></span>` : nothing}
          ${one.reward === null || one.reward === undefined ? nothing : html`<span>reward ${figure(one.reward)}</span>`}</p>
        <p class="faint small"><bdi>${clip(one.question ?? one.problem, 300)}</bdi></p>${prose(one.text, `${key}/${one.step}/${i}`, 2000, 24)}</article>`,
    )}</div>`;
}

export function trainingPage(run) {
  const { stage, data } = shown(run);
  if (stage === null) return html`<h1>Training</h1><p class="message">This run has no training yet: stages such as sft and grpo train.</p>`;
  const title = html`<div class="title"><h1>Training of <bdi>${stage}</bdi></h1>${stageTabs(run, "training", PART, stage)}</div>`;
  const none = missing(data);
  if (none) return html`${title}${none}`;
  const found = curves(data);
  const all = choice("all") === "1" || found.length <= 9;
  return html`${title}
    ${plateauView(data.plateau)}
    ${found.length ? html`<div class="curves">${(all ? found : found.slice(0, 8)).map((series) => chart(`${run}/${stage}`, series, data.plateau))}</div>` : html`<p class="message">Nothing is logged yet.</p>`}
    ${all ? nothing : html`<p><button @click=${() => choose({ all: 1 })}>all ${plural(found.length, "curve")}</button></p>`}
    ${data.looks?.some((look) => look.kept) ? html`<p class="faint small">The model of step ${figure(data.looks.find((look) => look.kept).step)} is kept.</p>` : nothing}
    ${samples(`sample/${run}/${stage}`, data)}
    <p class="small"><a href=${link(["run", run])}>all stages of the run</a></p>`;
}

export function trainingKeys(run) {
  const move = (by) => () => {
    const [steps, at] = times(shown(run).data);
    if (steps.length) choose({ at: steps[within(at + by, steps.length)] });
  };
  return [
    ["ArrowRight l", "texts of a later step", move(1)],
    ["ArrowLeft h", "texts of an earlier step", move(-1)],
    ["a", "all curves", () => choose({ all: choice("all") === "1" ? null : 1 })],
  ];
}
