"""Pieces of data as scripts: what a page takes from a server and from a folder alike."""

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

DIGITS = 6
"""Of a number that is drawn or shown."""
CLIPPED = "…"


def script(name: str, value: Any) -> bytes:
    """The statement ``butwait.receive("NAME", VALUE);`` in ASCII.

    No text in it can end the script or its line: ``<`` and all beyond ASCII are escaped. What is no
    finite number is null.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    statement = f"butwait.receive({json.dumps(name)},{text});\n"
    return statement.replace("<", "\\u003c").encode("ascii")


def _finite(value: Any) -> Any:
    """The same with null for what is no finite number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values: np.ndarray | Iterable[float | None], places: int | None = None) -> list:
    """Numbers of a column, null where one is no finite number.

    Args:
        values: (n,).
        places: digits behind the point; None: ``DIGITS`` in all.
    """
    if not isinstance(values, np.ndarray):
        values = np.array([np.nan if v is None else v for v in values], np.float64)
    array = values.astype(np.float64)
    known = np.isfinite(array)
    if places is None:
        return [float(f"{v:.{DIGITS}g}") if ok else None for v, ok in _pairs(array, known)]
    rounded = np.round(array, places) + 0.0  # a zero has no sign
    return (
        rounded.tolist() if known.all() else [v if ok else None for v, ok in _pairs(rounded, known)]
    )


def _pairs(array: np.ndarray, known: np.ndarray) -> Iterable[tuple[float, bool]]:
    return zip(array.tolist(), known.tolist(), strict=True)


def clip(text: str, characters: int) -> str:
    """The beginning of a text, in so many characters at most."""
    return text if len(text) <= characters else text[: characters - 1] + CLIPPED


class Names:
    """Texts that a column names by their places: each stands once in ``texts``."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts = list(texts)
        self._places = {text: place for place, text in enumerate(self.texts)}

    def place(self, text: str | None) -> int:
        """Of a text, which is new or not; -1 for none."""
        if text is None:
            return -1
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


def flat(record: dict[str, Any], under: str = "") -> dict[str, str | int | float | bool]:
    """The plain figures of a record, those of records within by "a/b". Lists are left out."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{under}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}/")
        elif isinstance(value, str | int | float | bool):
            found[name] = value
    return found
