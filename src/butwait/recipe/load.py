"""From a YAML file and ``--set`` words to a checked recipe; every mistake is one sentence."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from butwait.recipe.recipe import Recipe
from butwait.records import UserError


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at a path, or the shipped recipe of that name.

    Args:
        name_or_path: ``recipes/quickstart.yaml``, ``./mine.yaml``, or ``quickstart``.
        overrides: ``a.b=c`` words; ``c`` is read as YAML. They must name keys that exist or that
            the recipe's settings know.

    Raises:
        UserError: no such recipe, broken YAML, an unknown key, a value of the wrong type.
    """
    path = find_recipe(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no recipe: a mapping with `model` and `stages` is expected")
    for word in overrides:
        _override(content, word)
    content.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(path, content, error)) from error


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe: a path as given, else a shipped recipe's name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise UserError(
        f"there is no recipe {name_or_path!r}: give a file, or one of the shipped recipes "
        f"({', '.join(sorted(shipped))})"
    )


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with butwait (in the wheel, or in the checkout)."""
    installed = Path(str(resources.files("butwait"))) / "recipes"
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.rglob("*.yaml"))}


def _override(content: dict[str, Any], word: str) -> None:
    dotted, sign, text = word.partition("=")
    if not sign or not dotted:
        raise UserError(f"--set {word!r} is not of the form a.b=c; say e.g. --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {word!r}: {text!r} is not a YAML value") from error
    *parents, last = dotted.split(".")
    place: Any = content
    for key in parents:
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError(f"--set {word!r}: {key!r} is not a section of the recipe")
    place[last] = value


def _sentence(path: Path, content: Any, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(_place(content, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key `{where}`; remove it or mend its spelling{more}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{path}: `{where}`: {what[0].lower()}{what[1:]}{more}" if where else f"{path}: {what}"


def _place(content: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys of a place, without the tags that pydantic puts in for the kinds of a union."""
    kept = []
    for part in location:
        if isinstance(content, dict) and part not in content and content.get("kind") == part:
            continue
        kept.append(str(part))
        inside = isinstance(content, dict) or (isinstance(content, list) and isinstance(part, int))
        try:
            content = content[part] if inside else None
        except (KeyError, IndexError):
            content = None
    return kept
