"""The report asks the kinds: it knows none by name, and takes those of others."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_fake_kinds import KINDS, FakeKind

import butwait.report
from butwait.report.kinds import PageMaterial, Record, Section
from butwait.report.page import write_report


def test_no_kind_stands_in_the_report_by_name() -> None:
    folder = Path(butwait.report.__file__).parent
    # "evaluation" and the like are what kinds give; "profile" and "report" name the pages too.
    names = "|".join(KINDS.keys() - {"profile", "report"})
    found = {
        f"{path.relative_to(folder)}: {match[0]}"
        for path in [*folder.rglob("*.py"), *folder.rglob("*.html")]
        for match in re.finditer(rf"(['\"`])({names})\1", path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_sections_are_named_without_drawing_anything() -> None:
    code = (
        "import sys, butwait.report.sections\n"
        "print({'matplotlib', 'numpy', 'jinja2', 'torch', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_kind_from_outside_has_a_section_of_its_own(tmp_path: Path) -> None:
    def data(material: PageMaterial, stages: Sequence[Record]) -> list[dict[str, Any]]:
        assert material.run == tmp_path
        return [{"stage": s, "metrics": s["metrics"], "figure": None} for s in stages[::-1]]

    theirs = FakeKind("model", "Distillation", section=Section("Distilled", "training.html", data))
    stages = [
        {"name": name, "kind": "mine:DISTIL", "from": [], "metrics": {"teachers": 3}}
        for name in ("one", "two")
    ]
    stages.append({"name": "e", "kind": "evaluate", "from": ["one"], "metrics": {"s/m": {"n": 3}}})
    write_report(tmp_path, stages, "r", [], {}, {**KINDS, "mine:DISTIL": theirs})
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = html.partition("<h2>Distilled</h2>")[2].partition("</section>")[0]
    assert section.index("two") < section.index("one")
    assert "Distillation (stage one)" in html
    assert "Data and other stages" not in html


def test_a_training_from_outside_without_a_section_has_its_figures(tmp_path: Path) -> None:
    stage = {"name": "one", "kind": "mine:DISTIL", "metrics": {"teachers": 3}}
    write_report(tmp_path, [stage], "r", [], {}, {"mine:DISTIL": FakeKind("model")})
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<dt>teachers</dt><dd>3</dd>") == 1
    assert "<h2>Training</h2>" in html
