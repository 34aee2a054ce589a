"""Every field of every settings class says whether a result depends on it."""

import gc
from pathlib import Path
from typing import Any

from butwait.problems.settings import PromptSettings
from butwait.records.settings import Mark, Settings
from butwait.running.identity import identity, marks
from butwait.running.kinds import Kinds
from butwait.stages.kinds import STAGES


def classes() -> list[type[Settings]]:
    """All settings that butwait has, those of kinds that nothing has asked for yet included."""
    assert list(STAGES)
    known: set[int] = set()
    while new := [o for o in gc.get_objects() if type(o) is Kinds and id(o) not in known]:
        for kinds in new:
            known.add(id(kinds))
            list(kinds)
    found, waiting = set(), [Settings]
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        found |= {cls for cls in below if counts_by_its_fields(cls)}
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


def counts_by_its_fields(cls: type[Settings]) -> bool:
    """Problem sets are loaded at every start, and the problems count themselves."""
    ours = cls.__module__.startswith("butwait.")
    return ours and (cls is PromptSettings or not cls.__module__.startswith("butwait.problems."))


def place(cls: type[Settings], field: str) -> str:
    return f"{cls.__module__}.{cls.__qualname__}.{field}"


def test_every_field_has_a_mark() -> None:
    assert [place(c, f) for c in classes() for f, mark in marks(c).items() if mark is None] == []


def made(cls: type[Settings], **values: Any) -> Settings:
    """Settings with any values, unchecked."""
    fields = cls.model_fields.items()
    defaults = {
        name: "given" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in fields
    }
    settings = cls.__new__(cls)
    object.__setattr__(settings, "__dict__", defaults | values)
    return settings


def test_a_mark_stands_at_the_field_itself() -> None:
    """``Resource[int] | None`` would mark a part of the type, which nobody sees."""
    hidden = [
        place(cls, name)
        for cls in classes()
        for name, field in cls.model_fields.items()
        if "Mark." in str(field.annotation)
    ]
    assert hidden == []


def test_every_field_counts_as_it_is_marked(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for file in (one, same):
        file.write_text("content")
    other.write_text("other content")
    values: dict[Mark | None, tuple[Any, Any, Any]] = {
        Mark.CONTENT: (str(one), str(same), str(other)),
        Mark.DEVICE: ("cuda:0", "cuda:1", "cpu"),
    }
    for cls in classes():
        for name, mark in marks(cls).items():
            first, alike, unlike = values.get(mark, ("one", "one", "another"))
            for deterministic in (False, True):
                shape = {"deterministic": deterministic} if "deterministic" in marks(cls) else {}
                found = [
                    identity(made(cls, **(shape | {name: value})))
                    for value in (first, alike, unlike)
                ]
                counts = mark is not Mark.RESOURCE and (
                    mark is not Mark.SHAPE or bool(shape and deterministic)
                )
                assert found[0] == found[1], place(cls, name)
                assert (found[0] != found[2]) == counts, place(cls, name)
