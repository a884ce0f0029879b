"""Censored and truncated distributions: values recorded at a bound, or not observed beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, constraints

from neglog.calls import public
from neglog.distributions.between import Cut, cut, cut_before, log_between
from neglog.distributions.corners import Corner
from neglog.distributions.derived import about, partial_moments
from neglog.distributions.family import Family, corner_of, register, tailed
from neglog.distributions.quantiles import Line, at_ends, interior, search_quantile, solve_quantile
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import nowhere
from neglog.distributions.supports import Bound, anywhere, check_probabilities, ends
from neglog.distributions.tails import log_tails
from neglog.errors import DataError, ModelError

_Tails = tuple[Tensor, Tensor]


class _Bounded(TorchDistribution):
    """A univariate distribution between bounds that may be infinite, and may differ from row to row."""

    arg_constraints: Mapping[str, Any] = {}
    has_rsample = False
    truncates = False
    """Whether values beyond the bounds are not observed at all, rather than recorded at a bound."""

    def __init__(
        self,
        base_dist: Any,
        lower: Bound = -math.inf,
        upper: Bound = math.inf,
        *,
        validate_args: bool | None = None,
    ) -> None:
        name = type(self).__name__
        if base_dist.event_shape:
            raise ModelError(
                f"`{name}` needs a response of one number for each row; `{type(base_dist).__name__}` draws "
                f"{tuple(base_dist.event_shape)} of them."
            )
        if isinstance(base_dist, Censored):
            raise ModelError(
                f"`{name}` cannot be applied to a response that is already censored. Put `censored` "
                "outside, as in censored(truncated(model)), and give all bounds of censoring to one "
                "`censored`, all bounds of truncation to one `truncated`."
            )
        self.base_dist, self.family = base_dist, tailed(base_dist)
        self.lower, self.upper = (
            bound if isinstance(bound, Tensor) else torch.tensor(bound, dtype=_dtype(self.family))
            for bound in (lower, upper)
        )
        _check_order(name, self.lower, self.upper)
        shape = broadcast_shapes(base_dist.batch_shape, self.lower.shape, self.upper.shape)
        super().__init__(shape, validate_args=validate_args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_dist}, {_shown(self.lower)}, {_shown(self.upper)})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.base_dist, new.family = self.base_dist.expand(batch_shape), self.family.expand(batch_shape)
        new.lower, new.upper = self.lower, self.upper
        super(_Bounded, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def around(self, density: Any) -> Any:
        """The same bounds and tails around another density, which replaces that of `base_dist`."""
        new = copy(self)
        new.base_dist = density
        return new

    def moved(self, by: Tensor) -> Any:
        """The distribution with all of its bounds moved `by` a constant."""
        inner = self.base_dist.moved(by) if isinstance(self.base_dist, _Bounded) else self.base_dist
        return type(self)(inner, self.lower + by, self.upper + by, validate_args=self._validate_args)

    def shows(self, value: Tensor) -> Tensor:
        """Which entries of a value were observed, rather than only the bound that they are beyond."""
        return torch.ones_like(value, dtype=torch.bool)

    def log_cdf(self, value: Tensor) -> Tensor:
        """The log of `cdf`."""
        return self._log_tails(value)[0]

    def log_sf(self, value: Tensor) -> Tensor:
        """The log of `sf`."""
        return self._log_tails(value)[1]

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`; any real value."""
        return torch.exp(self._log_tails(value)[0])

    def sf(self, value: Tensor) -> Tensor:
        """The probability of more than `value`; any real value."""
        return torch.exp(self._log_tails(value)[1])

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        raise TypeError("a subclass defines its tails")

    def _moments(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """The first two moments about a centre."""
        raise TypeError("a subclass defines its moments")

    @property
    @torch.no_grad()
    def mean(self) -> Tensor:
        centre, _ = about(self.base_dist, *self._ends())
        return self._moment("mean", centre + self._moments(centre)[0])

    @property
    @torch.no_grad()
    def variance(self) -> Tensor:
        first, second = self._moments(about(self.base_dist, *self._ends())[0])
        return self._moment("variance", second - first * first)

    def _moment(self, name: str, found: Tensor) -> Tensor:
        """The moment that was found; that of `base_dist` where it is not finite and a side has no bound."""
        try:
            whole = getattr(self.base_dist, name)
        except NotImplementedError:
            return found
        is_open = (self._ends()[0] == -math.inf) | (self._ends()[1] == math.inf)
        return torch.where(is_open & ~torch.isfinite(whole), whole, found)

    def _framed(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The checked value, and the same between the bounds, both in the shape of the result."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(broadcast_shapes(value.shape, self.batch_shape))
        return value, self._moved(value)

    def _moved(self, value: Tensor) -> Tensor:
        """The value, or the bound that it is beyond."""
        return torch.clamp(value, self.lower.to(value.dtype), self.upper.to(value.dtype))

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Where the values between the bounds begin and end, for counts at whole numbers."""
        low, high = (torch.as_tensor(end, dtype=self.lower.dtype) for end in ends(self.base_dist.support))
        low, high = torch.maximum(low, self.lower), torch.minimum(high, self.upper)
        if self.base_dist.support.is_discrete:
            low, high = torch.ceil(low), torch.floor(high)
        return low.expand(self.batch_shape), high.expand(self.batch_shape)


def _check_order(name: str, lower: Tensor, upper: Tensor) -> None:
    low, high = torch.broadcast_tensors(lower, upper)
    wrong = ~(low <= high)
    if bool(wrong.any()):
        raise DataError(
            f"`{name}` needs lower <= upper; it was given lower = {float(low[wrong][0]):g} and upper = "
            f"{float(high[wrong][0]):g}."
        )


def _dtype(fn: Any) -> torch.dtype:
    """The dtype of a family's parameters, so that a number that is a bound does not change it."""
    dtypes = [parameter.dtype for parameter in getattr(fn, "_given", ())]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float64


def _shown(bound: Tensor) -> str:
    return f"{float(bound):g}" if bound.dim() == 0 else "a bound of each row"


def bounds_of(fn: Any) -> _Bounded | None:
    """A distribution that is one between bounds; None if it is another."""
    return fn if isinstance(fn, _Bounded) else None


def unwrapped(fn: Any) -> tuple[list[_Bounded], Any]:
    """The bounds around a distribution, the outermost first, and what is inside bounds, masks, dimensions."""
    bounds = []
    while isinstance(fn, Independent | MaskedDistribution | _Bounded):
        bounds += [fn] if isinstance(fn, _Bounded) else []
        fn = fn.base_dist
    return bounds, fn


def corner(fn: Any) -> Corner | None:
    """The corner of a density, looking through what reshapes or bounds it; None if it is smooth."""
    bounds, inner = unwrapped(fn)
    found = corner_of(inner)
    if found is None or not bounds:
        return found
    return replace(found, is_bounded=True, is_truncated=any(bound.truncates for bound in bounds))


def latent(fn: Any) -> Any:
    """The distribution behind the bounds, or `fn` itself."""
    while isinstance(fn, _Bounded):
        fn = fn.base_dist
    return fn


def cancelling(fn: Any, y: Tensor) -> Tensor:
    """The size `(N,)` of the terms that cancel in the log-density of `y` between bounds; 0 without bounds.

    Far from its location a log-density and the log-probability of the interval are huge and alike.
    """
    inner = latent(fn)
    if inner is fn:
        return torch.zeros_like(y)
    return torch.where(inner.support.check(y), inner.log_prob(y).abs(), 0.0).nan_to_num(0.0)


class _Support(constraints.Constraint):
    """The support of a distribution between bounds."""

    def __init__(self, fn: _Bounded) -> None:
        self.base, self.lower, self.upper = fn.base_dist.support, fn.lower, fn.upper
        self.is_discrete, self.event_dim = self.base.is_discrete, 0

    def __repr__(self) -> str:
        return f"{self.base} between {_shown(self.lower)} and {_shown(self.upper)}"


class _Reaching(_Support):
    def __init__(self, fn: _Bounded) -> None:
        super().__init__(fn)
        self.lower_bound, self.upper_bound = ends(self.base)

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value) | (value <= self.lower) | (value >= self.upper)

    def __repr__(self) -> str:
        return f"{super().__repr__()}, or at one of these bounds or beyond"


class _Within(_Support):
    def __init__(self, fn: _Bounded) -> None:
        super().__init__(fn)
        self.lower_bound, self.upper_bound = fn._ends()

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value) & (value >= self.lower) & (value <= self.upper)


