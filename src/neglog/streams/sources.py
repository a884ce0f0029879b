"""Sources: data sets and loaders of torch as epochs of batches, and those whose rows are in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from neglog.errors import DataError

KEPT_OPTIONS = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    "prefetch_factor",
)
"""The settings of a loader that are kept where its rows are shuffled by the seed of the fit."""


@dataclass(frozen=True, eq=False)
class Indexed:
    """A data set whose rows are read by their numbers, in an order that the fit decides.

    Attributes:
        dataset: with a length and items.
        places: the numbers of its rows that are meant; None of all.
        options: settings of the loader.
        drop_last: whether an epoch leaves out the rows of an incomplete batch.
    """

    dataset: Any
    places: Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    drop_last: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether the number of batches of an epoch is known."""
        return True

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.dataset) if self.places is None else len(self.places)

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers of rows in the data set."""
        return index if self.places is None else self.places[index]

    def batches(self, size: int | None) -> int:
        """The number of batches of an epoch."""
        size = min(size or self.rows, self.rows)
        return self.rows // size if self.drop_last else math.ceil(self.rows / size)

    def epoch(self, size: int | None, order: Tensor) -> Iterator[tuple[Tensor | None, Any]]:
        """The batches of rows in an `order` `(N,)`."""
        parts = list(order.split(size or self.rows))
        if self.drop_last and size is not None:
            parts = [part for part in parts if len(part) == size]
        numbers = [self.numbers(part) for part in parts]
        loader = DataLoader(self.dataset, batch_sampler=[each.tolist() for each in numbers], **self.options)
        yield from zip(numbers, loader, strict=True)

    def generators(self) -> list[torch.Generator]:
        """Generators of random numbers beside that of torch."""
        return []


@dataclass(frozen=True, eq=False)
class OwnOrder:
    """A loader that decides the order and the size of its batches itself."""

    loader: Any
    rows: int

    @property
    def drop_last(self) -> bool:
        """Whether an epoch leaves out the rows of an incomplete batch."""
        return bool(self.loader.drop_last)

    @property
    def is_counted(self) -> bool:
        """Whether the number of batches of an epoch is known."""
        try:
            return len(self.loader) > 0
        except TypeError:
            return False

    def batches(self, size: int | None) -> int:
        """The number of batches of an epoch."""
        if self.is_counted:
            return len(self.loader)
        return math.ceil(self.rows / min(self.loader.batch_size or size or self.rows, self.rows))

    def epoch(self, size: int | None, order: Tensor) -> Iterator[tuple[Tensor | None, Any]]:
        """The batches of the loader, whatever the `order`."""
        for found in self.loader:
            yield None, found

    def generators(self) -> list[torch.Generator]:
        """Generators of random numbers beside that of torch."""
        sampler = getattr(self.loader, "sampler", None)
        found = (getattr(each, "generator", None) for each in (self.loader, sampler))
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def source_of_loader(loader: DataLoader[Any], num_rows: int | None) -> Indexed | OwnOrder:
    """The source of a loader, in an order of its own unless it shuffles by no generator of its own."""
    if is_shuffled(loader):
        number_of_rows(length_of(loader.dataset), "DataLoader", num_rows)
        options = {name: getattr(loader, name) for name in KEPT_OPTIONS}
        return Indexed(loader.dataset, None, options, loader.drop_last)
    if isinstance(loader.dataset, IterableDataset):
        return OwnOrder(loader, number_of_rows(length_of(loader.dataset), "DataLoader", num_rows))
    is_plain = type(loader.batch_sampler) is BatchSampler  # another one decides how many rows there are
    if num_rows is not None and not is_plain:
        return OwnOrder(loader, num_rows)
    rows = length_of(loader.sampler) if loader.batch_sampler is not None else None
    return OwnOrder(loader, number_of_rows(rows, "DataLoader", num_rows))


def is_shuffled(loader: DataLoader[Any]) -> bool:
    """Whether a loader shuffles all rows, each once, by random numbers that are not its own."""
    sampler = loader.sampler
    return (
        type(sampler) is RandomSampler
        and sampler.generator is None
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
        and loader.generator is None
        and loader.batch_size is not None
    )


def length_of(given: Any) -> int | None:
    """The number of rows that something has; None where it is not known."""
    try:
        return len(given)
    except (TypeError, NotImplementedError):
        return None


def number_of_rows(rows: int | None, name: str, num_rows: int | None) -> int:
    """The number of rows that something has, or is said to have."""
    if rows is None and num_rows is None:
        raise DataError(
            f"the {name} has no length, so the number of its rows is not known. Give num_rows=..."
        )
    if rows is not None and num_rows not in (None, rows):
        raise DataError(f"`num_rows` is {num_rows}, and the {name} has {rows}. Leave it out.")
    number = num_rows if rows is None else rows
    if not number:
        raise DataError("the data have no rows; there is nothing to fit.")
    return number


def tensors_of(given: Any) -> tuple[Tensor, ...] | None:
    """The tensors of a data set that holds its rows in memory, or of a part of it; None of any other."""
    if type(given) is TensorDataset:
        return given.tensors
    if type(given) is Subset:
        inner = tensors_of(given.dataset)
        index = torch.as_tensor(list(given.indices), dtype=torch.long)
        return None if inner is None else tuple(each[index] for each in inner)
    return None


def held_by(given: Any, in_batches: bool) -> tuple[tuple[Tensor, ...], int | None] | None:
    """The tensors of a data set in memory, or of a loader of one, and the batch size of the loader.

    None where rows are read a batch at a time; `in_batches` states that a solver trains on batches, for which
    an order of the loader's own counts.
    """
    if not isinstance(given, DataLoader):
        tensors = tensors_of(given)
        return None if tensors is None else (tensors, None)
    tensors = tensors_of(given.dataset)
    if tensors is None or given.collate_fn is not default_collate:
        return None
    has_all = len(given.sampler) == len(given.dataset)  # type: ignore[arg-type]
    if not has_all or (in_batches and (not is_shuffled(given) or given.drop_last)):
        return None
    return tensors, given.batch_size


def pair_of(given: Any, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The input and the response among the tensors of a data set.

    Raises:
        DataError: there are not two.
    """
    if len(tensors) != 2:
        raise DataError(
            f"the rows of the {type(given).__name__} are {len(tensors)} parts; they must be pairs (x, y). "
            "Give the tensors themselves, or a data set of mappings with 'x', 'y' and row-wise arguments."
        )
    return tensors[0], tensors[1]
