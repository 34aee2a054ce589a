"""A full disk, a limit of the system, Ctrl-C and SIGTERM at any moment of a loop of every kind of
stage: one sentence, and the run goes on to the same summary.

``BUTWAIT_STOPS`` is how many stops by a signal there are.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pipeline_runs import butwait, prepare
from test_kills_anywhere import LOOP, leftovers, result

STOPS = int(os.environ.get("BUTWAIT_STOPS", "3"))

EVERY_KIND = LOOP.replace(
    "stages:\n", "  given: {source: given.jsonl, columns: {solution: solution}}\nstages:\n", 1
).replace(
    "  report: {kind: report}\n",
    """  outside: {kind: external, problems: given}
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
    """A finished run: its recipe's folder, what came out, and how long it took in seconds."""

    folder: Path
    result: Any
    seconds: float

    @property
    def run(self) -> Path:
        return self.folder / "runs/mine"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = prepared(tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    done = butwait("run", "mine.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Undisturbed(folder, result(folder / "runs/mine"), time.monotonic() - started)


def kilobytes(folder: Path) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4 for file in folder.rglob("*") if file.is_file())


def stage_under_way(run: Path) -> str:
    """The stage that is begun and not finished."""
    for file in run.glob("*/stage.json"):
        if json.loads(file.read_text())["status"] != "complete":
            return file.parent.name
    return ""


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


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_disk_that_becomes_full_in_any_stage(
    disk: Callable[[int], Path], undisturbed: Undisturbed
) -> None:
    """Every stage once more beside all others, with a part of the room that it takes."""
    plenty = 10**6
    run = disk(plenty) / "run"
    draws = random.Random(int(os.environ.get("BUTWAIT_SEED", "0")))
    hit = []
    shutil.copytree(undisturbed.run, run)
    for name in sorted(file.parent.name for file in run.glob("*/stage.json")):
        takes = kilobytes(run / name)
        shutil.rmtree(run / name)
        used = shutil.disk_usage(run).used // 1024
        disk(used + 24 + draws.randint(0, takes * 2 // 3))
        words = ("run", "mine.yaml", "--run-dir", run)
        full = butwait(*words, cwd=undisturbed.folder)
        if full.returncode != 0:
            assert full.returncode == 2, full.stderr
            assert len(full.stderr.strip().splitlines()) == 1, full.stderr
            assert full.stderr.startswith("butwait: the disk is full"), full.stderr
            assert str(run) in full.stderr
            assert "run the same command again" in full.stderr
            hit.append(name)
        disk(plenty)
        again = butwait(*words, cwd=undisturbed.folder)
        assert again.returncode == 0, again.stderr
        assert result(run) == undisturbed.result, name
    assert leftovers(run) == []
    print(hit)
    assert len(hit) > 9


@pytest.mark.slow
@pytest.mark.timeout(600 + 120 * STOPS)
def test_a_signal_at_any_moment(tmp_path: Path, undisturbed: Undisturbed) -> None:
    expected, length = undisturbed.result, undisturbed.seconds
    folder = prepared(tmp_path / "stopped")
    run = folder / "runs/mine"
    draws = random.Random(int(os.environ.get("BUTWAIT_SEED", "0")))
    stops, hits = 0, Counter[str]()
    while stops < STOPS:
        sent = draws.choice((signal.SIGINT, signal.SIGTERM))
        process = subprocess.Popen(
            [sys.executable, "-m", "butwait", "run", "mine.yaml"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # What comes before its first line is Python's own start.
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draws.uniform(0, 0.3) * length)
        asked = time.monotonic()
        process.send_signal(sent)
        _, said = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == 128 + sent, said
        assert said.strip() == "butwait: stopped; the same command goes on where it was"
        assert time.monotonic() - asked < 12
        stops += 1
        hits[stage_under_way(run)] += 1
    print(dict(hits))
    assert butwait("run", "mine.yaml", cwd=folder).returncode == 0
    assert result(run) == expected
    assert leftovers(run) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
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
            done = subprocess.run(
                [sys.executable, "-m", "butwait", "run", "mine.yaml"],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=lambda kind=kind, limit=limit: resource.setrlimit(kind, (limit, limit)),
            )
            assert done.returncode == 2, (limit, done.stderr)
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
            assert says in done.stderr
            assert "run the same command again" in done.stderr
            print(limit, done.stderr)
    assert butwait("run", "mine.yaml", cwd=folder).returncode == 0
    assert result(folder / "runs/mine") == undisturbed.result
