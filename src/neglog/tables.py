"""Tables: read one from disk, and keep the columns and rows that a formula can use.

Everything that can be wrong with a file or a column is found here, once, in the user's words.
"""

import io
import os
import re
import secrets
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neglog.errors import DataError, did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")

# 2024-02-29, with or without a time and its zone.
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_ZONE = re.compile(r"Z|[+-]")

# pandas 3.1 reads every float to the nearest, and deprecates the argument that requests it.
_NEEDS_ROUND_TRIP = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _NEEDS_ROUND_TRIP else {}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table: ``.csv`` and ``.tsv`` (also gzipped, ``.csv.gz``), ``.parquet`` and ``.pq``.

    Decimal numbers are read to the nearest float, text columns of ISO dates as dates. Rows are numbered
    from 0.

    Raises:
        DataError: there is no such file, its kind is unknown, it cannot be read, it has no rows, or two of
            its columns share a name.
        OSError: the file cannot be opened, say for want of permission.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a table" if path.is_dir() else "does not exist"
        raise DataError(f"`{path}` {what}. Give the path of a .csv, .tsv or .parquet file.")
    kind = check_kind(path)
    return _checked(path, _read_text(path, SEPARATORS[kind]) if kind in SEPARATORS else _read_parquet(path))


def parse_table(content: bytes, name: str) -> pd.DataFrame:
    """The table in the text of a CSV file; messages call it by its `name`.

    Raises:
        DataError: as `read_table`.
    """
    return _checked(Path(name), _read_text(Path(name), SEPARATORS[".csv"], content))


def _checked(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table that was read, with text for the names of its columns, and text of dates as dates.

    Raises:
        DataError: it has no rows, or two columns of one name.
    """
    _check_names(path, [str(name) for name in table.columns])
    if not len(table):
        raise DataError(f"`{path}` has column names but no rows. Add the data below the header.")
    table = table.set_axis([str(name) for name in table.columns], axis="columns")
    dates = {str(name): _dates(table[name]) for name in table}
    return table.assign(**{name: column for name, column in dates.items() if column is not None})


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table, without its row labels, in the kind that the path ends in; folders are made.

    Raises:
        DataError: the kind is unknown, or needs pyarrow.
        OSError: the file cannot be written.
    """
    path = Path(path)
    kind = check_kind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            if kind in SEPARATORS:
                table.to_csv(temporary, sep=SEPARATORS[kind], index=False)
            else:
                table.to_parquet(temporary, index=False)
    except ImportError:
        raise DataError(f"writing `{path}` needs pyarrow: `pip install pyarrow`, or write .csv.") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path whose file takes the place of `path` when the block ends, and is removed where it fails."""
    target = Path(os.path.realpath(path))  # A symbolic link stays one.
    temporary = target.with_name(f".{secrets.token_hex(8)}.{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_kind(path: Path) -> str:
    """The kind of table that a path names, by how it ends: ``.csv``, ``.parquet``.

    Raises:
        DataError: it is none that neglog knows.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else path.suffix.lower()
    if kind not in SEPARATORS and kind not in PARQUET:
        raise DataError(f"`{path}` is not a kind of table that neglog knows. Use .csv, .tsv or .parquet.")
    return kind


def _read_text(path: Path, separator: str, content: bytes | None = None) -> pd.DataFrame:
    """The table of a text file, or of its content."""
    try:
        names = _header(path, separator, content)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path if content is None else io.BytesIO(content),
                sep=separator,
                index_col=False,  # or pandas would take the first of too many fields for row names
                low_memory=False,  # in one piece, or a column may hold both numbers and text
                skipinitialspace=True,
                encoding="utf-8-sig",
                **EXACT,
            )
    except pd.errors.EmptyDataError:
        raise DataError(
            f"`{path}` is empty. Put column names in its first line and the data below."
        ) from None
    except pd.errors.ParserWarning:
        many = f"names {len(names)} column{'s' * (len(names) != 1)}, but its lines have more fields"
        raise DataError(f"`{path}` {many}. Name every column in the first line.") from None
    except pd.errors.ParserError as error:
        detail = str(error).removeprefix("Error tokenizing data. C error: ").strip().rstrip(".")
        raise DataError(
            f"`{path}` is not a regular table: {detail}. Give every line as many fields as the header."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8 text (byte {error.start}). Save it in UTF-8.") from None
    return table


def _header(path: Path, separator: str, content: bytes | None) -> list[str]:
    """The column names, checked as they are written: pandas would rename the second `x` to `x.1`."""
    frame = pd.read_csv(
        path if content is None else io.BytesIO(content),
        sep=separator,
        header=None,
        nrows=1,
        dtype=str,
        keep_default_na=False,
        skipinitialspace=True,
        encoding="utf-8-sig",
    )
    names = [str(name) for name in frame.iloc[0]]
    _check_names(path, names)
    others = [mark for mark in ";\t,|" if mark != separator and len(names) == 1 and mark in names[0]]
    if others:
        raise DataError(
            f"`{path}` seems to be separated by {others[0]!r}: its header is `{names[0]}`. Use {separator!r}."
        )
    return names


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise DataError(
            f"reading `{path}` needs pyarrow: `pip install pyarrow`, or save the table as .csv."
        ) from None
    except ValueError as error:  # pyarrow's ArrowInvalid is one.
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"`{path}` is not a Parquet file: {reason}. Save it again, or as .csv.") from None
    return table.reset_index(drop=all(name is None for name in table.index.names))


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if name and list(names).count(name) > 1})
    if twice:
        raise DataError(f"`{path}` has several columns named {_quoted(twice)}. Give each a name of its own.")


