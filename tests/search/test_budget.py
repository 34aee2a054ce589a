"""Costs of nodes: tokens as the engine counts them, operations by hand, seconds apart."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from search_toys import RULE, search, toy_engine, toy_reward
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from butwait.engines.engine import Engine
from butwait.engines.flops import DecoderFlops, decoder_flops, flops_of
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.load import load_engine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Counts, Key, Node, Population, Problem, SearchTree
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.budget import node_costs
from butwait.search.outline import outline
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import BestOfNSettings
from butwait.search.storage import TIMINGS, read_shard, read_timings, write_shard

PROBLEMS = [Problem(f"p{i}", f"Calculate {i} + 5.", None) for i in range(3)]
TINY = ModelSettings(name="tiny", device="cpu")


def engines(kind: str, rule: StepRule) -> Engine:
    if kind == "scripted":
        return toy_engine()
    settings = TransformersSettings(slots=4)  # fewer rows than particles: handles get lost
    return load_engine(settings, TINY, PromptSettings(template="{question}"), PROBLEMS, [rule])[0]


@pytest.mark.parametrize("kind", ["scripted", "transformers"])
@pytest.mark.parametrize("sampler", ["particle_filter", "best_of_n"])
def test_nodes_add_up_to_the_engines_counters(kind: str, sampler: str) -> None:
    rule = RULE if kind == "scripted" else StepRule(delimiters=("\n",), max_tokens=40)
    reward = toy_reward if kind == "scripted" else lambda problem, steps: float(len(steps) % 2)
    settings = (
        ParticleFilterSettings(particles=8, step=rule)
        if sampler == "particle_filter"
        else BestOfNSettings(samples=8, step=rule)
    )

    async def run() -> tuple[list[SearchTree], Engine, int]:
        engine, model, run_tokens = engines(kind, rule), ScriptedRewardModel(reward), 0
        score = model.score

        async def counted(*arguments):
            nonlocal run_tokens
            scores = await score(*arguments)
            run_tokens += sum(found.tokens for found in scores)
            return scores

        model.score = counted
        jobs = (run_sampler(p, engine, model, settings, Key.of(0, p.id)) for p in PROBLEMS)
        return await asyncio.gather(*jobs), engine, run_tokens

    trees, engine, reward_tokens = asyncio.run(run())
    costs = [node_costs(outline(tree)) for tree in trees]
    policy = sum(int(cost.policy_tokens.sum()) for cost in costs)
    prefilled = sum(int(cost.prefilled_tokens.sum()) for cost in costs)
    assert (policy, prefilled) == (engine.counters.policy_tokens, engine.counters.prefilled_tokens)
    assert sum(int(cost.reward_tokens.sum()) for cost in costs) == reward_tokens > 0
    for tree, cost in zip(trees, costs, strict=True):
        assert tree.counts == Counts(
            int(cost.policy_tokens.sum()),
            int(cost.prefilled_tokens.sum()),
            int(cost.reward_tokens.sum()),
        )


def test_a_decoders_operations_by_hand() -> None:
    # Grouped queries: 4 query heads and 2 key heads of 8; 2 layers, 32 wide, MLP of 3 x 48.
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    assert decoder_flops(config) == DecoderFlops(2 * (2 * layer + 100 * 32), 4 * 2 * 4 * 8)
    assert decoder_flops(config, head=False) == DecoderFlops(2 * 2 * layer, 4 * 2 * 4 * 8)
    gpt2 = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    assert decoder_flops(gpt2) == DecoderFlops(2 * (2 * 12 * 32 * 32 + 100 * 32), 4 * 2 * 32)


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        attn_implementation="eager",
    )
    model, n = AutoModelForCausalLM.from_config(config), 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, n, dtype=torch.long), use_cache=False)
    found = decoder_flops(config)
    # torch multiplies the whole square of attention; a causal token needs its own part alone.
    square = n * found.per_token + n * n * found.per_position
    assert counter.get_total_flops() == square
    assert found.forward(np.array(0), np.array(n)) == (
        n * found.per_token + n * (n + 1) / 2 * found.per_position
    )


def test_a_model_of_unknown_shape_costs_an_unknown_amount(tmp_path: Path) -> None:
    (empty := tmp_path / "broken").mkdir()
    (empty / "config.json").write_text("{}")
    assert flops_of(ModelSettings(name=str(empty))) is None
    assert decoder_flops(MixtralConfig()) is None
    costs = node_costs(outline(search(ParticleFilterSettings(particles=2, step=RULE))))
    assert costs.policy_flops is None
    assert costs.reward_flops is None


def hand_made() -> SearchTree:
    """A prompt of 10 tokens; a step of 3 (2 thrown away); 4 inserted; a step of 2 behind them."""

    def node(parent: int, n: int, finish: str, *costs: int) -> Node:
        return Node(parent, np.zeros(n, np.int32), "", np.zeros(n, np.float32), finish, 0.0, *costs)

    leaves = np.array([3], np.int32)
    return SearchTree(
        "p", "s", np.zeros(10, np.int32),
        [node(-1, 0, "step"), node(0, 3, "step", 10, 2, 13), node(1, 4, "inserted"),
         node(2, 2, "eos", 4, 0, 20)],
        [Population(leaves, np.zeros(1, np.int32), np.zeros(1), False)], leaves, np.zeros(1), None,
        "complete", Counts(7, 14, 33),
    )  # fmt: skip


def test_operations_go_by_position() -> None:
    costs = node_costs(outline(hand_made()), DecoderFlops(1000, 1), DecoderFlops(0, 1))
    assert costs.policy_tokens.tolist() == [0, 5, 0, 2]
    first = 15_000 + sum(range(1, 11)) + sum(range(11, 16))  # the prompt, then 5 behind it
    last = 6_000 + sum(range(14, 18)) + sum(range(18, 20))  # 4 inserted, then 2 behind 17
    assert costs.policy_flops.tolist() == [0, first, 0, last]
    # The second score runs more than the path has (20 tokens, not 19): all from the start.
    assert costs.reward_flops.tolist() == [0, sum(range(1, 14)), 0, sum(range(1, 21))]


def test_seconds_lie_beside_the_trees_and_survive_a_resume(tmp_path: Path) -> None:
    settings = ParticleFilterSettings(particles=4, step=RULE)
    stored = ShardFormat(write_shard, read_shard, aside=TIMINGS)
    seen: list[SearchTree] = []

    def run(stop: int) -> None:
        async def one(problem: Problem) -> SearchTree:
            if problem.id == f"p{stop}":
                raise RuntimeError("stopped")
            model = ScriptedRewardModel(toy_reward)
            return await run_sampler(problem, toy_engine(), model, settings, Key.of(0, problem.id))

        asyncio.run(
            map_shards(
                PROBLEMS,
                one,
                stored,
                tmp_path / "trees",
                shard_size=2,
                concurrency=1,
                on_result=seen.append,
            )
        )

    with pytest.raises(RuntimeError, match="stopped"):
        run(stop=1)
    first = next(tree for tree in seen if tree.problem_id == "p0")
    seen.clear()
    run(stop=9)
    again = {tree.problem_id: tree.timings for tree in seen}["p0"]
    assert again.total == first.timings.total > 0
    kept = read_timings(tmp_path / "timings" / "shard-00000.parquet")
    assert list(kept) == ["p0", "p1"]
    assert kept["p0"].generation.tobytes() == first.timings.generation.tobytes()
    assert np.isnan(kept["p0"].generation[0])
    assert (kept["p0"].generation[1:] >= 0).all()
    assert (kept["p0"].scoring[1:] >= 0).all()
    assert np.nanmax(kept["p0"].generation) <= kept["p0"].total
    for folder in ("trees", "timings"):
        assert sorted(path.name for path in (tmp_path / folder).glob("*.parquet")) == [
            "shard-00000.parquet",
            "shard-00001.parquet",
        ]
    assert pq.read_table(tmp_path / "trees").num_rows == len(PROBLEMS)  # one row a tree
    # An older run has them beside the trees.
    kept_at = tmp_path / "timings" / "shard-00000.parquet"
    kept_at.rename(tmp_path / "trees" / "timings-shard-00000.parquet")
    (old, _) = stored.load(tmp_path / "trees" / "shard-00000.parquet")
    assert old.timings.total == first.timings.total


def test_best_of_n_times_its_scores() -> None:
    tree = search(BestOfNSettings(samples=3, step=RULE))
    assert (tree.timings.scoring[tree.leaves] >= 0).all()
