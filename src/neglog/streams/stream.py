"""Streams: rows that are read a batch at a time, as validated data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neglog.arguments import whole
from neglog.conversion import by_key
from neglog.data import Data, Roles, prepare, prepare_fit
from neglog.errors import DataError
from neglog.streams.sources import Indexed, OwnOrder, length_of, number_of_rows, source_of_loader

DEFAULT_BATCH = 1000
"""Rows of a batch where neither the loader nor the solver gives a size and rows are many."""
MAX_WHOLE_BATCH = 10_000
"""Up to this many rows are one batch where no size is given, as they are of tensors."""
MAX_HEAD_NUMBERS = 20_000_000
"""The largest number of entries of the inputs from which a fit starts."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows."""

    data: Data

    def __len__(self) -> int:
        return self.data.rows


@dataclass(frozen=True, eq=False)
class Stream:
    """The rows of a data set, read a batch at a time.

    Attributes:
        source: where they are read.
        name: what was given, such as ``DataLoader``.
        batch_size: that of a loader; None where it has none.
        dtype: in which inputs, responses and weights are taken.
        roles: those of the arguments of the model.
        like: rows like which all others must be; None before the first are read.
    """

    source: Indexed | OwnOrder
    name: str
    batch_size: int | None = None
    dtype: torch.dtype = torch.float64
    roles: Roles = field(default_factory=Roles)
    like: Data | None = None
    validates: bool = False
    """Whether the rows are no part of a fit, so that they may have weights where its rows have none."""

    @property
    def rows(self) -> int:
        """The number of rows of an epoch."""
        return self.source.rows

    @property
    def identity(self) -> str:
        """What a checkpoint knows of the rows."""
        return f"{self.name} of {self.rows} rows"

    def of_rows(self, index: Tensor) -> Stream:
        """The stream of some rows.

        Raises:
            DataError: the loader has an order of its own.
        """
        if isinstance(self.source, OwnOrder):
            raise DataError(
                f"`validation` cannot hold out rows of a {self.name} with an order of its own. Give other "
                "rows, as in validation=another_loader; or give the data set itself."
            )
        return replace(self, source=replace(self.source, places=self.source.numbers(index)))

    def sampled(self, sample: Callable[[int, int], Tensor]) -> dict[str, Any]:
        """The arguments of the rows from which a fit starts: all, a `sample` of their numbers, or the first.

        They are at most 10,000, whose inputs have at most `MAX_HEAD_NUMBERS` entries.
        """
        source, limit = self.source, MAX_WHOLE_BATCH
        if isinstance(source, Indexed):
            limit = self._limit(self._arguments(next(self._read(1, 0))[1]))
            index = torch.arange(self.rows) if self.rows <= limit else sample(self.rows, limit)
            source = replace(source, places=source.numbers(index), drop_last=False)
        parts: list[dict[str, Any]] = []
        rows = 0
        for _, found in replace(self, source=source)._read(DEFAULT_BATCH, 0):
            parts.append(self._arguments(found))
            rows, limit = rows + len(parts[-1]["y"]), min(limit, self._limit(parts[0]))
            if rows >= limit:
                break
        return _joined(parts)

    @staticmethod
    def _limit(arguments: Mapping[str, Any]) -> int:
        """The largest number of rows of a sample."""
        numbers = sum(torch.as_tensor(value[:1]).numel() for value in by_key(arguments["x"]).values())
        return min(MAX_WHOLE_BATCH, max(DEFAULT_BATCH, MAX_HEAD_NUMBERS // max(1, numbers)))

    def validated(self, arguments: Mapping[str, Any]) -> Data:
        """Rows of `sampled` as data.

        Raises:
            DataError: as `prepare_fit`.
        """
        others = dict(arguments)
        x, y, weights = (others.pop(key, None) for key in ("x", "y", "weights"))
        return prepare_fit(x, y, weights=weights, dtype=self.dtype, roles=self.roles, **others)

    def batches_an_epoch(self, size: int | None) -> int:
        """The number of batches of an epoch."""
        return self.source.batches(size)

    def batches(self, size: int | None, steps: int, seed: int, done: int = 0) -> Iterator[Batch]:
        """The batch of each step but the first `done`.

        Rows are shuffled each epoch, as those of tensors are, unless the loader has an order of its own.
        """
        is_whole = size is None or size >= self.rows
        generator = torch.Generator().manual_seed(seed)
        step = epoch = 0
        while step < steps:
            order = torch.arange(self.rows) if is_whole else torch.randperm(self.rows, generator=generator)
            epoch += 1
            announced = self.batches_an_epoch(size)
            if self.source.is_counted and step + announced <= done:
                step += announced
                continue
            for batch in self._epoch(size, seed, epoch, order):
                step += 1
                if step > done:
                    yield batch
                if step == steps:
                    return

    def _epoch(self, size: int | None, seed: int, epoch: int, order: Tensor) -> Iterator[Batch]:
        rows = 0
        for number, (index, found) in enumerate(self._read(size, seed + (epoch << 32), order), 1):
            batch = Batch(replace(self._data(found, f"batch {number} of an epoch"), index=index))
            rows += len(batch)
            yield batch
        self._check_end(rows)

    def _check_end(self, rows: int) -> None:
        """Raise DataError unless an epoch had all rows, but for an incomplete batch that a loader drops."""
        dropped = self.rows - rows
        if dropped and not (self.source.drop_last and 0 < dropped < (self.batch_size or self.rows)):
            raise DataError(
                f"the {self.name} ended after {rows} rows, and announced {self.rows}. Correct it, or give "
                f"num_rows={rows} if that is their number."
            )

    def blocks(self) -> Iterator[Data]:
        """All rows once, in their order, a batch at a time."""
        source = self.source
        if isinstance(source, Indexed):
            source = replace(source, drop_last=False)
        for _, found in replace(self, source=source)._read(self.batch_size or DEFAULT_BATCH, 0):
            yield self._data(found, "a batch")

    def _read(self, size: int | None, seed: int, order: Tensor | None = None) -> Iterator[tuple[Any, Any]]:
        """An epoch of raw batches, with random numbers of its own."""
        order = torch.arange(self.rows) if order is None else order
        generators = [torch.default_generator, *self.source.generators()]
        states = [torch.Generator().manual_seed(seed % 2**63).get_state() for _ in generators]
        iterator: Iterator[tuple[Any, Any]] | None = None
        while True:
            with _apart(generators, states):
                iterator = iter(self.source.epoch(size, order)) if iterator is None else iterator
                try:
                    found = next(iterator, None)
                except DataError:
                    raise
                except Exception as error:
                    raise DataError(
                        f"the {self.name} raises {type(error).__name__} where a batch is read: {error}. "
                        "Correct it; the traceback of the original error is above this one."
                    ) from error
            if found is None:
                return
            yield found

    def _arguments(self, found: Any) -> dict[str, Any]:
        """The arguments of a batch: `x`, `y`, and row-wise ones.

        Raises:
            DataError: it is neither a pair nor a mapping with both.
        """
        if isinstance(found, Mapping) and {"x", "y"} <= set(found):
            return dict(found)
        if isinstance(found, tuple | list) and len(found) == 2:
            return {"x": found[0], "y": found[1]}
        came = (
            f"a mapping of {', '.join(map(str, found))}"
            if isinstance(found, Mapping)
            else f"{len(found)} parts"
            if isinstance(found, tuple | list)
            else type(found).__name__
        )
        raise DataError(
            f"the rows of the {self.name} are {came}. Let each be a pair (x, y), or a mapping with 'x', 'y' "
            "and row-wise arguments such as 'weights'."
        )

    def _data(self, found: Any, what: str) -> Data:
        """A batch as validated data, like those before."""
        arguments = self._arguments(found)
        x, y, weights = (arguments.pop(key, None) for key in ("x", "y", "weights"))
        try:
            data = prepare(
                x, y, weights=weights, dtype=self.dtype, roles=self.roles, every_row=True, **arguments
            )
            if data.is_missing:
                raise DataError("`y` is NaN; leave these rows out of the data set.")
            if self.like is not None:
                _check_alike(data, self.like, {"weights"} if self.validates else set())
        except DataError as error:
            raise DataError(f"the {self.name}, in {what}: {error}") from error
        return data


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of several batches, one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    return {key: _concatenated([part[key] for part in parts]) for key in parts[0]}


def _concatenated(values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {key: _concatenated([each[key] for each in values]) for key in values[0]}
    return torch.cat([torch.as_tensor(each) for each in values])


def _shapes(data: Data) -> dict[str, tuple[int, ...]]:
    """The shape of each part of data after the axis of the rows."""
    return {
        f"{kind}[{key!r}]" if key else kind: tuple(value.shape[1:])
        for (kind, key), value in data.parts().items()
    }


def _check_alike(data: Data, like: Data, free: set[str]) -> None:
    """Raise DataError unless data have the parts and the shapes of others, but for those that are `free`."""
    found, known = _shapes(data), _shapes(like)
    for name in {**known, **found}:
        if name in free or found.get(name) == known.get(name):
            continue
        came = f"the shape {found[name]} a row" if name in found else "no value"
        had = f"the shape {known[name]}" if name in known else "none"
        raise DataError(f"`{name}` has {came}, and in the rows before {had}. Give all rows the same shapes.")


@contextmanager
def _apart(generators: list[torch.Generator], states: list[Tensor]) -> Iterator[None]:
    """Generators in other states, which are taken up from; afterwards they are as they were."""
    outside = [each.get_state() for each in generators]
    for each, state in zip(generators, states, strict=True):
        each.set_state(state)
    try:
        yield
    finally:
        states[:] = [each.get_state() for each in generators]
        for each, state in zip(generators, outside, strict=True):
            each.set_state(state)


def stream_of(
    given: Dataset[Any] | DataLoader[Any], num_rows: int | None = None, batch_size: int | None = None
) -> Stream:
    """The stream of a data set or a loader, in batches of this size where a loader has none.

    Raises:
        DataError: its number of rows is not known, or not `num_rows`.
    """
    name = type(given).__name__
    if num_rows is not None:
        whole("num_rows", num_rows)
    if isinstance(given, DataLoader):
        if batch_size is not None and given.batch_size not in (None, batch_size):
            raise DataError(
                f"`batch_size` is {batch_size}, and the loader has {given.batch_size}. Leave one of them out."
            )
        return Stream(source_of_loader(given, num_rows), name, given.batch_size)
    if isinstance(given, IterableDataset):
        size = batch_size or DEFAULT_BATCH
        rows = number_of_rows(length_of(given), name, num_rows)
        return Stream(OwnOrder(DataLoader(given, batch_size=size), rows), name, size)
    rows = number_of_rows(length_of(given), name, num_rows)
    return Stream(Indexed(given), name, batch_size or (None if rows <= MAX_WHOLE_BATCH else DEFAULT_BATCH))


def in_blocks(rows: Data | Stream) -> Iterator[Data]:
    """Rows a batch at a time: those of a stream, or data as they are."""
    return rows.blocks() if isinstance(rows, Stream) else iter((rows,))
