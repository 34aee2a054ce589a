"""Workers in processes of this machine: the same files as without, whatever becomes of them."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_runs import FILTER, PROCESSES, REWARD, STEP, files, prepare

from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem
from butwait.running.plugins import find_modules_in
from butwait.training.rollouts import Rolling, Rollout, write_rollouts
from butwait.training.settings import RolloutSettings
from butwait.workers.crew import at_work
from butwait.workers.job import Job
from butwait.workers.settings import WorkersSettings

Command = Callable[..., tuple[int, str, str]]

SEARCH = {"kind": "search", "problems": "train", "reward_model": REWARD, "shard_size": 4}


def test_a_search_an_evaluation_and_branches_are_the_same_by_workers(
    own_folder: Path, command: Command
) -> None:
    """And a worker whose engine needs no torch does not load it."""
    prepare(
        own_folder,
        {4: "die once"},
        search={**SEARCH, "sampler": FILTER},
        ask={
            "kind": "evaluate",
            "problems": ["test"],
            "reward_model": REWARD,
            "methods": {
                "plain": {"k": 2, "sampler": {"kind": "independent", "step": STEP}},
                "search": {"sampler": FILTER},
            },
        },
        detours={"kind": "backtrack", "from": ["search"], "confirm": {"completions": 2}},
    )
    (own_folder / "died").touch()
    code, _, told = command("run", "mine.yaml", "--run-dir", "here")
    assert (code, told) == (0, "")
    (own_folder / "died").unlink()
    (own_folder / "opened.txt").unlink()
    assert command("run", "mine.yaml", "--run-dir", "there", *PROCESSES)[::2] == (0, "")
    here, there = (files(own_folder / run) for run in ("here", "there"))
    assert len(here) == 8
    assert b'["search", "q02", 1, 2, 1, 4,' in here["detours/confirmations/shard-00000.jsonl"]
    assert here == there
    assert b"token_logprobs" in here["ask/attempts/test/search/shard-00000.parquet"]
    opened = [line.split() for line in (own_folder / "opened.txt").read_text().splitlines()]
    own = str(os.getpid())  # loads a tokenizer's stand-in for the data
    assert {torch for torch, process in opened if process != own} == {"False"}
    assert len({process for _, process in opened} - {own}) >= 4  # three stages, and one that died
    health = json.loads((own_folder / "there" / "search" / "workers.json").read_text())
    assert (health["restarts"], health["set_aside"]) == (1, {})


@pytest.mark.slow
def test_a_problem_that_ends_its_workers_is_named_and_holds_up_no_other(
    own_folder: Path, command: Command
) -> None:
    prepare(own_folder, {5: "die"})
    code, _, told = command("run", "mine.yaml", "--run-dir", "run", *PROCESSES)
    assert code == 2
    assert told == (
        "butwait: not done, for each of them ended two workers: q05 (its process ended with code 3 "
        "(this question is too hard)); all others are stored: run the same command again to try "
        "them once more, or set workers.skip_failed: true to go on without them\n"
    )
    stored = own_folder / "run" / "search" / "trees"
    assert sorted(path.name for path in stored.glob("shard*.parquet")) == [
        "shard-00000.parquet",
        "shard-00002.parquet",
    ]
    assert len(list((stored / ".spool").glob("0*.parquet"))) == 3
    skip = ("--set", "workers.skip_failed=true")
    code, said, _ = command("run", "mine.yaml", "--run-dir", "run", *PROCESSES, *skip)
    assert code == 0
    record = json.loads((own_folder / "run" / "search" / "stage.json").read_text())
    assert (record["metrics"]["problems"], record["metrics"]["set_aside"]) == (11, ["q05"])
    assert "without q05, set aside: each ended two workers" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_a_mistake_that_a_worker_finds_is_the_same_sentence(
    own_folder: Path, command: Command, kind: str
) -> None:
    ask = {"kind": "evaluate", "problems": ["train"], "reward_model": REWARD}
    methods = {"methods": {"search": {"sampler": FILTER}}}
    stages = {
        "search": {"search": {**SEARCH, "sampler": FILTER}},
        "evaluate": {"ask": ask | methods},
    }
    prepare(own_folder, {5: "refuse"}, **stages[kind])
    told = [
        command("run", "mine.yaml", "--run-dir", run, *words)[::2]
        for run, words in (("here", ()), ("there", PROCESSES))
    ]
    assert told[0] == told[1]
    assert told[0][0] == 2
    assert "q05 cannot be judged; leave it out" in told[0][1]


@pytest.mark.slow
def test_what_cannot_be_opened_is_told_once(own_folder: Path, command: Command) -> None:
    prepare(own_folder, {})
    plugin = own_folder / "hard.py"
    plugin.write_text(plugin.read_text().replace("return ScriptedEngine", "return 3 #"))
    told = [
        command("run", "mine.yaml", "--run-dir", run, *words)[::2]
        for run, words in (("here", ()), ("there", PROCESSES))
    ]
    assert told[0] == told[1]
    assert told[0][0] == 2
    assert len(told[0][1].splitlines()) == 1


SAMPLER = """
from butwait.search.settings import CommonSettings, Sampler
async def sample(problem, engine, reward_model, settings, key):
    1 / 0
