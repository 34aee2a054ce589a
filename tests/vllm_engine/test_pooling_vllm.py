"""Qwen2.5-Math-PRM's architecture with tiny random weights: vLLM's pooling server against the
in-process model."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path as Folder

import numpy as np
import pytest
from test_qwen_prm import make_tokenizer, save_checkpoint
from vllm_servers import serving

from butwait.records import Problem
from butwait.reward_models.kinds.pooling import PoolingSettings
from butwait.reward_models.kinds.qwen_math_prm import QwenMathPrmSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path, RewardModelError, Step

PROBLEM = Problem("q", "What is 1 + 2?", "3")
TEXTS = ("First we add.\n\n", "1 + 2 = 3.\n\n", "\n\n", "So \\boxed{3}")
MARK = "<extra_0>"


def as_path(*texts: str) -> Path:
    return Path(tuple(Step(np.zeros(1, np.int32), text) for text in texts))


PATHS = [as_path(*TEXTS[:n]) for n in (1, 2, 3, 4)] + [as_path("No.\n\n"), as_path()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return save_checkpoint(tmp_path_factory.mktemp("qwen"), hidden_size=64)


@pytest.fixture(scope="module")
def server(checkpoint: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mark = make_tokenizer().convert_tokens_to_ids(MARK)
    pooler = json.dumps({"step_tag_id": mark})
    log = tmp_path_factory.mktemp("pooling") / "server.log"
    with serving(checkpoint, log, "--runner", "pooling", "--pooler-config", pooler) as url:
        yield url


@pytest.mark.parametrize("how", ["prod", "min", "last", "model"])
def test_scores_are_those_of_the_in_process_model(
    how: str, server: str, checkpoint: Folder
) -> None:
    settings = PoolingSettings(
        kind="pooling",
        base_url=server,
        name=str(checkpoint),
        served_model=checkpoint.name,
        aggregation=how,
    )
    local = QwenMathPrmSettings(
        name=str(checkpoint), aggregation=how, dtype="float32", device="cpu"
    )
    scores = asyncio.run(load_reward_model(settings, None).score(PROBLEM, PATHS))
    expected = asyncio.run(load_reward_model(local, None).score(PROBLEM, PATHS))
    got = [score.logit for score in scores]
    assert got == pytest.approx([score.logit for score in expected], abs=1e-3)
    assert got[-1] == 0.0
    assert len(set(np.round(got, 2))) > 3


def test_a_server_that_pools_elsewhere_is_an_error(server: str, checkpoint: Folder) -> None:
    """Asked with a token that it does not pool at, it gives no scores."""
    settings = PoolingSettings(
        kind="pooling", base_url=server, name=str(checkpoint), served_model=checkpoint.name
    )
    model = load_reward_model(settings, None)
    model._layouts._mark = np.array([5], np.int32)
    with pytest.raises(RewardModelError, match=r"0 scores for 1 steps of q: .* token 5"):
        asyncio.run(model.score(PROBLEM, PATHS[:1]))
