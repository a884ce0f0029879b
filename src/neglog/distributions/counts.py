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
from torch.distributions.utils import broadcast_all

from neglog.distributions.base import Family, Given, Parameter, as_tensors
from neglog.distributions.incomplete import (
    log_regularised_beta,
    log_regularised_gamma,
    regularised_beta,
    regularised_gamma,
)
from neglog.distributions.quantiles import at_ends, interior, search_quantile
from neglog.distributions.special import (
    log1p_ratio,
    log_expit,
    log_factorial_rest,
    stirling_remainder,
)


class Counts(Given):
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
            return value * log_expit(parameter) + (1 - value) * log_expit(-parameter)
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


class Poisson(Counts, dist.Poisson):
    """Pyro's Poisson(rate): minus its log is half the Poisson deviance, up to a constant of y.

    Density: rate^y exp(-rate) / y!.
    Shapes: any. Estimates: the mean. Source: Poisson (1837).
    `log_prob` keeps its digits at large counts, where rate^y and y! are huge.

    >>> import torch
    >>> Poisson(2.0).log_prob(torch.tensor(2.0)).exp()  # 2 exp(-2)
    tensor(0.2707)
    """

    def __init__(self, rate: Parameter, validate_args: bool | None = None, **keywords: Any) -> None:
        self._given = as_tensors(rate)
        super().__init__(*self._given, validate_args=validate_args, **keywords)

    def _log_prob(self, value: Tensor) -> Tensor:
        (rate,) = self._given
        # y log(rate / y) - (rate - y) is no larger than its result; y log(rate) and log y! are, by log y.
        deviance = torch.xlogy(value, rate / torch.where(value > 0, value, 1)) - (rate - value)
        return deviance - log_factorial_rest(value)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        # At most k events by time λ: the (k + 1)-th arrival, a Gamma variable, comes later.
        lower, upper = regularised_gamma(torch.floor(value).clamp(min=0) + 1, self._given[0])
        return self._outside(value, (upper, lower))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = log_regularised_gamma(torch.floor(value).clamp(min=0) + 1, self._given[0])
        return self._log_outside(value, (upper, lower))


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
        self._given, self._by_logits = (self.total_count, self._param), logits is not None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = super().expand(batch_shape, _instance)
        new._by_logits = self._by_logits
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        n, parameter = self._given
        n, parameter, value = broadcast_all(n, parameter, value)
        rest = n - value
        log_n = torch.log(torch.where(n > 0, n, 1))
        log_share = torch.log(torch.where(value > 0, value, 1)) - log_n
        log_other = torch.log(torch.where(rest > 0, rest, 1)) - log_n
        constant = log_factorial_rest(n) - log_factorial_rest(value) - log_factorial_rest(rest)
        if self._by_logits:
            hits = value * (log_expit(parameter) - log_share)
            misses = rest * (log_expit(-parameter) - log_other)
        else:
            hits = torch.xlogy(value, parameter) - value * log_share
            misses = torch.special.xlog1py(rest, -parameter) - rest * log_other
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


class NegativeBinomial2(Counts, Family):
    """NegativeBinomial2(mean, dispersion): counts with variance mean + dispersion · mean².

    Density: Γ(y + r) / (y! Γ(r)) · (r / (r + mean))^r (mean / (r + mean))^y with r = 1 / dispersion.
    Shapes: any that broadcast; `mean` in counts, `dispersion` without unit; both positive.
    Estimates: the mean, and the dispersion beyond the Poisson's, which is the limit dispersion → 0; values
    and derivatives stay accurate down to a dispersion of 1e-12 and up to large means.
    Source: Greenwood & Yule (1920); Cameron & Trivedi (1986), who named it NB2.
    Raises ``ValueError`` for a mean or a dispersion that is not positive.

    >>> import torch
    >>> geometric = NegativeBinomial2(1.0, 1.0)  # ½, ¼, ⅛, ...
    >>> geometric.cdf(torch.tensor([0.0, 1.0])), geometric.icdf(torch.tensor(0.8))
    (tensor([0.5000, 0.7500]), tensor(2.))
    """

    arg_constraints: Mapping[str, Any] = {"mean": constraints.positive, "dispersion": constraints.positive}
    support = constraints.nonnegative_integer

    mean: Any = None
    dispersion: Tensor

    def __init__(self, mean: Parameter, dispersion: Parameter, *, validate_args: bool | None = None) -> None:
        super().__init__(mean, dispersion, validate_args=validate_args)

    @property
    def variance(self) -> Tensor:
        return self.mean + self.dispersion * self.mean**2

    def _log_prob(self, value: Tensor) -> Tensor:
        # With r = 1 / α, Stirling's formula for log Γ(y + r), log Γ(r) and log Γ(y + 1) gives
        #   r log((1 + αy) / (1 + αμ)) + y log(μ (1 + αy) / (y (1 + αμ)))
        #   - ½ log(1 + αy) - ½ log 2πy + S(y + r) - S(r) - S(y),
        # exact with Stirling's remainder S, free of large terms that cancel, and smooth in α down to 0.
        mean, dispersion = self._given
        difference = value - mean
        shrunk = 1 + dispersion * mean
        log_shrunk = torch.log1p(dispersion * mean)
        log_grown = torch.log1p(dispersion * value)

        u = dispersion * difference / shrunk
        near = u.abs() < 0.25
        first = torch.where(
            near,
            difference / shrunk * log1p_ratio(torch.where(near, u, 0)),
            (log_grown - log_shrunk) / dispersion,
        )

        some = torch.where(value > 0, value, 1)
        v = -difference / (some * shrunk)
        close = v.abs() < 0.5
        second = value * torch.where(
            close, torch.log1p(torch.where(close, v, 0)), torch.log(mean / some) + log_grown - log_shrunk
        )

        stirling = stirling_remainder(dispersion / (1 + dispersion * value)) - stirling_remainder(dispersion)
        return first + second - 0.5 * log_grown + stirling - log_factorial_rest(value)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        arguments, more = self._waiting(value)
        return self._outside(value, regularised_beta(*arguments, **more))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        arguments, more = self._waiting(value)
        return self._log_outside(value, log_regularised_beta(*arguments, **more))

    def _waiting(self, value: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        # I_p(1 / α, k + 1) with p = 1 / (1 + αμ); every argument is written so that it stays smooth at α = 0.
        mean, dispersion = self._given
        k = torch.floor(value).clamp(min=0)
        shrunk = 1 + dispersion * mean
        last = (
            self._log_prob(k) + torch.log(mean) + torch.log1p(dispersion * k) - torch.log1p(dispersion * mean)
        )
        more = {"log_kernel": last, "inverse_a": dispersion, "bx": (k + 1) / shrunk, "ay": mean / shrunk}
        return (1 / dispersion, k + 1, 1 / shrunk, dispersion * mean / shrunk), more

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            size = (1 / self.dispersion).expand(shape)
            return torch.poisson(torch._standard_gamma(size) * (self.mean * self.dispersion))
