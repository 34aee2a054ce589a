"""Speed of the in-process engine, as ratios of two things done in the same run.

    python benchmarks/bench_engine.py [--models tiny smollm2] [--threads 1] [--small]
    python benchmarks/bench_engine.py --only-utilisation

Measured:

- ``engine_over_generate``: useful tokens a second on a queue of requests whose lengths average
  half the longest, 64 rows at a time. ``generate()`` runs every batch to its longest row; the
  engine gives a finished row's place to the next request. EOS is switched off for both, so that
  both make exactly the lengths of the script.
- ``fork_over_prefill``: one filter of 16 steps with the cache, against the same
  filter whose handles are thrown away, so that every surviving path is run again at every step
  (once, even where several particles stand on it).
- ``filter_over_plain``: tokens a second of filters that extend their particles in 16 synchronous
  steps of 16 tokens, resampled at random, several problems at once, against plain samples of the
  same lengths.
- ``deterministic_over_normal``: plain sampling in deterministic mode against the other.
- ``utilisation_plain``: plain sampling of SmolLM2 in bfloat16, 8 questions by 16 samples of 64
  tokens: model tokens a second (prompts included) over those that the products of its weights
  alone would make, 128 rows at a time; CPU seconds, one thread.

Results go to ``benchmarks/results/engine.json``.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from butwait.engines.engine import Engine, Prefix
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.records import Key, Problem
from butwait.running.files import write_json

RESULTS = Path(__file__).parent / "results" / "engine.json"
SEED = 0
STEPS, STEP_TOKENS = 16, 16
SAMPLING = Sampling(temperature=1.0)


@dataclasses.dataclass(frozen=True)
class Queue:
    """How much of each workload a model gets: seconds for one, minutes for the other.

    Attributes:
        requests, rows, longest: of the queue; ``rows`` at a time.
        problems, particles: filters at once, and particles of each.
    """

    requests: int
    rows: int
    longest: int
    problems: int
    particles: int


QUEUES = {"tiny": Queue(512, 64, 128, 8, 64), "smollm2": Queue(128, 64, 64, 2, 16)}
SMALL = Queue(128, 64, 32, 2, 16)


class Clock:
    """Tokens a second, and the CPU seconds behind them."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rate(self, tokens: int) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {
            "tokens": tokens,
            "seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "tokens_per_second": round(tokens / wall, 1),
        }


def ratio(a: dict[str, float], b: dict[str, float]) -> dict[str, Any]:
    """``a`` over ``b`` in tokens a second, and in tokens a CPU second, which does not feel what
    else runs on the machine."""
    by_cpu = (a["tokens"] / a["cpu_seconds"]) / (b["tokens"] / b["cpu_seconds"])
    by_wall = a["tokens_per_second"] / b["tokens_per_second"]
    return {"ratio": round(by_wall, 2), "ratio_of_cpu_seconds": round(by_cpu, 2)}


def make_engine(model: Any, tokenizer: Any, slots: int, capacity: int, deterministic: bool) -> Any:
    """An engine that EOS does not stop: all lengths are scripted."""
    settings = TransformersSettings(slots=slots, capacity=capacity, deterministic=deterministic)
    engine = TransformersEngine(model, tokenizer, settings, PromptSettings())
    engine._eos_ids = frozenset()
    return engine


def whole(tokens: int) -> StepRule:
    return StepRule(delimiters=(), max_tokens=tokens, stop_at_box=False)


def in_steps(tokens: int, step_tokens: int) -> StepRule:
    return StepRule(
        delimiters=(), max_tokens=tokens, max_step_tokens=step_tokens, stop_at_box=False
    )


def scripted_lengths(requests: int, longest: int) -> np.ndarray:
    """int64: uniform over 1..longest, so that they average half the longest."""
    return np.random.default_rng(SEED).integers(1, longest + 1, requests)


async def serve(engine: Engine, problems: list[Problem], lengths: np.ndarray) -> int:
    """One plain sample for each problem, all asked for at once. Returns the tokens."""

    async def one(i: int) -> int:
        prefix = engine.start(problems[i])
        key = Key.of(SEED, "serve", i)
        [result] = await engine.extend([prefix], whole(int(lengths[i])), SAMPLING, [key])
        return len(result.token_ids)

    return sum(await asyncio.gather(*(one(i) for i in range(len(lengths)))))


