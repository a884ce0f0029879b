"""The Frisch–Newton interior-point method for quantile regression, with predictor and corrector steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neglog.solvers.lines import Array, Lines

STEP_SHARE = 0.9995
"""The step length as a share of the distance to the boundary."""
RIDGE = 1e-14
"""Ridge of the normal equations, as a share of their diagonal."""


@dataclass
class Interior:
    """An interior point: coefficients `z` `(P,)`, duals `a` `(N,)`, `s = 1 - a`, residuals `v - u`, all > 0.

    The dual constraints are a in [0, 1] and x' W a = (1 - tau) x' w: a is 1 above the line, 0 below, and in
    between only on rows that are fitted exactly. The central path is a u = s v = mu, with mu decreasing to 0.
    Each step reads the design three times and stores six numbers per row.

    Source: Portnoy & Koenker (1997), The Gaussian hare and the Laplacian tortoise; Mehrotra (1992) for the
    corrector.
    """

    lines: Lines
    z: Array
    a: Array
    s: Array
    u: Array
    v: Array
    gap: float
    missing: Array
    """The residual of the dual constraints, before `transform`."""

    @property
    def share(self) -> float:
        """The duality gap relative to the loss of single rows."""
        losses = self.lines.losses(self.v - self.u)
        return self.gap / max(float(losses[: len(losses) - self.lines.globs].sum()), 1e-300)

    def uncertain(self) -> Array:
        """The uncertainty of each row's side of the line, `(N,)`."""
        with np.errstate(over="ignore"):
            return 1 / (self.v / self.s + self.u / self.a)

    def advance(self) -> bool:
        """One step, in place; False where rounding errors prevent an improvement."""
        with np.errstate(all="ignore"):
            pull, solve = self._equations()
            if solve is None:
                return False
            predicted = solve(pull - self.missing)
            ahead, corrections = self._predict(predicted)
            mu = self.gap * (ahead / self.gap) ** 3 / (2 * self.lines.weights.sum())
            corrected = solve(corrections[1] + mu * corrections[0] - self.missing)
            return self._move(predicted, corrected, mu)

    def _equations(self) -> tuple[Array, Callable[[Array], Array] | None]:
        """The gradient, and a solver of the normal equations; None if they are singular."""
        lines, size = self.lines, self.lines.transform.shape[0]
        gram, pull = np.zeros((size, size)), np.zeros(size)
        for rows in lines.chunks():
            a, s, u, v = self.a[rows], self.s[rows], self.u[rows], self.v[rows]
            weights = lines.weights[rows] / (v / s + u / a)
            gram += lines.gram(weights, rows)
            pull += lines.gather(weights * (v - u), rows)
        matrix = lines.transform.T @ gram @ lines.transform
        scale = 1 / np.sqrt(matrix.diagonal())
        if not np.isfinite(scale).all():
            return pull, None
        matrix = scale[:, None] * matrix * scale
        try:
            factor = np.linalg.inv(np.linalg.cholesky(matrix + RIDGE * np.eye(len(scale)))) * scale
        except np.linalg.LinAlgError:
            return pull, None
        return pull, lambda right: factor.T @ (factor @ (lines.transform.T @ right))

    def _predict(self, dz: Array) -> tuple[float, Array]:
        """The gap that the predictor would leave, and the right sides of the corrector."""
        lines, sides = self.lines, np.zeros((2, self.lines.transform.shape[0]))
        primal = dual = 0.0
        cross = np.zeros(3)
        for rows in lines.chunks():
            w, a, s, u, v = lines.weights[rows], self.a[rows], self.s[rows], self.u[rows], self.v[rows]
            q = 1 / (v / s + u / a)
            da = q * (v - u - lines.at(dz, rows))
            du, dv = -u * (1 + da / a), -v * (1 - da / s)
            primal = max(primal, (-da / a).max(), (da / s).max())
            dual = max(dual, (-du / u).max(), (-dv / v).max())
            duv = du - dv
            cross += w @ (da * (u - v)), w @ (a * du + s * dv), w @ (da * duv)
            # a u and s v are to become mu less what the predictor's steps make of them.
            right = np.stack([1 / a - 1 / s, v - da * dv / s - u - da * du / a])
            sides += lines.gather(w * q * right, rows)
        p, d = min(1.0, STEP_SHARE / max(primal, STEP_SHARE)), min(1.0, STEP_SHARE / max(dual, STEP_SHARE))
        return self.gap + p * cross[0] + d * cross[1] + p * d * cross[2], sides

    def _move(self, predicted: Array, corrected: Array, mu: float) -> bool:
        """Take the corrected step, as long as duals and residuals keep their signs."""
        lines, both = self.lines, np.stack([predicted, corrected], 1)
        da, du, dv = np.empty((3, lines.rows))
        primal = dual = 0.0
        for rows in lines.chunks():
            a, s, u, v = self.a[rows], self.s[rows], self.u[rows], self.v[rows]
            q = 1 / (v / s + u / a)
            eta = lines.at(both, rows)
            first = q * (v - u - eta[:, 0])
            above = mu / s - v + first * -v * (1 - first / s) / s
            below = mu / a - u + first * u * (1 + first / a) / a
            step = -q * (eta[:, 1] + above - below)
            da[rows], du[rows], dv[rows] = step, below - u * step / a, above + v * step / s
            primal = max(primal, (-step / a).max(), (step / s).max())
            dual = max(dual, (-du[rows] / u).max(), (-dv[rows] / v).max())
        p, d = min(1.0, STEP_SHARE / max(primal, STEP_SHARE)), min(1.0, STEP_SHARE / max(dual, STEP_SHARE))
        if not (np.isfinite(p) and np.isfinite(d) and np.isfinite(corrected).all()):
            return False
        gap = 0.0
        for rows in lines.chunks():
            self.a[rows] += p * da[rows]
            self.s[rows] -= p * da[rows]
            self.u[rows] += d * du[rows]
            self.v[rows] += d * dv[rows]
            products = self.a[rows] * self.u[rows] + self.s[rows] * self.v[rows]
            gap += float(lines.weights[rows] @ products)
        self.missing *= 1 - p
        self.z, self.gap = self.z + d * corrected, gap
        return 0 < gap < np.inf


