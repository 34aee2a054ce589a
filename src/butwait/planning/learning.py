"""The work of stages that make data and train on it."""

import math
from typing import Any

from butwait.engines.scheduling.rows import FIXED, most_problems, rows_that_pay
from butwait.planning.drawing import searching
from butwait.planning.known import SetFacts, facts
from butwait.planning.work import EXTERNAL, SEARCHED, SOLVED, Counting, Drawing, Work


def prm(c: Counting, name: str, stage: Any) -> Work:
    [facts_] = c.sets([stage.problems]) or [SetFacts(0, 0, 0)]
    roll = stage.rollouts
    limit = c.limit(roll.steps, facts_.longest)
    path, prompt = limit * c.share(name), facts_.question + c.prompt_around
    shown = c.around(stage.prompt or c.recipe.prompt)  # to the reward model
    more = roll.solutions * roll.prefixes * roll.completions
    drawn = facts_.problems * (roll.solutions + more / 2) * path
    rollouts = facts_.problems * (roll.solutions + more) * (1 - stage.heldout)
    share = stage.batch_size * stage.accumulation_steps
    steps = stage.max_steps or math.ceil(stage.epochs * rollouts / share)
    longest = math.ceil(facts_.longest + c.prompt_around + limit)
    example = math.ceil(facts_.longest + shown + limit)
    beside = max(roll.solutions, more)
    pays = rows_that_pay(c.recipe.engine)
    flight = most_problems(roll.concurrency, facts_.problems, beside, pays)
    return Work(
        drawn=drawn,
        read=facts_.problems * prompt,
        trained=steps * share * (facts_.question + shown + path),
        drawing=Drawing(flight * beside, flight, prompt, path, longest),
        example=facts_.question + shown + path,
        longest_example=min(example, stage.max_length or example),
        steps=steps,
        attempts=drawn,
        problems=facts_.problems,
        assumed=(facts_.assumed,) if facts_.assumed else (),
    )


def data(c: Counting, name: str, stage: Any) -> Work:
    trees = list(c.recipe.inputs(name, "trees"))
    per, limit, budget = (
        getattr(stage, key, None) for key in ("per_question", "limit", "loss_tokens")
    )
    assumed: tuple[str, ...] = ()
    if trees:
        searched = [c.done[source] for source in trees]
        drawings = [work.drawing for work in searched if work.drawing is not None]
        questions = max((work.problems for work in searched), default=0)
        path = max((d.path for d in drawings), default=0.0)
        prompt = max((d.prompt for d in drawings), default=0.0)
        longest = max((d.longest for d in drawings), default=0)
        examples = questions * SOLVED * (per or 1)
        assumed = (f"{name}: {SOLVED:.0%} of the questions give examples",)
    else:
        sets = c.sets(stage.problem_sets)
        settings = [
            c.recipe.problems[each] for each in stage.problem_sets if each in c.recipe.problems
        ]
        known = [facts()["sets"].get(each.source, {}) for each in settings]
        path = max((float(each.get("solution_tokens", 0)) for each in known), default=0.0)
        most = max((int(each.get("longest_solution_tokens", 0)) for each in known), default=0)
        if not path:
            path, most = float(EXTERNAL), 4 * EXTERNAL
            assumed = (f"{name}: solutions of {EXTERNAL} tokens, the longest four times that",)
        prompt = max((each.question for each in sets), default=0) + c.prompt_around
        longest = max((each.longest for each in sets), default=0) + c.prompt_around + most
        examples = float(sum(each.problems for each in sets))
    if limit is not None:
        examples = min(examples, float(limit))
    if budget is not None and path:
        examples = min(examples, budget / path)
    drawn, drawing = _confirmations(c, stage, trees, examples, path, prompt, longest)
    return Work(
        drawn=drawn,
        drawing=drawing,
        examples=examples,
        example=prompt + path,
        longest_example=longest,
        assumed=assumed,
    )


