"""One made-up run, built once: tests read it and write their reports elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from report_fake_run import build_run, comparisons_of


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list, list]:
    """(run folder, stage records, comparisons); with a hostile first attempt of the base."""
    run = tmp_path_factory.mktemp("runs") / "whole run"
    stages: list[dict[str, Any]] = build_run(run, n=60, trees=12, evil=True)
    return run, stages, comparisons_of(run)
