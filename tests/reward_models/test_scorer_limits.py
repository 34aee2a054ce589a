"""A reward model in its slots at its limits: its context, its slots, its memory, its callers."""

import asyncio
import copy
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from test_qwen_prm import PROBLEM, save_checkpoint

from butwait.engines.batching import let_others_run
from butwait.engines.kv.blocks import BLOCK, blocks_of
from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.reward_models import local
from butwait.reward_models.incremental import IncrementalScorer, Request
from butwait.reward_models.kinds.qwen_math_prm import PROMPT, QwenMathPrmSettings
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.reward_model import Path, RewardModelError, Step
from butwait.reward_models.settings import LocalModelSettings

NOTHING = np.zeros(0, np.int32)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.fixture
def make_scorer(scorer):
    def make(slots, capacity=128):
        return IncrementalScorer(SlotModel(scorer, slots, capacity))

    return make


async def walk(scorer: IncrementalScorer, paths: int, steps: int) -> int:
    """Tokens run for so many paths of one prompt that grow side by side, and the unique ones."""
    segments = [(ids(*range(5, 13)),) for _ in range(paths)]
    handles: list = [None] * paths
    for t in range(steps):
        segments = [(*s, ids(5 + i % 40, 6 + t, 7, 8)) for i, s in enumerate(segments)]
        asked = [Request(*pair, NOTHING) for pair in zip(segments, handles, strict=True)]
        results = await scorer.run(asked)
        scorer.release(handles)
        handles = [result.handle for result in results]
    scorer.release(handles)
    return 8 + paths * steps * 4


def test_living_paths_go_first(make_scorer):
    """One path more than there are slots: one path a step is run again, and not all of them."""
    scorer = make_scorer(16)
    unique = asyncio.run(walk(scorer, 17, 8))
    assert scorer.run_tokens < 1.4 * unique
    enough = make_scorer(18)
    assert asyncio.run(walk(enough, 17, 8)) == enough.run_tokens


def test_it_runs_beside_the_event_loop(make_scorer, monkeypatch):
    scorer = make_scorer(4)
    loop_came_round = threading.Event()
    run = scorer._model.run

    def slow(*args, **kwargs):
        assert loop_came_round.wait(30), "the event loop waits for the reward model"
        return run(*args, **kwargs)

    monkeypatch.setattr(scorer._model, "run", slow)

    async def both():
        scoring = asyncio.ensure_future(scorer.run([Request((ids(5, 6),), None, NOTHING)]))
        while scorer._under_way is None:
            await asyncio.sleep(0)
        loop_came_round.set()
        return await scoring

    (result,) = asyncio.run(both())
    assert result.handle.length == 2
    scorer.close("over")


@pytest.mark.parametrize("turns", range(0, 40, 3))
def test_a_call_that_is_cancelled_leaves_no_slot_taken(make_scorer, turns):
    """Wherever it is: before its batch, in it, or after it."""
    scorer = make_scorer(8)

    async def cancelled():
        asked = [Request((ids(5, 6, 7), ids(8, 9 + i)), None, NOTHING) for i in range(4)]
        task = asyncio.ensure_future(scorer.run(asked))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            scorer.release(result.handle for result in await task)
        while scorer._under_way is not None:
            await asyncio.sleep(0)
        await let_others_run(32)
        # The slot of the prompt stays; it is given up for whoever needs it.
        assert scorer._model.free >= 7
        return await scorer.run([Request((ids(5, 6), ids(7, 8)), None, NOTHING)])

    assert len(asyncio.run(cancelled())) == 1


def test_what_is_released_during_a_batch_is_free_after_it(make_scorer):
    scorer = make_scorer(4)

    async def released():
        first, other = await scorer.run(
            [Request((ids(5, 6), ids(n)), None, NOTHING) for n in (7, 8)]
        )
        scoring = asyncio.ensure_future(
            scorer.run([Request((ids(5, 6), ids(7), ids(9)), first.handle, NOTHING)])
        )
        while scorer._under_way is None:
            await asyncio.sleep(0)
        scorer.release([first.handle, other.handle])
        (longer,) = await scoring
        scorer.release([longer.handle])

    asyncio.run(released())
    assert scorer._model.free >= 3


def test_keys_and_values_never_outgrow_the_capacity(scorer):
    model = SlotModel(scorer, 2, 100)
    slot = model.acquire()
    model.run([(slot, 0, list(range(5, 65)))], "last")
    model.run([(slot, 60, list(range(5, 40)))], "last")
    assert model.allocated_tokens <= BLOCK * (2 * blocks_of(100) + 2)


