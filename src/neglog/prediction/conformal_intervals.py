"""Split conformal prediction: intervals whose coverage is exact for any fit, right or wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor

from neglog.arguments import choice, share
from neglog.calls import public
from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of, variance_of
from neglog.distributions.family import events_of
from neglog.distributions.supports import ends
from neglog.errors import DataError, ModelError
from neglog.isolation import isolated
from neglog.prediction.intervals import index_of
from neglog.prediction.predictions import check_row_keywords, predict
from neglog.prediction.predictor import Predicting
from neglog.prediction.scoring import observed_response, without_nan

Kind = Literal["absolute", "normalised", "quantile"]
LARGEST_DENOMINATOR = 10**9
"""Levels are fractions with denominators up to this number, so that 0.55 is 11/20."""


class _Band(NamedTuple):
    """A predicted interval before calibration, `(N,)` each, and the unit in which it is widened."""

    estimate: Tensor
    lower: Tensor
    upper: Tensor
    unit: Tensor

    def scores(self, y: Tensor) -> Tensor:
        """How far each y is outside the interval, in units; negative inside."""
        return torch.maximum(self.lower - y, y - self.upper) / self.unit

    def widened(self, by: float) -> tuple[Tensor, Tensor]:
        """The ends of the interval, `by` units further out; of one that would be empty, its midpoint."""
        if math.isinf(by):
            return torch.full_like(self.lower, -by), torch.full_like(self.upper, by)
        lower, upper = self.lower - by * self.unit, self.upper + by * self.unit
        middle = 0.5 * (lower + upper)
        return torch.minimum(lower, middle), torch.maximum(upper, middle)


@public
@dataclass(frozen=True, eq=False)
class Conformal:
    """Intervals of new rows, calibrated by held-out rows. A frozen value.

    Attributes:
        fit: what predicts.
        kind: the score by which a row is far from its prediction.
        n: the number of calibration rows.
        y: the responses of the calibration rows, `(n,)`.
        response: their predictive distribution, of batch shape `(n,)`.
    """

    fit: Predicting = field(repr=False)
    kind: Kind
    n: int
    y: Tensor = field(repr=False)
    response: Any = field(repr=False)

    def coverage(self, level: float = 0.95) -> float:
        """The probability that an interval of this level holds a new continuous y: ⌈(n + 1) level⌉ / (n + 1).

        It is an average over calibration rows and new rows, which are exchangeable; 1 where the interval is
        infinite. For counts it is a lower bound.

        Raises:
            ModelError: `level` is not between 0 and 1.
        """
        return min(1.0, _rank(share("level", level), self.n) / (self.n + 1))

    @isolated
    def scores(self, level: float = 0.95) -> Tensor:
        """The scores of the calibration rows in rising order, `(n,)`.

        In units of y; in predicted standard deviations for ``"normalised"``. Those of ``"quantile"`` depend
        on the level, and are negative inside the predicted interval.

        Raises:
            ModelError: `level` is not between 0 and 1.
        """
        return self._scores(share("level", level))

    @isolated
    def interval(self, x: Any, level: float = 0.95, **keywords: Any) -> pd.DataFrame:
        """An interval for a future outcome y of each row of `x`: estimate, lower, upper.

        The estimate is the predicted mean, or for ``"quantile"`` the predicted median. The ends are in the
        support of the response; without ends of its own, they are infinite where ⌈(n + 1) level⌉ > n.

        Args:
            x: designs `(N, P)`, or a table, as for `predict`; the result has the index of a data frame.
            level: the probability of the intervals.
            keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

        Raises:
            ModelError: `level` is not between 0 and 1; a mean or a standard deviation that does not exist.
            DataError: as `predict`.
        """
        level = share("level", level)
        check_row_keywords(self.fit, keywords, self.interval)
        response = predict(self.fit, x, **keywords)
        with torch.no_grad():
            band = _band(response, self.kind, level)
            lower, upper = band.widened(self._margin(level))
            low, high = (torch.as_tensor(end, dtype=lower.dtype) for end in ends(response.support))
        columns = {
            "estimate": band.estimate,
            "lower": lower.clamp(low, high),
            "upper": upper.clamp(low, high),
        }
        return pd.DataFrame({name: each.numpy() for name, each in columns.items()}, index=index_of(x))

    @torch.no_grad()
    def _scores(self, level: float) -> Tensor:
        found = _band(self.response, self.kind, level).scores(self.y)
        return without_nan(found, self.kind).sort().values

    def _margin(self, level: float) -> float:
        """The units by which predicted intervals are widened."""
        rank = _rank(level, self.n)
        return math.inf if rank > self.n else float(self._scores(level)[rank - 1])


@isolated
def conformal(
    fit: Predicting, x: Any, y: Any = None, *, kind: Kind = "absolute", **keywords: Any
) -> Conformal:
    """Split conformal intervals: the predictions of a fit, calibrated by rows that it has not seen.

    The calibration rows are scored by how far y is from its prediction. Of n + 1 exchangeable rows each rank
    of the score of the last is equally probable, so that a new row has a score of at most that of rank
    k = ⌈(n + 1) level⌉ with probability k / (n + 1) for continuous y, whatever the model, right or wrong. The
    interval has all y with such scores:

    - ``"absolute"``: |y - mean|; intervals of one width for all rows.
    - ``"normalised"``: |y - mean| / sd with the predicted standard deviation; wide where the model expects
      noise.
    - ``"quantile"``: max(lower - y, y - upper), from the predicted quantiles at (1 ± level) / 2: intervals of
      the shape of the predicted distribution, a constant wider or narrower on both sides.

    The probability is that of all rows together, not of each x.

    Args:
        fit: a fit, a posterior, or another value with predictive distributions, such as a Laplace
            approximation.
        x, y: n calibration rows, which are no rows of the fit. For the fit of a formula, a table is enough.
        kind: the score.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(n,)`.

    Raises:
        ModelError: an unknown kind; a response of vectors or classes; weights; a mean or a standard deviation
            that does not exist; as `predict`.
        DataError: as `predict`; a `y` that is missing, outside the support of the response, or of another
            shape; no rows.

    Sources: Vovk, Gammerman & Shafer (2005), Algorithmic learning in a random world; Lei et al. (2018),
    Distribution-free predictive inference for regression; Romano, Patterson & Candès (2019), Conformalized
    quantile regression.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.arange(40, dtype=torch.float64)[:, None]
    >>> y = x[:, 0] + torch.cos(9 * x[:, 0])
    >>> fit = mle(models.gaussian, x[:20], y[:20])
    >>> conformal(fit, x[20:39], y[20:39]).interval(x[39:], level=0.9).round(1)
       estimate  lower  upper
    0      38.9   37.9   39.9
    """
    choice("kind", kind, get_args(Kind))
    response, data = observed_response(fit, x, y, keywords, conformal, "conformal score")
    check_numbers(response, "conformal intervals")
    check_some(data.rows)
    found = Conformal(fit, kind, data.rows, data.y, response)
    found.scores(0.5)  # what has no score of this kind is refused here
    return found


def check_numbers(response: Any, needed_by: str) -> None:
    """Refuse a response of vectors or of classes.

    Raises:
        ModelError: it is one.
    """
    if response.event_shape or events_of(getattr(response, "first", response)):
        raise ModelError(
            f"{needed_by} need a response of one number for each row, no vectors and no classes."
        )


def check_some(rows: int) -> None:
    """Refuse calibration by no rows.

    Raises:
        DataError: there is none.
    """
    if not rows:
        raise DataError("the calibration data have no rows; give rows that the fit has not seen.")


def _rank(level: float, n: int) -> int:
    """⌈(n + 1) level⌉, by exact arithmetic: in floats, 20 × 0.55 is above 11."""
    return max(1, math.ceil(Fraction(level).limit_denominator(LARGEST_DENOMINATOR) * (n + 1)))


def _band(response: Any, kind: Kind, level: float) -> _Band:
    if kind == "quantile":
        shares = torch.tensor([0.5, 0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
        median, lower, upper = quantile_of(response, shares[:, None])
        return _Band(median, lower, upper, torch.ones_like(median))
    mean = mean_of(response).expand(response.batch_shape)
    unit = torch.ones_like(mean)
    if kind == "normalised":
        unit = variance_of(response).expand(response.batch_shape).sqrt()
    wrong = ~(torch.isfinite(mean) & torch.isfinite(unit) & (unit > 0))
    if bool(wrong.any()):
        raise ModelError(
            f"the predictive distribution of row {int(wrong.nonzero()[0])} has no finite mean or no finite, "
            "positive standard deviation; use kind='quantile'."
        )
    return _Band(mean, mean, mean, unit)
