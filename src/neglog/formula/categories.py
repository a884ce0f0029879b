"""Columns as categories and as numbers: those of another kind are refused, before a fit and after it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from neglog.errors import DataError, written
from neglog.tables import date_text, days, is_date, is_date_text, is_number

_SEPARATORS = r"[\s,'_%$€£]"


def check_category(column: pd.Series) -> None:
    """Raise DataError for a column of text that a formula should not take for a category unasked.

    One mistake makes a column of numbers text, and its values hundreds of categories.
    ``C(name)`` requests them.
    """
    if is_number(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return
    counts = column.value_counts(sort=False)
    name, levels, rows = column.name, len(counts), len(column)
    values = pd.Series(counts.index)
    size = f"It has {levels} levels in {rows} rows."
    anyway = f"or write C({name}) if its values are categories"
    if is_date_text(values):
        raise DataError(
            f"column `{name}` holds dates as text: row {column.index[0]} has {written(column.iloc[0])}. "
            f"{size} Read them by pandas.to_datetime, {anyway}."
        )
    plain = values.str.replace(_SEPARATORS, "", regex=True)
    if any(2 * counts.to_numpy()[_read_as_numbers(each)].sum() > rows for each in (values, plain)):
        raise DataError(
            f"column `{name}` holds text where numbers are needed: {first_text(column)}. {size} "
            f"Correct it, without separators or units, {anyway}."
        )
    if levels == rows > 1:
        raise DataError(
            f"column `{name}` is text with as many levels as rows, {levels}: row {column.index[0]} has "
            f"{written(column.iloc[0])}. Leave it out if it names the rows, turn it into numbers or dates, "
            f"{anyway}."
        )


def as_before(column: pd.Series, text: bool, levels: Sequence[Any]) -> pd.Series:
    """A column of a new table, of the kind that it had when the formula was learned.

    Args:
        column: the column.
        text: whether it was text or categories.
        levels: the levels that were learned, of a category by itself.

    Raises:
        DataError: it holds text where there were numbers.
    """
    if is_date(column):
        return date_text(column) if text else days(column)
    if text and not _are_numbers(levels):
        return _as_text(column, levels) if is_number(column) else column
    column = _of_categories(column)
    if not is_number(column):
        raise _no_numbers(column, tuple(levels) == (False, True))
    return _coded(column, levels) if text and column.isin(list(levels)).all() else column


def _are_numbers(levels: Sequence[Any]) -> bool:
    """Whether there are levels, and all are numbers or truth values."""
    return bool(levels) and all(isinstance(level, int | float | np.number | np.bool_) for level in levels)


def _coded(column: pd.Series, levels: Sequence[Any]) -> pd.Series:
    """Numbers as categories with these levels, among which they are."""
    place = {level: code for code, level in enumerate(levels)}  # 1, 1.0 and True are the same key
    codes = pd.Categorical.from_codes([place[value] for value in column.tolist()], pd.Index(list(levels)))
    return pd.Series(codes, index=column.index, name=column.name)


def _as_text(column: pd.Series, levels: Sequence[Any]) -> pd.Series:
    """Numbers as text: of the codes "1", "2" and "x" a new table may have only those that look like numbers.

    Beside a missing value whole numbers are floats.
    """
    text = column.astype("str")
    is_whole = pd.api.types.is_float_dtype(column.dtype) and bool((column == np.floor(column)).all())
    if text.isin(list(levels)).all() or not is_whole:
        return text
    return column.astype("int64").astype("str")


def _of_categories(column: pd.Series) -> pd.Series:
    """Categories that are numbers as numbers; any other column as it is."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        kind = column.cat.categories.dtype
        return column.astype(kind) if pd.api.types.is_numeric_dtype(kind) else column
    return column


def _no_numbers(column: pd.Series, truth: bool) -> DataError:
    """The error of text where the fit had numbers, or True and False."""
    needed = "True and False" if truth else "numbers"
    text = column.astype("str")
    if truth and text.isin(["True", "False"]).all():
        remedy = f"Convert it: table[{column.name!r}] == 'True'."
    elif pd.to_numeric(text, errors="coerce").notna().all():
        remedy = f"Convert it: pandas.to_numeric(table[{column.name!r}])."
    elif _are_dates(text):
        remedy = "Read dates by pandas.to_datetime."
    else:
        remedy = "Correct these rows."
    return DataError(
        f"column `{column.name}` holds text where {needed} are needed: {first_text(column)}. {remedy}"
    )


def _are_dates(text: pd.Series) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns where it does not know the order of day and month
        dates = pd.to_datetime(text, errors="coerce")
    return bool(dates.notna().all()) and bool(text.str.contains("[0-9]").all())


def first_text(column: pd.Series) -> str:
    """Where a text column first has something that is no number: ``row 3 has 'n/a'``."""
    bad = np.flatnonzero(pd.to_numeric(column.astype("str"), errors="coerce").isna())
    position = bad[0] if len(bad) else 0
    return f"row {column.index[position]} has {written(column.iloc[position])}"


def _read_as_numbers(values: pd.Series) -> np.ndarray:
    """Which values are numbers."""
    return pd.to_numeric(values, errors="coerce").notna().to_numpy()
