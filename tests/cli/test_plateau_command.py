"""`butwait plateau` on the logs that trainers write."""

import csv
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from butwait.cli.curves import read_curve
from butwait.statistics.plateau import PlateauRule
from butwait.training.settings import PlateauSettings

Run = Callable[..., tuple[int, str, str]]
STEPS = np.arange(1, 401)
REWARD = 0.4 + 0.4 * (1 - np.exp(-STEPS / 30))
REWARD = REWARD + 0.01 * np.random.default_rng(0).standard_normal(len(STEPS))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Runs the command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return partial(command, "plateau")


def rows() -> list[dict[str, Any]]:
    return [
        {"step": int(step), "reward": float(value), "loss": -float(value)}
        for step, value in zip(STEPS, REWARD, strict=True)
    ]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_state(path: Path, history: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"global_step": 400, "log_history": history}))


def write_csv(path: Path, step: str, value: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([step, value, "note"])
        for row in rows():
            writer.writerow([row["step"], row["reward"], ""])
            writer.writerow([row["step"], "", "a row of something else"])


def test_where_the_rule_would_have_stopped(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", rows())
    code, out, err = run("log.jsonl", "--horizon", "50", "--json", "found.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    stop = PlateauRule(50, 0.02).replay(STEPS, REWARD)[-1]
    assert stop.stop
    assert found["stopped_at"] == stop.step
    assert 101 <= stop.step <= 300  # at 78 the curve still rises by 0.02 in 50 steps
    assert found["saved_steps"] == 400 - stop.step
    assert found["saved_share"] == pytest.approx((400 - stop.step) / 399)
    at = int(stop.step)
    assert found["at_stop"] == {
        "step": stop.step,
        "mean": pytest.approx(REWARD[at - 50 : at].mean()),
    }
    means = [REWARD[end - 50 : end].mean() for end in range(at + 1, 401)]
    assert found["best_later"]["mean"] == pytest.approx(max(means))
    assert found["best_later"]["step"] == at + 1 + int(np.argmax(means))
    assert found["at_end"]["mean"] == pytest.approx(REWARD[-50:].mean())
    assert found["looks"][-1]["upper"] == stop.upper < 0.02
    share = 100 * found["saved_share"]
    assert f"Stops at step {stop.step:g}: the next 50 steps bring {stop.upper:.3g} at most" in out
    assert f"saves {400 - at} steps, {share:.0f} % of the run" in out
    assert f"{found['at_stop']['mean']:.4g}" in out


def test_all_formats_give_the_same_curve(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"step": 0, "loss": 1.0}, *rows()])
    write_state(tmp_path / "b.json", [*rows(), {"step": 400, "train_runtime": 3.0}])
    write_csv(tmp_path / "c.csv", "step", "reward")
    write_csv(tmp_path / "wandb.csv", "Step", "run 7 - train/reward")
    write_csv(tmp_path / "global.csv", "train/global_step", "train/reward")
    for name in ("a.jsonl", "b.json", "c.csv", "wandb.csv", "global.csv"):
        curve = read_curve(tmp_path / name, "reward")
        np.testing.assert_array_equal(curve.steps, STEPS)
        np.testing.assert_array_equal(curve.values, REWARD)
        assert (curve.repeated, curve.left_out) == (0, 0)


def test_a_folder_stands_for_its_log(tmp_path: Path) -> None:
    for number in (9, 100, 20):
        write_state(tmp_path / f"checkpoint-{number}" / "trainer_state.json", rows()[:number])
    assert len(read_curve(tmp_path, "reward").steps) == 100
    write_lines(tmp_path / "log.jsonl", rows()[:7])
    assert len(read_curve(tmp_path, "reward").steps) == 7


def test_steps_logged_again_and_values_that_are_no_numbers(run: Run, tmp_path: Path) -> None:
    again = [{"step": 10, "reward": 0.25}, {"step": 11, "reward": float("nan")}]
    write_lines(tmp_path / "log.jsonl", [*rows(), *again])
    curve = read_curve(tmp_path / "log.jsonl", "reward")
    assert (curve.repeated, curve.left_out) == (1, 1)
    assert curve.values[9] == 0.25
    assert curve.values[10] == REWARD[10]
    code, out, _ = run("log.jsonl")
    assert code == 0
    assert "1 logged again, the last counts; 1 left out that are not finite" in out


def test_a_loss_is_better_when_lower(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", rows())
    words = ("log.jsonl", "--horizon", "50", "--json")
    assert run(*words, "reward.json")[0] == 0
    assert run(*words, "loss.json", "--column", "loss", "--lower-is-better")[0] == 0
    reward, loss = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("reward", "loss"))
    assert loss["stopped_at"] == reward["stopped_at"]
    assert loss["best_later"]["mean"] == pytest.approx(-reward["best_later"]["mean"])


def test_a_run_that_is_not_stopped(run: Run, tmp_path: Path) -> None:
    rising = [{**row, "reward": row["reward"] + 0.002 * row["step"]} for row in rows()]
    write_lines(tmp_path / "log.jsonl", rising)
    code, out, _ = run("log.jsonl", "--json", "found.json")
    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["stopped_at"] is None
    assert found["saved_share"] == 0
    assert found["shown"]["upper"] == min(look["upper"] for look in found["looks"]) > 0.2
    assert f"Never stops. Of {len(found['looks'])} looks" in out
    assert f"stopped after about {found['flat_steps']:.0f} steps" in out


def test_a_log_that_is_too_short_for_a_look(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", rows()[:50])
    code, out, _ = run("log.jsonl")
    assert code == 0
    assert "Never stops: too short for a look, which takes 100 steps (--window)" in out
    write_lines(tmp_path / "log.jsonl", rows()[:1])
    assert run("log.jsonl", "--json", "found.json")[0] == 0
    assert json.loads((tmp_path / "found.json").read_text())["looks"] == []


def test_the_defaults_are_those_of_a_recipe(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", rows())
    assert run("log.jsonl", "--json", "found.json")[0] == 0
    rule = PlateauSettings().rule()
    assert PlateauRule(**json.loads((tmp_path / "found.json").read_text())["rule"]) == rule


def test_tensorboard_events(run: Run, tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "tb"))
    for row in rows():
        value = Summary.Value(tag="train/reward", simple_value=row["reward"])
        writer.add_event(Event(step=row["step"], summary=Summary(value=[value])))
    writer.close()
    curve = read_curve(tmp_path / "tb", "reward")
    assert curve.column == "train/reward"
    np.testing.assert_array_equal(curve.steps, STEPS)
    np.testing.assert_allclose(curve.values, REWARD, rtol=1e-6)
    file = next((tmp_path / "tb").glob("events.out.tfevents.*"))
    np.testing.assert_array_equal(read_curve(file, "reward").values, curve.values)
    code, out, _ = run("tb", "--horizon", "50")
    assert code == 0
    assert "Stops at step" in out
    code, _, err = run("tb", "--column", "rewrd")
    assert code == 2
    assert "train/reward" in err


def test_the_starts_of_one_run_are_one_curve(run: Run, tmp_path: Path) -> None:
    """A Trainer writes each start into a folder of its own; the second goes on from a checkpoint,
    so some steps were logged twice."""
    from torch.utils.tensorboard import SummaryWriter

    for name, steps, shift in (("b-first", STEPS[:250], 1.0), ("a-second", STEPS[200:], 0.0)):
        with SummaryWriter(str(tmp_path / "runs" / name)) as writer:
            for step in steps.tolist():
                value, when = REWARD[step - 1] + shift, step + 1000 * (1 - shift)
                writer.add_scalar("train/reward", value, step, walltime=when)
    for folder in (tmp_path, tmp_path / "runs"):
        curve = read_curve(folder, "reward")
        np.testing.assert_array_equal(curve.steps, STEPS)
        shifted = REWARD + (STEPS <= 200)
        np.testing.assert_allclose(curve.values, shifted, rtol=1e-6)
    assert run("runs", "--horizon", "50")[0] == 0


def test_long_cells_and_gaps_are_read(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "reward", "text"])
        for row in rows():
            far = row["step"] + (10**9 if row["step"] > 300 else 0)
            writer.writerow([far, row["reward"], "x" * 200_000 if row["step"] == 7 else ""])
    curve = read_curve(tmp_path / "log.csv", "reward")
    assert curve.values.tolist() == pytest.approx(REWARD.tolist())
    assert curve.steps[-1] == 10**9 + 400
    code, out, err = run("log.csv", "--horizon", "50")
    assert (code, err) == (0, "")
    assert "steps 1 to 1e+09" in out


def test_events_without_tensorboard(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    code, _, err = run(".")
    assert code == 2
    assert "the package tensorboard is not installed" in err
    assert len(err.strip().splitlines()) == 1


GOOD = '{"step": 1, "reward": 0.5}\n'
MISTAKES = [
    ("gone.jsonl", None, [], "gone.jsonl does not exist"),
    ("log.txt", "x", [], "no log that is known"),
    ("log.jsonl", "", [], "is empty"),
    ("log.jsonl", GOOD + "{", [], "line 2 is no JSON"),
    ("log.jsonl", GOOD + "3\n", [], "line 2 is no JSON object"),
    ("log.jsonl", GOOD, ["--column", "acc"], "no column 'acc'; give --column, one of step, reward"),
    ("log.jsonl", GOOD, ["--step-column", "t"], "no column 't'; give --step-column"),
    ("log.jsonl", '{"reward": 1}\n', [], "no column of steps"),
    ("log.jsonl", GOOD + '{"reward": 1}\n', [], "row 2 has a reward and no step"),
    ("log.jsonl", '{"step": 1, "reward": "high"}\n', [], "row 1: reward is 'high'"),
    ("log.jsonl", '{"step": 1, "reward": true}\n', [], "row 1: reward is True"),
    ("log.jsonl", '{"step": 1, "reward": NaN}\n', [], "no value of reward is a finite number"),
    ("log.jsonl", '{"step": 1, "a/x": 1, "b/x": 2}\n', ["--column", "x"], "any of a/x, b/x"),
    ("state.json", "{", [], "is no JSON"),
    ("state.json", "[" * 100_000, [], "is no JSON (it is nested too deep)"),
    ("log.csv", "step,reward,note\n1,high," + "x" * 200_000, [], "row 1: reward is 'high'"),
    ("state.json", "{}", [], "log_history"),
    ("log.jsonl", GOOD, ["--delta", "-1"], "--delta must be greater than 0, not -1"),
    ("log.jsonl", GOOD, ["--confidence", "95"], "--confidence must be less than 1, not 95"),
    ("log.jsonl", b"\xff\xfe", [], "is not UTF-8"),
    (".", None, [], "holds no log"),
]


@pytest.mark.parametrize(("log", "content", "words", "said"), MISTAKES)
def test_a_mistake_is_one_sentence(
    run: Run, tmp_path: Path, log: str, content: str | bytes | None, words: list[str], said: str
) -> None:
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / log).write_bytes(data)
    code, _, err = run(log, *words)
    assert code == 2
    assert said in err
    assert err.startswith("butwait: ")
    assert len(err.strip().splitlines()) == 1
