"""The engine of the questions that are written down, and a grader."""

from collections.abc import Iterator

import pytest
from grpo_searching import PIECES, policy

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(policy, PIECES)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader
