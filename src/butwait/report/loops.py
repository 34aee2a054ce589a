"""Which stages are the rounds of a loop: a trained model searches again, and training goes on with
its trees.

Rounds are found from what stages take, not from names. A model's *round* is one more than that of
the latest model among those that searched for its data; the base model's is 0. A loop is a line of
such models, each of which searched for the next; a recipe with several arms has a loop for each.
"""

from dataclasses import dataclass
from functools import cached_property

from butwait.report.kinds import Records, ReportedKinds, kind_of
from butwait.report.lineage import policy_stage, sources


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a loop.

    Attributes:
        model: the training stage whose model searched; None: the recipe's model.
        searches: the search stages of this round.
        data: the data stages that the training learned from.
        training: the training stage; None where nothing was trained on this search.
    """

    model: str | None
    searches: tuple[str, ...]
    data: tuple[str, ...] = ()
    training: str | None = None


class Rounds:
    """The rounds of a run's models.

    Args:
        records: stage.json of each stage, by its name.
        kinds: kind's name -> what the report asks of it.
    """

    def __init__(self, records: Records, kinds: ReportedKinds) -> None:
        self._records, self._kinds = records, kinds
        self._numbers: dict[str | None, int] = {None: 0}

    def number(self, model: str | None) -> int:
        """The round of a training stage's model; 0 where no searches are behind it."""
        if model not in self._numbers:
            self._numbers[model] = 0  # ends a circle, which no valid recipe has
            found = self._round_of(model)
            self._numbers[model] = 1 + self.number(found.model) if found else 0
        return self._numbers[model]

    def told(self, stage: str) -> str:
        """ ", round 2" for a stage that uses the model of a later round than the first; else ""."""
        number = self.number(self._policy(stage))
        return f", round {number}" if number > 1 else ""

    def loops(self) -> list[list[Round]]:
        """Every line of at least two rounds that no other one goes on, in the recipe's order."""
        lines = [line for name in self._records if len(line := self._line(name)) > 1]
        gone_on = {line[-1].model for line in lines}
        return [line for line in lines if line[-1].training not in gone_on]

    def _line(self, stage: str) -> list[Round]:
        """The rounds that end with a training, or with the searches that nothing was trained on of
        one model; empty for any other stage."""
        gives = kind_of(self._records[stage], self._kinds).gives
        if gives == "model":
            return self._up_to(stage)
        model = self._policy(stage)
        idle = [s for s in self._idle if self._policy(s) == model]
        return [*self._up_to(model), Round(model, tuple(idle))] if stage in idle[:1] else []

    def _up_to(self, model: str | None) -> list[Round]:
        line: list[Round] = []
        while (found := self._round_of(model)) is not None and found not in line:
            line.append(found)
            model = found.model
        return line[::-1]

    def _round_of(self, model: str | None) -> Round | None:
        """What a model was made by: its own data, else that of the model that it goes on from."""
        at, seen = model, set[str]()
        while at is not None and at not in seen:
            seen.add(at)
            data = self._taught(at)
            searches = [s for name in data for s in self._names(name, "trees")]
            if searches:
                policies = dict.fromkeys(self._policy(search) for search in searches)
                latest = max(policies, key=self.number)  # the first of equals
                own = [s for s in searches if self._policy(s) == latest]
                return Round(latest, tuple(dict.fromkeys(own)), tuple(data), model)
            at = self._policy(at)
        return None

    def _taught(self, model: str) -> list[str]:
        """The data stages of a training, without solutions of others: no search wrote those, though
        it may have chosen the questions."""
        data = sources(model, "data", self._records, self._kinds)
        own = (r for r in data if kind_of(r, self._kinds).supervision != "external traces")
        return [record["name"] for record in own]

    def _names(self, stage: str, gives: str) -> list[str]:
        return [r["name"] for r in sources(stage, gives, self._records, self._kinds)]

    def _policy(self, stage: str) -> str | None:
        trained = policy_stage(stage, self._records, self._kinds)
        return trained["name"] if trained else None

    @cached_property
    def _learned_from(self) -> set[str]:
        """Searches whose trees some training learned from."""
        gives = {name: kind_of(r, self._kinds).gives for name, r in self._records.items()}
        data = {d for s, given in gives.items() if given == "model" for d in self._taught(s)}
        return {search for name in data for search in self._names(name, "trees")}

    @cached_property
    def _idle(self) -> list[str]:
        """The other ones."""
        found = (n for n, r in self._records.items() if kind_of(r, self._kinds).gives == "trees")
        return [name for name in found if name not in self._learned_from]
