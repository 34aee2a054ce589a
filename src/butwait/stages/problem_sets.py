"""The recipe's problem sets, loaded and kept disjoint by text."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from butwait.problems.overlap import SAME_QUESTION, HeldOut, disjoint, normalised
from butwait.problems.sources import load_problems
from butwait.recipe.recipe import Recipe
from butwait.records import Problem, UserError
from butwait.running.files import atomic_path
from butwait.running.identity import content, fingerprint
from butwait.running.json_lines import dump_rows, read_rows


@dataclass(frozen=True)
class LoadedSet:
    """Attributes:
    problems: what is left after the overlap with other sets was dropped.
    dropped: how many were dropped because an earlier set has the question, by how it was found.
    fingerprint: of the problems' content, wherever they came from.
    """

    problems: list[Problem]
    dropped: Counter[str]
    fingerprint: str

    @classmethod
    def of(cls, problems: list[Problem]) -> "LoadedSet":
        """Problems of which none was dropped."""
        return cls(problems, Counter(), _fingerprint(problems))

    def describe(self) -> dict[str, int | str]:
        """For stage.json."""
        return {
            "problems": len(self.problems),
            "dropped_as_overlap": self.dropped.total(),
            "fingerprint": self.fingerprint,
        }


def load_problem_sets(
    recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> dict[str, LoadedSet]:
    """Loads the sets that stages use, makes them disjoint, and keeps a copy of each.

    Evaluation sets keep every question; sets that choose checkpoints lose what evaluation has, and
    sets that are searched or trained on lose what either has, and what an earlier one of them has.
    A question that shares long stretches of words with one that is held out counts as the same. A
    set that only profiles look at stays whole. In all sets that are searched or trained on, whose
    solutions may be pooled, an id names one question.

    Args:
        recipe: whose sets.
        folder: ``<set>.jsonl`` is written here: what the run used, whatever becomes of the source.
        say: told of dropped questions.

    Raises:
        UserError: a set cannot be loaded, or nothing is left of it.
    """
    tests = list(recipe.sets_for("test"))
    held_out = [*tests, *recipe.sets_for("selection")]
    ranked = list(dict.fromkeys([*held_out, *recipe.sets_for("training")]))
    loaded = {name: load_problems(recipe.problems[name]) for name in ranked}
    kept, dropped = disjoint(
        loaded,
        held_out=held_out,
        complete=tests,
        whole_only=[name for name in ranked if recipe.problems[name].overlap_rule == "whole"],
    )
    whole = [name for name in recipe.sets_for("none") if name not in loaded]
    kept |= {name: load_problems(recipe.problems[name]) for name in whole}
    dropped |= {name: Counter() for name in whole}
    lost = {
        name: _left_out(name, loaded, kept[name], held_out, dropped[name])
        for name in ranked
        if dropped[name]
    }
    taken: set[str] = set()
    for name in recipe.sets_for("training"):
        ids = {problem.id for problem in kept[name]}
        if taken & ids:  # Never the same questions: those were dropped.
            say(f"  {name}: other questions have the same ids, so its own begin with {name}/")
            kept[name] = [replace(p, id=f"{name}/{p.id}") for p in kept[name]]
        taken |= ids
    for name in kept:
        if name in lost and kept[name]:
            say(f"  {name}: {lost[name]}")
        if not kept[name]:
            why = f": {lost[name]}" if name in lost else ""
            raise UserError(
                f"the problem set {name!r} is empty{why}; give it another source, split or limit"
            )
        keep_problem_set(folder / f"{name}.jsonl", kept[name])
    return {
        name: LoadedSet(
            kept[name],
            dropped[name],
            _fingerprint(kept[name]),
        )
        for name in kept
    }


def _left_out(
    name: str,
    loaded: Mapping[str, Sequence[Problem]],
    kept: Sequence[Problem],
    held_out: Sequence[str],
    dropped: Counter[str],
) -> str:
    """How many questions a set lost: those that stand in another set, and which, and those that
    share long stretches of words with questions of another, and what keeps these."""
    left = {id(problem) for problem in kept}
    lost = [problem.question for problem in loaded[name] if id(problem) not in left]
    before = list(loaded)[: list(loaded).index(name)]
    texts = {other: {normalised(p.question) for p in loaded[other]} for other in before}
    same = {question for question in lost if any(normalised(question) in t for t in texts.values())}
    parts, keeps = [], ""
    if count := dropped[SAME_QUESTION]:
        sets = [other for other in before if any(normalised(q) in texts[other] for q in same)]
        parts.append(f"{count} because {_they(count, 'stand')} in {', '.join(sets)} too")
    if count := dropped.total() - dropped[SAME_QUESTION]:
        held = {other: HeldOut(p.question for p in loaded[other]) for other in held_out}
        alike = [question for question in lost if question not in same]
        sets = [other for other in held if any(map(held[other].match, alike))]
        parts.append(
            f"{count} because {_they(count, 'share')} long stretches of words with questions of "
            f"{', '.join(sets)}"
        )
        keeps = f" (`problems.{name}.overlap: whole` keeps {'that' if count == 1 else 'those'})"
    told = f"{dropped.total()} of {len(loaded[name])} questions are left out"
    return f"{told}, {' and '.join(parts)}{keeps}"


def _they(count: int, verb: str) -> str:
    return f"it {verb}s" if count == 1 else f"they {verb}"


def stored_problem_sets(folder: Path) -> dict[str, LoadedSet]:
    """The sets that ``load_problem_sets`` kept in a folder."""
    return {file.stem: stored_problem_set(file) for file in sorted(folder.glob("*.jsonl"))}


def stored_problem_set(file: Path) -> LoadedSet:
    """One of them."""
    problems = [Problem(**row) for row in read_rows(file)]
    return LoadedSet.of(problems)


def _fingerprint(problems: list[Problem]) -> str:
    # The source is a place. Rows are hashed as text: metadata may hold NaN.
    rows = dump_rows(problem.row() | {"source": ""} for problem in problems)
    judges = {p.verifier: content(p.verifier) for p in problems if p.verifier is not None}
    return fingerprint([rows, judges] if judges else rows)


def keep_problem_set(target: Path, problems: list[Problem]) -> None:
    """Writes what ``stored_problem_set`` reads."""
    with atomic_path(target) as path:
        path.write_text(dump_rows(problem.row() for problem in problems), encoding="utf-8")
