"""Filters and chains on a policy that is listed as a whole: for hundreds of thousands of draws.

``TableFrontier`` takes the place of a ``Frontier`` under a real ``Sweep`` or ``Chain``. Its nodes
are the distinct paths, so that nothing is added while a search runs, and it extends any number of
populations by one look-up.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from search_toys import PROBLEM, RULE, StreamKey, posterior, toy_engine, toy_reward

from butwait.engines.engine import Prefix
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import Sampling, StepRule
from butwait.records import OPEN, Node, Population
from butwait.reward_models.reward_model import Step
from butwait.search.frontier import Followed
from butwait.search.samplers.particle_filter import ParticleFilterSettings, Sweep, run
from butwait.search.samplers.particle_gibbs import Chain, ParticleGibbsSettings
from butwait.search.samplers.power import PowerSettings, PowerSweep
from butwait.search.samplers.tempering import TemperingSettings, swap
from butwait.search.weights import normalise
from scripted_paths import whole_steps


@dataclass
class TableTree:
    """As much of a ``TreeBuilder`` as sweeps ask for. K nodes, the root first."""

    nodes: list[Node]
    prefixes: list[Prefix]
    logits: np.ndarray
    populations: list[Population] = field(default_factory=list)

    def rewards(self, nodes: np.ndarray) -> np.ndarray:
        return self.logits[nodes]

    def add_population(self, population: Population) -> None:
        pass

    def path(self, node: int) -> list[int]:
        up = []
        while node:
            up.append(node)
            node = self.nodes[node].parent
        return up[::-1]

    def prefix(self, node: int) -> Prefix:
        return self.prefixes[node]

    def step(self, node: int) -> Step:
        at = self.nodes[node]
        return Step(at.token_ids, at.text, at.logprobs)


class TableFrontier:
    """All paths of a scripted engine, and one stream of random numbers.

    Steps that follow another path are scored by the engine itself, token by token, and not by the
    table; a joined path that the policy could not have written as these steps is a KeyError.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        engine: ScriptedEngine | None = None,
        rule: StepRule = RULE,
        reward=toy_reward,
        sampling: Sampling | None = None,
    ) -> None:
        self._rng, self._engine = rng, engine or toy_engine()
        script = self._engine._script(rule, sampling or Sampling())
        root = Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")
        start = self._engine.start(PROBLEM)
        self.tree = TableTree([root], [start], np.zeros(1))
        self._children: dict[tuple[int, bytes], int] = {}
        laws: list[tuple[list[int], list[float]]] = []
        logits = [0.0]
        for node, prefix in enumerate(self.tree.prefixes):  # it grows meanwhile
            laws.append(([], []))
            if self.tree.nodes[node].finish not in OPEN:
                continue
            for step, probability in whole_steps(script.start(prefix)):
                child = len(self.tree.nodes)
                self.tree.nodes.append(
                    Node(node, step.token_ids, step.text, step.logprobs, step.finish)
                )
                self.tree.prefixes.append(prefix.extended(step.token_ids, step.text))
                steps = [self.tree.step(n) for n in self.tree.path(child)]
                logits.append(reward(PROBLEM, steps))
                self._children[node, step.token_ids.tobytes()] = child
                laws[node][0].append(child)
                laws[node][1].append(probability)
        self.tree.logits = np.array(logits)
        self.log_q = np.array([_log_probability(self.tree, n) for n in range(len(logits))])
        self._open = np.array([node.finish in OPEN for node in self.tree.nodes])
        most = max(len(children) for children, _ in laws)
        self._next = np.zeros((len(laws), most), np.int32)
        self._cdf = np.ones((len(laws), most))
        for node, (children, probabilities) in enumerate(laws):
            self._next[node, : len(children)] = children
            self._cdf[node, : len(children)] = np.cumsum(probabilities)
            self._cdf[node, max(0, len(children) - 1) :] = 1.0
        self._followed: dict[tuple[int, tuple[int, ...]], Followed] = {}

    def is_open(self, nodes: np.ndarray) -> np.ndarray:
        return self._open[nodes]

    async def extend(
        self, nodes: np.ndarray, live: np.ndarray, step: int, iteration: int = 0
    ) -> np.ndarray:
        extended, parents = nodes.copy(), nodes[live]
        choice = (self._rng.random(len(parents))[:, None] >= self._cdf[parents]).sum(axis=1)
        extended[live] = self._next[parents, choice]
        return extended

    async def follow(self, nodes: Sequence[int], steps: Sequence[int]) -> list[Followed]:
        return [await self._follow(node, tuple(steps)) for node in nodes]

    def graft(self, followed: Followed, steps: Sequence[int]) -> list[int]:
        return self._along(followed.node, steps)

    async def _follow(self, node: int, steps: tuple[int, ...]) -> Followed:
        if (node, steps) not in self._followed:
            given = [self.tree.step(step) for step in steps]
            token_ids = np.concatenate([step.token_ids for step in given])
            [scored] = await self._engine.score([self.tree.prefixes[node]], [token_ids])
            logits = np.full(len(steps), -np.inf)
            if scored.sum() > -np.inf:
                logits = self.tree.logits[self._along(node, steps)]
            whole = (Step(token_ids, "", scored),)
            self._followed[node, steps] = Followed(node, whole, logits)
        return self._followed[node, steps]

    def _along(self, node: int, steps: Sequence[int]) -> list[int]:
        path = []
        for step in steps:
            there = self.tree.nodes[step]
            node = self._children[node, there.token_ids.tobytes()]
            assert self.tree.nodes[node].finish == there.finish
            path.append(node)
        return path


