"""``butwait solve``: one question, with a look at the particles while they are on their way."""

import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from butwait.api.answers import Solved
from butwait.api.searching import solve
from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.recipe.written import Wrong, parse_written
from butwait.records import OPEN, Key, Problem, UserError
from butwait.reward_models.aggregate import probability
from butwait.reward_models.reward_model import Path as RewardPath
from butwait.reward_models.reward_model import RewardModel, Score, scores
from butwait.running.terminal import console, heard, visible

_FILE_NAME = re.compile(
    r"\S+\.(txt|md|json|jsonl|csv|parquet)|(?=.*[a-z]{2})[\w.~:-]*([/\\][\w.~-]*)+",
    re.ASCII | re.IGNORECASE,
)
"""A word that is called as files are; 3/4+1/2 is not."""
SHOWN = 12
"""Paths that are shown at a time, those with most particles first."""


def solve_question(question: str, as_json: bool, reward_model: str | None, **options: Any) -> None:
    """Searches a question, or the one in a file or on standard input (``-``), and prints what the
    search says."""
    text = _question(question)
    screen = console(highlight=False)
    view = _View()
    live: AbstractContextManager[Any] = nullcontext()
    if not as_json and screen.is_terminal and heard(logging.INFO):
        live = Live(get_renderable=view.shown, console=screen, transient=True)
    judge = reward_model_of(reward_model)
    with live:
        found = solve(text, watch=view.watch, reward_model=judge, **options)
    if as_json:
        print(json.dumps(found.row()))
    else:
        screen.print(_result(found))


def _question(given: str) -> str:
    """The text that is meant. UserError for a folder, and for what only a file is called so, where
    none is there."""
    if given == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed: give the question itself, or its file")
        return _utf8(sys.stdin.buffer.read(), "standard input")
    file = Path(given)
    try:
        is_file = file.is_file()
    except OSError:  # a question may be longer than a name can be
        is_file = False
    if is_file:
        return _utf8(file.read_bytes(), given)
    if given and _is_folder(file):
        raise UserError(f"{given} is a folder: give the question itself, or the file that holds it")
    if _FILE_NAME.fullmatch(given):
        raise UserError(
            f"there is no file {given}: give the question itself, or the file that holds it (if "
            "this is the question, give it on standard input, with - in its place)"
        )
    return given


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _utf8(raw: bytes, place: str) -> str:
    """A text from outside, whatever encoding the terminal has."""
    try:
        return raw.decode("utf-8").replace("\r\n", "\n").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not a text in UTF-8 ({error.reason})") from error


def reward_model_of(given: str | None) -> Any:
    """The name of a kind, or settings as a recipe writes them in a line."""
    if given is None or "{" not in given:
        return given
    wrong = Wrong()
    found = parse_written(given, "--reward-model", wrong, lines=False)
    for _, told in wrong:
        raise UserError(f"--reward-model: {told}")
    return found.plain()


def _result(found: Solved) -> RenderableType:
    usage = found.usage
    lines = [Text(visible(line)) for line in found.text.strip().splitlines()]
    answer = "no answer" if found.answer is None else visible(found.answer)
    judged = {None: "", True: "  right", False: "  wrong"}[found.correct]
    lines.append(Text(f"\n{answer}", style="bold") + Text(f"  weight {found.weight:.2f}{judged}"))
    others = [f"{visible(a)} {share:.2f}" for a, share in found.answers if a != found.answer]
    if others:
        lines.append(Text("other answers: " + ", ".join(others[:SHOWN]), style="dim"))
    lines.append(
        Text(
            f"{len(found.tree.leaves)} particles, {usage.policy_tokens:,} policy tokens, "
            f"{usage.prefilled_tokens:,} prefilled, {usage.reward_tokens:,} of the reward model, "
            f"{usage.seconds:.1f} s",
            style="dim",
        )
    )
    return Group(*lines)


class _View:
    """The particles' last steps, as the engine and the reward model see them."""

    def __init__(self) -> None:
        self._paths: Counter[str] = Counter()
        self._ended: dict[str, str] = {}
        self._rewards: dict[str, float] = {}
        self._rounds = 0

    def watch(
        self, engine: Engine, reward_model: RewardModel | None
    ) -> tuple[Engine, RewardModel | None]:
        """Both, each told of here."""
        judge = None if reward_model is None else _WatchedRewardModel(reward_model, self)
        return _WatchedEngine(engine, self), judge

    def extended(self, prefixes: Sequence[Prefix], steps: Sequence[Continuation]) -> None:
        self._rounds += 1
        for prefix in prefixes:
            if self._paths[prefix.text] > 1:
                self._paths[prefix.text] -= 1
            else:
                self._paths.pop(prefix.text, None)
        for step in steps:
            self._paths[step.prefix.text] += 1
            if step.finish not in OPEN:
                self._ended[step.prefix.text] = step.finish

    def scored(self, paths: Sequence[RewardPath], found: Sequence[Score]) -> None:
        for path, score in zip(paths, found, strict=True):
            text = "".join(step.text for step in path.steps)
            if score.too_long:
                self._ended[text] = "length"
            else:
                self._rewards[text] = float(probability(score.logit))

    def shown(self) -> RenderableType:
        """A line a path: particles, reward, its last step."""
        if not self._rounds:
            return Text("loading the model", style="dim")
        table = Table(box=None, padding=(0, 1), show_edge=False)
        table.add_column("particles", justify="right")
        table.add_column("reward", justify="right")
        table.add_column(f"last step (round {self._rounds})", no_wrap=True, overflow="ellipsis")
        for text, count in Counter(self._paths).most_common(SHOWN):
            reward = self._rewards.get(text)
            last = text.strip().rpartition("\n")[2]
            end = {"eos": " .", "box": " .", "length": " (cut)"}.get(self._ended.get(text, ""), "")
            table.add_row(
                str(count),
                "" if reward is None else f"{reward:.2f}",
                Text(visible(last) + end, style="" if text not in self._ended else "bold"),
            )
        return table


class _WatchedEngine:
    """An engine whose steps are told."""

    def __init__(self, engine: Engine, view: _View) -> None:
        self._engine, self._view = engine, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def turn(self) -> Any:
        return _WatchedEngine(self._engine.turn(), self._view)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        steps = await self._engine.extend(prefixes, rule, sampling, keys)
        self._view.extended(prefixes, steps)
        return steps


class _WatchedRewardModel:
    """A reward model whose scores are told."""

    def __init__(self, model: RewardModel, view: _View) -> None:
        self._model, self._view = model, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def score(self, problem: Problem, paths: Sequence[RewardPath]) -> list[Score]:
        found = await scores(self._model, problem, paths)
        self._view.scored(paths, found)
        return found
