"""Least absolute deviations and quantiles: an interior-point method, then a certified vertex."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.continuation import Continuation
from neglog.solvers.lines import Index, Lines, Piecewise
from neglog.solvers.preprocessing import MIN_GLOBBED_ROWS, Near, Optimum, optimum
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Solution
from neglog.solvers.vertex import level_direction, middle, vertex_at

PERFECT_FIT_SHARE = 1e-9
"""A loss below this share of the loss of zero coefficients may be that of a perfect fit."""


@public
@dataclass(frozen=True)
class InteriorPoint(Settings):
    """For `laplace` and `quantile` with one scale and flat priors: exact, for any number of rows.

    The optimum is that of a linear programme. The interior-point method of Frisch and Newton follows the
    central path of its dual until pivots of the simplex method lead to a vertex: a line through P rows
    exactly, which is an optimum if and only if dual variables in [0, 1] of the rows on it balance all others.
    This is verified on all rows. With many rows a sample determines which are almost certainly above or below
    the line; their sums replace them, and misclassified rows are restored. The scale is the mean loss. If
    there are many optima, the fit is in the interior of their set, as the median of an even number is. Beyond
    the data it needs a few numbers per row, and a copy of the rows that are kept.

    If no vertex is certified, `Continuation` solves the problem.

    Args:
        max_steps: the largest number of steps of the interior-point method, for each set of rows.
    Source: Portnoy & Koenker (1997), The Gaussian hare and the Laplacian tortoise; Koenker (2005), Quantile
    Regression, section 2.2, for the condition.
    """

    max_steps: int = 100
    _many: int = MIN_GLOBBED_ROWS
    _shift: float | None = None

    def minimise(self, problem: Piecewise, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, whatever `start` `(K,)` is."""
        lines = problem.lines
        near = None if self._shift is None else Near(problem.line(start).numpy(), self._shift)
        found = central_optimum(lines, self.max_steps, self._many, near)
        if found is None:
            return Continuation().minimise(problem.kinked, start, progress)
        status = f"optimum: the subgradient condition holds to {found.violation:.0e} at a vertex"
        status += f" of {len(found.held)} rows after {found.steps} steps"
        if not found.is_unique:
            status += "; the optimum is not unique, and the estimate is the midpoint of an edge of all optima"
        loss = found.loss
        z = problem.whole(start, torch.from_numpy(found.z), loss)
        if loss <= PERFECT_FIT_SHARE * float(lines.losses(np.abs(lines.y)).sum()):
            problem.check(z)
        value = problem.value(z, loss)
        return Solution(z, value, True, status, found.steps, (value,), exact=True)


def central_optimum(
    lines: Lines, max_steps: int, many: int = MIN_GLOBBED_ROWS, near: Near | None = None
) -> Optimum | None:
    """The certified optimum of some lines, see `central`; None if there was none."""
    found = optimum(lines, max_steps, many, near)
    return None if found is None else central(lines, found)


def central(lines: Lines, found: Optimum) -> Optimum:
    """An optimal vertex itself, or where others are as good, the middle of an edge."""
    level = level_direction(lines, found.held, found.duals)
    if level is None:
        return found
    z, residuals = middle(lines, found.z, found.held, level)
    return replace(found, z=z, loss=lines.loss(residuals), is_unique=False)


def central_beside(lines: Lines, basis: Index, max_steps: int) -> Optimum | None:
    """`central_optimum` started from the rows `basis` `(P,)` of a vertex that may be optimal.

    Where many vertices are optimal, the one that `optimum` finds decides, unless they are two.
    """
    vertex = vertex_at(lines, basis)
    if vertex is not None and vertex.certified:
        loss = lines.loss(vertex.residuals)
        found = central(lines, Optimum(vertex.z, vertex.held, vertex.duals, vertex.violation, loss))
        if found.is_unique or lines.size == 1:
            return found
    return central_optimum(lines, max_steps)
