"""What the disk or the system refuses: one sentence with the reason, whatever a library raises."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from butwait.evaluation.storage import read_shard
from butwait.records import UserError
from butwait.running.files import atomic_path, write_json
from butwait.running.refusals import refusal, refusals_told

FULL = "the disk is full"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FULL),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk quota is used up"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "the disk reports an input/output error"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "the file system is read-only"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "a file would be larger than is allowed"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "this process has too many open files"),
        (PermissionError(errno.EACCES, "", "a/b"), "permission is denied (a/b)"),
        (NotADirectoryError(errno.ENOTDIR, "", "a/b"), "a file stands where a folder is meant"),
        (FileExistsError(errno.EEXIST, "", "a/b"), "a file stands where a folder is meant (a/b)"),
        (IsADirectoryError(errno.EISDIR, "", "a/b"), "a folder stands where a file is meant"),
        (OSError(errno.ENAMETOOLONG, "", "a/b"), "a name is too long for the file system (a/b)"),
        (FileNotFoundError(errno.ENOENT, "", "a/b"), "a file or folder is gone (a/b)"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "the system says"),
        (SafetensorError("IoError(Os { code: 28, message: No space left on device })"), FULL),
        (Exception("No space left on device (os error 28)"), FULL),
        (RuntimeError("[enforce fail] . write: Disk quota exceeded"), "the disk quota is used up"),
        (RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed"), FULL),
        (RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0"), FULL),
    ],
    ids=str,
)
def test_the_reason_of_a_refusal(error: Exception, why: str) -> None:
    said = refusal(error, "x was not written")
    assert said is not None
    assert said.startswith(why)
    assert ": x was not written; " in said
    assert said.endswith(" and run the same command again (finished work is kept)")


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("errno 28"), BrokenPipeError(errno.EPIPE, ""), UserError("no")],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert refusal(error, "x") is None
    with pytest.raises(type(error)):
        with refusals_told("x"):
            raise error


def test_the_cause_of_a_libraries_error_counts() -> None:
    @refusals_told("x")
    def make() -> None:
        try:
            raise OSError(errno.ENOSPC, "")
        except OSError as error:
            raise RuntimeError("the data set could not be made") from error

    with pytest.raises(UserError, match="the disk is full: x; free some space"):
        make()


def test_a_file_is_not_blamed_for_what_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told to delete a shard that only could not be opened."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "shard-00000.parquet")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("butwait.evaluation.storage.pq.read_schema", refuse)
    with pytest.raises(UserError, match="too many open files") as told:
        with refusals_told("x"):
            read_shard(tmp_path / "shard-00000.parquet")
    assert "delete" not in str(told.value)


def a_file(folder: Path) -> Path:
    (folder / "taken").touch()
    return folder / "taken" / "out.json"


def a_folder(folder: Path) -> Path:
    (folder / "out.json").mkdir()
    (folder / "out.json" / "in").touch()
    return folder / "out.json"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (a_file, "a file stands where a folder is meant"),
        (a_folder, "a folder stands where a file is meant"),
        (lambda folder: folder / ("n" * 250), "a name is too long"),
        (lambda folder: Path("/proc/no/out.json"), "a file or folder is gone"),
    ],
    ids=["file for a folder", "folder for a file", "long name", "no such place"],
)
def test_a_place_that_cannot_be_written(
    tmp_path: Path, target: Callable[[Path], Path], why: str
) -> None:
    path = target(tmp_path)
    with pytest.raises(UserError) as told:
        write_json(path, {})
    assert f"{path} was not written" in str(told.value)
    assert why in str(told.value)


def test_what_was_there_stays_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"a": 1})

    def fill() -> None:
        with atomic_path(tmp_path / "out.json") as path:
            path.write_text("half")
            raise OSError(errno.ENOSPC, "")

    with pytest.raises(UserError, match=r"the disk is full: .*out.json was not written"):
        fill()
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert (tmp_path / "out.json").read_text() == '{\n  "a": 1\n}\n'
