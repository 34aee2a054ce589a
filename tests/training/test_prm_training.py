"""Examples, the loss, and whole trainings of the tiny model on a toy that is learned in seconds."""

import asyncio
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path as ScoredPath
from butwait.reward_models.reward_model import Step
from butwait.training import prm
from butwait.training.prm import UNLABELLED, pad, score_prefixes, step_loss, to_examples, train_prm
from butwait.training.rollouts import Rollout, put, split_questions
from butwait.training.settings import PrmSettings, ValidationSettings
from butwait.training.validation import split_rows
from butwait.training.weights import save_weights

TINY = ModelSettings(name="tiny", device="cpu")
PROMPT = PromptSettings(template="{question}")
KEY = Key.of(3, "prm")
FAST = PrmSettings(
    max_steps=30, batch_size=16, learning_rate=2e-3, heldout=0.25, logging_steps=5, save_steps=None
)


def rollout(prompt, tokens, ends, verified, completions, shared=0, question="q") -> Rollout:
    arrays = [np.array(a, np.int32) for a in (prompt, tokens, ends, verified, completions)]
    status = "correct" if verified[-1] else "wrong"
    return Rollout(question, *arrays[:3], shared, "box", status, *arrays[3:])


def test_labels_stand_on_the_last_token_of_each_step():
    (example,) = to_examples([rollout([9, 9], [1, 2, 3, 4], [1, 4], [1, 0], [4, 1])], None)
    assert example["input_ids"].tolist() == [9, 9, 1, 2, 3, 4]
    off = UNLABELLED
    assert example["labels"].tolist() == [off, off, 0.25, off, off, 0.0]


def test_shared_unlabelled_and_long_rollouts():
    shared = rollout([9], [1, 2, 3], [1, 2, 3], [1, 1, 1], [2, 2, 1], shared=2)
    (example,) = to_examples([shared], None)
    assert example["labels"].tolist() == [UNLABELLED] * 3 + [1.0]
    ungradable = rollout([9], [1, 2], [1, 2], [1, 0], [2, 0])
    (example,) = to_examples([ungradable], None)
    assert example["labels"].tolist() == [UNLABELLED, 0.5, UNLABELLED]
    assert to_examples([rollout([9], [1], [1], [0], [0])], None) == []
    assert to_examples([shared], 3) == []
    assert len(to_examples([shared], 4)) == 1


def test_a_reward_model_of_its_own_prompt_is_trained_behind_it(tokenizer):
    problem = Problem(id="q", question="1 + 1", answer="2")
    worked = PromptSettings(style="plain", template="2 + 2\n4\n{question}")
    [policys] = put([rollout([9], [1, 2], [2], [1], [1])], [problem], worked, tokenizer)
    [own] = put([policys], [problem], PROMPT.model_copy(update={"style": "plain"}), tokenizer)
    assert tokenizer.decode(policys.prompt_ids).endswith("2 + 2\n4\n1 + 1")
    assert len(policys.prompt_ids) > len(own.prompt_ids)
    assert tokenizer.decode(own.prompt_ids) == "1 + 1"
    for which in (policys, own):
        assert which.ids.tolist() == [*which.prompt_ids.tolist(), 1, 2]
        [example] = to_examples([which], None)
        assert example["labels"].tolist() == [UNLABELLED] * (len(which.ids) - 1) + [1.0]


def test_loss_by_hand():
    # Logit 0 against 0.25: log 2. Logit log 3 (p = 3/4) against 1: log 4/3.
    logits = torch.tensor([[[7.0], [0.0]], [[math.log(3)], [-9.0]]])
    labels = torch.tensor([[UNLABELLED, 0.25], [1.0, UNLABELLED]])
    total = math.log(2) + math.log(4 / 3)
    outputs = SimpleNamespace(logits=logits)
    assert step_loss(outputs, labels).item() == pytest.approx(total / 2)
    assert step_loss(outputs, labels, num_items_in_batch=8).item() == pytest.approx(total / 8)


def test_padding_carries_no_loss():
    examples = to_examples(
        [rollout([9], [1], [1], [1], [1]), rollout([9], [1, 2, 3], [3], [0], [1])], None
    )
    batch = pad(examples, pad_id=5)
    assert batch["input_ids"].tolist() == [[9, 1, 5, 5], [9, 1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 1, -100, -100], [-100, -100, -100, 0]]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def toy(tokenizer):
    """Questions whose paths verify if and only if the first step is right, as the text shows."""

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rollouts = []
    rng = np.random.default_rng(0)
    for q in range(48):
        a, b = rng.integers(1, 5, 2)
        problem = Problem(f"q{q}", f"Calculate {a} + {b}.", str(a + b))
        prompt = encode(tokenizer, messages(problem, PROMPT), PROMPT)
        for right in (0, 1, 0, 1):
            c = a + b if right else 0
            steps = [ids(f"{a} + {b} = {c}\n"), ids(f"{c} - 1 = {c}\n"), ids(f"\\boxed{{{c}}}")]
            ends = np.cumsum([len(step) for step in steps])
            counts = np.ones(3, np.int32)
            tokens = np.concatenate(steps)
            verified = counts * right
            rollouts.append(rollout(prompt, tokens, ends, verified, counts, question=problem.id))
    return rollouts


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prm")
    return folder, train_prm(TINY, toy, FAST, PROMPT, folder, KEY)


