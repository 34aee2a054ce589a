"""Getting requests ready: slots whose cache holds their tokens, and the scores of given ones."""

from collections.abc import Sequence

import numpy as np
import torch

from butwait.engines.pool import Tenant
from butwait.engines.requests import Request, ScoreRequest
from butwait.engines.slots import SlotModel

Begun = tuple[Request, Tenant]


def prefill(model: SlotModel, begun: Sequence[Begun]) -> None:
    """Runs all tokens of each request but the last.

    In deterministic mode tokens of a completion are run one at a time: that is how they were run
    when they were sampled, so a path whose cache was lost gets back the very same bits.
    """
    singly = model.deterministic
    model.prefill(
        [
            (tenant.slot, 0, request.token_ids[: request.prompt_length if singly else None][:-1])
            for request, tenant in begun
        ]
    )
    if singly:
        _replay(model, begun)


def _replay(model: SlotModel, begun: Sequence[Begun]) -> None:
    """Runs the prompt's last token and all of the completion but its last, one at a time."""
    slots = np.array([tenant.slot for _, tenant in begun], np.int64)
    ends = np.array([len(request.token_ids) - 1 for request, _ in begun], np.int64)
    while (live := np.flatnonzero(model.lengths[slots] < ends)).size:
        at = model.lengths[slots[live]]
        tokens = [begun[i][0].token_ids[p] for i, p in zip(live.tolist(), at.tolist(), strict=True)]
        model.decode(slots[live], at, np.array(tokens, np.int64))


@torch.inference_mode()
def score(model: SlotModel, begun: Sequence[tuple[ScoreRequest, Tenant]]) -> None:
    """Fills in the log-probabilities of continuations whose prefixes but the last token are in
    the cache."""
    runs = []
    for request, tenant in begun:
        tokens = np.concatenate([request.token_ids[-1:], request.continuation[:-1]])
        runs.append((tenant.slot, len(request.token_ids) - 1, tokens))
        request.logprobs = np.empty(len(request.continuation), np.float32)
    # A vocabulary is wide: one chunk's logits at a time.
    for live, done, counts, logits in model.chunks(runs):
        for i, row in enumerate(live.tolist()):
            request, start, count = begun[row][0], int(done[i]), int(counts[i])
            given = torch.from_numpy(request.continuation[start : start + count].astype(np.int64))
            logprobs = logits[i, :count].log_softmax(-1)
            chosen = logprobs.gather(-1, given.to(logits.device)[:, None])[:, 0]
            request.logprobs[start : start + count] = chosen.cpu().numpy()
