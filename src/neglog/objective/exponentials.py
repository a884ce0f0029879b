"""The Exponential priors of positive numbers, and the priors of constant density, by formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Exponential, Uniform

from neglog.distributions.family import elementwise, plain
from neglog.likelihood.sites import Site
from neglog.objective.objective import Objective


@dataclass(frozen=True)
class Exponentials:
    """Independent priors of some sites: Exponential ones of exp(theta), and those of constant density.

    Minus their log-density at theta is `rate`ᵀ exp(theta) + `constant`, with rates `(K,)` that are 0 at all
    other parameters.
    """

    sites: frozenset[str]
    rate: Tensor
    constant: float

    @cached_property
    def places(self) -> Tensor:
        """The positions `(E,)` of the parameters with an Exponential prior."""
        return self.rate.nonzero()[:, 0]

    def terms(self, theta: Tensor) -> Tensor:
        """`rate` exp(theta) `(K,)`: the gradient, and the diagonal of the Hessian, which is diagonal."""
        found = torch.zeros_like(theta)
        found[self.places] = self.rate[self.places] * theta[self.places].exp()
        return found


def exponential_priors(objective: Objective) -> Exponentials:
    """The priors of an objective of these kinds whose parameters do not depend on others."""
    found, rate, constant = set(), torch.zeros_like(objective.initial), 0.0
    for name, site in objective.sites.items():
        if site.masked or site.scaled or not objective.structure.is_fixed(name):
            continue
        fn = plain(elementwise(site.fn))
        if _is_exponential(fn, site):
            found.add(name)
            rates = fn.rate.detach().expand(site.shape).reshape(-1).to(rate)
            rate[site.place], constant = rates, constant - float(rates.log().sum())
        elif _is_constant(fn):
            found.add(name)
            constant -= float(site.fn.log_prob(site.initial).sum())
    return Exponentials(frozenset(found), rate, constant)


def _is_exponential(fn: Any, site: Site) -> bool:
    """Whether a prior is Exponential, of the exponential of the parameter, and has a fixed rate."""
    if not _has_density_of(fn, Exponential) or fn.rate.requires_grad or site.shape != site.unconstrained:
        return False
    one = torch.ones(site.unconstrained, dtype=site.initial.dtype)
    return bool(torch.allclose(site.transform(one), math.e * one))


def _is_constant(fn: Any) -> bool:
    """Whether the density of a prior is the same at all values, and at all parameters."""
    if _has_density_of(fn, Uniform):
        return not (fn.low.requires_grad or fn.high.requires_grad)
    if _has_density_of(fn, Beta):
        return bool((fn.concentration0 == 1).all() & (fn.concentration1 == 1).all())
    return _has_density_of(fn, Dirichlet) and bool((fn.concentration == 1).all())


def _has_density_of(fn: Any, kind: Any) -> bool:
    """Whether a prior is of a kind, or of a class derived from it that has the same density."""
    return isinstance(fn, kind) and type(fn).log_prob is kind.log_prob
