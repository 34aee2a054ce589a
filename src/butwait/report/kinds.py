"""What the report asks a kind of stage, and what it hands to a section. Imports nothing heavy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Record = dict[str, Any]
"""One stage's ``stage.json``."""

Records = Mapping[str, Record]
"""Stage's name -> its record."""


class ReportedKind(Protocol):
    """A kind of stage, as far as the page and the data cards speak of it."""

    @property
    def gives(self) -> str:
        """What its stages give to others: "model", "data", "trees", "reward model", "evaluation",
        "profile", "report", or a word of its own."""

    @property
    def label(self) -> str:
        """Of a training its usual name ("SFT"), of data what it is ("its own verified search");
        "" where a stage is named by its kind."""

    @property
    def supervision(self) -> str:
        """The signal that the kind itself adds: "self", "external traces", or none ("")."""

    @property
    def section(self) -> "Section | None":
        """The part of the page about its stages; None: their plain figures are told."""


ReportedKinds = Mapping[str, ReportedKind]
"""Kind's name -> what the report asks of it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What holds of a kind that the report is not told of."""

    gives: str = ""
    label: str = ""
    supervision: str = "self"
    section: "Section | None" = None


def kind_of(record: Mapping[str, Any], kinds: ReportedKinds) -> ReportedKind:
    """The kind of a stage; ``Unknown`` where ``kinds`` lacks it."""
    return kinds.get(str(record.get("kind")), Unknown())


@dataclass(frozen=True, slots=True)
class PageMaterial:
    """What a section is made of.

    Attributes:
        run: the run's folder.
        stages: all of its records, in recipe order.
        kinds: those that the report is told of.
        colours: evaluate stage, or arm, -> index of its series, the same all over the page.
    """

    run: Path
    stages: Sequence[Record]
    kinds: ReportedKinds
    colours: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page about the stages of some kinds.

    Attributes:
        title: its heading.
        template: a file of ``report/templates``, rendered with ``data``; its stem is the anchor.
        data: (material, the stages of these kinds) -> what the template shows; without content,
            as of a run that has not come so far, there is no section.
        shows_log: whether it draws the stages' log, so that "Training" leaves them out.
    """

    title: str
    template: str
    data: Callable[[PageMaterial, Sequence[Record]], Any]
    shows_log: bool = False
