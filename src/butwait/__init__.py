"""Teach a small language model to reason from its own search.

::

    import butwait

    found = butwait.solve("Calculate 7 + 8 - 6.", model="tiny", particles=8)
    print(found.answer, found.weight, found.usage)

Importing this imports nothing else: every name is looked up when it is used first. ``docs/api.md``
has a page on them; ``docs/`` explains each part.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from butwait.api.answers import Solved, Usage
    from butwait.api.comparing import Comparison, compare
    from butwait.api.evaluating import aevaluate, evaluate
    from butwait.api.finished import (
        DataSet,
        Evaluation,
        Finished,
        Searched,
        TrainedModel,
        TrainedRewardModel,
    )
    from butwait.api.runs import run
    from butwait.api.searching import asearch, asolve, search, solve
    from butwait.api.stored import Trees, grade, load_trees
    from butwait.api.training import build, train_grpo, train_prm, train_sft
    from butwait.records import Grade, Problem, SearchTree, UserError
    from butwait.reward_models.reward_model import Score

_PLACES = {
    "Comparison": "api.comparing",
    "DataSet": "api.finished",
    "Evaluation": "api.finished",
    "Finished": "api.finished",
    "Grade": "records",
    "Problem": "records",
    "Score": "reward_models.reward_model",
    "SearchTree": "records",
    "Searched": "api.finished",
    "Solved": "api.answers",
    "TrainedModel": "api.finished",
    "TrainedRewardModel": "api.finished",
    "Trees": "api.stored",
    "Usage": "api.answers",
    "UserError": "records",
    "aevaluate": "api.evaluating",
    "asearch": "api.searching",
    "asolve": "api.searching",
    "build": "api.training",
    "compare": "api.comparing",
    "evaluate": "api.evaluating",
    "grade": "api.stored",
    "load_trees": "api.stored",
    "run": "api.runs",
    "search": "api.searching",
    "solve": "api.searching",
    "train_grpo": "api.training",
    "train_prm": "api.training",
    "train_sft": "api.training",
}

__all__ = [
    "Comparison",
    "DataSet",
    "Evaluation",
    "Finished",
    "Grade",
    "Problem",
    "Score",
    "SearchTree",
    "Searched",
    "Solved",
    "TrainedModel",
    "TrainedRewardModel",
    "Trees",
    "Usage",
    "UserError",
    "__version__",
    "aevaluate",
    "asearch",
    "asolve",
    "build",
    "compare",
    "evaluate",
    "grade",
    "load_trees",
    "run",
    "search",
    "solve",
    "train_grpo",
    "train_prm",
    "train_sft",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("butwait")
    if name not in _PLACES:
        raise AttributeError(f"module 'butwait' has no attribute {name!r}")
    return getattr(import_module(f"butwait.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
