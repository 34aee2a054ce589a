"""Questions that stand in two sets are found by their text.

Training questions are compared with held-out ones by their normalised text and by n-grams of
words (13 words as in Brown et al. 2020, arXiv:2005.14165, appendix C; 8 as in later practice). A
single common n-gram says little about contest problems, which share their closing sentences: of
919 AIME problems 243 share eight words in a row with one of AIME 2024. So a share of the shorter
question's n-grams must be common.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from butwait.records import Problem

SAME_QUESTION = "same question"
GRAM_SIZES = (13, 8)
"""Words of the n-grams."""
COMMON_SHARE = 0.4
"""Share of the shorter question's n-grams, from which two questions count as the same."""
FEWEST_WORDS = 16
"""Shorter questions are compared as a whole only: they have too few n-grams."""

_WORD = re.compile(r"\\?[^\W\d_]+|\d+|[-+*/^=<>]")


def normalised(question: str) -> str:
    """The question in Unicode form NFKC, lower case, each run of white space one blank."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def text_id(question: str) -> str:
    """An id made from the normalised question: 16 hex digits, the same on every machine."""
    return hashlib.blake2b(normalised(question).encode(), digest_size=8).hexdigest()


class HeldOut:
    """Questions that no training set may have."""

    def __init__(self, questions: Iterable[str]) -> None:
        self._texts: set[str] = set()
        self._with: dict[int, dict[tuple[str, ...], list[int]]] = {
            n: defaultdict(list) for n in GRAM_SIZES
        }
        self._sizes: dict[int, list[int]] = {n: [] for n in GRAM_SIZES}
        for question in questions:
            self._texts.add(normalised(question))
            words = _words(question)
            for n in GRAM_SIZES if len(words) >= FEWEST_WORDS else ():
                grams = _grams(words, n)
                for gram in grams:
                    self._with[n][gram].append(len(self._sizes[n]))
                self._sizes[n].append(len(grams))

    def match(self, question: str, *, by_words: bool = True) -> str | None:
        """How the question is found among the held-out ones (``same question``, ``13 words``,
        ``8 words``), or None.

        by_words: whether n-grams are compared too.
        """
        if normalised(question) in self._texts:
            return SAME_QUESTION
        words = _words(question) if by_words else []
        for n in GRAM_SIZES if len(words) >= FEWEST_WORDS else ():
            grams = _grams(words, n)
            common = Counter(i for gram in grams for i in self._with[n].get(gram, ()))
            sizes = self._sizes[n]
            if any(c >= COMMON_SHARE * min(len(grams), sizes[i]) for i, c in common.items()):
                return f"{n} words"
        return None


def disjoint(
    sets: Mapping[str, Sequence[Problem]],
    held_out: Collection[str] = (),
    whole_only: Collection[str] = (),
) -> tuple[dict[str, list[Problem]], dict[str, Counter[str]]]:
    """Problem sets without a common question, and what each set lost, by how it was found.

    The first sets win: put the test sets first. A problem is dropped from a later set if its
    normalised question stands in an earlier one, or if it has too many words in a row in common
    with a question of ``held_out``. Ids do not matter. Repeats within a set stay.

    Args:
        sets: by name, in order.
        held_out: names of the test sets; they themselves are compared as wholes only.
        whole_only: names of sets whose questions are compared as wholes only (generated ones,
            which share their wording by design).
    """
    tests = HeldOut(p.question for name in held_out for p in sets[name])
    seen: set[str] = set()
    kept: dict[str, list[Problem]] = {}
    dropped: dict[str, Counter[str]] = {}
    for name, problems in sets.items():
        by_words = name not in held_out and name not in whole_only
        kept[name], dropped[name] = [], Counter()
        for problem in problems:
            how = SAME_QUESTION if normalised(problem.question) in seen else None
            if how is None and by_words:
                how = tests.match(problem.question)
            if how is None:
                kept[name].append(problem)
            else:
                dropped[name][how] += 1
        seen.update(normalised(p.question) for p in kept[name])
    return kept, dropped


def _words(question: str) -> list[str]:
    return _WORD.findall(normalised(question))


def _grams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
