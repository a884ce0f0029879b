"""Recalibration: predictive distributions corrected by rows that the fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.arguments import choice, whole
from neglog.calls import public
from neglog.data import check_density
from neglog.distributions import Bernoulli, Categorical, Ordered, probabilities
from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of
from neglog.distributions.family import events_of, family_of, location_of, scale_of, tailed
from neglog.distributions.recalibrated import Monotone, Remapped, Stretched
from neglog.distributions.special import log_of
from neglog.distributions.tails import log_tails
from neglog.errors import DataError, ModelError
from neglog.isolation import isolated
from neglog.prediction.conformal_intervals import check_numbers, check_some
from neglog.prediction.predictions import check_row_keywords, predict
from neglog.prediction.predictor import Predicting, Predictor
from neglog.prediction.scoring import observed_response
from neglog.tracing import model_name

Method = Literal["temperature", "isotonic"]
LARGEST_TEMPERATURE = 1000.0
"""Temperatures are searched from 1 / 1000 to 1000."""
TEMPERATURES = 61
"""Temperatures, evenly spaced on a logarithmic scale, at which the log score is evaluated first."""
TEMPERATURE_TOLERANCE = 1e-10
"""Absolute tolerance of the log of the temperature."""
SHARES_OF_COUNT = 16
"""Points, evenly spaced, that the step of a distribution function at a count stands for."""


@public
@dataclass(frozen=True, eq=False)
class Recalibration(Predictor):
    """Predictive distributions of new rows, corrected by held-out rows. A frozen value.

    `neglog.predict`, `quantile`, `scores`, `class_probabilities` and `conformal` take it in the place of a
    fit.

    Attributes:
        fit: what predicts.
        method: ``"temperature"`` or ``"isotonic"``.
        n: the number of calibration rows.
        temperature: the factor on the scale, or the divisor of the log-probabilities of classes; None for
            ``"isotonic"``.
        through: the map of the distribution function; None for ``"temperature"``.
    """

    fit: Predicting = field(repr=False)
    method: Method
    n: int
    temperature: float | None = None
    through: Monotone | None = field(default=None, repr=False)

    @isolated
    def predict(self, x: Any, **keywords: Any) -> Any:
        """The recalibrated distribution of `y` given `x`, of batch shape `(N,)`.

        Args:
            x: designs `(N, P)`, or a table, as for `neglog.predict`.
            keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

        Raises:
            DataError, ModelError: as `neglog.predict`.
        """
        check_row_keywords(self.fit, keywords, self.predict)
        response = predict(self.fit, x, **keywords)
        with torch.no_grad():
            if self.through is not None:
                return Remapped(response, self.through)
            return _tempering(response)(self.temperature or 1.0)


@isolated
def recalibrate(
    fit: Predicting,
    x: Any,
    y: Any = None,
    *,
    method: Method = "temperature",
    bins: int | None = None,
    **keywords: Any,
) -> Recalibration:
    """Predictive distributions corrected by rows that the fit has not seen.

    - ``"temperature"``: one number T with the best log score of the calibration rows. A response on the real
      line is stretched by T around its location, or else around its mean or its median: T is a factor on
      the scale. That of `lognormal` is stretched on the logarithm. The probabilities of classes become
      proportional to p^(1 / T). T > 1 means that the predictions were too sure.
    - ``"isotonic"``: the predicted distribution function F becomes R(F), with R increasing and piecewise
      linear. R maps the r-th smallest of the n values F(y) of the calibration rows to r / (n + 1), the
      probability that that of a new, exchangeable row is no larger; so the outcomes of the calibration rows,
      and on average those of new ones, are below each quantile as often as they should be. For counts, the
      step of F at y is spread evenly.

    Args:
        fit: a fit, a posterior, or another value with predictive distributions.
        x, y: n calibration rows, which are no rows of the fit. For the fit of a formula, a table is enough.
        method: the method.
        bins: for ``"isotonic"``, the number of pieces of R, of equal probability; by default about √n. As
            many as n + 1 is the isotonic regression itself, with a jump of the density at each calibration
            row, and a log score that is worse by about 0.6 nats a row than that of a smooth density.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(n,)`.

    Raises:
        ModelError: an unknown method; a response of vectors; for ``"temperature"``, one that has no location
            and scale and is no class; for ``"isotonic"``, one of classes or a censored one; weights; no best
            temperature, as where all classes were predicted; as `predict`.
        DataError: as `predict`; a `y` that is missing, outside the support of the response, of another shape,
            or of probability 0; no rows.

    Sources: Guo et al. (2017), On calibration of modern neural networks; Kuleshov, Fenner & Ermon (2018),
    Accurate uncertainties for deep learning using calibrated regression.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.arange(40, dtype=torch.float64)[:, None]
    >>> y = x[:, 0] + torch.cos(9 * x[:, 0])
    >>> fit = mle(models.gaussian, x[:20], y[:20])
    >>> found = recalibrate(fit, x[20:], 2 * y[20:] - x[20:, 0])
    >>> round(found.temperature, 1), bool(found.predict(x).stddev[0] > fit.params["sigma"])
    (2.1, True)
    """
    choice("method", method, get_args(Method))
    response, data = observed_response(fit, x, y, keywords, recalibrate, "place in a calibration")
    check_some(data.rows)
    _check_kind(response)
    with torch.no_grad():
        if method == "isotonic":
            return Recalibration(fit, method, data.rows, through=_ranked(response, data.y, bins))
        if bins is not None:
            raise ModelError("`bins` are those of method='isotonic'; leave them out.")
        check_density(data, response.log_prob(data.y), model_name(fit.model))
        return Recalibration(fit, method, data.rows, _best_temperature(_tempering(response), data.y))


def _check_kind(response: Any) -> None:
    """Refuse a response of vectors, or a censored one.

    Raises:
        ModelError: it is one.
    """
    if response.event_shape:
        raise ModelError("a response of vectors has no recalibration; fit a model of each of its columns.")
    if family_of(getattr(response, "first", response)).censors:
        raise ModelError(
            "a censored response records bounds, whose probabilities have no recalibration. Leave out the "
            "handler `censored`, and the rows that were not observed."
        )


def _ranked(response: Any, y: Tensor, bins: int | None) -> Monotone:
    """The map of a distribution function to the ranks of its values at y `(n,)`."""
    check_numbers(response, "isotonic recalibrations")
    log_lower, log_upper = log_tails(tailed(response), y)
    own = torch.where(probabilities(response, y), response.log_prob(y).exp(), 0.0)
    parts = SHARES_OF_COUNT if bool((own > 0).any()) else 1
    back = (torch.arange(parts, dtype=y.dtype)[:, None] + 0.5) / parts * own
    lower = (log_lower.exp() - back).clamp(min=0).flatten()
    upper = (log_upper.exp() + back).clamp(max=1).flatten()
    order = torch.where(lower <= upper, log_of(lower), -log_of(upper)).argsort()
    default = min(len(y) + 1, max(2, math.ceil(math.sqrt(len(y)))))
    pieces = default if bins is None else whole("bins", bins, 2)
    if pieces > len(y) + 1:
        raise ModelError(f"`bins` is {pieces}, and {len(y)} rows have at most {len(y) + 1}; give fewer.")
    return Monotone.of_ranks(lower[order], upper[order], pieces)


def _tempering(response: Any) -> Callable[[float], Any]:
    """From a temperature to the distribution of that temperature.

    Raises:
        ModelError: there is none for the response.
    """
    base = getattr(response, "first", response)
    if events := events_of(base):
        return _tempered_classes(response, events, family_of(base).ordered)
    family, location, scale = family_of(response), location_of(response), scale_of(response)
    if (family.is_square or family.is_square_of_logarithm) and location is not None and scale is not None:
        return lambda temperature: family.kind(location, scale * temperature)
    if response.support is not constraints.real or family_of(base).is_bounded:
        raise ModelError(
            f"`{type(base).__name__}` has no location and scale that one temperature could correct; use "
            "method='isotonic'."
        )
    centre = (mean_of(response) if location is None else location).expand(response.batch_shape)
    if not bool(torch.isfinite(centre).all()):
        centre = quantile_of(response, torch.full_like(centre, 0.5))
    return lambda temperature: Stretched(response, centre, temperature)


def _tempered_classes(response: Any, events: tuple[int, ...], ordered: bool) -> Callable[[float], Any]:
    """Classes of probabilities proportional to p^(1 / T)."""
    codes = (0, 1) if len(events) == 1 else events
    rows = torch.zeros(response.batch_shape, dtype=torch.float64)
    logs = torch.stack([response.log_prob(rows + code) for code in codes], -1)
    if len(events) == 1:
        return lambda temperature: Bernoulli(logits=(logs[..., 1] - logs[..., 0]) / temperature)
    if not ordered:
        return lambda temperature: Categorical(logits=logs / temperature)

    def tempered(temperature: float) -> Any:
        scaled = logs / temperature
        below = scaled.logcumsumexp(-1)[..., :-1]
        beyond = scaled.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
        return Ordered(torch.zeros(rows.shape, dtype=logs.dtype), (below - beyond).cummax(-1).values)

    return tempered


def _best_temperature(at: Callable[[float], Any], y: Tensor) -> float:
    """The temperature with the best log score of y `(n,)`.

    Raises:
        DataError: the score grows without end towards 0 or infinity.
    """

    def loss(log_temperature: float) -> float:
        return -float(at(math.exp(log_temperature)).log_prob(y).mean())

    most = math.log(LARGEST_TEMPERATURE)
    grid = torch.linspace(-most, most, TEMPERATURES, dtype=torch.float64).tolist()
    losses = [loss(each) for each in grid]
    best = min(range(TEMPERATURES), key=losses.__getitem__)
    if not 0 < best < TEMPERATURES - 1:
        side = "0, as if predictions were certain" if best == 0 else "infinity, as if nothing were predicted"
        raise DataError(
            f"the log score of the {len(y)} calibration rows is best for a temperature of {side}. Give more "
            "rows that the fit has not seen."
        )
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        loss,
        bounds=(grid[best - 1], grid[best + 1]),
        method="bounded",
        options={"xatol": TEMPERATURE_TOLERANCE},
    )
    return math.exp(found.x)
