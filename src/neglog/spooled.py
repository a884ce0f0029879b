"""Data on disk: blocks of rows, written once and mapped by fits, which need no copy in memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from neglog.alignment import common_labels
from neglog.arguments import as_path, shown
from neglog.calls import public
from neglog.conversion import ALL, Named, by_key, column_names
from neglog.data import Data, Roles, prepare
from neglog.designs import Columns, prepare_array, prepare_designs
from neglog.errors import DataError
from neglog.intercepts import without_intercept
from neglog.isolation import isolated
from neglog.predictors import Designs, row_count

COPIED_ROWS = 10_000
"""Rows of two designs that are concatenated at a time."""
MAX_NUMBERS_IN_MEMORY = 50_000_000
"""Two designs of more numbers than this are concatenated on disk."""


@public
class Spooled(Mapping[str, Any]):
    """Data on disk, by the names of the arguments of `mle`: ``mle(models.poisson, **data)``.

    A design `(N, P)` is a float64 tensor, or `neglog.conversion.Named` where the blocks were data frames;
    ``y`` and everything else are tensors. Their memory is that of temporary files, which no other process
    sees, and which go when the last tensor does, at the latest with the process.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._arguments["y"])

    def __repr__(self) -> str:
        return f"Spooled({self.rows} rows: {', '.join(self)})"

    def __getstate__(self) -> Any:
        raise TypeError("a Spooled cannot be pickled; spool the data again.")


@public
def spool(blocks: Iterable[Any], directory: str | os.PathLike[str] | None = None) -> Spooled:
    """Write blocks of rows to disk, once, for fits that read them from there.

    No more than a block is in memory, and the operating system reads the pages that a fit uses. Fits,
    `covariance`, `summary` and the tests of hypotheses read such data in blocks.

    Args:
        blocks: each ``(x, y)``, or a mapping with ``x``, ``y``, and what else the rows have: ``weights``,
            ``exposure``, groups by number, each `(rows,)`. As `mle` takes them: arrays, tensors, data
            frames; ``x`` may map predictors to designs. Rows of weight 0 are left out.
        directory: on a disk with room for 8 bytes a number; None for that of `tempfile`. What is in memory
            itself, as ``/tmp`` is on some machines, saves none.

    Raises:
        DataError: no rows at all; a block of other columns or other names than the first; NaN, infinite
            values or anything else that `mle` would not take, with the number of the block; no room.

    >>> import numpy as np
    >>> from neglog import mle, models
    >>> rng = np.random.default_rng(0)
    >>> def blocks():
    ...     for _ in range(3):
    ...         x = rng.normal(size=(1000, 2))
    ...         yield x, 1 + x[:, 0] + rng.normal(size=1000)
    >>> data = spool(blocks())
    >>> data, mle(models.gaussian, **data).n
    (Spooled(3000 rows: x, y), 3000.0)
    """
    if not isinstance(blocks, Iterable) or not getattr(blocks, "ndim", 1):
        raise DataError(f"`blocks` must be blocks of rows, such as [(x, y)]; it is {shown(blocks)}.")
    if directory is not None:
        as_path("directory", directory)
    first, rows = None, 0
    with _files(directory) as files:
        for data in _validated_blocks(blocks):
            first, rows = first or data, rows + data.rows
            for name, value in _flat(data).items():
                files.write(name, value)
        if first is None:
            raise DataError("`blocks` has no rows, so there is nothing to fit.")
        mapped = {name: files.mapped(name, (rows, *value.shape[1:])) for name, value in _flat(first).items()}
    return Spooled(_arguments(first, mapped))


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Two designs `(N, P)` and `(N, Q)` as one `(N, P + Q)`, on disk where they are large."""
    if left.numel() + right.numel() <= MAX_NUMBERS_IN_MEMORY:
        return torch.cat([left, right], dim=1)
    with _files(None) as files:
        for start in range(0, len(left), COPIED_ROWS):
            rows = slice(start, start + COPIED_ROWS)
            files.write("x", torch.cat([left[rows], right[rows]], dim=1))
        return files.mapped("x", (len(left), left.shape[1] + right.shape[1]))


def _validated_blocks(blocks: Iterable[Any]) -> Iterator[Data]:
    """The blocks that have rows of positive weight, their columns in the order of the first."""
    first = None
    for number, block in enumerate(blocks):
        try:
            data = _validated(block, first)
        except DataError as error:
            raise DataError(f"block {number} of the data: {error}") from error
        if data is not None:
            first = first or data
            yield data


@isolated
def _validated(block: Any, first: Data | None) -> Data | None:
    """A block, its columns in the order of the first; None if it has no row of positive weight."""
    given = _block_arguments(block)
    common_labels(given)
    x, y, weights = given.pop("x"), given.pop("y"), given.get("weights")
    designs, columns = prepare_designs(x)
    if row_count(designs) == 0 or _all_zero(weights):
        return None
    if first is not None:
        designs, columns = _in_order(designs, columns, first.columns), first.columns
    data = prepare(designs, y, roles=Roles(bounds=set(given)), **given)
    data = replace(data, columns=columns, responses=column_names(y), without_intercept=without_intercept(x))
    if first is not None and _shapes(data) != _shapes(first):
        raise DataError(f"it has {_shapes(data)}, and the first block had {_shapes(first)}.")
    return data


def _block_arguments(block: Any) -> dict[str, Any]:
    """The arguments of `mle` in a block, which may be a pair `(x, y)`."""
    given = dict(block) if isinstance(block, Mapping) else _pair(block)
    if not {"x", "y"} <= set(given):
        raise DataError(f"it needs 'x' and 'y'; it has {', '.join(map(repr, given)) or 'nothing'}.")
    return given


def _all_zero(weights: Any) -> bool:
    """Whether weights are given, all of them 0."""
    return weights is not None and not bool(prepare_array("weights", weights, (1,), integers=True).any())


def _pair(block: Any) -> dict[str, Any]:
    if not isinstance(block, tuple | list) or len(block) != 2:
        raise DataError(f"it must be (x, y), or a mapping with 'x' and 'y'; it is {type(block).__name__}.")
    return {"x": block[0], "y": block[1]}


def _in_order(designs: Designs, columns: Columns, wanted: Columns) -> Designs:
    """The designs with their columns in the order that is wanted.

    Raises:
        DataError: they have others.
    """
    parts = by_key(designs)
    if {key: sorted(names) for key, names in columns.items()} != {k: sorted(n) for k, n in wanted.items()}:
        raise DataError(f"`x` has the columns {_in_words(columns)}; the first block had {_in_words(wanted)}.")
    ordered = {
        key: parts[key] if columns[key] == names else parts[key][:, [columns[key].index(n) for n in names]]
        for key, names in wanted.items()
    }
    return ordered if isinstance(designs, Mapping) else ordered[ALL]


def _in_words(columns: Columns) -> str:
    return "; ".join(
        f"{key}: {', '.join(names)}" if key else ", ".join(names) for key, names in columns.items()
    )


def _shapes(data: Data) -> str:
    """The names and shapes of the row-wise arguments, in words."""
    response = f" of {', '.join(data.responses)}" if data.responses else f" {tuple(data.y.shape[1:])}"
    weights = [] if data.weights is None else ["weights"]
    return ", ".join([f"y{response if data.y.dim() > 1 else ''}", *weights, *sorted(data.keywords)])


def _flat(data: Data) -> dict[str, Tensor]:
    """Each array of the data by a name of its own: its argument's, or its predictor's before a slash."""
    found = {f"{key}/x": value for key, value in by_key(data.x).items()} | {"y": data.y, **data.keywords}
    return found if data.weights is None else found | {"weights": data.weights}


def _arguments(data: Data, arrays: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of `mle`, of the arrays by the names of `_flat`."""
    marked = data.without_intercept
    designs = {
        key: _named(arrays.pop(f"{key}/x"), names, key not in marked) for key, names in data.columns.items()
    }
    x = designs if isinstance(data.x, Mapping) else designs[ALL]
    y = arrays.pop("y")
    return {"x": x, "y": Named(y, data.responses) if data.responses else y} | arrays