def test_a_separable_toy_is_learned(trained):
    folder, result = trained
    audit = json.loads((folder / "audit.json").read_text())
    assert audit["within_question_auc"] == result["within_question_auc"] > 0.95
    assert audit["questions"] == 12
    assert audit["base_rate"] == 0.5
    # It starts at the base rate: a loss of log 2 for balanced labels.
    assert result["loss_last"] < 0.1 < result["loss_first"] < math.log(2) + 0.05
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    assert result["steps"] == 30


@pytest.mark.slow
def test_a_saved_model_that_is_another_one_ends_the_stage(toy, tmp_path, monkeypatch):
    def lossy(model, folder):
        model.score.weight.data[0, 3] += 1
        save_weights(model, folder)
        model.score.weight.data[0, 3] -= 1

    monkeypatch.setattr(prm, "save_weights", lossy)
    short = FAST.model_copy(update={"max_steps": 2})
    with pytest.raises(UserError, match=r"is not the one that was trained: on 4 rows"):
        train_prm(TINY, toy, short, PROMPT, tmp_path, KEY)


def test_trained_tokens_are_counted(trained, toy):
    _, result = trained
    lengths = {len(r.prompt_ids) + len(r.token_ids) for r in toy}
    assert result["examples"] == 36 * 4
    # 30 steps of 16 rollouts; 144 rollouts are nine full batches.
    assert 30 * 16 * min(lengths) <= result["trained_tokens"] <= 30 * 16 * max(lengths)


def test_the_saved_model_scores_as_it_was_trained(trained, toy, tokenizer):
    """From the checkpoint: the reward model's scores are those of a plain forward pass at the
    step ends that were trained."""
    folder, _ = trained
    settings = TrainedSettings(model=str(folder / "model"), device="cpu", capacity=128)
    reward_model = load_reward_model(settings, tokenizer)
    path = toy[-1]
    question = tokenizer.decode(path.prompt_ids)
    terms = question[question.index("Calculate") : question.index(".") + 1]
    problem = Problem("q47", terms, "?")
    bounds = [0, *path.step_ends]
    pieces = [path.token_ids[a:b] for a, b in pairwise(bounds)]
    steps = tuple(Step(ids, tokenizer.decode(ids)) for ids in pieces)
    paths = [ScoredPath(steps[:n]) for n in (1, 2, 3)]
    scores = asyncio.run(reward_model.score(problem, paths))
    model = AutoModelForTokenClassification.from_pretrained(folder / "model").eval()
    plain = score_prefixes(model, [path], 8)
    assert [s.logit for s in scores] == pytest.approx(plain.logit.tolist(), abs=1e-5)
    assert scores[0].logit > 2


def test_the_same_key_gives_the_same_weights(trained, toy, tmp_path):
    folder, result = trained
    again = train_prm(TINY, toy, FAST, PROMPT, tmp_path, KEY)
    for name in ("model/model.safetensors", "audit.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert again == result


def test_a_killed_training_goes_on_and_ends_the_same(trained, toy, tmp_path, interrupted_at):
    folder, result = trained
    settings = FAST.model_copy(update={"save_steps": 10})
    with interrupted_at(25):
        train_prm(TINY, toy, settings, PROMPT, tmp_path, KEY)
    assert not (tmp_path / "model").exists()
    resumed = train_prm(TINY, toy, settings, PROMPT, tmp_path, KEY)
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in (folder, tmp_path)]
    assert weights[0] == weights[1]
    assert resumed == result


def test_held_out_rollouts_are_looked_at_and_the_best_weights_kept(toy, tmp_path):
    """The looks have the loss of the labels, by hand; the model of the lowest is what is saved. A
    wild learning rate makes it an early one."""
    looks = ValidationSettings(share=0.25, every=2, patience=2)
    wild = {"learning_rate": 0.3, "schedule": "constant", "warmup_ratio": 0.0}
    settings = FAST.model_copy(update={"validation": looks, "max_steps": 60} | wild)
    result = train_prm(TINY, toy, settings, PROMPT, tmp_path, KEY)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    seen = {line["step"]: line["loss"] for line in lines}
    assert result["steps"] == result["kept_step"] + 4 < 60
    assert seen[result["kept_step"]] == result["validation_best"] == min(seen.values())
    training, _ = split_questions(toy, settings.heldout, KEY.derive("split"))
    names = [r.problem_id for r in training]
    _, held = split_rows(training, names, 0.25, KEY.derive("train").seed32())
    assert result["examples"] == len(training) - len(held)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "model").eval()
    batch = pad(to_examples(held, None), pad_id=0)
    labels = batch.pop("labels")
    with torch.no_grad():
        loss = step_loss(model(**batch), labels).item()
    assert loss == pytest.approx(result["validation_best"], abs=1e-5)


def test_prefixes_are_scored_once(trained, toy):
    folder, _ = trained
    model = AutoModelForTokenClassification.from_pretrained(folder / "model").eval()
    prefixes = score_prefixes(model, toy[:4], 3)
    # Four rollouts in two pairs of equals.
    assert len(prefixes.logit) == 6
    assert sorted(prefixes.depth) == [1, 1, 2, 2, 3, 3]


def test_nothing_that_fits_is_a_user_error(toy, tmp_path):
    short = FAST.model_copy(update={"max_length": 3})
    with pytest.raises(UserError, match=r"train a reward model on.*longer than 3 tokens"):
        train_prm(TINY, toy, short, PROMPT, tmp_path, KEY)


def test_a_full_disk_is_a_user_error(toy, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail] . write: No space left on device")

    monkeypatch.setattr(prm.Trainer, "train", full)
    with pytest.raises(UserError, match="disk is full"):
        train_prm(TINY, toy, FAST, PROMPT, tmp_path, KEY)
