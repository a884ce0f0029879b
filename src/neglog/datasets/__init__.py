"""The data sets that come with neglog: measurements, published, with their sources in README.md."""

from pathlib import Path

import pandas as pd

from neglog.calls import public
from neglog.errors import DataError, did_you_mean, written

__all__ = ["load", "path"]


@public
def load(name: str) -> pd.DataFrame:
    """A data set as a data frame, each number to its last digit.

    The columns, their units and the source are in the README.md beside the files.

    Raises ``DataError`` for a name that is not there, listing those that are.

    >>> load("engel").shape
    (235, 2)
    """
    # Before 3.1 pandas' own number parser may be off in the last bit, and since 3.1 asking it for
    # `float_precision` warns. Python's parser is exact under every version.
    return pd.read_csv(path(name), dtype=str).astype(float)


@public
def path(name: str) -> Path:
    """Where the CSV file of a data set is, for programs that read files.

    Raises ``DataError`` for a name that is not there, listing those that are.

    >>> path("engel").name
    'engel.csv'
    """
    files = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.csv"))}
    if not isinstance(name, str) or name not in files:
        near = did_you_mean(name, files) if isinstance(name, str) else ""
        raise DataError(
            f"`name` must be one of the data sets {', '.join(files)}; it is {written(name)}. Choose "
            f"one of them.{near}"
        )
    return files[name]
