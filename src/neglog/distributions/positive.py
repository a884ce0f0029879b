"""Families on the positive half-line, and on the unit interval.

The distribution functions are differentiable in the value and in the parameters: by the closed form where
there is one (LogNormal, Weibull, InverseGaussian), by quadrature for Gamma and Beta. Where the quantile has
no closed form, `icdf` has the first derivatives of the implicit function, not the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Exponential, TransformedDistribution, constraints

from neglog.calls import public
from neglog.distributions import deviances, information, ranked
from neglog.distributions.base import FamilyMixin, Parameter, Univariate, as_tensors
from neglog.distributions.family import Family, register
from neglog.distributions.incomplete import (
    log_beta_kernel,
    log_gamma_kernel,
    log_regularised_beta,
    log_regularised_gamma,
    regularised_beta,
    regularised_gamma,
)
from neglog.distributions.intervals import log_normal_interval
from neglog.distributions.quantiles import at_ends, corrected, interior, solve_quantile
from neglog.distributions.robust import Normal
from neglog.distributions.shapes import Power, Scaled, validation
from neglog.distributions.special import (
    HALF_LOG_TWO_PI,
    absolute,
    log1m_exp,
    log_gamma_spread,
    log_ndtr,
    log_of,
    ndtr,
)


def _from_zero(value: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The tails with all probability above 0."""
    return torch.where(value > 0, lower, 0.0), torch.where(value > 0, upper, 1.0)


