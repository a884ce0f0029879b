"""Overflow: steps that followed a direction until derivatives or parameters left the range of floats."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from neglog.objective.coordinates import Coordinates
from neglog.solvers import Solution
from neglog.solvers.solution import is_finite

LARGE_PREDICTOR = 100.0
"""A predictor above this is examined: beyond seven times as much its exponential overflows."""
SHARES = (0.9, 0.75, 0.5, 0.35, 0.25, 0.15)
"""Shares of the coefficients of such a predictor that are tried, until derivatives are finite."""
MAX_LOSS = 0.1
"""The largest increase of the loss on the way back, in nats: along a recession it is level."""


def before_overflow(coordinates: Coordinates, solution: Solution) -> Solution:
    """The solution; without an optimum, the point on its way out at which derivatives are still finite.

    There it can be shown that the loss never increases in the direction of the large predictors.
    """
    if solution.converged or not (coordinates.is_linear and math.isfinite(solution.value)):
        return solution
    large = _large_coefficients(coordinates, solution.z)
    if large is None or _derivatives(coordinates, solution.z) is not None:
        return solution
    for share in SHARES:
        z = torch.where(large, share * solution.z, solution.z)
        found = _derivatives(coordinates, z)
        if found is not None:
            value, hessian = found
            is_level = value <= solution.value + MAX_LOSS
            return replace(solution, z=z, value=value, hessian=hessian) if is_level else solution
    return solution


def _large_coefficients(coordinates: Coordinates, z: Tensor) -> Tensor | None:
    """The positions `(K,)` of the coefficients of large predictors; None where there are none."""
    large = torch.zeros_like(z, dtype=torch.bool)
    for block, eta in coordinates.etas(z).items():
        large[block.places] = bool(eta.abs().amax() > LARGE_PREDICTOR)
    return large if bool(large.any()) else None


def _derivatives(coordinates: Coordinates, z: Tensor) -> tuple[float, Tensor] | None:
    """The loss and its Hessian; None where a derivative is not finite or a parameter left its range."""
    value, gradient, hessian = coordinates.derivatives(z)
    if not (math.isfinite(value) and is_finite(gradient) and is_finite(hessian)):
        return None
    try:
        coordinates.objective.at(coordinates.theta(z))
    except ValueError:  # an exponential is 0 or infinite
        return None
    return value, hessian
