"""What tests do with real Ray clusters: ``python ray_scenarios.py NAME FOLDER``, in a network and a
process table of its own. The last line that a scenario prints is JSON: what it found."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
import ray
from pipeline_runs import butwait as butwait_command
from pipeline_runs import finished, kill_after, prepare, shards
from ray.cluster_utils import Cluster

import butwait
from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.running.plugins import find_modules_in
from butwait.search.samplers.samples import SelfConsistencySettings
from butwait.stages.searching import Growing
from butwait.workers import ray as workers
from butwait.workers.crew import at_work
from butwait.workers.job import Job
from butwait.workers.settings import WorkersSettings


@contextmanager
def cluster(*cpus: int, gpus: tuple[int, ...] = ()) -> Iterator[Cluster]:
    """A cluster of a head without cores and of nodes with so many, which say that they have so many
    GPUs."""
    # Nobody else is in this network.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    made = Cluster(initialize_head=True, head_node_args=_node(0) | {"no_monitor": True})
    try:
        for cores, cards in zip_longest(cpus, gpus, fillvalue=0):
            made.add_node(**_node(cores) | {"num_gpus": cards})
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def _node(cpus: int) -> dict[str, Any]:
    return {
        "num_cpus": cpus,
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": 100 << 20,
        "node_ip_address": "127.0.0.1",
    }


def run(recipe: Path, name: str, address: str | None = None, count: int = 2) -> Path:
    """Runs a recipe, by workers where there is an address; returns the folder of its trees."""
    overrides = [f"name={name}"]
    if address is not None:
        overrides += ["workers.kind=ray", f"workers.count={count}", f"workers.address={address}"]
    butwait.run(recipe, overrides=overrides)
    return recipe.parent / "runs" / name / "search" / "trees"


def two_nodes(folder: Path) -> dict[str, Any]:
    """A search over two nodes, one of which is lost in the middle; then workers that want more GPUs
    than the lost one had, and more than there are."""
    os.environ["DELAY"] = "0.1"
    recipe = prepare(folder)
    os.chdir(folder)
    alone = shards(run(recipe, "alone"))
    began = time.monotonic()
    with cluster(1, 1, gpus=(1, 2)) as nodes:
        started = time.monotonic() - began
        trees = folder / "runs" / "shared" / "search" / "trees"
        lost = _when(lambda: progress(trees) >= 10, lambda: _lose(nodes))
        run(recipe, "shared", nodes.address)
        lost.join()
        return {
            "trees": len(alone),
            "same": shards(trees) == alone,
            "lost": (folder / "runs" / "shared" / "log.txt").read_text().count("is lost"),
            "packed": _asked(nodes.address, {"policy": 1, "reward_model": 1}),
            "no room": _asked(nodes.address, 3, patience=1.0),
            "seconds": [started, time.monotonic() - began],
        }


def _asked(address: str, gpus: Any, patience: float = 60.0) -> str:
    """What is said where workers want such devices: the id of the problem that is done, or the
    mistake."""
    workers.PATIENCE_S = workers.TOLD_S = patience
    find_modules_in([])

    async def ask() -> str:
        settings = WorkersSettings.model_validate({"kind": "ray", "address": address, "gpus": gpus})
        async with at_work(_job(1), settings) as crew:
            return str((await crew.do(_problem(0))).problem_id)

    try:
        return asyncio.run(ask())
    except UserError as error:
        return str(error)


def workers_killed(folder: Path) -> dict[str, Any]:
    """A search by three workers, 20 of which are killed at random moments."""
    os.environ["DELAY"] = "0.1"
    recipe = prepare(folder, questions=160)
    os.chdir(folder)
    alone = shards(run(recipe, "alone"))
    trees = folder / "runs" / "shared" / "search" / "trees"
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        chance, due = random.Random(0), 2
        while len(killed) < 20 and not ended.wait(0.01):
            if progress(trees) >= due and (there := _actors()):
                time.sleep(chance.uniform(0, 0.3))
                process = chance.choice(there)
                process.kill()
                killed.append(process.pid)
                due = progress(trees) + chance.randint(2, 5)

    with cluster(2, 1) as nodes:
        killer = threading.Thread(target=kill)
        killer.start()
        for _ in range(5):
            try:
                run(recipe, "shared", nodes.address, 3)
            except UserError as error:  # the same problem was hit twice
                print(error)
            else:
                break
        ended.set()
        killer.join()
        return {"killed": len(killed), "trees": len(alone), "same": shards(trees) == alone}


def progress(trees: Path) -> int:
    """Finished problems: of a shard, whose spool files are gone, 8."""
    return sum(8 if name.startswith("shard") else 1 for name in finished(trees))


def drivers_killed(folder: Path) -> dict[str, Any]:
    """A search whose own process is killed ten times: eight on a cluster that stays, two on one of
    its own."""
    os.environ["DELAY"] = "0.2"
    recipe = prepare(folder, questions=80)
    os.chdir(folder)
    alone = shards(run(recipe, "alone"))
    trees = folder / "runs" / "mine" / "search" / "trees"
    words = ["run", recipe.name, "--set", "workers.kind=ray", "--set", "workers.count=2"]
    again, left, running = 0, [], 0
    survived: dict[str, int] = {}

    def kill(words: list[str], orphans: Callable[[], list[Any]]) -> None:
        nonlocal again, running, survived
        running += kill_after(words, folder, trees, random.choice((1, 2, 3)))
        left.append(len(_gone(orphans)))
        now = finished(trees)
        again += sum(now[name] != at for name, at in survived.items() if name in now)
        survived = now

    random.seed(0)
    for _ in range(2):
        before = set(psutil.pids())
        kill(words, lambda before=before: [p for p in psutil.pids() if p not in before])
    with cluster(1, 1) as nodes:
        joined = [*words, "--set", f"workers.address={nodes.address}"]
        for _ in range(8):
            kill(joined, _actors)
        done = butwait_command(*joined, cwd=folder)
    now = finished(trees)
    again += sum(now[name] != at for name, at in survived.items() if name in now)
    return {
        "killed": running,
        "left": left,
        "again": again,
        "code": done.returncode,
        "trees": len(alone),
        "same": shards(trees) == alone,
    }


def symmetric(folder: Path) -> dict[str, Any]:
    """A run as a job of Slurm starts it: ``ray symmetric-run`` on each node, of which there is
    one."""
    recipe = prepare(folder)
    os.chdir(folder)
    alone = shards(run(recipe, "alone"))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    start = ["ray", "symmetric-run", "--address", "127.0.0.1:6379"]
    words = [sys.executable, "-m", "butwait", "run", recipe, "--set", "workers.kind=ray"]
    words += ["--set", "workers.count=2", "--set", "workers.address=auto"]
    done = subprocess.run([*start, "--min-nodes", "1", "--num-cpus", "2", "--", *words])
    trees = folder / "runs" / "mine" / "search" / "trees"
    return {"code": done.returncode, "trees": len(alone), "same": shards(trees) == alone}


def _actors() -> list[psutil.Process]:
    """Processes of workers."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ray::Actor" in str(p.info["cmdline"])]


def _gone(orphans: Callable[[], list[Any]]) -> list[Any]:
    """Who is left after a while."""
    until = time.monotonic() + 30
    while orphans() and time.monotonic() < until:
        time.sleep(0.1)
    return orphans()


def _lose(nodes: Cluster) -> None:
    lost = min(nodes.worker_nodes, key=lambda node: node._ray_params.num_gpus)
    nodes.remove_node(lost, allow_graceful=False)


def _when(due: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not due():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _problem(number: int) -> Problem:
    return Problem(f"q{number}", f"question {number}", "3")


def _job(samples: int) -> Job:
    sampler = SelfConsistencySettings(
        kind="self_consistency", samples=samples, step={"delimiters": ["\n"], "max_tokens": 8}
    )
    return Job(
        Growing(sampler, Key.of(0, "search")),
        ScriptedSettings(kind="scripted", script="toys:policy"),
        ModelSettings(name="none"),
        PromptSettings(),
        None,
        [_problem(0)],
        [sampler.step],
        graders=1,
        concurrency=1,
    )


SCENARIOS = {
    function.__name__: function
    for function in (two_nodes, workers_killed, drivers_killed, symmetric)
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
