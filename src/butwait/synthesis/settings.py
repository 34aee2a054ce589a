"""What the builders of training data take. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.records.settings import Settings

Choice = Literal["random", "shortest", "median", "longest", "reward"]


class VerifiedSettings(Settings):
    """Correct solutions of a search, and nothing else."""

    per_question: Annotated[int, Field(gt=0)] = 4
    """The most solutions of one question: easy questions, which have many, must not crowd out
    hard ones."""
    choose: Choice = "random"
    """Which of a question's unique correct solutions are taken: at random, by length in tokens
    (``shortest``, ``median``, ``longest``), or by the last ``reward``. The default is the one
    that favours no length: every other rule teaches a length beside correctness."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """The most examples in all, spread over as many questions as possible; None takes all."""
