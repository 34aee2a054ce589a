/** Attempts of an evaluation: filters, questions, one attempt's text; two evaluations side by side. */
import { html, nothing } from "lit-html";
import { entry, known, value } from "./data.js";
import { seen, shadeLegend, stepToken } from "./shade.js";
import { paired } from "./pairs.js";
import { choice, choose, number, settle } from "./state.js";
import { asked, clip, solution } from "./text.js";
import { badge, figure, finder, finds, list, missing, notes, plural, questionHead, stageHere, stageTabs, statusName, strip, waiting, within } from "./parts.js";

const PART = "attempts";
const ORDER = ["correct", "wrong", "no_answer", "truncated", "ungradable"];
const SHOW = {
  "": "all questions",
  gained: "A wrong, B right",
  lost: "A right, B wrong",
  both: "both right",
  neither: "both wrong",
};

const grouped = new WeakMap();
/** Groupings of a table that are kept: what is listed and what is counted, and those of before a choice. */
const GROUPINGS = 4;

const keyOf = (problem) => `${problem.set}/${problem.id}`;

const pairings = new WeakMap();

/** The questions that two evaluations have in common, the same map for as long as their data is. */
function common(data, other) {
  if (pairings.get(data)?.other !== other) pairings.set(data, { other, found: paired(data.problems, other.problems) });
  return pairings.get(data).found;
}

/** The attempts that pass the filters, by question: Map of a question's key -> its attempts' places in the columns. */
function byQuestion(data, filters) {
  const key = JSON.stringify([filters, choice("find")]);
  if (!grouped.has(data)) grouped.set(data, new Map());
  const cached = grouped.get(data);
  if (cached.has(key)) return cached.get(key);
  const answer = filters.answer?.toLowerCase();
  const wanted = filters.status ? new Set(filters.status.split(",")) : null;
  const found = new Map();
  for (let i = 0; i < data.problem.length; i++) {
    if (wanted && !wanted.has(data.statuses[data.status[i]])) continue;
    if (filters.set && data.sets[data.set[i]] !== filters.set) continue;
    if (filters.method && data.methods[data.method[i]] !== filters.method) continue;
    if (filters.least !== null && data.length[i] < filters.least) continue;
    if (filters.most !== null && data.length[i] > filters.most) continue;
    if (answer && !(data.answers[data.answer[i]] ?? "").toLowerCase().includes(answer)) continue;
    const problem = data.problems[data.problem[i]];
    if (filters.named && !finds(problem.id, problem.question)) continue;
    const id = keyOf(problem);
    if (!found.has(id)) found.set(id, { problem, places: [] });
    found.get(id).places.push(i);
  }
  cached.set(key, found);
  if (cached.size > GROUPINGS) cached.delete(cached.keys().next().value);
  return found;
}

/** The method that is shown: the first, unless the reader chose one or all ("*"). */
const methodOf = (data, chosen) => (chosen === "*" || data.methods.length < 2 ? null : data.methods.includes(chosen) ? chosen : data.methods[0]);

function filters(data) {
  return {
    status: choice("status"),
    set: choice("set"),
    method: methodOf(data, choice("method")),
    named: true,
    answer: choice("answer"),
    least: number("least"),
    most: number("most"),
  };
}

const right = (data, places) => places.filter((i) => data.statuses[data.status[i]] === "correct").length;

/** How a question went: its share of right attempts of those shown. */
const solved = (data, places) => places.length > 0 && 2 * right(data, places) >= places.length;

/** The attempt that is shown first: one that went as the question did. */
const typical = (data, places) => Math.max(0, places.findIndex((i) => (data.statuses[data.status[i]] === "correct") === solved(data, places)));

/** The same questions by the same methods, whatever became of the attempts. */
const every = (chosen) => ({ ...chosen, status: undefined, answer: undefined, least: null, most: null });