def _log_probability(tree: TableTree, node: int) -> float:
    """Of the path to a node, as it is drawn."""
    return sum(float(tree.nodes[n].logprobs.sum(dtype=np.float64)) for n in tree.path(node))


class Histogram:
    """Weighted draws of final paths, by text."""

    def __init__(self, frontier: TableFrontier, exact: dict[str, float]) -> None:
        self.outcomes = sorted(exact)
        self.exact = np.array([exact[text] for text in self.outcomes])
        index = {text: i for i, text in enumerate(self.outcomes)}
        self._closed = np.flatnonzero(~frontier.is_open(np.arange(len(frontier.tree.nodes))))
        self._tree = frontier.tree
        self._place = np.array([index.get(p.text, -1) for p in frontier.tree.prefixes])

    def shares(self, sweep: Sweep) -> np.ndarray:
        """(X,): the normalised weights of a sweep that has ended, by outcome."""
        weights = np.exp(normalise(sweep.log_weights))
        places = self._place[sweep.nodes]
        assert weights[places < 0].sum() == 0
        return np.bincount(np.maximum(places, 0), weights, len(self.exact))

    def draw(self, rng: np.random.Generator) -> list[int]:
        """A path drawn from the target, as nodes."""
        assert len(self._closed) == len(self.exact), "every outcome has one node"
        return self._tree.path(
            int(rng.choice(self._closed, p=self.exact[self._place[self._closed]]))
        )


@dataclass
class Filtered:
    """R runs of a filter: (R, X) shares, (R,) evidence, exact values of both."""

    shares: np.ndarray
    evidence: np.ndarray
    exact: np.ndarray
    exact_evidence: float

    def histogram(self) -> np.ndarray:
        """(X,): the shares, each run weighted by its evidence estimate."""
        return self.evidence @ self.shares / self.evidence.sum()

    def total_variation(self) -> float:
        return float(0.5 * np.abs(self.histogram() - self.exact).sum())

    def deviation(self, values: np.ndarray) -> tuple[float, float]:
        """(relative deviation, standard errors) of mean Z-hat f from Z f, f (X,) by outcome."""
        estimates = self.evidence * (self.shares @ values)
        truth = self.exact_evidence * float(self.exact @ values)
        error = estimates.std(ddof=1) / np.sqrt(len(estimates))
        return float(estimates.mean() / truth - 1), float((estimates.mean() - truth) / error)


BATCH = 2000
"""Sweeps side by side."""


def filtered(settings: ParticleFilterSettings, runs: int, seed: int) -> Filtered:
    """Many runs of a filter on the toy."""
    rng = np.random.default_rng(seed)
    frontier, key = TableFrontier(rng), StreamKey(rng)
    target = posterior(settings.final_alpha)
    return _pooled(frontier, lambda: Sweep(settings, key), runs, *target)


