"""What does not fit between the parts of a recipe."""

from collections.abc import Collection, Sequence

from butwait.running.expected import meant


class MisfitError(ValueError):
    """One thing that does not fit, as a sentence.

    Attributes:
        place: the keys that lead to it.
        lacks: the name of a stage or problem set that is not there, where that is what is wrong.
    """

    lacks: str | None = None

    def __init__(self, told: str, place: tuple[str | int, ...] = ()) -> None:
        super().__init__(told)
        self.place = place


class LackingError(MisfitError):
    """A name that stands for nothing in the recipe.

    Attributes:
        section: where it should stand: ``stages`` or ``problems``.
    """

    def __init__(
        self,
        told: str,
        place: tuple[str | int, ...],
        lacks: str,
        section: str,
        known: Collection[str],
    ) -> None:
        there = "there are" if section == "stages" else "it has"
        names = ", ".join(known) or "none"
        super().__init__(f"{told} ({there}: {names}{meant(lacks, list(known))})", place)
        self.lacks, self.section, self._parts = lacks, section, (told, lacks)

    def among(self, known: Collection[str]) -> "LackingError":
        """The same where the section has these names."""
        told, lacks = self._parts
        return LackingError(told, self.place, lacks, self.section, known)


class MisfitsError(ValueError):
    """All of them; the message is the first.

    Attributes:
        found: at least one.
    """

    def __init__(self, found: Sequence[MisfitError]) -> None:
        super().__init__(str(found[0]))
        self.found = tuple(found)
