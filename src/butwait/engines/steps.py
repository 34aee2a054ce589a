"""Where a step of reasoning ends, and why.

An engine asks after every token. Most tokens cannot end anything, and ``StepDetector.may_end``
says so for a whole batch by one table look-up; text is decoded only at the others. vLLM and servers
hand over tokens a few at a time and may go on for some beyond the end of the step: ``ArrivingStep``
cuts them by the same rule, so all engines agree on where a step ends and why.

Where a sentence of mathematical prose ends is decided without looking ahead: a step must end with
the sentence's own last token, before it is known what follows. So a mark ends a sentence only where
it can hardly be anything else; what is missed makes a step longer, never shorter.
"""

import re
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from butwait.engines.detokenizer import UNFINISHED, Detokenizer, GrowingText
from butwait.engines.engine import Continuation, Prefix
from butwait.engines.settings import SENTENCE_MARKS, StepRule
from butwait.problems.answers import box_closed
from butwait.records import OPEN, Finish, UserError

MOST_RULES = 64
"""Step rules that are remembered: each holds a flag for every token, and the clients of a server
name rules of their own."""

CLOSERS = "\"'”’)]*"
"""What may stand between the mark and the end of the sentence's last token."""

_END = re.compile(rf"(\S*?)([{SENTENCE_MARKS}])[{re.escape(CLOSERS)}]*$")
_ABBREVIATIONS = frozenset(
    (
        *("approx", "cf", "dr", "e.g", "eq", "eqs", "etc", "fig", "i.e", "mr", "mrs", "ms"),
        *("no", "p", "pp", "prof", "resp", "st", "thm", "vs", "w.l.o.g"),
    )
)
_NUMBER_OR_LETTER = re.compile(r"(.*\W)?(\d+|[^\W\d_])$")
"""A number may go on after a point, and be a factorial; a single letter is an initial, a part of
an abbreviation, or a variable's factorial."""


def ends_sentence(text: str) -> bool:
    """Whether ``text`` ends with a sentence: with a ``.``, ``!`` or ``?`` (quotes and brackets may
    close after it) that belongs to no number, single letter or abbreviation, outside of ``$...$``
    and of open braces."""
    end = _END.search(text)
    if end is None or text.count("$") % 2 or text.count("{") > text.count("}"):
        return False
    word, mark = end[1], end[2]
    if mark == "?":
        return True
    bare = word.lstrip("([\"'“‘*").lower()
    unfinished = not bare or bare.endswith(".")  # an ellipsis
    return not (unfinished or bare in _ABBREVIATIONS or _NUMBER_OR_LETTER.match(bare))


class StepEndError(UserError):
    """A step cannot end where it is to.

    Attributes:
        end: the text at which it is to end.
    """

    def __init__(self, end: str, special: str) -> None:
        super().__init__(
            f"no step can end with {end!r}: {special!r} is a special token of the tokenizer, which "
            "texts leave out; mend the step's think_end or delimiters"
        )
        self.end = end


class StepDetector:
    """The rule for ends of steps, made ready for one tokenizer.

    Args:
        detokenizer: of the policy's tokenizer.
        rule: delimiters, limits and the stop at a box.
        eos_ids: every id that ends a completion.

    Raises StepEndError where a step is to end with a special token that no text shows.
    """

    def __init__(self, detokenizer: Detokenizer, rule: StepRule, eos_ids: Collection[int]) -> None:
        self.detokenizer = detokenizer
        self.rule = rule
        self.eos_ids = frozenset(eos_ids)
        for special, name in detokenizer.left_out.items():
            for end in filter(None, (rule.think_end, *rule.delimiters, *rule.stops)):
                if special not in self.eos_ids and name.strip() and name in end:
                    raise StepEndError(end, name)
        self._can_end = _tokens_that_can_end(detokenizer.pieces, rule, self.eos_ids)

    def may_end(self, token_ids: np.ndarray) -> np.ndarray:
        """bool (n,): whether each of these new tokens may end its step by what it says.

        Never False for a token that does. Ids beyond the tokenizer's (a padded vocabulary) are
        no text and end nothing.
        """
        return self._can_end[np.minimum(token_ids, len(self._can_end) - 1)]


