"""A matrix of columns of several kinds, side by side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from neglog.split.kinds import Kind, Rows, cross


@dataclass(frozen=True, eq=False)
class SplitMatrix:
    """Kinds of columns, and the places of each in the matrix `(N, P)`.

    Attributes:
        parts: the kinds, of N rows each.
        places: the positions of the columns of each, which together are 0 to P - 1.
        rows: N.
    """

    parts: tuple[Kind, ...]
    places: tuple[np.ndarray, ...]
    rows: int

    @classmethod
    def side_by_side(cls, parts: Sequence[Kind]) -> SplitMatrix:
        """Kinds in the order of their columns."""
        ends = np.cumsum([0, *(part.shape[1] for part in parts)])
        places = tuple(np.arange(start, stop) for start, stop in pairwise(ends))
        return cls(tuple(parts), places, parts[0].shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, sum(map(len, self.places))

    @property
    def key(self) -> Hashable:
        """A key by memory, the same for views of the same rows."""
        places = tuple(place.tobytes() for place in self.places)
        return tuple(part.key for part in self.parts), places, self.rows

    @property
    def nbytes(self) -> int:
        """The memory of the columns, in bytes."""
        return sum(part.nbytes for part in self.parts)

    __array_ufunc__ = None  # NumPy leaves `array @ matrix` to the matrix

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: Rows) -> SplitMatrix:
        return self.take(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)

    def __matmul__(self, weights: np.ndarray) -> np.ndarray:
        return self.at(weights[:, None])[:, 0] if weights.ndim == 1 else self.at(weights)

    def __rmatmul__(self, values: np.ndarray) -> np.ndarray:
        return self.sums(values[None])[0] if values.ndim == 1 else self.sums(values)

    def take(self, rows: Rows) -> SplitMatrix:
        """Some rows, by a slice, by their numbers or by a mask."""
        if not isinstance(rows, slice) and rows.dtype == bool:
            rows = np.flatnonzero(rows)
        count = len(range(*rows.indices(self.rows))) if isinstance(rows, slice) else len(rows)
        return SplitMatrix(tuple(part.take(rows) for part in self.parts), self.places, count)

    def select(self, columns: np.ndarray) -> SplitMatrix:
        """Some columns, in this order."""
        parts, places = [], []
        for part, place in zip(self.parts, self.places, strict=True):
            where = np.full(self.shape[1], -1)
            where[place] = np.arange(len(place))
            found = where[columns]
            if (found >= 0).any():
                parts.append(part.select(found[found >= 0]))
                places.append(np.flatnonzero(found >= 0))
        return SplitMatrix(tuple(parts), tuple(places), self.rows)

    def at(self, weights: np.ndarray) -> np.ndarray:
        """The columns times `weights` `(P, M)`, `(N, M)`."""
        found = np.zeros((self.rows, weights.shape[1]))
        for part, place in zip(self.parts, self.places, strict=True):
            found += part.at(weights[place])
        return found

    def sums(self, values: np.ndarray) -> np.ndarray:
        """`values` `(M, N)` times the columns, `(M, P)`."""
        found = np.empty((len(values), self.shape[1]))
        for part, place in zip(self.parts, self.places, strict=True):
            found[:, place] = part.sums(values)
        return found

    def squares(self, weights: np.ndarray) -> np.ndarray:
        """The products `(P, P)` of the columns with themselves, with `weights` `(N,)`."""
        width = self.shape[1]
        found = np.empty((width, width))
        for k, (part, place) in enumerate(zip(self.parts, self.places, strict=True)):
            found[np.ix_(place, place)] = part.squares(weights)
            for other, beside in zip(self.parts[:k], self.places[:k], strict=True):
                product = cross(part, weights, other)
                found[np.ix_(place, beside)] = product
                found[np.ix_(beside, place)] = product.T
        return found

    def cross(self, weights: np.ndarray, other: SplitMatrix) -> np.ndarray:
        """The products `(P, Q)` with another matrix of the same rows, with `weights` `(N,)`."""
        found = np.empty((self.shape[1], other.shape[1]))
        for part, place in zip(self.parts, self.places, strict=True):
            for second, beside in zip(other.parts, other.places, strict=True):
                found[np.ix_(place, beside)] = cross(part, weights, second)
        return found

    def column_squares(self) -> np.ndarray:
        """The sum of the squares of each column, `(P,)`."""
        found = np.empty(self.shape[1])
        for part, place in zip(self.parts, self.places, strict=True):
            found[place] = part.column_squares()
        return found

    def column_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest number of each column, `(P,)`."""
        low, high = np.empty(self.shape[1]), np.empty(self.shape[1])
        for part, place in zip(self.parts, self.places, strict=True):
            low[place], high[place] = part.column_ends()
        return low, high

    def dense(self) -> np.ndarray:
        """All numbers, `(N, P)`."""
        found = np.empty(self.shape)
        for part, place in zip(self.parts, self.places, strict=True):
            found[:, place] = part.dense()
        return found

    def ends(self) -> tuple[float, float]:
        """The least and the largest number; NaN where one is."""
        if not self.rows or not self.parts:
            return 0.0, 0.0
        low, high = self.column_ends()
        return float(low.min()), float(high.max())
