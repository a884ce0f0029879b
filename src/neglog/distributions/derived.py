"""Expectations, moments and distribution functions derived from a density by sums and integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.family import location_of, scale_of
from neglog.distributions.information import MAX_COUNT_PROBABILITIES
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_of
from neglog.distributions.supports import anywhere, ends
from neglog.errors import ModelError

SPACINGS = (1 / 8, 1 / 16, 1 / 256, 1 / 1024)
"""Spacings of the rules that are tried in turn; the last two are for densities with corners."""
WIDEST = 6.5
"""Largest t of these rules: their nodes are up to exp(500) times the scale from the centre."""
OUTERMOST_NODES = 10
"""Number of nodes at the end of a half-line whose terms are negligible where a moment exists."""
REFINED_ABOVE = 1e-9
"""Error of a total probability above which a quadrature is refined."""
MASS_TOLERANCE = 1e-6
"""Largest error of a total probability under a quadrature that is used."""
NEGLIGIBLE_TERM = 1e-8
"""Largest share of a moment in the outermost nodes where it exists."""
NEGLIGIBLE_PROBABILITY = 1e-16
"""Nodes with less probability than this in all rows are left out of a rule for expectations."""
MISSING_COUNTS = 1e-13
"""Probability of the counts beyond the last one of a sum."""
SUMMED_COUNTS = 64
"""Number of counts whose probabilities are evaluated at a time."""
EVALUATED_DENSITIES = 4_000_000
"""Number of densities that are evaluated at a time."""
SPREAD_DRAWS = 64
"""Draws that locate a density without a mean and a variance of its own."""


@torch.no_grad()
def about(fn: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A centre between `low` and `high` where a density may have its corner or its peak, and its scale."""
    try:
        centre, scale = fn.mean, fn.stddev
    except (NotImplementedError, AttributeError):
        centre, scale = _located(fn)
    if not bool(torch.isfinite(centre).all()):
        centre = torch.where(torch.isfinite(centre), centre, _located(fn)[0])
    if len(getattr(fn, "knots", ())) == 1:
        centre = fn.knots[0]
    elif fn.support is constraints.real:
        centre = centre if location_of(fn) is None else location_of(fn)
    own = scale_of(fn)
    scale = torch.where(torch.isfinite(scale), scale, 1.0 if own is None else own)
    known = torch.isfinite(scale) & (scale > 0)
    return torch.clamp(centre, low, high), torch.where(known, scale, 1.0)


def _located(fn: Any) -> tuple[Tensor, Tensor]:
    """The median of some draws, and the spread of their middle half."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        values = fn.sample((SPREAD_DRAWS,)).sort(0).values
    quarter = SPREAD_DRAWS // 4
    return values[2 * quarter], values[3 * quarter] - values[quarter]


def partial_moments(
    fn: Any, low: Tensor, high: Tensor, centre: Tensor, log_mass: Tensor
) -> tuple[Tensor, Tensor]:
    """The integrals of (y - centre) p(y) and (y - centre)² p(y) from `low` to `high`, over exp(log_mass)."""
    if fn.support.is_discrete:
        return _sums(fn, low, high, centre, log_mass)
    scale = about(fn, low, high)[1]
    parts = [_nodes(end, centre, scale, side) for end, side in ((low, -1.0), (high, 1.0))]
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    for y, weights in parts:
        inside, masses = _masses(fn, y, weights, low, high, log_mass)
        away = torch.where(inside, y - centre, 0.0)
        first, second = first + (masses * away).sum(0), second + (masses * away * away).sum(0)
    return first, second


def _masses(
    fn: Any, y: Tensor, weights: Tensor, low: Tensor, high: Tensor, log_mass: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Which nodes are between `low` and `high`, and density times weight there; 0 where it is not finite."""
    inside = (y > low) & (y < high) & torch.isfinite(y)
    elsewhere = anywhere(fn.support, y)

    def masses() -> Tensor:
        log_density = fn.log_prob(torch.where(inside, y, elsewhere)) - log_mass
        return torch.where(inside, torch.exp(log_density) * weights, 0.0)

    with torch.no_grad():
        found = masses()
        sound = torch.isfinite(found)
    if torch.is_grad_enabled():  # derivatives need a density that is finite wherever it is evaluated
        inside = inside & sound & (found > 0)
        return inside, masses()
    return inside, torch.where(sound, found, 0.0)


