"""What servers did for a stage, by their addresses."""

from collections.abc import Mapping
from typing import Any

Figures = dict[str, dict[str, int]]
"""Address -> ``requests``, ``failures``, ``tokens`` and ``moved`` (``router.Member``)."""


def server_figures(*models: Any) -> Figures:
    """Of all servers behind engines and reward models; those without servers have none."""
    asked = [getattr(model, "server_figures", None) for model in models]
    return merged(*(figures() for figures in asked if figures is not None))


def merged(*figures: Mapping[str, Mapping[str, int]]) -> Figures:
    """Added up by their addresses."""
    total: Figures = {}
    for each in figures:
        for url, counts in each.items():
            before = total.setdefault(url, {})
            total[url] = before | {name: before.get(name, 0) + n for name, n in counts.items()}
    return total


def told(figures: Figures) -> str:
    """A line on several servers."""
    each = [
        f"{url} {of['requests']:,} requests, {of['failures']:,} lost, {of['tokens']:,} tokens"
        + (f", {of['moved']:,} problems went on elsewhere" if of["moved"] else "")
        for url, of in figures.items()
    ]
    return f"servers: {'; '.join(each)}"
