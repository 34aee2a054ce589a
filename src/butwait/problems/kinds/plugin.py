"""Questions that a function of one's own gives, ``module:function``."""

import inspect
import re

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.json_lines import Row
from butwait.running.plugins import load_plugin

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
    rows = list(function(**asked.params))
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{asked.source} must return a list of dicts (column: value)")
    return rows


PLUGIN = Source(
    matches=lambda source: _PLACE.fullmatch(source) is not None,
    load=call_plugin,
    takes=COLUMNS | {"params"},
    rank=1,
)
