"""Prompts that are run once for all rows: the log-probabilities, losses and gradients of TRL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_trainers import (
    TINY,
    losses,
    policy_trainer,
    settings,
    stock_trainer,
)
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from butwait.engines.models import load_causal_lm
from butwait.training.grpo.settings import LossSettings
from butwait.training.shared_prompts import by_prompt, shared_logprobs, shares

SHOTS = [7, 8, 9, 10, 11]


@pytest.fixture
def model() -> Any:
    model = load_causal_lm(TINY).train()
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    return model


def rows(cut: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows of two questions behind the same examples, and one of another prompt that has
    nothing in common with them; completions of 1 to 6 tokens, the one at ``cut`` left out."""
    prompts = [[*SHOTS, 12, 13]] * 3 + [[*SHOTS, 14, 15, 16, 17]] * 3 + [[20, 21]]
    ids, mask = torch.zeros(7, 15, dtype=torch.int64), torch.zeros(7, 15, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, 9 - len(prompt) : 9] = torch.tensor(prompt)
        length = (6, 2, 5, 1, 3, 6, 4)[i]
        ids[i, 9 : 9 + length] = torch.arange(30 + i, 30 + i + length)
        mask[i, 9 - len(prompt) : 9 + length] = 1
    if cut is not None:
        mask[cut, 9:] = 0
    return ids, mask


def by_rows(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As TRL does it."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :9] = -100
    out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -6:], out.entropy[:, -6:]


def gradient(model: Any, objective: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    objective.backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learned)
    return torch.cat([p.grad.flatten() for p in learned])


def near(ours: torch.Tensor, theirs: torch.Tensor, share: float = 1e-4) -> bool:
    return bool((ours - theirs).norm() <= share * theirs.norm())


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("chosen", [range(7), range(6), range(3), [6], [0]])
def test_log_probabilities_entropies_and_gradients_are_those_of_whole_rows(
    model: Any, adapted: bool, chosen: Any
) -> None:
    if adapted:
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, lora)
    ids, mask = (part[list(chosen)] for part in rows(cut=4 if len(chosen) > 4 else None))
    weights = torch.randn(len(ids), 6, generator=torch.Generator().manual_seed(0))
    weights[:, 0] += 1  # no objective is without a gradient
    expected, of_tokens = by_rows(model, ids, mask)
    slope = gradient(model, (expected * weights + of_tokens).sum())
    found, entropies = shared_logprobs(model, ids, mask, 6)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(entropies, of_tokens, atol=1e-5)
    assert near(gradient(model, (found * weights + entropies).sum()), slope)


def test_what_all_rows_begin_with_runs_once(model: Any) -> None:
    run: list[torch.Size] = []
    model.model.embed_tokens.register_forward_hook(lambda _, given, out: run.append(given[0].shape))
    ids, mask = rows()
    shared_logprobs(model, ids[:6], mask[:6], 6)
    # Five tokens of all, at most three more of each question, each completion behind the last
    # token of its prompt, those of about the same length together.
    assert run[:2] == [(1, 5), (2, 3)]
    assert sorted(run[2:]) == [(1, 2), (1, 3), (1, 4), (3, 7)]


def test_rows_that_no_loss_uses_have_no_gradient(model: Any) -> None:
    ids, mask = rows()
    idle = torch.tensor([True, False, True, False, True, True, True])
    whole, _ = shared_logprobs(model, ids, mask, 6)
    slope = gradient(model, whole[~idle].sum())
    found, _ = shared_logprobs(model, ids, mask, 6, idle)
    assert torch.allclose(found, whole, atol=1e-5)
    assert near(gradient(model, found.sum()), slope)


def test_where_no_row_is_used_optimizers_see_a_gradient_all_the_same(model: Any) -> None:
    ids, mask = rows()
    found, _ = shared_logprobs(model, ids, mask, 6, torch.ones(7, dtype=torch.bool))
    assert gradient(model, (found * 0).sum()).abs().max() == 0


