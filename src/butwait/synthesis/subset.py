"""Which questions a data set may hold."""

from collections.abc import Mapping
from pathlib import Path

from butwait.records import UserError
from butwait.synthesis.dataset import load_examples
from butwait.synthesis.settings import SubsetSettings
from butwait.synthesis.stored import SearchedTrees


def allowed_questions(
    subset: SubsetSettings, trees: SearchedTrees | None, data: Mapping[str, Path]
) -> set[str] | None:
    """Problem ids that the subset's rules leave; None where they leave out none.

    Args:
        subset: the rules.
        trees: of the search stages that the stage takes from; None: it takes from none.
        data: the folders of the data stages it takes from, by name.

    Raises:
        UserError: a rule that needs a stage the stage does not take from.
    """
    rules: list[set[str]] = []
    if subset.solved_by is not None:
        if trees is None or subset.solved_by not in trees.stages:
            raise UserError(
                f"subset.solved_by: {subset.solved_by!r} is no search stage in this stage's `from`"
            )
        rules.append(trees.solved_by(subset.solved_by))
    if subset.solve_rate is not None:
        if trees is None:
            raise UserError("subset.solve_rate needs a search stage in this stage's `from`")
        low, high = subset.solve_rate
        rules.append({i for i, rate in trees.rates().items() if low <= rate <= high})
    if subset.same_questions_as is not None:
        if subset.same_questions_as not in data:
            raise UserError(
                f"subset.same_questions_as: {subset.same_questions_as!r} is no data stage in this "
                "stage's `from`"
            )
        examples = load_examples(data[subset.same_questions_as] / "dataset")
        rules.append({example.problem_id for example in examples})
    return set.intersection(*rules) if rules else None
