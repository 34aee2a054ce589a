"""Training shows butwait's own progress and nothing else."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub.constants
import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, and no log lines, bars or warnings of the libraries."""
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    trl = logging.getLogger("trl")
    level = trl.level
    transformers.logging.set_verbosity_error()
    trl.setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        trl.setLevel(level)
        if bars:
            transformers.logging.enable_progress_bar()
