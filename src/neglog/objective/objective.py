"""The one waist: a model and its data as a function of one unconstrained vector."""

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

from neglog.data import ALL, Data, check_density, check_response, observed
from neglog.distributions.family import family_of
from neglog.errors import ModelError
from neglog.handlers import Model, weighted
from neglog.kinks import corner, smoothed
from neglog.layers import layers
from neglog.likelihood.cuts import Cut, Look, look
from neglog.likelihood.formulas import FormulaRows, formula_of
from neglog.likelihood.graph import COMPARED_ROWS, GraphRows, graph_of, is_kept
from neglog.likelihood.rows import RowLikelihood, Rows
from neglog.likelihood.sites import Site, lay_out
from neglog.likelihood.structure import ModelStructure, structure_of
from neglog.modes import InMode
from neglog.objective.basis import sample_of
from neglog.objective.spread import check_spread, is_held, log_spread_of, may_be_exact, narrow_rows
from neglog.objective.units import initial_in_units
from neglog.predictors import RESPONSE, design_keys
from neglog.tracing import (
    Affine,
    Run,
    current_data,
    initial_value,
    model_name,
    prototype,
    run,
    takes_missing,
    with_sizes,
    without_biases,
)

BLOCK_ROWS = 131_072
"""Rows that are evaluated at a time: their numbers fit in the cache, and the model is seldom run."""
MAX_KEPT_BYTES = 2**26
"""Bytes of the terms of the rows that depend on the data alone, and are kept."""
FAR_ROUNDINGS = 1e6
"""A spread above this, in units of the rounding of `y`, is far from it."""
OF_ROWS = ("separable", "parts", "sample", "as_read")
OF_MODEL = ("graph", "formula", "eager", "beside", "few", "cut", "seen", "structure", "_scant")
"""What is known of an objective as long as it has the same rows, and as long as it has the same model."""
MAX_SHORT_LOSS = 40
"""Above this many operations the trace of a loss costs more than some evaluations without it."""
TRIALS, MAX_TRIAL_ROWS = 40, 1000
"""Evaluations of a long loss before it is traced, where its rows are no more than the second number."""
SAMPLE_ROWS = 10_000
"""Rows of the sample from which a solver starts."""


