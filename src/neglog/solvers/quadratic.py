"""A quadratic plus weighted absolute values, minimised exactly on a matrix in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neglog.solvers.descent import EPSILON

Array = NDArray[np.float64]

SLOPE_TOLERANCE = 1e-12
"""Smallest excess of a slope over that of its corner, in standard errors, that is not rounding."""
MIN_RELATIVE_CURVATURE = 1e-12
"""A curvature below this share of the largest counts as 0."""


class Quadratic:
    """gᵀ(v - x) + ½ (v - x)ᵀ H (v - x) + Σ l1 |v|, as a function of v `(K,)`: feature-sign search.

    Each face, on which some v are 0 and the others keep their signs, is solved by a Cholesky factor; a v that
    would change its sign stops at 0 and leaves the active set, and the v at 0 whose slope exceeds that of its
    corner most enters. Every step descends, so no face is visited twice, and the result is exact. Where `H`
    is singular on a face, as with more columns than rows, the step goes downhill to the border of the face.

    Shapes: `hessian` `(K, K)`, positive semidefinite; `gradient`, `l1` (0 where there is no corner) and `x`
    `(K,)`.
    Source: Lee, Battle, Raina and Ng (2007), Efficient sparse coding algorithms.
    """

    def __init__(self, hessian: Array, gradient: Array, l1: Array, x: Array) -> None:
        diagonal = hessian.diagonal()
        self.unit = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))  # a standard error of v is 1 / unit
        self.hessian = hessian / self.unit / self.unit[:, None]
        self.sizes = np.abs(self.hessian)
        self.gradient, self.l1, self.x = gradient / self.unit, l1 / self.unit, x * self.unit
        self.v, self.signs = self.x.copy(), np.sign(self.x)
        self.active = (self.signs != 0) | (self.l1 == 0)
        self.barred = np.zeros_like(self.active)

    def minimise(self) -> Array:
        """The minimiser `(K,)`, with exact zeros."""
        bounded = self._descend()
        for _ in range(4 * len(self.v) + 100):
            entering = self._entering()
            if entering is None or not bounded:
                break
            before = self._value()
            self.active[entering], self.signs[entering] = True, -np.sign(self._slope()[entering])
            bounded = self._descend()
            self.barred[entering] = not self._value() < before  # it was let in by rounding
        self._descend()  # once more on the last face, for its last digits
        return self.v / self.unit

    def _value(self) -> float:
        return float(0.5 * (self.gradient + self._slope()) @ (self.v - self.x) + self.l1 @ np.abs(self.v))

    def _slope(self) -> Array:
        return self.gradient + self.hessian @ (self.v - self.x)

    def _entering(self) -> int | None:
        """The v at 0 whose slope exceeds that of its corner most, by more than rounding."""
        noise = np.abs(self.gradient) + self.sizes @ np.abs(self.v - self.x) + self.l1
        excess = np.abs(self._slope()) - self.l1 - SLOPE_TOLERANCE - 64 * EPSILON * noise
        excess[self.active | self.barred] = -np.inf
        worst = int(excess.argmax()) if len(excess) else 0
        return worst if len(excess) and excess[worst] > 0 else None

    def _descend(self) -> bool:
        """Move to the minimum of the face, or to its border; return whether there is one."""
        while True:
            face = np.flatnonzero(self.active)
            slope = self._slope()[face] + self.l1[face] * self.signs[face]
            direction, flat = _direction(self.hessian[np.ix_(face, face)], slope)
            v, inward = self.v[face], self.signs[face] * direction < 0
            inward &= self.l1[face] > 0
            reach = np.full(len(face), np.inf)
            reach[inward] = -v[inward] / direction[inward]
            first = int(reach.argmin()) if len(face) else 0
            blocked = len(face) > 0 and reach[first] < (np.inf if flat else 1.0)
            self.v[face] = v + (reach[first] if blocked else 1.0) * direction
            if not blocked:
                return not flat  # a flat face without a border has no minimum
            leaving = face[first]
            self.v[leaving], self.signs[leaving], self.active[leaving] = 0.0, 0.0, False


def _direction(hessian: Array, slope: Array) -> tuple[Array, bool]:
    """The step to the minimum of a face, or where there is none, a step downhill where it is flat."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(hessian))
    if not bool(failed) and (not len(slope) or float(factor.diagonal().min()) > MIN_RELATIVE_CURVATURE**0.5):
        return -torch.cholesky_solve(torch.from_numpy(slope)[:, None], factor)[:, 0].numpy(), False
    values, vectors = np.linalg.eigh(hessian)
    along, curved = vectors.T @ slope, values > MIN_RELATIVE_CURVATURE * values[-1]
    downhill = np.where(curved, 0.0, along)
    if np.abs(downhill).max() > 1e-9 * (1 + np.abs(slope).max()):
        return -vectors @ downhill, True
    step: Any = np.where(curved, along / np.where(curved, values, 1.0), 0.0)
    return -vectors @ step, False
