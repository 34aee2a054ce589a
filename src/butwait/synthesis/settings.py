"""What the builders of training data take. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from butwait.records.settings import Settings

Choice = Literal["random", "shortest", "median", "longest", "reward", "diverse"]
Format = Literal["plain", "think"]
PhraseKind = Literal["doubt", "return", "check"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class FixedNumber(Settings):
    """Always the same number."""

    kind: Literal["fixed"] = "fixed"
    value: Positive = 1


class UniformNumber(Settings):
    """Every whole number from ``low`` to ``high`` with the same probability."""

    kind: Literal["uniform"]
    low: Positive = 1
    high: Positive

    @model_validator(mode="after")
    def _in_order(self) -> "UniformNumber":
        if self.high < self.low:
            raise ValueError(f"high ({self.high}) must not be below low ({self.low})")
        return self


class GeometricNumber(Settings):
    """1, 2, 3, ...: each is less likely than the one before by the same factor."""

    kind: Literal["geometric"]
    mean: Annotated[float, Field(ge=1)] = 2.0


Number = Annotated[FixedNumber | UniformNumber | GeometricNumber, Field(discriminator="kind")]
"""How a whole number from 1 on is drawn."""


class SubsetSettings(Settings):
    """Which questions and examples stay. What is not set leaves out nothing."""

    solved_by: str | None = None
    """A search stage in ``from``: only questions with a verified path in its trees."""
    solve_rate: tuple[Share, Share] | None = None
    """Only questions whose share of correct paths among the graded ones of the searches in
    ``from`` lies between these two, both included."""
    same_questions_as: str | None = None
    """A data stage in ``from``: only questions that it has examples of (matched pairs)."""
    length: tuple[Share, Share] | None = None
    """Only examples whose length in tokens lies between these two quantiles of all examples'."""

    @model_validator(mode="after")
    def _in_order(self) -> "SubsetSettings":
        for name in ("solve_rate", "length"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the first bound must not be above the second")
        return self


class DataSettings(Settings):
    """What every builder has."""

    format: Format = "plain"
    """``plain``: the text as it is; ``think``: the reasoning in ``<think>...</think>`` and the
    final answer in a box behind it."""
    subset: SubsetSettings = SubsetSettings()
    """Which questions and examples stay."""
    limit: Positive | None = None
    """The most examples in all, spread over as many questions as possible; None takes all."""
    loss_tokens: Positive | None = None
    """Tokens with loss in all: examples are taken, spread over the questions, until the sum is as
    near as whole examples come. For comparisons at equal training tokens. None takes all."""


class SolutionsSettings(DataSettings):
    """What the builders have that start from verified solutions."""

    per_question: Positive = 4
    """The most examples of one question: easy questions, which have many solutions, must not
    crowd out hard ones."""
    choose: Choice = "random"
    """Which of a question's unique correct solutions are taken: at random, by length in tokens
    (``shortest``, ``median``, ``longest``), by the last ``reward``, or those that share the
    fewest phrases (``diverse``). The default is the one that favours no length: every other rule
    teaches something beside correctness."""


class VerifiedSettings(SolutionsSettings):
    """Correct solutions of a search, and nothing else."""


class MistakeSettings(SolutionsSettings):
    """What the builders have whose examples hold a mistake."""

    mask_mistakes: bool = True
    """No loss on the mistakes: the doubt and what follows are learned, the mistake is not."""
    train_phrases: bool = True
    """Loss on the inserted phrases. The policy did not draw them, but without loss on them it
    does not learn to doubt."""
    boxes: Literal["cut", "keep"] = "cut"
    r"""``cut`` ends a thought that is not the last before the sentence with its ``\boxed``. A box
    that is kept stops the trained model there, wherever paths end at a box. ``backtrack`` never
    takes a branch with a box."""


class InsertionSettings(MistakeSettings):
    """What the builders have that insert phrases themselves."""

    phrases: str | dict[PhraseKind, tuple[str, ...]] | None = None
    """A YAML file of phrases, or what would stand in it; None takes those that ship with
    butwait."""
    separator: str = "\n\n"
    """Stands around an inserted phrase; before it only where the text does not end in it."""

    @field_validator("phrases")
    @classmethod
    def _can_be_used(cls, phrases: Any) -> Any:
        # Now, and not after a search of hours.
        from butwait.synthesis.phrases import load_phrases

        if isinstance(phrases, str) and not Path(phrases).expanduser().is_file():
            raise ValueError(f"there is no file {phrases!r}")
        load_phrases(phrases)
        return phrases


class StitchSettings(InsertionSettings):
    """Wrong attempts, a doubt after each, then a correct solution of the same question."""

    attempts: Number = FixedNumber()
    """How many wrong attempts an example begins with (fewer where the search has fewer)."""
    phrase: PhraseKind = "doubt"
    """Which phrases follow an attempt."""


class ConfirmSettings(Settings):
    """Completions that decide whether a dead branch is wrong."""

    completions: Positive = 8
    """How many times a branch is completed by the policy that searched."""
    at_most: Share = 0.0
    """The share of completions that may verify; above it the branch is not used."""


class BacktrackSettings(InsertionSettings):
    """Detours into dead branches of the tree, a doubt, and the way back to a correct path."""

    detours: Number = FixedNumber()
    """How many an example has (fewer where its path has fewer dead branches)."""
    depth: Number = GeometricNumber(kind="geometric", mean=2.0)
    """Steps into a dead branch (fewer where it ends earlier)."""
    fork: Literal["uniform", "early", "late"] = "uniform"
    """Where on the path branches leave: ``early`` and ``late`` weigh the forks linearly."""
    repeat_step: bool = False
    """Write the step before the fork again after the doubt; else go on behind it."""
    phrase: PhraseKind = "return"
    """Which phrases stand between a branch and the way back."""
    confirm: ConfirmSettings | None = None
    """How branches are confirmed to be wrong; None: they are not, and are labelled so."""


class SecondThoughtsSettings(MistakeSettings):
    """Paths of a ``but_wait`` search whose last thought was verified."""

    first: Literal["any", "wrong"] = "any"
    """``wrong`` takes only paths whose first thought had a wrong answer."""


class ExternalSettings(DataSettings):
    """Solutions that others wrote."""

    verify: bool = True
    """Leave out solutions whose own final answer is not the gold answer."""
