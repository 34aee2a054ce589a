"""Questions that stand in two sets are found by their text."""

import hashlib
import unicodedata

from butwait.records import Problem


def normalised(question: str) -> str:
    """The question in Unicode form NFKC, lower case, each run of white space one blank."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def text_id(question: str) -> str:
    """An id made from the normalised question: 16 hex digits, the same on every machine."""
    return hashlib.blake2b(normalised(question).encode(), digest_size=8).hexdigest()


def disjoint(
    sets: dict[str, list[Problem]],
) -> tuple[dict[str, list[Problem]], dict[str, int]]:
    """Problem sets without a common question, and how many problems each set lost.

    The first sets win: put the test sets first. A problem is dropped from a later set if its
    normalised question stands in an earlier one, whatever the ids. Repeats within a set stay.
    """
    seen: set[str] = set()
    kept: dict[str, list[Problem]] = {}
    dropped: dict[str, int] = {}
    for name, problems in sets.items():
        kept[name] = [p for p in problems if normalised(p.question) not in seen]
        dropped[name] = len(problems) - len(kept[name])
        seen.update(normalised(p.question) for p in kept[name])
    return kept, dropped
