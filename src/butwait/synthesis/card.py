"""The data card: what is in a data set and where it came from.

``statistics.json`` holds the numbers for programs, ``card.md`` the same for people.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from butwait.records import Example, UserError
from butwait.running.files import atomic_path, write_json
from butwait.synthesis.branches import possible_share
from butwait.synthesis.builder import BuildCounts, Built

_BINS = 40


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
        supervision: where the signal came from (``report.lineage.supervision_of``).
        licences: of the problem sets that state one, by name.
        overlap: questions left out of these sets because another set, as a rule one of an
            evaluation, has them, by how they were found.
    """

    stage: str
    builder: str
    settings: dict[str, Any]
    sources: Sequence[str]
    model: str
    recipe: str
    seed: int
    tokenizer_fingerprint: str
    supervision: str = "self"
    licences: Mapping[str, str] = field(default_factory=dict)
    overlap: Mapping[str, int] = field(default_factory=dict)


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
            f"of {counts.questions_searched} questions with {counts.correct} correct solutions "
            f"no example was left{_reasons(counts)}; search more questions or with more "
            "particles, or ask for less in the stage's settings"
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
        "outside_subset": counts.outside_subset,
        "facts": dict(sorted(counts.facts.items())),
        "tokens": int(lengths.sum()),
        "prompt_tokens": sum(len(example.prompt_ids) for example in examples),
        "loss_tokens": sum(int(example.loss_mask.sum()) for example in examples),
        "tokens_by_role": _by_role(examples),
        "detours": _detours(examples),
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
        card = _TEMPLATES.get_template("card.md.jinja").render(numbers=numbers, origin=origin)
        path.write_text(card, encoding="utf-8")
    return numbers


def _reasons(counts: BuildCounts) -> str:
    """What the builder left out, for a message."""
    facts = {name: n for name, n in sorted(counts.facts.items()) if n}
    if counts.outside_subset:
        facts["questions outside of the subset"] = counts.outside_subset
    return f" ({', '.join(f'{name}: {n}' for name, n in facts.items())})" if facts else ""


def _by_role(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Tokens of each kind of span, and how many of them carry loss."""
    tokens: dict[str, dict[str, int]] = {}
    for example in examples:
        for span in example.spans:
            own = tokens.setdefault(span.role, {"tokens": 0, "loss_tokens": 0})
            own["tokens"] += span.end - span.start
            own["loss_tokens"] += int(example.loss_mask[span.start : span.end].sum())
    return tokens


def _detours(examples: Sequence[Example]) -> dict[str, int]:
    """Number and steps of the examples' detours, how many of them have which evidence, and the
    fewest completions (``tries``) that one was confirmed by."""
    found = [d for example in examples for d in example.provenance.get("detours", ())]
    if not found:
        return {}
    steps = sum(detour["depth"] for detour in found)
    tries = [d["completions"] for d in found if d["evidence"] == "completions"]
    evidence = Counter(d["evidence"] for d in found)
    fewest = {"tries": min(tries)} if tries else {}
    return {"number": len(found), "steps": steps} | evidence | fewest


def _summary(lengths: np.ndarray) -> dict[str, float]:
    low, q25, median, q75, high = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).tolist()
    mean = float(lengths.mean())
    return {"min": low, "q25": q25, "median": median, "q75": q75, "max": high, "mean": mean}


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // _BINS)  # whole tokens, rounded up
    edges = np.arange(low, high + width + 1, width)
    return {"edges": edges.tolist(), "counts": np.histogram(lengths, edges)[0].tolist()}


def _shown(value: Any) -> str:
    """A setting's value on one line."""
    plain = isinstance(value, str) and value.isprintable()
    return value if plain else json.dumps(value)


def _listed(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in named.items())


def _cells(summary: dict[str, float]) -> str:
    return " | ".join(f"{round(value, 1):g}" for value in summary.values())


_TEMPLATES = Environment(
    loader=PackageLoader("butwait.synthesis", "."),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "shown": _shown,
    "listed": _listed,
    "cells": _cells,
    "percent": "{:.1%}".format,
    "possible_share": possible_share,
}
