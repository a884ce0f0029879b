"""Folds: the rows that are held out of each fit, by a number, a splitter of scikit-learn, or positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.arguments import seed_of, shown
from neglog.calls import public
from neglog.conversion import as_labels
from neglog.errors import DataError, reason_of, written

SIDES = ("train", "test")
"""The sides of a split, in the order of a pair."""


@dataclass(frozen=True, eq=False)
class Split:
    """The positions of the rows that are held out, and of those that are fitted, None for all others."""

    test: Tensor
    train: Tensor | None = None

    def fitted(self, rows: int) -> Tensor:
        """The positions of the rows that are fitted, given the number of all rows."""
        if self.train is not None:
            return self.train
        others = torch.ones(rows, dtype=torch.bool).index_fill(0, self.test, False)
        return others.nonzero()[:, 0]

    @property
    def positions(self) -> list[Tensor]:
        """What distinguishes it from other splits of the same rows."""
        return [self.test] if self.train is None else [self.test, self.train]


Splits = tuple[Split, ...]


@public
def splits_of(
    folds: Any, y: Tensor, masses: Tensor, seed: int, groups: Any = None, dropped: int = 0
) -> Splits:
    """The rows that are held out of each fit.

    Args:
        folds: their number; a splitter of scikit-learn; pairs of positions, (train, test); or splits.
        y: the response of the rows as numbers, `(N,)` or `(N, D)`.
        masses: how often each row counts `(N,)`.
        seed: decides the splits of a number of folds.
        groups: the group of each row, or None.
        dropped: the number of rows that were left out of the table of the caller.

    Raises:
        DataError: no such number of folds; a splitter that cannot split these rows; positions that they do
            not have.
    """
    if isinstance(folds, tuple) and any(isinstance(each, Split) for each in folds):
        return folds
    _check_groups(groups, len(y))
    if is_number(folds):
        dealt = deal(masses, folds, seed) if groups is None else _deal_groups(groups, masses, folds, seed)
        return tuple(Split((dealt == fold).nonzero()[:, 0]) for fold in range(int(dealt.max()) + 1))
    pairs = _pairs(folds, y, groups, dropped)
    return tuple(_split(number, pair, len(y)) for number, pair in enumerate(pairs, start=1))


def is_number(folds: Any) -> bool:
    """Whether folds are given by their number, or by something that can only be meant as one."""
    return isinstance(folds, Integral | float | str | type | None)


def described(folds: Any) -> Any:
    """Folds as a fact of a checkpoint; the positions of each split are facts of its own part."""
    return folds if is_number(folds) else type(folds).__name__


@public
def deal(masses: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row `(N,)`. Rows of weight 0 are in no fit; they go along with the first fold.

    Raises:
        DataError: `folds` is below 2 or above the number of rows that count; or as `seed_of`.
    """
    seed = seed_of(seed)
    counted = torch.nonzero(masses > 0)[:, 0]
    _check_number(folds, len(counted), "rows")
    generator = torch.Generator().manual_seed(seed)
    order = counted[torch.randperm(len(counted), generator=generator)]
    dealt = torch.zeros(len(masses), dtype=torch.int64)
    dealt[order] = torch.arange(len(counted)) % int(folds)
    return dealt


def _check_groups(groups: Any, rows: int) -> None:
    if groups is not None and len(groups) != rows:
        raise DataError(f"`groups` must have one entry for each of {rows} rows; it has {len(groups)}.")


def _check_number(folds: Any, most: int, what: str) -> None:
    is_whole = isinstance(folds, Integral) and not isinstance(folds, bool)
    if is_whole and 2 <= folds <= most:
        return
    given = f"the class {folds.__name__}" if isinstance(folds, type) else written(folds)
    remedy = "" if is_whole else "; give a number, or a splitter of scikit-learn, such as KFold(5)"
    raise DataError(f"`folds` must be a whole number from 2 to the {most} {what}; it is {given}{remedy}.")


