"""Every decoder that transformers has, tiny and random: right, or refused in a sentence."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import COPIED, REFUSED, RUNS, VOCABULARY, tiny_config, tiny_model
from transformers import LlamaConfig, Mistral3Config

from butwait.engines import slots as slots_module
from butwait.engines.cache import context_limit, layer_windows
from butwait.engines.checkpoints.configs import causal_lm_class
from butwait.engines.slots import SlotModel
from butwait.records import UserError
from butwait.reward_models.score_head import CertaintyModel

QUICK = {
    "minicpm3", "granitemoehybrid", "gpt_oss", "gemma3", "mistral3", "gpt_neo", "openai-gpt",
    "llama4", "paligemma",
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def quick_first(kinds: Any) -> list[Any]:
    return [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def alone(model: Any, ids: np.ndarray) -> torch.Tensor:
    """float64 (n, V): log-probabilities of an ordinary pass without a cache."""
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0]
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("kind", quick_first(RUNS))
def test_rows_side_by_side_have_the_numbers_of_a_pass_alone(kind: str) -> None:
    """Ragged rows in chunks, a fork, a row cut back and a slot used again."""
    model = tiny_model(kind)
    slots = SlotModel(model, 6, 64, prefill_chunk=7)
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, VOCABULARY, n) for n in (30, 11, 25, 1)]
    taken = [slots.acquire() for _ in texts]
    rows = [(slot, 0, text) for slot, text in zip(taken, texts, strict=True)]
    pairs = [
        (out.double().log_softmax(-1), alone(model, text))
        for text, out in zip(texts, slots.run(rows, "all"), strict=True)
    ]
    fork = slots.fork(taken[2], 20)
    slots.release(taken[1])
    again = slots.acquire()
    new = [generator.integers(1, VOCABULARY, n) for n in (9, 2, 4)]
    out = slots.run([(fork, 20, new[0]), (taken[0], 10, new[1]), (again, 0, new[2])], "last")
    paths = [np.r_[texts[2][:20], new[0]], np.r_[texts[0][:10], new[1]], new[2]]
    pairs += [
        (row.double().log_softmax(-1), alone(model, path)[-1])
        for row, path in zip(out, paths, strict=True)
    ]
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-4


@pytest.mark.parametrize("kind", quick_first(RUNS))
def test_tokens_in_place_have_the_numbers_of_tokens_with_copies(kind: str) -> None:
    model = tiny_model(kind).float()
    texts = [np.random.default_rng(n).integers(1, VOCABULARY, n) for n in (40, 11)]
    outputs = []
    for copies in (False, True):
        slots = SlotModel(model, 3, 64, prefill_chunk=7)
        assert slots._attention.splits == (kind not in COPIED)
        slots._attention.splits &= not copies
        taken = [slots.acquire() for _ in texts]
        slots.prefill([(slot, 0, text) for slot, text in zip(taken, texts, strict=True)])
        taken.append(slots.fork(taken[0], 33))
        for step in range(2):
            new = np.random.default_rng(step).integers(1, VOCABULARY, 3)
            logits = slots.decode(np.array(taken), slots.lengths[taken], new)
            outputs.append(logits.double().log_softmax(-1))
    # Layers that are run again and again (HRM) make differences of rounding larger.
    most = 5e-3 if kind == "hrm_text" else 1e-4
    assert float((torch.cat(outputs[:2]) - torch.cat(outputs[2:])).abs().max()) < most


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        pytest.param(kind, says, marks=() if kind in QUICK else pytest.mark.slow)
        for says, kinds in REFUSED.items()
        for kind in kinds.split()
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_runs(kind: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        SlotModel(tiny_model(kind), 2, 64)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "modernbert-decoder"])
def test_windows_that_are_longer_than_the_trial_are_those_of_the_configuration(kind: str) -> None:
    config = tiny_config(kind)
    config.sliding_window = 16
    torch.manual_seed(0)
    model = causal_lm_class(config).from_config(config).eval()
    assert 16 in layer_windows(model.config, False)
    slots = SlotModel(model, 3, 64, prefill_chunk=7)
    texts = [np.random.default_rng(n).integers(1, VOCABULARY, n) for n in (40, 11, 37)]
    rows = slots.run([(slots.acquire(), 0, text) for text in texts], "all")
    for text, row in zip(texts, rows, strict=True):
        assert float((row.double().log_softmax(-1) - alone(model, text)).abs().max()) < 1e-4


def test_keys_of_different_shapes_are_known_before_weights_are_read() -> None:
    with pytest.raises(UserError, match="gemma4_unified_text models with keys of different shapes"):
        layer_windows(tiny_config("gemma4_unified_text"), False)


def test_a_scorer_on_a_model_that_goes_wrong_is_refused_as_well() -> None:
    with pytest.raises(UserError, match="gpt_neo models: beside rows of other lengths"):
        SlotModel(CertaintyModel(tiny_model("gpt_neo")), 2, 64)


def test_half_precision_is_no_fault() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        SlotModel(tiny_model("gpt_oss").to(dtype), 2, 64)


def test_a_model_without_numbers_has_its_own_error_later() -> None:
    broken = tiny_model("minicpm3")
    broken.lm_head.weight.data[5] = torch.nan
    SlotModel(broken, 2, 64)


def test_what_a_trial_leaves_behind_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of a run do not depend on it."""
    ids = np.arange(1, 30)

    def run() -> torch.Tensor:
        torch.manual_seed(3)
        slots = SlotModel(tiny_model("minicpm3"), 3, 64, deterministic=True)
        return slots.run([(slots.acquire(), 0, ids)], "all")[0]

    tried = run()
    monkeypatch.setattr(slots_module, "check_rows", lambda *_: None)
    assert torch.equal(tried, run())


@pytest.mark.parametrize("kind", ["gemma3", "mistral3", "llama4", "qwen2_vl", "qwen2_5_vl"])
def test_a_wrapper_has_the_context_of_its_language_model(kind: str) -> None:
    assert context_limit(tiny_config(kind)) == 512


def test_contexts() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    by_layer = {"full_attention": dynamic | {"original_max_position_embeddings": 64}}
    assert context_limit(LlamaConfig(max_position_embeddings=77)) == 77
    assert context_limit(Mistral3Config(text_config={"max_position_embeddings": 99})) == 99
    plain = LlamaConfig(max_position_embeddings=256)
    plain.rope_parameters = by_layer
    assert context_limit(plain) == 64
    assert context_limit(tiny_config("xlnet")) is None


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper", "vit", "clip", "esm", "wav2vec2"])
def test_what_writes_no_text_from_left_to_right_has_no_class(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    with pytest.raises(UserError, match=r"is an encoder-decoder|is no language model"):
        causal_lm_class(CONFIG_MAPPING[kind]())


def test_the_page_names_every_architecture() -> None:
    named = set(re.findall(r"`([\w-]+)`", PAGE.read_text("utf-8")))
    assert set(RUNS) | set(" ".join(REFUSED.values()).split()) <= named
    assert len(RUNS) >= 40
