"""What a completion is worth."""

from butwait.problems.answers import answer_part, count_boxes
from butwait.training.grpo.completions import Completion
from butwait.training.grpo.settings import RewardSettings


def reward(completion: Completion, settings: RewardSettings, max_tokens: int) -> float | None:
    """1 for a correct answer, else 0, and what ``settings`` add.

    None where the completion must move nothing: its answer cannot be graded, or it repeats another
    one of a group that may not.
    """
    if completion.grade.status == "ungradable" or completion.repeated:
        return None
    worth = float(completion.grade.correct)
    worth += settings.format * has_format(completion.text)
    if settings.overlong_tokens is not None:
        worth += overlong(completion.length, max_tokens, settings.overlong_tokens)
    return worth


def has_format(text: str) -> bool:
    """Whether there is exactly one box, behind any thinking, and the thinking is closed."""
    if text.rfind("<think>") > text.rfind("</think>"):
        return False
    return count_boxes(text) == count_boxes(answer_part(text)) == 1


def overlong(length: int, max_tokens: int, zone: int) -> float:
    """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13), in [-1, 0].

    Args:
        length: tokens of the completion.
        max_tokens: the longest length.
        zone: tokens before it over which the punishment grows from 0 to 1.
    """
    return -min(max(length - (max_tokens - zone), 0) / zone, 1.0)
