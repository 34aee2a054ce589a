"""Labels for a reward model from the loop's own trees, and which one guides a step."""

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from grpo_cases import direct_sampler, draw
from grpo_searching import EASY, NEVER, scripted
from grpo_searching import settings as searching
from safetensors.torch import load_file
from transformers import TrainingArguments, set_seed

from butwait.engines.models import load_tokenizer
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Counts, Grade, Key, Node, Problem, SearchTree, UserError
from butwait.reward_models.kinds.confidence import ConfidenceSettings
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.load import Policy
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.training.grpo import direct
from butwait.training.grpo.direct import Guide, tree_rollouts
from butwait.training.grpo.searches import SearchFolder
from butwait.training.grpo.settings import GrpoDirectSettings
from butwait.training.prm import train_prm
from butwait.training.settings import PrmSettings


def node(parent: int, tokens: list[int], finish: str) -> Node:
    ids = np.array(tokens, np.int32)
    return Node(parent, ids, "x" * len(tokens), np.zeros(len(tokens), np.float32), finish)


def made_by_hand(problem_id: str = "q") -> SearchTree:
    """
    root - 1 - 2 - 3 box, correct
             |   `- 4 eos, wrong
             `- 5 box, correct
         - 6 - 7 cut
             `- 8 box, ungradable
         - 9 killed
    """
    nodes = [
        node(-1, [], "step"),
        node(0, [1, 1], "step"),
        node(1, [2], "step"),
        node(2, [3, 3, 3], "box"),
        node(2, [4, 0], "eos"),
        node(1, [5], "box"),
        node(0, [6], "step"),
        node(6, [7, 7], "length"),
        node(6, [8], "box"),
        node(0, [9], "step"),
    ]
    return SearchTree(
        problem_id=problem_id,
        sampler="particle_filter",
        prompt_ids=np.array([7], np.int32),
        nodes=nodes,
        populations=[],
        leaves=np.array([3, 4, 5, 7, 8], np.int32),
        log_weights=np.full(5, -np.log(5)),
        log_evidence=0.0,
        outcome="complete",
        counts=Counts(),
        grades={
            3: Grade("1", "correct"),
            4: Grade("2", "wrong"),
            5: Grade("1", "correct"),
            8: Grade("?", "ungradable"),
        },
    )


def test_prefixes_are_labelled_by_the_paths_through_them() -> None:
    rollouts = tree_rollouts(made_by_hand())
    rows = [
        (
            r.token_ids.tolist(),
            r.step_ends.tolist(),
            r.status,
            r.finish,
            r.verified.tolist(),
            r.completions.tolist(),
            r.shared_steps,
            r.sampled_tokens,
        )
        for r in rollouts
    ]
    assert rows == [
        ([1, 1, 2, 3, 3, 3], [2, 3, 6], "correct", "box", [2, 1, 1], [3, 2, 1], 0, 6),
        ([1, 1, 2, 4, 0], [2, 3, 5], "wrong", "eos", [2, 1, 0], [3, 2, 1], 2, 2),
        ([1, 1, 5], [2, 3], "correct", "box", [2, 1], [3, 1], 1, 1),
        # The ungradable path is no evidence about node 6; the cut one counts as not verified.
        ([6, 7, 7], [1, 3], "truncated", "length", [0, 0], [1, 1], 0, 3),
    ]
    assert {r.problem_id for r in rollouts} == {"q"}
    assert all(r.prompt_ids.tolist() == [7] for r in rollouts)
    # Every token of a graded path is counted once.
    assert sum(r.sampled_tokens for r in rollouts) == 2 + 1 + 3 + 2 + 1 + 1 + 2


def test_a_tree_without_a_finished_path_has_no_rollouts() -> None:
    tree = made_by_hand()
    tree.nodes = [tree.nodes[0], tree.nodes[9]]
    tree.grades = {}
    assert tree_rollouts(tree) == []


def settings(**changes: Any) -> GrpoDirectSettings:
    return GrpoDirectSettings.model_validate({"questions": 4, "batch_size": 4} | changes)


def make(chosen: GrpoDirectSettings, reward_model: Any, output: Path) -> Guide:
    policy: Any = SimpleNamespace(prompt=None)
    trees = SearchFolder(output / "searches")
    return Guide(chosen, reward_model, policy, None, trees, output / "prm", Key.of(0, "prm"))


def test_a_search_that_needs_rewards_must_have_a_reward_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the sampler particle_filter needs a reward model: name a"):
        make(settings(), None, tmp_path)
    plain = make(settings(sampler={"kind": "independent", "samples": 8}), None, tmp_path)
    assert plain.at(3) is None


