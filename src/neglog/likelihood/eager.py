"""Models as functions of their linear predictors, run under autograd."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.data import Data
from neglog.handlers import Model, Weighted
from neglog.likelihood.hierarchy import Parents, prior_parents
from neglog.likelihood.rows import CURVATURES, VALUE, Output, Rows, Terms, derivatives, impossible, named
from neglog.likelihood.sites import Site, places_of
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, run

PROBE_OFFSET = 2.0**-6
"""Offset of the probe point from the initial constants, so that no derivative is accidentally zero."""
PROBE_WAVE = 0.1
"""Offset of the predictors from their biases at the probe point."""


@dataclass(frozen=True, eq=False)
class EagerRows:
    """`RowLikelihood` by running the model as a function of its linear predictors and constants."""

    model: Model
    data: Data
    calls: tuple[Affine, ...]
    sites: tuple[Site, ...]
    """The sites of the constants, which enter the likelihood directly, not through predictors."""
    others_fixed: Mapping[str, Tensor]
    """Arbitrary values of all other sites."""

    @cached_property
    def predictors(self) -> tuple[Output, ...]:
        """The outputs of the predictors, in the order of their calls."""
        return outputs_of(self.calls)

    def inputs(self, rows: int) -> list[Tensor]:
        """Constants, predictors and data with a given number of rows, at which no derivative is zero."""
        data = self.data.take(torch.arange(rows) % self.data.rows)
        starts = [site.transform.inv(self.others_fixed[site.name]).reshape(-1) for site in self.sites]
        numbers = torch.cat([data.y.new_zeros(0), *starts]) + PROBE_OFFSET
        return [numbers, *probe_predictors(self.calls, data), *data.parts().values()]

    @cached_property
    def places(self) -> Tensor:
        """The places `(C,)` in theta of the sites."""
        return places_of(self.sites)

    def evaluate(self, order: int, constants: Tensor, predictors: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms up to an order by running the model at constants `(C,)` and predictors, `(N,)` each."""
        n_predictors, n_constants = len(self.predictors), len(self.places)
        try:
            found = self._derivatives(order, constants, predictors, rows.data)
        except ValueError as error:  # torch refuses a parameter, such as a scale that overflowed
            if "to satisfy the constraint" not in str(error):
                raise
            return impossible(order, rows, n_predictors, n_constants)
        if order > VALUE and not found[0].requires_grad:
            return impossible(order, rows, n_predictors, n_constants, found[0])
        return named(order, [each.detach() for each in found], n_predictors, n_constants)

    def derivatives(self, constants: Tensor, *others: Tensor) -> list[Tensor]:
        """All terms, in the order of `neglog.likelihood.rows.listed`, of any predictors and data."""
        etas, parts = others[: len(self.predictors)], others[len(self.predictors) :]
        data = self.data.made_of(dict(zip(self.data.parts(), parts, strict=True)))
        with pyro.validation_enabled(False):
            found = self._derivatives(CURVATURES, constants, etas, data)
        if not found[0].requires_grad:
            raise RuntimeError("its density depends on no parameter")
        return [each.detach() for each in found]

    @torch.enable_grad()
    def _derivatives(self, order: int, constants: Tensor, etas: Sequence[Tensor], data: Data) -> list[Tensor]:
        """Derivatives up to an order by autograd."""
        leaves = [leaf.detach().requires_grad_(order > VALUE) for leaf in (constants, *etas)]
        loss = self._loss(leaves[0], leaves[1:], data)
        return [loss, *derivatives(order, loss, leaves[0], leaves[1:])[1:]]

    def _loss(self, numbers: Tensor, etas: Sequence[Tensor], data: Data) -> Tensor:
        values, at = dict(self.others_fixed), 0
        for site in self.sites:
            values[site.name] = site.transform(numbers[at : at + site.size].reshape(site.unconstrained))
            at += site.size
        return -_run(self.model, data, values, joined_outputs(self.predictors, etas)).log_prob(RESPONSE).sum()


