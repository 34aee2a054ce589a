"""What a worker opens, and what it does with an item."""

import asyncio
import os
import pickle
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import walk_tb
from typing import Any, Protocol

from butwait.engines.engine import Engine
from butwait.engines.load import EngineSettings, with_capacity
from butwait.engines.scheduling.figures import shown
from butwait.engines.scheduling.rows import Concurrency, places
from butwait.engines.settings import ModelEngineSettings, ModelSettings, StepRule
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.running.plugins import (
    failed_plugin,
    find_modules_in,
    folders,
    loaded_plugins,
    tell_loaded,
)
from butwait.running.shards import BY_ITSELF, first_of
from butwait.workers.host import Figures, Reply
from butwait.workers.loading import loaded

_MODELS = tuple(
    f"{Path(__file__).parents[1] / package}{os.sep}" for package in ("engines", "reward_models")
)


@dataclass(frozen=True)
class Opened:
    """What is loaded in a worker.

    Attributes:
        engine: the policy.
        reward_model: None where the work needs none.
        grader: judges answers.
    """

    engine: Engine
    reward_model: RewardModel | None
    grader: Grader


class Work(Protocol):
    """What is done with each item, and by which settings: a frozen record that can be pickled, of a
    module that can be imported. It gives the same result for the same item wherever it runs."""

    async def __call__(self, opened: Opened, item: Any, /) -> Any: ...


class Worker:
    """A job that is open in this process: what every kind of worker is made of.

    Args:
        work: what is done.
        opened: with what.
        concurrency: items that are done at a time.
    """

    def __init__(self, work: Work, opened: Opened, concurrency: Concurrency = "auto") -> None:
        self._work, self._opened = work, opened
        self._places = places(concurrency, opened.engine)
        self._counted = opened.engine.counters.policy_tokens
        self._begun = 0

    @property
    def policy_tokens(self) -> int:
        """Sampled since the engine was made."""
        return self._opened.engine.counters.policy_tokens

    async def do(self, item: Any) -> Any:
        """The result for an item; several may be under way at a time. Raises whatever the work
        raises, and a UserError where that cancels itself: nobody asked it to."""
        async with self._places:
            self._begun += 1
            try:
                return await self._work(self._opened, item)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise UserError(BY_ITSELF) from error
            except BaseExceptionGroup as errors:
                raise first_of(errors) from errors
            finally:
                self._begun -= 1

    @property
    def figures(self) -> Figures:
        """Of its models until now."""
        return Figures.of(self._opened.engine, self._opened.reward_model)

    def shown(self) -> dict[str, str]:
        """Of its engine at this moment, for a line of progress."""
        return shown(self._opened.engine)

    async def reply(self, item: Any) -> Reply:
        """``do``, and what another process is to be told besides. Raises UserError for a plugin
        that fails: another worker would not help."""
        try:
            result = await self.do(item)
        except (UserError, asyncio.CancelledError):
            raise
        except BaseException as error:
            told = failed_plugin(error)
            if told is None or _of_models(error):
                raise
            raise UserError(told) from error
        before, self._counted = self._counted, self.policy_tokens
        unjudged = self._opened.grader.judges.failures()
        return Reply(result, self._counted - before, unjudged, self.figures, self._begun)


@dataclass(frozen=True)
class Job:
    """What a worker opens.

    Attributes:
        work: what is done with an item.
        engine: its settings; or an engine that runs in this process and stays open.
        model, prompt: as in a recipe.
        reward_model: its settings; one that runs in this process and stays open; or None.
        problems: whose prompts must fit.
        rules: whose longest paths must fit.
        paths: that a worker has in flight at a time (``search.settings.in_flight``).
        grader: of this process; elsewhere a worker has its own.
        graders: grading processes of such a one; None: one a core, no more than 8.
        verifiers: functions that judge, and what they are held to (``Judges.held_to``).
        threads: of torch; None: as many as it takes by itself.
        concurrency: items that a worker is at, at most; ``auto``: as many as keep its engine's rows
            full.
    """

    work: Work
    engine: EngineSettings | Engine
    model: ModelSettings
    prompt: PromptSettings
    reward_model: Any
    problems: Sequence[Problem]
    rules: Sequence[StepRule]
    paths: int | None = None
    grader: Grader | None = None
    graders: int | None = None
    verifiers: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    concurrency: Concurrency = 64

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Worker]:
        """Loads it all; what was loaded here is freed when the block ends.

        Raises UserError as ``loaded`` does.
        """
        own = None if self.grader else Grader(workers=self.graders)
        grader = self.grader or own
        assert grader is not None
        grader.judges.hold_to(self.verifiers)
        given = (self.engine, self.model, self.prompt, self.reward_model)
        try:
            async with loaded(*given, self.problems, self.rules, self.paths) as (engine, judge):
                if self.threads is not None and (torch := sys.modules.get("torch")):
                    torch.set_num_threads(self.threads)
                yield Worker(self.work, Opened(engine, judge, grader), self.concurrency)
        finally:
            if own is not None:
                own.close()

    def packed(self) -> bytes:
        """The job for a worker in another process, on this machine or another (``unpacked``).

        The problems stay here: what their prompts need is measured now.

        Raises UserError for what is live in it, which no other process can be given.
        """
        for what, live in (("engine", Engine), ("reward_model", RewardModel)):
            if isinstance(getattr(self, what), live):
                raise UserError(
                    f"the {what} that was given runs in this process alone; give its settings "
                    "instead, or leave workers.kind at local"
                )
        engine, verifiers = self.engine, dict(self.verifiers)
        if isinstance(engine, ModelEngineSettings) and engine.capacity is None:
            from butwait.engines.models import load_tokenizer

            tokenizer = load_tokenizer(self.model)
            engine = with_capacity(engine, tokenizer, self.prompt, self.problems, self.rules)
        if self.grader is not None:
            verifiers |= self.grader.judges.held_to
        there = replace(self, engine=engine, problems=(), grader=None, verifiers=verifiers)
        try:
            job = pickle.dumps(there, protocol=5)
            return pickle.dumps((folders(), loaded_plugins(), job), protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"what workers are to do cannot be handed to them ({error}); name functions as "
                "module:function, or leave workers.kind at local"
            ) from error


def _of_models(error: BaseException) -> bool:
    """Whether it comes out of our own engines or reward models: what a plugin called may be broken,
    and the worker with it."""
    frames = walk_tb(first_of(error).__traceback__)
    return any(frame.f_code.co_filename.startswith(_MODELS) for frame, _ in frames)


def unpacked(packed: bytes) -> Job:
    """The job of ``Job.packed``. Modules are looked for where the run looked for them.

    Raises UserError for what cannot be imported here.
    """
    places, plugins, job = pickle.loads(packed)
    find_modules_in([Path(place) for place in places])
    tell_loaded(plugins)
    try:
        found = pickle.loads(job)
    except (AttributeError, ImportError) as error:
        raise UserError(
            f"a worker cannot import what it is to do ({error}); put it in a file beside the "
            "recipe, or leave workers.kind at local"
        ) from error
    assert isinstance(found, Job)
    return found
