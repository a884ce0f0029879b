"""Tables of any kind as data frames of pandas: frames of pandas and polars, and mappings of columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from neglog.conversion import foreign_remedy, is_frame, is_series
from neglog.errors import DataError, reason_of, written

if TYPE_CHECKING:
    import pandas as pd


def as_table(name: str, value: Any) -> pd.DataFrame:
    """A data frame of pandas of a table.

    Raises:
        DataError: it is no table; columns of different lengths.
    """
    if is_frame(value):
        return value
    if is_of_polars(value, "DataFrame"):
        return polars_frame(value)
    if is_of_polars(value, "LazyFrame"):
        raise DataError(f"`{name}` is a LazyFrame, whose rows are not computed yet. Pass {name}.collect().")
    if isinstance(value, Mapping):
        return _frame_of_columns(name, value)
    if is_records(value):
        import pandas as pd

        return pd.DataFrame([dict(row) for row in value])
    raise DataError(
        f"`{name}` must be the table of the formula: a data frame of pandas or polars, a mapping from names "
        f"of columns to values, or a list of such mappings, one a row; it is {written(value)}."
        f"{foreign_remedy(name, value) or f' {_remedy(name, value)}'}"
    )


def _remedy(name: str, value: Any) -> str:
    """How to make a table of a value."""
    if is_series(value):
        return f"Pass a row of a frame as frame.iloc[[0]], and a column as {name}.to_frame()."
    if isinstance(value, str | PathLike):
        return f"Read a file by pandas.read_csv({name})."
    if value is None:
        return "Pass new rows, or the table of the fit."
    return "Give the columns names, as by pandas.DataFrame(values, columns=['x1', 'x2'])."


def is_records(value: Any) -> bool:
    """Whether a value is a list of rows, each a mapping from names of columns to values."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def may_be_designs(value: Any) -> bool:
    """Whether a value may be a design, or designs by predictors: neither text, a series nor a flat list."""
    if isinstance(value, list | tuple):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, RuntimeError):  # of rows of several lengths
            return False
        return array.ndim > 1 and array.dtype.kind in "fiub"
    return not (value is None or np.isscalar(value) or isinstance(value, PathLike) or is_series(value))


def is_table(value: Any) -> bool:
    """Whether a value is a data frame of pandas or polars."""
    return is_frame(value) or is_of_polars(value, "DataFrame")


def of_pandas(value: Any) -> Any:
    """A frame or a series of polars as one of pandas; anything else as it is."""
    if is_of_polars(value, "DataFrame"):
        return polars_frame(value)
    return polars_series(value) if is_of_polars(value, "Series") else value


def is_of_polars(value: Any, kind: str) -> bool:
    """Whether a value is of a class of polars, without importing it: whoever made the value has."""
    expected = getattr(sys.modules.get("polars"), kind, None)
    return expected is not None and isinstance(value, expected)


def polars_frame(frame: Any) -> pd.DataFrame:
    """The columns of a data frame of polars."""
    import pandas as pd

    return pd.DataFrame({name: polars_series(frame.get_column(name)) for name in frame.columns})


def polars_series(series: Any) -> pd.Series:
    """A series of polars: numbers, missing ones as NaN; text; dates; an Enum as ordered categories."""
    import pandas as pd

    dtype, values = series.dtype, series.to_list()
    if is_of_polars(dtype, "Enum"):
        return pd.Series(pd.Categorical(values, dtype.categories.to_list(), ordered=True), name=series.name)
    if dtype.is_numeric():
        return pd.Series(series.to_numpy(), name=series.name)
    return pd.Series(values, name=series.name)


def _frame_of_columns(name: str, columns: Mapping[Any, Any]) -> pd.DataFrame:
    import pandas as pd

    if columns and all(np.ndim(value) == 0 for value in columns.values()):  # a single row
        columns = {key: [value] for key, value in columns.items()}
    try:
        return pd.DataFrame({key: _column(value) for key, value in columns.items()})
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the columns of `{name}` do not make a table: {reason_of(error)}. Give each as many values as "
            "there are rows."
        ) from None


def _column(values: Any) -> Any:
    """The values of a column: of tensors as arrays."""
    values = of_pandas(values)
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values
