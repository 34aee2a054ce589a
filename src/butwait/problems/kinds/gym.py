"""Rows of a reasoning-gym task (Stojanovski et al. 2025, arXiv:2505.24760). Its own scorer judges
the answers (``problems.verifying``): in many tasks several are right, or a copy of the gold is not.

reasoning-gym seeds item i with ``seed + i``: two sets whose ranges [seed, seed + size) overlap
share questions. ``overlap.disjoint`` is the guard against that.
"""

import json
from typing import Any

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.json_lines import Row

_PREFIX = "gym:"


def generate_rows(asked: Asked) -> list[Row]:
    """``params["size"]`` items of the task ``gym:NAME``: question, answer and the item's metadata.

    Raises UserError where reasoning-gym is not installed, and for an unknown task or parameter.
    """
    name, params = asked.source.removeprefix(_PREFIX), {"seed": 0} | asked.params
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise UserError(
            f"gym:{name} needs the package reasoning-gym; run: pip install 'butwait[gym]'"
        ) from error
    if name not in DATASETS:
        raise UserError(f"reasoning-gym has no task {name!r}; see reasoning_gym.factory.DATASETS")
    try:
        dataset = create_dataset(name, **params)
        items = list(dataset)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"gym:{name} refuses the parameters {params}: {error}") from error
    made = params | {"seed": dataset.seed, "size": dataset.size}  # drawn where it is not given
    return [
        {
            **item["metadata"],
            "question": item["question"],
            "answer": item["answer"],
            "gym": {
                "params": made,
                "item": number,
                "answer": item["answer"],
                "metadata": _kept(item["metadata"]),
            },
        }
        for number, item in enumerate(items)
    ]


def _kept(metadata: Any) -> Any:
    """The metadata as JSON holds them; None where it cannot. Some tasks make other items of the
    same seed in another process, and then the scorer is given these."""
    try:
        return json.loads(json.dumps(metadata, default=str))
    except (TypeError, ValueError):
        return None


GYM = Source(
    matches=lambda source: source.startswith(_PREFIX),
    load=generate_rows,
    takes=COLUMNS | {"params"},
    generated=True,
    verifier=lambda source: source,
    keeps=("gym",),
)
