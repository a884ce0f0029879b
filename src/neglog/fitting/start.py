"""The initial point of a solver: the null model, in which the coefficients of all columns are 0."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neglog.errors import ModelError, UnboundedLikelihoodError, did_you_mean
from neglog.fitting.certain import certain_start
from neglog.fitting.heavy_tailed import null_heavy_tailed
from neglog.fitting.least_squares import null_line
from neglog.fitting.medians import null_median
from neglog.fitting.tilted import null_tilted
from neglog.kinks import smoothed
from neglog.likelihood.rows import CURVATURES, VALUE, RowLikelihood, Terms
from neglog.likelihood.sites import Site, places_of
from neglog.objective.objective import Objective, rows_of_second_derivatives, sample_loss, unbounded
from neglog.objective.shrinkage import Shrinkage
from neglog.objective.spread import check_bounded
from neglog.observation import without_bounds
from neglog.solvers import Newton
from neglog.solvers.descent import MAX_LENGTHS

MAX_NULL_PARAMETERS = 50
"""Above this many free constants the null model is not fitted first."""
NULL_STEPS = 100
"""The largest number of Newton steps of the null model."""
NULL_TOLERANCE = 1e-3
"""The distance of the null model from its optimum before the last step, in units of the noise of a row."""


CERTAIN = frozenset({"priors", "bounded", "collapsing"})
"""The facts without which no scale goes to 0 by a bound alone; see `neglog.fitting.certain`."""


class _Null:
    """The objective in some of its coordinates, the others fixed."""

    def __init__(self, objective: Objective, theta: Tensor, places: Tensor) -> None:
        self.objective, self.still, self.places = objective, theta, places
        self.size, self.rows = len(places), objective.rows
        self.fixed = self._fixed()

    def theta(self, z: Tensor) -> Tensor:
        return self.still.index_copy(0, self.places, z)

    @torch.enable_grad()
    def _fixed(self) -> dict[str, Tensor]:
        """Predictor -> the fixed part of its columns; only the bias varies."""
        leaf = self.still[self.places].requires_grad_()
        return {
            call.name: replace(call, bias=torch.zeros_like(call.bias)).value.detach()
            for call in self.objective.at(self.theta(leaf)).affines
            if f"{call.name}.bias" in self.objective.sites
            and not (call.weight.requires_grad or call.design.requires_grad)
        }

    def _loss(self, z: Tensor) -> Tensor:
        theta = self.theta(z)
        params = self.objective.layout.params(theta)
        etas = {name: still + params[f"{name}.bias"] for name, still in self.fixed.items()}
        nll, prior = self.objective.trial(theta, etas)
        return nll + prior

    def value(self, z: Tensor) -> float:
        with torch.no_grad():
            return float(self._loss(z))

    def check(self, z: Tensor) -> None:
        check_bounded(self.objective, self.theta(z))

    @torch.enable_grad()
    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        leaf = z.detach().requires_grad_()
        loss = self._loss(leaf)
        if not loss.requires_grad:
            return float(loss.detach()), torch.full_like(z, torch.nan)
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    def hessian(self, z: Tensor) -> Tensor:
        return self.derivatives(z)[2]

    @torch.enable_grad()
    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        loss = self._loss(leaf)
        if not loss.requires_grad:
            return float(loss), torch.full_like(z, torch.nan), z.new_full((self.size, self.size), torch.nan)
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return float(loss.detach()), gradient.detach(), rows_of_second_derivatives(gradient, leaf)

    def sample(self) -> None:
        """None: the null model is fitted on few rows as it is."""


class _CutNull(_Null):
    """The same for a model with linear predictors: a function of their levels and the constants."""

    def __init__(
        self, objective: Objective, theta: Tensor, places: Tensor, likelihood: RowLikelihood
    ) -> None:
        self.objective, self.still, self.places = objective, theta, places
        self.size, self.rows, self.likelihood = len(places), objective.rows, likelihood
        self.levels = self._levels()
        position = {place: i for i, place in enumerate(places.tolist())}
        self.own = [position.get(place, self.size) for place in likelihood.places.tolist()]
        self.biases = [position.get(place, self.size) for _, place in self.levels]

    def _levels(self) -> list[tuple[Tensor, int]]:
        """The values of each output where its bias is 0, if that is a site, and the place of that in theta.

        The place is -1 where the bias is no site.
        """
        found = []
        calls = {call.name: call for call in self.objective.affines(self.still)}
        sites = {name: self.objective.sites.get(f"{name}.bias") for name in calls}
        values = {
            name: call.value if sites[name] is None else replace(call, bias=torch.zeros_like(call.bias)).value
            for name, call in calls.items()
        }
        for name, output in self.likelihood.predictors:
            site, still = sites[name], values[name]
            place = -1 if site is None else site.offset + (output or 0)
            found.append((still if output is None else still[:, output], place))
        return found

    def _terms(self, order: int, theta: Tensor) -> Terms:
        etas = [still + theta[place] if place >= 0 else still for still, place in self.levels]
        return self.likelihood.evaluate(order, theta[self.likelihood.places], etas, self.objective.as_read)

    def value(self, z: Tensor) -> float:
        theta = self.theta(z)
        prior = 0.0 if self.objective.layout.is_flat else self._prior(theta, curved=False).value
        return float(self._terms(VALUE, theta).value) + prior

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        return self.derivatives(z)[:2]

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        theta = self.theta(z)
        terms = self._terms(CURVATURES, theta)
        assert terms.constant_gradient is not None
        assert terms.constant_hessian is not None
        first, second = self._with_levels(
            terms, terms.constant_gradient.tolist(), terms.constant_hessian.tolist()
        )
        gradient, hessian = self._gathered(first, second)
        moved, curved = z.new_tensor(gradient)[:-1], z.new_tensor(hessian)[:-1, :-1]
        if self.objective.layout.is_flat:
            return float(terms.value), moved, curved
        prior = self._prior(theta)
        value = float(terms.value) + prior.value
        return value, moved + prior.slope[self.places], curved + prior.bend

    @cached_property
    def _prior(self) -> Shrinkage:
        """The priors; a null model is fitted in too few steps for a graph of them to repay its time."""
        return Shrinkage(self.objective, self.places, untraced=NULL_STEPS * MAX_LENGTHS)

    def _with_levels(
        self, terms: Terms, first: list[float], second: list[list[float]]
    ) -> tuple[list[float], list[list[float]]]:
        """The derivatives in the constants, followed by those in the level of each predictor."""
        for j, slopes in enumerate(terms.slopes):
            first.append(self._total(slopes))
            row = [
                self._total(values) for values in (*(c[j] for c in terms.cross_hessian), *terms.hessian[j])
            ]
            for before, value in zip(second, row, strict=False):
                before.append(value)
            second.append(row)
        return first, second

    def _gathered(
        self, first: list[float], second: list[list[float]]
    ) -> tuple[list[float], list[list[float]]]:
        """The gradient and the Hessian in z; the last place sums the derivatives in what is not free.

        For so few numbers Python's arithmetic is faster than torch's.
        """
        places, full = [*self.own, *self.biases], range(self.size + 1)
        gradient, hessian = [0.0 for _ in full], [[0.0 for _ in full] for _ in full]
        for place, slope, row in zip(places, first, second, strict=True):
            gradient[place] += slope
            for other, bend in zip(places, row, strict=True):
                hessian[place][other] += bend
        return gradient, hessian

    def _total(self, values: Tensor) -> float:
        """The sum over all rows, of one value for all or one for each."""
        return float(values.sum()) if values.dim() else float(values) * self.rows


def starting_point(objective: Objective, given: Mapping[str, Any] | None) -> Tensor:
    """A deterministic initial vector `(K,)`.

    Sites in `given` (site name -> value) have these values. Otherwise weights are at the mean of their prior,
    which is 0 by default, networks at the values of the module, sites that compute their initial value from
    `y` at that value (`neglog.tracing.initial_value`), and biases and other constants at their optimum given
    the others: at the null model. So the initial point has the location and the scale of `y`, whatever its
    units. Sites on which the priors of others depend, and these others, are at the median or mean of their
    prior.

    Raises:
        ModelError: `given` names a site that the model does not have, or a value outside its support.
    """
    theta = objective.initial.clone()
    given = dict(given or {})
    for name, value in given.items():
        theta[_site(objective, name).place] = _unconstrained(objective, name, value)
    free = free_constants(objective, given)
    if not free:
        return theta
    places, names = places_of(free), [site.name for site in free]
    line = None if given or not objective.facts >= CERTAIN else certain_start(objective)
    if line is None:
        line = _known_null(objective, theta, names)
    if line is not None:
        return line
    theta = _without_bounds(objective, theta, places) if "bounded" in objective.facts else theta
    return _null_fit(objective, theta, places)


def _without_bounds(objective: Objective, theta: Tensor, places: Tensor) -> Tensor:
    """`theta` `(K,)`, of a response between bounds at the null model without them, if that has an optimum.

    Between bounds a density is level far from its location and at a large scale, where no step descends.
    """
    if not objective.structure.law.is_bounded or objective.structure.corner is not None:
        return theta
    try:
        found, converged = _null_of(unbounded(objective, theta), theta, places, None)
    except UnboundedLikelihoodError:
        return theta
    return found if converged and sample_loss(objective, found) < math.inf else theta


def _null_without_truncation(objective: Objective, theta: Tensor, names: list[str]) -> Tensor | None:
    """The null model without the bounds, where `Continuation` begins; None where its scale goes to 0."""
    free = objective.changed(without_bounds)
    line = null_median(free, theta, names)
    if line is not None:
        return line
    try:
        return _null_fit(free, theta, places_of([objective.sites[name] for name in names]))
    except UnboundedLikelihoodError:
        return None


def _known_null(objective: Objective, theta: Tensor, names: list[str]) -> Tensor | None:
    """The null model of a response for which it needs no steps between bounds; None of another."""
    if objective.structure.corner is not None:
        is_truncated = objective.structure.corner.is_truncated
        return (_null_without_truncation if is_truncated else null_median)(objective, theta, names)
    known = [null_line] if "square" in objective.facts else []
    known += [null_tilted, null_heavy_tailed] if "truncated" in objective.facts else []
    found = (null(objective, theta, names) for null in known)
    return next((each for each in found if each is not None), None)


def free_constants(objective: Objective, given: Collection[str] = ()) -> list[Site]:
    """The sites that the null model fits, but for those `given`; none where it is not fitted."""
    held = _held(objective) if objective.calls else set(objective.sites)
    sites = (site for name, site in objective.sites.items() if name not in held and name not in given)
    free = [site for site in sites if not (site.started or site.begun)]
    return free if sum(site.size for site in free) <= MAX_NULL_PARAMETERS else []


def _held(objective: Objective) -> set[str]:
    """The sites that the null model leaves: weights, and hierarchies, of which no joint mode need exist."""
    parents = objective.structure.probe.prior_parents
    hierarchy = {*parents, *(name for names in parents.values() for name in names)}
    return hierarchy | {f"{call.name}.weight" for call in objective.calls}


def _smoothed(objective: Objective, softness: float) -> Objective:
    """The objective with smoothed corners of Laplace densities."""
    return objective.changed(lambda model: smoothed(model, softness))


def _null_fit(objective: Objective, theta: Tensor, places: Tensor) -> Tensor:
    """The null model of a sample of the rows, or of all if that fails, as for equal values."""
    soft = _smoothed(objective, 1.0) if "cornered" in objective.facts else objective
    backends = soft.backends
    likelihood = (
        None
        if not soft.structure.is_linear
        else backends.likelihood()
        if soft is objective
        else backends.eager
    )
    few = soft.sample
    if few is not soft:
        try:
            found, converged = _null_of(few, theta, places, likelihood)
        except UnboundedLikelihoodError:
            converged = False
        if converged:
            return found
    return _null_of(soft, theta, places, likelihood)[0]


def _null_of(
    objective: Objective, theta: Tensor, places: Tensor, likelihood: RowLikelihood | None
) -> tuple[Tensor, bool]:
    null = (
        _Null(objective, theta, places)
        if likelihood is None
        else _CutNull(objective, theta, places, likelihood)
    )
    found = Newton(tolerance=NULL_TOLERANCE * null.rows**0.5, max_steps=NULL_STEPS).minimise(
        null, theta[places]
    )
    return null.theta(found.z), found.converged


def _site(objective: Objective, name: str) -> Any:
    if name not in objective.sites:
        raise ModelError(
            f"`start` names {name!r}, which `{objective.name}` does not sample; its sites are "
            f"{', '.join(map(repr, objective.sites))}.{did_you_mean(name, objective.sites)}"
        )
    return objective.sites[name]


def _unconstrained(objective: Objective, name: str, value: Any) -> Tensor:
    site = _site(objective, name)
    value = torch.as_tensor(value, dtype=objective.initial.dtype)
    if value.shape != site.shape:
        raise ModelError(
            f"`start` gives {name!r} the shape {tuple(value.shape)}; it needs {tuple(site.shape)}."
        )
    if not bool(site.fn.support.check(value).all()):
        raise ModelError(f"`start` gives {name!r} the value {value.tolist()}, outside {site.fn.support}.")
    unconstrained = site.transform.inv(value).reshape(-1)
    if not bool(torch.isfinite(unconstrained).all()):
        raise ModelError(
            f"`start` gives {name!r} a value on the border of {site.fn.support}: {value.tolist()}."
        )
    return unconstrained
