"""Least absolute deviations and quantiles: an interior point, then an exact vertex with its certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.continuation import Continuation
from neglog.solvers.lines import Piecewise
from neglog.solvers.preprocessing import MIN_GLOBBED_ROWS, Near, optimum
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Solution
from neglog.solvers.vertex import level_direction, middle

PERFECT = 1e-9
"""A loss below this share of that of the responses themselves may be a perfect fit's."""


@public
@dataclass(frozen=True)
class InteriorPoint(Settings):
    """For `laplace` and `quantile` with one scale and flat priors: exact, at every number of rows.

    The optimum is a linear programme. The method of Frisch and Newton follows the interior of its dual until
    pivots of the simplex method get to a vertex: a line through P rows exactly, which is an optimum if and
    only if the rows on it balance all others with duals in [0, 1]. That is checked on all rows. Of many rows
    a sample says which are surely above or below the line; their sums take their place, and a row whose sign
    turns out otherwise is taken back. The scale is the mean loss. Where there are many optima, the fit is in
    their midst, as the median of an even number is. Beyond the data it needs some numbers a row
    and those columns of the rows that decide.

    Where no vertex gets its certificate, `Continuation` has the last word.

    Args:
        max_steps: steps of the interior point, on each set of rows, after which it gives up.
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
        found = optimum(lines, self.max_steps, self._many, near)
        if found is None:
            return Continuation().minimise(problem.kinked, start, progress)
        status = f"optimum: subgradient condition holds to {found.violation:.0e} at a vertex"
        status += f" of {len(found.held)} rows after {found.steps} steps"
        line, loss, level = found.z, found.loss, level_direction(lines, found.held, found.duals)
        if level is not None:
            line, residuals = middle(lines, line, found.held, level)
            loss = lines.loss(residuals)
            status += "; it is not unique, and the fit is halfway along an edge"
        z = problem.whole(start, torch.from_numpy(line), loss)
        if loss <= PERFECT * float(lines.losses(np.abs(lines.y)).sum()):
            problem.check(z)
        value = problem.value(z, loss)
        return Solution(z, value, True, status, found.steps, (value,), exact=True)
