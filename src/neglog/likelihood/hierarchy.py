"""Hierarchies: which priors of a traced run depend on other latent sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import elementwise
from neglog.distributions.parameters import parameters
from neglog.tracing import Run

Parents = dict[str, dict[str, Tensor]]


def prior_parents(ran: Run, leaves: Mapping[str, Tensor]) -> Parents:
    """The latent sites on which the priors of others depend, of a run under autograd.

    Args:
        ran: the run.
        leaves: site -> the values from which its own were computed, which require gradients.

    Returns:
        Latent site -> site on which its prior depends -> the gradient of its log prior, at the location of
        the prior, in the leaf of that site.
    """
    found: Parents = {}
    for name in leaves:
        msg = ran.sites[name]
        if any(parameter.requires_grad for parameter in parameters(msg["fn"])):
            density = msg["fn"].log_prob(centre(msg)).sum()
            found[name] = slopes(density, {other: leaf for other, leaf in leaves.items() if other != name})
    return {name: others for name, others in found.items() if others}


def centre(msg: Mapping[str, Any]) -> Tensor:
    """The location of a site's prior: its mean or, without one, its `loc`; else a given value."""
    fn = msg["fn"]
    inner = elementwise(fn)
    for source, name in ((fn, "mean"), (inner, "loc")):
        try:
            value = getattr(source, name).detach()
        except (AttributeError, NotImplementedError):
            continue
        inside = torch.isfinite(value).all() and fn.support.check(value).all()
        if value.shape == fn.shape() and bool(inside):
            return value
    return torch.zeros(fn.shape()) if msg["value"] is None else msg["value"].detach()


def slopes(value: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site -> the gradient of a scalar in its leaf, of those on which it depends."""
    if not (value.requires_grad and leaves):
        return {}
    every = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {name: slope for name, slope in zip(leaves, every, strict=True) if slope is not None}
