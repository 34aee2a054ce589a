"""What a request's model and options mean: a sampler with its settings."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from butwait.api.question import (
    METHOD,
    STAGE,
    Words,
    sampler_content,
    search_recipe,
    search_words,
    size_of,
    suited_to,
    told_by,
    with_rules,
)
from butwait.engines.settings import StoppedRule
from butwait.problems.overlap import text_id
from butwait.recipe.load import checked_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import Problem, UserError
from butwait.running import mistakes
from butwait.running.expected import meant
from butwait.search.settings import SAMPLERS, CommonSettings
from butwait.server.settings import ServeSettings
from butwait.server.wire import ApiError, ChatRequest, CompletionRequest, Request, SearchOptions
from butwait.server.work import Ask
from butwait.stages.kinds import STAGES

BUDGET = "x-its-budget"
"""The header that says how many paths, as its_hub's gateway has it."""


@dataclass(frozen=True)
class Chosen:
    """How a request is searched.

    Attributes:
        method: what it was called.
        paths: of a search.
        asks: one for each choice.
    """

    method: str
    paths: int
    asks: tuple[Ask, ...]


def _paths(sampler: Any) -> int:
    """Paths of one search."""
    size = size_of(sampler.kind)
    return SAMPLERS.of(sampler).paths(sampler) or int(getattr(sampler, size) if size else 1)


