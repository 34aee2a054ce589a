"""Searches that keep the most promising paths by rank or share: beam search, DVTS and REBASE.

N paths go on together, and a rule without chance says which of them fork. The three samplers are
one loop with three rules. Their final weights are the odds of the last reward, to the power alpha.
They are no importance weights: the paths were not drawn from any known law, so there is no
evidence, and ``sample`` draws in proportion to the odds and not from a posterior.
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.aggregate import probability
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.settings import CommonSettings, Count, Exponent, Sampler
from butwait.search.weights import tempered


class _RankedSettings(CommonSettings):
    alpha: Result[Exponent] = 1.0
    """Final log-weights are alpha times the last logit."""
    max_steps: Result[Count | None] = None
    """Steps after which open paths end truncated; None: only the token limits end them."""


class _BeamSettings(_RankedSettings):
    beams: Result[Count] = 16
    """Paths N. A finished one keeps its place and costs nothing more."""
    expansions: Result[Count] = 4
    """Continuations M of each path that is kept; N is a multiple of M."""

    @property
    def size(self) -> int:
        """Paths N."""
        return self.beams

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.beams % self.expansions:
            raise ValueError(
                f"beams ({self.beams}) must be a multiple of expansions ({self.expansions}); "
                "change one of them"
            )
        return self


class BeamSearchSettings(_BeamSettings):
    """Beam search over steps: the best N/M of N paths are kept (Snell et al. 2024, arXiv
    2408.03314)."""

    kind: Literal["beam_search"] = "beam_search"


class DVTSSettings(_BeamSettings):
    """Diverse verifier tree search: N/M subtrees, in each of which the best of M paths is kept
    (Beeching, Tunstall and Rush 2024)."""

    kind: Literal["dvts"] = "dvts"


class RebaseSettings(_RankedSettings):
    """Reward-balanced search: continuations in shares of the reward (Wu et al. 2024, arXiv
    2408.00724)."""

    kind: Literal["rebase"] = "rebase"
    width: Result[Count] = 16
    """Paths N. A finished one keeps its place and costs nothing more."""
    temperature: Result[Annotated[float, Field(gt=0)]] = 0.2
    """Of the softmax over rewards, which are probabilities; lower is greedier."""

    @property
    def size(self) -> int:
        """Paths N."""
        return self.width


Fork = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
"""From settings, the places of the open paths, int (n,), ascending, and their logits, float64 (n,),
to the place that each of them goes on from, int (n,). A path of logit -inf is never gone on from
while there are others to choose."""


async def ranked_search(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: BeamSearchSettings | DVTSSettings | RebaseSettings,
    key: Key,
    fork: Fork,
) -> SearchTree:
    """Grows N paths from the root, a step at a time. Final log-weights are alpha times the last
    logit.

    A path that ended keeps its place and its reward to the end of the search, costs nothing more
    and competes with nobody; the open ones share the other places. So the search costs at most
    N whole paths. An open path of logit -inf gives its place to another one; all paths of
    logit -inf is the outcome ``extinct``.
    """
    size = settings.size
    nodes = np.full(size, ROOT, np.int32)
    logits = np.zeros(size)
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        tree = frontier.tree
        live = unfinished = frontier.is_open(nodes)
        for t in count(1):
            ancestors = np.arange(size, dtype=np.int32)
            if t > 1:
                forked = fork(settings, np.flatnonzero(unfinished), logits[unfinished])
                ancestors[unfinished] = forked
            nodes = await frontier.extend(nodes[ancestors], live[ancestors], t)
            logits = tree.rewards(nodes)
            resampled = bool(np.any(ancestors != np.arange(size)))
            log_weights = tempered(settings.alpha, logits)
            tree.add_population(Population(nodes, ancestors, log_weights, resampled))
            unfinished = frontier.is_open(nodes)
            live = unfinished & (logits > -np.inf)
            if not live.any() or t == settings.max_steps:
                break
        return tree.build(log_weights, None)


def keep_best(places: np.ndarray, logits: np.ndarray, expansions: int) -> np.ndarray:
    """The best ceil(n / expansions) of n places, each as often as ``expansions``, best first; the
    last of them less often where n is no multiple. Of equals, the first places are kept."""
    kept = np.argsort(-logits, kind="stable")[: -(-len(places) // expansions)]
    kept = kept[logits[kept] > -np.inf]
    if not len(kept):
        return places
    return np.resize(np.repeat(places[kept], expansions), len(places))


def fork_best(settings: BeamSearchSettings, places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The rule of beam search over steps of reasoning.

    Snell et al. (2024, "Scaling LLM test-time compute optimally", arXiv 2408.03314, section 5.1):
    of N paths the best N/M by the reward model are kept after each step, and each goes on in M
    ways. Two departures: a finished path is kept for good (it takes a place, so F finished ones
    leave N - F places, of which ceil((N - F)/M) are kept), and rewards are compared only between
    paths of the same number of steps, which open ones always have.
    """
    return keep_best(places, logits, settings.expansions)


def fork_subtrees(settings: DVTSSettings, places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The rule of diverse verifier tree search: many small greedy searches beside each other.

    Beeching, Tunstall and Rush (2024, "Scaling test-time compute with open models"): N paths are
    cut into N/M subtrees, places g M to (g + 1) M - 1 being subtree g, and in each of them,
    whatever the others do, the best of M paths by the reward model goes on in M ways after each
    step. So one path that the reward model likes too much cannot take over the whole search.
    Departure: a finished path is kept even where it is not the best of its subtree, and counts in
    the answer.
    """
    subtrees = places // settings.expansions
    chosen = [
        keep_best(places[subtrees == g], logits[subtrees == g], settings.expansions)
        for g in np.unique(subtrees)
    ]
    return np.concatenate(chosen)


def fork_by_reward(settings: RebaseSettings, places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The rule of REBASE: every open path goes on, in proportion to a softmax of its reward.

    Wu et al. (2024, "Inference scaling laws", arXiv 2408.00724, section 3.2): the budget of N
    paths, less those that finished, is allotted to the open ones by softmax(r / T) of their
    rewards, which are probabilities. Between beam search (T near 0) and plain samples (T large).
    """
    return np.repeat(places, balanced_widths(logits, settings.temperature))


def balanced_widths(logits: np.ndarray, temperature: float) -> np.ndarray:
    """int64 (n,): how often each of n paths goes on; the sum is n.

    As the authors' code rounds: from the best path down, each gets its share of what is left,
    rounded up. A logit of -inf gets nothing while another path can take it.
    """
    left = len(logits)
    possible = logits > -np.inf
    if not possible.any():
        return np.ones(left, np.int64)
    rewards = probability(logits)
    shares = np.where(possible, np.exp((rewards - rewards.max()) / temperature), 0.0)
    order = np.argsort(-logits, kind="stable")
    to_come = np.cumsum(shares[order][::-1])[::-1]
    widths = np.zeros(left, np.int64)
    for path, total in zip(order.tolist(), to_come.tolist(), strict=True):
        if left == 0:
            break
        widths[path] = min(left, int(np.ceil(left * shares[path] / total)))
        left -= int(widths[path])
    return widths


def _size(settings: Any) -> int:
    return int(settings.size)


_ranked = partial(Sampler, paths=_size, one_sweep=True)
BEAM_SEARCH = _ranked(BeamSearchSettings, partial(ranked_search, fork=fork_best))
DVTS = _ranked(DVTSSettings, partial(ranked_search, fork=fork_subtrees))
REBASE = _ranked(RebaseSettings, partial(ranked_search, fork=fork_by_reward))
