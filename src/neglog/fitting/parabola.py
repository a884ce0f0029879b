"""Parabolas: a Normal line of known scale as a quadratic in its coefficients, read from the rows once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.fitting.least_squares import line_of
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective

CANCELLED = 1e-3
"""Values below this share of what they are differences of are added up row by row."""
WELL = 1e-6
"""Columns whose scaled products have eigenvalues that span no more than this keep their digits in them."""


@dataclass(eq=False)
class Parabola:
    """`base` + `slope`ᵀ d + ½ dᵀ `matrix` d, d = z - `middle`: a smooth problem that reads no row.

    Shapes: `middle` and `slope` `(K,)`, `matrix` `(K, K)`. `rows` is how many rows it was read from, and
    `magnitude` what `base` is a sum of.
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
        """Whether a value has the digits of the sum over rows, and has not lost them to differences."""
        return abs(value) > CANCELLED * self.magnitude

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
        """None: it costs nothing as it is."""

    def check(self, z: Tensor) -> None:
        """Nothing: it does not fall without end."""


def parabola(coordinates: Coordinates) -> Parabola | None:
    """The loss as a quadratic in z, or None if it is another.

    It is one where all parameters are the coefficients of one predictor, which is the mean of a Normal
    response of one known scale, and no priors count; and where the columns are not close to dependent.
    """
    blocks = coordinates.blocks
    if not coordinates.cut or len(blocks) != 1 or len(blocks[0].places) != coordinates.size:
        return None
    (block,) = blocks
    if block.output is not None or block.basis is None or coordinates.objective.data.y.dim() != 1:
        return None
    objective, theta = coordinates.objective, torch.zeros_like(coordinates.objective.initial)
    line = line_of(objective) if objective.structure.is_flat else None
    if line is None or line.precision is None or line.mean != block.predictor:
        return None
    response = objective.structure.response
    spread, factor = float(response.known_scale or 0.0), response.row_scale
    products, sums = torch.zeros_like(block.triangle), torch.zeros_like(theta)
    mass, square = 0.0, 0.0
    for rows, part in objective.parts:
        y, weights = _weighted_response(block, rows, part)
        weights = factor * weights
        bias = objective.sites.get(f"{block.predictor}.bias")
        if bias is not None and not rows.start:
            theta[bias.place] = y.mean()  # of a part: about the middle is enough to keep digits
        y = y if bias is None else y - theta[bias.place]
        weighted = weights * y
        products += block.cross(weights, block, rows)
        sums[block.places] += block.gather(weighted, rows)
        mass, square = mass + float(weights.sum()), square + float(weighted @ y)
    sizes = products.diagonal().sqrt()
    if not bool((sizes > 0).all() & torch.isfinite(products).all()):
        return None
    if float(torch.linalg.eigvalsh(products / sizes / sizes[:, None])[0]) < WELL:
        return None
    matrix = torch.zeros((len(theta), len(theta)), dtype=theta.dtype)
    matrix[block.places[:, None], block.places] = products / spread**2
    constant = mass * (math.log(spread) + 0.5 * math.log(2 * math.pi))
    base, magnitude = 0.5 * square / spread**2 + constant, 0.5 * square / spread**2 + abs(constant)
    return Parabola(coordinates.z(theta), base, -sums / spread**2, matrix, coordinates.rows, magnitude)


def _weighted_response(block: Block, rows: slice, part: Objective) -> tuple[Tensor, Tensor]:
    """What the line is to fit in some rows, and what each counts for, both `(N,)`."""
    y = part.data.y
    if isinstance(block.offset, Tensor) or block.offset:
        y = y - (block.offset[rows] if isinstance(block.offset, Tensor) else block.offset)
    return y, torch.ones_like(y) if part.data.weights is None else part.data.weights
