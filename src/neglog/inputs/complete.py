"""A formula with its table and row-wise arguments, learned: the complete rows of all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from neglog.conversion import as_numpy, is_labelled
from neglog.errors import DataError
from neglog.inputs.blueprint import column_of, sum_of_offsets
from neglog.inputs.frames import of_pandas
from neglog.offset import OFFSET_KEYWORD

if TYPE_CHECKING:
    import pandas as pd

    from neglog.formula import Learned


def learned_rows(
    formula: str,
    table: pd.DataFrame,
    also: Sequence[str],
    by_row: Mapping[str, Any],
    bounds: Collection[str],
    drop_missing: bool,
) -> tuple[Learned, dict[str, Any]]:
    """A learned formula, and the row-wise arguments at its rows, with its offsets in the sum `offset`.

    Args:
        formula, table, also: as for `learn`.
        drop_missing: drop the rows where a column in use or a row-wise argument is missing.
        by_row: argument -> the name of a column, or a value for each row of the table, or None.
        bounds: the arguments that may be infinite.

    Raises:
        DataError: as `learn`.
    """
    kept = _with_arguments(table, by_row) if drop_missing else None
    if kept is None:
        return _of_rows(formula, table, also, by_row, bounds, drop_missing)
    by_row = {
        name: value if isinstance(value, str) else _taken(value, len(table), kept)
        for name, value in by_row.items()
    }
    learned, rows = _of_rows(formula, table.iloc[kept], also, by_row, bounds, drop_missing)
    return replace(learned, dropped=learned.dropped + len(table) - len(kept)), rows


def _of_rows(
    formula: str,
    table: pd.DataFrame,
    also: Sequence[str],
    by_row: Mapping[str, Any],
    bounds: Collection[str],
    drop_missing: bool,
) -> tuple[Learned, dict[str, Any]]:
    """As `learned_rows`, of arguments with a value in each row."""
    named = {name: value for name, value in by_row.items() if isinstance(value, str)}
    finite = [column for name, column in named.items() if name not in {*bounds, "groups"}]
    learned, places = _learned(formula, table, also, finite, named.values(), drop_missing)
    found = {
        name: _of_column(learned.table, table, places, name, named[name])
        if name in named
        else _taken(value, len(table), places)
        for name, value in by_row.items()
    }
    offsets = learned.design.offsets(learned.table)
    if offsets is not None:
        found[OFFSET_KEYWORD] = sum_of_offsets(offsets, found.get(OFFSET_KEYWORD))
    return learned, found


def _with_arguments(table: pd.DataFrame, by_row: Mapping[str, Any]) -> Any:
    """The places of the rows with all row-wise arguments; None where these are all of the table, or none."""
    import pandas as pd

    missing = np.zeros(len(table), dtype=bool)
    for value in by_row.values():
        values: Any = table.get(value) if isinstance(value, str) else of_pandas(value)
        values = as_numpy(values) if isinstance(values, Tensor) else values
        if np.shape(values) == missing.shape:
            missing |= np.asarray(pd.isna(values))
    return None if missing.all() or not missing.any() else np.flatnonzero(~missing)


def _learned(
    formula: str,
    table: pd.DataFrame,
    also: Sequence[str],
    finite: Sequence[str],
    apart: Collection[str],
    drop_missing: bool,
) -> tuple[Learned, Any]:
    """The learned formula, and the places of its rows in the table; None where these are all."""
    from neglog.formula import learn

    if not drop_missing:
        learned = learn(formula, table, also, keep=finite, apart=apart)
        return learned, None
    learned = learn(formula, table.reset_index(drop=True), also, keep=finite, apart=apart, drop_missing=True)
    places = learned.table.index.to_numpy()
    return replace(learned, table=learned.table.set_axis(table.index[places])), places


def _of_column(rows: pd.DataFrame, table: pd.DataFrame, places: Any, name: str, column: str) -> pd.Series:
    """The values of a column that an argument names, at the complete rows of the table."""
    if name != "groups" and column in rows:
        return rows[column]
    whole = table if places is None else table.iloc[places]
    return _groups(whole, column) if name == "groups" else column_of(whole, name, column)


def _groups(table: pd.DataFrame, column: str) -> pd.Series:
    from neglog.tables import require_columns

    require_columns(table, [column])
    found = table[column]
    if bool(found.isna().any()):
        raise DataError(
            f"the column `{column}` of groups is missing in row {found.index[found.isna()][0]}. Fill it in, "
            "or drop the row with --drop-missing (drop_missing=True)."
        )
    return found


def _taken(values: Any, rows: int, places: Any) -> Any:
    """Values of all rows of the table, at its complete rows."""

    values = of_pandas(values)
    if values is None or places is None or len(values) != rows:
        return values
    return values.iloc[places] if is_labelled(values) else np.asarray(values)[places]
