"""What runs a model, on the accelerator: the numbers of a plain forward pass, the same digits
twice, and memory that goes back."""

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from engine_contract import CHECKS, GREEDY, KEY, EngineCase, whole
from random_models import CONFIGURATIONS, EOS, model, tokenizer
from sft_cases import save_model, sums

from butwait.engines.kinds.transformers import TRANSFORMERS, TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer, on_device
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.pipeline.run import run_recipe
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.recipe.load import load_recipe
from butwait.records import Problem, UserError
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import Path as RewardPath
from butwait.reward_models.reward_model import Step
from butwait.reward_models.score_head import add_score_head, score_head
from butwait.running.devices import give_memory_back
from butwait.stages.kinds import STAGES
from butwait.training.settings import SftSettings
from butwait.training.sft import train_sft

PLAIN = PromptSettings(style="plain", template="{question}")


def problem(text: str = "What is 3 + 4 - 5?", name: str = "p") -> Problem:
    return Problem(id=name, question=text, answer=None)


def engine(a_model: torch.nn.Module, **settings: object) -> TransformersEngine:
    chosen = TransformersSettings.model_validate({"slots": 8, "prefill_chunk": 8} | settings)
    return TransformersEngine(a_model, tokenizer(), chosen, PLAIN)


@torch.inference_mode()
def next_logprobs(a_model: torch.nn.Module, path: np.ndarray) -> np.ndarray:
    """float32 (n, V), by one pass without a cache."""
    ids = torch.from_numpy(path)[None].long().to(a_model.device)
    return a_model(ids, use_cache=False).logits[0].float().log_softmax(-1).cpu().numpy()


