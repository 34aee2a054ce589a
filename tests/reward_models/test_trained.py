"""A trained reward model in its slots against plain forward passes."""

import asyncio

import numpy as np
import pytest
import torch

from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import Path, RewardModel, RewardModelError, Step
from butwait.reward_models.score_head import score_head

PROMPT = PromptSettings()
TEXTS = ("3 + 5 = 8\n", "8 - 1 = 7\n", "7 + 7 = 14\n", "\\boxed{14}")
OTHERS = ("3 + 5 = 9\n", "9 - 1 = 8\n", "\\boxed{8}")


@pytest.fixture
def make_model(scorer, tokenizer):
    def make(slots=8, deterministic=False, same_tokens=True, capacity=128):
        model = SlotModel(scorer, slots, capacity, deterministic)
        return TrainedRewardModel(model, tokenizer, PROMPT, same_tokens)

    return make


@pytest.fixture
def full_forward(scorer, tokenizer):
    """The logit at the end of every step, from one forward pass over the whole path."""

    def logits(problem, steps):
        prompt = encode(tokenizer, messages(problem, PROMPT), PROMPT)
        ids = np.concatenate([prompt, *(step.token_ids for step in steps)])
        with torch.inference_mode():
            row = scorer(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0, :, 0]
        ends = len(prompt) + np.cumsum([len(step.token_ids) for step in steps]) - 1
        return row[ends].numpy()

    return logits


def test_it_keeps_the_contract(make_model):
    assert isinstance(make_model(), RewardModel)


def test_incremental_logits_are_those_of_a_full_forward(
    make_model, make_steps, full_forward, problems, grow
):
    steps, eos = make_steps(*TEXTS), Step(np.array([2], np.int32), "")
    path = (*steps, eos)
    scores = asyncio.run(grow(make_model(), problems[0], path))
    assert [s.logit for s in scores] == pytest.approx(full_forward(problems[0], path), abs=1e-5)


def test_whole_paths_without_handles(make_model, make_steps, full_forward, problems):
    paths = [Path(make_steps(*TEXTS)), Path(make_steps(*OTHERS)), Path(make_steps(*TEXTS[:2]))]
    scores = asyncio.run(make_model().score(problems[1], paths))
    expected = [full_forward(problems[1], path.steps)[-1] for path in paths]
    assert [s.logit for s in scores] == pytest.approx(expected, abs=1e-5)


def test_only_new_tokens_are_run_and_the_prompt_once(make_model, make_steps, problems, tokenizer):
    async def run():
        model, steps = make_model(), make_steps(*TEXTS)
        first = await model.score(problems[0], [Path(steps[:1])] * 3)
        second = await model.score(problems[0], [Path(steps[:2], s.handle) for s in first])
        return first, second

    first, second = asyncio.run(run())
    prompt = len(encode(tokenizer, messages(problems[0], PROMPT), PROMPT))
    n = [len(step.token_ids) for step in make_steps(*TEXTS)]
    assert [s.tokens for s in first] == [prompt + n[0], n[0], n[0]]
    assert [s.tokens for s in second] == [n[1]] * 3


def test_forks_do_not_disturb_each_other(make_model, make_steps, full_forward, problems):
    a, b = make_steps(*TEXTS), (*make_steps(*TEXTS[:1]), *make_steps(*OTHERS[1:]))

    async def run():
        model = make_model()
        (root,) = await model.score(problems[0], [Path(a[:1])])
        pair = [Path(a[:2], root.handle), Path(b[:2], root.handle)]
        left, right = await model.score(problems[0], pair)
        last = [Path(a[:3], left.handle), Path(b[:3], right.handle)]
        return [left, right, *await model.score(problems[0], last)]

    logits = [score.logit for score in asyncio.run(run())]
    full = full_forward(problems[0], a), full_forward(problems[0], b)
    assert logits == pytest.approx([full[0][1], full[1][1], full[0][2], full[1][2]], abs=1e-5)


