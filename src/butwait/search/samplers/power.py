"""Sequential Monte Carlo on the policy's own likelihood: no reward model is asked.

The target is p(x)^alpha over whole paths, p the model itself at temperature 1: what Karan and Du
(2025, "Reasoning with sampling", arXiv 2510.14901) sample by Metropolis and Hastings, and Azizi et
al. (2026, "Power-SMC", arXiv 2602.10273) by a filter. Lowering the temperature is not the same: it
sharpens every token by itself, whatever the tokens after it are worth.

Of the proposals that look at the prefix alone, the temperature 1/alpha has the least variance
(Power-SMC); a token's potential is then sum_v p(v)^alpha, its normaliser. At temperature 1 it is
p^(alpha - 1). Departures from Power-SMC: weights are looked at after steps of reasoning and not
after tokens, which changes nothing in the target; and a schedule of exponents is the filter's own
(``alpha`` as a list or a line), with the proposal at the last of them.
"""

from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from butwait.engines.engine import Continuation, Engine
from butwait.engines.settings import Sampling
from butwait.records import Key, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.samplers.particle_filter import Sweep, record, run
from butwait.search.settings import Exponent, Exponents, FilterSettings, LinearAlpha, Sampler


class PowerSettings(FilterSettings):
    """A particle filter for the policy's own distribution to a power (``docs/search.md``)."""

    kind: Literal["power"] = "power"
    alpha: Result[Exponent | Exponents | LinearAlpha] = 4.0
    """Exponent of the policy's probability in the target; 1 is the policy. A constant, a list (one
    entry a step, the last one stays) or a linear schedule."""
    proposal: Result[Literal["tempered", "policy"]] = "tempered"
    """What tokens are drawn from: the model at temperature 1/alpha (the schedule's last), or as it
    is. Weights correct for either."""
    sampling: Result[Sampling] = Sampling()
    """Stays as it is: ``proposal`` says how tokens are drawn."""
    selection: Result[Literal["weighted_vote", "vote", "sample"]] = "weighted_vote"
    """How the final particles become one answer."""

    @model_validator(mode="after")
    def _the_proposal_draws(self) -> Self:
        if self.sampling != Sampling():
            raise ValueError(
                "power draws its tokens by `proposal`, from the model itself or at temperature "
                "1/alpha; leave sampling out"
            )
        if self.final_alpha <= 0:
            raise ValueError("alpha must be above 0 in the end: p^0 is no distribution of paths")
        return self

    @property
    def drawn(self) -> Sampling:
        """How tokens are drawn."""
        tempered = self.proposal == "tempered"
        return Sampling(temperature=1 / self.final_alpha) if tempered else Sampling()


class PowerFrontier(Frontier):
    """A frontier that knows every path's probability.

    Attributes:
        log_p: by node, of its path under the model at temperature 1, in nats.
        log_q: by node, of its path under the proposal.
    """

    def __init__(self, problem: Problem, engine: Engine, settings: PowerSettings, key: Key) -> None:
        drawn = settings.model_copy(update={"sampling": settings.drawn})
        super().__init__(problem, engine, None, drawn, key)
        self._tempered = settings.drawn.temperature != 1
        self._newest: list[float] = []
        self.log_p, self.log_q = {ROOT: 0.0}, {ROOT: 0.0}

    async def extend(
        self, nodes: np.ndarray, live: np.ndarray, step: int, iteration: int = 0
    ) -> np.ndarray:
        """``Frontier.extend``."""
        self._newest = []
        extended = await super().extend(nodes, live, step, iteration)
        parents, children = nodes[live].tolist(), extended[live].tolist()
        for parent, child, log_p in zip(parents, children, self._newest, strict=True):
            self.log_p[child] = self.log_p[parent] + log_p
            drawn = float(self.tree.nodes[child].logprobs.sum(dtype=np.float64))
            self.log_q[child] = self.log_q[parent] + drawn
            if self._tempered:
                tokens = len(self.tree.nodes[child].token_ids)
                self.tree.count_prefilled_tokens(child, tokens)
        return extended

    async def _sample(self, parents: list[int], keys: list[Key]) -> list[Continuation]:
        drawn = await super()._sample(parents, keys)
        logprobs = [step.logprobs for step in drawn]
        if self._tempered:  # while the parents' caches are there
            prefixes = [self._prefixes[parent] for parent in parents]
            logprobs = await self._engine.score(prefixes, [step.token_ids for step in drawn])
        self._newest = [float(each.sum(dtype=np.float64)) for each in logprobs]
        return drawn


class PowerSweep(Sweep):
    """A sweep whose potentials are the policy's own probabilities."""

    def __init__(self, settings: PowerSettings, key: Key, frontier: PowerFrontier) -> None:
        super().__init__(settings, key)
        self._known = frontier

    def _tilted(self, alpha: float, nodes: np.ndarray, frontier: Frontier) -> np.ndarray:
        """float64 (N,): log p^alpha / q of the paths to these nodes."""
        log_p, log_q = self._known.log_p, self._known.log_q
        return np.array([alpha * log_p[node] - log_q[node] for node in nodes.tolist()])


async def power(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: PowerSettings,
    key: Key,
) -> SearchTree:
    """Runs the filter on one problem; the reward model is not asked.

    The evidence is the sum of p(x)^alpha over all paths under the step rule's limits.
    """
    with PowerFrontier(problem, engine, settings, key) as frontier:
        sweep = PowerSweep(settings, key, frontier)
        await run(frontier, [sweep])
        record(sweep, frontier.tree)
        return frontier.tree.build(sweep.log_weights, sweep.log_evidence)


POWER = Sampler(
    PowerSettings,
    power,
    needs_reward_model=False,
    paths=lambda settings: settings.particles,
    reads=lambda settings: float(settings.drawn.temperature != 1),
    one_sweep=True,
)