def test_models_for_which_it_is_not_right_run_whole_rows() -> None:
    def changed(change: Callable[[Any], Any]) -> bool:
        model = load_causal_lm(TINY).train()
        change(model)
        return shares(model, 32)

    def dropping(model: Any) -> None:
        model.model.dropout = torch.nn.Dropout(0.1)

    assert changed(lambda model: None)
    assert not changed(dropping)
    assert changed(lambda model: (dropping(model), model.eval()))
    assert not changed(lambda model: setattr(model.config, "attention_dropout", 0.1))
    assert not changed(lambda model: model.gradient_checkpointing_enable())
    assert not changed(lambda model: model.config.rope_parameters.update(rope_type="dynamic"))
    assert not changed(lambda model: delattr(model.model, "rotary_emb"))
    assert not changed(lambda model: setattr(model.config, "_attn_implementation", "flash"))


class Slopes(TrainerCallback):
    """The gradients of every optimizer step, clipped."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.seen.append(
            torch.cat([p.grad.flatten().clone() for p in others["model"].parameters()])
        )


def trained(trainer: GRPOTrainer) -> tuple[list[float], list[torch.Tensor]]:
    slopes = Slopes()
    trainer.add_callback(slopes)
    return losses(trainer), slopes.seen


@pytest.mark.parametrize(("preset", "minibatches"), [("grpo", 2), ("dr_grpo", 1), ("dapo", 1)])
def test_a_training_has_the_stock_trainer_s_losses_and_gradients(
    tmp_path: Path, preset: str, minibatches: int
) -> None:
    # Weights that move too little for rounding to be seen in them.
    loss = LossSettings(preset=preset)
    chosen = settings(steps=2, minibatches=minibatches, batch_size=4, loss=loss, learning_rate=1e-6)
    expected, slopes = trained(stock_trainer(tmp_path / "a", chosen))
    trainer = policy_trainer(tmp_path / "b", chosen)
    found, ours = trained(trainer)
    assert set(trainer._same.values()) == {True}
    passes = len(expected) // 2
    for step in range(2):
        one = slice(step * passes, (step + 1) * passes)
        assert sum(found[one]) == pytest.approx(sum(expected[one]), abs=1e-4)
        assert near(ours[step], slopes[step], 1e-3)
    if minibatches > 1:  # which rows an optimizer step has is TRL's choice
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        for batch in trainer._buffered_inputs:
            assert len(batch["prompt_ids"].unique(dim=0)) == 1


def test_in_mixed_precision_they_are_right_or_not_shared(tmp_path: Path) -> None:
    chosen = settings(precision="mixed", batch_size=8, learning_rate=1e-6)
    expected, slopes = trained(stock_trainer(tmp_path / "a", chosen))
    trainer = policy_trainer(tmp_path / "b", chosen)
    found, ours = trained(trainer)
    assert all(trainer._same.values())
    assert sum(found) == pytest.approx(sum(expected), abs=1e-2)
    assert near(ours[0], slopes[0], 5e-2)


def test_a_model_that_says_something_else_runs_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(learning_rate=1e-6)
    expected = losses(stock_trainer(tmp_path / "a", chosen))
    trainer = policy_trainer(tmp_path / "b", chosen)
    monkeypatch.setattr(
        "butwait.training.grpo.trainer.shared_logprobs",
        lambda model, ids, mask, kept: (torch.full((len(ids), kept), -9.0), None),
    )
    assert sum(losses(trainer)) == pytest.approx(sum(expected), abs=1e-6)
    assert set(trainer._same.values()) == {False}


def test_rows_with_the_same_prompt_are_dealt_together() -> None:
    passes = [
        {
            "prompt_ids": torch.tensor([[i % 3], [(i + 1) % 3]]),
            "advantages": torch.tensor([2.0 * i, 2.0 * i + 1]),
            "num_items_in_batch": torch.tensor(9),
            "images": None,
        }
        for i in range(3)
    ]
    dealt = by_prompt(passes)
    assert [batch["prompt_ids"].flatten().tolist() for batch in dealt] == [[0, 0], [1, 1], [2, 2]]
    assert [batch["advantages"].tolist() for batch in dealt] == [[0, 5], [1, 2], [3, 4]]
    assert {int(batch["num_items_in_batch"]) for batch in dealt} == {9}