@pytest.mark.parametrize("deterministic", [False, True], ids=["normal", "deterministic"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_engines_contract(check: Callable, deterministic: bool, device: str) -> None:
    a_model = copy.deepcopy(model()).to(device)
    check(
        EngineCase(
            engine=engine(a_model, deterministic=deterministic, capacity=96),
            problem=problem(),
            next_logprobs=lambda path: next_logprobs(a_model, path)[-1],
            decode=lambda ids: tokenizer().decode(ids, skip_special_tokens=True),
            eos_ids=frozenset([EOS]),
            capacity=96,
        )
    )


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_every_kind_of_model_gives_the_numbers_of_a_pass_without_a_cache(
    kind: str, device: str
) -> None:
    a_model = copy.deepcopy(model(kind, torch.float64)).to(device)
    an_engine = engine(a_model)
    starts = [an_engine.start(problem(text)) for text in ("2 + 2", "Why is the sky blue?", "x")]
    for sampling in (GREEDY, Sampling(temperature=0.9, top_p=0.95)):
        results = asyncio.run(an_engine.extend(starts, whole(40), sampling, [KEY] * 3))
        for start, result in zip(starts, results, strict=True):
            path = next_logprobs(a_model, result.prefix.token_ids[:-1])[start.prompt_length - 1 :]
            expected = path[np.arange(len(result.token_ids)), result.token_ids]
            if sampling is GREEDY:
                np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)
                assert (expected >= path.max(-1) - 1e-4).all()
            else:
                assert np.isfinite(result.logprobs).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paths_fork_and_the_same_keys_give_the_same_digits(dtype: torch.dtype, device: str) -> None:
    a_model = copy.deepcopy(model("llama", dtype)).to(device)
    rule = StepRule(delimiters=(), max_step_tokens=6, max_tokens=60, stop_at_box=False)

    def search(**settings: object) -> list[tuple[list[int], list[float]]]:
        an_engine, everything = engine(a_model, capacity=96, **settings), []

        async def filters() -> None:
            prefixes = [an_engine.start(problem())] * 8
            for step in range(8):
                keys = [KEY.at(step=step, particle=i) for i in range(8)]
                results = await an_engine.extend(prefixes, rule, Sampling(), keys)
                everything.extend((r.token_ids.tolist(), r.logprobs.tolist()) for r in results)
                an_engine.release(prefixes)
                alive = [r.prefix for r in results if r.finish == "step_limit"]
                if not alive:
                    break
                prefixes = [alive[i * i % len(alive)] for i in range(8)]

        asyncio.run(filters())
        return everything

    assert search() == search()
    assert search(deterministic=True) == search(deterministic=True)


def test_a_reward_model_scores_growing_paths_as_one_pass_does(
    tiny: ModelSettings, device: str
) -> None:
    scorer = on_device(add_score_head(tiny, 0.0), torch.device(device))
    torch.manual_seed(0)
    torch.nn.init.normal_(score_head(scorer).weight, std=0.2)
    its_tokenizer, question = load_tokenizer(tiny), problem("Calculate 1 + 5.")
    texts = ("3 + 5 = 8\n", "8 - 1 = 7\n", "7 + 7 = 14\n", "\\boxed{14}")
    ids = [np.array(its_tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
    steps = tuple(Step(i.astype(np.int32), t) for i, t in zip(ids, texts, strict=True))
    reward_model = TrainedRewardModel(SlotModel(scorer, 4, 128), its_tokenizer, PLAIN, True)

    async def grow() -> list[float]:
        logits, handle = [], None
        for n in range(1, len(steps) + 1):
            [score] = await reward_model.score(question, [RewardPath(steps[:n], handle)])
            logits.append(score.logit)
            handle = score.handle
        return logits

    prompt = encode(its_tokenizer, messages(question, PLAIN), PLAIN)
    path = np.concatenate([prompt, *ids])
    with torch.inference_mode():
        row = scorer(input_ids=torch.tensor(path[None].astype(np.int64)).to(device)).logits[0, :, 0]
    ends = len(prompt) + np.cumsum([len(i) for i in ids]) - 1
    assert asyncio.run(grow()) == pytest.approx(row[ends].tolist(), abs=1e-4)


@pytest.mark.parametrize("variant", [{}, {"packing": True, "max_length": 120, "too_long": "drop"}])
def test_the_first_loss_of_a_fine_tuning_is_the_cross_entropy(
    variant: dict, device: str, tmp_path: Path
) -> None:
    saved, its_tokenizer = save_model(tmp_path / "base", pad_is_eos=True)
    on_card = saved.model_copy(update={"device": device})
    examples = sums(its_tokenizer, 7)
    policy, nll, count = load_causal_lm(saved.model_copy(update={"device": "cpu"})), 0.0, 0
    for example in examples:
        ids = torch.tensor([*example.prompt_ids, *example.completion_ids])
        with torch.no_grad():
            logprobs = policy(ids[None]).logits[0].double().log_softmax(-1)
        start, mask = len(example.prompt_ids), torch.from_numpy(example.loss_mask)
        chosen = logprobs[start - 1 : -1].gather(-1, ids[start:, None].long())[:, 0]
        nll, count = nll - chosen[mask].sum().item(), count + int(mask.sum())
    settings = SftSettings(learning_rate=1e-3, max_steps=3, batch_size=8, save_steps=None)
    first, again = (
        train_sft(on_card, examples, settings.model_copy(update=variant), tmp_path / name, seed=0)
        for name in ("first", "again")
    )
    assert first["loss_first"] == pytest.approx(nll / count, abs=1e-4)
    assert first["loss_last"] == again["loss_last"] < first["loss_first"]


RULE = {"delimiters": [], "max_tokens": 48}
IN_STEPS = {"delimiters": ["\n"], "max_tokens": 48}
GRPO = {
    "problems": "train",
    "steps": 3,
    "questions": 2,
    "group": 4,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "save_steps": 2,
    "step": RULE,
    "generation": {"slots": 24, "prefill_chunk": 16},
}
LOOP = {
    "prompt": {"template": "{question}"},
    "problems": {
        "train": {"source": "arithmetic", "split": "train", "params": {"size": 4}},
        "held_out": {"source": "arithmetic", "split": "validation", "params": {"size": 4}},
    },
    "stages": {
        "prm": {
            "kind": "prm",
            "problems": "train",
            "max_steps": 3,
            "rollouts": {"solutions": 4, "prefixes": 0, "steps": IN_STEPS},
        },
        "hunt": {
            "kind": "search",
            "from": ["prm"],
            "problems": "train",
            "sampler": {"kind": "particle_filter", "particles": 8, "step": IN_STEPS},
        },
        "rl": {"kind": "grpo", **GRPO},
        "direct": {
            "kind": "grpo_direct",
            "from": ["prm"],
            **GRPO,
            "search_below": 0.5,
            "sampler": {"kind": "particle_filter", "particles": 8, "step": IN_STEPS},
        },
        "after": {
            "kind": "evaluate",
            "from": ["rl"],
            "problems": ["held_out"],
            "methods": {"plain": {"k": 2, "sampler": {"kind": "independent", "step": RULE}}},
        },
    },
}


def test_every_stage_runs_and_leaves_nothing_on_the_device(
    tiny: ModelSettings, held: Callable[[], int], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({"model": tiny.model_dump(mode="json")} | LOOP))
    left, logs = [], []
    for name in ("first", "again"):
        run_recipe(load_recipe(str(recipe), STAGES), tmp_path / name)
        lines = (tmp_path / name / "rl/log.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["loss"] for line in lines])
        for stage in LOOP["stages"]:
            record = json.loads((tmp_path / name / stage / "stage.json").read_text())
            assert record["status"] == "complete", stage
        left.append(held())
    assert logs[0] == logs[1]
    assert left[1] <= left[0] <= 2**27  # the products' own workspaces stay


def test_a_closed_engine_gives_its_weights_back(
    tiny: ModelSettings, held: Callable[[], int]
) -> None:
    before = held()
    kept = TRANSFORMERS.start(tiny, load_tokenizer(tiny), TransformersSettings(), PLAIN)
    start = kept.start(problem())
    asyncio.run(kept.extend([start], whole(8), Sampling(), [KEY]))
    asyncio.run(kept.close())
    give_memory_back()
    assert held() <= before + 2**20


def test_a_full_device_is_one_sentence(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("main memory is not to be filled")
    large = copy.deepcopy(model()).to(device)
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, free - 2**28), dtype=torch.uint8, device=device)
    an_engine = engine(large, slots=4096, capacity=512)
    starts = [an_engine.start(problem(f"{i}?", str(i))) for i in range(4096)]
    try:
        with pytest.raises(UserError, match=r"ran out of memory with .* set `slots`"):
            asyncio.run(an_engine.extend(starts, whole(400), Sampling(), [KEY] * 4096))
    finally:
        del ballast
        torch.cuda.empty_cache()
