"""Whole trainings of the tiny model: what they leave behind, and how they survive an end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from grpo_recipes import DIRECT, GRPO, rows, run_stages, without_times, write_recipe
from safetensors.torch import load_file, save_file

from butwait.records import UserError
from butwait.search.storage import read_shard
from butwait.training.fit import Log
from butwait.training.grpo import searches
from butwait.training.weights import Start
from whole import WHOLE

MODES = ("mixed", "expert_iteration", "replace", "pf_group")
SHORT = {"steps": 2, "questions": 4, "save_steps": None, "samples_every": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain GRPO with looks, and every mode of GRPO-Direct."""
    look = {"problems": "held_out", "every": 1, "samples": 2}
    return run_stages(
        tmp_path_factory.mktemp("modes"),
        grpo=GRPO | SHORT | {"kind": "grpo", "selection": look},
        **{mode: DIRECT | SHORT | {"kind": "grpo_direct", "mode": mode} for mode in MODES},
    )


def record(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "stage.json").read_text())


@pytest.mark.parametrize("name", ["grpo", *MODES])
def test_a_training_leaves_a_model_its_log_and_samples(run: Path, name: str) -> None:
    stage = run / name
    metrics, cost = record(stage)["metrics"], record(stage)["cost"]
    assert (stage / "model/model.safetensors").exists()
    assert (stage / "model/tokenizer.json").exists()
    assert not (stage / "work").exists()
    log = rows(stage / "log.jsonl")
    assert [line["step"] for line in log] == [1, 2]
    assert all(line["grad_norm"] is not None and "reward" in line for line in log)
    assert [row["step"] for row in rows(stage / "samples.jsonl")] == [1, 1, 2, 2]
    assert (metrics["steps"], metrics["questions"]) == (2, 4)
    # What is counted as it goes is what the log says at the end.
    assert log[-1]["tokens/policy"] == metrics["policy_tokens"] > 0
    assert cost["policy_tokens"] == metrics["policy_tokens"] + metrics["look_tokens"]
    assert metrics["trained_tokens"] > 0


@pytest.mark.parametrize("name", MODES)
def test_searches_are_on_disk_and_add_up(run: Path, name: str) -> None:
    stage = run / name
    metrics = record(stage)["metrics"]
    trees = [
        tree for file in sorted(stage.glob("searches/*/*.parquet")) for tree in read_shard(file)
    ]
    assert len(trees) == metrics["searched"] > 0
    assert sum(tree.counts.policy_tokens for tree in trees) == metrics["search_tokens"]
    assert sum(tree.counts.reward_tokens for tree in trees) == metrics["reward_tokens"]
    solved = [any(grade.correct for grade in tree.grades.values()) for tree in trees]
    assert sum(solved) == metrics["solved"]
    log = rows(stage / "log.jsonl")
    assert sum(line["search/questions"] for line in log) == metrics["searched"]
    if name in ("expert_iteration", "pf_group"):
        assert metrics["searched"] == 8
        assert metrics["policy_tokens"] == metrics["search_tokens"]
    else:
        assert metrics["policy_tokens"] > metrics["search_tokens"]
    if name == "mixed":
        assert [line["search/mu"] for line in log] == [0.5, 0.0]


def test_modes_train_different_models(run: Path) -> None:
    models = {(run / name / "model/model.safetensors").read_bytes() for name in ("grpo", *MODES)}
    assert len(models) == 5


def test_the_model_is_that_of_the_best_look(run: Path) -> None:
    looks = rows(run / "grpo/looks.jsonl")
    assert [look["step"] for look in looks] == [0, 1, 2]
    assert all((look["n"], look["k"], len(look["texts"])) == (4, 2, 3) for look in looks)
    best = max(looks, key=lambda look: look["accuracy"])
    metrics = record(run / "grpo")["metrics"]
    assert (metrics["best_step"], metrics["best_accuracy"]) == (best["step"], best["accuracy"])
    assert metrics["first_accuracy"] == looks[0]["accuracy"]
    assert metrics["last_accuracy"] == looks[-1]["accuracy"]
    assert metrics["look_tokens"] == sum(look["policy_tokens"] for look in looks)
    log = rows(run / "grpo/log.jsonl")
    assert [line["selection/accuracy"] for line in log] == [look["accuracy"] for look in looks[1:]]
    assert not (run / "grpo/best").exists()
    assert not (run / "mixed/looks.jsonl").exists()