async def outputs(scorer: IncrementalScorer, paths: int, steps: int) -> tuple[list, int]:
    """The outputs of paths that grow side by side, and the most tokens that were ever held."""
    segments = [(ids(*range(5, 13)),) for _ in range(paths)]
    handles: list = [None] * paths
    found, most = [], 0
    for t in range(steps):
        segments = [(*s, ids(5 + i % 40, 6 + t, 7, 8)) for i, s in enumerate(segments)]
        asked = [Request(*pair, NOTHING) for pair in zip(segments, handles, strict=True)]
        results = await scorer.run(asked)
        most = max(most, scorer._model.held_tokens)
        scorer.release(handles)
        handles = [result.handle for result in results]
        found += [float(result.output[0]) for result in results]
    scorer.release(handles)
    return found, most


def test_what_is_held_keeps_to_the_memory_that_there_is(scorer):
    """Slots for all, and tokens for a third of them."""
    plenty = IncrementalScorer(SlotModel(scorer, 40, 200))
    token = plenty._model.token_bytes
    right, all_of_it = asyncio.run(outputs(plenty, 12, 20))
    assert plenty.run_tokens == 8 + 12 * 20 * 4
    third = all_of_it // 3
    little = IncrementalScorer(SlotModel(scorer, 40, 200, most_bytes=third * token))
    found, most = asyncio.run(outputs(little, 12, 20))
    assert most <= third
    assert found == pytest.approx(right, abs=1e-5)
    one = SlotModel(scorer, 40, 200, most_bytes=token)
    tiny = IncrementalScorer(one)  # one path all the same
    assert asyncio.run(outputs(tiny, 3, 4))[0] == pytest.approx(
        asyncio.run(outputs(plenty, 3, 4))[0], abs=1e-5
    )


async def resampled(scorer: IncrementalScorer, problem: int, paths: int, steps: int) -> list:
    """The outputs of a problem's paths, which are resampled at random after every step."""
    draw = np.random.default_rng(problem)
    prompt = draw.integers(5, 40, 3 + 12 * problem).astype(np.int32)
    segments, handles, found = [(prompt,)] * paths, [None] * paths, []
    for _ in range(steps):
        lengths = draw.choice([0, 1, 5, 16, 33], paths)
        new = [draw.integers(5, 40, length).astype(np.int32) for length in lengths]
        segments = [(*s, step) for s, step in zip(segments, new, strict=True)]
        asked = [Request(*pair, NOTHING) for pair in zip(segments, handles, strict=True)]
        results = await scorer.run(asked)
        found += [float(result.output[0]) for result in results]
        parents = draw.integers(0, paths, paths)
        after = [results[parent].handle for parent in parents]
        scorer.release({*handles, *(result.handle for result in results)} - set(after))
        segments, handles = [segments[parent] for parent in parents], after
        await asyncio.sleep(0)
    scorer.release(handles)
    return found


@pytest.mark.parametrize(
    ("slots", "tokens"), [(3, None), (5, None), (8, None), (64, 200), (64, 400)]
)
def test_problems_that_crowd_each_other_out(scorer, slots, tokens):
    """What a path waits for may be given up before its turn: it begins from what there is then."""

    async def together(scorer: IncrementalScorer) -> list:
        return await asyncio.gather(*(resampled(scorer, i, 5, 6) for i in range(4)))

    plenty = SlotModel(scorer, 64, 300)
    most = tokens and tokens * plenty.token_bytes
    little = IncrementalScorer(SlotModel(scorer, slots, 300, prefill_chunk=16, most_bytes=most))
    right = asyncio.run(together(IncrementalScorer(plenty)))
    for found, values in zip(asyncio.run(together(little)), right, strict=True):
        assert found == pytest.approx(values, abs=1e-4)


def test_a_lost_path_goes_on_from_what_another_one_holds(scorer):
    """Two paths branch after four steps; one is lost, and only its own steps are run again."""
    begun = IncrementalScorer(SlotModel(scorer, 8, 200))
    common = (ids(*range(5, 13)), ids(5, 6, 7), NOTHING, ids(8, 9, 10, 11))
    one, other = (*common, ids(12, 13)), (*common, ids(14, 15, 16))

    async def both():
        _, second = await begun.run([Request(path, None, NOTHING) for path in (one, other)])
        begun.release([second.handle])
        before = begun.run_tokens
        longer = (*other, ids(17))
        (again,) = await begun.run([Request(longer, second.handle, NOTHING)])
        return begun.run_tokens - before, again, longer

    tokens, again, longer = asyncio.run(both())
    assert begun.run_tokens == 8 + 7 + 2 + 3 + 3 + 1  # and what both begin with was run once
    assert tokens == 3 + 1
    alone = IncrementalScorer(SlotModel(scorer, 8, 200))
    (right,) = asyncio.run(alone.run([Request(longer, None, NOTHING)]))
    assert again.output == pytest.approx(right.output, abs=1e-5)
    stranger = (ids(*range(6, 14)), ids(5, 6, 7), NOTHING, NOTHING)  # shares an array, and no more
    before = begun.run_tokens
    (there,) = asyncio.run(begun.run([Request(stranger, None, NOTHING)]))
    assert begun.run_tokens - before == 8 + 3
    (right,) = asyncio.run(alone.run([Request(stranger, None, NOTHING)]))
    assert there.output == pytest.approx(right.output, abs=1e-5)


