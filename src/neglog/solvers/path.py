"""Regularisation paths: the minima of a quadratic plus weighted absolute values for a grid of strengths."""

from __future__ import annotations

import numpy as np

from neglog.solvers.descent import EPSILON
from neglog.solvers.quadratic import SLOPE_TOLERANCE, Array, Quadratic

MAX_KINK_CHANGES = 8
"""Number of coefficients that enter or leave at a kink before the search restarts."""
COLLINEAR_SHARE = 1e-10
"""A column is collinear with others if its residual on them is below this share of it."""


def quadratic_path(hessian: Array, gradient: Array, l1: Array, strengths: Array) -> Array:
    """The minimisers `(L, K)` of gᵀv + ½ vᵀHv + s Σ l1 |v| at strengths s `(L,)`, with exact zeros.

    As long as the same v are nonzero, with the same signs, the minimiser is linear in s: one linear system
    gives it for all strengths up to the next kink, where a v enters or leaves. Each is verified by the
    subgradient condition.
    Source: Osborne, Presnell and Turlach (2000), A new approach to variable selection; Efron, Hastie,
    Johnstone and Tibshirani (2004), Least angle regression.
    """
    found, at = np.empty((len(strengths), len(gradient))), 0
    v = np.zeros_like(gradient)
    while at < len(strengths):
        part = _along(hessian, gradient, l1, strengths[at:], np.sign(v))
        if part is None:
            weights = strengths[at] * l1
            v = Quadratic(hessian, gradient + hessian @ v, weights, v).minimise()
            found[at] = v
            part = _along(hessian, gradient, l1, strengths[at:], np.sign(v), 1)
        if part is not None:
            found[at : at + len(part)] = part
            v = part[-1]
        at += 1 if part is None else len(part)
    return found


def _along(
    hessian: Array, gradient: Array, l1: Array, strengths: Array, signs: Array, tries: int = MAX_KINK_CHANGES
) -> Array | None:
    """The minimisers `(M, K)` at the first strengths, on the face of these signs or an adjacent one."""
    for _ in range(tries):
        face = np.flatnonzero((signs != 0) | (l1 == 0))
        inner = hessian[np.ix_(face, face)]
        pulls = np.stack([-gradient[face], -(l1 * signs)[face]], 1)
        try:
            factor = np.linalg.cholesky(inner)
            if (factor.diagonal() ** 2 < COLLINEAR_SHARE * inner.diagonal()).any():
                return None
            still, way = np.linalg.solve(inner, pulls).T
        except np.linalg.LinAlgError:
            return None
        v = np.zeros((len(strengths), len(gradient)))
        v[:, face] = still + strengths[:, None] * way
        slopes, corners = gradient + v @ hessian, strengths[:, None] * l1
        noise = 64 * EPSILON * (np.abs(gradient) + np.abs(v) @ np.abs(hessian) + corners)
        beyond = np.abs(slopes) - corners - noise - SLOPE_TOLERANCE * np.sqrt(hessian.diagonal())
        beyond[:, face] = -np.inf
        turned = (np.sign(v) != signs) & (l1 > 0)
        off_face = np.ones(len(gradient), dtype=bool)
        off_face[face] = False
        turned[:, off_face] = False
        sound = ~turned.any(1) & (beyond.max(1, initial=-np.inf) <= 0) & np.isfinite(v).all(1)
        if sound[0]:
            return v[: int(sound.argmin())] if not sound.all() else v
        signs = np.where(turned[0], 0.0, signs)
        entering = int(beyond[0].argmax())
        if not turned[0].any():
            signs[entering] = -np.sign(slopes[0, entering])
    return None
