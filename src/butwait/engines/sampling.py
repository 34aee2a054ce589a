"""Drawing tokens from logits by inverse CDF.

Shapes: n rows, V tokens of the vocabulary. Every row has its own settings and its own uniform
number, and its result depends on nothing else.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class RowSampling:
    """How each row is sampled; tensors of shape (n,) on the device of the logits.

    Attributes:
        temperature: float32; 0 is greedy decoding.
        top_p: float32 in (0, 1].
        top_k: int64; 0 keeps all.
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, how: RowSampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row.

    The token is the first whose cumulative probability, in the vocabulary's order and in
    float64, exceeds the uniform number. The order of filters is that of ``generate()``:
    temperature, top-k, top-p.

    Args:
        logits: float32 (n, V).
        uniforms: float64 (n,), in [0, 1).
        how: settings per row.

    Returns:
        int64 (n,) tokens and float32 (n,) log-probabilities in nats: under the sampled policy,
        or under the untempered model where decoding is greedy. Where a row's logits are no
        numbers, its log-probability is NaN.
    """
    greedy = how.temperature == 0
    scaled = logits / torch.where(greedy, 1.0, how.temperature)[:, None]
    logprobs = _filtered(scaled, how, greedy).log_softmax(-1)
    cdf = logprobs.exp().cumsum(-1, dtype=torch.float64)
    # Uniform numbers are at most 1 - 2^-53, so their product with the total stays below it.
    target = uniforms * cdf[:, -1]
    drawn = torch.searchsorted(cdf, target[:, None], right=True)[:, 0]
    drawn = drawn.clamp(max=logits.shape[-1] - 1)  # NaN is below nothing
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _filtered(scaled: torch.Tensor, how: RowSampling, greedy: torch.Tensor) -> torch.Tensor:
    """Tokens outside of top-k and top-p at -inf."""
    top_k = torch.where(greedy | (how.top_k == 0), scaled.shape[-1], how.top_k)
    if bool((top_k < scaled.shape[-1]).any()):
        # Ties with the k-th token stay, as in generate().
        ranked = scaled.sort(-1, descending=True).values
        threshold = ranked.gather(-1, top_k.clamp(max=scaled.shape[-1])[:, None] - 1)
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    top_p = torch.where(greedy, 1.0, how.top_p)
    if bool((top_p < 1).any()):
        ranked, order = scaled.sort(stable=True, dim=-1, descending=True)
        probabilities = ranked.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        dropped = (before >= top_p[:, None]) & (top_p[:, None] < 1)
        scaled = scaled.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    return scaled