def test_only_a_trained_reward_model_is_trained_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only the reward model of a prm stage can be trained agai"):
        make(settings(prm={}), ConfidenceSettings(kind="confidence"), tmp_path)


class Trainings:
    """Takes the place of the trainings and of loading their models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.loads: list[str] = []
        monkeypatch.setattr(direct, "train_prm", self.train)
        monkeypatch.setattr(direct, "load_reward_model", self.load)
        monkeypatch.setattr(direct, "read_prompt", lambda folder: None)  # the policy's

    refuses: frozenset[str] = frozenset()
    """Steps whose trainings end with a mistake, once the model is written."""

    def train(
        self,
        start: Any,
        rollouts: Any,
        settings: Any,
        prompt: Any,
        folder: Path,
        *_: Any,
        **__: Any,
    ) -> Any:
        self.calls.append((start.name, folder.name, len(rollouts)))
        self.shown = prompt, {tuple(rollout.prompt_ids.tolist()) for rollout in rollouts}
        # As any training does, whatever one runs around it.
        set_seed(1)
        Accelerator(cpu=True)
        TrainingArguments(output_dir=str(folder / "work"), use_cpu=True)
        (folder / "model").mkdir(parents=True)
        audit = {"within_question_auc": 0.8 if folder.name < "00000006" else None}
        (folder / "audit.json").write_text(json.dumps(audit))
        if folder.name in self.refuses:
            raise UserError("the loss became nan")

    def load(self, chosen: TrainedSettings, *_: Any) -> str:
        self.loads.append(chosen.model)
        return chosen.model


def test_it_is_trained_every_so_many_steps_from_itself_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(monkeypatch)
    chosen = settings(prm={"every": 2, "window": 3})
    folder = SearchFolder(tmp_path / "searches")
    guide = make(chosen, TrainedSettings(model="first"), tmp_path)
    assert guide.at(0) == guide.at(1) == "first"
    assert guide.auc is None
    # Trees of one question alone are too few.
    folder.keep(made_by_hand("a"), 1)
    assert guide.at(2) == "first"
    folder.keep(made_by_hand("b"), 3)
    folder.keep(made_by_hand("c"), 4)
    # Trained on what was searched before step 4, three steps back at most.
    second = str(tmp_path / "prm/00000004/model")
    assert guide.at(4) == guide.at(5) == second
    assert trainings.calls == [("first", "00000004", 8)]
    assert guide.auc == 0.8
    folder.keep(made_by_hand("d"), 5)
    assert guide.at(6) == str(tmp_path / "prm/00000006/model")
    assert guide.auc is None  # its audit could not tell
    assert trainings.calls[1:] == [(second, "00000006", 12)]
    # Not loaded more often than it changes.
    assert trainings.loads == ["first", second, str(tmp_path / "prm/00000006/model")]


def test_it_is_shown_questions_as_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt may be another one than the policy's, behind which the trees were grown."""
    trainings = Trainings(monkeypatch)
    short = PromptSettings(style="plain", template="{question}")
    monkeypatch.setattr(direct, "read_prompt", lambda folder: short)
    tokenizer = load_tokenizer(ModelSettings(name="tiny", device="cpu"))
    guide = make(settings(prm={"every": 2}), TrainedSettings(model="first"), tmp_path)
    questions = [Problem(id=name, question=f"{name} + 1", answer="2") for name in ("a", "b")]
    guide.tokenizer, guide.problems = tokenizer, questions
    for problem in questions:
        guide.trees.keep(made_by_hand(problem.id), 1)
    guide.at(2)
    asked = {tuple(tokenizer.encode(p.question, add_special_tokens=False)) for p in questions}
    found = trainings.shown
    assert found[0] == short
    assert {ids[-len(next(iter(asked))) :] for ids in found[1]} == asked


def test_a_resume_trains_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(monkeypatch)
    chosen = settings(prm={"every": 2, "window": 9})
    folder = SearchFolder(tmp_path / "searches")
    for step, name in enumerate("abcdef"):
        folder.keep(made_by_hand(name), step)
    guide = make(chosen, TrainedSettings(model="first"), tmp_path)
    for step in range(6):
        guide.at(step)
    assert [call[1] for call in trainings.calls] == ["00000002", "00000004"]
    resumed = make(chosen, TrainedSettings(model="first"), tmp_path)
    assert resumed.at(1) == "first"
    assert resumed.auc is None
    assert resumed.at(3) == str(tmp_path / "prm/00000002/model")
    assert resumed.auc == 0.8
    assert resumed.at(5) == str(tmp_path / "prm/00000004/model")
    assert len(trainings.calls) == 2