@dataclass(frozen=True, eq=False)
class Probe:
    """The values and derivatives of a model at a probe point at which no derivative is accidentally zero."""

    data: Data
    numbers: Mapping[str, Tensor]
    """Site -> its unconstrained values."""
    etas: Sequence[Tensor]
    ran: Run = field(repr=False)
    is_plain: bool = False
    """Whether it is known that no prior depends on another parameter."""

    @cached_property
    def densities(self) -> Tensor:
        """The log-density of each row, with its weight."""
        with pyro.validation_enabled(False), torch.enable_grad():
            return self.ran.log_prob(RESPONSE)

    @cached_property
    def _loss(self) -> Tensor:
        with torch.enable_grad():
            return -self.densities.sum()

    @cached_property
    def prior_parents(self) -> Parents:
        """Latent site -> the latent sites on which its prior depends, see `prior_parents`."""
        return {} if self.is_plain else prior_parents(self.ran, self.numbers)

    @cached_property
    def _slopes(self) -> Sequence[Tensor | None]:
        self.prior_parents  # noqa: B018  (the gradients below free the graph)
        leaves = [*self.numbers.values(), *self.etas]
        if not self._loss.requires_grad:
            return [None] * len(leaves)
        return torch.autograd.grad(self._loss, leaves, allow_unused=True)

    def is_longer(self, count: int) -> bool:
        """Whether the autograd graph of the loss has more than `count` operations."""
        stack, seen = [self._loss.grad_fn], set[Any]()
        while stack and len(seen) <= count:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [before for before, _ in node.next_functions]
        return len(seen) > count

    @property
    def depends_on_predictors(self) -> bool:
        """Whether the likelihood changes with any predictor."""
        return any(slope is not None for slope in self._slopes[len(self.numbers) :])

    @property
    def constant_sites(self) -> list[str]:
        """The sites of the constants: those that enter the likelihood directly."""
        return [name for name, slope in zip(self.numbers, self._slopes, strict=False) if slope is not None]

    @property
    def first(self) -> list[Tensor]:
        """The loss, and its derivatives with respect to the constants and to each predictor."""
        own, slopes = self._slopes[: len(self.numbers)], self._slopes[len(self.numbers) :]
        each = [slope.reshape(-1) for slope in own if slope is not None]
        across = [torch.zeros_like(e) if s is None else s for e, s in zip(self.etas, slopes, strict=True)]
        return [self._loss.detach(), torch.cat([self._loss.new_zeros(0), *each]), *across]

    @property
    def constants(self) -> Tensor:
        """The constants `(C,)` of the `constant_sites`."""
        return torch.cat(
            [
                self._loss.new_zeros(0),
                *(self.numbers[name].detach().reshape(-1) for name in self.constant_sites),
            ]
        )


def probe(model: Model, data: Data, calls: Sequence[Affine], sites: Collection[Site], start: Tensor) -> Probe:
    """The values of a model near `start` `(K,)`, or at it if need be, under the weights of the data."""
    try:
        return _probe(model, data, calls, sites, start + PROBE_OFFSET, PROBE_WAVE)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return _probe(model, data, calls, sites, start, 0.0)


@torch.enable_grad()
def _probe(
    model: Model, data: Data, calls: Sequence[Affine], sites: Collection[Site], at: Tensor, wave: float
) -> Probe:
    numbers = {site.name: at[site.place].reshape(site.unconstrained).requires_grad_() for site in sites}
    etas = [eta.requires_grad_() for eta in probe_predictors(calls, data, wave)]
    with pyro.validation_enabled(False):
        values = {site.name: site.transform(numbers[site.name]) for site in sites}
        return Probe(data, numbers, etas, _run(model, data, values, joined_outputs(outputs_of(calls), etas)))


def outputs_of(calls: Sequence[Affine]) -> tuple[Output, ...]:
    """The outputs of all linear predictors, as (name, output)."""
    return tuple((call.name, output) for call in calls for output in call.numbers)


def probe_predictors(calls: Sequence[Affine], data: Data, wave: float = PROBE_WAVE) -> list[Tensor]:
    """Predictors `(N,)` around their biases, different in all rows."""
    away = wave * torch.sin(torch.arange(data.rows, dtype=data.y.dtype))
    levels = [call.constant(data.rows).reshape(data.rows, -1) for call in calls]
    return [eta + away for level in levels for eta in level.detach().unbind(1)]


def _run(model: Model, data: Data, values: Mapping[str, Tensor], etas: Mapping[str, Tensor]) -> Run:
    """The run of a model under the weights of the data."""
    model = model if data.weights is None else Weighted(data.weights)(model)
    return run(model, replace(data, weights=None), Run(values, etas=etas))


def joined_outputs(outputs: Sequence[Output], etas: Sequence[Tensor]) -> dict[str, Tensor]:
    """Predictor -> its values, `(N,)`, or `(N, D)` where it has many outputs."""
    found: dict[str, list[Tensor]] = {}
    for (name, _), eta in zip(outputs, etas, strict=True):
        found.setdefault(name, []).append(eta)
    single = {name for name, output in outputs if output is None}
    return {name: parts[0] if name in single else torch.stack(parts, dim=-1) for name, parts in found.items()}