/** The questions that are listed, with the attempts of both sides that pass the filters. */
function questions(data, other) {
  const chosen = filters(data);
  const own = byQuestion(data, chosen);
  const row = ([key, { problem, places }]) => ({ key, problem, places, others: [] });
  if (!other) return [...own].map(row);
  // The other evaluation may have another method, set and id; the question is the same.
  const others = { ...chosen, set: undefined, named: false, method: methodOf(other, choice("other_method") ?? choice("method")) };
  const partners = common(data, other);
  const theirs = byQuestion(other, others);
  // Which side is right is a matter of all attempts: a filter chooses what is listed, and changes no verdict.
  const [wholeOwn, wholeTheirs] = [byQuestion(data, every(chosen)), byQuestion(other, every(others))];
  const show = choice("show") ?? "";
  const rows = [];
  for (const [key, { problem, places }] of wholeOwn) {
    const partner = partners.get(data.problem[places[0]]);
    const same = partner === undefined ? null : keyOf(other.problems[partner]);
    if (!wholeTheirs.has(same)) continue;
    const sides = { places: own.get(key)?.places ?? [], others: theirs.get(same)?.places ?? [] };
    if (!sides.places.length && !sides.others.length) continue;
    const [a, b] = [solved(data, places), solved(other, wholeTheirs.get(same).places)];
    const kind = a ? (b ? "both" : "lost") : b ? "gained" : "neither";
    if (!show || show === kind) rows.push({ key, problem, ...sides });
  }
  return rows;
}

/** The place of the question that is named, in the list; the first where it is not there. */
const rowHere = (rows) => Math.max(0, rows.findIndex((row) => row.key === choice("problem")));

/** The name of an attempt among those at its question: its sample, and its method where there are several. */
const nameOf = (data, i) => (data.methods.length > 1 ? `${data.methods[data.method[i]]}/${data.sample[i]}` : String(data.sample[i]));

/** The place of the attempt that is named, in `places`; of a typical one where it is not there. */
function attemptHere(data, places, chosen) {
  const at = chosen === undefined ? -1 : places.findIndex((i) => nameOf(data, i) === chosen);
  return at < 0 ? typical(data, places) : at;
}

/** "0/after" -> its evaluation's data, or null where no other is chosen. */
function otherSide() {
  const [run, ...stage] = (choice("other") ?? "").split("/");
  return stage.length ? { run, stage: stage.join("/"), data: value(`${PART}/${run}/${stage.join("/")}`) } : null;
}

/** The verdicts of an evaluation, the usual ones first. */
const verdicts = (data) => [...ORDER.filter((status) => data.statuses.includes(status)), ...data.statuses.filter((status) => !ORDER.includes(status))];

const counts = (data, places) =>
  verdicts(data).map((status) => [ORDER.includes(status) ? status : "other", places.filter((i) => data.statuses[data.status[i]] === status).length]);

function questionRow(row, data, other) {
  const line = (from, places) => html`${strip(counts(from, places), `${right(from, places)} of ${places.length} right`)}
    <span class="share">${right(from, places)}/${places.length}</span>`;
  return html`${questionHead(row.problem.id, row.problem.question)}
    <span class="lines">${line(data, row.places)}${other ? line(other, row.others) : nothing}</span>`;
}

/** The chunk that holds the text of attempt `i`. */
const chunkOf = (data, i) => data.chunks.findLast((chunk) => chunk.from <= i);

const seenTokens = new WeakMap();

/** The tokens of an attempt, the same ones for as long as its chunk is kept. */
function tokensOf(stored) {
  if (!seenTokens.has(stored)) seenTokens.set(stored, seen(stored.lengths, stored.logprobs));
  return seenTokens.get(stored);
}

