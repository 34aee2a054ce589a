"""What verifiers gave, in the table of evaluations."""

from pathlib import Path
from typing import Any

import pytest
from report_fake_kinds import KINDS

from butwait.report.page import write_report


@pytest.mark.parametrize(
    ("figures", "columns"), [({"score": 0.7319}, 15), ({"score": None}, 14), ({}, 14)]
)
def test_a_score_has_a_column_where_there_is_one(
    tmp_path: Path, figures: dict[str, Any], columns: int
) -> None:
    held = {"n": 4, "k": 2, "pass_at_1": 0.25, "interval": [0.1, 0.5], **figures}
    metrics = {"aime24/sample": held, "aime24/other": {"n": 4, "k": 2, "pass_at_1": 0.5}}
    stages = [
        {"name": "base", "kind": "evaluate", "metrics": metrics},
        {"name": "report", "kind": "report", "settings": {}},
    ]
    write_report(tmp_path, stages, "seed", [], {}, KINDS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (">score</th>" in html) == ("<td>0.732</td>" in html) == (columns == 15)
    assert f'colspan="{columns}" scope="rowgroup"' in html
