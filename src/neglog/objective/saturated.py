"""Saturated predictors: those that fit every row exactly, and priors that bound the spread away from 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.family import family_of, scales_of
from neglog.distributions.observed import latent
from neglog.likelihood.sites import Site, prior_advice
from neglog.objective.objective import Objective
from neglog.objective.spread import log_spread_of
from neglog.predictors import RESPONSE
from neglog.tracing import Affine

MAX_LOG_FALL = 13.0
"""Fall of the logarithm of the spread from its initial value beyond which a mode is out of reach of float64:
there the curvature in the location is 1e11 times that of its prior."""
FAR = 40.0
"""The value of a predictor at which a mean is at the end of its range."""
ASIDE = 0.1
"""Offset of the probe point from the initial constants, so that no derivative is accidentally zero."""
FLAT_PRIOR = 1e-9
"""Curvature of a prior, in nats per squared unit of an unconstrained coordinate, that counts as none."""
NORMAL_SCALES = (0.3, 0.1, 0.03, 0.01)
"""Standard deviations of Normal priors that are advised for the coefficients of the logarithm of a spread."""
MAX_ADVISED_LOG_FALL = 2.0
"""Fall of the mean logarithm of the spread, from its initial value to the mode, under the advised priors."""
INVERSE_GAMMA = "dist.InverseGamma(2.0, 1.0)"
"""The prior advised for a scale: it vanishes at 0 faster than any power."""


def interpolating(objective: Objective) -> Affine | None:
    """The linear predictor whose coefficients fit every row exactly; None where none does.

    It is the location, or determines the mean, of a density of real numbers that has no bounds.
    """
    few = [call for call in objective.calls if objective.rows <= call.design.shape[-1] + 1]
    if not few or not _is_followed(objective):
        return None
    return next((call for call in few if fits_every_row(objective, call)), None)


def is_level(objective: Objective) -> bool:
    """Whether a density of real numbers without bounds has a linear location with an intercept, and a scale.

    Trunks of networks are left out: what they are trained for a number of steps on need not have an optimum.
    """
    response = objective.structure.response
    location = next((call for call in objective.calls if call.name == response.location), None)
    if location is None or location.design.requires_grad or response.scale not in objective.sites:
        return False
    bias = objective.sites.get(f"{response.location}.bias")
    return bias is not None and bias.is_real and not bias.shape and _is_followed(objective)


def _is_followed(objective: Objective) -> bool:
    """Whether a density at the response can be as high as one likes."""
    continuous = objective.structure.may_collapse or objective.data.y.dim() == 2
    if not continuous or objective.structure.law.is_bounded:
        return False
    response = objective.structure.response
    return response.is_y and response.is_complete


def fits_every_row(objective: Objective, call: Affine) -> bool:
    """Whether a predictor takes any values in all rows, and the mean with it any values of `y`."""
    bias, weight = objective.structure.coefficients(call.name)
    if weight is None or (bias is None and f"{call.name}.bias" in objective.sites):
        return False
    columns = call.design.detach()
    if bias is not None:
        columns = torch.cat([torch.ones_like(columns[:, :1]), columns], dim=1)
    return int(torch.linalg.matrix_rank(columns)) >= objective.rows and _reaches(objective, call)


def _reaches(objective: Objective, call: Affine) -> bool:
    """Whether the mean takes the values of `y` as a predictor goes from -∞ to ∞, or is linear in it."""
    if call.name == objective.structure.response.location:
        return True
    if call.design.requires_grad:
        return False
    etas = {each.name: each.value.detach() for each in objective.affines(objective.initial)}
    others = {**etas, call.name: torch.full_like(etas[call.name], FAR)}
    try:
        low, below, above, high = (
            _mean(objective.response(objective.initial, {**others, call.name: share * others[call.name]}))
            for share in (-1.0, -0.5, 0.5, 1.0)
        )
    except (ValueError, NotImplementedError, AttributeError):
        return False
    y = objective.data.y if low.dim() == objective.data.y.dim() else objective.data.y[:, None]
    is_linear = torch.isclose(high - low, 2 * (above - below))
    inside = (torch.minimum(low, high) <= y) & (y <= torch.maximum(low, high))
    return bool(((low != high) & (is_linear | inside)).all())


def _mean(response: Any) -> Tensor:
    """The mean of a response, or those of the components of a mixture."""
    response = latent(response)
    found: Tensor = response.means if family_of(response).is_mixture else response.mean
    return found


@dataclass(frozen=True)
class Spread:
    """The spread of the rows, as a function of the sites beside those of the location.

    Attributes:
        objective: the model and its data.
        location: the predictor that fits every row.
        every: whether the priors count that `flat` has masked.
    """

    objective: Objective
    location: Affine
    every: bool = False

    @property
    def is_held(self) -> bool:
        """Whether priors keep the spread from falling out of the reach of float64.

        The likelihood gains the number of rows, in nats, for each unit by which the logarithm of the spread
        falls. The priors outweigh that along all directions: of all sites together, and of each alone.
        """
        return not (self.sites and any(map(self._falls, self._directions())))

    @property
    def sites(self) -> Mapping[str, Tensor]:
        """Site -> the gradient of the log spread in its unconstrained values, where that is not 0."""
        return self._slopes

    @cached_property
    def _slopes(self) -> Mapping[str, Tensor]:
        leaf = self._probe.clone().requires_grad_()
        with torch.enable_grad():
            log_spread = self._log_spread(leaf)
        if not log_spread.requires_grad:
            return {}
        (slope,) = torch.autograd.grad(log_spread, leaf)
        own = {f"{self.location.name}.{part}" for part in ("weight", "bias")}
        found = {name: slope[site.place] for name, site in self.objective.sites.items() if name not in own}
        return {name: part for name, part in found.items() if bool(torch.isfinite(part).all() and part.any())}

    @cached_property
    def _probe(self) -> Tensor:
        return self.objective.initial + ASIDE * (self.objective.initial == 0)

    def _directions(self) -> Iterator[Tensor]:
        """The directions along which the spread falls and priors rise least."""
        joint = torch.zeros_like(self._probe)
        for name, slope in self.sites.items():
            place = self.objective.sites[name].place
            joint[place] = slope / self._curvature(name).clamp_min(FLAT_PRIOR)
        yield joint
        for name in self.sites if len(self.sites) > 1 else ():
            place = self.objective.sites[name].place
            alone = torch.zeros_like(joint)
            alone[place] = joint[place]
            yield alone

    @property
    def log_fall_of_row(self) -> float:
        """Fall of the log spread, from its initial value to the mode, per row without a residual."""
        return sum(
            float((slope.square() / self._curvature(name).clamp_min(FLAT_PRIOR)).sum())
            for name, slope in self.sites.items()
        )

    def _falls(self, direction: Tensor) -> bool:
        """Whether the loss falls still where the spread is at the reach of float64."""
        slopes = torch.zeros_like(direction)
        for name, slope in self.sites.items():
            slopes[self.objective.sites[name].place] = slope
        rate = float(slopes @ direction)
        near, far = (
            self._loss(self._probe - fall / rate * direction) for fall in (MAX_LOG_FALL, MAX_LOG_FALL + 1)
        )
        return not far >= near

    def _loss(self, theta: Tensor) -> Tensor:
        """Minus the log-density of rows without residuals and of the sites of the spread."""
        with torch.no_grad():
            return self._gain * self._log_spread(theta) + sum(self._prior(name, theta) for name in self.sites)

    @cached_property
    def _gain(self) -> float:
        """The gain in nats of rows without residuals as their mean log spread falls by 1."""
        components = self._response(self._probe).event_shape or (1,)
        return float(self.objective.data.count) * components[0]

    def _prior(self, name: str, theta: Tensor) -> Tensor:
        """Minus the log prior of a site."""
        site = self.objective.sites[name]
        if site.masked and not self.every:
            return theta.new_zeros(())
        value = site.transform(theta[site.place].reshape(site.unconstrained))
        found: Tensor = -_validated(site.fn, value).sum()
        return found

    def _curvature(self, name: str) -> Tensor:
        """The second derivatives of minus the log prior of a site, of one whose numbers are independent."""
        site = self.objective.sites[name]
        leaf = self._probe.clone().requires_grad_()
        with torch.enable_grad():
            prior = self._prior(name, leaf)
            if not prior.requires_grad:
                return torch.zeros(site.size).to(leaf)
            (slope,) = torch.autograd.grad(prior, leaf, create_graph=True)
            if not slope.requires_grad:
                return torch.zeros(site.size).to(leaf)
            (curvature,) = torch.autograd.grad(slope.sum(), leaf)
        return curvature[site.place].nan_to_num(0.0, 0.0, 0.0)

    def _response(self, theta: Tensor) -> Any:
        return self.objective.few.at(theta).sites[RESPONSE]["fn"]

    def _log_spread(self, theta: Tensor) -> Tensor:
        """The mean logarithm of the scales of a response, of its components and of given components."""
        response = self._response(theta)
        scales = scales_of(latent(response))
        if scales is not None:
            return scales.log().mean()
        if self.location.name == self.objective.structure.response.location:
            return log_spread_of(response)
        return response.stddev.log().mean()

    def advice(self) -> str:
        """Priors under which the spread does not go to 0."""
        priors = {name: self._advised(name) for name in self.objective.sites}
        given = {name: prior for name, prior in priors.items() if prior}
        if not any(name in self.sites for name in given):
            return prior_advice(self.objective.layout)
        written = ", ".join(f"{name!r}: {prior}" for name, prior in given.items())
        return (
            "use `map_estimate` with priors under which the spread does not go to 0: "
            f"with_priors(model, {{{written}}})"
        )

    @cached_property
    def _normal_scale(self) -> float:
        """The standard deviation of a Normal prior of coefficients under which the spread falls little."""
        steepness = sum(float(slope.square().sum()) for slope in self.sites.values())
        falls = {scale: scale**2 * self._gain * steepness for scale in NORMAL_SCALES}
        return next((scale for scale in falls if falls[scale] <= MAX_ADVISED_LOG_FALL), NORMAL_SCALES[-1])

    def known(self) -> str:
        """Known values of the sites of the spread, where it is made of constants."""
        values = {name: _known(self.objective.sites[name]) for name in self.sites}
        if not values or not all(values.values()):
            return ""
        written = ", ".join(f"{name!r}: {value}" for name, value in values.items())
        return f", or a known scale: pyro.condition(model, {{{written}}})"

    def _advised(self, name: str) -> str:
        """The prior to advise for a site; empty where its own does."""
        site = self.objective.sites[name]
        if self.objective.structure.law.is_mixture and site.support is constraints.simplex:
            return f"dist.Dirichlet(2 * torch.ones({site.size + 1}))"
        if name not in self.sites:
            return ""
        if site.is_correlation:
            # The density of N rows rises as the N-th power of the last diagonal element that goes to 0.
            return f"dist.LKJCholesky({site.shape[-1]}, torch.tensor({float(self.objective.rows)}))"
        if site.is_real:
            return f"dist.Normal(0.0, {self._normal_scale})"
        if site.is_positive:
            return INVERSE_GAMMA if bool((self.sites[name] > 0).all()) else "dist.Exponential(0.1)"
        return ""


def _known(site: Site) -> str:
    """The code of a value to hold a site at."""
    if site.is_correlation:
        return f"torch.eye({site.shape[-1]})"
    if site.is_positive:
        return f"torch.ones({tuple(site.shape)})" if site.shape else "torch.tensor(1.0)"
    return ""


def _validated(fn: Any, value: Tensor) -> Tensor:
    """The log-density at a value; infinite beyond its support, where the value was rounded."""
    try:
        found: Tensor = fn.log_prob(value)
    except ValueError:
        return torch.full((), -torch.inf).to(value)
    return found
