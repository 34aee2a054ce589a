"""What `make gpu`'s part that learns stores: stages as they end, and vLLM after them."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from butwait.engines.kinds import vllm as vllm_kind
from butwait.engines.kinds.transformers import TRANSFORMERS, TransformersSettings
from butwait.records import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = Path(vllm_kind.__file__).parents[2] / "models" / "tiny"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_training

    return gpu_training


def figures_of(training: Any, folder: Path) -> Any:
    return training.Figures(folder / "figures.json")


def stored(folder: Path) -> dict[str, Any]:
    file = folder / "figures.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def test_a_stage_is_stored_when_it_ends(training: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, status in (("sft", "complete"), ("direct", "running")):
        (run / name).mkdir(parents=True)
        (run / name / "stage.json").write_text(json.dumps({"status": status, "seconds": 2.0}))
    with training.stages_told(figures_of(training, tmp_path), run):
        end = time.monotonic() + 20
        while "sft" not in stored(tmp_path) and time.monotonic() < end:
            time.sleep(0.05)
        assert stored(tmp_path)["sft"]["seconds"] == 2.0
        assert "direct" not in stored(tmp_path)
    assert stored(tmp_path)["direct"]["status"] == "running"


def test_without_vllm_the_reason_is_stored(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    training.vllm_afterwards(figures_of(training, tmp_path), TINY, small=True)
    assert "vLLM is not installed" in stored(tmp_path)["vllm_afterwards"]["skipped"]


def test_the_trained_model_is_sampled_with_vllm(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    names = []

    def start(model: Any, tokenizer: Any, settings: Any, prompt: Any) -> Any:
        names.append(model.name)
        here = TransformersSettings(slots=settings.max_rows, capacity=settings.capacity)
        return TRANSFORMERS.start(model, tokenizer, here, prompt)

    monkeypatch.setattr(vllm_kind, "start_vllm", start)
    training.vllm_afterwards(figures_of(training, tmp_path), TINY, small=True)
    told = stored(tmp_path)["vllm_afterwards"]
    assert names == [str(TINY)]
    assert told["worked"] is True
    assert told["questions"] == 4
    assert 4 <= told["tokens"] <= 4 * 48


def test_a_vllm_that_does_not_start_fails_the_part(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))

    def start(*_: Any) -> Any:
        raise UserError("vLLM could not be started: no memory")

    monkeypatch.setattr(vllm_kind, "start_vllm", start)
    with pytest.raises(UserError, match="no memory"):
        training.vllm_afterwards(figures_of(training, tmp_path), TINY, small=True)
    assert stored(tmp_path)["vllm_afterwards"] == {"failed": "vLLM could not be started: no memory"}
