"""Handlers for a response that was not observed, or not fully: missing, censored, truncated.

Each takes a model, a callable `(x, y=None)`, and returns another. They nest with all other handlers; among
themselves from the inside out in the order ``masked(censored(truncated(model)))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from neglog.arguments import as_float
from neglog.calls import public
from neglog.distributions import Censored, Truncated
from neglog.distributions.family import family_of
from neglog.distributions.observed import latent
from neglog.distributions.supports import filled
from neglog.errors import DataError, ModelError, written
from neglog.models.named import model_of
from neglog.predictors import RESPONSE

Model = Callable[..., Any]
Limit = float | str | None
LOCATED = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT)
"""The priors that are of differences from their location."""


class _Masking(Messenger):
    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] != RESPONSE or not msg["is_observed"]:
            return
        known = ~torch.isnan(msg["value"])
        if bool(known.all()):
            return
        fn, support = msg["fn"], msg["fn"].support
        msg["fn"], rows = _marginal(fn, known)
        msg["mask"] = rows if msg["mask"] is None else msg["mask"] & rows
        msg["value"] = filled(msg["value"], known, support)


def _marginal(fn: Any, known: Tensor) -> tuple[Any, Tensor]:
    """The distribution of the known entries, and the rows that have any."""
    if not fn.event_shape:
        return fn, known
    inside = tuple(range(-len(fn.event_shape), 0))
    rows = known.any(inside)
    if (marginal := family_of(fn).marginal) is not None:
        return marginal(fn, known), rows
    if isinstance(fn, Independent) and not fn.base_dist.event_shape:
        return fn.base_dist.mask(known).to_event(len(fn.event_shape)), rows
    if bool((rows & ~known.all(inside)).any()):
        raise ModelError(
            f"`masked` cannot leave out some entries of a row of `y` under `{type(fn).__name__}`; it can "
            "under MultivariateNormal and Independent. Drop these rows, or make all of their entries NaN."
        )
    return fn, rows


def bounds_rows(layer: Any) -> bool:
    """Whether a layer around a model masks, censors or truncates its rows."""
    return isinstance(layer, _Masked | _Bounds)


@public
def masked(model: Model | str) -> Model:
    """The model of the observed entries of `y`: entries that are NaN are left out of its likelihood.

    Of a response `(N,)` the row is left out, as if it were absent: from the estimates, the NLL, AIC and n. Of
    `(N, D)` the entry is: what remains is the marginal density of the others, exact for a MultivariateNormal
    and for independent entries. `log_likelihood` of a row without a known entry is 0. Without a `y`, or with
    one that has no NaN, nothing changes.

    That is right where the reason why a value is missing depends on what is known alone (Rubin 1976).

    Raises:
        ModelError: when the model runs, if some entries of a row are missing and the distribution of the
            others has no form of its own.

    >>> import torch
    >>> from neglog import mle, models
    >>> y = torch.tensor([1.0, torch.nan, 2.0, 6.0], dtype=torch.float64)
    >>> fit = mle(masked(models.gaussian), torch.empty((4, 0)), y)
    >>> round(fit.params["mean.bias"].item(), 6), fit.n
    (3.0, 3.0)
    """
    return _Masked(model_of(model))


class _Masked:
    missing = True
    """A fit may leave out rows without an observed entry."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.description: dict[str, dict[str, Any]] = {"masked": {}}

    def __call__(self, x: Any, y: Tensor | None = None, **keywords: Any) -> Any:
        with _Masking():
            return self.model(x, y, **keywords)


class _Bounding(Messenger):
    def __init__(self, handler: _Bounds, lower: Tensor | float, upper: Tensor | float) -> None:
        super().__init__()
        self.handler, self.lower, self.upper = handler, lower, upper

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] != RESPONSE:
            return
        batch = msg["fn"].batch_shape
        for side, bound in (("lower", self.lower), ("upper", self.upper)):
            if isinstance(bound, Tensor) and bound.dim() and bound.shape[-1:] != batch[-1:]:
                raise DataError(
                    f"`{side}` of `{self.handler.name}` has the shape {tuple(bound.shape)}; it needs one "
                    f"bound for each of {batch[-1] if batch else 1} rows."
                )
        msg["fn"] = self.handler.distribution(msg["fn"], self.lower, self.upper)


