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
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.scheduling.rows import Concurrency
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.running import plugins
from butwait.running.plugins import find_modules_in, load_plugin
from butwait.search.rows import to_row
from butwait.workers import crew
from butwait.workers.crew import at_work
from butwait.workers.job import Job, Opened, Worker, unpacked
from butwait.workers.settings import WorkersSettings

MODEL = ModelSettings(name="tiny")
SCRIPTED = ScriptedSettings(kind="scripted", script="x:y")
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


OWN = """
import sys
import numpy as np
async def work(opened, item):
    if item == "exit":
        sys.exit(3)
    if item == "engine":
        await opened.engine.extend(None, None, None, None)
    if item == "numpy":
        np.zeros(2) @ np.zeros(3)
    return {}[item]
"""


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("exit", "failed in work: SystemExit (3) at own_work.py, line 6"),
        ("numpy", "failed in work: ValueError (matmul: "),
        ("else", "failed in work: KeyError ('else') at own_work.py, line 11"),
        ("engine", None),
    ],
)
@pytest.mark.parametrize("handed", [False, True])
def test_a_plugin_that_fails_is_a_mistake_and_an_engine_that_fails_is_none(
    own_folder: Path, item: str, told: str | None, handed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``handed``: to another process, which imports the module without loading a plugin."""
    (own_folder / "own_work.py").write_text(OWN)
    work = load_plugin("own_work:work", "work")
    if handed:
        job = Job(work, SCRIPTED, MODEL, PromptSettings(), None, (), ())
        packed = job.packed()
        monkeypatch.setattr(plugins, "_loaded", {})
        work = unpacked(packed).work

    async def outcome() -> BaseException:
        with Grader(workers=1) as grader:
            opened = Opened(ScriptedEngine({"": {"\\boxed{3}": 1.0}}), None, grader)
            try:
                await Worker(work, opened, 1).reply(item)
            except BaseException as error:
                return error
            raise AssertionError

    error = asyncio.run(outcome())
    assert isinstance(error, UserError) == (told is not None)
    if told is not None:
        assert f"the plugin 'own_work:work' {told}" in str(error)


def test_a_worker_tells_what_it_has_begun() -> None:
    """Two at a time: with each of five there is one more, but with the last."""

    async def work(opened: Opened, item: int) -> int:
        await turns[item].wait()
        return item

    async def all_of_them() -> list[int]:
        with Grader(workers=1) as grader:
            engine = ScriptedEngine({"": {"\\boxed{3}": 1.0}})
            worker = Worker(work, Opened(engine, None, grader), 2)
            asked = [asyncio.ensure_future(worker.reply(item)) for item in range(5)]
            begun = []
            for turn, each in zip(turns, asked, strict=True):
                for _ in range(5):
                    await asyncio.sleep(0)
                turn.set()
                begun.append((await each).begun)
            return begun

    turns = [asyncio.Event() for _ in range(5)]
    assert asyncio.run(all_of_them()) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("concurrency", "slots", "most"),
    [("auto", 4096, 400), ("auto", 8, 64), (64, 4096, 64), (3, 4096, 3)],
)
def test_auto_is_as_many_problems_as_a_worker_lets_in(
    concurrency: Concurrency, slots: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_host", lambda *_: (Nobody(), 2))
    given: Any = (None, TransformersSettings(slots=slots), MODEL, PromptSettings(), None)
    asked = [Problem(str(i), "1 + 2", "3") for i in range(400)]
    job = Job(*given, asked, (), concurrency=concurrency)

    async def size() -> int:
        async with crew.at_work(job, WorkersSettings(kind="processes", count=2)) as found:
            return found.size

    assert asyncio.run(size()) == 2 * most


class Nobody:
    async def start(self, index: int) -> Any:
        await asyncio.get_running_loop().create_future()


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
