"""What a reader sees of two made-up runs, word for word (figures left out).

After a change of the page that is meant, write the texts anew:
``python tests/report/test_report_text.py EMPTY_FOLDER``.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_fake_kinds import KINDS
from report_fake_rl import evaluation, training
from report_fake_run import build_run, comparisons_of

from butwait.report.page import butwait_version, write_report

TEXTS = Path(__file__).parent / "texts"
BLOCKS = {"dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "p", "pre", "summary", "td", "th", "tr"}


class Text(HTMLParser):
    """The text outside of style sheets and drawings, a line a block; typographic spaces and minus
    signs as plain ones."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._hidden = 0
        self._pieces: list[str] = []
        self.feed(html.replace("\u2212", "-"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "svg")
        if tag in BLOCKS:
            self._pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._pieces.append(re.sub(r"\s+", " ", data))

    @property
    def lines(self) -> list[str]:
        lines = (" ".join(line.split()) for line in "".join(self._pieces).split("\n"))
        return [line for line in lines if line]


def text_of(name: str, run: Path) -> str:
    if name == "pipeline":
        stages = build_run(run, n=30, trees=6)
        write_report(run, stages, name, comparisons_of(run), {}, KINDS)
    else:
        stages = [
            evaluation("base", "", 0.4),
            training(run, "plain", gamed=True),
            evaluation("plain_eval", "plain", 0.55),
            training(run, "mixed", mode="mixed", seed=1),
            training(run, "blind", looks=False),
        ]
        write_report(run, stages, name, [], {}, KINDS)
    html = (run / "report.html").read_text(encoding="utf-8").replace(butwait_version(), "VERSION")
    return "\n".join(Text(html).lines) + "\n"


@pytest.mark.parametrize("name", ["pipeline", "reinforcement"])
def test_the_page_says_what_it_said(name: str, tmp_path: Path) -> None:
    assert text_of(name, tmp_path) == (TEXTS / f"{name}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    for page in ("pipeline", "reinforcement"):
        written = text_of(page, Path(sys.argv[1]) / page)
        (TEXTS / f"{page}.txt").write_text(written, encoding="utf-8")
