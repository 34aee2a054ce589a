"""The flagship at its full size, simulated: 817 questions under a filter of 512 particles.

    python benchmarks/bench_seed_scale.py                              # the whole: half an hour
    python benchmarks/bench_seed_scale.py --questions 40               # a share, scaled up to 817
    python benchmarks/bench_seed_scale.py --questions 40 --put-back slots copies

The sampler, the reward model's queue, its slots and blocks are butwait's own; the card, the policy
and the reward model compute nothing (``simulated.py``; ``Rates`` in ``virtual_card.py`` are the one
table that one edits).
Steps are drawn from recorded ones (``recorded_steps.json``): lengths of SmolLM2's lines on GSM8K,
scaled to the mean that is wanted, and what a step added to the logit of the reward model that the
quickstart trains, so that the filter resamples. Paths end so that a question takes about 1,000
tokens and 30 steps a particle.

``causes`` are hours of the card: decoding by full batches, tokens run for the first time and again,
the reward model, transfer (nothing to do until blocks have come from the host, which goes on beside
all else), and waiting: no row to decode, or fewer than fill a batch, in proportion. Not simulated:
preemption inside of vLLM, and what its process and ours say to each other.

``--put-back`` takes one thing away that is there now, and says what the questions take without it:

- ``slots``: the reward model has 64 slots, and not as many as there are paths.
- ``copies``: a path of it that branches copies what both have in common.
- ``host``: what the policy's cache has no room for is run again.
- ``company``: one question at a time.
"""

import argparse
import asyncio
import dataclasses
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_engine import conditions
from simulated import (
    BlockCache,
    CopyingSlots,
    SimulatedEngine,
    SimulatedScorer,
    SimulatedSlots,
    Steps,
)
from virtual_card import Card, Rates, VirtualLoop, run_virtually

from butwait.engines.settings import StepRule
from butwait.records import Key, Problem
from butwait.running.files import write_json
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "seed_scale.json"
SEED = 0
QUESTIONS, PARTICLES, STEP_TOKENS = 817, 512, 33


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the card is used.

    Attributes:
        concurrency: questions in flight.
        max_rows: paths that the policy decodes at a time.
        policy_gb, reward_gb: of keys and values on the card.
        slots: of the reward model; None: one a path and prompt in flight.
        copies: whether branches of the reward model copy what they have in common.
        host: whether the policy's blocks go to the host's memory.
    """

    concurrency: int = 6
    max_rows: int = 512
    policy_gb: float = 24.0
    reward_gb: float = 8.0
    slots: int | None = None
    copies: bool = False
    host: bool = True


FAULTS: dict[str, dict[str, Any]] = {
    "slots": {"slots": 64},
    "copies": {"copies": True},
    "host": {"host": False},
    "company": {"concurrency": 1},
}


def recorded() -> Steps:
    told = json.loads((HERE / "recorded_steps.json").read_text())
    lengths = np.array(told["lengths"], float)
    scaled = np.maximum(1, np.rint(lengths * STEP_TOKENS / lengths.mean())).astype(np.int64)
    return Steps(scaled, np.array(told["gains"]), least=9, hazard=0.18)


def simulate(questions: int, setup: Setup, rates: Rates) -> dict[str, Any]:
    """Hours and causes, scaled up to all questions; and what it took of this process."""
    steps, rng = recorded(), np.random.default_rng(SEED)
    problems = [
        Problem(str(i), "?", "1", metadata={"tokens": int(rng.integers(200, 400))})
        for i in range(questions)
    ]
    settings = ParticleFilterSettings(
        particles=PARTICLES, max_steps=40, step=StepRule(max_tokens=4096, max_step_tokens=1024)
    )
    slots = setup.slots or setup.concurrency * (PARTICLES + 1)
    most_tokens = int(setup.reward_gb * 1e6 / rates.reward_kv)
    began = time.process_time()

    async def work(loop: VirtualLoop) -> dict[str, Any]:
        card = Card(loop, rates)
        cache = BlockCache(rates, setup.policy_gb, setup.host)
        engine = SimulatedEngine(card, cache, steps, setup.max_rows, SEED)
        made = CopyingSlots if setup.copies else SimulatedSlots
        model = made(card, slots, 4096, most_tokens)
        judge = SimulatedScorer(model, steps, SEED)
        places = asyncio.Semaphore(setup.concurrency)
        nodes = 0

        async def one(problem: Problem) -> None:
            nonlocal nodes
            async with places:
                key = Key.of(SEED, problem.id)
                tree = await run_sampler(problem, engine, judge, settings, key)
            nodes += len(tree.nodes) - 1

        await asyncio.gather(*(one(problem) for problem in problems))
        card.settle()
        seconds = dict(card.seconds)
        reward, first = seconds.pop("reward model"), judge.tokens / judge.scorer.run_tokens
        seconds["reward model"], seconds["reward model again"] = (
            reward * first,
            reward * (1 - first),
        )
        seconds["waiting"] = seconds.pop("idle", 0.0) + seconds.pop("empty rows", 0.0)
        hours = QUESTIONS / questions / 3600
        return {
            "hours": round(loop.now * hours, 2),
            "causes": {cause: round(s * hours, 2) for cause, s in sorted(seconds.items())},
            "host_transfer_hours": round(card.moving * hours, 2),
            "tokens_a_particle": round(engine.counters.policy_tokens / questions / PARTICLES, 1),
            "steps_a_particle": round(nodes / questions / PARTICLES, 1),
            "reward_tokens_ratio": round(judge.scorer.run_tokens / judge.tokens, 3),
            "loop_held_at_most_s": round(loop.longest_hold, 3),
            "policy_kv_gb": round(cache.peak * rates.block * rates.policy_kv / 1e6, 1),
            "reward_kv_gb": round(model.peak * rates.reward_kv / 1e6, 1),
            "host_kv_gb": round(cache.host_peak * rates.block * rates.policy_kv / 1e6, 1),
            "nodes": nodes,
        }

    figures = run_virtually(work)
    spent = 1e6 * (time.process_time() - began) / figures.pop("nodes")
    figures["cpu_us_per_particle_step"] = round(spent, 1)
    figures["process_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--put-back", nargs="*", default=[], choices=list(FAULTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    setup, rates = Setup(), Rates()
    figures: dict[str, Any] = {"questions": arguments.questions, "put_back": {}}
    if not arguments.put_back:
        figures["one_card"] = simulate(arguments.questions, setup, rates)
        print(json.dumps(figures["one_card"], indent=1), flush=True)
    for fault in arguments.put_back:
        worse = simulate(arguments.questions, dataclasses.replace(setup, **FAULTS[fault]), rates)
        hours = round(worse["hours"] * arguments.questions / QUESTIONS, 3)
        figures["put_back"][fault] = {"hours": hours, "causes": worse["causes"]}
        print(fault, json.dumps(worse), flush=True)
    figures |= {"setup": dataclasses.asdict(setup), "rates": dataclasses.asdict(rates)}
    write_json(arguments.output, conditions(1) | figures)


if __name__ == "__main__":
    main()