class Methods:
    """The methods of a server, by the names of models.

    Args:
        settings: of the server. UserError for those that are no recipe.

    Attributes:
        recipe: with the default method, whose models are loaded.
        max_tokens: the most of a path that a request may ask for: the settings' own, or the longest
            paths of its methods where they do not say.
        name: the model's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._suited = suited_to(settings.model)
        self._default: Any = METHOD if settings.method is None else settings.method
        given = {"source": "questions.jsonl"}
        content = search_recipe(given, **self._options(settings))
        if settings.reward_model is None:  # any method may be asked for
            content["stages"][STAGE].setdefault("reward_model", self._judge(settings))
        if settings.workers is not None:
            content["workers"] = dict(settings.workers)
        words = search_words(content["stages"][STAGE]["sampler"])
        self.max_tokens = settings.max_tokens
        self.recipe: Recipe = self._checked(content, self._default, "method", words)
        self._named: dict[str, Any] = dict(settings.methods)
        for name, method in self._named.items():
            self._check_own(content, name, method)
        self._short = _initials([kind for kind in SAMPLERS if size_of(kind)])
        whole = self.recipe.model.name
        self.name = Path(whole).resolve().name if Path(whole).is_dir() else whole
        self._names = {self.name, self.name.rpartition("/")[2]}

    @staticmethod
    def _options(settings: ServeSettings) -> Any:
        taken = ("model", "method", "particles", "reward_model", "engine")
        rest = ("prompt", "step", "sampling")
        return {name: getattr(settings, name) for name in (*taken, *rest)}

    @staticmethod
    def _judge(settings: ServeSettings) -> dict[str, Any]:
        """What judges where nothing is named and a method needs it."""
        options = Methods._options(settings) | {"method": METHOD, "particles": None}
        content = search_recipe({"source": "questions.jsonl"}, **options)
        judge: dict[str, Any] = content["stages"][STAGE]["reward_model"]
        return judge

    @property
    def told(self) -> str:
        """What is served, in a few words."""
        sampler: Any = self.recipe.stages[STAGE].sampler  # type: ignore[attr-defined]
        size = size_of(sampler.kind)
        paths = f" with {getattr(sampler, size)} paths" if size else ""
        return f"{self.name} by {sampler.kind}{paths}"

    @property
    def models(self) -> list[str]:
        """What a request may call its model, numbers of paths aside."""
        kinds = [kind for kind in SAMPLERS if kind not in self._named]
        return [self.name, *(f"{self.name}@{m}" for m in [*self._named, *kinds])]

    def knows(self, name: str) -> bool:
        """Whether a request may call its model so."""
        try:
            self._method(name, SearchOptions())
        except ApiError:
            return False
        return True

    def chosen(self, request: Request, headers: Mapping[str, str]) -> Chosen:
        """How a request is searched. Raises ApiError for what it may not ask for."""
        own = request.butwait or SearchOptions()
        label, method, number = self._method(request.model, own)
        particles = _particles(own, headers.get(BUDGET), number)
        sampler = self._sampler(method, particles, request)
        if request.stops and SAMPLERS.of(sampler).second_thoughts:
            told = f"{sampler.kind} goes on where a path ends, and takes no stop; leave it out"
            raise ApiError(400, told, "invalid_value", "stop")
        paths, n = _paths(sampler), request.n or 1
        if paths * n > self.settings.max_paths:
            told = f"{n} x {paths} paths are more than this server's {self.settings.max_paths}"
            raise ApiError(400, f"{told}: ask for fewer", "invalid_value", "butwait.particles")
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        problem = _problem(request)
        limit = min(own.timeout_s or self.settings.timeout_s, self.settings.timeout_s)
        so_far = own.on_timeout == "answer"
        most = self.settings.max_prompt_tokens
        asks = (
            Ask(problem, sampler, seed + i, request.stops, most, limit, so_far) for i in range(n)
        )
        return Chosen(label, paths, tuple(asks))

    def _method(self, name: str, own: SearchOptions) -> tuple[str, Any, int | None]:
        """(What a method is called, the method, its number in the model's name)."""
        base, at, rest = name.partition("@")
        if name in self._names:
            base, at, rest = name, "", ""
        if base not in self._names or (at and not rest):
            told = f"the model {name[:200]!r} is not served here; this is {self.name}"
            raise ApiError(404, told, "model_not_found", "model")
        number = None
        if rest not in self._named:
            method, dash, digits = rest.rpartition("-")
            if dash and digits.isascii() and digits.isdigit() and len(digits) < 10:
                rest, number = method, int(digits)
                if number == 0:
                    raise ApiError(400, "a search has a path at least", "invalid_value", "model")
        if own.method is not None:
            if rest and rest != own.method:
                told = f"the model names the method {rest!r}, and butwait.method another one"
                raise ApiError(400, told, "invalid_value", "butwait.method")
            rest = own.method
        if not rest:
            default = self._default
            label = default if isinstance(default, str) else str(default.get("kind"))
            return label, default, number
        if rest in self._named:
            return rest, self._named[rest], number
        kind = self._short.get(rest, rest)
        if kind not in SAMPLERS.shipped:  # a client loads no code
            there = [*self._named, *SAMPLERS.shipped]
            told = f"there is no method {rest[:200]!r}{meant(rest[:200], there)}"
            told = f"{told} (there are: {', '.join(there)})"
            if own.method is not None:
                raise ApiError(400, told, "invalid_value", "butwait.method")
            raise ApiError(404, told, "model_not_found", "model")
        return kind, kind, number

    def _sampler(self, method: Any, particles: int | None, request: Request) -> CommonSettings:
        """The settings of a sampler, as ``butwait.solve`` makes them."""
        if particles is None and method == self._default:
            particles = self.settings.particles
        settings = self.settings
        try:
            content = sampler_content(method, self._suited, particles=particles)
            content = with_rules(content, self._suited, settings.step, settings.sampling)
            content = with_rules(content, self._suited, None, _sampling(request))
            sampler: CommonSettings = SAMPLERS.parse(content)
        except UserError as error:
            raise ApiError(400, str(error), "invalid_value", "butwait") from None
        except ValidationError as error:
            told = mistakes.told(SAMPLERS[content["kind"]].settings, content, error)
            raise ApiError(400, told[:500], "invalid_value", "butwait") from None
        rule, most = sampler.step, min(sampler.step.max_tokens, self.max_tokens)
        if (asked := request.most_tokens) is not None:
            if asked > self.max_tokens:
                told = f"a path has {self.max_tokens} tokens at most; ask for no more"
                raise ApiError(400, told, "invalid_value", "max_tokens")
            most = asked
        rule = rule.model_copy(update={"max_tokens": most})
        if request.stops:
            rule = StoppedRule(**dict(rule), stop=request.stops)
        return sampler.model_copy(update={"step": rule})

    def _check_own(self, content: dict[str, Any], name: str, method: Any) -> None:
        """Refuses a method of the settings that this server cannot search by."""
        if not name or any(not c.isprintable() or c in "@ " for c in name):
            raise UserError(f"methods: {name!r} is no name: it has letters and digits, no @")
        place = f"methods.{name}"
        try:
            sampler = sampler_content(method, self._suited, argument=place)
            sampler = with_rules(sampler, self._suited, self.settings.step, self.settings.sampling)
            stage = content["stages"][STAGE] | {"sampler": sampler}
            self._checked(content | {"stages": {STAGE: stage}}, method, place, {"sampler": place})
        except UserError as error:
            told = str(error).replace(f"stage {STAGE!r}", f"`{place}`")
            raise UserError(told if place in told else f"{place}: {told}") from error

    def _checked(self, content: dict[str, Any], method: Any, place: str, words: Words) -> Recipe:
        """The recipe of one method, within the server's limits; its own ``max_tokens`` lifts that
        of a server that does not say. UserError for what does not fit."""
        with told_by("butwait serve", STAGE, words):
            recipe = checked_recipe(content, STAGES, "butwait serve")
        settings, sampler = self.settings, recipe.stages[STAGE].sampler  # type: ignore[attr-defined]
        rules = (settings.step, method.get("step") if isinstance(method, dict) else None)
        said = any("max_tokens" in rule for rule in rules if rule)
        tokens = sampler.step.max_tokens if said else 0  # its default gives way to the limit
        if "max_tokens" not in settings.model_fields_set:
            self.max_tokens = max(self.max_tokens, tokens)
        for size, what, limit, most in (
            (_paths(sampler), "paths", "max_paths", settings.max_paths),
            (tokens, "tokens a path", "max_tokens", self.max_tokens),
        ):
            if size > most:
                told = f"`{place}` has {size} {what}, and {limit} is {most}"
                raise UserError(f"butwait serve: {told}; make one of them fit the other")
        return recipe


def _initials(kinds: list[str]) -> dict[str, str]:
    """Names of several words by their first letters, where these are one's alone."""
    found: dict[str, list[str]] = {}
    for kind in kinds:
        words = kind.split("_")
        if len(words) > 1:
            found.setdefault("".join(word[0] for word in words), []).append(kind)
    return {short: held[0] for short, held in found.items() if len(held) == 1}


def _particles(own: SearchOptions, header: str | None, number: int | None) -> int | None:
    if header is not None:
        given = header.strip()
        if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
            raise ApiError(400, "X-ITS-Budget is a whole number above 0", "invalid_value")
        return int(given)
    if own.budget is not None and own.particles not in (None, own.budget):
        told = "butwait.budget and butwait.particles are the same thing; give one of them"
        raise ApiError(400, told, "invalid_value", "butwait.budget")
    asked = own.particles if own.budget is None else own.budget
    return number if asked is None else asked


def _sampling(request: Request) -> dict[str, Any] | None:
    given: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("temperature", "top_p", "top_k")
        if getattr(request, name) is not None
    }
    if given.get("top_k") == -1:  # of vLLM: all of them
        given["top_k"] = 0
    return given or None


def _problem(request: Request) -> Problem:
    """The question of a request, as ``butwait.solve`` makes it of the same text."""
    if isinstance(request, CompletionRequest):
        if not request.text:
            raise ApiError(400, "the prompt is empty", "invalid_value", "prompt")
        return Problem(text_id(request.text), request.text, None, plain=True)
    assert isinstance(request, ChatRequest)
    *earlier, last = request.messages
    if last.role != "user":
        told = "the last message is the user's; an assistant's turn that is begun is not gone on"
        raise ApiError(400, told, "invalid_value", "messages")
    if not last.text.strip():
        raise ApiError(400, "the last message is empty", "invalid_value", "messages")
    turns = tuple({"role": _role(turn.role), "content": turn.text} for turn in earlier)
    return Problem(text_id(last.text), last.text, None, before=turns)


def _role(role: str) -> str:
    return "system" if role == "developer" else role
