"""One search for one answer: what a worker does for a request, here or elsewhere."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from butwait.api.answers import Solved, solved_of
from butwait.api.question import STAGE
from butwait.engines.engine import (
    Continuation,
    Engine,
    Prefix,
    PromptTooLongError,
    PromptUnsupportedError,
    SamplingUnsupportedError,
    UnsupportedError,
)
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import StepEndError
from butwait.records import COMPLETE, OPEN, Key, Problem, SearchTree, UserError
from butwait.search.builder import ROOT, TreeBuilder, total_counts
from butwait.search.looking import looking
from butwait.search.run import run_sampler
from butwait.search.settings import SAMPLERS, SamplerSettings
from butwait.workers.job import Opened

logger = logging.getLogger(__name__)

LONGEST_TOKEN = 32
"""Characters of a token at most, as good as always: a text that is longer by that is not read."""
NO_ROOM = "the prompt leaves no room for an answer in the model's context"
NO_TEXTS = (
    "the server behind this one takes chats alone, and cannot go on with a text as it stands; ask "
    "by a chat (/v1/chat/completions)"
)


@dataclass
class Told:
    """What is known of a search on its way.

    Attributes:
        shared: the text that all living paths begin with: the answer does too. Empty where the
            sampler may begin again.
        steps: that were made.
        paths: that live, the ended ones too.
        open: of them, those that go on.
        tokens: sampled so far.
    """

    shared: str = ""
    steps: int = 0
    paths: int = 0
    open: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        return f"step {self.steps}, {self.paths} paths, {self.open} open, {self.tokens} tokens"


@dataclass(frozen=True)
class Ask:
    """One answer that is asked for.

    Attributes:
        problem: the question.
        sampler: how it is searched.
        seed: of its draws.
        stop: texts that end a path; they are no part of the answer.
        most: tokens of a prompt.
        timeout_s: of the search.
        so_far: whether a time-out gives the best answer so far.
        tell: is told of each step; None: nobody listens, or the worker is elsewhere.
    """

    problem: Problem
    sampler: SamplerSettings
    seed: int
    stop: tuple[str, ...] = ()
    most: int = 1 << 30
    timeout_s: float | None = None
    so_far: bool = False
    tell: Callable[[Told], None] | None = None

    def __str__(self) -> str:  # for logs: no word of the client's
        return f"a request of seed {self.seed}"


@dataclass(frozen=True)
class Answer:
    """What a search says.

    Attributes:
        text: of the solution that speaks for it.
        finished: whether it ended by itself, and not at a limit.
        answer, weight, answers: as of ``api.answers.Solved``.
        seed: of its draws.
        timed_out: whether it is the best so far.
        prompt_tokens: of the prompt.
        policy_tokens, prefilled_tokens, reward_tokens: of all paths.
        shown_tokens: sampled ones of the solution.
    """

    text: str
    finished: bool
    answer: str | None
    weight: float
    answers: tuple[tuple[str, float], ...]
    seed: int
    timed_out: bool
    prompt_tokens: int
    policy_tokens: int
    prefilled_tokens: int
    reward_tokens: int
    shown_tokens: int


@dataclass(frozen=True)
class Refused:
    """There is no answer: the prompt is too long (``long``) or cannot be put (``prompt``), a stop
    can be no stop (``stop``), the engine cannot draw tokens so (``sampling``) or do what the method
    needs (``method``), or time is over (``timeout``)."""

    why: str
    sentence: str


@dataclass(frozen=True)
class Answering:
    """The work of a server: an ``Answer`` to an ``Ask``. Anything else is asked to see whether a
    worker is ready."""

    async def __call__(self, opened: Opened, ask: Any) -> Answer | Refused | None:
        if not isinstance(ask, Ask):
            return None
        if (refused := _unfit(opened.engine, ask)) is not None:
            return refused
        engine: Any = StoppingEngine(opened.engine, ask.stop) if ask.stop else opened.engine
        key, seen = Key.of(ask.seed, STAGE), _Onlooker(ask)
        limit = asyncio.timeout(ask.timeout_s)
        try:
            with looking(seen):
                async with limit:
                    problem_key = key.derive(ask.problem.id)
                    judge = opened.reward_model
                    tree = await run_sampler(ask.problem, engine, judge, ask.sampler, problem_key)
        except StepEndError as error:
            if error.end not in ask.stop:
                raise  # the owner's own delimiters
            told = "a stop names a special token, which no text shows; leave it out"
            return Refused("stop", told)
        except (PromptTooLongError, UnsupportedError) as error:
            return _beyond(error, ask)
        except TimeoutError:
            if not limit.expired():
                raise
            found = seen.so_far() if ask.so_far else None
            if found is None:
                return Refused("timeout", f"the search did not end within {ask.timeout_s:g} s")
            tree = found
        solved = await solved_of(
            tree,
            ask.problem,
            "vote" if limit.expired() else ask.sampler.selection,
            key.derive(ask.problem.id),
            opened.grader,
            0.0,
            "",
            lambda text: cut(text, ask.stop),
        )
        return _answer(ask, solved, limit.expired())


def _unfit(engine: Engine, ask: Ask) -> Refused | None:
    """Why this prompt is not searched."""
    problem = ask.problem
    length = len(problem.question) + sum(len(turn["content"]) for turn in problem.before)
    told = f"the prompt has %s tokens, and the most are {ask.most}"
    if length > ask.most * LONGEST_TOKEN:
        return Refused("long", told % f"more than {length // LONGEST_TOKEN}")
    try:
        tokens = len(engine.start(problem).token_ids)
    except PromptTooLongError:
        return Refused("long", NO_ROOM)
    except PromptUnsupportedError as error:
        return _beyond(error, ask)
    except UserError as error:
        return Refused("prompt", str(error))
    if tokens == 0:
        return Refused("prompt", "the prompt has no token")
    return Refused("long", told % tokens) if tokens > ask.most else None


def _beyond(error: UserError, ask: Ask) -> Refused:
    """What is told where the engine found only on the way that it cannot do what was asked for.
    Its own words name addresses, which are for the log."""
    logger.warning("%s was refused: %s", ask, error)
    if isinstance(error, PromptTooLongError):
        return Refused("long", NO_ROOM)
    if isinstance(error, PromptUnsupportedError):
        return Refused("prompt", NO_TEXTS)
    if isinstance(error, SamplingUnsupportedError) and ask.sampler.sampling != Sampling():
        told = "tokens can be drawn here at temperature 1 or 0, with top_p 1 and top_k 0 alone"
        return Refused("sampling", f"{told}; ask for that")
    told = "this method scores tokens, draws them at a temperature of its own, or goes on with a "
    told += "part of an answer, which the server behind this one cannot"
    return Refused("method", f"{told}; ask for another method, such as self_consistency")


def _answer(ask: Ask, solved: Solved, timed_out: bool) -> Answer:
    tree, counts, leaf = solved.tree, solved.usage, solved.node
    text = cut(solved.text, ask.stop)
    return Answer(
        text=text,
        finished=len(text) < len(solved.text) or tree.nodes[leaf].finish in COMPLETE,
        answer=solved.answer,
        weight=solved.weight,
        answers=solved.answers,
        seed=ask.seed,
        timed_out=timed_out,
        prompt_tokens=len(tree.prompt_ids),
        policy_tokens=counts.policy_tokens,
        prefilled_tokens=counts.prefilled_tokens,
        reward_tokens=counts.reward_tokens,
        shown_tokens=int(tree.path_sampled(leaf).sum()) if leaf else 0,
    )


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stops."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


class _Onlooker:
    """Sees a search on its way: what is final, and what there is when time is over."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._told = ask, Told()
        self._tree: TreeBuilder | None = None
        self._nodes = np.zeros(0, np.int32)
        self._counted = 0
        self._final = SAMPLERS.of(ask.sampler).one_sweep

    def __call__(self, tree: TreeBuilder, nodes: np.ndarray, extended: bool) -> None:
        self._tree, self._nodes = tree, nodes
        if self._ask.tell is None:
            return
        told = self._told
        told.steps += extended
        ends = set(nodes.tolist())
        told.paths = len(nodes)
        told.open = sum(tree.nodes[node].finish in OPEN for node in nodes.tolist())
        told.tokens += total_counts(tree.nodes[self._counted :]).policy_tokens
        self._counted = len(tree.nodes)
        if self._final and not extended:
            told.shared = self._settled([_text(tree, node) for node in ends])
        self._ask.tell(told)

    def so_far(self) -> SearchTree | None:
        """The paths of this moment as a finished search, of equal weights; where none is complete,
        weighted by what the reward model said last. Of a sampler that begins again, all that were
        completed so far, the latest first. None where nothing was sampled."""
        if self._tree is None:
            return None
        tree, nodes = self._tree, self._nodes[self._nodes != ROOT]
        if not self._final:
            ended = [i for i, node in enumerate(tree.nodes) if node.finish in COMPLETE]
            nodes = np.array(ended[::-1], np.int32) if ended else nodes
        if not len(nodes):
            return None
        complete = any(tree.nodes[node].finish in COMPLETE for node in nodes.tolist())
        rewards = np.zeros(len(nodes)) if complete else np.nan_to_num(tree.rewards(nodes))
        return tree.build(rewards, None, nodes)

    def _settled(self, texts: list[str]) -> str:
        """What they begin with, without what may be the beginning of a stop."""
        low, high = min(texts), max(texts)
        same = next((i for i, c in enumerate(low) if high[i : i + 1] != c), len(low))
        shared = low[:same]
        if not self._ask.stop:
            return shared
        kept = max(map(len, self._ask.stop)) - 1
        text = cut(shared, self._ask.stop)
        return text if len(text) < len(shared) else shared[: max(0, len(shared) - kept)]


def _text(tree: TreeBuilder, node: int) -> str:
    return "".join(tree.nodes[i].text for i in tree.path(node))


class StoppingEngine:
    """An engine whose paths are complete where they hold one of the stops, which end its steps
    (``StoppedRule``)."""

    def __init__(self, engine: Engine, stop: tuple[str, ...]) -> None:
        self._engine, self._stop = engine, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def turn(self) -> "StoppingEngine":
        return StoppingEngine(self._engine.turn(), self._stop)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        steps = await self._engine.extend(prefixes, rule, sampling, keys)
        return [replace(s, finish="eos") if self._stops(s) else s for s in steps]

    def _stops(self, step: Continuation) -> bool:
        return step.finish not in COMPLETE and any(s in step.prefix.text for s in self._stop)
