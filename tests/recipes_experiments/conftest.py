"""Questions and a tiny Phi that the recipes' tests share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_models import SHAPE, save_chat_model
from small_recipes import AGAIN, QUESTIONS, RIGHT, SYSTEM, WRONG, solution
from transformers import Qwen2Config

from butwait.engines.models import tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.problems.prompts import encode, messages
from butwait.recipe.load import load_recipe
from butwait.records import Example, Problem, Span
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel
from butwait.stages.kinds import STAGES
from butwait.training.settings import SftSettings
from butwait.training.sft import train_sft


@pytest.fixture(scope="session")
def question_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of two questions for each problem set."""
    folder = tmp_path_factory.mktemp("questions")
    for name, texts in QUESTIONS.items():
        rows = [
            {"id": text, "question": text, "answer": "3", "solution": solution(text)}
            for text in texts
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi3 that answers right as often as wrong, and right when it is made to think again; and a
    reward model of random weights."""
    folder = tmp_path_factory.mktemp("phi")
    tokenizer = save_chat_model(folder / "random", "Phi3")
    prompt = load_recipe("phi4_base", STAGES, [f"prompt.system={SYSTEM}"]).prompt
    examples = []
    for question in QUESTIONS["limo"]:
        chat = messages(Problem(question, question, "3", "integer"), prompt)
        for text in (RIGHT, WRONG, RIGHT + AGAIN, WRONG + AGAIN):
            ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            examples.append(
                Example(
                    problem_id=question,
                    prompt_ids=np.array(encode(tokenizer, chat, prompt)),
                    completion_ids=np.array(ids),
                    loss_mask=np.ones(len(ids), bool),
                    spans=(Span("solution", 0, len(ids), text),),
                    prompt=chat,
                    text=text,
                    tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
                    provenance={},
                )
            )
    settings = SftSettings(max_steps=120, batch_size=8, learning_rate=5e-3, save_steps=None)
    train_sft(
        ModelSettings(name=str(folder / "random"), device="cpu"), examples, settings, folder, 0
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPE, vocab_size=len(tokenizer), architectures=["Qwen2ForProcessRewardModel"]
    )
    Qwen2ForProcessRewardModel(config).save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    return folder
