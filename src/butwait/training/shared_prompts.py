"""Log-probabilities of completions, and passes over examples, whose beginnings run once.

The rows of a pass of GRPO begin alike: all questions stand behind the same examples, and the
completions of a group behind the same question. TRL runs every row from its first token. Here the
tokens that all rows begin with run once, then the rest of each different prompt, then the
completions, each part on the keys and values of the one before it. Gradients flow back through
those keys and values, so the sums are the same in another order. A completion is padded to about
its own length, and the output head sees the completions alone. Fine-tuning does the same with what
all examples of a pass begin with.

It is right where a token's keys depend on what stands before it and on its own place:
``shares`` says where.

Shapes: B rows, P tokens of the longest prompt, C of the longest completion, D different prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from butwait.engines.cache import AttentionKinds
from butwait.records import UserError
from butwait.training.weights import base_of

LEAST = 48
"""Tokens that rows of examples must have in common to be worth another pass."""
ALIKE = 0.75
"""Completions run together while the shortest has at least this share of the longest's tokens."""
CLOSE, CLOSE_IN_HALF = 1e-4, 0.05
"""How far log-probabilities of both ways may lie apart on the mean, as a share of their own mean
size and a nat, in single and in half precision."""


def shares(model: Any, longest: int) -> bool:
    """Whether prompts of a model may be run once: full attention under masks of one's own, with
    rotary embeddings that stay as they are, without dropout and gradient checkpointing.

    Args:
        model: that is trained, or a reference; adapted or not.
        longest: tokens of the longest row.
    """
    base = base_of(model)
    try:
        kinds = AttentionKinds(base)
    except UserError:
        return False
    config = base.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    drops = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
    return (
        not kinds.windowed(longest)
        # Learned places, and those of ALiBi, are counted from the padding on by TRL.
        and any(name.endswith("rotary_emb") for name, _ in base.named_modules())
        # Their frequencies follow the length of what is run.
        and rope.get("rope_type", "default") not in ("dynamic", "longrope")
        and not (model.training and (drops or getattr(config, "attention_dropout", 0)))
        and not any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
    )


def shared_logprobs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion: int,
    idle: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The log-probabilities of completions and the entropies of their tokens, in nats.

    Args:
        model: with TRL's fused output head.
        input_ids: int64 (B, P + C); prompts are padded on the left, completions on the right.
        attention_mask: (B, P + C), 0 for padding and for completions that are left out.
        completion: C.
        idle: bool (B,), rows that are run without a gradient, since nothing of it is used. One
            row has a gradient all the same, so that optimizers see one.

    Returns:
        float (B, C) each; 0 where the mask is 0. No entropies of a reference, whose head has none.
    """
    prompts, ids = input_ids[:, :-completion], input_ids[:, -completion:]
    asked, kept = attention_mask[:, :-completion].bool(), attention_mask[:, -completion:]
    # The last token of a prompt gives the first log-probability: it runs with the completion.
    rows = [row[real].tolist() for row, real in zip(prompts, asked, strict=True)]
    heads = sorted({tuple(row[:-1]) for row in rows})
    place = {head: i for i, head in enumerate(heads)}
    owner = torch.tensor([place[tuple(row[:-1])] for row in rows], device=ids.device)
    cache, seen, lengths = _prefilled(base_of(model).base_model, heads, ids.device)
    last = torch.cat([prompts[:, -1:], ids], dim=1)  # (B, 1 + C)
    lasting = torch.cat([torch.ones_like(kept[:, :1]), kept], dim=1)
    real = kept.sum(dim=1)
    if idle is None:
        idle = torch.zeros_like(real, dtype=torch.bool)
    idle = idle | (real == 0)
    if idle.all():
        idle = idle.clone()
        idle[real.argmin()] = False
    order, logprobs, entropies = [], [], []
    for chosen, learns in _batches(real, idle):
        width = max(1, int(real[chosen].max()))
        with nullcontext() if learns else torch.no_grad():
            labels = last[chosen, : width + 1].masked_fill(lasting[chosen, : width + 1] == 0, -100)
            labels[:, 0] = -100
            mask = torch.cat([seen[owner[chosen]], lasting[chosen, : width + 1]], dim=1)
            steps = torch.arange(width + 1, device=ids.device)
            out = model(
                input_ids=last[chosen, : width + 1],
                attention_mask=mask,
                position_ids=lengths[owner[chosen], None] + steps,
                past_key_values=_of(cache, owner[chosen]),
                labels=labels,
                fused_lm_head=True,
            )
        order.append(chosen)
        logprobs.append(pad(out.log_probs[:, -width:], (0, completion - width)))
        if out.entropy is not None:
            entropies.append(pad(out.entropy[:, -width:], (0, completion - width)))
    back = torch.cat(order).argsort()
    return torch.cat(logprobs)[back], torch.cat(entropies)[back] if entropies else None


def behind_beginning(model: Any, inputs: dict[str, Any], ignored: int) -> dict[str, Any]:
    """The arguments of a pass over examples behind the tokens that all of them begin with, as a
    system message or worked examples, which run once here; the arguments as they are where that is
    not worth it.

    Args:
        model: that is trained, where ``shares`` allows it.
        inputs: input_ids, labels and attention_mask, (B, T), padded on the right.
        ignored: the label of a token without loss.
    """
    ids, labels = inputs["input_ids"], inputs["labels"]
    if len(ids) < 2 or set(inputs) != {"input_ids", "labels", "attention_mask"}:
        return inputs
    alike = (ids == ids[:1]).all(0) & (labels == ignored).all(0)
    alike &= inputs["attention_mask"].bool().all(0)
    common = int(alike.int().cumprod(0).sum()) - 1  # its last token predicts the first label
    if common < LEAST:
        return inputs
    beginning = tuple(ids[0, :common].tolist())
    cache, _, _ = _prefilled(base_of(model).base_model, [beginning], ids.device)
    places = torch.arange(common, ids.size(1), device=ids.device)
    return {
        "input_ids": ids[:, common:],
        "labels": labels[:, common:],
        "attention_mask": inputs["attention_mask"],
        "position_ids": places.expand(len(ids), -1),
        "past_key_values": _of(cache, torch.zeros(len(ids), dtype=torch.int64, device=ids.device)),
    }


def same_logprobs(model: Any, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether a model says the same both ways, in the precision that it computes in here."""
    half = torch.is_autocast_enabled(ours.device.type) or base_of(model).dtype.itemsize < 4
    apart = (ours - theirs).abs().mean() / (1 + theirs.abs().mean())
    return bool(apart < (CLOSE_IN_HALF if half else CLOSE))


