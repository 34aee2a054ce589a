"""The kinds of stage, a module each. A new kind is one new module."""

from butwait.recipe.stages import StageKind
from butwait.running.kinds import Kinds

STAGES = Kinds("stage", "butwait.stages.kinds", StageKind)
