"""From a YAML file and ``--set`` words to a checked recipe; every mistake is one sentence."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import StageKind
from butwait.records import UserError
from butwait.running.kinds import Kinds


def load_recipe(
    name_or_path: str, kinds: Kinds[StageKind], overrides: Sequence[str] = ()
) -> Recipe:
    """The recipe at a path, or the shipped recipe of that name.

    ``extends: NAME`` (or a list of names) takes other recipes as the beginning: mappings are
    joined key by key, and what stands in the recipe itself, or later in the list, wins. ``name``
    is not taken over.

    Args:
        name_or_path: ``recipes/quickstart.yaml``, ``./mine.yaml``, or ``quickstart``.
        kinds: of stage.
        overrides: ``a.b=c`` words; ``c`` is read as YAML. They must name keys that exist or that
            the recipe's settings know.

    Raises:
        UserError: no such recipe, broken YAML, an unknown key, a value of the wrong type, recipes
            that extend each other.
    """
    path = find_recipe(name_or_path)
    content = _read(path, ())
    for word in overrides:
        _override(content, word)
    content.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(content, context=kinds)
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
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def _read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """The content of a recipe's file on top of what it extends. ``children`` extend it."""
    if path in children:
        raise UserError(f"{path} extends itself (by way of {children[-1]})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no recipe: a mapping with `model` and `stages` is expected")
    parents = content.pop("extends", [])
    names = [parents] if isinstance(parents, str) else parents
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: `extends` must name a recipe, or a list of them")
    whole: dict[str, Any] = {}
    for name in names:
        parent = _read(find_recipe(name), (*children, path))
        parent.pop("name", None)
        whole = _joined(whole, parent)
    return _joined(whole, content)


def _joined(below: Any, above: Any) -> Any:
    """``above`` on top of ``below``: mappings key by key, everything else replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _joined(below.get(key), value) for key, value in above.items()}


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
    first, *others = error.errors()
    where = ".".join(_place(content, first["loc"]))
    # A stage with seeds has the same mistakes in all of its copies.
    elsewhere = {".".join(_place(content, other["loc"])) for other in others} - {where}
    more = f" (and {len(elsewhere)} more)" if elsewhere else ""
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key `{where}`; remove it or mend its spelling{more}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{path}: `{where}`: {what[0].lower()}{what[1:]}{more}" if where else f"{path}: {what}"


def _place(content: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys of a place as the user wrote them: without the tags that pydantic puts in for the
    kinds of a union, and a stage's own name in place of that of its copy."""
    kept = []
    for part in location:
        if isinstance(content, dict) and part not in content:
            if content.get("kind") == part:
                continue
            written = str(part).rpartition("-")[0]
            part = written if written in content else part
        kept.append(str(part))
        inside = isinstance(content, dict) or (isinstance(content, list) and isinstance(part, int))
        try:
            content = content[part] if inside else None
        except (KeyError, IndexError):
            content = None
    return kept
