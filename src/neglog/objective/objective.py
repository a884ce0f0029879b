"""The objective: a model and its data as a function of one unconstrained vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from neglog.data import Data, check_density, check_response
from neglog.errors import ModelError
from neglog.handlers import Model, weighted
from neglog.likelihood.backends import Backends
from neglog.likelihood.eager import Probe, probe
from neglog.likelihood.first import first_run
from neglog.likelihood.graph import COMPARED_ROWS
from neglog.likelihood.rows import Rows, gradients
from neglog.likelihood.sites import Layout, lay_out
from neglog.likelihood.structure import Facts, ModelStructure, facts_of
from neglog.modes import InMode
from neglog.objective.basis import sample_of
from neglog.objective.units import ORDINARY, initial_in_units, places_of_units
from neglog.observation import without_bounds
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, as_fitted, initial_value, model_name, run

BLOCK_ROWS = 131_072
"""Number of rows of a block: its numbers fit in the cache, and the model is run few times."""
MAX_KEPT_BYTES = 2**26
"""The largest number of bytes of cached subexpressions that depend on the data alone."""
SAMPLE_ROWS = 10_000
"""Number of rows of the sample from which a solver starts."""


class Objective:
    """The SVI loss of a model on data, as a function of one unconstrained vector `theta` `(K,)`.

    Equal to `pyro.infer.Trace_ELBO` under a Delta guide at `theta`, constants included: minus the
    log-likelihood, minus the log-density of every site that `flat` has not masked, in *constrained* space,
    without a Jacobian. Sites are in `theta` in the order in which the model samples them.

    Raises:
        ModelError: the model has no observation site ``y``, or no latent site, or does not use a design.
        DataError: `y` has a shape or values that the model does not draw.
    """

    def __init__(self, model: Model, data: Data, start: Mapping[str, Any] | None = None) -> None:
        model, data = as_fitted(model, data)
        first = first_run(model, data, start, near=data.rows <= SAMPLE_ROWS)
        networks = first.ran.networks
        self.networks = tuple(networks)
        loose = {name: at.constants for name, at in networks.items() if at.mode.constants is None}
        self.model, self.data = InMode(False, loose)(model) if loose else model, data
        self.name, self.whole, self.as_read = model_name(model), True, Rows.of(data, MAX_KEPT_BYTES)
        response = first.ran.sites[RESPONSE]["fn"]
        check_response(data, response.support, tuple(response.batch_shape + response.event_shape), self.name)
        self.layout = Layout(lay_out(first.ran, first.initial), data.y.dtype)
        self.sites, self.size = self.layout.sites, self.layout.size
        self.structure = ModelStructure(self.model, first, self.sites, self._probe)
        self.calls = self.structure.calls
        if not self.sites:
            raise ModelError(f"`{self.name}` has no latent site, so there is nothing to estimate.")
        self.initial = own = self.layout.initial
        self.initial = self._in_units(own, start or ())
        if self.initial is own and first.probe is not None:
            self.structure.probe = first.probe  # of rows with a density
        elif len(self.parts) == 1:  # for very many rows a solver detects it
            at = first.ran if self.initial is own else self.at(self.initial)
            check_density(data, at.log_prob(RESPONSE), self.name)

    def _in_units(self, own: Tensor, given: Collection[str]) -> Tensor:
        """The initial values `(K,)`, in the unit of the response if that is far from order one."""
        # Between bounds a density is not log-concave: far from its unit, Newton's method goes to a boundary.
        is_bounded = self.structure.law.is_bounded
        if abs(self.data.log_size) <= (0.0 if is_bounded else ORDINARY):
            return own
        places, free = places_of_units(self.structure, given), unbounded(self, own) if is_bounded else self
        return initial_in_units(own, self.data, places, partial(sample_loss, free))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.data.rows

    @property
    def weighted(self) -> Model:
        """The model with the weights of its rows."""
        weights = self.data.weights
        return self.model if weights is None else weighted(self.model, weights)

    def changed(self, handler: Callable[[Model], Model]) -> Objective:
        """The same objective with a handler around its model that keeps the sites as they are."""
        other = self._without("few", "scant", "backends", "facts")
        other.model, other.as_read = handler(self.model), Rows.of(self.data, MAX_KEPT_BYTES)
        other.structure = self.structure.of_model(other._probe)
        return other

    def take(self, index: Tensor | slice, room: int | None = None) -> Objective:
        """The objective of the rows `index`, if it is `separable`.

        The structure of the model is shared; `room` is the number of bytes for cached terms of the rows.
        """
        return of_rows(self, self.data.take(index), room)

    def _without(self, *names: str) -> Objective:
        """A copy without some of what has been computed, and without what depends on all rows."""
        other = copy(self)
        for name in ("separable", "parts", "sample", *names):
            other.__dict__.pop(name, None)
        return other

    def _probe(self) -> Probe:
        """A run of the model as a function of its predictors, on no more rows than a graph is compared on."""
        some = self.take(slice(0, COMPARED_ROWS)) if self.rows > SAMPLE_ROWS and self.separable else self
        return probe(self.model, some.data, self.calls, self.sites.values(), self.initial)

    @cached_property
    def backends(self) -> Backends:
        """The likelihood of the rows by each backend."""
        in_blocks = self.rows > BLOCK_ROWS
        return Backends(self.model, self.structure, self.layout, self.initial, self.as_read, in_blocks)

    @cached_property
    def facts(self) -> Facts:
        """The kind of the model; see `neglog.likelihood.structure`."""
        return facts_of(self.model, self.structure, self.layout.is_flat, self.data.y.dim())

    @cached_property
    def separable(self) -> bool:
        """Whether the loss is a sum over rows, each of which needs no more than its own data.

        It is not if the model refers to values of all rows by itself, such as an exposure in a closure.
        """
        index = torch.arange(min(self.rows, 8))
        half = len(index) // 2
        theta = self.initial.clone()
        for call in self.calls:
            site = self.sites.get(f"{call.name}.weight")
            if site is not None and site.size:
                theta[site.place] += 0.1 / (site.size * (1 + float(call.design[index].detach().abs().max())))
        try:
            with torch.no_grad():
                whole, *halves = (self.take(i).terms(theta) for i in (index, index[:half], index[half:]))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
        nll, priors = halves[0][0] + halves[1][0], [float(part[1]) for part in (whole, *halves)]
        return bool(torch.isclose(whole[0], nll, rtol=1e-10)) and len(set(priors)) == 1

    @cached_property
    def parts(self) -> tuple[tuple[slice, Objective], ...]:
        """The objective as a sum over blocks of rows: which rows, and the objective of them."""
        if self.rows <= BLOCK_ROWS or not self.separable:
            return ((slice(None), self),)
        ends = [*range(0, self.rows - BLOCK_ROWS // 2, BLOCK_ROWS), self.rows]
        room = MAX_KEPT_BYTES // (len(ends) - 1)
        return tuple((slice(*rows), self.take(slice(*rows), room)) for rows in pairwise(ends))

    @cached_property
    def sample(self) -> Objective:
        """The objective of a sample of a few thousand rows, for the initial point; itself if rows are few."""
        return (
            self.take(sample_of(self.rows, SAMPLE_ROWS))
            if self.rows > SAMPLE_ROWS and self.separable
            else self
        )

    @cached_property
    def few(self) -> Objective:
        """The objective of very few rows, for properties that do not depend on them; itself if small."""
        return self.take(slice(0, 8)) if self.rows > SAMPLE_ROWS and self.separable else self

    def affines(self, theta: Tensor) -> Sequence[Affine]:
        """The linear predictors at `theta`, without running the model if it is linear in its coefficients."""
        if not (self.whole and self.structure.is_linear):
            return self.at(theta).affines
        params = self.layout.params(theta)
        return [
            replace(
                call,
                weight=params.get(f"{call.name}.weight", call.weight),
                bias=params.get(f"{call.name}.bias", call.bias),
            )
            for call in self.calls
        ]

    @cached_property
    def scant(self) -> Objective:
        """The objective of at most 8 rows, to evaluate the priors; itself if it is not separable."""
        return self.take(slice(0, 8)) if self.rows > 8 and self.separable else self

    def at(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Run:
        """Run the weighted model on all rows at `theta`, with the values `etas` of predictors."""
        return run(self.weighted, self.data, Run(self.layout.params(theta), etas=etas))

    def terms(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | float]:
        """Minus the log-likelihood of the rows, and minus the log prior."""
        at = self.at(theta, etas)
        return -at.log_prob(RESPONSE).sum(), -at.prior()

    def loss(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss as a differentiable scalar."""
        nll, prior = self.terms(theta, etas)
        return nll + prior

    def trial(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | float]:
        """`terms`, infinite where torch refuses a parameter, such as a scale that overflowed."""
        try:
            return self.terms(theta, etas)
        except ValueError as error:
            if "to satisfy the constraint" not in str(error):
                raise
            return torch.tensor(torch.inf, dtype=theta.dtype), 0.0

    def value(self, theta: Tensor) -> float:
        """The loss in nats."""
        with torch.no_grad():
            return float(self.loss(theta))

    @torch.enable_grad()
    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient `(K,)` of the loss."""
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(leaf), leaf)[0]

    @torch.enable_grad()
    def hessian(self, theta: Tensor) -> Tensor:
        """The Hessian `(K, K)` of the loss, by differentiating the gradient K times."""
        leaf = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(leaf), leaf, create_graph=True)
        return rows_of_second_derivatives(gradient, leaf)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood of each row `(N,)`, without weights."""
        params = self.layout.params(theta)
        runs = (run(part.model, part.data, Run(params)) for _, part in self.parts)
        return torch.cat([at.log_prob(RESPONSE) for at in runs])

    def response(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Any:
        """The distribution of the observations at `theta`, with the values `etas` of predictors."""
        with torch.no_grad():
            if self.backends.formula is not None and (etas is not None or self.whole):
                known = etas or {call.name: call.value for call in self.affines(theta)}
                return self.backends.formula.response(theta, known)
            return self.at(theta, etas).sites[RESPONSE]["fn"]


def of_rows(objective: Objective, data: Data, room: int | None = None) -> Objective:
    """The objective of the same model and parameters for other rows; see `Objective.take`."""
    other = objective._without()
    other.data, other.whole = data, False
    other.as_read = Rows.of(data, MAX_KEPT_BYTES if room is None else room)
    if objective.__dict__.get("separable", False):
        other.separable = True  # as sums over fewer rows are
    if not objective.structure.is_probed:
        other.structure = objective.structure.of_model(other._probe)
    if "backends" in objective.__dict__:
        other.backends = objective.backends.of_rows(other.structure, other.as_read, other.rows > BLOCK_ROWS)
    return other


def rows_of_second_derivatives(gradient: Tensor, leaf: Tensor) -> Tensor:
    """The symmetric Hessian from a gradient `(P,)`, by one backward pass for each entry."""
    rows = [gradients(component, [leaf])[0] for component in gradient]
    hessian = torch.stack(rows) if rows else leaf.new_zeros((0, 0))
    return 0.5 * (hessian + hessian.T)


@torch.no_grad()
def sample_loss(objective: Objective, theta: Tensor, priors: bool = True) -> float:
    """The loss of a sample of the rows, with or without the priors; infinite if it is not a number."""
    nll, prior = objective.sample.trial(theta)
    value = float(nll + prior if priors else nll)
    return value if math.isfinite(value) else math.inf


@torch.no_grad()
def check_densities(objective: Objective) -> None:
    """Refuse rows whose density at the initial parameters is not positive and finite.

    Raises:
        DataError: see `neglog.data.check_density`.
    """
    start = objective.layout.params(objective.initial)
    runs = (run(part.model, part.data, Run(start, fill=initial_value)) for _, part in objective.parts)
    check_density(objective.data, torch.cat([at.log_prob(RESPONSE) for at in runs]), objective.name)


def unbounded(objective: Objective, theta: Tensor) -> Objective:
    """An objective without the bounds of its response, whose support is known at `theta` `(K,)`.

    It is the same one if some `y` is outside that support, such as a count at a bound between two counts.
    """
    free, y = objective.changed(without_bounds), objective.data.y
    inside = free.response(theta).support.check(y) | y.isnan()
    return free if bool(inside.all()) else objective
