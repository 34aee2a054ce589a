"""``butwait check``, and what ``butwait run`` looks at before it computes anything."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from butwait.engines.kinds import vllm
from butwait.recipe.load import shipped_recipes
from butwait.running.world import World, context_limit

Run = Callable[..., tuple[int, str, str]]

TOYS = """
from butwait.engines.scripted import ScriptedEngine
from butwait.reward_models.scripted import ScriptedRewardModel

NOT_A_FUNCTION = 3

def policy():
    return ScriptedEngine({"": {"\\\\boxed{3}": 0.5, "\\\\boxed{5}": 0.5}})

def reward():
    return ScriptedRewardModel(lambda problem, steps: 1.0)

def questions():
    return [{"question": "1 + 2", "answer": "3"}, {"question": "2 + 3", "answer": "5"}]

def others():
    return [{"question": "2 + 1", "answer": "3"}, {"question": "4 + 1", "answer": "5"}]
"""
RECIPE = """model: {name: tiny}
prompt: {template: "{question}"}
engine: {kind: scripted, script: "toys:policy"}
problems:
  asked: {source: "toys:questions"}
  sums: {source: "toys:others"}
stages:
  first:
    kind: evaluate
    problems: [asked]
    methods: {sample: {k: 2, sampler: {kind: independent, step: {delimiters: [], max_tokens: 8}}}}
  later:
    kind: search
    problems: sums
    reward_model: {kind: custom, factory: "toys:reward"}
    sampler: {kind: particle_filter, particles: 2, step: {delimiters: [], max_tokens: 8}}
  learned: {kind: verified, from: [later]}
  trained: {kind: sft, from: [learned], max_steps: 1}
  report: {kind: report}
"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "toys.py").write_text(TOYS)
    (own_folder / "mine.yaml").write_text(RECIPE)
    (own_folder / "empty").mkdir()
    for name in ("lora", "sft/adapter", "sft/model"):
        (own_folder / name).mkdir(parents=True)
    (own_folder / "sft/adapter/adapter_config.json").write_text("{}")
    (own_folder / "sft/model/config.json").write_text("{}")
    (own_folder / "lora" / "adapter_config.json").write_text("{}")
    return own_folder


@contextmanager
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.fixture
def dead() -> str:
    with listening() as url:
        return url


def sets(words: list[str]) -> list[str]:
    return [word for each in words for word in ("--set", each)]


