"""Kinks: where a log-density has a corner, and handlers that round it off or take one side of it.

A Laplace density, of the observation or of a prior, has its corner where the value meets the location; so
have the asymmetric one, the elastic net's and one made from a loss with a corner at 0. With
u = (value - location) / scale each is exp(-a |u| - s(u)) over a constant, with s smooth at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.corners import Corner
from neglog.distributions.observed import bounds_of, corner, unwrapped
from neglog.handlers import Model, is_parameter


def cornered(fn: Any, value: Tensor) -> Tensor:
    """Which entries of a value the corner acts on: those that were not censored."""
    seen = torch.ones_like(value, dtype=torch.bool)
    for bound in unwrapped(fn)[0]:
        seen = seen & bound.shows(value)
    return seen


class _Relaxed(TorchDistribution):
    """A density with a corner, its |u| replaced by another function of u.

    It is not normalised, on purpose: at u ≫ softness it equals the density that it replaces.
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
        raise TypeError("a subclass defines the replacement of |u|")

    def log_prob(self, value: Tensor) -> Tensor:
        c = self.corner
        u = (value - c.loc) / c.scale
        return c.constant - c.steepness * self.size(u) - c.smooth(u)


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


class _Sharpen(Messenger):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    @property
    def row_key(self) -> Any:
        """A key of how the handler changes the density of the rows, which it leaves as it is."""
        return (type(self),)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        found = corner(msg["fn"]) if is_parameter(msg) else None
        if found is None or found.is_bounded or found.sharper is None:
            return
        msg["fn"] = found.sharper(self.strength).to_event(len(msg["fn"].event_shape))


class _Relax(Messenger):
    def __init__(self, softness: float | None, signs: Mapping[str, Tensor], bounded: bool = True) -> None:
        super().__init__()
        self.softness, self.signs, self.bounded = softness, signs, bounded

    @property
    def row_key(self) -> Any:
        """A key of how the handler changes the density of the rows; None where it holds tensors."""
        return None if self.signs else (type(self), self.softness, self.bounded)

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
        msg["fn"] = _around(msg["fn"], relaxed, self.bounded)


def _around(fn: Any, relaxed: _Relaxed, bounded: bool) -> Any:
    """The relaxed density with the dimensions and the bounds of the one that it replaces."""
    if (bound := bounds_of(fn)) is not None:
        inside = _around(bound.base_dist, relaxed, bounded)
        return inside if bound.truncates and not bounded else bound.around(inside)
    return relaxed.to_event(len(fn.event_shape))


def smoothed(model: Model, softness: float, bounded: bool = True) -> Model:
    """The model with each corner's |u| replaced by sqrt(u² + softness²), u in units of its scale.

    Without `bounded` it is that of a response that was not truncated.
    """
    return _Relax(softness, {}, bounded)(model)


def signed(model: Model, signs: Mapping[str, Tensor]) -> Model:
    """The model with each corner's |u| replaced by sign · u at the named sites."""
    return _Relax(None, signs)(model)


def sharpened(model: Model, strength: float) -> Model:
    """The model with l1 and l2 of its Laplace and elastic-net priors multiplied by `strength`."""
    return _Sharpen(strength)(model)
