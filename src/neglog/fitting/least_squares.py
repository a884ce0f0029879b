"""Least squares: where one linear predictor is the mean of a Normal response, its optimum is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.objective.basis import placed
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import NORMAL, Objective
from neglog.objective.quadratic import quadratic_priors
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, run

CANCELLED = 1e-3
"""Squares of residuals below this share of those of y are added up themselves: differences lose digits."""
TIGHT = 1e-8
"""A spread below this share of the largest response is left to the solvers to judge."""


@dataclass(frozen=True)
class Line:
    """The predictor that is the mean of a Normal response, the site that is its scale, and its value."""

    mean: Affine
    scale: str | None
    spread: float

    @property
    def bias(self) -> str:
        return f"{self.mean.name}.bias"

    @property
    def weight(self) -> str:
        return f"{self.mean.name}.weight"


@torch.enable_grad()
def line_of(objective: Objective) -> Line | None:
    """The line of a model whose response is Normal around one predictor, with one scale for all rows.

    It is told by identity: the distribution holds the very tensors that were handed to the model. Designs of
    more than `neglog.objective.objective.SAMPLE` rows are in the predictor with those of a sample.
    """
    few = objective.sample
    if objective.family not in NORMAL or few.data.y.dim() != 1 or bool(few.data.y.isnan().any()):
        return None
    start = objective.params(objective.initial)
    params = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    etas = {call.name: call.constant(few.rows).detach().clone() for call in objective.calls}
    ran = run(few.model, few.data, Run(params, etas=etas))
    site = ran.sites[RESPONSE]
    loc, scale = site["fn"].loc, site["fn"].scale
    mean = next((call for call in ran.affines if placed(loc) == placed(etas[call.name])), None)
    if mean is None or mean.outputs is not None or site["mask"] is not None or any(scale.stride()):
        return None
    name = next((name for name, value in params.items() if scale.data_ptr() == value.data_ptr()), None)
    return (
        None
        if name is None and scale.requires_grad
        else Line(mean, name, float(scale.detach().reshape(-1)[0]))
    )


def null_line(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, a bias and a scale with flat priors, where they are best.

    None where these are not all that is free. Of many rows a sample says it.
    """
    line = line_of(objective)
    if line is None or not set(free) <= {line.bias, line.scale} or not _are_flat(objective, free):
        return None
    data = objective.sample.data
    params = objective.params(theta)
    weight, bias = params.get(line.weight, line.mean.weight), params.get(line.bias, line.mean.bias)
    with torch.no_grad():
        slope = Affine(line.mean.name, line.mean.design, weight, torch.zeros_like(bias))
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
    block = next((b for b in coordinates.blocks if line and b.predictor == line.mean.name), None)
    if line is None or block is None or not len(block.places):
        return None
    priors = None
    if not _are_flat(objective, own):
        priors = quadratic_priors(coordinates) if line.scale is None else None
        if priors is None or not _are_flat(objective, own - priors.sites):
            return None
    sums = _normal_equations(objective, block)
    products, slopes = sums.products, sums.slopes
    if priors is not None:
        products = products + line.spread**2 * priors.matrix[block.places][:, block.places]
        slopes = slopes + (0.0 if priors.slope is None else line.spread**2 * priors.slope[block.places])
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
