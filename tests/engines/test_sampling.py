"""Tokens by inverse CDF."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from butwait.engines import sampling
from butwait.engines.sampling import CHUNK, Asked, LiveRows, RowSampling, draw
from butwait.engines.settings import Sampling
from butwait.records import Key


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


@pytest.mark.parametrize("width", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 1000])
def test_sums_of_chunks_find_the_token_of_one_long_sum(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the vocabulary's size, and in parts of the rows."""
    monkeypatch.setattr(sampling, "CACHED", 7 * width)
    torch.manual_seed(3)
    logits, uniforms = torch.randn(500, width) * 3, torch.rand(500, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs = draw(logits, uniforms, how(rows=500))
    every = logits.log_softmax(-1)
    cdf = every.exp().cumsum(-1, dtype=torch.float64)
    expected = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)
    assert torch.equal(tokens[:, None], expected)
    assert torch.equal(logprobs[:, None], every.gather(-1, expected))


def test_the_edges_of_chunks_have_no_impossible_tokens() -> None:
    """Whole chunks, and the ends of others, without probability."""
    possible = [CHUNK + 5, CHUNK + 90, 3 * CHUNK, 3 * CHUNK + 7]
    logits = torch.full((1, 5 * CHUNK), -torch.inf)
    torch.manual_seed(4)
    logits[0, possible] = torch.randn(4)
    share = logits[0, possible].softmax(0).double()
    borders = torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)])
    near = torch.cat([borders + off for off in (-1e-16, 0, 1e-16, 1e-8)]).clamp(0, 1 - 2**-53)
    tokens, _ = draw(logits.expand(len(near), -1), near, how(rows=len(near)))
    assert set(tokens.tolist()) == set(possible)
    last = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(logits, last, how())[0].item() == possible[-1]


def test_what_is_asked_for_is_seen_in_arrays_and_tensors() -> None:
    temperature, top_p, top_k = np.array([0, 1.0]), np.array([0.5, 1]), np.array([3, 0])
    for kind in (np.asarray, torch.from_numpy):
        given = [kind(each) for each in (temperature, top_p, top_k)]
        assert Asked.by(*given) == Asked(greedy=True, tempered=False, top_k=False, top_p=False)
        given = [each[1:] for each in given[:1]] + [each[:1] for each in given[1:]]
        assert Asked.by(*given) == Asked(greedy=False, tempered=False, top_k=True, top_p=True)


def test_a_pass_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host looks at no tensor but the copy of tokens and log-probabilities."""

    class Looks(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    copies: list[torch.Size] = []
    to_host = torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor.shape)
        return to_host(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    rows = LiveRows(4, torch.device("cpu"))
    settings = [(0.0, 1.0, 0), (0.7, 0.9, 0), (1.0, 1.0, 5)]
    jobs: list[Any] = [
        SimpleNamespace(
            prefix=SimpleNamespace(token_ids=np.array([1, 2])),
            sampling=Sampling(temperature=temperature, top_p=top_p, top_k=top_k),
            tenant=SimpleNamespace(slot=i),
            detector="rule",
            step=SimpleNamespace(room=9),
            key=Key.of(0, i),
        )
        for i, (temperature, top_p, top_k) in enumerate(settings)
    ]
    rows.add(jobs)
    logits = torch.randn(3, 300)
    with Looks() as looks:
        for _ in range(4):
            rows.draw(logits)
    assert (looks.count, copies) == (0, [torch.Size([2, 3])] * 4)
    assert rows.inputs[1].tolist() == [5, 5, 5]
