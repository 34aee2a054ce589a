"""What the libraries raise on a full device or disk, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from butwait.records import UserError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns an exhausted device or disk into a UserError; other errors pass."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device ran out of memory in training; take a smaller batch_size with more "
            "accumulation_steps, gradient_checkpointing: true, or (for sft) lora"
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if "No space left on device" not in str(error):
            raise
        raise UserError(
            "the disk is full: a checkpoint was not written; free some space and run the same "
            "command again (it goes on from the checkpoint before)"
        ) from error
