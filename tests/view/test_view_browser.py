"""The page of `butwait view` in a real browser: by keys alone, for everybody, and with texts that
would like to be more than text. Run by `make test-view`, which has a Chromium."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from viewed_run import GRPO, HOSTILE, write_run

from butwait.evaluation.storage import read_attempts
from butwait.search.storage import read_tree, write_shard
from butwait.view.export import export
from butwait.view.library import Library
from butwait.view.server import ViewServer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

PARTS = ["", "/attempts", "/trees", "/data", "/training"]
WHOLE = {
    "#/": ".cards .pipeline",
    "": "table.stages",
    "/attempts": "section.side ol.steps",
    "/trees": "#told",
    "/data": ".spans-view",
    "/training": ".plot canvas",
}
"""What stands on each part once it is there, and on no other."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Open = Callable[..., Any]


@pytest.fixture(scope="session")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 particles x 30 steps x 50 problems."""
    folder = tmp_path_factory.mktemp("large") / "large"
    size = {"problems": 50, "particles": 512, "steps": 30, "samples": 8}
    return write_run(folder, **size, distinct=1, words=1)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of a megabyte in one line that look like a page."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>hostile"
    extra = HOSTILE + "x" * 1_000_000
    return write_run(folder, problems=2, particles=2, steps=2, samples=2, distinct=1, extra=extra)


@contextmanager
def serving(*runs: Path) -> Iterator[ViewServer]:
    with ViewServer(Library(lambda: runs, live=True), 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def served(large_run: Path, hostile_run: Path) -> Iterator[ViewServer]:
    with serving(large_run, hostile_run) as server:
        yield server


@pytest.fixture(scope="session")
def browser(seen_run: Path, large_run: Path, hostile_run: Path) -> Iterator[Any]:
    """Chromium. The runs are made before: it holds an event loop in this thread, and searches have
    one of their own."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get("BUTWAIT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=named,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens an address. At the end nothing may have been said on the console, blocked, or asked of
    anybody but the server."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(address: str, **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    own = ("http://127.0.0.1:", "file:///", "data:")
    assert [url for url in asked if not url.startswith(own)] == []


def told(page: Any, expected: str) -> str:
    """The line under the river, once it says so."""
    page.wait_for_function(
        "text => document.getElementById('told')?.textContent.includes(text)", arg=expected
    )
    return str(page.locator("#told").text_content())


def until(page: Any, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).first.wait_for()


def whole(page: Any, part: str) -> None:
    """Waits until a part is there, and nothing of it waits for data."""
    page.locator(f"main {WHOLE[part]}").first.wait_for()
    page.wait_for_function("() => !document.querySelector('main').textContent.includes('Loading')")


