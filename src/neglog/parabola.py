"""Parabolas: a Normal line of known scale as a quadratic in its coefficients, read from the rows once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.blocks import Block
from neglog.coordinates import Coordinates
from neglog.objective import Objective
from neglog.predictors import RESPONSE
from neglog.quadratic import NORMAL
from neglog.tracing import Run, run

WELL = 1e-6
"""Columns whose scaled products have eigenvalues that span no more than this keep their digits in them."""


@dataclass(frozen=True, eq=False)
class Parabola:
    """`base` + `slope`ᵀ d + ½ dᵀ `matrix` d, d = z - `middle`, all `(K,)`: a smooth problem that reads no row.

    `rows` is how many rows it was read from.
    """

    middle: Tensor
    base: float
    slope: Tensor
    matrix: Tensor
    rows: int

    @property
    def size(self) -> int:
        return len(self.middle)

    def value(self, z: Tensor) -> float:
        """The loss in nats."""
        return self.value_and_gradient(z)[0]

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
    spread, residuals, weights = None, [], []
    for rows, part in coordinates.objective.parts:
        found = _normal(block, rows, part)
        if found is None or spread not in (None, found[0]):
            return None
        spread = found[0]
        residuals.append(found[1])
        weights.append(found[2])
    assert spread is not None
    return _of_sums(coordinates, block, spread, torch.cat(residuals), torch.cat(weights))


@torch.enable_grad()
def _normal(block: Block, rows: slice, part: Objective) -> tuple[float, Tensor, Tensor] | None:
    """The scale of some rows, what the line is to fit, and what each counts for; None if it is no such line."""
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
    offset = block.offset[rows] if isinstance(block.offset, Tensor) else block.offset
    return float(fn.scale.reshape(-1)[0]), site["value"] - offset, scale.expand(eta.shape)


def _of_sums(
    coordinates: Coordinates, block: Block, spread: float, y: Tensor, weights: Tensor
) -> Parabola | None:
    objective = coordinates.objective
    mass = float(weights.sum())
    theta = torch.zeros_like(objective.initial)
    site = objective.sites.get(f"{block.predictor}.bias")
    if site is not None:
        theta[site.place] = weights @ y / mass
        y = y - theta[site.place]
    products, sums = torch.zeros_like(block.triangle), torch.zeros_like(theta)
    for rows, _ in objective.parts:
        products += block.cross(weights[rows], block, rows)
        sums[block.places] += block.gather(weights[rows] * y[rows], rows)
    sizes = products.diagonal().sqrt()
    if not bool((sizes > 0).all() & torch.isfinite(products).all()):
        return None
    if float(torch.linalg.eigvalsh(products / sizes / sizes[:, None])[0]) < WELL:
        return None
    matrix = torch.zeros((len(theta), len(theta)), dtype=theta.dtype)
    matrix[block.places[:, None], block.places] = products / spread**2
    square = float((weights * y) @ y)
    base = 0.5 * square / spread**2 + mass * (math.log(spread) + 0.5 * math.log(2 * math.pi))
    return Parabola(coordinates.z(theta), base, -sums / spread**2, matrix, coordinates.rows)
