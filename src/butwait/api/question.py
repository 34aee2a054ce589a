"""The recipe of one search, from a few words: models by name with what suits them, methods by
name. Imports no torch."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

from butwait.api.finished import TrainedModel, TrainedRewardModel
from butwait.api.objects import Verifier, plain, verifier_place
from butwait.api.origins import first_of, origin_of, tell_prompt
from butwait.engines.engine import Engine
from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.reward_model import RewardModel
from butwait.running.expected import meant
from butwait.search.settings import SAMPLERS, Sampler

Given = Mapping[str, Any] | Settings
"""Settings as a recipe writes them, or parsed."""
Method = str | Given | Sampler
"""A sampler by name, by its settings, or the record of one's own."""
Model = str | os.PathLike[str] | Given | TrainedModel
Judge = str | Given | RewardModel | TrainedRewardModel
Words = Mapping[str, str]
"""Place in a stage, as a recipe has it -> the argument that says it."""

STAGE = "search"
"""The stage's name in the recipe of a single search: a part of the seed of its draws."""
QUESTIONS = "questions"
"""Its problem set's."""
MODEL = "tiny"
"""The model where none is named."""
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
"""Prompt and step of models that were trained for them; all others get what the run that trained
them says, else the recipe's defaults."""
SIZES = ("particles", "beams", "width", "samples")
"""What the samplers call the number of their paths."""


class SearchOptions(TypedDict, total=False):
    """What a search takes beside its questions (``butwait.solve`` says what each is)."""

    model: Model
    method: Method | None
    particles: int | None
    seed: int
    reward_model: Judge | None
    engine: str | Given | Engine | None
    prompt: Given | None
    step: Given | None
    sampling: Given | None
    verifier: Verifier | None


