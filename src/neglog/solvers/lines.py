"""The linear programme of quantile regression: a sum of pinball losses, without a copy of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neglog.solvers.solution import Kinked

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
CACHED_NUMBERS = 65_536
"""The number of entries of a block of rows, which fits in the cache."""
ZERO_RESIDUAL = 1e-12
"""A residual below this share of response and prediction is zero up to rounding."""
UNIT_ROWS = 256
"""The number of evenly spaced rows from which the unit of a design is estimated."""
SUM_ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""The rounding of a sum of some terms, as a share of their sizes."""


@dataclass(frozen=True, eq=False)
class Lines:
    """The loss `sum_i weights_i pinball(y_i - x_i z)`, pinball(r) = r (tau - 1[r < 0]), of a line z `(P,)`.

    The rows are ``x = [1, columns] @ transform``, with the column of ones if `one`; x should be of order one.
    Shapes: `columns` `(N, C)`, `transform` `(C + one, P)`, `y` and `weights` `(N,)`.
    """

    columns: Array
    one: bool
    transform: Array
    y: Array
    weights: Array
    tau: float
    globs: int = 0
    """The number of rows at the end that are means of many rows."""

    @property
    def size(self) -> int:
        """The number of coefficients."""
        return self.transform.shape[1]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.y)

    @cached_property
    def unit(self) -> float:
        """The root mean square of the entries of x in some rows: the unit of the dual constraints."""
        few = self.design(slice(0, self.rows, max(1, self.rows // UNIT_ROWS)))
        return float(np.sqrt(np.square(few).mean())) or 1.0

    def chunks(self, stop: int | None = None) -> Iterator[slice]:
        """Slices of the rows, up to `stop`, that fit in the cache."""
        step = max(256, CACHED_NUMBERS // max(1, self.columns.shape[1]))
        stop = self.rows if stop is None else stop
        return (slice(start, min(start + step, stop)) for start in range(0, stop, step))

    def at(self, z: Array, rows: Any = slice(None)) -> Array:
        """The lines `(N,)`, or `(N, D)` of the columns of a matrix, at some rows."""
        inner = self.transform @ z
        columns = self.columns[rows]
        return columns @ inner[1:] + inner[0] if self.one else columns @ inner

    def gather(self, values: Array, rows: Any = slice(None)) -> Array:
        """The transpose of `at`, before `transform`: `(..., N)` to `(..., C + one)`."""
        sums = values @ self.columns[rows]
        return np.concatenate([values.sum(-1)[..., None], sums], -1) if self.one else sums

    def gram(self, weights: Array, rows: slice) -> Array:
        """`x' diag(weights) x` of some rows before `transform`, `(C + one, C + one)`."""
        columns = np.asarray(self.columns[rows])
        weighted = weights[:, None] * columns
        inner = columns.T @ weighted
        if not self.one:
            return inner
        sums = weighted.sum(0)
        return np.block([[weights.sum(), sums[None]], [sums[:, None], inner]])

    def design(self, rows: Any) -> Array:
        """The rows x themselves, `(len(rows), P)`."""
        columns = self.columns[rows]
        return columns @ self.transform[1:] + self.transform[0] if self.one else columns @ self.transform

    def take(self, rows: Index) -> Lines:
        """The same loss of some rows, which are copied."""
        return self.of(np.asarray(self.columns[rows]), self.y[rows], self.weights[rows])

    def of(self, columns: Array, y: Array, weights: Array, globs: int = 0) -> Lines:
        """The same loss of other rows."""
        return replace(self, columns=columns, y=y, weights=weights, globs=globs)

    def dense(self) -> Lines:
        """The same, with the rows x themselves for columns."""
        return replace(self, columns=self.design(slice(None)), one=False, transform=np.eye(self.size))

    def losses(self, residuals: Array, rows: Any = slice(None)) -> Array:
        """The loss of each of some rows at their residuals."""
        return self.weights[rows] * residuals * (self.tau - (residuals < 0))

    def loss(self, residuals: Array) -> float:
        """The loss at these residuals `(N,)`."""
        return float(self.losses(residuals).sum())

    def zeros(self, z: Array, residuals: Array) -> Index:
        """The rows with residuals of zero, up to the rounding of each."""
        sizes, count = np.abs(residuals), 8 * self.size + 8
        while True:
            least = np.argpartition(sizes, count)[:count] if count < self.rows else np.arange(self.rows)
            close = sizes <= 1e3 * ZERO_RESIDUAL * np.abs(self.y)
            close[least] = True  # NumPy's functions of sets would import numpy.ma first, which takes 30 ms
            near = np.flatnonzero(close)
            zero = sizes[near] <= self.rounding(z, near)
            if zero.sum() < len(near) // 2 or len(least) == self.rows:
                return near[zero]
            count *= 8

    def rounding(self, z: Array, rows: Any) -> Array:
        """The rounding error of the residuals of some rows.

        Most of it is that of the terms of each row; the coefficients themselves are sums that may cancel.
        """
        terms = ZERO_RESIDUAL * np.abs(self.transform @ z) + SUM_ROUNDING * (
            np.abs(self.transform) @ np.abs(z)
        )
        columns = np.abs(np.asarray(self.columns[rows]))
        sums = columns @ terms[1:] + terms[0] if self.one else columns @ terms
        return ZERO_RESIDUAL * np.abs(self.y[rows]) + sums


class Piecewise(Protocol):
    """A loss that is a sum of pinball losses of a line, but for a scale that has a closed form."""

    lines: Lines
    kinked: Kinked
    """The same loss as `Continuation` sees it."""

    def value(self, z: Tensor, loss: float) -> float:
        """The function at `z`, whose line has this loss."""
        ...

    def check(self, z: Tensor) -> None:
        """Raise if the function falls without end from `z`."""
        ...

    def line(self, z: Tensor) -> Tensor:
        """The part `(P,)` of `z` that is the line."""
        ...

    def whole(self, start: Tensor, line: Tensor, loss: float) -> Tensor:
        """`start` with this line, and the scale that is best for its loss."""
        ...
