"""Predicted probabilities beside observed shares: coverage by bins of rows, and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neglog.arguments import share, whole
from neglog.data import check_finite
from neglog.designs import read_vector
from neglog.distributions.averaged import quantile_of
from neglog.distributions.family import events_of
from neglog.errors import DataError, ModelError, written
from neglog.inputs.blueprint import column_of
from neglog.inputs.frames import as_table
from neglog.isolation import isolated
from neglog.magnitudes import place_of
from neglog.prediction.accuracy import CALIBRATION_BINS, CALIBRATION_LEVELS, class_shares, shares_below
from neglog.prediction.conformal_intervals import check_numbers, check_some
from neglog.prediction.predictor import Predicting
from neglog.prediction.scoring import observed_response

SCALE_ROUNDING = 1e-9
"""Differences of predicted scales attributed to rounding, relative to the largest."""
CHANCE = 0.95
"""Probability of the band in which a share of a calibrated prediction is."""


@isolated
def coverage(
    fit: Predicting,
    x: Any,
    y: Any = None,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    *,
    by: Any = None,
    bins: int = 5,
    **keywords: Any,
) -> pd.DataFrame:
    """The share of outcomes in central intervals, by bins of rows: calibration that an average may hide.

    A row of the table for each bin and level: the ends of the bin (``from``, ``to``), its ``rows``, the
    ``level``, the ``coverage``, the ``std_error`` that it has where the prediction is calibrated,
    √(level (1 - level) / rows), and the mean ``width`` of the intervals, in units of y (sharpness).

    Args:
        fit: a fit, a posterior, or another value with predictive distributions.
        x, y: held-out rows, `(N, P)` and `(N,)`. For the fit of a formula, a table is enough.
        levels: levels of the intervals, between the quantiles at (1 ± level) / 2.
        by: what the bins are of: numbers `(N,)`, or the name of a column of the table `x`; by default the
            predicted scale, the width of the middle half of the predictive distribution.
        bins: the number of bins, with about equally many rows; equal values are in one bin.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        ModelError: levels that are not between 0 and 1; a response of vectors or classes; as `predict`.
        DataError: as `predict`; a `y` that is missing; a `by` of another length, or with missing values; no
            rows.

    Source: Gneiting, Balabdaoui & Raftery (2007), Probabilistic forecasts, calibration and sharpness.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.arange(40, dtype=torch.float64)[:, None]
    >>> y = x[:, 0] + torch.cos(9 * x[:, 0])
    >>> coverage(mle(models.gaussian, x[:20], y[:20]), x[20:], y[20:], [0.5], by=x[20:, 0], bins=2).round(2)
       from    to  rows  level  coverage  std_error  width
    0  20.0  29.5    10    0.5       0.3       0.16   0.94
    1  29.5  39.0    10    0.5       0.2       0.16   0.94
    """
    shares = _levels(levels)
    bins = whole("bins", bins)
    response, data = observed_response(fit, x, y, keywords, coverage, "coverage")
    check_numbers(response, "coverages")
    check_some(data.rows)
    with torch.no_grad():
        ends_at = torch.tensor([[0.5 - s / 2, 0.5 + s / 2] for s in (0.5, *shares)], dtype=torch.float64)
        ends = quantile_of(response, ends_at.flatten()[:, None]).unflatten(0, (-1, 2))
    lower, upper = (ends[:, side].double().numpy() for side in (0, 1))
    values = upper[0] - lower[0] if by is None else _by(by, x, data.rows)
    edges, index = _binned(values, bins)
    observed = data.y.numpy()
    rows = []
    for number in range(len(edges) - 1):
        inside = index == number
        count = int(inside.sum())
        for place, level in enumerate(shares, 1):
            low, high = lower[place][inside], upper[place][inside]
            held = float(((low <= observed[inside]) & (observed[inside] <= high)).mean())
            error = math.sqrt(level * (1 - level) / count)
            rows.append(
                (edges[number], edges[number + 1], count, level, held, error, float((high - low).mean()))
            )
    return pd.DataFrame(rows, columns=["from", "to", "rows", "level", "coverage", "std_error", "width"])


class Reliability(NamedTuple):
    """Predicted probabilities `(L,)`, observed shares, and the band of chance around the predicted ones."""

    predicted: np.ndarray
    observed: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    of_classes: bool


def reliability_at(
    fit: Predicting, x: Any, y: Any, keywords: Mapping[str, Any], caller: Callable[..., Any]
) -> Reliability:
    """The reliability of predictions of held-out rows, which have been verified.

    Raises:
        DataError: as `observed_response`; no rows.
        ModelError: as `reliability_of`.
    """
    response, data = observed_response(fit, x, y, keywords, caller, "place in a reliability diagram")
    check_some(data.rows)
    with torch.no_grad():
        return reliability_of(response, data.y)


def reliability_of(response: Any, y: Tensor) -> Reliability:
    """The reliability of the distributions of rows `(N,)`: of quantiles, or of probabilities of classes.

    Of numbers: levels, and the shares of rows at or below the quantiles of these levels. Of classes: the mean
    probability in each of 15 bins, and the share of rows whose class came. The band has what 95 % of
    calibrated predictions show, at each probability alone.

    Raises:
        ModelError: a response of vectors, or of classes without probabilities.
    """
    events = events_of(getattr(response, "first", response))
    if events:
        probability, came = class_shares(response, events, y)
        place = (probability * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        used = place.unique()
        inside = (place == used[:, None]).double()
        counts = inside.sum(1)
        predicted, observed = inside @ probability.double() / counts, inside @ came.double() / counts
    else:
        below = shares_below(response, y)
        predicted = torch.tensor(CALIBRATION_LEVELS, dtype=torch.float64)
        observed, counts = below.double().mean(0), torch.full_like(predicted, len(y))
    n, p = counts.numpy(), predicted.clamp(0, 1).numpy()
    from scipy.stats import binom  # which takes half a second

    lower, upper = (binom.ppf(0.5 + side * CHANCE / 2, n, p) / n for side in (-1, 1))
    return Reliability(p, observed.numpy(), lower, upper, bool(events))


def _levels(levels: Any) -> list[float]:
    try:
        given = list(levels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"`levels` must be several numbers between 0 and 1; it is {written(levels)}."
        ) from error
    found = [share("levels", level) for level in given]
    if not found:
        raise ModelError("`levels` is empty; give one at least.")
    return found


def _by(by: Any, x: Any, rows: int) -> np.ndarray:
    values = column_of(as_table("x", x), "by", by) if isinstance(by, str) else by
    vector = read_vector("by", values, torch.float64)
    if vector.shape != (rows,):
        raise DataError(f"`by` must have one number for each of {rows} rows; it has {tuple(vector.shape)}.")
    check_finite("by", ~torch.isfinite(vector), place_of)
    return vector.numpy()


def _binned(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges of bins with about equally many values, and the number of the bin of each value."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, min(bins, len(values)) + 1)))
    apart = np.diff(edges) > SCALE_ROUNDING * np.abs(edges).max()
    edges = np.append(edges[0], edges[1:][apart])
    edges = np.repeat(edges, 2) if len(edges) == 1 else edges
    index = np.searchsorted(edges[1:-1], values, side="left")
    filled = np.unique(index)
    return np.append(edges[filled], edges[-1]), np.searchsorted(filled, index)
