"""What a result depends on: settings by their marks, files by their content."""

import os
from pathlib import Path
from typing import Any

import pytest

from butwait.records.settings import Content, Device, Resource, Result, Settings, Shape
from butwait.running.identity import content, device_kind, identity, is_deterministic


class Inner(Settings):
    alpha: Result[float] = 1.0
    timeout: Resource[float] = 1.0


class Engine(Settings):
    kind: str = "ours"
    deterministic: Result[bool] = False
    slots: Shape[int] = 8
    rows: Resource[int] = 8
    plain: int = 1
    device: Device[str] = "cpu"
    phrases: Content[str | dict[str, str] | None] = None
    members: Result[tuple[Inner, ...]] = (Inner(),)
    by_name: Result[dict[str, Inner] | None] = None


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"rows": 9}, False),
        ({"slots": 9}, False),
        ({"plain": 2}, True),
        ({"kind": "another"}, True),
        ({"device": "cpu:1"}, False),
        ({"device": "cuda:1"}, True),
        ({"members": (Inner(alpha=2.0),)}, True),
        ({"members": (Inner(timeout=2.0),)}, False),
        ({"by_name": {"a": Inner()}}, True),
        ({"phrases": {"doubt": "Wait"}}, True),
    ],
)
def test_a_field_counts_as_it_is_marked(change: dict[str, Any], counts: bool) -> None:
    assert (identity(Engine(), 0) != identity(Engine(**change), 0)) == counts


def test_mappings_are_looked_into() -> None:
    first, *others = (
        identity(Engine(by_name={name: inner}))
        for name, inner in (
            ("a", Inner()),
            ("a", Inner(timeout=2.0)),
            ("a", Inner(alpha=2.0)),
            ("b", Inner()),
        )
    )
    assert [other == first for other in others] == [True, False, False]


def test_shapes_count_in_deterministic_mode_alone() -> None:
    one, two = (Engine(deterministic=True, slots=n) for n in (8, 9))
    assert identity(one) != identity(two)
    assert is_deterministic({"any": [one]})
    assert not is_deterministic([Engine(), {"slots": 8}])


def test_a_file_counts_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("doubt: [Hm]")
    two.write_text("doubt: [Hm]")
    before = identity(Engine(phrases=str(one)))
    assert before == identity(Engine(phrases=str(two)))
    one.write_text("doubt: [Oh]")
    assert before != identity(Engine(phrases=str(one)))
    one.write_text("doubt: [Hm]")
    assert before == identity(Engine(phrases=str(one)))


def test_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(b"1")
    (folder / "sub" / "tokens").write_bytes(b"2")
    before = content(str(folder))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_bytes(b"")
    assert content(str(folder)) == before
    folder.rename(tmp_path / "moved")
    assert content(str(tmp_path / "moved")) == before
    (tmp_path / "moved" / "sub" / "tokens").rename(tmp_path / "moved" / "tokens")
    assert content(str(tmp_path / "moved")) != before


def test_a_name_that_is_no_file_counts_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # the shipped model is another one
    for name in ("tiny", "Qwen/Qwen3-8B", "no.such:plugin", "x" * 5000, "a\0b"):
        assert content(name) == name


def test_a_plugin_counts_by_the_source_of_its_module(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "my_identity_plugin.py"
    module.write_text("def one(): return 1")
    before = identity(Engine(kind="my_identity_plugin:one"))
    assert before != identity(Engine(kind="my_identity_plugin:two"))
    module.write_text("def one(): return 2")
    assert before != identity(Engine(kind="my_identity_plugin:one"))


def test_auto_is_the_device_that_there_is() -> None:
    import torch

    assert device_kind("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_file_is_read_again_only_where_it_changed(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    before = content(str(file))
    state = file.stat()
    file.write_bytes(b"2")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert content(str(file)) != before
