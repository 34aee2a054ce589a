"""What a package index and a citation show."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from butwait.running.log import REPORT

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
URLS = PROJECT["project"]["urls"]
LINK = re.compile(
    r"\]\(([^)\s]+)|(?:src|srcset|href)=\"([^\"]+)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE
)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def shown(text: str) -> str:
    """A README as the index gets it."""
    for each in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    return text


def links(text: str) -> list[str]:
    return ["".join(found) for found in LINK.findall(text)]


def test_one_address_everywhere() -> None:
    repository = URLS["Repository"]
    assert all(url.startswith(repository) for url in URLS.values())
    assert URLS["Issues"] == REPORT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["url"] == citation["repository-code"] == repository
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"\n  repository: {repository}\n" in site
    name = repository.removeprefix("https://github.com/")
    targets = links(shown("[a](b.md)\n![a](b.png)"))
    assert targets == [
        f"{repository}/blob/main/b.md",
        f"https://raw.githubusercontent.com/{name}/main/b.png",
    ]


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("[a](docs/b.md#c)", "blob/docs/b.md#c"),
        ("[a\nb](docs/b.md)", "blob/docs/b.md"),
        ("![a](docs/b.png)", "raw/docs/b.png"),
        ("[![a](docs/b.png)](docs/b.md)", "raw/docs/b.png blob/docs/b.md"),
        ('<img alt="x" src="docs/b.png" width="9">', "raw/docs/b.png"),
        ('<a href="docs/b.md">b</a>', "blob/docs/b.md"),
        ("[a]: docs/b.md", "blob/docs/b.md"),
        ("[a](https://b.org/c)", "https://b.org/c"),
        ("[a](#below)", "#below"),
        ("[a](mailto:b@c.org)", "mailto:b@c.org"),
    ],
)
def test_links_lead_out_of_the_index(written: str, target: str) -> None:
    name = URLS["Repository"].removeprefix("https://github.com/")
    places = {
        "blob/": f"https://github.com/{name}/blob/main/",
        "raw/": f"https://raw.githubusercontent.com/{name}/main/",
    }
    for short, whole in places.items():
        target = re.sub(rf"(^| ){short}", rf"\g<1>{whole}", target)
    assert links(shown(written)) == target.split()


def test_the_readme_is_whole_on_an_index() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = links(CODE.sub("", shown(readme)))
    assert len(found) == len(links(CODE.sub("", readme))) > 10
    assert [link for link in found if not re.match(r"https?://|#|mailto:", link)] == []
    assert CODE.findall(shown(readme)) == CODE.findall(readme)


def test_the_citation_is_of_this_version() -> None:
    """By the schema of cff 1.2.0: what must be there, and nothing that is not."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation.keys() <= {
        *("cff-version", "message", "title", "type", "abstract", "authors", "version", "doi"),
        *("license", "url", "repository-code", "keywords", "date-released", "identifiers"),
    }
    assert citation["type"] == "software"
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["authors"] == PROJECT["project"]["authors"]
    assert len(set(citation["keywords"])) == len(citation["keywords"])


def test_the_image_gets_what_it_copies() -> None:
    """And runs as a user who is not root."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == let_in
    assert all((ROOT / each).exists() for each in copied)
    (user,) = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert int(user) > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hatchling") is None, reason="no hatchling here (the group dev)")
def test_a_wheel_tells_what_it_is(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        names = held.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(held.read(metadata).decode())
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload() == shown((ROOT / "README.md").read_text(encoding="utf-8"))
    assert dict(line.split(", ") for line in told.get_all("Project-URL")) == URLS
    assert told["License-Expression"] == "Apache-2.0"
    assert "butwait/recipes/quickstart.yaml" in names
    assert "butwait/py.typed" in names
    assert any(name.startswith("butwait/models/tiny/") for name in names)
