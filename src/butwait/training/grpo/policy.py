"""The weights that are being trained, as an engine: shared, not copied."""

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import torch

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings


@asynccontextmanager
async def live_engine(
    model: Any, tokenizer: Any, settings: TransformersSettings, prompt: PromptSettings
) -> AsyncIterator[TransformersEngine]:
    """An engine on a model in training. Its cache is freed, and the model back in its mode, when
    the block ends.

    Args:
        model: whole on this device, without the wrappers of distributed training.
        tokenizer: the model's.
        settings: with a capacity.
        prompt: how a question is put to the model.
    """
    # An adapter sits inside of the model's own layers, and the wrapper around it hides its
    # signature.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = model.training
    model.eval()
    engine = TransformersEngine(inner, tokenizer, settings, prompt)
    try:
        yield engine
    finally:
        await engine.close()
        model.train(training)


@torch.no_grad()
def weights_fingerprint(parameters: Iterable[torch.Tensor]) -> str:
    """16 hex digits that change when a weight does (but for pathological changes): a hash of each
    tensor's sum and norm."""
    wide = torch.float64
    sums = [
        torch.stack([p.sum(dtype=wide), torch.linalg.vector_norm(p, dtype=wide)])
        for p in parameters
    ]
    return hashlib.sha256(torch.stack(sums).cpu().numpy().tobytes()).hexdigest()[:16]
