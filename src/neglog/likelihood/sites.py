"""Sites: the positions of the parameters of a model in the vector theta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from neglog.distributions.corners import Corner
from neglog.distributions.family import elementwise, family_of
from neglog.distributions.observed import corner
from neglog.errors import ModelError
from neglog.handlers import is_parameter, is_real
from neglog.predictors import RESPONSE
from neglog.site_priors import base_support
from neglog.tracing import Run

ABOVE = (constraints.greater_than, constraints.greater_than_eq)
"""The supports of all numbers above a bound, whose unconstrained value is the logarithm of the distance."""


class Prior(Enum):
    """The kind of a prior: `FLAT` under `flat`, `NORMAL`, `KINKED` as a Laplace law is, or another."""

    FLAT = "flat"
    NORMAL = "normal"
    KINKED = "kinked"
    OTHER = "other"


@dataclass(frozen=True)
class Site:
    """A latent site: the positions of its values in the vector, its support, its prior and its initial value.

    Attributes:
        name: its name.
        shape: that of its value.
        unconstrained: the shape of its unconstrained value.
        transform: from the unconstrained value to the value.
        offset: the first of its coordinates in the vector.
        masked: whether its prior is masked, as by `flat`.
        scaled: whether its prior counts in part, by a mask of entries or a factor.
        started: whether it has an initial value of its own (`infer={"start": value}`).
        begun: whether its initial value is a function of the data (`infer={"begin": function}`).
        initial: its initial value.
        fn: its prior.
    """

    name: str
    shape: torch.Size
    unconstrained: torch.Size
    transform: Transform
    offset: int
    masked: bool
    scaled: bool
    started: bool
    begun: bool
    initial: Tensor = field(repr=False, compare=False)
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
    def support(self) -> constraints.Constraint:
        """The support of one number, or of numbers bound to each other."""
        return base_support(self.fn.support)

    @property
    def is_positive(self) -> bool:
        """Whether its numbers are those above 0, each by itself."""
        return getattr(self.support, "lower_bound", None) == 0

    @property
    def is_logarithm(self) -> bool:
        """Whether its unconstrained value is the logarithm of its value."""
        return type(self.support) in ABOVE and self.is_positive

    @cached_property
    def corner(self) -> Corner | None:
        """The corner of the density of its prior; None if it is smooth."""
        return corner(self.fn)

    @property
    def prior(self) -> Prior:
        """The kind of its prior."""
        if self.masked:
            return Prior.FLAT
        if family_of(elementwise(self.fn)).is_square:
            return Prior.NORMAL
        return Prior.OTHER if self.corner is None else Prior.KINKED

    @property
    def is_correlation(self) -> bool:
        """Whether the site is the Cholesky factor of a correlation matrix."""
        return self.support is constraints.corr_cholesky


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

    @property
    def initial(self) -> Tensor:
        """The vector of the initial values of the sites."""
        return self.theta({name: site.initial for name, site in self.sites.items()})

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


def lay_out(first: Run, initial: Mapping[str, Tensor] | None = None) -> dict[str, Site]:
    """The latent sites of a run, in the order in which the model samples them.

    Their initial values are those of the run, or `initial`.

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
        value = msg["value"] if initial is None else initial[name]
        sites[name] = Site(
            name=name,
            shape=value.shape,
            unconstrained=transform.inv(value).shape,
            transform=transform,
            offset=offset,
            masked=msg["mask"] is False,
            scaled=msg["mask"] is not None or not _is_one(msg["scale"]),
            started="start" in msg["infer"],
            begun="begin" in msg["infer"],
            initial=value,
            fn=msg["fn"],
        )
        offset += sites[name].size
    return sites


def _is_one(scale: float | Tensor) -> bool:
    """Whether the factor of a log-density is 1 in all its entries."""
    return bool((scale == 1).all()) if isinstance(scale, Tensor) else scale == 1


def prior_advice(layout: Layout) -> str:
    """How priors identify coefficients: by counting those of the model, or by others in their place."""
    if layout.is_flat:
        return "use `map_estimate`, which counts the priors of the model"
    flat = ", ".join(repr(name) for name, site in layout.sites.items() if site.masked)
    return (
        f"give proper priors by `with_priors` to {flat}" if flat else "give narrower priors by `with_priors`"
    )