def _deal_groups(groups: Any, masses: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row `(N,)`: that of its group.

    Raises:
        DataError: the group of a row is missing; `folds` is above the number of groups.
    """
    import pandas as pd

    codes, names = pd.factorize(as_labels("groups", groups))
    if (codes < 0).any():
        raise DataError(f"`groups` is missing in row {int(np.argmax(codes < 0))}.")
    numbers = torch.from_numpy(codes.astype(np.int64))
    of_groups = torch.zeros(len(names), dtype=torch.float64).index_add(0, numbers, masses.double())
    _check_number(folds, int((of_groups > 0).sum()), "groups")
    return deal(of_groups, folds, seed)[numbers]


def _pairs(folds: Any, y: Tensor, groups: Any, dropped: int) -> list[Any]:
    """The pairs of train and test of a splitter, or those that were given."""
    if hasattr(folds, "split") and hasattr(folds, "get_n_splits"):
        return _pairs_by(folds, y, groups)
    if not isinstance(folds, Iterable) or getattr(folds, "ndim", 1) == 0:
        raise DataError(
            f"`folds` must be a number of folds, a splitter of scikit-learn, or pairs of positions "
            f"(train, test); it is {shown(folds)}."
        )
    if dropped:
        raise DataError(
            f"`folds` has positions of rows, and {dropped} rows with missing values were dropped, which "
            "moves them. Drop these rows from the table first, or give a splitter."
        )
    pairs = list(folds)
    if not pairs:
        raise DataError("`folds` has no pairs of positions, (train, test). Give one or more.")
    return pairs


def _pairs_by(splitter: Any, y: Tensor, groups: Any) -> list[Any]:
    labels = None if groups is None else as_labels("groups", groups)
    try:
        return list(splitter.split(np.zeros((len(y), 1)), y.numpy(), labels))
    except (ValueError, TypeError, IndexError) as error:
        reason = reason_of(error)
        raise DataError(
            f"`folds`, {type(splitter).__name__}, cannot split these {len(y)} rows: {reason}. "
            f"{_remedy(reason, groups is None)}"
        ) from error


def _remedy(reason: str, without_groups: bool) -> str:
    """What to do where a splitter of scikit-learn fails."""
    if without_groups and "group" in reason:
        return "Give the group of each row as `groups`."
    if "target type" in reason:
        return "Use KFold: strata are those of classes, and the response is none."
    return "Use a splitter of fewer folds, or a whole number."


def _split(number: int, pair: Any, rows: int) -> Split:
    """One split.

    Raises:
        DataError: no pair of positions; a side without rows, or a row on both.
    """
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise DataError(
            f"`folds` must have pairs of positions, (train, test), as KFold(5).split(x) has; split {number} "
            f"is {written(pair)}. Give the fold of each row as "
            "sklearn.model_selection.PredefinedSplit(folds)."
        )
    train, test = (_positions(number, side, part, rows) for side, part in zip(SIDES, pair, strict=True))
    both = np.intersect1d(train, test)
    if len(both):
        raise DataError(
            f"split {number} of `folds` has row {both[0]} on both sides; a row is fitted or held out. Leave "
            "it out of one of them."
        )
    all_others = len(train) == len(np.unique(train)) == rows - len(test) and len(np.unique(test)) == len(test)
    return Split(torch.as_tensor(test), None if all_others else torch.as_tensor(train))


def _positions(number: int, side: str, given: Any, rows: int) -> np.ndarray:
    """The positions of a side, `(K,)`, of numbers or of one True or False for each row."""
    found = np.asarray(given)
    if found.dtype == bool and found.shape == (rows,):
        found = np.flatnonzero(found)
    whole = found.ndim == 1 and found.dtype.kind in "iu" and bool(((found >= 0) & (found < rows)).all())
    if not len(np.atleast_1d(found)) or not whole:
        raise DataError(
            f"split {number} of `folds` needs positions of rows from 0 to {rows - 1} to {side}, one or more; "
            f"it has {written(given)}."
        )
    return found.astype(np.int64)
