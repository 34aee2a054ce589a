"""What all builders of training data take. Imports nothing heavy."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from butwait.records.settings import Content, Result, Settings, Unfit
from butwait.running.files import expanded
from butwait.running.plugins import PLUGIN, beside_recipe
from butwait.synthesis.phrases import PhraseKind, load_phrases

Choice = Literal["random", "shortest", "median", "longest", "reward", "diverse"]
Format = Literal["plain", "think"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class FixedNumber(Settings):
    """Always the same number."""

    kind: Literal["fixed"] = "fixed"
    value: Result[Positive] = 1

    def draw(self, generator: np.random.Generator) -> int:
        """A whole number from 1 on."""
        return self.value


class UniformNumber(Settings):
    """Every whole number from ``low`` to ``high`` with the same probability."""

    kind: Literal["uniform"]
    low: Result[Positive] = 1
    high: Result[Positive]

    @model_validator(mode="after")
    def _in_order(self) -> "UniformNumber":
        if self.high < self.low:
            raise ValueError(f"high ({self.high}) must not be below low ({self.low})")
        return self

    def draw(self, generator: np.random.Generator) -> int:
        """A whole number from 1 on."""
        return int(generator.integers(self.low, self.high, endpoint=True))


class GeometricNumber(Settings):
    """1, 2, 3, ...: each is less likely than the one before by the same factor."""

    kind: Literal["geometric"]
    mean: Result[Annotated[float, Field(ge=1)]] = 2.0

    def draw(self, generator: np.random.Generator) -> int:
        """A whole number from 1 on."""
        return int(generator.geometric(1 / self.mean))


Number = Annotated[FixedNumber | UniformNumber | GeometricNumber, Field(discriminator="kind")]
"""How a whole number from 1 on is drawn."""


class SubsetSettings(Settings):
    """Which questions and examples stay. What is not set leaves out nothing."""

    solved_by: Result[str | None] = None
    """A search stage in ``from``: only questions with a verified path in its trees."""
    solve_rate: Result[tuple[Share, Share] | None] = None
    """Only questions whose share of correct paths among the graded ones of the searches in
    ``from`` lies between these two, both included."""
    same_questions_as: Result[str | None] = None
    """A data stage in ``from``: only questions that it has examples of (matched pairs)."""
    length: Result[tuple[Share, Share] | None] = None
    """Only examples whose length in tokens lies between these two quantiles of all examples'."""

    @field_validator("solve_rate", "length")
    @classmethod
    def _in_order(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError("the first bound must not be above the second")
        return bounds

    def check(self, recipe: Any, name: str) -> Iterator[Unfit]:
        """The rules that need a stage which the stage ``name`` of a ``Recipe`` does not take
        from."""
        trees, data = recipe.inputs(name, "trees"), recipe.inputs(name, "data")
        for rule, wanted, there, what in (
            ("solved_by", self.solved_by, trees, "no search stage"),
            ("same_questions_as", self.same_questions_as, data, "no data stage"),
        ):
            if wanted is not None and wanted not in there:
                told = (
                    f"stage {name!r}: subset.{rule} names {wanted!r}, which is {what} in its `from`"
                )
                yield ("subset", rule), told
        if self.solve_rate is not None and not trees:
            told = f"stage {name!r}: subset.solve_rate needs a search stage in `from`"
            yield ("subset", "solve_rate"), told


class DataSettings(Settings):
    """What every builder has."""

    kind: str
    """The builder: the name of one that ships with butwait, or ``module:NAME``."""
    format: Result[Format] = "plain"
    """``plain``: the text as it is; ``think``: the reasoning in ``<think>...</think>`` and the
    final answer in a box after it."""
    subset: Result[SubsetSettings] = SubsetSettings()
    """Which questions and examples stay."""
    limit: Result[Positive | None] = None
    """The most examples in all, spread over as many questions as possible; None takes all."""
    loss_tokens: Result[Positive | None] = None
    """Tokens with loss in all: examples are taken, spread over the questions, until the sum is as
    near as whole examples come. For comparisons at equal training tokens. None takes all."""


class SolutionsSettings(DataSettings):
    """What the builders have that start from verified solutions."""

    later: ClassVar[frozenset[str]] = frozenset({"verifier"})

    per_question: Result[Positive] = 4
    """The most examples of one question: easy questions, which have many solutions, must not
    crowd out hard ones."""
    choose: Result[Choice] = "random"
    """Which of a question's unique correct solutions are taken: at random, by length in tokens
    (``shortest``, ``median``, ``longest``), by the last ``reward``, or those that share the
    fewest phrases (``diverse``). The default is the one that favours no length: every other rule
    teaches something beside correctness."""
    balance: Result[bool] = False
    """Of several searches in ``from`` (the rounds of a loop), a question's solutions are taken from
    each in turn, the first one of the list first; else from all together, where the search that
    solved it more often gives more."""
    verifier: Content[str | None] = None
    """Judges the correct paths once more, each as a whole, earlier thoughts included:
    ``module:function``, as a problem set's ``verifier``. What it gives less than 1, such as a right
    answer by wrong steps, is no solution here, and no mistake either. ``subset`` goes by the
    verdicts of the search."""

    @field_validator("verifier")
    @classmethod
    def _names_a_function(cls, name: str | None) -> str | None:
        if name is not None and not PLUGIN.fullmatch(name):
            raise ValueError(f"{name!r} is not of the form module:function")
        return name

    def look(self, world: Any) -> None:
        """Says what this machine lacks for it."""
        if self.verifier is not None:
            world.plugin(self.verifier, "verifier")


class MistakeSettings(SolutionsSettings):
    """What the builders have whose examples hold a mistake."""

    mask_mistakes: Result[bool] = True
    """No loss on the mistakes: the doubt and what follows are learned, the mistake is not."""
    train_phrases: Result[bool] = True
    """Loss on the inserted phrases. The policy did not draw them, but without loss on them it
    does not learn to doubt."""
    boxes: Result[Literal["cut", "keep"]] = "cut"
    r"""``cut`` ends a thought that is not the last before the sentence with its ``\boxed``. A box
    that is kept stops the trained model there, wherever paths end at a box. ``backtrack`` never
    takes a branch with a box."""


class InsertionSettings(MistakeSettings):
    """What the builders have that insert phrases themselves."""

    phrases: Content[str | dict[PhraseKind, tuple[str, ...]] | None] = None
    """A YAML file of phrases, or what would stand in it; None takes those that ship with
    butwait."""
    separator: Result[str] = "\n\n"
    """Stands around an inserted phrase; before it only where the text does not end in it."""

    @field_validator("phrases")
    @classmethod
    def _can_be_used(cls, phrases: Any) -> Any:
        # Now, and not after a search of hours.
        if isinstance(phrases, str) and not expanded(phrases).is_file():
            raise ValueError(f"there is no file {phrases!r}{beside_recipe(phrases)}")
        load_phrases(phrases)
        return phrases
