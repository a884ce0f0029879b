"""Shrinkage: minus the log prior of a vector and its derivatives, for repeated evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import pyro
import torch
from torch import Tensor

from neglog.graphs.staged import BOTH, staged
from neglog.likelihood.hierarchy import slopes
from neglog.likelihood.replay import replayed
from neglog.likelihood.rows import agree, gradients
from neglog.objective.exponentials import exponential_priors
from neglog.objective.normals import normal_priors
from neglog.objective.objective import Objective, rows_of_second_derivatives
from neglog.tracing import Run, run

UNTRACED = 12
"""Number of evaluations by running the model before it is traced."""
DENSE = 200
"""Above this many parameters whose priors have no formula the Hessian is not traced."""


@dataclass(frozen=True)
class Prior:
    """Minus the log prior, its gradient `(K,)`, and its Hessian `(I, I)` in some coordinates.

    `sums` `(K,)` are those of the rows of the whole Hessian: its diagonal, where priors are independent.
    """

    value: float
    slope: Tensor
    bend: Tensor
    sums: Tensor


class Shrinkage:
    """Minus the log prior of an objective; its Hessian is computed at the positions `places` `(I,)`.

    Normal and Exponential priors and those of constant density are evaluated by formulas, all others by
    running the model, the first `untraced` times, and then by a graph (`neglog.graphs.graph`) if it can be
    traced.
    """

    def __init__(self, objective: Objective, places: Tensor, untraced: int = 0) -> None:
        self.objective, self.places, self.untraced = objective, places, untraced
        self.normals, self.exponentials = normal_priors(objective), exponential_priors(objective)
        self.known = self.normals.sites | self.exponentials.sites
        self.bend = torch.diag(self.normals.precision[places])
        others = [n for n, s in objective.sites.items() if not s.masked and n not in self.known]
        self.rest = bool(others)
        self.constant = 0.0  # that of sites which the user conditioned
        if not others:
            whole = prior_terms(objective, objective.initial, curved=False)[0]
            self.constant = whole - self(objective.initial).value

    def __call__(self, theta: Tensor, curved: bool = True) -> Prior:
        """The prior at `theta` `(K,)`; its second derivatives may be missing unless `curved`."""
        normals, bend = self.normals, self.bend
        sums = normals.precision * theta
        value = float((0.5 * sums - normals.slope) @ theta) + normals.constant + self.constant
        slope, whole = sums - normals.slope, normals.precision
        if self.exponentials.sites:
            terms = self.exponentials.terms(theta)
            value += float(terms.sum()) + self.exponentials.constant
            slope, whole, bend = slope + terms, whole + terms, bend + torch.diag(terms[self.places])
        if not self.rest:
            return Prior(value, slope, bend, whole)
        more, slopes, bends, rest = self._evaluate(theta, curved)
        bend = bend.index_put((self._curved[:, None], self._curved), bends, accumulate=True)
        return Prior(value + float(more), slope + slopes, bend, whole + rest)

    def _evaluate(self, theta: Tensor, curved: bool) -> tuple[Tensor, ...]:
        if self.untraced > 0 or self._graph is None:
            self.untraced -= 1
            return self._others(theta, curved)
        return self._graph(theta, curved)

    @cached_property
    def _graph(self) -> Callable[[Tensor, bool], tuple[Tensor, ...]] | None:
        """The others as a graph, if they can be traced: in NumPy, which is faster for few numbers."""
        if len(self._curved) > DENSE:
            return None
        start, size = self.objective.initial, len(self._curved)
        found = replayed(self._others, start, [], None, False)
        if found.graph is None:
            return None
        graph, constants = found.graph.clean, found.graph.constants
        none, flat = torch.zeros_like(start), start.new_zeros(size, size)

        def evaluate(theta: Tensor, curved: bool) -> tuple[Tensor, ...]:
            terms = (whole if curved else first).outputs([theta], [], [])
            return tuple(terms) if curved else (*terms, flat, none)

        try:
            whole, first = (staged(graph, constants, (BOTH,), range(n), arrays=True) for n in (4, 2))
            if all(map(agree, evaluate(start, True), found.evaluate(start))):
                return evaluate
        except (RuntimeError, TypeError, IndexError, ValueError, KeyError, NotImplementedError):
            pass  # an operation that NumPy does not have; torch replays the graph as well
        return lambda theta, curved: found.evaluate(theta)

    @cached_property
    @torch.enable_grad()
    def _curved(self) -> Tensor:
        """The positions among `places` at which priors without a formula may have second derivatives.

        These are all of them if such a prior depends on a site whose prior has one.
        """
        objective, names = self.objective.few, self.known
        leaves = {n: objective.initial[s.place].clone().requires_grad_() for n, s in objective.sites.items()}
        values = {n: s.transform(leaves[n].reshape(s.unconstrained)) for n, s in objective.sites.items()}
        rest = torch.as_tensor(run(objective.weighted, objective.data, Run(values)).prior(names))
        if slopes(rest, {name: leaves[name] for name in names}):
            return torch.arange(len(self.places))
        own = torch.zeros(objective.size, dtype=torch.bool)
        for name, site in objective.sites.items():
            own[site.place] = name not in names
        return own[self.places].nonzero()[:, 0]

    def _others(self, theta: Tensor, curved: bool = True) -> tuple[Tensor, ...]:
        """The value and the derivatives of all priors without a formula, by running the model."""
        places = self.places[self._curved]
        size = len(places)
        with pyro.validation_enabled(False), torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            value = torch.as_tensor(prior_of(self.objective.few, leaf, self.known))
            none = torch.zeros_like(theta)
            if not value.requires_grad:
                return value, none, theta.new_zeros(size, size), none
            (slope,) = torch.autograd.grad(value, leaf, create_graph=curved)
            if not curved:
                return value.detach(), slope, theta.new_zeros(size, size), none
            sums = gradients(slope, [leaf])[0].detach()
            rows = [gradients(slope[place], [leaf])[0][places].detach() for place in places.tolist()]
        bend = torch.stack(rows) if rows else theta.new_zeros(0, 0)
        return value.detach(), slope.detach(), bend, sums


def prior_of(objective: Objective, theta: Tensor, without: Collection[str] = ()) -> Tensor | float:
    """Minus the log prior but of the sites named; 0 where torch refuses a parameter, as in the rows."""
    try:
        return -objective.at(theta).prior(without)
    except ValueError as error:
        if "to satisfy the constraint" not in str(error):
            raise
        return 0.0


@torch.enable_grad()
def prior_terms(objective: Objective, theta: Tensor, curved: bool = True) -> tuple[float, Tensor, Tensor]:
    """Minus the log prior, its gradient `(K,)` and its Hessian `(K, K)`; 0 where there is no density.

    The Hessian costs K backward passes; it is 0 unless `curved`.
    """
    none = torch.zeros_like(theta)
    if objective.layout.is_flat:
        return 0.0, none, torch.outer(none, none)
    leaf = theta.detach().requires_grad_()
    prior = prior_of(objective.scant, leaf)
    if not isinstance(prior, Tensor) or not prior.requires_grad:
        return float(prior), none, torch.outer(none, none)
    (slope,) = torch.autograd.grad(prior, leaf, create_graph=curved)
    bends = rows_of_second_derivatives(slope, leaf) if curved else torch.outer(none, none)
    return float(prior.detach()), slope.detach(), bends
