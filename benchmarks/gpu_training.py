"""The part of `gpu.py` that learns: the loop on sums, then vLLM with what it trained."""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gpu_card import memory
from gpu_parts import SEED, Figures, SkippedError

from butwait.engines.models import find_gguf, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.pipeline.run import run_recipe
from butwait.problems.settings import PromptSettings
from butwait.recipe.load import load_recipe
from butwait.records import Key, Problem, UserError
from butwait.stages.kinds import STAGES

EXAMPLES = """\
Question: 4 + 7 + 2 + 5
4 + 7 = 11
11 + 2 = 13
13 + 5 = 18
\\boxed{18}

Question: 6 + 3 + 8 + 1 + 9
6 + 3 = 9
9 + 8 = 17
17 + 1 = 18
18 + 9 = 27
\\boxed{27}

Question: {question}"""


def write_sums(file: Path, count: int, seed: int, seen: set[str]) -> None:
    """Different sums of four or five digits; none of ``seen``, which they join."""
    draw, lines = np.random.default_rng(seed), []
    while len(lines) < count:
        terms = draw.integers(1, 10, draw.integers(4, 6)).tolist()
        question = " + ".join(map(str, terms))
        if question not in seen:
            seen.add(question)
            lines.append({"id": f"{file.stem}-{len(lines)}", "question": question,
                          "answer": str(sum(terms))})  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def problem_sets(folder: Path, small: bool) -> dict[str, Any]:
    """Of the loop: sums of digits; where it is rehearsed, what the tiny model knows."""
    if small:
        splits = {"test": "test", "prm": "train", "hunt": "search"}
        return {
            name: {"source": "arithmetic", "split": splits[name], "limit": 8} for name in splits
        }
    seen: set[str] = set()
    for seed, (name, size) in enumerate({"test": 100, "prm": 48, "hunt": 96}.items()):
        write_sums(folder / f"{name}.jsonl", size, seed, seen)
    return {name: {"source": f"{name}.jsonl"} for name in ("test", "prm", "hunt")}


def loop_recipe(folder: Path, small: bool) -> Path:
    """Reward model, search, fine-tuning and GRPO-Direct on sums, as small as they still learn."""
    limit = 48 if small else 72
    whole_path = {"delimiters": [], "max_tokens": limit}
    lines = {"delimiters": ["\n"], "max_tokens": limit}
    sampling = {"temperature": 0.8}
    sample = {"sample": {"k": 2, "sampler": {"kind": "independent", "step": whole_path,
                                             "sampling": sampling}}}  # fmt: skip
    evaluate = {"kind": "evaluate", "problems": ["test"], "methods": sample, "concurrency": 64}
    search = {"kind": "particle_filter", "particles": 4 if small else 16, "step": lines}
    batch, rate = 4 if small else 32, 5e-5
    content = {
        "model": {"name": "tiny", "device": "cpu"}
        if small
        else {"name": "smollm2", "dtype": "bfloat16"},
        "engine": {"kind": "transformers", "slots": 16 if small else 512},
        "prompt": {"template": "{question}"}
        if small
        else {"style": "plain", "template": EXAMPLES},
        "problems": problem_sets(folder, small),
        "stages": {
            "base": evaluate,
            "prm": {
                "kind": "prm",
                "problems": "prm",
                "rollouts": {"solutions": 8, "prefixes": 0, "steps": lines, "sampling": sampling,
                             "concurrency": 64},
                "epochs": 1, "batch_size": batch, "learning_rate": rate, "precision": "mixed",
            },
            "search": {"kind": "search", "from": ["prm"], "problems": "hunt",
                       "sampler": search | {"sampling": sampling}, "concurrency": 32},
            "verified": {"kind": "verified", "from": ["search"], "per_question": 2},
            "sft": {"kind": "sft", "from": ["verified"], "epochs": 2, "batch_size": batch,
                    "learning_rate": rate, "precision": "mixed"},
            "after": evaluate | {"from": ["sft"]},
            "direct": {
                "kind": "grpo_direct", "from": ["prm"], "problems": "hunt",
                "steps": 2 if small else 8, "questions": 2 if small else 32, "group": 4 if small
                else 8, "batch_size": 8 if small else 64, "learning_rate": 1e-5,
                "precision": "mixed", "step": whole_path, "sampler": search,
                "generation": {"slots": 16 if small else 512}, "save_steps": None,
            },
            "after_direct": evaluate | {"from": ["direct"]},
        },
    }  # fmt: skip
    recipe = folder / "sums.yaml"
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    return recipe


@contextmanager
def stages_told(figures: Figures, run: Path) -> Iterator[None]:
    """Adds each stage of a run when it ends, and an unfinished one at the end of the block: a part
    that is killed within a stage keeps those before it."""
    ended, told = threading.Event(), set()

    def watch() -> None:
        last = False
        while not last:
            last = ended.wait(0.5)
            for file in sorted(run.glob("*/stage.json"), key=os.path.getmtime):
                stage, name = json.loads(file.read_text()), file.parent.name
                if name not in told and (last or stage["status"] == "complete"):
                    told.add(name)
                    kept = ("status", "seconds", "metrics", "cost")
                    figures.add(**{name: {key: stage.get(key) for key in kept}})

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def training(figures: Figures, small: bool) -> None:
    """The loop, then what the card still holds, what another process may take of it, and vLLM."""
    if not small:
        try:
            find_gguf()
        except UserError as error:
            raise SkippedError(str(error)) from error
    start = memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        recipe = load_recipe(str(loop_recipe(folder, small)), STAGES)
        with stages_told(figures, folder / "run"):
            run_recipe(recipe, folder / "run")
        os.chdir("/")
        left = memory()
        figures.add(before=start, afterwards=left)
        if left:
            figures.add(left_on_the_card_gb=round(start["free"] - left["free"], 2))
        vllm_afterwards(figures, folder / "run" / "sft" / "model", small)


def vllm_afterwards(figures: Figures, model: Path, small: bool) -> None:
    """Loads vLLM with the trained model on the card that this process trained on, and samples."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        figures.add(vllm_afterwards={"skipped": f"vLLM is not installed here ({error})"})
        return
    from butwait.engines.kinds.vllm import VllmSettings, start_vllm

    # Eager: to capture graphs takes longer than all else here.
    settings = VllmSettings(
        kind="vllm", capacity=256, max_rows=16, gpu_memory=0.3, options={"enforce_eager": True}
    )
    trained = ModelSettings(name=str(model), dtype="float32" if small else "bfloat16")
    template = "{question}" if small else EXAMPLES
    asked = [Problem(f"q{i}", f"{i} + 7 + 2 + 5", str(i + 14)) for i in range(1, 5)]
    step = StepRule(delimiters=(), max_tokens=48, stop_at_box=False)

    async def sample() -> int:
        engine = start_vllm(
            trained,
            load_tokenizer(trained),
            settings,
            PromptSettings(style="plain", template=template),
        )
        try:
            results = await engine.extend(
                [engine.start(problem) for problem in asked],
                step,
                Sampling(temperature=0.8),
                [Key.of(SEED, problem.id) for problem in asked],
            )
        finally:
            await engine.close()
        return sum(len(result.token_ids) for result in results)

    try:
        tokens = asyncio.run(sample())
    except UserError as error:
        figures.add(vllm_afterwards={"failed": str(error)})
        raise
    figures.add(vllm_afterwards={"worked": True, "questions": len(asked), "tokens": tokens})
