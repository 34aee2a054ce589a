"""Counter-based randomness: every draw is a pure function of what it is for.

A key is 128 bits hashed from the run seed, the stage, the problem and a purpose; the counter
holds (iteration, step, particle) and the draw's index. The same draw is the same number in any
order of execution, at any concurrency, after any resume. The generator is Philox-4x64 (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _NoSeed(ISeedSequence):
    """A seed sequence that asks the system for no entropy: the state is set right after. Without
    it ``Philox(key=..., counter=...)`` reads random bytes that it does not use, which takes most
    of its time."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.zeros(n_words, dtype)


_NO_SEED = _NoSeed()
WORDS = 4
"""Draws that the generator makes at a time."""


@dataclass(frozen=True, slots=True)
class Key:
    """An address in the space of random numbers.

    Attributes:
        words: the 128-bit Philox key as two unsigned 64-bit integers.
        iteration: which sweep (particle Gibbs), chain or sample set.
        step: which step of the search.
        particle: which particle (slot) of the population.
    """

    words: tuple[int, int]
    iteration: int = 0
    step: int = 0
    particle: int = 0

    @classmethod
    def of(cls, seed: int, *parts: str | int) -> "Key":
        """The key of a purpose: ``Key.of(run_seed, "search", problem.id)``."""
        return cls(_hash128(str(seed), *map(str, parts)))

    def derive(self, *parts: str | int) -> "Key":
        """An independent key for a sub-purpose at this address (its own counter starts at 0)."""
        at = (*self.words, self.iteration, self.step, self.particle)
        return Key(_hash128(*map(str, at), *map(str, parts)))

    def at(
        self, *, iteration: int | None = None, step: int | None = None, particle: int | None = None
    ) -> "Key":
        """This key with some counters replaced."""
        return Key(
            self.words,
            self.iteration if iteration is None else iteration,
            self.step if step is None else step,
            self.particle if particle is None else particle,
        )

    def generator(self) -> np.random.Generator:
        """A fresh generator at this address; two calls give the same numbers."""
        return KeyStream().at(self)

    def uniforms(self, n: int) -> np.ndarray:
        """The first ``n`` uniforms in [0, 1) at this address, float64, shape (n,)."""
        return self.generator().random(n)

    def seed32(self) -> int:
        """A 32-bit seed for software that takes only a seed (vLLM, torch)."""
        return int(self.generator().integers(0, 2**32, dtype=np.uint64))


class KeyStream:
    """One generator that is moved from address to address: for many short draws, as making a
    generator takes longer than drawing from it."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(_NO_SEED)  # type: ignore[arg-type]
        self._generator = np.random.Generator(self._philox)
        self._counter = np.zeros(4, np.uint64)
        self._key = np.zeros(2, np.uint64)
        self._state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": self._key},
            "buffer": np.zeros(WORDS, np.uint64),
            "buffer_pos": WORDS,
            "has_uint32": 0,
            "uinteger": 0,
        }

    def at(self, key: Key, block: int = 0) -> np.random.Generator:
        """The generator at a key's address, ``block * WORDS`` draws on; it is valid until the
        next call."""
        self._counter[:] = (block, key.particle, key.step, key.iteration)
        self._key[:] = key.words
        self._philox.state = self._state
        return self._generator

    def uniforms(self, key: Key, n: int, start: int = 0) -> np.ndarray:
        """``key.uniforms(start + n)[start:]``, where ``start`` is a multiple of WORDS."""
        return self.at(key, start // WORDS).random(n)


def _hash128(*parts: str) -> tuple[int, int]:
    # Length prefixes keep ("ab", "c") and ("a", "bc") apart.
    joined = b"".join(len(p.encode()).to_bytes(4, "little") + p.encode() for p in parts)
    digest = hashlib.blake2b(joined, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
