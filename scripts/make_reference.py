"""Writes docs/reference.md: the command line, and every recipe key from its own docstring.

python scripts/make_reference.py            # write it
python scripts/make_reference.py --check    # exit 1 if it is not up to date
"""

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from butwait.cli.main import app
from butwait.recipe.recipe import Recipe, of_its_kind
from butwait.running.kinds import Kinds
from butwait.stages.kinds import STAGES

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"

HEAD = """# Reference

Written by `scripts/make_reference.py` from the code; `make docs-check` fails when it is stale.

Every command also takes `-v` and `-q`. Keys that several settings share stand once, where those
link to.

"""


def reference() -> str:
    """The whole page."""
    return HEAD + _commands() + _recipe()


def _commands() -> str:
    lines = ["## Command line", ""]
    group = typer.main.get_command(app)
    commands = {"butwait": group} | {
        f"butwait {name}": command
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    for name, command in commands.items():
        lines += [f"### `{name}`", "", str(command.help), "", "| | |", "| --- | --- |"]
        for parameter in command.params:
            if name != "butwait" and parameter.name in ("verbose", "quiet"):
                continue  # of every command
            names = " ".join(f"`{o}`" for o in parameter.opts)
            needed = " (required)" if parameter.required else ""
            lines.append(f"| {names} | {getattr(parameter, 'help', '') or ''}{needed} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _recipe() -> str:
    parts = ["## Recipes", "", "A recipe is a YAML file with these keys.", ""]
    seen: list[type[BaseModel]] = [Recipe]
    for model in seen:
        for field in model.model_fields.values():
            models = _models(_annotation(field))
            seen += [m for m in models if m not in seen]
    shared = _shared(seen)
    for model in seen:
        parts.append(_section(model, shared))
    parts += [_section(base, shared) for base in shared if base not in seen]
    return "\n".join(parts)


def _shared(models: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """Classes with keys of their own that several of ``models`` derive from: theirs stand there
    once."""
    heirs = Counter(base for model in models for base in model.__mro__[1:] if _own(base))
    return [base for base, n in heirs.items() if n > 1 and not base.__name__.startswith("_")]


def _own(model: type) -> set[str]:
    """The keys that a class adds."""
    if not issubclass(model, BaseModel):
        return set()
    return (model.model_fields.keys() & inspect.get_annotations(model).keys()) - {"kind"}


def _inherited(model: type[BaseModel], shared: list[type[BaseModel]]) -> dict[str, str]:
    """Keys that are as in a shared class, and whose."""
    found: dict[str, str] = {}
    for base in model.__mro__[1:]:
        for name in _own(base) if base in shared else ():
            field = model.model_fields[name]
            if name not in found and _row(name, field) == _row(name, base.model_fields[name]):
                found[name] = base.__name__
    return found


def _section(model: type[BaseModel], shared: list[type[BaseModel]]) -> str:
    kind = model.model_fields.get("kind")
    named = kind is not None and get_args(kind.annotation)
    title = model.__name__ + (f" (`kind: {_kind(kind.annotation)}`)" if named else "")
    summary = " ".join((model.__doc__ or "").split())
    elsewhere = _inherited(model, shared)
    rows = [
        _row(name, field)
        for name, field in model.model_fields.items()
        if name != "kind" and name not in elsewhere
    ]
    lines = [f"### {title}", "", summary, ""]
    if elsewhere:
        others = ", ".join(f"[{o}](#{o.lower()})" for o in dict.fromkeys(elsewhere.values()))
        lines += [f"{'Also the' if rows else 'The'} keys of {others}.", ""]
    if rows:
        lines += ["| key | type | default | |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    kind = _type(_annotation(field))
    return f"| `{field.alias or name}` | {kind} | {_default(field)} | {text} |"


def _kind(annotation: Any) -> str:
    return str(get_args(annotation)[0])


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value in ((), {}, []):
        return "empty"
    return f"`{value!r}`".replace("|", "\\|")


def _annotation(field: Any) -> Any:
    """A field's type with its marks, which pydantic keeps apart."""
    return Annotated[field.annotation, *field.metadata, None]


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "none"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if (kinds := _kinds(annotation)) is not None:
        return " or ".join(kind.settings.__name__ for kind in kinds.shipped.values())
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(a) for a in arguments)
    if origin is not None and str(origin).endswith("Literal"):
        return " or ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    return getattr(annotation, "__name__", str(annotation)).replace("Any", "any value")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings in an annotation: of all kinds, where it stands for one of them."""
    kinds = _kinds(annotation)
    if kinds is not None:
        yield from (kind.settings for kind in kinds.shipped.values())
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _kinds(annotation: Any) -> Kinds | None:
    """Whose settings an annotated type stands for; None: it is no kind's."""
    if get_origin(annotation) is not Annotated:
        return None
    held = (getattr(getattr(m, "func", None), "__self__", None) for m in get_args(annotation)[1:])
    found = [kinds for kinds in held if isinstance(kinds, Kinds)]
    if any(getattr(m, "func", None) is of_its_kind for m in get_args(annotation)[1:]):
        found.append(STAGES)
    return found[0] if found else None


if __name__ == "__main__":
    page = reference()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == page else "docs/reference.md is stale")
    TARGET.write_text(page, encoding="utf-8")
