"""A reward model named on a command line: a trained folder, or a file of settings."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.reward_models.kinds.trained import TrainedSettings, read_prompt
from butwait.reward_models.load import REWARD_MODELS
from butwait.reward_models.settings import RewardModelSettings
from butwait.running import mistakes


def read_settings(path: Path) -> RewardModelSettings:
    """The settings behind a path.

    A folder is a model that a ``prm`` stage trained (``RUN/STAGE`` or ``RUN/STAGE/model``). A
    YAML or JSON file holds reward-model settings, or a recipe in which just one reward model
    stands. Raises UserError for anything else.
    """
    if path.is_dir():
        folder = path / "model" if (path / "model").is_dir() else path
        read_prompt(folder)
        return TrainedSettings(model=str(folder))
    content = _mapping(path)
    found = [content] if "kind" in content else _in_recipe(content)
    if len(found) != 1:
        raise UserError(
            f"{path} names {len(found) or 'no'} reward models; give a file with the settings of "
            "one (`kind: ...`), or the folder of a trained one (RUN/STAGE)"
        )
    try:
        return TypeAdapter(RewardModelSettings).validate_python(found[0])
    except ValidationError as error:
        kind = found[0].get("kind") if isinstance(found[0], dict) else None
        known = isinstance(kind, str) and kind in REWARD_MODELS
        settings = REWARD_MODELS[str(kind)].settings if known else Settings
        told = mistakes.told(settings, found[0], error)
        raise UserError(f"{path}: reward model: {told}") from error


def _in_recipe(content: dict[str, Any]) -> list[Any]:
    stages = content.get("stages")
    places = [content, *(stages.values() if isinstance(stages, dict) else ())]
    found: list[Any] = []
    for place in places:
        given = place.get("reward_model") if isinstance(place, dict) else None
        if given is not None and given not in found:
            found.append(given)
    return found


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"the reward model {path} cannot be read: {reason}; give the folder of a trained one "
            "(RUN/STAGE), or a YAML file of settings (`kind: classifier`, `name: ...`)"
        ) from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{path} is no valid YAML or JSON: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings of a reward model: write `kind: ...`")
    return content
