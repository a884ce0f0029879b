"""Log scales: predictors in which the log-density of a response is linear, at its mean and far from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.objective.objective import Objective
from neglog.tracing import Affine

PROBED_CHANGES = (10.0, 15.0, 20.0)
"""Changes of a predictor between which its log-densities are compared."""
LINEAR = 1e-2
"""The relative difference of two slopes below which a function is linear."""
MIN_LOG_SLOPE = 0.1
"""The least slope of a log scale; shapes have 1/2 or 1."""


@dataclass(frozen=True)
class LogScale:
    """A predictor that is a log scale, a log shape or a log precision.

    Attributes:
        sign: that of the change of the predictor with which the spread vanishes.
        ratio: the gain in the log-density of an exactly fitted row per unit of that change, in units of the
            loss of any row per unit of the opposite change. Both are 1 for the log scale of a real response;
            a gamma density gains 1/2 per unit of its log shape, and loses 1.
    """

    sign: float
    ratio: float


def log_scale(objective: Objective, call: Affine) -> LogScale | None:
    """The predictor as a log scale; None for another, such as one of the mean or of a softplus."""
    site = objective.sites.get(f"{call.name}.bias")
    if site is None:
        return None
    for sign in (1.0, -1.0):
        try:
            gain, loss = _slopes(objective, site.place, sign)
        except (ValueError, NotImplementedError, AttributeError, RuntimeError):
            continue  # torch refuses a parameter that is 0 or infinite there, or there is no mean
        if gain >= MIN_LOG_SLOPE and loss >= MIN_LOG_SLOPE:
            return LogScale(sign, min(gain / loss, 1.0))
    return None


@torch.no_grad()
def _slopes(objective: Objective, place: slice, sign: float) -> tuple[float, float]:
    """The gain at the mean per unit of a change, and the loss at the initial mean per unit of the opposite.

    0 where they are not linear, and where the mean changes, as with a log mean. Bounds are left out: between
    them no log-density is below the one without, and of censored rows none loses more.
    """

    def shifted(by: float) -> Tensor:
        theta = objective.initial.clone()
        theta[place] += by
        return theta

    def response(at: Tensor) -> Any:
        return latent(objective.few.response(at))

    first, last = (response(shifted(sign * change)) for change in (PROBED_CHANGES[0], PROBED_CHANGES[-1]))
    if not torch.allclose(first.mean, last.mean, rtol=LINEAR, atol=0.0):
        return 0.0, 0.0
    between = [response(shifted(sign * change)) for change in PROBED_CHANGES[1:-1]]
    gain = _slope([each.log_prob(each.mean) for each in (first, *between, last)])
    if gain < MIN_LOG_SLOPE:
        return gain, 0.0
    initial = response(objective.initial).mean.expand_as(first.mean)
    return gain, -_slope([response(shifted(-sign * change)).log_prob(initial) for change in PROBED_CHANGES])


def _slope(values: Sequence[Tensor]) -> float:
    """The slope of values at the probes, if it is the same in all rows and between all probes; else 0."""
    pairs = zip(values, values[1:], PROBED_CHANGES, PROBED_CHANGES[1:], strict=False)
    slopes = torch.stack([(after - before).reshape(-1) / (t - s) for before, after, s, t in pairs])
    middle = slopes.mean()
    return float(middle) if bool(((slopes - middle).abs() <= LINEAR * middle.abs()).all()) else 0.0
