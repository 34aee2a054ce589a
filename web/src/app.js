/** The page of `butwait view`: which part of it is shown, the frame around it, keys, theme, and asking again. */
import { html, nothing, render } from "lit-html";
import { attemptsKeys, attemptsPage } from "./attempts.js";
import { isLost, known, refresh, value, whenChanged } from "./data.js";
import { drawBy, redraw } from "./draw.js";
import { dataKeys, dataPage } from "./examples.js";
import { help, listen, openHelp, remembered } from "./keys.js";
import { stageHere } from "./parts.js";
import { runPage, runsPage } from "./runs.js";
import { choice, follow, go, link, path } from "./state.js";
import { trainingKeys, trainingPage } from "./training.js";
import { treesKeys, treesPage } from "./trees.js";

/** The parts of a run: how they are named, drawn, and what keys they have. */
const PARTS = {
  "": { name: "Overview", key: "o", page: runPage, keys: () => [] },
  attempts: { name: "Attempts", key: "a", page: attemptsPage, keys: attemptsKeys, list: "attempts" },
  trees: { name: "Trees", key: "t", page: treesPage, keys: treesKeys, list: "trees" },
  data: { name: "Data", key: "d", page: dataPage, keys: dataKeys, list: "examples" },
  training: { name: "Training", key: "r", page: trainingPage, keys: trainingKeys, list: "training" },
};
const NUMBERS = ["1", "2", "3", "4", "5"];
/** Runs that are read for evaluations to stand beside one: docs/view.md says so. */
const BESIDE = 12;

/** The run of the address, or null on the page of all runs; and its part. */
function here() {
  const [first, run, part = ""] = path();
  return first === "run" && run !== undefined ? { run, part: PARTS[part] ? part : "" } : { run: null, part: "" };
}

function theme() {
  const chosen = remembered.get("theme");
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function switchTheme() {
  remembered.set("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  document.documentElement.dataset.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  redraw();
}

/** Another part of the run, at its first stage. */
function goTo(part) {
  const { run } = here();
  if (run !== null) go(part ? ["run", run, part] : ["run", run]);
}

function keys() {
  const { run, part } = here();
  const groups = [];
  if (run !== null) groups.push([PARTS[part].name, PARTS[part].keys(run)]);
  const parts = Object.entries(PARTS).map(([name, one], i) => [NUMBERS[i], one.name.toLowerCase(), () => goTo(name)]);
  groups.push([
    "Everywhere",
    [
      ...(run === null ? [] : parts),
      ["s", "next stage", nextStage],
      ["r", "all runs", () => go([])],
      ["m", "light or dark", switchTheme],
      ["?", "these keys", openHelp],
    ].filter(([key]) => key !== "s" || run !== null),
  ]);
  return groups.filter(([, list]) => list.length);
}

function nextStage() {
  const { run, part } = here();
  const stages = known(`run/${run}`)?.stages?.filter((stage) => stage.has.includes(PARTS[part].list)).map((stage) => stage.name) ?? [];
  if (stages.length < 2) return;
  const at = stages.indexOf(path()[3] ?? stages[0]);
  go(["run", run, part, stages[(at + 1) % stages.length]]);
}

function frame(run, part, body) {
  const runs = known("runs")?.runs ?? [];
  const found = runs.find((one) => String(one.id) === String(run));
  const toMain = (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  };
  return html`<a class="skip" href="#main" @click=${toMain}>To the content</a>
    <header>
      <a class="mark" href="#/" aria-label="butwait, all runs"><svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">
        <path class="m1" d="M3 16C14 16 14 8 29 8"></path><path class="m2" d="M3 16H29"></path><path class="m3" d="M3 16C14 16 14 24 29 24"></path></svg>
        <span>butwait</span></a>
      ${run === null
        ? nothing
        : html`${runs.length > 1
              ? html`<label class="run"><span class="hidden">Run</span><select @change=${(event) => go(part ? ["run", event.target.value, part] : ["run", event.target.value])}>
                  ${runs.map((one) => html`<option value=${one.id} ?selected=${String(one.id) === String(run)}>${one.name}</option>`)}</select></label>`
              : html`<strong class="run"><bdi>${found?.name ?? ""}</bdi></strong>`}
            <nav class="parts" aria-label="Parts of the run">${Object.entries(PARTS).map(
              ([name, one]) => html`<a href=${link(name ? ["run", run, name] : ["run", run])} aria-current=${name === part ? "page" : nothing}>${one.name}</a>`,
            )}</nav>`}
      <span class="end">
        ${found?.state === "running" ? html`<span class="pulse" title="running"><span class="hidden">running</span></span>` : nothing}
        <button class="icon" @click=${switchTheme} aria-label="light or dark">◐</button>
        <button class="icon" @click=${openHelp} aria-label="keys">?</button>
      </span>
    </header>
    ${isLost() ? html`<p class="lost" role="alert">The server does not answer. What is shown was its last word.</p>` : nothing}
    <main id="main" tabindex="-1" class=${part || (run === null ? "all" : "overview-page")}>${body}</main>
    ${help()}`;
}

/** Runs whose evaluations are offered beside those of `run`: the first ones, and the one that was chosen. */
function neighbours(runs, run) {
  const [chosen] = (choice("other") ?? "").split("/");
  return (runs?.runs ?? [])
    .filter((one, i) => one.state !== "gone" && (i < BESIDE || [String(run), chosen].includes(String(one.id))))
    .map((one) => one.id);
}

function paint() {
  const { run, part } = here();
  const runs = value("runs");
  if (run !== null) {
    value(`run/${run}`);
    // Evaluations of other runs can stand beside one of this run.
    if (part === "attempts") neighbours(runs, run).forEach((one) => value(`run/${one}`));
  }
  const ready = run === null || part === "" || known(`run/${run}`);
  const body = run === null ? runsPage() : ready ? PARTS[part].page(run) : html`<p class="message faint" role="status">Loading …</p>`;
  const stage = path()[3];
  const name = runs?.runs?.find((one) => String(one.id) === String(run))?.name;
  document.title = [stage, part ? PARTS[part].name : "", name, "butwait"].filter(Boolean).join(" · ");
  render(frame(run, part, body), document.getElementById("app"));
}

/** Asks again for what may have changed: all runs always, what is on the page where its run has written. */
function watch() {
  let round = 0;
  const seen = new Map();
  setInterval(() => {
    const runs = known("runs");
    if (document.hidden || (runs && runs.live === false)) return;
    refresh("runs");
    const { run, part } = here();
    if (run === null || round++ % 3) return;
    const { list } = PARTS[part];
    const stage = list && stageHere(run, list);
    const shown = [`run/${run}`, ...(stage ? [`${list}/${run}/${stage}`] : [])];
    if (part === "attempts") {
      shown.push(...neighbours(runs, run).map((one) => `run/${one}`));
      if (choice("other")) shown.push(`attempts/${choice("other")}`);
    }
    for (const name of new Set(shown)) {
      const updated = runs?.runs?.find((one) => String(one.id) === name.split("/")[1])?.updated;
      if (!known(name) || updated === seen.get(name)) continue;
      // What has come just now is new enough, but it may have been asked for before the run wrote last.
      seen.set(name, updated);
      refresh(name);
    }
  }, 2000);
}

theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (theme(), redraw()));
drawBy(paint);
whenChanged(redraw);
follow(redraw);
listen(keys);
addEventListener("resize", redraw);
watch();
paint();
