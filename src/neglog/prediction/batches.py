"""Rows of data sets and loaders of torch, for predictions that hold a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from neglog.errors import DataError
from neglog.streams.sources import KEPT_OPTIONS, is_shuffled
from neglog.streams.stream import DEFAULT_BATCH


class Rows(NamedTuple):
    """The rows of a batch: their input, their response if there is one, and row-wise arguments."""

    x: Any
    y: Any
    keywords: dict[str, Any]


def is_in_batches(x: Any) -> bool:
    """Whether rows are read a batch at a time."""
    return isinstance(x, Dataset | DataLoader)


def batches_of(x: Any, others: Mapping[str, Any]) -> Iterator[Rows]:
    """The batches of a data set or a loader, in the order of the data set, or in one of the loader's own.

    Items are inputs, pairs (x, y), or mappings with 'x', 'y', 'weights' and row-wise arguments. The random
    numbers that a loader draws are not those of the caller.

    Raises:
        DataError: `others` are given too, which belong into the items; a batch is none of these; no rows.
    """
    name = type(x).__name__
    given = [key for key, value in others.items() if value is not None]
    if given:
        raise DataError(
            f"`{given[0]}` cannot be given beside a {name}, whose items have it: let them be mappings with "
            f"'x' and {given[0]!r}."
        )
    rows = 0
    with torch.random.fork_rng(devices=[]):
        for found in _loader(x):
            rows += 1
            yield _rows(found, name)
    if not rows:
        raise DataError(f"the {name} has no rows; give one that has.")


def _loader(x: Any) -> DataLoader[Any]:
    """A loader of the rows in their order."""
    if not isinstance(x, DataLoader):
        return DataLoader(x, batch_size=DEFAULT_BATCH)
    if not is_shuffled(x):
        return x
    options = {name: getattr(x, name) for name in KEPT_OPTIONS}
    return DataLoader(x.dataset, batch_size=x.batch_size, **options)


def _rows(found: Any, name: str) -> Rows:
    if isinstance(found, torch.Tensor):
        return Rows(found, None, {})
    if isinstance(found, Mapping) and "x" in found:
        others = {key: value for key, value in found.items() if key not in ("x", "y", "weights")}
        return Rows(found["x"], found.get("y"), others)
    if isinstance(found, tuple | list) and len(found) in (1, 2):
        return Rows(found[0], found[1] if len(found) == 2 else None, {})
    raise DataError(
        f"the rows of the {name} are neither inputs, nor pairs (x, y), nor mappings with 'x'. Let each be "
        "one of these."
    )
