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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def started(
    job: Job, workers: int, room: int, items: Sequence[Problem]
) -> AsyncIterator[Pool]:
    """So many workers, each of which has done something: what is imported or compiled late is a
    part of its start."""
    async with Pool(ProcessHost(job.packed()), workers, room, lambda problem: problem.id) as pool:
        first = asyncio.ensure_future(pool.do(items[0]))  # tells why nobody can start
        while pool.health.healthy < workers and not (first.done() and first.exception()):
            await asyncio.sleep(0.05)
        await asyncio.gather(first, *map(pool.do, items[: 2 * workers]))
        yield pool


async def taken(pool: Pool, items: Sequence[Problem]) -> dict[str, float]:
    """Seconds for these items, by the clock and of the processors."""
    before, began = _cpu(), time.perf_counter()
    await asyncio.gather(*map(pool.do, items))
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 3), "cpu_seconds": round(_cpu() - before, 3)}


async def once(job: Job, items: Sequence[Problem], workers: int, room: int) -> dict[str, float]:
    async with started(job, workers, room, items) as pool:
        return await taken(pool, items)


def _cpu() -> float:
    """Processor seconds of this process and its workers."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def processes(seconds: float) -> dict[str, Any]:
    """One worker and two, in turns; those whose turn it is not are idle."""
    asked = _problems(3000)
    return asyncio.run(_in_turns(searching(asked), asked, seconds))


async def _in_turns(job: Job, asked: Sequence[Problem], seconds: float) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
    async with started(job, 1, 8, asked) as one, started(job, 2, 8, asked) as two:
        tried = await taken(one, asked[:96])
        items = asked[: max(96, round(96 * seconds / TURNS / tried["seconds"]))]
        for _ in range(TURNS):
            for name, pool in (("one", one), ("two", two)):
                found[name].append(await taken(pool, items))
    total = {name: sum(each["seconds"] for each in turns) for name, turns in found.items()}
    return {"problems": len(items), **found, "ratio": round(total["one"] / total["two"], 2)}


def overhead() -> dict[str, Any]:
    """A problem that needs nothing."""
    items = _problems(2000)
    found = asyncio.run(once(waiting(0.0), items, 1, 8))
    each = {name: round(1000 * value / len(items), 2) for name, value in found.items()}
    return {"problems": len(items), "ms_a_problem": each}


def many() -> dict[str, Any]:
    """64 workers that wait."""
    items = _problems(MANY * ROUNDS)
    found = asyncio.run(once(waiting(DELAY_S), items, MANY, 1))
    return {
        "problems": len(items),
        "workers": MANY,
        "seconds": round(found["seconds"], 2),
        "ratio": round(len(items) * DELAY_S / found["seconds"], 1),
        "cpu_ms_a_problem": round(1000 * found["cpu_seconds"] / len(items), 1),
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
