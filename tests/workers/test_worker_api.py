"""``butwait.search`` by workers."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from worker_runs import FILTER, REWARD, prepare

import butwait
from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.running.plugins import find_modules_in, load_plugin
from butwait.search.rows import to_row
from butwait.workers.crew import at_work
from butwait.workers.job import Job, Opened, Worker
from butwait.workers.settings import WorkersSettings

TWO = {"kind": "processes", "count": 2}
EXACT = {"kind": "transformers", "slots": 16, "prefill_chunk": 8, "deterministic": True}


def problems(folder: Path) -> list[Problem]:
    rows = map(json.loads, (folder / "questions.jsonl").read_text().splitlines())
    return [Problem(row["id"], row["question"], row["answer"]) for row in rows]


def drawn(trees: Any) -> list[bytes]:
    return [to_row(replace(tree, timings=None)).to_pandas().to_json().encode() for tree in trees]


@pytest.mark.slow
def test_trees_of_workers_are_those_of_this_process(own_folder: Path) -> None:
    prepare(own_folder, {})
    engine = {"kind": "scripted", "script": "hard:policy"}
    given: dict[str, Any] = {"method": FILTER, "reward_model": REWARD, "engine": engine}
    asked, seen = problems(own_folder), list[str]()
    here = butwait.search(asked, **given)
    there = butwait.search(
        asked, workers=TWO, on_tree=lambda tree: seen.append(tree.problem_id), **given
    )
    assert [tree.problem_id for tree in there] == [problem.id for problem in asked]
    assert drawn(here) == drawn(there)
    assert sorted(seen) == [problem.id for problem in asked]
    assert any(grade.correct for tree in there for grade in tree.grades.values())


def test_work_that_cancels_itself_is_a_mistake_and_work_that_is_cancelled_is_none() -> None:
    async def work(opened: Opened, item: str) -> None:
        if item == "itself":
            raise asyncio.CancelledError
        await asyncio.sleep(60)

    async def outcome(worker: Worker, item: str) -> BaseException | None:
        doing = asyncio.ensure_future(worker.do(item))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        doing.cancel()
        (found,) = await asyncio.gather(doing, return_exceptions=True)
        return found

    async def both() -> None:
        engine = ScriptedEngine({"": {"\\boxed{3}": 1.0}})
        with Grader(workers=1) as grader:
            worker = Worker(work, Opened(engine, None, grader), 1)
            for item, kind in (("itself", UserError), ("another", asyncio.CancelledError)) * 2:
                assert type(await outcome(worker, item)) is kind  # and the only place is free

    asyncio.run(both())


WAITING = """
import asyncio
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Waiting:
    async def __call__(self, opened, item):
        if item == "endless":
            Path("begun").touch()
            try:
                await asyncio.sleep(3600)
            finally:
                Path("ended").touch()
        return item
"""


def test_work_of_another_process_ends_where_nobody_waits_for_it_any_more(own_folder: Path) -> None:
    prepare(own_folder, {})
    Path("waiting.py").write_text(WAITING)
    find_modules_in([own_folder])
    work = load_plugin("waiting:Waiting", "work")()
    engine = ScriptedSettings(kind="scripted", script="hard:policy")
    given = (engine, ModelSettings(name="none"), PromptSettings(), None, [], [])
    job = Job(work, *given, graders=1, concurrency=1)

    async def asked() -> Any:
        async with at_work(job, WorkersSettings(kind="processes", count=1)) as crew:
            endless = asyncio.create_task(crew.do("endless"))
            while not Path("begun").exists():
                await asyncio.sleep(0.01)
            endless.cancel()
            return await crew.do("next")  # the only place is free again

    assert asyncio.run(asked()) == "next"
    assert Path("ended").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": ScriptedEngine({"": {"\\boxed{3}": 1.0}})}, "engine"),
        ({"verifier": lambda response, gold: 1.0}, "verifier"),
    ],
)
def test_objects_of_this_process_are_refused(given: dict[str, Any], told: str) -> None:
    method = {"kind": "independent", "samples": 2}
    with pytest.raises(UserError) as refused:
        butwait.search([Problem("1", "1 + 2", "3")], method=method, workers=TWO, **given)
    assert str(refused.value) == (
        f"search: {told}: an object of this process, which no worker elsewhere can be handed; name "
        "it (module:NAME), or leave workers out"
    )


@pytest.mark.parametrize("workers", [{"kind": "cluster"}, {"kid": "ray"}, {"count": 0}, "ray"])
def test_wrong_workers_are_one_sentence(workers: Any) -> None:
    with pytest.raises(UserError, match="workers") as refused:
        butwait.search(["1 + 2"], method={"kind": "independent"}, workers=workers)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_a_stage_takes_workers_too(own_folder: Path) -> None:
    prepare(own_folder, {})
    engine = {"kind": "scripted", "script": "hard:policy"}
    given: dict[str, Any] = {"method": FILTER, "reward_model": REWARD, "engine": engine}
    asked = problems(own_folder)
    found = butwait.search(asked, run_dir="run", workers=TWO, **given)
    assert (own_folder / "run" / "search" / "workers.json").exists()
    assert drawn(found) == drawn(butwait.search(asked, run_dir="here", **given))
    again = butwait.search(asked, run_dir="run", **given)  # the same stage, whoever does it
    assert again.name == found.name


@pytest.mark.slow
def test_the_model_in_deterministic_mode_gives_the_same_trees() -> None:
    given: dict[str, Any] = {"model": "tiny", "particles": 4, "engine": EXACT, "seed": 3}
    asked = [f"Calculate {i} + 8 - {i % 3}." for i in range(4)]
    there = butwait.search(asked, workers=TWO, concurrency=1, **given)
    assert drawn(there) == drawn(butwait.search(asked, **given))
