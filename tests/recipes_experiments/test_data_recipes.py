"""The recipes that train on solutions, from end to end, with tiny weights of the architectures."""

from pathlib import Path

import pytest
from chat_models import save_chat_model
from small_recipes import QUESTIONS, RIGHT, small, small_phi, solution

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.pipeline.run import run_recipe
from butwait.problems.grading import Grader
from butwait.recipe.load import load_recipe
from butwait.running.stages import read_stage
from butwait.stages.context import StageRun
from butwait.stages.kinds import STAGES
from butwait.synthesis.dataset import load_examples


@pytest.mark.parametrize(
    ("recipe", "architecture"),
    [
        ("limo_sft/phi4", "Phi3"),
        pytest.param("limo_sft/granite_8b", "Granite", marks=pytest.mark.slow),
        pytest.param("limo_sft/llama_8b", "Llama", marks=pytest.mark.slow),
        pytest.param("limo_sft/qwen_32b", "Qwen2", marks=pytest.mark.slow),
    ],
)
def test_limo_sft(recipe: str, architecture: str, question_files: Path, tmp_path: Path) -> None:
    tokenizer = save_chat_model(tmp_path / "model", architecture)
    loaded = load_recipe(recipe, STAGES, small(recipe, tmp_path / "model", question_files))
    records = run_recipe(loaded, tmp_path / "run")
    examples = load_examples(tmp_path / "run/traces/dataset")
    assert {e.text for e in examples} == {solution(q) for q in QUESTIONS["limo"]}
    trained = records["sft"]["metrics"]
    tokens = [len(solution(q)) + 1 for q in QUESTIONS["limo"]]  # EOS too
    assert (trained["examples"], trained["encoded_again"]) == (2, 0)
    assert trained["trained_tokens"] == 2 * sum(tokens)
    for stage, problems in (("after_aime", "aime24"), ("after_math", "math500")):
        assert records[stage]["metrics"][f"{problems}/sample"]["n"] == 2
    assert (
        load_tokenizer(ModelSettings(name=str(tmp_path / "run/sft/model"))).eos_token
        == tokenizer.eos_token
    )


@pytest.mark.slow
def test_an_epoch_of_the_training_is_evaluated(question_files: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model", "Llama")
    words = [
        *small("limo_sft/llama_8b", tmp_path / "model", question_files),
        "stages.sft.max_steps=null",
        "stages.sft.epochs=2",
        "stages.sft.keep_epochs=true",
        "stages.after_math.checkpoint=1",
    ]
    recipe = load_recipe("limo_sft/llama_8b", STAGES, words)
    records = run_recipe(recipe, tmp_path / "run")
    assert records["after_math"]["metrics"]["math500/sample"]["n"] == 2
    done = {name: read_stage(tmp_path / "run" / name) for name in records}
    with Grader() as grader:
        policies = {
            name: StageRun(recipe, name, done[name], done, {}, grader).model.name
            for name in ("base_math", "after_aime", "after_math")
        }
    assert policies == {
        "base_math": str(tmp_path / "model"),
        "after_aime": str(tmp_path / "run/sft/model"),
        "after_math": str(tmp_path / "run/sft/epochs/1/model"),
    }


def test_limo_sft_has_the_published_settings() -> None:
    for name in ("phi4", "granite_8b", "llama_8b", "qwen_32b"):
        sft = load_recipe(f"limo_sft/{name}", STAGES).stages["sft"]
        assert (sft.epochs, sft.schedule, sft.warmup_ratio, sft.max_length) == (
            15,
            "cosine",
            0,
            16384,
        )
        assert sft.batch_size * sft.accumulation_steps == 32
        assert sft.learning_rate == 10 * 5e-6
        assert sft.lora.four_bit == (name == "qwen_32b")


@pytest.mark.slow
def test_the_branches_of_phi4_share_one_search(
    phi: Path, question_files: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_recipe(
        load_recipe("phi4_pf_limo", STAGES, small_phi("phi4_pf_limo", phi, question_files)), run
    )
    shared = {name: read_stage(run / name).record for name in ("search", "base_aime", "base_math")}
    assert shared["search"]["metrics"]["solved"] == 2
    for recipe in ("phi4_backtrack", "phi4_correct_only", "phi4_limo_380"):
        loaded = load_recipe(recipe, STAGES, small_phi(recipe, phi, question_files))
        assert loaded.name == "phi4"
        run_recipe(loaded, run)
        assert {name: read_stage(run / name).record for name in shared} == shared
    everything = load_recipe(
        "phi4_branches", STAGES, small_phi("phi4_branches", phi, question_files)
    )
    alone = {p.name: read_stage(p).record for p in run.iterdir() if (p / "stage.json").is_file()}
    records = run_recipe(everything, run)
    for name in set(records) - {"report"}:
        assert records[name] == alone[name], name

    mistaken = load_examples(run / "backtrack/dataset")
    assert {span.role for e in mistaken for span in e.spans} == {"mistake", "doubt", "recovery"}
    assert all(e.text.endswith("\\boxed{3}") and "Sub." in e.text for e in mistaken)
    assert {e.text for e in load_examples(run / "correct/dataset")} == {RIGHT}
    own, theirs = load_examples(run / "own_380/dataset"), load_examples(run / "limo_380/dataset")
    assert {e.problem_id for e in own} == {e.problem_id for e in theirs} == set(QUESTIONS["limo"])
    assert {e.text for e in own} == {RIGHT}
    assert {e.text for e in theirs} == {solution(q) for q in QUESTIONS["limo"]}
