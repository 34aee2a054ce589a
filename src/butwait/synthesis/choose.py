"""Which of a question's solutions are taken, and in which order."""

from collections.abc import Sequence

import numpy as np

from butwait.records import Key, UserError
from butwait.synthesis.settings import Choice
from butwait.synthesis.solutions import Solution

DIVERSITY_WORDS = 4
"""Words of the phrases by which two solutions are compared."""


def choose(pool: Sequence[Solution], rule: Choice, count: int, key: Key) -> list[Solution]:
    """At most ``count`` solutions in the rule's order of preference; ties in random order.

    Raises UserError for ``reward`` where the search asked no reward model.
    """
    shuffled = [pool[i] for i in key.generator().permutation(len(pool))]
    match rule:
        case "random":
            ordered = shuffled
        case "shortest":
            ordered = sorted(shuffled, key=lambda s: len(s.token_ids))
        case "longest":
            ordered = sorted(shuffled, key=lambda s: -len(s.token_ids))
        case "median":
            middle = np.median([len(s.token_ids) for s in pool]) if pool else 0
            ordered = sorted(shuffled, key=lambda s: abs(len(s.token_ids) - middle))
        case "reward":
            if any(np.isnan(s.reward) for s in pool):
                raise UserError(
                    "choose: reward needs the rewards of a search with a reward model; choose "
                    "random, shortest, median, longest or diverse for this one"
                )
            ordered = sorted(shuffled, key=lambda s: -s.reward)
        case "diverse":
            ordered = _spread(shuffled, count)
    return ordered[:count]


def _spread(pool: list[Solution], count: int) -> list[Solution]:
    """Greedy max-min (Gonzalez 1985): the first, then each time the one whose nearest chosen
    solution is the farthest. Distance is 1 minus the Jaccard index of the sets of phrases of four
    words."""
    phrases = [_phrases(solution.text) for solution in pool]
    nearest = np.full(len(pool), np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        chosen.append(int(np.argmax(nearest)))
        newest = phrases[chosen[-1]]
        nearest = np.minimum(nearest, [_distance(newest, other) for other in phrases])
        nearest[chosen] = -1.0
    return [pool[i] for i in chosen]


def _phrases(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    last = max(1, len(words) - DIVERSITY_WORDS + 1)
    return frozenset(tuple(words[i : i + DIVERSITY_WORDS]) for i in range(last))


def _distance(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    shared = len(a & b)
    return 1.0 - shared / (len(a) + len(b) - shared)
