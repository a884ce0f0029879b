"""The continuous ranked probability score of a distribution: the integral of (F(t) - 1{t ≥ y})²."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.distributions import Gamma, Laplace, Logistic, LogNormal, Normal, NormalMixture, StudentT
from neglog.distributions.averaged import Averaged, quantile_of
from neglog.distributions.canonical import tailed
from neglog.distributions.positive import Beta
from neglog.distributions.quadrature import gauss_legendre, nodes_of
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.tails import log_tails
from neglog.errors import ModelError

SHARES = (1e-9, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-9)
"""Between these quantiles lie the panels of the integral; what is beyond counts for less than 1e-9."""
PARTS = 4
"""Each stretch between two of these quantiles is cut into so many panels of the same width: the distribution
function of one family may have corners. That of a mixture over draws is smooth, and dear."""
STEP = 64
"""So many counts of each row are summed at a time."""
FAR = 10_000.0
"""Counts below this mean are summed from 0 on."""
NOTHING = 1e-8
"""A tail with no more probability than this adds less than its square times its length."""
MOST = 1_000_000
"""Counts that spread over more numbers than this are not summed."""
SAMPLE = 1024
"""Draws for a distribution of real numbers that has no distribution function."""

CLOSED: Mapping[type, tuple[str, Callable[[Any], tuple[Tensor, ...]]]] = {
    Normal: ("crps_normal", lambda d: (d.loc, d.scale)),
    Laplace: ("crps_laplace", lambda d: (d.loc, d.scale)),
    Logistic: ("crps_logistic", lambda d: (d.location, d.scale)),
    StudentT: ("crps_t", lambda d: (d.df, d.loc, d.scale)),
    LogNormal: ("crps_lognormal", lambda d: (d.loc, d.scale)),
    Gamma: ("crps_gamma", lambda d: (d.concentration, d.rate)),
    Beta: ("crps_beta", lambda d: (d.concentration1, d.concentration0)),
    NormalMixture: ("crps_mixnorm", lambda d: (d.means, d.sigmas, d.probs)),
}
"""Family -> the function of scoringrules that has its closed form, and its arguments after y."""


def crps(fn: Any, y: Tensor) -> Tensor:
    """The score `(N,)` of each y, in units of y: the lower, the better.

    By the closed form in scoringrules, where that is installed and has one for the family; by the exact sum,
    for whole numbers; by an integral to about 1e-9 of the spread, for whatever else has a distribution
    function; from 1024 draws, without bias (the mean of |X - y| less half that of |X - X'|), for the rest.

    Raises:
        ModelError: vectors, classes without an order, counts that spread over more than a million numbers.

    Sources: Matheson & Winkler (1976); Gneiting & Raftery (2007), Strictly proper scoring rules, section 4.2.
    """
    if fn.event_shape or isinstance(getattr(fn, "first", fn), dist.Categorical):
        raise ModelError("the CRPS is for numbers; vectors and classes without an order have the log score.")
    fn, y = tailed(fn), y.expand(broadcast_shapes(y.shape, fn.batch_shape))
    with torch.no_grad():
        try:
            log_tails(fn, y)
        except ModelError:
            return _by_draws(fn, y)
        if fn.support.is_discrete:
            return _sum(fn, y)
        found = _closed(fn, y)
        return _integral(fn, y) if found is None else found


def _closed(fn: Any, y: Tensor) -> Tensor | None:
    """The score by scoringrules; None where it is not installed, or has no finite value."""
    if type(fn) not in CLOSED:
        return None
    try:
        import scoringrules
    except ImportError:
        return None
    name, parameters = CLOSED[type(fn)]
    with np.errstate(all="ignore"):  # what comes out is looked at
        values = [value.double().numpy() for value in (y, *parameters(fn))]
        found = torch.as_tensor(np.asarray(getattr(scoringrules, name)(*values))).to(y.dtype)
    return found.expand(y.shape) if bool(torch.isfinite(found).all()) else None


def _integral(fn: Any, y: Tensor) -> Tensor:
    """Gauss's rule on panels between quantiles, of F² before y and of (1 - F)² after it."""
    shares = torch.tensor(SHARES, dtype=y.dtype).reshape(-1, *(1 for _ in y.shape))
    quantiles = quantile_of(fn, shares).expand(len(SHARES), *y.shape)
    parts = 1 if isinstance(fn, Averaged) else PARTS
    inner = [quantiles[:-1] + part / parts * quantiles.diff(dim=0) for part in range(parts)]
    edges = torch.cat([*inner, quantiles[-1:], y[None]]).sort(0).values
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
    if float(fn.mean.max()) > FAR:
        low = (quantile_of(fn, torch.full_like(y, NOTHING)) - 1).clamp(min=0)
        below = log_tails(fn, low - 1)[0].exp()
    total = (low - y).clamp(min=0)  # where F is 0 and k ≥ y
    for _ in range(MOST // STEP):
        k = low + torch.arange(STEP, dtype=y.dtype)[:, None]
        possible = fn.support.check(k)
        each = torch.where(possible, fn.log_prob(torch.where(possible, k, y)).exp(), 0.0)
        lower = below + each.cumsum(0)
        total += torch.where(k < y, lower, (1 - lower) * (k >= y)).square().sum(0)
        low, below = low + STEP, lower[-1]
        if bool((1 - below < NOTHING).all()):
            return total + (y - low).clamp(min=0)  # where F is 1 and k < y
    raise ModelError("the counts spread over too many numbers to sum their CRPS; take the log score.")


def _by_draws(fn: Any, y: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        values = fn.sample((SAMPLE,)).sort(0).values
    rank = torch.arange(SAMPLE, dtype=y.dtype).reshape(-1, *(1 for _ in y.shape))
    # The mean of |X - X'| over pairs, from the ordered draws.
    between = 2 * ((2 * rank + 1 - SAMPLE) * values).sum(0) / (SAMPLE * (SAMPLE - 1))
    return (values - y).abs().mean(0) - 0.5 * between
