"""`kill -9` at any moment of a search stage loses nothing and changes nothing.

There are twenty kills with ``BUTWAIT_WHOLE=1``, and six without.
"""

import random
from pathlib import Path

import pytest
from pipeline_runs import (
    SCRIPTED,
    TINY,
    butwait,
    finished,
    is_complete,
    kill_after,
    prepare,
    shards,
)

from whole import WHOLE

KILLS = 20 if WHOLE else 6


def kill_often(tmp_path: Path, recipe: str, kills: int, **environment: str) -> None:
    """Runs a recipe once undisturbed and once with ``kills`` kills, and compares the bytes."""
    clean = prepare(tmp_path / "clean", recipe)
    done = butwait("run", clean, cwd=clean.parent)
    assert done.returncode == 0, done.stderr
    undisturbed = shards(clean.parent / "runs" / "mine" / "search" / "trees")

    killed = prepare(tmp_path / "killed", recipe)
    stage = killed.parent / "runs" / "mine" / "search"
    randomness = random.Random(0)
    survived: dict[str, int] = {}
    for _ in range(kills):
        more = randomness.choice((1, 1, 1, 2, 2, 3))
        assert kill_after(
            ["run", killed.name], killed.parent, stage / "trees", more, **environment
        ), "the run ended before it could be killed; give it more to do"
        now = finished(stage / "trees")
        # A finished problem was not written, so not computed, a second time.
        assert all(now[name] == time for name, time in survived.items() if name in now)
        survived = now
        assert not is_complete(stage)

    last = butwait("run", killed, cwd=killed.parent)
    assert last.returncode == 0, last.stderr
    now = finished(stage / "trees")
    assert all(now[name] == time for name, time in survived.items() if name in now)
    assert shards(stage / "trees") == undisturbed
    assert len(undisturbed) == 5
    assert not (stage / "trees" / ".spool").exists()

    again = butwait("run", killed, cwd=killed.parent)
    assert "search (search): finished before" in again.stdout
    assert finished(stage / "trees") == now


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_by_a_script_survives_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, SCRIPTED, kills=KILLS, DELAY="0.02")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_by_a_model_survives_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, TINY, kills=KILLS)
