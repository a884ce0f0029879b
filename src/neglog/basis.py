"""Bases: the columns of a design in coordinates in which they look alike, without a copy of the design."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 8192
"""So many rows of a design are worked on at a time: with some tens of columns they stay in the cache."""
WELL = 1e-3
"""Columns whose scaled singular values span no more than this keep their digits in normal equations."""
LARGE = 100_000
"""Designs of fewer numbers than this are decomposed by Householder's QR, exact whatever they hold."""


@dataclass(frozen=True, eq=False)
class Basis:
    """``[1, columns] @ transform`` `(N, P)`, the 1 where `one` says so; it is never formed."""

    columns: Tensor
    one: bool
    transform: Tensor

    def at(self, z: Tensor) -> Tensor:
        """The combination `(N,)` of the columns that `z` `(P,)` says."""
        weights = self.transform @ z
        return self.columns @ weights[1:] + weights[0] if self.one else self.columns @ weights

    def gather(self, rows: Tensor) -> Tensor:
        """The transpose of `at`: `(N,)` to `(P,)`."""
        sums = rows @ self.columns
        return self.transform.T @ (torch.cat([rows.sum()[None], sums]) if self.one else sums)

    def cross(self, rows: Tensor, other: Basis) -> Tensor:
        """The products `(P, Q)` of the columns with those of another, with the weights `rows` `(N,)`."""
        total = rows.new_zeros(len(self.transform), len(other.transform))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            right = other._part(part)
            left = right if other.columns is self.columns and other.one == self.one else self._part(part)
            total += left.T @ (rows[part, None] * right)
        return self.transform.T @ total @ other.transform

    def dense(self) -> Tensor:
        """The basis itself, `(N, P)`."""
        return self._part(slice(None)) @ self.transform

    def _part(self, rows: slice) -> Tensor:
        columns = self.columns[rows]
        return torch.cat([torch.ones_like(columns[:, :1]), columns], dim=1) if self.one else columns


def triangle_of(columns: Tensor, one: bool, further: Tensor | None = None) -> Tensor | None:
    """R of the QR decomposition of ``[1, columns]`` by its normal equations, or None where they will not do.

    They will for many rows and columns that are far from dependent. `further` `(P,)` is the diagonal of more
    rows, such as the curvature of priors.
    """
    if columns.numel() < LARGE or not columns.shape[1]:
        return None
    plain = Basis(columns, one, torch.eye(columns.shape[1] + one, dtype=columns.dtype))
    products = plain.cross(columns.new_ones(len(columns)), plain)
    if further is not None:
        products = products + torch.diag(further.square())
    sizes = products.diagonal().sqrt()
    if not bool((sizes > 0).all() & torch.isfinite(sizes).all()):
        return None
    factor, failed = torch.linalg.cholesky_ex(products / sizes / sizes[:, None], upper=True)
    if failed:
        return None
    values = torch.linalg.svdvals(factor)
    return factor * sizes if values[-1] > WELL * values[0] else None
