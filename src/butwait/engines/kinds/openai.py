"""A server that speaks OpenAI's protocol."""

from typing import Annotated, Any, Literal

from pydantic import Field

from butwait.engines.engine import Engine
from butwait.engines.load import EngineKind
from butwait.engines.settings import ModelEngineSettings, ModelSettings, ServerSettings
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.records.settings import Resource, Result


class OpenAISettings(ModelEngineSettings, ServerSettings):
    """A server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, a hosted one."""

    kind: Literal["openai"]
    served_model: Result[str | None] = None
    """The model's name at the server; None: the recipe's ``model.name``."""
    mode: Result[Literal["auto", "completions", "chat"]] = "auto"
    """``completions`` sends token ids; ``chat`` sends messages and asks to continue the last one;
    ``auto`` asks the server what it takes."""
    max_rows: Resource[Annotated[int, Field(gt=0)]] = 256
    """Requests in flight at a time, at each server."""
    seeds: Result[bool] = True
    """Send the seed of its key with each request. Without, the server draws as it likes, which
    takes vLLM on a CPU less time (``docs/how_to/server.md``)."""
    any_logprobs: Result[bool] = False
    """Take log-probabilities before temperature, top-k and top-p where the server has no others;
    else it is an error to sample in such a way there."""


def start_openai(
    model: ModelSettings, tokenizer: Any, settings: OpenAISettings, prompt: PromptSettings
) -> Engine:
    """The engine; the server is asked at the first step. Raises UserError for a chat where the
    prompt is none."""
    from butwait.engines.models import checkpoint_eos_token_ids
    from butwait.engines.openai import OpenAIEngine
    from butwait.engines.servers.fleet import Fleet
    from butwait.engines.servers.metrics import MetricsPages

    if settings.mode == "chat" and prompt.style != "chat":
        raise UserError("engine.mode: chat needs prompt.style: chat")
    governed = settings.live_tokens == "auto"
    return OpenAIEngine(
        tokenizer,
        prompt,
        checkpoint_eos_token_ids(model, tokenizer),
        Fleet(settings, settings.max_rows, "engine.base_url"),
        settings.served_model or model.name,
        settings.capacity,
        mode=settings.mode,
        seeds=settings.seeds,
        any_logprobs=settings.any_logprobs,
        metrics=MetricsPages(settings, settings.urls) if governed else None,
    )


OPENAI = EngineKind(OpenAISettings, start_openai)
