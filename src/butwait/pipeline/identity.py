"""What a stage's result depends on, as a fingerprint."""

import platform
from importlib import metadata
from typing import Any

from butwait.recipe.recipe import Recipe
from butwait.running.stages import Stage, fingerprint
from butwait.stages.problem_sets import LoadedSet

RECORDED = ("butwait", "torch", "transformers", "trl", "numpy", "math-verify")

WHEREABOUTS = frozenset({"base_url", "api_key_env", "timeout_s", "retries"})
"""Keys that say where a server is and how patiently it is asked. They change no result, so a run
goes on when its server comes back at another address."""


def stage_header(
    recipe: Recipe,
    name: str,
    problems: dict[str, LoadedSet],
    done: dict[str, Stage],
    shared: dict[str, Any],
) -> dict[str, Any]:
    """The head of a stage's stage.json.

    The fingerprint covers the stage's resolved settings, the recipe's model, engine, prompt and
    seed, the content of its problem sets, the fingerprints of its inputs and, where the engine
    is deterministic, what its bits depend on. A model folder's or a problem file's path counts,
    and so does a problem's text; a server's address does not.
    """
    settings = recipe.stages[name].model_dump(mode="json", by_alias=True)
    inputs = {source: done[source].record["fingerprint"] for source in recipe.sources(name)}
    used = {s: problems[s].fingerprint for s in recipe.stages[name].problem_sets}
    common = recipe.model_dump(mode="json", include={"model", "engine", "prompt", "seed"})
    depends = [
        _what_counts(settings),
        inputs,
        used,
        _what_counts(common),
        shared["environment"],
        name,
    ]
    return {
        "name": name,
        "kind": settings["kind"],
        "from": list(recipe.sources(name)),
        "fingerprint": fingerprint(depends),
        "settings": settings | {"recipe": common},
        "inputs": inputs,
        "problem_sets": {s: problems[s].describe() for s in used},
        "versions": shared["versions"],
        "seed": recipe.seed,
    }


def _what_counts(settings: Any) -> Any:
    """Settings without ``WHEREABOUTS``, at any depth."""
    if isinstance(settings, dict):
        return {k: _what_counts(v) for k, v in settings.items() if k not in WHEREABOUTS}
    if isinstance(settings, list):
        return [_what_counts(item) for item in settings]
    return settings


def environment(recipe: Recipe) -> dict[str, Any]:
    """What a deterministic engine's bits depend on beside its settings: threads and torch."""
    if not getattr(recipe.engine, "deterministic", False):
        return {}
    import torch

    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, and of Python."""
    found = {name: metadata.version(name) for name in RECORDED}
    return found | {"python": platform.python_version()}
