"""docs/evaluation.md says what the code does."""

from pathlib import Path

import yaml

from butwait.evaluation.compare import compare, with_holm
from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.settings import EvaluateSettings
from butwait.evaluation.storage import SCHEMA

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_number_is_defined(from_counts):
    base, other = from_counts([1] * 9 + [0] * 21, 1), from_counts([1] * 10 + [0] * 20, 1)
    comparison = compare("base", base, "sft", other)
    (adjusted,) = with_holm([comparison])
    for name in [*SCHEMA.names, *attempt_figures(base), *adjusted]:
        assert f"`{name}`" in PAGE, f"{name} is not explained"
    quoted = " ".join(PAGE.split("\n> ", 1)[1].split("\n\n", 1)[0].replace("\n>", "").split())
    assert quoted == comparison["sentence"]


def test_the_example_is_valid():
    example = yaml.safe_load(PAGE.split("```yaml\n")[1].split("```")[0])
    stage = example["stages"]["base"]
    assert stage.pop("kind") == "evaluate"
    settings = EvaluateSettings.model_validate(stage)
    assert settings.methods["plain"].k == 8
    assert settings.methods["filter"].sampler.kind == "particle_filter"
