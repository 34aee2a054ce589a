"""What builders give, looked at before anything is made of it: a builder may be anyone's own."""

import json
from collections.abc import Container
from typing import Any

import numpy as np

from butwait.records import Example, Span
from butwait.running.plugins import wrong
from butwait.synthesis.builder import BuildCounts, Built


def checked_build(kind: str, built: Any, problems: Container[str]) -> Built:
    """What ``build`` gave, as it is.

    Args:
        kind: of the builder.
        built: what it gave.
        problems: the ids that examples may be of.

    Raises UserError for what is no data set.
    """
    call = "its build"
    if not isinstance(built, Built) or not isinstance(built.counts, BuildCounts):
        raise wrong(kind, call, built, "a Built of Examples and BuildCounts")
    if not isinstance(built.examples, list | tuple):
        raise wrong(kind, call, built.examples, "a list of Examples")
    counts = built.counts
    if not _are_whole(counts):
        raise wrong(kind, call, counts, "BuildCounts of whole numbers")
    for example in built.examples:
        meant = _lacks(example, problems)
        if meant is not None:
            raise wrong(kind, call, example, f"Examples: {meant}")
    return built


def checked_preparation(kind: str, found: Any) -> tuple[Any, dict[str, int]]:
    """What ``prepare`` gave, as it is. Raises UserError for what is no such pair."""
    cost = found[1] if isinstance(found, tuple) and len(found) == 2 else None
    if not isinstance(cost, dict) or not all(map(_is_count, cost.values())):
        raise wrong(kind, "its prepare", found, "a pair: anything, and counts of tokens by name")
    return found[0], cost


def _lacks(example: Any, problems: Container[str]) -> str | None:
    """What an example should be and is not."""
    if not isinstance(example, Example):
        return "one is of another type"
    ids = (example.prompt_ids, example.completion_ids)
    if not all(isinstance(i, np.ndarray) and i.ndim == 1 and i.dtype.kind in "iu" for i in ids):
        return "prompt_ids and completion_ids are token ids, int32 (n,)"
    mask, n = example.loss_mask, len(example.completion_ids)
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (n,):
        return "loss_mask is bool (n,), one a token of the completion"
    if not isinstance(example.problem_id, str) or example.problem_id not in problems:
        return "problem_id is that of a problem"
    if not isinstance(example.spans, list | tuple) or not all(
        _is_span(s, n) for s in example.spans
    ):
        return "spans are Spans inside of the completion"
    if not isinstance(example.text, str) or not isinstance(example.tokenizer_fingerprint, str):
        return "text and tokenizer_fingerprint are texts"
    if not isinstance(example.prompt, list) or not all(map(_is_message, example.prompt)):
        return "prompt is a list of messages with role and content"
    try:
        json.dumps(example.provenance, sort_keys=True)
        written = isinstance(example.provenance, dict)
    except (TypeError, ValueError, RecursionError):
        written = False
    return None if written else "provenance is a mapping that JSON can hold"


def _are_whole(counts: BuildCounts) -> bool:
    names = ("trees", "questions_searched", "correct", "duplicates_dropped", "outside_subset")
    lengths, facts = counts.candidate_lengths, counts.facts
    if not isinstance(lengths, list) or not isinstance(facts, dict):
        return False
    return all(map(_is_count, (*(getattr(counts, n) for n in names), *lengths, *facts.values())))


def _is_count(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _is_span(span: Any, tokens: int) -> bool:
    return (
        isinstance(span, Span)
        and isinstance(span.role, str)
        and isinstance(span.text, str)
        and _is_count(span.start)
        and _is_count(span.end)
        and 0 <= span.start <= span.end <= tokens
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )
