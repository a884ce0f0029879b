"""Exponential tilting: truncated Normal responses in the parameters in which their likelihood is concave.

With θ = location / scale² and τ = 1 / (2 scale²) the density between the bounds is proportional to
exp(θ y - τ y²), an exponential family: the log-likelihood is concave in the coefficients of θ and in τ. Its
border τ = 0, an infinite scale, is the exponential density exp(θ y). There is the maximum, if the derivative
in τ is not positive at the optimum of θ; steps in location and scale approach it without end.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import family_of
from neglog.distributions.intervals import tilted_moments
from neglog.fitting.borders import Limit, border_status
from neglog.objective.basis import Basis
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.solvers import Newton, Solution

MAX_TILTED_ROWS = 2**14
"""Number of rows of a block."""
MAX_STEPS = 60
"""The largest number of Newton steps of a concave problem."""
DECREMENT = 1e-9
"""The Newton decrement, in standard errors, of an optimum in these parameters."""
MIN_SLOPE = 1e-6
"""A derivative in τ above this, in standard deviations of that derivative, implies an interior optimum."""
LIMIT_PRECISION = 1e-8
"""The τ of the border, in units of the spread of y: its loss is that of the limit to rounding."""
MAX_TILT = 1e-2
"""The largest change of a log-density between its bounds, in nats, that counts as uniform."""


@dataclass(frozen=True)
class TruncatedRows:
    """Rows of a truncated response, `(N,)` each, in units of their spread, from their centre.

    Attributes:
        y, lower, upper: the response and its bounds, of a LogNormal response their logarithms.
        weights: their weights, of the mean 1.
        basis: the orthonormal design `(N, P)` of the location.
        one: the coefficients `(P,)` of a constant predictor; zeros where the design has none.
        centre, unit: the origin and the unit of y.
    """

    y: Tensor
    lower: Tensor
    upper: Tensor
    weights: Tensor
    basis: Basis
    one: Tensor
    centre: float = 0.0
    unit: float = 1.0

    def location(self, natural: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of the location, in the units of y, and the scale."""
        double = 2 * natural[-1]
        return self.unit * natural[:-1] / double + self.centre * self.one, self.unit * double.rsqrt()

    def is_uniform(self, natural: Tensor) -> bool:
        """Whether exp(θ y) is level between the bounds of each row."""
        theta = self.basis.at(natural[:-1])
        return bool((theta.abs() * (self.upper - self.lower) <= MAX_TILT).all())

    def loss(self, natural: Tensor) -> tuple[float, Tensor, Tensor]:
        """Minus the log-likelihood at the coefficients of θ and τ `(P + 1,)`, its gradient and its Hessian.

        Infinite where the density has no integral.
        """
        value, gradient = 0.0, torch.zeros_like(natural)
        hessian = natural.new_zeros((len(natural), len(natural)))
        if natural[-1] < 0:
            return math.inf, gradient, hessian
        for start in range(0, len(self.y), MAX_TILTED_ROWS):
            rows = slice(start, start + MAX_TILTED_ROWS)
            y, weights, theta = self.y[rows], self.weights[rows], self.basis.at(natural[:-1], rows)
            log_mass, mean, second, third, fourth = _moments(
                theta, natural[-1], self.lower[rows], self.upper[rows]
            )
            value += float(weights @ (log_mass - theta * y + natural[-1] * y * y))
            gradient[:-1] += self.basis.gather(weights * (mean - y), rows)
            gradient[-1] += weights @ (y * y - second - mean * mean)
            cross = -self.basis.gather(weights * (2 * mean * second + third), rows)
            hessian[:-1, :-1] += self.basis.cross(weights * second, self.basis, rows)
            hessian[:-1, -1] += cross
            hessian[-1, :-1] += cross
            bend = 4 * mean * (mean * second + third) + fourth - second * second
            hessian[-1, -1] += weights @ bend
        if not (math.isfinite(value) and bool(torch.isfinite(hessian).all())):
            value = math.inf
        return value, gradient, hessian


class _Tilted:
    """The loss of rows in the first of their parameters, the others fixed (`neglog.solvers.Problem`)."""

    def __init__(self, rows: TruncatedRows, natural: Tensor, size: int) -> None:
        self.of, self.natural, self.size, self.rows = rows, natural, size, len(rows.y)

    def whole(self, z: Tensor) -> Tensor:
        """All parameters `(P + 1,)`."""
        return torch.cat([z, self.natural[self.size :]])

    def value(self, z: Tensor) -> float:
        return self.derivatives(z)[0]

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        return self.derivatives(z)[:2]

    def hessian(self, z: Tensor) -> Tensor:
        return self.derivatives(z)[2]

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        value, gradient, hessian = self.of.loss(self.whole(z))
        return value, gradient[: self.size], hessian[: self.size, : self.size]

    def sample(self) -> None:
        """None: the loss is that of all rows."""

    def check(self, z: Tensor) -> None:
        """Do nothing: a concave likelihood has no interior point from which it increases without bound."""


def _moments(theta: Tensor, tau: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
    """log ∫ exp(θ y - τ y²) dy between the bounds, the mean of y, its central moments of order 2, 3 and 4."""
    peak = theta / (2 * tau) if bool(tau > 0) else torch.sign(theta) * math.inf
    peak = torch.where((tau == 0) & (theta == 0), lower, peak).clamp(lower, upper)
    slope = theta - 2 * tau * peak
    inside = (peak > lower) & (peak < upper)
    found = tilted_moments(torch.where(inside, 0.0, slope), tau.expand_as(theta), lower - peak, upper - peak)
    log_mass, shift, *central = found
    return (theta - tau * peak) * peak + log_mass, peak + shift, *central


def _minimum(rows: TruncatedRows, natural: Tensor, free: int) -> Tensor | None:
    """The minimum of the loss in the first `free` parameters; None if none is certified."""
    problem = _Tilted(rows, natural, free)
    found = Newton(tolerance=DECREMENT, max_steps=MAX_STEPS).minimise(problem, natural[:free])
    return problem.whole(found.z) if found.converged else None


def optimum(rows: TruncatedRows) -> tuple[Tensor, bool] | None:
    """The optimum of θ and τ `(P + 1,)`, and whether it is at the border τ = 0; None where none is found."""
    start = torch.cat([rows.one, rows.one.new_zeros(1)])
    start[:-1] *= _start(rows)
    border = _minimum(rows, start, len(rows.one))
    if border is None:
        return None
    _, gradient, hessian = rows.loss(border)
    if float(gradient[-1]) >= -MIN_SLOPE * float(hessian[-1, -1].sqrt()):
        return border, True
    inside = _minimum(rows, border, len(border))
    return None if inside is None else (inside, False)


def _start(rows: TruncatedRows) -> float:
    """A θ of all rows at which their exponential densities have integrals."""
    if bool(torch.isfinite(rows.lower).all()):
        return 0.0 if bool(torch.isfinite(rows.upper).all()) else -1 / float((rows.y - rows.lower).mean())
    return 1 / float((rows.upper - rows.y).mean())


def _rows_of(objective: Objective, basis: Basis, one: Tensor) -> TruncatedRows | None:
    """The rows of an objective whose location is `basis` times coefficients; None of other responses."""
    response = objective.response(objective.initial)
    base = family_of(response.base_dist)
    if not (base.is_square or base.is_square_of_logarithm):
        return None
    rows = rows_between(objective, response, basis, one)
    if base.is_square_of_logarithm:
        low, high = torch.log(rows.lower.clamp_min(0.0)), torch.log(rows.upper)
        rows = replace(rows, y=torch.log(rows.y), lower=low, upper=high)
    return in_units(rows) if have_exponentials(rows) else None


def rows_between(objective: Objective, response: Any, basis: Basis, one: Tensor) -> TruncatedRows:
    """The rows of a truncated response whose location is `basis` times coefficients."""
    data = objective.data
    y, lower, upper = (
        part.detach().expand(data.y.shape) for part in (data.y, response.lower, response.upper)
    )
    weights = torch.ones_like(y) if data.weights is None else data.weights
    return TruncatedRows(y, lower, upper, weights / weights.mean(), basis, one)


def have_exponentials(rows: TruncatedRows) -> bool:
    """Whether all rows have a bound on the same side, and an exponential density to start from."""
    below, above = torch.isfinite(rows.lower).all(), torch.isfinite(rows.upper).all()
    return bool(below & above) or (bool(rows.one.any()) and bool(below | above))


def in_units(rows: TruncatedRows) -> TruncatedRows | None:
    """The same rows in units of the spread of y; None where it has none."""
    centre = float((rows.weights * rows.y).mean()) if bool(rows.one.any()) else 0.0
    unit = float((rows.weights * (rows.y - centre).square()).mean().sqrt())
    if not (unit > 0 and math.isfinite(unit)):
        return None
    y, lower, upper = ((part - centre) / unit for part in (rows.y, rows.lower, rows.upper))
    return replace(rows, y=y, lower=lower, upper=upper, centre=centre, unit=unit)


def _is_tilted(objective: Objective) -> bool:
    """Whether a response is truncated, with one location and one free scale, without priors."""
    return own_constants(objective) == [objective.structure.response.scale]


def own_constants(objective: Objective) -> list[str] | None:
    """The constants of a truncated response with one location, without priors; None of another."""
    response = objective.structure.response
    if not (objective.calls and objective.structure.law.truncates and objective.layout.is_flat):
        return None
    if not response.is_plain or response.location is None:
        return None
    return [site.name for site in objective.structure.constant_sites]


def null_tilted(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, the bias and the scale of a truncated Normal, at their optimum.

    None where other sites are free, the predictor is not the bias alone, or there is no optimum.
    """
    if not _is_tilted(objective):
        return None
    response = objective.structure.response
    bias = f"{response.location}.bias"
    few = objective.sample
    (call,) = few.affines(theta)
    if set(free) != {bias, response.scale} or bool(call.weight.any()) or call.offset is not None:
        return None
    one = theta.new_ones(1)
    rows = _rows_of(few, Basis(theta.new_empty((few.rows, 0)), True, theta.new_ones((1, 1))), one)
    found = None if rows is None else optimum(rows)
    if rows is None or found is None:
        return None
    natural, at_border = found
    if at_border:
        natural[-1] = 1.0  # a scale next to that of y, from which steps lead either way
    location, scale = rows.location(natural)
    return placed(objective, theta, {bias: location, str(response.scale): scale})


def tilted(coordinates: Coordinates) -> Solution | None:
    """The optimum of a truncated Normal response: a `Limit` where its scale is infinite; None of another.

    An optimum of a finite scale is not certified, and a place to start from.
    """
    objective, block = coordinates.objective, block_of(coordinates)
    if block is None or block.basis is None or not _is_tilted(objective):
        return None
    rows = _rows_of(objective, block.basis, constant(block.basis))
    found = None if rows is None else optimum(rows)
    if rows is None or found is None:
        return None
    natural, at_border = found
    if at_border:
        natural[-1] = LIMIT_PRECISION
    location, scale = rows.location(natural)
    z = coordinates.z(objective.initial)
    z[block.places] = location
    z = placed(objective, z, {str(objective.structure.response.scale): scale})
    value = coordinates.value(z)
    if at_border:
        return Limit(z, value, False, _status(objective, rows.is_uniform(natural)), 0)
    return Solution(z, value, False, "", 0) if math.isfinite(value) else None


def block_of(coordinates: Coordinates) -> Block | None:
    """The block of the location, where it is the only one, without an offset."""
    if not (coordinates.is_linear and len(coordinates.blocks) == 1):
        return None
    (block,) = coordinates.blocks
    is_free = not isinstance(block.offset, Tensor) and not block.offset
    return block if is_free and block.output is None else None


def constant(basis: Basis) -> Tensor:
    """The coefficients `(P,)` of a constant predictor; zeros where the design has none."""
    ones = basis.columns.new_ones(len(basis.columns))
    one = torch.linalg.solve(basis.cross(ones, basis), basis.gather(ones))
    return one if bool(((basis.at(one) - 1).abs() <= MIN_SLOPE).all()) else torch.zeros_like(one)


def _status(objective: Objective, is_uniform: bool) -> str:
    is_log = family_of(objective.response(objective.initial).base_dist).is_square_of_logarithm
    shape = "uniform" if is_uniform else "exponential"
    limit = f"{'the logarithm of ' if is_log else ''}`y` is {shape} between its bounds"
    return border_status(f"`{objective.structure.response.scale}` → +∞", limit)


def placed(objective: Objective, vector: Tensor, values: dict[str, Tensor]) -> Tensor:
    """A vector `(K,)` with the values of some sites in their places."""
    vector = vector.clone()
    for name, value in values.items():
        site = objective.sites[name]
        vector[site.place] = site.transform.inv(value.reshape(site.shape)).reshape(-1)
    return vector
