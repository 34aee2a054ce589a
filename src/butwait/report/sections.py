"""The sections of the page, in order. Each is data for the template of its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from butwait.report import formats, tables
from butwait.report.collect import (
    Evaluation,
    Record,
    by_name,
    first_seeds,
    lengths,
    of_kind,
    read_json,
    training_log,
)
from butwait.report.diagnostics import auc_by_depth, ess_curve, reliability, training_curves
from butwait.report.figures import (
    LengthRow,
    accuracy_against_tokens,
    histogram_row,
    length_row,
    solution_lengths,
)
from butwait.report.formats import finite
from butwait.report.lineage import POLICY_KINDS, ancestry, describe_model, supervision
from butwait.report.profiles import habit_places, length_histograms
from butwait.report.published import Published, published, sources
from butwait.report.ranking import Ranking, ranking_tables
from butwait.report.reinforcement.runs import RL_KINDS, Training, read_trainings
from butwait.report.reinforcement.section import section as reinforcement
from butwait.report.samples import read_questions, side_by_side
from butwait.report.searches import ess_shares, example_tree, final_ancestry, load_trees
from butwait.report.svg import series_variable
from butwait.report.tree_drawing import lay_out
from butwait.report.verdict import Verdict

DATA_KINDS = frozenset({"verified", "stitch", "backtrack", "but_wait", "external"})
KNOWN_KINDS = POLICY_KINDS | DATA_KINDS | {"evaluate", "prm", "search", "profile", "report"}

_AUDITED = frozenset({"verdict", "within_question_auc", "auc", "ece"})


@dataclass(frozen=True)
class Material:
    """What the sections are made of: the arguments of ``write_report`` and what follows."""

    run: Path
    stages: Sequence[Record]
    rows: Sequence[Evaluation]
    comparisons: Sequence[dict[str, Any]]
    verdict: Verdict
    rankings: Sequence[Ranking] = ()

    @cached_property
    def records(self) -> dict[str, Record]:
        return by_name(self.stages, self.rows)

    @cached_property
    def colours(self) -> dict[str, int]:
        """evaluate stage -> index of its series colour, the same all over the page."""
        return {stage: i for i, stage in enumerate(dict.fromkeys(r.stage for r in self.rows))}

    @cached_property
    def supervision(self) -> dict[str, str]:
        """evaluation's key -> where the signal behind it came from."""
        return {row.key: supervision(row, self.records) for row in self.rows}

    @cached_property
    def published(self) -> Published:
        """Figures of others, by the evaluation's key."""
        return published(self.stages)

    @cached_property
    def trainings(self) -> list[Training]:
        """The stages of reinforcement learning."""
        return read_trainings(self.run, self.stages)

    @cached_property
    def plain_rows(self) -> list[Evaluation]:
        """Of each evaluate stage on the headline's set: plain sampling, or its cheapest method."""
        chosen = self.verdict.comparison
        problem_set = chosen["b"].split("/")[1] if chosen else self.rows[0].set if self.rows else ""
        members = [row for row in self.rows if row.set == problem_set]
        return [
            min(
                (row for row in members if row.stage == stage),
                key=lambda row: (not row.plain, row.attempt_tokens),
            )
            for stage in dict.fromkeys(row.stage for row in members)
        ]


@dataclass(frozen=True)
class Section:
    """``template`` renders ``data``; ``id`` is its anchor."""

    id: str
    title: str
    template: str
    data: Any


