"""Public classifiers of three kinds, with tiny random weights, against plain forward passes."""

import asyncio

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from butwait.records import Problem, UserError
from butwait.reward_models.kinds.classifier import Classes, ClassifierSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path, RewardModel

PROBLEM = Problem("q", "Calculate 1 + 2.", "3")
STEPS = ("1 + 2 = 3\n", "3 + 0 = 3\n", "\\boxed{3}")
TEXTS = tuple(step.strip() for step in STEPS)


@pytest.fixture(scope="module")
def save(tokenizer, tmp_path_factory):
    """Writes a tiny checkpoint of a class with some labels."""

    def save(model_class, **labels) -> str:
        folder = tmp_path_factory.mktemp("classifier")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            initializer_range=0.5,
            pad_token_id=tokenizer.pad_token_id,
            **labels,
        )
        model_class(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def ids_of(tokenizer, *parts: str) -> list[int]:
    """Parts that are tokenised one at a time, the prompt first."""
    prompt = tokenizer(parts[0])["input_ids"]
    if prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]
    return prompt + [
        i for p in parts[1:] for i in tokenizer(p, add_special_tokens=False)["input_ids"]
    ]


def settings(name: str, **more) -> ClassifierSettings:
    return ClassifierSettings(kind="classifier", name=name, device="cpu", **more)


def grown(grow, model, make_steps) -> list[float]:
    return [s.logit for s in asyncio.run(grow(model, PROBLEM, make_steps(*STEPS)))]


def logsumexp(values) -> float:
    return float(np.log(np.exp(np.asarray(values, np.float64)).sum()))


def test_a_token_classifier_as_prm_trainer_makes_it(save, tokenizer, grow, make_steps):
    """trl's layout: prompt, then every step and the separator's tokens, read at the separator."""
    folder = save(LlamaForTokenClassification, num_labels=2)
    plain = LlamaForTokenClassification.from_pretrained(folder).eval()
    expected = []
    for n in range(1, len(TEXTS) + 1):
        parts = [part for text in TEXTS[:n] for part in (text, "\n")]
        ids = torch.tensor([ids_of(tokenizer, PROBLEM.question, *parts)])
        with torch.no_grad():
            bad, good = plain(ids).logits[0, -1].tolist()
        expected.append(good - bad)
    model = load_reward_model(settings(folder), None)
    assert isinstance(model, RewardModel)
    assert grown(grow, model, make_steps) == pytest.approx(expected, abs=1e-4)
    assert len({round(x, 3) for x in expected}) == 3


def test_a_sequence_classifier_is_read_at_the_last_token(save, tokenizer, grow, make_steps):
    """One output: a score whose sigmoid is the probability."""
    folder = save(LlamaForSequenceClassification, num_labels=1)
    plain = LlamaForSequenceClassification.from_pretrained(folder).eval()
    expected = []
    for n in range(1, len(TEXTS) + 1):
        ids = torch.tensor([ids_of(tokenizer, PROBLEM.question, *TEXTS[:n])])
        with torch.no_grad():
            expected.append(plain(ids).logits[0, 0].item())
    model = load_reward_model(settings(folder, separator=""), None)
    assert grown(grow, model, make_steps) == pytest.approx(expected, abs=1e-4)


def test_a_named_class_is_weighed_against_all_others_or_one(save, tokenizer, grow, make_steps):
    labels = {0: "wrong", 1: "neutral", 2: "right"}
    folder = save(
        LlamaForTokenClassification, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    plain = LlamaForTokenClassification.from_pretrained(folder).eval()
    ids = torch.tensor([ids_of(tokenizer, PROBLEM.question, TEXTS[0], "\n")])
    with torch.no_grad():
        wrong, neutral, right = plain(ids).logits[0, -1].tolist()

    def first(**classes) -> float:
        return grown(grow, load_reward_model(settings(folder, **classes), None), make_steps)[0]

    assert first(good="right") == pytest.approx(right - logsumexp([wrong, neutral]), abs=1e-4)
    assert first(good=2, bad="wrong") == pytest.approx(right - wrong, abs=1e-4)
    with pytest.raises(
        UserError, match=r"3 classes \(wrong, neutral, right\): say which is `good`"
    ):
        load_reward_model(settings(folder), None)
    with pytest.raises(UserError, match=r"no class 'fine'; it has 0 \(wrong\), 1 \(neutral\)"):
        load_reward_model(settings(folder, good="fine"), None)


def test_a_language_model_that_answers_with_a_token(save, tokenizer, grow, make_steps):
    """The judgement is the next token after the separator; its own "+" stands before the next
    step."""
    folder = save(LlamaForCausalLM, tie_word_embeddings=True)
    plain = LlamaForCausalLM.from_pretrained(folder).eval()
    plus, minus = (tokenizer(t, add_special_tokens=False)["input_ids"][-1] for t in "+-")
    expected, parts = [], []
    for text in TEXTS:
        parts += [text, "\n"]
        ids = torch.tensor([ids_of(tokenizer, PROBLEM.question, *parts)])
        with torch.no_grad():
            logits = plain(ids).logits[0, -1]
        expected.append(float(logits[plus] - logits[minus]))
        parts.append("+\n")
    wanted = settings(folder, head="tokens", good="+", bad="-", after="+\n")
    assert grown(grow, load_reward_model(wanted, None), make_steps) == pytest.approx(
        expected, abs=1e-4
    )
    with pytest.raises(UserError, match="give `good` and `bad` as text"):
        load_reward_model(settings(folder, head="tokens"), None)
    with pytest.raises(UserError, match=r"its checkpoint lacks score\.weight .* `head: tokens`"):
        load_reward_model(settings(folder), None)


@pytest.mark.parametrize(("how", "combine"), [("min", min), ("prod", np.prod)])
def test_steps_are_aggregated(save, grow, make_steps, how, combine):
    folder = save(LlamaForTokenClassification, num_labels=2)
    each = np.array(grown(grow, load_reward_model(settings(folder), None), make_steps))
    p = [float(combine((1 / (1 + np.exp(-each)))[: n + 1])) for n in range(3)]
    expected = [np.log(x) - np.log1p(-x) for x in p]
    model = load_reward_model(settings(folder, aggregation=how), None)
    assert grown(grow, model, make_steps) == pytest.approx(expected, abs=1e-4)


def test_whole_paths_and_steps_without_text(save, grow, make_steps):
    model = load_reward_model(settings(save(LlamaForTokenClassification, num_labels=2)), None)

    async def run():
        (whole,) = await model.score(PROBLEM, [Path(make_steps(*STEPS))])
        padded = [s.logit for s in await grow(model, PROBLEM, make_steps("\n", *STEPS, "\n\n"))]
        return whole.logit, padded

    whole, padded = asyncio.run(run())
    assert padded[0] == 0.0
    assert padded[3] == padded[4] == pytest.approx(whole, abs=1e-5)


def test_an_encoder_is_refused(tmp_path, tokenizer):
    config = BertConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_attention_heads=1)
    BertForTokenClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertConfig has no token classifier that reads from left"):
        load_reward_model(settings(str(tmp_path)), None)


def test_log_odds_of_classes():
    z = np.log([1.0, 3.0, 4.0])
    assert Classes(2, None).log_odds(z) == pytest.approx(0.0)
    assert Classes(2, 0).log_odds(z) == pytest.approx(np.log(4))
    assert Classes(0, None).log_odds(np.array([-1.5])) == -1.5
