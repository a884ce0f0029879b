"""Families on the whole real line, most of them robust to outliers, or asymmetric."""

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
from neglog.distributions.base import FamilyMixin, Located, Parameter, as_tensors
from neglog.distributions.corners import Corner, alike
from neglog.distributions.family import Family, Standard, register
from neglog.distributions.intervals import log_normal_interval
from neglog.distributions.location import location_scale
from neglog.distributions.quantiles import at_ends, corrected, interior, solve_quantile
from neglog.distributions.special import HALF_LOG_TWO_PI, absolute, log_expit, log_ndtr, ndtr, nowhere
from neglog.distributions.student import (
    STUDENT,
    STUDENT_CONSTANT,
    log_student,
    log_student_interval,
    log_student_tails,
    student_tails,
)

MIN_DF_OF_DIFFERENCES = 0.1
"""Degrees of freedom of Student's t from which on differences of its tails keep their digits."""


def _two_exponentials(u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """The tails of the density τ (1 - τ) exp(-pinball(u)): below 0 the probability is τ."""
    lower = tau * torch.exp((1 - tau) * u.clamp(max=0))
    upper = (1 - tau) * torch.exp(-tau * u.clamp(min=0))
    return torch.where(u < 0, lower, 1 - upper), torch.where(u < 0, 1 - lower, upper)


def _log_two_exponentials(u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    lower = torch.log(tau) + (1 - tau) * u.clamp(max=0)
    upper = torch.log1p(-tau) - tau * u.clamp(min=0)
    below = u < 0
    return (
        torch.where(below, lower, torch.log1p(-torch.exp(upper))),
        torch.where(below, torch.log1p(-torch.exp(lower)), upper),
    )


def _two_exponentials_quantile(q: Tensor, tau: Tensor) -> Tensor:
    inner = interior(q)
    below = inner < tau
    lower = torch.log(torch.where(below, inner / tau, 1)) / (1 - tau)
    upper = -torch.log(torch.where(below, 1, (1 - inner) / (1 - tau))) / tau
    return at_ends(q, torch.where(below, lower, upper), -math.inf, math.inf)


@public
class Normal(FamilyMixin, dist.Normal):
    """Pyro's Normal(loc, scale): minus its log is the squared error.

    Density: exp(-z² / 2) / (scale √(2π)), z = (y - loc) / scale.
    Shapes: any that broadcast; `loc` and `scale` in units of y.
    Estimates: the mean, and the standard deviation with divisor n. Source: Gauss (1809).
    `cdf`: ½ erfc(-z / √2), which keeps its digits in the lower tail.

    >>> import torch
    >>> Normal(0.0, 1.0).cdf(torch.tensor([-8.0, 0.0], dtype=torch.float64))
    tensor([6.2210e-16, 5.0000e-01], dtype=torch.float64)
    """

    def __init__(self, loc: Parameter, scale: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(loc, scale)
        super().__init__(*self._given, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        loc, scale = self._given
        return -0.5 * ((value - loc) / scale) ** 2 - torch.log(scale) - HALF_LOG_TWO_PI

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self._given
        z = (value - loc) / scale
        return ndtr(z), ndtr(-z)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self._given
        z = (value - loc) / scale
        return log_ndtr(z), log_ndtr(-z)

    def _log_interval(self, lower: Tensor, upper: Tensor) -> Tensor:
        return log_normal_interval(lower, upper - lower, *self._given)

    def _quantile(self, q: Tensor) -> Tensor:
        loc, scale = self._given
        return loc + scale * torch.special.ndtri(q)


register(
    Family(
        Normal,
        ("loc", "scale"),
        lambda d: Normal(d.loc, d.scale),
        information.location_scale(1.0, 2.0),
        crps=ranked.normal,
        standard=Standard(
            0.5 * math.log(2 * math.pi),
            lambda r: 0.5 * r.square(),
            lambda r: r,
            torch.ones_like,
            is_square=True,
        ),
        deviance=deviances.square,
    )
)


@public
class Laplace(FamilyMixin, dist.Laplace):
    """Pyro's Laplace(loc, scale): minus its log is the absolute error.

    Density: exp(-|y - loc| / scale) / (2 scale).
    Shapes: any that broadcast; `loc` and `scale` in units of y.
    Estimates: the median, and the mean absolute deviation from it. Source: Laplace (1774).

    >>> import torch
    >>> Laplace(1.0, 2.0).log_prob(torch.tensor(1.0)).exp()
    tensor(0.2500)
    """

    def __init__(self, loc: Parameter, scale: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(loc, scale)
        super().__init__(*self._given, validate_args=validate_args)

    @property
    def knots(self) -> tuple[Tensor]:
        """Where the slope of the log-density jumps."""
        return (self._given[0],)

    def _log_prob(self, value: Tensor) -> Tensor:
        loc, scale = self._given
        return -absolute(value - loc) / scale - torch.log(2 * scale)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self._given
        return _two_exponentials(2 * (value - loc) / scale, torch.full_like(scale, 0.5))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self._given
        return _log_two_exponentials(2 * (value - loc) / scale, torch.full_like(scale, 0.5))

    def _quantile(self, q: Tensor) -> Tensor:
        loc, scale = self._given
        return loc + 0.5 * scale * _two_exponentials_quantile(q, torch.full_like(scale, 0.5))


def _laplace_corner(fn: Any) -> Corner:
    constant = -torch.log(2 * alike(fn.scale)).expand(fn.scale.shape)
    return Corner(
        fn,
        fn.loc,
        fn.scale,
        1.0,
        lambda u: 0.0,
        constant,
        1.0,
        l2=torch.zeros_like(fn.scale),
        sharper=lambda factor: Laplace(fn.loc, fn.scale / factor),
    )


register(
    Family(
        Laplace,
        ("loc", "scale"),
        lambda d: Laplace(d.loc, d.scale),
        information.location_scale(1.0, 1.0),
        crps=ranked.laplace,
        standard=Standard(math.log(2), torch.abs, torch.sign, torch.zeros_like),
        deviance=deviances.absolute,
        corner=_laplace_corner,
    )
)


@public
class StudentT(FamilyMixin, dist.StudentT):
    """Pyro's StudentT(df, loc, scale): heavy tails, and the Normal in the limit of a large `df`.

    Density: Γ((ν + 1) / 2) / (Γ(ν / 2) √(πν) scale) · (1 + z² / ν)^(-(ν + 1) / 2), z = (y - loc) / scale.
    Shapes: any that broadcast; `loc` and `scale` in units of y, `df` = ν > 0 without unit.
    Estimates: a location that gives far observations little weight. Source: Student (1908); Lange, Little &
    Taylor (1989).
    `log_prob` and its derivatives stay accurate as `df` grows. `cdf` is an incomplete beta function by
    quadrature, differentiable in everything; `icdf` has the first derivatives of the implicit function.

    >>> import torch
    >>> student = StudentT(torch.tensor(1.0), 0.0, 1.0)  # Cauchy's: a quarter lies below -1
    >>> student.cdf(torch.tensor(-1.0)), student.icdf(torch.tensor(0.75))
    (tensor(0.2500), tensor(1.0000))
    """

    def __init__(
        self,
        df: Parameter,
        loc: Parameter = 0.0,
        scale: Parameter = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self._given = as_tensors(df, loc, scale)
        super().__init__(*self._given, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        df, loc, scale = self._given
        return STUDENT(value, loc, scale, df) + STUDENT_CONSTANT(df)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return student_tails(self._standard(value), self._given[0])

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return log_student_tails(self._standard(value), self._given[0])

    @property
    def differences_are_exact(self) -> bool:
        """Whether differences of tails keep their digits: a quadrature for each of many draws is slow."""
        return nowhere(self._given[0].detach() < MIN_DF_OF_DIFFERENCES)

    def _log_interval(self, lower: Tensor, upper: Tensor) -> Tensor:
        df, _, scale = self._given
        return log_student_interval(self._standard(lower), self._standard(upper), (upper - lower) / scale, df)

    def _standard(self, value: Tensor) -> Tensor:
        _, loc, scale = self._given
        limit = torch.finfo(value.dtype).max ** 0.45  # its square does not overflow
        return ((value - loc) / scale).clamp(-limit, limit)

    def _quantile(self, q: Tensor) -> Tensor:
        df, loc, scale = self._given
        inner = interior(q)
        fixed = inner.detach()

        def density(s: Tensor) -> Tensor:
            return torch.exp(log_student(torch.sinh(s), df)) * torch.cosh(s)

        with torch.no_grad():
            start = torch.asinh(torch.special.ndtri(fixed))
            z = torch.sinh(solve_quantile(fixed, lambda s: student_tails(torch.sinh(s), df), density, start))
        z = corrected(inner, z, student_tails(z, df), torch.exp(log_student(z, df)))
        return loc + scale * at_ends(q, z, -math.inf, math.inf)


register(
    Family(
        StudentT,
        ("df", "loc", "scale"),
        lambda d: StudentT(d.df, d.loc, d.scale),
        information.student,
        crps=ranked.student,
        tails="df",
    )
)


def _logistic_curve(u: Tensor) -> Tensor:
    # Beyond 40 scales it is a line to the last digit. A curvature of exp(-40) or less has no meaning, and
    # where all rows are that far, as where a fit starts, it would send Newton's method anywhere.
    tail = torch.nn.functional.threshold(torch.exp(-u.abs()), math.exp(-40), 0.0)
    return 2 * tail / (1 + tail) ** 2


_LOGISTIC = location_scale(
    lambda u: u.abs() + 2 * torch.log1p(torch.exp(-u.abs())), lambda u: torch.tanh(0.5 * u), _logistic_curve
)


@public
class Logistic(Located):
    """Logistic(location, scale): the noise of the latent variable behind the logit model.

    Density: exp(-z) / (scale (1 + exp(-z))²), z = (y - location) / scale.
    Shapes: any that broadcast; `location` and `scale` in units of y.
    Estimates: a location with bounded influence of every observation, and a scale whose standard deviation
    is π scale / √3. Source: Verhulst (1845); Berkson (1944).
    Raises ``ValueError`` for a scale that is not positive.

    >>> import torch
    >>> Logistic(0.0, 1.0).cdf(torch.tensor(0.0)), Logistic(0.0, 1.0).log_prob(torch.tensor(0.0)).exp()
    (tensor(0.5000), tensor(0.2500))
    """

    arg_constraints: Mapping[str, Any] = {"location": constraints.real, "scale": constraints.positive}

    scale: Tensor

    def __init__(self, location: Parameter, scale: Parameter, *, validate_args: bool | None = None) -> None:
        super().__init__(location, scale, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        return _LOGISTIC(value, *self._given)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale = self._given
        z = (value - location) / scale
        return torch.sigmoid(z), torch.sigmoid(-z)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale = self._given
        z = (value - location) / scale
        return log_expit(z), log_expit(-z)

    def _quantile(self, q: Tensor) -> Tensor:
        location, scale = self._given
        return location + scale * torch.logit(q)

    def entropy(self) -> Tensor:
        """The differential entropy, log(scale) + 2, in nats."""
        return torch.log(self.scale) + 2

    @property
    def mean(self) -> Tensor:
        """The location, in which the density is symmetric."""
        return self.location

    @property
    def variance(self) -> Tensor:
        """π² scale² / 3."""
        return (math.pi * self.scale) ** 2 / 3


register(
    Family(
        Logistic,
        ("location", "scale"),
        lambda d: Logistic(d.loc, d.scale),
        information.location_scale(1 / 3, (3 + math.pi**2) / 9),
        crps=ranked.logistic,
    )
)


@public
class AsymmetricLaplace(Located):
    """AsymmetricLaplace(location, scale, tau): minus its log is the pinball loss.

    Density: τ (1 - τ) / scale · exp(-pinball((y - location) / scale)), pinball(u) = u (τ - 1[u < 0]).
    Shapes: any that broadcast; `location` and `scale` in units of y, 0 < `tau` < 1.
    Estimates: the `tau`-quantile, and the mean pinball loss as the scale. (Pyro's class of this name has a
    scale and an asymmetry instead.)
    Source: Koenker & Machado (1999); Yu & Moyeed (2001).
    `cdf` and `icdf` in closed form: the probability below `location` is `tau`.
    Raises ``ValueError`` for a scale that is not positive or a `tau` outside (0, 1).

    >>> import torch
    >>> AsymmetricLaplace(3.0, 1.0, 0.9).cdf(torch.tensor(3.0))
    tensor(0.9000)
    """

    arg_constraints: Mapping[str, Any] = {
        "location": constraints.real,
        "scale": constraints.positive,
        "tau": constraints.interval(0, 1),
    }

    scale: Tensor
    tau: Tensor

    def __init__(
        self, location: Parameter, scale: Parameter, tau: Parameter, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(location, scale, tau, validate_args=validate_args)

    @property
    def knots(self) -> tuple[Tensor]:
        """Where the slope of the log-density jumps."""
        return (self._given[0],)

    def _log_prob(self, value: Tensor) -> Tensor:
        location, scale, tau = self._given
        u = (value - location) / scale
        pinball = u * (tau - (u < 0).to(u.dtype))
        return torch.log(tau) + torch.log1p(-tau) - torch.log(scale) - pinball

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale, tau = self._given
        return _two_exponentials((value - location) / scale, tau)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale, tau = self._given
        return _log_two_exponentials((value - location) / scale, tau)

    def _quantile(self, q: Tensor) -> Tensor:
        location, scale, tau = self._given
        return location + scale * _two_exponentials_quantile(q, tau)

    @property
    def mean(self) -> Tensor:
        """location + scale (1 / tau - 1 / (1 - tau))."""
        return self.location + self.scale * (1 / self.tau - 1 / (1 - self.tau))

    @property
    def variance(self) -> Tensor:
        """scale² (1 / tau² + 1 / (1 - tau)²)."""
        return self.scale**2 * (1 / self.tau**2 + 1 / (1 - self.tau) ** 2)

    def entropy(self) -> Tensor:
        """The differential entropy, 1 + log(scale / (tau (1 - tau))), in nats."""
        return 1 + torch.log(self.scale) - torch.log(self.tau) - torch.log1p(-self.tau)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)`, differentiable in location and scale."""
        # The difference of two independent exponentials with means scale / τ and scale / (1 - τ).
        shape = self._extended_shape(sample_shape)
        up, down = self.location.new_empty((2, *shape)).exponential_()
        return self.location + self.scale * (up / self.tau - down / (1 - self.tau))


def _asymmetric_corner(fn: Any) -> Corner:
    # pinball(u) = u (tau - 1[u < 0]) = |u| / 2 + (tau - 1/2) u
    tau = alike(fn.tau)
    constant = torch.log(tau) + torch.log1p(-tau) - torch.log(alike(fn.scale))
    tilt, constant = tau - 0.5, constant.expand(fn.scale.shape)
    return Corner(fn, fn.loc, fn.scale, 0.5, lambda u: tilt * u, constant, tau * (1 - tau))


register(
    Family(
        AsymmetricLaplace,
        ("location", "scale"),
        information=information.asymmetric_laplace,
        corner=_asymmetric_corner,
        deviance=deviances.pinball,
    )
)
