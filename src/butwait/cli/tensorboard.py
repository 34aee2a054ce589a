"""Scalars of TensorBoard event files. Needs the package ``tensorboard``."""

import logging
from pathlib import Path
from typing import Any

from butwait.records import UserError


def read_events(path: Path) -> list[dict[str, Any]]:
    """One row a step, of all scalars by tag, from an event file or a folder of them.

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
    events = EventAccumulator(str(path), size_guidance={SCALARS: 0})  # 0: keep all
    events.Reload()
    rows: dict[int, dict[str, Any]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    return [rows[step] for step in sorted(rows)]
