"""What is measured of one solution. Every figure is a pure function of its text."""

import re
from collections.abc import Sequence

from butwait.problems.answers import extract_answer
from butwait.profile.patterns import Patterns

NGRAM = 4
"""Words in an n-gram, for repetition and diversity."""

# Han, kana and Hangul syllables: each is a word of its own, as no spaces stand between words.
_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")


def words(text: str) -> list[str]:
    """The words: runs without white space, and each character of Chinese, Japanese and Korean."""
    return _WORD.findall(text)


def ngrams(of: Sequence[str], n: int = NGRAM) -> list[tuple[str, ...]]:
    """All runs of ``n`` words, in order; case counts as the same."""
    lower = [word.casefold() for word in of]
    return [tuple(lower[i : i + n]) for i in range(len(lower) - n + 1)]


def repetition(of: Sequence[str], n: int = NGRAM) -> float | None:
    """The share of n-grams that stood earlier in the same text: 1 - distinct-n (Li et al. 2016,
    arXiv 1510.03055). None where there is no n-gram."""
    grams = ngrams(of, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def steps(text: str, end: str) -> int:
    """Pieces between the delimiters ``end`` that say something."""
    return sum(bool(piece.strip()) for piece in text.split(end))


def places(text: str, patterns: Patterns) -> dict[str, list[float]]:
    """Habit -> where its phrases begin, as shares of the text's characters in [0, 1)."""
    text = text.replace("\u2019", "'")  # one character for one: no place moves
    return {
        habit: [match.start() / len(text) for match in pattern.finditer(text)]
        for habit, pattern in patterns.items()
    }


def answer_place(text: str, answer: str | None) -> float | None:
    """Where the final answer first stands, as a share of the text's characters in [0, 1).

    Args:
        text: the solution.
        answer: its gold answer; None: the one that the solution itself gives at its end.

    A number is not found inside of a longer one: 5 does not stand in 15, 5.2 or 5,200. None where
    there is no answer or it never stands in the text as it is written.
    """
    wanted = (answer or extract_answer(text, "math") or "").strip()
    if not wanted:
        return None
    found = re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w|[.,]\d)", text)
    return found.start() / len(text) if found else None
