"""Tokens by inverse CDF."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from butwait.engines.sampling import RowSampling, draw


def how(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, rows: int = 1) -> RowSampling:
    return RowSampling(
        torch.full((rows,), temperature), torch.full((rows,), top_p), torch.full((rows,), top_k)
    )


def tokens_at(logits: list[float], uniforms: list[float], sampling: RowSampling) -> list[int]:
    n = len(uniforms)
    rows = RowSampling(*(getattr(sampling, f).expand(n) for f in sampling.__slots__))
    batch = torch.tensor(logits).expand(n, -1)
    return draw(batch, torch.tensor(uniforms, dtype=torch.float64), rows)[0].tolist()


HALF_QUARTER_QUARTER = np.log([0.5, 0.25, 0.25]).tolist()


def test_inverse_cdf_by_hand() -> None:
    uniforms = [0.0, 0.499, 0.501, 0.749, 0.751, 1 - 2**-53]
    assert tokens_at(HALF_QUARTER_QUARTER, uniforms, how()) == [0, 0, 1, 1, 2, 2]


def test_impossible_tokens_are_never_drawn() -> None:
    logits = [-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]
    assert tokens_at(logits, [0.0, 0.499, 0.501, 1 - 2**-53], how()) == [1, 1, 3, 3]


def test_greedy_takes_the_likeliest_and_gives_untempered_logprobs() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    tokens, logprobs = draw(logits, torch.tensor([0.9], dtype=torch.float64), how(0.0, 0.1, 1))
    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(2 - np.log(1 + np.e + np.e**2), abs=1e-6)


def test_logprobs_are_of_the_sampled_policy() -> None:
    logits = torch.tensor([np.log([0.6, 0.3, 0.1]).tolist()])
    u = torch.tensor([0.99], dtype=torch.float64)
    _, tempered = draw(logits, u, how(temperature=0.5))
    assert tempered.item() == pytest.approx(np.log(0.01 / 0.46), abs=1e-5)
    token, nucleus = draw(logits, u, how(top_p=0.7))
    assert token.item() == 1
    assert nucleus.item() == pytest.approx(np.log(0.3 / 0.9), abs=1e-6)
    token, best = draw(logits, u, how(top_k=1))
    assert (token.item(), best.item()) == (0, 0.0)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = np.log([0.1, 0.5, 0.4]).tolist()
    assert set(tokens_at(logits, np.linspace(0, 0.99, 50).tolist(), how(top_p=0.5))) == {1}
    assert set(tokens_at(logits, np.linspace(0, 0.99, 50).tolist(), how(top_p=0.51))) == {1, 2}


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(0.7, 1.0, 0), (1.3, 0.8, 0), (0.9, 1.0, 5), (0.8, 0.6, 9)]
)
def test_the_policy_is_that_of_generate(temperature: float, top_p: float, top_k: int) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 40) * 2
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = expected.log_softmax(-1)[0]
    uniforms = torch.linspace(0, 0.9999, 400, dtype=torch.float64)
    tokens, logprobs = draw(
        logits.expand(400, -1), uniforms, how(temperature, top_p, top_k, rows=400)
    )
    assert set(tokens.tolist()) <= set(torch.isfinite(expected).nonzero()[:, 0].tolist())
    assert torch.allclose(logprobs, expected[tokens], atol=1e-5)
    cdf = expected.exp().double().cumsum(0)
    assert torch.equal(tokens, torch.searchsorted(cdf, uniforms * cdf[-1], right=True))


def test_a_row_depends_on_itself_alone() -> None:
    """Other rows and their settings change no bit."""
    torch.manual_seed(2)
    logits, uniforms = torch.randn(64, 300), torch.rand(64, dtype=torch.float64)
    mixed = RowSampling(torch.linspace(0, 2, 64), torch.linspace(0.3, 1, 64), torch.arange(64) % 7)
    tokens, logprobs = draw(logits, uniforms, mixed)
    for i in (0, 1, 33, 63):
        row = RowSampling(*(getattr(mixed, f)[i : i + 1] for f in mixed.__slots__))
        token, logprob = draw(logits[i : i + 1], uniforms[i : i + 1], row)
        assert token.item() == tokens[i].item()
        assert logprob.item() == logprobs[i].item()