def _incomplete(missing: pd.DataFrame, dropped: int, has_argument: bool) -> DataError:
    """The error of rows with missing values, for callers with and without the argument `drop_missing`."""
    found = {name: count for name, count in missing.sum().items() if count}
    counts = ", ".join(f"`{name}` ({count})" for name, count in found.items())
    rows = "row" if len(missing) == 1 else "rows"
    remedy = (
        " with --drop-missing (drop_missing=True)" if has_argument else f": table.dropna(subset={[*found]})"
    )
    return DataError(
        f"{dropped} of {len(missing)} {rows} have a missing value, in {counts}. "
        f"Fill them in, or drop these rows{remedy}."
    )


def complete_rows(
    table: pd.DataFrame, columns: Iterable[str], *, drop_missing: bool | None = False
) -> tuple[pd.DataFrame, int]:
    """The named columns on their complete rows, and how many rows were dropped.

    `drop_missing` is None where the caller has no such argument, for the error message.

    Numbers become plain NumPy numbers, categories lose the levels that no row has. The row labels stay.

    Raises:
        DataError: a column is missing from the table, or holds neither numbers nor text; a value is missing
            and `drop_missing` is false; a value is infinite; or no row is left.
    """
    columns = list(dict.fromkeys(columns))
    require_columns(table, columns)
    if not len(table):
        raise DataError("the table has no rows.")
    used = table[columns]
    missing = used.isna()
    incomplete = missing.any(axis="columns")
    dropped = int(incomplete.sum())
    if dropped and not drop_missing:
        raise _incomplete(missing, dropped, drop_missing is not None)
    used = used[~incomplete]
    if not len(used):
        raise DataError(f"no row is complete: each has a missing value in one of {_quoted(columns)}.")
    return pd.DataFrame({name: _plain(used[name]) for name in columns}, index=used.index), dropped


