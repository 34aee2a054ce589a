"""Well-known problem sets by name: their hub id, split and columns."""

from butwait.problems.settings import Columns, ProblemSetSettings

PRESETS: dict[str, ProblemSetSettings] = {
    "aime24": ProblemSetSettings(
        source="HuggingFaceH4/aime_2024",
        split="train",
        columns=Columns(question="problem", answer="answer", id="id", solution="solution"),
        answer_kind="integer",
    ),
    "aime25": ProblemSetSettings(
        source="math-ai/aime25",
        split="test",
        columns=Columns(question="problem", answer="answer", id="id"),
        answer_kind="integer",
    ),
    "aime26": ProblemSetSettings(
        source="MathArena/aime_2026",
        split="train",
        columns=Columns(question="problem", answer="answer", id="problem_idx"),
        answer_kind="integer",
        licence="CC-BY-NC-SA-4.0",
    ),
    "math500": ProblemSetSettings(
        source="HuggingFaceH4/MATH-500",
        split="test",
        columns=Columns(
            question="problem",
            answer="answer",
            id="unique_id",
            solution="solution",
            metadata=("subject", "level"),
        ),
        answer_kind="math",
    ),
    "gsm8k": ProblemSetSettings(
        source="openai/gsm8k",
        subset="main",
        split="test",
        columns=Columns(question="question", answer="answer", solution="answer"),
        answer_kind="integer",
        answer_after="####",
        licence="MIT",
    ),
    "limo": ProblemSetSettings(
        source="GAIR/LIMO",
        split="train",
        columns=Columns(question="question", answer="answer", solution="solution"),
        licence="Apache-2.0",
    ),
}

MATH_ARENA = ProblemSetSettings(
    source="MathArena/",
    split="train",
    columns=Columns(question="problem", answer="answer", id="problem_idx"),
    licence="CC-BY-NC-SA-4.0",
)
"""What all contests have in common that MathArena publishes (``MathArena/hmmt_feb_2026``, ...)."""


def with_preset(settings: ProblemSetSettings) -> ProblemSetSettings:
    """The settings on top of the preset that ``source`` names; as they are where it names none."""
    preset = PRESETS.get(settings.source)
    if preset is None and settings.source.startswith(MATH_ARENA.source):
        preset = MATH_ARENA.model_copy(update={"source": settings.source})
    if preset is None:
        return settings
    given = settings.model_dump(include=settings.model_fields_set - {"source", "columns"})
    columns = settings.columns.model_dump(exclude_none=True)
    return preset.model_copy(update={**given, "columns": preset.columns.model_copy(update=columns)})
