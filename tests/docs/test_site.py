"""The documentation site: all pages are in it, and it loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import butwait

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Loader(yaml.SafeLoader):
    """YAML with mkdocs's tags for Python objects, which are nothing here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def pages(nav: object) -> Iterator[str]:
    """The files that a navigation names, in its order."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for inner in nav.values():
            yield from pages(inner)
    elif isinstance(nav, list):
        for inner in nav:
            yield from pages(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    named = list(pages(CONFIG["nav"]))
    assert sorted(named) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_every_name_of_the_package_is_on_its_page() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: butwait\.[\w.]+\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(set(butwait.__all__) - {"__version__"})


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("latex2mathml", reason="no latex2mathml here (the group docs)")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "scripts" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "written", "target"),
    [
        ("a.md", "../README.md", "O/README.md"),
        ("how_to/a.md", "../../src/butwait/py.typed#x", "O/src/butwait/py.typed#x"),
        ("how_to/a.md", "../search.md#b", "../search.md#b"),
        ("a.md", "#b", "#b"),
        ("a.md", "https://b.org/c", "https://b.org/c"),
        ("a.md", "../no_such_file", "../no_such_file"),
        ("a.md", "../../beyond", "../../beyond"),
    ],
)
def test_links_out_of_the_pages(hooks: ModuleType, page: str, written: str, target: str) -> None:
    assert hooks.outward(f"[a]({written})", page, "O") == f"[a]({target})"


def test_formulas_are_mathml(hooks: ModuleType) -> None:
    inline = hooks.on_page_content(r'<p><span class="arithmatex">\(a &lt; b\)</span></p>')
    assert unescape(re.sub("<[^>]*>", "", inline)) == "a<b"
    assert 'display="inline"' in inline
    block = hooks.on_page_content('<div class="arithmatex">\\[\n\\frac1N\n\\]</div>')
    assert "<mfrac>" in block
    assert 'display="block"' in block


class Loads(HTMLParser):
    """What a page loads without being asked, and the text that its readers see."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.silent += tag in ("script", "style", "code")
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.loaded += [held["src"]] if held.get("src") else []
        rel = (held.get("rel") or "").split()
        if tag == "link" and not {"next", "prev", "canonical"} & set(rel):
            self.loaded.append(held["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in ("script", "style", "code")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.text.append(data)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    pytest.importorskip("mkdocs", reason="no mkdocs here (the group docs)")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) == len(list(DOCS.rglob("*.md"))) + 1  # and 404.html
    for page in built:
        text = page.read_text(encoding="utf-8")
        parser = Loads()
        parser.feed(text)
        assert [each for each in parser.loaded if re.match(r"(https?:)?//", each)] == [], page
        assert 'class="arithmatex"' not in text, page  # a formula that is no MathML
        assert re.findall(r"\$\$|^::: ", "".join(parser.text), re.MULTILINE) == [], page
    styles = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//", styles) == []
