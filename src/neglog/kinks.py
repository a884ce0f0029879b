"""Kinks: where a log-density has a corner, and handlers that round it off or take one side of it.

A Laplace density, of the observation or of a prior, has its corner where the value meets the location; so
have the asymmetric one, the elastic net's and one made from a loss with a corner at 0. With
u = (value - location) / scale each is exp(-a |u| - s(u)) over a constant, with s smooth at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from neglog.distributions import AsymmetricLaplace, Censored, ElasticNet, FromLoss, Laplace, Truncated
from neglog.errors import ModelError
from neglog.handlers import Model, is_parameter


@dataclass(frozen=True)
class Corner:
    """A log-density -`steepness` · |u| - `smooth(u)` + `constant` in u = (value - `loc`) / `scale`.

    `expected` is the expected squared score in the location, in units of 1 / scale²; `skew` that of both
    scores' product in location and scale.
    """

    base: Any
    loc: Tensor
    scale: Tensor
    steepness: float | Tensor
    smooth: Callable[[Tensor], Tensor | float]
    constant: Tensor
    expected: float | Tensor
    skew: float = 0.0
    bounds: tuple[type, ...] = ()
    """The bounds around it, `Censored` or `Truncated`, which leave only a part of it."""

    @property
    def information(self) -> float | Tensor:
        """The expected information of a row on its location, in units of 1 / scale².

        Raises:
            ModelError: the location and the scale are not orthogonal, as under an asymmetric loss.
        """
        if abs(self.skew) > 1e-8:
            raise ModelError(
                "an asymmetric loss with a corner has no standard errors by curvature; bootstrap the rows."
            )
        return self.expected


def corner(fn: Any) -> Corner | None:
    """The corner of a density, looking through what reshapes or bounds it; None if it is smooth."""
    bounds: tuple[type, ...] = ()
    while isinstance(fn, Independent | MaskedDistribution | Censored | Truncated):
        bounds = (*bounds, type(fn)) if isinstance(fn, Censored | Truncated) else bounds
        fn = fn.base_dist
    found = _corner(fn)
    return None if found is None else replace(found, bounds=bounds)


def cornered(fn: Any, value: Tensor) -> Tensor:
    """Which entries of a value the corner acts on: those that were not censored."""
    seen = torch.ones_like(value, dtype=torch.bool)
    while isinstance(fn, Independent | MaskedDistribution | Censored | Truncated):
        seen = seen & fn.within(value) if isinstance(fn, Censored) else seen
        fn = fn.base_dist
    return seen


def _corner(fn: Any) -> Corner | None:
    if isinstance(fn, torch.distributions.Laplace):
        constant = -torch.log(2 * alike(fn.scale)).expand(fn.scale.shape)
        return Corner(fn, fn.loc, fn.scale, 1.0, lambda u: 0.0, constant, 1.0)
    if isinstance(fn, AsymmetricLaplace):
        # pinball(u) = u (tau - 1[u < 0]) = |u| / 2 + (tau - 1/2) u
        tau = alike(fn.tau)
        constant = torch.log(tau) + torch.log1p(-tau) - torch.log(alike(fn.scale))
        tilt, constant = tau - 0.5, constant.expand(fn.scale.shape)
        return Corner(fn, fn.loc, fn.scale, 0.5, lambda u: tilt * u, constant, tau * (1 - tau))
    if isinstance(fn, ElasticNet):
        return _corner_of_elastic_net(fn)
    if isinstance(fn, FromLoss) and (fn.density.steepness or fn.density.cornered):
        return _corner_of_loss(fn)
    return None


def alike(values: Tensor) -> Tensor:
    """The one number of a tensor that repeats it, or else the tensor."""
    return values if any(values.stride()) or not values.numel() else values.reshape(-1)[0]


def _corner_of_elastic_net(fn: ElasticNet) -> Corner:
    curvature, constant = fn.l2 / fn.l1**2, -fn.log_normaliser
    # By parts, E (l1 sign + l2 d)² = l2 + 2 l1 / Z.
    expected = curvature + 2 * torch.exp(constant) / fn.l1
    return Corner(fn, fn.location, 1 / fn.l1, 1.0, lambda u: 0.5 * curvature * u * u, constant, expected)


def _corner_of_loss(fn: FromLoss) -> Corner:
    density = fn.density
    if (
        density.cornered
    ):  # A location of its own says that the corner is at no predictor: nothing certifies it.
        constant, own = -torch.log(fn.scale) - density.log_z, fn.location.clone()
        return Corner(fn, own, fn.scale, 0.0, density.rho, constant, density.information)

    def smooth(u: Tensor) -> Tensor:
        # Exactly at 0 autograd takes whichever slope the loss was written with; beside it there is but one.
        beside = torch.where(u == 0, u + torch.finfo(u.dtype).tiny, u)
        return density.rho(beside) - density.steepness * beside.abs()

    constant = -torch.log(fn.scale) - density.log_z
    return Corner(
        fn,
        fn.location,
        fn.scale,
        density.steepness,
        smooth,
        constant,
        density.information,
        density.skew_information,
    )


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

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        found = corner(msg["fn"]) if is_parameter(msg) else None
        if found is None or found.bounds:
            return
        base, s = found.base, self.strength
        if isinstance(base, ElasticNet):
            sharper: Any = ElasticNet(base.location, s * base.l1, s * base.l2)
        elif isinstance(base, torch.distributions.Laplace):
            sharper = Laplace(base.loc, base.scale / s)
        else:
            return
        msg["fn"] = sharper.to_event(len(msg["fn"].event_shape))


class _Relax(Messenger):
    def __init__(self, softness: float | None, signs: Mapping[str, Tensor], bounded: bool = True) -> None:
        super().__init__()
        self.softness, self.signs, self.bounded = softness, signs, bounded

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
    if isinstance(fn, Censored | Truncated):
        inside = _around(fn.base_dist, relaxed, bounded)
        return fn.around(inside) if bounded or isinstance(fn, Censored) else inside
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
