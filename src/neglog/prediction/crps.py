"""The continuous ranked probability score of a distribution: the integral of (F(t) - 1{t ≥ y})²."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of
from neglog.distributions.family import family_of, tailed
from neglog.distributions.quadrature import gauss_legendre, nodes_of
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.tails import log_tails
from neglog.errors import ModelError

PANEL_QUANTILES = (1e-9, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-9)
"""Quantiles between which the panels of the integral lie; the rest contributes less than 1e-9."""
PANELS_PER_QUANTILE = 4
"""Panels of the same width between two quantiles, for the corners that the distribution function of a family
may have. That of a mixture over draws is smooth, and costly: it has one panel."""
SUMMED_COUNTS = 64
"""Counts of each row that are summed at a time."""
MAX_MEAN_FROM_ZERO = 10_000.0
"""Above this mean, counts are not summed from 0 on but from a quantile."""
NEGLIGIBLE_TAIL = 1e-8
"""Probability of a tail that is left out of a sum; it contributes less than its square times its length."""
MAX_SUMMED_COUNTS = 1_000_000
"""Largest number of counts in a sum."""
CRPS_DRAWS = 1024
"""Draws from a distribution whose density cannot be integrated."""


def crps(fn: Any, y: Tensor) -> Tensor:
    """The score `(N,)` of each y, in units of y: the lower, the better.

    Families with a closed form use it (`neglog.distributions.ranked`). Other counts have the exact sum, other
    distributions an integral to about 1e-9 of their spread, and densities that cannot be integrated an
    unbiased estimate from 1024 draws: the mean of |X - y| less half that of |X - X'|.

    Raises:
        ModelError: vectors, classes without an order, counts that spread over more than a million numbers.

    Sources: Matheson & Winkler (1976); Gneiting & Raftery (2007), Strictly proper scoring rules, section 4.2.
    """
    if fn.event_shape or not family_of(getattr(fn, "first", fn)).ordered:
        raise ModelError(
            "the CRPS needs a response of numbers; vectors and unordered classes have the log score."
        )
    fn, y = tailed(fn), y.expand(broadcast_shapes(y.shape, fn.batch_shape))
    with torch.no_grad():
        try:
            log_tails(fn, y)
        except ModelError:
            return _by_draws(fn, y)
        found = _closed(fn, y)
        if found is not None:
            return found
        return _sum(fn, y) if fn.support.is_discrete else _integral(fn, y)


def _closed(fn: Any, y: Tensor) -> Tensor | None:
    """The score in closed form; None where there is none, or it has no finite value."""
    formula = family_of(fn).crps
    found = None if formula is None else formula(fn, y)
    return found if found is None or bool(torch.isfinite(found).all()) else None


def _integral(fn: Any, y: Tensor) -> Tensor:
    """Gauss's rule on panels between quantiles, of F² before y and of (1 - F)² after it."""
    shares = torch.tensor(PANEL_QUANTILES, dtype=y.dtype).reshape(-1, *(1 for _ in y.shape))
    quantiles = quantile_of(fn, shares).expand(len(PANEL_QUANTILES), *y.shape)
    parts = 1 if getattr(fn, "has_smooth_cdf", False) else PANELS_PER_QUANTILE
    inner = [quantiles[:-1] + part / parts * quantiles.diff(dim=0) for part in range(parts)]
    knots = [knot.expand(y.shape)[None] for knot in getattr(fn, "knots", ())]
    edges = torch.cat([*inner, quantiles[-1:], y[None], *knots]).sort(0).values
    total = torch.zeros_like(y)
    for start, end in pairwise(edges):
        nodes, weights = nodes_of(start, end, gauss_legendre())
        lower, upper = log_tails(fn, nodes.movedim(-1, 0))
        side = torch.where(start < y, lower, upper)
        total += (torch.exp(2 * side) * weights.movedim(-1, 0)).sum(0)
    return total


def _sum(fn: Any, y: Tensor) -> Tensor:
    """The sum over whole numbers k of F(k)² for k < y and of (1 - F(k))² for k ≥ y.

    F is summed up from the probabilities, which cost less than the distribution function.
    """
    low, below = torch.zeros_like(y), torch.zeros_like(y)
    if float(mean_of(fn).max()) > MAX_MEAN_FROM_ZERO:
        low = (quantile_of(fn, torch.full_like(y, NEGLIGIBLE_TAIL)) - 1).clamp(min=0)
        below = log_tails(fn, low - 1)[0].exp()
    total = (low - y).clamp(min=0)  # where F is 0 and k ≥ y
    for _ in range(MAX_SUMMED_COUNTS // SUMMED_COUNTS):
        k = low + torch.arange(SUMMED_COUNTS, dtype=y.dtype)[:, None]
        possible = fn.support.check(k)
        each = torch.where(possible, fn.log_prob(torch.where(possible, k, y)).exp(), 0.0)
        lower = below + each.cumsum(0)
        total += torch.where(k < y, lower, (1 - lower) * (k >= y)).square().sum(0)
        low, below = low + SUMMED_COUNTS, lower[-1]
        if bool((1 - below < NEGLIGIBLE_TAIL).all()):
            return total + (y - low).clamp(min=0)  # where F is 1 and k < y
    raise ModelError("the counts have too many values for the sum that gives their CRPS; use the log score.")


def _by_draws(fn: Any, y: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        values = fn.sample((CRPS_DRAWS,)).sort(0).values
    rank = torch.arange(CRPS_DRAWS, dtype=y.dtype).reshape(-1, *(1 for _ in y.shape))
    # The mean of |X - X'| over pairs, from the ordered draws.
    between = 2 * ((2 * rank + 1 - CRPS_DRAWS) * values).sum(0) / (CRPS_DRAWS * (CRPS_DRAWS - 1))
    return (values - y).abs().mean(0) - 0.5 * between
