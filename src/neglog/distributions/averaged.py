"""Distributions averaged over draws of their parameters, and quantiles of any distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from neglog.distributions.base import ByTails
from neglog.distributions.derived import about, mean_of, variance_of
from neglog.distributions.family import tailed
from neglog.distributions.quantiles import at_ends, interior, search_quantile, solve_quantile
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.supports import check_probabilities, ends
from neglog.distributions.tails import log_tails
from neglog.errors import ModelError


class Averaged(ByTails):
    """Averaged(component): a distribution averaged over S draws of its parameters, each of the same weight.

    Density: the mean over s of p(y | theta_s), where `component` holds p(y | theta_s).
    Shapes: `component` has the batch shape `(S, ...)`, and this `(...)`; events are those of `component`.
    `first` is p(y | theta_1) on its own, whose support is that of all where it depends on the row.
    Estimates: the predictive distribution, including the uncertainty of the parameters.
    Values outside the support are refused by `component`, with a ``ValueError``. `cdf`, `sf` and `icdf` raise
    `ModelError` where it has no distribution function: vectors, classes without an order.

    >>> import torch
    >>> from neglog.distributions import Normal
    >>> pair = Averaged(Normal(torch.tensor([[-1.0], [1.0]]), 1.0))
    >>> pair.mean, pair.variance, pair.icdf(torch.tensor(0.5)).abs() < 1e-6
    (tensor([0.]), tensor([2.]), tensor([True]))
    """

    has_smooth_cdf = True
    """Corners of the components are averaged out of the distribution function."""

    def __init__(self, component: Any, first: Any = None, *, validate_args: bool | None = None) -> None:
        self.component, self.first = component, component if first is None else first
        super().__init__(component.batch_shape[1:], component.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Averaged:
        """The same distribution with a larger batch shape."""
        if len(batch_shape) > len(self.batch_shape):
            raise NotImplementedError("more dimensions of the batch would come before those of the draws.")
        component = self.component.expand((self.draws, *batch_shape))
        return Averaged(component, self.first.expand(batch_shape), validate_args=self._validate_args)

    @property
    def draws(self) -> int:
        """The number of draws, S."""
        return self.component.batch_shape[0]

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of the response, the same at every draw."""
        return self.first.support

    @property
    def mean(self) -> Tensor:
        """The mean over the draws of a row's means, in units of the response."""
        return mean_of(self.component).mean(0)

    @property
    def variance(self) -> Tensor:
        """The mean over the draws of a row's variances, plus the variance of its means."""
        return self.aleatoric + self.epistemic

    @property
    def aleatoric(self) -> Tensor:
        """The variance that remains where the parameters are known: the mean of those at the draws."""
        return variance_of(self.component).mean(0)

    @property
    def epistemic(self) -> Tensor:
        """The variance due to the parameters: that of the means at the draws."""
        return mean_of(self.component).var(0, correction=0)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the mean density at `value`."""
        found = self.component.log_prob(self._along(value, len(self.event_shape)))
        return self._mean_of_logs(found)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = log_tails(tailed(self.component), self._along(value))
        return self._mean_of_logs(lower), self._mean_of_logs(upper)

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: the smallest number with a `cdf` of at least `value`.

        Raises ``ValueError`` for a `value` outside 0 ≤ value ≤ 1.
        """
        check_probabilities(value)
        unchecked = copy(self)
        unchecked.component = copy(self.component)
        unchecked.component._validate_args = False  # at an end of the support a density may be infinite
        shape = broadcast_shapes(value.shape, self.batch_shape)
        return unchecked._quantile(value.expand(shape))

    def _quantile(self, q: Tensor) -> Tensor:
        low, high = (torch.as_tensor(end, dtype=q.dtype) for end in ends(self.support))
        inner = interior(q)
        if self.support.is_discrete:
            start = self.mean + self.variance.sqrt() * torch.special.ndtri(inner)
            return at_ends(q, search_quantile(inner, self._tails, start), low, high)
        if self.support in (constraints.positive, constraints.nonnegative):
            found = solve_quantile(
                inner,
                lambda t: self._tails(t.exp()),
                lambda t: torch.exp(self.log_prob(t.exp()) + t),
                mean_of(self.component).log().mean(0),
            )
            return at_ends(q, found.exp(), low, high)
        if self.support is constraints.unit_interval:
            found = solve_quantile(
                inner,
                lambda t: self._tails(torch.sigmoid(t)),
                lambda t: torch.exp(self.log_prob(torch.sigmoid(t)) + logsigmoid(t) + logsigmoid(-t)),
                mean_of(self.component).logit().mean(0),
            )
            return at_ends(q, torch.sigmoid(found), low, high)
        each = quantile_of(self.component, self._along(q))
        low, high = each.amin(self._axis), each.amax(self._axis)
        return at_ends(q, torch.where(low == high, low, between(inner, self, low, high)), low, high)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        fn, at = tailed(self.component), self._along(value)
        if hasattr(fn, "_tails"):
            lower, upper = fn._tails(at)
        else:
            lower, upper = (side.exp() for side in log_tails(fn, at))
        shape = broadcast_shapes(at.shape, fn.batch_shape)
        return lower.expand(shape).mean(self._axis), upper.expand(shape).mean(self._axis)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Independent draws: of each, a draw of the parameters is chosen first."""
        number, rows = torch.Size(sample_shape).numel(), self.batch_shape.numel()
        chosen = torch.randint(self.draws, (number, rows))
        # The k-th draw of a row from a component is the k-th value drawn from that component.
        order = chosen.argsort(dim=0, stable=True)
        counts = torch.zeros((self.draws, rows), dtype=torch.long).scatter_add_(
            0, chosen, torch.ones_like(chosen)
        )
        first = (counts.cumsum(0) - counts).gather(0, chosen.gather(0, order))
        turn = torch.empty_like(chosen).scatter_(0, order, torch.arange(number)[:, None] - first)
        with torch.no_grad():
            values = self.component.sample((int(counts.max()),))
        values = values.reshape(len(values), self.draws, rows, *self.event_shape)
        return values[turn, chosen, torch.arange(rows)].reshape(self._extended_shape(sample_shape))

    @property
    def _axis(self) -> int:
        """The dimension of the draws in densities: before the batch."""
        return -1 - len(self.batch_shape)

    def _along(self, value: Tensor, event: int = 0) -> Tensor:
        """A value with a dimension for the draws, before those of the batch."""
        missing = len(self.batch_shape) + event - value.dim()
        value = value.reshape((1,) * max(0, missing) + tuple(value.shape))
        return value.unsqueeze(self._axis - event)

    def _mean_of_logs(self, values: Tensor) -> Tensor:
        return torch.logsumexp(values, self._axis) - math.log(self.draws)


class Listed(TorchDistribution):
    """Listed(components): S distributions of the same batch shape as one of batch shape `(S, ...)`.

    Density: that of each. Shapes: each component has the batch `(...)` and the same events.
    Estimates: what its components do; it is for models that do not run for many parameters at a time.
    """

    arg_constraints: Mapping[str, Any] = {}

    def __init__(self, components: Sequence[Any], *, validate_args: bool | None = None) -> None:
        self.components = tuple(components)
        first = self.components[0]
        batch = (len(self.components), *first.batch_shape)
        super().__init__(torch.Size(batch), first.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of the response, the same in every entry."""
        return self.components[0].support

    @property
    def mean(self) -> Tensor:
        """The mean of each entry, stacked along the first dimension."""
        return torch.stack([mean_of(each) for each in self.components])

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, stacked along the first dimension."""
        return torch.stack([variance_of(each) for each in self.components])

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each."""
        return self._each(lambda fn, at: fn.log_prob(at), value, len(self.event_shape))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of each."""
        return self._each(quantile_of, value)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        def side(index: int) -> Tensor:
            return self._each(lambda fn, at: log_tails(tailed(fn), at)[index], value)

        return side(0), side(1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of each."""
        return torch.stack([fn.sample(sample_shape) for fn in self.components], len(sample_shape))

    def _each(self, function: Any, value: Tensor, event: int = 0) -> Tensor:
        axis = -len(self.batch_shape)
        shape = broadcast_shapes(value.shape[: value.dim() - event], self.batch_shape)
        value = value.expand(*shape, *value.shape[value.dim() - event :])
        parts = value.unbind(axis - event)
        return torch.stack([function(fn, at) for fn, at in zip(self.components, parts, strict=True)], axis)