LATER = "stages.later"
MISSING = [
    (
        [
            f"{LATER}.sampler.step.max_tokens=8",
            f"{LATER}.reward_model={{kind: confidence, measure: self_certainty, centre: 1, "
            "capacity: 7}",
        ],
        "paths of 8 tokens do not fit the context of the reward model 'confidence', 7 tokens",
    ),
    (
        [f"{LATER}.reward_model=null"],
        "`stages.later.reward_model`: the sampler particle_filter needs a reward model: name a prm",
    ),
    (
        ["stages.ask={kind: evaluate, problems: [asked], methods: {b: {sampler: {kind: dvts}}}}"],
        "`stages.ask.reward_model`: the sampler dvts needs a reward model",
    ),
    ([f"{LATER}.reward_model.factory=toys:rewrad"], "has no 'rewrad'; did you mean reward?"),
    ([f"{LATER}.reward_model.factory=toyz:reward"], "the current folder; did you mean toys?"),
    ([f"{LATER}.reward_model.factory=toys:NOT_A_FUNCTION"], "is a int and no function"),
    ([f"{LATER}.reward_model={{kind: classifier, name: ./gone}}"], "there is no model './gone'"),
    ([f"{LATER}.reward_model={{kind: classifier, name: empty}}"], "it has no config.json"),
    ([f"{LATER}.reward_model={{kind: trained, model: empty}}"], "there is no file 'empty/butwait_"),
    (
        [
            f"{LATER}.reward_model={{kind: ensemble, members: [{{kind: confidence}}, "
            "{kind: qwen_math_prm, name: ./gone}]}"
        ],
        "`stages.later.reward_model.members.1.name`: there is no model './gone'",
    ),
    ([f"{LATER}.reward_model={{kind: pooling, base_url: 'localhost:80'}}"], "is no address"),
    ([f"{LATER}.reward_model={{kind: pooling, base_url: 'http://x:y'}}"], "is no address"),
    (["stages.trained.lora={four_bit: true}"], "the package bitsandbytes is needed"),
    (["model.name=./gone"], "`model.name`: there is no model './gone'"),
    (["model.name=empty/model"], "'empty/model' (nor is there such a folder in empty/), and the"),
    (
        ["model.name=runs/mine/trained/model"],
        "no model 'runs/mine/trained/model': no such folder, and not a Hugging Face id (tiny and "
        "smollm2 are the names that butwait itself knows); what the stage 'trained' makes is taken "
        "by naming it in `from`",
    ),
    (
        [f"{LATER}.reward_model={{kind: trained, model: runs/mine/learned}}"],
        "no file 'runs/mine/learned/butwait_reward_model.json'; what the stage 'learned' makes is",
    ),
    (["model.name=sft/adapter"], "not a model: its merged weights are in sft/model"),
    (["model.name=lora"], "the folder lora holds an adapter (LoRA), not a model: merge it"),
    (
        [f"{LATER}.reward_model={{kind: classifier, name: lora}}"],
        "`stages.later.reward_model.name`: the folder lora holds an adapter (LoRA)",
    ),
    (["model.name=toys.py"], "toys.py is a file: a model is named by the folder that holds it"),
    (["model.device=cuda:1"], "`model.device`: there is no 'cuda:1' on this machine"),
    (["model.device=gpu"], "`model.device`: 'gpu' is no device: write auto, cpu, cuda or cuda:1"),
    (["model.device='cuda:'"], "`model.device`: 'cuda:' is no device"),
    (
        [f"{LATER}.reward_model={{kind: classifier, name: tiny, device: cuda}}"],
        "`stages.later.reward_model.device`: there is no 'cuda' on this machine",
    ),
    (
        [
            "stages.rl={kind: grpo, problems: sums, questions: 2, group: 8, step: {max_tokens: 8}, "
            "launch: {processes: 2}}"
        ],
        "`stages.rl.launch.processes`: 2 processes need a GPU each, and this machine has none",
    ),
    (
        ["stages.rl={kind: grpo, problems: sums, questions: 3, group: 16}"],
        "`stages.rl.questions`: a generation asks 3 questions and 'sums' has 2 with an answer: lo",
    ),
    (
        ["stages.rl={kind: grpo_direct, problems: sums, reward_model: {kind: confidence}}"],
        "`stages.rl.questions`: a generation asks 32 questions and 'sums' has 2 with an answer: lo",
    ),
    (
        ["stages.judge={kind: prm, problems: sums, validation: {}}"],
        "`stages.judge.problems`: a reward model needs 3 questions with an answer, one to train "
        "on, one for the audit, one for validation, and 'sums' has 2: give more problems",
    ),
    (["stages.trained.report_to=[trackio]"], "the package trackio is needed and not installed"),
    (["problems.sums={source: gone.jsonl}"], "gone.jsonl"),
    (["problems.sums={source: 'toys:gone'}"], "has no 'gone'"),
    (
        ["engine={kind: transformers}", f"{LATER}.sampler.step.max_tokens=1025"],
        "`stages.later.sampler.step.max_tokens`: paths of 1025 tokens do not fit the context of",
    ),
    (
        [
            "stages.rl={kind: grpo, problems: sums, questions: 2, group: 8, step: {max_tokens: 8}, "
            "launch: {processes: 2, config: gone.yaml}}"
        ],
        "`stages.rl.launch.config`: there is no file 'gone.yaml'",
    ),
]


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine with a CPU alone."""
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: None)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 0)


@pytest.mark.parametrize("what", ["check", "run"])
@pytest.mark.parametrize(("words", "told"), MISSING, ids=[case[1] for case in MISSING])
def test_what_a_later_stage_lacks_is_told_before_anything_is_computed(
    folder: Path, command: Run, what: str, words: list[str], told: str
) -> None:
    code, _, said = command(what, "mine.yaml", *sets(words))
    assert code == 2, said
    (line,) = said.splitlines()
    assert line.startswith("butwait: ")
    assert told in line
    assert not (folder / "runs" / "mine" / "first").exists()
    if "problems" not in words[0] or what == "check":
        assert line.startswith("butwait: --set ")


def test_all_that_is_lacking_is_told(folder: Path, command: Run, dead: str) -> None:
    words = [
        f"{LATER}.reward_model={{kind: pooling, base_url: '{dead}', name: ./gone}}",
        "stages.trained.lora={four_bit: true}",
        "problems.asked.source=toys:gone",
    ]
    for what in ("check", "run"):
        code, _, said = command(what, "mine.yaml", *sets(words))
        assert code == 2
        assert len(said.splitlines()) == 4, said
        for told in ("does not answer (Connection refused)", "./gone", "bitsandbytes", "toys:gone"):
            assert told in said


@pytest.mark.parametrize(("gib", "refused"), [("1e6", True), ("0.5", False)])
def test_memory_that_this_machine_does_not_have(
    gib: str, refused: bool, folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "package", lambda *given: None)
    monkeypatch.setattr(vllm, "_built", lambda: "vllm 0.31.0")
    words = sets([f"engine={{kind: vllm, host_gb: {gib}}}", "engine.options={}"])
    code, _, said = command("check", "mine.yaml", *words)
    assert ("`engine.host_gb`: this machine has" in said) == refused
    assert code == (2 if refused else 0), said


def test_a_whole_recipe_passes_and_nothing_is_written(folder: Path, command: Run) -> None:
    before = sorted(folder.rglob("*.yaml"))
    code, out, said = command("check", "mine.yaml", "--set", "seed=3")
    assert (code, out, said) == (0, "mine: 5 stages, no mistakes\n", "")
    assert not (folder / "runs").exists()
    assert sorted(folder.rglob("*.yaml")) == before


def test_only_what_is_still_to_be_done_must_be_there(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone once its stage is finished keeps nobody from the report."""
    text = RECIPE.replace("  trained: {kind: sft, from: [learned], max_steps: 1}\n", "")
    (folder / "mine.yaml").write_text(text)
    assert command("run", "mine.yaml")[0] == 0
    report = folder / "runs" / "mine" / "report.html"
    report.unlink()
    stages = {path.parent.name for path in (folder / "runs" / "mine").glob("*/stage.json")}
    assert stages == {"first", "later", "learned", "report"}
    code, _, said = command(
        "run",
        "mine.yaml",
        *sets(["stages.more={kind: sft, from: [learned], lora: {four_bit: true}}"]),
    )
    assert code == 2
    assert "bitsandbytes" in said
    looked: list[str] = []
    monkeypatch.setattr(World, "plugin", lambda world, name, key: looked.append(name))
    assert command("run", "mine.yaml")[0] == 0
    assert report.exists()
    assert looked == []
    assert command("run", "mine.yaml", "--set", "stages.later.sampler.particles=3")[0] == 0
    assert set(looked) == {"toys:policy", "toys:reward"}