def require_columns(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise DataError unless the table has all of the named columns, each of them once."""
    present = [str(name) for name in table.columns]
    absent = [name for name in columns if name not in present]
    if absent:
        has = f"its columns are {_quoted(present)}" if present else "it has no columns"
        near = did_you_mean(absent, present, "`{}`")
        advice = near or f" {_attribute(absent, present)}".rstrip()
        raise DataError(f"the table has no column {_quoted(absent)}; {has}.{advice}")
    twice = [name for name in dict.fromkeys(columns) if present.count(name) > 1]
    if twice:
        raise DataError(f"the table has several columns named {_quoted(twice)}. Rename them.")


def _attribute(absent: Iterable[str], present: Collection[str]) -> str:
    """What to do where a name is an attribute of a column, such as ``d.dt.month``; empty for other names."""
    for name in absent:
        column, _, rest = name.partition(".")
        if column in present and hasattr(pd.Series, rest.partition(".")[0]):
            return f"Make it one: table[{name!r}] = table[{column!r}].{rest}."
    return ""


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers (or true and false), not text."""
    return pd.api.types.is_numeric_dtype(column.dtype)


def is_date(column: pd.Series) -> bool:
    """Whether a column holds dates, or dates with a time."""
    if column.dtype == object:
        known = column.dropna()
        return bool(len(known)) and all(isinstance(value, date) for value in known)
    return pd.api.types.is_datetime64_any_dtype(column.dtype)


def is_date_text(column: pd.Series) -> bool:
    """Whether a column of text holds nothing but ISO dates: ``2024-02-29``, ``2024-02-29T12:30``."""
    return not is_number(column) and _dates(column) is not None


def without_dates(table: pd.DataFrame, columns: Iterable[str], texts: Collection[str] = ()) -> pd.DataFrame:
    """The table with its dates among the columns as numbers of days since 1970-01-01, or as text.

    Raises:
        DataError: a column is missing from the table.
    """
    columns = list(dict.fromkeys(columns))
    require_columns(table, columns)
    dates = [name for name in columns if is_date(table[name])]
    return table.assign(**{name: (date_text if name in texts else days)(table[name]) for name in dates})


def days(column: pd.Series) -> pd.Series:
    """Dates as the number of days since 1970-01-01, in UTC if they have a time zone."""
    return (_utc(column) - pd.Timestamp(0)) / pd.Timedelta(days=1)


def days_of_text(text: str) -> float | str:
    """The number of days since 1970-01-01 of an ISO date; any other text as it is."""
    dates = _dates(pd.Series([text], dtype="str"))
    return text if dates is None else float(days(dates).iloc[0])


def date_text(column: pd.Series) -> pd.Series:
    """Dates as ISO text, without a time where it is midnight."""
    values = _utc(column)
    whole = values.dt.normalize() == values
    texts = values.dt.strftime("%Y-%m-%d").where(whole, values.astype("str"))
    return texts.astype("str").where(values.notna())


def _utc(column: pd.Series) -> pd.Series:
    values = pd.to_datetime(column)
    return values if values.dt.tz is None else values.dt.tz_convert("UTC").dt.tz_localize(None)


def _dates(column: pd.Series) -> pd.Series | None:
    """The dates in a column of text; None if anything else is in it."""
    if not pd.api.types.is_string_dtype(column.dtype):
        return None
    known = column.dropna()
    if not len(known) or not _DATE.fullmatch(str(known.iloc[0])) or not known.str.fullmatch(_DATE).all():
        return None
    zoned = bool(known.str[10:].str.contains(_ZONE).any())
    dates = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=zoned)
    return dates if dates.isna().equals(column.isna()) else None


def _plain(column: pd.Series) -> pd.Series:
    """The column as NumPy numbers, booleans, strings or a category without unused levels."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories()
    if column.dtype == object:
        column = _inferred(column)
    if pd.api.types.is_bool_dtype(column.dtype):
        return column.astype(bool)
    if pd.api.types.is_complex_dtype(column.dtype):
        raise DataError(
            f"column `{column.name}` holds complex numbers. Use their real part, modulus or argument."
        )
    if is_number(column):
        if isinstance(column.dtype, pd.api.extensions.ExtensionDtype):
            column = column.astype("int64" if pd.api.types.is_integer_dtype(column.dtype) else "float64")
        return _finite(column)
    if _is_text(column):
        return column.astype("str")
    raise DataError(f"column `{column.name}` holds {column.dtype} values. Turn them into numbers or text.")


def _is_text(column: pd.Series) -> bool:
    """Whether each value is text, which the type of a column of pandas' own texts tells."""
    return column.dtype == "str" or all(isinstance(value, str) for value in column)


def _inferred(column: pd.Series) -> pd.Series:
    """An object column as numbers or truth values, where it holds them.

    True, False and missing are objects; without the missing they are not. Whole numbers beyond 64 bits are
    floats, as elsewhere.
    """
    if all(type(value) is int for value in column):
        return column.map(str).astype("float64")
    return column.infer_objects()


def _finite(column: pd.Series) -> pd.Series:
    bad = np.flatnonzero(~np.isfinite(column.to_numpy()))
    if len(bad):
        where = f"row {column.index[bad[0]]} has {column.iloc[bad[0]]}"
        raise DataError(
            f"column `{column.name}` has {len(bad)} infinite value{'s' * (len(bad) > 1)}; {where}. Correct "
            "or remove them."
        )
    return column


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
