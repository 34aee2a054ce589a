"""Kills without warning, of a worker and of the run: nothing is lost, nothing doubled, no process
left. ``BUTWAIT_WHOLE=1`` tries 20 and 10 moments."""

import random
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from worker_runs import PROCESSES, begin, files, prepare, workers_of

from whole import WHOLE


def stored(run: Path) -> set[str]:
    trees = run / "search" / "trees"
    return {str(file) for file in trees.glob("**/0*.parquet")}


def count(run: Path) -> int:
    """Trees that are stored, or nearly so."""
    return len(stored(run)) + 4 * len(list((run / "search" / "trees").glob("shard-*.parquet")))


@pytest.mark.slow
def test_a_worker_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    kills, moments = 20 if WHOLE else 3, random.Random(0)
    prepare(tmp_path, {}, searched=300 if WHOLE else 80)
    assert begin(tmp_path, "--run-dir", "here").wait() == 0
    run = begin(
        tmp_path,
        *("--run-dir", "there", *PROCESSES, "--set", "stages.search.concurrency=2"),
        DELAY="0.05",
    )
    done, before = 0, 0
    while run.poll() is None:
        time.sleep(moments.uniform(0.0, 0.4))
        at_work, now = workers_of(tmp_path / "there"), count(tmp_path / "there")
        if done < kills and at_work and now > before:
            with suppress(psutil.Error):
                moments.choice(at_work).kill()
                done, before = done + 1, now
    assert done == kills
    if run.returncode:  # a problem was alone on two of the workers that were killed
        assert begin(tmp_path, "--run-dir", "there", *PROCESSES).wait() == 0
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert workers_of(tmp_path / "there") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleep here", "sleep in native code"])
def test_a_worker_that_sleeps_ends_with_the_run(tmp_path: Path, how: str) -> None:
    """The second holds the interpreter's lock, so that no thread of the worker runs."""
    prepare(tmp_path, {0: how})
    run = begin(tmp_path, "--run-dir", "there", *PROCESSES)
    while not (tmp_path / "asleep").exists():
        assert run.poll() is None
        time.sleep(0.05)
    family = workers_of(tmp_path / "there")
    run.kill()
    run.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    for process in left:
        process.kill()
    assert len(family) >= 2
    assert left == []


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_worker_and_goes_on(tmp_path: Path) -> None:
    """What was stored is not computed again."""
    kills, moments = 10 if WHOLE else 2, random.Random(1)
    prepare(tmp_path, {}, searched=150 if WHOLE else 30)
    assert begin(tmp_path, "--run-dir", "here").wait() == 0
    there, words = tmp_path / "there", ("--run-dir", "there", *PROCESSES)
    words += ("--set", "stages.search.concurrency=2")
    trees, kept = there / "search" / "trees", dict[Path, int]()
    for _ in range(kills):
        before = count(there)
        run = begin(tmp_path, *words, DELAY="0.05")
        while run.poll() is None and count(there) < before + 3:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        run.kill()
        assert run.wait() < 0, "it ended before it was killed"
        kept |= {file: file.stat().st_mtime_ns for file in trees.glob("shard-*.parquet")}
    assert begin(tmp_path, *words).wait() == 0
    assert kept
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert files(there) == files(tmp_path / "here")
    deadline = time.monotonic() + 5
    while workers_of(there) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_of(there) == []
