"""Sums over the rows: the loss and its derivatives in the coefficients, from those in the predictors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from neglog.likelihood.rows import Terms
from neglog.objective.blocks import Block
from neglog.objective.stacked import Stacked

PullBack = Callable[[Tensor], Tensor]
"""A gradient `(K, ...)` in theta as one in z."""
Pair = tuple[Block, Block, Tensor]
"""Two blocks, and the second derivatives `(N,)` of the rows in their predictors."""


class Sums:
    """The sums over the rows so far; `places` `(C,)` are the positions of the constants in theta.

    A `rough` Hessian has six digits. With `apart` all parameters but the coefficients are constants without a
    prior, which are the same in z and in theta.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        places: Tensor,
        size: int,
        like: Tensor,
        rough: bool = False,
        apart: bool = False,
        stacked: Stacked | None = None,
    ) -> None:
        self.blocks, self.places, self.rough, self.apart = blocks, places, rough, apart
        self.stacked = stacked
        self.bases = {block: block.basis for block in blocks if block.basis is not None}
        self.is_of_blocks = apart and not len(places)  # the coefficients are all parameters
        self.value = 0.0
        self.gradient, self.hessian = like.new_zeros(size), like.new_zeros(size, size)
        self.theta_gradient, self.theta_hessian = like.new_zeros(size), like.new_zeros(size, size)
        self.cross_hessian = like.new_zeros(len(places), size)

    def add_prior(self, value: float, slope: Tensor, bend: Tensor) -> None:
        """Add minus the log prior, with its derivatives in theta."""
        self.value += value
        self.theta_gradient += slope
        self.theta_hessian += bend

    def add(self, terms: Terms, rows: slice, count: int) -> None:
        """Add the loss of some rows, `count` of them, with the available derivatives."""
        self.value += float(terms.value)
        if terms.constant_gradient is not None:
            self.theta_gradient.index_add_(0, self.places, terms.constant_gradient)
        if terms.constant_hessian is not None:
            _add(self.theta_hessian, self.places, self.places, terms.constant_hessian)
        if self.stacked is not None:
            self._add_stacked(self.stacked, terms)
            return
        wanted = [(self.gradient, *each) for each in zip(self.blocks, terms.slopes, strict=False)]
        if terms.constant_hessian is not None:
            for cross, across in zip(self.cross_hessian, terms.cross_hessian, strict=True):
                wanted += [(cross, *each) for each in zip(self.blocks, across, strict=True)]
            self._add_bends(terms, rows, count)
        self._add_slopes(wanted, rows, count)

    def _add_stacked(self, stacked: Stacked, terms: Terms) -> None:
        """Add the derivatives in the coefficients of all blocks together."""
        if terms.slopes:
            found = stacked.slopes([terms.slopes, *terms.cross_hessian])
            self.gradient += found[0]
            self.cross_hessian += found[1:] if terms.constant_hessian is not None else 0.0
        if terms.hessian:
            self.hessian += stacked.bends(terms.hessian)

    def _add_slopes(self, wanted: Sequence[tuple[Tensor, Block, Tensor]], rows: slice, count: int) -> None:
        """Add to each vector `(K,)` the derivatives in the coefficients, from those `(N,)` in a predictor."""
        for group in self._by_columns(wanted, 1):
            values = [each.expand(count) for *_, each in group]
            sums = self.bases[group[0][1]].sums(values, rows)
            for (vector, block, _), found in zip(group, sums, strict=True):
                vector.index_add_(0, block.places, self.bases[block].transform.T @ found)

    def _add_bends(self, terms: Terms, rows: slice, count: int) -> None:
        pairs = [
            (block, other, values.expand(count))
            for block, bends in zip(self.blocks, terms.hessian, strict=True)
            for other, values in zip(self.blocks, bends, strict=False)
        ]
        shared = [pair for pair in pairs if self.bases[pair[0]].shares(self.bases[pair[1]])]
        for group in self._by_columns(shared, 0):
            self._add_shared(group, rows)
        for block, other, values in pairs:
            if not self.bases[block].shares(self.bases[other]):
                self._add_bend(block, other, block.cross(values, other, rows))

    def _add_shared(self, group: Sequence[Pair], rows: slice) -> None:
        """Add the second derivatives in pairs of blocks of the same columns, whose products are one pass."""
        rough = self.rough and all(self.bases[block].alike for pair in group for block in pair[:2])
        products = self.bases[group[0][0]].products([values for *_, values in group], rows, rough)
        for (block, other, _), found in zip(group, products, strict=True):
            self._add_bend(block, other, self.bases[block].transform.T @ found @ self.bases[other].transform)

    def _add_bend(self, block: Block, other: Block, part: Tensor) -> None:
        _add(self.hessian, block.places, other.places, part)
        if other is not block:
            _add(self.hessian, other.places, block.places, part.T)

    def _by_columns(self, wanted: Sequence[Any], place: int) -> list[list[Any]]:
        """Tasks with a block at this place, grouped by the columns that the blocks are combinations of."""
        groups: dict[Hashable, list[Any]] = {}
        for each in wanted:
            key = self.bases[each[place]].key if len(self.bases) > 1 else None
            groups.setdefault(key, []).append(each)
        return list(groups.values())

    def slope(self, pull_back: PullBack) -> Tensor:
        """The gradient `(K,)`."""
        if self.is_of_blocks:
            return self.gradient
        return self.gradient + (self.theta_gradient if self.apart else pull_back(self.theta_gradient))

    def curvature(self, pull_back: PullBack) -> Tensor:
        """The Hessian `(K, K)`."""
        if self.is_of_blocks:
            return self.hessian
        if self.apart:
            crosses = torch.zeros_like(self.hessian).index_copy_(0, self.places, self.cross_hessian)
            return self.hessian + self.theta_hessian + crosses + crosses.T
        hessian = self.hessian + pull_back(pull_back(self.theta_hessian).T)
        if not len(self.places):
            return hessian
        units = hessian.new_zeros(len(hessian), len(self.places))
        units[self.places, torch.arange(len(self.places))] = 1.0
        crosses = pull_back(units) @ self.cross_hessian
        return hessian + crosses + crosses.T


def _add(matrix: Tensor, rows: Tensor, columns: Tensor, part: Tensor) -> None:
    matrix.index_put_((rows[:, None], columns), part, accumulate=True)
