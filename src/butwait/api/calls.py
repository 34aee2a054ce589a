"""What the functions that make stages share: whose run and model is meant."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from butwait.api.finished import Finished
from butwait.api.growing import Call, in_run, run_of
from butwait.api.question import (
    MODEL,
    Given,
    Judge,
    Model,
    judge_content,
    shared_content,
    tell_prompt_taken,
)
from butwait.engines.engine import Engine
from butwait.records import UserError

RunDir = str | Path | Finished
"""A run's folder, or a handle whose run and recipe are gone on with."""


def call_of(
    function: str,
    kind: str,
    model: Model | None,
    run_dir: RunDir | None,
    seed: int | None,
    prompt: Given | None,
    engine: str | Given | Engine | None,
    *,
    inputs: Sequence[Finished] = (),
    reward_model: Judge | None = None,
    samplers: Sequence[dict[str, Any]] = (),
    settings: Mapping[str, Any],
    **more: Any,
) -> Call:
    """A call whose model is one of the run, or begins it."""
    if isinstance(engine, Engine):
        raise UserError(
            f"{function}: engine: an object cannot be written into a recipe, which a stage on disk "
            "needs; give its settings, {'kind': 'module:NAME'} of your own (docs/how_to/index.md)"
        )
    trained = [handle for handle in (model, reward_model) if isinstance(handle, Finished)]
    run = run_of(run_dir, [*trained, *inputs])
    sources = [*(handle for handle in trained if in_run(handle, run)), *inputs]
    if isinstance(reward_model, Finished) and in_run(reward_model, run):
        reward_model = None
    elif judge := judge_content(reward_model, list(samplers), stored=True):
        settings = dict(settings) | {"reward_model": judge}
    whose = run_dir if isinstance(run_dir, Finished) else next(iter(sources), None)
    begun = shared_content(
        MODEL if model is None else model, seed or 0, prompt, engine, stored=True
    )
    if whose is None:  # else the prompt is that run's
        tell_prompt_taken(MODEL if model is None else model, prompt)
    own = model is not None and not (isinstance(model, Finished) and in_run(model, run))
    named = {"model": own, "seed": seed is not None, "prompt": prompt is not None}
    named["engine"] = engine is not None
    shared = {key: begun[key] for key, given in named.items() if given and key in begun}
    return Call(
        function=function,
        kind=kind,
        inputs=sources,
        settings=settings,
        shared=shared if whose is not None else {},
        begun=begun,
        run_dir=run if run_dir is None else run_dir,
        **more,
    )


def arguments(function: Callable[..., Any]) -> list[str]:
    """Its arguments' names, without those that stand for settings of the stage."""
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def model_meant(model: Model | None, run_dir: RunDir | None) -> Model:
    """The model whose prompt and step are meant."""
    if model is None and isinstance(run_dir, Finished):
        own: Given = run_dir.content["model"]
        return own
    return MODEL if model is None else model


def handles_in(source: Any) -> list[Finished] | None:
    """The handles, where these are what was given."""
    if isinstance(source, Finished):
        return [source]
    several = isinstance(source, list | tuple) and bool(source)
    return list(source) if several and all(isinstance(s, Finished) for s in source) else None


def type_of(value: Any) -> str:
    return f"a {type(value).__name__}"
