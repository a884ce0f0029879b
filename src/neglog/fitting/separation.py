"""Separation: whether coefficients put classes in an order without a mistake, by a linear programme."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.constraints import ordered_vector
from torch import Tensor

from neglog.fitting.existence import named
from neglog.fitting.limits import refusal
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.solvers.watched import Watched

CHECKS = 2
"""The calls of `check`, one in five steps, at which a fit is slow enough to look for separation."""
SLOW_STEPS = 5 * CHECKS
"""The number of steps at which it is, where nothing counts those calls."""
SAMPLE_SIZES = (200, 2000)
"""Numbers of rows, evenly spaced: where these are not separated, all are not."""
LEAST_MARGIN = 1e-6
"""The average margin of a row above which a direction separates; rounding makes less."""
ROUNDED_MARGIN = 1e-8
"""The largest violation of a constraint that is rounding."""
Matrix = NDArray[np.float64]


def watched(coordinates: Coordinates, problem: Any) -> Any:
    """The problem; that of classes in an order looks for separation where a solver takes many steps."""
    names = _cuts_and_weights(coordinates.objective)
    return problem if names is None else _UntilSeparated(coordinates, problem, *names)


def _cuts_and_weights(objective: Objective) -> tuple[str, str] | None:
    """The names of the two sites of a model of classes in an order; None of another model, or with priors."""
    sites = objective.sites.values()
    if not (objective.structure.law.classes == "cutpoints" and objective.layout.is_flat and len(sites) == 2):
        return None
    cuts = [site.name for site in sites if site.support is ordered_vector]
    of_predictors = {f"{call.name}.weight" for call in objective.calls}
    weights = [site.name for site in sites if site.name in of_predictors]
    return (cuts[0], weights[0]) if len(cuts) == len(weights) == 1 else None


class _UntilSeparated(Watched):
    """A problem that looks for separation once, at a late check."""

    def __init__(self, coordinates: Coordinates, problem: Any, cuts: str, weight: str) -> None:
        super().__init__(problem)
        self._coordinates, self._cuts, self._weight, self._checks = coordinates, cuts, weight, 0

    def check(self, z: Tensor) -> Any:
        """As that of the problem.

        Raises:
            UnboundedLikelihoodError: the classes are separated.
        """
        self._checks += 1
        if self._checks == CHECKS:
            self._check_separation()
        return self.problem.check(z)

    def _check_separation(self) -> None:
        objective = self._coordinates.objective
        direction = _direction(objective, self._cuts, self._weight)
        if direction is not None:
            raise refusal(objective, named(self._coordinates, direction, False))


def is_separated(objective: Objective) -> bool:
    """Whether classes in an order are separated in the rows that count; False for another model."""
    names = _cuts_and_weights(objective)
    return names is not None and _direction(objective, *names) is not None


def _direction(objective: Objective, cuts: str, weight: str) -> Tensor | None:
    """A direction `(K,)`, with steps of cutpoints, along which no row becomes less likely; None without."""
    call = next(call for call in objective.calls if f"{call.name}.weight" == weight)
    sites, data = objective.sites, objective.data
    x, y = call.design.detach().numpy(), data.y.numpy().astype(int)
    scale = np.sqrt(np.square(x).mean(axis=0))
    scale[scale == 0] = 1.0
    found: Matrix | None = None
    for size in (*SAMPLE_SIZES, len(y)):
        rows = np.unique(np.linspace(0, len(y) - 1, min(size, len(y))).astype(int))
        found = separating(x[rows] / scale, y[rows], sites[cuts].size)
        if found is None:
            return None
    assert found is not None
    direction = torch.zeros_like(objective.initial)
    direction[sites[weight].place] = torch.as_tensor(found[: len(scale)] / scale)
    direction[sites[cuts].place] = torch.as_tensor(np.diff(found[len(scale) :], prepend=0.0))
    return direction


def separating(x: Matrix, y: NDArray[np.int_], cuts: int) -> Matrix | None:
    """A direction of coefficients and cutpoints along which no row becomes less likely; None without one.

    A row of class k becomes no less likely where its predictor rises no faster than cut k, and no slower than
    cut k - 1 (Albert & Anderson 1984, for classes in an order). The programme maximises the sum of these
    margins, with no part of the direction above 1.
    """
    from scipy.optimize import linprog  # only here: they take long to import
    from scipy.sparse import csr_array, hstack, vstack

    below, above = (y < cuts).nonzero()[0], (y > 0).nonzero()[0]
    parts = [(-x[below], below, y[below], 1.0), (x[above], above, y[above] - 1, -1.0)]
    blocks = [
        hstack(
            [
                csr_array(columns),
                csr_array((np.full(len(at), sign), (np.arange(len(at)), cut)), (len(at), cuts)),
            ]
        )
        for columns, at, cut, sign in parts
    ]
    margins = vstack(blocks).tocsr()
    found = linprog(-margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(margins.shape[0]), bounds=(-1, 1))
    if found.x is None:
        return None
    gained = margins @ found.x
    separated = gained.sum() >= LEAST_MARGIN * len(y) and gained.min() >= -ROUNDED_MARGIN
    return np.asarray(found.x) if separated else None
