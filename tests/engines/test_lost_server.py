"""A recipe whose server is lost midway: one sentence, nothing lost, and it goes on."""

import json
from collections.abc import Callable
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
def folder(own_folder: Path) -> Path:
    model().config.save_pretrained(own_folder / "policy")
    tokenizer().save_pretrained(own_folder / "policy")
    rows = [{"id": f"q{i}", "question": f"{i} + 1", "answer": "3"} for i in range(QUESTIONS)]
    (own_folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return own_folder


def prompts(toy: Toy) -> list[str]:
    return [tokenizer().decode(body["prompt"]) for body in toy.asked]


def test_a_lost_server_stops_the_stage_and_the_same_command_goes_on(
    folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    def run(toy: Toy) -> tuple[int, str]:
        (folder / "mine.yaml").write_text(RECIPE.format(url=toy.url, name=MODEL))
        return command("run", "mine.yaml", "--run-dir", "run")[::2]

    with serving(Toy(dies_after=7)) as toy:
        code, said = run(toy)
        assert code == 2
        assert toy.url in said
        assert len(said.strip().splitlines()) == 1
        done = prompts(toy)[:6]
        assert done == [f"{i} + 1" for i in (0, 0, 1, 1, 2, 2)]

    with serving(Toy()) as toy:  # at another address
        assert run(toy) == (0, "")
    # The three finished problems are not asked for again.
    assert sorted(prompts(toy)) == [f"{i} + 1" for i in (3, 3, 4, 4, 5, 5)]
    stage = read_stage(folder / "run" / "search")
    assert stage is not None
    assert stage.record["metrics"]["problems"] == QUESTIONS
