"""Kinks: where a log-density has a corner, and handlers that round it off or take one side of it.

A Laplace density, of the observation or of a prior, has its corner where the value meets the location; so
has the asymmetric one. With u = (value - location) / scale both are exp(-a |u| - b u) over a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from neglog.distributions import AsymmetricLaplace
from neglog.handlers import Model


@dataclass(frozen=True)
class Corner:
    """A log-density -`steepness` · |u| - `tilt` · u + `constant` in u = (value - `loc`) / `scale`."""

    base: Any
    loc: Tensor
    scale: Tensor
    steepness: float | Tensor
    tilt: float | Tensor
    constant: Tensor

    @property
    def information(self) -> float | Tensor:
        """The expected squared score in the location, in units of 1 / scale²."""
        return self.steepness**2 - self.tilt**2


def corner(fn: Any) -> Corner | None:
    """The corner of a density, looking through what only reshapes it; None if it is smooth."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, torch.distributions.Laplace):
        return Corner(fn, fn.loc, fn.scale, 1.0, 0.0, -torch.log(2 * fn.scale))
    if isinstance(fn, AsymmetricLaplace):
        # pinball(u) = u (tau - 1[u < 0]) = |u| / 2 + (tau - 1/2) u
        constant = torch.log(fn.tau) + torch.log1p(-fn.tau) - torch.log(fn.scale)
        return Corner(fn, fn.loc, fn.scale, 0.5, fn.tau - 0.5, constant)
    return None


class _Relaxed(TorchDistribution):
    """A density with a corner, its |u| replaced by another function of u.

    It is not normalised, on purpose: at u ≫ softness it equals the density it stands in for.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real

    def __init__(self, corner: Corner) -> None:
        self.corner = corner
        super().__init__(corner.base.batch_shape, corner.base.event_shape, validate_args=False)

    @property
    def variance(self) -> Tensor:
        return self.corner.base.variance

    def size(self, u: Tensor) -> Tensor:
        raise TypeError("a subclass says what stands in for |u|")

    def log_prob(self, value: Tensor) -> Tensor:
        c = self.corner
        u = (value - c.loc) / c.scale
        return c.constant - c.steepness * self.size(u) - c.tilt * u


class _Soft(_Relaxed):
    def __init__(self, corner: Corner, softness: float) -> None:
        super().__init__(corner)
        self.softness = softness

    def size(self, u: Tensor) -> Tensor:
        return torch.sqrt(u**2 + self.softness**2)


class _Signed(_Relaxed):
    def __init__(self, corner: Corner, sign: Tensor) -> None:
        super().__init__(corner)
        self.sign = sign

    def size(self, u: Tensor) -> Tensor:
        return self.sign * u


class _Relax(Messenger):
    def __init__(self, softness: float | None, signs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.softness, self.signs = softness, signs

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        found = corner(msg["fn"])
        if found is None:
            return
        if self.softness is not None:
            relaxed: _Relaxed = _Soft(found, self.softness)
        elif msg["name"] in self.signs:
            relaxed = _Signed(found, self.signs[msg["name"]])
        else:
            return
        msg["fn"] = relaxed.to_event(len(msg["fn"].event_shape))


def smoothed(model: Model, softness: float) -> Model:
    """The model with each corner's |u| replaced by sqrt(u² + softness²), u in units of its scale."""
    return _Relax(softness, {})(model)


def signed(model: Model, signs: Mapping[str, Tensor]) -> Model:
    """The model with each corner's |u| replaced by sign · u at the named sites."""
    return _Relax(None, signs)(model)
