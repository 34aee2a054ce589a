"""The filter on the policy's own likelihood against a list of all paths."""

from itertools import product

import numpy as np
import pytest
from pydantic import ValidationError
from search_toys import PROBLEM, RULE, TABLE, Pool, pool, search, toy_engine
from table_frontier import powered

from butwait.engines.settings import Sampling
from butwait.records import Key
from butwait.search.samplers.power import PowerSettings
from butwait.search.settings import LinearAlpha
from scripted_paths import scripted_paths

DRAWS = 400_000
ALPHAS = {"constant": 2.0, "flat": 0.5, "line": LinearAlpha(start=1, end=1.6, steps=3)}


def settings(**changes: object) -> PowerSettings:
    return PowerSettings(step=RULE, **changes)


def power_posterior(alpha: float, max_steps: int | None = None) -> tuple[dict[str, float], float]:
    """p^alpha of every path, normalised, and its sum."""
    paths = list(scripted_paths(toy_engine(), PROBLEM, RULE, max_steps=max_steps))
    weights = {"".join(path.steps): path.probability**alpha for path in paths}
    assert len(weights) == len(paths)
    total = sum(weights.values())
    return {text: weight / total for text, weight in weights.items()}, total


def assert_exact(result: Pool, evidence: float) -> None:
    """The evidence and every outcome of 3 % or more lie within five standard errors, as the runs
    show them. Averages of rarer outcomes are far from normal."""
    assert np.abs(result.z_scores()[result.exact >= 0.03]).max() < 5
    assert abs(result.evidence_z(evidence)) < 5


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("proposal", ["tempered", "policy"])
@pytest.mark.parametrize(("particles", "threshold"), [(2, 1.01), (4, 0.5), (3, 0.0)])
def test_small_populations_are_unbiased(
    particles: int, threshold: float, proposal: str, alpha: str
) -> None:
    chosen = settings(
        particles=particles, ess_threshold=threshold, proposal=proposal, alpha=ALPHAS[alpha]
    )
    exact, evidence = power_posterior(chosen.final_alpha)
    assert_exact(pool(chosen, 250, exact, seed=particles), evidence)


def test_a_limit_on_steps_truncates_paths_and_keeps_their_weight() -> None:
    exact, evidence = power_posterior(2.0, max_steps=2)
    chosen = settings(particles=4, max_steps=2, alpha=2)
    assert_exact(pool(chosen, 250, exact, seed=3), evidence)


def test_weights_are_the_tokens_normalisers() -> None:
    """Without resampling a leaf weighs the product of sum_v p(v)^alpha along its tokens."""
    tree = search(settings(particles=12, ess_threshold=0, alpha=2.0))
    decode = toy_engine().tokenizer.decode
    for leaf, log_weight in zip(tree.leaves, tree.populations[-1].log_weights, strict=True):
        before, expected = "", 0.0
        for token in tree.path_tokens(leaf).tolist():
            expected += np.log(sum(p**2 for p in TABLE[before].values()))
            before += decode([token])
        assert before == tree.path_text(leaf)
        assert log_weight == pytest.approx(expected, abs=1e-5)


def test_the_power_one_is_the_policy_and_costs_no_scoring() -> None:
    tree = search(settings(particles=5, alpha=1))
    assert tree.log_evidence == pytest.approx(0)
    assert tree.log_weights == pytest.approx(np.full(5, -np.log(5)))
    policy = search(settings(particles=5, alpha=3, proposal="policy"))
    tempered = search(settings(particles=5, alpha=3))
    assert policy.counts.prefilled_tokens == tree.counts.prefilled_tokens
    scored = tempered.counts.prefilled_tokens - tree.counts.prefilled_tokens
    assert scored == tempered.counts.policy_tokens


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"sampling": Sampling(temperature=0.5)}, "leave sampling out"),
        ({"sampling": Sampling(top_p=0.9)}, "leave sampling out"),
        ({"alpha": 0}, "alpha must be above 0"),
        ({"alpha": (1.0, 0.0)}, "alpha must be above 0"),
        ({"selection": "argmax"}, "weighted_vote"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**wrong)


def test_the_tree_is_a_function_of_the_key() -> None:
    one, other = (search(settings(particles=4), Key.of(1, "k")) for _ in range(2))
    assert one.log_weights.tolist() == other.log_weights.tolist()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proposal", ["tempered", "policy"])
@pytest.mark.parametrize(("particles", "alpha"), list(product((2, 4, 4096), ["constant", "line"])))
def test_four_hundred_thousand_draws(particles: int, alpha: str, proposal: str) -> None:
    chosen = settings(particles=particles, proposal=proposal, alpha=ALPHAS[alpha])
    result = powered(
        chosen, -(-DRAWS // particles), particles, *power_posterior(chosen.final_alpha)
    )
    distance, (share, errors) = (
        result.total_variation(),
        result.deviation(np.ones(len(result.exact))),
    )
    said = f"N {particles}, {proposal}: TV {distance:.4f}, evidence {share:+.4f} ({errors:+.1f} SE)"
    print(said)
    assert distance <= 0.01, said
    assert abs(errors) < 3.5, said
