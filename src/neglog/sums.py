"""Sums: what blocks of rows come to, as the value, the gradient and the Hessian of a problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neglog.blocks import Block
from neglog.rowwise import Terms

PullBack = Callable[[Tensor], Tensor]
"""A gradient `(K, ...)` in theta as one in z."""


class Sums:
    """The sums over rows, while the blocks of rows come in; constants stand at `places` `(C,)` in theta.

    Of a `rough` Hessian six digits will do. `apart` says that nothing but constants of their own, which are
    the same in z, stands beside the predictors: no prior that counts, and no coefficient.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        places: Tensor,
        size: int,
        like: Tensor,
        rough: bool = False,
        apart: bool = False,
    ) -> None:
        self.blocks, self.places, self.rough, self.apart = blocks, places, rough, apart
        self.value = 0.0
        self.gradient, self.hessian = like.new_zeros(size), like.new_zeros(size, size)
        self.own, self.own_second = like.new_zeros(size), like.new_zeros(size, size)
        self.crosses = like.new_zeros(len(places), size)

    def add_prior(self, value: float, slope: Tensor, bend: Tensor) -> None:
        """Add minus the log prior, with its derivatives in theta."""
        self.value += value
        self.own += slope
        self.own_second += bend

    def add(self, terms: Terms, rows: slice) -> None:
        """Add the loss of some rows, with the derivatives that are known."""
        self.value += float(terms.value)
        if terms.own is not None:
            self.own.index_add_(0, self.places, terms.own)
        for block, slopes in zip(self.blocks, terms.slopes, strict=False):
            found = block.gather(slopes.expand(_count(block, rows)), rows)
            self.gradient.index_add_(0, block.places, found)
        if terms.own_bends is not None:
            self._add_second(terms, rows)

    def _add_second(self, terms: Terms, rows: slice) -> None:
        assert terms.own_bends is not None
        _add(self.own_second, self.places, self.places, terms.own_bends)
        for cross, across in zip(self.crosses, terms.crosses, strict=True):
            for block, values in zip(self.blocks, across, strict=True):
                found = block.gather(values.expand(_count(block, rows)), rows)
                cross.index_add_(0, block.places, found)
        for block, bends in zip(self.blocks, terms.bends, strict=True):
            for other, values in zip(self.blocks, bends, strict=False):
                part = block.cross(values.expand(_count(block, rows)), other, rows, self.rough)
                _add(self.hessian, block.places, other.places, part)
                if other is not block:
                    _add(self.hessian, other.places, block.places, part.T)

    def slope(self, pull_back: PullBack) -> Tensor:
        """The gradient `(K,)`."""
        return self.gradient + (self.own if self.apart else pull_back(self.own))

    def curvature(self, pull_back: PullBack) -> Tensor:
        """The Hessian `(K, K)`."""
        if self.apart:
            crosses = torch.zeros_like(self.hessian).index_copy_(0, self.places, self.crosses)
            return self.hessian + self.own_second + crosses + crosses.T
        hessian = self.hessian + pull_back(pull_back(self.own_second).T)
        for place, cross in zip(self.places.tolist(), self.crosses, strict=True):
            unit = torch.zeros_like(cross)
            unit[place] = 1.0
            part = cross[:, None] * pull_back(unit)
            hessian += part + part.T
        return hessian


def _add(matrix: Tensor, rows: Tensor, columns: Tensor, part: Tensor) -> None:
    matrix.index_put_((rows[:, None], columns), part, accumulate=True)


def _count(block: Block, rows: slice) -> int:
    assert block.basis is not None
    return len(range(*rows.indices(len(block.basis.columns))))
