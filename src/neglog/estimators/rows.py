"""The rows of a fit as arrays, and their moments by weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RANK_TOLERANCE = 1e-10
"""Smallest singular value of a standardised design, relative to the largest, that counts towards its rank."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A design `(N, P)`, a response `(N,)` or `(N, D)`, weights `(N,)` or None, and row-wise keywords.

    The design is an array, or a sparse matrix of SciPy, which has no remedies.
    """

    x: Array
    y: Array
    weights: Array | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """The row-wise arguments of a fit, beside the design and the response."""
        return {"weights": self.weights, **self.keywords}

    def counted(self) -> Rows:
        """The rows whose weight is not 0: the others are absent."""
        if self.weights is None or bool((self.weights > 0).all()):
            return self
        kept = self.weights > 0
        keywords = {name: values[kept] for name, values in self.keywords.items()}
        return Rows(self.x[kept], self.y[kept], self.weights[kept], keywords)

    def dense(self) -> Rows:
        """The same rows, with an array in the place of a sparse design."""
        return replace(self, x=self.x.toarray()) if hasattr(self.x, "toarray") else self

    def with_design(self, x: Array) -> Rows:
        """The same rows with another design."""
        return replace(self, x=x)

    def moments(self, values: Array) -> tuple[Array, Array]:
        """The mean and the standard deviation of each column, by the weights."""
        weights = np.ones(len(values)) if self.weights is None else self.weights
        shares = weights / weights.sum()
        mean = shares @ values
        return mean, np.sqrt(shares @ (values - mean) ** 2)

    def spread(self) -> Array:
        """The standard deviation of y; its magnitude where it is constant, and 1 where it is 0."""
        mean, deviation = self.moments(self.y)
        size = np.abs(mean)
        constant = deviation <= RANK_TOLERANCE * size
        return np.where(constant, np.where(size > 0, size, 1.0), deviation)


@dataclass(frozen=True, eq=False)
class Basis:
    """A map from designs `(N, P)` to designs `(N, R)` of full rank, and of their coefficients back.

    A design is multiplied by `matrix` `(P, R)`, so that coefficients γ of the product are those
    ``matrix @ γ`` of the design. Where the columns of `matrix` are orthonormal, these are the coefficients
    of least norm, in the units of the columns if these are standardised.
    """

    matrix: Array

    @classmethod
    def of(cls, rows: Rows, standardised: bool = False) -> Basis:
        """The directions in which the rows differ, of the columns or of the standardised columns."""
        mean, deviation = rows.moments(rows.x)
        constant = deviation <= RANK_TOLERANCE * np.maximum(np.abs(mean), np.finfo(float).tiny)
        unit = np.where(constant, 1.0, deviation)
        centred = np.where(constant, 0.0, (rows.x - mean) / unit)
        scaled = centred if standardised else centred * unit
        _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
        rank = int((singular > RANK_TOLERANCE * max(singular.max(initial=0.0), np.finfo(float).tiny)).sum())
        matrix = directions[:rank].T
        return cls(matrix / unit[:, None] if standardised else matrix)

    @property
    def is_whole(self) -> bool:
        """Whether the design has full rank itself."""
        return self.matrix.shape[0] == self.matrix.shape[1]

    def coefficients(self, weight: Array) -> Array:
        """The coefficients `(..., P)` of the design from those `(..., R)` of its product."""
        return weight @ self.matrix.T
