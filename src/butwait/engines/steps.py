"""Where a step of reasoning ends, and why.

An engine asks after every token. Most tokens cannot end anything, and ``StepDetector.may_end``
says so for a whole batch by one table look-up; text is decoded only at the others.
"""

from collections.abc import Collection

import numpy as np

from butwait.engines.detokenizer import UNFINISHED, Detokenizer, GrowingText
from butwait.engines.sentences import MARKS, ends_sentence
from butwait.engines.settings import StepRule
from butwait.problems.answers import box_closed
from butwait.records import OPEN, Finish


class StepDetector:
    """The rule for ends of steps, made ready for one tokenizer.

    Args:
        detokenizer: of the policy's tokenizer.
        rule: delimiters, limits and the stop at a box.
        eos_ids: every id that ends a completion.
    """

    def __init__(self, detokenizer: Detokenizer, rule: StepRule, eos_ids: Collection[int]) -> None:
        self.detokenizer = detokenizer
        self.rule = rule
        self.eos_ids = frozenset(eos_ids)
        self._can_end = _tokens_that_can_end(detokenizer.pieces, rule, self.eos_ids)

    def may_end(self, token_ids: np.ndarray) -> np.ndarray:
        """bool (n,): whether each of these new tokens may end its step by what it says.

        Never False for a token that does. Ids beyond the tokenizer's (a padded vocabulary) are
        no text and end nothing.
        """
        return self._can_end[np.minimum(token_ids, len(self._can_end) - 1)]

    def room(self, completion_length: int) -> int:
        """The most tokens that a step may add after ``completion_length`` of them."""
        left = max(0, self.rule.max_tokens - completion_length)
        return left if self.rule.max_step_tokens is None else min(left, self.rule.max_step_tokens)

    def step(
        self, completion_ids: np.ndarray, text: str, context_room: int | None = None
    ) -> "GrowingStep":
        """The next step of a path.

        Args:
            completion_ids: int32 (n,), the completion so far.
            text: its text.
            context_room: tokens that the model's context still takes; None: enough.
        """
        return GrowingStep(self, completion_ids, text, context_room)


class GrowingStep:
    """One step while its tokens arrive. See ``StepDetector.step``."""

    def __init__(
        self,
        detector: StepDetector,
        completion_ids: np.ndarray,
        text: str,
        context_room: int | None,
    ) -> None:
        self._detector = detector
        self._path = GrowingText(detector.detokenizer, completion_ids, text)
        self._start = len(completion_ids)
        self._text_start = len(text)
        self._box_from: int | None = None
        left = detector.rule.max_tokens - self._start
        self._path_room = max(0, left if context_room is None else min(left, context_room))
        self.room = min(detector.room(self._start), self._path_room)
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


def _tokens_that_can_end(pieces: list[str], rule: StepRule, eos_ids: frozenset[int]) -> np.ndarray:
    """bool (vocabulary + 1,): tokens with the last character of a delimiter, a thought, a box or a
    sentence, and EOS.

    A token completes a delimiter only if it brings the delimiter's last character. Part of a
    character is never ASCII, so an unfinished piece matters only to other delimiters.
    """
    endings = {d[-1] for d in (*rule.delimiters, rule.think_end) if d}
    if rule.stop_at_box:
        endings.add("}")
    if rule.sentences:
        endings |= set(MARKS)
    if any(not ending.isascii() for ending in endings):
        endings.add(UNFINISHED)
    size = max(len(pieces), *(i + 1 for i in eos_ids), 0) if eos_ids else len(pieces)
    can_end = np.zeros(size + 1, bool)
    can_end[: len(pieces)] = [not endings.isdisjoint(piece) for piece in pieces]
    can_end[list(eos_ids)] = True
    return can_end
