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

    Of a `rough` Hessian six digits will do.
    """

    def __init__(
        self, blocks: Sequence[Block], places: Tensor, size: int, like: Tensor, rough: bool = False
    ) -> None:
        self.blocks, self.places, self.rough = blocks, places, rough
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
            self.own[self.places] += terms.own
        for block, slopes in zip(self.blocks, terms.slopes, strict=False):
            self.gradient[block.places] += block.gather(slopes.expand(_count(block, rows)), rows)
        if terms.own_bends is not None:
            self._add_second(terms, rows)

    def _add_second(self, terms: Terms, rows: slice) -> None:
        assert terms.own_bends is not None
        self.own_second[self.places[:, None], self.places] += terms.own_bends
        for cross, across in zip(self.crosses, terms.crosses, strict=True):
            for block, values in zip(self.blocks, across, strict=True):
                cross[block.places] += block.gather(values.expand(_count(block, rows)), rows)
        for block, bends in zip(self.blocks, terms.bends, strict=True):
            for other, values in zip(self.blocks, bends, strict=False):
                part = block.cross(values.expand(_count(block, rows)), other, rows, self.rough)
                self.hessian[block.places[:, None], other.places] += part
                if other is not block:
                    self.hessian[other.places[:, None], block.places] += part.T

    def slope(self, pull_back: PullBack) -> Tensor:
        """The gradient `(K,)`."""
        return self.gradient + pull_back(self.own)

    def curvature(self, pull_back: PullBack) -> Tensor:
        """The Hessian `(K, K)`."""
        hessian = self.hessian + pull_back(pull_back(self.own_second).T)
        for place, cross in zip(self.places.tolist(), self.crosses, strict=True):
            unit = torch.zeros_like(cross)
            unit[place] = 1.0
            part = cross[:, None] * pull_back(unit)
            hessian += part + part.T
        return hessian


def _count(block: Block, rows: slice) -> int:
    assert block.basis is not None
    return len(range(*rows.indices(len(block.basis.columns))))
