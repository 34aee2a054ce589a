"""How many tokens each stage of a recipe draws, reads, scores and trains on, and what it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from butwait.engines.settings import StepRule
from butwait.planning.known import SetFacts, set_facts
from butwait.problems.settings import PromptSettings
from butwait.search.settings import SAMPLERS, CommonSettings

PATH_SHARE = 0.5
"""Of a path's limit, that an average path takes."""
SOLVED = 0.5
"""Of the questions of a search, that give examples."""
SEARCHED = 0.5
"""Of the questions of a GRPO-Direct step, that are searched."""
SHARED = 0.5
"""Of what the paths of one search hold, that they have in common, where paths go on from others."""
EXTERNAL = 2048
"""Tokens of a solution that others wrote, of a set whose solutions nobody measured."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Paths that are drawn side by side.

    Attributes:
        paths: in flight, before the engine's rows bound them.
        prompts: problems in flight, whose prompts are held once each.
        prompt, path: tokens on average, of whole ones.
        longest: tokens of the longest prompt and path together.
        shared: of the paths' tokens, the share that is held once for several.
        judged: whether a reward model holds them too.
    """

    paths: int
    prompts: int
    prompt: float
    path: float
    longest: int
    shared: float = 0.0
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage does.

    Attributes:
        drawn: tokens that the policy draws.
        read: tokens that it reads without drawing them.
        scored: tokens that the reward model reads.
        trained: tokens that are run forwards and backwards.
        referred: tokens that a reference model reads for the training.
        drawing: the largest set of paths side by side; None: none are drawn.
        example: tokens of an average example that is trained on.
        longest_example: of the longest.
        steps: of the optimizer.
        examples: that a data stage gives.
        trees: tokens that are kept in trees.
        attempts: tokens that are kept as attempts.
        problems: of a search or evaluation; the unit of a pilot.
        assumed: sentences.
    """

    drawn: float = 0.0
    read: float = 0.0
    scored: float = 0.0
    trained: float = 0.0
    referred: float = 0.0
    drawing: Drawing | None = None
    example: float = 0.0
    longest_example: int = 0
    steps: float = 0.0
    examples: float = 0.0
    trees: float = 0.0
    attempts: float = 0.0
    problems: int = 0
    assumed: tuple[str, ...] = ()


@dataclass
class Counting:
    """Works through a recipe's stages in order.

    Args:
        recipe: a ``Recipe``.
        context: positions of the policy; None: not known.
        path_shares: by the stage: of a path's limit, what its paths were measured to take.
    """

    recipe: Any
    context: int | None = None
    path_shares: Mapping[str, float] = field(default_factory=dict)
    done: dict[str, Work] = field(default_factory=dict)

    def sets(self, names: Any) -> list[SetFacts]:
        return [
            set_facts(name, self.recipe.problems[name])
            for name in names
            if name in self.recipe.problems
        ]

    @property
    def prompt_around(self) -> int:
        """Tokens that stand around a question: three characters each, and a chat's marks."""
        return self.around(self.recipe.prompt)

    def around(self, prompt: PromptSettings) -> int:
        """As ``prompt_around``, of another prompt of the recipe."""
        written = len(prompt.system or "") + len(prompt.template.replace("{question}", ""))
        return written // 3 + (
            16 if prompt.style == "chat" and self.recipe.model.name != "tiny" else 2
        )

    def limit(self, rule: StepRule, longest_question: int, sampler: Any = None) -> int:
        """Tokens that a path may take."""
        most = rule.max_tokens
        steps = getattr(sampler, "max_steps", None)
        if steps is not None and rule.max_step_tokens is not None:
            most = min(most, steps * rule.max_step_tokens)
        if self.context is not None:
            most = max(1, min(most, self.context - longest_question - self.prompt_around))
        return most

    def share(self, name: str) -> float:
        """Of a path's limit, that a stage's average path takes."""
        if name in self.path_shares:
            return self.path_shares[name]
        measured = self.path_shares.values()
        return sum(measured) / len(measured) if measured else PATH_SHARE


def paths_of(sampler: CommonSettings, k: int | None = None) -> int:
    """Paths that are extended side by side for one problem.

    Args:
        sampler: its settings.
        k: attempts of an evaluation, which are plain samples, or whole searches; None: one search.
    """
    kind = SAMPLERS.of(sampler)
    if k is not None and kind.as_attempts is not None:
        return k
    paths = kind.paths(sampler)
    return (k or 1) * int(paths if paths is not None else getattr(sampler, "samples", 1))


def sweeps_of(sampler: CommonSettings) -> int:
    """How often a chain draws its population anew."""
    return int(getattr(sampler, "iterations", 1))


def joined(works: list[Work]) -> Work:
    """Several that are done one after another: sums, and the largest drawing."""
    whole = works[0]
    for work in works[1:]:
        sums = {
            each: getattr(whole, each) + getattr(work, each)
            for each in ("drawn", "read", "scored", "trees", "attempts")
        }
        pair = [d for d in (whole.drawing, work.drawing) if d is not None]
        largest = max(pair, key=lambda d: (d.judged, d.paths * d.longest), default=None)
        assumed = tuple(dict.fromkeys((*whole.assumed, *work.assumed)))
        whole = replace(whole, **sums, drawing=largest, assumed=assumed)
    return whole


def side_by_side(paths: int, rows: int | None) -> int:
    """Paths side by side, as far as an engine's rows allow."""
    return paths if rows is None else min(paths, rows)
