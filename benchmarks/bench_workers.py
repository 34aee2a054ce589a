"""What more workers are worth, and what one costs a problem; their start is left out.

    python benchmarks/bench_workers.py [--parts processes overhead many] [--seconds 60]

``processes``: searches by the tiny model, one worker process against two, a thread each, in turns,
so that both have ``--seconds`` of one worker's work. ``overhead``: a problem that needs nothing, by
one worker. ``many``: 64 workers on problems that wait for 5 s, against the seconds that one would
wait. Results go to ``benchmarks/results/workers.json``.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from bench_engine import conditions

from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.records import Key, Problem
from butwait.reward_models.kinds.confidence import ConfidenceSettings
from butwait.running.files import write_json
from butwait.running.plugins import find_modules_in
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.stages.searching import Growing
from butwait.workers.job import Job, Opened
from butwait.workers.pool import Pool
from butwait.workers.processes import ProcessHost

RESULTS = Path(__file__).parent / "results" / "workers.json"
TURNS = 2
DELAY_S = 5.0
MANY, ROUNDS = 64, 3


@dataclass(frozen=True)
class Waiting:
    """Work that takes so many seconds and nothing else."""

    seconds: float

    async def __call__(self, opened: Opened, problem: Problem) -> str:
        await asyncio.sleep(self.seconds)
        return problem.id


def script() -> ScriptedEngine:
    """A policy that is never asked."""
    return ScriptedEngine({"": {"\\boxed{1}": 1.0}})


def waiting(seconds: float) -> Job:
    engine = ScriptedSettings(kind="scripted", script="bench_workers:script")
    model, prompt = ModelSettings(name="none"), PromptSettings()
    return Job(Waiting(seconds), engine, model, prompt, None, (), (StepRule(),))


def searching(problems: Sequence[Problem]) -> Job:
    rule = StepRule(delimiters=("\n",), max_tokens=64)
    sampler = ParticleFilterSettings(particles=16, step=rule)
    return Job(
        Growing(sampler, Key.of(0, "search")),
        TransformersSettings(slots=256, prefill_chunk=16),
        ModelSettings(name="tiny"),
        PromptSettings(template="{question}"),
        ConfidenceSettings(kind="confidence"),
        problems,
        (rule,),
        16 * 8,
        threads=1,
    )


async def done(job: Job, items: Sequence[Problem], workers: int, room: int) -> dict[str, float]:
    """Seconds for these items by so many workers that have started, and of whose processors."""
    async with Pool(ProcessHost(job.packed()), workers, room, lambda problem: problem.id) as pool:
        while pool.health.healthy < workers:
            await asyncio.sleep(0.05)
        # Each does something first: what is imported or compiled late is a part of its start.
        await asyncio.gather(*map(pool.do, items[: 2 * workers]))
        before, began = _cpu(), time.perf_counter()
        await asyncio.gather(*map(pool.do, items))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "cpu_seconds": _cpu() - before}


def _cpu() -> float:
    """Processor seconds of this process and its workers."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def processes(seconds: float) -> dict[str, Any]:
    """One worker and two, in turns."""
    pool = _problems(4000)
    job = searching(pool)
    tried = asyncio.run(done(job, pool[:96], 1, 8))
    items = pool[: max(96, round(96 * seconds / TURNS / tried["seconds"]))]
    taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for workers, found in taken.items():
            found.append(asyncio.run(done(job, items, workers, 8)))
    total = {workers: sum(each["seconds"] for each in found) for workers, found in taken.items()}
    return {
        "problems": len(items),
        "one": taken[1],
        "two": taken[2],
        "ratio": round(total[1] / total[2], 2),
    }


def overhead() -> dict[str, Any]:
    """A problem that needs nothing."""
    items = _problems(2000)
    taken = asyncio.run(done(waiting(0.0), items, 1, 8))
    each = {name: round(1000 * value / len(items), 2) for name, value in taken.items()}
    return {"problems": len(items), "ms_a_problem": each}


def many() -> dict[str, Any]:
    """64 workers that wait."""
    items = _problems(MANY * ROUNDS)
    taken = asyncio.run(done(waiting(DELAY_S), items, MANY, 1))
    return {
        "problems": len(items),
        "workers": MANY,
        "seconds": round(taken["seconds"], 2),
        "ratio": round(len(items) * DELAY_S / taken["seconds"], 1),
        "cpu_ms_a_problem": round(1000 * taken["cpu_seconds"] / len(items), 1),
    }


def _problems(count: int) -> list[Problem]:
    settings = ProblemSetSettings(source="arithmetic", split="search", params={"size": count})
    return load_problems(settings)


PARTS = {"processes": processes, "overhead": overhead, "many": many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of one worker's work")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    find_modules_in([Path(__file__).parent])
    known: dict[str, Any] = {}
    if arguments.output.exists():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))
    for part in arguments.parts:
        found = processes(arguments.seconds) if part == "processes" else PARTS[part]()
        print(part, json.dumps(found), flush=True)
        known |= conditions(1) | {part: found}
        write_json(arguments.output, known)


if __name__ == "__main__":
    import bench_workers  # under the name by which workers find what they are to do

    bench_workers.main()
