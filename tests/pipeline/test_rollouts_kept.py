"""A reward model that is trained otherwise is trained on the rollouts that are there."""

from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import prepare

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.running.shards import SPOOLED
from butwait.stages.kinds import STAGES
from butwait.training.rollouts import Rolling

RECIPE = """
model: {name: tiny}
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 16, prefill_chunk: 8}
problems:
  train: {source: arithmetic, split: train, params: {size: 6}}
stages:
  prm:
    kind: prm
    problems: train
    heldout: 0.34
    max_steps: 2
    rollouts: {solutions: 4, steps: {delimiters: ["\\n"], max_tokens: 96}}
"""


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions whose rollouts are sampled, as they come."""
    found: list[str] = []
    roll = Rolling.__call__

    async def counted(self: Rolling, opened: Any, problem: Any) -> Any:
        found.append(problem.id)
        return await roll(self, opened, problem)

    monkeypatch.setattr(Rolling, "__call__", counted)
    return found


def run(folder: Path, *overrides: str) -> dict[str, bytes]:
    """The bytes of the rollouts of a run that went to its end."""
    recipe = load_recipe(str(prepare(folder, RECIPE)), STAGES, overrides)
    run_recipe(recipe, folder / "run")
    rollouts = folder / "run" / "prm" / "rollouts"
    assert not list(rollouts.glob(SPOOLED))
    return {path.name: path.read_bytes() for path in rollouts.glob("shard-*")}


@pytest.mark.slow
def test_only_what_changes_the_rollouts_samples_them_again(
    tmp_path: Path, sampled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path)
    assert len(sampled) == 6
    sampled.clear()

    assert run(tmp_path, "stages.prm.learning_rate=0.01") == first
    assert sampled == []
    assert "the rollouts are those of prm-" in capsys.readouterr().out

    for change in ("seed=1", "stages.prm.rollouts.solutions=3", "problems.train.params.size=5"):
        run(tmp_path, change)
        assert sampled, change
        sampled.clear()

    # The old settings' own stage comes back, whatever was made beside it.
    assert run(tmp_path) == first
    assert sampled == []