class GrowingStep:
    """The next step of a path, while its tokens arrive.

    Args:
        detector: where it ends.
        prefix: the path so far.
        context_room: tokens that the model's context still takes; None: enough.
    """

    def __init__(
        self, detector: StepDetector, prefix: Prefix, context_room: int | None = None
    ) -> None:
        completion = prefix.token_ids[prefix.prompt_length :]
        self._detector = detector
        self._path = GrowingText(detector.detokenizer, completion, prefix.text)
        self._start = len(completion)
        self._text_start = len(prefix.text)
        self._box_from: int | None = None
        left = detector.rule.max_tokens - self._start
        self._path_room = max(0, left if context_room is None else min(left, context_room))
        self.room = min(detector.rule.room(self._start), self._path_room)
        """The most tokens this step may take."""

    @property
    def text(self) -> str:
        """The step's text. It is up to date once ``finish`` has said how the step ends; an
        unfinished character at its end goes to the next step."""
        return self._path.text[self._text_start :]

    def finish(self, token_ids: np.ndarray) -> Finish | None:
        """How the step ends with the last of ``token_ids``, or None where it goes on.

        Args:
            token_ids: int32 (m,), all tokens of this step so far. Call it for every m at which
                ``may_end`` holds for the newest token, and at ``room``.

        Where several ends meet, what completes the answer wins (eos, then box), then the path's
        limit, then the delimiter, then the step's limit.
        """
        ended = self._ending(token_ids)
        if ended == "eos":
            self._read(token_ids[:-1], last=True)  # the EOS token is not part of the text
        elif ended is not None:
            self._read(token_ids, last=ended not in OPEN)
        return ended

    def _ending(self, token_ids: np.ndarray) -> Finish | None:
        rule = self._detector.rule
        delimited = False
        if len(token_ids):
            if int(token_ids[-1]) in self._detector.eos_ids:
                return "eos"
            if self._detector.may_end(token_ids[-1:])[0]:
                self._read(token_ids)
                if rule.stop_at_box and self._box_closes():
                    return "box"
                delimited = self._delimited()
        if len(token_ids) >= self._path_room:
            return "length"
        if delimited:
            return "step"
        return "step_limit" if len(token_ids) >= self.room else None

    def _read(self, token_ids: np.ndarray, *, last: bool = False) -> None:
        new = token_ids[len(self._path) - self._start :]
        if len(new) or last:
            self._path.append(new.tolist(), last=last)

    def _delimited(self) -> bool:
        rule, text = self._detector.rule, self.text
        # One may begin in the step before: a delimiter is often the beginning of a stop.
        if any(stop in self._path.text for stop in rule.stops):
            return True
        if rule.think_end is not None:
            if rule.think_end in self._path.text[: self._text_start]:
                return False  # the answer is one step
            if rule.think_end in self._path.text:
                return True
        return any(d in text for d in rule.delimiters) or (rule.sentences and ends_sentence(text))

    def _box_closes(self) -> bool:
        """Whether a box is closed now that was not when the step began.

        A box may open in one step and close in another, so the whole answer is read; a path that
        already had its answer and was made to go on ends at its next box.
        """
        text, begin = self._path.text, 0
        if (think_end := self._detector.rule.think_end) is not None:
            thought, closed, _ = text.rpartition(think_end)
            if not closed:
                return False
            begin = len(thought) + len(think_end)
        if self._box_from is None or self._box_from < begin:
            before = text[begin : self._text_start]
            self._box_from = self._text_start if box_closed(before) else begin
        return box_closed(text[self._box_from :])


def cut(
    detector: StepDetector, step: GrowingStep, token_ids: np.ndarray, read: int
) -> tuple[int, Finish | None]:
    """Where a step ends within its newest chunk.

    Args:
        detector: of the step.
        step: the step, which has been asked about the first ``read`` tokens.
        token_ids: int32 (m,), the step's tokens and perhaps some beyond its end.
        read: how many of them came with earlier chunks.

    Returns:
        How many of ``token_ids`` are the step's, and why it ends there; all of them and None
        where it goes on.
    """
    may_end = detector.may_end(token_ids[read:])
    if read < step.room <= len(token_ids):
        may_end[step.room - read - 1] = True
    for end in (read + 1 + np.flatnonzero(may_end)).tolist():
        finish = step.finish(token_ids[:end])
        if finish is not None:
            return end, finish
    return len(token_ids), None