class _Unbounding(Messenger):
    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE:
            msg["fn"] = latent(msg["fn"])


def without_bounds(model: Model) -> Model:
    """The model of a response that was neither censored nor truncated: each `y` counts by its density."""
    return _Unbounding()(model)


class _Moving(Messenger):
    def __init__(self, by: Tensor, bias: str | None) -> None:
        super().__init__()
        self.by, self.bias = by, bias

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE and isinstance(msg["fn"], Censored | Truncated):
            msg["fn"] = msg["fn"].moved(self.by)
        if msg["name"] == self.bias:
            msg["fn"] = moved_prior(msg["fn"], self.by) or msg["fn"]


def moved(model: Model, by: Tensor, bias: str | None = None) -> Model:
    """The model with the bounds of its response, and the prior of a `bias`, moved `by` a constant."""
    return _Moving(by, bias)(model)


def moved_prior(prior: Any, by: Tensor) -> Any:
    """A prior with its location moved `by` a constant; None of one that is no symmetric location family."""
    new = copy(prior)
    if isinstance(prior, Independent):
        new.base_dist = moved_prior(prior.base_dist, by)
        return None if new.base_dist is None else new
    if type(prior) not in LOCATED:
        return None
    new.loc = prior.loc + by
    return new if new.loc.shape == prior.loc.shape else None


class _Bounds:
    """A model whose response has bounds: numbers, or row-wise keywords."""

    name: str
    distribution: type[Censored] | type[Truncated]

    def __init__(self, model: Model | str, lower: Limit, upper: Limit) -> None:
        for side, limit in (("lower", lower), ("upper", upper)):
            if isinstance(limit, bool) or not isinstance(limit, int | float | str | None):
                raise ModelError(
                    f"`{side}` of `{self.name}` must be a number, or the name of a keyword that holds a "
                    f"bound for each row; it is {written(limit)}."
                )
        self.model, self.lower, self.upper = model_of(model), lower, upper
        self.description = {self.name: {"lower": lower, "upper": upper}}
        low, high = _number_or(lower, -math.inf), _number_or(upper, math.inf)
        if math.isnan(low) or math.isnan(high):
            raise ModelError(f"the bounds of `{self.name}` must not be NaN; they are {lower} and {upper}.")
        if low >= high:  # also a lower bound of infinity, beyond which nothing is
            raise ModelError(f"`{self.name}` needs lower < upper; they are {low:g} and {high:g}.")

    @property
    def row_bounds(self) -> frozenset[str]:
        """The keywords that are bounds of the rows, which may be infinite."""
        sides = (("lower", self.lower), ("upper", self.upper))
        return frozenset(
            side if limit is None else limit
            for side, limit in sides
            if limit is None or isinstance(limit, str)
        )

    def __call__(self, x: Any, y: Tensor | None = None, **keywords: Any) -> Any:
        lower, upper = self._limit("lower", keywords), self._limit("upper", keywords)
        if y is not None and lower is None and upper is None:
            raise ModelError(
                f"`{self.name}` was given no bound. Give numbers, {self.name}(model, upper=5.0), or a bound "
                "for each row, mle(..., upper=bounds)."
            )
        low = -math.inf if lower is None else lower
        high = math.inf if upper is None else upper
        self._check(low, high, y is not None)
        with _Bounding(self, low, high):
            return self.model(x, y, **keywords)

    def _limit(self, side: str, keywords: dict[str, Any]) -> Any:
        limit: Limit = getattr(self, side)
        if limit is None:
            return keywords.pop(side, None)
        if not isinstance(limit, str):
            return limit
        if limit not in keywords:
            raise ModelError(
                f"`{self.name}` needs the bound {limit!r} of each row: {limit}=bounds, of shape (rows,)."
            )
        return keywords.pop(limit)

    def _check(self, lower: Any, upper: Any, given: bool) -> None:
        low, high = (torch.as_tensor(bound) for bound in (lower, upper))
        wrong = ~(low <= high) if not given else ~(low < high)
        if bool(wrong.any()):
            row = int(wrong.reshape(-1).nonzero()[0])
            first, last = (float(b.expand(wrong.shape).reshape(-1)[row]) for b in (low, high))
            raise DataError(
                f"`{self.name}` needs lower < upper, and infinite where there is no bound; "
                f"{int(wrong.sum())} of {wrong.numel()} rows do not: one has {first:g} and {last:g}."
            )


