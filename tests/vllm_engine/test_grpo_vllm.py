"""GRPO whose completions vLLM draws, in the process that trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
name: colocate
model: {name: tiny, device: cpu}
threads: 1
prompt: {template: "{question}"}
problems:
  hunt: {source: arithmetic, split: search, limit: 64}
stages:
  rl:
    kind: grpo
    problems: hunt
    steps: 3
    questions: 4
    group: 4
    batch_size: 16
    learning_rate: 1.0e-2
    step: {delimiters: [], max_tokens: 64}
    generation: {kind: vllm_colocate}
"""


def test_vllm_draws_from_the_weights_of_every_step(tmp_path: Path) -> None:
    """A training at so high a rate changes the policy beyond recognition in two steps. That vLLM's
    probabilities are still the trainer's shows that it has the weights of the step."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ran = subprocess.run(
        [sys.executable, "-m", "butwait", "run", "recipe.yaml", "--run-dir", "run"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if ran.returncode == 2 and "packs its weights on this processor" in ran.stderr:
        pytest.skip("vLLM takes no new weights on this processor (AMX)")
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "run/rl/log.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        # vLLM computes in the checkpoint's float16: 0.001 nats. With the first weights it would be
        # 1.25 at the second step, and a ratio of 0.84.
        assert line["sampling/sampling_logp_difference/mean"] < 0.01
        assert abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 0.01
    assert lines[0]["length"] < 40
    assert lines[-1]["length"] != lines[0]["length"]
    assert (tmp_path / "run/rl/model/model.safetensors").exists()
