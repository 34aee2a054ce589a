"""What a stage leaves behind, and what a device has left."""

import ctypes
import gc
import resource
import weakref

import numpy as np
import psutil
import pytest
import torch

from butwait.running.devices import free_memory, give_memory_back, memory_kept


class Model:
    """Its parts hold each other, as those of a trainer do."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_trained_is_collected() -> None:
    gc.disable()
    try:
        left = weakref.ref(Model())
        give_memory_back()
        assert torch.cuda.is_available() or left() is not None
        give_memory_back(trained=True)
        assert left() is None
    finally:
        gc.enable()


def test_free_memory_is_some_of_the_machines() -> None:
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_what_a_training_frees_is_there_for_its_next_step() -> None:
    size = 2**28

    def fresh_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(size, np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    process = psutil.Process()
    fresh_pages()
    assert fresh_pages() > 100  # of 4 KiB or 2 MiB each
    with memory_kept():
        fresh_pages()
        held = process.memory_info().rss
        assert fresh_pages() < 20
    give_memory_back()
    assert process.memory_info().rss < held - 0.9 * size
    assert fresh_pages() > 100