def powered(
    settings: PowerSettings, runs: int, seed: int, exact: dict[str, float], evidence: float
) -> Filtered:
    """Many runs of the filter on the toy policy's own likelihood, whose target is given."""
    rng = np.random.default_rng(seed)
    frontier: Any = TableFrontier(rng, sampling=settings.drawn)
    frontier.log_p = TableFrontier(rng).log_q
    key: Any = StreamKey(rng)
    return _pooled(frontier, lambda: PowerSweep(settings, key, frontier), runs, exact, evidence)


def _pooled(
    frontier: TableFrontier,
    begin: Callable[[], Sweep],
    runs: int,
    exact: dict[str, float],
    evidence: float,
) -> Filtered:
    histogram = Histogram(frontier, exact)
    shares, estimates = [], []

    async def run_all() -> None:
        for first in range(0, runs, BATCH):
            sweeps = [begin() for _ in range(min(BATCH, runs - first))]
            await run(frontier, sweeps)
            shares.extend(histogram.shares(sweep) for sweep in sweeps)
            estimates.extend(np.exp(sweep.log_evidence) for sweep in sweeps)

    asyncio.run(run_all())
    return Filtered(np.array(shares), np.array(estimates), histogram.exact, evidence)


def chain_average(
    settings: ParticleGibbsSettings | TemperingSettings,
    chains: int,
    seed: int,
    **toy: object,
) -> tuple[float, np.ndarray]:
    """Many equal chains side by side, which start with references drawn from their targets: so
    any deviation beyond noise says that the target is not invariant.

    Returns:
        The total variation between the target and the plain average over all chains and sweeps;
        and float64 (chains, X), each chain's own average less the target.
    """
    rng = np.random.default_rng(seed)
    frontier, key = TableFrontier(rng, **toy), StreamKey(rng)
    ladder = (
        [settings.chain(alpha) for alpha in settings.alphas]
        if isinstance(settings, TemperingSettings)
        else [settings]
    )
    histograms = [Histogram(frontier, posterior(at.final_alpha, **toy)[0]) for at in ladder]
    exact = histograms[-1].exact
    means = np.zeros((chains, len(exact)))
    replicas = [[Chain(chosen, key) for chosen in ladder] for _ in range(chains)]
    for replica in replicas:
        for chain, histogram in zip(replica, histograms, strict=True):
            chain.reference = histogram.draw(rng)

    async def run_all() -> None:
        for iteration in range(settings.iterations):
            sweeps = [[chain.sweep(iteration) for chain in replica] for replica in replicas]
            await run(frontier, [sweep for replica in sweeps for sweep in replica], iteration)
            for i, (replica, swept) in enumerate(zip(replicas, sweeps, strict=True)):
                for chain, sweep in zip(replica, swept, strict=True):
                    chain.move(sweep, iteration, frontier.tree)
                swap(replica, frontier.tree, iteration, key)
                means[i] += histograms[-1].shares(swept[-1])

    asyncio.run(run_all())
    deviations = means / settings.iterations - exact
    return float(0.5 * np.abs(deviations.mean(axis=0)).sum()), deviations


def assert_invariant(
    settings: ParticleGibbsSettings | TemperingSettings, chains: int, seed: int, **toy: object
) -> None:
    """No outcome may be off its probability by more than 4.5 standard errors, as the chains show
    them. Outcomes of less than 3 % are left out: their averages are far from normal."""
    target = (
        settings.alphas[-1] if isinstance(settings, TemperingSettings) else settings.final_alpha
    )
    exact, _ = posterior(target, **toy)
    common = np.array([exact[text] >= 0.03 for text in sorted(exact)])
    distance, deviations = chain_average(settings, chains, seed, **toy)
    errors = deviations.std(axis=0, ddof=1) / np.sqrt(chains)
    worst = float(np.max(np.abs(deviations.mean(axis=0)[common]) / errors[common]))
    assert worst < 4.5, f"{worst:.1f} standard errors, total variation {distance:.2f}"
