"""``import butwait``: one question, many, and what lies on disk; all as a recipe does it."""

import asyncio
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import butwait
import butwait.search.settings  # a package of the same name as a function
from butwait.api.objects import plain
from butwait.api.question import SUITED, search_recipe
from butwait.records import Problem, UserError
from butwait.reward_models.arithmetic import oracle
from butwait.reward_models.reward_model import Score
from butwait.search.rows import to_row

QUESTION = "Calculate 7 + 8 - 6."
PROMPT, STEP = SUITED["tiny"]["prompt"], SUITED["tiny"]["step"]
EXACT = {"kind": "transformers", "slots": 8, "prefill_chunk": 16, "deterministic": True}


def drawn(tree: butwait.SearchTree) -> bytes:
    """All that a search drew and weighed, without the verdicts."""
    return to_row(replace(tree, grades={})).to_pandas().to_json().encode()


def test_importing_it_imports_nothing_heavy():
    code = "import sys, butwait; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there():
    for name in butwait.__all__:
        assert getattr(butwait, name) is not None
    assert dir(butwait) == butwait.__all__
    assert butwait.search.settings.SAMPLERS  # it stays a package
    with pytest.raises(AttributeError, match="has no attribute 'sovle'"):
        butwait.sovle  # noqa: B018


@pytest.fixture(scope="module")
def solved() -> butwait.Solved:
    return butwait.solve(QUESTION, particles=8, seed=3, engine=EXACT, gold="9")


def test_what_the_answer_says(solved):
    tree = solved.tree
    weights = np.exp(tree.log_weights)
    behind = sum(
        weight
        for weight, leaf in zip(weights, tree.leaves, strict=True)
        if tree.nodes[leaf].finish == "box"
        and tree.path_text(leaf).endswith(f"\\boxed{{{solved.answer}}}")
    )
    assert solved.weight == pytest.approx(behind)
    assert solved.answers[0] == (solved.answer, solved.weight)
    assert sum(share for _, share in solved.answers) <= 1 + 1e-9
    assert solved.text.endswith(f"\\boxed{{{solved.answer}}}")
    assert solved.correct == (solved.answer == "9")
    assert solved.usage.policy_tokens == tree.counts.policy_tokens > 0
    assert solved.usage.prefilled_tokens == len(tree.prompt_ids)
    json.dumps(solved.row())


def test_a_recipe_of_one_question_and_the_command_grow_the_same_tree(
    solved, tmp_path, command, monkeypatch
):
    row = {"question": QUESTION, "answer": "9"}
    (tmp_path / "question.jsonl").write_text(json.dumps(row))
    recipe = yaml.safe_load(solved.recipe)
    recipe["problems"]["questions"]["source"] = str(tmp_path / "question.jsonl")
    butwait.run(recipe, tmp_path / "run")
    [tree] = butwait.load_trees(tmp_path / "run" / "search")
    assert drawn(tree) == drawn(solved.tree)
    assert tree.grades == solved.tree.grades

    seen: list[butwait.Solved] = []
    monkeypatch.setattr(
        "butwait.cli.solve.solve",
        lambda *words, **options: (seen.append(butwait.solve(*words, **options)), seen[0])[1],
    )
    code, told, _ = command("solve", QUESTION, "--particles", "8", "--seed", "3", "--json")
    assert code == 0
    again = butwait.solve(QUESTION, particles=8, seed=3)
    assert drawn(seen[0].tree) == drawn(again.tree)
    assert json.loads(told)["answer"] == again.answer
    assert json.loads(told)["usage"]["policy_tokens"] == again.usage.policy_tokens


def test_what_is_named_wins_over_the_method():
    filtered = {"kind": "particle_filter", "particles": 4, "step": {"max_tokens": 64}}
    content = search_recipe(
        {"source": "q.jsonl"},
        method=filtered,
        particles=8,
        step={"delimiters": ["\n"]},
        sampling={"temperature": 0.5},
    )
    assert content["stages"]["search"]["sampler"] == {
        "kind": "particle_filter",
        "particles": 8,
        "step": {"max_tokens": 64, "delimiters": ["\n"]},
        "sampling": {"temperature": 0.5},
    }
    assert filtered["particles"] == 4


def test_a_shorter_limit_leaves_plain_samples_one_step():
    content = search_recipe(
        {"source": "q.jsonl"}, model="mine", method="self_consistency", step={"max_tokens": 9}
    )
    wanted = {"delimiters": [], "max_tokens": 9}
    assert content["stages"]["search"]["sampler"]["step"] == wanted


def test_many_questions_are_searched_as_each_alone(solved):
    other = Problem("mine", "Calculate 2 + 2 + 3.", "7", "integer")
    first, second = butwait.search([QUESTION, other], particles=8, seed=3, engine=EXACT)
    alone = butwait.solve(other, particles=8, seed=3, engine=EXACT)
    assert [tree.problem_id for tree in (first, second)] == [solved.tree.problem_id, "mine"]
    assert drawn(first) == drawn(solved.tree)
    assert drawn(second) == drawn(alone.tree)


