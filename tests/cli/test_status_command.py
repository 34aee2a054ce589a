"""How far a run is, which runs there are, and what of them can go: by what lies on the disk."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from butwait.cli import completion
from butwait.running import progress
from butwait.running.run_state import bytes_told, read_run, time_told
from butwait.running.stages import locked

Run = Callable[..., tuple[int, str, str]]
GONE = 2**22 + 1  # more than a process's number can be


def record(run: Path, name: str, status: str = "complete", **more: Any) -> Path:
    about = {"fingerprint": "f" * 16, "status": status, "seconds": 75.0, "kind": "search"} | more
    (run / name).mkdir(parents=True, exist_ok=True)
    (run / name / "stage.json").write_text(json.dumps(about))
    return run / name


def said(run: Path, **more: Any) -> None:
    """What the progress of a run says that has a finished stage and one at work."""
    stages = [{"name": n, "kind": k} for n, k in (("base", "evaluate"), ("search", "search"))]
    stages.append({"name": "sft", "kind": "sft"})
    about = {"recipe": "mine", "pid": GONE, "host": socket.gethostname(), "state": "running"}
    about |= {"stages": stages, "stage": "search", "started": "2026-01-02T03:04:05Z"}
    about |= {"task": "searching", "done": 9, "total": 20, "rate": 0.5, "figures": {"ESS": "45%"}}
    run.mkdir(parents=True, exist_ok=True)
    (run / ".progress.json").write_text(json.dumps(about | more))


@pytest.fixture
def half(own_folder: Path) -> Path:
    """A run that is in its second stage, with 14 of 20 problems on the disk."""
    run = own_folder / "runs" / "mine"
    said(run)
    record(run, "base")
    trees = record(run, "search", "running") / "trees"
    (trees / ".spool").mkdir(parents=True)
    (trees / ".shards.json").write_text('{"items": 20, "shard_size": 8}')
    for name in ("shard-00000", "timings.shard-00000", "shard-00002", "shard-00002.json"):
        (trees / f"{name}.parquet").touch()
    # The first is in its shard already, and the last is being written.
    for name in ("00000003", "00000008", "00000009", "timings.00000008", ".0000001.5.partial"):
        (trees / ".spool" / f"{name}.parquet").touch()
    return run


def test_a_run_at_work(half: Path, command: Run) -> None:
    with locked(half):
        code, out, _ = command("status")
        found = json.loads(command("status", "mine", "--json")[1])
    assert code == 0
    assert f"mine in runs/mine: running, process {GONE}, begun " in out
    assert "[1/3] base    evaluate  finished, 1 min" in out
    assert "[2/3] search  search    running, 14 of 20, 30.0 a minute, 12 s left" in out
    assert "[3/3] sft     sft       waits" in out
    assert "searching: ESS 45%" in out
    assert (found["state"], found["alive"], found["stage"]) == ("running", True, "search")
    assert (found["done"], found["total"], found["rate"], found["left_s"]) == (14, 20, 0.5, 12.0)
    assert [stage["state"] for stage in found["stages"]] == ["finished", "running", "waits"]
    assert found["stages_done"] == 1
    assert found["workers"] is None


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_what_an_older_recipe_finished_waits(state: str, half: Path, command: Run) -> None:
    """Where the run says that it is due again."""
    said(half, state=state, due=["search", "sft"])
    record(half, "sft", servers={"http://a/v1": {"requests": 1}, "http://b/v1": {"requests": 1}})
    _, out, _ = command("status")
    found = json.loads(command("status", "--json")[1])
    assert "[1/3] base    evaluate  finished, 1 min" in out
    assert "[3/3] sft     sft       waits" in out
    assert "http://" not in out
    last = found["stages"][2]
    assert (last["state"], last["seconds"], found["stages_done"]) == ("waits", 0.0, 1)
    assert json.loads(command("runs", "--json")[1])[0]["stages_done"] == 1


def test_what_this_recipe_finished_is_finished(half: Path) -> None:
    """The stage at work is of this recipe, and so is all of a finished run."""
    record(half, "search")
    said(half, due=["search", "sft"])
    assert [stage.state for stage in read_run(half).stages] == ["finished", "finished", "waits"]
    record(half, "sft")
    said(half, state="finished", stage=None, due=["sft"])
    assert read_run(half).finished == 3


@pytest.mark.parametrize(
    ("changes", "state", "told"),
    [
        ({}, "killed", f"killed: process {GONE} is gone"),
        ({"host": "elsewhere"}, "unknown", f"began on elsewhere (process {GONE})"),
        ({"state": "failed", "error": "it has no file"}, "failed", "last error: it has no file"),
        ({"state": "stopped"}, "stopped", "the same command goes on"),
    ],
)
def test_a_run_that_nobody_works_on(
    changes: dict[str, Any], state: str, told: str, half: Path, command: Run
) -> None:
    said(half, **changes)
    code, out, _ = command("status", str(half))
    assert (code, told in out) == (0, True), out
    assert "search    begun, 14 of 20\n" in out  # no rate, and no time left
    assert completion.runs("m") == ["mine"]
    [row] = json.loads(command("runs", "--json")[1])
    assert (row["name"], row["recipe"], row["state"]) == ("mine", "mine", state)
    assert (row["stages_done"], row["stages"]) == (1, 3)


def test_workers_and_servers_are_told(half: Path, command: Run) -> None:
    said(half, workers=[{"index": 0, "state": "works", "done": 7, "restarts": 1}])
    servers = {url: {"requests": 12000, "failures": 2} for url in ("http://a/v1", "http://b/v1")}
    record(half, "base", servers=servers)
    with locked(half):
        out = command("status")[1]
        found = json.loads(command("status", "--json")[1])
    assert "worker 0: state works, done 7, restarts 1" in out
    assert "http://b/v1: 12,000 requests, 2 failures" in out
    assert found["workers"] == [{"index": 0, "state": "works", "done": 7, "restarts": 1}]


@pytest.mark.parametrize("state", ["running", "failed", "stopped"])
def test_workers_are_not_told_of_a_run_that_is_over(state: str, half: Path, command: Run) -> None:
    """``running``: it was killed, and its workers with it."""
    said(half, state=state, workers=[{"index": 0, "state": "healthy", "done": 7, "restarts": 1}])
    assert "worker 0" not in command("status")[1]
    assert json.loads(command("status", "--json")[1])["workers"] is None


def test_an_evaluation_counts_all_its_methods(half: Path) -> None:
    stage = record(
        half,
        "search",
        "running",
        settings={"methods": {"one": {}, "two": {}}},
        problem_sets={"a": {"problems": 20}, "b": {"problems": 30}},
    )
    assert stage
    found = read_run(half).stages[1]
    assert (found.done, found.total) == (14, 100)


def test_a_training_is_as_far_as_its_newest_step(half: Path) -> None:
    said(half, stage="sft", done=None, total=None)
    stage = record(half, "sft", "running")
    (stage / "log.jsonl").write_text('{"step": 10}\n{"step": 20, "loss": 1.5}\n{"step": 3')
    assert (read_run(half).stages[2].done, read_run(half).stages[2].total) == (20, None)
    work = stage / "work" / "checkpoint-20"
    work.mkdir(parents=True)
    (work / "trainer_state.json").write_text('{"max_steps": 90}')
    assert (read_run(half).stages[2].done, read_run(half).stages[2].total) == (20, 90)


@pytest.mark.parametrize("damage", ["{", "[]", '{"stages": 5, "stage": {}, "rate": "x"}', "\0"])
def test_damaged_files_are_told_as_far_as_they_go(damage: str, half: Path, command: Run) -> None:
    (half / ".progress.json").write_text(damage)
    (half / "search" / "trees" / ".shards.json").write_text(damage)
    (half / "base" / "stage.json").write_text(damage)
    for words in (("status",), ("status", "--json"), ("runs",)):
        assert command(*words)[0] == 0
    (half / ".progress.json").unlink()  # a run of before there was one
    assert "stopped" in command("status")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("status",), "there is no run under runs/"),
        (("status", "nowhere"), "nowhere is no run"),
        (("clean", "mine.yaml"), "mine.yaml is no run"),
        (("runs", "mine.yaml"), "mine.yaml is a file"),
    ],
)
def test_what_is_no_run(words: tuple[str, ...], told: str, own_folder: Path, command: Run) -> None:
    Path("mine.yaml").touch()
    code, out, error = command(*words)
    assert (code, out, told in error) == (2, "", True)
    assert len(error.splitlines()) == 1
    assert command("runs") == (0, "there is no run under runs/\n", "")


def test_the_newest_run_is_meant(half: Path, command: Run) -> None:
    other = half.parent / "other"
    said(other, recipe="other")
    os.utime(half / ".progress.json", (1e9, 1e9))
    for file in half.glob("*/stage.json"):
        os.utime(file, (1e9, 1e9))
    assert command("status")[1].startswith("other in runs/other")
    assert [line.split()[0] for line in command("runs")[1].splitlines()] == ["run", "other", "mine"]


@pytest.fixture
def spare(half: Path) -> Path:
    """The run, with 3 kB that can go."""
    said(half, state="stopped")
    record(half / ".superseded", "search-0123456789abcdef")
    (half / ".superseded" / "search-0123456789abcdef" / "shard").write_bytes(b"x" * 1000)
    (half / "base" / "work").mkdir()
    (half / "base" / "work" / "checkpoint").write_bytes(b"x" * 1000)
    (half / "search" / f".model.{GONE}.partial").write_bytes(b"x" * 1000)
    (half / "search" / f".kept.{GONE}.old").write_text("what has no successor comes back")
    (half / "search" / "work").mkdir()  # of a stage that goes on from there
    return half


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def test_clean_removes_what_is_not_needed(spare: Path, command: Run) -> None:
    before = files(spare)
    code, out, error = command("clean", "mine")
    assert code == 2
    assert error.endswith("`butwait clean runs/mine --yes` removes these 3.1 kB\n")
    assert files(spare) - {".lock", ".workers"} == before
    code, out, error = command("clean", "mine", "--yes")
    assert (code, error) == (0, "")
    assert ".superseded/search-0123456789abcdef: superseded " in out
    assert "base/work: scratch of a finished stage" in out
    assert f"search/.model.{GONE}.partial: left by a killed process" in out
    assert out.endswith("removed 3.1 kB\n")
    gone = {name for name in before if "superseded" in name or "work" in name}
    gone |= {f"search/.model.{GONE}.partial", f"search/.kept.{GONE}.old"}
    assert files(spare) - {".lock", ".workers"} == before - gone | {"search/kept"}
    assert (spare / "search" / "work").is_dir()
    assert command("clean", "mine") == (0, "runs/mine holds nothing that could go\n", "")


@pytest.mark.parametrize(("answer", "removed"), [("y", True), ("n", False), ("", False)])
def test_clean_asks(
    answer: str, removed: bool, spare: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    code, out, _ = command("clean", "mine")
    assert code == 0
    assert out.splitlines()[-1] == ("removed 3.1 kB" if removed else "nothing was removed")
    assert (spare / ".superseded").exists() != removed


@pytest.mark.parametrize("refused", ["lock", "what would go"])
def test_clean_without_the_right_to_write_names_it(
    refused: str, spare: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the superuser, so what the system says is made up."""

    def denied(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    before = files(spare)
    if refused == "lock":
        opened = Path.open
        monkeypatch.setattr(
            Path, "open", lambda p, *a, **k: (denied if p.name == ".lock" else opened)(p, *a, **k)
        )
    else:
        monkeypatch.setattr("butwait.cli.runs.remove", denied)
    code, _, error = command("clean", "mine", "--yes")
    assert code == 2
    assert "permission is denied (runs/mine/" in error
    assert "mend the permissions and run the same command again" in error
    assert "Ctrl-C" not in error
    assert files(spare) - {".lock", ".workers"} == before


def test_clean_leaves_a_run_at_work_alone(spare: Path, command: Run) -> None:
    before = files(spare)
    with locked(spare):
        code, _, error = command("clean", "mine", "--yes")
    assert (code, "another butwait process is working in runs/mine" in error) == (2, True)
    said(spare, host="elsewhere")
    code, _, error = command("clean", "mine", "--yes")
    assert (code, "began on elsewhere" in error) == (2, True)
    assert files(spare) - {".lock", ".workers"} == before


def test_sizes_and_times_for_people() -> None:
    sizes = (0, 999, 1000, 12_345, 1_234_567, 5e9, 7e12)
    told = ["0 bytes", "999 bytes", "1.0 kB", "12 kB", "1.2 MB", "5.0 GB", "7.0 TB"]
    assert [bytes_told(size) for size in sizes] == told
    times = (0, 59, 60, 150, 3600, 9000, 90_000, 200_000, 1e7)
    told = ["0 s", "59 s", "1 min", "2 min", "1.0 h", "2.5 h", "25 h", "2.3 days", "116 days"]
    assert [time_told(seconds) for seconds in times] == told


def test_they_import_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from butwait.cli import runs, status\n"
        "from butwait.cli.main import main\n"
        "heavy = {'torch', 'pyarrow', 'numpy', 'transformers', 'rich.console'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_report_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written at once where something begins or ends, and now and then between."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    def read() -> dict[str, Any]:
        found = json.loads((tmp_path / ".progress.json").read_text())
        assert isinstance(found, dict)
        return found

    with progress.reported(tmp_path, "mine", {"base": "evaluate", "search": "search"}):
        assert (read()["state"], read()["pid"], read()["stage"]) == ("running", os.getpid(), None)
        progress.begin_stage("search")
        with progress.task("searching", 10) as task:
            assert (read()["stage"], read()["done"], read()["total"]) == ("search", 0, 10)
            task.advance(3)  # stored ones
            assert read()["done"] == 0  # a moment ago
            clock[0] = 2.0
            task.advance(1, ESS="45%")
            assert (read()["done"], read()["rate"], read()["figures"]) == (4, None, {"ESS": "45%"})
            clock[0] = 6.0
            task.advance(2)
            assert (read()["done"], read()["rate"]) == (6, 0.5)
            clock[0] = 6.5
            task.advance(2)
            assert read()["done"] == 6
            progress.show_workers([{"index": 0, "state": "works", "done": 8, "restarts": 0}])
        assert read()["done"] == 8
        assert read()["workers"][0]["done"] == 8
        with progress.reported_on(tmp_path):  # by a process that was launched for a stage
            with progress.task("training", 4) as task:
                task.advance(1)
            assert (read()["pid"], read()["total"], read()["done"]) == (os.getpid(), 4, 1)
    assert (read()["state"], read()["stage"], read()["done"]) == ("finished", None, None)
    with pytest.raises(ZeroDivisionError), progress.reported(tmp_path, "mine", {}):
        1 / 0  # noqa: B018
    assert (read()["state"], read()["error"]) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    with pytest.raises(KeyboardInterrupt), progress.reported(tmp_path, "mine", {}):
        raise KeyboardInterrupt
    assert (read()["state"], read()["error"]) == ("stopped", None)


@pytest.mark.parametrize("stored", [0, 450])
def test_a_line_of_progress_counts_what_this_session_did(
    monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    """One problem a minute, after the stored ones; that is known once two are done."""
    clock, told = [0.0], list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "say", lambda line, level: told.append(line))
    with progress.task("searching", stored + 50) as task:
        for _ in range(stored):
            task.advance(1)
        for minute in (60.0, 120.0, 180.0):
            clock[0] = minute
            task.advance(1, ESS="45%")
    total = stored + 50
    assert told == [
        f"  searching: {stored + 1}/{total}  60 s  ESS 45%",
        f"  searching: {stored + 2}/{total}  120 s, 2880 s left  ESS 45%",
        f"  searching: {stored + 3}/{total}  180 s, 2820 s left  ESS 45%",
    ]


def test_the_report_tells_what_is_due(tmp_path: Path) -> None:
    def due() -> Any:
        return json.loads((tmp_path / ".progress.json").read_text())["due"]

    with progress.reported(tmp_path, "mine", {"base": "evaluate", "sft": "sft"}):
        assert due() is None
        progress.show_due(["sft"])
        assert due() == ["sft"]
        with progress.reported_on(tmp_path):
            progress.begin_stage("sft")
        assert due() == ["sft"]


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with progress.reported(tmp_path / "not there", "mine", {"search": "search"}):
        progress.begin_stage("search")
        with progress.task("searching", 2) as task:
            task.advance(2)
    (tmp_path / ".progress.json").mkdir()
    with progress.reported(tmp_path, "mine", {}), progress.reported_on(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".progress.json"]


@pytest.mark.slow
def test_a_real_run_is_followed_and_its_kill_is_told(own_folder: Path, command: Run) -> None:
    table = '{"": {"\\\\boxed{3}": 1.0}}'
    Path("toys.py").write_text(
        "from butwait.engines.scripted import ScriptedEngine\n"
        f"def policy():\n    return ScriptedEngine({table}, delay=0.3)\n"
    )
    rows = [{"id": f"q{i}", "question": f"{i} + 1", "answer": "3"} for i in range(60)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(
        'model: {name: none}\nengine: {kind: scripted, script: "toys:policy"}\n'
        "problems:\n  train: {source: questions.jsonl}\nstages:\n  search:\n    kind: search\n"
        "    problems: train\n    concurrency: 1\n"
        "    sampler: {kind: self_consistency, samples: 2}\n"
    )
    words = [sys.executable, "-m", "butwait", "run", "mine.yaml"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        found: dict[str, Any] = {}
        while found.get("rate") is None:
            assert process.poll() is None
            time.sleep(0.1)
            if Path("runs/mine/.progress.json").exists():
                found = json.loads(command("status", "--json")[1])
        assert (found["state"], found["pid"], found["total"]) == ("running", process.pid, 60)
        assert 0 < found["done"] < 60
        assert 0 < found["rate"] < 4
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert f"killed: process {process.pid} is gone" in command("status")[1]
