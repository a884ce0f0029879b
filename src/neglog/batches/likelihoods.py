"""The negative log-likelihoods of many data sets under one model, each as a function of its own vector.

The model is evaluated once for all data sets, as a function of its linear predictors `(S, N)` and its
constants `(S, 1)`; it returns log-densities `(S, N)`. Gradients and Hessians are the derivatives of each row
in its predictors and constants, multiplied by the designs. If data sets differ only in their weights, the
derivatives of the N common rows at a common point are summed for all data sets by one product with the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import comb
from typing import Any, Self

import pyro
import torch
from torch import Tensor

from neglog.batches.stack import Stack
from neglog.data import Data
from neglog.distributions.observed import cancelling
from neglog.handlers import Model
from neglog.likelihood.rows import CURVATURES, SLOPES, Terms, derivatives, gradients, named
from neglog.likelihood.sites import Site
from neglog.objective.spread import exact_rows
from neglog.predictors import RESPONSE
from neglog.solvers.batched_newton import Expansion, choices, rank
from neglog.tracing import Run, run

PIECE = 131_072
"""Data sets times rows evaluated at a time; this many numbers fit in the cache of the processor."""
PART = 4_000_000
"""Largest number of derivatives of rows, or of their weights, in memory at a time."""
WIDTH = 250
"""Largest number of derivatives of an order above the second that are computed."""
ORDERS = 4
"""The highest order of derivatives: higher orders cost more than the iterations that they save."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a design, `(N, P)` where all data sets share it, else `(S, N, P)`."""

    values: Tensor
    products: dict[int, Tensor] = field(default_factory=dict, repr=False)
    """Products of shared columns for `cross`, by the `id` of the other design."""

    @property
    def shared(self) -> bool:
        """Whether all data sets have the same columns."""
        return self.values.dim() == 2

    def times(self, at: Tensor) -> Tensor:
        """Predictors `(S, N)` from coefficients `(S, P)`."""
        return at @ self.values.mT if self.shared else (self.values @ at[..., None])[..., 0]

    def gather(self, rows: Tensor) -> Tensor:
        """Sums `(S, P)` of the columns times `rows` `(S, N)`."""
        return weighted_sums(rows, self.values) if self.shared else (rows[:, None] @ self.values)[:, 0]

    def cross(self, rows: Tensor, other: Columns) -> Tensor:
        """Sums `(S, P, Q)` of the products of two designs' columns times `rows` `(S, N)`."""
        if not (self.shared and other.shared):
            return self.values.mT @ (rows[..., None] * other.values)
        if other is not self:
            products = self._products(other, lambda: self.values[:, :, None] * other.values[:, None, :])
            return weighted_sums(rows, products.flatten(1)).unflatten(-1, products.shape[1:])
        size = self.values.shape[1]
        i, j = torch.triu_indices(size, size)
        half = weighted_sums(rows, self._products(self, lambda: self.values[:, i] * self.values[:, j]))
        whole = half.new_empty((len(rows), size, size))
        whole[:, i, j], whole[:, j, i] = half, half
        return whole

    def _products(self, other: Columns, make: Any) -> Tensor:
        if id(other) not in self.products:
            self.products[id(other)] = make()
        return self.products[id(other)]

    def take(self, index: Tensor | slice) -> Columns:
        """The columns of the data sets at `index`."""
        return self if self.shared else Columns(self.values[index])


