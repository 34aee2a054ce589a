"""A source's figures: one table of measurements, a row a solution, and what sums it up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from butwait.profile import measures
from butwait.profile.patterns import Patterns
from butwait.profile.sources import Source
from butwait.records import Key

TokenCounter = Callable[[str], int]
"""Text -> its length in tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A source, measured.

    Attributes:
        source: the solutions.
        columns: figure -> float64 (n,), one a solution; NaN where it does not exist.
        habits: habit -> where its phrases begin in all solutions, shares in [0, 1).
        unit: of ``length``: "tokens" or "words".
    """

    source: Source
    columns: dict[str, np.ndarray]
    habits: dict[str, np.ndarray]
    unit: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure: how many solutions have it, its mean, and its quartiles (linear between
    values)."""

    n: int
    mean: float | None
    low: float | None
    median: float | None
    high: float | None


def measure(
    sources: Sequence[Source],
    patterns: Patterns,
    *,
    step_end: str = "\n\n",
    count_tokens: TokenCounter | None = None,
) -> list[Measured]:
    """Measures every solution.

    ``length`` is in tokens of ``count_tokens``; without it, in the tokens that the sources tell,
    where every solution of every source tells them and all are of one model; else in words. One
    unit holds for all sources, as a ratio of tokens to words, or of two tokenizers' tokens, means
    nothing.
    """
    told = len(models(sources)) < 2 and all(
        solution.tokens is not None for source in sources for solution in source.solutions
    )
    unit = "tokens" if count_tokens is not None or told else "words"
    return [_measured(source, patterns, step_end, count_tokens, unit) for source in sources]


def models(sources: Sequence[Source]) -> list[str]:
    """The models that the sources' tokens are of, in order, each once."""
    return list(dict.fromkeys(source.model for source in sources if source.model is not None))


def _measured(
    source: Source, patterns: Patterns, step_end: str, count_tokens: TokenCounter | None, unit: str
) -> Measured:
    rows: list[dict[str, float | None]] = []
    habits: dict[str, list[float]] = {habit: [] for habit in patterns}
    for solution in source.solutions:
        said = measures.words(solution.text)
        length = len(said) if unit == "words" else solution.tokens
        if count_tokens is not None:
            length = count_tokens(solution.text)
        row: dict[str, float | None] = {
            "length": length,
            "characters": len(solution.text),
            "steps": measures.steps(solution.text, step_end),
            "answer_place": measures.answer_place(solution.text, solution.answer),
            "repetition": measures.repetition(said),
        }
        for habit, found in measures.places(solution.text, patterns).items():
            habits[habit] += found
            row[f"{habit}_count"] = len(found)
            row[f"{habit}_share"] = float(bool(found))
        rows.append(row)
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return Measured(source, columns, {h: np.array(at) for h, at in habits.items()}, unit)


def spread_of(values: np.ndarray) -> Spread:
    """Mean and quartiles of what is not NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Spread(0, None, None, None, None)
    low, median, high = (float(q) for q in np.quantile(known, (0.25, 0.5, 0.75)))
    return Spread(len(known), float(known.mean()), low, median, high)


PLACE_BINS = 10
"""Bins of the places at which a habit's phrases begin, from 0 to 1."""

LENGTH_BINS = 24
"""Bins of the lengths, equally wide on a log scale, the same for all sources."""


def length_histograms(measured: Sequence[Measured]) -> tuple[list[float], list[list[int]]]:
    """(edges (LENGTH_BINS + 1,), counts of each source (LENGTH_BINS,)). Lengths are at least 1."""
    lengths = [of.columns["length"] for of in measured]
    low, high = min(x.min() for x in lengths), max(x.max() for x in lengths)
    edges = np.geomspace(low, max(high, 2 * low), LENGTH_BINS + 1)
    edges[0], edges[-1] = low, max(high, 2 * low)  # exactly: no length falls outside by rounding
    return edges.tolist(), [np.histogram(x, edges)[0].tolist() for x in lengths]


def place_histogram(places: np.ndarray) -> list[int]:
    """Counts of shares in [0, 1) in PLACE_BINS equal bins."""
    counts: list[int] = np.histogram(places, PLACE_BINS, (0, 1))[0].tolist()
    return counts


def duplicate_share(source: Source) -> float:
    """The share of solutions whose text stood earlier, runs of white space taken as one space."""
    texts = [" ".join(solution.text.split()) for solution in source.solutions]
    return 1 - len(set(texts)) / len(texts)


def diversity(sources: Sequence[Source], key: Key) -> list[float | None]:
    """distinct-4 of each source, over equally many n-grams, those of the smallest source.

    The share of distinct n-grams falls as a text grows, so only equal numbers compare. The n-grams
    are taken from whole solutions in an order drawn from ``key``; none crosses two solutions. None
    where a source has no n-gram.
    """
    grams = []
    for source in sources:
        order = key.derive(source.name).generator().permutation(len(source.solutions))
        texts = (source.solutions[i].text for i in order)
        grams.append([gram for text in texts for gram in measures.ngrams(measures.words(text))])
    size = min(map(len, grams))
    return [len(set(of[:size])) / size if size else None for of in grams]