class ArrivingStep:
    """One step of a path while its chunks arrive.

    Args:
        detector: where the step ends.
        prefix: the path so far.
        context_room: tokens that the model's context still takes; None: not known.

    Attributes:
        finish: why the step has ended; None while it goes on. A path without room has ended at
            once.
        overshoot: tokens that were handed over beyond the step's end.
    """

    def __init__(
        self, detector: StepDetector, prefix: Prefix, context_room: int | None = None
    ) -> None:
        self.detector = detector
        self.prefix = prefix
        self._context_room = context_room
        self._step = GrowingStep(detector, prefix, context_room)
        self._token_ids = np.zeros(0, np.int32)
        self._logprobs = np.zeros(0, np.float32)
        self.finish: Finish | None = None
        self.overshoot = 0
        if self._step.room == 0:
            self.finish = self._step.finish(self._token_ids)

    def copy(self) -> "ArrivingStep":
        """The same step, to be gone on with on its own."""
        step = ArrivingStep(self.detector, self.prefix, self._context_room)
        step.add(self._token_ids, self._logprobs)
        return step

    @property
    def room(self) -> int:
        """The most tokens that the step still takes."""
        return self._step.room - len(self._token_ids)

    @property
    def token_ids(self) -> np.ndarray:
        """int32 (n,), those of the step so far."""
        return self._token_ids

    def add(self, token_ids: ArrayLike, logprobs: ArrayLike) -> Finish | None:
        """Takes the next chunk, as far as it is the step's, and says how the step ends with it.

        Args:
            token_ids: (m,), with the EOS token where the completion ended with it.
            logprobs: (m,), nats.
        """
        if self.finish is not None:
            self.overshoot += np.size(token_ids)
            return self.finish
        read = len(self._token_ids)
        ids = np.concatenate([self._token_ids, np.asarray(token_ids, np.int32)])
        taken, self.finish = cut(self.detector, self._step, ids, read)
        self.overshoot += len(ids) - taken
        self._token_ids = ids[:taken]
        new = np.asarray(logprobs, np.float32)[: taken - read]
        self._logprobs = np.concatenate([self._logprobs, new])
        return self.finish

    def end_of_context(self) -> None:
        """The engine has no room for another token: the path ends truncated (``length``)."""
        self._step = GrowingStep(self.detector, self.prefix, len(self._token_ids))
        self.finish = self._step.finish(self._token_ids)

    def continuation(self, prefilled_tokens: int) -> Continuation:
        """The ended step. Its prefix has no handle: such engines keep their own prefix cache."""
        assert self.finish is not None, "the step goes on"
        ids, text = self._token_ids, self._step.text
        extended = self.prefix.extended(ids, text)
        return Continuation(
            ids, text, self._logprobs, self.finish, extended, prefilled_tokens, self.overshoot
        )


def _tokens_that_can_end(pieces: list[str], rule: StepRule, eos_ids: frozenset[int]) -> np.ndarray:
    """bool (vocabulary + 1,): tokens with the last character of a delimiter, a thought, a stop, a
    box or a sentence, and EOS.

    A token completes a delimiter only if it brings the delimiter's last character. Part of a
    character is never ASCII, so an unfinished piece matters only to other delimiters.
    """
    endings = {d[-1] for d in (*rule.delimiters, *rule.stops, rule.think_end) if d}
    if rule.stop_at_box:
        endings.add("}")
    if rule.sentences:
        endings |= set(SENTENCE_MARKS)
    if any(not ending.isascii() for ending in endings):
        endings.add(UNFINISHED)
    size = max(len(pieces), *(i + 1 for i in eos_ids), 0) if eos_ids else len(pieces)
    can_end = np.zeros(size + 1, bool)
    can_end[: len(pieces)] = [not endings.isdisjoint(piece) for piece in pieces]
    can_end[list(eos_ids)] = True
    return can_end
