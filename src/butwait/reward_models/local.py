"""What the reward models that run in this process share: paths in slots, one logit each out."""

import asyncio
import gc
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import compress
from typing import Any, Literal, NamedTuple

import numpy as np

from butwait.problems.prompts import encode, layout, messages
from butwait.problems.settings import PromptSettings
from butwait.problems.tokens import ids_of, text_ids
from butwait.records import Problem
from butwait.reward_models.load import Policy
from butwait.reward_models.reward_model import (
    TOO_LONG,
    BaseRewardModel,
    Path,
    RewardModelError,
    Score,
    Step,
)
from butwait.reward_models.settings import SLOTS, LocalModelSettings
from butwait.running.devices import SHARE, free_memory, give_memory_back

NOTHING = np.zeros(0, np.int32)
AT_A_TIME = 32
"""Paths that are laid out before others have a turn on the event loop: so many take some 20 ms."""


class Layout(NamedTuple):
    """A path's tokens.

    Attributes:
        segments: int32 (n,) each: the prompt and the steps. A step that is not judged has none.
        peek: tokens to show after them and to take back.
        carry: tokens that open the next segment.
    """

    segments: tuple[np.ndarray, ...]
    peek: np.ndarray = NOTHING
    carry: np.ndarray = NOTHING

    @property
    def steps(self) -> int:
        """Steps that have a segment."""
        return len(self.segments) - 1

    def extended(
        self, tokens: np.ndarray, peek: np.ndarray = NOTHING, carry: np.ndarray = NOTHING
    ) -> "Layout":
        """With one more segment: what was carried, and ``tokens``."""
        segment = np.concatenate([self.carry, tokens])
        return Layout((*self.segments, segment), peek, carry)


def step_ids(tokenizer: Any, text: str, written: str = "") -> np.ndarray:
    """int32 (n,): the tokens of a step on its own. What the layout puts around it (``written``) is
    text where the step says it."""
    return np.asarray(text_ids(tokenizer, text, written), np.int32)


def layout_ids(tokenizer: Any, text: str) -> np.ndarray:
    """int32 (n,): the tokens of what a layout puts around steps, special ones too."""
    return np.asarray(ids_of(tokenizer, text), np.int32)


def laid_out(
    start: Layout, path: Path, known: Layout | None, extended: Callable[[Layout, Step], Layout]
) -> Layout:
    """The layout of a path.

    Args:
        start: of a path without steps.
        known: of the path without its last step, where it was laid out before.
        extended: lays out one more step.
    """
    if known is not None:
        return extended(known, path.steps[-1])
    return reduce(extended, path.steps, start)


class ScoredPath(NamedTuple):
    """The handle of a path: its tokens, and what is held of them."""

    layout: Layout
    held: Any


class LocalRewardModel(BaseRewardModel):
    """Implements ``RewardModel``, but for a path's tokens and what is read off them.

    Args:
        model: the scorer in its slots, a ``SlotModel``.
        tokenizer: the scorer's.
        prompt: how questions are shown to it.
        outputs: what is kept of a segment, see ``IncrementalScorer``.
        written: what is put around steps; a question may name it, as text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: PromptSettings,
        outputs: Literal["last", "sum"] = "last",
        written: str = "",
    ) -> None:
        from butwait.reward_models.incremental import IncrementalScorer

        super().__init__()
        self._scorer: IncrementalScorer | None = IncrementalScorer(model, outputs)
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._written = written

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``."""
        from butwait.reward_models.incremental import Request

        if self._scorer is None:
            raise RewardModelError("the reward model was closed")
        shown = layout(problem, self._prompt)
        prompt = encode(self._tokenizer, messages(problem, shown), shown, self._written)
        start = self._start(prompt)
        layouts: list[Layout] = []
        for i, path in enumerate(paths):
            if i and i % AT_A_TIME == 0:
                await asyncio.sleep(0)
            known = path.handle and path.handle.layout
            layouts.append(laid_out(start, path, known, self._extended))
        if self._scorer is None:
            raise RewardModelError("the reward model was closed")
        requests = [
            Request(layout.segments, path.handle and path.handle.held, layout.peek)
            for layout, path in zip(layouts, paths, strict=True)
        ]
        fits = list(map(self._scorer.fits, requests))
        results = iter(await self._scorer.run([*compress(requests, fits)]))
        return [
            self._score(problem, layout, next(results)) if fitting else TOO_LONG
            for layout, fitting in zip(layouts, fits, strict=True)
        ]

    def _score(self, problem: Problem, layout: Layout, result: Any) -> Score:
        logit = self._logit(layout, result.handle.outputs[1:], result.output)
        held = ScoredPath(layout, result.handle)
        return Score(self.checked(logit, problem), held, result.tokens)

    @property
    def run_tokens(self) -> int:
        """Tokens run so far, those of lost handles again; scores count them once."""
        return 0 if self._scorer is None else self._scorer.run_tokens

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        if self._scorer is not None:
            self._scorer.release([handle.held for handle in handles])

    async def close(self) -> None:
        """Gives the weights and the cache back, to the device too."""
        if self._scorer is not None:
            self._scorer.close("the reward model was closed")
            self._scorer = None
            gc.collect()  # a model's parts may hold each other
            give_memory_back()

    def _start(self, prompt: np.ndarray) -> Layout:
        """The layout of a path without steps; ``prompt`` is int32 (p,)."""
        return Layout((prompt,))

    @abstractmethod
    def _extended(self, layout: Layout, step: Step) -> Layout:
        """A path with one more step."""

    @abstractmethod
    def _logit(self, layout: Layout, outputs: Sequence[np.ndarray], output: np.ndarray) -> float:
        """The path's logit, from the outputs of its steps and that at its end, its peek included;
        all float32 (V,)."""


def in_slots(model: Any, settings: LocalModelSettings, policy: Policy | None) -> Any:
    """A loaded model in its slots, a ``SlotModel``."""
    from butwait.engines.slots import SlotModel

    if settings.slots == "auto":
        slots, memory = _automatic(model, policy)
    else:
        slots, memory = settings.slots, None
    return SlotModel(
        model,
        slots=slots,
        capacity=settings.capacity,
        deterministic=settings.deterministic,
        prefill_chunk=settings.prefill_chunk,
        most_bytes=memory,
        key="the reward model's capacity",
    )


def _automatic(model: Any, policy: Policy | None) -> tuple[int, float]:
    """Slots for all paths in flight, and the memory for them, in bytes."""
    memory = SHARE.get(model.device.type, SHARE["cpu"]) * free_memory(model.device)
    wanted = SLOTS if policy is None or policy.paths is None else policy.paths
    return wanted, memory