def test_prompts_and_paths_that_do_not_fit_together(folder: Path, command: Run) -> None:
    tiny = ["engine={kind: transformers}", "stages.later.sampler.step.max_tokens=1020"]
    code, out, _ = command("check", "mine.yaml", *sets(tiny))
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "tokens of the longest prompt and 1020 of a path are more than the context of" in line
    assert line.endswith("1024 tokens, which cuts the path")
    long = "problems.sums={source: long.jsonl}"
    (folder / "long.jsonl").write_text(
        '{"id": 1, "question": "Calculate 1' + " + 1" * 1200 + '.", "answer": "3"}\n'
    )
    code, _, said = command("check", "mine.yaml", *sets([*tiny, long]))
    assert code == 2
    assert "which leaves no room: lower it" in said
    unwritten = ["stages.later.sampler={kind: particle_filter}"]
    code, _, said = command("check", "mine.yaml", *sets([tiny[0], *unwritten, long]))
    assert code == 2
    assert "and 1 of a path are more than the context of the model 'tiny', 1024 tokens" in said
    assert "which leaves no room: leave that question out" in said


def test_several_attempts_without_chance_are_told(folder: Path, command: Run) -> None:
    cold = "stages.first.methods.sample.sampler.sampling={temperature: 0}"
    code, out, _ = command("check", "mine.yaml", *sets([cold]))
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "`stages.first.methods.sample.k`: at temperature 0 all 2 attempts" in line
    _, out, _ = command("check", "mine.yaml", *sets([cold, "stages.first.methods.sample.k=1"]))
    assert "warning: " not in out


def test_a_reward_models_context_cuts_paths_and_stops_nothing(folder: Path, command: Run) -> None:
    """It does not hold for samplers that do not ask it."""
    own = "stages.later.reward_model={kind: confidence, measure: self_certainty, centre: 1, "
    code, out, _ = command("check", "mine.yaml", *sets([own + "capacity: 9, device: cpu}"]))
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "the context of the reward model 'confidence', 9 tokens, which leaves no room" in line


