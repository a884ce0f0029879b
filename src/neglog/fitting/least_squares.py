"""Least squares: where one linear predictor is the mean of a Normal response, its optimum is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.distributions import Normal
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.objective.quadratic import quadratic_priors

CANCELLED = 1e-3
"""Squares of residuals below this share of those of y are added up themselves: differences lose digits."""
TIGHT = 1e-8
"""A spread below this share of the largest response is left to the solvers to judge."""


@dataclass(frozen=True)
class Line:
    """The predictor that is the mean of a Normal response, and its scale: a site, or a known number.

    `precision` is 1 / scale², times the factor by which the model scales all rows, where it is known.
    """

    mean: str
    scale: str | None
    precision: float | None

    @property
    def bias(self) -> str:
        return f"{self.mean}.bias"

    @property
    def weight(self) -> str:
        return f"{self.mean}.weight"


def line_of(objective: Objective) -> Line | None:
    """The line of a model whose response is Normal around one predictor, with one scale for all rows."""
    response = objective.structure.response
    if response.family is not Normal or not (response.is_scalar and response.is_complete and response.is_y):
        return None
    mean = next((call for call in objective.calls if call.name == response.location), None)
    if mean is None or mean.outputs is not None or bool(objective.sample.data.y.isnan().any()):
        return None
    known = response.known_scale
    precision = None if known is None else response.row_scale / known**2
    return None if known is None and response.scale is None else Line(mean.name, response.scale, precision)


def null_line(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, a bias and a scale with flat priors, where they are best.

    None where these are not all that is free. Of many rows a sample says it.
    """
    line = line_of(objective)
    if line is None or not set(free) <= {line.bias, line.scale} or not _are_flat(objective, free):
        return None
    few = objective.sample
    data = few.data
    with torch.no_grad():
        mean = next(call for call in few.affines(theta) if call.name == line.mean)
        bias, weight = mean.bias, mean.weight
        slope = replace(mean, bias=torch.zeros_like(bias))
        rest = data.y - (slope.value if bool(weight.any()) else slope.constant(data.rows))
        weights = torch.ones_like(rest) if data.weights is None else data.weights
        bias = weights @ rest / weights.sum() if line.bias in free else bias
        square = weights @ (rest - bias).square() / weights.sum()
    return _placed(objective, theta, {line.bias: bias, line.scale: square.sqrt()}, free)


def closed_form(coordinates: Coordinates, theta: Tensor) -> Tensor | None:
    """`theta` `(K,)` with the coefficients and the scale of a Normal line where they are best.

    None where there is no such line, or its priors count and are not all Normal at a known scale. Products of
    the columns are those which the curvature at the optimum is made of.
    """
    objective = coordinates.objective
    line = line_of(objective) if coordinates.cut else None
    own = {line.bias, line.weight, line.scale} & set(objective.sites) if line else set()
    block = next((b for b in coordinates.blocks if line and b.predictor == line.mean), None)
    if line is None or block is None or not len(block.places):
        return None
    priors = None
    if not _are_flat(objective, own):
        priors = None if line.precision is None else quadratic_priors(coordinates)
        if priors is None or not _are_flat(objective, own - priors.sites):
            return None
    sums = _normal_equations(objective, block)
    products, slopes = sums.products, sums.slopes
    if priors is not None and line.precision is not None:
        products = products + priors.matrix[block.places][:, block.places] / line.precision
        slopes = slopes + (0.0 if priors.slope is None else priors.slope[block.places] / line.precision)
    factor, failed = torch.linalg.cholesky_ex(products)
    if failed:
        return None
    z = torch.cholesky_solve(slopes[:, None], factor)[:, 0]
    found = theta.index_copy(0, block.places, block.solve(z))
    if line.scale is None:
        return found
    square = sums.squares - slopes @ z  # what the columns leave of the squares
    if not float(square) > CANCELLED * float(sums.squares):
        square = _squares(objective, block, z)
    return _placed(objective, found, {line.scale: (square / sums.mass).sqrt()}, own)


@dataclass(frozen=True)
class NormalEquations:
    """The weighted products of the columns `(P, P)`, theirs with y `(P,)`, and the squares of y, in z."""

    products: Tensor
    slopes: Tensor
    squares: Tensor
    mass: float


def _normal_equations(objective: Objective, block: Block) -> NormalEquations:
    like = block.triangle
    products, slopes = like.new_zeros(like.shape), like.new_zeros(len(block.places))
    squares, mass = like.new_zeros(()), 0.0
    for rows, part in objective.parts:
        weights = torch.ones_like(part.data.y) if part.data.weights is None else part.data.weights
        rest = part.data.y
        if isinstance(block.offset, Tensor) or block.offset:
            rest = rest - (block.offset[rows] if isinstance(block.offset, Tensor) else block.offset)
        weighed = rest if part.data.weights is None else weights * rest
        products += block.cross(weights, block, rows)
        slopes += block.gather(weighed, rows)
        squares += weighed @ rest
        mass += float(weights.sum())
    return NormalEquations(products, slopes, squares, mass)


def _squares(objective: Objective, block: Block, z: Tensor) -> Tensor:
    """The weighted sum of the squared residuals at `z` `(P,)`."""
    square = torch.zeros((), dtype=z.dtype)
    for rows, part in objective.parts:
        squares = (part.data.y - block.eta(z, rows)).square()
        square += squares.sum() if part.data.weights is None else part.data.weights @ squares
    return square


def _are_flat(objective: Objective, names: Collection[str | None]) -> bool:
    return all(objective.sites[name].masked for name in names if name is not None)


def _placed(
    objective: Objective, theta: Tensor, values: dict[str | None, Tensor], free: Collection[str | None]
) -> Tensor | None:
    """`theta` with the values of the sites that are free; None where a spread is next to nothing."""
    *_, spread = values.values()
    if not float(spread) > TIGHT * float(objective.sample.data.y.abs().max()):
        return None
    theta = theta.clone()
    for name, value in values.items():
        if name is not None and name in free:
            site = objective.sites[name]
            theta[site.place] = site.transform.inv(value).reshape(-1)
    return theta
