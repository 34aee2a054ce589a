"""An evaluation as others take it: inspect's ``precomputed_scores``, the hub's eval results."""

from collections.abc import Iterable, Iterator
from typing import Any

from butwait.records import Attempt

VALUE = {"correct": "C", "wrong": "I", "no_answer": "I", "truncated": "I"}
"""inspect's marks; an attempt that could not be graded is left out, and stays unscored there."""


def precomputed_scores(attempts: Iterable[Attempt]) -> Iterator[dict[str, Any]]:
    """A record an attempt for ``precomputed_scores`` of inspect (0.3.285): the sample's id, its
    epoch (from 1), the value, the answer and why."""
    for attempt in attempts:
        if attempt.status in VALUE:
            yield {
                "id": attempt.problem_id,
                "epoch": attempt.sample + 1,
                "value": VALUE[attempt.status],
                "answer": attempt.answer,
                "explanation": attempt.status,
            }


def eval_results(
    figures: dict[str, Any], dataset: str, task: str, date: str, notes: str
) -> list[dict[str, Any]]:
    """The rate in percent as an entry of ``.eval_results/NAME.yaml`` of a model's repository on the
    Hugging Face hub.

    Args:
        figures: of the evaluation.
        dataset, task: ids of the benchmark.
        date: year-month-day of the evaluation.
        notes: how it was made.
    """
    low, high = (round(100 * end, 2) for end in figures["interval"])
    told = f"mean of {figures['k']} attempts at {figures['n']} questions, 95% CI [{low}, {high}]"
    return [
        {
            "dataset": {"id": dataset, "task_id": task},
            "value": round(100 * figures["pass_at_1"], 4),
            "date": date,
            "notes": f"{told}; {notes}" if notes else told,
        }
    ]