def check_words(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raises UserError for a keyword that the function does not have."""
    for key in given:
        if key not in known:
            raise UserError(
                f"{function} has no argument {key!r}{meant(key, known)} (it has: "
                f"{', '.join(known)})"
            )


def search_recipe(
    problems: Given,
    *,
    model: Model = MODEL,
    method: Method | None = None,
    particles: int | None = None,
    seed: int = 0,
    reward_model: Judge | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    step: Given | None = None,
    sampling: Given | None = None,
    verifier: Verifier | None = None,
) -> dict[str, Any]:
    """The content of the recipe whose stage ``search`` does this. What is named beside ``method``
    wins over what stands in it. Objects (an engine, a reward model) are left out: they cannot be
    written down; a function is named as this process knows it.

    Raises UserError for a method that is none, or that has no number of paths.
    """
    suited = suited_to(model)
    sampler = sampler_content(METHOD if method is None else method, suited, particles=particles)
    sampler = with_rules(sampler, suited, step, sampling)
    stage: dict[str, Any] = {"kind": STAGE, "problems": QUESTIONS, "sampler": sampler}
    if not isinstance(reward_model, RewardModel):
        judge = judge_content(reward_model, [sampler])
        if judge is not None:
            stage["reward_model"] = judge
    shared = shared_content(model, seed, prompt, None if isinstance(engine, Engine) else engine)
    tell_prompt_taken(model, prompt)
    asked = written(problems, "problems")
    if verifier is not None:
        asked["verifier"] = verifier_place(verifier, stored=False)
    return {"name": "one"} | shared | {"problems": {QUESTIONS: asked}, "stages": {STAGE: stage}}


def sampler_content(
    method: Method,
    suited: Mapping[str, Any],
    *,
    particles: int | None = None,
    argument: str = "method",
    stored: bool = False,
) -> dict[str, Any]:
    """A sampler's settings as a recipe writes them, with its number of paths and, where it says
    nothing of steps, those that suit the model. Arguments as of ``search_recipe``."""
    named = isinstance(method, str | Sampler)
    sampler = written({"kind": method} if named else method, argument, stored=stored)
    kind = str(sampler.get("kind"))
    if kind not in SAMPLERS:
        raise UserError(
            f"there is no method {kind!r}{meant(kind, list(SAMPLERS))} "
            f"(there are: {', '.join(SAMPLERS)}, and module:NAME of your own)"
        )
    record = SAMPLERS[kind]
    if particles is not None:
        size = size_of(kind)
        if size is None:
            raise UserError(f"the method {kind} has no number of particles; leave particles out")
        sampler[size] = particles
    rule = dict(suited.get("step", {}))
    if not record.settings.model_fields["step"].default.delimiters:
        rule["delimiters"] = []  # plain samples are one step
    if rule:
        sampler.setdefault("step", rule)
    return sampler


def size_of(kind: str) -> str | None:
    """What a sampler calls its number of paths; None where it has none."""
    fields = SAMPLERS[kind].settings.model_fields
    return next((name for name in SIZES if name in fields), None)


def with_rules(
    sampler: dict[str, Any], suited: Mapping[str, Any], step: Given | None, sampling: Given | None
) -> dict[str, Any]:
    """A sampler's settings with what is named beside them."""
    for name, given in (("step", step), ("sampling", sampling)):
        if given is not None:
            below = sampler.get(name)
            own = below if isinstance(below, dict) else {}
            sampler = sampler | {name: own | written(given, name)}
    return sampler


def judge_content(
    judge: Judge | None, samplers: list[dict[str, Any]], *, stored: bool = False
) -> dict[str, Any] | None:
    """A reward model's settings as a recipe writes them; the policy's own confidence where a
    sampler needs one and none is named."""
    if judge is None:
        needed = any(SAMPLERS[s["kind"]].needs_reward_model for s in samplers)
        return dict(OWN_JUDGE) if needed else None
    if isinstance(judge, TrainedRewardModel):
        policy = judge.content["model"]
        run = {key: policy[key] for key in ("device", "dtype") if key in policy}
        return written(TrainedSettings(model=str(judge.folder), **run), "reward_model")
    if isinstance(judge, str):
        return {"kind": judge}
    if isinstance(judge, RewardModel):
        raise UserError(
            "reward_model: an object cannot be written into a recipe, which a stage on disk needs; "
            "give its settings, {'kind': 'module:NAME'} of your own (docs/how_to/index.md)"
        )
    return written(judge, "reward_model", stored=stored)


def shared_content(
    model: Model,
    seed: int,
    prompt: Given | None,
    engine: str | Given | None,
    *,
    stored: bool = False,
) -> dict[str, Any]:
    """What a recipe says beside its problems and stages. A trained model is prompted, and run, as
    in its own run where nothing else is named."""
    origin = dict(model.content) if isinstance(model, TrainedModel) else {}
    content: dict[str, Any] = {"model": _model_content(model), "seed": plain_seed(seed)}
    suited = suited_to(model).get("prompt")
    prompt = origin.get("prompt", suited) if prompt is None else written(prompt, "prompt")
    if prompt is not None:
        content["prompt"] = dict(prompt)
    if engine is not None:
        server = SERVER | {"base_url": engine}
        own = isinstance(engine, str)
        content["engine"] = server if own else written(engine, "engine", stored=stored)
    elif "engine" in origin:
        content["engine"] = origin["engine"]
    return content


def suited_to(model: Model) -> Mapping[str, Any]:
    """The prompt and the step of a model: its own, or the prompt that its run trained it with and
    the step of the one that it was trained from."""
    if isinstance(model, TrainedModel):
        return suited_to(model.content["model"])
    name = str(_model_content(model).get("name"))
    origin = origin_of(name)
    own = {} if origin is None else {"prompt": origin.prompt}
    return dict(SUITED.get(first_of(name), {})) | own


def tell_prompt_taken(model: Model, prompt: Given | None) -> None:
    """Says which prompt is taken where none is named and the model's folder knows one."""
    if prompt is None and not isinstance(model, TrainedModel):
        tell_prompt(str(_model_content(model).get("name")))


def _model_content(model: Model) -> dict[str, Any]:
    if isinstance(model, TrainedModel):
        kept = {k: v for k, v in model.content["model"].items() if k != "revision"}
        return kept | {"name": str(model.folder)}
    if isinstance(model, str | os.PathLike):
        return {"name": os.fsdecode(model)}
    return written(model, "model")


def plain_seed(seed: int) -> Any:
    """The seed as YAML can hold it: numpy's whole numbers too."""
    return plain(seed, "seed", stored=False)


def written(settings: Any, argument: str, *, stored: bool = False) -> dict[str, Any]:
    """Settings as a recipe writes them. Raises UserError for what is no mapping."""
    if not isinstance(settings, Mapping | Settings):
        told = "settings are a mapping, as a recipe has them"
        raise UserError(f"{argument}: {told}, and this is {settings!r:.60}")
    found: dict[str, Any] = plain(settings, argument, stored=stored)
    return found


@contextmanager
def told_by(function: str, stage: str, words: Words) -> Iterator[None]:
    """Mistakes in what a function wrote for its caller are told by the caller's arguments.

    Args:
        function: the name that sentences begin with.
        stage: its stage's, whose keys are arguments.
        words: place in the stage -> the argument that says it, where that is called otherwise.
    """
    try:
        yield
    except UserError as error:
        told = str(error).replace(f"`stages.{stage}.", "`")
        for place, argument in sorted(words.items(), key=lambda pair: -len(pair[0])):
            told = re.sub(rf"`{re.escape(place)}(?=[.`])", f"`{argument}", told)
        told = re.sub(r"`problems\.[^.`]+\.", "`problems.", told)
        if told == str(error):
            raise
        raise UserError("\n".join(_by(function, line) for line in told.split("\n"))) from error


def _by(function: str, line: str) -> str:
    return line if line.startswith(f"{function}: ") else f"{function}: {line}"


def search_words(sampler: Mapping[str, Any], below: str = "") -> dict[str, str]:
    """``told_by``'s words of a sampler that stands at this place."""
    size = size_of(str(sampler["kind"]))
    words = {f"{below}sampler": "method", f"{below}sampler.step": "step"}
    words[f"{below}sampler.sampling"] = "sampling"
    return words | ({f"{below}sampler.{size}": "particles"} if size else {})
