"""From settings to an engine. A kind of engine is one record in one module (``engines.kinds``, or
anyone's own): its settings, and how it is started."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, SerializeAsAny

from butwait.engines.engine import Engine
from butwait.engines.gate import GatedEngine, TokenGate
from butwait.engines.settings import (
    BaseEngineSettings,
    ModelEngineSettings,
    ModelSettings,
    StepRule,
)
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.running.kinds import Kinds


@dataclass(frozen=True)
class EngineKind:
    """A kind of engine.

    Attributes:
        settings: what it takes; ``ModelEngineSettings`` where it runs the recipe's model.
        start: (model, its tokenizer, settings with their capacity, prompt) -> the engine. One with
            a policy of its own gets no tokenizer (None) and has its own as ``tokenizer``.
    """

    settings: type[BaseEngineSettings]
    start: Callable[[ModelSettings, Any, Any, PromptSettings], Engine]

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
    start = ENGINES.of(settings).start
    tokenizer, capacity = None, None
    if isinstance(settings, ModelEngineSettings):
        from butwait.engines.models import load_tokenizer

        tokenizer, capacity = load_tokenizer(model), settings.capacity
        if capacity is None:
            longest = max(len(encode(tokenizer, messages(p, prompt), prompt)) for p in problems)
            capacity = longest + max(rule.max_tokens for rule in rules)
            settings = settings.model_copy(update={"capacity": capacity})
    engine: Any = start(model, tokenizer, settings, prompt)
    tokenizer = tokenizer or engine.tokenizer
    if settings.live_tokens is not None:
        engine = GatedEngine(engine, TokenGate(settings.live_tokens))
    return LoadedEngine(engine, tokenizer, capacity)
