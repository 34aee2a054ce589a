"""Weights that are packed once: the same numbers, and nothing left behind."""

import pytest
import torch
from random_models import CONFIGURATIONS, VOCABULARY, model

from butwait.engines.kv import products
from butwait.engines.kv.products import PackedProducts
from butwait.engines.slots import SlotModel

needs_the_operators = pytest.mark.skipif(
    not products._packs(), reason="this processor or PyTorch does not pack weights"
)


def logits(a_model: torch.nn.Module, rows: int) -> torch.Tensor:
    ids = (torch.arange(rows * 5).view(rows, 5) * 7 + 1) % VOCABULARY
    with torch.inference_mode():
        out: torch.Tensor = a_model(input_ids=ids, use_cache=False).logits
        return out


@needs_the_operators
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_packed_weights_give_the_numbers_of_the_layers(kind: str) -> None:
    a_model = model(kind, torch.bfloat16)
    plain = [logits(a_model, rows) for rows in (1, 3, 40)]
    packed = PackedProducts(a_model)
    assert packed._forwards
    with packed.in_use():
        assert all(attributes["forward"] is forward for attributes, forward in packed._forwards)
        inside = [logits(a_model, rows) for rows in (1, 3, 40)]
    # Equal to the bit where it was measured; other processors may add up in another order.
    for one, other in zip(plain, inside, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=0.05)
    assert not any("forward" in vars(layer) for layer in a_model.modules())


@needs_the_operators
def test_a_layer_with_a_bias_keeps_it() -> None:
    layer = torch.nn.Linear(32, 48, dtype=torch.bfloat16)
    inputs = torch.randn(7, 1, 32, dtype=torch.bfloat16, generator=torch.manual_seed(0))
    with torch.inference_mode():
        plain = layer(inputs)
        with PackedProducts(layer).in_use():
            assert torch.allclose(layer(inputs).float(), plain.float(), atol=0.02)


def test_what_gains_nothing_or_does_not_fit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(torch.nn.Linear):
        """Its forward may do anything."""

    hooked = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    vars(hooked)["forward"] = hooked.forward  # as accelerate's hooks do
    for layer in (
        torch.nn.Linear(8, 8),
        torch.nn.Linear(8, 8, dtype=torch.float16),
        Other(8, 8, dtype=torch.bfloat16),
        hooked,
    ):
        assert not PackedProducts(layer)._forwards
    assert "forward" in vars(hooked)
    plain = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    monkeypatch.setattr(products, "free_memory", lambda device: 4 * 64 * 64 * 2 - 1)
    assert not PackedProducts(plain)._forwards, "a copy of the weights is more than a quarter"


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_slot_model_packs_in_ordinary_mode_alone(deterministic: bool) -> None:
    slots = SlotModel(model(dtype=torch.bfloat16), 2, 64, deterministic)
    slots.prefill([(slots.acquire(), 0, torch.arange(1, 9).numpy())])
    assert (slots._products is None) == deterministic
    slots.close()
    assert slots._products is None, "the copy of the weights goes with the engine"
