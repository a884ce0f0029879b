"""The table of a command and its columns, verified before torch is imported, which takes seconds."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neglog.errors import DataError
from neglog.formula import check_columns
from neglog.tables import parse_table, read_table

STANDARD_INPUT = "-"
"""The argument for a table on standard input."""


def read(data: Path) -> pd.DataFrame:
    """The table at a path, or on standard input.

    Raises:
        DataError: as `read_table`; it is a pipe, or damaged.
    """
    if str(data) == STANDARD_INPUT:
        return _read_standard_input()
    if data.exists() and not data.is_file() and not data.is_dir():
        raise DataError(
            f"`{data}` is a pipe or a device. Write the table to a file, and give its path; or give - and "
            "redirect standard input."
        )
    try:
        return read_table(data)
    except gzip.BadGzipFile:
        raise DataError(
            f"`{data}` is not gzipped, or damaged. Compress it again, or name it without .gz."
        ) from None
    except (EOFError, zlib.error):
        raise DataError(f"`{data}` is cut off or damaged. Copy or compress it again.") from None


def _read_standard_input() -> pd.DataFrame:
    if sys.stdin.isatty():
        raise DataError("- reads a table from standard input, which is a terminal. Redirect it: < rows.csv")
    return parse_table(sys.stdin.buffer.read(), "standard input")


def check_place(option: str, path: Path, data: Path | None = None) -> None:
    """Raise DataError unless a file or folder can be made there that does not take the place of the data."""
    if not path.parent.is_dir():
        raise DataError(
            f"`{option} {path}` needs the folder `{path.parent}`, which does not exist. Make it first."
        )
    if data is not None and path.exists() and data.exists() and path.samefile(data):
        raise DataError(f"`{option} {path}` would replace the data. Name another file.")


def row_columns(**options: str | None) -> dict[str, Any]:
    """Row-wise argument -> the column that an option names."""
    return {name: column for name, column in options.items() if column is not None}


def table_of(data: Path, formula: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table of a formula, which has its columns, and those that options name.

    Raises:
        DataError: as `read`; the formula cannot be read, or a column is not in the table.
    """
    table = read(data)
    check_columns(formula, table, list(columns.values()))
    return table