def test_a_source_as_in_a_recipe():
    given = {"source": "arithmetic", "split": "test", "limit": 2}
    trees = butwait.search(given, method="self_consistency", particles=4)
    assert [len(tree.leaves) for tree in trees] == [4, 4]
    assert all(tree.grades for tree in trees)


def test_a_reward_model_of_ones_own_is_an_object():
    judge = oracle()
    problem = Problem("mine", QUESTION, "9", "integer", metadata={"terms": [7, 8, -6]})
    found = butwait.solve(problem, particles=32, reward_model=judge)
    assert found.answer == "9"
    assert found.weight > 0.9
    assert "reward_model" not in found.recipe


def test_within_a_running_loop():
    async def both() -> tuple[butwait.Solved, butwait.Solved]:
        options = {"method": "independent", "particles": 2}
        return butwait.solve(QUESTION, **options), await butwait.asolve(QUESTION, **options)

    one, other = asyncio.run(both())
    assert one.text == other.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "partcle_filter"}, "did you mean particle_filter?"),
        ({"method": "but_wait", "particles": 3, "reward_model": "perfect"}, "'perfect' is no kind"),
        ({"particles": 0}, "solve: `particles` must be greater than 0"),
        ({"step": {"delimeters": ["\n"]}}, "did you mean delimiters?"),
        ({"gold": "9", "engine": {"kind": "vlm"}}, "did you mean vllm?"),
    ],
)
def test_mistakes_are_a_sentence(options, told):
    with pytest.raises(UserError) as mistake:
        butwait.solve(QUESTION, **options)
    assert told in str(mistake.value)


@pytest.mark.parametrize("question", ["", "  ", None, 7])
def test_no_question(question):
    with pytest.raises(UserError, match="a question is a text"):
        butwait.solve(question)


def test_an_option_that_there_is_not():
    with pytest.raises(UserError, match="search has no argument 'particle'; did you mean parti"):
        butwait.search([QUESTION], particle=3)
    with pytest.raises(UserError, match="search has no argument 'conc'"):
        butwait.search([QUESTION], run_dir="nowhere", conc=3)
    with pytest.raises(UserError, match="solve has no argument 'partcles'; did you mean particles"):
        butwait.solve(QUESTION, partcles=3)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("row", [{"question": QUESTION, "answer": "9"}, (QUESTION, "9")])
def test_a_row_that_is_no_problem(row):
    with pytest.raises(UserError, match=r"or a butwait\.Problem\(id, question, answer\), and this"):
        butwait.search([row])


def test_answers_that_are_numbers_or_nothing():
    assert butwait.grade(5, 5).correct
    assert butwait.grade(5.0, "5").correct
    assert not butwait.grade(6, "5").correct
    for wrong in ((None, "5"), ([5], "5"), (True, "5")):
        with pytest.raises(UserError, match="grade: response is a text or a number, and this is"):
            butwait.grade(*wrong)
    with pytest.raises(UserError, match=r"grade: gold is a text or a number, and this is \[5\]"):
        butwait.grade("5", [5])
    with pytest.raises(UserError, match=r"gold is a text or a number, and this is \[5\]"):
        butwait.solve(QUESTION, gold=[5])


def test_a_question_twice():
    with pytest.raises(UserError, match="stands there twice: 'Calculate"):
        butwait.search([QUESTION, QUESTION])


def test_nodes_as_a_table(tmp_path: Path):
    recipe = {
        "model": {"name": "tiny"},
        "prompt": PROMPT,
        "problems": {"q": {"source": "arithmetic", "limit": 2}},
        "stages": {
            "hunt": {
                "kind": "search",
                "problems": "q",
                "sampler": {
                    "kind": "particle_filter",
                    "particles": 4,
                    "step": SUITED["tiny"]["step"],
                },
                "reward_model": {"kind": "confidence"},
            }
        },
    }
    records = butwait.run(recipe, tmp_path)
    trees = butwait.load_trees(tmp_path / "hunt")
    table = trees.nodes().to_pandas()
    assert records["hunt"]["metrics"]["problems"] == len(trees) == 2
    assert len(table) == sum(len(tree.nodes) - 1 for tree in trees)
    for name in trees.problem_ids:
        tree, rows = trees[name], table[table.problem == name].set_index("node")
        leaves = rows.loc[sorted(set(tree.leaves.tolist()))]
        assert leaves.weight.sum() == pytest.approx(1)
        assert leaves.particles.sum() == 4
        assert rows.text[1] == tree.nodes[1].text
        assert rows.tokens.sum() == sum(len(node.token_ids) for node in tree.nodes)
        assert set(rows.status.dropna()) == {grade.status for grade in tree.grades.values()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--reward-model", "{kind: confidence, scale: 2.0"], "--reward-model"),
        (["--reward-model", "{kind: confidence, sale: 2.0}"], "did you mean scale?"),
        (["--reward-model", "{kind: [confidence]}"], "say which kind of reward model it is"),
        (["--temperature", "nan"], "temperature"),
        (["--particles", "0"], "--particles"),
    ],
)
def test_mistakes_in_a_terminal(words, told, command):
    code, _, said = command("solve", QUESTION, *words)
    assert code == 2
    assert told in said
    assert "Traceback" not in said


