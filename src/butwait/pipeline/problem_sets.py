"""The recipe's problem sets, loaded and kept disjoint by text."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from butwait.problems.overlap import disjoint
from butwait.problems.sources import load_problems
from butwait.recipe.recipe import Recipe
from butwait.records import Problem, UserError
from butwait.running.files import atomic_path
from butwait.running.stages import fingerprint


@dataclass(frozen=True)
class LoadedSet:
    """Attributes:
    problems: what is left after the overlap with other sets was dropped.
    dropped: how many were dropped because an earlier set has the same question.
    fingerprint: of the problems' content.
    """

    problems: list[Problem]
    dropped: int
    fingerprint: str

    def describe(self) -> dict[str, int | str]:
        """For stage.json."""
        return {
            "problems": len(self.problems),
            "dropped_as_overlap": self.dropped,
            "fingerprint": self.fingerprint,
        }


def load_problem_sets(
    recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> dict[str, LoadedSet]:
    """Loads the sets that stages use, makes them disjoint, and keeps a copy of each.

    Evaluation sets keep every question; search sets lose what evaluation has, and training
    sets for the reward model lose what either has.

    Args:
        recipe: whose sets.
        folder: ``<set>.jsonl`` is written here: what the run used, whatever becomes of the source.
        say: told of dropped questions.

    Raises:
        UserError: a set cannot be loaded, or nothing is left of it.
    """
    ranked = list(dict.fromkeys([*recipe.sets_of("evaluate"), *recipe.sets_of("search", "prm")]))
    loaded = {name: load_problems(recipe.problems[name]) for name in ranked}
    kept, dropped = disjoint(loaded)
    for name in ranked:
        if dropped[name]:
            say(
                f"  {name}: {dropped[name]} of {len(loaded[name])} questions stand in another set "
                "and are left out"
            )
        if not kept[name]:
            raise UserError(
                f"the problem set {name!r} is empty"
                + (" once overlapping questions are left out" if dropped[name] else "")
                + "; give it another source, split or limit"
            )
        _write(folder / f"{name}.jsonl", kept[name])
    return {
        name: LoadedSet(
            kept[name],
            dropped[name],
            fingerprint([[p.id, p.question, p.answer, p.answer_kind] for p in kept[name]]),
        )
        for name in ranked
    }


def _write(target: Path, problems: list[Problem]) -> None:
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps(asdict(problem), ensure_ascii=False) + "\n")