class Objective:
    """The SVI loss of a model on data, as a function of one unconstrained vector `theta` `(K,)`.

    Equal to `pyro.infer.Trace_ELBO` under a Delta guide at `theta`, constants included: minus the
    log-likelihood, minus the log-density of every site that `flat` has not masked, in *constrained* space,
    without a Jacobian. Sites stand in `theta` in the order in which the model samples them.

    Raises:
        ModelError: the model has no observation site ``y``, or no latent site, or ignores a design it got.
        DataError: `y` has a shape or values that the model does not draw.
    """

    def __init__(self, model: Model, data: Data, start: Mapping[str, Any] | None = None) -> None:
        data = observed(current_data(model, data), takes_missing(model))
        model = without_biases(with_sizes(model, data.y), data)
        first = prototype(model, data, start)
        self.networks = tuple(first.networks)
        loose = {name: at.constants for name, at in first.networks.items() if at.mode.constants is None}
        self.model, self.data = InMode(False, loose)(model) if loose else model, data
        self.name = model_name(model)
        response = first.sites[RESPONSE]["fn"]
        check_response(data, response.support, tuple(response.batch_shape + response.event_shape), self.name)
        self.sites: dict[str, Site] = lay_out(first)
        self.calls, self.whole, self.requests = tuple(first.affines), True, 0
        self.exacting = may_be_exact(response)
        self.corner, self.law = corner(response), family_of(response)
        self.size = sum(site.size for site in self.sites.values())
        if not self.sites:
            raise ModelError(f"`{self.name}` has no latent site, so there is nothing to estimate.")
        initial = {name: first.sites[name]["value"] for name in self.sites}
        self.initial = own = self.theta(initial)
        self.initial = initial_in_units(own, data.y, self.constants(start or ()), self.tried)
        if len(self.parts) == 1:  # of very many rows a solver will tell
            at = first if self.initial is own else self.at(self.initial)
            check_density(data, at.log_prob(RESPONSE), self.name)

    def constants(self, given: Collection[str]) -> list[slice]:
        """The places of the sites that are no weights and have no initial values of their own or `given`."""
        without = {f"{call.name}.weight" for call in self.calls} | set(given)
        sites = (site for name, site in self.sites.items() if name not in without)
        return [site.place for site in sites if not (site.started or site.begun)]

    @torch.no_grad()
    def tried(self, theta: Tensor, priors: bool = True) -> float:
        """The loss of a sample of the rows, with or without the priors; infinite if it is not a number."""
        nll, prior = self.sample.trial(theta)
        value = float(nll + prior if priors else nll)
        return value if math.isfinite(value) else math.inf

    @torch.no_grad()
    def check_densities(self) -> None:
        """Hold the density of each row where parameters start to be positive and finite.

        Raises:
            DataError: see `neglog.data.check_density`.
        """
        start = self.params(self.initial)
        runs = (run(part.model, part.data, Run(start, fill=initial_value)) for _, part in self.parts)
        check_density(self.data, torch.cat([at.log_prob(RESPONSE) for at in runs]), self.name)

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
        return self._with(model=handler(self.model))

    def take(self, index: Tensor | slice) -> Objective:
        """The same objective summed over the rows that `index` names, where it is `separable`."""
        return self._with(data=self.data.take(index))

    def _with(self, **changes: Any) -> Objective:
        other = copy(self)
        for name in OF_ROWS + (OF_MODEL if "model" in changes else ()):
            other.__dict__.pop(name, None)
        other.__dict__.update(changes)
        other.requests = 0
        other.whole = self.whole and "data" not in changes
        return other

    @cached_property
    def separable(self) -> bool:
        """Whether the loss is a sum over rows, each of which needs no more than its own data.

        It is not where a model binds something of its own to all rows; then they cannot be taken apart.
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
        found = tuple((slice(*rows), self.take(slice(*rows))) for rows in pairwise(ends))
        for _, part in found:
            part.__dict__["as_read"] = Rows.of(part.data, MAX_KEPT_BYTES // len(found))
        return found

    @cached_property
    def sample(self) -> Objective:
        """The objective of a few thousand rows, which says where to start; itself where they are no more."""
        return (
            self.take(sample_of(self.rows, SAMPLE_ROWS))
            if self.rows > SAMPLE_ROWS and self.separable
            else self
        )

    @cached_property
    def few(self) -> Objective:
        """The objective of next to no rows, to read off what they do not change; itself if it is small."""
        return self.take(slice(0, 8)) if self.rows > SAMPLE_ROWS and self.separable else self

    @cached_property
    def seen(self) -> Look:
        """What the model says of itself when it is cut at its predictors."""
        some = self.take(slice(0, COMPARED_ROWS)) if self.rows > SAMPLE_ROWS and self.separable else self
        return look(self.model, some.data, self.calls, self.sites.values(), self.initial)

    @cached_property
    def structure(self) -> ModelStructure:
        """What the model is made of."""
        return structure_of(self.seen)

    @cached_property
    def cut(self) -> bool:
        """Whether the model is a function of linear predictors: fixed designs times free coefficients."""
        names = [call.name for call in self.calls]
        return bool(names) and len(set(names)) == len(names) and all(map(self._is_plain, self.seen.affines))

    def _is_plain(self, call: Affine) -> bool:
        """Whether a predictor is a fixed design times coefficients that are sites, or constants."""
        some = call.outputs is None or len(call.outputs) > 0
        return self.has_own(call) and some and not call.design.requires_grad

    def has_own(self, call: Affine) -> bool:
        """Whether the coefficients of a predictor are sites of its own, or constants, of plain shape."""
        parts = {f"{call.name}.bias": call.bias, f"{call.name}.weight": call.weight}
        own = all(
            self.sites[name].is_real if name in self.sites else not value.requires_grad
            for name, value in parts.items()
        )
        dimensions = 1 if call.outputs is None else 2
        return own and call.design.dim() == 2 and call.weight.dim() == dimensions

    @cached_property
    def beside(self) -> tuple[Site, ...]:
        """The sites that enter the likelihood of the rows by themselves, beside the predictors."""
        return tuple(self.sites[name] for name in self.seen.beside)

    def affines(self, theta: Tensor) -> Sequence[Affine]:
        """The linear predictors at `theta`: where the model is `cut`, without running it."""
        if not (self.whole and self.cut):
            return self.at(theta).affines
        params = self.params(theta)
        return [
            replace(
                call,
                weight=params.get(f"{call.name}.weight", call.weight),
                bias=params.get(f"{call.name}.bias", call.bias),
            )
            for call in self.calls
        ]

    def likelihood(self, *, derivatives: bool = True, once: bool = False) -> RowLikelihood:
        """The likelihood of the rows of a model that is `cut`: by formulas, a graph, or running the model.

        Each call for `derivatives` counts as an evaluation. A long loss of few rows takes as long to trace
        as some thirty of these. A model of many optima is fitted from several points, which takes more.

        Args:
            derivatives: whether derivatives are wanted.
            once: whether so few evaluations follow that a graph of few rows does not repay.
        """
        if self.rows <= BLOCK_ROWS:
            if self.formula is not None:
                return self.formula
            if once:
                return self.known if isinstance(self.known, GraphRows) else self.eager
        if "graph" not in self.__dict__ and self._may_be_short:
            self.requests += derivatives
            if self.requests <= TRIALS and not is_kept(self.eager):
                return self.eager
        return self.graph if isinstance(self.graph, GraphRows) else self.eager

    @property
    def known(self) -> GraphRows | str | None:
        """What `graph` is, if it has been asked for before."""
        return self.__dict__.get("graph")

    @property
    def _may_be_short(self) -> bool:
        """Whether a fit may end before the trace of its loss repays."""
        many_optima = any(hasattr(layer, "beginnings") for layer in layers(self.model))
        return (
            self.cut
            and self.rows <= MAX_TRIAL_ROWS
            and not many_optima
            and self.seen.is_longer(MAX_SHORT_LOSS)
        )

    @cached_property
    def eager(self) -> Cut:
        """The likelihood of the rows by running the model, where it is `cut`."""
        still = {name: value.detach() for name, value in self.params(self.initial).items()}
        return Cut(self.model, self.data, self.calls, self.beside, still)

    @cached_property
    def graph(self) -> GraphRows | str:
        """The likelihood of the rows as a graph, where the model is `cut`; or why there is none."""
        if not self.cut:
            return "it is not a function of linear predictors"
        whole = self.seen.data is self.data
        rows = self.as_read if whole else replace(self.as_read, data=self.seen.data, kept={})
        return graph_of(self.eager, rows, self.seen)

    @cached_property
    def formula(self) -> FormulaRows | None:
        """The likelihood of the rows by formulas, where the model is `cut` and its response has them."""
        if not self.cut:
            return None
        rows = Rows.of(self.seen.data)
        return formula_of(self.structure.response, self.seen, self.sites, rows)

    @cached_property
    def as_read(self) -> Rows:
        """The rows as graphs read them."""
        return Rows.of(self.data, MAX_KEPT_BYTES)

    @cached_property
    def _scant(self) -> Objective:
        return self.take(slice(0, 8)) if self.rows > 8 and self.separable else self

    @property
    def prior_advice(self) -> str:
        """How priors identify coefficients: by counting those of the model, or by others in their place."""
        if self.priorless:
            return "use `map_estimate`, which counts the priors of the model"
        flat = ", ".join(repr(name) for name, site in self.sites.items() if site.masked)
        return (
            f"give proper priors by `with_priors` to {flat}"
            if flat
            else "give narrower priors by `with_priors`"
        )

    @cached_property
    def priorless(self) -> bool:
        """Whether no prior counts, as under `flat`."""
        return all(site.masked for site in self.sites.values())

    def prior_of(self, theta: Tensor, without: Collection[str] = ()) -> Tensor | float:
        """Minus the log prior but of the sites named; 0 where torch refuses a parameter, as in the rows."""
        try:
            return -self.at(theta).prior(without)
        except ValueError as error:
            if "to satisfy the constraint" not in str(error):
                raise
            return 0.0

    @torch.enable_grad()
    def prior_terms(self, theta: Tensor, curved: bool = True) -> tuple[float, Tensor, Tensor]:
        """Minus the log prior, its gradient `(K,)` and its Hessian `(K, K)`; 0 where there is no density.

        The Hessian costs K backward passes; it is 0 unless `curved`.
        """
        none = torch.zeros_like(theta)
        if self.priorless:
            return 0.0, none, torch.outer(none, none)
        leaf = theta.detach().requires_grad_()
        prior = self._scant.prior_of(leaf)
        if not isinstance(prior, Tensor) or not prior.requires_grad:
            return float(prior), none, torch.outer(none, none)
        (slope,) = torch.autograd.grad(prior, leaf, create_graph=curved)
        bends = rows_of_second_derivatives(slope, leaf) if curved else torch.outer(none, none)
        return float(prior.detach()), slope.detach(), bends

    def softened(self, softness: float) -> Objective:
        """The same objective with the corners of Laplace densities rounded off; itself if it has none."""
        if self.corner is None and not kinked_sites(self):
            return self
        return self.changed(lambda model: smoothed(model, softness))

    def column_names(self, call: Affine) -> list[str]:
        """The names of a predictor's design columns."""
        known = self.data.columns
        for key in (*design_keys(call.name), ALL):
            if key in known and len(known[key]) == call.design.shape[1]:
                return list(known[key])
        return [f"x{j}" for j in range(call.design.shape[1])]

    def output_names(self, call: Affine) -> tuple[str, ...]:
        """The names of a predictor's outputs: `mean`, or `mean[height]`, `mean[weight]` where it has many.

        Those that are numbered like the columns of the response are called after them.
        """
        if call.outputs is None:
            return (call.name,)
        responses = self.data.responses
        names = responses if call.outputs == range(len(responses)) else call.outputs
        return tuple(f"{call.name}[{name}]" for name in names)

    def theta(self, params: Mapping[str, Tensor]) -> Tensor:
        """The vector of a full set of constrained values."""
        parts = [
            site.transform.inv(params[name].to(self.data.y.dtype)).reshape(-1)
            for name, site in self.sites.items()
        ]
        return torch.cat(parts).detach()

    def params(self, theta: Tensor) -> dict[str, Tensor]:
        """Site name -> value on its own support; differentiable in `theta`."""
        return {
            name: site.transform(theta[site.place].reshape(site.unconstrained))
            for name, site in self.sites.items()
        }

    def at(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Run:
        """Run the weighted model on all rows at `theta`, cut at the predictors in `etas`."""
        return run(self.weighted, self.data, Run(self.params(theta), etas=etas))

    def terms(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | float]:
        """Minus the log-likelihood of the rows, and minus the log prior."""
        at = self.at(theta, etas)
        return -at.log_prob(RESPONSE).sum(), -at.prior()

    def loss(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss as a differentiable scalar."""
        nll, prior = self.terms(theta, etas)
        return nll + prior

    def trial(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | float]:
        """As `terms`; infinite where torch refuses a parameter, such as a scale that overflowed."""
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
    def value_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)`."""
        leaf = theta.detach().requires_grad_()
        loss = self.loss(leaf)
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient `(K,)` of the loss."""
        return self.value_and_gradient(theta)[1]

    @torch.enable_grad()
    def hessian(self, theta: Tensor) -> Tensor:
        """The Hessian `(K, K)` of the loss, by differentiating the gradient K times."""
        leaf = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(leaf), leaf, create_graph=True)
        return rows_of_second_derivatives(gradient, leaf)

    def nll(self, theta: Tensor) -> float:
        """Minus the log-likelihood of the rows alone, in nats, with weights and every constant."""
        with torch.no_grad():
            return -float(self.at(theta).log_prob(RESPONSE).sum())

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood of each row `(N,)`, without weights."""
        params = self.params(theta)
        runs = (run(part.model, part.data, Run(params)) for _, part in self.parts)
        return torch.cat([at.log_prob(RESPONSE) for at in runs])

    def response(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Any:
        """The distribution of the observations at `theta`, cut at the predictors in `etas`."""
        with torch.no_grad():
            if self.formula is not None and (etas is not None or self.whole):
                known = etas or {call.name: call.value for call in self.affines(theta)}
                return self.formula.response(theta, known)
            return self.at(theta, etas).sites[RESPONSE]["fn"]

    def check_bounded(
        self, theta: Tensor, etas: Mapping[str, Tensor] | None = None, times: float = 1.0
    ) -> None:
        """Refuse a place where the spread has shrunk to `times` the rounding of the data.

        A density of a real `y` that follows some rows exactly can be made as high as one likes there; all
        that stops a solver is that residuals are rounded at 1e-16 of `y`.

        Raises:
            UnboundedLikelihoodError: naming the first such row.
        """
        if self.exacting:
            for _, part in self.parts if etas is None else ((None, self),):
                response, held = part.response(theta, etas), partial(self.is_held, theta)
                check_spread(response, part.data, self.name, times, held, lambda: self.scale_site)

    @property
    def scale_site(self) -> str | None:
        """The site that is the scale of all rows, if there is one."""
        try:
            return self.structure.response.scale if self.calls else None
        except (RuntimeError, ValueError, IndexError, TypeError):  # a model that does not run off its optimum
            return None

    def is_held(self, theta: Tensor) -> bool:
        """Whether priors keep the spread of the response, small at `theta`, from going to 0."""
        if self.priorless:
            return False
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            log_spread = log_spread_of(self.few.at(leaf).sites[RESPONSE]["fn"])
        return is_held(
            log_spread, leaf, lambda at: self.prior_terms(at, curved=False)[0], float(self.data.count)
        )

    def end(self, theta: Tensor, loss: float | None = None) -> tuple[float, float]:
        """Minus the log-likelihood of the rows, and minus the log prior; checked as by `check_bounded`.

        Of very many rows, whose `loss` is known, a sample says whether there is anything to check.
        """
        if loss is not None and len(self.parts) > 1 and self._is_spread(theta):
            prior = self.prior_terms(theta)[0]
            return loss - prior, prior
        nll, prior = 0.0, 0.0
        with torch.no_grad():
            for rows, part in self.parts:
                at = part.at(theta)
                response, held = at.sites[RESPONSE]["fn"], partial(self.is_held, theta)
                check_spread(response, part.data, self.name, 1.0, held, lambda: self.scale_site)
                nll -= float(at.log_prob(RESPONSE).sum())
                prior = prior if rows.start else -float(at.prior())
        return nll, prior

    def _is_spread(self, theta: Tensor) -> bool:
        """Whether the rows of a sample are all far from being followed exactly."""
        few = self.sample
        return not bool(narrow_rows(few.response(theta), few.data.y, FAR_ROUNDINGS).any())


def rows_of_second_derivatives(gradient: Tensor, leaf: Tensor) -> Tensor:
    """The symmetric Hessian from a gradient `(P,)`, by one backward pass for each entry."""
    rows = []
    for component in gradient:
        if component.requires_grad:
            (row,) = torch.autograd.grad(component, leaf, retain_graph=True, allow_unused=True)
        else:
            row = None
        rows.append(torch.zeros_like(leaf) if row is None else row)
    hessian = torch.stack(rows) if rows else leaf.new_zeros((0, 0))
    return 0.5 * (hessian + hessian.T)


def kinked_sites(objective: Objective) -> tuple[str, ...]:
    """The latent sites whose own density has a corner and counts."""
    return tuple(
        name for name, site in objective.sites.items() if not site.masked and corner(site.fn) is not None
    )