def _confirmations(
    c: Counting,
    stage: Any,
    trees: list[str],
    examples: float,
    path: float,
    prompt: float,
    longest: int,
) -> tuple[float, Drawing | None]:
    """What is drawn to see whether branches are wrong: half a path each."""
    confirm = getattr(stage, "confirm", None)
    if confirm is None or not trees:
        return 0.0, None
    completions = int(getattr(confirm, "completions", 1))
    asked = getattr(c.recipe.stages[trees[0]], "concurrency", FIXED)
    pays = rows_that_pay(c.recipe.engine)
    flight = most_problems(asked, c.done[trees[0]].problems, completions, pays)
    drawing = Drawing(flight * completions, flight, prompt, path, longest)
    return examples * completions * path / 2, drawing


def sft(c: Counting, name: str, stage: Any) -> Work:
    data = [c.done[source] for source in c.recipe.inputs(name, "data")]
    examples = sum(work.examples for work in data)
    tokens = sum(work.examples * work.example for work in data) / max(1.0, examples)
    longest = max((work.longest_example for work in data), default=0)
    assumed: tuple[str, ...] = ()
    if stage.max_length is not None:
        longest = min(longest, stage.max_length) if longest else stage.max_length
        tokens = min(tokens, float(longest))
    if c.context is not None:
        longest = min(longest, c.context)
    share = stage.batch_size * stage.accumulation_steps
    rows = examples
    if stage.packing:
        longest = stage.max_length or longest
        rows = examples * tokens / max(1, longest)
        tokens = float(longest)
    steps = stage.max_steps or math.ceil(stage.epochs * rows / share)
    return Work(
        trained=steps * share * tokens,
        example=tokens,
        longest_example=int(longest),
        steps=steps,
        assumed=assumed,
    )


def grpo(c: Counting, name: str, stage: Any) -> Work:
    [facts_] = c.sets([stage.problems]) or [SetFacts(0, 0, 0)]
    limit, prompt = c.limit(stage.step, facts_.longest), facts_.question + c.prompt_around
    path = limit * c.share(name)
    generations = math.ceil(stage.steps / stage.steps_per_generation)
    fresh = stage.completions * path if getattr(stage, "draws_groups", True) else 0.0
    searched = scored = 0.0
    paths, longest, judged = min(stage.completions, facts_.problems * stage.group), 0, False
    if (sampler := getattr(stage, "sampler", None)) is not None:
        found = searching(c, name, [facts_], sampler, None, stage.concurrency)
        share = SEARCHED * (stage.mu_until if stage.mode == "mixed" else 1.0)
        each = found.drawn / max(1, facts_.problems)
        searched = stage.questions * share * each
        judged = found.scored > 0
        scored = searched if judged else 0.0
        assert found.drawing is not None
        paths, longest = max(paths, found.drawing.paths), found.drawing.longest
    drawn = generations * (fresh + searched)
    if stage.token_budget is not None and drawn > stage.token_budget:
        shrunk = stage.token_budget / drawn
        generations = math.ceil(generations * shrunk)
        drawn = float(stage.token_budget)
    steps = min(stage.steps, generations * stage.steps_per_generation)
    looks = _looks(c, stage, steps, path)
    trained = steps * stage.completions / stage.minibatches * (prompt + path)
    longest = max(longest, math.ceil(facts_.longest + c.prompt_around + limit))
    return Work(
        drawn=drawn + looks,
        read=generations * stage.questions * prompt,
        scored=generations * scored,
        trained=trained,
        referred=trained if _refers(stage) else 0.0,
        drawing=Drawing(paths, stage.questions, prompt, path, longest, judged=judged),
        example=prompt + path,
        longest_example=longest,
        steps=steps,
        trees=generations * searched,
        problems=facts_.problems,
        assumed=(facts_.assumed,) if facts_.assumed else (),
    )


def _looks(c: Counting, stage: Any, steps: int, path: float) -> float:
    if stage.selection is None:
        return 0.0
    held = sum(s.problems for s in c.sets([stage.selection.problems]))
    return (steps // stage.selection.every + 2) * held * stage.selection.samples * path


def _refers(stage: Any) -> bool:
    """Whether the loss compares with the model that the training began with."""
    loss = stage.loss
    if loss.beta is not None:
        return bool(loss.beta)
    return loss.preset not in ("dr_grpo", "dapo")  # whose papers leave it out
