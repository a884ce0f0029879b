"""Families of counts.

Of all of them the distribution function is that of the waiting time, evaluated by quadrature, so it is
differentiable in the parameters; it is constant between counts. `icdf(q)` is the smallest count whose `cdf`
reaches `q`, where a `cdf` that misses `q` by rounding alone counts as reaching it; it has no derivative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions import deviances, information, ranked
from neglog.distributions.base import FamilyMixin, Parameter, Univariate, as_tensors
from neglog.distributions.dispersed import is_lower_smaller, log_tail_factor
from neglog.distributions.family import Family, register
from neglog.distributions.incomplete import (
    log_regularised_beta,
    log_regularised_gamma,
    log_tails_of,
    regularised_beta,
    regularised_gamma,
)
from neglog.distributions.partials import Law
from neglog.distributions.quantiles import at_ends, interior, search_quantile
from neglog.distributions.special import (
    artanh_rest,
    log_expit,
    log_factorial_rest,
    log_ratio,
    stirling_remainder,
)
from neglog.internals import standard_gamma


class Counts(FamilyMixin):
    """A family of counts: its quantiles are searched, from the Normal approximation on."""

    def _quantile(self: Any, q: Tensor) -> Tensor:
        inner = interior(q)
        start = self.mean + torch.sqrt(self.variance) * torch.special.ndtri(inner)
        found = search_quantile(inner.detach(), self._tails, start.detach())
        return at_ends(q, found, 0.0, self._most())

    def _most(self) -> Tensor | float:
        """The largest possible count."""
        return math.inf

    def _outside(
        self: Any, value: Tensor, tails: tuple[Tensor, Tensor], sure: float = 1.0, never: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The tails with no probability below 0 and none above the largest count."""
        low, high = value < 0, value >= self._most()
        lower, upper = tails
        return (
            torch.where(low, never, torch.where(high, sure, lower)),
            torch.where(low, sure, torch.where(high, never, upper)),
        )

    def _log_outside(self, value: Tensor, tails: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._outside(value, tails, 0.0, -math.inf)


def _log_shares(logit: Tensor) -> tuple[Tensor, Tensor]:
    """The logs of σ(logit) and σ(-logit)."""
    rest = torch.log1p(torch.exp(-logit.abs()))
    return logit.clamp(max=0) - rest, -logit.clamp(min=0) - rest


def _bernoulli(y: Tensor, logit: Tensor) -> Tensor:
    hit, miss = _log_shares(logit)
    return y * hit + (1 - y) * miss


_BERNOULLI = Law(
    {
        (): _bernoulli,
        (0,): lambda y, logit: logit,
        (1,): lambda y, logit: y * torch.sigmoid(-logit) - (1 - y) * torch.sigmoid(logit),
        (0, 1): lambda y, logit: torch.ones_like(logit),
        (1, 1): lambda y, logit: -torch.sigmoid(logit) * torch.sigmoid(-logit),
    }
)


@public
class Bernoulli(Counts, dist.Bernoulli):
    """Pyro's Bernoulli(probs) or Bernoulli(logits=...): minus its log is the binary cross-entropy.

    Density: p^y (1 - p)^(1 - y) for y in {0, 1}.
    Shapes: any. Estimates: the probability of a 1. Source: Bernoulli (1713); Berkson (1944) for the logit.

    >>> import torch
    >>> Bernoulli(0.25).log_prob(torch.tensor(1.0)).exp()
    tensor(0.2500)
    """

    def __init__(
        self,
        probs: Parameter | None = None,
        logits: Parameter | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(probs, logits, validate_args=validate_args)
        self._given, self._by_logits = (self._param,), logits is not None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = super().expand(batch_shape, _instance)
        new._by_logits = self._by_logits
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        (parameter,) = self._given
        if self._by_logits:
            return log_expit((2 * value - 1) * parameter)
        return torch.xlogy(value, parameter) + torch.special.xlog1py(1 - value, -parameter)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        p = self._given[0]
        hit, miss = (torch.sigmoid(p), torch.sigmoid(-p)) if self._by_logits else (p, 1 - p)
        return self._outside(value, (miss, hit))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        p = self._given[0]
        hit, miss = (log_expit(p), log_expit(-p)) if self._by_logits else (torch.log(p), torch.log1p(-p))
        return self._log_outside(value, (miss, hit))

    def _most(self) -> Tensor | float:
        return 1.0


register(
    Family(
        Bernoulli,
        ("logits",),
        lambda d: Bernoulli(logits=d.logits),
        information.bernoulli,
        events=lambda d: (1,),
        deviance=deviances.classes,
        crps=ranked.bernoulli,
    )
)


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def _poisson(y: Tensor, rate: Tensor) -> Tensor:
    # Without cancellation: y log(rate) and log y! are larger than their difference by a factor of log y.
    difference = rate - y
    found = y * log_ratio(difference, rate, y.clamp(min=1)) - difference - log_factorial_rest(y)
    return torch.where((rate == 0) & (y > 0), -math.inf, found)


_POISSON = Law(
    {
        (): _poisson,
        (1,): lambda y, rate: (y - rate) / _positive(rate),
        (1, 1): lambda y, rate: -y / _positive(rate) / _positive(rate),
    }
)


@public
class Poisson(Counts, dist.Poisson):
    """Pyro's Poisson(rate): minus its log is half the Poisson deviance, up to a constant of y.

    Density: rate^y exp(-rate) / y!.
    Shapes: any. Estimates: the mean. Source: Poisson (1837).
    `log_prob` keeps its digits at large counts, where rate^y and y! are huge.

    >>> import torch
    >>> Poisson(2.0).log_prob(torch.tensor(2.0)).exp()  # 2 exp(-2)
    tensor(0.2707)
    """

    def __init__(
        self, rate: Parameter, *, is_sparse: bool = False, validate_args: bool | None = None
    ) -> None:
        self._given = as_tensors(rate)
        super().__init__(*self._given, is_sparse=is_sparse, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        return _POISSON(value, *self._given)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        # At most k events by time λ: the (k + 1)-th arrival, a Gamma variable, comes later.
        lower, upper = regularised_gamma(torch.floor(value).clamp(min=0) + 1, self._given[0])
        return self._outside(value, (upper, lower))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = log_regularised_gamma(torch.floor(value).clamp(min=0) + 1, self._given[0])
        return self._log_outside(value, (upper, lower))


register(
    Family(
        Poisson,
        ("rate",),
        lambda d: Poisson(d.rate),
        information.poisson,
        deviance=deviances.poisson,
        crps=ranked.poisson,
    )
)


def _shares_seen(y: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logs of y / n and 1 - y / n, and what is left of the log-density where they are the parameters."""
    rest, most = n - y, n.clamp(min=1)
    constant = log_factorial_rest(n) - log_factorial_rest(y) - log_factorial_rest(rest)
    return torch.log(y.clamp(min=1) / most), torch.log(rest.clamp(min=1) / most), constant


def _binomial(y: Tensor, n: Tensor, logit: Tensor) -> Tensor:
    hit, miss = _log_shares(logit)
    seen, unseen, constant = _shares_seen(y, n)
    return y * (hit - seen) + (n - y) * (miss - unseen) + constant


_BINOMIAL = Law(
    {
        (): _binomial,
        (2,): lambda y, n, logit: y * torch.sigmoid(-logit) - (n - y) * torch.sigmoid(logit),
        (2, 2): lambda y, n, logit: -n * torch.sigmoid(logit) * torch.sigmoid(-logit),
    }
)


@public
class Binomial(Counts, dist.Binomial):
    """Pyro's Binomial(total_count, probs) or Binomial(total_count, logits=...).

    Density: n! / (y! (n - y)!) · p^y (1 - p)^(n - y).
    Shapes: any that broadcast. Estimates: the probability p of a hit. Source: Bernoulli (1713).
    `log_prob` keeps its digits at large counts and at extreme logits.

    >>> import torch
    >>> Binomial(2, torch.tensor(0.5)).cdf(torch.tensor([0.0, 1.0, 2.0]))
    tensor([0.2500, 0.7500, 1.0000])
    """

    def __init__(
        self,
        total_count: Parameter = 1,
        probs: Parameter | None = None,
        logits: Parameter | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(total_count, probs, logits, validate_args=validate_args)
        count = as_tensors(total_count, self._param)[0].to(self._param.dtype)
        self._given, self._by_logits = (count, self._param), logits is not None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = super().expand(batch_shape, _instance)
        new._by_logits = self._by_logits
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        n, parameter = self._given
        if self._by_logits:
            return _BINOMIAL(value, n, parameter)
        rest = n - value
        log_hit, log_miss, constant = _shares_seen(value, n)
        hits = torch.xlogy(value, parameter) - value * log_hit
        misses = torch.special.xlog1py(rest, -parameter) - rest * log_miss
        return hits + misses + constant

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._outside(value, regularised_beta(*self._waiting(value)))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._log_outside(value, log_regularised_beta(*self._waiting(value)))

    def _waiting(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the incomplete beta function whose value is the probability of at most `value`."""
        n, p = self._given
        hit, miss = (torch.sigmoid(p), torch.sigmoid(-p)) if self._by_logits else (p, 1 - p)
        k = torch.minimum(torch.floor(value), n - 1).clamp(min=0)
        return (n - k).clamp(min=1), k + 1, miss, hit

    def _most(self) -> Tensor | float:
        return self._given[0]


register(
    Family(
        Binomial,
        ("logits",),
        lambda d: Binomial(d.total_count, logits=d.logits),
        information.binomial,
        deviance=deviances.binomial,
    )
)


# The log-density of the negative binomial by Stirling's formula, but for the remainders of α and of y,
#   L / α + y (log(μ / y) + L) - ½ log(1 + αy) - log y! + y log y - y,  L = log((1 + αy) / (1 + αμ)),
# free of large terms that cancel, and smooth in α down to 0.


def _nb2(y: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    difference = y - mean
    size, low, high = difference.abs(), torch.minimum(y, mean), torch.maximum(y, mean)
    ratio = _positive(a * size / (1 + a * low))
    first = size / (1 + a * low) * (torch.log1p(ratio) / ratio)
    second = y * torch.log1p(size / (_positive(torch.minimum(low.clamp(min=1), mean)) * (1 + a * high)))
    found = torch.sign(difference) * (first - second) - 0.5 * torch.log1p(a * y) - log_factorial_rest(y)
    return torch.where((mean == 0) & (y > 0), -math.inf, found)


def _nb2_in_mean_twice(y: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    mean = _positive(mean)
    share = a * mean / (1 + a * mean)
    return (share - y / mean * (1 + share)) / (mean * (1 + a * mean))


def _nb2_parts(y: Tensor, mean: Tensor, a: Tensor) -> tuple[Tensor, ...]:
    """e = (y - μ) / (1 + αμ), u = αe and log(1 + u); t = u / (2 + u) and (artanh(t) / t - 1) / t²."""
    difference, low, shrunk = y - mean, torch.minimum(y, mean), 1 + a * mean
    e = difference / shrunk
    log = torch.sign(difference) * torch.log1p(a * difference.abs() / (1 + a * low))
    t = a * difference / (2 + a * (y + mean))
    return e, a * e, log, t, artanh_rest((t * t).clamp(max=0.04))


def _nb2_in_dispersion(y: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    # e² (u - log(1 + u)) / u², by the series of artanh(t) = log(1 + u) / 2 where u is small.
    e, u, log, t, rest = _nb2_parts(y, mean, a)
    near = 0.5 * (1 - t) * (1 - t * (1 - t) * rest)
    far = (u - log) / (u * u).clamp(min=0.1)
    return e * e * torch.where(t * t < 0.04, near, far) - 0.5 * y / (1 + a * y)


def _nb2_in_dispersion_twice(y: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    e, u, log, t, rest = _nb2_parts(y, mean, a)
    grown = 1 + a * y
    share, square = y / grown, (u * u).clamp(min=0.1)
    near = e * (0.5 * (1 - t) * (1 + (1 - t) ** 2 * rest)) - share
    far = e * u * (2 * (log - u) + u * u / grown) / (square * square)
    return e * e * torch.where(t * t < 0.04, near, far) + 0.5 * share * share


_NEGATIVE_BINOMIAL = Law(
    {
        (): _nb2,
        (1,): lambda y, mean, a: (y - mean) / (_positive(mean) * (1 + a * mean)),
        (2,): _nb2_in_dispersion,
        (1, 1): _nb2_in_mean_twice,
        (1, 2): lambda y, mean, a: (mean - y) / (1 + a * mean) ** 2,
        (2, 2): _nb2_in_dispersion_twice,
    }
)


@public
class NegativeBinomial2(Counts, Univariate):
    """NegativeBinomial2(mean, dispersion): counts with variance mean + dispersion · mean².

    Density: Γ(y + r) / (y! Γ(r)) · (r / (r + mean))^r (mean / (r + mean))^y with r = 1 / dispersion.
    Shapes: any that broadcast; `mean` in counts, not negative, `dispersion` positive, without unit.
    Estimates: the mean, and the dispersion beyond the Poisson's, which is the limit dispersion → 0; values
    and derivatives stay accurate down to a dispersion of 1e-12 and up to large means.
    Source: Greenwood & Yule (1920); Cameron & Trivedi (1986), who named it NB2.
    Raises ``ValueError`` for a mean that is negative or a dispersion that is not positive.

    >>> import torch
    >>> geometric = NegativeBinomial2(1.0, 1.0)  # ½, ¼, ⅛, ...
    >>> geometric.cdf(torch.tensor([0.0, 1.0])), geometric.icdf(torch.tensor(0.8))
    (tensor([0.5000, 0.7500]), tensor(2.))
    """

    arg_constraints: Mapping[str, Any] = {"mean": constraints.nonnegative, "dispersion": constraints.positive}
    support = constraints.nonnegative_integer

    mean: Any = None
    dispersion: Tensor

    def __init__(self, mean: Parameter, dispersion: Parameter, *, validate_args: bool | None = None) -> None:
        super().__init__(mean, dispersion, validate_args=validate_args)

    @property
    def variance(self) -> Tensor:
        """mean + dispersion · mean²."""
        return self.mean + self.dispersion * self.mean**2

    def _log_prob(self, value: Tensor) -> Tensor:
        # Stirling's formula for the log-gammas of y + r, r and y + 1, with r = 1 / α.
        mean, dispersion = self._given
        remainders = stirling_remainder(dispersion / (1 + dispersion * value)) - stirling_remainder(
            dispersion
        )
        return _NEGATIVE_BINOMIAL(value, mean, dispersion) + remainders

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        arguments, more = self._waiting(value)
        return self._outside(value, regularised_beta(*arguments, **more))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mean, dispersion = self._given
        k = torch.floor(value).clamp(min=0)
        part = self._log_last(k) + log_tail_factor(k, mean, dispersion)
        return self._log_outside(value, log_tails_of(is_lower_smaller(k, mean, dispersion), part))

    def _waiting(self, value: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        # I_p(1 / α, k + 1) with p = 1 / (1 + αμ); every argument is written so that it stays smooth at α = 0.
        mean, dispersion = self._given
        k = torch.floor(value).clamp(min=0)
        shrunk = 1 + dispersion * mean
        more = {
            "log_kernel": self._log_last(k),
            "inverse_a": dispersion,
            "bx": (k + 1) / shrunk,
            "ay": mean / shrunk,
        }
        return (1 / dispersion, k + 1, 1 / shrunk, dispersion * mean / shrunk), more

    def _log_last(self, k: Tensor) -> Tensor:
        """The log of (k + 1) P(Y = k + 1)."""
        mean, a = self._given
        return self._log_prob(k) + torch.log(mean) + torch.log1p(a * k) - torch.log1p(a * mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)`: Poisson counts whose rate is Gamma distributed."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            size = (1 / self.dispersion).expand(shape)
            return torch.poisson(standard_gamma(size) * (self.mean * self.dispersion))


register(
    Family(
        NegativeBinomial2,
        ("mean", "dispersion"),
        information=information.negative_binomial,
        deviance=deviances.negative_binomial,
    )
)
