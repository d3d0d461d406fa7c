"""The values of dimensions: numbers, truth values, text or nothing, also mixed in one column.

Pandas cannot sort a column of numbers and text, and takes True and 1 for the same. The functions here order, group and
show any values.
"""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype, is_scalar

# A place in the order of values: their kind, and a number or a text by which values of one kind are ordered.
Place = tuple[int, float | str]


def as_value(value: Any) -> Any:
    """The value in a form by which trials can be grouped: lists become text, '1+2'."""
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value) if isinstance(value, dict | set | bytes | complex) else value


def is_missing(value: Any) -> bool:
    """Whether there is no value: None, or NaN in a column of numbers."""
    return is_scalar(value) and bool(pd.isna(value))


def place_of(value: Any) -> Place:
    """By what values are ordered: truth values, then numbers, then text, then missing values."""
    if is_missing(value):
        return 3, ""
    if isinstance(value, bool | np.bool_):
        return 0, int(value)
    # A whole number as it is: as a float, two large ones could be the same.
    return (1, value) if isinstance(value, Real) else (2, str(value))  # type: ignore[return-value]


def is_same(first: Any, second: Any) -> bool:
    """Whether two values are the same. True is not 1, and 1 is 1.0; a missing value is the same as another."""
    return place_of(first) == place_of(second)


def sortable(column: pd.Series) -> pd.Series:
    """Whole numbers in the order of the values, the same for the same values: a `key` for sorting and grouping."""
    if column.dtype != object:
        codes, values = pd.factorize(column, sort=True)
        return pd.Series(np.where(codes < 0, len(values), codes), index=column.index, name=column.name)
    places = [place_of(value) for value in column.tolist()]
    order = {place: number for number, place in enumerate(sorted(set(places)))}
    return pd.Series([order[place] for place in places], index=column.index, name=column.name, dtype=int)


def differs(column: pd.Series) -> bool:
    """Whether the column has more than one value; a missing one is a value."""
    return bool(sortable(column).nunique() > 1)


def groups(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The rows that have the same values in these columns, group by group in their order; all rows for no columns."""
    if table.empty:
        return
    if not columns:
        yield table
        return
    keys = pd.DataFrame({name: sortable(table[name]) for name in columns})
    for _, rows in keys.groupby(list(columns), sort=True):
        yield table.loc[rows.index]


def tidy(column: pd.Series) -> pd.Series:
    """The column with None for missing values; whole numbers beside missing ones stay whole."""
    values = [None if is_missing(value) else value for value in column.tolist()]
    return pd.Series(values, index=column.index, name=column.name, dtype=object if None in values else None)


def for_parquet(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of one type each, as a Parquet file needs: columns of mixed types become text."""
    table = table.copy()
    for name in [name for name in table.columns if table[name].dtype == object]:
        values = table[name].tolist()
        kind = infer_dtype(values, skipna=True)
        if kind == "mixed-integer-float":
            table[name] = table[name].astype(float)
        elif kind.startswith("mixed") or (kind == "integer" and not all(map(_is_storable, values))):
            table[name] = [None if is_missing(value) else str(value) for value in values]
    return table


def _is_storable(value: Any) -> bool:
    return is_missing(value) or -(2**63) <= value < 2**63


def as_text(value: Any) -> str:
    """The value in a table for readers: four digits of a number, – for nothing."""
    if is_missing(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