def test_a_reward_model_in_a_terminal_is_that_of_a_recipe(command, own_folder):
    (own_folder / "question.txt").write_text(QUESTION + "\n")
    words = ["--particles", "8", "--json", "--reward-model", "{kind: confidence, scale: 3.0}"]
    code, said, _ = command("solve", "question.txt", *words)
    judge = {"kind": "confidence", "scale": 3.0}
    assert code == 0
    assert json.loads(said)["answers"] == [
        list(pair) for pair in butwait.solve(QUESTION, particles=8, reward_model=judge).answers
    ]


def test_grading():
    assert butwait.grade(r"so it is \boxed{1/2}", "0.5").correct
    assert butwait.grade("3", "4").status == "wrong"


def test_a_reward_beyond_what_exp_holds_loses_no_search(command, own_folder):
    (own_folder / "strict.py").write_text(
        "class Strict:\n"
        "    clipped = 0\n"
        "    async def score(self, problem, paths):\n"
        "        from butwait.reward_models.reward_model import Score\n"
        "        return [Score(-1000.0, None, 0) for _ in paths]\n"
        "    def release(self, handles): pass\n"
        "    async def close(self): pass\n"
    )
    judge = "{kind: custom, factory: 'strict:Strict'}"
    code, said, told = command(
        "solve", QUESTION, "--particles", "4", "--json", "--reward-model", judge
    )
    assert (code, told) == (0, "")
    assert json.loads(said)["usage"]["policy_tokens"] > 0


@pytest.mark.parametrize("given", ["-", "question.txt"])
def test_a_question_that_is_not_in_utf8_is_one_sentence(given, command, own_folder, monkeypatch):
    raw = "Wie groß ist 1 + 1?".encode("latin-1")
    (own_folder / "question.txt").write_bytes(raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
    code, _, told = command("solve", given, "--particles", "4")
    place = "standard input" if given == "-" else given
    assert code == 2
    assert told.splitlines() == [
        f"butwait: {place} is not a text in UTF-8 (invalid continuation byte)"
    ]


def test_a_question_of_standard_input_is_read_as_utf8(command, own_folder, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(
        "butwait.cli.solve.solve",
        lambda text, **options: (seen.append(text), butwait.solve(QUESTION, particles=4))[1],
    )
    raw = io.BytesIO("Wie groß?\r\nGenau.\r\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="ascii"))
    assert command("solve", "-", "--json")[0] == 0
    assert seen == ["Wie groß?\nGenau."]
    monkeypatch.setattr(sys, "stdin", None)
    code, _, told = command("solve", "-")
    assert (code, told.splitlines()[0][:33]) == (2, "butwait: standard input is closed")


def test_numpy_numbers_and_texts_stand_in_settings_and_lists():
    given = {"t": np.float64(0.5), "n": np.int64(3), "name": np.str_("a"), "seeds": np.arange(2)}
    written = yaml.safe_dump(plain(given, "", stored=True))
    assert yaml.safe_load(written) == {"t": 0.5, "n": 3, "name": "a", "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("recipe", "overrides", "told"),
    [
        ({"model": {"name": "tiny"}}, ["seed=7"], "overrides are for a recipe's file"),
        ("model: {name: tiny}\nstages: {}\n" + "# long\n" * 100, (), "the text of a recipe"),
        ("no" * 300, (), "there is no recipe"),
        ({"name": 5, "stages": {}}, (), "model"),
    ],
)
def test_what_is_no_recipe_of_run(recipe, overrides, told, tmp_path: Path):
    with pytest.raises(UserError, match=told):
        butwait.run(recipe, tmp_path, overrides)


class _Judge:
    """Of a program's own, in its own kind of number."""

    clipped = 0

    def __init__(self, logit):
        self.logit = logit

    async def score(self, problem, paths):
        return [Score(self.logit, None, 1) for _ in paths]

    def release(self, handles):
        """Holds nothing."""

    async def close(self):
        """Holds nothing."""


def test_what_a_reward_model_of_ones_own_says_is_looked_at():
    found = butwait.solve(QUESTION, particles=2, reward_model=_Judge(np.float32(0.5)))
    assert {type(node.reward_logit) for node in found.tree.nodes[1:]} == {float}
    with pytest.raises(UserError, match="_Judge"):
        butwait.solve(QUESTION, particles=2, reward_model=_Judge(float("nan")))


@pytest.mark.parametrize("step", [{"think_end": ""}, {"delimiters": [""]}])
def test_an_empty_text_ends_no_step(step):
    with pytest.raises(UserError, match=next(iter(step))):
        butwait.solve(QUESTION, particles=2, step=step)