def test_the_automatic_number_of_slots(scorer, monkeypatch):
    config = scorer.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    monkeypatch.setattr(local, "free_memory", lambda device: 4 * 5000 * token)

    def made(paths, **chosen):
        policy = Policy(None, None, paths)
        model = local.in_slots(scorer, LocalModelSettings(capacity=100, **chosen), policy)
        return model.slots, model.most_tokens

    assert made(513) == (513, 5000)  # a quarter of a CPU's memory
    assert made(None) == (64, 5000)
    assert made(513, slots=16) == (16, None)
    assert made(513, deterministic=True) == (64, None)


def test_one_token_more_than_its_context(tmp_path):
    """The prompt and the mark are counted; a path of just so many tokens is scored."""
    settings = QwenMathPrmSettings(
        name=str(save_checkpoint(tmp_path, hidden_size=16)), dtype="float32", device="cpu"
    )
    model = load_reward_model(settings, None)
    prompt = len(encode(model._tokenizer, messages(PROBLEM, PROMPT), PROMPT))
    room = 1024 - prompt - 1

    def path(letters: int) -> Path:
        return Path((Step(NOTHING, "a" * letters),))

    for paths in (2, 16):
        asked = [path(room + i % 2) for i in range(paths)]
        scores = asyncio.run(model.score(PROBLEM, asked))
        assert [score.too_long for score in scores] == [bool(i % 2) for i in range(paths)]
    asyncio.run(model.close())
    with pytest.raises(RewardModelError, match="closed"):
        asyncio.run(model.score(PROBLEM, [path(3)]))


def test_an_error_in_a_batch_is_told_to_who_waits(make_scorer, monkeypatch):
    scorer = make_scorer(4)

    def broken(*args, **kwargs):
        raise UserError("the device is gone")

    monkeypatch.setattr(scorer._model, "run", broken)
    with pytest.raises(UserError, match="the device is gone"):
        asyncio.run(scorer.run([Request((ids(5, 6),), None, NOTHING)]))
    monkeypatch.undo()
    assert len(asyncio.run(scorer.run([Request((ids(5, 6),), None, NOTHING)]))) == 1


def test_numbers_that_are_none_do_not_outlive_their_path(scorer):
    """Blocks are used again; what lies behind a mask in them is multiplied by 0."""
    broken = copy.deepcopy(scorer)
    broken.get_input_embeddings().weight.data[6] = torch.nan
    short, long = (ids(7, 8, 9), ids(10, 11)), (ids(7, 8, 9), ids(*range(7, 30)))

    async def outputs(model, *paths):
        results = await model.run([Request(path, None, NOTHING) for path in paths])
        model.release(result.handle for result in results)
        return [float(result.output[0]) for result in results]

    model = IncrementalScorer(SlotModel(broken, 8, 100))
    assert np.isnan(asyncio.run(outputs(model, (ids(7, 6), ids(*range(7, 60))))))
    right = asyncio.run(outputs(IncrementalScorer(SlotModel(scorer, 8, 100)), short, long))
    assert asyncio.run(outputs(model, short, long)) == pytest.approx(right, abs=1e-4)


def test_models_of_one_device_take_turns(make_scorer, scorer, tokenizer):
    """Two reward models on one device give what each gives alone."""
    problem = Problem(id="p", question="Calculate 1 + 2.", answer="3")
    models = [
        TrainedRewardModel(SlotModel(scorer, 4, 64), tokenizer, PromptSettings(), True)
        for _ in range(2)
    ]
    asked = [Path((Step(ids(5, 6 + i), "x"),)) for i in range(3)]

    async def together():
        return await asyncio.gather(*(model.score(problem, asked) for model in models))

    one, two = asyncio.run(together())
    assert [score.logit for score in one] == [score.logit for score in two]
    assert torch.get_num_threads() >= 1
