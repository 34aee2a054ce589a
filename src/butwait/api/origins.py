"""How a model's folder was trained: what its run says beside the weights. Imports no torch."""

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from butwait.running.files import expanded
from butwait.running.identity import SHIPPED
from butwait.running.run_state import read_json
from butwait.running.terminal import heard, visible

logger = logging.getLogger(__name__)


class Origin(NamedTuple):
    """The recipe that a folder's model was trained by.

    Attributes:
        record: the ``stage.json`` that says so.
        model: the name of the model that the run began with.
        prompt: a recipe's ``prompt``.
    """

    record: Path
    model: str
    prompt: Mapping[str, Any]


def origin_of(name: str) -> Origin | None:
    """Of ``RUN/STAGE/model`` and ``RUN/STAGE/epochs/N/model``; None for all other models, and where
    no record says how they were trained."""
    if name in SHIPPED:
        return None
    try:
        folder = expanded(name).resolve()
    except (OSError, ValueError, RuntimeError):  # a zero byte; links in a circle
        return None
    if folder.name != "model":
        return None
    stage = folder.parent
    if stage.parent.name == "epochs":
        stage = stage.parent.parent
    settings = read_json(stage / "stage.json").get("settings")
    recipe = settings.get("recipe") if isinstance(settings, dict) else None
    model, prompt = map(recipe.get, ("model", "prompt")) if isinstance(recipe, dict) else (0, 0)
    if not isinstance(model, dict) or not isinstance(prompt, dict):
        return None
    return Origin(stage / "stage.json", str(model.get("name")), prompt)


def first_of(name: str) -> str:
    """The model that a model was trained from, through all runs that are still there."""
    seen = set()
    while (origin := origin_of(name)) is not None and origin.record not in seen:
        seen.add(origin.record)
        name = origin.model
    return name


def tell_prompt(name: str) -> None:
    """Says, once of each model, that it is asked as its run asked it."""
    if (origin := origin_of(name)) is not None and heard(logging.INFO):
        prompt = repr(origin.prompt.get("template"))
        _say_once(f"{name} is asked with the prompt of its training, {prompt} ({origin.record})")


@cache
def _say_once(line: str) -> None:
    logger.warning("%s", visible(line))  # a program that set up no logging sees it, on stderr