@pytest.mark.slow
def test_looks_at_weights_that_a_training_does_not_have_are_not_used(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: Any
) -> None:
    """A session that dies may have had other weights after as many steps: a GPU rounds as it
    likes."""
    on_log = Log.on_log

    def disturb(self: Log, args: Any, state: Any, control: Any, **others: Any) -> None:
        on_log(self, args, state, control, **others)
        if state.global_step == 1:
            for weight in others["model"].parameters():
                weight.data.mul_(1.5)

    look = {"problems": "held_out", "every": 1, "samples": 2}
    stage = {"grpo": GRPO | SHORT | {"kind": "grpo", "selection": look}}
    with monkeypatch.context() as patch:
        patch.setattr(Log, "on_log", disturb)
        with interrupted_at(2):
            run_stages(tmp_path, **stage)
    again = run_stages(tmp_path, **stage)
    assert rows(again / "grpo/looks.jsonl") == rows(run / "grpo/looks.jsonl")
    assert len(list((again / "grpo/looks").iterdir())) == 4
    weights = "grpo/model/model.safetensors"
    assert (again / weights).read_bytes() == (run / weights).read_bytes()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_adapters_on_four_bits_are_looked_at_and_searched_with(tmp_path: Path) -> None:
    look = {"problems": "held_out", "every": 1}
    short = {"steps": 1, "save_steps": None, "lora": {"rank": 4, "four_bit": True}}
    run = run_stages(
        tmp_path,
        grpo=GRPO | short | {"kind": "grpo", "selection": look},
        direct=DIRECT | short | {"kind": "grpo_direct", "mode": "expert_iteration"},
    )
    assert [look["step"] for look in rows(run / "grpo/looks.jsonl")] == [0, 1]
    assert record(run / "direct")["metrics"]["searched"] == 2
    assert (run / "direct/model/model.safetensors").exists()


MIXED = DIRECT | {
    "kind": "grpo_direct",
    "minibatches": 2,
    "batch_size": 4,
    "save_steps": 4,
    "max_age": 2,
    "mu_until": 1.0,
    "generation": GRPO["generation"] | {"deterministic": True},
    "selection": {"problems": "held_out", "every": 2},
}
STAGES = {"mixed": MIXED, "grpo": GRPO | {"kind": "grpo", "loss": {"preset": "grpo"}}}


def same(whole: Path, resumed: Path, models: tuple[str, ...] = ("model",)) -> None:
    """Whether two stages have left the same, bit for bit."""
    for name in models:
        path = f"{name}/model.safetensors"
        assert (whole / path).read_bytes() == (resumed / path).read_bytes()
    log = without_times(rows(whole / "log.jsonl"))
    assert without_times(rows(resumed / "log.jsonl")) == log
    for name in ("samples.jsonl", "looks.jsonl"):
        assert (whole / name).exists() == (resumed / name).exists()
        if (whole / name).exists():
            assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    assert record(whole)["metrics"] == record(resumed)["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed", "grpo"])
def test_an_interrupted_training_ends_as_if_it_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: Any, name: str
) -> None:
    stages = {name: STAGES[name]}
    asked: Counter[str] = Counter()
    run_sampler = searches.run_sampler

    async def counted(problem: Any, engine: Any, reward_model: Any, sampler: Any, key: Any) -> Any:
        asked[str(key.words)] += 1  # of one step and one question
        return await run_sampler(problem, engine, reward_model, sampler, key)

    monkeypatch.setattr(searches, "run_sampler", counted)
    whole = run_stages(tmp_path / "whole", **stages) / name
    once = Counter(asked)
    asked.clear()
    with interrupted_at(5):
        run_stages(tmp_path / "stopped", **stages)
    resumed = run_stages(tmp_path / "stopped", **stages) / name
    same(whole, resumed)
    assert len(rows(resumed / "log.jsonl")) == 6
    # The generation after step 4 was drawn twice, and its questions were searched once.
    assert asked == once
    assert set(asked.values()) == ({1} if name == "mixed" else set())
    if name == "mixed":
        assert record(whole)["metrics"]["mixed_policies"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("looks", "lora"),
    [(True, {"rank": 4}), (False, None)],
    ids=["adapters of the best look", "weights of the last step"],
)
def test_a_saved_policy_that_is_another_one_ends_the_stage(
    looks: bool, lora: dict[str, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = {"problems": "held_out", "every": 1} if looks else None
    stage = GRPO | SHORT | {"kind": "grpo", "selection": look, "lora": lora, "learning_rate": 1e-3}
    run = run_stages(tmp_path / "right", grpo=stage)
    assert record(run / "grpo")["metrics"]["moved"] > 0.5
    save = Start.save_tokenizer

    def spoiled(start: Start, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] *= 1.5
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        save(start, folder)

    monkeypatch.setattr(Start, "save_tokenizer", spoiled)
    with pytest.raises(UserError, match=r"is not the one that was trained: on 4 rows its loss"):
        run_stages(tmp_path / "wrong", grpo=stage)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_9_at_any_moment_and_the_same_command_give_the_same_weights(
    tmp_path: Path, wait_for_lines: Any
) -> None:
    stage = MIXED | {"steps": 40, "save_steps": 4}
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        write_recipe(folder, mixed=stage)
    assert start(folders["whole"]).wait() == 0
    out = folders["killed"] / "runs/mine/mixed"
    kept: dict[Path, int] = {}
    for i, lines in enumerate((3, 9, 10, 18, 25, 33) if WHOLE else (3, 10, 33)):
        process = start(folders["killed"])
        wait_for_lines(out / "log.jsonl", lines, process)
        time.sleep(0.05 * i)  # between the generation, the searches and the updates
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = {file: file.stat().st_mtime_ns for file in out.glob("searches/*/*.parquet")}
        assert all(now[file] == at for file, at in kept.items()), "a search was repeated"
        kept = now
    assert start(folders["killed"]).wait() == 0
    assert all(file.stat().st_mtime_ns == at for file, at in kept.items())
    same(folders["whole"] / "runs/mine/mixed", out)


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "butwait", "run", "mine.yaml"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
