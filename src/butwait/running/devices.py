"""What a stage leaves on a device."""

import gc
import sys


def give_memory_back() -> None:
    """Gives the device what nothing here uses any more: the next stage, or a server beside this
    process, may need it. Imports no torch: where nobody did, nothing is held."""
    gc.collect()  # a model's parts may hold each other
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
