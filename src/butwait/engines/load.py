"""From settings to an engine. A kind of engine is one record in one module (``engines.kinds``, or
anyone's own): its settings, and how it is started."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny

from butwait.engines.engine import Continuation, Engine, Prefix, token_characters
from butwait.engines.gate import TELLS_NOTHING, GatedEngine, TokenGate, Watch
from butwait.engines.scheduling.loads import TellsLoad
from butwait.engines.scheduling.rows import ROWS_THAT_PAY, Rows, asking, rows_that_pay
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import (
    BaseEngineSettings,
    ModelEngineSettings,
    ModelSettings,
    Sampling,
    StepRule,
)
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Finish, Key, Problem
from butwait.running.kinds import Kinds
from butwait.running.log import say
from butwait.running.plugins import calling, own_class, wrong


@dataclass(frozen=True)
class EngineKind:
    """A kind of engine.

    Attributes:
        settings: what it takes; ``ModelEngineSettings`` where it runs the recipe's model.
        start: (model, its tokenizer, settings with their capacity, prompt) -> the engine. One with
            a policy of its own gets no tokenizer (None) and has its own as ``tokenizer``.
        wrong_device: of its settings and a ``model.device``, what is wrong with running on that
            device, before anything is loaded; None: nothing, or the weights are elsewhere.
    """

    settings: type[BaseEngineSettings]
    start: Callable[[ModelSettings, Any, Any, PromptSettings], Engine]
    wrong_device: Callable[[Any, str], str | None] = lambda settings, device: None

    @property
    def runs_model(self) -> bool:
        """Whether it runs the recipe's model; else it has a policy of its own."""
        return issubclass(self.settings, ModelEngineSettings)


ENGINES = Kinds("engine", "butwait.engines.kinds", EngineKind)

EngineSettings = Annotated[SerializeAsAny[BaseEngineSettings], BeforeValidator(ENGINES.parse)]


class LoadedEngine(NamedTuple):
    """An engine, the policy's tokenizer, and the tokens of its longest path (None: no bound)."""

    engine: Engine
    tokenizer: Any
    capacity: int | None


def load_engine(
    settings: EngineSettings,
    model: ModelSettings,
    prompt: PromptSettings,
    problems: Sequence[Problem],
    rules: Iterable[StepRule],
) -> LoadedEngine:
    """Starts the engine with room for these problems' prompts and for paths by these rules.

    Raises UserError for a model that cannot be found or read, an engine that is not installed or
    a server that does not answer.
    """
    start: Callable[..., Any] = ENGINES.of(settings).start
    if ":" in settings.kind:
        start = partial(start_plugin, settings.kind, start)
    tokenizer, capacity = None, None
    if isinstance(settings, ModelEngineSettings):
        from butwait.engines.models import load_tokenizer

        tokenizer = load_tokenizer(model)
        fit = with_capacity(settings, tokenizer, prompt, problems, rules)
        settings, capacity = fit, fit.capacity
    told = settings.model_dump(mode="json", exclude_none=True, exclude={"kind"})
    say(f"  engine {settings.kind}: {_model(model, settings)}{told}", logging.DEBUG)
    engine: Any = start(model, tokenizer, settings, prompt)
    tokenizer = tokenizer or engine.tokenizer
    return LoadedEngine(_scheduled(engine, settings, capacity), tokenizer, capacity)


def _scheduled(engine: Any, settings: BaseEngineSettings, capacity: int | None) -> Engine:
    """The engine behind the gate that its settings ask for; its rows know their number."""
    if isinstance(rows := getattr(engine, "rows", None), Rows):
        rows.pays = rows_that_pay(settings, rows.pays)
    asked = settings.live_tokens
    if asked is None:
        return engine
    if asked != "auto":
        return GatedEngine(engine, TokenGate(asked))
    where = f"the engine {settings.kind}"
    gate, watch = TokenGate(None), None
    own = engine._engine if isinstance(engine, PluginEngine) else engine
    if capacity is not None and isinstance(own, TellsLoad):
        watch = Watch(gate, own, capacity, where)
    else:
        say(f"  {where} {TELLS_NOTHING}", logging.WARNING)
    return GatedEngine(engine, gate, watch=watch)


def with_capacity(
    settings: Any,
    tokenizer: Any,
    prompt: PromptSettings,
    problems: Sequence[Problem],
    rules: Iterable[StepRule],
) -> Any:
    """The settings of an engine that runs the recipe's model, with room for these problems' prompts
    and for paths by these rules, unless they say how much themselves."""
    if settings.capacity is not None:
        return settings
    longest = max(len(encode(tokenizer, messages(p, prompt), prompt)) for p in problems)
    capacity = longest + max(rule.max_tokens for rule in rules)
    return settings.model_copy(update={"capacity": capacity})


def _model(model: ModelSettings, settings: BaseEngineSettings) -> str:
    """What is known of the weights before they are loaded; nothing where they are elsewhere."""
    if not isinstance(settings, ModelEngineSettings):
        return ""
    return f"{model.name}, {model.dtype}, device {model.device}, "


def start_plugin(name: str, start: Callable[..., Any], *args: Any) -> "PluginEngine":
    """The engine that a user's own function starts. UserError where it fails or gives none."""
    with calling(name, "its start"):
        engine = start(*args)
    lacks = [part for part in _NEEDED if not hasattr(engine, part)]
    if lacks:
        raise wrong(name, "its start", engine, f"an engine, which has {', '.join(lacks)}")
    return PluginEngine(name, engine)


