"""What makes trainings quick on a CPU changes neither their losses nor their gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from sft_cases import SIZES, make_tokenizer, save_model
from trl.trainer.utils import add_fused_lm_head

from butwait.engines.models import load_causal_lm
from butwait.training import on_cpu
from butwait.training.on_cpu import compact_head, short_attention
from butwait.training.weights import base_of

OUTPUTS = ("log_probs", "entropy", "is_top1")


def random_model(architecture: str, **options: Any) -> Any:
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(make_tokenizer()), pad_token_id=0, **(SIZES | options)
    )
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config)


def rows() -> dict[str, torch.Tensor]:
    """Three rows of 12 tokens: with loss from the fourth, from the first, and without."""
    torch.manual_seed(2)
    ids = torch.randint(5, 40, (3, 12))
    labels = ids.clone()
    labels[0, :4] = labels[2] = labels[1, 9:] = -100
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def run(model: Any, weights: torch.Tensor, **given: Any) -> tuple[Any, list[torch.Tensor]]:
    """The output, and the gradients of a weighted sum of log-probabilities."""
    out = model(**(rows() | given), fused_lm_head=True)
    (out.log_probs * weights).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return out, gradients


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("Llama", {}),
        ("Granite", {"logits_scaling": 4.0}),
        ("Gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}),
        ("Phi3", {"tie_word_embeddings": True}),
        (
            "GPT2",
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "attn_pdrop": 0.0,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
            },
        ),
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_compact_head_says_what_trl_says(
    architecture: str, options: dict[str, Any], adapted: bool
) -> None:
    model = random_model(architecture, **options)
    add_fused_lm_head(model, temperature=0.7, outputs=OUTPUTS)
    if adapted:
        model = get_peft_model(
            model, LoraConfig(target_modules="all-linear", init_lora_weights=False)
        )
    weights = torch.rand(3, 11)
    theirs, expected = run(model, weights)
    compact_head(model, 0.7)
    seen: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, given, __: seen.append(given[0].numel() // 32))
    ours, gradients = run(model, weights)
    assert seen == [16]  # 8 of the first row, 8 of the second, none of the third
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.is_top1, theirs.is_top1)
    assert torch.equal(ours.label_mask, theirs.label_mask)
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert len(gradients) == len(expected) > 0
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        model(**rows(), num_items_in_batch=7, fused_lm_head=True).loss, theirs.loss * 16 / 7
    )


def test_rows_without_loss_have_a_gradient_of_zero() -> None:
    model = random_model("Llama")
    add_fused_lm_head(model, outputs=OUTPUTS)
    compact_head(model)
    out, gradients = run(model, torch.ones(3, 11), labels=torch.full((3, 12), -100))
    assert out.loss.item() == 0.0
    assert len(gradients) == len(list(model.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_many_logits_and_other_calls_are_left_to_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Llama")
    calls: list[bool] = []
    add_fused_lm_head(model, outputs=OUTPUTS)
    fused = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs.get("fused_lm_head", False))
        return fused(*args, **kwargs)

    model.forward = forward
    compact_head(model)
    model(**rows(), fused_lm_head=True)
    assert calls == [False]  # the model's own head
    monkeypatch.setattr(on_cpu, "ROOM", 16 * model.config.vocab_size - 1)
    model(**rows(), fused_lm_head=True)
    assert calls == [False, True]
    plain = model(**rows())
    assert plain.logits.shape[:2] == (3, 12)
    assert calls == [False, True, False]


@pytest.mark.parametrize(("longest", "chosen"), [(256, "eager"), (257, "sdpa")])
def test_attention_of_short_rows(tmp_path: Path, longest: int, chosen: str) -> None:
    model = load_causal_lm(save_model(tmp_path / "base")[0])
    before = model(**rows()).loss
    short_attention(model, longest)
    assert base_of(model).config._attn_implementation == chosen
    torch.testing.assert_close(model(**rows()).loss, before)
