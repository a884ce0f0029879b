"""Scores of all held-out rows together: RMSE, MAE, R², deviance explained and the calibration error.

Each is returned as values of rows whose mean is the score. Where the score is a smooth function of means, as
the root of a mean, they are its linearisation at the score, so that the standard error of their mean is that
of the delta method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neglog.distributions import probabilities
from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of, variance_of
from neglog.distributions.family import deviance_of, events_of, family_of, tailed
from neglog.distributions.tails import log_tails
from neglog.errors import DataError, ModelError

CALIBRATION_BINS = 15
"""Bins of equal width of the probability of a class, as Guo et al. (2017) have them."""
CALIBRATION_LEVELS = tuple(level / 20 for level in range(1, 20))
"""Probabilities at which the share of rows at or below a quantile is compared with its level."""


@dataclass(frozen=True)
class Summary:
    """A score of all rows together.

    Attributes:
        parts: from the predictive distribution of rows, that of the null model for them, and their y `(N,)`
            to what the score is computed of, `(N, K)`.
        rows: from the parts `(N, K)` of all rows and their weights `(N,)` to values `(N,)` whose mean is the
            score.
        needs_null: whether the null model is used: without columns, fitted to all rows.
    """

    parts: Callable[[Any, Any, Tensor], Tensor]
    rows: Callable[[Tensor, Tensor], Tensor]
    needs_null: bool = False


def _squared_errors(response: Any, null: Any, y: Tensor) -> Tensor:
    _check_numbers(response)
    return torch.stack([(y - mean_of(response)).square(), y], -1)


def _absolute_errors(response: Any, null: Any, y: Tensor) -> Tensor:
    _check_numbers(response)
    return (y - quantile_of(response, torch.tensor(0.5, dtype=y.dtype))).abs()[:, None]


def _deviances(response: Any, null: Any, y: Tensor) -> Tensor:
    return torch.stack([deviance_of(response, response, y), deviance_of(response, null, y)], -1)


def _spreads(response: Any, null: Any, y: Tensor) -> Tensor:
    _check_numbers(response)
    return variance_of(response).expand(y.shape).sqrt()[:, None]


def _calibration_gaps(response: Any, null: Any, y: Tensor) -> Tensor:
    """Columns whose mean is a gap between what was predicted and what came, weighted by its share."""
    events = events_of(getattr(response, "first", response))
    return _class_gaps(response, events, y) if events else _quantile_gaps(response, y)


def _class_gaps(response: Any, events: tuple[int, ...], y: Tensor) -> Tensor:
    """Of each bin: the predicted probability, less 1 if the class came; 0 for rows of other bins.

    It is the probability of a yes where the response is yes or no, and that of the most probable class where
    there are more.
    """
    share, came = class_shares(response, events, y)
    bins = (share * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    return torch.nn.functional.one_hot(bins, CALIBRATION_BINS) * (share - came)[:, None]


def class_shares(response: Any, events: tuple[int, ...], y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of the events of each row `(N,)`, and 1 where that one came."""
    shares = torch.stack([response.log_prob(torch.full_like(y, float(k))).exp() for k in events], -1)
    share, place = shares.max(-1)
    return share, (torch.tensor(events, dtype=y.dtype)[place] == y).to(y)


def _quantile_gaps(response: Any, y: Tensor) -> Tensor:
    """Of each level: `shares_below` less the level, over the number of levels."""
    levels = torch.tensor(CALIBRATION_LEVELS, dtype=y.dtype)
    return (shares_below(response, y) - levels) / len(levels)


def shares_below(response: Any, y: Tensor) -> Tensor:
    """Of each of `CALIBRATION_LEVELS`, `(N, L)`: 1 if the row is at or below the quantile of that level.

    A value with a probability of its own counts by the share of it that is below the level, so that the mean
    is the level under the true distribution (Czado, Gneiting & Held 2009).
    """
    if response.event_shape or not family_of(getattr(response, "first", response)).ordered:
        raise ModelError("the calibration error needs a response of numbers or classes; leave it out.")
    upper = log_tails(tailed(response), y)[0].exp()
    own = torch.where(probabilities(response, y), response.log_prob(y).exp(), 0.0)
    levels = torch.tensor(CALIBRATION_LEVELS, dtype=y.dtype)
    inside = (levels - (upper - own)[:, None]) / own.clamp(min=torch.finfo(y.dtype).tiny)[:, None]
    return torch.where(own[:, None] > 0, inside.clamp(0, 1), (upper[:, None] <= levels).to(y))


def _check_numbers(response: Any) -> None:
    base = getattr(response, "first", response)
    if response.event_shape or family_of(base).classes is not None:
        raise ModelError(
            "errors of predictions need a response of one number for each row; classes have the scores "
            "'brier', 'calibration' and 'd2'. Leave 'rmse', 'mae', 'r2' and 'sharpness' out."
        )


def _root(parts: Tensor, weights: Tensor) -> Tensor:
    squares = parts[:, 0]
    root = _mean(squares, weights).sqrt()
    return root + (squares - root.square()) / (2 * root) if bool(root > 0) else squares


def _first(parts: Tensor, weights: Tensor) -> Tensor:
    return parts[:, 0]


def _explained_variance(parts: Tensor, weights: Tensor) -> Tensor:
    squares, y = parts.unbind(-1)
    return _explained(squares, (y - _mean(y, weights)).square(), weights)


def _explained_deviance(parts: Tensor, weights: Tensor) -> Tensor:
    return _explained(parts[:, 0], parts[:, 1], weights)


def _explained(errors: Tensor, null: Tensor, weights: Tensor) -> Tensor:
    """1 less the ratio of two means, linearised in both."""
    base = _mean(null, weights)
    if not bool(base > 0):
        raise DataError(
            "the share that is explained, 'r2' or 'd2', needs a response that varies, and all rows are "
            "alike. Leave it out."
        )
    ratio = _mean(errors, weights) / base
    return 1 - ratio - (errors - ratio * null) / base


def _gaps(parts: Tensor, weights: Tensor) -> Tensor:
    """The sum of the absolute means of all columns."""
    return parts @ torch.sign(weights @ parts)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights @ values / weights.sum()


SUMMARIES: Mapping[str, Summary] = {
    "rmse": Summary(_squared_errors, _root),
    "mae": Summary(_absolute_errors, _first),
    "r2": Summary(_squared_errors, _explained_variance),
    "d2": Summary(_deviances, _explained_deviance, needs_null=True),
    "sharpness": Summary(_spreads, _first),
    "calibration": Summary(_calibration_gaps, _gaps),
}
"""The scores of all rows together that `cross_validate` computes."""
