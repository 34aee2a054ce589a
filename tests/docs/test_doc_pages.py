"""The pages whose text is a program, as they stand."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from doc_pages import ROOT, blocks, do

HOW_TO = sorted((ROOT / "docs" / "how_to").glob("*.md"))
RUN = [page for page in HOW_TO if any(block.kind == "sh" for block in blocks(page))]
SLOW = ("model", "data_set", "reward_model", "verifier", "data_builder", "stage", "engine")
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
        for page in RUN
    ],
)
def test_a_page_on_what_one_brings_works(
    page: Path, own_folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    do(page, own_folder, command, capsys)


def test_every_how_to_is_in_its_index_and_runs_if_it_brings_something() -> None:
    index = (ROOT / "docs" / "how_to" / "index.md").read_text(encoding="utf-8")
    others = [page for page in HOW_TO if page.name != "index.md"]
    assert [page.stem for page in others if f"]({page.name})" not in index] == []
    brought = {"data_builder", "data_set", "engine", "model", "reward_model", "sampler", "stage"}
    assert {page.stem for page in RUN} == brought | {"verifier"}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/from_its_hub.md"])
def test_the_python_of_a_page_runs(
    page: str, own_folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    said = do(page, own_folder, command, capsys, kinds=("python",))
    assert said.count("\n") >= 4


def test_what_stands_in_braces_on_any_page_is_a_setting() -> None:
    """Every ``{kind: ...}`` in the documents, of a kind that a recipe has."""
    from butwait.engines.load import ENGINES
    from butwait.reward_models.load import REWARD_MODELS
    from butwait.search.settings import SAMPLERS
    from butwait.stages.kinds import STAGES

    parsed = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for kind, written in braces(page.read_text(encoding="utf-8")):
            of = [kinds for kinds in (STAGES, SAMPLERS, REWARD_MODELS, ENGINES) if kind in kinds]
            if of and "..." not in written:
                of[0].parse(yaml.safe_load(written))
                parsed += 1
    assert parsed > 60


def braces(text: str) -> Iterator[tuple[str, str]]:
    """(kind, all of it) of every ``{kind: KIND ...}``."""
    for found in re.finditer(r"\{kind: (\w+)[,}]", text):
        depth = 0
        for end in range(found.start(), len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                yield found[1], text[found.start() : end + 1]
                break


class Policy:
    """A language model of its_hub that is sure of its answer."""

    async def agenerate_single(self, messages, **_: object) -> dict[str, str]:
        return {"role": "assistant", "content": r"\boxed{9}"}

    async def agenerate(self, chats, **_: object) -> list[dict[str, str]]:
        return [await self.agenerate_single(chat) for chat in chats]


class Judge:
    """Its judges; one that is made of anything."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def ascore(self, asked, responses, **_: object) -> list[float]:
        return [0.5] * len(responses)


def test_the_calls_of_its_hub_are_its_own() -> None:
    """``py`` fences that are marked ``# its_hub``, by the real package; its server, its process
    reward model and its judge, which need more, aside."""
    pytest.importorskip("its_hub", reason="its_hub is not installed: pip install --group peers")
    from its_hub.core.algorithms import beam_search, bon, particle_gibbs, self_consistency
    from its_hub.core.lms.step_generation import StepGeneration

    names: dict[str, object] = {"StepGeneration": StepGeneration, "MODEL": "m", "PRM": "p"}
    for module in (beam_search, bon, particle_gibbs, self_consistency):
        names |= vars(module)
    names |= dict.fromkeys(("LocalVllmProcessRewardModel", "LLMJudge"), Judge)
    names |= {"OpenAICompatibleLanguageModel": Judge, "question": "Calculate 7 + 8 - 6."}
    calls = 0
    for block in blocks("docs/from_its_hub.md"):
        if block.kind == "py" and "# its_hub" in block.body:
            *lines, last = block.body.replace("  # its_hub", "").strip().split("\n")
            if ".infer(" in last:
                exec("\n".join(lines), names)
                assert eval(last, names)["content"] == r"\boxed{9}"
                calls += 1
            else:
                exec(block.body, names)
                names |= {"lm": Policy(), "judge": None}
    assert calls == 4
