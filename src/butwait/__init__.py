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
    from butwait.api.runs import run
    from butwait.api.searching import Solved, Usage, asearch, asolve, search, solve
    from butwait.api.stored import Trees, grade, load_trees
    from butwait.records import Grade, Problem, SearchTree, UserError
    from butwait.reward_models.reward_model import Score

_PLACES = {
    "Grade": "records",
    "Problem": "records",
    "Score": "reward_models.reward_model",
    "SearchTree": "records",
    "Solved": "api.searching",
    "Trees": "api.stored",
    "Usage": "api.searching",
    "UserError": "records",
    "asearch": "api.searching",
    "asolve": "api.searching",
    "grade": "api.stored",
    "load_trees": "api.stored",
    "run": "api.runs",
    "search": "api.searching",
    "solve": "api.searching",
}

__all__ = [
    "Grade",
    "Problem",
    "Score",
    "SearchTree",
    "Solved",
    "Trees",
    "Usage",
    "UserError",
    "__version__",
    "asearch",
    "asolve",
    "grade",
    "load_trees",
    "run",
    "search",
    "solve",
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
