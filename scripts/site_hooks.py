"""What mkdocs does to a page beside its theme: links that leave docs/, and formulas.

Pages are written for a reader of the repository, too: they link to its other files by relative
paths, and write formulas as ``$...$``. On the site the first lead to the public repository, and the
second are MathML, which browsers draw by themselves.
"""

import posixpath
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(?=\))")
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links to files of the repository that are no pages lead to the public repository."""
    base = f"{config.extra['repository']}/blob/main"
    return "".join(
        part if part.startswith("`") else outward(part, page.file.src_uri, base)
        for part in CODE.split(markdown)
    )


def outward(text: str, page: str, base: str) -> str:
    """``text`` of ``page`` (its path in docs/), links that leave docs/ led to ``base``."""

    def lead(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), found[2]))
        if target.startswith(("docs/", "..")) or not (ROOT / target).exists():
            return found[0]
        return f"{found[1]}{base}/{target}{found[3] or ''}"

    return LINK.sub(lead, text)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML; without the two colons by which a docstring announces code."""
    return FORMULA.sub(as_mathml, html).replace("<p>::</p>\n", "")


def as_mathml(found: re.Match[str]) -> str:
    """One formula; what it was written as stays for those who copy or listen."""
    display = "block" if found["tag"] == "div" else "inline"
    return convert(unescape(found["tex"]).strip(), display=display)
