"""What the particle filter costs beside plain sampling of the same engine, in one run.

    python benchmarks/bench_filter.py [--models tiny smollm2] [--threads 1]

The sampler is the product's own, over several problems at once: steps end where the model ends
them, particles die and fork. The reward model is once a script, which costs nothing, and once a
real one of the policy's own size (its weights with a score head; training would not change what
it costs). Plain sampling makes as many paths by the same rules without steps. Lengths are up to
the model, so rates are compared, in tokens a second.

``utilisation_with_reward_model``: bfloat16, problems in flight as ``concurrency: auto`` lets them
begin; tokens a second of policy and reward model, each by its weights, over those of the policy's
own matrix products at 128 rows, which are measured before and after. Beside it the same with as
many problems in flight as 64 slots take. Results go to ``benchmarks/results/filter.json``.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import torch
from bench_engine import Clock, conditions, ratio, write_results

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.scheduling.rows import Concurrency, Rows, places
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
from butwait.running.files import write_json
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SamplerSettings

RESULTS = Path(__file__).parent / "results" / "filter.json"
SEED = 0
ROWS = 128
"""Of the products that utilisation is measured against."""
UTILISED = {"tiny": (96, 32, 512), "smollm2": (20, 32, 512)}
"""For utilisation: problems, tokens a path, slots."""
UTILISATION = "utilisation_with_reward_model"
BEFORE = 64
"""Slots, and so 4 problems of 16 particles, before ``auto``."""


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


def real_reward(
    model: ModelSettings, prompt: PromptSettings, slots: int, capacity: int
) -> tuple[RewardModel, Any]:
    """A reward model of the policy's size."""
    scorer = SlotModel(add_score_head(model, 0.0).eval(), slots, capacity, prefill_chunk=16)
    return TrainedRewardModel(scorer, load_tokenizer(model), prompt, same_tokens=True), scorer.model


def run(
    engine: TransformersEngine,
    problems: list[Problem],
    reward_model: RewardModel | None,
    settings: SamplerSettings,
    at_once: Concurrency,
) -> dict[str, float]:
    """Tokens a second of the sampler, ``at_once`` problems in flight."""
    gate: AbstractAsyncContextManager[Any] = places(at_once, engine)

    async def one(problem: Problem) -> int:
        async with gate:
            key = Key.of(SEED, problem.id)
            tree = await run_sampler(problem, engine, reward_model, settings, key)
        return tree.counts.policy_tokens

    async def together() -> int:
        return sum(await asyncio.gather(*(one(problem) for problem in problems)))

    clock = Clock()
    return clock.rate(asyncio.run(together()))


def multiplied(model: Any) -> int:
    """Weights of the model's matrix products."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))


def product_rate(model: Any, seconds: float = 2.0) -> tuple[float, float]:
    """Tokens a second, and a CPU second, of the model's matrix products alone, ``ROWS`` rows at a
    time."""
    matrices = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    rows = {m.in_features: torch.randn(ROWS, m.in_features).to(m.weight.dtype) for m in matrices}
    with torch.inference_mode():
        for matrix in matrices:
            matrix(rows[matrix.in_features])
        wall, cpu, passes = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - wall < seconds:
            for matrix in matrices:
                matrix(rows[matrix.in_features])
            passes += 1
    tokens = passes * ROWS
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


def utilisation(name: str, load: Load) -> dict[str, Any]:
    """The filter with a reward model of the policy's size, beside the products of both."""
    count, max_tokens, slots = UTILISED[name]
    model, prompt = (
        ModelSettings(name=name, dtype="bfloat16"),
        PromptSettings(template=load.template),
    )
    problems = load_problems(
        ProblemSetSettings(source="arithmetic", params={"size": count, "seed": 1})
    )
    policy, capacity = load_causal_lm(model), max_tokens + 64
    filters = ParticleFilterSettings(
        particles=load.particles,
        step=StepRule(delimiters=("\n",), max_tokens=max_tokens),
        sampling=Sampling(temperature=0.8),
    )
    figures: dict[str, Any] = {}
    for at_once, rows in (("auto", slots), (BEFORE // load.particles, BEFORE)):
        settings = TransformersSettings(slots=rows, capacity=capacity, prefill_chunk=16)
        engine = TransformersEngine(policy, load_tokenizer(model), settings, prompt)
        judge, scorer = real_reward(model, prompt, slots, capacity)
        run(engine, problems[:1], judge, filters, 1)  # warm-up
        engine.rows = Rows(engine.rows.pays, engine._spare_slots)
        before, read = product_rate(policy), judge.run_tokens
        asked = problems if at_once == "auto" else problems[: count // 4]
        made = run(engine, asked, judge, filters, at_once)
        after = product_rate(policy)
        tokens = made["tokens"] + judge.run_tokens - read
        # The reward model has a score where the policy has a vocabulary.
        smaller = multiplied(scorer) / multiplied(policy)
        work = made["tokens"] + smaller * (tokens - made["tokens"])
        by_wall, by_cpu = (2 * work / (a + b) for a, b in zip(before, after, strict=True))
        figures["auto" if at_once == "auto" else "before"] = {
            "utilisation": round(by_wall / made["seconds"], 2),
            "utilisation_of_cpu_seconds": round(by_cpu / made["cpu_seconds"], 2),
            "model_tokens_per_second": round(tokens / made["seconds"], 1),
            "products_per_second": [round(rate, 1) for rate in (before[0], after[0])],
        } | engine.rows.figures()
        print(name, at_once, list(figures.values())[-1], flush=True)
    return figures


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
    real, _ = real_reward(model, prompt, load.slots, capacity)
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
    } | filled(name, load)


def filled(name: str, load: Load) -> dict[str, Any]:
    figures = utilisation(name, load)
    reached = figures["auto"]["utilisation"]
    return {UTILISATION: reached, "at_least": 0.4, "concurrency": figures}


def largest(results: list[dict[str, Any]]) -> dict[str, Any]:
    """All models, and the last one's utilisation: the others are too small for it to say much."""
    return {"models": results, UTILISATION: results[-1][UTILISATION]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only-utilisation", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for name in arguments.models:
        if arguments.only_utilisation:
            found = filled(name, LOADS[name]) | {"measured": conditions(arguments.threads)}
            print(name, found, flush=True)
            file = arguments.output  # whose other figures stay as they are
            told = json.loads(file.read_text()) if file.exists() else {"models": []}
            known = {row["model"]: row for row in told["models"]}
            known[name] = known.get(name, {"model": name}) | found
            write_json(file, told | largest(list(known.values())))
            continue
        results.append(bench(name, LOADS[name]))
        for figure in ("filter_over_plain_scripted_prm", "filter_over_plain_real_prm"):
            print(f"{name:10} {figure:32} {results[-1][figure]['ratio']:6} x", flush=True)
        write_results(arguments.output, arguments.threads, results, largest(results))


if __name__ == "__main__":
    main()
