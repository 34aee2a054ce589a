"""A training that runs within a step of another one."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

_ACCELERATE = (PartialState, AcceleratorState, GradientState)


@contextmanager
def inside_another() -> Iterator[None]:
    """A block in which a training may run, and after which the one around it goes on as if none
    had: the arguments of a trainer set accelerate's state of the process anew (its mixed
    precision), and seed the generators of Python, numpy and torch."""
    held = [dict(kind._shared_state) for kind in _ACCELERATE]
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that trainers seed
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        for kind, before in zip(_ACCELERATE, held, strict=True):
            # In place: accelerators that are in use hold this very dictionary.
            kind._shared_state.clear()
            kind._shared_state.update(before)
