"""What `make gpu` runs on a card, with tiny sizes on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_part_runs_and_leaves_its_figures(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--rehearse", "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    parts = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    ended = {name: part["ended"] for name, part in parts.items()}
    assert ended.pop("full_card") == "skipped"
    assert ended.pop("vllm") in ("done", "skipped")
    assert ended == dict.fromkeys(
        ("seed_size", "engine", "attention", "training", "reward_beside", "forks"), "done"
    )
    assert all(part["rehearsal"] and part["versions"]["torch"] for part in parts.values())
    figures = parts["seed_size"]["figures"]
    assert figures["filter"]["tokens"] == figures["plain"]["tokens"] == 8 * 24
    assert parts["training"]["figures"]["direct"]["status"] == "complete"
    assert parts["training"]["figures"]["vllm_afterwards"].keys() & {"worked", "skipped"}
    assert {part["device"] for part in parts.values()} == {"cpu"}


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_and_keeps_what_it_has(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--rehearse", "--parts", "training", "engine",
             "--minutes", "0.1", "--output", str(tmp_path)]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "training: cut" in done.stdout
    assert "engine: not run" in done.stdout
    training = json.loads((tmp_path / "training.json").read_text())
    assert training["ended"] == "cut"
    assert training["limit"] <= 6
