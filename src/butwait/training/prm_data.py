"""Labels for a process reward model: what share of the completions through a prefix verify?

Math-Shepherd (Wang et al. 2023, arXiv:2312.08935) samples K completions from every step end. Here
the solutions' own outcomes label all their prefixes as well, which is the cheaper part of the
signal, and K completions are added at a few prefixes. All outcomes behind one prefix of one
question are pooled into its soft label (Math-Shepherd's "soft estimation").

A completion counts for the prefix it was sampled from and for those that it goes through itself,
but not for shorter ones: it started where a path was still unfinished, so for them it would be a
sample from the longer solutions only.

A truncated path counts as not verified: a search cannot use it either. An ungradable one is no
label, and is counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import Key, Status, UserError


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled path to its end.

    Attributes:
        problem_id: the question.
        prompt_ids: int32 (p,).
        token_ids: int32 (n,), the completion; where it was continued from another rollout's
            prefix, that prefix's tokens come first.
        step_ends: int32 (s,), tokens of the completion up to the end of each step; the last is n.
        shared_steps: steps it has in common with the rollout it was continued from; 0 for a
            solution.
        finish: why it ended (see ``records.tree.Finish``).
        status: the verdict on it.
        verified: int32 (s,), verified completions through each step end.
        completions: int32 (s,), gradable completions through each step end; 0: no label.
    """

    problem_id: str
    prompt_ids: np.ndarray
    token_ids: np.ndarray
    step_ends: np.ndarray
    shared_steps: int
    finish: str
    status: Status
    verified: np.ndarray
    completions: np.ndarray

    @property
    def sampled_tokens(self) -> int:
        """Tokens that were sampled for this rollout itself."""
        shared = self.step_ends[self.shared_steps - 1] if self.shared_steps else 0
        return len(self.token_ids) - int(shared)

    def prefix(self, step: int) -> bytes:
        """The tokens up to the end of step ``step``, as a key within the question."""
        return self.token_ids[: self.step_ends[step]].tobytes()


def pool_labels(rollouts: Sequence[Rollout]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(verified, completions), each int32 (s,), for every rollout of one question."""
    verified: dict[bytes, int] = defaultdict(int)
    completions: dict[bytes, int] = defaultdict(int)
    for rollout in rollouts:
        if rollout.status == "ungradable":
            continue
        for step in range(max(rollout.shared_steps - 1, 0), len(rollout.step_ends)):
            prefix = rollout.prefix(step)
            verified[prefix] += rollout.status == "correct"
            completions[prefix] += 1
    labels = []
    for rollout in rollouts:
        prefixes = [rollout.prefix(step) for step in range(len(rollout.step_ends))]
        labels.append(
            (
                np.array([verified[p] for p in prefixes], dtype=np.int32),
                np.array([completions[p] for p in prefixes], dtype=np.int32),
            )
        )
    return labels


def split_questions(
    rollouts: Sequence[Rollout], share: float, key: Key
) -> tuple[list[Rollout], list[Rollout]]:
    """(training, held out): a random ``share`` of the questions, at least one, is held out with
    all its rollouts. Raises UserError for fewer than two questions."""
    questions = list(dict.fromkeys(rollout.problem_id for rollout in rollouts))
    if len(questions) < 2:
        raise UserError(
            "a reward model needs at least two questions, one of them for the audit; "
            f"the prm stage's problem set has {len(questions)}"
        )
    n = min(max(round(share * len(questions)), 1), len(questions) - 1)
    order = key.generator().permutation(len(questions))
    held = {questions[i] for i in order[:n]}
    return (
        [rollout for rollout in rollouts if rollout.problem_id not in held],
        [rollout for rollout in rollouts if rollout.problem_id in held],
    )


def summarise(rollouts: Iterable[Rollout]) -> dict[str, Any]:
    """Counts for the stage's metrics; ``verified`` is the share of gradable rollouts."""
    rollouts = list(rollouts)
    gradable = [r for r in rollouts if r.status != "ungradable"]
    labelled = {
        (r.problem_id, r.prefix(int(s))) for r in rollouts for s in np.flatnonzero(r.completions)
    }
    return {
        "questions": len({r.problem_id for r in rollouts}),
        "solutions": sum(r.shared_steps == 0 for r in rollouts),
        "completions": sum(r.shared_steps > 0 for r in rollouts),
        "labelled_prefixes": len(labelled),
        "verified": sum(r.status == "correct" for r in gradable) / max(len(gradable), 1),
        "truncated": sum(r.finish == "length" for r in rollouts),
        "ungradable": len(rollouts) - len(gradable),
        "sampled_tokens": sum(r.sampled_tokens for r in rollouts),
    }


_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("step_ends", pa.list_(pa.int32())),
        ("shared_steps", pa.int32()),
        ("finish", pa.string()),
        ("status", pa.string()),
        ("verified", pa.list_(pa.int32())),
        ("completions", pa.list_(pa.int32())),
    ]
)
_ARRAYS = ("prompt_ids", "token_ids", "step_ends", "verified", "completions")


def write_rollouts(path: Path, questions: Sequence[Sequence[Rollout]]) -> None:
    """Parquet, one row per rollout, those of a question together."""
    rows = [rollout for question in questions for rollout in question]
    columns = [[getattr(row, name) for row in rows] for name in _SCHEMA.names]
    pq.write_table(pa.table(columns, schema=_SCHEMA), path)


def read_rollouts(path: Path) -> list[list[Rollout]]:
    """What ``write_rollouts`` wrote: the rollouts of each question. Raises UserError for a file
    that cannot be read."""
    try:
        rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"the rollouts in {path} cannot be read ({error}); delete the file to have them made "
            "again"
        ) from error
    questions: dict[str, list[Rollout]] = defaultdict(list)
    for row in rows:
        row |= {name: np.array(row[name], dtype=np.int32) for name in _ARRAYS}
        questions[row["problem_id"]].append(Rollout(**row))
    return list(questions.values())
