"""Every filter and chain against a target that is listed as a whole, by hundreds of thousands of
weighted draws: total variation at most 0.01, evidence within three standard errors.

Filters are pooled over runs, each weighted by its evidence estimate. Chains are plain averages;
they start from their target, so what deviates is what a sweep does to it. Numbers are printed
with ``-s`` and stand in ``docs/results/simulations.md``.

Populations of 2, 3 and 4 take half a minute each, so there every way to run a sampler is tried at
one of the three sizes, which take turns; ``BUTWAIT_WHOLE=1`` tries each at all three.
"""

from itertools import product

import numpy as np
import pytest
from search_toys import RULE
from table_frontier import chain_average, filtered

from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.particle_gibbs import ParticleGibbsSettings
from butwait.search.samplers.tempering import TemperingSettings
from butwait.search.settings import LinearAlpha
from whole import WHOLE

DRAWS = 400_000
SCHEMES = ["systematic", "multinomial", "stratified", "residual"]
ALPHAS = {
    "constant": 1.0,
    "list": (0.25, 0.5, 0.75),
    "linear": LinearAlpha(start=0.2, end=1.5, steps=6),
}
OFF, ADAPTIVE, ON = 0.0, 0.8, 1.01

SIZES = (2, 3, 4)

# Without resampling all schemes are the same. In small populations every scheme meets every way to
# trigger it, and the exponents take turns.
LARGE = [
    (4096, scheme, threshold, alpha)
    for scheme, threshold, alpha in product(SCHEMES, (OFF, ADAPTIVE, ON), ALPHAS)
    if threshold != OFF or scheme == SCHEMES[0]
]
SMALL = [
    (n, scheme, threshold, list(ALPHAS)[(n + turn) % len(ALPHAS)])
    for turn, (threshold, scheme) in enumerate(
        [(OFF, SCHEMES[0]), *product((ADAPTIVE, ON), SCHEMES)]
    )
    for n in (SIZES if WHOLE else [SIZES[(turn + turn // 3) % 3]])
]
SWEEPS = list(product(["multinomial", "systematic"], [False, True]))
CHAINS = [
    (n, *sweep)
    for turn, sweep in enumerate(SWEEPS)
    for n in (*(SIZES if WHOLE else [SIZES[turn % 3]]), 4096)
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("particles", "scheme", "threshold", "alpha"), [*SMALL, *LARGE])
def test_filters(particles: int, scheme: str, threshold: float, alpha: str) -> None:
    chosen = ParticleFilterSettings(
        step=RULE,
        particles=particles,
        resampling=scheme,
        ess_threshold=threshold,
        alpha=ALPHAS[alpha],
    )
    runs = -(-DRAWS // particles)
    result = filtered(chosen, runs, seed=particles)
    distance = result.total_variation()
    values = np.arange(1.0, 1.0 + len(result.exact)) % 4
    evidence, weighted = result.deviation(np.ones(len(values))), result.deviation(values)
    said = f"N {particles}, {runs} runs: TV {distance:.4f}, evidence {evidence[0]:+.4f}"
    said += f" ({evidence[1]:+.1f} SE), with f {weighted[0]:+.4f} ({weighted[1]:+.1f} SE)"
    print(said)
    assert distance <= 0.01, said
    assert abs(evidence[1]) < 3, said
    assert abs(weighted[1]) < 3, said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("particles", "scheme", "ancestors"), CHAINS)
def test_particle_gibbs(particles: int, scheme: str, ancestors: bool) -> None:
    chosen = ParticleGibbsSettings(
        step=RULE,
        particles=particles,
        resampling=scheme,
        ess_threshold=ON if particles > 2 else ADAPTIVE,
        ancestor_sampling=ancestors,
        iterations=10,
    )
    _assert_close(chosen, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("particles", [*(SIZES if WHOLE else SIZES[2:]), 4096])
def test_tempering(particles: int) -> None:
    _assert_close(
        TemperingSettings(
            step=RULE, particles=particles, alphas=(0.3, 1.0), ess_threshold=ADAPTIVE, iterations=10
        ),
        1,
    )


def _assert_close(chosen: ParticleGibbsSettings | TemperingSettings, seed: int) -> None:
    chains = -(-DRAWS // (chosen.particles * chosen.iterations))
    distance, _ = chain_average(chosen, chains, seed)
    said = f"N {chosen.particles}, {chains} chains of {chosen.iterations}: TV {distance:.4f}"
    print(said)
    assert distance <= 0.01, said
