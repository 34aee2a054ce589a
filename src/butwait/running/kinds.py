"""Kinds of one thing: of stage, sampler, engine, reward model, data builder, problem source.

A kind is one record in one module: its settings, whose field ``kind`` holds its name, and what it
does. Everything else asks the record, so that a new kind is one new file. Kinds that come with
butwait are the records in the modules of one package; anyone's own is ``module:NAME``, the place of
a record, in a recipe's ``kind``.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, get_args

from pydantic_core import PydanticCustomError

from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.running.plugins import load_plugin


class Kind(Protocol):
    """What every record has."""

    @property
    def settings(self) -> type[Settings]:
        """Their field ``kind`` is ``Literal["name"]``, or ``str`` for a record outside butwait."""
        ...


K = TypeVar("K", bound=Kind)
R = TypeVar("R")


class Kinds(Generic[K]):
    """The kinds of one thing.

    Args:
        what: the thing, for sentences ("sampler").
        package: whose modules hold the records, alone or in tuples. They import nothing heavy.
        record: the records' type.
    """

    def __init__(self, what: str, package: str, record: type[K]) -> None:
        self.what, self._package, self._record = what, package, record

    @cached_property
    def shipped(self) -> dict[str, K]:
        """Name -> record, by module and then as written."""
        return {name_of(record): record for record in records_in(self._package, self._record)}

    def __iter__(self) -> Iterator[str]:
        return iter(self.shipped)

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and (":" in kind or kind in self.shipped)

    def __getitem__(self, kind: str) -> K:
        """The record of a kind.

        Raises:
            KeyError: there is none of this name.
            UserError: ``module:NAME`` cannot be imported, or is no such record.
        """
        if ":" not in kind:
            return self.shipped[kind]
        record = load_plugin(kind, f"kind of {self.what}")
        if not isinstance(record, self._record):
            raise UserError(
                f"kind of {self.what}: {kind!r} is a {type(record).__name__} and no "
                f"{self._record.__name__}"
            )
        field = record.settings.model_fields.get("kind")
        if field is None or field.annotation is not str:
            raise UserError(
                f"kind of {self.what}: the settings of {kind!r} need a field `kind: str`"
            )
        return record

    def of(self, settings: Settings) -> K:
        """The record that these settings belong to."""
        return self[settings.kind]  # type: ignore[attr-defined]

    def parse(self, value: Any) -> Any:
        """Settings from a recipe's mapping, by its ``kind``; a pydantic validator. What is settings
        already stays."""
        if isinstance(value, Settings):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            told = f"say which kind of {self.what} it is: kind: {' | '.join(self)}"
            raise PydanticCustomError("kind", "{told}", {"told": told})
        try:
            record = self[value["kind"]]
        except KeyError as error:
            near = get_close_matches(value["kind"], list(self), n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            told = (
                f"{value['kind']!r} is no kind of {self.what}{meant} "
                f"(there are: {', '.join(sorted(self))})"
            )
            raise PydanticCustomError("kind", "{told}", {"told": told}) from error
        except UserError as error:
            raise PydanticCustomError("kind", "{told}", {"told": str(error)}) from error
        return record.settings.model_validate(value)


def name_of(record: Kind) -> str:
    """The name in a record's settings."""
    (name,) = get_args(record.settings.model_fields["kind"].annotation)
    return str(name)


def records_in(package: str, record: type[R]) -> Iterator[R]:
    """The records of this type in the modules of a package, alone or in tuples: by module, and then
    as written."""
    path = importlib.import_module(package).__path__
    for module in sorted(pkgutil.iter_modules(path), key=lambda m: m.name):
        for value in vars(importlib.import_module(f"{package}.{module.name}")).values():
            for held in value if isinstance(value, tuple) else (value,):
                if isinstance(held, record):
                    yield held
