"""Columns of text as categories: those that are numbers, dates or names of rows are refused before a fit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neglog.errors import DataError, written
from neglog.tables import is_date_text, is_number

_SEPARATORS = r"[\s,'_%$€£]"


def check_category(column: pd.Series) -> None:
    """Raise DataError for a column of text that a formula should not take for a category unasked.

    One mistake makes a column of numbers text, and its values hundreds of categories.
    ``C(name)`` requests them.
    """
    if is_number(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return
    name, levels, rows = column.name, column.nunique(), len(column)
    size = f"It has {levels} levels in {rows} rows."
    anyway = f"or write C({name}) if its values are categories"
    if is_date_text(column):
        raise DataError(
            f"column `{name}` holds dates as text: row {column.index[0]} has {written(column.iloc[0])}. "
            f"{size} Read them by pandas.to_datetime, {anyway}."
        )
    if _are_mostly_numbers(column) or _are_mostly_numbers(column.str.replace(_SEPARATORS, "", regex=True)):
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


def first_text(column: pd.Series) -> str:
    """Where a text column first has something that is no number: ``row 3 has 'n/a'``."""
    bad = np.flatnonzero(pd.to_numeric(column.astype("str"), errors="coerce").isna())
    position = bad[0] if len(bad) else 0
    return f"row {column.index[position]} has {written(column.iloc[position])}"


def _are_mostly_numbers(column: pd.Series) -> bool:
    return 2 * int(pd.to_numeric(column, errors="coerce").notna().sum()) > len(column)