/** One side: the attempts of the question as tiles, and the chosen one's text. */
function side(data, name, title, places, chosen, pick, letter) {
  const heading = html`<h2>${letter ? html`<span class="letter">${letter}</span> ` : nothing}<bdi>${title}</bdi></h2>`;
  if (!places.length) return html`<section class="side" aria-label="${letter}: ${title}">${heading}<p class="message">No attempt passes these filters.</p></section>`;
  const at = attemptHere(data, places, chosen);
  const i = places[at];
  const chunk = chunkOf(data, i);
  const found = entry(`${name}/texts/${chunk.id}`, "texts", i - chunk.from);
  const shade = choice("shade") === "1";
  const stored = shade && chunk.tokens ? entry(`${name}/tokens/${chunk.id}`, "tokens", i - chunk.from) : null;
  const status = data.statuses[data.status[i]];
  const answer = data.answers[data.answer[i]];
  const finish = data.finishes?.[data.finish[i]];
  return html`<section class="side" aria-label="${letter ? `${letter}: ` : ""}${title}">
    ${heading}
    <div class="tiles" role="group" aria-label="Attempts ${letter}">
      ${places.slice(0, 512).map(
        (place, j) => html`<button class="tile ${data.statuses[data.status[place]]}" aria-pressed=${j === at ? "true" : "false"}
          aria-label="attempt ${j + 1}: ${statusName(data.statuses[data.status[place]])}" @click=${() => pick(nameOf(data, place))}></button>`,
      )}
    </div>
    <p class="facts-line">${badge(status)} <span>attempt ${at + 1} of ${places.length}</span>
      <span>answer <strong><bdi>${answer === undefined ? "none" : clip(answer, 60)}</bdi></strong></span>
      <span class="faint">${plural(data.length[i], "token")}${finish ? `, ended by ${finish}` : ""}${data.tokens[i] !== data.length[i] ? `, cost ${figure(data.tokens[i])}` : ""}</span>
      ${data.score?.[i] !== undefined && data.score?.[i] !== null ? html`<span>score ${figure(data.score[i])}</span>` : nothing}
      ${data.methods.length > 1 ? html`<span class="faint"><bdi>${data.methods[data.method[i]]}</bdi></span>` : nothing}
    </p>
    ${status === "correct" ? html`<p class="faint small">Only the answer was verified, not the steps.</p>` : nothing}
    ${stored === null && shade ? html`<p class="faint small">The log-probabilities of its tokens were not stored.</p>` : nothing}
    ${stored?.error ? html`<p class="message">${stored.error}</p>` : nothing}
    ${found === undefined
      ? waiting()
      : found.error
        ? html`<p class="message">${found.error}</p>`
        : solution(
            found.steps.map((text) => ({ text })),
            `${name}/${i}`,
            { shade, tokens: stored?.lengths ? tokensOf(stored) : null },
          )}
  </section>`;
}

function select(name, label, options, chosen) {
  return html`<label>${label} <select @change=${(event) => choose({ [name]: event.target.value })}>
    ${options.map(([key, text]) => html`<option value=${key} ?selected=${key === (chosen ?? "")}>${text}</option>`)}
  </select></label>`;
}

