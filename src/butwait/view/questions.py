"""The questions of a run, by their ids."""

import hashlib
import unicodedata
from collections.abc import Sequence
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
        same: a digest of the whole text, by which a page knows the same question of another run,
            whatever its blanks: it has but the beginning of a long one. "" of no text.
    """

    question: str = ""
    gold: str | None = None
    set: str = ""
    same: str = ""


class Questions:
    """Those that a stage is about: of its own problem sets, else of those of the stages that it
    takes from, else of any of the run. Sets may have an id for different questions.

    Args:
        folder: of the run.
        stage: its name.
    """

    def __init__(self, folder: Folder, stage: str) -> None:
        files = sorted((folder.path / "problems").glob("*.jsonl"))
        self._sets = {
            file.stem: folder.digest(file, "questions", _read)
            for file in files
            if folder.is_file(file)
        }
        self._own = _sets_of(folder, stage, set())

    def named(self, problem: str, in_set: str | None = None) -> list[Asked]:
        """The different questions with this id, in one set or in the stage's."""
        own = self._own if in_set is None else {in_set}
        found = [asked for name in self._sets if name in own for asked in self._in(name, problem)]
        if not found and in_set is None:
            found = [asked for name in self._sets for asked in self._in(name, problem)]
        return list({asked.question: asked for asked in reversed(found)}.values())[::-1]

    def of(self, problem: str, in_set: str | None = None, text: str = "") -> Asked:
        """The question with this id, in one set or in the stage's. Of several the one that a text
        asks; none where it asks none of them, as no id tells them apart."""
        return asked_in(text, self.named(problem, in_set))

    def _in(self, name: str, problem: str) -> list[Asked]:
        return [self._sets[name][problem]] if problem in self._sets[name] else []


def asked_in(text: str, named: Sequence[Asked]) -> Asked:
    """The question among those of one id that a text asks; the only one whatever the text."""
    if len(named) == 1:
        return named[0]
    held = [asked for asked in named if asked.question.strip() in text]
    return max(held, key=lambda asked: len(asked.question), default=Asked())


def set_of(folder: Folder, stage: str) -> str | None:
    """The only set that a stage works on, as its settings name it: one that chooses a checkpoint is
    another one. None where they name none, or several."""
    settings = folder.record(stage).get("settings")
    name = settings.get("problems") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _sets_of(folder: Folder, stage: str, seen: set[str]) -> set[str]:
    """The sets in a stage's record; where it has none, those of the stages it takes from."""
    record = folder.record(stage)
    own, sources = record.get("problem_sets"), record.get("from")
    seen.add(stage)
    if isinstance(own, dict) and own:
        return set(own)
    names = [name for name in sources if isinstance(name, str)] if isinstance(sources, list) else []
    found = (_sets_of(folder, name, seen) for name in names if name not in seen)
    return set().union(*found)


def _read(path: Path) -> dict[str, Asked]:
    found = {}
    for row in read_log(path):
        question = str(row.get("question") or "")
        gold = None if row.get("answer") is None else str(row["answer"])
        found[str(row.get("id"))] = Asked(question, gold, path.stem, _same(question))
    return found


def _same(question: str) -> str:
    # Not ``overlap.text_id``, which takes milliseconds for a long prompt.
    text = " ".join(unicodedata.normalize("NFKC", question).split())
    whole = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=8).hexdigest() if text else ""
