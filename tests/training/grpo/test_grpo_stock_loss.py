"""TRL's own trainer and ours, given the same completions, do the same."""

from pathlib import Path

import pytest
from grpo_trainers import (
    generation,
    learned,
    losses,
    policy_trainer,
    settings,
    stock_trainer,
    weights,
)

from butwait.training.grpo.settings import LossSettings


@pytest.fixture(autouse=True)
def every_row_from_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in TRL's order: what is in another order with shared prompts, or by a CPU's head, is in
    ``test_grpo_shared_prompts.py`` and ``test_on_cpu.py``."""
    monkeypatch.setattr("butwait.training.grpo.trainer.shares", lambda model, longest: False)
    monkeypatch.setattr("butwait.training.grpo.trainer.compact_head", lambda *_, **__: None)


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "dapo"])
def test_the_stock_trainer_has_the_same_loss(tmp_path: Path, preset: str) -> None:
    # Two optimizer steps of two passes on one generation, then another generation: the second step
    # has ratios that are not 1, and with `grpo` a KL term.
    chosen = settings(steps=3, minibatches=2, batch_size=4, loss=LossSettings(preset=preset))
    stock = stock_trainer(tmp_path / "a", chosen)
    expected = losses(stock)
    ours = policy_trainer(tmp_path / "b", chosen)
    seen = losses(ours)
    assert len(expected) == 6
    assert any(abs(loss) > 1e-3 for loss in expected)
    assert seen == pytest.approx(expected, abs=1e-6)
    assert (weights(ours) - weights(stock)).abs().max() < 1e-6
    for name in ("reward", "frac_reward_zero_std", "completions/clipped_ratio", "entropy"):
        assert ours.state.log_history[-2][name] == stock.state.log_history[-2][name]


def test_without_weight_the_likelihood_term_changes_nothing(tmp_path: Path) -> None:
    chosen = settings(steps=2)
    plain = losses(policy_trainer(tmp_path / "a", chosen))
    weightless = policy_trainer(tmp_path / "b", chosen, lambda problems: learned(problems, 3, 0.0))
    assert losses(weightless) == plain
    unlearned = policy_trainer(
        tmp_path / "c", chosen, lambda problems: generation(problems, mu=0.5, learns=False)
    )
    assert losses(unlearned) == plain
