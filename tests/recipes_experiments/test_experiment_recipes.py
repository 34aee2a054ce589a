"""The recipes of the published searches, from end to end, with tiny random weights of the real
architectures in place of the published ones."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, Phi3Config, Qwen2Config

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES
from butwait.statistics.intervals import wilson

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
QUESTIONS = {
    "limo": [("one", "1 + 2", "3"), ("two", "2 + 2", "4")],
    "math500": [("three", "1 + 3", "4"), ("four", "2 + 3", "5")],
    "aime24": [("five", "1 + 4", "5"), ("six", "2 + 4", "6")],
}


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = load_tokenizer(ModelSettings(name="tiny"))
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>"]})
    return tokenizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tokenizer) -> Path:
    """phi3, granite and prm: folders as on the hub."""
    folder = tmp_path_factory.mktemp("weights")
    shape = SHAPE | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    for name, config in (("phi3", Phi3Config(**shape)), ("granite", GraniteConfig(**shape))):
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # One token for all roles, which the template writes after every turn.
    eos = tokenizer.eos_token
    granite = load_tokenizer(ModelSettings(name=str(folder / "granite")))
    granite.add_special_tokens(dict.fromkeys(("bos_token", "pad_token", "unk_token"), eos))
    granite.chat_template = TEMPLATE.replace("\n", f"{eos}\n")
    granite.save_pretrained(folder / "granite")
    config = Qwen2Config(**shape, architectures=["Qwen2ForProcessRewardModel"])
    Qwen2ForProcessRewardModel(config).save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """A file of two questions for each problem set."""
    folder = tmp_path_factory.mktemp("questions")
    for name, rows in QUESTIONS.items():
        lines = [
            json.dumps({"id": i, "question": q, "answer": a, "solution": f"\\boxed{{{a}}}"})
            for i, q, a in rows
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def small(weights: Path, model: str, problems: list[str], questions: Path, stage: str) -> list[str]:
    """Overrides that put tiny weights in place of the published ones, and nothing else."""
    return [
        f"model={{name: {weights / model}, device: cpu}}",
        "engine={kind: transformers, slots: 16}",
        "threads=1",
        *(
            f"problems.{name}={{source: {questions / name}.jsonl, columns: {{solution: solution}}}}"
            for name in problems
        ),
        f"stages.{stage}.reward_model.name={weights / 'prm'}",
        f"stages.{stage}.reward_model.dtype=float32",
        f"stages.{stage}.reward_model.device=cpu",
    ]


def test_phi4_over_limo(weights: Path, questions: Path, tmp_path: Path) -> None:
    recipe = load_recipe("phi4_pf_limo", STAGES)
    sampler = recipe.stages["search"].sampler
    assert (sampler.particles, sampler.max_steps, sampler.sampling.temperature) == (512, 40, 0.8)
    assert sampler.step.delimiters == ("\n\n",)
    recipe = load_recipe(
        "phi4_pf_limo",
        STAGES,
        [
            *small(weights, "phi3", ["limo", "aime24", "math500"], questions, "search"),
            *(f"stages.{base}.methods.sample.k=2" for base in ("base_aime", "base_math")),
            *(
                f"stages.{base}.methods.sample.sampler.step.max_tokens=18"
                for base in ("base_aime", "base_math")
            ),
            "stages.search.sampler.particles=4",
            "stages.search.sampler.max_steps=3",
            "stages.search.sampler.step.max_step_tokens=6",
            "stages.search.sampler.step.max_tokens=18",
        ],
    )
    record = run_recipe(recipe, tmp_path / "run")["search"]
    trees = list(read_trees(tmp_path / "run" / "search" / "trees"))
    assert [tree.problem_id for tree in trees] == ["one", "two"]
    metrics = record["metrics"]
    assert metrics["problems"] == 2
    assert metrics["interval"] == pytest.approx(wilson(metrics["solved"] / 2, 2))
    assert record["cost"]["policy_tokens"] == sum(tree.counts.policy_tokens for tree in trees)
    assert record["cost"]["policy_flops"] > 0
    assert record["cost"]["reward_flops"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "questions solved" in page


@pytest.mark.slow
def test_granite_on_math500_and_aime24(weights: Path, questions: Path, tmp_path: Path) -> None:
    methods = "stages.filter.methods"
    short = [
        line
        for method in ("filter", "published_filter")
        for line in (
            f"{methods}.{method}.sampler.particles=4",
            f"{methods}.{method}.sampler.max_steps=3",
            f"{methods}.{method}.sampler.step.max_step_tokens=6",
            f"{methods}.{method}.sampler.step.max_tokens=18",
        )
    ]
    recipe = load_recipe(
        "granite_pf",
        STAGES,
        [
            *small(weights, "granite", ["math500", "aime24"], questions, "filter"),
            *short,
            f"{methods}.sample.k=2",
            f"{methods}.sample.sampler.step.max_tokens=18",
        ],
    )
    metrics = run_recipe(recipe, tmp_path / "run")["filter"]["metrics"]
    assert set(metrics) == {
        f"{problems}/{method}"
        for problems in ("math500", "aime24")
        for method in ("filter", "published_filter", "sample")
    }
    assert all(figures["n"] == 2 for figures in metrics.values())
    low, high = metrics["math500/filter"]["interval"]
    assert 0 <= low < high <= 1