function filterBar(run, stage, data, other) {
  const statuses = new Set((choice("status") ?? "").split(",").filter(Boolean));
  const toggle = (status) => {
    if (!statuses.delete(status)) statuses.add(status);
    choose({ status: [...statuses].join(",") });
  };
  const totals = new Map();
  data.status.forEach((status) => totals.set(data.statuses[status], (totals.get(data.statuses[status]) ?? 0) + 1));
  const sides = comparable(run, stage);
  const typed = (name) => (event) => choose({ [name]: event.target.value });
  return html`<form class="filters" role="search" aria-label="Filter attempts" @submit=${(event) => event.preventDefault()}>
    <span class="chips" role="group" aria-label="Status">
      ${verdicts(data).filter((status) => totals.has(status)).map(
        (status) => html`<button type="button" class="chip ${status}" data-status=${status} aria-pressed=${statuses.has(status) ? "true" : "false"}
          @click=${() => toggle(status)}>${statusName(status)} <span class="count">${figure(totals.get(status))}</span></button>`,
      )}
    </span>
    ${data.sets.length > 1 ? select("set", "set", [["", "all"], ...data.sets.map((set) => [set, set])], choice("set")) : nothing}
    ${data.methods.length > 1 ? select("method", "method", [...data.methods.map((method) => [method, method]), ["*", "all"]], choice("method") ?? data.methods[0]) : nothing}
    <label>answer <input id="answer" type="search" size="8" .value=${choice("answer") ?? ""} @input=${typed("answer")}></label>
    <label>tokens <input type="number" min="0" class="narrow" aria-label="least tokens" placeholder="from" .value=${choice("least") ?? ""} @input=${typed("least")}></label>
    <input type="number" min="0" class="narrow" aria-label="most tokens" placeholder="to" .value=${choice("most") ?? ""} @input=${typed("most")}>
    ${sides.length
      ? html`<label>beside <select id="other" @change=${(event) => choose({ other: event.target.value, show: null, other_method: null, other_sample: null })}>
          <option value="">nothing</option>
          ${sides.map(([key, text]) => html`<option value=${key} ?selected=${key === choice("other")}>${text}</option>`)}
        </select></label>`
      : nothing}
    ${other?.data?.methods?.length > 1
      ? select("other_method", "its method", [...other.data.methods.map((method) => [method, method]), ["*", "all"]], methodOf(other.data, choice("other_method") ?? choice("method")) ?? "*")
      : nothing}
    ${other ? html`${select("show", "show", Object.entries(SHOW), choice("show"))} <span class="faint small">right: at least half of all attempts</span>` : nothing}
  </form>`;
}

/** Evaluations that can stand beside this one: those of this run, and of other runs that were opened. */
function comparable(run, stage) {
  const found = [];
  for (const one of value("runs")?.runs ?? []) {
    for (const other of known(`run/${one.id}`)?.stages ?? []) {
      if (!other.has.includes(PART) || (String(one.id) === String(run) && other.name === stage)) continue;
      found.push([`${one.id}/${other.name}`, String(one.id) === String(run) ? other.name : `${one.name}: ${other.name}`]);
    }
  }
  return found;
}

/** What is shown: the listed questions and the chosen one. */
function shown(run) {
  const stage = stageHere(run, PART);
  const data = stage === null ? undefined : value(`${PART}/${run}/${stage}`);
  const other = otherSide();
  if (!data || data.error) return { stage, data, other, rows: [] };
  const rows = questions(data, other?.data?.problem ? other.data : null);
  const at = rowHere(rows);
  // Rows come in between while a run goes on: an attempt that was chosen is one at this question.
  if (rows.length && (choice("sample") ?? choice("other_sample")) !== undefined) settle("problem", rows[at].key);
  return { stage, data, other, rows, at };
}

