"""Corners: a nonsmooth problem, whose loss has absolute values of linear predictors or of parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from neglog.handlers import Model
from neglog.kinks import Corner, corner, cornered, signed, smoothed
from neglog.objective.blocks import joined
from neglog.objective.coordinates import Coordinates
from neglog.objective.followed_rows import followed
from neglog.predictors import RESPONSE


class Cornered(Coordinates):
    """A problem whose corners are Laplace densities in a linear predictor or of a prior (`polyhedral`).

    Implements `neglog.solvers.solution.Kinked`.
    """

    @staticmethod
    def of(coordinates: Coordinates) -> Cornered:
        """The problem in other coordinates, with its corners."""
        return Cornered(coordinates.objective, coordinates.blocks, coordinates.is_linear)

    @property
    def convex(self) -> bool:
        """Whether a stationary point is an optimum; not for a truncated response.

        Its loss is also flat far from the optimum, beyond the bounds.
        """
        at = self.objective.structure.corner
        return at is None or not at.is_truncated

    def check(self, z: Tensor) -> str | None:
        """As by `Coordinates.check`; the reason of a slow decrease too, for a response of one number.

        Priors may stop the spread of followed rows at an optimum.

        Raises:
            UnboundedLikelihoodError: see `check_bounded`.
        """
        lost = super().check(z)
        if lost is not None or not self.objective.layout.is_flat:
            return lost
        return followed(self.objective, self.theta(z), self.etas(z))

    def _changed(self, handler: Callable[[Model], Model]) -> Coordinates:
        return Coordinates(self.objective.changed(handler), self.blocks, self.is_linear)

    def smoothed(self, softness: float, bounded: bool = True) -> Coordinates:
        """The problem with smoothed corners; without `bounded` that of the response without truncation."""
        return self._changed(lambda model: smoothed(model, softness, bounded))

    def signed(self, signs: Tensor) -> Coordinates:
        """The same problem on one side of each corner; `signs` `(M,)` in the order of `residuals`."""
        parts, at = {}, 0
        for name, own in self._kinks.items():
            size = int(own.sum())
            parts[name] = signs.new_ones(own.shape).masked_scatter(own, signs[at : at + size])
            at += size
        return self._changed(lambda model: signed(model, parts))

    @cached_property
    def _kinks(self) -> dict[str, Tensor]:
        """Which entries of the sites with corners have one, the observation first."""
        sites = self.objective.at(self.objective.initial).sites
        names = ([RESPONSE] if self.kinked_predictor else []) + list(self.objective.structure.prior_corners)
        return {name: cornered(sites[name]["fn"], sites[name]["value"]) for name in names}

    def _corners(self, z: Tensor) -> dict[str, tuple[Tensor, Corner]]:
        """The value and the corner of each site that has one."""
        with torch.no_grad():
            run = self.objective.at(self.theta(z), joined(self.etas(z)))
        found = {}
        for name in self._kinks:
            at = corner(run.sites[name]["fn"])
            assert at is not None
            found[name] = (run.sites[name]["value"], at)
        return found

    def residuals(self, z: Tensor) -> Tensor:
        """The distances from the corners in units of their scales, `(M,)`."""
        return torch.cat(
            [((v - at.loc) / at.scale)[self._kinks[n]] for n, (v, at) in self._corners(z).items()]
        )

    def jacobian(self, z: Tensor) -> Tensor:
        """The derivatives `(M, K)` of the residuals at fixed scales."""
        parts = []
        for name, (value, at) in self._corners(z).items():
            rows = torch.zeros((value.numel(), self.size), dtype=z.dtype)
            if name == RESPONSE:
                block = next(b for b in self.blocks if b.name == self.kinked_predictor)
                assert block.basis is not None
                rows[:, block.places] = -block.basis.dense()
            else:
                site = self.objective.sites[name]
                identity = torch.zeros((self.size, site.size), dtype=z.dtype)
                identity[site.place] = torch.eye(site.size, dtype=z.dtype)
                rows = self.pull_back(identity).T
            scale = at.scale.expand(value.shape).reshape(-1)
            parts.append((rows / scale[:, None])[self._kinks[name].reshape(-1)])
        return torch.cat(parts)

    def kink_weights(self) -> Tensor:
        """The weight of each |residual|, `(M,)`."""
        return self._each_row(lambda at: at.steepness)

    def kink_information(self) -> Tensor:
        """The expected information of each residual on its location, `(M,)`, in its units."""
        return self._each_row(lambda at: at.information)

    def _each_row(self, number: Callable[[Corner], float | Tensor]) -> Tensor:
        weights, parts = self.objective.data.weights, []
        for name, (value, at) in self._corners(self.z(self.objective.initial)).items():
            each = torch.as_tensor(number(at)).to(value).expand(value.shape).reshape(-1)
            each = each * weights if name == RESPONSE and weights is not None else each
            parts.append(each[self._kinks[name].reshape(-1)])
        return torch.cat(parts)
