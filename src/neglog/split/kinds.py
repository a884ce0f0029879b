"""Kinds of columns of a design, and their products, by NumPy and SciPy.

Categories are codes that are never expanded. Their sums are `numpy.bincount`, which takes a view of some
rows without a copy. The categorical matrices of tabmat take as long for all rows, but copy the codes for each
block of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Rows = slice | np.ndarray
MAX_CROSSED = 10_000_000
"""The largest table of two categories whose cells are counted at once; larger ones are sparse."""
FEW_COLUMNS = 8
"""Up to this many dense columns are summed over categories one by one."""


class Kind(Protocol):
    """Some columns `(N, P)` of a design."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def key(self) -> Hashable:
        """A key by memory, the same for views of the same rows."""

    @property
    def nbytes(self) -> int:
        """The memory of the columns, in bytes."""

    def take(self, rows: Rows) -> Kind:
        """The columns in some rows; those of a slice share their memory."""

    def select(self, columns: np.ndarray) -> Kind:
        """Some of the columns."""

    def at(self, weights: np.ndarray) -> np.ndarray:
        """The columns times `weights` `(P, M)`, `(N, M)`."""

    def sums(self, values: np.ndarray) -> np.ndarray:
        """`values` `(M, N)` times the columns, `(M, P)`."""

    def squares(self, weights: np.ndarray) -> np.ndarray:
        """The products `(P, P)` of the columns with themselves, with `weights` `(N,)`."""

    def column_squares(self) -> np.ndarray:
        """The sum of the squares of each column, `(P,)`."""

    def sparse(self) -> csr_array:
        """The columns as a sparse matrix of SciPy."""

    def dense(self) -> np.ndarray:
        """All numbers, `(N, P)`."""

    def column_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest number of each column, `(P,)`; NaN where one is."""


def placed(array: np.ndarray) -> Hashable:
    """A key of an array by its memory and layout."""
    return array.__array_interface__["data"][0], array.shape, array.strides


@dataclass(frozen=True, eq=False)
class Dense:
    """Columns whose numbers are all held, `(N, P)` in float64."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def key(self) -> Hashable:
        return placed(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def take(self, rows: Rows) -> Dense:
        return Dense(self.values[rows])

    def select(self, columns: np.ndarray) -> Dense:
        return Dense(np.ascontiguousarray(self.values[:, columns]))

    def at(self, weights: np.ndarray) -> np.ndarray:
        return self.values @ weights

    def sums(self, values: np.ndarray) -> np.ndarray:
        return values @ self.values

    def squares(self, weights: np.ndarray) -> np.ndarray:
        return self.values.T @ (self.values * weights[:, None])

    def column_squares(self) -> np.ndarray:
        return np.einsum("ij,ij->j", self.values, self.values)

    def sparse(self) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array(self.values)

    def dense(self) -> np.ndarray:
        return self.values

    def column_ends(self) -> tuple[np.ndarray, np.ndarray]:
        return self.values.min(axis=0), self.values.max(axis=0)


@dataclass(frozen=True, eq=False)
class Levels:
    """Indicator columns of the codes `(N,)` of categories: code j marks column j - 1, code 0 marks none.

    With `scale` `(N,)` an indicator is this number instead of 1: a category times a number.
    """

    codes: np.ndarray
    width: int
    scale: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.width

    @property
    def key(self) -> Hashable:
        return placed(self.codes), self.width, None if self.scale is None else placed(self.scale)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def take(self, rows: Rows) -> Levels:
        return Levels(self.codes[rows], self.width, None if self.scale is None else self.scale[rows])

    def select(self, columns: np.ndarray) -> Levels | Sparse:
        if len(np.unique(columns)) < len(columns):
            return Sparse(self.sparse()[:, columns])
        renamed = np.zeros(self.width + 1, self.codes.dtype)
        renamed[columns + 1] = np.arange(1, len(columns) + 1)
        return Levels(renamed[self.codes], len(columns), self.scale)

    def at(self, weights: np.ndarray) -> np.ndarray:
        known = np.concatenate([np.zeros_like(weights[:1]), weights])
        found = known.take(self.codes, axis=0)
        return found if self.scale is None else found * self.scale[:, None]

    def sums(self, values: np.ndarray) -> np.ndarray:
        return np.stack([self._counted(each) for each in values])

    def _counted(self, weights: np.ndarray) -> np.ndarray:
        weights = weights if self.scale is None else weights * self.scale
        return np.bincount(self.codes, weights, self.width + 1)[1:]

    def squares(self, weights: np.ndarray) -> np.ndarray:
        return np.diag(self._counted(weights if self.scale is None else weights * self.scale))

    def column_squares(self) -> np.ndarray:
        return self._counted(np.ones(len(self.codes)) if self.scale is None else self.scale)

    def crossed(self, weights: np.ndarray, other: Levels) -> np.ndarray:
        """The products `(P, Q)` with another category, with `weights` `(N,)`: a weighted table of counts."""
        height, width = self.width + 1, other.width + 1
        if height * width > MAX_CROSSED:
            product = self.sparse().multiply(weights[:, None]).T @ other.sparse()
            return np.asarray(product.todense())
        for scale in (self.scale, other.scale):
            weights = weights if scale is None else weights * scale
        cells = self.codes * np.int64(width) + other.codes
        return np.bincount(cells, weights, height * width).reshape(height, width)[1:, 1:]

    def sparse(self) -> csr_array:
        from scipy.sparse import csr_array

        known = self.codes > 0
        values = np.ones(len(self.codes)) if self.scale is None else self.scale
        ends = np.concatenate([[0], np.cumsum(known)])
        return csr_array((values[known], self.codes[known].astype(np.int64) - 1, ends), self.shape)

    def dense(self) -> np.ndarray:
        found = np.zeros((len(self.codes), self.width + 1))
        found[np.arange(len(self.codes)), self.codes] = 1.0 if self.scale is None else self.scale
        return found[:, 1:]

    def column_ends(self) -> tuple[np.ndarray, np.ndarray]:
        counts = np.bincount(self.codes, minlength=self.width + 1)[1:]
        if self.scale is None:
            return (counts == len(self.codes)).astype("float64"), (counts > 0).astype("float64")
        low, high = np.zeros(self.width + 1), np.zeros(self.width + 1)
        whole = np.flatnonzero(counts == len(self.codes)) + 1
        low[whole], high[whole] = np.inf, -np.inf
        np.minimum.at(low, self.codes, self.scale)
        np.maximum.at(high, self.codes, self.scale)
        return low[1:], high[1:]


@dataclass(frozen=True, eq=False)
class Sparse:
    """Columns most of whose numbers are 0, by rows."""

    values: csr_array

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    @property
    def key(self) -> Hashable:
        return *map(placed, (self.values.data, self.values.indices, self.values.indptr)), self.shape

    @property
    def nbytes(self) -> int:
        return self.values.data.nbytes + self.values.indices.nbytes + self.values.indptr.nbytes

    def take(self, rows: Rows) -> Sparse:
        return Sparse(self.values[rows])

    def select(self, columns: np.ndarray) -> Sparse:
        return Sparse(self.values[:, columns])

    def at(self, weights: np.ndarray) -> np.ndarray:
        return self.values @ weights

    def sums(self, values: np.ndarray) -> np.ndarray:
        return (self.values.T @ values.T).T

    def squares(self, weights: np.ndarray) -> np.ndarray:
        return np.asarray((self.values.T @ self.values.multiply(weights[:, None]).tocsr()).todense())

    def column_squares(self) -> np.ndarray:
        return np.asarray(self.values.multiply(self.values).sum(axis=0)).reshape(-1)

    def sparse(self) -> csr_array:
        return self.values

    def dense(self) -> np.ndarray:
        return self.values.toarray()

    def column_ends(self) -> tuple[np.ndarray, np.ndarray]:
        columns = self.values.tocsc()
        low, high = (extreme(axis=0).toarray().reshape(-1) for extreme in (columns.min, columns.max))
        return low, high


def cross(left: Kind, weights: np.ndarray, right: Kind) -> np.ndarray:
    """The products `(P, Q)` of two kinds of columns, with `weights` `(N,)`."""
    if isinstance(left, Levels) and isinstance(right, Levels):
        return left.crossed(weights, right)
    if isinstance(left, Dense):
        if isinstance(right, Dense):
            return left.values.T @ (right.values * weights[:, None])
        return cross(right, weights, left).T
    if isinstance(right, Dense):
        if isinstance(left, Levels) and right.shape[1] <= FEW_COLUMNS:
            return left.sums(right.values.T * weights).T
        return left.sparse().T @ (right.values * weights[:, None])
    weighted = left.sparse().multiply(weights[:, None]).tocsr()
    return np.asarray((weighted.T @ right.sparse()).todense())
