"""What a stage's result depends on, as a fingerprint (``docs/identity.md`` has the table)."""

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from butwait.engines.load import ENGINES
from butwait.recipe.recipe import Recipe
from butwait.running.identity import identity, is_deterministic
from butwait.running.stages import Stage
from butwait.stages.problem_sets import LoadedSet

RECORDED = ("butwait", "torch", "transformers", "trl", "vllm", "numpy", "math-verify")
TOLD = ("torch", "transformers", "trl", "vllm")
"""Packages of which another major or minor version is worth a line."""


def stage_header(
    recipe: Recipe,
    name: str,
    problems: dict[str, LoadedSet],
    done: dict[str, Stage],
    versions: dict[str, str],
) -> dict[str, Any]:
    """The head of a stage's stage.json.

    The fingerprint covers what counts of the stage's settings and of the recipe's model, engine,
    prompt and seed, the content of its problem sets, and its inputs in the recipe's order, by their
    fingerprints and what came out: an input that was removed and made again may be another one.
    Where anything is deterministic, torch's threads count too.
    """
    settings = recipe.stages[name]
    sources = list(recipe.sources(name))
    if recipe.kind(name).takes_all:  # a report shows them in the recipe's order
        sources = [source for source in recipe.order() if source in sources]
    inputs = {source: done[source].record["fingerprint"] for source in sources}
    outcomes = [
        [s, *(done[s].record[k] for k in ("fingerprint", "metrics", "cost"))] for s in inputs
    ]
    used = {s: problems[s].fingerprint for s in settings.problem_sets}
    model = recipe.model
    trained = recipe.kind(name).gives in ("model", "reward model")
    loaded = trained or recipe.inputs(name, "reward model") or ENGINES.of(recipe.engine).runs_model
    if not loaded:  # It has no device, and torch takes seconds to load.
        model = model.model_copy(update={"device": "cpu"})
    shared = [model, recipe.engine, recipe.prompt]
    depends: list[Any] = [name, settings, inputs, outcomes, used, shared, recipe.seed]
    if is_deterministic([settings, recipe.engine]):
        import torch

        depends.append({"threads": torch.get_num_threads()})
    if recipe.kind(name).takes_all:
        depends.append(recipe.name)  # its title
    common = recipe.model_dump(mode="json", include={"model", "engine", "prompt", "seed"})
    return {
        "name": name,
        "kind": settings.kind,
        "from": list(recipe.sources(name)),
        "fingerprint": identity(*depends),
        "settings": settings.model_dump(mode="json", by_alias=True) | {"recipe": common},
        "inputs": inputs,
        "problem_sets": {s: problems[s].describe() for s in used},
        "versions": versions,
        "seed": recipe.seed,
    }


def recorded_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, where they are installed, and of Python."""
    found = {}
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def other_versions(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The packages ``TOLD`` whose major or minor version was another one: "torch 2.6 (now 2.7)"."""
    pairs = {n: (_minor(then[n]), _minor(now[n])) for n in TOLD if n in then and n in now}
    return [f"{name} {old} (now {new})" for name, (old, new) in pairs.items() if old != new]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