def build(material: Material) -> list[Section]:
    """The sections that this run has something for, in the order of the page."""
    candidates = [
        ("ranking", "Arms, ranked", ranking_tables(material.rankings, material.colours)),
        ("evaluations", "Evaluations", _evaluations(material)),
        ("lengths", "Solution lengths", _lengths(material)),
        ("profiles", "Profiles", _profiles(material)),
        ("reward-model", "Reward model", _reward_models(material)),
        ("search", "Search", _searches(material)),
        ("samples", "Attempts side by side", _samples(material)),
        (
            "reinforcement",
            "Reinforcement learning",
            reinforcement(material.trainings, material.stages, material.colours),
        ),
        ("training", "Training", _training(material)),
        ("stages", "Data and other stages", _others(material)),
        ("cost", "Cost", _cost(material)),
        ("provenance", "Provenance", _provenance(material)),
    ]
    return [Section(name, title, f"{name}.html", data) for name, title, data in candidates if data]


def _evaluations(material: Material) -> dict[str, Any] | None:
    if not material.rows:
        return None
    return {
        "models": [
            {
                "name": stage,
                "colour": series_variable(colour),
                "model": describe_model(stage, material.records),
                "ancestry": ancestry(stage, material.records),
            }
            for stage, colour in material.colours.items()
        ],
        "groups": tables.evaluation_groups(
            material.rows, material.colours, material.supervision, material.published
        ),
        "published": sources(material.rows, material.published),
        "comparisons": tables.comparison_rows(material.comparisons),
        "adjusted": any("p_holm" in comparison for comparison in material.comparisons),
        "figure": accuracy_against_tokens(material.rows, material.colours),
    }


def _lengths(material: Material) -> dict[str, Any] | None:
    """Data sets first, then the attempts of each model: the correct ones, which data sets hold
    only, and all."""
    groups: list[LengthRow | None] = []
    for stage in material.stages:
        if stage.get("kind") in DATA_KINDS:
            histogram = (read_json(material.run / stage["name"] / "statistics.json") or {}).get(
                "lengths"
            ) or {}
            groups.append(
                histogram_row(
                    f"data: {stage['name']}",
                    histogram.get("edges", ()),
                    histogram.get("counts", ()),
                    len(material.colours),
                )
            )
    for row in material.plain_rows:
        every, correct = lengths(material.run, row)
        colour = material.colours[row.stage]
        groups.append(length_row(f"{row.stage}, correct", correct, colour))
        groups.append(length_row(f"{row.stage}, all", every, colour))
    figure = solution_lengths([group for group in groups if group is not None])
    return {"figure": figure} if figure else None


def _profiles(material: Material) -> list[dict[str, Any]]:
    found = []
    for stage in of_kind(material.stages, "profile"):
        name = stage["name"]
        profile = read_json(material.run / name / "profile.json")
        if profile is not None:
            found.append(profile_section(name, profile))
    return found


def profile_section(name: str, profile: dict[str, Any]) -> dict[str, Any]:
    """One profile for its template; ``name`` keeps the figures' ids apart."""
    figures = _drawn(length_histograms(name, profile), habit_places(name, profile))
    return {"name": name, "sentences": profile["sentences"], "figures": figures}


def _reward_models(material: Material) -> list[dict[str, Any]]:
    found = []
    for stage in of_kind(material.stages, "prm"):
        audit = read_json(material.run / stage["name"] / "audit.json")
        if audit is None:
            continue
        name = stage["name"]
        found.append(
            {
                "name": name,
                "verdict": str(audit.get("verdict", "")),
                "facts": _audit_facts(audit),
                "figures": _drawn(reliability(name, audit), auc_by_depth(name, audit)),
            }
        )
    return found


def _audit_facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    def auc(name: str) -> str:
        bounds = audit.get(f"{name}_interval")
        value = formats.number(finite(audit.get(name)), 3)
        return f"{value} [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else value

    def count(name: str) -> str:
        return formats.count(finite(audit.get(name)))

    return [
        ("AUC within a question", auc("within_question_auc")),
        ("AUC over all prefixes", auc("auc")),
        ("calibration error", formats.number(finite(audit.get("ece")), 3)),
        ("completions that verify", formats.percent(finite(audit.get("base_rate")))),
        ("held-out questions", count("questions")),
        ("prefixes", count("prefixes")),
        ("completions", count("completions")),
    ]