def _log_from_zero(value: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(value > 0, lower, -math.inf), torch.where(value > 0, upper, 0.0)


class _Positive(FamilyMixin):
    """A positive family without closed quantiles: they are solved for in the logarithm."""

    def _quantile(self: Any, q: Tensor) -> Tensor:
        inner = interior(q)
        fixed = inner.detach()

        def density(s: Tensor) -> Tensor:
            return torch.exp(self._log_prob(torch.exp(s)) + s)

        with torch.no_grad():
            start = self._start(fixed, torch.special.ndtri(fixed))
            found = solve_quantile(fixed, lambda s: self._tails(torch.exp(s)), density, start)
            value = torch.exp(found)
        height = torch.exp(self._log_prob(value))
        return at_ends(q, corrected(inner, value, self._tails(value), height), 0.0, math.inf)


@public
class LogNormal(FamilyMixin, dist.LogNormal):
    """Pyro's LogNormal(loc, scale): the logarithm is Normal(loc, scale).

    Density: exp(-z² / 2) / (y scale √(2π)), z = (log y - loc) / scale.
    Shapes: any that broadcast. Estimates: exp(loc) is the median. Source: Galton (1879).

    >>> import torch
    >>> LogNormal(0.0, 1.0).icdf(torch.tensor(0.5))
    tensor(1.)
    """

    def __init__(self, loc: Parameter, scale: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(loc, scale)
        super().__init__(*self._given, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        loc, scale = self._given
        log = torch.log(value)
        return -0.5 * ((log - loc) / scale) ** 2 - log - torch.log(scale) - HALF_LOG_TWO_PI

    def _standard(self, value: Tensor) -> Tensor:
        loc, scale = self._given
        return (torch.log(value.clamp(min=torch.finfo(value.dtype).tiny)) - loc) / scale

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z = self._standard(value)
        return _from_zero(value, ndtr(z), ndtr(-z))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z = self._standard(value)
        return _log_from_zero(value, log_ndtr(z), log_ndtr(-z))

    def _log_interval(self, lower: Tensor, upper: Tensor) -> Tensor:
        return log_normal_interval(torch.log(lower), torch.log1p((upper - lower) / lower), *self._given)

    def _quantile(self, q: Tensor) -> Tensor:
        loc, scale = self._given
        return torch.exp(loc + scale * torch.special.ndtri(q))


register(
    Family(
        LogNormal,
        ("loc", "scale"),
        lambda d: LogNormal(d.loc, d.scale),
        information.location_scale(1.0, 2.0),
        crps=ranked.lognormal,
        logarithm=Normal,
        deviance=deviances.square_of_logarithm,
    )
)


@public
class Gamma(_Positive, dist.Gamma):
    """Pyro's Gamma(concentration, rate): minus its log is half the Gamma deviance times the shape.

    Density: rate^a y^(a - 1) exp(-rate y) / Γ(a), a = `concentration`.
    Shapes: any that broadcast; `rate` in 1 / units of y. Estimates: the mean a / rate, variance mean² / a.
    Source: Laplace (1836); Nelder & Wedderburn (1972).
    `log_prob` keeps its digits at large shapes.

    >>> import torch
    >>> Gamma(1.0, 2.0).cdf(torch.tensor(1.0))  # 1 - exp(-2)
    tensor(0.8647)
    """

    def __init__(self, concentration: Parameter, rate: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(concentration, rate)
        super().__init__(*self._given, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        a, rate = self._given
        return log_gamma_kernel(a, rate * value) - torch.log(value)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        a, rate = self._given
        return _from_zero(value, *regularised_gamma(a, rate * value))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        a, rate = self._given
        return _log_from_zero(value, *log_regularised_gamma(a, rate * value))

    def _start(self, q: Tensor, z: Tensor) -> Tensor:
        # Wilson & Hilferty (1931), or the first term of the power series where that leaves the support.
        a, rate = self._given
        root = 1 - 1 / (9 * a) + z / (3 * torch.sqrt(a))
        series = (torch.log(q) + torch.lgamma(a + 1)) / a
        log_x = torch.where(
            (root > 0.3) & (a > 0.3), torch.log(a) + 3 * torch.log(root.clamp(min=0.3)), series
        )
        return log_x - torch.log(rate)


register(
    Family(
        Gamma,
        ("concentration", "rate"),
        lambda d: Gamma(d.concentration, d.rate),
        information.gamma,
        crps=ranked.gamma,
        deviance=deviances.gamma,
    )
)


@public
class InverseGaussian(_Positive, Univariate):
    """InverseGaussian(mean, shape): the time at which a Brownian motion with drift first reaches a level.

    Density: √(shape / (2π y³)) exp(-shape (y - mean)² / (2 mean² y)).
    Shapes: any that broadcast; both parameters in units of y. The attribute of `shape` is `concentration`.
    Estimates: the mean; the variance is mean³ / shape. Source: Schrödinger (1915); Tweedie (1957).
    Raises ``ValueError`` for a mean or a shape that is not positive.

    >>> import torch
    >>> InverseGaussian(1.0, 4.0).cdf(torch.tensor(1.0))
    tensor(0.5944)
    """

    # The name `shape` belongs to Pyro: it is the method that returns the shape of a draw.
    arg_constraints: Mapping[str, Any] = {"mean": constraints.positive, "concentration": constraints.positive}
    support = constraints.positive

    mean: Any = None
    concentration: Tensor

    def __init__(self, mean: Parameter, shape: Parameter, *, validate_args: bool | None = None) -> None:
        super().__init__(mean, shape, validate_args=validate_args)

    @property
    def variance(self) -> Tensor:
        """mean³ / shape."""
        return self.mean**3 / self.concentration

    def _log_prob(self, value: Tensor) -> Tensor:
        mean, shape = self._given
        z = (value - mean) / mean
        return (
            0.5 * torch.log(shape)
            - HALF_LOG_TWO_PI
            - 1.5 * torch.log(value)
            + shape * (z * z * (-0.5 / value))
        )

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        # Shuster (1968): Φ(a) + exp(2 shape / mean) Φ(-b), where b² = a² + 4 shape / mean turns the product
        # of a huge and a tiny number into exp(-a² / 2) erfcx(b / √2) / 2.
        a, b = self._distances(value)
        height = 0.5 * torch.exp(-0.5 * a * a)
        second = height * torch.special.erfcx(b / math.sqrt(2))
        above = torch.where(a > 0, a, 0)
        upper = torch.where(
            a > 0,
            height * torch.special.erfcx(above / math.sqrt(2)) - second,
            ndtr(-a) - second,
        )
        return _from_zero(value, ndtr(a) + second, upper)

    def _distances(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mean, shape = self._given
        x = torch.where(value > 0, value, 1.0)
        root = torch.sqrt(shape / x)
        return root * ((x - mean) / mean), root * ((x + mean) / mean)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        # Both terms as exp(-a² / 2) times a Mills ratio, on the side where the tail is small.
        a, b = self._distances(value)
        below, half = a < 0, -0.5 * a * a
        first = torch.special.erfcx(absolute(a) / math.sqrt(2))
        second = torch.special.erfcx(b / math.sqrt(2))
        lower = half + torch.log(0.5 * (first + second))
        difference = torch.where(below, 1.0, first - second)
        upper = torch.where(below, -1.0, half) + log_of(0.5 * difference)
        return _log_from_zero(
            value,
            torch.where(below, lower, log1m_exp((-upper).clamp(min=torch.finfo(upper.dtype).tiny))),
            torch.where(below, log1m_exp(torch.where(below, -lower, 1.0)), upper),
        )

    def _start(self, q: Tensor, z: Tensor) -> Tensor:
        # The log-normal distribution of the same mean and variance.
        mean, shape = self._given
        variance = torch.log1p(mean / shape)
        return torch.log(mean) - 0.5 * variance + torch.sqrt(variance) * z

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)`.

        Source: Michael, Schucany & Haas (1976).
        """
        # Michael, Schucany & Haas (1976): the smaller root of shape (x - mean)² / (mean² x) = chi², or mean²
        # over it; the root is written without the difference of near numbers.
        size = self._extended_shape(sample_shape)
        with torch.no_grad():
            mean, shape = self.mean.expand(size), self.concentration.expand(size)
            half = 0.5 * torch.randn(size, dtype=mean.dtype, device=mean.device) ** 2 * mean / shape
            root = 1 / (1 + half + torch.sqrt(half * (2 + half)))
            smaller = torch.rand(size, dtype=mean.dtype, device=mean.device) * (1 + root) <= 1
            return mean * torch.where(smaller, root, 1 / root)


register(
    Family(
        InverseGaussian,
        ("mean", "concentration"),
        information=information.inverse_gaussian,
        deviance=deviances.inverse_gaussian,
    )
)


@public
class Weibull(FamilyMixin, dist.Weibull):
    """Pyro's Weibull(scale, concentration): lifetimes whose hazard is a power of age.

    Density: k / scale · (y / scale)^(k - 1) exp(-(y / scale)^k), k = `concentration`.
    Shapes: any that broadcast; `scale` in units of y. Estimates: `scale` is the quantile at 1 - 1 / e.
    Source: Weibull (1951).

    >>> import torch
    >>> Weibull(2.0, 1.5).cdf(torch.tensor(2.0))  # 1 - exp(-1)
    tensor(0.6321)
    """

    def __init__(self, scale: Parameter, concentration: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(scale, concentration)
        full = torch.broadcast_tensors(*self._given)
        self._begin(full[0], full[1], validate_args)

    def _begin(self, scale: Tensor, concentration: Tensor, validate_args: bool | None) -> None:
        """What torch does, without its `broadcast_shapes`, which imports SymPy when it is first called."""
        self.scale, self.concentration = scale, concentration
        self.concentration_reciprocal = concentration.reciprocal()
        base = Exponential(torch.ones_like(scale), validate_args=validate_args)
        parts = [Power(self.concentration_reciprocal), Scaled(scale)]
        TransformedDistribution.__init__(self, base, parts, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new._begin(self.scale.expand(batch_shape), self.concentration.expand(batch_shape), False)
        new._given, new._validate_args = self._given, self._validate_args
        return new

    @property
    def variance(self) -> Tensor:
        """scale² (Γ(1 + 2 / k) - Γ(1 + 1 / k)²), k the concentration."""
        # Γ(1 + 2a) - Γ(1 + a)² with a = 1 / k, without the difference of near numbers.
        a = self.concentration_reciprocal
        root = self.scale * torch.exp(torch.lgamma(1 + a))
        return root * root * torch.expm1(log_gamma_spread(a))

    def _log_prob(self, value: Tensor) -> Tensor:
        scale, k = self._given
        log_hazard = k * torch.log(value / scale)
        return torch.log(k) + (log_hazard - torch.exp(log_hazard)) - torch.log(value)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        scale, k = self._given
        x = value.clamp(min=torch.finfo(value.dtype).tiny)
        hazard = torch.exp(k * torch.log(x / scale))
        return _from_zero(value, -torch.expm1(-hazard), torch.exp(-hazard))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        scale, k = self._given
        x = value.clamp(min=torch.finfo(value.dtype).tiny)
        log_hazard = k * torch.log(x / scale)
        hazard = torch.exp(log_hazard)
        small = hazard < torch.finfo(hazard.dtype).eps
        lower = torch.where(small, log_hazard, log1m_exp(torch.where(small, 1.0, hazard)))
        return _log_from_zero(value, lower, -hazard)

    def _quantile(self, q: Tensor) -> Tensor:
        scale, k = self._given
        inner = interior(q)
        inside = scale * torch.exp(torch.log(-torch.log1p(-inner)) / k)
        return at_ends(q, inside, 0.0, math.inf)


register(
    Family(
        Weibull,
        ("scale", "concentration"),
        lambda d: Weibull(d.scale, d.concentration),
        information.weibull,
        crps=ranked.weibull,
        others=dict.fromkeys(
            (dist.Exponential, torch.distributions.Exponential),
            lambda d: Weibull(1 / d.rate, torch.ones_like(d.rate)),
        ),
    )
)


@public
class Beta(FamilyMixin, dist.Beta):
    """Pyro's Beta(concentration1, concentration0): shares strictly between 0 and 1.

    Density: y^(a - 1) (1 - y)^(b - 1) / B(a, b), a = `concentration1`, b = `concentration0`.
    Shapes: any that broadcast. Estimates: the mean a / (a + b), with precision a + b.
    Source: Ferrari & Cribari-Neto (2004), Beta regression.
    `log_prob` keeps its digits at large concentrations.

    >>> import torch
    >>> Beta(1.0, 2.0).cdf(torch.tensor(0.25))  # 1 - 0.75²
    tensor(0.4375)
    """

    def __init__(
        self, concentration1: Parameter, concentration0: Parameter, validate_args: bool | None = None
    ) -> None:
        self._given = as_tensors(concentration1, concentration0)
        shapes = (each.shape for each in self._given)
        super().__init__(*self._given, validate_args=validation(validate_args, *shapes))

    def _log_prob(self, value: Tensor) -> Tensor:
        (a, b), other = self._given, 1 - value
        return log_beta_kernel(a, b, value, other) - torch.log(value) - torch.log(other)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        inside, x = self._inside(value)
        a, b = self._given
        lower, upper = regularised_beta(a, b, x, 1 - x)
        above = (value >= 1).to(value.dtype)
        return torch.where(inside, lower, above), torch.where(inside, upper, 1 - above)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        inside, x = self._inside(value)
        a, b = self._given
        lower, upper = log_regularised_beta(a, b, x, 1 - x)
        none, above = x.new_tensor(-math.inf), value >= 1
        low, high = torch.where(above, 0.0, none), torch.where(above, none, 0.0)
        return torch.where(inside, lower, low), torch.where(inside, upper, high)

    def _inside(self, value: Tensor) -> tuple[Tensor, Tensor]:
        inside = (value > 0) & (value < 1)
        return inside, torch.where(inside, value, 0.5)

    def _quantile(self, q: Tensor) -> Tensor:
        a, b = self._given
        inner = interior(q)
        fixed = inner.detach()

        def density(s: Tensor) -> Tensor:
            x, y = torch.sigmoid(s), torch.sigmoid(-s)
            return torch.exp(log_beta_kernel(a, b, x, y))

        with torch.no_grad():
            spread = torch.sqrt(torch.polygamma(1, a) + torch.polygamma(1, b))
            start = torch.digamma(a) - torch.digamma(b) + spread * torch.special.ndtri(fixed)
            found = solve_quantile(
                fixed, lambda s: regularised_beta(a, b, torch.sigmoid(s), torch.sigmoid(-s)), density, start
            )
            value = torch.sigmoid(found)
        height = torch.exp(self._log_prob(value))
        return at_ends(q, corrected(inner, value, self._tails(value), height), 0.0, 1.0)


register(
    Family(
        Beta,
        ("concentration1", "concentration0"),
        lambda d: Beta(d.concentration1, d.concentration0),
        information.beta,
        crps=ranked.beta,
    )
)
