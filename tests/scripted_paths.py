"""All completions of a scripted engine, with their exact probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from butwait.engines.engine import Prefix
from butwait.engines.scripted import ScriptedEngine, _Script, _Step
from butwait.engines.settings import Sampling, StepRule
from butwait.records import OPEN, Finish, Problem


@dataclass(frozen=True, slots=True, eq=False)
class ScriptedPath:
    """One of all possible completions.

    Attributes:
        steps: the texts of its steps.
        token_ids: int32 (n,).
        finish: why it ends.
        probability: under the sampled policy.
    """

    steps: tuple[str, ...]
    token_ids: np.ndarray
    finish: Finish
    probability: float


def scripted_paths(
    engine: ScriptedEngine,
    problem: Problem,
    step_rule: StepRule,
    sampling: Sampling | None = None,
    max_steps: int | None = None,
) -> list[ScriptedPath]:
    """All completions of a problem under these limits, with exact probabilities.

    Args:
        max_steps: a path that is still open after so many steps is listed as it is.
    """
    script = engine._script(step_rule, sampling or Sampling())
    return list(_walk(script, engine.start(problem), (), 1.0, max_steps))


def _walk(
    script: _Script, prefix: Prefix, steps: tuple[str, ...], probability: float, left: int | None
) -> Iterator[ScriptedPath]:
    """All paths through ``prefix``, which has this probability."""
    for step, share in whole_steps(script.start(prefix)):
        assert step.finish is not None, "only whole steps are listed"
        longer = prefix.extended(step.token_ids, step.text)
        texts = (*steps, step.text)
        if step.finish in OPEN and left != 1:
            fewer = None if left is None else left - 1
            yield from _walk(script, longer, texts, probability * share, fewer)
        else:
            completion = longer.token_ids[longer.prompt_length :]
            yield ScriptedPath(texts, completion, step.finish, probability * share)


def whole_steps(step: _Step, probability: float = 1.0) -> Iterator[tuple[_Step, float]]:
    """Every way in which a step can go on to its end, with its probability."""
    if step.choices is None:
        yield step, probability
        return
    for choice, share in enumerate(step.choices.probabilities):
        yield from whole_steps(step.after(choice), probability * share)
