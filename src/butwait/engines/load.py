"""From settings to an engine."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from butwait.engines.engine import Engine
from butwait.engines.gate import GatedEngine, TokenGate
from butwait.engines.settings import EngineSettings, ModelSettings, ScriptedSettings, StepRule
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.running.plugins import load_plugin


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
    if isinstance(settings, ScriptedSettings):
        scripted = load_plugin(settings.script, "engine.script")()
        return LoadedEngine(_gated(scripted, settings), scripted.tokenizer, None)
    from butwait.engines.models import load_tokenizer

    tokenizer = load_tokenizer(model)
    if settings.capacity is None:
        longest = max(len(encode(tokenizer, messages(p, prompt), prompt)) for p in problems)
        capacity = longest + max(rule.max_tokens for rule in rules)
        settings = settings.model_copy(update={"capacity": capacity})
    engine = _start(settings, model, tokenizer, prompt)
    return LoadedEngine(_gated(engine, settings), tokenizer, settings.capacity)


def _gated(engine: Engine, settings: EngineSettings) -> Engine:
    bound = settings.live_tokens
    return engine if bound is None else GatedEngine(engine, TokenGate(bound))


def _start(settings: Any, model: ModelSettings, tokenizer: Any, prompt: PromptSettings) -> Engine:
    # A vendor is imported only where its engine is asked for.
    if settings.kind == "vllm":
        from butwait.engines.vllm import start_vllm

        return start_vllm(model, tokenizer, settings, prompt)
    if settings.kind == "openai":
        from butwait.engines.openai import OpenAIEngine

        return OpenAIEngine(model, tokenizer, settings, prompt)
    from butwait.engines.models import load_causal_lm
    from butwait.engines.transformers import TransformersEngine

    return TransformersEngine(load_causal_lm(model), tokenizer, settings, prompt)
