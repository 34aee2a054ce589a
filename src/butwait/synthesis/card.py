"""The data card: what is in a data set and where it came from.

``statistics.json`` holds the numbers for programs, ``card.md`` the same for people.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from butwait.records import UserError
from butwait.running.files import atomic_path, write_json
from butwait.synthesis.built import Built

_BINS = 40

Supervision = Literal["self", "external reward", "external traces"]
"""Where the signal came from: the model's own rollouts and the gold answers; a reward model
trained on other data; solutions written by others."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a data set came from, in words for its card.

    Attributes:
        stage: the stage that built it.
        builder: the kind of builder ("verified", ...).
        settings: the builder's settings, as in the recipe.
        sources: the problem sets whose questions were searched.
        model: the model that searched.
        recipe: the recipe's name.
        seed: the run's seed.
        tokenizer_fingerprint: of the tokenizer that made the ids.
        supervision: where the signal came from.
    """

    stage: str
    builder: str
    settings: dict[str, Any]
    sources: Sequence[str]
    model: str
    recipe: str
    seed: int
    tokenizer_fingerprint: str
    supervision: Supervision = "self"


def statistics(built: Built) -> dict[str, Any]:
    """The numbers of a data set. Lengths are completion tokens, EOS included.

    ``length`` describes the examples and ``length_of_candidates`` what the choice rule chose
    from: where they differ, the rule teaches a length. ``lengths`` is a histogram of the
    examples' lengths with at most 40 bins: bin i holds the lengths in [edges[i], edges[i+1]),
    the last bin its right edge too.
    """
    examples, counts = built.examples, built.counts
    if not examples:
        raise UserError(
            f"no solution of the {counts.questions_searched} questions searched was verified, so "
            "there is nothing to train on; search more questions or with more particles"
        )
    lengths = np.array([len(example.completion_ids) for example in examples])
    per_question = Counter(example.problem_id for example in examples)
    solutions = Counter(per_question.values())
    return {
        "examples": len(examples),
        "questions": len(per_question),
        "questions_searched": counts.questions_searched,
        "trees": counts.trees,
        "correct_paths": counts.correct,
        "duplicates_dropped": counts.duplicates_dropped,
        "not_chosen": len(counts.candidate_lengths) - len(examples),
        "solutions_per_question": {str(n): solutions[n] for n in sorted(solutions)},
        "tokens": int(lengths.sum()),
        "prompt_tokens": sum(len(example.prompt_ids) for example in examples),
        "loss_tokens": sum(int(example.loss_mask.sum()) for example in examples),
        "length": _summary(lengths),
        "length_of_candidates": _summary(np.array(counts.candidate_lengths)),
        "lengths": _histogram(lengths),
    }


def write_card(folder: Path, built: Built, origin: Origin) -> dict[str, Any]:
    """Writes ``statistics.json`` and ``card.md`` into ``folder`` and returns the statistics.

    Raises UserError for a data set without examples.
    """
    numbers = statistics(built)
    write_json(folder / "statistics.json", numbers)
    with atomic_path(folder / "card.md") as path:
        path.write_text(_card(numbers, origin), encoding="utf-8")
    return numbers


def _summary(lengths: np.ndarray) -> dict[str, float]:
    low, q25, median, q75, high = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).tolist()
    mean = float(lengths.mean())
    return {"min": low, "q25": q25, "median": median, "q75": q75, "max": high, "mean": mean}


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // _BINS)  # whole tokens, rounded up
    edges = np.arange(low, high + width + 1, width)
    return {"edges": edges.tolist(), "counts": np.histogram(lengths, edges)[0].tolist()}


def _card(numbers: dict[str, Any], origin: Origin) -> str:
    questions, searched = numbers["questions"], numbers["questions_searched"]
    covered = f"{questions} of {searched} searched ({questions / searched:.1%})"
    spread = ", ".join(f"{n}: {many}" for n, many in numbers["solutions_per_question"].items())
    options = ", ".join(f"`{name}: {value}`" for name, value in origin.settings.items())
    return f"""# {origin.stage}

Training examples made by the builder `{origin.builder}` ({options or "no options"}).

| | |
|---|---|
| examples | {numbers["examples"]} |
| questions covered | {covered} |
| questions by number of solutions | {spread} |
| correct paths found | {numbers["correct_paths"]} in {numbers["trees"]} trees |
| duplicates dropped | {numbers["duplicates_dropped"]} |
| correct but not chosen | {numbers["not_chosen"]} |
| completion tokens | {numbers["tokens"]} ({numbers["loss_tokens"]} with loss) |
| prompt tokens | {numbers["prompt_tokens"]} |

Length in tokens, EOS included:

| | min | 25 % | median | 75 % | max | mean |
|---|---|---|---|---|---|---|
| examples | {_cells(numbers["length"])} |
| all unique correct solutions | {_cells(numbers["length_of_candidates"])} |

| | |
|---|---|
| supervision | {origin.supervision} |
| questions from | {", ".join(origin.sources)} |
| model that searched | {origin.model} |
| recipe | {origin.recipe} |
| seed | {origin.seed} |
| tokenizer fingerprint | `{origin.tokenizer_fingerprint}` |

`datasets.load_from_disk("dataset")` reads the rows. `provenance` names the tree and the nodes
of each.
"""


def _cells(summary: dict[str, float]) -> str:
    return " | ".join(f"{round(value, 1):g}" for value in summary.values())
