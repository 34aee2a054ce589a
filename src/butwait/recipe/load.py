"""From a YAML file and ``--set`` words to a checked recipe; every mistake is one sentence."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from butwait.recipe.misfits import LackingError, MisfitError, MisfitsError
from butwait.recipe.recipe import Recipe
from butwait.recipe.seeds import with_copies
from butwait.recipe.shipped import shipped_recipes
from butwait.recipe.stages import StageKind
from butwait.recipe.written import (
    Written,
    Wrong,
    YamlError,
    parse_written,
    read_written,
)
from butwait.records import UserError
from butwait.running.expected import choices, keys_of, meant, types_at
from butwait.running.files import expanded
from butwait.running.kinds import Kinds
from butwait.running.mistakes import Mistake, in_order, misread, refused
from butwait.running.plugins import find_modules_in

Where = Callable[[tuple[Any, ...]], str]
"""The line, or the ``--set`` word, of a place in a recipe."""


def load_recipe(
    name_or_path: str, kinds: Kinds[StageKind], overrides: Sequence[str] = ()
) -> Recipe:
    """``read_recipe``, without the places."""
    return read_recipe(name_or_path, kinds, overrides)[0]


def read_recipe(
    name_or_path: str, kinds: Kinds[StageKind], overrides: Sequence[str] = ()
) -> tuple[Recipe, Where]:
    """The recipe at a path, or the shipped recipe of that name.

    ``extends: NAME`` (or a list of names) takes other recipes as the beginning: mappings are
    joined key by key, and what stands in the recipe itself, or later in the list, wins. ``name``
    is not taken over. A NAME is a path from the folder of the recipe that says it, or that of a
    shipped recipe. Modules are found beside all of these recipes.

    With it come the places in its file, for mistakes that are found later.

    Args:
        name_or_path: ``recipes/quickstart.yaml``, ``./mine.yaml``, or ``quickstart``.
        kinds: of stage.
        overrides: ``a.b=c`` words; ``c`` is read as YAML. They must name keys that exist or that
            the recipe's settings know.

    Raises:
        UserError: no such recipe, broken YAML, an unknown key, a value of the wrong type, recipes
            that extend each other. All mistakes are told, each in a line of its own that names the
            file and the line, or the ``--set`` word, that it comes from.
    """
    path, wrong = find_recipe(name_or_path), Wrong()
    text = _read_with_modules(path, wrong)
    changed = _with_overrides(text, overrides, wrong)
    recipe, mistakes = _checked(changed, path, kinds)
    if recipe is not None and not wrong:
        return recipe, lambda place: changed.at(_as_written(changed, place)).origin

    @cache
    def without(word: str) -> set[Mistake]:
        others = [other for other in overrides if other != word]
        return set(_checked(_with_overrides(text, others, Wrong()), path, kinds)[1])

    def blamed(mistake: Mistake) -> str:
        """The line or word that a mistake comes from: a word without which it would not be."""
        origin = changed.at(mistake.place).origin
        if not origin.startswith("--set"):
            for word in overrides:
                if mistake not in without(word):
                    return f"--set {word}"
        return origin

    told = [(blamed(mistake), mistake.sentence) for mistake in mistakes]
    raise UserError("\n".join(in_order([*wrong, *told])))


def settable(name_or_path: str, dotted: str, kinds: Kinds[StageKind]) -> list[str]:
    """What may follow ``--set`` and begins with ``dotted``: keys, those of a section with a dot
    behind them and others with ``=``; behind that, the words that a key takes. Of a recipe that
    cannot be read, the keys that any has."""
    try:
        content = _read_with_modules(find_recipe(name_or_path), Wrong()).plain()
    except UserError:
        content = {}
    usual = Recipe.model_fields["engine"].get_default(call_default_factory=True)
    if isinstance(engine := content.setdefault("engine", {}), dict):
        engine.setdefault("kind", usual.kind)
    keys, sign, begun = dotted.partition("=")
    if sign:
        types = types_at(Recipe, keys.split("."), content, kinds)
        words = choices(types) + ["true", "false"] * (bool in _plain_types(types))
        return [f"{keys}={word}" for word in dict.fromkeys(words) if word.startswith(begun)]
    *place, begun = keys.split(".")
    while True:
        held = _held(content, place)
        types = types_at(Recipe, place, content, kinds)
        known = [*keys_of(types, held, kinds), *(held if isinstance(held, dict) else ())]
        fitting = [str(key) for key in dict.fromkeys(known) if str(key).startswith(begun)]
        below = {
            key: isinstance(_held(content, [*place, key]), dict)
            or bool(keys_of(types_at(Recipe, [*place, key], content, kinds), None, kinds))
            for key in fitting
        }
        if len(fitting) != 1 or not below[fitting[0]]:
            return [".".join([*place, key]) + ("." if below[key] else "=") for key in fitting]
        place, begun = [*place, *fitting], ""  # a shell would end the word behind the only one


def _held(content: Any, place: Sequence[str]) -> Any:
    for key in place:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _plain_types(types: Sequence[Any]) -> Iterator[Any]:
    for each in types:
        inner = get_args(each)
        yield each
        yield from _plain_types([one for one in inner if not isinstance(one, str)])


def checked_recipe(content: dict[str, Any], kinds: Kinds[StageKind], origin: str) -> Recipe:
    """A recipe that a program wrote. What it ``extends`` is a path from the current folder, or a
    shipped recipe. UserError tells all mistakes, each with ``origin``."""
    wrong, files = Wrong(), list[Path]()
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    written = parse_written(text, origin, wrong, lines=False)
    written = _extended(written, (), wrong, files)
    find_modules_in([file.parent for file in files])
    recipe, mistakes = _checked(written, Path(str(content["name"])), kinds)
    if recipe is None or wrong:
        raise UserError("\n".join(in_order([*wrong, *((origin, m.sentence) for m in mistakes)])))
    return recipe


def find_recipe(name_or_path: str, child: Path | None = None) -> Path:
    """The file of a recipe: a path as given, or from the folder of the ``child`` that extends it;
    else a shipped recipe's name."""
    if "\n" in name_or_path:
        raise UserError(
            "this is the text of a recipe, and a file or a name is asked for: write it to a file, "
            "or give what yaml.safe_load makes of it"
        )
    path = Path(name_or_path) if child is None else child.parent / expanded(name_or_path)
    if os.path.isfile(path):  # a text may be longer than a name can be
        return path
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    if os.path.isdir(path):
        raise UserError(f"{name_or_path!r} is a folder, and a recipe is a YAML file")
    if child is not None and os.path.isfile(name_or_path):
        there = os.path.relpath(name_or_path, child.parent)
        raise UserError(
            f"there is no {name_or_path!r} where this recipe is, from whose folder a path is "
            f"taken; write {there!r}"
        )
    raise UserError(
        f"there is no recipe {name_or_path!r}: give a file, or one of the shipped recipes "
        f"({', '.join(sorted(shipped))}){meant(name_or_path, list(shipped))}"
    )


