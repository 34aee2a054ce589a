"""The page of `butwait view` in a headless Chromium: how soon it stands, and how fast it steps.

    pip install --group browser
    python benchmarks/bench_view.py                     # a Chromium of this machine
    python benchmarks/bench_view.py --browser /usr/bin/chromium

A run of 512 particles x 30 steps x 50 problems by the scripted engine (tests/view/viewed_run.py).
A first paint is from the request to the first content that is drawn (the browser's own figure), and
the river's to the first frame with the tree of 15,361 nodes, both of fresh pages; a step is from a
key to the end of the frame that shows it. Medians.

Memory is that of a server of its own and of its page, on a run of as many trees and of 512 attempts
at each of 200 questions: at first, after all attempts and 50 trees with their texts were asked for,
and after another 50 trees. What is bounded does not grow between the last two. Written to
``benchmarks/results/view.json``.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "view"))

from viewed_run import write_run

from butwait.running.files import write_json
from butwait.view.library import Library
from butwait.view.server import ViewServer

RESULTS = Path(__file__).parent / "results" / "view.json"
PROBLEMS, PARTICLES, STEPS = 50, 512, 30
PAGES, PRESSES = 5, 100
QUESTIONS, ATTEMPTS, TREES = 200, 512, 50
"""Of the run whose memory is measured: its trees are ``QUESTIONS``, too."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_RIVER = """() => new Promise((done) => {
  const look = () => document.getElementById('told')?.textContent.startsWith('Step 1')
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
    : requestAnimationFrame(look);
  look();
})"""
_STEPS = """async (presses) => {
  const taken = [];
  for (let i = 0; i < presses; i++) {
    const key = Math.floor(i / 25) % 2 ? 'ArrowLeft' : 'ArrowRight';
    const before = document.getElementById('told').textContent;
    const begin = performance.now();
    dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    if (document.getElementById('told').textContent === before) throw new Error(`${i}: ${before}`);
    taken.push(performance.now() - begin);
  }
  return taken;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = {"problems": PROBLEMS, "particles": PARTICLES, "steps": STEPS, "samples": 8}
        run = write_run(Path(folder) / "run", **size, distinct=1, words=1)
        found = measure(run, options.browser)
        shutil.rmtree(run)
        size |= {"problems": QUESTIONS, "samples": ATTEMPTS}
        run = write_run(Path(folder) / "run", **size, distinct=1, words=1)
        found["memory_mebibytes"] = remembered(run, options.browser)
    print(found)
    write_json(options.output, found)


def measure(run: Path, browser: str | None) -> dict[str, Any]:
    """Serves the run to a browser, and times it."""
    from playwright.sync_api import sync_playwright

    library = Library(lambda: [run], live=True)
    begun = time.perf_counter()
    tree = library.get("tree/0/hunt/0-0")
    reading = time.perf_counter() - begun
    with ViewServer(library, 0) as server, sync_playwright() as playwright:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        paints, rivers, steps = [], [], []
        for _ in range(PAGES):
            page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{server.address}#/run/0/trees/hunt")
            rivers.append(page.evaluate(_RIVER))
            paints.append(page.evaluate(_PAINT))
            if not steps:
                steps = page.evaluate(_STEPS, PRESSES)
            page.close()
        version = chromium.version
        chromium.close()
        server.shutdown()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "chromium": version,
            "load_at_end": round(os.getloadavg()[0], 1),
        },
        "nodes": len(tree["nodes"]["parent"]),
        "read_first_tree_seconds": round(reading, 3),
        "first_paint_seconds": {"measured": _seconds(paints), "at_most": 1},
        "river_seconds": {"measured": _seconds(rivers)},
        "step_milliseconds": {"measured": round(statistics.median(steps), 1), "at_most": 50},
        "slowest_step_milliseconds": round(max(steps), 1),
    }


def remembered(run: Path, browser: str | None) -> dict[str, Any]:
    """Resident memory of a server, and the heap of its page, after so much was looked at."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "butwait", "view", str(run), "--port", "0", "--no-browser"]
    shown = "() => document.getElementById('told') !== null"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        data = f"{address}data/"
        found: dict[str, Any] = {"questions": QUESTIONS, "attempts": QUESTIONS * ATTEMPTS}
        try:
            urlopen(f"{data}runs.js").read()
            found["server_at_first"] = _resident(server.pid)
            sizes = [
                len(urlopen(f"{data}attempts/0/{stage}.js").read()) for stage in ("base", "after")
            ]
            found["attempts_table_sent"] = round(max(sizes) / 2**20, 1)
            found["server_after_attempts"] = _resident(server.pid)
            ids = Library(lambda: [run], live=False).get("trees/0/hunt")["id"]
            for name, part in (("50_trees", ids[:TREES]), ("100_trees", ids[TREES : 2 * TREES])):
                _look(data, part)
                found[f"server_after_{name}"] = _resident(server.pid)
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path=browser,
                    args=["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"],
                )
                page = chromium.new_page()
                page.set_default_timeout(300_000)
                page.goto(f"{address}#/run/0/attempts/after?other=0/base")
                page.locator("section.side ol.steps").first.wait_for()
                found["page_with_two_evaluations"] = _heap(page)
                page.goto(f"{address}#/run/0/trees/hunt")
                for name in ("50_trees", "100_trees"):
                    for _ in range(TREES):
                        page.wait_for_function(shown)
                        page.keyboard.press("n")
                    page.wait_for_function(shown)
                    found[f"page_after_{name}"] = _heap(page)
                chromium.close()
        finally:
            server.terminate()
    return found


def _look(data: str, trees: Iterable[str]) -> None:
    for tree in trees:
        for part in ("", *(f"/texts/{chunk}" for chunk in range(3))):
            urlopen(f"{data}tree/0/hunt/{tree}{part}.js").read()


def _resident(pid: int) -> float:
    """Mebibytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _heap(page: Any) -> float:
    """Mebibytes of a page's objects, after what is not needed has gone."""
    return float(round(page.evaluate("gc(), performance.memory.usedJSHeapSize") / 2**20, 1))


def _seconds(milliseconds: list[float]) -> float:
    return round(statistics.median(milliseconds) / 1000, 3)


if __name__ == "__main__":
    main()
