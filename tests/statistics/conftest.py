"""Numbers computed apart from butwait: by brute force, scipy and statsmodels."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def oracles() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "oracles.json").read_text())
