import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killed_calls import moments

from butwait.records import UserError
from butwait.running.files import atomic_path, write_json
from butwait.running.identity import fingerprint
from butwait.running.stages import locked, open_stage, read_stage


def header(**changes) -> dict:
    return {
        "name": "search",
        "kind": "search",
        "from": ["prm"],
        "fingerprint": "aaaa",
        "settings": {"particles": 8},
        "inputs": {"prm": "bbbb"},
        "versions": {},
        "seed": 0,
    } | changes


def test_fingerprint_is_of_the_content_not_of_its_order() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1, "b": [2, 3]}) != fingerprint({"a": 1, "b": [3, 2]})


def test_a_stage_is_resumed_until_it_is_complete(tmp_path: Path) -> None:
    stage = open_stage(tmp_path, header())
    assert not stage.complete
    (stage.path / "half").write_text("work")

    again = open_stage(tmp_path, header())
    assert not again.complete
    assert (again.path / "half").read_text() == "work"

    again.finish({"solved": 0.5}, {"policy_tokens": 7})
    done = open_stage(tmp_path, header())
    assert done.complete
    assert done.record["metrics"] == {"solved": 0.5}
    assert json.loads((tmp_path / "search" / "stage.json").read_text())["schema_version"] == 1


def test_a_changed_stage_never_overwrites_the_old_and_old_settings_bring_it_back(
    tmp_path: Path,
) -> None:
    first = open_stage(tmp_path, header())
    (first.path / "tree").write_text("of the first settings")
    first.finish({}, {})

    second = open_stage(tmp_path, header(fingerprint="cccc"))
    assert not second.complete
    assert not (second.path / "tree").exists()

    back = open_stage(tmp_path, header())
    assert back.complete
    assert (back.path / "tree").read_text() == "of the first settings"
    assert (tmp_path / ".superseded" / "search-cccc" / "stage.json").exists()


@pytest.mark.parametrize("where", ["search", ".superseded/search-aaaa"])
def test_a_folder_with_content_and_no_record_is_refused(tmp_path: Path, where: str) -> None:
    stage = open_stage(tmp_path, header())
    (stage.path / "trees").mkdir()
    (stage.path / "trees" / "shard-00000.parquet").write_text("of who knows what")
    stage.finish({}, {})
    if where != "search":
        open_stage(tmp_path, header(fingerprint="cccc"))
    (tmp_path / where / "stage.json").unlink()
    with pytest.raises(UserError, match=r"search holds files and no stage\.json"):
        open_stage(tmp_path, header())
    assert (tmp_path / "search" / "trees" / "shard-00000.parquet").exists()


def test_a_stage_that_is_killed_while_it_is_opened_is_opened_again(tmp_path: Path) -> None:
    def prepare() -> None:
        shutil.rmtree(tmp_path)
        for mark in ("aaaa", "cccc"):
            stage = open_stage(tmp_path, header(fingerprint=mark))
            (stage.path / "tree").write_text(mark)
            stage.finish({}, {})

    for _ in moments(lambda: open_stage(tmp_path, header()), prepare):
        assert (open_stage(tmp_path, header()).path / "tree").read_text() == "aaaa"
    for _ in moments(lambda: open_stage(tmp_path, header(fingerprint="dddd")), prepare):
        assert not open_stage(tmp_path, header(fingerprint="dddd")).complete
        assert (open_stage(tmp_path, header(fingerprint="cccc")).path / "tree").exists()


def test_checkpoints_go_when_the_stage_is_complete_and_not_before(tmp_path: Path) -> None:
    def work() -> None:
        stage = open_stage(tmp_path, header())
        for name in ("work", "best"):
            (stage.path / name / "checkpoint-1").mkdir(parents=True, exist_ok=True)
            (stage.path / name / "checkpoint-1" / "weights").write_text("of use")
        stage.finish({}, {})

    left = 0
    for _ in moments(work, lambda: shutil.rmtree(tmp_path, ignore_errors=True)):
        stage = read_stage(tmp_path / "search")
        if stage is not None and stage.complete:
            left += (stage.path / "work").exists()
            open_stage(tmp_path, header())
            assert [path.name for path in stage.path.iterdir()] == ["stage.json"]
    assert left


def test_what_a_killed_session_was_writing_goes_at_the_next_start(tmp_path: Path) -> None:
    stage = open_stage(tmp_path, header())
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    number = dead.stdout.decode().strip()
    (stage.path / "epochs").mkdir()
    (stage.path / "epochs" / f".model.{number}.partial").mkdir()
    (stage.path / "epochs" / f".adapter.{number}.old").mkdir()
    open_stage(tmp_path, header())
    assert [path.name for path in (stage.path / "epochs").iterdir()] == ["adapter"]


def test_a_damaged_stage_file_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "stage.json").write_text('{"status": "comp')
    with pytest.raises(UserError, match=r"is damaged .* remove the folder .*search"):
        read_stage(tmp_path / "search")


def test_a_run_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from butwait.records import UserError\n"
        "from butwait.running.stages import locked\n"
        "try:\n"
        "    with locked(Path(sys.argv[1])): print('entered')\n"
        "except UserError as error: print(error)\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", script, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with locked(tmp_path):
        assert "another butwait process is working in" in other()
    assert other() == "entered\n"


def test_atomic_path_leaves_the_old_content_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as path:
            path.write_text("half of the n")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_atomic_path_replaces_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").write_text("x")
    with atomic_path(target) as path:
        path.mkdir()
        (path / "fresh").write_text("y")
    assert [p.name for p in target.iterdir()] == ["fresh"]


def test_a_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")

    def write() -> None:
        with atomic_path(tmp_path / "shard"):
            full.write_text("x" * 100)

    with pytest.raises(UserError, match=r"the disk is full: .*shard was not written; free some"):
        write()


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from butwait.running.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os._exit(9)\n"
    )
    target = tmp_path / "file"
    killed = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert killed.returncode == 9
    assert not target.exists()
    with atomic_path(target) as path:
        path.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "whole"
