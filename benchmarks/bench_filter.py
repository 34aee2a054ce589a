"""What the particle filter costs beside plain sampling of the same engine, in one run.

    python benchmarks/bench_filter.py [--models tiny smollm2] [--threads 1]

The sampler is the product's own, over several problems at once: steps end where the model ends
them, particles die and fork. The reward model is once a script, which costs nothing, and once a
real one of the policy's own size (its weights with a score head; training would not change what
it costs). Plain sampling makes as many paths by the same rules without steps. Lengths are up to
the model, so rates are compared, in tokens a second. Results go to
``benchmarks/results/filter.json``.
"""

import argparse
import asyncio
import dataclasses
import gc
from pathlib import Path
from typing import Any

import torch
from bench_engine import Clock, ratio, write_results

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.records import Key, Problem
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.score_head import add_score_head
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SamplerSettings

RESULTS = Path(__file__).parent / "results" / "filter.json"
SEED = 0


@dataclasses.dataclass(frozen=True)
class Load:
    """Problems, particles of each, tokens a path, rows of the engine (which bound the problems in
    flight), and the prompt of a question."""

    problems: int
    particles: int
    max_tokens: int
    slots: int
    template: str


LOADS = {
    "tiny": Load(96, 16, 64, 512, "{question}"),
    "smollm2": Load(16, 16, 64, 256, "{question} Think step by step, one step a line."),
}


def scripted_reward(problem: Problem, steps: Any) -> float:
    """Rewards in [-2, 2] that differ, so that the filter resamples, and cost nothing."""
    return int(steps[-1].token_ids.sum()) * 37 % 101 / 25 - 2


def real_reward(model: ModelSettings, prompt: PromptSettings, slots: int, capacity: int) -> Any:
    """A reward model of the policy's size."""
    scorer = SlotModel(add_score_head(model, 0.0).eval(), slots, capacity, prefill_chunk=16)
    return TrainedRewardModel(scorer, load_tokenizer(model), prompt, same_tokens=True)


def run(
    engine: TransformersEngine,
    problems: list[Problem],
    reward_model: RewardModel | None,
    settings: SamplerSettings,
    at_once: int,
) -> dict[str, float]:
    """Tokens a second of the sampler, ``at_once`` problems in flight."""
    gate = asyncio.Semaphore(at_once)

    async def one(problem: Problem) -> int:
        async with gate:
            key = Key.of(SEED, problem.id)
            tree = await run_sampler(problem, engine, reward_model, settings, key)
        return tree.counts.policy_tokens

    async def together() -> int:
        return sum(await asyncio.gather(*(one(problem) for problem in problems)))

    clock = Clock()
    return clock.rate(asyncio.run(together()))


def bench(name: str, load: Load) -> dict[str, Any]:
    model, prompt = ModelSettings(name=name), PromptSettings(template=load.template)
    source = ProblemSetSettings(source="arithmetic", params={"size": load.problems, "seed": 1})
    problems = load_problems(source)
    capacity = load.max_tokens + 64
    engine = TransformersEngine(
        load_causal_lm(model),
        load_tokenizer(model),
        TransformersSettings(slots=load.slots, capacity=capacity, prefill_chunk=16),
        prompt,
    )
    sampling = Sampling(temperature=0.8)
    plain = IndependentSettings(
        samples=load.particles,
        step=StepRule(delimiters=(), max_tokens=load.max_tokens),
        sampling=sampling,
    )
    filters = ParticleFilterSettings(
        particles=load.particles,
        step=StepRule(delimiters=("\n",), max_tokens=load.max_tokens),
        sampling=sampling,
    )
    scripted = ScriptedRewardModel(scripted_reward)
    real = real_reward(model, prompt, load.slots, capacity)
    at_once = load.slots // load.particles
    run(engine, problems[:1], real, filters, at_once)  # warm-up
    gc.collect()
    gc.freeze()
    rates = {
        "plain": run(engine, problems, None, plain, at_once),
        "scripted_prm": run(engine, problems, scripted, filters, at_once),
        "real_prm": run(engine, problems, real, filters, at_once),
    }
    return {
        "model": name,
        "load": dataclasses.asdict(load),
        **rates,
        "filter_over_plain_scripted_prm": ratio(rates["scripted_prm"], rates["plain"])
        | {"at_least": 0.8},
        "filter_over_plain_real_prm": ratio(rates["real_prm"], rates["plain"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for name in arguments.models:
        results.append(bench(name, LOADS[name]))
        for figure in ("filter_over_plain_scripted_prm", "filter_over_plain_real_prm"):
            print(f"{name:10} {figure:32} {results[-1][figure]['ratio']:6} x", flush=True)
        write_results(arguments.output, arguments.threads, results)


if __name__ == "__main__":
    main()
