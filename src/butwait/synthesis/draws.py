"""Whole numbers from the distributions of the settings."""

import numpy as np

from butwait.synthesis.settings import FixedNumber, GeometricNumber, Number, UniformNumber


def draw(number: Number, generator: np.random.Generator) -> int:
    """A whole number from 1 on."""
    match number:
        case FixedNumber(value=value):
            return value
        case UniformNumber(low=low, high=high):
            return int(generator.integers(low, high, endpoint=True))
        case GeometricNumber(mean=mean):
            return int(generator.geometric(1 / mean))
