"""Which way does each mode push the policy? Measured against the exact policy gradient.

The policy is a table (``grpo_table.py``), the searches and what is learned from them are the real
ones, and the update of a generation is written out by hand: group advantages as in TRL's
``dr_grpo`` (the reward minus the group's mean, no scaling), and the weighted likelihood rows.

For one question the policy gradient is P(correct) times the gradient of log P(correct), so one
direction serves both terms of ``mixed``. Seeds are fixed, and what they give stands beside the
bounds; all of it is cosines of means of 80 to 150 generations, whose noise takes 0.01 to 0.05 away.
"""

from dataclasses import replace

import numpy as np
import pytest
from grpo_cases import direct_sampler, draw
from grpo_table import DEPTH, RULE, TableQuestion

from butwait.engines.settings import StepRule
from butwait.problems.grading import Grader
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SamplerSettings
from butwait.training.grpo.generation import Generation
from butwait.training.grpo.settings import GrpoDirectSettings

GROUP = 8
PARTICLES = 16
BAR = 0.9
PRMS = {"good": (0.5, 0.5), "middling": (0.7, 0.3), "weak": (0.7, 0.15)}
"""Noise in nats and share of the true logit. A correct completion has the higher reward than a
wrong one in 100, 100 and 90 % of all pairs, a prefix of four steps in 75, 69 and 66 %."""

TELESCOPING = ParticleFilterSettings(particles=PARTICLES, step=RULE)
UNTELESCOPED = ParticleFilterSettings(particles=PARTICLES, step=RULE, preset="its_hub")


@pytest.fixture(scope="module")
def question() -> TableQuestion:
    return TableQuestion(0)


def generation(
    question: TableQuestion,
    mode: str,
    sampler: SamplerSettings,
    prm: str,
    questions: int,
) -> Generation:
    """One generation of a mode over so many copies of the question."""
    settings = GrpoDirectSettings(
        mode=mode,
        sampler=sampler,
        questions=questions,
        group=GROUP,
        batch_size=GROUP,
        step=StepRule(delimiters=(), max_tokens=DEPTH),
    )
    copies = [replace(question.problem, id=f"copy {i}") for i in range(questions)]
    with Grader() as grader:
        reward_model = question.reward_model(*PRMS[prm], seed=7)
        made = direct_sampler(settings, question.engine, reward_model, grader)
        return draw(made, question.engine, copies)


def group_updates(question: TableQuestion, made: Generation) -> np.ndarray:
    """float64 (questions, K, 2): minus the gradient of the ``dr_grpo`` loss of each group."""
    updates, group = [], GROUP
    for i in range(0, len(made.completions), group):
        rewards = np.array(made.rewards[i : i + group], float)  # NaN where there is none
        advantages = np.nan_to_num(rewards - np.nanmean(rewards))
        updates.append(
            sum(
                advantage * question.update(row.token_ids, row.sampled)
                for advantage, row in zip(advantages, made.completions[i : i + group], strict=True)
            )
            / (group * DEPTH)
        )
    return np.array(updates)


def likelihood_update(question: TableQuestion, made: Generation) -> np.ndarray:
    """float64 (K, 2): minus the gradient of the NLL of a generation."""
    return sum(
        weight * question.update(row.token_ids, row.mask) / DEPTH
        for row, weight in zip(made.rows, made.row_weights, strict=True)
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """0 where there is no update at all."""
    lengths = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / lengths) if lengths else 0.0


def noiseless_cosine(updates: np.ndarray, exact: np.ndarray) -> float:
    """The cosine that the mean of infinitely many updates has: the squared length of the mean is
    taken from two halves, whose noise is independent."""
    first, second = updates[::2].mean(axis=0), updates[1::2].mean(axis=0)
    along = (updates.mean(axis=0) * exact).sum() / np.sqrt((exact**2).sum())
    return float(along / np.sqrt((first * second).sum()))


def test_the_exact_gradient_is_the_derivative_of_log_p(question: TableQuestion) -> None:
    # By central differences over the logits of the root and of one prefix behind it.
    assert question.values[""] == pytest.approx(0.06, abs=0.001)
    assert question.laws.sum() == pytest.approx(1)
    assert question.laws[question.correct].sum() == pytest.approx(question.values[""])
    first = question.probabilities[0]
    behind = np.array([question.values["a"], question.values["b"]])

    def log_p(step: float) -> float:
        moved = first * np.exp([step, 0.0])
        return float(np.log(moved / moved.sum() @ behind))

    slope = (log_p(1e-5) - log_p(-1e-5)) / 2e-5
    assert question.exact[0].tolist() == pytest.approx([slope, -slope], rel=1e-6)


def test_fresh_groups_and_rejection_sampling_follow_the_policy_gradient(
    question: TableQuestion,
) -> None:
    """The yardstick itself: what has no bias must reach the exact gradient, and its length."""
    plain = IndependentSettings(samples=PARTICLES, step=RULE)
    made = generation(question, "mixed", plain, "good", 150)
    updates = group_updates(question, made)
    assert noiseless_cosine(updates, question.exact) == pytest.approx(1, abs=0.15)  # 0.93
    # The baseline holds the sample itself, which takes 1/G of the gradient away.
    gradient = question.values[""] * question.exact * (1 - 1 / GROUP) / DEPTH
    along = (updates.mean(axis=0) * gradient).sum() / (gradient**2).sum()
    assert along == pytest.approx(1, abs=0.2)  # 0.93
    assert cosine(likelihood_update(question, made), question.exact) >= 0.95  # 0.98


@pytest.mark.parametrize("prm", PRMS)
def test_mixed_and_expert_iteration_follow_the_policy_gradient(
    question: TableQuestion, prm: str
) -> None:
    made = generation(question, "mixed", TELESCOPING, prm, 120)
    assert made.learns
    assert made.mu == 0.5
    # What expert_iteration learns is the second term alone: 0.95, 0.99 and 0.98.
    likelihood = likelihood_update(question, made)
    assert cosine(likelihood, question.exact) >= BAR
    mixed = group_updates(question, made).mean(axis=0) + made.mu * likelihood
    assert cosine(mixed, question.exact) >= BAR  # 0.96, 0.99 and 0.98


@pytest.mark.parametrize("prm", PRMS)
def test_particles_as_a_group_do_not(question: TableQuestion, prm: str) -> None:
    """The control must fail, and not by the noise of its mean."""
    made = generation(question, "pf_group", UNTELESCOPED, prm, 80)
    updates = group_updates(question, made)
    assert not made.learns
    assert cosine(updates.mean(axis=0), question.exact) < BAR  # 0.02, 0.41 and 0.57
    signal = updates.any(axis=(1, 2)).mean()
    if prm == "good":
        # It kills what is not on the way to one solution, and a group without contrast is no
        # update at all.
        assert signal < 0.05  # 0.01
    else:
        assert noiseless_cosine(updates, question.exact) < BAR  # 0.52 and 0.68
