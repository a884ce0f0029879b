"""Sites: the positions of the parameters of a model in the vector theta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from neglog.errors import ModelError
from neglog.handlers import is_parameter, is_real
from neglog.predictors import RESPONSE
from neglog.tracing import Run


@dataclass(frozen=True)
class Site:
    """A latent site: the positions of its unconstrained values in theta, and the transform to its support."""

    name: str
    shape: torch.Size
    unconstrained: torch.Size
    transform: Transform
    offset: int
    masked: bool
    started: bool
    begun: bool
    fn: Any = field(repr=False)

    @property
    def size(self) -> int:
        """The number of unconstrained coordinates."""
        return self.unconstrained.numel()

    @property
    def place(self) -> slice:
        """The coordinates of the site in the unconstrained vector."""
        return slice(self.offset, self.offset + self.size)

    @property
    def is_real(self) -> bool:
        """Whether the site is its own unconstrained value."""
        return is_real(self.fn.support)

    @property
    def is_correlation(self) -> bool:
        """Whether the site is the Cholesky factor of a correlation matrix."""
        return self.fn.support is constraints.corr_cholesky


@dataclass(frozen=True, eq=False)
class Layout:
    """The vector `theta` `(K,)` of unconstrained parameters: the values of the sites, one behind the other.

    Attributes:
        sites: the latent sites, in the order in which the model samples them.
        dtype: that of the vector.
    """

    sites: Mapping[str, Site]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """The number K of unconstrained coordinates."""
        return sum(site.size for site in self.sites.values())

    @cached_property
    def is_flat(self) -> bool:
        """Whether the prior of no parameter counts, as under `flat`."""
        return all(site.masked for site in self.sites.values())

    def theta(self, params: Mapping[str, Tensor]) -> Tensor:
        """The vector of a full set of constrained values."""
        parts = [
            site.transform.inv(params[name].to(self.dtype)).reshape(-1) for name, site in self.sites.items()
        ]
        return torch.cat(parts).detach()

    def params(self, theta: Tensor) -> dict[str, Tensor]:
        """Site name -> value on its own support; differentiable in `theta`."""
        return {
            name: site.transform(theta[site.place].reshape(site.unconstrained))
            for name, site in self.sites.items()
        }


def places_of(sites: Iterable[Site]) -> Tensor:
    """The positions `(C,)` in theta of all values of some sites."""
    return torch.cat([torch.arange(0), *(torch.arange(site.place.start, site.place.stop) for site in sites)])


def lay_out(first: Run) -> dict[str, Site]:
    """The latent sites of a run, in the order in which the model samples them.

    Raises:
        ModelError: one of them is inside the plate of rows.
    """
    sites: dict[str, Site] = {}
    offset = 0
    for name, msg in first.sites.items():
        if msg["is_observed"] or name == RESPONSE:
            continue
        if not is_parameter(msg):
            raise ModelError(f"the latent site {name!r} is inside the plate of rows; only 'y' may be there.")
        transform = biject_to(msg["fn"].support)
        unconstrained = transform.inv(msg["value"]).shape
        flags = msg["mask"] is False, "start" in msg["infer"], "begin" in msg["infer"]
        sites[name] = Site(name, msg["value"].shape, unconstrained, transform, offset, *flags, msg["fn"])
        offset += sites[name].size
    return sites


def prior_advice(layout: Layout) -> str:
    """How priors identify coefficients: by counting those of the model, or by others in their place."""
    if layout.is_flat:
        return "use `map_estimate`, which counts the priors of the model"
    flat = ", ".join(repr(name) for name, site in layout.sites.items() if site.masked)
    return (
        f"give proper priors by `with_priors` to {flat}" if flat else "give narrower priors by `with_priors`"
    )
