"""Scalars of TensorBoard event files. Needs the package ``tensorboard``."""

import logging
from pathlib import Path
from typing import Any

from butwait.records import UserError


def read_events(path: Path) -> list[dict[str, Any]]:
    """One row a step, of all scalars by tag, from an event file, a folder of them, or a folder of
    such folders, one for every start of a run.

    Of a step that was logged twice, the later value counts. Raises UserError without the package.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import (
            SCALARS,
            EventAccumulator,
        )
    except ImportError as error:
        raise UserError(
            f"{path} holds TensorBoard events, and the package tensorboard is not installed; "
            "install it (pip install tensorboard), or give a CSV file exported from TensorBoard"
        ) from error
    # It says on stderr what it skips; a log without the column is our own sentence.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    starts = {file.parent for file in path.glob("*/events.out.*")} if path.is_dir() else set()
    found = []
    for place in starts if starts and not any(path.glob("events.out.*")) else {path}:
        events = EventAccumulator(str(place), size_guidance={SCALARS: 0})  # 0: keep all
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found += [(e.wall_time, e.step, tag, e.value) for e in events.Scalars(tag)]
    rows: dict[int, dict[str, Any]] = {}
    for _, step, tag, value in sorted(found, key=lambda event: event[0]):
        rows.setdefault(step, {"step": step})[tag] = value
    return [rows[step] for step in sorted(rows)]
