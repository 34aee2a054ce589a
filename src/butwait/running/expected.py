"""What a settings class takes at a place, in plain words."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from butwait.records import UserError
from butwait.running.kinds import Kinds

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    datetime.date: "a date (2024-07-26)",
    NoneType: "nothing",
}
_SEVERAL = {
    "text": "texts",
    "a whole number": "whole numbers",
    "a number": "numbers",
    "a mapping": "mappings",
}


def types_at(
    settings: type[BaseModel], place: Sequence[Any], content: Any, stages: Kinds[Any] | None
) -> list[Any]:
    """The types that a value may have.

    Args:
        settings: the class of the whole.
        place: keys from there on.
        content: of the whole, which tells kinds.
        stages: the kinds of stage, which a recipe is validated with.
    """
    types: list[Any] = [settings]
    for key in place:
        types = [inner for t in types for inner in _inside(t, key, content, stages)]
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            content = None
    return types


def keys_of(types: Sequence[Any], content: Any, stages: Kinds[Any] | None) -> list[str]:
    """The keys that mappings of these types have."""
    found: dict[str, None] = {}
    for settings in (s for t in types for s in _settings(t, content, stages)):
        fields = settings.model_fields.items()
        found |= dict.fromkeys(field.alias or name for name, field in fields)
    return list(found)


def describe(types: Sequence[Any], stages: Kinds[Any] | None) -> str:
    """What a value of these types is: "a whole number or a list of numbers"."""
    words = list(dict.fromkeys(word for t in types for word in _words(t, stages)))
    if len(words) > 1 and "nothing" in words:
        words.remove("nothing")
    return either(words)


def either(words: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def choices(types: Sequence[Any]) -> list[str]:
    """The words that one may choose among."""
    found: list[str] = []
    for t in types:
        if get_origin(t) is Literal:
            found += [str(value) for value in get_args(t)]
        elif get_origin(t) in (Annotated, Union, UnionType):
            found += choices([a for a in get_args(t) if not isinstance(a, str)])
    return found


def _words(t: Any, stages: Kinds[Any] | None) -> Iterator[str]:
    origin, arguments = get_origin(t), get_args(t)
    if (kinds := _kinds(t, stages)) is not None:
        yield f"a mapping with `kind: {' | '.join(kinds)}`"
    elif origin is Annotated:
        yield from _words(arguments[0], stages)
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _words(argument, stages)
    elif origin is Literal:
        yield either([str(value) for value in arguments])
    elif origin is tuple:
        item = next(iter(_words(arguments[0], stages)), "values")
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        yield f"a list of {count}{_SEVERAL.get(item, item)}"
    elif origin in (dict, Mapping) or (isinstance(t, type) and issubclass(t, BaseModel)):
        yield "a mapping"
    else:
        yield _WORDS.get(t, "another value")


def _inside(t: Any, key: Any, content: Any, stages: Kinds[Any] | None) -> Iterator[Any]:
    """The types of what a value of type ``t`` holds at a key."""
    origin, arguments = get_origin(t), get_args(t)
    if _kinds(t, stages) is not None or (isinstance(t, type) and issubclass(t, BaseModel)):
        for settings in _settings(t, content, stages):
            for name, field in settings.model_fields.items():
                if key in (name, field.alias):
                    yield Annotated[field.annotation, *field.metadata, None]
    elif origin is Annotated:
        yield from _inside(arguments[0], key, content, stages)
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _inside(argument, key, content, stages)
    elif origin is dict:
        yield arguments[1]
    elif origin is tuple and isinstance(key, int):
        yield arguments[0] if arguments[-1] is Ellipsis else arguments[min(key, len(arguments) - 1)]


def _settings(t: Any, content: Any, stages: Kinds[Any] | None) -> Iterator[type[BaseModel]]:
    """The settings classes that a type stands for, as far as the content's ``kind`` chooses."""
    kind = content.get("kind") if isinstance(content, dict) else None
    if (kinds := _kinds(t, stages)) is not None:
        if isinstance(kind, str) and kind in kinds:
            try:
                yield kinds[kind].settings
            except UserError:  # a kind of one's own that cannot be loaded is a mistake of its own
                return
    elif get_origin(t) in (Annotated, Union, UnionType):
        for argument in get_args(t) if get_origin(t) is not Annotated else get_args(t)[:1]:
            yield from _settings(argument, content, stages)
    elif isinstance(t, type) and issubclass(t, BaseModel):
        field = t.model_fields.get("kind")
        own = choices([field.annotation]) if field is not None else []
        if not own or kind is None or kind in own:
            yield t


def _kinds(t: Any, stages: Kinds[Any] | None) -> Kinds[Any] | None:
    """Whose settings an annotated type stands for; None: it is no kind's."""
    if get_origin(t) is not Annotated:
        return None
    for mark in get_args(t)[1:]:
        function = getattr(mark, "func", None)
        if isinstance(held := getattr(function, "__self__", None), Kinds):
            return held
        if getattr(function, "__name__", "") == "of_its_kind":
            return stages
    return None


def nearest(name: object, known: Sequence[str]) -> str | None:
    """The known name that ``name`` may be a slip of."""
    lower = {each.casefold(): each for each in known}
    near = get_close_matches(str(name).casefold(), list(lower), n=1)
    return lower[near[0]] if near else None


def meant(name: object, known: Sequence[str]) -> str:
    """ "; did you mean NAME?" where one of the known names is near, else nothing."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near}?"
