"""What a stage leaves behind, and what a device has left."""

import gc
import weakref

import psutil
import torch

from butwait.running.devices import free_memory, give_memory_back


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