def _searches(material: Material) -> list[dict[str, Any]]:
    found = []
    for stage in of_kind(material.stages, "search"):
        name, metrics = stage["name"], stage.get("metrics") or {}
        trees = load_trees(material.run, name)
        shown = example_tree(trees)
        if not metrics and not trees:
            continue
        problem_set = (stage.get("settings") or {}).get("problems")
        questions = read_questions(material.run, str(problem_set))
        found.append(
            {
                "name": name,
                "facts": _search_facts(metrics),
                "ancestry": final_ancestry(trees),
                "trees_read": len(trees),
                "figure": ess_curve(name, *ess_shares(trees)) if trees else None,
                "tree": lay_out(shown) if shown else None,
                "problem_id": shown.problem_id if shown else "",
                "question": questions.get(shown.problem_id, {}) if shown else {},
            }
        )
    return found


def _search_facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The search's own figures in words, then whatever else its stage recorded."""
    solved, problems = finite(metrics.get("solved")), finite(metrics.get("problems"))
    share = finite(metrics.get("solved_share"))
    bounds = formats.interval(metrics.get("interval"))
    facts = []
    if problems is not None:
        facts.append(
            (
                "questions solved",
                formats.typeset(
                    f"{formats.count(solved)} of {formats.count(problems)}, "
                    f"{formats.percent(share)} {bounds}".strip()
                ),
            )
        )
    if (ess := finite(metrics.get("mean_ess_share"))) is not None:
        facts.append(("mean ESS", f"{formats.percent(ess)} of the particles"))
    told = {"problems", "solved", "solved_share", "interval", "mean_ess_share"}
    rest = {name: value for name, value in metrics.items() if name not in told}
    return facts + tables.scalar_facts(rest)


def _samples(material: Material) -> Any:
    """The headline's two models by their plain method, side by side."""
    chosen = material.verdict.comparison
    by_key = {row.key: row for row in material.rows}
    if chosen is None:
        return None
    return side_by_side(material.run, by_key[chosen["a"]], by_key[chosen["b"]])


def _training(material: Material) -> list[dict[str, Any]]:
    """Every stage with a log, of an arm the first seed; what the audit says of a reward model, and
    reinforcement learning, stand in their own sections."""
    found = []
    for stage in first_seeds(material.stages):
        name, kind, metrics = stage["name"], stage.get("kind", ""), stage.get("metrics") or {}
        if kind in RL_KINDS:
            continue
        figure = training_curves(name, kind, training_log(material.run, name))
        facts = tables.scalar_facts({k: v for k, v in metrics.items() if k not in _AUDITED})
        if figure or (facts and kind in POLICY_KINDS):
            found.append({"name": name, "kind": kind, "figure": figure, "facts": facts})
    return found


def _others(material: Material) -> list[dict[str, Any]]:
    """Data sets, and stages of kinds that this page does not know: their plain figures."""
    found = []
    for stage in material.stages:
        facts = tables.scalar_facts(stage.get("metrics") or {})
        if facts and (stage.get("kind") in DATA_KINDS or stage.get("kind") not in KNOWN_KINDS):
            found.append({"name": stage["name"], "kind": stage.get("kind", ""), "facts": facts})
    return found


def _cost(material: Material) -> dict[str, Any] | None:
    if not material.stages:
        return None
    rows, total = tables.cost_rows(material.stages)
    return {"rows": rows, "total": total}


def _provenance(material: Material) -> list[dict[str, Any]]:
    return [
        {
            "name": stage["name"],
            "kind": stage.get("kind", ""),
            "fingerprint": str(stage.get("fingerprint", "")),
            "seed": stage.get("seed"),
            "versions": stage.get("versions") or {},
            "settings": stage.get("settings") or {},
        }
        for stage in material.stages
    ]


def _drawn(*figures: Any) -> list[Any]:
    return [figure for figure in figures if figure is not None]
