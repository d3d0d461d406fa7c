"""The section `stopping` of a study: by which rule trials of a search are stopped before their end."""

import json
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trainables.config import Section
from trainables.measures import MEASURES

if TYPE_CHECKING:
    from study.spec.study import StudySpec

Rule = Literal["dominated", "wilcoxon"]
# The rule that each threshold belongs to.
THRESHOLDS: dict[str, Rule] = {"z": "dominated", "p_threshold": "wilcoxon"}
# Replicates without which a value has no standard error.
FEWEST_WITH_ERROR = 2
# More than any study has.
MOST_EPOCHS = 1_000_000


class StoppingConfig(Section):
    """When a trial is stopped before its end, because another one is better at the same epoch.

    Only trials that a sampler has chosen are stopped. The section is no part of trial keys and protocol.
    """

    rule: Rule = Field(
        description="dominated: another trial is better in every objective, beyond the error. wilcoxon: the best trial "
        "is better over the replicates of the same seeds, by Optuna's WilcoxonPruner; for one objective.",
    )
    from_epoch: int = Field(ge=1, le=MOST_EPOCHS, description="No trial is stopped before this epoch.")
    z: float = Field(
        2.58,
        gt=0,
        le=100,
        description="dominated: standard errors of the difference by which the other trial must be better in every "
        "objective; 2.58 is a level of 0.01, two-sided.",
    )
    p_threshold: float = Field(
        0.1, gt=0, lt=1, description="wilcoxon: p-value below which a trial counts as worse than the best one."
    )

    @model_validator(mode="after")
    def _has_its_own_threshold(self) -> Self:
        for name, rule in THRESHOLDS.items():
            if name in self.model_fields_set and rule != self.rule:
                raise ValueError(f"{name} is the threshold of the rule {rule!r}, and the rule is {self.rule!r}")
        return self

    @model_serializer(mode="wrap")
    def _with_its_own_threshold(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return {name: value for name, value in fields.items() if THRESHOLDS.get(name, self.rule) == self.rule}

    def as_text(self) -> str:
        """The rule in one line, as the record has it: two rules are the same if their texts are."""
        return json.dumps(self.model_dump(mode="json"))


def compared_objectives(spec: "StudySpec") -> dict[str, Literal["maximize", "minimize"]]:
    """The objectives that are measured at every epoch, with their directions: those that a rule compares."""
    return {name: direction for name, direction in spec.objectives.items() if _is_measured_at_epochs(name)}


def check_stopping(spec: "StudySpec") -> None:
    """Check that a study's rule of early stopping, if it has one, can stop its trials.

    Raises:
        ValueError: it cannot.
    """
    stopping, replicates = spec.stopping, spec.replicates
    if stopping is None:
        return
    if spec.is_enumerated:
        raise ValueError(
            f"stopping: sampler {spec.sampler.name!r} runs every listed trial to its end; only in a search are trials "
            "stopped early. Leave stopping out, or take another sampler"
        )
    if not compared_objectives(spec):
        raise ValueError(
            f"stopping: trials are compared at the same epoch, and {', '.join(spec.objectives)} is measured at the end "
            "alone. Add an objective that is measured at every epoch, or leave stopping out"
        )
    if stopping.rule == "wilcoxon" and len(spec.objectives) > 1:
        raise ValueError(
            f"stopping: wilcoxon compares trials by one objective, and the study has {len(spec.objectives)}. Keep one, "
            "or take the rule 'dominated'"
        )
    fewest = FEWEST_WITH_ERROR if stopping.rule == "dominated" else _fewest_pairs(stopping.p_threshold)
    if replicates < fewest:
        why = (
            "the error is that over replicates"
            if stopping.rule == "dominated"
            else f"of {replicates} pairs, the p-value is {0.5**replicates:.3g} at least, and p_threshold is "
            f"{stopping.p_threshold:g}"
        )
        raise ValueError(f"stopping: {stopping.rule} needs {fewest} replicates, and there are {replicates}: {why}")
    most = max(spec.values("epochs"))
    if stopping.from_epoch > most:
        raise ValueError(f"stopping: from_epoch is {stopping.from_epoch}, and no trial has more than {most} epochs")


def _is_measured_at_epochs(objective: str) -> bool:
    return any(
        measure.moment == "epoch"
        and (objective.startswith(measure.name) if measure.per_layer else objective == measure.name)
        for measure in MEASURES.values()
    )


def _fewest_pairs(p_threshold: float) -> int:
    """The number of pairs from which the p-value of a one-sided signed-rank test, 2⁻ⁿ at least, can be below this."""
    pairs = FEWEST_WITH_ERROR
    while 0.5**pairs >= p_threshold:
        pairs += 1
    return pairs
