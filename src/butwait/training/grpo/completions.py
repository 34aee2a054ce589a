"""Completions of a group: fresh samples of the policy, or the particles of a search. They are drawn
by an engine on the weights that are being trained: shared, not copied."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from butwait.engines.engine import Engine
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.settings import Sampling
from butwait.engines.transformers import TransformersEngine
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Grade, Key, Problem, SearchTree
from butwait.search.resampling import inverse_cdf
from butwait.search.run import run_sampler
from butwait.search.samplers.samples import IndependentSettings
from butwait.synthesis.solutions import grade_path
from butwait.training.grpo.settings import GrpoSettings
from butwait.training.weights import base_of


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion.

    Attributes:
        problem: what it answers.
        prompt_ids: int32 (p,).
        token_ids: int32 (n,), n > 0; ends in EOS unless it is truncated.
        sampled: bool (n,), which of them the policy drew. The EOS after a closed box was put there
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
    names = [completion.token_ids.tobytes() for completion in group]
    return [name in names[:i] for i, name in enumerate(names)]


async def completions_of(
    tree: SearchTree, leaves: Sequence[int], problem: Problem, grader: Grader, eos_token_id: int
) -> list[Completion]:
    """The paths to these nodes, graded."""

    async def one(leaf: int) -> Completion:
        grade = await grade_path(tree, leaf, problem, grader)
        return completion_of(tree, leaf, problem, grade, eos_token_id)

    return await asyncio.gather(*map(one, leaves))


def completion_of(
    tree: SearchTree, leaf: int, problem: Problem, grade: Grade, eos_token_id: int
) -> Completion:
    """The path to one node. Where it ended at a box, EOS is put after it, as not sampled: a
    completion without EOS counts as truncated."""
    ids, sampled = tree.path_tokens(leaf), tree.path_sampled(leaf)
    text, finish = tree.path_text(leaf), tree.nodes[leaf].finish
    if finish == "box":
        ids, sampled = np.append(ids, np.int32(eos_token_id)), np.append(sampled, False)
    return Completion(problem, tree.prompt_ids, ids, sampled, text, finish, grade)


@asynccontextmanager
async def live_engine(
    model: Any, tokenizer: Any, settings: TransformersSettings, prompt: PromptSettings
) -> AsyncIterator[TransformersEngine]:
    """An engine on a model in training. Its cache is freed, and the model back in its mode, when
    the block ends.

    Args:
        model: whole on this device, without the wrappers of distributed training.
        tokenizer: the model's.
        settings: with a capacity.
        prompt: how a question is put to the model.
    """
    # An adapter sits inside of the model's own layers, and the wrapper around it hides its
    # signature.
    inner = base_of(model)
    training = model.training
    model.eval()
    engine = TransformersEngine(inner, tokenizer, settings, prompt)
    try:
        yield engine
    finally:
        await engine.close()
        model.train(training)


@torch.no_grad()
def weights_fingerprint(parameters: Iterable[torch.Tensor]) -> str:
    """16 hex digits that change when a weight does (but for pathological changes): a hash of each
    tensor's sum and norm."""
    wide = torch.float64
    sums = []
    for p in parameters:
        real = p if p.is_floating_point() else p.to(wide)  # bitsandbytes packs 4 bits in bytes
        norm = torch.linalg.vector_norm(real, dtype=wide)
        sums.append(torch.stack([p.sum(dtype=wide), norm]))
    return hashlib.sha256(torch.stack(sums).cpu().numpy().tobytes()).hexdigest()[:16]
