"""A recipe whose server is lost midway: one sentence, nothing lost, and it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai_toy import MODEL, Toy, serving
from random_models import model, tokenizer

from butwait.running.stages import read_stage

QUESTIONS = 6
RECIPE = """
model: {{name: policy}}
prompt: {{style: plain, template: "{{question}}"}}
engine: {{kind: openai, base_url: "{url}", served_model: {name}, retries: 0}}
problems:
  train: {{source: questions.jsonl}}
stages:
  search:
    kind: search
    problems: train
    concurrency: 1
    shard_size: 2
    sampler: {{kind: self_consistency, samples: 2, step: {{delimiters: [], max_tokens: 5}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model().config.save_pretrained(tmp_path / "policy")
    tokenizer().save_pretrained(tmp_path / "policy")
    rows = [{"id": f"q{i}", "question": f"{i} + 1", "answer": "3"} for i in range(QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(folder: Path, toy: Toy) -> subprocess.CompletedProcess[str]:
    (folder / "mine.yaml").write_text(RECIPE.format(url=toy.url, name=MODEL))
    return subprocess.run(
        [sys.executable, "-m", "butwait", "run", "mine.yaml", "--run-dir", "run"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def prompts(toy: Toy) -> list[str]:
    return [tokenizer().decode(body["prompt"]) for body in toy.asked]


def test_a_lost_server_stops_the_stage_and_the_same_command_goes_on(folder: Path) -> None:
    with serving(Toy(dies_after=7)) as toy:
        stopped = run(folder, toy)
        assert stopped.returncode == 2
        assert toy.url in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert len(stopped.stderr.strip().splitlines()) == 1
        done = prompts(toy)[:6]
        assert done == [f"{i} + 1" for i in (0, 0, 1, 1, 2, 2)]

    with serving(Toy()) as toy:  # at another address
        again = run(folder, toy)
    assert again.returncode == 0, again.stderr
    # The three finished problems are not asked for again.
    assert sorted(prompts(toy)) == [f"{i} + 1" for i in (3, 3, 4, 4, 5, 5)]
    stage = read_stage(folder / "run" / "search")
    assert stage is not None
    assert stage.record["metrics"]["problems"] == QUESTIONS
