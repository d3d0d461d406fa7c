"""A record's description of itself: the names used by trainables, for later readers."""

from analysis.description import Caveat, Description, Dimension, Measure, Outcome
from trainables.fields import FIELDS, TrialField
from trainables.measures import MEASURES
from trainables.networks import ARCHITECTURES
from trainables.outcomes import CAVEATS, STATUSES, VERDICTS

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
        dimensions=tuple(_dimension(field) for field in FIELDS.values()),
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
        caveats=tuple(
            Caveat(name=caveat.name, meaning=caveat.meaning, advice=caveat.advice) for caveat in CAVEATS.values()
        ),
    )


def _dimension(field: TrialField) -> Dimension:
    meaning, default = field.info.description or "", None if field.info.is_required() else field.info.default
    if field.role == "target":
        return Dimension(name="target", meaning=TARGET_MEANING, role=field.role)
    if field.role == "weight":
        label = "self-modeling weight (aux_weight)"
        return Dimension(name=field.name, meaning=meaning, role=field.role, default=default, label=label)
    return Dimension(
        name=field.name, meaning=meaning, role=field.role, default=default, only_with=_architectures_with(field)
    )


def _architectures_with(field: TrialField) -> dict[str, tuple[str, ...]]:
    """The architectures that have a field of the network; nothing if all have it."""
    having = tuple(name for name, each in ARCHITECTURES.items() if field.name in each.fields)
    if field.role != "network" or field.name == "architecture" or len(having) == len(ARCHITECTURES):
        return {}
    return {"architecture": having}
