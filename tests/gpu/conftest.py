"""Tests on an accelerator: `pytest tests/gpu` where there is one, else they are skipped.

``BUTWAIT_TEST_DEVICE=cpu`` runs the same tests on another device, as a rehearsal.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from butwait.engines.settings import ModelSettings

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "engines"), str(HERE.parent / "training")]


@pytest.fixture(scope="session")
def device() -> str:
    chosen = os.environ.get("BUTWAIT_TEST_DEVICE")
    if chosen is None and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return chosen or "cuda"


@pytest.fixture
def tiny(device: str) -> ModelSettings:
    return ModelSettings(name="tiny", device=device)


@pytest.fixture
def held(device: str) -> Callable[[], int]:
    """A function that tells the bytes that this process holds on the device."""

    def held() -> int:
        gc.collect()
        return torch.cuda.memory_reserved() if device.startswith("cuda") else 0

    return held
