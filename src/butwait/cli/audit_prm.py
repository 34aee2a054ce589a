"""``butwait audit-prm``: how far can a reward model be trusted?"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from butwait.cli.audit_tables import shown
from butwait.cli.recorded_stage import RecordedStage, read_recorded_stage
from butwait.problems.kinds.files import read_rows
from butwait.problems.kinds.hub import read_hub_rows
from butwait.problems.settings import ProblemSetSettings
from butwait.records import Key, SearchTree, UserError
from butwait.reward_models.audit.bellman import bellman, families
from butwait.reward_models.audit.first_error import (
    LabelledSolution,
    chosen_threshold,
    first_error_figures,
    halves,
    judged,
    solution,
)
from butwait.reward_models.audit.prefixes import audit, tree_prefixes
from butwait.reward_models.audit.read_settings import read_settings
from butwait.reward_models.audit.rescore import as_steps, node_logits, step_logits
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.reward_model import PathTooLongError, RewardModel
from butwait.running.files import check_output, expanded, write_json
from butwait.running.progress import task
from butwait.running.tables import names_file
from butwait.running.terminal import console

KEY = Key.of(0, "audit-prm")
SOLUTIONS_AT_A_TIME = 32
TREES_AT_A_TIME = 8
"""Each scores all its nodes of one depth together."""
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
"""Splits of ``Qwen/ProcessBench``."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def audit_prm(
    model: Path | None,
    processbench: str | None,
    trees: Path | None,
    limit: int | None,
    threshold: float,
    step_end: str,
    out: Path | None,
) -> None:
    """Audits a reward model on labelled solutions, on recorded trees, or on both, prints the
    figures and writes them to ``out``.

    Without a model the rewards that the trees recorded are audited. Raises UserError where
    nothing is named to audit, and for what cannot be read.
    """
    if processbench is None and trees is None:
        raise UserError("there is nothing to audit on: give --processbench FILE, --trees RUN/STAGE")
    if processbench is not None and model is None:
        raise UserError("ProcessBench has no recorded rewards: give a reward model with --model")
    if not 0 < threshold < 1:
        raise UserError(f"--threshold is a probability between 0 and 1, not {threshold}")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out is not None:
        check_output(out, *[Path(read) for read in (model, processbench) if read is not None])
    stage = None if trees is None else read_recorded_stage(trees)
    solutions = None if processbench is None else _solutions(processbench, limit)
    loaded, tokenizer = (None, None) if model is None else _load(model, stage)

    async def logits(item: LabelledSolution) -> np.ndarray | None:
        assert loaded is not None
        try:
            steps = as_steps(item.steps, step_end, tokenizer)
            return await step_logits(loaded, item.problem, steps)
        except PathTooLongError:
            return None

    async def figures() -> dict[str, Any]:
        found: dict[str, Any] = {"reward_model": str(model or "recorded")}
        try:
            if solutions is not None:
                found["processbench"] = await _first_errors(solutions, logits, threshold)
            if stage is not None:
                found["trees"] = await _trees(_some(stage.trees, limit), stage, loaded)
            found["clipped"] = None if loaded is None else loaded.clipped
        finally:
            if loaded is not None:
                await loaded.close()
        return found

    found = asyncio.run(figures())
    if out is not None:
        write_json(out, found)
    screen = console()
    for block in shown(found):
        screen.print(block)


def _load(path: Path, stage: RecordedStage | None) -> tuple[RewardModel, Any]:
    """The model, and the tokenizer of the policy whose token ids it is given (None: texts)."""
    settings = read_settings(path)
    if stage is None or stage.policy is None:
        return load_reward_model(settings, None), None
    from butwait.engines.models import load_tokenizer

    tokenizer = load_tokenizer(stage.policy)
    policy = Policy(stage.policy, stage.prompt)
    return load_reward_model(settings, tokenizer, policy), tokenizer


