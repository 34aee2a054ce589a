"""The policy's own confidence, against hand-computed values and plain forward passes."""

import asyncio

import numpy as np
import pytest
import torch

from butwait.engines.models import load_causal_lm
from butwait.engines.settings import ModelSettings
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.reward_models.kinds.confidence import ConfidenceSettings, PathLogprob
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.reward_model import Path, RewardModel, RewardModelError, Step
from butwait.reward_models.score_head import CertaintyModel

PROBLEM = Problem("q", "Calculate 3 + 5.", "8")
TINY = ModelSettings(name="tiny", device="cpu")
PROMPT = PromptSettings()


def drawn(*probabilities: float) -> Step:
    logprobs = np.log(np.array(probabilities)).astype(np.float32)
    return Step(np.zeros(len(probabilities), np.int32), "", logprobs)


def logprob_score(*steps: Step, scale: float = 1.0, centre: float = 0.0) -> float:
    model = PathLogprob(scale, centre)
    return asyncio.run(model.score(PROBLEM, [Path(steps)]))[0].logit


def test_logprob_is_the_logit_of_the_geometric_mean():
    # sqrt(0.4 * 0.9) = 0.6 over both steps; log(0.6 / 0.4).
    assert logprob_score(drawn(0.4), drawn(0.9)) == pytest.approx(np.log(1.5), abs=1e-6)
    # (1/2 * 1/4 * 1/8) ** (1/3) = 1/4: tokens weigh alike, not steps.
    assert logprob_score(drawn(0.5, 0.25), drawn(0.125)) == pytest.approx(-np.log(3), abs=1e-6)


def test_logprob_scale_and_centre():
    logit = logprob_score(drawn(0.75), scale=2.0, centre=1.0)
    assert logit == pytest.approx(2 * (np.log(3) - 1), abs=1e-6)


def test_inserted_tokens_are_left_out():
    inserted = Step(np.zeros(2, np.int32), "", np.full(2, np.nan, np.float32))
    assert logprob_score(drawn(0.75), inserted) == pytest.approx(np.log(3), abs=1e-6)
    assert logprob_score(inserted) == 0.0


def test_a_sure_path_is_clipped_and_counted():
    model = PathLogprob()
    (score,) = asyncio.run(model.score(PROBLEM, [Path((drawn(1.0),))]))
    assert (score.logit, score.tokens, model.clipped) == (12.0, 0, 1)


def test_unknown_logprobs_are_an_error():
    with pytest.raises(RewardModelError, match="q comes without log-probabilities"):
        logprob_score(Step(np.zeros(1, np.int32), "x"))


def test_certainty_of_hand_made_distributions():
    """KL(U || p) for p = (1/2, 1/4, 1/8, 1/8): -log 4 + (1 + 2 + 3 + 3) / 4 log 2 = log(2) / 4."""

    class Fixed:
        config = None

        def __call__(self, **inputs):
            logits = torch.log(torch.tensor([[[0.5, 0.25, 0.125, 0.125], [0.25] * 4]])) + 3.0
            return type("Output", (), {"logits": logits})

    wrapper = CertaintyModel(Fixed())
    assert wrapper(input_ids=None).logits[0, :, 0].tolist() == pytest.approx(
        [np.log(2) / 4, 0.0], abs=1e-6
    )


@pytest.fixture
def self_certainty(tokenizer):
    settings = ConfidenceSettings(
        kind="confidence", measure="self_certainty", scale=0.5, centre=3.0, device="cpu"
    )
    return load_reward_model(settings, tokenizer, Policy(TINY, PROMPT))


def plain_certainty(tokenizer, steps) -> float:
    """The mean KL(U || p) over the distributions of the path's tokens, from one forward pass."""
    prompt = encode(tokenizer, messages(PROBLEM, PROMPT), PROMPT)
    ids = np.concatenate([prompt, *(step.token_ids for step in steps)]).astype(np.int64)
    with torch.no_grad():
        logits = load_causal_lm(TINY)(torch.tensor(ids[None])).logits[0].double()
    log_p = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    uniform = torch.full_like(log_p, 1 / log_p.shape[-1])
    return float((uniform * (uniform.log() - log_p)).sum(-1).mean())


def test_self_certainty_of_growing_and_whole_paths(self_certainty, tokenizer, make_steps, grow):
    steps = make_steps("3 + 5 = 8\n", "8 - 1 = 7\n", "\\boxed{7}")
    expected = [0.5 * (plain_certainty(tokenizer, steps[:n]) - 3.0) for n in (1, 2, 3)]

    async def run():
        growing = await grow(self_certainty, PROBLEM, steps)
        (whole,) = await self_certainty.score(PROBLEM, [Path(steps)])
        return growing, whole

    growing, whole = asyncio.run(run())
    assert [score.logit for score in growing] == pytest.approx(expected, abs=1e-4)
    assert whole.logit == pytest.approx(expected[-1], abs=1e-4)
    # Later steps run their own tokens only.
    assert [score.tokens for score in growing[1:]] == [len(s.token_ids) for s in steps[1:]]
    assert isinstance(self_certainty, RewardModel)


def test_forks_of_one_prefix(self_certainty, tokenizer, make_steps):
    a, b = make_steps("3 + 5 = 8\n", "8 - 1 = 7\n"), make_steps("3 + 5 = 8\n", "\\boxed{8}")

    async def run():
        (root,) = await self_certainty.score(PROBLEM, [Path(a[:1])])
        return await self_certainty.score(PROBLEM, [Path(p, root.handle) for p in (a, b)])

    expected = [0.5 * (plain_certainty(tokenizer, path) - 3.0) for path in (a, b)]
    assert [s.logit for s in asyncio.run(run())] == pytest.approx(expected, abs=1e-4)


def test_what_self_certainty_needs():
    with pytest.raises(ValueError, match="set `centre`"):
        ConfidenceSettings(kind="confidence", measure="self_certainty")
    settings = ConfidenceSettings(kind="confidence", measure="self_certainty", centre=1.0)
    with pytest.raises(UserError, match="there is no policy here"):
        load_reward_model(settings, None)