def generate(model: Any, tokenizer: Any, prompts: list[np.ndarray], lengths: np.ndarray,
             rows: int) -> int:  # fmt: skip
    """The same requests by ``generate()``, in batches. Returns the tokens that were wanted."""
    for first in range(0, len(prompts), rows):
        batch = prompts[first : first + rows]
        padded = tokenizer.pad(
            {"input_ids": [prompt.tolist() for prompt in batch]},
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        model.generate(
            **padded,
            max_new_tokens=int(lengths[first : first + rows].max()),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    return int(lengths.sum())


async def run_filter(
    engine: Engine, problem: Problem, particles: int, *, keep_cache: bool = True,
    steps: int = STEPS, step_tokens: int = STEP_TOKENS,
) -> int:  # fmt: skip
    """A particle filter without a reward model: resampling at random after every step.

    Args:
        keep_cache: whether prefixes keep their handles from step to step.

    Returns:
        Tokens sampled.
    """
    rule, key = in_steps(steps * step_tokens, step_tokens), Key.of(SEED, problem.id)
    prefixes: list[Prefix] = [engine.start(problem)] * particles
    tokens = 0
    for step in range(steps):
        keys = [key.at(step=step, particle=i) for i in range(particles)]
        results = await engine.extend(prefixes, rule, SAMPLING, keys)
        engine.release(prefixes)
        tokens += sum(len(result.token_ids) for result in results)
        extended = [result.prefix for result in results]
        if not keep_cache:
            engine.release(extended)
            extended = [dataclasses.replace(prefix, handle=None) for prefix in extended]
        # Systematic resampling of uneven random weights: about half of the particles die.
        generator = key.derive("resample").at(step=step).generator()
        weights = generator.exponential(size=particles)
        places = (np.arange(particles) + generator.random()) / particles
        ancestors = np.searchsorted(np.cumsum(weights) / weights.sum(), places)
        survivors = set(ancestors.tolist())
        engine.release([p for i, p in enumerate(extended) if i not in survivors])
        prefixes = [extended[i] for i in ancestors.clip(max=particles - 1)]
    engine.release(prefixes)
    return tokens


async def run_filters(
    engine: Engine, problems: list[Problem], particles: int, keep_cache: bool = True
) -> int:
    """A filter for each problem, all at once. Returns the tokens."""
    return sum(
        await asyncio.gather(
            *(run_filter(engine, problem, particles, keep_cache=keep_cache) for problem in problems)
        )
    )


async def run_plain(engine: Engine, problems: list[Problem], samples: int) -> int:
    """As many samples of the same length, without steps. Returns the tokens."""
    rule = whole(STEPS * STEP_TOKENS)

    async def one(problem: Problem) -> int:
        keys = [Key.of(SEED, problem.id).at(particle=i) for i in range(samples)]
        prefixes = [engine.start(problem)] * samples
        return sum(len(r.token_ids) for r in await engine.extend(prefixes, rule, SAMPLING, keys))

    return sum(await asyncio.gather(*(one(problem) for problem in problems)))


def timed(work: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Rate of a workload, in an event loop of its own."""

    async def run() -> int:
        return await work()

    clock = Clock()
    return clock.rate(asyncio.run(run()))


def bench_queue(
    model: Any, tokenizer: Any, problems: list[Problem], queue: Queue
) -> dict[str, Any]:
    lengths = scripted_lengths(queue.requests, queue.longest)
    engine = make_engine(model, tokenizer, queue.rows, 1024, False)
    prompts = [engine.start(problem).token_ids for problem in problems[: queue.requests]]
    timed(lambda: serve(engine, problems, lengths[: queue.rows].clip(max=8)))
    generate(model, tokenizer, prompts[: queue.rows], lengths.clip(max=4), queue.rows)
    ours = timed(lambda: serve(engine, problems, lengths))
    clock = Clock()
    theirs = clock.rate(generate(model, tokenizer, prompts, lengths, queue.rows))
    return {"engine": ours, "generate": theirs, **ratio(ours, theirs), "at_least": 1.5}


def bench_filters(
    model: Any, tokenizer: Any, problems: list[Problem], queue: Queue
) -> dict[str, Any]:
    chosen, particles = problems[: queue.problems], queue.particles
    slots = queue.problems * particles
    probe = make_engine(model, tokenizer, 1, 1024, False)
    prompt = max(probe.start(problem).prompt_length for problem in chosen)
    capacity = prompt + STEPS * STEP_TOKENS
    engine = make_engine(model, tokenizer, slots, capacity, False)
    timed(lambda: run_filter(engine, chosen[0], particles, steps=2))
    one = timed(lambda: run_filters(engine, chosen[:1], particles))
    again = timed(lambda: run_filters(engine, chosen[:1], particles, keep_cache=False))
    filters = timed(lambda: run_filters(engine, chosen, particles))
    plain = timed(lambda: run_plain(engine, chosen, particles))
    fixed = make_engine(model, tokenizer, slots, capacity, True)
    deterministic = timed(lambda: run_plain(fixed, chosen, particles))
    return {
        "fork_over_prefill": {"fork": one, "prefill": again, **ratio(one, again), "at_least": 2},
        "filter_over_plain": {
            "filter": filters, "plain": plain, **ratio(filters, plain), "at_least": 0.8,
        },
        "deterministic_over_normal": {
            "deterministic": deterministic, "normal": plain, **ratio(deterministic, plain),
            "capacity": capacity,
        },
    }  # fmt: skip


def products(model: Any, rows: int, rounds: int) -> float:
    """CPU seconds of the products of all weights with so many rows, the least of several rounds."""
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    inputs = {n: torch.randn(rows, n).to(model.dtype) for n in {x.in_features for x in layers}}
    times = []
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.process_time()
            for layer in layers:
                layer(inputs[layer.in_features])
            times.append(time.process_time() - start)
    return min(times)


def utilisation_plain() -> dict[str, Any]:
    """The products are measured before and after the sampling, and the faster ones count."""
    settings = ModelSettings(name="smollm2", dtype="bfloat16", device="cpu")
    model, tokenizer = load_causal_lm(settings), load_tokenizer(settings)
    problems = load_problems(ProblemSetSettings(source="arithmetic", params={"size": 8, "seed": 1}))
    samples, tokens = 16, 64
    rows = len(problems) * samples
    engine = make_engine(model, tokenizer, rows, 1024, False)

    async def sample(length: int) -> int:
        before = engine.counters.prefilled_tokens - engine.shared_tokens

        async def one(problem: Problem) -> int:
            keys = [Key.of(SEED, problem.id).at(particle=i) for i in range(samples)]
            starts = [engine.start(problem)] * samples
            made = await engine.extend(starts, whole(length), SAMPLING, keys)
            return sum(len(step.token_ids) for step in made)

        made = sum(await asyncio.gather(*map(one, problems)))
        return made + engine.counters.prefilled_tokens - engine.shared_tokens - before

    timed(lambda: sample(4))
    alone = products(model, rows, 3)
    run = timed(lambda: sample(tokens))
    alone = min(alone, products(model, rows, 3))
    rate = rows / alone
    return {
        "utilisation_plain": round(run["tokens"] / run["cpu_seconds"] / rate, 3),
        "plain": run | {"products_tokens_per_second": round(rate, 1), "at_least": 0.5},
        "utilisation_measured": conditions(1),
    }


def bench(name: str, queue: Queue) -> dict[str, Any]:
    settings = ModelSettings(name=name, device="auto")
    model, tokenizer = load_causal_lm(settings), load_tokenizer(settings)
    source = ProblemSetSettings(source="arithmetic", params={"size": queue.requests, "seed": 1})
    problems = load_problems(source)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": settings.dtype,
        "device": model.device.type,
        "queue": dataclasses.asdict(queue),
        "filter": {"steps": STEPS, "step_tokens": STEP_TOKENS},
        "engine_over_generate": bench_queue(model, tokenizer, problems, queue),
        **bench_filters(model, tokenizer, problems, queue),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "smollm2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a short queue for every model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--only-utilisation", action="store_true", help="the other figures stay as they are"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    utilisation = utilisation_plain() if "smollm2" in arguments.models else {}
    for figure in ("utilisation_plain",) if utilisation else ():
        print(f"{'smollm2':10} {figure:28} {utilisation[figure]:6}", flush=True)
    if arguments.only_utilisation:
        held = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
        write_json(arguments.output, held | utilisation)
        return
    torch.set_num_threads(arguments.threads)
    results = []
    for name in arguments.models:
        queue = SMALL if arguments.small else QUEUES.get(name, SMALL)
        results.append(bench(name, queue))
        for figure, value in results[-1].items():
            if isinstance(value, dict) and "ratio" in value:
                print(f"{name:10} {figure:28} {value['ratio']:6} x", flush=True)
        write_results(arguments.output, arguments.threads, results, utilisation)


def write_results(
    output: Path, threads: int, results: list[dict[str, Any]], more: dict[str, Any] | None = None
) -> None:
    """The figures and what they depend on, as JSON."""
    write_json(output, conditions(threads) | {"models": results} | (more or {}))


def conditions(threads: int) -> dict[str, Any]:
    """What figures depend on."""
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_at_end": round(os.getloadavg()[0], 1),
    }
    versions = {package: version(package) for package in ("torch", "transformers", "numpy")}
    return {"date": datetime.now(UTC).date().isoformat(), "machine": machine, "versions": versions}


if __name__ == "__main__":
    main()