def _nodes(
    end: Tensor,
    centre: Tensor,
    scale: Tensor,
    side: float | Tensor,
    spacing: float = 1 / 16,
    widest: float = 4.5,
) -> tuple[Tensor, Tensor]:
    """Nodes and weights `(M, ...)` from `centre` to `end`, close together at both, and at `scale` between.

    The double exponential rule (Takahasi & Mori 1974): the trapezoidal one in t, where the distance from the
    centre is that to the end times σ(v) with v = ½π sinh t + log(scale / length), or scale · exp(½π sinh t)
    where the end is at infinity. The nodes have the given `spacing` in t, between -`widest` and `widest`.
    """
    per_side = round(widest / spacing)
    steps = torch.arange(-per_side, per_side + 1, dtype=centre.dtype)
    t = steps.reshape(-1, *(1 for _ in centre.shape)) * spacing
    grown, speed = 0.5 * math.pi * torch.sinh(t), 0.5 * math.pi * spacing * torch.cosh(t)
    length, bounded = (end - centre).abs(), torch.isfinite(end)
    v = grown + torch.log((scale / length).clamp(max=1.0))
    near, far = length * torch.sigmoid(v), length * torch.sigmoid(-v)
    y = torch.where(v < 0, centre + side * near, end - side * far)
    open_distance = scale * torch.exp(grown)
    return (
        torch.where(bounded, y, centre + side * open_distance),
        torch.where(bounded, near * torch.sigmoid(-v), open_distance) * speed,
    )