def _read_with_modules(path: Path, wrong: Wrong) -> Written:
    """``_read``; from now on modules are found beside the recipe, and those that it extends."""
    files: list[Path] = []
    try:
        return _read(path, (), wrong, files)
    finally:
        find_modules_in([file.parent for file in files])


def _read(path: Path, children: tuple[Path, ...], wrong: Wrong, files: list[Path]) -> Written:
    """The content of a recipe's file on top of what it extends. ``children`` extend it; ``files``
    takes it and those that it extends."""
    if path.resolve() in [child.resolve() for child in children]:
        raise UserError(f"{path} extends itself (by way of {children[-1]})")
    files.append(path)
    content = read_written(path, wrong)
    if not isinstance(content.value, dict):
        raise UserError(f"{path} holds no recipe: a mapping with `model` and `stages` is expected")
    return _extended(content, (*children, path), wrong, files)


def _extended(
    content: Written, children: tuple[Path, ...], wrong: Wrong, files: list[Path]
) -> Written:
    """A recipe's content on top of what it extends. The last of ``children`` is its own file."""
    own = dict(content.value)
    parents = own.pop("extends", Written([], content.origin))
    names = parents.plain()
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{parents.origin}: `extends` must name a recipe, or a list of them")
    whole = Written({}, content.origin)
    for i, name in enumerate(names):
        try:
            parent = find_recipe(name, children[-1] if children else None)
            below = _read(parent, children, wrong, files)
        except YamlError:
            raise
        except UserError as error:
            raise UserError(f"{parents.at([i]).origin}: `extends`: {error}") from error
        taken = {key: held for key, held in below.value.items() if key != "name"}
        whole = Written(taken, below.origin).on_top_of(whole)
    return Written(own, content.origin).on_top_of(whole)


