"""Kinds of stages as the report sees them, without the layers that run them."""

from dataclasses import dataclass

from butwait.report.kinds import Section
from butwait.report.sections import PROFILES, REINFORCEMENT, REWARD_MODELS, SEARCHES


@dataclass(frozen=True)
class FakeKind:
    gives: str
    label: str = ""
    supervision: str = "self"
    section: Section | None = None


KINDS = {
    "evaluate": FakeKind("evaluation"),
    "prm": FakeKind("reward model", section=REWARD_MODELS),
    "search": FakeKind("trees", section=SEARCHES),
    "verified": FakeKind("data", "its own verified search"),
    "stitch": FakeKind("data", "stitched attempts of its own search"),
    "backtrack": FakeKind("data", "backtracking traces of its own search"),
    "but_wait": FakeKind("data", "second thoughts forced into its own search"),
    "external": FakeKind("data", "solutions that others wrote", "external traces"),
    "sft": FakeKind("model", "SFT"),
    "grpo": FakeKind("model", "GRPO", section=REINFORCEMENT),
    "grpo_direct": FakeKind("model", "GRPO-Direct", section=REINFORCEMENT),
    "profile": FakeKind("profile", section=PROFILES),
    "report": FakeKind("report"),
}
