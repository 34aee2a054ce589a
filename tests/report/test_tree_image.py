"""``scripts/draw_tree.py``: a search tree as an image of its own."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest

from butwait.records import Counts, Grade, Node, SearchTree
from butwait.search.storage import write_shard

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
TEXTS = ["", "1 < 2 & 3", "\\boxed{3}", "\\boxed{4}", "2 > 1"]


@pytest.fixture(scope="module")
def draw_tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_tree", ROOT / "scripts/draw_tree.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """root -> 1 -> {2, 3}, both final; root -> 4, dead and without a reward."""
    logits = [0.0, 0.0, 2.0, -2.0, float("nan")]
    nodes = [
        Node(parent, np.zeros(1, np.int32), text, np.zeros(1, np.float32), "step", logit)
        for parent, text, logit in zip([-1, 0, 1, 1, 0], TEXTS, logits, strict=True)
    ]
    leaves, weights = np.array([2, 3], np.int32), np.log([0.75, 0.25])
    grades = {2: Grade("3", "correct"), 3: Grade("4", "wrong")}
    prompt = np.zeros(1, np.int32)
    tree = SearchTree(
        "p", "test", prompt, nodes, [], leaves, weights, None, "complete", Counts(), grades
    )
    write_shard(tmp_path / "hunt/trees/shard-00000.parquet", [tree])
    return tmp_path / "hunt"


def test_every_step_is_drawn_in_the_colours_of_both_themes(
    draw_tree: ModuleType, stage: Path
) -> None:
    svg = draw_tree.image(stage)
    drawn = ElementTree.fromstring(svg)
    circles = drawn.findall(f".//{SVG}circle")
    assert [circle.get("class") for circle in circles] == ["r50", "r50", "r88", "r12", "unjudged"]
    assert [text.text for text in drawn.iter(f"{SVG}text") if text.text in TEXTS] == TEXTS[1:]
    assert len(drawn.findall(f".//{SVG}g[@class='dead']")) == 1
    light, dark = svg.split("@media (prefers-color-scheme: dark)")
    assert ".r50 { fill: #766670; }" in light  # half-way between #d5622a and #1769b5
    assert ".r50 { fill: #a99ca2; }" in dark  # between #f08a4e and #62aef5
    for rules in (light, dark.partition("</style>")[0]):
        assert re.search(r"\.ground \{ fill: #\w{6}; \}", rules)
    assert "var(" not in svg
    assert "color-mix" not in svg


def test_the_image_of_the_readme_is_one(draw_tree: ModuleType) -> None:
    drawn = ElementTree.parse(ROOT / "docs/images/tree.svg").getroot()
    verdicts = {text.get("class") for text in drawn.iter(f"{SVG}text")}
    assert {"correct", "wrong"} <= verdicts
    assert drawn.findall(f".//{SVG}g[@class='dead']")
