"""What does not fit between the parts of a recipe."""

from collections.abc import Sequence


class MisfitError(ValueError):
    """One thing that does not fit, as a sentence.

    Attributes:
        place: the keys that lead to it.
        lacks: the name of a stage or problem set that is not there, where that is what is wrong.
    """

    def __init__(
        self, told: str, place: tuple[str | int, ...] = (), lacks: str | None = None
    ) -> None:
        super().__init__(told)
        self.place = place
        self.lacks = lacks


class MisfitsError(ValueError):
    """All of them; the message is the first.

    Attributes:
        found: at least one.
    """

    def __init__(self, found: Sequence[MisfitError]) -> None:
        super().__init__(str(found[0]))
        self.found = tuple(found)
