"""What real servers said, as it was recorded, through the engine: tokens, texts, ends and numbers
are those of the model that they served, which is here too.

``scripts/record_server.py`` wrote ``recorded/*.jsonl`` and says how. Each server's file has the
engine's own requests and plain ones.
"""

import asyncio
import importlib.util
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import GREEDY, EngineCase
from replayed_server import recorded, replaying

from butwait.engines.engine import Continuation
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.openai_protocol import read
from butwait.engines.remote_server import LostError, RefusedError, RemoteServer
from butwait.engines.settings import ModelSettings, Sampling, ServerSettings

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "record_server.py"
TINY = ModelSettings(name="tiny", device="cpu")
EOS = 2
PROMPT = 17
"""Tokens of the question's prompt."""
PIECES = (2**20, 7)
"""Bytes in which a reply arrives: all at once, and cut within lines and characters."""


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_server", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_server"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@cache
def model() -> Any:
    return load_causal_lm(TINY)


def next_logprobs(path: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = model()(torch.from_numpy(np.asarray(path, np.int64))[None]).logits[0, -1]
    return logits.float().log_softmax(-1).numpy()


Grown = tuple[list[Continuation], np.ndarray | None, str | None]


def grow(server: str, case: str, piece: int = 2**20) -> tuple[Any, Grown]:
    """The engine, closed, and the path that it grew from a server's recorded replies."""
    walk = script().PATHS[case]
    with replaying(recorded(server)[case], piece) as url:
        engine = script().made(url, walk)
        return engine, asyncio.run(script().grown(engine, walk))
