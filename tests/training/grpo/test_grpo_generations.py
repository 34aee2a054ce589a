"""Whole generations of ``grpo_direct``, on questions that are written down."""

from dataclasses import replace

import pytest
from grpo_cases import direct_sampler, draw
from grpo_searching import EASY, HARD, NEVER, PIECES, policy, scripted, settings

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.records import Problem


def test_mixed_searches_what_the_policy_rarely_solves(
    engine: ScriptedEngine, grader: Grader
) -> None:
    sampler = direct_sampler(settings(mu=0.4, mu_until=0.5), engine, scripted(), grader)
    made = draw(sampler, engine, [EASY, HARD])
    assert [row.problem.id for row in made.completions] == ["easy"] * 4 + ["hard"] * 4
    assert made.figures["search/questions"] == 1.0
    assert {row.problem_id for row in made.rows} <= {"hard"}
    assert made.row_weights.sum() == pytest.approx(1.0 if made.rows else 0.0)
    assert (made.mu, made.learns) == (0.4, True)
    tally = sampler.tally
    assert tally.searched == 1
    assert tally.search_tokens == 32
    assert tally.policy_tokens == 32 + sum(row.length for row in made.completions)
    assert tally.reward_tokens == 32
    halfway = draw(sampler, engine, [EASY, HARD], step=5)
    assert (halfway.mu, halfway.learns, halfway.rows) == (0.0, False, [])
    assert halfway.figures["search/questions"] == 0.0
    assert sampler.tally.searched == 1


def test_the_rate_that_decides_holds_earlier_generations(
    engine: ScriptedEngine, grader: Grader
) -> None:
    sampler = direct_sampler(settings(), engine, scripted(), grader)
    sampler._rates.add([("hard", 4, 4), ("hard", 4, 4), ("hard", 4, 4)])
    draw(sampler, engine, [HARD])
    assert sampler.tally.searched == 0
    for step in range(1, 4):  # three generations more, and the rate is 1/4 or less
        draw(sampler, engine, [HARD], step)
    assert sampler.tally.searched == 1


def test_expert_iteration_searches_all_and_learns_at_full_weight(
    engine: ScriptedEngine, grader: Grader
) -> None:
    chosen = settings(mode="expert_iteration", mu=0.1)
    sampler = direct_sampler(chosen, engine, scripted(), grader)
    made = draw(sampler, engine, [EASY, NEVER], step=9)
    assert (made.mu, made.learns) == (1.0, True)
    assert made.figures["search/questions"] == 2.0
    assert made.figures["search/solved"] == 0.5
    assert {row.problem_id for row in made.rows} == {"easy"}
    # Two were searched, one of them in vain.
    assert made.row_weights.tolist() == pytest.approx([1 / (2 * len(made.rows))] * len(made.rows))
    assert sampler.tally.policy_tokens == sampler.tally.search_tokens == 64


def test_replace_puts_a_solution_into_an_all_wrong_group(grader: Grader) -> None:
    engine = ScriptedEngine(
        lambda question, text: (
            policy("easy" if "a" in text or "b" in text else "never", text)
            if question == "hard" and text
            else {"c\n": 0.9, "a\n": 0.1}
        ),
        PIECES,
    )
    # Fresh samples that go by c are wrong; the filter is led to a.
    guide = scripted({"a\n": 5.0})
    chosen = settings(mode="replace", sampler=settings().sampler.model_dump() | {"particles": 64})
    sampler = direct_sampler(chosen, engine, guide, grader)
    replaced = 0
    for step in range(12):
        made = draw(sampler, engine, [HARD], step)
        assert (made.learns, made.rows) == (False, [])
        correct = [i for i, r in enumerate(made.rewards) if r == 1.0]
        if made.figures["search/questions"]:
            assert len(correct) == 1
            row = made.completions[correct[0]]
            assert row.text == "a\n\\boxed{1}"
            assert row.sampled.tolist() == [True, True, False]
            replaced += 1
    assert replaced >= 3
    # What was put in is no sample of the policy: its solve rate and the figures leave it out.
    assert sampler._rates.rate("hard") == 0.0
    assert made.figures["all_wrong_groups"] == 1.0


def test_particles_are_the_group_and_nothing_is_sampled_besides(
    engine: ScriptedEngine, grader: Grader
) -> None:
    sampler = direct_sampler(settings(mode="pf_group"), engine, scripted(), grader)
    made = draw(sampler, engine, [EASY, HARD])
    assert len(made.completions) == 8
    assert (made.learns, made.rows) == (False, [])
    assert sampler.tally.policy_tokens == sampler.tally.search_tokens == 64
    for row, worth in zip(made.completions, made.rewards, strict=True):
        assert (worth is None) == row.repeated


def test_the_same_step_gives_the_same_generation(engine: ScriptedEngine, grader: Grader) -> None:
    def texts(order: list[Problem]) -> dict[str, list[str]]:
        made = draw(direct_sampler(settings(), engine, scripted(), grader), engine, order, 4)
        groups: dict[str, list[str]] = {}
        for row in made.completions:
            groups.setdefault(row.problem.id, []).append(row.text)
        return groups

    assert texts([EASY, HARD]) == texts([HARD, EASY])


def test_what_is_left_of_a_budget_of_tokens_is_progress(
    engine: ScriptedEngine, grader: Grader
) -> None:
    sampler = direct_sampler(settings(token_budget=1000), engine, scripted(), grader)
    assert sampler.progress(0) == 0.0
    assert sampler.progress(3) == pytest.approx(0.3)
    sampler.tally.policy_tokens = 700
    assert sampler.progress(3) == pytest.approx(0.7)
    sampler.tally.policy_tokens = 5000
    assert sampler.progress(3) == 1.0


def test_tally_and_rates_come_through_a_checkpoint(engine: ScriptedEngine, grader: Grader) -> None:
    sampler = direct_sampler(settings(), engine, scripted(), grader)
    draw(sampler, engine, [EASY, HARD])
    again = direct_sampler(settings(), engine, scripted(), grader)
    again.restore(sampler.state())
    assert again.tally == sampler.tally
    assert again.state() == sampler.state()
    assert again.tally is not sampler.tally
    assert replace(again.tally) == again.tally