def _number_or(limit: Limit, default: float) -> float:
    """A bound of all rows; the default where there is none, or each row has its own."""
    return as_float(limit) if isinstance(limit, int | float) else default


class _Censored(_Bounds):
    name, distribution = "censored", Censored


class _Truncated(_Bounds):
    name, distribution = "truncated", Truncated


@public
def censored(model: Model | str, lower: Limit = None, upper: Limit = None) -> Model:
    """The model of a response that is known to be beyond a bound where it is at the bound.

    A row with y ≤ lower contributes P(Y ≤ lower), one with y ≥ upper P(Y ≥ upper), and all others their
    density: Tobit models, and lifetimes of which some have not ended. An event exactly at its bound counts as
    censored, so where the bound is the time until which a row was watched, give infinity to rows whose event
    was seen: ``mle(censored(models.weibull), x, time, upper=numpy.where(event, numpy.inf, time))``.

    Args:
        model: a model whose response is one number a row, with a distribution function.
        lower: a number for all rows; the name of a keyword with a bound for each row; or None: the keyword
            ``lower`` where it is given, else no bound.
        upper: likewise.

    `predict` gives the law of what would be recorded, a `Censored`, whose ``base_dist`` is the law behind it.

    Raises:
        ModelError: bounds that are no numbers, or NaN, or in the wrong order; when the model runs: no bound
            at all, or a distribution without a distribution function.
        DataError: when the model runs: bounds of the rows of another length, NaN, or in the wrong order.

    Source: Tobin (1958); Kalbfleisch & Prentice (2002), The Statistical Analysis of Failure Time Data.

    >>> import torch
    >>> from neglog import mle, models
    >>> y = torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    >>> tobit = mle(censored(models.gaussian, lower=0.0), torch.empty((4, 0)), y)
    >>> tobit.params["mean.bias"].item() < y.mean().item()
    True
    """
    return _Censored(model, lower, upper)


@public
def truncated(model: Model | str, lower: Limit = None, upper: Limit = None) -> Model:
    """The model of a response that is only ever seen with lower ≤ y ≤ upper.

    Every row contributes its density over P(lower ≤ Y ≤ upper). Counts that are recorded from 1 on are
    ``truncated(models.poisson, lower=1)``.

    Args:
        model: a model whose response is one number a row, with a distribution function.
        lower: a number for all rows; the name of a keyword with a bound for each row; or None: the keyword
            ``lower`` where it is given, else no bound. Lifetimes that are watched from an age on, until
            another, are ``censored(truncated(models.weibull, lower="entry"))``.
        upper: likewise.

    `predict` gives the law of what can be seen, a `Truncated`, whose ``base_dist`` is the law of all.

    Raises:
        ModelError, DataError: as `censored`.

    Source: Hald (1949); Cohen (1991), Truncated and Censored Samples.

    >>> import torch
    >>> from neglog import mle, models
    >>> fit = mle(truncated(models.poisson, lower=1), torch.empty((3, 0)), torch.tensor([1.0, 1.0, 4.0]))
    >>> rate = fit.params["log_rate.bias"].exp()
    >>> round((rate / (1 - torch.exp(-rate))).item(), 6)  # the mean of the counts that are seen
    2.0
    """
    return _Truncated(model, lower, upper)