def _sums(fn: Any, low: Tensor, high: Tensor, centre: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """`partial_moments` of counts; where there is no `high`, what all counts give less those below `low`."""
    is_open = ~torch.isfinite(high)
    start, stop = torch.where(is_open, 0.0, low), torch.where(is_open, low - 1, high)
    mass, sign = torch.exp(log_mass), torch.where(is_open, -1.0, 1.0)
    mean, variance = mean_of(fn), variance_of(fn)
    away = torch.where(is_open, mean - centre, 0.0)
    first, second = away, torch.where(is_open, variance + away * away, 0.0)
    for k in range(int((stop - start).max()) + 1):
        value = start + k
        counted = (value <= stop) & fn.support.check(value)
        log_density = fn.log_prob(torch.where(counted, value, anywhere(fn.support, value)))
        term = sign * torch.where(counted, torch.exp(log_density), 0.0)
        first, second = first + term * (value - centre), second + term * (value - centre) ** 2
    return first / mass, second / mass


def rule(fn: Any) -> tuple[Tensor, Tensor]:
    """Nodes `(M, ...)` and their probabilities: expectations under a distribution of one number are sums.

    Of counts and classes the nodes are all of them, and the sum is exact.

    Raises:
        ModelError: vectors; a support that depends on a parameter; a density that a quadrature cannot follow.
    """
    low, high = _bounds(fn)
    if low.requires_grad or high.requires_grad:
        raise ModelError(
            "its support depends on a parameter, so its information is not an expectation of scores."
        )
    with torch.no_grad():
        y, masses = _all_nodes(fn)
        kept = (masses > NEGLIGIBLE_PROBABILITY).flatten(1).any(1)
        return y[kept], masses[kept]


def mean_of(fn: Any) -> Tensor:
    """The mean of a distribution of one number: its own, or else from its density.

    Raises:
        ModelError: it has no mean of its own, and there is none or its density cannot be integrated.
    """
    return _moment(fn, "mean", lambda y: y)


def variance_of(fn: Any) -> Tensor:
    """The variance of a distribution of one number, as `mean_of`."""
    return _moment(fn, "variance", lambda y: (y - mean_of(fn)) ** 2)


def _moment(fn: Any, name: str, of: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        own: Tensor = getattr(fn, name)
        return own
    except (NotImplementedError, AttributeError):
        y, masses = _all_nodes(fn)
    terms = torch.where(masses > 0, of(torch.where(masses > 0, y, 0.0)) * masses, 0.0)
    terms = torch.where(torch.isfinite(terms), terms, 0.0)
    if not fn.support.is_discrete and not all(bool(torch.isfinite(end).all()) for end in _bounds(fn)):
        sizes = terms.detach().abs()
        far = y.abs()
        last = torch.where(far >= far.topk(OUTERMOST_NODES, 0).values[-1], sizes, 0.0).amax(0)
        if not bool((last <= NEGLIGIBLE_TERM * sizes.sum(0)).all()):
            raise ModelError(f"`{type(fn).__name__}` has no {name}: its integral does not converge.")
    return terms.sum(0)


def _bounds(fn: Any) -> tuple[Tensor, Tensor]:
    """The ends of the support in the shape of the batch."""
    if fn.event_shape:
        raise ModelError("it is a distribution of vectors.")
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in ends(fn.support))
    return low.expand(fn.batch_shape), high.expand(fn.batch_shape)


def _all_nodes(fn: Any) -> tuple[Tensor, Tensor]:
    """Nodes from one end of the support to the other and the probabilities at them, which add up to 1."""
    low, high = (end.detach() for end in _bounds(fn))
    if fn.support.is_discrete:
        return _counts(fn, low, high)
    centre, scale = (part.double().expand(fn.batch_shape) for part in about(fn, low, high))
    knots = [knot.detach().expand(fn.batch_shape) for knot in getattr(fn, "knots", ())] or [centre]
    for spacing in SPACINGS:
        pieces = [_nodes(low, knots[0], scale, -1.0, spacing, WIDEST)]
        pieces += [_nodes(end, start, scale, 1.0, spacing, WIDEST) for start, end in pairwise([*knots, high])]
        y, weights = (torch.cat(part) for part in zip(*pieces, strict=True))
        masses = _masses(fn, y, weights, low, high)[1]
        if _error(masses.sum(0)) <= REFINED_ABOVE:
            break
    _check_total(fn, masses.sum(0))
    return y, masses


def _error(total: Tensor) -> float:
    return float((total.detach() - 1).abs().max()) if total.numel() else 0.0


def _check_total(fn: Any, total: Tensor) -> None:
    worst = _error(total)
    if not worst <= MASS_TOLERANCE:
        raise ModelError(
            f"the integral of the density of `{type(fn).__name__}` over its support differs from 1 by "
            f"{worst:.2g} by quadrature, so nothing is derived from it. Give the class a `cdf`."
        )


def _counts(fn: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """All counts that have a probability, `(M, ...)`, and their probabilities."""
    if not bool(torch.isfinite(low).all()):
        raise ModelError(
            f"the support of `{type(fn).__name__}` has no smallest value from which a sum could start."
        )
    counts, masses, total = [], [], torch.zeros_like(low)
    for start in range(0, MAX_COUNT_PROBABILITIES // max(1, low.numel()) + 1, SUMMED_COUNTS):
        steps = torch.arange(start, start + SUMMED_COUNTS, dtype=low.dtype)
        k = low + steps.reshape(-1, *(1 for _ in low.shape))
        possible = (k <= high) & fn.support.check(k)
        each = fn.log_prob(torch.where(possible, k, anywhere(fn.support, k))).exp()
        counts.append(k)
        masses.append(torch.where(possible, each, 0.0))
        step = masses[-1].detach().sum(0)
        total = total + step
        if bool(
            ((1 - total <= MISSING_COUNTS) | (step <= MISSING_COUNTS) & (total > 0.5) | (k[-1] >= high)).all()
        ):
            _check_total(fn, total)
            return torch.cat(counts), torch.cat(masses)
    raise ModelError("the counts are too large, or have too many values, for a sum over them.")


def tails_of(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """log P(Y ≤ value) and log P(Y > value), from the density or the probabilities.

    Raises:
        ModelError: the density cannot be integrated.
    """
    low, high = (end.detach() for end in _bounds(fn))
    value = value.expand(broadcast_shapes(value.shape, fn.batch_shape))
    lower, upper = (_count_tails if fn.support.is_discrete else _line_tails)(fn, value, low, high)
    below, above = value < low, value >= high
    return (
        torch.where(below, -math.inf, torch.where(above, 0.0, log_of(lower))),
        torch.where(below, 0.0, torch.where(above, -math.inf, log_of(upper))),
    )


def _line_tails(fn: Any, value: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Both tails of a density: each from the value outwards, so that the smaller one keeps its digits."""
    centre, scale = about(fn, low, high)
    at = torch.where((value > low) & (value < high), value, centre)
    centre = centre.to(at).expand(at.shape)
    first, last = torch.minimum(at, centre), torch.maximum(at, centre)
    side = torch.where(at < centre, -1.0, 1.0)
    for spacing in SPACINGS:
        left = _integral(fn, first, low, scale, -1.0, spacing)
        right = _integral(fn, last, high, scale, 1.0, spacing)
        middle = _integral(fn, centre, at, scale, side, spacing)
        if _error(left + middle + right) <= REFINED_ABOVE:
            break
    _check_total(fn, left + middle + right)
    after = at > centre
    return left + torch.where(after, middle, 0.0), right + torch.where(after, 0.0, middle)


def _integral(
    fn: Any, start: Tensor, end: Tensor, scale: Tensor, side: float | Tensor, spacing: float
) -> Tensor:
    """The integral of a density between two numbers."""
    y, weights = _nodes(end, start, scale, side, spacing, WIDEST)
    first, last = torch.minimum(start, end), torch.maximum(start, end)
    size = max(1, EVALUATED_DENSITIES // max(1, start.numel()))
    parts = zip(y.split(size), weights.split(size), strict=True)
    return torch.stack([_masses(fn, *part, first, last)[1].sum(0) for part in parts]).sum(0)


def _count_tails(fn: Any, value: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Both tails of probabilities, each summed up from its small ones."""
    _, masses = _counts(fn, low, high)
    none = torch.zeros_like(masses[:1])
    lower, upper = torch.cat([none, masses.cumsum(0)]), torch.cat([masses.flip(0).cumsum(0).flip(0), none])
    index = (torch.floor(value) - low + 1).clamp(0, len(masses)).long()
    flat = index.reshape(-1, *low.shape)
    return lower.gather(0, flat).reshape(value.shape), upper.gather(0, flat).reshape(value.shape)