def _solutions(source: str, limit: int | None) -> list[LabelledSolution]:
    path = expanded(source)
    if path.exists() or names_file(source):
        rows = [(row, f"{path}, row {i}") for i, row in enumerate(read_rows(path), start=1)]
    else:
        rows = [
            ({"source": subset, **row}, f"{source}, {subset} {i}")
            for subset in SUBSETS
            for i, row in enumerate(read_hub_rows(ProblemSetSettings(source=source, split=subset)))
        ]
    return [solution(row, where) for row, where in _some(rows, limit)]


def _some(items: Sequence[_T], limit: int | None) -> list[_T]:
    """A random subset of this size, the same at every call, in the items' order."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = np.argsort(KEY.derive("limit").uniforms(len(items)))[:limit]
    return [items[i] for i in sorted(drawn.tolist())]


async def _first_errors(
    solutions: list[LabelledSolution],
    logits: Callable[[LabelledSolution], Awaitable[np.ndarray | None]],
    threshold: float,
) -> dict[str, Any]:
    scored = await _all(solutions, logits, SOLUTIONS_AT_A_TIME, "scoring solutions")
    fitting = [(item, x) for item, x in zip(solutions, scored, strict=True) if x is not None]
    if not fitting:
        raise UserError("the reward model takes none of the solutions: all are longer than it can")
    found = judged(*map(list, zip(*fitting, strict=True)))
    subsets = np.array([item.subset for item, _ in fitting])
    parts = {name: found.where(subsets == name) for name in dict.fromkeys(subsets.tolist())}
    if len(parts) > 1:
        parts["all"] = found
    questions, chosen = len(np.unique(found.question)), None
    if questions > 1:
        # On one half of the questions, at the threshold that is best on the other half.
        tuning, rest = halves(found, KEY.derive("halves"))
        chosen = first_error_figures(rest, chosen_threshold(tuning), KEY.derive("chosen"))
    return {
        "solutions": len(fitting),
        "too_long": len(solutions) - len(fitting),
        "questions": questions,
        "fixed": {
            name: first_error_figures(part, threshold, KEY.derive("first_error", name))
            for name, part in parts.items()
        },
        "chosen": chosen,
    }


async def _trees(
    trees: list[SearchTree], stage: RecordedStage, model: RewardModel | None
) -> dict[str, Any]:
    if model is None:
        logits = [_recorded(tree) for tree in trees]
    else:

        async def one(tree: SearchTree) -> np.ndarray:
            return await node_logits(model, stage.problem(tree.problem_id), tree)

        logits = await _all(trees, one, TREES_AT_A_TIME, "scoring trees")
    pairs = list(zip(trees, logits, strict=True))
    prefixes = tree_prefixes(pairs)
    if not len(prefixes.logit):
        raise UserError(
            f"{stage.path} cannot be audited: no node has both a reward and a graded path through "
            "it; a search without a reward model records none (give one with --model)"
        )
    return {
        "trees": len(trees),
        "too_long": int(sum(np.isnan(of_tree[1:]).sum() for of_tree in logits)) if model else 0,
        "samplers": sorted({tree.sampler for tree in trees}),
        "resampled": any(p.resampled for tree in trees for p in tree.populations),
        **audit(prefixes, KEY.derive("audit")),
        "bellman": bellman(families(pairs), KEY.derive("bellman")),
    }


def _recorded(tree: SearchTree) -> np.ndarray:
    logits = np.array([node.reward_logit for node in tree.nodes], np.float64)
    logits[0] = np.nan
    logits[[node.too_long for node in tree.nodes]] = np.nan  # those are of the paths before
    return logits


async def _all(
    items: Sequence[_T], one: Callable[[_T], Awaitable[_R]], at_a_time: int, description: str
) -> list[_R]:
    gate = asyncio.Semaphore(at_a_time)
    with task(description, len(items)) as progress:

        async def gated(item: _T) -> _R:
            async with gate:
                result = await one(item)
            progress.advance()
            return result

        return await asyncio.gather(*map(gated, items))
