"""The particle filter: one sweep of sequential Monte Carlo over steps of reasoning
(``sweep.py``)."""

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.frontier import Frontier
from butwait.search.its_hub import its_hub
from butwait.search.settings import ParticleFilterSettings
from butwait.search.sweep import Sweep, record, run


async def particle_filter(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: ParticleFilterSettings,
    key: Key,
) -> SearchTree:
    """Runs a particle filter on one problem.

    Weights and evidence are in nats. All weights zero ends the search with the outcome
    ``extinct``: a result, whose log-weights and log-evidence are -inf.
    """
    if settings.preset == "its_hub":
        return await its_hub(problem, engine, reward_model, settings, key)
    sweep = Sweep(settings, key)
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        await run(frontier, [sweep])
        record(sweep, frontier.tree)
        return frontier.tree.build(sweep.log_weights, sweep.log_evidence)
