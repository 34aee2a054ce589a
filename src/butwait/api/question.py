"""The recipe of one search, from a few words: models by name with what suits them, methods by
name. Imports no torch."""

from collections.abc import Mapping
from typing import Any, TypedDict

from butwait.engines.engine import Engine
from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.reward_models.reward_model import RewardModel
from butwait.running.expected import meant
from butwait.search.settings import SAMPLERS

Given = Mapping[str, Any] | Settings
"""Settings as a recipe writes them, or parsed."""

STAGE = "search"
"""The stage's name in the recipe of a single search: a part of the seed of its draws."""
QUESTIONS = "questions"
"""Its problem set's."""
METHOD = "particle_filter"
"""The method where none is named."""
OWN_JUDGE = {"kind": "confidence"}
"""The reward model where a method needs one and none is named: the policy's own confidence."""
SERVER = {"kind": "openai"}
"""The engine that an address stands for."""
SUITED: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "prompt": {"template": "{question}"},
        "step": {"delimiters": ["\n"], "max_tokens": 64},
    },
}
"""Prompt and step of models that were trained for them; all others get the recipe's defaults."""
SIZES = ("particles", "beams", "width", "samples")
"""What the samplers call the number of their paths."""


class SearchOptions(TypedDict, total=False):
    """What a search takes beside its questions (``butwait.solve`` says what each is)."""

    model: str | Given
    method: str | Given | None
    particles: int | None
    seed: int
    reward_model: str | Given | RewardModel | None
    engine: str | Given | Engine | None
    prompt: Given | None
    step: Given | None
    sampling: Given | None


def search_recipe(
    problems: Given,
    *,
    model: str | Given = "tiny",
    method: str | Given | None = None,
    particles: int | None = None,
    seed: int = 0,
    reward_model: str | Given | RewardModel | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    step: Given | None = None,
    sampling: Given | None = None,
) -> dict[str, Any]:
    """The content of the recipe whose stage ``search`` does this. What is named beside ``method``
    wins over what stands in it. Objects (an engine, a reward model) are left out: they cannot be
    written down.

    Raises UserError for a method that is none, or that has no number of paths.
    """
    model = {"name": model} if isinstance(model, str) else written(model)
    suited = SUITED.get(str(model.get("name")), {})
    method = METHOD if method is None else method
    sampler: dict[str, Any] = {"kind": method} if isinstance(method, str) else written(method)
    kind = str(sampler.get("kind"))
    if kind not in SAMPLERS:
        raise UserError(
            f"there is no method {kind!r}{meant(kind, list(SAMPLERS))} "
            f"(there are: {', '.join(SAMPLERS)}, and module:NAME of your own)"
        )
    record = SAMPLERS[kind]
    if particles is not None:
        size = next((name for name in SIZES if name in record.settings.model_fields), None)
        if size is None:
            raise UserError(f"the method {kind} has no number of particles; leave particles out")
        sampler[size] = particles
    rule = dict(suited.get("step", {}))
    if not record.settings.model_fields["step"].default.delimiters:
        rule["delimiters"] = []  # plain samples are one step
    rule = written(sampler.get("step", rule)) | written({} if step is None else step)
    if rule:
        sampler["step"] = rule
    if sampling is not None:
        sampler["sampling"] = written(sampler.get("sampling", {})) | written(sampling)
    stage: dict[str, Any] = {"kind": STAGE, "problems": QUESTIONS, "sampler": sampler}
    if not isinstance(reward_model, RewardModel):
        judge = reward_model
        if judge is None and record.needs_reward_model:
            judge = OWN_JUDGE
        if judge is not None:
            stage["reward_model"] = {"kind": judge} if isinstance(judge, str) else written(judge)
    content: dict[str, Any] = {"name": "one", "model": model, "seed": seed}
    prompt = suited.get("prompt") if prompt is None else written(prompt)
    if prompt is not None:
        content["prompt"] = dict(prompt)
    if engine is not None and not isinstance(engine, Engine):
        server = SERVER | {"base_url": engine}
        content["engine"] = server if isinstance(engine, str) else written(engine)
    return content | {"problems": {QUESTIONS: written(problems)}, "stages": {STAGE: stage}}


def written(settings: Given) -> dict[str, Any]:
    """Settings as a recipe writes them."""
    if isinstance(settings, Settings):
        return settings.model_dump(mode="json", by_alias=True, exclude_unset=True) | (
            {"kind": settings.kind} if hasattr(settings, "kind") else {}
        )
    return dict(settings)
