"""The sections that kinds of stages refer to; what draws them is imported as a page is written."""

from collections.abc import Sequence
from typing import Any

from butwait.report.kinds import PageMaterial, Record, Section


def _profiles(material: PageMaterial, stages: Sequence[Record]) -> Any:
    from butwait.report.profiles import profiles

    return profiles(material.run, stages)


def _reward_models(material: PageMaterial, stages: Sequence[Record]) -> Any:
    from butwait.report.audits import audits

    return audits(material.run, stages)


def _searches(material: PageMaterial, stages: Sequence[Record]) -> Any:
    from butwait.report.searches import searches

    return searches(material.run, stages)


def _reinforcement(material: PageMaterial, stages: Sequence[Record]) -> Any:
    from butwait.report.reinforcement.section import reinforcement

    return reinforcement(material, stages)


PROFILES = Section("Profiles", "profiles.html", _profiles)
"""``profile.json`` of the stages (``profile.findings``)."""

REWARD_MODELS = Section("Reward model", "reward-model.html", _reward_models)
"""``audit.json`` (``reward_models.audit``)."""

SEARCHES = Section("Search", "search.html", _searches)
"""``trees/``."""

REINFORCEMENT = Section("Reinforcement learning", "reinforcement.html", _reinforcement, True)
"""``log.jsonl``, ``looks.jsonl`` and ``samples.jsonl``."""
