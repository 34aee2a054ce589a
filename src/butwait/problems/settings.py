"""What a problem set and a prompt take. Imports nothing heavy."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from butwait.problems.source import PARTICULAR, kind_of
from butwait.records.settings import Result, Settings, refuse_all
from butwait.running.plugins import PLUGIN


class Columns(Settings):
    """Which columns of the source hold what; None takes the preset's, or the default given.

    ``reward_model.ground_truth`` is a part of a nested column, and ``messages.0.content`` of a
    list's first item, unless a column has that very name."""

    question: str | None = None
    """Column of the question; ``question`` by default."""
    answer: str | None = None
    """Column of the gold answer; ``answer`` by default."""
    id: str | None = None
    """Column of a unique, stable id; by default ``id`` where the source has one, else the id is a
    hash of the normalised question."""
    solution: str | None = None
    """Column of a reference solution; none by default."""
    metadata: tuple[str, ...] | None = None
    """Columns kept in ``Problem.metadata``; none by default."""


class ProblemSetSettings(Settings):
    """Where a problem set comes from and which part of it is taken."""

    source: Annotated[str, Field(min_length=1)]
    """``arithmetic``, ``sums``, ``gym:NAME`` (reasoning-gym), a preset (``aime24``, ``aime25``,
    ``aime26``, ``math500``, ``gsm8k``, ``limo``), a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or
    ``.parquet`` file, each also with ``.gz``, ``module:function`` of one's own, or a Hugging Face
    dataset: its id or its folder."""
    subset: str | None = None
    """Configuration of a Hugging Face dataset."""
    split: str | None = None
    """Split of a Hugging Face dataset (default ``train``, or the preset's), or of ``arithmetic``
    and ``sums``: ``train`` (default), ``search``, ``validation``, ``test``, and ``pretrain`` of
    ``arithmetic`` (what the tiny model learned from); no question is in two of them."""
    revision: str | None = None
    """Commit of a Hugging Face dataset; pin it for a run to be repeatable."""
    columns: Columns = Columns()
    """Names of the source's columns."""
    answer_kind: Literal["auto", "integer", "math", "text"] = "auto"
    """How answers are compared; ``auto`` is ``integer`` if every gold answer is an integer, else
    ``math``. ``text``: as they are written, white space aside; ``auto`` is this in place of
    ``math`` where a verifier judges."""
    answer_after: str | None = None
    """The gold answer is what stands after the last such mark (``"####"`` in GSM8K)."""
    answer_separator: Annotated[str, Field(min_length=1)] | None = None
    """Cuts a gold answer that is text into several, each of which is accepted (``" or "``)."""
    accept_any: bool = False
    """A gold answer may be a list of accepted ones; without it a list is an error."""
    drop_answers: tuple[str, ...] = ()
    """Gold answers that are none (``proof``, ``notfound``; ``""`` is a missing one), in any case of
    letters: problems with no other are left out, and their number is logged."""
    drop_unanswered: bool = False
    """Leave out problems without a gold answer and log their number; else they are an error."""
    repeated_ids: Literal["error", "number"] = "error"
    """What an id that occurs again is: an error, or the same id with a number (``7``, ``7-2``),
    where the question is another one; the same problem once more is left out and logged."""
    shuffle_seed: int | None = None
    """Shuffle with this seed before ``offset`` and ``limit``; None keeps the source's order."""
    offset: Annotated[int, Field(ge=0)] = 0
    """Problems to skip."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """The most problems to take; None takes all."""
    overlap: Literal["words", "whole"] | None = None
    """How questions of evaluation sets are found in it, to be left out: ``words`` compares whole
    questions and stretches of 13 and 8 words, ``whole`` only whole questions; None is ``whole``
    for generated questions, which share their wording, and ``words`` for all others."""
    verifier: str | None = None
    """Judges answers in place of the rules of equality: ``module:function`` of (question, extracted
    answer or None, metadata with ``gold`` and ``response``) that gives a score in [0, 1], or
    (score, status). Modules are found beside the recipe. ``gym:`` sets have reasoning-gym's own."""
    licence: str | None = None
    """Licence of the source, for the cards of data made from it."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of a generator: ``seed``, ``size`` (by default ``offset`` + ``limit``) and its
    own (difficulty); of ``module:function``, its keyword arguments."""

    def look(self, world: Any) -> None:
        if self.verifier is not None:
            world.plugin(self.verifier, "verifier")

    @property
    def overlap_rule(self) -> Literal["words", "whole"]:
        """``overlap`` with its default."""
        return self.overlap or ("whole" if kind_of(self.source).generated else "words")

    @field_validator("verifier")
    @classmethod
    def _names_a_function(cls, name: str | None) -> str | None:
        if name is not None and (not PLUGIN.fullmatch(name) or name.startswith("gym:")):
            raise ValueError(
                f"{name!r} is not of the form module:function"
                + (" (gym: sets have their own)" if name.startswith("gym:") else "")
            )
        return name

    @model_validator(mode="after")
    def _fields_fit_the_source(self) -> "ProblemSetSettings":
        unused = sorted((PARTICULAR - kind_of(self.source).takes) & self.model_fields_set)
        refuse_all(f"{name} has no meaning for the source {self.source!r}" for name in unused)
        return self


class PromptSettings(Settings):
    """How a question is put to the model."""

    style: Result[Literal["chat", "plain"]] = "chat"
    """``chat`` uses the tokenizer's chat template; ``plain`` is the text alone (base models)."""
    system: Result[str | None] = None
    """System message; None leaves it to the chat template (some add their own)."""
    template: Result[str] = (
        "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    """The user's message. Only ``{question}`` is replaced, other braces stand for themselves."""
    template_options: Result[dict[str, Any]] = Field(default_factory=dict)
    """Further variables for the chat template, such as ``enable_thinking: true``;
    ``chat_template`` is a template of one's own, or the name of one where a tokenizer has several.
    """
    date: Result[datetime.date] = datetime.date(2024, 7, 26)
    """What a chat template that writes today's date is told it is, so that a run's prompts are the
    same on every day. The default is what Llama 3.1's template falls back on."""

    @field_validator("template")
    @classmethod
    def _has_a_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError("a prompt template must contain {question}")
        return template
