"""Log-probabilities of intervals, accurate however narrow they are and wherever they lie.

The difference of two tails loses the digits in which they agree. Where that is more than one, the interval is
narrow next to the spread, and the integral of the density by Gauss's rule is exact to rounding, derivatives
included. Few counts are added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_difference, log_of, nowhere
from neglog.distributions.supports import anywhere, ends
from neglog.distributions.tails import log_tails

MAX_INTERVAL_SHARE = 0.1
"""Share of a tail below which an interval is integrated: as a difference of tails it would lose digits."""
INTERVAL_NODES = 10
"""Nodes of Gauss's rule: exact to rounding where the density changes by that share of itself."""
MAX_INTERVAL_COUNTS = 16
"""Number of counts up to which the probability of an interval is the sum of theirs."""
TAIL_ACCURACY = 1e-12
"""Relative accuracy of tails, unless a family has a `tail_accuracy` of its own."""


@dataclass(frozen=True)
class Cut:
    """A value `at`, which may be infinite, with log P(Y ≤ at) and log P(Y > at)."""

    at: Tensor
    below: Tensor
    above: Tensor


def cut(fn: Any, at: Tensor) -> Cut:
    """The cut of a distribution at values that may be infinite.

    Raises:
        ModelError: the distribution has no distribution function.
    """
    shape = broadcast_shapes(at.shape, fn.batch_shape)
    infinite = torch.isinf(at)
    low = torch.where(at > 0, 0.0, -math.inf).to(at).expand(shape)
    high = torch.where(at > 0, -math.inf, 0.0).to(at).expand(shape)
    if bool(infinite.all()):
        return Cut(at, low, high)
    below, above = log_tails(fn, torch.where(infinite, 0.0, at))
    return Cut(at, torch.where(infinite, low, below), torch.where(infinite, high, above))


def cut_before(fn: Any, lower: Tensor) -> Cut:
    """The cut below which nothing is at least `lower`: for counts at the whole number before it."""
    return cut(fn, torch.ceil(lower) - 1 if fn.support.is_discrete else lower)


def log_between(fn: Any, start: Cut, end: Cut) -> Tensor:
    """log P(start < Y ≤ end)."""
    if not hasattr(fn, "_log_interval") or getattr(fn, "differences_are_exact", False):
        return _by_tails(fn, start, end)
    low, high = (torch.as_tensor(bound).to(start.at) for bound in ends(fn.support))
    inner = (start.at > low) & (end.at < high) & (end.at > start.at)
    if nowhere(~inner):
        found: Tensor = fn._log_interval(start.at, end.at)
        return found
    if nowhere(inner):
        return _by_tails(fn, start, end)
    inside = anywhere(fn.support, start.at)
    found = fn._log_interval(torch.where(inner, start.at, inside), torch.where(inner, end.at, inside + 1.0))
    return torch.where(inner, found, _by_tails(fn, start, end))


def _by_tails(fn: Any, start: Cut, end: Cut) -> Tensor:
    """The same by a difference of tails, or where that loses digits by the density."""
    difference, tail = _difference(start, end)
    if bool((torch.isinf(start.at) | torch.isinf(end.at)).all()):
        return difference
    share = torch.exp(difference.detach() - tail.detach())
    if nowhere(share < MAX_INTERVAL_SHARE):
        return difference
    if fn.support.is_discrete:
        found, usable = _sum(fn, start.at, end.at)
    else:
        found, usable = _integral(fn, start.at, end.at)
        accuracy = getattr(fn, "tail_accuracy", TAIL_ACCURACY)
        known = tail.detach()
        # The rounding error of a logarithm is relative; that of a tail probability is absolute.
        exact = accuracy * ((1 - known) if hasattr(fn, "_log_tails") else torch.exp(-known))
        # A density that varies within the interval, as with a narrow component, shows in the difference.
        agree = (torch.expm1(difference.detach() - found.detach())).abs() * share <= exact
        usable = usable & (agree | (share <= exact))
    return torch.where(usable & (share < MAX_INTERVAL_SHARE), found, difference)


