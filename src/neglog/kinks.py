"""Kinks: where a log-density has a corner, and handlers that round it off or take one side of it.

A Laplace density, of the observation or of a prior, has its corner where the value meets the location.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from neglog.handlers import Model


def kinked_part(fn: Any) -> dist.Laplace | None:
    """The Laplace distribution inside `fn`, or None if `fn` is not one."""
    while isinstance(fn, dist.Independent | torch.distributions.Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn if isinstance(fn, torch.distributions.Laplace) else None


class _Relaxed(TorchDistribution):
    """A Laplace log-density with |r| replaced by another function of r = (value - location) / scale.

    It is not normalised, on purpose: at r ≫ softness it equals the density it stands in for.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real

    def __init__(self, base: dist.Laplace) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def size(self, r: Tensor) -> Tensor:
        raise TypeError("a subclass says what stands in for |r|")

    def log_prob(self, value: Tensor) -> Tensor:
        r = (value - self.base.loc) / self.base.scale
        return -self.size(r) - torch.log(2 * self.base.scale)


class _Soft(_Relaxed):
    def __init__(self, base: dist.Laplace, softness: float) -> None:
        super().__init__(base)
        self.softness = softness

    def size(self, r: Tensor) -> Tensor:
        return torch.sqrt(r**2 + self.softness**2)


class _Signed(_Relaxed):
    def __init__(self, base: dist.Laplace, sign: Tensor) -> None:
        super().__init__(base)
        self.sign = sign

    def size(self, r: Tensor) -> Tensor:
        return self.sign * r


class _Relax(Messenger):
    def __init__(self, softness: float | None, signs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.softness, self.signs = softness, signs

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        base = kinked_part(msg["fn"])
        if base is None:
            return
        if self.softness is not None:
            relaxed: _Relaxed = _Soft(base, self.softness)
        elif msg["name"] in self.signs:
            relaxed = _Signed(base, self.signs[msg["name"]])
        else:
            return
        msg["fn"] = relaxed.to_event(len(msg["fn"].event_shape))


def smoothed(model: Model, softness: float) -> Model:
    """The model with each Laplace |r| replaced by sqrt(r² + softness²), r in units of its scale."""
    return _Relax(softness, {})(model)


def signed(model: Model, signs: Mapping[str, Tensor]) -> Model:
    """The model with each Laplace |r| replaced by sign · r at the named sites."""
    return _Relax(None, signs)(model)
