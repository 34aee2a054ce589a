"""Completions of a group: fresh samples of the policy, or the particles of a search."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from butwait.engines.engine import Engine
from butwait.engines.settings import Sampling
from butwait.problems.grading import Grader
from butwait.records import Grade, Key, Problem, SearchTree
from butwait.search.resampling import inverse_cdf
from butwait.search.run import run_sampler
from butwait.search.samplers.samples import IndependentSettings
from butwait.training.grpo.settings import GrpoSettings


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion.

    Attributes:
        problem: what it answers.
        prompt_ids: int32 (p,).
        token_ids: int32 (n,), n > 0; ends in EOS unless it is truncated.
        sampled: bool (n,), which of them the policy drew. The EOS behind a closed box was put there
            and has neither loss nor ratio.
        text: without special tokens.
        finish: why it ended.
        grade: the verdict.
        repeated: whether it is the same as an earlier one of a group that may not repeat.
    """

    problem: Problem
    prompt_ids: np.ndarray
    token_ids: np.ndarray
    sampled: np.ndarray
    text: str
    finish: str
    grade: Grade
    repeated: bool = False

    @property
    def length(self) -> int:
        """Tokens that the policy drew."""
        return int(self.sampled.sum())


async def sample_group(
    problem: Problem,
    engine: Engine,
    settings: GrpoSettings,
    grader: Grader,
    key: Key,
    eos_token_id: int,
) -> tuple[SearchTree, list[Completion]]:
    """``settings.group`` fresh samples of the policy, graded, and the tree whose leaves they
    are."""
    sampler = IndependentSettings(
        samples=settings.group,
        step=settings.step,
        sampling=Sampling(temperature=settings.temperature),
    )
    tree = await run_sampler(problem, engine, None, sampler, key)
    return tree, await completions_of(tree, tree.leaves.tolist(), problem, grader, eos_token_id)


async def particles_as_group(
    tree: SearchTree, problem: Problem, size: int, grader: Grader, key: Key, eos_token_id: int
) -> list[Completion]:
    """``size`` final particles of a search, drawn by their weights as in systematic resampling, and
    those that repeat an earlier one marked.

    They are no samples of the policy, so a group of them gives a biased gradient, although every
    ratio of probabilities is near 1 (``docs/grpo_direct.md``).
    """
    extinct = tree.outcome == "extinct"
    weights = np.ones(len(tree.leaves)) if extinct else np.exp(tree.log_weights)
    positions = (np.arange(size) + key.generator().random()) / size
    leaves = tree.leaves[inverse_cdf(weights, positions)].tolist()
    group = await completions_of(tree, leaves, problem, grader, eos_token_id)
    marks = zip(group, repeats(group), strict=True)
    return [replace(completion, repeated=repeated) for completion, repeated in marks]


def repeats(group: Sequence[Completion]) -> list[bool]:
    """Whether each completion has the tokens of an earlier one."""
    seen: set[bytes] = set()
    found = []
    for completion in group:
        name = completion.token_ids.tobytes()
        found.append(name in seen)
        seen.add(name)
    return found


async def completions_of(
    tree: SearchTree, leaves: Sequence[int], problem: Problem, grader: Grader, eos_token_id: int
) -> list[Completion]:
    """The paths to these nodes, graded."""
    texts = [tree.path_text(leaf) for leaf in leaves]
    grades = await asyncio.gather(
        *(
            grader.agrade(text, problem, tree.nodes[leaf].finish)
            for text, leaf in zip(texts, leaves, strict=True)
        )
    )
    return [
        completion_of(tree, leaf, text, problem, grade, eos_token_id)
        for leaf, text, grade in zip(leaves, texts, grades, strict=True)
    ]


def completion_of(
    tree: SearchTree, leaf: int, text: str, problem: Problem, grade: Grade, eos_token_id: int
) -> Completion:
    """The path to one node. Where it ended at a box, EOS is put behind it, as not sampled: a
    completion without EOS counts as truncated."""
    ids, sampled = tree.path_tokens(leaf), tree.path_sampled(leaf)
    finish = tree.nodes[leaf].finish
    if finish == "box":
        ids, sampled = np.append(ids, np.int32(eos_token_id)), np.append(sampled, False)
    return Completion(problem, tree.prompt_ids, ids, sampled, text, finish, grade)
