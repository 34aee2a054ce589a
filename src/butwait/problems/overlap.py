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

_MARKS = {"<super>": "^", "<sub>": "_", "<fraction>": " "}
_SHOUTED = re.compile(r"[^\W\d_]{4}")
_LETTERS = re.compile(r"\\?[^\W\d_]+")
_WORD = re.compile(r"\\?[^\W\d_]+|\d+|[-+*/^=<>]")


def normalised(question: str) -> str:
    """The question in Unicode form NFKC, each run of white space one blank, and words of text in
    lower case.

    What tells formulas apart stays: powers and indices (``2³`` is ``2^3``, not ``23``), and
    the case of all that is not written ``Like`` a word: ``A``, ``AB``, ``mW``, ``\\Delta``. A
    question that is in capitals throughout is text.
    """
    text = " ".join(unicodedata.normalize("NFKC", "".join(map(_marked, question))).split())
    if text.isupper() and _SHOUTED.search(text):
        return text.casefold()
    return _LETTERS.sub(lambda found: _folded(found[0]), text)


def _folded(letters: str) -> str:
    is_word = letters.islower() or (letters.istitle() and len(letters) > 1)
    return letters.casefold() if is_word and letters[0] != "\\" else letters


def _marked(character: str) -> str:
    """A power as ``^3``, an index as ``_3``, a fraction apart from the number before it."""
    return _MARKS.get(unicodedata.decomposition(character).partition(" ")[0], "") + character


def part_of(question: str, parts: int, purpose: str) -> int:
    """One of 0 .. parts - 1 by a hash of the question: generated questions share splits out so,
    whatever their seeds. ``purpose`` (at most 16 bytes) makes independent ones."""
    person = purpose.encode()
    digest = hashlib.blake2b(question.encode(), digest_size=8, person=person).digest()
    return int.from_bytes(digest, "little") % parts


def text_id(question: str) -> str:
    """An id made from the normalised question: 16 hex digits, the same on every machine."""
    text = normalised(question).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


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
    complete: Collection[str] = (),
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
        complete: names of sets that keep every question.
    """
    tests = HeldOut(p.question for name in held_out for p in sets[name])
    seen: set[str] = set()
    kept: dict[str, list[Problem]] = {}
    dropped: dict[str, Counter[str]] = {}
    for name, problems in sets.items():
        by_words = name not in held_out and name not in whole_only
        kept[name], dropped[name] = [], Counter()
        for problem in problems:
            known = name not in complete and normalised(problem.question) in seen
            how = SAME_QUESTION if known else None
            if how is None and by_words:
                how = tests.match(problem.question)
            if how is None:
                kept[name].append(problem)
            else:
                dropped[name][how] += 1
        seen.update(normalised(p.question) for p in kept[name])
    return kept, dropped


def _words(question: str) -> list[str]:
    # Long stretches are the same in any case.
    return _WORD.findall(unicodedata.normalize("NFKC", question).casefold())


def _grams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
