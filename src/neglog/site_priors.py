"""A prior in the place of a site's own: its support, its shape and its precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints

from neglog.arguments import shown
from neglog.calls import public
from neglog.distributions.parameters import in_dtype, parameters
from neglog.errors import ModelError
from neglog.isolation import user_code

SPREAD = 3.0
"""Half-width of the interval of unconstrained values at which one support is compared with another."""


def fitted_prior(name: str, prior: dist.Distribution, current: dist.Distribution) -> dist.Distribution:
    """`prior`, expanded to the shape of the site's `current` distribution and as precise as that.

    A site without elements, such as the weights of a null model, has no density, and keeps its own.

    Raises:
        ModelError: it is discrete, has values outside the support of the site, or does not expand.
    """
    if current.shape().numel() == 0:
        return current
    if any(parameter.dtype == torch.float64 for parameter in parameters(current)):
        prior = in_dtype(prior, torch.float64)  # Gamma, among others, casts values to its own dtype
    expanded = _expanded(name, prior, current)
    _check_support(name, expanded, current)
    return expanded


def _expanded(name: str, prior: dist.Distribution, current: dist.Distribution) -> dist.Distribution:
    shape = current.batch_shape + current.event_shape
    try:
        if prior.batch_shape + prior.event_shape != shape:
            prior = prior.expand(shape[: len(shape) - len(prior.event_shape)])
        return prior.to_event(current.event_dim - prior.event_dim)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the prior for `{name}` has the shape {tuple(prior.batch_shape + prior.event_shape)}, which "
            f"does not expand to the site's {tuple(shape)}."
        ) from error


def _check_support(name: str, prior: dist.Distribution, current: dist.Distribution) -> None:
    if is_real(current.support) and not prior.support.is_discrete:
        return
    if not prior.support.is_discrete:
        transform = biject_to(prior.support)
        middle = torch.zeros(transform.inverse_shape(prior.shape()))
        values = [transform(middle + shift) for shift in (-SPREAD, 0.0, SPREAD)]
        if all(bool(current.support.check(value).all()) for value in values):
            return
    where = "the whole real line" if is_real(prior.support) else base_support(prior.support)
    raise ModelError(
        f"the prior for `{name}` has values outside the site's support: it is on {where}, and "
        f"`{name}` on {base_support(current.support)}. Use a distribution on that support, such "
        "as HalfNormal or LogNormal for a positive number."
    )


def base_support(support: constraints.Constraint) -> constraints.Constraint:
    """The support of a number, or of numbers bound to each other, behind the dimensions of events."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


@public
def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is all real numbers, or all real vectors."""
    return base_support(support) is constraints.real


def check_prior(prior: Any) -> None:
    """Refuse anything but a function from a parameter's value to its prior, or None.

    Raises:
        ModelError: it is something else, such as a distribution.
    """
    if prior is not None and (not callable(prior) or isinstance(prior, type | Distribution)):
        raise ModelError(
            "`prior` must be a function from a parameter's value to its prior, such as "
            f"lambda value: dist.Normal(0.0, 1.0); it is {shown(prior)}."
        )


def prior_of(prior: Callable[[Tensor], Any], value: Tensor) -> dist.Distribution:
    """The prior of a parameter of a network.

    Raises:
        ModelError: the function gives no distribution, or refuses the value.
    """
    with user_code("`prior`, called on a parameter of `module`,"):
        found = prior(value)
    if not isinstance(found, Distribution):
        raise ModelError(f"`prior` must return a distribution; it returned {shown(found)}.")
    return found
