"""Quadratic losses: a Normal line of known scale as a quadratic in its coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.fitting.least_squares import line_of, normal_equations
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates

MIN_VALUE_SHARE = 1e-3
"""A loss below this share of the terms of which it is a difference is summed row by row."""
MIN_EIGENVALUE = 1e-6
"""The smallest eigenvalue of the products of columns, scaled to a diagonal of 1, that keep their digits."""


@dataclass(eq=False)
class Parabola:
    """`base` + `slope`ᵀ d + ½ dᵀ `matrix` d, d = z - `middle`: a smooth problem that reads no row.

    Shapes: `middle` and `slope` `(K,)`, `matrix` `(K, K)`. `rows` is the number of rows that it was read
    from, and `magnitude` the sum of the absolute values of the terms of `base`.
    """

    middle: Tensor
    base: float
    slope: Tensor
    matrix: Tensor
    rows: int
    magnitude: float = math.inf

    def __post_init__(self) -> None:
        self.size = len(self.middle)

    def value(self, z: Tensor) -> float:
        """The loss in nats."""
        return self.value_and_gradient(z)[0]

    def keeps_digits(self, value: float) -> bool:
        """Whether a value has the digits of the sum over rows, none lost to cancellation."""
        return abs(value) > MIN_VALUE_SHARE * self.magnitude

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)`."""
        away = z - self.middle
        bend = self.matrix @ away
        return self.base + float((self.slope + 0.5 * bend) @ away), self.slope + bend

    def hessian(self, _: Tensor) -> Tensor:
        """The Hessian `(K, K)`, everywhere the same."""
        return self.matrix

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """The loss, its gradient `(K,)` and its Hessian `(K, K)`."""
        return *self.value_and_gradient(z), self.matrix

    def sample(self) -> None:
        """None: its evaluations read no row."""

    def check(self, z: Tensor) -> None:
        """Nothing: it is bounded below."""


def parabola(coordinates: Coordinates) -> Parabola | None:
    """The loss as a quadratic in z, or None if it is another.

    It is one where all parameters are the coefficients of one predictor, which is the mean of a Normal
    response of one known scale, and no priors count; and where the columns are not close to dependent.
    """
    block = _only_block(coordinates)
    if block is None:
        return None
    objective, theta = coordinates.objective, torch.zeros_like(coordinates.objective.initial)
    response, bias = objective.structure.response, objective.sites.get(f"{block.predictor}.bias")
    sums = normal_equations(objective, block, response.row_scale, centred=bias is not None)
    if not _is_well_conditioned(sums.products):
        return None
    if bias is not None:
        theta[bias.place] = sums.centre
    spread, size = float(response.known_scale or 0.0), len(theta)
    slope, matrix = torch.zeros_like(theta), torch.zeros((size, size), dtype=theta.dtype)
    slope[block.places] = -sums.slopes / spread**2
    matrix[block.places[:, None], block.places] = sums.products / spread**2
    constant = sums.mass * (math.log(spread) + 0.5 * math.log(2 * math.pi))
    half = 0.5 * float(sums.squares) / spread**2
    z = coordinates.z(theta)
    return Parabola(z, half + constant, slope, matrix, coordinates.rows, half + abs(constant))


def _only_block(coordinates: Coordinates) -> Block | None:
    """The block of all parameters, if it is the mean of a Normal response of known scale without priors."""
    blocks, objective = coordinates.blocks, coordinates.objective
    if not coordinates.is_linear or len(blocks) != 1 or len(blocks[0].places) != coordinates.size:
        return None
    (block,) = blocks
    if block.output is not None or block.basis is None or not objective.structure.is_flat:
        return None
    line = line_of(objective)
    is_mean = line is not None and line.precision is not None and line.mean == block.predictor
    return block if is_mean else None


def _is_well_conditioned(products: Tensor) -> bool:
    """Whether products of columns `(P, P)` keep their digits: none is 0, and none close to dependent."""
    sizes = products.diagonal().sqrt()
    if not bool((sizes > 0).all() & torch.isfinite(products).all()):
        return False
    return float(torch.linalg.eigvalsh(products / sizes / sizes[:, None])[0]) >= MIN_EIGENVALUE
