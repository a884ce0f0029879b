"""Links: what each predictor and each positive site is to the distribution of the response."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.handlers import is_real
from neglog.objective.objective import Objective

LINK_STEP = 0.5
"""The change of a predictor, or of the logarithm of a site, whose effect on the distribution is measured."""
ROUNDING = 1e-8


class Role(Enum):
    """The role of a predictor in the distribution of the response.

    `LOCATION`: it shifts a real response by as much as it changes. `LOG_SCALE`: a multiple of it is the
    logarithm of the scale around the location. `LOG_MEAN`: the mean is multiplied by its exponential.
    `DEPENDENCE`: it changes neither the mean nor the variance of any part of the response. `OTHER`: none of
    these.
    """

    LOCATION = "location"
    LOG_SCALE = "log scale"
    LOG_MEAN = "log mean"
    DEPENDENCE = "dependence"
    OTHER = "other"


@dataclass(frozen=True)
class Link:
    """The role of a predictor; `power` is that of the scale of which it is the logarithm, 2 of a variance."""

    role: Role
    power: float = 1.0


class Links:
    """The links of a model at its initial values, of a few of its rows."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective.few
        self.theta = objective.initial
        self.etas = {call.name: call.value.detach() for call in self.objective.at(self.theta).affines}
        self.start = self._response(self.theta, self.etas)
        self.is_real = is_real(self.start.support)
        self.locations = [name for name in self.etas if self.is_real and self._is_location(name)]

    def of(self, name: str) -> Link:
        """The link of a predictor."""
        if name in self.locations:
            return Link(Role.LOCATION)
        changed = self._response(self.theta, self.etas | {name: self.etas[name] + LINK_STEP})
        if self.is_real:
            power = self._power(
                lambda etas: self._response(self.theta, etas | {name: etas[name] + LINK_STEP})
            )
            if power is not None:
                return Link(Role.LOG_SCALE, power)
        return Link(self._role_by_moments(changed))

    def _role_by_moments(self, changed: Any) -> Role:
        """The role of a predictor whose change turns the first distribution into `changed`."""
        mean, again = _moment(self.start, "mean"), _moment(changed, "mean")
        if mean is None or again is None:
            return Role.OTHER
        if not self.is_real and _are_close(again, mean * math.exp(LINK_STEP)):
            return Role.LOG_MEAN
        before, after = _moment(self.start, "variance"), _moment(changed, "variance")
        same = before is not None and after is not None and _are_close(before, after)
        return Role.DEPENDENCE if same and _are_close(mean, again) else Role.OTHER

    def is_scale(self, name: str) -> bool:
        """Whether a site is the scale of a real response, or those of its components."""
        site = self.objective.sites[name]
        larger = self.objective.layout.params(self.theta)[name] * math.exp(LINK_STEP)
        is_positive = not is_real(site.fn.support) and bool(site.fn.support.check(larger).all())
        if not (self.is_real and is_positive):
            return False
        theta = self.theta.clone()
        theta[site.place] = site.transform.inv(larger).reshape(-1)
        return self._power(lambda etas: self._response(theta, etas)) == 1.0

    def _response(self, theta: Tensor, etas: dict[str, Tensor]) -> Any:
        return latent(self.objective.response(theta, etas))

    def _is_location(self, name: str) -> bool:
        """Whether the density of y + d at the predictor + d is that of y."""
        y = self.objective.data.y.nan_to_num(0.0)
        moved = self._response(self.theta, self.etas | {name: self.etas[name] + LINK_STEP})
        return _are_close(self.start.log_prob(y), moved.log_prob(y + LINK_STEP))

    def _power(self, change: Callable[[dict[str, Tensor]], Any]) -> float | None:
        """The power of the scale that a change multiplies by e^`LINK_STEP`; None if it changes other parts.

        Where y and its location are 0, a density is proportional to 1 / scale.
        """
        etas = {
            name: torch.zeros_like(eta) if name in self.locations else eta for name, eta in self.etas.items()
        }
        zero, width = torch.zeros_like(self.objective.data.y), self.start.event_shape.numel()
        fell = self._response(self.theta, etas).log_prob(zero) - change(etas).log_prob(zero)
        share = fell / (LINK_STEP * width)
        first = float(share.reshape(-1)[0])
        near = min((1.0, 0.5), key=lambda power: abs(power - first))
        return 1 / near if self.locations and _are_close(share, torch.full_like(share, near)) else None


def _are_close(first: Tensor, second: Tensor) -> bool:
    return bool(torch.isclose(first, second, rtol=ROUNDING, atol=ROUNDING).all())


def _moment(fn: Any, name: str) -> Tensor | None:
    """The mean or the variance of a distribution; None where it has none that is finite."""
    try:
        value = getattr(fn, name)
    except NotImplementedError:
        return None
    return value if bool(torch.isfinite(value).all()) else None
