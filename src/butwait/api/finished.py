"""Finished stages of a run as a program holds them: what ``butwait.evaluate`` and its like give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from butwait.api.stored import Trees
from butwait.evaluation.storage import read_attempts
from butwait.recipe.stages import StageKind
from butwait.records import Attempt, Example, SearchTree, UserError
from butwait.running.expected import meant
from butwait.running.stages import read_stage
from butwait.stages.kinds import STAGES


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished stage. It is found again by the same call, in the same run.

    Attributes:
        run: the run's folder.
        name: the stage's name in it.
        record: what its ``stage.json`` holds.
        content: the recipe that it is the last stage of.
    """

    run: Path
    name: str
    record: Mapping[str, Any] = field(repr=False)
    content: Mapping[str, Any] = field(repr=False)

    @property
    def metrics(self) -> dict[str, Any]:
        """Its rates and counts."""
        return dict(self.record["metrics"])

    @property
    def cost(self) -> dict[str, Any]:
        """In tokens and FLOPs."""
        return dict(self.record["cost"])

    @property
    def recipe(self) -> str:
        """The recipe as YAML: ``butwait run`` of it, in a fresh folder, gives the same numbers."""
        return yaml.safe_dump(dict(self.content), sort_keys=False, allow_unicode=True)

    @property
    def path(self) -> Path:
        """Its folder. Raises UserError where another stage has taken its place since."""
        folder = self.run / self.name
        stage = read_stage(folder)
        if stage is None:
            raise UserError(f"the stage {self.name!r} of {self.run} is gone; ask for it again")
        if stage.record["fingerprint"] != self.record["fingerprint"]:
            raise UserError(
                f"the stage {self.name!r} of {self.run} was computed anew with other settings or "
                "data since; ask for this one again, with a name of its own"
            )
        return folder

    def __str__(self) -> str:
        kind: StageKind = STAGES[self.record["kind"]]
        told = "; ".join(kind.headline(self.metrics))
        return f"{self.run / self.name}: {told}"


class Evaluation(Finished):
    """Attempts at problem sets by methods; a row is ``SET/METHOD``."""

    @property
    def rows(self) -> list[str]:
        """Their names."""
        return list(self.record["metrics"])

    def row(self, name: str | None = None) -> str:
        """The row of this name, or the only one. UserError where there is none, or several."""
        if name is None and len(self.rows) == 1:
            return self.rows[0]
        if name not in self.rows:
            told = f"there is no row {name!r}{meant(name, self.rows)}" if name else "name a row"
            raise UserError(f"{self.run / self.name}: {told} (there are: {', '.join(self.rows)})")
        return name

    def figures(self, row: str | None = None) -> dict[str, Any]:
        """All numbers of a row (docs/evaluation.md)."""
        return dict(self.record["metrics"][self.row(row)])

    @property
    def rate(self) -> float:
        """Mean share of correct attempts, pass@1, where there is one row."""
        return float(self.figures()["pass_at_1"])

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval over problems like these."""
        low, high = self.figures()["interval"]
        return float(low), float(high)

    def attempts(self, row: str | None = None, *, tokens: bool = False) -> list[Attempt]:
        """The attempts of a row: problems in order, then samples. ``tokens``: with the
        log-probabilities of their tokens (``by_token``), 6 bytes of memory a token."""
        return read_attempts(self.path / "attempts" / self.row(row), tokens=tokens)


class Searched(Finished):
    """Searches; a sequence of their trees, which are read from disk one at a time."""

    @property
    def trees(self) -> Trees:
        """By problem id, and as a table (``nodes``)."""
        return Trees(self.path)

    def __len__(self) -> int:
        return len(self.trees)

    def __iter__(self) -> Iterator[SearchTree]:
        return iter(self.trees)

    def __getitem__(self, which: int | str) -> SearchTree:
        trees = self.trees
        return trees[which if isinstance(which, str) else trees.problem_ids[which]]


class DataSet(Finished):
    """Training examples, in the order they are stored."""

    @cached_property
    def examples(self) -> list[Example]:
        """All of them."""
        from butwait.synthesis.dataset import load_examples

        return load_examples(self.path / "dataset")

    def __len__(self) -> int:
        return int(self.record["metrics"]["examples"])

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def to_arrow(self) -> pa.Table:
        """A row an example: ``problem_id``, ``prompt_ids``, ``completion_ids``, ``loss_mask``,
        ``spans``, ``prompt``, ``text``, ``tokenizer_fingerprint``, ``provenance`` (JSON)."""
        import datasets

        return datasets.load_from_disk(str(self.path / "dataset")).with_format("arrow")[:]


class TrainedModel(Finished):
    """A trained policy. ``transformers`` loads its ``folder``."""

    @property
    def folder(self) -> Path:
        """Weights and tokenizer."""
        return self.path / "model"

    def __fspath__(self) -> str:
        return str(self.folder)


class TrainedRewardModel(Finished):
    """A trained process reward model, for ``reward_model``."""

    @property
    def folder(self) -> Path:
        """Weights and tokenizer."""
        return self.path / "model"


HANDLES: Mapping[str, type[Finished]] = {
    "evaluation": Evaluation,
    "trees": Searched,
    "data": DataSet,
    "model": TrainedModel,
    "reward model": TrainedRewardModel,
}
"""What a stage gives -> its handle."""
