"""Least squares: the closed form of the optimum of a Normal response whose mean is one linear predictor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.objective.quadratic import quadratic_priors

MIN_RESIDUAL_SHARE = 1e-3
"""A residual sum of squares below this share of that of y is summed row by row: a difference loses digits."""
MIN_RELATIVE_SPREAD = 1e-8
"""A fit with a standard deviation below this share of the largest |y| is not solved here."""


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
        """The site of the intercept."""
        return f"{self.mean}.bias"

    @property
    def weight(self) -> str:
        """The site of the coefficients."""
        return f"{self.mean}.weight"

    def sites(self, objective: Objective) -> set[str | None]:
        """The names of the free coefficients and of the scale, if it is a site."""
        return {self.bias, self.weight, self.scale} & set(objective.sites)


def line_of(objective: Objective) -> Line | None:
    """The line of a model whose response is Normal around one predictor, with one scale for all rows."""
    response = objective.structure.response
    if not response.law.is_square or not response.is_plain or response.location is None:
        return None
    mean = next(call for call in objective.calls if call.name == response.location)
    if mean.outputs is not None or objective.data.is_missing:
        return None
    if response.known_scale is not None:
        return Line(mean.name, response.scale, response.row_scale / response.known_scale**2)
    return None if response.scale is None else Line(mean.name, response.scale, None)


def null_line(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, a bias and a scale with flat priors, at their optimum.

    None where other sites are free. Of many rows a sample is used.
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
        rest = data.y - (slope.value if bool(weight.any()) else slope.null)
        weights = torch.ones_like(rest) if data.weights is None else data.weights
        bias = weights @ rest / weights.sum() if line.bias in free else bias
        square = weights @ (rest - bias).square() / weights.sum()
    return _placed(objective, theta, {line.bias: bias, line.scale: square.sqrt()}, free)


def closed_form(coordinates: Coordinates, theta: Tensor) -> Tensor | None:
    """`theta` `(K,)` with the coefficients and the scale of a Normal line at their optimum.

    None where there is no such line, or its priors count and are not all Normal at a known scale. The
    products of the columns are those that the Hessian at the optimum is made of.
    """
    objective = coordinates.objective
    line = line_of(objective) if coordinates.is_linear else None
    block = None if line is None else _block_of(coordinates, line)
    if line is None or block is None:
        return None
    sums = _penalised_equations(coordinates, line, block)
    z = None if sums is None else sums.solution()
    if sums is None or z is None:
        return None
    found = theta.index_copy(0, block.places, block.solve(z))
    if line.scale is None:
        return found
    square = sums.squares - sums.slopes @ z  # the residual sum of squares
    if not float(square) > MIN_RESIDUAL_SHARE * float(sums.squares):
        square = _squares(objective, block, z)
    return _placed(objective, found, {line.scale: (square / sums.mass).sqrt()}, line.sites(objective))


def _block_of(coordinates: Coordinates, line: Line) -> Block | None:
    """The block of the coefficients of a line; None if none are free."""
    return next((b for b in coordinates.blocks if b.predictor == line.mean and len(b.places)), None)


@dataclass(frozen=True)
class NormalEquations:
    """The weighted sums of least squares, in z.

    Attributes:
        products: those of the columns with each other, `(P, P)`.
        slopes: those of the columns with y less `centre`, `(P,)`.
        squares: that of the squares of y less `centre`.
        mass: the sum of the weights.
        centre: the mean of y in the first block of rows, or 0.
    """

    products: Tensor
    slopes: Tensor
    squares: Tensor
    mass: float
    centre: Tensor

    def solution(self) -> Tensor | None:
        """The coefficients `(P,)` in z; None where the products are not positive definite."""
        factor, failed = torch.linalg.cholesky_ex(self.products)
        return None if failed else torch.cholesky_solve(self.slopes[:, None], factor)[:, 0]


def _penalised_equations(coordinates: Coordinates, line: Line, block: Block) -> NormalEquations | None:
    """The normal equations with Normal priors as ridges; None where other priors count."""
    objective = coordinates.objective
    own = line.sites(objective)
    if _are_flat(objective, own):
        return normal_equations(objective, block)
    priors = None if line.precision is None else quadratic_priors(coordinates)
    if priors is None or line.precision is None or not _are_flat(objective, own - priors.sites):
        return None
    sums, places = normal_equations(objective, block), block.places
    products = sums.products + priors.matrix[places][:, places] / line.precision
    slopes = sums.slopes + (0.0 if priors.slope is None else priors.slope[places] / line.precision)
    return replace(sums, products=products, slopes=slopes)


def normal_equations(
    objective: Objective, block: Block, factor: float = 1.0, centred: bool = False
) -> NormalEquations:
    """The sums over all rows, whose weights are multiplied by `factor`; with y less its mean if `centred`.

    The mean is that of the first block of rows, which is enough to keep digits.
    """
    like = block.triangle
    products, slopes = like.new_zeros(like.shape), like.new_zeros(len(block.places))
    squares, mass, centre = like.new_zeros(()), 0.0, like.new_zeros(())
    for rows, part in objective.parts:
        rest = _without_offset(block, rows, part.data.y)
        if centred:
            centre = centre if rows.start else rest.mean()
            rest = rest - centre
        weights = torch.ones_like(rest) if part.data.weights is None else part.data.weights
        weights = weights if factor == 1.0 else factor * weights
        weighted = rest if part.data.weights is None and factor == 1.0 else weights * rest
        products += block.cross(weights, block, rows)
        slopes += block.gather(weighted, rows)
        squares += weighted @ rest
        mass += float(weights.sum())
    return NormalEquations(products, slopes, squares, mass, centre)


def _without_offset(block: Block, rows: slice, y: Tensor) -> Tensor:
    """The response of some rows less the part of the predictor that is not free."""
    if isinstance(block.offset, Tensor):
        return y - block.offset[rows]
    return y - block.offset if block.offset else y


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
    """`theta` with the values of the sites that are free; None where the spread is close to 0."""
    *_, spread = values.values()
    if not float(spread) > MIN_RELATIVE_SPREAD * float(objective.sample.data.y.abs().max()):
        return None
    theta = theta.clone()
    for name, value in values.items():
        if name is not None and name in free:
            site = objective.sites[name]
            theta[site.place] = site.transform.inv(value).reshape(-1)
    return theta
