"""Which dimensions are of interest in a record: configurations have some fifty fields, and trials differ in a few."""

import pandas as pd

from analysis.description import Description, Dimension
from analysis.values import as_value, differs, is_missing, is_same


def columns_of_trials(description: Description, trials: pd.DataFrame) -> list[str]:
    """The dimensions that are columns of the table of trials, in the order of display.

    These are the auxiliary task, its weight and its target, the network, and what differs between the trials. A
    description that does not list all fields lists those of interest.
    """
    return [
        dimension.name
        for dimension in description.dimensions
        if not description.lists_all_fields
        or dimension.role == "auxiliary"
        or _is_shown(dimension, description, trials)
    ]


def shown_dimensions(description: Description, trials: pd.DataFrame) -> list[str]:
    """The columns of a table of trials that a reader needs, in the order of display: without constant defaults."""
    return [
        dimension.name
        for dimension in description.dimensions
        if dimension.name in trials and _is_shown(dimension, description, trials)
    ]


def is_default(dimension: Dimension, value: object) -> bool:
    """Whether a trial's value of a dimension is the described default; without one, whether there is no value."""
    return is_same(value, as_value(dimension.default))


def differs_in(trials: pd.DataFrame, dimension: Dimension) -> bool:
    """Whether the trials differ in a dimension; those that cannot have it do not count."""
    return differs(_values_of(trials, dimension))


def without_what_a_trial_lacks(table: pd.DataFrame, description: Description) -> pd.DataFrame:
    """The table with no values of the dimensions that a row's trial cannot have, such as kernels of an mlp.

    A configuration has every field, those without effect at their defaults.
    """
    lacking = {
        dimension.name: table[dimension.name].astype(object).where(_has(table, dimension), None)
        for dimension in description.dimensions
        if dimension.only_with
    }
    return table.assign(**lacking)


def _has(table: pd.DataFrame, dimension: Dimension) -> pd.Series:
    """Which rows' trials can have a dimension."""
    has = pd.Series(True, index=table.index)
    for other, values in dimension.only_with.items():
        has &= table[other].isin([as_value(value) for value in values])
    return has


def _values_of(trials: pd.DataFrame, dimension: Dimension) -> pd.Series:
    """The values of a dimension, of those trials that can have it."""
    column = trials[dimension.name]
    return column[~column.map(is_missing).astype(bool)] if dimension.only_with else column


def _is_shown(dimension: Dimension, description: Description, trials: pd.DataFrame) -> bool:
    if dimension.role in ("target", "weight") or dimension.name in description.size_of_network:
        return True
    values = _values_of(trials, dimension)
    if dimension.role in ("network", "auxiliary") and not values.map(lambda value: is_default(dimension, value)).all():
        return True
    return differs(values)
