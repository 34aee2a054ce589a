"""Labels for a process reward model: what share of the completions through a prefix verify?
Paths are sampled, graded and pooled into labels here; ``prm.py`` learns them.

Math-Shepherd (Wang et al. 2023, arXiv:2312.08935) samples K completions from every step end. Here
the solutions' own outcomes label all their prefixes as well, which is the cheaper part of the
signal, and K completions are added at a few prefixes. All outcomes after one prefix of one
question are pooled into its soft label (Math-Shepherd's "soft estimation").

A completion counts for the prefix it was sampled from and for those that it goes through itself,
but not for shorter ones: it started where a path was still unfinished, so for them it would be a
sample from the longer solutions only.

A truncated path counts as not verified: a search cannot use it either. An ungradable one is no
label, and is counted.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from butwait.engines.engine import Engine, Prefix
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, layout, messages
from butwait.problems.settings import PromptSettings
from butwait.records import OPEN, Finish, Grade, Key, Problem, Status, UserError
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.training.settings import RolloutSettings
from butwait.workers.job import Opened, Worker


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
    def ids(self) -> np.ndarray:
        """int32 (p + n,), prompt and completion."""
        return np.concatenate([self.prompt_ids, self.token_ids])

    @property
    def sampled_tokens(self) -> int:
        """Tokens that were sampled for this rollout itself."""
        shared = self.step_ends[self.shared_steps - 1] if self.shared_steps else 0
        return len(self.token_ids) - int(shared)

    def prefix(self, step: int) -> bytes:
        """The tokens up to the end of step ``step``, as a key within the question."""
        return self.token_ids[: self.step_ends[step]].tobytes()


def put(
    rollouts: Sequence[Rollout], problems: Iterable[Problem], prompt: PromptSettings, tokenizer: Any
) -> list[Rollout]:
    """The rollouts behind the prompt that a reward model is shown, where that is another one than
    the policy's. ``tokenizer`` is the policy's; ``problems`` has all of their questions."""
    asked = {}
    for p in problems:
        shown = layout(p, prompt)
        asked[p.id] = encode(tokenizer, messages(p, shown), shown)
    return [replace(rollout, prompt_ids=asked[rollout.problem_id]) for rollout in rollouts]


async def collect_rollouts(
    engine: Engine,
    problems: Sequence[Problem],
    grader: Grader,
    settings: RolloutSettings,
    key: Key,
    folder: Path,
) -> list[Rollout]:
    """``stored_rollouts`` by models that are loaded here."""
    worker = Worker(Rolling(settings, key), Opened(engine, None, grader), settings.concurrency)
    return await stored_rollouts(problems, worker.do, settings, folder, concurrency=len(problems))


@dataclass(frozen=True)
class Rolling:
    """The work of collecting rollouts: those of one question, labelled.

    Attributes:
        settings: how many, and how they are sampled.
        key: of the stage.
    """

    settings: RolloutSettings
    key: Key

    async def __call__(self, opened: Opened, problem: Problem) -> list[Rollout]:
        own = self.key.derive("rollouts", problem.id)
        return await _rollouts(opened.engine, problem, opened.grader, self.settings, own)


async def stored_rollouts(
    problems: Sequence[Problem],
    roll: Callable[[Problem], Awaitable[list[Rollout]]],
    settings: RolloutSettings,
    folder: Path,
    *,
    concurrency: int,
    instead: Callable[[Problem], list[Rollout]] | None = None,
    shown: Callable[[], dict[str, str]] = dict,
) -> list[Rollout]:
    """Labelled rollouts of every question; what is on disk in ``folder`` is not sampled again.

    Args:
        problems: the questions.
        roll: makes the rollouts of one.
        settings: of the rollouts.
        folder: where they are kept.
        concurrency: questions in flight at a time.
        instead: as of ``map_shards``.
        shown: figures for the line of progress.

    Raises UserError for a problem without an answer, and where not one rollout could be graded.
    """
    unanswered = [problem.id for problem in problems if not problem.judged]
    if unanswered:
        raise UserError(
            f"a reward model cannot be trained on {len(unanswered)} problems without an answer "
            f"({unanswered[0]} among them); drop them or give them answers"
        )
    with task("sampling rollouts", len(problems)) as progress:
        paths = await map_shards(
            problems,
            roll,
            ShardFormat(write_rollouts, read_rollouts),
            folder,
            shard_size=settings.shard_size,
            concurrency=concurrency,
            on_result=lambda rollouts: progress.advance(1, **shown()),
            instead=instead,
        )
    collected = _read(paths)
    if all(rollout.status == "ungradable" for rollout in collected):
        raise UserError("no rollout of the prm stage's problems could be graded")
    return collected


def finished_rollouts(folder: Path) -> list[Rollout]:
    """What ``stored_rollouts`` has finished in a folder."""
    return _read(sorted(folder.glob("shard-*.parquet")))


def _read(shards: Iterable[Path]) -> list[Rollout]:
    return [r for path in shards for question in read_rollouts(path) for r in question]


@dataclass(slots=True)
class _Walk:
    """A path on its way: where its steps ended, how many of them it began with, and the unfinished
    step ends that were drawn."""

    prefix: Prefix
    step_ends: list[int]
    finish: Finish = "step"
    shared_steps: int = 0
    kept: list[tuple[int, Prefix]] = field(default_factory=list)


async def _rollouts(
    engine: Engine, problem: Problem, grader: Grader, settings: RolloutSettings, key: Key
) -> list[Rollout]:
    """One question: its solutions, then the completions from the prefixes drawn from them."""
    root, own = _Walk(engine.start(problem), []), key.derive("solutions")
    solutions = await _walks(engine, root, settings.solutions, settings, own, settings.prefixes)
    branches = [
        (_Walk(prefix, solution.step_ends[:steps]), key.derive("from", i, steps))
        for i, solution in enumerate(solutions)
        for steps, prefix in solution.kept
    ]
    grown = await asyncio.gather(
        *(_walks(engine, base, settings.completions, settings, key, 0) for base, key in branches)
    )
    engine.release([base.prefix for base, _ in branches])
    walks = [*solutions, *chain(*grown)]
    grades = await asyncio.gather(
        *(grader.agrade(walk.prefix.text, problem, walk.finish) for walk in walks)
    )
    rollouts = [_rollout(problem, *pair) for pair in zip(walks, grades, strict=True)]
    return [
        replace(rollout, verified=verified, completions=completions)
        for rollout, (verified, completions) in zip(rollouts, pool_labels(rollouts), strict=True)
    ]


async def _walks(
    engine: Engine, base: _Walk, count: int, settings: RolloutSettings, key: Key, keep: int
) -> list[_Walk]:
    """``count`` continuations of ``base`` to their ends."""
    keys = [key.at(step=len(base.step_ends), particle=i) for i in range(count)]
    # One call for the first step, so that the engine can run what they have in common once.
    firsts = await engine.extend([base.prefix] * count, settings.steps, settings.sampling, keys)
    begun = [_Walk(f.prefix, [*base.step_ends], f.finish, len(base.step_ends)) for f in firsts]
    await asyncio.gather(
        *(_walk(engine, *pair, settings, keep) for pair in zip(begun, keys, strict=True))
    )
    return begun


async def _walk(
    engine: Engine, walk: _Walk, key: Key, settings: RolloutSettings, keep: int
) -> None:
    """From the first step to the end, keeping ``keep`` of the unfinished step ends, drawn
    uniformly by reservoir sampling (Vitter 1985, algorithm R), so that few handles are held."""
    walk.step_ends.append(walk.prefix.completion_length)
    draws = key.derive("kept").generator()
    while walk.finish in OPEN:
        here, steps = walk.prefix, len(walk.step_ends)
        (continuation,) = await engine.extend(
            [here], settings.steps, settings.sampling, [key.at(step=steps)]
        )
        seen = steps - walk.shared_steps
        place = len(walk.kept) if len(walk.kept) < keep else int(draws.integers(seen))
        if place < keep:
            dropped = [prefix for _, prefix in walk.kept[place : place + 1]]
            walk.kept[place : place + 1] = [(steps, here)]
            engine.release(dropped)
        else:
            engine.release([here])
        walk.prefix, walk.finish = continuation.prefix, continuation.finish
        walk.step_ends.append(walk.prefix.completion_length)
    engine.release([walk.prefix])


def _rollout(problem: Problem, walk: _Walk, grade: Grade) -> Rollout:
    ids, p = walk.prefix.token_ids, walk.prefix.prompt_length
    unlabelled = np.zeros(len(walk.step_ends), np.int32)
    return Rollout(
        problem_id=problem.id,
        prompt_ids=ids[:p],
        token_ids=ids[p:],
        step_ends=np.array(walk.step_ends, dtype=np.int32),
        shared_steps=walk.shared_steps,
        finish=walk.finish,
        status=grade.status,
        verified=unlabelled,
        completions=unlabelled,
    )


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

    def through(counts: dict[bytes, int], rollout: Rollout) -> np.ndarray:
        prefixes = map(rollout.prefix, range(len(rollout.step_ends)))
        return np.array([counts[prefix] for prefix in prefixes], dtype=np.int32)

    return [(through(verified, rollout), through(completions, rollout)) for rollout in rollouts]


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


def rollout_figures(rollouts: Iterable[Rollout]) -> dict[str, Any]:
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
