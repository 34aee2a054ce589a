"""The built page of `butwait view`: small, whole, and of plain scripts."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src" / "butwait" / "view" / "static"


def test_the_page_is_below_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in STATIC.iterdir()) < 1_000_000


def test_the_page_holds_no_script_or_style_of_its_own_and_its_files_are_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "style=" not in page
    assert "<style" not in page
    assert re.findall(r"<script([^>]*)>", page) == [' src="app.js" defer']
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url\(\"?([^)\"]+)", style)
    assert {"app.js", "style.css", "icon.svg", "./inter.woff2"} == set(named)
    for name in named:
        assert (STATIC / name).is_file(), name


def test_the_page_asks_nobody_else_and_evaluates_nothing() -> None:
    script = (STATIC / "app.js").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[\w.]+", script))
    assert addresses <= {"http://www.w3.org"}  # names of SVG and MathML, never asked for
    assert not re.search(r"\b(fetch|eval|import|XMLHttpRequest|Function)\(", script)


def test_the_licences_of_what_is_shipped_are_there() -> None:
    packages = json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))
    licences = (STATIC / "licences.txt").read_text(encoding="utf-8")
    for name, version in packages["dependencies"].items():
        assert f"{name} {version}" in licences