export function attemptsPage(run) {
  const { stage, data, other, rows, at } = shown(run);
  if (stage === null) return html`<h1>Attempts</h1><p class="message">This run has no attempts yet: a stage of kind evaluate makes them.</p>`;
  const none = missing(data);
  const tabs = stageTabs(run, "attempts", PART, stage);
  if (none) return html`<h1>Attempts of <bdi>${stage}</bdi></h1>${tabs}${none}`;
  const beside = other?.data?.problem ? other.data : null;
  const row = rows[at];
  const shade = choice("shade") === "1";
  return html`<div class="title"><h1>Attempts of <bdi>${stage}</bdi></h1>${tabs}</div>
    ${filterBar(run, stage, data, other)}
    ${notes(data)}
    ${other?.data?.error ? html`<p class="message">${other.data.error}</p>` : nothing}
    <div class="split">
      <div class="aside">
        ${finder(`${plural(rows.length, "question")}, ${plural(rows.reduce((sum, one) => sum + one.places.length, 0), "attempt")}`)}
        ${list({
          id: "questions",
          label: "Questions",
          rows: rows.length,
          height: beside ? 64 : 48,
          selected: rows.length ? at : -1,
          row: (i) => questionRow(rows[i], data, beside),
          pick: (i) => choose({ problem: rows[i].key, sample: null, other_sample: null }),
        })}
      </div>
      <div class="main">
        ${row
          ? html`<section class="question" aria-label="Question">
                <p class="faint small"><bdi>${clip(row.problem.id, 80)}</bdi>${row.problem.set ? html` · <bdi>${row.problem.set}</bdi>` : nothing}</p>
                ${asked(row.problem.question, `question/${run}/${row.key}`)}
                <p>gold answer <strong class="gold"><bdi>${clip(row.problem.gold, 200) || "–"}</bdi></strong></p>
              </section>
              <div class="toolbar">
                <button aria-pressed=${shade ? "true" : "false"} @click=${shadeOrNot}>Shade by probability</button>
                ${shade ? shadeLegend() : nothing}
              </div>
              <div class="sides ${beside ? "two" : ""}">
                ${side(data, `${PART}/${run}/${stage}`, stage, row.places, choice("sample"), (sample) => choose({ sample }), beside ? "A" : "")}
                ${beside
                  ? side(beside, `${PART}/${other.run}/${other.stage}`, other.stage, row.others, choice("other_sample"), (other_sample) => choose({ other_sample }), "B")
                  : nothing}
              </div>`
          : html`<p class="message">${beside && !common(data, beside).size ? "These two have no question in common." : "No attempt passes these filters."}</p>`}
      </div>
    </div>`;
}

const shadeOrNot = () => choose({ shade: choice("shade") === "1" ? null : 1 });

/** Keys of this page: [keys, what they do, action]. */
export function attemptsKeys(run) {
  const move = (by) => () => {
    const { rows, at } = shown(run);
    if (rows.length) choose({ problem: rows[within(at + by, rows.length)].key, sample: null, other_sample: null });
  };
  const step = (name, side) => (by) => () => {
    const { rows, at, data, other } = shown(run);
    const places = rows[at]?.[side];
    if (!places?.length) return;
    const from = side === "places" ? data : other.data;
    choose({ [name]: nameOf(from, places[within(attemptHere(from, places, choice(name)) + by, places.length)]) });
  };
  const [own, others] = [step("sample", "places"), step("other_sample", "others")];
  const beside = () => {
    const sides = comparable(run, stageHere(run, PART)).map(([key]) => key);
    const next = sides[sides.indexOf(choice("other") ?? "") + 1] ?? null;
    choose({ other: next, show: null, other_method: null, other_sample: null });
  };
  const only = () => {
    const kinds = Object.keys(SHOW);
    if (choice("other")) choose({ show: kinds[(kinds.indexOf(choice("show") ?? "") + 1) % kinds.length] });
  };
  const filter = (status) => () => choose({ status: choice("status") === status ? null : status });
  return [
    ["ArrowDown j", "next question", move(1)],
    ["ArrowUp k", "question before", move(-1)],
    ["ArrowRight l", "next attempt (of A)", own(1)],
    ["ArrowLeft h", "attempt before (of A)", own(-1)],
    ["Shift+ArrowRight L", "next attempt of B", others(1)],
    ["Shift+ArrowLeft H", "attempt before of B", others(-1)],
    ["p", "shade tokens by probability", shadeOrNot],
    [".", "next token of a shaded text (of A)", () => stepToken(1)],
    [",", "token before", () => stepToken(-1)],
    ["b", "put the next evaluation beside, or none", beside],
    ["e", "questions that A and B answer differently, or alike", only],
    ["c", "correct attempts only", filter("correct")],
    ["w", "wrong attempts only", filter("wrong")],
    ["/", "find a question", () => document.getElementById("find")?.focus()],
    ["x", "search an answer", () => document.getElementById("answer")?.focus()],
  ];
}
