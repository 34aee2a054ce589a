"""What workers on Ray clusters of several nodes give, all nodes on this machine.

    python benchmarks/bench_ray.py [--parts overhead two_nodes sixty_four] [--output FILE]

Problems are searched by a policy that is written down and takes its time: 0.5 or 5 seconds a
problem and some milliseconds of CPU. Starts do not count. Measured:

- ``overhead``: milliseconds that a worker on Ray adds to a problem without a delay, against the
  same search in this process, one problem after the other.
- ``two_nodes``: problems of half a second by two workers on two nodes, against one worker.
- ``sixty_four``: problems of 5 seconds by 64 workers on two nodes, against one worker; and the
  memory of the 64: megabytes each that no other process shares, and whether torch is in one.

Results go to ``benchmarks/results/ray.json``.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem
from butwait.running.files import write_json
from butwait.running.plugins import find_modules_in
from butwait.search.samplers.samples import SelfConsistencySettings
from butwait.stages.searching import Growing
from butwait.workers.crew import Crew, at_work
from butwait.workers.job import Job
from butwait.workers.settings import WorkersSettings

RESULTS = Path(__file__).parent / "results" / "ray.json"
POLICIES = '''
"""Policies of two steps a path, by the seconds that a path takes."""
from butwait.engines.scripted import ScriptedEngine

TABLE = {"": {"a\\n": 1.0}, "a\\n": {"\\\\boxed{3}": 0.7, "\\\\boxed{5}": 0.3}}

def at_once():
    return ScriptedEngine(TABLE)

def half_a_second():
    return ScriptedEngine(TABLE, delay=0.25)

def five_seconds():
    return ScriptedEngine(TABLE, delay=2.5)
'''
# 64 workers on two cores are not started at once, and none before it is asked for.
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_maximum_startup_concurrency": "2",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def cluster(*cpus: int) -> Iterator[str]:
    """The address of a cluster of a head without cores and of nodes with so many."""
    os.environ.update(RAY)
    import ray
    from ray.cluster_utils import Cluster

    node = {
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": 200 << 20,
        "node_ip_address": "127.0.0.1",
    }
    made = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0, "no_monitor": True})
    try:
        for cores in cpus:
            made.add_node(num_cpus=cores, **node)
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def job(policy: str) -> Job:
    """A search of four paths by a policy."""
    sampler = SelfConsistencySettings.model_validate(
        {"kind": "self_consistency", "samples": 4, "step": {"delimiters": ["\n"], "max_tokens": 8}}
    )
    return Job(
        Growing(sampler, Key.of(0, "search")),
        ScriptedSettings(kind="scripted", script=f"policies:{policy}"),
        ModelSettings(name="none"),
        PromptSettings(),
        None,
        problems(1),
        [sampler.step],
        graders=1,
        concurrency=1,
    )


def problems(count: int) -> list[Problem]:
    return [Problem(f"q{number}", f"question {number}", "3") for number in range(count)]


async def started(crew: Crew, workers: int) -> None:
    """Waits until all workers are there."""
    await crew.do(problems(1)[0])
    while crew.health is not None and crew.health.healthy < workers:
        await asyncio.sleep(0.1)
    await asyncio.gather(*(crew.do(problem) for problem in problems(workers)))


async def seconds(
    policy: str, workers: WorkersSettings, count: int, *, at_once: bool = True
) -> tuple[float, Any]:
    """Seconds for so many problems after the start, together or one by one; and what
    ``memory`` finds at the end."""
    size = workers.count or 1
    async with at_work(job(policy), workers) as crew:
        await started(crew, size)
        begun = time.perf_counter()
        if at_once:
            await asyncio.gather(*(crew.do(problem) for problem in problems(count)))
        else:
            for problem in problems(count):
                await crew.do(problem)
        return time.perf_counter() - begun, memory()


def memory() -> dict[str, Any]:
    """Of the workers on this machine."""
    there = [p for p in psutil.process_iter(["cmdline"]) if "ray::Actor" in str(p.info["cmdline"])]
    own = [process.memory_full_info().uss / 1e6 for process in there]
    torch = any("libtorch" in file.path for p in there[:1] for file in p.memory_maps())
    return {
        "workers": len(there),
        "own_mb": round(statistics.median(own)) if own else None,
        "torch": torch,
    }


def timed(
    policy: str, workers: int | None, address: str, count: int, **more: bool
) -> tuple[float, Any]:
    """``seconds``, by workers of a cluster; None: in this process."""
    settings = WorkersSettings()
    if workers is not None:
        settings = WorkersSettings(kind="ray", count=workers, address=address)
    return asyncio.run(seconds(policy, settings, count, **more))


def overhead(address: str) -> dict[str, Any]:
    """Milliseconds a problem, one by one."""
    here, _ = timed("at_once", None, address, 200, at_once=False)
    there, _ = timed("at_once", 1, address, 200, at_once=False)
    added = 1000 * (there - here) / 200
    return {
        "local_ms": round(1000 * here / 200, 2),
        "added_ms": round(added, 2),
        "at_most": 20,
        "reached": added <= 20,
    }


def two_nodes(address: str) -> dict[str, Any]:
    """Problems of half a second by one worker and by two."""
    one, _ = timed("half_a_second", 1, address, 20)
    two, _ = timed("half_a_second", 2, address, 40)
    return _gain(one / 20, two / 40, 1.8)


def sixty_four(address: str) -> dict[str, Any]:
    """Problems of five seconds by one worker and by 64, and what these take of memory."""
    one, _ = timed("five_seconds", 1, address, 2)
    many, workers = timed("five_seconds", 64, address, 256)
    return _gain(one / 2, many / 256, 50) | {"memory": workers}


def _gain(one: float, many: float, bar: float) -> dict[str, Any]:
    """Seconds a problem by one worker and by many."""
    return {
        "one_s": round(one, 4),
        "many_s": round(many, 4),
        "speedup": round(one / many, 2),
        "at_least": bar,
        "reached": one / many >= bar,
    }


PARTS = {part.__name__: part for part in (overhead, two_nodes, sixty_four)}


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    words.add_argument("--output", type=Path, default=RESULTS)
    asked = words.parse_args()
    output = asked.output.resolve()
    found = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "policies.py").write_text(POLICIES)
        os.chdir(folder)
        find_modules_in([Path(folder)])
        with cluster(32, 32) as address:
            for name in asked.parts:
                found[name] = PARTS[name](address)
                print(name, found[name], flush=True)
        os.chdir("/")
    found["date"] = f"{datetime.now(UTC):%Y-%m-%d}"
    found["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 1),
    }
    found["versions"] = {"ray": version("ray")}
    write_json(output, found)


if __name__ == "__main__":
    main()
