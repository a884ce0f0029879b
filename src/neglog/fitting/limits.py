"""Limits: optima of truncated and censored responses of which the bounds leave nothing to estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions import Censored, Truncated
from neglog.kinks import corner
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.solvers import Solution

LEVEL = 1e-2
"""The largest log-density, relative to the uniform one, of a truncated response whose spread is infinite."""
GAIN = 1e-6
"""A gain over the uniform density, in nats, that shows an optimum of finite spread."""
TAIL = 0.5
"""The share of the rows whose quantile may lie beyond their bound before the tail decides the fit."""


def in_bounds(
    coordinates: Coordinates, solution: Solution, existing: Callable[[Coordinates, Solution], Solution]
) -> Solution:
    """The solution, if it is an `existing` one; its status names what bounds leave undetermined."""
    if is_uniform(coordinates, solution.z, solution.value):
        status = "the likelihood is largest at the border: it never falls as the spread → +∞, the limit in "
        return replace(solution, converged=False, status=f"{status}which `y` is uniform between its bounds")
    solution = existing(coordinates, solution)
    number, decides = beyond_bounds(coordinates, solution.z)
    if not number:
        return solution
    reason = (
        f"the fitted quantile of {number} of {coordinates.rows} rows lies beyond their bound, where only "
    )
    reason += "the tail of the assumed density determines it"
    status = f"{reason} (the solver: {solution.status})" if decides else f"{solution.status}; {reason}"
    return replace(solution, converged=solution.converged and not decides, status=status)


def why_unbounded(objective: Objective) -> str:
    """The reason why a coefficient can run to infinity."""
    if issubclass(objective.family, Truncated) and objective.exacting:
        return "Far from its location a truncated density is exponential, which no finite one attains."
    return "The column, or a combination of columns, separates the responses perfectly, or all are alike."


def is_uniform(coordinates: Coordinates, z: Tensor, loss: float) -> bool:
    """Whether a response that is truncated on both sides is uniform at `z`: its spread runs to infinity."""
    objective = coordinates.objective
    if not (issubclass(objective.family, Truncated) and objective.exacting and objective.priorless):
        return False
    response, y = objective.response(coordinates.theta(z)), objective.data.y
    width = (response.upper - response.lower).expand(y.shape)
    if not bool(torch.isfinite(width).all()):
        return False
    gain = response.log_prob(y) + torch.log(width)
    weights = torch.ones_like(y) if objective.data.weights is None else objective.data.weights
    level = bool(gain.abs().amax() <= LEVEL)
    return level and loss >= float((weights * torch.log(width)).sum()) - GAIN


def beyond_bounds(coordinates: Coordinates, z: Tensor) -> tuple[int, bool]:
    """The number of rows whose fitted quantile lies beyond a bound of theirs, and whether the tail decides.

    There no row shows the quantile, and its place is that of the assumed density's tail. It decides the fit
    where those rows are more than `TAIL` of all, or the others do not determine the coefficients.
    """
    objective = coordinates.objective
    if objective.corner is None or not objective.corner.bounds or objective.data.y.dim() != 1:
        return 0, False
    response = objective.response(coordinates.theta(z))
    found = corner(response)
    low, high = _bounds(response)
    if found is None:
        return 0, False
    y = objective.data.y
    loc = found.loc.expand(y.shape)
    outside = ~((loc >= low) & (loc <= high)).expand(y.shape)
    number = int(outside.sum())
    if not number:
        return 0, False
    return number, number > TAIL * len(y) or not _determined(coordinates, ~outside)


def _bounds(response: Any) -> tuple[Tensor, Tensor]:
    """The bounds between which a response is seen, the narrowest of all."""
    low, high = torch.tensor(-math.inf), torch.tensor(math.inf)
    while hasattr(response, "base_dist"):
        if isinstance(response, Censored | Truncated):
            low, high = torch.maximum(low, response.lower), torch.minimum(high, response.upper)
        response = response.base_dist
    return low, high


def _determined(coordinates: Coordinates, rows: Tensor) -> bool:
    """Whether some rows alone determine the coefficients of every predictor."""
    for block in coordinates.blocks:
        if block.basis is None or not len(block.places):
            continue
        design = block.basis.dense()[rows]
        if len(design) < design.shape[1] or int(torch.linalg.matrix_rank(design)) < design.shape[1]:
            return False
    return True
