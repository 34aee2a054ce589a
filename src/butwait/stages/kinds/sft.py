"""Supervised fine-tuning on the data of the stages it takes from: ``model/``, ``log.jsonl``."""

from collections.abc import Iterator
from typing import Literal

from butwait.recipe.stages import Metrics, Outcome, StageKind, StageSettings
from butwait.stages.context import StageRun
from butwait.training.settings import LaunchedSettings, SftSettings


class SftStage(StageSettings, LaunchedSettings, SftSettings):
    """Supervised fine-tuning on the data of the stages it takes from."""

    kind: Literal["sft"]


def sft(run: StageRun) -> Outcome:
    """Trains the stage's model on all its data."""
    settings = run.settings
    assert isinstance(settings, SftStage)
    from butwait.synthesis.dataset import load_examples
    from butwait.training.sft import train_sft

    examples = [e for data in run.inputs("data") for e in load_examples(data.path / "dataset")]
    seed = run.key.derive("train").seed32()
    metrics = train_sft(run.model, examples, settings, run.folder, seed, run.recipe.prompt)
    return metrics, {"trained_tokens": metrics["trained_tokens"]}


def _headline(metrics: Metrics) -> Iterator[str]:
    first, last = metrics["loss_first"], metrics["loss_last"]
    loss = "" if first is None else f", loss {first:.3f} to {last:.3f} nats a token"
    yield f"{metrics['steps']} steps on {metrics['examples']} examples{loss}"


SFT = StageKind(
    settings=SftStage,
    gives="model",
    takes=frozenset({"model", "data"}),
    needs="data",
    run=sft,
    headline=_headline,
    label="SFT",
    asks=lambda settings: False,
)