def test_more_paths_than_slots_lose_handles_but_not_scores(
    make_model, make_steps, full_forward, problems, grow
):
    async def run(slots):
        model = make_model(slots=slots)
        work = [grow(model, p, make_steps(*t)) for p in problems for t in (TEXTS, OTHERS)]
        scores = await asyncio.gather(*work)
        return scores, model.run_tokens

    (got, run_tokens), (calm, calm_tokens) = asyncio.run(run(2)), asyncio.run(run(64))
    assert run_tokens > calm_tokens
    # What is counted does not depend on what was lost.
    counts = [[[s.tokens for s in scores] for scores in runs] for runs in (got, calm)]
    assert counts[0] == counts[1]
    pairs = [(p, make_steps(*t)) for p in problems for t in (TEXTS, OTHERS)]
    for scores, (problem, steps) in zip(got, pairs, strict=True):
        assert [s.logit for s in scores] == pytest.approx(full_forward(problem, steps), abs=1e-5)


def test_released_handles_free_their_slots(make_model, make_steps, problems, grow):
    async def run():
        model = make_model(slots=3)
        for _ in range(5):
            scores = await grow(model, problems[0], make_steps(*TEXTS), release=True)
            model.release([scores[-1].handle])
            model.release([scores[-1].handle])
        # The prompt alone is held; what was released can be scored on from all the same.
        (score,) = await model.score(problems[0], [Path(make_steps(*TEXTS), scores[-2].handle)])
        return model._scorer._model.free, scores[-1].logit, score.logit

    free, logit, again = asyncio.run(run())
    assert free == 2
    assert again == pytest.approx(logit, abs=1e-6)


def test_deterministic_scores_are_bitwise_the_same_in_any_company(
    make_model, make_steps, problems, grow
):
    """Alone, together, and with so few slots that handles are lost all the time."""
    work = [(p, make_steps(*t)) for p in problems for t in (TEXTS, OTHERS)]

    async def together(slots):
        model = make_model(slots=slots, deterministic=True)
        return await asyncio.gather(*(grow(model, p, steps) for p, steps in work))

    async def alone(slots):
        model = make_model(slots=slots, deterministic=True)
        return [await grow(model, p, steps) for p, steps in reversed(work)][::-1]

    def logits(runs):
        return [[score.logit for score in scores] for scores in runs]

    expected = logits(asyncio.run(together(4)))
    assert logits(asyncio.run(alone(4))) == expected


def test_another_tokenizer_sees_the_texts(make_model, make_steps, full_forward, problems, grow):
    foreign = [Step(np.arange(3, dtype=np.int32), text) for text in TEXTS]
    scores = asyncio.run(grow(make_model(same_tokens=False), problems[0], foreign))
    expected = full_forward(problems[0], make_steps(*TEXTS))
    assert [s.logit for s in scores] == pytest.approx(expected, abs=1e-5)


def test_a_step_without_tokens_keeps_the_score(make_model, make_steps, problems, grow):
    empty = Step(np.zeros(0, np.int32), "")
    scores = asyncio.run(grow(make_model(), problems[0], (*make_steps(*TEXTS[:1]), empty)))
    assert scores[0].logit == scores[1].logit
    assert scores[1].tokens == 0


def test_extreme_logits_are_clipped_and_counted(make_model, make_steps, problems, scorer):
    head = score_head(scorer)
    saved = head.weight.detach().clone(), head.bias.detach().clone()
    model = make_model()
    try:
        torch.nn.init.constant_(head.bias, 500.0)
        scores = asyncio.run(model.score(problems[0], [Path(make_steps(*TEXTS))] * 2))
        assert [s.logit for s in scores] == [12.0, 12.0]
        assert model.clipped == 2
        torch.nn.init.constant_(head.bias, float("nan"))
        with pytest.raises(RewardModelError, match="NaN"):
            asyncio.run(model.score(problems[1], [Path(make_steps(*TEXTS))]))
    finally:
        head.weight.data, head.bias.data = saved


def test_a_path_that_is_too_long_is_told_and_the_others_are_scored(
    make_model, make_steps, problems, full_forward
):
    long, short = make_steps("1 + 1 = 2\n" * 40), make_steps(*TEXTS)
    model = make_model()
    scores = asyncio.run(model.score(problems[0], [Path(long), Path(short), Path(long)]))
    assert [score.too_long for score in scores] == [True, False, True]
    assert scores[1].logit == pytest.approx(full_forward(problems[0], short)[-1], abs=1e-5)
