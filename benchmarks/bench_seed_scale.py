"""The flagship at its full size, simulated: 817 questions under a filter of 512 particles.

    python benchmarks/bench_seed_scale.py                              # the whole: half an hour
    python benchmarks/bench_seed_scale.py --questions 40 --output share.json    # scaled up to 817
    python benchmarks/bench_seed_scale.py --cards 8 64                 # from a few questions' pace
    python benchmarks/bench_seed_scale.py --cards 8 --step-by-step     # half an hour again
    python benchmarks/bench_seed_scale.py --put-back slots copies      # 40 questions each

``results/seed_scale.json`` takes whole runs only: ``one_card`` of 817 questions, ``put_back`` and
its ``put_back_baseline`` (``--put-back nothing``) of 40. Other ``--questions`` need an ``--output``
of their own. A run replaces its own figures and leaves the others; each has its questions, rates,
setup and date beside it, and where one has not, those at the file's top are its own.

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

- ``nothing``: as it is.
- ``slots``: the reward model has 64 slots, and not as many as there are paths.
- ``order``: the same 64 slots, and living paths do not go first in them.
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
from virtual_card import TABLE, Rates, VirtualLoop, run_virtually
from virtual_workers import (
    LONGEST_PROMPT,
    PARTICLES,
    SEED,
    PacedWorker,
    Places,
    Setup,
    VirtualHost,
    VirtualWorker,
)

from butwait.records import Problem, UserError
from butwait.running.files import write_json
from butwait.workers.pool import Pool

RESULTS = Path(__file__).parent / "results" / "seed_scale.json"
QUESTIONS, PUT_BACK_QUESTIONS, STEP_TOKENS = 817, 40, 33
NAMES = {8: "eight_cards", 64: "sixty_four_cards"}

FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "slots": {"slots": 64},
    "order": {"slots": 64, "ordered": False},
    "copies": {"copies": True},
    "host": {"host": False},
    "company": {"concurrency": 1},
    "full_reach": {"full_reach": True},
}


def problems_from(first: int, count: int) -> list[Problem]:
    """Questions, each with the length of its prompt."""
    lengths = np.random.default_rng(SEED).integers(200, LONGEST_PROMPT, first + count).tolist()
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
    counts: list[int], setup: Setup, rates: Rates, one: float | None, step_by_step: bool
) -> dict[str, Any]:
    """What is to be told of so many cards each; ``one``: hours of one card, step by step."""
    found: dict[str, Any] = {}
    how, about = "step by step", beside(setup, rates)
    if not step_by_step:
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
            "questions": QUESTIONS, "run": how, "hours": figures.pop("hours"), **figures, **about
        }  # fmt: skip
    print(json.dumps(found, indent=1), flush=True)
    return found


def one_card(questions: int, setup: Setup, rates: Rates) -> dict[str, Any]:
    """What is to be told of one card: hours as if there were all questions."""
    figures = simulate(questions, setup, rates)
    del figures["sizes"]
    return {"questions": questions, **figures, **beside(setup, rates)}


def beside(setup: Setup, rates: Rates) -> dict[str, Any]:
    """What a figure depends on."""
    policy_gb, reward_gb = setup.memory(rates)
    divided = dataclasses.replace(setup, policy_gb=policy_gb, reward_gb=reward_gb)
    return {
        "setup": dataclasses.asdict(divided),
        "rates": dataclasses.asdict(rates),
        "date": conditions(1)["date"],
    }


def count(text: str) -> int:
    """1 to all questions, as the words of a command."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= QUESTIONS):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {QUESTIONS}")
    return int(text)


def asked() -> argparse.Namespace:
    """The command's words. Ends it with exit code 2 where they contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--questions",
        type=count,
        help=f"{QUESTIONS}, or {PUT_BACK_QUESTIONS} with --put-back; others need --output",
    )
    parser.add_argument("--cards", type=count, nargs="+", default=[])
    parser.add_argument("--step-by-step", action="store_true", help="with --cards")
    parser.add_argument("--put-back", nargs="+", default=[], choices=list(FAULTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    words = parser.parse_args()
    if words.step_by_step and not words.cards:
        parser.error("--step-by-step says how --cards are run: give both")
    if words.cards and not words.put_back and words.questions not in (None, QUESTIONS):
        parser.error(f"--cards always share all {QUESTIONS} questions: leave --questions out")
    whole = PUT_BACK_QUESTIONS if words.put_back else QUESTIONS
    words.questions = words.questions or whole
    if words.questions != whole and words.output.resolve() == RESULTS.resolve():
        parser.error(
            f"{RESULTS.name} takes runs of {whole} questions here, not of {words.questions}: "
            "give another --output"
        )
    if not words.output.parent.is_dir():
        parser.error(f"--output: there is no folder {words.output.parent}")
    return words


def table() -> Rates:
    """``Rates`` as edited. Raises UserError where they cannot be used."""
    try:
        return Rates()
    except TypeError as error:
        raise UserError(f"{TABLE}: a number is missing ({error})") from error


def read(output: Path) -> dict[str, Any]:
    """The figures so far. Raises UserError for a file that has none."""
    try:
        told = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"--output: {output} cannot be read as JSON ({error})") from error
    if not isinstance(told, dict):
        raise UserError(f"--output: {output} is no JSON object of figures; name another file")
    return told


def hours_of_one(told: dict[str, Any], rates: Rates) -> float | None:
    """Hours of one card with such rates, where the figures so far have them."""
    one = told.get("one_card", {})
    same = one.get("rates", told.get("rates")) == dataclasses.asdict(rates)
    return one["hours"] if same and one.get("questions") == QUESTIONS else None


def run(words: argparse.Namespace) -> None:
    """Runs what is asked for, and writes after each part what it found."""
    setup, rates, told = Setup(), table(), read(words.output)
    setup.memory(rates)  # raises before anything is run

    def write(found: dict[str, Any]) -> None:
        told.update(found | conditions(1))
        write_json(words.output, told)

    if not words.put_back and not words.cards:
        figures = one_card(words.questions, setup, rates)
        print("one_card", json.dumps(figures, indent=1), flush=True)
        write({"one_card": figures})
    if words.cards:
        one = hours_of_one(told, rates)
        write(many_cards(words.cards, setup, rates, one, words.step_by_step))
    for fault in words.put_back:
        figures = one_card(words.questions, dataclasses.replace(setup, **FAULTS[fault]), rates)
        hours = round(figures["hours"] * words.questions / QUESTIONS, 3)
        print(fault, hours, json.dumps(figures), flush=True)
        if fault == "nothing":
            write({"put_back_baseline": hours, "put_back_baseline_scaled": figures})
        else:
            scaled = told.get("put_back_scaled", {}) | {fault: figures}
            every = told.get("put_back", {}) | {fault: hours}
            write({"put_back": every, "put_back_scaled": scaled})


def main() -> None:
    words = asked()
    try:
        run(words)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
