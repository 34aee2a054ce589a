import numpy as np

from butwait.records import Key
from butwait.records.keys import KeyStream


def test_a_key_is_an_address_the_same_draws_at_any_time() -> None:
    key = Key.of(7, "search", "problem-3").at(step=4, particle=2)
    first = key.uniforms(3)
    np.testing.assert_array_equal(key.uniforms(3), first)
    np.testing.assert_array_equal(key.uniforms(10)[:3], first)


def test_golden_draws() -> None:
    """Pinned: if these change, no old run can be reproduced."""
    key = Key.of(0, "a")
    np.testing.assert_array_equal(
        key.uniforms(2), np.array([0.7063425871394117, 0.5778475717434627])
    )
    assert key.seed32() == 2301259636


def test_every_counter_and_purpose_has_its_own_numbers() -> None:
    base = Key.of(0, "x")
    keys = [
        base,
        base.at(iteration=1),
        base.at(step=1),
        base.at(particle=1),
        base.derive("y"),
        base.at(step=1).derive("y"),
        Key.of(1, "x"),
        Key.of(0, "x", ""),
        Key.of(0, "ab", "c"),
        Key.of(0, "a", "bc"),
    ]
    assert len({tuple(k.uniforms(4)) for k in keys}) == len(keys)


def test_draws_of_neighbouring_counters_do_not_overlap() -> None:
    base = Key.of(0, "x")
    draws = np.concatenate(
        [base.at(particle=p, step=s).uniforms(64) for p in range(8) for s in range(8)]
    )
    assert len(np.unique(draws)) == 64 * 64
    assert abs(draws.mean() - 0.5) < 4 / np.sqrt(12 * len(draws))


def test_the_stream_is_that_of_numpys_philox() -> None:
    key = Key((3, 5), iteration=1, step=2, particle=4)
    words, counter = np.array([3, 5], np.uint64), np.array([0, 4, 2, 1], np.uint64)
    reference = np.random.Generator(np.random.Philox(key=words, counter=counter))
    np.testing.assert_array_equal(key.uniforms(7), reference.random(7))


def test_a_stream_that_is_moved_draws_what_fresh_generators_draw() -> None:
    keys = [Key.of(0, "x"), Key.of(0, "y").at(iteration=1, step=2, particle=3)]
    stream = KeyStream()
    for key in [*keys, *keys]:
        whole = key.uniforms(72)
        np.testing.assert_array_equal(stream.uniforms(key, 8), whole[:8])
        np.testing.assert_array_equal(stream.uniforms(key, 64, start=8), whole[8:])