@dataclass(frozen=True, eq=False)
class Predictor:
    """A linear predictor of S data sets: ``unit * design @ z[places] + offset``.

    `unit` is `(S,)`, `offset` a number, `(N,)` or `(S, N)`.
    """

    name: str
    places: Tensor
    design: Columns
    unit: Tensor
    offset: Tensor | float = 0.0

    def eta(self, z: Tensor) -> Tensor:
        """Its values `(S, N)` at `z` `(S, K)`."""
        return self.design.times(self.unit[:, None] * z[:, self.places]) + self.offset

    def gather(self, rows: Tensor) -> Tensor:
        """Derivatives `(S, N)` in its values as those `(S, P)` in its z."""
        return self.unit[:, None] * self.design.gather(rows)

    def cross(self, rows: Tensor, other: Predictor) -> Tensor:
        """Second derivatives `(S, N)` in the values of two predictors as those `(S, P, Q)` in their z."""
        return (self.unit * other.unit)[:, None, None] * self.design.cross(rows, other.design)

    def take(self, index: Tensor | slice) -> Predictor:
        """The predictor for the data sets at `index`."""
        offset = self.offset
        return replace(
            self,
            design=self.design.take(index),
            unit=self.unit[index],
            offset=offset[index] if isinstance(offset, Tensor) and offset.dim() == 2 else offset,
        )


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """Minus the log-likelihood of each of S data sets (`neglog.solvers.batched_newton.Problems`).

    `model` has flat priors. `still` has values for the coefficient sites, which do not enter since the
    predictors are given. `constants` are the other sites, with their indices in z.
    """

    model: Model
    stack: Stack
    predictors: tuple[Predictor, ...]
    constants: tuple[tuple[Site, Tensor], ...]
    still: Mapping[str, Tensor]
    size: int

    @cached_property
    def rows(self) -> Tensor:
        """The number of rows with a weight above 0, `(S,)`."""
        number, counted = self.stack.y.new_full((self.stack.count,), self.stack.rows), self.stack.counted
        return number if counted is None else number * 0 + counted.sum(-1)

    @cached_property
    def mass(self) -> Tensor:
        """The number of observations, the sum of the weights, `(S,)`."""
        weights, number = self.stack.weights, self.stack.y.new_full((self.stack.count,), self.stack.rows)
        return number if weights is None else weights.sum(-1).expand_as(number)

    @cached_property
    def weights_alone(self) -> bool:
        """Whether the data sets differ only in their weights."""
        offsets = [p.offset for p in self.predictors if isinstance(p.offset, Tensor)]
        return (
            self.stack.weights_alone
            and all(predictor.design.shared for predictor in self.predictors)
            and all(offset.dim() < 2 for offset in offsets)
        )

    @cached_property
    def pieces(self) -> tuple[tuple[slice, Likelihoods], ...]:
        """The data sets in parts that fit in the cache, with their places."""
        step = max(1, PIECE // self.stack.rows)
        if step >= self.stack.count:
            return ((slice(None), self),)
        places = [slice(low, low + step) for low in range(0, self.stack.count, step)]
        return tuple((place, self.part(place)) for place in places)

    def take(self, index: Tensor) -> Self:
        """The data sets at `index`."""
        return self if len(index) == self.stack.count else self.part(index)

    def part(self, index: Tensor | slice) -> Self:
        """The data sets at `index`; a slice shares memory."""
        predictors = tuple(predictor.take(index) for predictor in self.predictors)
        return replace(self, stack=self.stack.take(index), predictors=predictors)

    def etas(self, z: Tensor) -> dict[str, Tensor]:
        """The values `(S, N)` of each predictor at `z` `(S, K)`."""
        return {p.name: p.eta(z).expand(self.stack.count, self.stack.rows) for p in self.predictors}

    def params(self, z: Tensor) -> dict[str, Tensor]:
        """The constants at `z` `(S, K)`, each `(S, 1, *shape)`."""
        return {
            site.name: site.transform(z[:, places].reshape(len(z), 1, *site.unconstrained))
            for site, places in self.constants
        }

    def at(self, etas: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Run:
        """Run the model for all data sets without validation of values: invalid ones give NaN.

        Designs that are not shared enter through the predictors only.
        """
        data = Data(self.stack.blank(), self.stack.y, None, self.stack.keywords)
        with pyro.validation_enabled(False):
            return run(self.model, data, Run({**self.still, **params}, etas=etas))

    def log_prob(self, etas: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        """The log-density of each row, `(S, N)`, without weights."""
        return self.density(self.at(etas, params))

    def density(self, at: Run) -> Tensor:
        """The log-density of each row of a run of the model, `(S, N)`."""
        with pyro.validation_enabled(False):
            return at.log_prob(RESPONSE).expand(self.stack.count, self.stack.rows)

    def _masked(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """The predictors, 0 in rows of weight 0 that could overflow, and the rows kept (None for all)."""
        etas = self.etas(z)
        if self.weights_alone and all(bool(_tame(eta)) for eta in etas.values()):
            return etas, None
        counted = self.stack.counted
        if counted is None:
            return etas, None
        return {name: torch.where(counted, eta, 0.0) for name, eta in etas.items()}, counted

    def response(self, z: Tensor) -> Any:
        """The distribution of the observations at `z` `(S, K)`."""
        with torch.no_grad():
            return self.at(self.etas(z), self.params(z)).sites[RESPONSE]["fn"]

    @torch.no_grad()
    def values(self, z: Tensor) -> Tensor:
        """The negative log-likelihoods `(S,)`, in nats."""
        return torch.cat([part._values(z[place]) for place, part in self.pieces])

    def _values(self, z: Tensor) -> Tensor:
        etas, counted = self._masked(z)
        log_prob = self.log_prob(etas, self.params(z))
        return _summed(self.stack, log_prob if counted is None else torch.where(counted, log_prob, 0.0))

    def terms(self, z: Tensor) -> Tensor:
        """The size of the terms that cancel in `values`, `(S,)` in nats."""
        y = self.stack.y.expand(self.stack.count, self.stack.rows)
        with torch.no_grad(), pyro.validation_enabled(False):
            return -_summed(self.stack, cancelling(self.response(z), y))

    def scores(self, z: Tensor) -> dict[str, Tensor]:
        """The derivative of each row's weighted log-likelihood in each predictor, `(S, N)`."""
        slopes = self._terms(SLOPES, z).slopes
        return {p.name: -slope for p, slope in zip(self.predictors, slopes, strict=True)}

    def gradients(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values `(S,)` and gradients `(S, K)`."""
        found = [(part, part._terms(SLOPES, z[place])) for place, part in self.pieces]
        values = torch.cat([terms.value for _, terms in found])
        return values, torch.cat([_gradient(part, terms) for part, terms in found])

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values `(S,)`, gradients `(S, K)` and Hessians `(S, K, K)`."""
        parts = []
        for place, part in self.pieces:
            terms = part._terms(CURVATURES, z[place])
            parts.append((terms.value, _gradient(part, terms), _hessian(part, terms)))
        values, gradients, hessians = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients), torch.cat(hessians)

    @cached_property
    def own(self) -> Tensor:
        """The indices `(C,)` of the constants in z."""
        return torch.cat([torch.arange(0), *(places for _, places in self.constants)])

    @torch.enable_grad()
    def _terms(self, order: int, z: Tensor) -> Terms:
        """The loss of each data set, and its derivatives in predictors and constants, up to an order."""
        z = z.detach()
        constants = z[:, self.own].requires_grad_(len(self.own) > 0)
        etas, counted = self._masked(z)
        etas = {name: eta.detach().requires_grad_() for name, eta in etas.items()}
        log_prob = self.log_prob(etas, self.params(z.index_copy(1, self.own, constants)))
        losses = _summed(self.stack, log_prob if counted is None else torch.where(counted, log_prob, 0.0))
        found = derivatives(order, losses, constants, list(etas.values()))
        return named(order, found, len(etas), len(self.own))

    def bounded(self, z: Tensor) -> Tensor:
        """Whether the spread of every row is more than the rounding of the data, `(S,)`.

        Where it is not, some rows are fitted exactly, and nothing but rounding ends the fall.
        """
        if self.response_is_discrete:
            return torch.ones(self.stack.count, dtype=torch.bool)
        return torch.cat([part._bounded(z[place]) for place, part in self.pieces])

    @cached_property
    def response_is_discrete(self) -> bool:
        """Whether the observations are drawn from a countable set, with no density that could be infinite."""
        one = self.part(slice(0, 1))
        return bool(one.response(torch.zeros((1, self.size), dtype=torch.float64)).support.is_discrete)

    def _bounded(self, z: Tensor) -> Tensor:
        with pyro.validation_enabled(False):
            exact = exact_rows(self.response(z), self.stack.y)
        exact = exact.expand(self.stack.count, self.stack.rows)
        return ~(exact if self.stack.counted is None else exact & self.stack.counted).any(-1)

    def expansion(self, z: Tensor) -> Expansion:
        """Values and derivatives of all data sets at one point `z` `(K,)`, if they differ only in weights.

        A parameter enters a row through a predictor or as a constant, so that the derivatives of a row are
        those in its predictors and constants times entries of the designs. The weights sum them over rows.
        """
        row = _RowDerivatives.of(self.part(slice(0, 1)), z[None])
        weights = self.stack.weights
        assert weights is not None
        sums = _sums(row, weights, range(3))
        if row.orders > 2:  # single precision is enough for the step: its end is evaluated in double
            sums += _sums(row, weights, range(3, row.orders + 1), torch.float32)
        return Expansion.of(sums)


def _summed(stack: Stack, log_prob: Tensor) -> Tensor:
    """Minus the weighted sums over rows, `(S,)`."""
    weights = stack.weights
    return -(log_prob.sum(-1) if weights is None else torch.linalg.vecdot(weights, log_prob))


def _gradient(problems: Likelihoods, terms: Terms) -> Tensor:
    """The gradients `(S, K)`."""
    assert terms.constant_gradient is not None
    gradient = terms.constant_gradient.new_zeros((len(terms.constant_gradient), problems.size))
    gradient[:, problems.own] = terms.constant_gradient
    for predictor, slopes in zip(problems.predictors, terms.slopes, strict=True):
        gradient[:, predictor.places] += predictor.gather(slopes)
    return gradient


def _hessian(problems: Likelihoods, terms: Terms) -> Tensor:
    """The Hessians `(S, K, K)`."""
    assert terms.constant_hessian is not None
    hessian = terms.constant_hessian.new_zeros((len(terms.constant_hessian), problems.size, problems.size))
    hessian[:, problems.own[:, None], problems.own] = terms.constant_hessian
    for predictor, bends in zip(problems.predictors, terms.hessian, strict=True):
        for other, rows in zip(problems.predictors, bends, strict=False):
            part = predictor.cross(rows, other)
            hessian[:, predictor.places[:, None], other.places] += part
            if other is not predictor:
                hessian[:, other.places[:, None], predictor.places] += part.mT
    for place, across in zip(problems.own, terms.cross_hessian, strict=True):
        for predictor, rows in zip(problems.predictors, across, strict=True):
            part = predictor.gather(rows)
            hessian[:, place, predictor.places] += part
            hessian[:, predictor.places, place] += part
    return hessian


def weighted_sums(weights: Tensor, columns: Tensor) -> Tensor:
    """Sums `(S, number)` of columns `(N, number)` with weights `(S, N)`.

    The product of the transposes takes half the time where the columns are few.
    """
    return (columns.mT @ weights.mT).mT


def _sums(
    row: _RowDerivatives, weights: Tensor, orders: range, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Minus the weighted sums over rows of the derivatives of some orders, `(S, number)` each."""
    numbers = [comb(len(row.acts) + order - 1, order) for order in orders]
    step = max(1, PART // max(sum(numbers), len(weights)))
    found = weights.new_zeros((sum(numbers), len(weights)), dtype=dtype)
    for low in range(0, weights.shape[1], step):
        place = slice(low, low + step)
        columns = torch.cat([row.columns(order, place, dtype) for order in orders], -1)
        found.addmm_(columns.mT, weights[:, place].to(dtype).mT, alpha=-1)
    return [part.mT for part in found.split(numbers)]


def _tame(eta: Tensor) -> Tensor:
    """Whether the predictors are so small that no exponential of them overflows."""
    low, high = torch.aminmax(eta)
    return (low > -300) & (high < 300)


def _derivatives(values: Tensor, leaves: list[Tensor], orders: int) -> tuple[Tensor, ...]:
    """Values `(1, N)` and their derivatives up to an order, `(N, number)`, in the order of `choices`."""
    found: dict[tuple[int, ...], Tensor] = {(): values}
    of_order = [values.detach().reshape(-1, 1)]
    for order in range(1, orders + 1):
        found = {
            (*choice, first + j): part
            for choice, value in found.items()
            for first in [choice[-1] if choice else 0]
            for j, part in enumerate(gradients(value, leaves[first:], create_graph=order < orders))
        }
        of_order.append(torch.cat([part.detach() for part in found.values()]).T)
    return tuple(of_order)


@dataclass(frozen=True, eq=False)
class _RowDerivatives:
    """The log-density of N rows and its derivatives in the predictors and constants of a row.

    `of_order[k]` are the derivatives of order k, `(N, number)`, in the order of `choices`. Parameter k enters
    a row through predictor or constant `acts[k]`, times `design[:, k]`.
    """

    of_order: tuple[Tensor, ...]
    numbers: int
    design: Tensor
    acts: Tensor

    @property
    def orders(self) -> int:
        return len(self.of_order) - 1

    @staticmethod
    @torch.enable_grad()
    def of(one: Likelihoods, z: Tensor) -> _RowDerivatives:
        rows = one.stack.rows
        design, acts = z.new_ones((rows, one.size)), torch.zeros(one.size, dtype=torch.long)
        etas = {name: eta.detach().requires_grad_() for name, eta in one.etas(z).items()}
        for number, predictor in enumerate(one.predictors):
            design[:, predictor.places] = predictor.unit * predictor.design.values
            acts[predictor.places] = number
        leaves, params = list(etas.values()), {}
        for site, places in one.constants:
            own = [z[:, place, None].expand(1, rows).detach().clone().requires_grad_() for place in places]
            acts[places] = len(leaves) + torch.arange(len(own))
            leaves += own
            params[site.name] = site.transform(torch.stack(own, -1).reshape(1, rows, *site.unconstrained))
        orders = max(k for k in range(2, ORDERS + 1) if k == 2 or comb(one.size + k - 1, k) <= WIDTH)
        of_order = _derivatives(one.log_prob(etas, params), leaves, orders)
        return _RowDerivatives(of_order, len(leaves), design, acts)

    def columns(self, order: int, rows: slice, dtype: torch.dtype) -> Tensor:
        """Derivatives of some rows in the parameters, `(rows, number)`, in the order of `choices`."""
        if order == 0:
            return self.of_order[0][rows].to(dtype)
        chosen = choices(self.design.shape[1], order)
        design = self.design[rows].to(dtype)
        columns = self.of_order[order][rows].to(dtype)[:, rank(self.acts[chosen], self.numbers)]
        for index in chosen:
            columns *= design[:, index]
        return columns