def by_prompt(passes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several passes in as many passes as large, those with the same prompt together;
    values without rows stay."""
    prompts = torch.cat([batch["prompt_ids"] for batch in passes])
    order = prompts.unique(dim=0, return_inverse=True)[1].argsort(stable=True)
    sizes = [len(batch["prompt_ids"]) for batch in passes]
    dealt = [dict(batch) for batch in passes]
    for name, value in passes[0].items():
        if isinstance(value, torch.Tensor) and value.ndim:
            rows = torch.cat([batch[name] for batch in passes])[order].split(sizes)
            for batch, mine in zip(dealt, rows, strict=True):
                batch[name] = mine
    return dealt


def _prefilled(
    trunk: Any, heads: list[tuple[int, ...]], device: torch.device
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """The keys and values of D different beginnings, int64 (D, columns) with 1 where a column is
    a token of theirs, and their lengths, int64 (D,)."""
    common = 0
    for tokens in zip(*heads, strict=False):
        if len(set(tokens)) > 1:
            break
        common += 1
    cache = DynamicCache()
    if common:
        ids = torch.tensor([heads[0][:common]], device=device)
        trunk(input_ids=ids, past_key_values=cache, use_cache=True)
    rests = [torch.tensor(head[common:], dtype=torch.int64, device=device) for head in heads]
    ids = pad_sequence(rests, batch_first=True)
    seen = pad_sequence([torch.ones_like(rest) for rest in rests], batch_first=True)
    seen = pad(seen, (common, 0), value=1)
    if ids.size(1):
        cache = _of(cache, torch.zeros(len(heads), dtype=torch.int64, device=device))
        places = common + torch.arange(ids.size(1), device=device)
        trunk(
            input_ids=ids,
            attention_mask=seen,
            position_ids=places.expand(len(heads), -1),
            past_key_values=cache,
            use_cache=True,
        )
    return cache, seen, seen.sum(dim=1)


def _of(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """A cache of its own with these rows of another."""
    # index_select: on a CPU, the sums of an indexing's gradient come in another order each time.
    chosen = (
        (layer.keys.index_select(0, rows), layer.values.index_select(0, rows))
        for layer in cache.layers
    )
    return DynamicCache(list(chosen))


def _batches(lengths: torch.Tensor, idle: torch.Tensor) -> Iterator[tuple[torch.Tensor, bool]]:
    """Which rows run together, each once, and whether with a gradient."""
    for learns in (True, False):
        longest_first = lengths.argsort(descending=True, stable=True).tolist()
        rows = [i for i in longest_first if bool(idle[i]) != learns]
        while rows:
            least = ALIKE * int(lengths[rows[0]])
            n = next((j for j, i in enumerate(rows) if lengths[i] < least), len(rows))
            yield torch.tensor(rows[:n], device=lengths.device), learns
            rows = rows[n:]
