"""Modules of a user's own, over several recipes in one process: a notebook's life."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from butwait.running.plugins import find_modules_in, folders, load_plugin, source_file


@pytest.fixture(autouse=True)
def forgotten(own_folder: Path) -> Iterator[None]:
    yield
    find_modules_in([])


def module(folder: Path, value: int, name: str = "of_mine") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(f"VALUE = {value}\n" + "# more\n" * value)
    return file


def test_a_module_of_the_same_name_beside_another_recipe_is_another(own_folder: Path) -> None:
    for value in (1, 2, 1):
        file = module(own_folder / f"run{value}", value)
        find_modules_in([file.parent])
        assert load_plugin("of_mine:VALUE", "x") == value
        assert source_file("of_mine:VALUE") == file
    assert folders() == [str(own_folder), str(own_folder / "run1")]


def test_a_module_that_was_edited_is_read_again_by_the_next_recipe(own_folder: Path) -> None:
    module(own_folder, 3)
    find_modules_in([])
    assert load_plugin("of_mine:VALUE", "x") == 3
    module(own_folder, 4)
    assert load_plugin("of_mine:VALUE", "x") == 3  # not in the middle of a recipe
    find_modules_in([])
    assert load_plugin("of_mine:VALUE", "x") == 4


def test_a_package_is_read_again_whole(own_folder: Path) -> None:
    module(own_folder / "parcel", 0, "__init__")
    module(own_folder / "parcel", 5, "inner")
    find_modules_in([])
    first = load_plugin("parcel.inner:VALUE", "x")
    module(own_folder / "parcel", 6, "inner")
    find_modules_in([])
    assert (first, load_plugin("parcel.inner:VALUE", "x")) == (5, 6)


def test_a_module_that_did_not_change_keeps_its_objects(own_folder: Path) -> None:
    file = module(own_folder, 1)
    file.write_text("class Mine: ...\n")
    find_modules_in([])
    mine = load_plugin("of_mine:Mine", "x")
    find_modules_in([])
    assert load_plugin("of_mine:Mine", "x") is mine
