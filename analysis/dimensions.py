"""Which dimensions are of interest in a record: configurations have some fifty fields, and trials differ in a few."""

import pandas as pd

from analysis.description import Description, Dimension
from analysis.values import as_value, differs, is_same


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


def _is_shown(dimension: Dimension, description: Description, trials: pd.DataFrame) -> bool:
    if dimension.role in ("target", "weight") or dimension.name in description.size_of_network:
        return True
    column = trials[dimension.name]
    if dimension.role in ("network", "auxiliary") and not column.map(lambda value: is_default(dimension, value)).all():
        return True
    return differs(column)
