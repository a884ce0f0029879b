"""Bases: the columns of a design, transformed to equal scale and low correlation, without a copy of the
design."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from neglog.objective.products import (
    TALL,
    chunks,
    column_squares,
    gathered,
    mixed_products,
    plain_products,
    symmetric_products,
)
from neglog.split.tensor import SplitDesign

SINGLE_PRECISION_SPREAD = 0.05
"""Largest condition number of the scaled columns for products in single precision."""
NORMAL_EQUATIONS_SPREAD = 1e-3
"""Largest condition number of the scaled columns at which normal equations are accurate."""
FAIR = 1e-6
"""Largest condition number at which multiplying by the inverse of the triangular factor is accurate."""
POOR = 1e-13
"""Largest condition number at which a triangular solve for each row is accurate."""
MIN_LARGE_DESIGN = 100_000
"""Designs with fewer numbers than this are decomposed by Householder QR, whatever their condition."""
DECOMPOSED_ROWS = 10_000
"""Number of rows of a block of the QR decomposition."""
SOLVED_ROWS = 2_500
"""Number of rows of a block of triangular solves."""
SAMPLED = 50_000
"""Number of sampled rows from which the condition of a large design is estimated."""
ALL_ROWS = slice(None)


@dataclass(frozen=True, eq=False)
class Basis:
    """``[1, columns] @ transform`` `(N, P)`, with the column of ones if `one`; the product is not stored.

    With a `triangle` `(P, P)` it is ``[1, columns] @ inverse(triangle) @ transform``, evaluated by a
    triangular solve in blocks of rows, which is more accurate than a product with the inverse.
    """

    columns: Tensor
    one: bool
    transform: Tensor
    triangle: Tensor | None = None
    alike: bool = False
    """Whether the columns are of equal size and far from collinear."""
    known: dict[Any, tuple[Any, Tensor]] = field(default_factory=dict, repr=False)
    """Cached products of all columns, by their arguments."""

    def take(self, index: Tensor, taken: Mapping[Any, Tensor]) -> Basis:
        """The basis of the rows that `index` names; designs are `taken` already, by where they lie."""
        known = taken.get(placed(self.columns))
        return replace(
            self, columns=self.columns.index_select(0, index) if known is None else known, known={}
        )

    def mixed(self, rows: slice = ALL_ROWS) -> tuple[Tensor, bool]:
        """The columns that `transform` mixes, in some rows, and whether a column of ones precedes them."""
        columns = self.columns[rows]
        if self.triangle is None:
            return columns, self.one
        whole = torch.cat([torch.ones_like(columns[:, :1]), columns], dim=1) if self.one else columns
        return torch.linalg.solve_triangular(self.triangle, whole, upper=True, left=False).contiguous(), False

    def _pieces(self, rows: slice, other: Basis | None = None) -> list[tuple[slice, slice]]:
        """Parts of some rows that are worked on at a time: in the data, and among these rows."""
        start, stop, _ = rows.indices(len(self.columns))
        solved = self.triangle is not None or (other is not None and other.triangle is not None)
        size = SOLVED_ROWS if solved else max(1, stop - start)
        ends = ((at, min(at + size, stop)) for at in range(start, stop, size))
        return [(slice(a, b), slice(a - start, b - start)) for a, b in ends]

    def at(self, z: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """The linear combination `(N,)` of the columns with coefficients `z` `(P,)`, in some rows."""
        weights, found = self.transform @ z, []
        if self.triangle is None and not self.one:
            return self.columns[rows] @ weights
        for piece, _ in self._pieces(rows):
            columns, one = self.mixed(piece)
            found.append(columns @ weights[1:] + weights[0] if one else columns @ weights)
        return found[0] if len(found) == 1 else torch.cat([z[:0], *found])

    def gather(self, values: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """The transpose of `at`: `(N,)` to `(P,)`."""
        return self.transform.T @ self.sums([values], rows)[0]

    def sums(self, values: Sequence[Tensor], rows: slice = ALL_ROWS) -> list[Tensor]:
        """The products `(P,)` of the columns before `transform` with each of some `values` `(N,)`."""
        if self.known and len(values) == 1 and self._sum_key(values[0], rows) in self.known:
            return [self.known[self._sum_key(values[0], rows)][1]]
        if self._is_short(values[0]):
            return list(torch.stack(list(values)) @ self.columns[rows])
        total = values[0].new_zeros(len(values), len(self.transform))
        for piece, place in self._pieces(rows):
            columns, one = self.mixed(piece)
            total += torch.stack(gathered(columns, one, [v[place] for v in values]))
        return list(total)

    def multiply(self, values: Tensor, rows: slice) -> Tensor:
        """The products `(P, P)` without weights, cached together with the sum with `values`."""
        products, sums = plain_products(self.columns[rows], self.one, values)
        self.known[self._plain_key(self, rows)] = (self.columns, None), products
        self.known[self._sum_key(values, rows)] = values, sums
        return products

    def _is_short(self, values: Tensor) -> bool:
        """Whether one product over the rows suffices, followed by `transform`."""
        return self.triangle is None and not self.one and len(values) <= TALL

    def _sum_key(self, values: Tensor, rows: slice) -> Hashable:
        return placed(values), rows.start

    def _plain_key(self, other: Basis, rows: slice) -> Hashable:
        return id(other.columns), id(other.triangle), other.one, rows.start

    def cross(self, values: Tensor, other: Basis, rows: slice = ALL_ROWS, rough: bool = False) -> Tensor:
        """The products `(P, Q)` of the columns with those of another, with the weights `values` `(N,)`.

        With `rough` six digits suffice, if the columns are of equal scale.
        """
        if self.shares(other):
            (total,) = self.products([values], rows, rough and other.alike)
        elif _is_even(values):
            total = values[0] * self.plain(other, rows)
        else:
            total = self._mixed_with(other, values, rows)
        return self.transform.T @ total @ other.transform

    def shares(self, other: Basis) -> bool:
        """Whether the columns before `transform` are those of another basis."""
        return other is self or (self.triangle is None and self.key == other.key)

    @property
    def key(self) -> Hashable:
        """A key of the columns before `transform`."""
        return placed(self.columns), self.one, id(self.triangle)

    def products(
        self, weights: Sequence[Tensor], rows: slice = ALL_ROWS, rough: bool = False
    ) -> list[Tensor]:
        """The products `(P, P)` of the columns before `transform`, for each of some `weights` `(N,)`."""
        even = [_is_even(each) for each in weights]
        found = iter(self._weighted([w for w, e in zip(weights, even, strict=True) if not e], rows, rough))
        return [
            each[0] * self.plain(self, rows) if is_even else next(found)
            for each, is_even in zip(weights, even, strict=True)
        ]

    def _weighted(self, weights: Sequence[Tensor], rows: slice, rough: bool) -> list[Tensor]:
        if not weights:
            return []
        if self._is_short(weights[0]):
            columns = self.columns[rows]
            return [columns.T @ (columns * each[:, None]) for each in weights]
        total = [self.transform.new_zeros(self.transform.shape) for _ in weights]
        for piece, place in self._pieces(rows):
            columns, one = self.mixed(piece)
            parts = symmetric_products(columns, one, [w[place] for w in weights], rough and self.alike)
            total = [whole + part for whole, part in zip(total, parts, strict=True)]
        return total

    def _mixed_with(self, other: Basis, values: Tensor, rows: slice) -> Tensor:
        total = values.new_zeros((len(self.transform), len(other.transform)))
        for piece, place in self._pieces(rows, other):
            (left, one), (right, second) = self.mixed(piece), other.mixed(piece)
            total += mixed_products(left, values[place], right, one, second)
        return total

    def plain(self, other: Basis, rows: slice) -> Tensor:
        """`products` without weights, cached: least squares uses the same ones in every step."""
        key = self._plain_key(other, rows)
        if key not in self.known:
            ones = self.columns.new_ones(len(self.columns[rows]))
            shared = self.shares(other)
            found = self._weighted([ones], rows, False)[0] if shared else self._mixed_with(other, ones, rows)
            # Objects whose `id` is a key are kept, so that no other object gets their `id`.
            self.known[key] = (other.columns, other.triangle), found
        return self.known[key][1]

    def dense(self) -> Tensor:
        """The basis itself, `(N, P)`."""
        whole, one = self.mixed()
        if one:
            whole = torch.cat([torch.ones_like(whole[:, :1]), whole], dim=1)
        return whole @ self.transform


def placed(value: Tensor) -> Hashable:
    """A key of a tensor by its memory and layout, which also distinguishes views of the same memory."""
    if isinstance(value, SplitDesign):
        return value.key
    return value.data_ptr(), value.shape, value.stride()


def _is_even(values: Tensor) -> bool:
    if not len(values) or float(values[0]) != float(values[-1]):
        return False
    return bool((values == values[0]).all())


def triangle_of(
    columns: Tensor, one: bool, further: Tensor | None = None, products: Tensor | None = None
) -> Tensor | None:
    """R of the QR decomposition of ``[1, columns]``, without a copy of them; None if it would be inaccurate.

    It is accurate for many rows and columns that are not nearly collinear: by normal equations, or by block
    QR (Golub, Plemmons & Sameh 1988). `further` `(P,)` is the diagonal of additional rows, such as the
    curvature of priors. For very many rows R is that of a sample, if the sizes of all columns agree with the
    sample: a solver needs the columns to be orthonormal only up to sampling error. If the `products` `(P, P)`
    of all columns are known, R is computed from them.
    """
    if not is_large(columns):
        return None
    if products is None and len(columns) > 4 * SAMPLED:
        few = columns.index_select(0, sample_of(len(columns), SAMPLED))
        sampled = _well_conditioned(_gram(few, one), len(columns), further)
        if sampled is not None and _agree(sampled, columns, one, further):
            return sampled
    means = _gram(columns, one) if products is None else products / len(columns)
    triangle = _well_conditioned(means, len(columns), further)
    return _by_blocks(columns, one, further) if triangle is None else triangle


def is_large(columns: Tensor) -> bool:
    """Whether a design is read in place."""
    return columns.numel() >= MIN_LARGE_DESIGN and columns.shape[1] > 0


def sample_of(rows: int, count: int) -> Tensor:
    """A random sample of about `count` of `rows` rows, in their order, the same in every call."""
    drawn = torch.randint(rows, (count,), generator=torch.Generator().manual_seed(0))
    return torch.unique(drawn)


def _gram(columns: Tensor, one: bool) -> Tensor:
    """The mean of the products of all columns, `(P, P)`."""
    return symmetric_products(columns, one, [columns.new_ones(len(columns))])[0] / len(columns)


def _well_conditioned(means: Tensor, rows: int, further: Tensor | None) -> Tensor | None:
    """The triangular factor of `rows` rows whose products have these `means`; None for collinear columns."""
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
    return factor * sizes if values[-1] > NORMAL_EQUATIONS_SPREAD * values[0] else None


def _by_blocks(columns: Tensor, one: bool, further: Tensor | None) -> Tensor | None:
    """R by block QR: each block is decomposed below the R of the blocks before it."""
    width = columns.shape[1] + one
    triangle = columns.new_zeros((0, width)) if further is None else torch.diag(further)
    for rows in chunks(len(columns), DECOMPOSED_ROWS):
        block = columns[rows]
        block = torch.cat([torch.ones_like(block[:, :1]), block], dim=1) if one else block
        triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    sizes = triangle.norm(dim=0)
    if not bool((sizes > 0).all() & torch.isfinite(sizes).all()):
        return None
    return triangle if len(triangle) == width and spread_of(triangle) > POOR else None


def are_alike(triangle: Tensor) -> bool:
    """Whether the columns of a triangular factor are in the range of single precision, and not collinear."""
    sizes = triangle.norm(dim=0)
    held = sizes.max() < 1e12 and sizes.min() > 1e-12 and sizes.max() < 1e6 * sizes.min()
    return bool(held) and spread_of(triangle) > SINGLE_PRECISION_SPREAD


def spread_of(triangle: Tensor) -> float:
    """The inverse condition number of a triangular factor with its columns scaled to equal size."""
    values = torch.linalg.svdvals(triangle / triangle.norm(dim=0))
    return float(values[-1] / values[0])


def _agree(triangle: Tensor, columns: Tensor, one: bool, further: Tensor | None) -> bool:
    """Whether the norms of the columns agree with those of the triangular factor of a sample."""
    squares = column_squares(columns)
    found = triangle.square().sum(dim=0)[int(one) :]
    found = found if further is None else found - further[int(one) :].square()
    return bool((squares <= 2 * found).all())
