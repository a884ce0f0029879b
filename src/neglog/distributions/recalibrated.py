"""Distributions made from predicted ones: of another scale, or with a mapped distribution function."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.averaged import quantile_of
from neglog.distributions.base import ByTails
from neglog.distributions.derived import mean_of, partial_moments, rule, variance_of
from neglog.distributions.family import location_of, tailed
from neglog.distributions.special import log_of
from neglog.distributions.supports import check_probabilities, ends
from neglog.distributions.tails import log_tails


class Stretched(ByTails):
    """Stretched(base_dist, centre, factor): each distance from a centre, times a factor.

    Density: p((y - centre) / factor + centre) / factor, where `base_dist` has the density p on the real line.
    Shapes: `centre` broadcasts with the batch of `base_dist`, which is the batch; `factor` is one positive
    number. `centre` is in units of y.
    Estimates: a location–scale family with another scale.

    >>> import torch
    >>> from neglog.distributions import Laplace
    >>> wide = Stretched(Laplace(torch.tensor([1.0]), 1.0), torch.tensor([1.0]), 3.0)
    >>> wide.mean, wide.variance
    (tensor([1.]), tensor([18.]))
    """

    def __init__(
        self, base_dist: Any, centre: Tensor, factor: float, *, validate_args: bool | None = None
    ) -> None:
        self.base_dist, self.centre, self.factor = base_dist, centre, factor
        super().__init__(base_dist.batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Stretched:
        """The same distribution with a larger batch shape."""
        return Stretched(self.base_dist.expand(batch_shape), self.centre.expand(batch_shape), self.factor)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The real line."""
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """The mean, in units of y."""
        return self._outwards(mean_of(self.base_dist))

    @property
    def variance(self) -> Tensor:
        """The variance, in units of y squared."""
        return self.factor**2 * variance_of(self.base_dist)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density at `value`."""
        found = self.base_dist.log_prob(self._inwards(value))
        return found - torch.tensor(self.factor, dtype=found.dtype).log()

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile. Raises ``ValueError`` for a `value` outside 0 ≤ value ≤ 1."""
        check_probabilities(value)
        return self._outwards(quantile_of(self.base_dist, value))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Independent draws, `(*sample_shape, *batch_shape)`."""
        return self._outwards(self.base_dist.sample(sample_shape))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return log_tails(tailed(self.base_dist), self._inwards(value))

    def _inwards(self, value: Tensor) -> Tensor:
        return self.centre + (value - self.centre) / self.factor

    def _outwards(self, value: Tensor) -> Tensor:
        return self.centre + self.factor * (value - self.centre)


@dataclass(frozen=True, eq=False)
class Monotone:
    """An increasing, piecewise linear map of probabilities, from (0, 0) to (1, 1).

    All are `(B + 1,)`, and each probability is kept with its distance from 1, so that both ends have digits.

    Attributes:
        lower, upper: the probabilities at the knots, in rising order, and 1 less them.
        levels, above: what they are mapped to, and 1 less that.
    """

    lower: Tensor
    upper: Tensor
    levels: Tensor
    above: Tensor

    @classmethod
    def of_ranks(cls, lower: Tensor, upper: Tensor, bins: int) -> Monotone:
        """The map under which `bins` intervals between ranks of probabilities `(M,)` are equally probable.

        A probability of rank r is mapped to r / (M + 1), and equal ones to the mean of theirs.

        Args:
            lower, upper: the probabilities, in rising order, and 1 less them.
            bins: the number of bins, from 2 to M + 1.
        """
        count = len(lower) + 1
        ranks = (torch.arange(1, bins) * count / bins).round().long()
        knots, group, ties = torch.unique_consecutive(
            torch.stack([lower, upper])[:, ranks - 1], dim=1, return_inverse=True, return_counts=True
        )
        middle = torch.zeros_like(ties, dtype=lower.dtype).index_add(0, group, ranks.to(lower)) / ties
        inside = ((knots > 0) & (knots < 1)).all(0)
        (low, high), middle = knots[:, inside], middle[inside]
        zero, one = lower.new_zeros(1), lower.new_ones(1)
        return cls(
            torch.cat([zero, low, one]),
            torch.cat([one, high, zero]),
            torch.cat([zero, middle / count, one]),
            torch.cat([one, (count - middle) / count, zero]),
        )

    @property
    def widths(self) -> Tensor:
        """The length of each piece before it is mapped, `(B,)`."""
        return torch.where(self.lower[1:] <= 0.5, self.lower.diff(), -self.upper.diff())

    @property
    def slopes(self) -> Tensor:
        """The slope of each piece, `(B,)`."""
        return self.levels.diff() / self.widths

    def piece(self, log_lower: Tensor, log_upper: Tensor) -> Tensor:
        """The number of the piece in which a probability is, given by the logs of it and of 1 less it."""
        lower, upper = (each.exp().to(self.lower).contiguous() for each in (log_lower, log_upper))
        found = torch.where(
            lower <= 0.5,
            torch.searchsorted(self.lower, lower),
            torch.searchsorted(-self.upper, -upper),
        )
        return (found - 1).clamp(0, len(self.lower) - 2)

    def mapped(self, log_lower: Tensor, log_upper: Tensor) -> tuple[Tensor, Tensor]:
        """The logs of the mapped probability and of 1 less it."""
        at, slopes = self.piece(log_lower, log_upper), self.slopes
        rise = slopes[at].log()
        lower = self.levels[at] + (log_lower.exp() - self.lower[at]).clamp(min=0) * slopes[at]
        upper = self.above[at + 1] + (log_upper.exp() - self.upper[at + 1]).clamp(min=0) * slopes[at]
        small = log_lower <= log_upper
        lower, upper = torch.where(small, lower, 1 - upper), torch.where(small, 1 - lower, upper)
        first, last = at == 0, at == len(slopes) - 1
        return (
            torch.where(first, log_lower + rise, log_of(lower)),
            torch.where(last, log_upper + rise, log_of(upper)),
        )

    def inverse(self, q: Tensor) -> Tensor:
        """The probability that is mapped to `q`."""
        at = (torch.searchsorted(self.levels, q.to(self.levels).contiguous()) - 1).clamp(
            0, len(self.lower) - 2
        )
        slopes = self.slopes[at]
        lower = self.lower[at] + (q - self.levels[at]) / slopes
        upper = self.upper[at + 1] + ((1 - q) - self.above[at + 1]) / slopes
        return torch.where(lower <= 0.5, lower, 1 - upper).clamp(0, 1)


class Remapped(ByTails):
    """Remapped(base_dist, through): a distribution function F, mapped by an increasing one: R(F(y)).

    Density: R'(F(y)) p(y); a probability is R(F(y)) - R(F(y) - p(y)).
    Shapes: the batch is that of `base_dist`, a distribution of one number for each row.
    Estimates: outcomes whose share below each predicted quantile is that of earlier rows. Source: Kuleshov,
    Fenner & Ermon (2018).

    >>> import torch
    >>> from neglog.distributions import Normal
    >>> half = torch.tensor([0.5])
    >>> skewed = Remapped(Normal(torch.zeros(1), 1.0), Monotone.of_ranks(half / 2, 1 - half / 2, 2))
    >>> skewed.cdf(torch.tensor([-0.6745])), skewed.icdf(half)
    (tensor([0.5000]), tensor([-0.6745]))
    """

    def __init__(self, base_dist: Any, through: Monotone, *, validate_args: bool | None = None) -> None:
        self.base_dist, self.through = base_dist, through
        super().__init__(base_dist.batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Remapped:
        """The same distribution with a larger batch shape."""
        return Remapped(self.base_dist.expand(batch_shape), self.through)

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of `base_dist`."""
        return self.base_dist.support

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, or the log-probability of a count."""
        own = self.base_dist.log_prob(value)
        tails = log_tails(tailed(self.base_dist), value)
        if not self.support.is_discrete:
            return own + self.through.slopes[self.through.piece(*tails)].log()
        return self._log_probability(own, *tails)

    def _log_probability(self, own: Tensor, log_lower: Tensor, log_upper: Tensor) -> Tensor:
        """The log of R(F) - R(F - p), by the smaller tails."""
        before = log_of((log_lower.exp() - own.exp()).clamp(min=0))
        beyond = torch.logaddexp(log_upper, own)
        here, there = self.through.mapped(log_lower, log_upper), self.through.mapped(before, beyond)
        below = here[0].exp() - there[0].exp()
        above = there[1].exp() - here[1].exp()
        return log_of(torch.where(here[0] <= here[1], below, above).clamp(min=0))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.through.mapped(*log_tails(tailed(self.base_dist), value))

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The quantile. Raises ``ValueError`` for a `value` outside 0 ≤ value ≤ 1."""
        check_probabilities(value)
        return quantile_of(self.base_dist, self.through.inverse(value))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Independent draws through the quantile function, `(*sample_shape, *batch_shape)`."""
        dtype = self.through.levels.dtype
        return self.icdf(torch.rand(self._extended_shape(sample_shape), dtype=dtype))

    @property
    def mean(self) -> Tensor:
        """The mean, in units of y; that of `base_dist` where it is not finite."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """The variance, in units of y squared; that of `base_dist` where it is not finite."""
        return self._moments()[1]

    @property
    def knots(self) -> tuple[Tensor, ...]:
        """The numbers at which the density jumps, `(...)` each."""
        inner = self.through.lower[1:-1].reshape(-1, *(1 for _ in self.batch_shape))
        return tuple(quantile_of(self.base_dist, inner).expand(-1, *self.batch_shape))

    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.support.is_discrete:
            values, masses = rule(self)
            mean = (values * masses).sum(0)
            return mean, ((values - mean).square() * masses).sum(0)
        base = tailed(self.base_dist)
        centre, spread = (of(base).expand(self.batch_shape) for of in (mean_of, variance_of))
        first, second = self._moments_about(base, torch.where(torch.isfinite(centre), centre, 0.0))
        variance = torch.where(torch.isfinite(spread), second - first.square(), spread)
        return torch.where(torch.isfinite(centre), centre + first, centre), variance

    def _moments_about(self, base: Any, centre: Tensor) -> tuple[Tensor, Tensor]:
        """The moments about a centre `(...)`: those of `base` between two knots, each times its slope.

        The integral of a piece is split where the density of `base` may have its corner.
        """
        low, high = (torch.as_tensor(end, dtype=centre.dtype) for end in ends(base.support))
        edges = [low.expand(centre.shape), *self.knots, high.expand(centre.shape)]
        peak = location_of(base)
        peak = centre if peak is None or peak.shape != centre.shape else peak
        total = torch.zeros((2, *centre.shape), dtype=centre.dtype)
        for (low, high), slope, mass in zip(
            pairwise(edges), self.through.slopes, self.through.widths, strict=True
        ):
            within = torch.where(
                torch.isinf(low), high, torch.where(torch.isinf(high), low, (low + high) / 2)
            )
            start = torch.where((low < peak) & (peak < high), peak, within)
            first, second = partial_moments(base, low, high, start, torch.zeros_like(start))
            step = start - centre
            total[0] += slope * (first + step * mass)
            total[1] += slope * (second + 2 * step * first + step.square() * mass)
        return total[0], total[1]
