"""A record's description of itself: the names used by trainables and the search space, for later readers."""

from analysis.description import Description, Dimension, Measure, Outcome, Role
from study.spec.dimensions import ROLES, SearchSpace
from trainables.measures import MEASURES
from trainables.outcomes import STATUSES, VERDICTS

# In the record, a trial's target is given by its depths in the network.
TARGET_MEANING = "Depths of the layers whose activations are predicted, counted from the input, from 1."


def describe_record() -> Description:
    """Measures, dimensions, statuses and verdicts as they are now."""
    return Description(
        measures=tuple(
            Measure(
                name=measure.name,
                label=measure.label,
                unit=measure.unit,
                meaning=measure.meaning,
                simpler=measure.simpler,
                performance=measure.performance,
                per_layer=measure.per_layer,
                needs_verdict=measure.needs_verdict,
                error=measure.error,
            )
            for measure in MEASURES.values()
        ),
        dimensions=tuple(_dimension(name, role) for name, role in ROLES.items()),
        statuses=tuple(
            Outcome(name=status.name, meaning=status.meaning, usable=status.usable, why=status.why)
            for status in STATUSES.values()
        ),
        verdicts=tuple(
            Outcome(
                name=verdict.name,
                meaning=verdict.meaning,
                usable=verdict.usable,
                why=verdict.why,
                advice=verdict.advice,
            )
            for verdict in VERDICTS.values()
        ),
    )


def _dimension(name: str, role: Role) -> Dimension:
    field = SearchSpace.model_fields[name]
    meaning = field.description or ""
    if role == "target":
        return Dimension(name="target", meaning=TARGET_MEANING, role=role)
    if role == "weight":
        return Dimension(name=name, meaning=meaning, role=role, default=0, label="self-modeling weight (aux_weight)")
    if role == "network":
        return Dimension(name=name, meaning=meaning, role=role)
    return Dimension(name=name, meaning=meaning, role=role, default=field.default)