def _difference(start: Cut, end: Cut) -> tuple[Tensor, Tensor]:
    """The log of the difference of tails, and of the tail from which the other is subtracted.

    Both are on the side of the median where the interval lies; 1 where it lies across it.
    """
    half = -math.log(2)
    # The interval contains the median: 1 minus both outer tails does not cancel.
    outside = (torch.exp(start.below) + torch.exp(end.above)).clamp(max=1.0)
    astride = torch.where(outside < 1, torch.log1p(-torch.where(outside < 1, outside, 0.0)), -math.inf)
    upper, lower = start.below > half, end.above > half
    one_side = torch.where(
        upper, log_difference(start.above, end.above), log_difference(end.below, start.below)
    )
    tail = torch.where(upper, start.above, torch.where(lower, end.below, 0.0))
    return torch.where(upper | lower, one_side, astride), tail


def _sum(fn: Any, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of the counts above `start` up to `end`, and where it is known so."""
    first, number = torch.floor(start) + 1, torch.floor(end) - torch.floor(start)
    usable = torch.isfinite(first) & (number <= MAX_INTERVAL_COUNTS)
    k = _along(torch.arange(MAX_INTERVAL_COUNTS).to(start), broadcast_shapes(number.shape, fn.batch_shape))
    value = torch.where(usable & (k < number), first + k, math.nan)
    counted = fn.support.check(value)
    terms = fn.log_prob(torch.where(counted, value, anywhere(fn.support, value)))
    return _log_sum(torch.where(counted, terms, -math.inf)), usable


def _integral(fn: Any, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the integral of the density, and where both ends are inside the support.

    Over log y where y is positive and over the log-odds where it is a share: there powers of y are smooth.
    """
    low, high = (torch.as_tensor(bound).to(start) for bound in ends(fn.support))
    usable = torch.isfinite(start) & torch.isfinite(end) & (end > start)
    usable = usable & (start > low) & (end < high)
    shape = broadcast_shapes(usable.shape, fn.batch_shape)
    inside = anywhere(fn.support, start.expand(shape))
    start = torch.where(usable, start, inside)
    end = torch.where(usable, end, torch.where(torch.isinf(high), inside + 1.0, 0.5 * (inside + high)))
    nodes, weights = (_along(part.to(start), shape) for part in _rule())
    if float(low) == 0 and math.isinf(high):
        width = torch.log1p((end - start) / start)
        value = start * torch.exp(nodes * width)
        terms = torch.log(value) + torch.log(width)
    elif float(low) == 0 and float(high) == 1:
        width = torch.log1p((end - start) / (start * (1 - end)))
        value = torch.sigmoid(torch.logit(start) + nodes * width)
        terms = torch.log(value) + torch.log1p(-value) + torch.log(width)
    else:
        return _log_sum(_panels(fn, start, end, nodes, torch.log(weights))), usable
    return _log_sum(fn.log_prob(value) + terms + torch.log(weights)), usable


def _panels(fn: Any, start: Tensor, end: Tensor, nodes: Tensor, log_weights: Tensor) -> Tensor:
    """The terms of the integral on the line, from one knot of the density to the next."""
    width = end - start
    inner = [torch.minimum((knot - start).clamp_min(0.0), width) for knot in getattr(fn, "knots", ())]
    edges, parts = [torch.zeros_like(width), *inner, width], []
    for near, far in pairwise(edges):
        some = far > near
        length = torch.where(some, far - near, 1.0)
        terms = fn.log_prob(start + near + nodes * torch.where(some, length, 0.0))
        parts.append(torch.where(some, terms + torch.log(length) + log_weights, -math.inf))
    return torch.cat(parts)


@lru_cache(maxsize=1)
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(INTERVAL_NODES)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


def _along(values: Tensor, shape: torch.Size) -> Tensor:
    """Values along a new first dimension, before those of `shape`."""
    return values.reshape(-1, *(1 for _ in shape))


def _log_sum(terms: Tensor) -> Tensor:
    """log Σ exp over the first dimension: -inf, without a derivative, where nothing is added."""
    most = terms.detach().amax(0)
    most = torch.where(torch.isfinite(most), most, 0.0)
    return most + log_of(torch.exp(terms - most).sum(0))
