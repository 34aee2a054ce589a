"""A trained model that is taken by its folder is asked as its run asked it."""

import json
import logging
from pathlib import Path

import pytest
import yaml

import butwait
from butwait.api.question import SUITED, search_recipe
from butwait.server.methods import Methods
from butwait.server.settings import ServeSettings

OWN = {"style": "chat", "system": None, "template": "Q: {question}", "date": "2024-07-26"}
SET = {"source": "q.jsonl"}


def trained(stage: Path, *, model: str = "tiny", kind: str = "sft", **recipe: object) -> Path:
    """The folder of a trained model, without its weights, and the record of its stage."""
    folder = stage / "model"
    folder.mkdir(parents=True)
    recipe = {"model": {"name": model}, "prompt": OWN, "seed": 0} | recipe
    record = {"name": stage.name, "kind": kind, "settings": {"kind": kind, "recipe": recipe}}
    (stage / "stage.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("kind", ["sft", "grpo", "grpo_direct"])
def test_the_prompt_of_the_training_and_the_step_of_its_model(tmp_path, kind):
    folder = trained(tmp_path / "run" / "stage", kind=kind)
    for model in (str(folder), folder, {"name": str(folder)}):
        content = search_recipe(SET, model=model)
        assert content["model"]["name"] == str(folder)
        assert content["prompt"] == OWN
        assert content["stages"]["search"]["sampler"]["step"] == SUITED["tiny"]["step"]
    plain = {"template": "{question}"}
    assert search_recipe(SET, model=folder, prompt=plain)["prompt"] == plain
    served = Methods(ServeSettings(model=str(folder), particles=4))
    assert served.recipe.prompt.template == "Q: {question}"


def test_other_folders_have_the_recipe_s_defaults(tmp_path):
    alone = tmp_path / "model"
    alone.mkdir()
    assert "prompt" not in search_recipe(SET, model=str(alone))
    for damaged in ("{", "[]", '{"settings": 1}', '{"settings": {"recipe": {"prompt": "x"}}}'):
        (tmp_path / "stage.json").write_text(damaged)
        assert "prompt" not in search_recipe(SET, model=str(alone))


def test_an_epoch_and_a_model_trained_from_a_trained_one(tmp_path):
    first = trained(tmp_path / "a" / "sft")
    kept = tmp_path / "a" / "sft" / "epochs" / "1" / "model"
    kept.mkdir(parents=True)
    assert search_recipe(SET, model=kept)["prompt"] == OWN
    new = OWN | {"template": "{question}!"}
    second = trained(tmp_path / "b" / "sft", model=str(first), prompt=new)
    content = search_recipe(SET, model=second)
    assert content["prompt"] == new
    assert content["stages"]["search"]["sampler"]["step"] == SUITED["tiny"]["step"]
    circle = trained(tmp_path / "c" / "sft", model=str(tmp_path / "c" / "sft" / "model"))
    assert "step" not in search_recipe(SET, model=circle)["stages"]["search"]["sampler"]


def test_it_is_said_once(tmp_path, caplog):
    folder = trained(tmp_path / "run" / "sft")
    with caplog.at_level(logging.INFO):
        search_recipe(SET, model=folder, prompt={"template": "{question}"})
        assert caplog.messages == []
        search_recipe(SET, model=folder)
        search_recipe(SET, model=folder)
    record = tmp_path.resolve() / "run" / "sft" / "stage.json"
    told = f"{folder} is asked with the prompt of its training, 'Q: {{question}}' ({record})"
    assert caplog.messages == [told]


def test_all_functions_and_the_command_ask_it_so(own_folder, command):
    """With the weights of the tiny model in place of trained ones."""
    folder = trained(own_folder / "run" / "sft", prompt=OWN | {"template": "{question}"})
    shipped = Path(butwait.__file__).parent / "models" / "tiny"
    for file in shipped.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    question = "Calculate 2 + 2 + 3."
    tiny = butwait.solve(question, particles=4)
    found = butwait.solve(question, particles=4, model=folder)
    assert found.answers == tiny.answers == (("7", pytest.approx(1.0)),)
    [tree] = butwait.search([question], particles=4, model=folder)
    assert list(tree.prompt_ids) == list(tiny.tree.prompt_ids)
    code, out, _ = command(
        "solve", question, "--particles", "4", "--model", "run/sft/model", "--json"
    )
    assert (code, json.loads(out)["answer"]) == (0, "7")
    asked = [butwait.Problem("1", question, "7", "integer")]
    evaluation = butwait.evaluate(asked, model=folder, run_dir="other")
    written = yaml.safe_load(evaluation.recipe)
    assert written["prompt"]["template"] == "{question}"
    assert written["stages"]["evaluate"]["methods"]["plain"]["sampler"]["step"] == {
        "delimiters": [],
        "max_tokens": 64,
    }