def test_the_training_around_it_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume, which finds it trained, then draws the same; and the precision stays."""
    Trainings(monkeypatch)
    guide = make(settings(prm={"every": 2}), TrainedSettings(model="first"), tmp_path)
    for name in "ab":
        guide.trees.keep(made_by_hand(name), 1)

    def drawn() -> tuple[Any, ...]:
        return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002

    def seed() -> None:
        for start in (random.seed, np.random.seed, torch.manual_seed):
            start(5)

    seed()
    expected = drawn()
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        around = Accelerator(cpu=True, mixed_precision="bf16")
        GradientState()._set_sync_gradients(False)
        seed()
        guide.at(2)
        assert guide.auc == 0.8
        assert drawn() == expected
        assert around.mixed_precision == "bf16"
        assert not around.sync_gradients
        with around.autocast():
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert torch.is_autocast_enabled("cpu")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_a_training_that_cannot_be_done_leaves_the_model_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, and tried again at the next time, or in the next session."""
    said: list[tuple[str, int]] = []
    monkeypatch.setattr(direct, "say", lambda *words: said.append(words))
    trainings = Trainings(monkeypatch)
    trainings.refuses = frozenset({"00000004"})
    chosen = settings(prm={"every": 2, "window": 9})
    guide = make(chosen, TrainedSettings(model="first"), tmp_path)
    for step, name in enumerate("abcdef"):
        guide.trees.keep(made_by_hand(name), step)
    second = str(tmp_path / "prm/00000002/model")
    assert [guide.at(step) for step in (2, 4, 5)] == [second] * 3
    assert not (tmp_path / "prm/00000004").exists()
    assert guide.at(6) == str(tmp_path / "prm/00000006/model")
    assert [(start, name) for start, name, _ in trainings.calls] == [
        ("first", "00000002"), (second, "00000004"), (second, "00000006")
    ]  # fmt: skip
    ((line, level),) = said
    assert level == logging.WARNING
    assert "prm: at step 4" in line
    assert "the loss became nan" in line
    trainings.refuses = frozenset()
    resumed = make(chosen, TrainedSettings(model="first"), tmp_path)
    assert resumed.at(5) == str(tmp_path / "prm/00000004/model")


def test_few_rollouts_train_a_reward_model_in_one_step(tmp_path: Path) -> None:
    """The real training: the warm-up's share of one step is no mistake, and no step is lost."""
    tiny, prompt = ModelSettings(name="tiny", device="cpu"), PromptSettings()
    rollouts = [row for name in "abc" for row in tree_rollouts(made_by_hand(name))]
    train_prm(tiny, rollouts, PrmSettings(save_steps=None), prompt, tmp_path / "own", Key.of(1))
    first = TrainedSettings(model=str(tmp_path / "own/model"), device="cpu")
    guide = Guide(
        settings(prm={"every": 2, "save_steps": None, "logging_steps": 1}),
        first,
        Policy(tiny, prompt),
        load_tokenizer(tiny),
        SearchFolder(tmp_path / "searches"),
        tmp_path / "prm",
        Key.of(0, "prm"),
    )
    for name in "ab":
        guide.trees.keep(made_by_hand(name), 1)
    before = guide.at(1)
    assert guide.at(2) is not before
    (line,) = (tmp_path / "prm/00000002/log.jsonl").read_text().splitlines()
    assert json.loads(line)["learning_rate"] == 1e-5
    old, new = (
        load_file(folder / "model/model.safetensors")
        for folder in (tmp_path / "own", tmp_path / "prm/00000002")
    )
    assert old.keys() == new.keys()
    assert any(not torch.equal(weight, new[name]) for name, weight in old.items())


def test_where_nothing_is_searched_no_reward_model_is_trained_or_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: ScriptedEngine, grader: Grader
) -> None:
    trainings = Trainings(monkeypatch)
    guide = make(settings(prm={"every": 2, "window": 9}), TrainedSettings(model="first"), tmp_path)
    for step, name in enumerate("abcd"):
        guide.trees.keep(made_by_hand(name), step)
    assert guide.at(3, wanted=False) is None
    assert (trainings.calls, trainings.loads, guide.auc) == ([], [], None)
    assert guide.at(3) == str(tmp_path / "prm/00000002/model")
    # What was trained before a kill is known to the log of a resume.
    resumed = make(guide.settings, TrainedSettings(model="first"), tmp_path)
    assert resumed.at(3, wanted=False) is None
    assert resumed.auc == 0.8
    assert len(trainings.calls) == 1

    asked: list[bool] = []
    sampler = direct_sampler(searching(search_below=0.0), engine, None, grader)

    def at(step: int, wanted: bool) -> ScriptedRewardModel:
        asked.append(wanted)
        return scripted()

    sampler.guide = SimpleNamespace(at=at, auc=None)
    for problem in (EASY, NEVER):
        draw(sampler, engine, [problem])
    assert asked == [False, True]
