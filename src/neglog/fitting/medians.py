"""Quantile lines: responses whose loss is a pinball loss around one predictor, and their null model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.corners import Corner, alike
from neglog.empirical import EmpiricalDistribution
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE

MIN_RELATIVE_LOSS = 1e-8
"""A null model with a mean loss below this share of the largest |y| is not solved here."""


@dataclass(frozen=True)
class QuantileLine:
    """A response of density exp(-`height` · pinball(u)) / constant, u = (y - location) / scale, in every row.

    Attributes:
        predictor: the location.
        scale: the site that is the scale; None if none is.
        is_scale_fixed: whether no parameter changes the scale.
        tau: the probability of the quantile that the location is.
        height: the factor of the pinball loss.
    """

    predictor: str
    scale: str | None
    is_scale_fixed: bool
    tau: float
    height: float

    @property
    def bias(self) -> str:
        """The site of the intercept."""
        return f"{self.predictor}.bias"

    @property
    def weight(self) -> str:
        """The site of the coefficients."""
        return f"{self.predictor}.weight"


def quantile_line(objective: Objective) -> QuantileLine | None:
    """The line of a model with a Laplace response, symmetric or not, and one scale for all rows."""
    at, response = objective.structure.corner, objective.structure.response
    if at is None or at.is_bounded or not response.is_scalar or response.location is None:
        return None
    sides = straight_sides(at, objective.data.y.dtype)
    if sides is None or len(alike(at.scale).unique()) > 1:
        return None
    steepness, tilt = sides
    tau, height = 0.5 * (1 + tilt / steepness), 2 * steepness
    return QuantileLine(response.location, response.scale, response.is_scale_fixed, tau, height)


def straight_sides(at: Corner, dtype: torch.dtype) -> tuple[float, float] | None:
    """Steepness and tilt of a density exp(-steepness |u| - tilt u), if it is one, equal in all rows."""
    u = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=dtype)
    tilts, steepness = torch.as_tensor(at.smooth(u[:, None])) / u[:, None], torch.as_tensor(at.steepness)
    same = bool(((tilts - tilts.reshape(-1)[0]).abs() < 1e-12).all()) and len(steepness.unique()) == 1
    steep, tilt = float(steepness.reshape(-1)[0]), float(tilts.reshape(-1)[0])
    return (steep, tilt) if same and steep > abs(tilt) else None


def scored_rows(objective: Objective) -> tuple[Any, Any] | None:
    """The observed values and the factors of their log-densities, both `(N,)`.

    None where a row is masked or its factor is 0. The model is run where the structure does not show them.
    """
    response, data = objective.structure.response, objective.data
    if response.is_complete and response.is_y:
        y, mask = data.y, torch.tensor(True)
        factors = response.row_scale * (torch.ones_like(y) if data.weights is None else data.weights)
    else:
        msg = objective.at(objective.initial).sites[RESPONSE]
        y, mask = msg["value"], torch.as_tensor(True if msg["mask"] is None else msg["mask"])
        factors = torch.as_tensor(msg["scale"], dtype=y.dtype).expand(y.shape)
    if not bool(mask.all() & (factors > 0).all()):
        return None
    return y.numpy(), np.ascontiguousarray(factors.numpy())


COLLAPSED_SCALE = 1e-300
"""The scale of responses that are all equal, below the rounding of any."""


def null_median(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, the bias and the scale of one quantile, at their optimum.

    None where other sites are free, the density is another, or priors or columns count. Of many rows a
    sample is used.
    """
    line, params = quantile_line(objective), objective.layout.params(theta)
    if line is None or not _is_null(objective, line, params, free):
        return None
    rows = scored_rows(objective.sample)
    if rows is None:
        return None
    y, factors = rows
    responses = EmpiricalDistribution(torch.from_numpy(y), torch.from_numpy(factors))
    bias, total = float(responses.quantile(line.tau)), float(responses.total)
    loss = line.height * float(factors @ ((y - bias) * (line.tau - (y < bias)))) / total
    if not loss > MIN_RELATIVE_LOSS * float(np.abs(y).max()):
        if loss > 0 or not _collapses(objective, line, free):
            return None
        loss = COLLAPSED_SCALE
    theta = theta.clone()
    for name, value in {line.bias: bias, line.scale: loss}.items():
        if name is not None and name in free:
            site = objective.sites[name]
            theta[site.place] = site.transform.inv(torch.tensor(value, dtype=theta.dtype)).reshape(-1)
    return theta


def _collapses(objective: Objective, line: QuantileLine, free: Collection[str]) -> bool:
    """Whether the scale of equal responses goes to 0, which is refused at the initial point."""
    return line.scale in free and objective.sample is objective and "collapsing" in objective.facts


def _is_null(
    objective: Objective, line: QuantileLine, params: dict[str, Tensor], free: Collection[str]
) -> bool:
    """Whether no column counts, and the bias and perhaps the scale, without priors, are all that is free."""
    if len(objective.calls) != 1:
        return False
    (call,) = objective.calls
    if call.outputs is not None or call.offset is not None:
        return False
    weight = params.get(line.weight, call.weight)
    is_free = line.bias in free and set(free) <= {line.bias, line.scale}
    return is_free and not bool(weight.any()) and all(objective.sites[name].masked for name in free)
