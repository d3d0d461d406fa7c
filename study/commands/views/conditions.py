"""When a field of a study has an effect, in words; found by asking `with_effect` about choices of the study."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study.spec import StudySpec
from study.spec.dimensions import numbers_in
from study.spec.ranges import WeightRange
from trainables.fields import TARGET, with_effect

# Random choices of the whole study, in each of which every field is varied by itself.
CONTEXTS = 50

# What the rest of a field's conditions are for each value of one field: True for always, False for never.
_Tree = bool | list[tuple[str, list[Any], list[Any], Any]]


def conditions(spec: StudySpec) -> dict[str, str]:
    """For each field that the study's trials are chosen by: `where …` it has an effect; "" for always."""
    values = {name: _values(spec, name) for name in spec.names if name != TARGET}
    base = {**spec.bases[0], **{name: of_field[0] for name, of_field in values.items()}}
    values = {name: of_field for name, of_field in values.items() if len(of_field) > 1}
    deciders = _deciders(base, values, spec.names)
    trees = {name: _tree(base, name, deciders[name], values) for name in spec.names}
    return {
        name: "without effect" if tree is False else "" if tree is True else f"where {_in_words(tree)}"
        for name, tree in trees.items()
    }


def _values(spec: StudySpec, name: str) -> list[Any]:
    """The values of a field that can make a difference to another: of numbers, the smallest and the largest."""
    dimensions = [spec.space_dimension(name, base) for base in spec.bases]
    baseline = any(isinstance(each, WeightRange) and each.baseline for each in dimensions)
    values = [*([0.0] if baseline else []), *spec.values(name)]
    numbers = numbers_in(values)
    return [min(numbers), max(numbers)] if len(numbers) == len(values) > 2 else values


def _deciders(
    base: Mapping[str, Any], values: Mapping[str, Sequence[Any]], names: Iterable[str]
) -> dict[str, list[str]]:
    """For each field, the fields that decide whether it has an effect."""
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    draw = random.Random(0)
    for _ in range(CONTEXTS):
        context = {**base, **{name: draw.choice(of_field) for name, of_field in values.items()}}
        for decider, of_field in values.items():
            effects = [with_effect(context | {decider: value}) for value in of_field]
            for name in frozenset.union(*effects) - frozenset.intersection(*effects):
                if name in found and name != decider:
                    found[name].setdefault(decider)
    return {name: [decider for decider in values if decider in of_name] for name, of_name in found.items()}


def _tree(base: Mapping[str, Any], name: str, deciders: Sequence[str], values: Mapping[str, Sequence[Any]]) -> _Tree:
    """The conditions of a field, by one decider after the other."""
    if not deciders:
        # A field that decides about itself, such as the architecture, is chosen all the same.
        return any(name in with_effect({**base, name: value}) for value in values.get(name, [base.get(name)]))
    decider, *rest = deciders
    cases: list[tuple[Any, list[Any]]] = []
    for value in values[decider]:
        case = _tree({**base, decider: value}, name, rest, values)
        same = next((of_case for each, of_case in cases if each == case), None)
        if same is None:
            cases.append((case, [value]))
        else:
            same.append(value)
    if len(cases) == 1:
        return cases[0][0]  # type: ignore[no-any-return]
    return [(decider, of_case, list(values[decider]), case) for case, of_case in cases if case is not False]


def _in_words(tree: _Tree) -> str:
    if isinstance(tree, bool):
        return ""
    return ", or ".join(
        f"{decider} is {_some(some, every)}" + (f" and {words}" if (words := _in_words(case)) else "")
        for decider, some, every, case in tree
    )


def _some(some: Sequence[Any], every: Sequence[Any]) -> str:
    """Some of all values of a field, in words."""
    above_zero = [value for value in every if value != 0]
    if len(numbers_in(every)) == len(every) and list(some) == above_zero:
        return "above 0"
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in some)
