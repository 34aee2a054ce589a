"""The likelihood term: its weights, and the loss that the trainer makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from grpo_trainers import (
    LIMIT,
    PROBLEMS,
    TINY,
    generation,
    learned,
    losses,
    policy_trainer,
    settings,
    solutions,
)

from butwait.engines.models import load_causal_lm
from butwait.training.grpo.direct import mu_at, row_weights
from butwait.training.grpo.generation import Generation, LikelihoodRow
from butwait.training.grpo.trainer import dealt


def row(problem_id: str) -> LikelihoodRow:
    ids = np.array([1, 2], np.int32)
    return LikelihoodRow(problem_id, ids, ids, np.ones(2, bool))


def test_every_question_weighs_the_same_whatever_its_solutions() -> None:
    rows = [row("a"), row("b"), row("b"), row("c"), row("b")]
    # Five questions were searched, three of them with success.
    expected = [1 / 5, 1 / 15, 1 / 15, 1 / 5, 1 / 15]
    assert row_weights(rows, 5).tolist() == pytest.approx(expected)
    assert row_weights(rows, 5).sum() == pytest.approx(3 / 5)
    assert row_weights(rows[:1], 1).tolist() == [1.0]


def test_the_weight_falls_linearly_and_stays_at_zero() -> None:
    seen = [mu_at(progress, 0.5, 0.5) for progress in (0.0, 0.1, 0.25, 0.5, 0.7, 1.0)]
    assert seen == pytest.approx([0.5, 0.4, 0.25, 0.0, 0.0, 0.0])
    assert mu_at(1.0, 0.3, 1.0) == 0.0
    assert mu_at(0.5, 0.3, 1.0) == pytest.approx(0.15)


@pytest.mark.parametrize(("rows", "hands"), [(0, 3), (2, 3), (3, 3), (7, 3), (5, 1)])
def test_rows_are_dealt_once_each_and_evenly(rows: int, hands: int) -> None:
    given = [list(hand) for hand in dealt(rows, hands)]
    assert sorted(i for hand in given for i in hand) == list(range(rows))
    sizes = [len(hand) for hand in given]
    assert len(sizes) == hands
    assert max(sizes) - min(sizes) <= 1


def nll_by_hand(rows: list[LikelihoodRow], temperature: float) -> np.ndarray:
    """Summed -log pi of each row, one row and one token at a time, without padding."""
    model = load_causal_lm(TINY).eval()
    nll = []
    for row in rows:
        whole = torch.tensor([*row.prompt_ids.tolist(), *row.token_ids.tolist()])
        with torch.no_grad():
            logits = model(whole[None]).logits[0].double() / temperature
        total = 0.0
        for t, token in enumerate(row.token_ids.tolist()):
            if row.mask[t]:
                before = logits[len(row.prompt_ids) + t - 1]
                total -= float(before[token] - torch.logsumexp(before, 0))
        nll.append(total)
    return np.array(nll)


@pytest.mark.parametrize("batch_size", [16, 4], ids=["one pass", "four passes"])
def test_the_loss_is_the_sum_of_minus_log_pi_over_q_n_and_the_longest_length(
    tmp_path: Path, batch_size: int
) -> None:
    chosen = settings(batch_size=batch_size, temperature=0.7)
    # Rows of three questions, two of the first, and one question more that was searched in vain.
    nll = nll_by_hand(solutions(4), 0.7)
    weights = np.array([1 / 8, 1 / 8, 1 / 4, 1 / 4])
    trainer = policy_trainer(tmp_path, chosen, lambda problems: learned(problems, 4), alone=True)
    seen = losses(trainer)
    assert len(seen) == 16 // batch_size
    assert sum(seen) == pytest.approx((weights * nll).sum() / LIMIT, rel=1e-5)
    if batch_size == 4:
        assert seen == pytest.approx(weights * nll / LIMIT, rel=1e-5)
    tokens = sum(int(row.mask.sum()) for row in solutions(4))
    assert trainer.counted["trained_tokens"] == tokens
    figures = trainer.state.log_history[0]
    if batch_size == 16:
        assert figures["search/nll"] == pytest.approx(nll.sum() / tokens, rel=1e-4)


def test_each_minibatch_has_its_rows_at_a_weight_that_makes_their_mean_the_whole(
    tmp_path: Path,
) -> None:
    # Two optimizer steps of two passes; a rate so low that the second sees the same policy.
    chosen = settings(batch_size=4, minibatches=2, steps=2, learning_rate=1e-12)
    nll = nll_by_hand(solutions(3), 1.0)
    weights = np.array([1 / 6, 1 / 6, 1 / 3])
    seen = losses(
        policy_trainer(tmp_path, chosen, lambda problems: learned(problems, 3), alone=True)
    )
    each = [*(2 * weights * nll / LIMIT), 0.0]  # four passes, the last one without a row
    assert seen == pytest.approx(each, rel=1e-5, abs=1e-9)
    assert (sum(seen[:2]) + sum(seen[2:])) / 2 == pytest.approx((weights * nll).sum() / LIMIT)


def test_mixed_adds_the_term_at_its_weight(tmp_path: Path) -> None:
    chosen = settings(batch_size=4)
    plain = losses(policy_trainer(tmp_path / "a", chosen))
    mixed = losses(
        policy_trainer(tmp_path / "b", chosen, lambda problems: learned(problems, 4, 0.3))
    )
    nll = nll_by_hand(solutions(4), 1.0) * np.array([1 / 8, 1 / 8, 1 / 4, 1 / 4]) / LIMIT
    assert np.subtract(mixed, plain) == pytest.approx(0.3 * nll, rel=1e-4, abs=1e-6)


def test_a_pass_without_rows_runs_the_model_and_moves_nothing(tmp_path: Path) -> None:
    """Under sharded weights all devices must run the model equally often."""

    def nothing_found(problems: list) -> Generation:
        return generation(problems, mu=0.5, learns=True)

    trainer = policy_trainer(tmp_path, settings(), nothing_found, alone=True)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    trainer.model.register_forward_hook(count)
    assert losses(trainer) == [0.0, 0.0]
    assert passes == 2
    assert trainer.counted["trained_tokens"] == 0
    assert len(PROBLEMS) == 4
