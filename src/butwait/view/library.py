"""All that the page may ask for, by name."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from butwait.records import UserError
from butwait.view import attempts, examples, runs, training, trees
from butwait.view.folders import Folder, UnknownNameError


class Library:
    """Some runs, read as they are now.

    Args:
        find: the runs' folders, as they are at this moment. A run keeps its number.
        live: whether they may change while they are looked at.
        version: of butwait, to be shown.
    """

    def __init__(
        self, find: Callable[[], Sequence[Path]], *, live: bool, version: str = ""
    ) -> None:
        self._find = find
        self._about = {"live": live, "version": version}
        self._numbers: dict[Path, int] = {}
        self._folders: dict[int, Folder] = {}
        self._lock = Lock()
        self.folders()

    def folders(self) -> dict[int, Folder]:
        """The runs by their numbers, newly found ones included."""
        found = list(self._find())
        with self._lock:
            for path in found:
                if path not in self._numbers:
                    number = self._numbers[path] = len(self._numbers)
                    self._folders[number] = Folder(path)
            return dict(self._folders)

    def get(self, name: str) -> dict[str, Any]:
        """The content under a name; ``{"error": sentence}`` where it is not there (yet) or cannot
        be read. Raises UnknownNameError for a name of no known form."""
        try:
            return self._content(name.split("/"))
        except UserError as error:
            return {"error": str(error)}
        except UnknownNameError:
            raise
        except Exception as error:
            # Whatever a file holds, the page goes on: it may be whole at the next look.
            why = (str(error).splitlines() or [""])[0]
            return {"error": f"{name} cannot be shown (yet): {type(error).__name__}: {why}"}

    def _content(self, parts: list[str]) -> dict[str, Any]:
        match parts:
            case ["runs"]:
                return self._about | {"runs": runs.run_list(self.folders())}
            case ["run", number]:
                return runs.run_page(int(number), self._folder(number))
            case ["trees", number, stage]:
                return trees.tree_list(self._folder(number), stage)
            case ["tree", number, stage, tree]:
                return trees.tree(self._folder(number), stage, tree)
            case ["tree", number, stage, tree, "texts", chunk]:
                return trees.tree_texts(self._folder(number), stage, tree, _number(chunk))
            case ["attempts", number, stage]:
                return attempts.attempt_table(self._folder(number), stage)
            case ["attempts", number, stage, "texts", chunk]:
                return attempts.attempt_texts(self._folder(number), stage, chunk)
            case ["attempts", number, stage, "tokens", chunk]:
                return attempts.attempt_tokens(self._folder(number), stage, chunk)
            case ["examples", number, stage]:
                return examples.example_list(self._folder(number), stage)
            case ["examples", number, stage, "texts", chunk]:
                return examples.example_texts(self._folder(number), stage, _number(chunk))
            case ["training", number, stage]:
                return training.training(self._folder(number), stage)
        raise UnknownNameError("/".join(parts))

    def _folder(self, number: str) -> Folder:
        folder = self._folders.get(_number(number))
        if folder is None:
            raise UnknownNameError(number)
        if not folder.path.is_dir():
            raise UserError(f"{folder.path} is not there any more")
        return folder


def everything(library: Library) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name that a page may ask for now, with its content."""
    yield "runs", library.get("runs")
    for number in library.folders():
        page = library.get(f"run/{number}")
        yield f"run/{number}", page
        for stage in page.get("stages", ()):
            for what in stage["has"]:
                name = f"{what}/{number}/{stage['name']}"
                table = library.get(name)
                yield name, table
                for part in _parts(what, name, table):
                    content = library.get(part)
                    yield part, content
                    if what == "trees" and "nodes" in content:
                        count = len(content["nodes"]["parent"])
                        for chunk in range(-(-count // content["chunk"])):
                            yield (text := f"{part}/texts/{chunk}"), library.get(text)


def _parts(what: str, name: str, table: dict[str, Any]) -> list[str]:
    """The names that a table leads to."""
    if "error" in table:
        return []
    if what == "trees":
        return [f"tree/{name.partition('/')[2]}/{tree}" for tree in table["id"]]
    if what == "attempts":
        chunks = table["chunks"]
        texts = [f"{name}/texts/{chunk['id']}" for chunk in chunks]
        return texts + [f"{name}/tokens/{chunk['id']}" for chunk in chunks if chunk["tokens"]]
    if what == "examples":
        chunks = range(-(-len(table["problem"]) // table["chunk"]))
        return [f"{name}/texts/{chunk}" for chunk in chunks]
    return []


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UnknownNameError(text)
    return int(text)
