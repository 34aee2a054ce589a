"""A full disk, a limit of the system, Ctrl-C and SIGTERM in every kind of stage: one sentence, and
the run goes on to the same summary.

``BUTWAIT_SEED`` draws other moments.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pipeline_runs import prepare
from test_kills_anywhere import LOOP, leftovers, result
from warm_runs import start

from butwait.recipe.load import load_recipe
from butwait.stages.kinds import STAGES

EVERY_KIND = (
    LOOP.replace("limit: 12", "limit: 6")
    .replace("steps: 3", "steps: 2")
    .replace("max_steps: 4", "max_steps: 2")
    .replace(
        "problems:\n",
        "problems:\n  given: {source: given.jsonl, columns: {solution: solution}}\n",
        1,
    )
    .replace(
        "  report: {kind: report}\n",
        """  outside: {kind: external, problems: given}
  hesitant:
    kind: search
    problems: hunt
    sampler: {kind: but_wait, samples: 6, phrase: "\\n", rounds: 2, stable: null,
      step: {delimiters: [], max_tokens: 160}}
  thoughts: {kind: but_wait, from: [hesitant]}
  stitched: {kind: stitch, from: [search]}
  grpo:
    kind: grpo
    problems: hunt
    steps: 2
    save_steps: 1
    questions: 4
    group: 4
    learning_rate: 3.0e-4
    step: {delimiters: [], max_tokens: 64}
    generation: {slots: 16, prefill_chunk: 16, deterministic: true}
  looks: {kind: profile, from: [search, verified], sources: [search, verified]}
  report: {kind: report}
""",
    )
)


def prepared(folder: Path) -> Path:
    prepare(folder, EVERY_KIND)
    rows = [
        {
            "id": f"g{i}",
            "question": f"Calculate {i} + {i + 7}.",
            "answer": str(2 * i + 7),
            "solution": f"{i} + {i + 7} = {2 * i + 7}\n\\boxed{{{2 * i + 7}}}",
        }
        for i in range(6)
    ]
    (folder / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Undisturbed(NamedTuple):
    """A finished run: its recipe's folder and what came out."""

    folder: Path
    result: Any

    @property
    def run(self) -> Path:
        return self.folder / "runs/mine"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = prepared(tmp_path_factory.mktemp("undisturbed"))
    done = start("run", "mine.yaml", cwd=folder, said=folder).end()
    assert done.code == 0, done.said
    return Undisturbed(folder, result(folder / "runs/mine"))


def kilobytes(folder: Path) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4 for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many kB, or makes it larger; where it is."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = False

    def sized(size: int) -> Path:
        nonlocal mounted
        options = ["-o", f"{'remount,' if mounted else ''}size={size}k,mode=777"]
        words = ["mount", *options, *([] if mounted else ["-t", "tmpfs", "none"]), str(at)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        mounted = True
        return at

    yield sized
    if mounted:
        subprocess.run(["umount", at], check=True)


def test_every_kind_of_stage_has_its_case(tmp_path: Path) -> None:
    recipe = load_recipe(str(prepared(tmp_path / "all") / "mine.yaml"), STAGES)
    assert {stage.kind for stage in recipe.stages.values()} == set(STAGES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_and_a_signal_in_every_stage(
    disk: Callable[[int], Path], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Every stage once more beside all others: with a part of the room that it takes, then stopped
    in the middle, then to its end."""
    plenty = 10**6
    run = disk(plenty) / "run"
    draws = random.Random(int(os.environ.get("BUTWAIT_SEED", "0")))
    shutil.copytree(undisturbed.run, run)
    words = ("run", "mine.yaml", "--run-dir", run)
    stopped = 0
    for name in sorted(file.parent.name for file in run.glob("*/stage.json")):
        takes = kilobytes(run / name)
        seconds = json.loads((run / name / "stage.json").read_text())["seconds"]
        shutil.rmtree(run / name)
        # What a stage of small files took may have held room that it did not need.
        for room in (24 + draws.randint(0, takes * 2 // 3), 0):
            shutil.rmtree(run / name, ignore_errors=True)
            disk(shutil.disk_usage(run).used // 1024 + room)
            full = start(*words, cwd=undisturbed.folder, said=tmp_path).end()
            if full.code != 0:
                break
            disk(plenty)
        assert full.code == 2, (name, full.said)
        assert len(full.said.strip().splitlines()) == 1, full.said
        assert full.said.startswith("butwait: the disk is full"), full.said
        assert str(run) in full.said
        assert "run the same command again" in full.said
        disk(plenty)
        signalled = draws.choice((signal.SIGINT, signal.SIGTERM))
        going = start(*words, cwd=undisturbed.folder, said=tmp_path)
        while going.process.is_alive() and not under_way(run / name, tmp_path / "stdout.txt"):
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.7) * seconds)
        if going.process.is_alive():
            os.kill(going.process.pid or 0, signalled)
        ended = going.end()
        if ended.code != 0:  # it was faster
            assert ended.code == 128 + signalled, (name, ended.said)
            assert ended.said.strip() == "butwait: stopped; the same command goes on where it was"
            stopped += 1
            again = start(*words, cwd=undisturbed.folder, said=tmp_path).end()
            assert again.code == 0, (name, again.said)
        assert result(run) == undisturbed.result, name
    assert leftovers(run) == []
    assert stopped > 5


def under_way(stage: Path, said: Path) -> bool:
    """Whether a run has come to a stage."""
    return f" {stage.name} (" in said.read_text() and (stage / "stage.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_limit_on_the_size_of_files_and_on_open_files(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """``ulimit`` reaches the writers of every library, as a quota does."""
    folder = prepared(tmp_path / "limited")
    for kind, limits, says in (
        (resource.RLIMIT_FSIZE, (2_000, 20_000, 300_000), ""),
        (resource.RLIMIT_NOFILE, (9,), "too many open files"),
    ):
        for limit in limits:
            lower = partial(resource.setrlimit, kind, (limit, limit))
            done = start("run", "mine.yaml", cwd=folder, said=tmp_path, prepare=lower).end()
            assert done.code == 2, (limit, done.said)
            assert len(done.said.strip().splitlines()) == 1, done.said
            assert says in done.said
            assert "run the same command again" in done.said
    assert start("run", "mine.yaml", cwd=folder, said=tmp_path).end().code == 0
    assert result(folder / "runs/mine") == undisturbed.result