def watched(engine: Engine) -> Engine:
    """An engine as it is, or one of a program's own with what it says looked at."""
    name = own_class(engine, ScriptedEngine)
    return engine if name is None else PluginEngine(name, engine)


_LARGEST_ID = np.iinfo(np.int32).max
_NEEDED = ("start", "extend", "release", "close", "turn", "counters")


class PluginEngine(Engine):
    """An ``Engine`` of a user's own: what it raises, and what is no answer, is a UserError.

    Args:
        name: of the plugin, as in the recipe, or of its class.
        engine: what it started. Rows of its own are counted by itself.
    """

    def __init__(self, name: str, engine: Any) -> None:
        self.counters = engine.counters
        own = getattr(engine, "rows", None)
        self._counts = not isinstance(own, Rows)
        self.rows = own if isinstance(own, Rows) else Rows(ROWS_THAT_PAY["cpu"])
        self._name, self._engine = name, engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def turn(self) -> Engine:
        with calling(self._name, "turn"):
            turn = PluginEngine(self._name, self._engine.turn())
        if self._counts:
            turn.rows = self.rows
        return turn

    def start(self, problem: Problem) -> Prefix:
        with calling(self._name, "start"):
            prefix = self._engine.start(problem)
        if not isinstance(prefix, Prefix) or not _are_ids(prefix.token_ids):
            raise wrong(self._name, "start", prefix, "a Prefix with its token ids, int32 (n,)")
        return prefix

    def encode(self, text: str) -> np.ndarray:
        with calling(self._name, "encode"):
            ids = self._engine.encode(text)
        if not _are_ids(ids):
            raise wrong(self._name, "encode", ids, "token ids, int32 (n,)")
        return ids

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        with calling(self._name, "token_characters"):
            found = token_characters(self._engine, token_ids, text)
        if found is not None and not _are_characters(found, token_ids, text):
            meant = f"int32 ({len(token_ids)},), none below 0, with the sum {len(text)}, or None"
            raise wrong(self._name, "token_characters", found, meant)
        return found

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        with self._asking(len(prefixes)), calling(self._name, "extend", awaited=True):
            steps = await self._engine.extend(prefixes, rule, sampling, keys)
        if not isinstance(steps, Sequence) or len(steps) != len(prefixes):
            meant = f"a list of {len(prefixes)} Continuations, one a prefix"
            raise wrong(self._name, "extend", steps, meant)
        for prefix, step in zip(prefixes, steps, strict=True):
            if not isinstance(step, Continuation) or not isinstance(step.prefix, Prefix):
                raise wrong(self._name, "extend", step, "a Continuation with its prefix")
            if not _are_ids(step.token_ids) or not _are_logprobs(step.logprobs, step.token_ids):
                meant = "token ids, int32 (n,), with log-probabilities, float32 (n,), none NaN"
                raise wrong(self._name, "extend", step, meant)
            if not np.isfinite(step.logprobs).all():
                meant = "the log-probabilities of tokens that were drawn, none infinite"
                raise wrong(self._name, "extend", step, meant)
            if not _goes_on(step.prefix, prefix, step.token_ids):
                meant = "as prefix the one that was given and the step's tokens (prefix.extended)"
                raise wrong(self._name, "extend", step, meant)
            if step.finish not in get_args(Finish) or not isinstance(step.text, str):
                meant = f"a text and a finish ({', '.join(get_args(Finish))})"
                raise wrong(self._name, "extend", step, meant)
        return list(steps)

    @contextmanager
    def _asking(self, paths: int) -> Iterator[None]:
        """Counts the rows of an engine that does not by itself."""
        if not self._counts:
            yield
            return
        self.rows.add(paths)
        try:
            with asking(paths):
                yield
        finally:
            self.rows.add(-paths)

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        with calling(self._name, "score", awaited=True):
            scores = await self._engine.score(prefixes, continuations)
        meant = "log-probabilities, float32 (n,), none NaN, for every continuation"
        if not isinstance(scores, Sequence) or len(scores) != len(continuations):
            raise wrong(self._name, "score", scores, meant)
        if not all(map(_are_logprobs, scores, continuations)):
            raise wrong(self._name, "score", scores, meant)
        return list(scores)

    def release(self, prefixes: Sequence[Prefix]) -> None:
        with calling(self._name, "release"):
            self._engine.release(prefixes)

    async def close(self) -> None:
        with calling(self._name, "close", awaited=True):
            await self._engine.close()


def _are_ids(ids: Any) -> bool:
    """Whether these can be tokens. How many there are is known to the engine alone."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        return False
    return not len(ids) or bool(ids.min() >= 0 and ids.max() <= _LARGEST_ID)


def _are_logprobs(logprobs: Any, ids: np.ndarray) -> bool:
    numbers = isinstance(logprobs, np.ndarray) and logprobs.dtype.kind == "f"
    if not numbers or logprobs.shape != ids.shape or bool(np.isnan(logprobs).any()):
        return False
    return not bool((logprobs == np.inf).any())  # minus infinity: a token that cannot come


def _goes_on(longer: Prefix, path: Prefix, ids: np.ndarray) -> bool:
    """Whether a prefix is a path and these tokens after it."""
    told = longer.token_ids
    return (
        _are_ids(told)
        and longer.prompt_length == path.prompt_length
        and np.array_equal(told[: len(path.token_ids)], path.token_ids)
        and np.array_equal(told[len(path.token_ids) :], ids)
    )


def _are_characters(found: Any, ids: np.ndarray, text: str) -> bool:
    return (
        _are_ids(found)
        and found.shape == ids.shape
        and bool((found >= 0).all())
        and int(found.sum()) == len(text)
    )
