"""A stage of a recipe: what all of them are made of, and the record of a kind of stage.

The kinds themselves are the modules of ``butwait.stages``; a recipe is parsed with them handed in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from butwait.records import Problem
from butwait.records.settings import Resource, Result, Settings, Unfit
from butwait.report.kinds import Section

Metrics = dict[str, Any]
Outcome = tuple[Metrics, dict[str, Any]]
"""(metrics, cost) for stage.json. Metrics are rates and counts; cost is in tokens and FLOPs."""


class StageSettings(Settings):
    """What every stage has."""

    kind: str
    """What it does."""
    from_: Result[Annotated[tuple[str, ...], Field(alias="from")]] = ()
    """Names of the stages it takes from: a model (sft), a reward model (prm), trees (search),
    data (verified and its like), or evaluations (report). Without a model stage it uses the
    recipe's model."""
    seeds: Resource[Annotated[int, Field(gt=0, le=1000, strict=True)]] = 1
    """So many times, each with a seed of its own: NAME stands for the stages NAME-1, NAME-2, ...,
    and so does every stage that takes from it. The report pools the evaluations and ranks them."""
    arm: Result[str | None] = None
    """What stages that differ in their seed alone have in common; ``seeds`` fills it in."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        """Names of the problem sets the stage reads."""
        return ()

    @property
    def selection_sets(self) -> tuple[str, ...]:
        """Those of them that only choose a checkpoint."""
        return ()


class OneSetStage(StageSettings):
    """A stage that reads one problem set, and perhaps another that chooses a checkpoint."""

    problems: Result[str]
    """The problem set."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return (self.problems, *self.selection_sets)


def _nothing(recipe: Any, name: str) -> Iterable[Unfit]:
    return ()


def _no_lacks(settings: Any, problems: Any) -> Iterable[Unfit]:
    return ()


def _asks(settings: Any) -> bool:
    return True


def _nothing_first(run: Any) -> None:
    pass


def _no_lines(metrics: Metrics) -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """A kind of stage: all that there is to know of it.

    Attributes:
        settings: a ``StageSettings``. Its ``kind`` is a ``Literal``, or ``str`` outside butwait.
        gives: what those that take from it get: a model, a reward model, trees, data, an
            evaluation, a profile or a report.
        takes: what it may take.
        needs: what of it it cannot do without.
        sets: what its problem sets are used for. Those of ``test`` are held out; those of
            ``training`` lose the questions that are; ``none`` only looks.
        gathers: it looks at all seeds of an arm together, and has none itself.
        takes_all: it may take anything but what it gives; without a ``from`` it takes from every
            stage that does not do so.
        check: of a ``Recipe`` and a stage's name: gives all that does not fit between that stage
            and the others; or raises ValueError for one thing.
        lacks: of its settings and the problem sets that are known, by name: gives what the stage
            would else find out after hours of work: the keys below it, and a sentence.
        run: does the stage (a ``stages.context.StageRun``). It may be called again after a kill:
            what it finds on disk it does not repeat.
        before_launch: what the run itself does first where its ``launch`` starts processes for the
            rest.
        headline: a finished stage's result in a line or two, for a terminal.
        label: in a sentence, of a model: how its training is called ("SFT"); of data: what they are
            ("its own verified search").
        supervision: where its signal comes from: the model's own rollouts and the gold answers
            (``self``), or solutions that others wrote.
        section: its part of a report's page; None: its plain figures alone.
        asks: of its settings, whether the stage asks the recipe's engine, which must then be there
            when the run begins.
    """

    settings: type[StageSettings]
    gives: str
    run: Callable[[Any], Outcome]
    takes: frozenset[str] = frozenset()
    needs: str | None = None
    sets: Literal["test", "training", "none"] = "none"
    gathers: bool = False
    takes_all: bool = False
    check: Callable[[Any, str], Iterable[Unfit] | None] = _nothing
    lacks: Callable[[Any, Mapping[str, Sequence[Problem]]], Iterable[Unfit]] = _no_lacks
    before_launch: Callable[[Any], Any] = _nothing_first
    headline: Callable[[Metrics], Iterable[str]] = _no_lines
    label: str = ""
    supervision: Literal["self", "external traces"] = "self"
    section: Section | None = None
    asks: Callable[[Any], bool] = _asks