def _with_overrides(content: Written, words: Sequence[str], wrong: Wrong) -> Written:
    """The content with ``--set`` words."""
    for word in words:
        origin = f"--set {word}"
        dotted, sign, text = word.partition("=")
        if not sign or not dotted:
            wrong.append((origin, "this is not of the form a.b=c; say e.g. --set seed=1"))
            continue
        try:
            value = parse_written(text, origin, wrong, lines=False)
        except YamlError as error:
            told = str(error).removeprefix(f"{origin}: ")
            wrong.append((origin, f"{text!r} is not a YAML value: {told}"))
            continue
        if value.value is None:
            value = Written(None, origin)
        keys = dotted.split(".")
        if keys[0] == "extends":
            wrong.append((origin, "`extends` is a word of a recipe's file alone; write it there"))
            continue
        lacking = _no_section(content, keys[:-1])
        if lacking is not None:
            wrong.append((origin, f"{lacking!r} is not a section of the recipe"))
            continue
        for key in reversed(keys):
            value = Written({key: value}, origin)
        content = _set(content, keys, value)
    return content


def _no_section(content: Written, keys: Sequence[str]) -> str | None:
    """The first of the keys that stands for something else than a mapping."""
    place: Written | None = content
    for key in keys:
        place = None if place is None else place.value.get(key)
        if place is not None and not isinstance(place.value, dict):
            return key
    return None


def _set(content: Written, keys: Sequence[str], value: Written) -> Written:
    """``content`` with one value replaced; ``value`` is wrapped in the keys that lead to it."""
    key, *rest = keys
    inner = value.value[key]
    below = content.value.get(key)
    if rest and below is not None:
        inner = _set(below, rest, inner)
    return Written(content.value | {key: inner}, content.origin)


def _as_written(content: Written, place: tuple[Any, ...]) -> tuple[Any, ...]:
    """A place with a stage's own name in place of that of its copy."""
    if len(place) < 2 or place[0] != "stages":
        return place
    stages = content.at(["stages"]).value
    name = str(place[1]).rpartition("-")[0]
    if isinstance(stages, dict) and place[1] not in stages and name in stages:
        return ("stages", name, *place[2:])
    return place


def _checked(
    written: Written, path: Path, kinds: Kinds[StageKind]
) -> tuple[Recipe | None, list[Mistake]]:
    """The recipe, or None and its mistakes."""
    content = written.plain()
    content.setdefault("name", path.stem)
    found: list[Mistake] = []
    recipe = None
    try:
        content = with_copies(content, kinds)
    except MisfitError as misfit:
        found.append(Mistake(misfit.place, str(misfit), None))
        content = content | {"stages": {n: _once(s) for n, s in content["stages"].items()}}
    try:
        recipe = Recipe.model_validate(content, context=kinds)
    except ValidationError as error:
        found += refused(
            Recipe, content, error, kinds, lambda p: written.at(_as_written(written, p)).text
        )
        found += _misfits_of_the_rest(content, error, kinds)
    found += misread(Recipe, content, kinds)
    if recipe is not None and not found:
        return recipe, []
    told = [Mistake(_as_written(written, m.place), m.what, m.before) for m in found]
    return None, [m for m in dict.fromkeys(told) if not written.at(m.place).refused]


def _once(stage: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stage.items() if key != "seeds"}


def _misfits_of_the_rest(
    content: dict[str, Any], error: ValidationError, kinds: Kinds[StageKind]
) -> list[Mistake]:
    """What does not fit between the parts that are valid by themselves. What is said to be lacking
    because it is not valid is left out."""
    broken: dict[str, set[Any]] = {"stages": set(), "problems": set()}
    for each in error.errors(include_url=False):
        key, *below = each["loc"] or ("",)
        if key in broken and below:
            broken[str(key)].add(below[0])
        elif not key or key in broken:
            return []
    rest: dict[str, Any] = {"name": content["name"], "model": {"name": "any"}}
    for key, names in broken.items():
        held = content.get(key)
        if not isinstance(held, dict):
            return []
        rest[key] = {name: value for name, value in held.items() if name not in names}
    try:
        Recipe.model_validate(rest, context=kinds)
    except ValidationError as other:
        causes = (each.get("ctx", {}).get("error") for each in other.errors(include_url=False))
        misfits = [m for cause in causes if isinstance(cause, MisfitsError) for m in cause.found]
        known = broken["stages"] | broken["problems"]
        whole = (
            m.among([str(key) for key in content[m.section]]) if isinstance(m, LackingError) else m
            for m in misfits
            if m.lacks not in known
        )
        return [Mistake(m.place, str(m), None) for m in whole]
    return []
