"""The flagship at its full size, simulated: 817 questions under a filter of 512 particles.

    python benchmarks/bench_seed_scale.py                              # the whole: half an hour
    python benchmarks/bench_seed_scale.py --questions 40               # a share, scaled up to 817
    python benchmarks/bench_seed_scale.py --cards 8 64                 # from a few questions' pace
    python benchmarks/bench_seed_scale.py --cards 8 --step-by-step     # half an hour again
    python benchmarks/bench_seed_scale.py --questions 40 --put-back slots copies

The sampler, the reward model's queue, its slots and blocks, and the pool that hands questions to
cards are butwait's own; a card, the policy and the reward model compute nothing (``simulated.py``;
``Rates`` in ``virtual_card.py`` are the one table that one edits).
Steps are drawn from recorded ones (``recorded_steps.json``): lengths of SmolLM2's lines on GSM8K,
scaled to the mean that is wanted, and what a step added to the logit of the reward model that the
quickstart trains, so that the filter resamples. Paths end so that a question takes about 1,000
tokens and 30 steps a particle. A question's tree is the same in every run.

``causes`` are hours of the card: decoding by full batches, tokens run for the first time and again,
the reward model, transfer (nothing to do until blocks have come from the host, which goes on beside
all else), and waiting: no row to decode, or fewer than fill a batch, in proportion. Not simulated:
preemption inside of vLLM, and what its process and ours say to each other.

``--cards N``: a worker a card, each with both models; a whole question goes to one. Cards have
nothing to do with each other, so all 817 questions are run at the pace that one card has step by
step, in company of 1 to 6 (``pace``, two rounds each), and with the sizes that those questions had;
``--step-by-step`` runs every step of every card. ``speedup`` is over one card that is run in the
same way (``over_hours``). ``hours`` are those until the last question is done; ``limited_by`` says
how long the longest question took, and for which share of their hours cards had nothing left to do,
or fewer questions than they have places for, as no more were waiting.

``--put-back`` takes one thing away that is there now, and says what the questions take without it:

- ``slots``: the reward model has 64 slots, and not as many as there are paths.
- ``order``: and there living paths do not go first.
- ``copies``: a path of it that branches copies what both have in common.
- ``host``: what the policy's cache has no room for is run again.
- ``company``: one question at a time.
- ``full_reach``: a path is let in as if it held all it may reach, and its prompt for itself.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_engine import conditions
from simulated import recorded
from virtual_card import Rates, VirtualLoop, run_virtually
from virtual_workers import (
    PARTICLES,
    SEED,
    PacedWorker,
    Places,
    Setup,
    VirtualHost,
    VirtualWorker,
)

from butwait.records import Problem
from butwait.running.files import write_json
from butwait.workers.pool import Pool

RESULTS = Path(__file__).parent / "results" / "seed_scale.json"
QUESTIONS, STEP_TOKENS = 817, 33
NAMES = {8: "eight_cards", 64: "sixty_four_cards"}


FAULTS: dict[str, dict[str, Any]] = {
    "slots": {"slots": 64},
    "order": {"slots": 64, "ordered": False},
    "copies": {"copies": True},
    "host": {"host": False},
    "company": {"concurrency": 1},
    "full_reach": {"full_reach": True},
}


def problems_from(first: int, count: int) -> list[Problem]:
    """Questions, each with the length of its prompt."""
    lengths = np.random.default_rng(SEED).integers(200, 400, first + count).tolist()
    return [
        Problem(str(i), "?", "1", metadata={"tokens": lengths[i]})
        for i in range(first, first + count)
    ]


def simulate(
    questions: int, setup: Setup, rates: Rates, cards: int = 1, first: int = 0
) -> dict[str, Any]:
    """Hours and causes, scaled up to all questions; and what it took of this process."""
    problems = problems_from(first, questions)
    gc.collect()
    gc.freeze()  # as a stage does
    began, found = time.process_time(), dict[str, Any]()

    async def work(loop: VirtualLoop) -> list[VirtualWorker]:
        steps = recorded(STEP_TOKENS)
        host = VirtualHost(lambda: VirtualWorker(loop, steps, setup, rates))
        finished = 0

        async def one(problem: Problem) -> int:
            nonlocal finished
            nodes = await pool.do(problem)
            finished += 1
            if finished % 100 == 0:
                print(f"{finished} questions, {loop.now / 3600:.2f} h", file=sys.stderr, flush=True)
            return nodes

        async with Pool(host, cards, setup.concurrency) as pool:
            sizes = await asyncio.gather(*(one(problem) for problem in problems))
        for worker in host.workers:
            worker.card.settle()
        found.update(seconds=loop.now, sizes=sizes, held=loop.longest_hold)
        return host.workers

    workers = run_virtually(work)
    spent = 1e6 * (time.process_time() - began)
    nodes = sum(found["sizes"])
    figures = figures_of(workers, questions, found["seconds"], nodes)
    return figures | {
        "sizes": found["sizes"],
        "loop_held_at_most_s": round(found["held"], 3),
        "cpu_us_per_particle_step": round(spent / nodes, 1),
        "process_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def figures_of(
    workers: list[VirtualWorker], questions: int, seconds: float, nodes: int
) -> dict[str, Any]:
    """Of all cards together; hours as if there were all questions."""
    causes = sum((worker.card.seconds for worker in workers), Counter[str]())
    run = sum(worker.judge.scorer.run_tokens for worker in workers)
    counted = sum(worker.judge.tokens for worker in workers)
    reward, first = causes.pop("reward model"), counted / run
    causes["reward model"], causes["reward model again"] = reward * first, reward * (1 - first)
    causes["waiting"] = causes.pop("idle", 0.0) + causes.pop("empty rows", 0.0)
    hours = QUESTIONS / questions / 3600
    card, paths = workers[0].card.rates, questions * PARTICLES

    def most(figure: Any) -> float:
        return round(max(map(figure, workers)) / 1e6, 1)

    return {
        "hours": round(seconds * hours, 3 if len(workers) > 1 else 2),
        "causes": {cause: round(s * hours, 2) for cause, s in sorted(causes.items())},
        "limited_by": limits(workers, seconds),
        "host_transfer_hours": round(sum(w.card.moving for w in workers) * hours, 2),
        "tokens_a_particle": round(
            sum(w.engine.counters.policy_tokens for w in workers) / paths, 1
        ),
        "steps_a_particle": round(nodes / paths, 1),
        "reward_tokens_ratio": round(run / counted, 3),
        "policy_kv_gb": most(lambda w: w.cache.peak * card.block * card.policy_kv),
        "reward_kv_gb": most(lambda w: w.model.peak * card.reward_kv),
        "host_kv_gb": most(lambda w: w.cache.host_peak * card.block * card.policy_kv),
    }


def limits(workers: Sequence[Places], seconds: float) -> dict[str, float]:
    """What keeps cards from being used to the end."""
    whole = seconds * len(workers)
    return {
        "longest_question_hours": round(max(w.longest for w in workers) / 3600, 3),
        "nothing_left_share": round(sum(seconds - w.done for w in workers) / whole, 3),
        "free_places_share": round(sum(w.thin for w in workers) / whole, 3),
    }


def pace_of(setup: Setup, rates: Rates) -> tuple[dict[int, float], list[int]]:
    """Seconds that a question takes in company of so many, itself among them; and the sizes of the
    questions that were run for it."""
    pace, sizes, first = {}, list[int](), 100_000
    for company in range(1, setup.concurrency + 1):
        changed = dataclasses.replace(setup, concurrency=company)
        figures = simulate(2 * company, changed, rates, first=first)
        pace[company] = round(figures["hours"] * 3600 / QUESTIONS * company, 1)
        sizes += figures["sizes"]
        first += 2 * company
        print(f"in company of {company}: {pace[company]} s", file=sys.stderr, flush=True)
    return pace, sizes


def fleet(cards: int, pace: dict[int, float], sizes: list[int]) -> dict[str, Any]:
    """All questions on so many cards, at a pace."""
    works = np.random.default_rng(SEED).choice(np.array(sizes) / np.mean(sizes), QUESTIONS)

    async def work(loop: VirtualLoop) -> dict[str, Any]:
        host = VirtualHost(lambda: PacedWorker(loop, pace))
        async with Pool(host, cards, max(pace)) as pool:
            await asyncio.gather(*(pool.do(one) for one in works.tolist()))
        hours = round(loop.now / 3600, 3)
        return {"hours": hours, "limited_by": limits(host.workers, loop.now)}

    return run_virtually(work)


def many_cards(
    counts: list[int], setup: Setup, rates: Rates, told: dict[str, Any], step_by_step: bool
) -> dict[str, Any]:
    """What is to be told of so many cards each."""
    found: dict[str, Any] = {}
    if step_by_step:
        one, how = told.get("one_card", {}).get("hours"), "step by step"
    else:
        pace, sizes = pace_of(setup, rates)
        found["pace"] = {str(company): seconds for company, seconds in pace.items()}
        one, how = fleet(1, pace, sizes)["hours"], "paced"
    for cards in counts:
        if step_by_step:
            figures = simulate(QUESTIONS, setup, rates, cards)
            del figures["sizes"]
        else:
            figures = fleet(cards, pace, sizes)
        if one:
            figures = {"speedup": round(one / figures["hours"], 1), "over_hours": one, **figures}
        found[NAMES.get(cards, f"{cards}_cards")] = {
            "questions": QUESTIONS, "run": how, "hours": figures.pop("hours"), **figures
        }  # fmt: skip
    print(json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--cards", type=int, nargs="+", default=[])
    parser.add_argument("--step-by-step", action="store_true")
    parser.add_argument("--put-back", nargs="*", default=[], choices=list(FAULTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    setup, rates, asked = Setup(), Rates(), arguments.questions
    told = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if not arguments.put_back and not arguments.cards:
        figures = simulate(asked, setup, rates)
        told["one_card"] = {"questions": asked, **figures}
        del told["one_card"]["sizes"]
        print("one_card", json.dumps(told["one_card"], indent=1), flush=True)
    if arguments.cards:
        told |= many_cards(arguments.cards, setup, rates, told, arguments.step_by_step)
    for fault in arguments.put_back:
        changed = dataclasses.replace(setup, **FAULTS[fault])
        worse = simulate(asked, changed, rates)
        del worse["sizes"]
        hours = round(worse["hours"] * asked / QUESTIONS, 3)
        told.setdefault("put_back", {})[fault] = hours
        told.setdefault("put_back_scaled", {})[fault] = {"questions": asked} | worse
        print(fault, hours, json.dumps(worse), flush=True)
    told |= {"setup": dataclasses.asdict(Setup()), "rates": dataclasses.asdict(Rates())}
    write_json(arguments.output, told | conditions(1))


if __name__ == "__main__":
    main()