@public
class Censored(_Bounded):
    """Censored(base_dist, lower, upper): a draw of `base_dist`, moved to the bound that it is beyond.

    Density: P(Y ≤ lower) at and below `lower`, P(Y ≥ upper) at and above `upper`, and that of `base_dist`
    between.
    Shapes: bounds that broadcast with the batch of `base_dist`, in units of y; infinite ones are none.
    Estimates: what `base_dist` does, from rows of which only the side of a bound is known.
    Source: Tobin (1958), Estimation of relationships for limited dependent variables.
    `mean` and `variance` are those of the moved draw, by quadrature; `base_dist` has those before it.
    Raises ``ValueError`` for bounds that are NaN or in the wrong order, `ModelError` for a `base_dist` that
    is not univariate or, on use, has no distribution function.

    >>> import torch
    >>> from neglog.distributions import Normal
    >>> tobit = Censored(Normal(0.0, 1.0), lower=0.0)
    >>> tobit.log_prob(torch.tensor([0.0])).exp()  # ½
    tensor([0.5000])
    >>> round(tobit.mean.item(), 4)  # 1 / √(2π)
    0.3989
    """

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        """The support of the latent response up to the bounds of each row, which are in it."""
        return _Reaching(self)

    def shows(self, value: Tensor) -> Tensor:
        """Which entries of a value are strictly between the bounds."""
        return (value > self.lower) & (value < self.upper)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density between the bounds, the log-probability of being there at a bound and beyond."""
        value, at = self._framed(value)
        seen = self.shows(value)
        low, high = (torch.as_tensor(end).to(at) for end in ends(self.base_dist.support))
        usable = self.base_dist.support.check(at) & ((at > low) & (at < high) | seen)
        # Unused branches are evaluated where they are finite, so that their derivatives are not NaN.
        density = self.base_dist.log_prob(torch.where(usable, at, anywhere(self.base_dist.support, at)))
        if nowhere(~seen):
            return density
        until, beyond = self._masses(at)
        piled = torch.where(value <= self.lower, until, beyond)
        return torch.where(seen, torch.where(usable, density, -math.inf), piled)

    def _masses(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """log P(Y ≤ at) and log P(Y ≥ at)."""
        until, after = log_tails(self.family, at)
        if self.base_dist.support.is_discrete:
            after = log_tails(self.family, torch.ceil(at) - 1)[1]
        return until, after

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = log_tails(self.family, value)
        low, high = value < self.lower, value >= self.upper
        return (
            torch.where(low, -math.inf, torch.where(high, 0.0, lower)),
            torch.where(low, 0.0, torch.where(high, -math.inf, upper)),
        )

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: that of `base_dist`, moved to the bound that it is beyond."""
        return self._moved(self.family.icdf(value))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of `base_dist`, moved to the bound that they are beyond."""
        with torch.no_grad():
            return self._moved(self.base_dist.expand(self.batch_shape).sample(sample_shape))

    def _moments(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends()
        if self.base_dist.support.is_discrete:  # the probability at a bound is added below
            low = torch.where(low == self.lower, low + 1, low)
            high = torch.where(high == self.upper, high - 1, high)
        first, second = partial_moments(self.base_dist, low, high, centre, torch.zeros_like(centre))
        for bound, side in ((self.lower, 0), (self.upper, 1)):
            some = torch.isfinite(bound)
            at = torch.where(some, bound, 0.0).expand(self.batch_shape)
            mass = torch.where(some, torch.exp(self._masses(at)[side]), 0.0)
            away = torch.where(some, bound - centre, 0.0)
            first, second = first + away * mass, second + away * away * mass
        return first, second


@public
class Truncated(_Bounded):
    """Truncated(base_dist, lower, upper): a draw of `base_dist`, seen only where it is between the bounds.

    Density: p(y) / P(lower ≤ Y ≤ upper) for lower ≤ y ≤ upper, ends included, p that of `base_dist`.
    Shapes: bounds that broadcast with the batch of `base_dist`, in units of y; infinite ones are none.
    Estimates: what `base_dist` does, from the rows that could be seen.
    Source: Hald (1949), Maximum likelihood estimation of the parameters of a Normal distribution which is
    truncated at a known point.
    Exact where the interval is far out in a tail; draws and `icdf` are solved for, without derivatives;
    `mean` and `variance` are by quadrature.
    Raises ``ValueError`` for bounds that are NaN or in the wrong order, `ModelError` for a `base_dist` that
    is not univariate or, on use, has no distribution function.

    >>> import torch
    >>> from neglog.distributions import Poisson
    >>> positive = Truncated(Poisson(torch.tensor([1.0])), lower=1.0)
    >>> positive.log_prob(torch.tensor([1.0])).exp()  # 1 / (e - 1)
    tensor([0.5820])
    """

    truncates = True

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        """The support of the base distribution between the bounds of each row."""
        return _Within(self)

    @property
    def log_mass(self) -> Tensor:
        """The log of the probability of an observation, P(lower ≤ Y ≤ upper)."""
        return log_between(self.family, *self._edges()).expand(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density at `value`, every constant included; -∞ beyond the bounds."""
        value, at = self._framed(value)
        density = self.base_dist.log_prob(at) - self.log_mass
        return torch.where((value >= self.lower) & (value <= self.upper), density, -math.inf)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._tails_within(value, *self._edges())

    def _edges(self) -> tuple[Cut, Cut]:
        return cut_before(self.family, self.lower), cut(self.family, self.upper)

    def _tails_within(self, value: Tensor, start: Cut, end: Cut) -> _Tails:
        here, mass = cut(self.family, self._moved(value)), log_between(self.family, start, end)
        until = (log_between(self.family, start, here) - mass).clamp(max=0.0)
        after = (log_between(self.family, here, end) - mass).clamp(max=0.0)
        low, high = value < self.lower, value >= self.upper
        return (
            torch.where(low, -math.inf, torch.where(high, 0.0, until)),
            torch.where(low, 0.0, torch.where(high, -math.inf, after)),
        )

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: the smallest value that is seen whose `cdf` is at least `value`."""
        q = torch.as_tensor(value)
        if self._validate_args:
            check_probabilities(q)
        (low, high), (start, end) = self._ends(), self._edges()
        mass = log_between(self.family, start, end)
        q = q.to(mass.dtype).expand(broadcast_shapes(q.shape, self.batch_shape))

        def tails(y: Tensor) -> _Tails:
            lower, upper = self._tails_within(y, start, end)
            return torch.exp(lower), torch.exp(upper)

        if self.base_dist.support.is_discrete:
            return at_ends(q, search_quantile(interior(q), tails, low.clamp(min=0.0)), low, high)
        place = Line(low.to(q), high.to(q))

        def density(s: Tensor) -> Tensor:
            return torch.exp(self.base_dist.log_prob(place.value(s)) - mass) * place.slope(s)

        # The rounding error of a difference of tails is that of the larger tail.
        noise = torch.exp(torch.minimum(start.above, end.below) - mass) * (1 + mass.abs())
        s = solve_quantile(interior(q), lambda s: tails(place.value(s)), density, torch.zeros_like(q), noise)
        return at_ends(q, place.value(s), low.to(q), high.to(q))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws through the quantile function."""
        with torch.no_grad():
            mass = self.log_mass
            uniform = torch.rand(self._extended_shape(sample_shape), dtype=mass.dtype, device=mass.device)
            return self.icdf(uniform.clamp(min=torch.finfo(mass.dtype).tiny))

    def _moments(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        return partial_moments(self.base_dist, *self._ends(), centre, self.log_mass)


register(Family(Censored, censors=True))
register(Family(Truncated, truncates=True))


@public
def probabilities(fn: Any, y: Tensor) -> Tensor:
    """The rows `(N,)` of a response whose log_prob is that of a probability; of others it is of a density.

    A density has units, one over those of y, and a probability has none: the two cannot be compared.

    >>> import torch
    >>> from neglog.distributions import Normal, Poisson
    >>> y = torch.tensor([0.0, 1.0])
    >>> [
    ...     probabilities(fn, y).tolist()
    ...     for fn in (Poisson(y + 1), Censored(Normal(y, 1.0), 0.0), Normal(y, 1.0))
    ... ]
    [[True, True], [True, False], [False, False]]
    """
    if fn.support.is_discrete:
        return torch.ones(len(y), dtype=torch.bool)
    if isinstance(fn, Censored):
        return ~fn.shows(y) & ~torch.isnan(y)
    return torch.zeros(len(y), dtype=torch.bool)