def test_a_hub_that_cannot_be_asked_is_a_warning(folder: Path, command: Run) -> None:
    words = [
        "engine={kind: transformers}",
        "model.name=org/model",
        "problems.sums={source: org/set}",
    ]
    code, out, said = command("check", "mine.yaml", *sets(words))
    assert (code, said) == (0, "")
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "--set problems.sums={source: org/set}: the hub cannot be asked" in warnings[0]
    assert "`model.name`: the hub cannot be asked for the model 'org/model'" in warnings[1]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_pass(command: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where their packages are installed; what they take from the hub is a warning off-line."""
    monkeypatch.setattr(World, "package", lambda *words: None)
    monkeypatch.setattr(World, "gpus", lambda *words: None)
    monkeypatch.setattr("butwait.problems.sources.load_problems", lambda settings: [])
    code, out, said = command("check", name)
    assert code == 0, said
    assert out.splitlines()[-1].endswith("stages, no mistakes")


def test_servers_are_looked_at_once_and_not_behind_a_proxy(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    world = World()
    with listening() as url:
        world.server(url, "base_url")
    world.server(url, "base_url")  # known to answer
    assert world.lacks == []
    world.server(dead.replace("http://", "http://user:secret@"), "base_url")
    assert "secret" not in world.lacks[0].told
    assert "does not answer" in world.lacks[0].told
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    proxied = World()
    proxied.server("http://no.such.host.invalid/v1", "base_url")
    assert proxied.lacks == []


def test_the_context_of_a_model_of_several_parts_is_that_of_its_text() -> None:
    parts = {"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 7}
    assert context_limit(parts) == 64
    assert context_limit({"max_position_embeddings": 32}) == 32
    assert context_limit({"n_ctx": None}) is None
    assert context_limit(None) is None


@pytest.mark.parametrize(
    ("raised", "told", "warning"),
    [
        ("RepositoryNotFoundError", "the hub has no model 'org/model'", False),
        ("RevisionNotFoundError", "the hub has no model 'org/model'", False),
        ("GatedRepoError", "is gated", False),
        ("EntryNotFoundError", "has no config.json", False),
        ("LocalEntryNotFoundError", "the hub cannot be asked", True),
        ("OfflineModeIsEnabled", "the hub cannot be asked", True),
    ],
)
def test_what_the_hub_says(
    raised: str, told: str, warning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    error = getattr(errors, raised)

    def download(*words: object, **options: object) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", download)
    world = World()
    world.model("org/model", None, "name")
    (lack,) = world.lacks
    assert told in lack.told
    assert lack.warning == warning


def test_a_cached_model_is_known_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    kept = str(tmp_path / "config.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **o: kept)
    world = World()
    world.model("org/model", None, "name")
    assert world.lacks == []
    assert context_limit(world.peek("org/model", None)) == 77


OWN = """
from butwait.records.settings import Settings
from butwait.reward_models.load import RewardModelKind

class Tabled(Settings):
    kind: str
    table: str

    def look(self, world):
        world.file(self.table, "table" if self.table else 1 / 0)

MINE = RewardModelKind(Tabled, lambda settings, tokenizer, policy: None)
"""


def test_settings_of_ones_own_say_what_they_need(folder: Path, command: Run) -> None:
    (folder / "tabled.py").write_text(OWN)
    own = "stages.later.reward_model={kind: 'tabled:MINE', table: %s}"
    code, _, said = command("check", "mine.yaml", "--set", own % "gone.csv")
    assert code == 2
    assert "`stages.later.reward_model.table`: there is no file 'gone.csv'" in said
    (folder / "gone.csv").write_text("")
    assert command("check", "mine.yaml", "--set", own % "gone.csv")[0] == 0
    code, _, said = command("check", "mine.yaml", "--set", own % "''")
    assert code == 2
    assert "`look` of Tabled ends in ZeroDivisionError" in said
    assert len(said.splitlines()) == 1


def test_a_device_matters_only_where_weights_are_run(folder: Path, command: Run) -> None:
    with listening() as url:
        words = [f"engine={{kind: openai, base_url: '{url}'}}", "model.device=cuda"]
        code, _, said = command("check", "mine.yaml", *sets(words))
        assert code == 2  # the stage `trained` trains here
        lean = RECIPE.replace("  trained: {kind: sft, from: [learned], max_steps: 1}\n", "")
        (folder / "mine.yaml").write_text(lean)
        assert command("check", "mine.yaml", *sets(words))[0] == 0
    code, _, said = command(
        "check", "mine.yaml", "--set", "engine={kind: transformers}", "--set", "model.device=cuda"
    )
    assert code == 2
    assert said.count("no 'cuda' on this") == 1


@pytest.mark.parametrize(
    ("device", "count", "told"),
    [("cuda", 1, None), ("cuda:0", 1, None), ("cuda:1", 1, "the last one is cuda:0"),
     ("xpu", 1, "there is no 'xpu'"), ("auto", 0, None), ("cpu:0", 0, None)],
)  # fmt: skip
def test_devices_of_this_machine(
    device: str, count: int, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from butwait.running.devices import missing_device

    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: count)
    found = missing_device(device)
    assert (found is None) == (told is None)
    assert told is None or told in str(found)
