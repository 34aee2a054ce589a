"""A machine that joins a training, and a folder that holds what older runs left."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from butwait.pipeline import join
from butwait.running.stages import locked

STAGES = {
    "data": {"kind": "external", "problems": "a"},
    "tuned": {
        "kind": "sft",
        "from": ["data"],
        "launch": {"processes": 4, "config": "cpu", "machines": 2},
    },
}
RECIPE = {
    "name": "two",
    "model": {"name": "tiny"},
    "problems": {"a": {"source": "arithmetic"}},
    "stages": STAGES,
}


class Folder:
    """A run's folder, in which a driver does something at each look of the machine that joins."""

    def __init__(self, path: Path) -> None:
        self.path, self.driver = path, ExitStack()
        self.clock, self.steps = 0.0, list[Callable[[], Any]]()
        (path / "tuned").mkdir(parents=True)

    def record(self, status: str) -> None:
        about = {"fingerprint": "f" * 16, "status": status, "seconds": 1.0}
        (self.path / "tuned" / "stage.json").write_text(json.dumps(about))

    def job(self, machines: int = 2) -> None:
        launch = {"processes": 4, "config": "cpu", "machines": machines}
        recipe = RECIPE | {"stages": STAGES | {"tuned": STAGES["tuned"] | {"launch": launch}}}
        content = {"recipe": recipe, "folders": []}
        (self.path / "tuned" / "job.json").write_text(json.dumps(content))

    def says(self, state: str, due: list[str] | None) -> None:
        (self.path / ".progress.json").write_text(json.dumps({"state": state, "due": due}))

    def begins(self) -> None:
        self.driver.enter_context(locked(self.path))
        self.says("running", None)

    def knows(self, *due: str) -> None:
        """What is due; jobs that others left are gone by then."""
        (self.path / "tuned" / "job.json").unlink(missing_ok=True)
        self.says("running", list(due))

    def ends(self) -> None:
        self.says("finished", [])
        self.driver.close()

    def sleep(self, seconds: float) -> None:
        if self.steps:
            self.steps.pop(0)()
            self.clock += 2 * join.CALM_S
        else:
            self.clock += seconds
        assert self.clock < 1000, "it waits for ever"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = Folder(tmp_path / "run")
    clock = SimpleNamespace(sleep=folder.sleep, monotonic=lambda: folder.clock)
    monkeypatch.setattr(join, "time", clock)
    yield folder
    folder.driver.close()


def test_a_stage_that_is_made_anew_is_joined(run: Any) -> None:
    """It was finished under other settings, and the driver comes later than this machine."""
    run.record("complete")
    run.says("finished", [])
    run.steps = [lambda: None, run.begins, lambda: None, lambda: run.knows("tuned"), run.job]
    launch = join._due(run.path, "tuned")
    assert launch is not None
    assert launch.machines == 2
    assert not run.steps


@pytest.mark.parametrize("due", [["tuned"], None])
def test_the_job_of_a_driver_that_was_killed_is_not_taken(run: Any, due: list[str] | None) -> None:
    """Its launch settings were others."""
    run.record("running")
    run.job(machines=4)
    run.says("running", due)
    run.steps = [run.begins, lambda: None, lambda: run.knows("tuned"), run.job]
    launch = join._due(run.path, "tuned")
    assert launch is not None
    assert launch.machines == 2


@pytest.mark.parametrize("before", [["judge"], []])
def test_what_a_killed_driver_said_is_not_believed(run: Any, before: list[str]) -> None:
    """The stage was not due then, and is now."""
    run.record("complete")
    run.says("running", before)
    run.steps = [run.begins, lambda: run.knows("tuned"), lambda: run.record("running"), run.job]
    assert join._due(run.path, "tuned") is not None


def test_a_finished_stage_is_told_where_the_run_does_not_make_it_anew(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run.record("complete")
    run.begins()
    run.knows("judge")
    assert join._due(run.path, "tuned") is None
    assert capsys.readouterr().out == f"tuned of {run.path} is finished\n"
    assert join.CALM_S <= run.clock < join.NOBODY_S


@pytest.mark.parametrize("said", [False, True])
def test_a_finished_stage_is_told_where_nobody_runs(
    run: Any, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run.record("complete")
    if said:
        run.begins()
        run.ends()
    assert join._due(run.path, "tuned") is None
    assert capsys.readouterr().out == f"tuned of {run.path} is finished\n"
    assert run.clock >= join.NOBODY_S


def test_a_lock_that_another_machine_does_not_see_only_takes_longer(run: Any) -> None:
    """As on file systems without locks between machines."""
    run.record("complete")
    run.says("running", ["tuned"])
    run.steps = [lambda: None] * 20
    run.steps.append(run.job)
    assert join._due(run.path, "tuned") is not None
