"""The questions of a run, by their ids."""

from dataclasses import dataclass
from pathlib import Path

from butwait.running.json_lines import read_log
from butwait.view.folders import Folder


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the run keeps it; "" and None where it does not.

    Attributes:
        question: its text.
        gold: the gold answer.
        set: the problem set.
    """

    question: str = ""
    gold: str | None = None
    set: str = ""


class Questions:
    """Those that a stage is about: its own problem sets first, then the run's others.

    Args:
        folder: of the run.
        stage: its name.
    """

    def __init__(self, folder: Folder, stage: str) -> None:
        own = folder.record(stage).get("problem_sets")
        files = sorted((folder.path / "problems").glob("*.jsonl"))
        files.sort(key=lambda file: not (isinstance(own, dict) and file.stem in own))
        self._sets = [
            folder.digest(file, "questions", _read) for file in files if folder.is_file(file)
        ]

    def of(self, problem: str, in_set: str | None = None) -> Asked:
        """The question with this id, in one set or in any."""
        for known in self._sets:
            found = known.get(problem)
            if found is not None and in_set in (None, found.set):
                return found
        return Asked()


def _read(path: Path) -> dict[str, Asked]:
    return {
        str(row.get("id")): Asked(
            str(row.get("question") or ""),
            None if row.get("answer") is None else str(row["answer"]),
            path.stem,
        )
        for row in read_log(path)
    }