def quantile_of(fn: Any, q: Tensor) -> Tensor:
    """The quantiles of a distribution: the smallest number with a `cdf` of at least `q`, `(...)`.

    By its own `icdf`, or else by a search that its distribution function and its density guide.

    Raises:
        ModelError: it has no distribution function, as vectors and classes without an order have none.
    """
    if fn.event_shape:
        raise ModelError("a response of vectors has no quantiles; each of its components has.")
    fn = tailed(fn)
    try:
        return fn.icdf(q)
    except NotImplementedError:
        pass
    q = q.expand(broadcast_shapes(q.shape, fn.batch_shape))

    def tails(value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = log_tails(fn, value)
        return lower.exp(), upper.exp()

    low, high = (torch.as_tensor(end, dtype=q.dtype) for end in ends(fn.support))
    centre, scale = about(fn, low, high)
    if fn.support.is_discrete:
        inside = search_quantile(interior(q), tails, centre)
    else:
        inside = centre + scale * solve_quantile(
            interior(q),
            lambda s: tails(centre + scale * s),
            lambda s: scale * _density(fn, centre + scale * s, centre),
            torch.zeros_like(q),
        )
    return torch.where(q <= 0, low, torch.where(q >= 1, high, inside))


def _density(fn: Any, value: Tensor, centre: Tensor) -> Tensor:
    """The density of a distribution; 0 outside its support."""
    inside = fn.support.check(value)
    usable = torch.where(inside, value, centre)
    return torch.where(inside, fn.log_prob(usable).exp(), 0.0)


@torch.no_grad()
def between(q: Tensor, fn: Any, low: Tensor, high: Tensor) -> Tensor:
    """The smallest s in [low, high] with a distribution function of at least q, which it reaches there.

    Newton's method on log F (on log(1 - F) above the median); a step that leaves the bracket is replaced by
    its middle. It ends where a step is below the rounding of F.
    """
    least, eps, half = low, torch.finfo(q.dtype).eps, q <= 0.5
    known = torch.where(half, q, 1 - q).log()
    at_least = fn.log_cdf(low) >= q.log()  # an atom at the lower end
    s = 0.5 * (low + high)
    for _ in range(100):
        lower, upper = fn._log_tails(s)
        tail = torch.where(half, lower, upper)
        gap = torch.where(half, tail - known, known - tail)
        high, low = torch.where(gap >= 0, s, high), torch.where(gap < 0, s, low)
        reach = torch.exp(tail - fn.log_prob(s))  # the distance of a quantile with an entirely different q
        moved = s - gap * reach
        inside = (moved >= low) & (moved <= high)
        step = torch.where(inside, moved, 0.5 * (low + high)) - s
        s = s + step
        small = eps * torch.where(torch.isfinite(reach), reach, 0.0)
        if bool((at_least | (step.abs() <= 16 * (small + eps * s.abs()))).all()):
            break
    return torch.where(at_least, least, s)