def chosen(page: Any, name: str, among: Iterable[str]) -> str:
    """A choice in the address, which follows a moment later, once it is one of these."""
    choice = f"new URLSearchParams(location.hash.split('?')[1]).get('{name}')"
    page.wait_for_function(f"among => among.includes({choice})", arg=list(among))
    return str(page.evaluate(choice))


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Any, href: str) -> None:
    """Moves the focus, as a person without a mouse does, to a link."""
    for _ in range(30):
        press(page, "Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == href:
            return
    pytest.fail(f"no Tab leads to {href}")


def test_a_run_is_read_by_keys_alone(served: ViewServer, opened: Open) -> None:
    library = served.library
    page = opened(served.address)
    until(page, "h2", "large")
    names = [stage["name"] for stage in library.get("run/0")["stages"]]
    for name in names:
        assert page.locator("li.stage .name", has_text=name).count() >= 1
    tab_to(page, "#/run/0")
    press(page, "Enter")
    until(page, "h1", library.get("run/0")["verdict"][:40])
    assert set(names) <= set(page.locator("table.stages tbody th").all_text_contents())

    # Choose a tree, step, follow an ancestor, look at the dead.
    press(page, "3")
    told(page, "Step 1 of 30")
    press(page, "n")
    page.locator("#trees-1[aria-selected=true]").wait_for()
    listed = library.get("trees/0/hunt")
    tree = library.get(f"tree/0/hunt/{listed['id'][1]}")
    told(page, "Step 1 of 30")
    press(page, *["ArrowRight"] * 5)
    told(page, "Step 6 of 30")
    press(page, "f")
    assert "following particle" in told(page, "of 512")
    press(page, "End")
    assert "following particle" in told(page, "Step 30 of 30")
    node = int(chosen(page, "node", map(str, tree["leaves"])))
    assert tree["nodes"]["depth"][node] == 30
    until(page, "section[aria-label='Chosen step']", tree["nodes"]["shows"][node])
    press(page, "ArrowLeft")
    told(page, "Step 29 of 30")
    nodes = tree["nodes"]
    inner = set(nodes["parent"])
    ends = [depth for node, depth in enumerate(nodes["depth"])
            if not nodes["final"][node] and node not in inner]  # fmt: skip
    press(page, "Home", *["ArrowRight"] * (min(ends) - 1))
    told(page, f"Step {min(ends)} of 30")
    press(page, "d")
    told(page, ", dead")
    press(page, "d", "f")

    # Filter attempts, and compare two evaluations.
    press(page, "2")
    until(page, "h1", "Attempts of after")
    table = library.get("attempts/0/after")
    counts = Counter(table["statuses"][place] for place in table["status"])
    press(page, "w")
    until(page, ".finder [role=status]", f"{counts['wrong']} attempts")
    press(page, "w")
    until(page, ".finder [role=status]", "50 questions, 400 attempts")
    press(page, "b")
    page.locator("section.side[aria-label^='B: base']").wait_for()
    gained = [
        problem["id"]
        for problem in table["problems"]
        if rate(table, problem["id"]) < 0.5 <= rate(library.get("attempts/0/base"), problem["id"])
    ]
    lost = [
        problem["id"]
        for problem in table["problems"]
        if rate(library.get("attempts/0/base"), problem["id"]) < 0.5 <= rate(table, problem["id"])
    ]
    press(page, "e")
    until(page, ".finder [role=status]", f"{len(gained)} question")
    press(page, "e")
    until(page, ".finder [role=status]", f"{len(lost)} questions, {8 * len(lost)} attempts")
    press(page, "j", "ArrowRight", "Shift+ArrowRight")
    until(page, "section.side", "attempt 2 of 8")

    # The other parts, and the keys themselves.
    press(page, "4")
    until(page, "h1", "Data of verified")
    press(page, "5")
    until(page, "h1", "Training")
    press(page, "s", "?")
    page.locator("dialog#help[open]").wait_for()
    press(page, "Escape", "1")
    until(page, "h1", library.get("run/0")["verdict"][:40])


def statuses(table: dict[str, Any], problem: str) -> list[str]:
    """The verdicts of all attempts at a question."""
    place = next(i for i, known in enumerate(table["problems"]) if known["id"] == problem)
    return [
        table["statuses"][status]
        for status, at in zip(table["status"], table["problem"], strict=True)
        if at == place
    ]


def rate(table: dict[str, Any], problem: str) -> float:
    """The share of right attempts at a question."""
    return statuses(table, problem).count("correct") / len(statuses(table, problem))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(served: ViewServer, opened: Open, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": width, "height": 844}
    page = opened(served.address, color_scheme=scheme, viewport=viewport, reduced_motion="reduce")
    until(page, "h2", "large")
    found = []
    for part in ["#/", *(f"#/run/0{part}" for part in PARTS)]:
        hash_ = f"{part}?other=0/base&shade=1" if part.endswith("attempts") else part
        page.evaluate("hash => { location.hash = hash }", hash_)
        whole(page, part.removeprefix("#/run/0"))
        if part.endswith("attempts"):
            page.locator(".shaded .p5").first.wait_for()
            press(page, ".")
        report = Axe().run(page)
        found += [
            (part, violation["id"], node["html"][:200])
            for violation in report.response["violations"]
            for node in violation["nodes"]
        ]
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, (part, wide)
    assert found == []


def shaded(page: Any) -> list[tuple[str, str]]:
    """The tokens of the first shaded text as they are drawn: (class, text). A mark or the end of a
    step may cut one in two."""
    page.locator(".shaded [data-token]").first.wait_for()
    found: dict[str, tuple[str, str]] = {}
    for shade, token, text in page.evaluate(
        "[...document.querySelector('.shaded').querySelectorAll('[data-token]')]"
        ".map((one) => [one.className, one.dataset.token, one.textContent])"
    ):
        found[token] = (shade, found.get(token, (shade, ""))[1] + text)
    return list(found.values())


def drawn_tokens(text: str, by_token: Any) -> list[tuple[str, str]]:
    """What is to be drawn of a text."""
    found, at, nats = [], 0, 0.0
    for count, logprob in zip(by_token.characters.tolist(), by_token.logprobs, strict=True):
        nats += float(logprob)  # the first token of a smiley goes with the second
        if count:
            limits = map(math.log, (0.9, 0.7, 0.4, 0.15, 0.03))
            shade = sum(nats < limit for limit in limits)
            found.append((f"p{shade}", text[at : at + count]))
            at, nats = at + count, 0.0
    return found


def test_tokens_of_an_attempt_are_shaded_by_their_probability(
    seen_run: Path, opened: Open, tmp_path: Path
) -> None:
    """From a server and from disk."""
    library = Library(lambda: [seen_run], live=False)
    export(library, tmp_path / "page")
    stored = read_attempts(seen_run / "after" / "attempts" / "test" / "sample", tokens=True)
    attempt = next(row for row in stored if (row.problem_id, row.sample) == ("p1", 2))
    expected = drawn_tokens(attempt.text, attempt.by_token)
    with serving(seen_run) as server:
        for address in (server.address, (tmp_path / "page" / "index.html").as_uri()):
            page = opened(f"{address}#/run/0/attempts/after?problem=test%2Fp1&sample=2")
            whole(page, "/attempts")
            assert page.locator(".shaded").count() == 0
            press(page, "p")
            assert shaded(page) == expected
            assert {shade for shade, _ in expected} >= {"p0", "p4", "p5"}
            steps = page.locator(".shaded li").all_text_contents()
            assert [step.strip() for step in steps] == [
                line.strip() for line in attempt.text.splitlines()
            ]
            assert page.locator(".shaded .answer").text_content() == (attempt.answer or "None")
            assert page.locator(".shades span").count() == 6
            tell_tokens(page, attempt)
            press(page, "p")
            page.locator(".shaded").first.wait_for(state="detached")


def tell_tokens(page: Any, attempt: Any) -> None:
    """By the mouse, by keys of the page, and by arrows in the text, which is one stop of Tab."""
    logprobs = attempt.by_token.logprobs.astype(float).tolist()
    texts = [text.replace("\n", "⏎") for _, text in drawn_tokens(attempt.text, attempt.by_token)]

    def telling(place: int) -> str:
        percent = float(f"{100 * math.exp(round(logprobs[place], 3)):.3g}")
        return f"token {place + 1} “{texts[place]}”: probability {percent}"

    page.locator(".shaded [data-token]").nth(2).hover()
    until(page, ".of-token", telling(2))
    press(page, ".")
    until(page, ".of-token", telling(3))
    press(page, ",", ",", ",")
    until(page, ".of-token", telling(0))
    press(page, ".")
    until(page, ".of-token", f"token 2 “{texts[1]}”: not sampled")
    page.locator(".shaded").focus()
    press(page, "ArrowRight", "ArrowRight")
    until(page, ".of-token", telling(3))
    press(page, "End")
    until(page, ".of-token", f"token {len(logprobs)} “{texts[-1]}”: ")
    press(page, "Home")
    until(page, ".of-token", telling(0))
    assert page.locator(".shaded [data-at]").count() == 1
    assert page.locator(".shaded [tabindex]").count() == 0
    until(page, "section.side", "attempt 3 of 4")  # the arrows chose no other attempt


def test_an_evaluation_that_kept_no_probabilities_says_so(served: ViewServer, opened: Open) -> None:
    page = opened(f"{served.address}#/run/0/attempts/base?shade=1")
    whole(page, "/attempts")
    until(page, "section.side", "The log-probabilities of its tokens were not stored.")
    assert page.locator("ol.steps").count() == 1
    assert page.locator(".shaded").count() == 0


def test_tokens_of_a_tree_are_shaded_too(seen_run: Path, opened: Open, tmp_path: Path) -> None:
    """Where the tokenizer is at hand: here one whose tokens are not the texts', so that each step
    has the shade of its mean."""
    with serving(seen_run) as server:
        page = opened(f"{server.address}#/run/0/trees/hunt?shade=1")
        told(page, "Step 1 of 4")
        press(page, "End")
        told(page, "Step 4 of 4")
        page.locator("ol.steps li .text > bdi > span.p3").first.wait_for()
        assert page.locator(".shades span").count() == 6
        assert page.locator(".shaded").count() == 0


@pytest.mark.parametrize("part", PARTS)
def test_hostile_texts_are_text(served: ViewServer, opened: Open, part: str) -> None:
    page = opened(f"{served.address}#/run/1{part}?shade=1")
    whole(page, part)
    if part == "/attempts":
        page.locator(".shaded [data-token]").first.wait_for()
    said = "text => document.querySelector('main').textContent.includes(text)"
    page.wait_for_function(said, arg="<script>document.title='owned'")
    assert "owned" not in page.title()
    assert page.locator("#app script, #app style, #app img, #app iframe").count() == 0
    assert page.locator("body").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_export_is_the_same_page_from_disk(
    seen_run: Path, opened: Open, tmp_path: Path
) -> None:
    library = Library(lambda: [seen_run], live=False)
    export(library, tmp_path / "page of a run")
    page = opened((tmp_path / "page of a run" / "index.html").as_uri())
    until(page, "h2", "small run")
    tab_to(page, "#/run/0")
    press(page, "Enter")
    until(page, "h1", library.get("run/0")["verdict"][:40])
    press(page, "3")
    told(page, "Step 1 of 4")
    press(page, "ArrowRight", "f", "End")
    told(page, "Step 4 of 4")
    press(page, "2")
    whole(page, "/attempts")
    press(page, "b")
    page.locator("section.side[aria-label^='B: base']").wait_for()
    press(page, "4")
    until(page, "h1", "Data of verified")


def test_an_attempt_is_kept_by_its_name(seen_run: Path, opened: Open, tmp_path: Path) -> None:
    run = Path(shutil.copytree(seen_run, tmp_path / "kept"))
    with serving(run) as server:
        page = opened(f"{server.address}#/run/0/attempts/after")
        whole(page, "/attempts")
        press(page, "j", "l")
        chosen(page, "problem", ["test/p1"])
        sample = chosen(page, "sample", "0123")
        table = server.library.get("attempts/0/after")
        mine = [i for i, problem in enumerate(table["problem"]) if problem == 1]
        status = table["statuses"][table["status"][mine[int(sample)]]]
        key = {"correct": "c", "wrong": "w"}.get(status)
        if key:
            press(page, key)
        until(page, "section.question", "What is 1 + 1?")
        until(page, "section.side", "attempt")
        assert page.locator(".tile[aria-pressed=true]").get_attribute("class") == f"tile {status}"


def test_verdicts_of_two_sides_are_of_all_attempts(served: ViewServer, opened: Open) -> None:
    page = opened(f"{served.address}#/run/0/attempts/base?other=0/after&show=gained")
    whole(page, "/attempts")
    table, other = (served.library.get(f"attempts/0/{stage}") for stage in ("base", "after"))
    gained = [
        problem["id"]
        for problem in table["problems"]
        if rate(table, problem["id"]) < 0.5 <= rate(other, problem["id"])
    ]
    until(page, ".finder [role=status]", f"{len(gained)} question")
    # Wrong attempts alone: the same questions, but for those at which neither side has one.
    wrong = [id_ for id_ in gained if any("wrong" in statuses(t, id_) for t in (table, other))]
    press(page, "w")
    until(page, ".finder [role=status]", f"{len(wrong)} question")
    page.locator("section.side .tile.wrong").first.wait_for()
    assert page.locator("section.side .tile:not(.wrong)").count() == 0


def test_curves_live_on_while_a_training_does(seen_run: Path, opened: Open, tmp_path: Path) -> None:
    run = Path(shutil.copytree(seen_run, tmp_path / "training on"))
    with serving(run) as server:
        page = opened(f"{server.address}#/run/0/training/sft")
        whole(page, "/training")
        reading = page.locator("figure.curve", has_text="reward").locator(".reading")
        page.locator(".plot").first.hover()
        press(page, "s", "s", "s")
        until(page, "h1", "Training of")
        with (run / GRPO / "log.jsonl").open("a") as log:
            log.write('{"step": 201, "reward": 0.875}\n')
        (run / "log.txt").touch()
        page.wait_for_function(
            "() => document.querySelector('main').textContent.includes('→ 0.875')"
        )
        assert "0.875" in reading.first.inner_text()


def test_a_tree_is_found_when_its_shard_is_written(
    seen_run: Path, opened: Open, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(seen_run, tmp_path / "spooled"))
    trees = run / "hunt" / "trees"
    shard = trees / "shard-00000.parquet"
    found = [read_tree(trees, f"p{i}") for i in range(4)]
    shard.rename(tmp_path / "aside")
    for place in (2, 3):
        write_shard(trees / ".spool" / f"{place:08d}.parquet", [found[place]])
    with serving(run) as server:
        page = opened(f"{server.address}#/run/0/trees/hunt?tree=s3")
        until(page, "section.question", "What is 3 + 1?")
        (tmp_path / "aside").rename(shard)
        shutil.rmtree(trees / ".spool")
        (run / "log.txt").touch()
        page.locator("#trees-3[aria-selected=true]").wait_for()
        until(page, "section.question", "What is 3 + 1?")
        page.evaluate("location.hash = '#/run/0/trees/hunt?tree=s9'")
        until(page, "main", "Tree s9 is not here (any more).")


def test_a_run_that_goes_away_is_told(seen_run: Path, opened: Open, tmp_path: Path) -> None:
    run = Path(shutil.copytree(seen_run, tmp_path / "leaving"))
    with serving(run) as server:
        page = opened(server.address)
        until(page, "h2", "leaving")
        shutil.rmtree(run)
        until(page, ".state", "gone")
        page.evaluate("location.hash = '#/run/0/trees/hunt'")
        until(page, "main", "is not there any more")


def test_another_site_takes_nothing(served: ViewServer, browser: Any) -> None:
    text = (
        "<script>window.got=[];window.butwait={receive:(n,v)=>got.push(n)}</script>"
        f"<script src='{served.address}data/runs.js'></script>"
        f"<iframe src='{served.address}'></iframe>"
    )

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{other.server_address[1]}/")
        assert page.evaluate("window.got") == []
        frame = page.frames[-1]
        assert frame.url.startswith("chrome-error:")
        page.close()
        other.shutdown()
