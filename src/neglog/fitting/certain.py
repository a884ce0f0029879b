"""Rows that are all censored on one side: priors and a bound alone decide that the scale goes to 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neglog.distributions.observed import unwrapped
from neglog.fitting.borders import Limit, border_status
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.objective.shrinkage import prior_terms
from neglog.objective.spread import is_spread_held, narrow_rows, scale_site

CENSORED_THROUGHOUT = (
    "Every row of `y` is censored: it is at a bound of its own or beyond, so the data have no exact "
    "response, only the side of a bound on which each response is."
)
CERTAIN_ROUNDINGS = 1e6
"""Largest scale that counts as 0 if all rows are censored, in units of the rounding error of y."""
BEYOND = 1e-9
"""Distance of the location from the bound in that limit, in units of the bound, at least 1."""
LOG_SCALES = (-30.0, -20.0, -10.0, -5.0, -2.0, 0.0, 2.0, 5.0)
"""Logarithms of scales at which the prior density must not exceed that of a scale close to 0."""
LOG_LIMIT_SCALE = -50.0
"""The logarithm of that scale, in the units of the bound, at least 1."""
MIN_DIFFERENCE = 1e-9
"""A difference of two losses below this, in nats, is rounding."""


def is_censored_throughout(objective: Objective) -> bool:
    """Whether no row has an observed value: each is at its bound, or beyond it, or missing."""
    y = objective.data.y
    if not objective.structure.law.censors or y.dim() != 1:
        return False
    low, high = bounds_of_rows(objective.response(objective.initial))
    return not bool(((y > low) & (y < high)).any())


def bounds_of_rows(response: Any) -> tuple[Tensor, Tensor]:
    """The narrowest bounds around a response."""
    low, high = torch.tensor(-torch.inf), torch.tensor(torch.inf)
    for bound in unwrapped(response)[0]:
        low, high = torch.maximum(low, bound.lower), torch.minimum(high, bound.upper)
    return low, high


def certain_status(objective: Objective) -> str:
    """The status of a fit whose spread goes to 0, while every row is beyond its bound."""
    scale = scale_site(objective)
    spread = f"`{scale}`" if scale else "the spread"
    return border_status(f"{spread} → 0", "every row is beyond its bound with probability 1")


def is_certain(coordinates: Coordinates, z: Tensor) -> bool:
    """Whether no row has an observed value, and the scale, without a prior, is close to 0 at `z` `(K,)`.

    The probability of each row is then 1 to rounding, which no scale above 0 attains.
    """
    few = coordinates.objective.few
    if not is_censored_throughout(coordinates.objective) or not bool(torch.isfinite(z).all()):
        return False
    theta = coordinates.theta(z)
    narrow = narrow_rows(few.response(theta), few.data.y, CERTAIN_ROUNDINGS)
    return bool(narrow.all()) and not is_spread_held(coordinates.objective, theta)


def certain_limit(coordinates: Coordinates) -> Limit | None:
    """The limit of a scale of 0, if the density is largest there; None where that is not known."""
    found = _certain(coordinates.objective)
    if found is None:
        return None
    z = coordinates.z(found[0])
    return Limit(z, coordinates.value(z), False, certain_status(coordinates.objective), 0)


def certain_start(objective: Objective) -> Tensor | None:
    """An initial point `(K,)` for such a model, with the scale of the bound; None of another."""
    found = _certain(objective)
    return None if found is None else found[1]


def _certain(objective: Objective) -> tuple[Tensor, Tensor] | None:
    """Points `(K,)` next to the limit of a scale of 0 and of scale 1, if no density exceeds that limit.

    Where the location is beyond the bound for all rows, their probabilities rise to 1 as the scale falls. A
    row on the other side of its location has at most the probability at the bound, so the limit is the
    supremum if that costs more than a prior gains by any location.
    """
    names = _sites(objective)
    side = _side(objective) if names else None
    if names is None or side is None:
        return None
    (bias, scale), (sign, bound) = names, side
    unit, place = max(1.0, abs(bound)), objective.sites[bias].place
    best = _with(objective, objective.initial, scale, LOG_LIMIT_SCALE, unit)
    theta, at_bound = best.clone(), best.clone()
    at_bound[place] = bound
    theta[place] = sign * max(sign * float(best[place]), sign * bound + BEYOND * unit)
    if not _is_largest(objective, scale, best, unit):
        return None
    loss = prior_terms(objective, theta)[0] - float(_rows(objective, theta).sum())
    cost = float(-_rows(objective, at_bound).amax())
    if not loss - prior_terms(objective, best)[0] < cost:
        return None
    return theta, _with(objective, theta, scale, 0.0, unit)


def _sites(objective: Objective) -> tuple[str, str] | None:
    """The intercept of the location and the scale, of a model with priors that has no other constants."""
    if objective.layout.is_flat or not objective.structure.may_collapse or len(objective.calls) != 1:
        return None
    scale, response = scale_site(objective), objective.structure.response
    if scale is None or response.location is None or not is_censored_throughout(objective):
        return None
    bias, sites = f"{response.location}.bias", set(objective.sites)
    known = {bias, scale} <= sites <= {bias, scale, f"{response.location}.weight"}
    return (bias, scale) if known and response.is_plain and objective.calls[0].offset is None else None


def _side(objective: Objective) -> tuple[float, float] | None:
    """The sign of the side of the bound that all rows are beyond, and the bound; None without such."""
    y = objective.data.y
    for sign, bounds in zip((-1.0, 1.0), bounds_of_rows(objective.response(objective.initial)), strict=True):
        if len(bounds.unique()) == 1 and bool((sign * (y - bounds) >= 0).all()):
            return sign, float(bounds.reshape(-1)[0])
    return None


def _with(objective: Objective, theta: Tensor, name: str, log: float, unit: float) -> Tensor:
    """`theta` `(K,)` with a positive site at a logarithm, in some unit."""
    theta = theta.clone()
    site = objective.sites[name]
    value = theta.new_full(site.shape, log).exp() * unit
    theta[site.place] = site.transform.inv(value).reshape(-1)
    return theta


def _is_largest(objective: Objective, scale: str, best: Tensor, unit: float) -> bool:
    """Whether the prior is largest at `best`: coefficients at their modes, a scale close to 0."""
    least, gradient, _ = prior_terms(objective, best)
    still = torch.ones_like(best, dtype=torch.bool)
    still[objective.sites[scale].place] = False
    others = (prior_terms(objective, _with(objective, best, scale, log, unit))[0] for log in LOG_SCALES)
    is_mode = bool((gradient[still].abs() <= MIN_DIFFERENCE).all())
    return is_mode and all(least <= other + MIN_DIFFERENCE for other in others)


def _rows(objective: Objective, theta: Tensor) -> Tensor:
    """The weighted log-likelihood of the rows `(N,)`."""
    with torch.no_grad():
        rows = objective.log_likelihood(theta)
    return rows if objective.data.weights is None else rows * objective.data.weights
