"""Canonical families: the law of a distribution, whichever class and wrappers it is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from neglog.distributions.classes import Categorical
from neglog.distributions.counts import Bernoulli, Binomial, Poisson
from neglog.distributions.positive import Beta, Gamma, LogNormal, Weibull
from neglog.distributions.robust import Laplace, Normal, StudentT

SAME_LAW: Mapping[type, Callable[[Any], Any]] = {
    Normal: lambda d: Normal(d.loc, d.scale),
    Laplace: lambda d: Laplace(d.loc, d.scale),
    StudentT: lambda d: StudentT(d.df, d.loc, d.scale),
    LogNormal: lambda d: LogNormal(d.loc, d.scale),
    Gamma: lambda d: Gamma(d.concentration, d.rate),
    Weibull: lambda d: Weibull(d.scale, d.concentration),
    Beta: lambda d: Beta(d.concentration1, d.concentration0),
    Poisson: lambda d: Poisson(d.rate),
    Bernoulli: lambda d: Bernoulli(logits=d.logits),
    Binomial: lambda d: Binomial(d.total_count, logits=d.logits),
}
"""Family of neglog -> its construction from the distribution of the same name in Pyro and in torch."""
OURS: Mapping[type, type] = {
    getattr(module, kind.__name__): kind
    for kind in (*SAME_LAW, Categorical)
    for module in (dist, torch.distributions)
}
"""Class of Pyro or torch -> the family of neglog with the same law and the same parameters."""
EXPONENTIAL = (dist.Exponential, torch.distributions.Exponential)


def plain(fn: Any) -> Any:
    """The distribution without wrappers that change nothing: masks that mask nothing, `to_event(0)`."""
    while True:
        if isinstance(fn, MaskedDistribution):
            mask = torch.as_tensor(fn._mask)
            if any(mask.stride()) or not bool(mask.all()):
                return fn
        elif not (isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == 0):
            return fn
        fn = fn.base_dist


def family(fn: Any) -> type:
    """The family of a distribution: neglog's class of its law, if there is one, or else its own class."""
    return OURS.get(type(fn), type(fn))


def tailed(fn: Any) -> Any:
    """A distribution as the family of neglog of the same law, if there is one, or else as it is.

    The tails of these keep their digits.
    """
    if type(fn) in EXPONENTIAL:
        return Weibull(1 / fn.rate, torch.ones_like(fn.rate))
    made = SAME_LAW.get(family(fn))
    return fn if made is None or type(fn) in SAME_LAW else made(fn)


def location_of(fn: Any) -> Tensor | None:
    """The location of a distribution, where it has a parameter of that meaning."""
    return getattr(fn, "location", getattr(fn, "loc", None))
