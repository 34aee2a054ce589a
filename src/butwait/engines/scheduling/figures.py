"""What is told of an engine's rows and tokens."""

from typing import Any

from butwait.engines.gate import GatedEngine
from butwait.engines.scheduling.rows import Rows


def figures(engine: Any) -> dict[str, Any]:
    """Of what was searched so far: ``Rows.figures`` and, behind a gate, ``GatedEngine.figures``."""
    rows = getattr(engine, "rows", None)
    told = rows.figures() if isinstance(rows, Rows) else {}
    return told | engine.figures() if told and isinstance(engine, GatedEngine) else told


def shown(engine: Any) -> dict[str, str]:
    """Of this moment, for a line of progress: rows at work of those that pay; behind a gate, tokens
    that are live of those that may be."""
    rows = getattr(engine, "rows", None)
    told = {"rows": f"{rows.at_work}/{rows.pays}"} if isinstance(rows, Rows) else {}
    return told | engine.shown() if isinstance(engine, GatedEngine) else told
