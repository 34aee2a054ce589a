"""Questions that a function of one's own gives, ``module:function``."""

import inspect
import re
from collections.abc import Iterable
from itertools import islice

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.json_lines import Row
from butwait.running.plugins import calling, load_plugin, wrong

MOST = 5_000_000
"""Questions that a function may give; one that gives more has no end."""

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def call_plugin(asked: Asked) -> list[Row]:
    """What the function returns for ``params``, its keyword arguments: one mapping a question.

    Raises UserError where it cannot be imported, takes other parameters, or returns something else.
    """
    function = load_plugin(asked.source, "problem source")
    try:
        inspect.signature(function).bind(**asked.params)
    except TypeError as error:
        raise UserError(
            f"{asked.source} refuses the parameters {dict(asked.params)}: {error}"
        ) from error
    except ValueError:  # of a builtin, nobody knows
        pass
    call, meant = "the call for its questions", "a list of dicts (column: value)"
    with calling(asked.source, call):
        given = function(**asked.params)
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
        raise wrong(asked.source, call, given, meant)
    with calling(asked.source, call):
        rows = list(islice(given, MOST + 1))
    if len(rows) > MOST:
        raise UserError(f"{asked.source} gives more than {MOST:,} questions; make it end")
    for row in rows:
        if not isinstance(row, dict):
            raise wrong(asked.source, call, row, meant)
    return rows


PLUGIN = Source(
    matches=lambda source: _PLACE.fullmatch(source) is not None,
    load=call_plugin,
    takes=COLUMNS | {"params"},
    rank=1,
)
