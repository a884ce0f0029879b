"""Pinball losses of the residuals of one linear predictor, over one scale: `laplace` and `quantile`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.distributions.observed import corner
from neglog.fitting.medians import QuantileLine, quantile_line, scored_rows
from neglog.likelihood.sites import Site
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.corners import Cornered
from neglog.solvers.lines import Lines
from neglog.split.tensor import array_of

CACHE_KEY = "pinball"
"""The key of `Coordinates.read` under which the problem is stored."""


@dataclass(frozen=True, eq=False)
class Pinball:
    """A problem whose density is exp(-`height` pinball(r) / scale), as `InteriorPoint` sees it."""

    kinked: Cornered
    lines: Lines
    block: Block
    scale: Site | None
    height: float

    def value(self, z: Tensor, loss: float) -> float:
        """The loss in nats at `z`, whose line has this sum of pinball losses."""
        objective = self.kinked.objective.sample  # scale and constant are those of all rows
        eta = torch.zeros_like(objective.data.y)
        at = corner(objective.response(self.kinked.theta(z), {self.block.predictor: eta}))
        assert at is not None
        mass = float(self.lines.weights.sum())
        scale, constant = (float(number.reshape(-1)[0]) for number in (at.scale, at.constant))
        return self.height * loss / scale - mass * constant

    def check(self, z: Tensor) -> None:
        """Refuse a perfect fit.

        Raises:
            UnboundedLikelihoodError: see `neglog.objective.spread.check_bounded`.
        """
        self.kinked.check(z)

    def line(self, z: Tensor) -> Tensor:
        """The part of `z` that is the line."""
        return z[self.block.places]

    def whole(self, start: Tensor, line: Tensor, loss: float) -> Tensor:
        """`start` with this line and the scale that is best for its loss.

        d/dscale of W log(scale) + height · loss / scale = 0, W the sum of the weights, is height · loss / W.
        """
        z = start.clone()
        z[self.block.places] = line
        if self.scale is not None:
            least = torch.finfo(z.dtype).tiny ** 0.5
            mean = self.height * loss / float(self.lines.weights.sum())
            z[self.scale.place] = self.scale.transform.inv(torch.tensor(max(mean, least), dtype=z.dtype))
        return z


def pinball(coordinates: Coordinates) -> Pinball | None:
    """The problem as one of pinball losses, or None if it has anything else.

    It is one where the only parameters are the coefficients of one linear predictor with a fixed design and
    perhaps a scale, all under flat priors, and the response has a corner there and is straight on both sides.
    """
    if CACHE_KEY not in coordinates.read:
        coordinates.read[CACHE_KEY] = _pinball(coordinates)
    return coordinates.read[CACHE_KEY]


def _pinball(coordinates: Coordinates) -> Pinball | None:
    objective = coordinates.objective
    line = quantile_line(objective)
    block = None if line is None else _only_block(coordinates, line)
    if line is None or block is None or block.basis is None:
        return None
    rows = scored_rows(objective)
    if rows is None:
        return None
    y, factors = rows
    if isinstance(block.offset, Tensor) or block.offset:
        y = (torch.from_numpy(y) - block.offset).numpy()
    columns, one = block.basis.mixed()
    lines = Lines(array_of(columns), one, block.basis.transform.numpy(), y, factors, line.tau)
    return Pinball(Cornered.of(coordinates), lines, block, objective.sites.get(line.scale or ""), line.height)


def _only_block(coordinates: Coordinates, line: QuantileLine) -> Block | None:
    """The block of the line, if its coefficients and its scale are all parameters, and no prior counts."""
    objective, blocks = coordinates.objective, coordinates.blocks
    if (
        not (coordinates.is_linear and objective.layout.is_flat and objective.structure.is_flat)
        or len(blocks) != 1
    ):
        return None
    constants = set(objective.sites) - {line.bias, line.weight}
    is_only = constants == (set() if line.is_scale_fixed else {line.scale})
    return (
        blocks[0] if is_only and (blocks[0].predictor, blocks[0].output) == (line.predictor, None) else None
    )
