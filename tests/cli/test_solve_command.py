"""`butwait solve`: what its first word may be."""

import pytest

from butwait.cli.solve import _question
from butwait.records import UserError


@pytest.mark.parametrize(
    "word", ["questoin.txt", "mine.JSONL", "data/mine.csv", "data/mine", "./mine", "C:\\mine\\a.md"]
)
def test_a_file_that_is_not_there(own_folder, command, word):
    code, out, err = command("solve", word, "--particles", "2")
    assert (code, out) == (2, "")
    assert f"there is no file {word}: give the question itself" in " ".join(err.split())


def test_a_folder(own_folder):
    (own_folder / "mine").mkdir()
    with pytest.raises(UserError, match="mine is a folder: give the question itself, or the file"):
        _question("mine")


@pytest.mark.parametrize(
    "text",
    ["3/4+1/2=?", "1/2", "2+2", "What is in a.txt", "Which of a/b and c is it?", "¿3/4+1/4?", ""],
)
def test_a_question_stays_one(own_folder, text):
    assert _question(text) == text


def test_a_file_is_read(own_folder):
    (own_folder / "mine.txt").write_text("What is 2 + 2?\n")
    assert _question("mine.txt") == "What is 2 + 2?"
