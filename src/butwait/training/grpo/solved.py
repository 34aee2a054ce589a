"""Searches of the loop on disk: what was searched when, by which policy.

``searches/00000120/<question>.parquet`` is the tree of a question that was searched after optimizer
step 120. A killed training that comes to the step again finds it there. On the way there it does
not use it, as an uninterrupted one could not have: what a step may use depends on its number alone.
"""

import hashlib
import json
from pathlib import Path

from butwait.records import SearchTree
from butwait.running.files import atomic_path, write_json
from butwait.search.storage import read_shard, write_shard


class SearchFolder:
    """Trees by optimizer step and question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, problem_id: str, step: int) -> SearchTree | None:
        """The tree of this very step."""
        path = self._file(problem_id, step)
        return read_shard(path)[0] if path.exists() else None

    def solved_lately(self, problem_id: str, step: int, max_age: int) -> SearchTree | None:
        """The latest solved tree of a question from the ``max_age`` steps before ``step``."""
        for earlier in range(step - 1, step - 1 - max_age, -1):
            tree = self.find(problem_id, earlier)
            if tree is not None and is_solved(tree):
                return tree
        return None

    def keep(self, tree: SearchTree, step: int) -> None:
        """Stores a graded tree."""
        with atomic_path(self._file(tree.problem_id, step)) as temporary:
            write_shard(temporary, [tree])

    def note_policy(self, step: int, policy: str) -> bool:
        """Notes which policy searched at a step.

        Returns whether another one did so before: then a resumed training does not repeat the
        killed one bit for bit (it need not, on a GPU), and trees of both stand side by side.
        """
        note = self._folder(step) / "policy.json"
        if note.exists():
            return bool(json.loads(note.read_text(encoding="utf-8"))["weights"] != policy)
        write_json(note, {"step": step, "weights": policy})
        return False

    def latest(self, step: int, most: int, oldest: int) -> list[SearchTree]:
        """The ``most`` latest trees up to ``step`` and from ``oldest`` on, the older ones first."""
        trees: list[SearchTree] = []
        folders = [f for f in self._path.glob("*") if f.name.isdigit()]
        for folder in sorted(folders, reverse=True):
            if oldest <= int(folder.name) <= step:
                files = sorted(folder.glob("*.parquet"), reverse=True)[: most - len(trees)]
                trees += [tree for file in files for tree in read_shard(file)]
        return trees[::-1]

    def _folder(self, step: int) -> Path:
        return self._path / f"{step:08d}"

    def _file(self, problem_id: str, step: int) -> Path:
        name = hashlib.sha256(problem_id.encode()).hexdigest()[:20]
        return self._folder(step) / f"{name}.parquet"


def is_solved(tree: SearchTree) -> bool:
    """Whether some path of the tree was verified."""
    return any(grade.correct for grade in tree.grades.values())
