"""Counter-based randomness: every draw is a pure function of what it is for.

A key is 128 bits hashed from the run seed, the stage, the problem and a purpose; the counter
holds (iteration, step, particle) and the draw's index. The same draw is the same number in any
order of execution, at any concurrency, after any resume. The generator is Philox-4x64 (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np


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
        return replace(
            self,
            iteration=self.iteration if iteration is None else iteration,
            step=self.step if step is None else step,
            particle=self.particle if particle is None else particle,
        )

    def generator(self) -> np.random.Generator:
        """A fresh generator at this address; two calls give the same numbers."""
        key = np.array(self.words, dtype=np.uint64)
        counter = np.array([0, self.particle, self.step, self.iteration], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def uniforms(self, n: int) -> np.ndarray:
        """The first ``n`` uniforms in [0, 1) at this address, float64, shape (n,)."""
        return self.generator().random(n)

    def seed32(self) -> int:
        """A 32-bit seed for software that takes only a seed (vLLM, torch)."""
        return int(self.generator().integers(0, 2**32, dtype=np.uint64))


def _hash128(*parts: str) -> tuple[int, int]:
    # Length prefixes keep ("ab", "c") and ("a", "bc") apart.
    joined = b"".join(len(p.encode()).to_bytes(4, "little") + p.encode() for p in parts)
    digest = hashlib.blake2b(joined, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
