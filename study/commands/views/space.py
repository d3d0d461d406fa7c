"""What the space of a study means, for a person to read."""

from typing import Any

from rich.table import Table

from study.commands.views.conditions import conditions
from study.spec import StudySpec
from study.spec.dimensions import ANY, Dimension
from study.spec.ranges import Range, WeightRange
from trainables.fields import FIELDS
from trainables.networks import get_architecture

# Values of a list that are written out.
MOST_SHOWN = 12


def add_space(table: Table, spec: StudySpec) -> None:
    """Add a row for each dimension of the space, what it may be and when, and what a sampler is asked for."""
    when = conditions(spec)
    for name in spec.names:
        if name == "task":
            continue  # Each has a row of its own.
        for scope, dimension in _by_architecture(spec, name).items():
            given = spec.values(name)
            of_design = spec.sampler.name == "design" and name != "architecture"
            words = _in_words(given) if of_design else _in_words(dimension)
            condition = f" ({when[name]})" if when[name] else ""
            table.add_row(name if not scope else f"{name}, {scope}", words + condition)
    if not spec.is_enumerated:
        # Optuna takes a while to import, and only studies with a sampler need it.
        from study.search.samplers import draws_at_random
        from study.search.search import check_search

        asked, conditional = check_search(spec)
        trials = spec.all_trials()
        table.add_row(
            "space", "more trials than can be listed" if trials is None else f"{len(trials):,} different trials"
        )
        named = ", ".join(f"{name} ({_of(each)})" for name, each in asked.items())
        table.add_row("sampler", f"{spec.sampler}, asked for {named}")
        if conditional and draws_at_random(spec.sampler):
            why = "because not every trial has them: docs/search.md"
            table.add_row("", f"of these, it draws at random {', '.join(sorted(conditional))}, {why}")


def _of(distribution: Any) -> str:
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return f"{len(choices)} choices"
    return f"{distribution.low:g} to {distribution.high:g}"


def _by_architecture(spec: StudySpec, name: str) -> dict[str, Dimension]:
    """The dimension of each architecture or task, or both, under one name "" if it is the same for all that have it."""
    role = FIELDS[name].role
    having = [
        base
        for base in spec.bases
        if role != "network" or name == "architecture" or name in get_architecture(base["architecture"]).fields
    ]
    for fields in ((), ("architecture",), ("task",), ("architecture", "task")):
        found: dict[str, Dimension] = {}
        for base in having:
            dimension = spec.space_dimension(name, base)
            if found.setdefault(" of ".join(base[field] for field in fields), dimension) != dimension:
                break
        else:
            return found
    raise AssertionError("a task and an architecture have one dimension")


def _in_words(dimension: Dimension) -> str:
    if isinstance(dimension, Range):
        text = f"{dimension.low:g} to {dimension.high:g}" + (", logarithmic" if dimension.log else "")
        text += f", in steps of {dimension.step:g}" if dimension.step is not None else ""
        baseline = isinstance(dimension, WeightRange) and dimension.baseline
        return text + (", or 0 (baseline)" if baseline else "")
    if dimension == [ANY]:
        return "any one layer"
    if len(dimension) == 1:
        return _value(dimension[0])
    more = len(dimension) - MOST_SHOWN
    words = ", ".join(map(_value, dimension[:MOST_SHOWN]))
    return f"one of {words}" + (f" and {more} more" if more > 0 else "")


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
