"""Folders are replaced and removed whole, whenever the process is killed."""

import os
import shutil
from pathlib import Path

import pytest
from killed_calls import killed_at, moments

from butwait.running.files import atomic_path, recover, remove


def write(target: Path, word: str) -> None:
    with atomic_path(target) as path:
        (path / "inside").mkdir(parents=True)
        for name in ("a", "inside/b"):
            (path / name).write_text(word)


def words(target: Path) -> set[str]:
    return {(target / name).read_text() for name in ("a", "inside/b")}


def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one_at_every_moment(
    tmp_path: Path,
) -> None:
    target = tmp_path / "folder"

    def prepare() -> None:
        shutil.rmtree(tmp_path)
        write(target, "old")

    seen = set()
    for _ in moments(lambda: write(target, "new"), prepare):
        recover(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]
        (word,) = words(target)
        seen.add(word)
    assert seen == {"old", "new"}
    assert words(target) == {"new"}


@pytest.mark.slow
def test_a_second_kill_does_not_lose_what_the_first_one_left(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    first = second = 0
    while True:
        shutil.rmtree(tmp_path)
        write(target, "old")
        if not killed_at(first, lambda: write(target, "new")):
            break
        second = second + 11 if killed_at(second, lambda: write(target, "newer")) else 0
        if not second:
            first += 1
            assert words(target) == {"newer"}
            assert [path.name for path in tmp_path.iterdir()] == ["folder"]
            continue
        recover(tmp_path)
        assert len(words(target)) == 1
    assert first > 5


def test_a_folder_that_is_removed_is_whole_or_gone_at_every_moment(tmp_path: Path) -> None:
    target = tmp_path / "work"

    def prepare() -> None:
        shutil.rmtree(tmp_path)
        write(target, "old")

    whole = 0
    for _ in moments(lambda: remove(target), prepare):
        if target.exists():
            whole += 1
            assert words(target) == {"old"}
        remove(target)
        assert list(tmp_path.iterdir()) == []
    assert whole


def test_what_is_removed_does_not_come_back(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for _ in moments(lambda: write(target, "new"), lambda: write(target, "old")):
        remove(target)
        recover(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_nothing_happens_where_there_is_nothing(tmp_path: Path) -> None:
    remove(tmp_path / "none")
    recover(tmp_path)
    (tmp_path / ".mine.12.old").mkdir()
    recover(tmp_path / "none")
    assert list(tmp_path.iterdir()) == [tmp_path / ".mine.12.old"]


def test_a_write_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch) -> None:
    target, renames = tmp_path / "folder", []
    write(target, "old")
    replace = os.replace

    def fails_once(a, b) -> None:
        renames.append(b)
        if len(renames) == 2:
            raise PermissionError("not now")
        replace(a, b)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(PermissionError):
        write(target, "new")
    assert words(target) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