def least_squares(lines: Lines) -> Array:
    """The weighted least-squares line `(P,)`."""
    size = lines.transform.shape[0]
    gram, right = np.zeros((size, size)), np.zeros(size)
    for rows in lines.chunks():
        gram += lines.gram(lines.weights[rows], rows)
        right += lines.gather(lines.weights[rows] * lines.y[rows], rows)
    matrix = lines.transform.T @ gram @ lines.transform
    matrix += RIDGE * np.trace(matrix) * np.eye(len(matrix))
    return np.linalg.solve(matrix, lines.transform.T @ right)


def begin(lines: Lines, z: Array) -> Interior:
    """The point at a line `(P,)` where all products a u = s v equal half the mean residual."""
    residuals = lines.y - lines.at(z)
    single = slice(0, lines.rows - lines.globs)
    mu = 0.5 * float(lines.weights[single] @ np.abs(residuals[single])) / float(lines.weights[single].sum())
    mu = mu if mu > 0 else 1.0
    # The larger of u and v is (2 mu + |r| + sqrt(r² + 4 mu²)) / 2, by v - u = r and mu / u + mu / v = 1.
    larger = mu + 0.5 * (np.abs(residuals) + np.hypot(residuals, 2 * mu))
    less = mu / larger
    smaller, above = mu / (1 - less), residuals > 0
    a, s = np.where(above, 1 - less, less), np.where(above, less, 1 - less)
    u, v = np.where(above, smaller, larger), np.where(above, larger, smaller)
    missing = np.zeros(lines.transform.shape[0])
    for rows in lines.chunks():
        missing += lines.gather(lines.weights[rows] * (1 - lines.tau - a[rows]), rows)
    return Interior(lines, z, a, s, u, v, 2 * mu * float(lines.weights.sum()), missing)
