"""Bases: the columns of a design in coordinates in which they look alike, without a copy of the design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 327_680
"""So many numbers of a design are multiplied at a time: they stay in the cache of a core."""
TALL = 2048
"""Tall matrices are multiplied so many rows at a time."""
ALIKE = 0.05
"""Columns whose scaled singular values span no more than this lose few digits in single precision."""
WELL = 1e-3
"""Columns whose scaled singular values span no more than this keep their digits in normal equations."""
FAIR = 1e-6
"""Those whose singular values span no more than this keep them where the inverse of their triangle mixes."""
POOR = 1e-13
"""Those whose singular values span no more than this keep them where their triangle is undone row by row."""
LARGE = 100_000
"""Designs of fewer numbers than this are decomposed by Householder's QR, exact whatever they hold."""
BLOCK = 10_000
"""So many rows are decomposed at a time."""
PIECE = 2_500
"""So many rows are solved for at a time."""
SAMPLED = 50_000
"""Well-behaved designs of many more rows than this are judged by so many of them."""
ALL_ROWS = slice(None)


@dataclass(frozen=True, eq=False)
class Basis:
    """``[1, columns] @ transform`` `(N, P)`, the 1 where `one` says so; it is never formed.

    With a `triangle` `(P, P)` it is ``[1, columns] @ inverse(triangle) @ transform``, and a block of rows is
    solved for at each use: that keeps the digits that a product with the inverse would lose.
    """

    columns: Tensor
    one: bool
    transform: Tensor
    triangle: Tensor | None = None
    alike: bool = False
    """Whether the columns are of one size and far from dependent."""
    known: dict[Any, tuple[Any, Tensor]] = field(default_factory=dict, repr=False)
    """Products of all columns, by what they were asked with."""

    def take(self, index: Tensor, taken: Mapping[Any, Tensor]) -> Basis:
        """The basis of the rows that `index` names; designs are `taken` already, by where they lie."""
        known = taken.get((self.columns.data_ptr(), self.columns.shape))
        return replace(
            self, columns=self.columns.index_select(0, index) if known is None else known, known={}
        )

    def mixed(self, rows: slice = ALL_ROWS) -> tuple[Tensor, bool]:
        """What `transform` mixes, in some rows, and whether a 1 stands before it."""
        columns = self.columns[rows]
        if self.triangle is None:
            return columns, self.one
        whole = torch.cat([torch.ones_like(columns[:, :1]), columns], dim=1) if self.one else columns
        return torch.linalg.solve_triangular(self.triangle, whole, upper=True, left=False).contiguous(), False

    def _pieces(self, rows: slice, other: Basis | None = None) -> list[tuple[slice, slice]]:
        """Parts of some rows that are worked on at a time: in the data, and among these rows."""
        start, stop, _ = rows.indices(len(self.columns))
        solved = self.triangle is not None or (other is not None and other.triangle is not None)
        size = PIECE if solved else max(1, stop - start)
        ends = ((at, min(at + size, stop)) for at in range(start, stop, size))
        return [(slice(a, b), slice(a - start, b - start)) for a, b in ends]

    def at(self, z: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """The combination `(N,)` of the columns that `z` `(P,)` says, in some rows."""
        weights, found = self.transform @ z, []
        if self.triangle is None and not self.one:
            return self.columns[rows] @ weights
        for piece, _ in self._pieces(rows):
            columns, one = self.mixed(piece)
            found.append(columns @ weights[1:] + weights[0] if one else columns @ weights)
        return found[0] if len(found) == 1 else torch.cat([z[:0], *found])

    def gather(self, values: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """The transpose of `at`: `(N,)` to `(P,)`."""
        if self._is_short(values):
            return self.transform.T @ (values @ self.columns[rows])
        total = values.new_zeros(len(self.transform))
        for piece, place in self._pieces(rows):
            columns, one = self.mixed(piece)
            total[int(one) :] += _tall_product(values[place, None], columns)[0]
            total[: int(one)] += values[place].sum()
        return self.transform.T @ total

    def cross(self, values: Tensor, other: Basis, rows: slice = ALL_ROWS, rough: bool = False) -> Tensor:
        """The products `(P, Q)` of the columns with those of another, with the weights `values` `(N,)`.

        `rough` says that six digits will do, where the columns are alike.
        """
        if _is_constant(values):
            total = values[0] * self._plain(other, rows)
        else:
            total = self._weighted(values, other, rows, rough and self.alike and other.alike)
        return self.transform.T @ total @ other.transform

    def _weighted(self, values: Tensor, other: Basis, rows: slice, rough: bool = False) -> Tensor:
        if self._is_short(values) and other._is_short(values):
            return self.columns[rows].T @ (other.columns[rows] * values[:, None])
        total = values.new_zeros((len(self.transform), len(other.transform)))
        for piece, place in self._pieces(rows, other):
            left, one = self.mixed(piece)
            right, second = (left, one) if other is self else other.mixed(piece)
            total += _products(left, values[place], right, one, second, rough)
        return total

    def _is_short(self, values: Tensor) -> bool:
        """Whether the columns are the basis but for `transform`, and one product sums the rows."""
        return self.triangle is None and not self.one and len(values) <= TALL

    def _plain(self, other: Basis, rows: slice) -> Tensor:
        """The products without weights: least squares asks for the same ones at every step."""
        key = id(other.columns), id(other.triangle), other.one, rows.start
        if key not in self.known:
            ones = self.columns.new_ones(len(self.columns[rows]))
            # What has an `id` here is kept beside the products, so that nothing else comes to have it.
            self.known[key] = (other.columns, other.triangle), self._weighted(ones, other, rows)
        return self.known[key][1]

    def dense(self) -> Tensor:
        """The basis itself, `(N, P)`."""
        whole, one = self.mixed()
        if one:
            whole = torch.cat([torch.ones_like(whole[:, :1]), whole], dim=1)
        return whole @ self.transform


def _is_constant(values: Tensor) -> bool:
    if not len(values) or float(values[0]) != float(values[-1]):
        return False
    return bool((values == values[0]).all())


def _products(
    left: Tensor, values: Tensor, right: Tensor, one: bool, other: bool, rough: bool = False
) -> Tensor:
    """`[1, left].T @ diag(values) @ [1, right]`, each 1 where it is asked for, chunk by chunk.

    `rough` products are summed in single precision within a chunk, with weights of order one.
    """
    if rough:
        size = values.abs().max()
        if bool(torch.isfinite(size)) and size > 0:
            found = _sums_of_products(left, values / size, right, one, other, torch.float32)
            if bool(torch.isfinite(found).all()):
                return size * found
    return _sums_of_products(left, values, right, one, other, values.dtype)


def _sums_of_products(
    left: Tensor, values: Tensor, right: Tensor, one: bool, other: bool, dtype: torch.dtype
) -> Tensor:
    total = values.new_zeros((left.shape[1] + one, right.shape[1] + other))
    size = TALL * max(1, CHUNK // (TALL * max(1, right.shape[1])))
    for rows in _chunks(len(values), size):
        weights, first = values[rows].to(dtype), left[rows].to(dtype)
        weighted = (first if right is left else right[rows].to(dtype)) * weights[:, None]
        total[one:, other:] += _tall_product(first, weighted)
        if one:
            total[0, other:] += weighted.sum(dim=0)
        if other:
            total[one:, 0] += weights @ first
        if one and other:
            total[0, 0] += weights.sum()
    return total


def _tall_product(left: Tensor, right: Tensor) -> Tensor:
    """`left.T @ right` of tall matrices: as many small products at once, of which each thread takes some."""
    whole = len(left) // TALL * TALL
    if whole < 2 * TALL:
        return left.T @ right
    first, second = (each[:whole].unflatten(0, (-1, TALL)) for each in (left, right))
    found = torch.bmm(first.transpose(1, 2), second).sum(dim=0)
    return found + left[whole:].T @ right[whole:] if whole < len(left) else found


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def triangle_of(columns: Tensor, one: bool, further: Tensor | None = None) -> Tensor | None:
    """R of the QR decomposition of ``[1, columns]``, without a copy of them, or None where that will not do.

    It will for many rows and columns that are not close to dependent: by normal equations, or by the QR of a
    block of rows after the other (Golub, Plemmons & Sameh 1988). `further` `(P,)` is the diagonal of more
    rows, such as the curvature of priors. Of very many rows a sample stands for all, if the sizes of all
    columns agree with it: R then makes the columns alike up to sampling, which is all that a solver needs.
    """
    if columns.numel() < LARGE or not columns.shape[1]:
        return None
    if len(columns) > 4 * SAMPLED:
        few = columns.index_select(0, sample_of(len(columns), SAMPLED))
        sampled = _well_conditioned(_gram(few, one), len(columns), further)
        if sampled is not None and _agree(sampled, columns, one, further):
            return sampled
    triangle = _well_conditioned(_gram(columns, one), len(columns), further)
    return _by_blocks(columns, one, further) if triangle is None else triangle


def sample_of(rows: int, count: int) -> Tensor:
    """About `count` of `rows` rows in their order, drawn without regard to it and always the same."""
    drawn = torch.randint(rows, (count,), generator=torch.Generator().manual_seed(0))
    return torch.unique(drawn)


def _gram(columns: Tensor, one: bool) -> Tensor:
    """The mean of the products of all columns, `(P, P)`."""
    return _products(columns, columns.new_ones(len(columns)), columns, one, one) / len(columns)


def _well_conditioned(means: Tensor, rows: int, further: Tensor | None) -> Tensor | None:
    """The triangle of `rows` rows whose products have these `means`, if no columns are close to dependent."""
    products = means * rows
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


def _by_blocks(columns: Tensor, one: bool, further: Tensor | None) -> Tensor | None:
    """R by the decomposition of a block of rows below that of the blocks before it."""
    width = columns.shape[1] + one
    triangle = columns.new_zeros((0, width)) if further is None else torch.diag(further)
    for rows in _chunks(len(columns), BLOCK):
        block = columns[rows]
        block = torch.cat([torch.ones_like(block[:, :1]), block], dim=1) if one else block
        triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    sizes = triangle.norm(dim=0)
    if not bool((sizes > 0).all() & torch.isfinite(sizes).all()):
        return None
    return triangle if len(triangle) == width and spread_of(triangle) > POOR else None


def are_alike(triangle: Tensor) -> bool:
    """Whether the columns of a triangle are of sizes that single precision holds, and far from dependent."""
    sizes = triangle.norm(dim=0)
    held = sizes.max() < 1e12 and sizes.min() > 1e-12 and sizes.max() < 1e6 * sizes.min()
    return bool(held) and spread_of(triangle) > ALIKE


def spread_of(triangle: Tensor) -> float:
    """The least of the singular values of a triangle with columns of one size, over the largest."""
    values = torch.linalg.svdvals(triangle / triangle.norm(dim=0))
    return float(values[-1] / values[0])


def _agree(triangle: Tensor, columns: Tensor, one: bool, further: Tensor | None) -> bool:
    """Whether the sizes of the columns are about those of the triangle of a sample."""
    own = columns.numpy()
    squares = torch.from_numpy(np.einsum("ij,ij->j", own, own))
    found = triangle.square().sum(dim=0)[int(one) :]
    found = found if further is None else found - further[int(one) :].square()
    return bool((squares <= 2 * found).all())
