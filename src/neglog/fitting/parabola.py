"""Parabolas: a Normal line of known scale as a quadratic in its coefficients, read from the rows once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import NORMAL, Objective
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

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
    products, sums = torch.zeros_like(block.triangle), torch.zeros_like(theta)
    spreads, mass, square = set(), 0.0, 0.0
    for rows, part in objective.parts:
        line = _line(block, rows, part)
        if line is None:
            return None
        spread, y, weights = line
        spreads.add(spread)
        bias = objective.sites.get(f"{block.predictor}.bias")
        if bias is not None and not rows.start:
            theta[bias.place] = y.mean()  # of a part: about the middle is enough to keep digits
        y = y if bias is None else y - theta[bias.place]
        weighted = weights * y
        products += block.cross(weights, block, rows)
        sums[block.places] += block.gather(weighted, rows)
        mass, square = mass + float(weights.sum()), square + float(weighted @ y)
    sizes = products.diagonal().sqrt()
    if len(spreads) > 1 or not bool((sizes > 0).all() & torch.isfinite(products).all()):
        return None
    if float(torch.linalg.eigvalsh(products / sizes / sizes[:, None])[0]) < WELL:
        return None
    matrix = torch.zeros((len(theta), len(theta)), dtype=theta.dtype)
    matrix[block.places[:, None], block.places] = products / spread**2
    constant = mass * (math.log(spread) + 0.5 * math.log(2 * math.pi))
    base, magnitude = 0.5 * square / spread**2 + constant, 0.5 * square / spread**2 + abs(constant)
    return Parabola(coordinates.z(theta), base, -sums / spread**2, matrix, coordinates.rows, magnitude)


@torch.enable_grad()
def _line(block: Block, rows: slice, part: Objective) -> tuple[float, Tensor, Tensor] | None:
    """The scale of some rows, what the line is to fit, and what each counts for; None if it is no such line.

    It is told by identity: the distribution holds the very tensor that was handed to the model.
    """
    start = part.params(part.initial)
    params = {name: value.detach().requires_grad_() for name, value in start.items()}
    eta = torch.zeros_like(part.data.y)
    cut = run(part.weighted, part.data, Run(params, etas={block.predictor: eta}))
    site = cut.sites[RESPONSE]
    fn, scale = site["fn"], torch.as_tensor(site["scale"], dtype=eta.dtype).detach()
    if type(fn) not in NORMAL or site["mask"] is not None or not isinstance(cut.prior(), float):
        return None
    if fn.loc.data_ptr() != eta.data_ptr() or fn.loc.shape != eta.shape:
        return None
    if any(fn.scale.stride()) or fn.scale.requires_grad:
        return None
    y = site["value"]
    if isinstance(block.offset, Tensor) or block.offset:
        y = y - (block.offset[rows] if isinstance(block.offset, Tensor) else block.offset)
    return float(fn.scale.reshape(-1)[0]), y, scale.expand(eta.shape)
