"""Losses that are pinball losses of the residuals from one line, over one scale: `laplace` and `quantile`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.fitting.medians import masses, slopes
from neglog.kinks import alike, corner
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Site
from neglog.predictors import RESPONSE
from neglog.solvers.lines import Lines
from neglog.tracing import Run, run

READ = "pinball"
"""Where it is kept that coordinates were read so."""


@dataclass(frozen=True, eq=False)
class Pinball:
    """A problem whose density is exp(-`height` pinball(r) / scale), as `InteriorPoint` sees it."""

    kinked: Coordinates
    lines: Lines
    block: Block
    scale: Site | None
    height: float

    def value(self, z: Tensor, loss: float) -> float:
        """The loss in nats at `z`, whose line has this sum of pinball losses."""
        objective = self.kinked.objective.sample  # scale and constant are those of all rows
        eta = torch.zeros_like(objective.data.y)
        params = objective.params(self.kinked.theta(z))
        cut = run(objective.model, objective.data, Run(params, etas={self.block.predictor: eta}))
        at = corner(cut.sites[RESPONSE]["fn"])
        assert at is not None
        mass = float(self.lines.weights.sum())
        scale, constant = (float(number.reshape(-1)[0]) for number in (at.scale, at.constant))
        return self.height * loss / scale - mass * constant

    def check(self, z: Tensor) -> None:
        """Refuse a perfect fit.

        Raises:
            UnboundedLikelihoodError: see `Objective.check_bounded`.
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
    if READ not in coordinates.read:
        coordinates.read[READ] = _pinball(coordinates)
    return coordinates.read[READ]


def _pinball(coordinates: Coordinates) -> Pinball | None:
    objective, blocks = coordinates.objective, coordinates.blocks
    sites = objective.sites
    if objective.corner is None or objective.data.y.dim() != 1:
        return None
    if not coordinates.cut or len(blocks) != 1 or not all(site.masked for site in sites.values()):
        return None
    block = blocks[0]
    own = {f"{block.predictor}.bias", f"{block.predictor}.weight"}
    others = [site for name, site in sites.items() if name not in own]
    if block.output is not None or block.basis is None or len(others) > 1:
        return None
    params = objective.params(objective.initial)
    eta = torch.zeros_like(objective.data.y) + block.offset
    cut = run(objective.weighted, objective.data, Run(params, etas={block.predictor: eta}))
    at = corner(cut.sites[RESPONSE]["fn"])
    if at is None or at.bounds or at.loc.data_ptr() != eta.data_ptr() or not isinstance(cut.prior(), float):
        return None
    found, weights = slopes(at, eta.dtype), masses(cut.sites[RESPONSE], eta)
    if found is None or weights is None:
        return None
    steepness, tilt = found
    if others:
        if others[0].size != 1 or at.scale.data_ptr() != params[others[0].name].data_ptr():
            return None
    elif len(alike(at.scale).unique()) > 1:
        return None
    tau = 0.5 * (1 + tilt / steepness)
    y = cut.sites[RESPONSE]["value"]
    y = (y - block.offset if isinstance(block.offset, Tensor) or block.offset else y).numpy()
    columns, one = block.basis.mixed()
    lines = Lines(columns.numpy(), one, block.basis.transform.numpy(), y, weights, tau)
    return Pinball(coordinates, lines, block, others[0] if others else None, 2 * steepness)
