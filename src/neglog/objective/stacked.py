"""Many predictors of few rows: their designs as one tensor, so that all pairs are one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.objective.blocks import Block

MIN_STACKED_BLOCKS = 3
"""With fewer predictors a product for each pair of them takes no longer."""
MAX_PAIRED_NUMBERS = 250_000
"""The largest number of entries of the designs of all pairs of predictors together."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """The designs `(E, N, P)` of E blocks, narrower ones filled up with columns of zeros.

    `places` `(E, P)` are the positions of their columns in z, which has `size` numbers; columns of zeros have
    the position `size`, which is dropped. `first` and `second` `(M,)` are the two blocks of each pair, in
    the order of `neglog.likelihood.rows.Terms.hessian`.
    """

    designs: Tensor
    places: Tensor
    first: Tensor
    second: Tensor
    size: int

    @staticmethod
    def of(blocks: Sequence[Block], size: int) -> Stacked | None:
        """The designs of the blocks; None where the products of blocks one by one are as fast."""
        bases = [block.basis for block in blocks if block.basis is not None]
        if len(bases) < MIN_STACKED_BLOCKS or len(bases) < len(blocks):
            return None
        if any(basis.triangle is not None for basis in bases):
            return None
        rows, width = len(bases[0].columns), max(len(block.places) for block in blocks)
        if rows * width * len(bases) * (len(bases) + 1) // 2 > MAX_PAIRED_NUMBERS:
            return None
        designs = bases[0].columns.new_zeros(len(bases), rows, width)
        places = torch.full((len(bases), width), size)
        for design, place, block, basis in zip(designs, places, blocks, bases, strict=True):
            design[:, : len(block.places)] = basis.dense()
            place[: len(block.places)] = block.places
        first, second = torch.tril_indices(len(bases), len(bases))
        return Stacked(designs, places, first, second, size)

    def etas(self, z: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
        """The value of each block `(N,)` at `z` `(K,)`."""
        whole = torch.cat([z, z.new_zeros(1)])[self.places]
        free = torch.bmm(self.designs, whole[..., None])[..., 0]
        return [
            eta + block.offset if isinstance(block.offset, Tensor) or block.offset else eta
            for eta, block in zip(free.unbind(), blocks, strict=True)
        ]

    def slopes(self, values: Sequence[Sequence[Tensor]]) -> Tensor:
        """The gradients `(V, K)` in z of each of V sums, from their derivatives in the predictors."""
        rows = self.designs.shape[1]
        each = torch.stack([value.expand(rows) for sums in values for value in sums])
        parts = torch.bmm(each.view(len(values), -1, rows).transpose(0, 1), self.designs)  # (E, V, P)
        found = each.new_zeros(len(values), self.size + 1)
        return found.index_add_(1, self.places.reshape(-1), parts.transpose(0, 1).flatten(1))[:, :-1]

    def bends(self, values: Sequence[Sequence[Tensor]]) -> Tensor:
        """The Hessian `(K, K)` in z, from the second derivatives in each pair of predictors."""
        rows = self.designs.shape[1]
        each = torch.stack([value.expand(rows) for bends in values for value in bends])
        each = torch.where(self.first == self.second, 0.5, 1.0)[:, None] * each
        parts = torch.bmm(self.designs[self.first].mT, self.designs[self.second] * each[..., None])
        half = each.new_zeros(self.size + 1, self.size + 1)
        where = self.places[self.first][:, :, None], self.places[self.second][:, None, :]
        half = half.index_put_(where, parts, accumulate=True)[:-1, :-1]
        return half + half.T
