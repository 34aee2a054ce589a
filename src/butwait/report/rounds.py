"""The table of a loop's rounds: what each search solved, what its trees taught, and what its
training gained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from butwait.report.collect import Evaluation, arm_of, first_seeds
from butwait.report.formats import finite
from butwait.report.kinds import Record, Records, ReportedKinds
from butwait.report.lineage import policy_stage, upstream
from butwait.report.loops import Round, Rounds
from butwait.report.verdict import strength
from butwait.search.storage import read_outlines
from butwait.statistics.intervals import wilson


def rounds_of(
    run: Path,
    stages: Sequence[Record],
    rows: Sequence[Evaluation],
    comparisons: Iterable[Mapping[str, Any]],
    kinds: ReportedKinds,
) -> list[dict[str, Any]]:
    """Of every loop of a run, a table with a row a round (``docs/report.md`` names the keys).

    Of an arm with several seeds, the first one's searches and data are told, and the evaluations of
    all. ``stages`` are in recipe order, the rest is that of ``page.write_report``.
    """
    firsts = first_seeds(stages)
    records = {stage["name"]: stage for stage in firsts}
    evaluated: dict[str | None, list[Evaluation]] = {}
    for row in rows:
        trained = policy_stage((row.seeds or (row.stage,))[0], records, kinds)
        evaluated.setdefault(trained["name"] if trained else None, []).append(row)
    by_pair = {(c["a"], c["b"]): c for c in comparisons}
    files = _Files(run)
    found = []
    for line in Rounds(records, kinds).loops():
        points = [line[0].model, *(r.training for r in line if r.training)]
        chosen = _measure([evaluated.get(model, []) for model in points])
        before = _at(evaluated.get(line[0].model, []), chosen)
        found.append(
            {
                "loop": arm_of(records[points[-1]]) or points[-1],
                "set": chosen and chosen[0],
                "method": chosen and chosen[1],
                "before": _rate(before),
                "rounds": _told(line, records, evaluated, chosen, by_pair, files),
            }
        )
    return found


def _told(
    line: Sequence[Round],
    records: Records,
    evaluated: Mapping[str | None, Sequence[Evaluation]],
    chosen: tuple[str, str] | None,
    comparisons: Mapping[tuple[str, str], Mapping[str, Any]],
    files: "_Files",
) -> list[dict[str, Any]]:
    """A row a round."""
    solved_before, taught_before, spent = set[str](), set[tuple[str, str]](), set[str]()
    told = []
    for number, own in enumerate(line, start=1):
        asked, solved = files.questions(own.searches)
        examples = files.examples(own.data)
        ours = [key for key, stage, _ in examples if stage in own.searches]
        lengths = [length for _, stage, length in examples if stage in own.searches]
        stages = [s for s in upstream((own.training, *own.searches), records) if s not in spent]
        spent.update(stages)
        row = _at(evaluated.get(own.training, []), chosen) if own.training else None
        before = _at(evaluated.get(own.model, []), chosen)
        share = len(solved) / len(asked) if asked else None
        told.append(
            {
                "round": number,
                "model": own.model,
                "searches": list(own.searches),
                "questions": len(asked),
                "solved": len(solved),
                "solved_share": share,
                "interval": None if share is None else list(wilson(share, len(asked))),
                "first_solved": len(solved - solved_before),
                "training": own.training,
                "examples": len(examples),
                "examples_of_round": len(ours),
                "new_examples": len(set(ours) - taught_before),
                "mean_length": float(np.mean(lengths)) if lengths else None,
                "evaluation": _rate(row),
                "gain": _gain(before, row, comparisons),
                "policy_tokens": _sum(records[s].get("cost") or {} for s in stages),
                "stages": [name for name in records if name in stages],
            }
        )
        solved_before |= solved
        taught_before |= {key for key, _, _ in examples}
    return told


class _Files:
    """What the rounds need of the trees and the data sets, each read once."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._trees: dict[str, tuple[set[str], set[str]]] = {}
        self._data: dict[str, list[tuple[tuple[str, str], str, int]]] = {}

    def questions(self, searches: Iterable[str]) -> tuple[set[str], set[str]]:
        """Ids of the questions that were searched, and of those with a verified path."""
        asked, solved = set[str](), set[str]()
        for search in searches:
            if search not in self._trees:
                folder = self._run / search / "trees"
                trees = read_outlines(folder) if any(folder.glob("shard-*.parquet")) else ()
                found = [(tree.problem_id, "correct" in tree.grades) for tree in trees]
                self._trees[search] = {i for i, _ in found}, {i for i, right in found if right}
            asked |= self._trees[search][0]
            solved |= self._trees[search][1]
        return asked, solved

    def examples(self, data: Iterable[str]) -> list[tuple[tuple[str, str], str, int]]:
        """Of each example (question, text), the search that it was made of, and its tokens."""
        from butwait.synthesis.dataset import load_examples

        for name in data:
            folder = self._run / name / "dataset"
            if name not in self._data:
                self._data[name] = [
                    (
                        (example.problem_id, " ".join(example.text.split())),
                        str(example.provenance.get("stage", "")),
                        len(example.completion_ids),
                    )
                    for example in (load_examples(folder) if folder.is_dir() else ())
                ]
        return [example for name in data for example in self._data[name]]


def _measure(points: Sequence[Sequence[Evaluation]]) -> tuple[str, str] | None:
    """(set, method) that most of the loop's models were evaluated by: of these plain sampling, then
    the set with the most questions, then the first."""
    known: dict[tuple[str, str], list[Evaluation]] = {}
    for rows in points:
        for place in dict.fromkeys((row.set, row.method) for row in rows):
            known.setdefault(place, []).append(next(r for r in rows if place == (r.set, r.method)))

    def rank(place: tuple[str, str]) -> tuple[int, bool, float]:
        rows = known[place]
        return len(rows), rows[0].plain, rows[0].figure("n") or 0

    return max(known, key=rank, default=None)


def _at(rows: Iterable[Evaluation], place: tuple[str, str] | None) -> Evaluation | None:
    return next((row for row in rows if (row.set, row.method) == place), None)


def _rate(row: Evaluation | None) -> dict[str, Any] | None:
    if row is None:
        return None
    kept = ("pass_at_1", "interval", "n", "k")
    return {"key": row.key} | {name: row.metrics.get(name) for name in kept}


def _gain(
    before: Evaluation | None,
    after: Evaluation | None,
    comparisons: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The paired difference to the model that searched; None where there is no comparison."""
    if before is None or after is None:
        return None
    sign, found = 1, comparisons.get((before.key, after.key))
    if found is None:
        sign, found = -1, comparisons.get((after.key, before.key))
    if found is None or (delta := finite(found.get("delta"))) is None:
        return None
    bounds = [sign * bound for bound in found.get("interval") or ()]
    return {
        "delta": sign * delta,
        "interval": sorted(bounds),
        "p": found.get("p"),
        "p_holm": found.get("p_holm"),
        "told_apart": strength(found) != "none",
    }


def _sum(costs: Iterable[Mapping[str, Any]]) -> int:
    return int(sum(finite(cost.get("policy_tokens")) or 0 for cost in costs))