SAMPLER = Sampler(CommonSettings, sample, needs_reward_model=False)
"""


@pytest.mark.slow
def test_a_sampler_of_ones_own_that_fails_is_the_same_sentence(
    own_folder: Path, command: Command
) -> None:
    """And no worker is lost."""
    prepare(own_folder, {}, search={**SEARCH, "sampler": {"kind": "own_sampler:SAMPLER"}})
    (own_folder / "own_sampler.py").write_text(SAMPLER)
    told = [
        command("run", "mine.yaml", "--run-dir", run, *words)[::2]
        for run, words in (("here", ()), ("there", PROCESSES))
    ]
    assert told[0] == told[1]
    assert told[0][0] == 2
    assert "'own_sampler:SAMPLER' failed in sample: ZeroDivisionError" in told[0][1]
    assert "is lost" not in (own_folder / "there" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in score", "in its start"])
def test_a_plugin_that_hangs_in_a_worker_ends_the_run(tmp_path: Path, where: str) -> None:
    """It is not tried again on another, which would wait for as long."""
    prepare(tmp_path, {0: "sleep here"} if where == "in score" else {})
    if where == "in its start":
        plugin = tmp_path / "hard.py"
        hangs = "def reward():\n    while 'child' in sys.argv[0]: time.sleep(1)\n"
        plugin.write_text(plugin.read_text().replace("def reward():\n", hangs))
    words = [sys.executable, "-m", "butwait", "run", "mine.yaml", "--run-dir", "run", *PROCESSES]
    limit = os.environ | {"BUTWAIT_PLUGIN_TIMEOUT": "5"}
    ended = subprocess.run(words, cwd=tmp_path, env=limit, capture_output=True, text=True)
    assert ended.returncode == 2
    # Which of the calls under way it names is not this test's matter; the place is.
    told = (
        r"butwait: the plugin 'hard:\w+' has not come back from .+ for 5 s \(at hard.py, line \d+\)"
    )
    assert re.match(rf"{told}; mend it, .+\n$", ended.stderr)
    assert "is lost" not in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_rollouts_are_the_same_by_a_worker(own_folder: Path) -> None:
    """The work of a ``prm`` stage, whose training is not repeated here."""
    prepare(own_folder, {})
    find_modules_in([own_folder])
    settings = RolloutSettings(solutions=3, prefixes=2, completions=2, steps=StepRule(**STEP))
    job = Job(
        Rolling(settings, Key.of(0, "prm")),
        ScriptedSettings(kind="scripted", script="hard:policy"),
        ModelSettings(name="none"),
        PromptSettings(),
        None,
        (),
        (settings.steps,),
    )
    asked = [Problem(f"q{i}", f"question {i}", "3") for i in range(4)]

    async def rolled(kind: str) -> list[list[Rollout]]:
        workers = WorkersSettings.model_validate({"kind": kind})
        async with at_work(job, workers) as crew:
            return [await crew.do(problem) for problem in asked]

    here, there = (asyncio.run(rolled(kind)) for kind in ("local", "processes"))
    assert sum(map(len, here)) > 12
    for name, found in (("here", here), ("there", there)):
        write_rollouts(own_folder / name, found)
    assert (own_folder / "here").read_bytes() == (own_folder / "there").read_bytes()
