"""Finished problems that a program wrote down: ``NAME.problems.jsonl``, a ``Problem`` a line with
all that it has."""

from butwait.problems.source import Asked, Source
from butwait.records import Problem, UserError
from butwait.running.files import expanded
from butwait.running.json_lines import read_rows

SUFFIX = ".problems.jsonl"


def _load(asked: Asked) -> list[Problem]:
    path = expanded(asked.source)
    if not path.is_file():
        raise UserError(f"the problem file {path} does not exist")
    try:
        return [Problem(**row) for row in read_rows(path)]
    except TypeError as error:
        raise UserError(f"{path} holds something else than problems ({error})") from error


KEPT = Source(
    matches=lambda source: source.endswith(SUFFIX), load=_load, takes=frozenset(), rank=-1
)