def _named(values: Tensor, names: tuple[str, ...], intercept: bool) -> Tensor | Named:
    plain = intercept and names == tuple(f"x{j}" for j in range(len(names)))
    return values if plain else Named(values, names, intercept)


class _Files:
    """Temporary files of float64 numbers; they have no name in the file system where it can do without."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.files: dict[str, IO[bytes]] = {}

    @isolated
    def write(self, name: str, values: Tensor) -> None:
        """Add rows to the end of a file."""
        with self._writing():
            if name not in self.files:
                self.files[name] = tempfile.TemporaryFile(dir=self.directory)  # noqa: SIM115
            self.files[name].write(values.contiguous().numpy().data)

    @isolated
    def mapped(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The numbers of a file, mapped into memory: its pages are read when they are used."""
        if not math.prod(shape):
            return torch.empty(shape, dtype=torch.float64)
        with self._writing():
            self.files[name].flush()
            return torch.from_numpy(np.memmap(self.files[name], dtype=np.float64, mode="r+", shape=shape))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the data cannot be written to {self.directory!r}: {error.strerror}. Pass a `directory` on "
                "a disk with room for 8 bytes a number, or set the environment variable TMPDIR to one."
            ) from error

    def close(self) -> None:
        """Close the files; the memory that was mapped keeps their contents."""
        for file in self.files.values():
            with suppress(OSError):  # what a full disk did not take
                file.close()


@contextmanager
def _files(directory: str | os.PathLike[str] | None) -> Iterator[_Files]:
    files = _Files(tempfile.gettempdir() if directory is None else os.fspath(directory))
    try:
        yield files
    finally:
        files.close()
