"""Counts with more zeros than their law explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.base import Compound, Parameter, as_tensors
from neglog.distributions.counts import Counts
from neglog.distributions.family import Family, register
from neglog.distributions.partials import Law
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_expit, log_sum
from neglog.distributions.tails import log_tails


def _zero_inflated(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    rest = log_expit(-zero)
    # Of the two forms of log P(0) each has all its digits where it is used: P(0) above ½, and below.
    short = torch.sigmoid(-zero) * torch.expm1(count)
    likely, unlikely = torch.log1p(short.clamp(min=-0.5)), rest + torch.logaddexp(zero, count)
    either = torch.where(short > -0.5, likely, unlikely)
    return torch.where(none, either, rest + count)


def _surely_counted(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    """The probability that a row with such a count is not a structural zero."""
    return torch.where(none, torch.sigmoid(count - zero), 1.0)


def _not_counted(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    return torch.where(none, torch.sigmoid(zero - count), 0.0)


def _in_zero(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    # σ(zero - count) - σ(zero) without the difference of near numbers.
    some = -torch.sigmoid(zero - count) * torch.sigmoid(-zero) * torch.expm1(count)
    return torch.where(none, some, -torch.sigmoid(zero))


def _mixed(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    return torch.where(none, torch.sigmoid(count - zero) * torch.sigmoid(zero - count), 0.0)


def _in_zero_twice(count: Tensor, zero: Tensor, none: Tensor) -> Tensor:
    # With p(x) = σ(x) σ(-x): p(zero - count) - p(zero) is σ(zero - count) - σ(zero) times the rest.
    factor = torch.where(none, torch.sigmoid(count - zero) - torch.sigmoid(zero), torch.sigmoid(-zero))
    return _in_zero(count, zero, none) * factor


_ZERO_INFLATED = Law(
    {
        (): _zero_inflated,
        (0,): _surely_counted,
        (1,): _in_zero,
        (0, 0): _mixed,
        (0, 1): lambda *arguments: -_mixed(*arguments),
        (1, 1): _in_zero_twice,
    }
)


@public
class ZeroInflated(Counts, Compound):
    """ZeroInflated(base, logit_zero): a count of `base`, or, with probability π, a 0 whatever the count.

    Density: π + (1 - π) p(0) at 0 and (1 - π) p(y) elsewhere, with p that of `base`, a family of counts of
    neglog, and π = 1 / (1 + exp(-logit_zero)).
    Shapes: any `logit_zero` that broadcasts with the batch of `base`.
    Estimates: the distribution of the counts of rows without structural zero, and the share of structural
    zeros.
    Source: Lambert (1992), Zero-inflated Poisson regression.
    `log_prob` keeps its digits, and finite derivatives, for π near 0 and near 1.

    >>> import torch
    >>> from neglog.distributions import Poisson
    >>> ZeroInflated(Poisson(torch.tensor(2.0)), 0.0).cdf(torch.tensor(0.0))  # ½ + ½ exp(-2)
    tensor(0.5677)
    """

    arg_constraints: Mapping[str, Any] = {"logit_zero": constraints.real}
    _kept = ("base", "logit_zero")

    base: Any
    logit_zero: Tensor

    def __init__(self, base: Any, logit_zero: Parameter, *, validate_args: bool | None = None) -> None:
        self.base, (self.logit_zero,) = base, as_tensors(logit_zero)
        shape = broadcast_shapes(base.batch_shape, self.logit_zero.shape)
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The support of the counts."""
        return self.base.support

    @property
    def zero(self) -> Tensor:
        """The probability π of a 0 whatever the count."""
        return torch.sigmoid(self.logit_zero).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """(1 - π) times the mean of the counts, π the probability of an extra zero."""
        return (torch.sigmoid(-self.logit_zero) * self.base.mean).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """(1 - π) (variance + π · mean²) of the counts, π the probability of an extra zero."""
        inflation = torch.sigmoid(self.logit_zero) * self.base.mean**2
        return (torch.sigmoid(-self.logit_zero) * (self.base.variance + inflation)).expand(self.batch_shape)

    def _log_prob(self, value: Tensor) -> Tensor:
        return _ZERO_INFLATED(self.base.log_prob(value), self.logit_zero, value == 0)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        zero, rest = torch.sigmoid(self.logit_zero), torch.sigmoid(-self.logit_zero)
        return self._outside(value, (zero + rest * self.base.cdf(value), rest * self.base.sf(value)))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        zero, rest = log_expit(self.logit_zero), log_expit(-self.logit_zero)
        lower, upper = log_tails(self.base, value)
        return self._log_outside(value, (log_sum(zero, rest + lower), rest + upper))

    def _most(self) -> Tensor | float:
        return self.base._most()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)`."""
        with torch.no_grad():
            counts = self.base.expand(self.batch_shape).sample(sample_shape)
            return counts * (torch.rand(counts.shape, dtype=counts.dtype) >= self.zero)


register(Family(ZeroInflated))
