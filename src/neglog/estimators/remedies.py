"""Fits of likelihoods without a maximum: a floor on the scale, the least norm, or a ridge, as stated.

`mle` and `map_estimate` refuse a likelihood without a maximum, or coefficients that are not identified.
Cross-validation, pipelines and searches of scikit-learn meet such rows in some folds, and expect a fit. The
remedies here are those of this package alone, and each is named by a `RemedyWarning`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from neglog import models
from neglog.data import prepare_fit
from neglog.errors import NeglogError, RemedyWarning, SingularDesignError, UnboundedLikelihoodError, warn
from neglog.estimators.rows import Array, Basis, Rows
from neglog.fitting.estimates import map_estimate, mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model, flat, with_priors
from neglog.inputs.given import offset_model
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.objective.links import Links, Role
from neglog.objective.objective import Objective
from neglog.signatures import roles_of
from neglog.tracing import predictor_names, with_sizes

SCALE_FLOOR = 1e-6
"""The smallest scale, in standard deviations of y, where the likelihood has no maximum."""
RIDGE_DEVIATION = 2.5
"""Prior standard deviation of the effect of one standard deviation of a column, where a ridge is needed; of
a location, in standard deviations of y."""
RIDGE_WORDS = (
    f"Normal priors on coefficients, of standard deviation {RIDGE_DEVIATION:g} per standard deviation of the "
    "column"
)
KNOWN_TAILS = 4.0
"""Degrees of freedom where the likelihood has no maximum in them, as with many equal values of y."""
LARGEST_EXACT_RESIDUAL = 1e-9
"""Largest residual of an exact fit, in standard deviations of y."""
RCOND = 1e-12
"""Smallest singular value, relative to the largest, that counts in least squares."""
PROBE_RESPONSE = (-1.0, -0.5, 0.5, 1.0)
"""A real response, by which the roles of the predictors and constants of a model are found."""

RELATIVE_SCALES: dict[Any, tuple[str, Callable[[float, Any], Any]]] = {
    models.lognormal: ("sigma", lambda spread, mean: spread),
    models.gamma: ("shape", lambda spread, mean: spread**-2),
    models.inverse_gaussian: ("dispersion", lambda spread, mean: spread**2 / mean),
    models.weibull: ("shape", lambda spread, mean: math.pi / math.sqrt(6) / spread),
}
"""Model of a positive response -> its constant, and the value of that from a small spread of log y and the
location of y: the spread is sigma, 1 / √shape, √(dispersion · mean) or π / (√6 shape)."""

NO_MAXIMUM = (SingularDesignError, UnboundedLikelihoodError)


@dataclass(frozen=True)
class Roles:
    """What the predictors and constants of a model of a real response are; `others` have other roles.

    `location` is the predictor that shifts the response, `scales` the constants that are its scale with their
    initial values, `log_scales` predictor -> the power of the scale of which it is the logarithm. `tails` are
    the constants that are degrees of freedom. `locations` is the predictor of the locations of the components
    of a mixture, with their number.
    """

    location: str | None
    scales: Mapping[str, Array]
    log_scales: Mapping[str, float]
    others: Mapping[str, Array]
    tails: tuple[str, ...] = ()
    locations: tuple[str, int] | None = None


@isolated
def roles(model: Model, keywords: Mapping[str, Any]) -> Roles | None:
    """The roles in a model of one real number for each row; None for another response."""
    model = offset_model(model, keywords)
    y = torch.tensor(PROBE_RESPONSE, dtype=torch.float64)
    rows: dict[str, Any] = {name: torch.ones(len(y), dtype=torch.float64) for name in keywords}
    try:
        data = prepare_fit(y.new_zeros((len(y), 0)), y, roles=roles_of(model, rows, mle), **rows)
        objective = Objective(flat(model), data)
        links = Links(objective)
    except NeglogError:
        return None
    return _roles(objective, links) if links.is_real else None


def _roles(objective: Objective, links: Links) -> Roles:
    single = {call.name for call in objective.calls if call.outputs is None}
    own = {f"{name}.{part}" for name in links.etas for part in ("weight", "bias")}
    initial = objective.layout.params(objective.initial).items()
    params = {name: value.detach().numpy() for name, value in initial if name not in own}
    scales = dict(filter(lambda item: links.is_scale(item[0]), params.items()))
    others = {name: params[name] for name in sorted(set(params) - set(scales))}
    tails = tuple(others) if objective.structure.response.has_free_tails else ()
    location = next(iter(single.intersection(links.locations)), None)
    return Roles(location, scales, _log_scales(links), others, tails, _locations(objective, links))


def _locations(objective: Objective, links: Links) -> tuple[str, int] | None:
    """The predictor of several locations, and their number."""
    counts = {call.name: len(call.outputs) for call in objective.calls if call.outputs is not None}
    return next(((name, counts[name]) for name in links.locations if name in counts), None)


def _log_scales(links: Links) -> dict[str, float]:
    kinds = {name: links.of(name) for name in links.etas}
    return {name: link.power for name, link in kinds.items() if link.role is Role.LOG_SCALE}


@dataclass(frozen=True)
class Remedied:
    """A fit, and the remedy by which it exists, in words; empty where the likelihood has a maximum."""

    fit: Fit
    remedy: str = ""


def maximum(model: Model, rows: Rows, estimate: Callable[..., Fit] = mle, **settings: Any) -> Remedied:
    """The fit of `mle`, or `map_estimate`; with the first remedy that gives one where it raises an error.

    The remedies, in this order: the scale at `SCALE_FLOOR` standard deviations of y, or of log y for a
    positive response, if coefficients of least norm fit every row; coefficients of least norm, if the columns
    are linearly dependent; degrees of freedom at `KNOWN_TAILS`, or the scale at its floor, if the likelihood
    grows as it goes to 0; Normal priors on coefficients, of `RIDGE_DEVIATION` per standard deviation of the
    column; these, and the priors of the model on all else.

    Raises:
        NeglogError: no remedy gives a fit; the error is that of the fit without one.

    Warns:
        RemedyWarning: which remedy was needed, and why.
    """
    try:
        return Remedied(estimate(model, rows.x, rows.y, **rows.arguments, **settings))
    except NO_MAXIMUM as error:
        found = _remedied(model, rows.dense(), estimate, error, settings)
        if found is None:
            raise
        reason = str(error).partition(". ")[0].rstrip(".")
        warn(f"{reason}. Fitted with {found.remedy}.", RemedyWarning)
        return found


def _remedied(
    model: Model, rows: Rows, estimate: Callable[..., Fit], error: NeglogError, settings: Mapping[str, Any]
) -> Remedied | None:
    fit = partial(estimate, **settings)
    steps: list[Callable[..., Remedied | None]] = [_exact, _exact_logarithm]
    steps += [partial(_least_norm, fit)] if isinstance(error, SingularDesignError) else []
    steps += [partial(_at_known_tails, fit), partial(_at_floor, fit), _with_ridge, _with_priors]
    for remedy in steps:
        try:
            found = remedy(model, rows)
        except NO_MAXIMUM:
            continue
        if found is not None:
            return found
    return None


def _least_norm(fit: Callable[..., Fit], model: Model, rows: Rows) -> Remedied | None:
    basis = Basis.of(rows)
    if basis.is_whole:
        return None
    found = fit(model, rows.x @ basis.matrix, rows.y, **rows.arguments)
    return Remedied(_mapped(found, model, basis, rows), "the coefficients of least norm")


def _exact(model: Model, rows: Rows) -> Remedied | None:
    """The scale at its floor, and coefficients of least norm that reproduce y; None if none do.

    Each component of a mixture has them, in equal shares.
    """
    known = roles(model, rows.keywords) if rows.y.ndim == 1 else None
    if known is None or rows.keywords:
        return None
    predictor, *several = known.locations or (known.location,)
    found = None if predictor is None else _interpolated(rows, predictor)
    if found is None:
        return None
    found = {name: np.broadcast_to(value, (*several, *value.shape)) for name, value in found.items()}
    spread = float(rows.spread())
    params = _constants(known, spread, rows.x.shape[1]) | found
    return Remedied(_known(model, params, rows), _floor_words(SCALE_FLOOR * spread))


def _exact_logarithm(model: Model, rows: Rows) -> Remedied | None:
    """As `_exact`, of a positive response whose only predictor is the logarithm of its location."""
    declared = _relative_scale(model)
    if declared is None or rows.keywords or not bool((rows.y > 0).all()):
        return None
    (predictor,) = predictor_names(model)
    logs = replace(rows, y=np.log(rows.y))
    found = _interpolated(logs, predictor)
    if found is None:
        return None
    constant, value = declared
    mean, deviation = logs.moments(logs.y)
    floor = SCALE_FLOOR * float(deviation if deviation > RCOND else 1.0)
    params = {constant: np.array(value(floor, np.exp(mean))), **found}
    words = f"the scale at its floor, {SCALE_FLOOR:g} standard deviations of log y ({floor:.3g})"
    return Remedied(_known(model, params, rows), words)


def _relative_scale(model: Model) -> tuple[str, Callable[[float, Any], Any]] | None:
    """The constant of a positive response that is the spread of its logarithm, and its value by it."""
    *_, inner = layers(model)
    return RELATIVE_SCALES.get(inner)


def _interpolated(rows: Rows, predictor: str) -> dict[str, Any] | None:
    """The coefficients of least norm of a predictor that is y in every row; None if there are none."""
    (mean, _), (centre, _) = rows.moments(rows.x), rows.moments(rows.y)
    weight = np.linalg.lstsq(rows.x - mean, rows.y - centre, rcond=RCOND)[0]
    residuals = rows.y - centre - (rows.x - mean) @ weight
    if not float(np.abs(residuals).max()) <= LARGEST_EXACT_RESIDUAL * float(rows.spread()):
        return None
    return {f"{predictor}.weight": weight, f"{predictor}.bias": np.asarray(centre - mean @ weight)}


def _constants(known: Roles, spread: float, columns: int) -> dict[str, Any]:
    """The constants and log scales of a model whose scale is at its floor."""
    floor = SCALE_FLOOR * spread
    params: dict[str, Any] = _floors(known, floor) | dict(known.others)
    for name, power in known.log_scales.items():
        params |= {f"{name}.weight": np.zeros(columns), f"{name}.bias": power * np.log(floor)}
    return params


def _floors(known: Roles, floor: float) -> dict[str, Array]:
    return {name: np.full_like(value, floor) for name, value in known.scales.items()}


def _floor_words(floor: float) -> str:
    return f"the scale at its floor, {SCALE_FLOOR:g} standard deviations of y ({floor:.3g})"


def _at_floor(fit: Callable[..., Fit], model: Model, rows: Rows) -> Remedied | None:
    """The fit with its scale at the floor, where the likelihood grows as the scale goes to 0."""
    known = roles(model, rows.keywords) if rows.y.ndim == 1 else None
    if known is None or not known.scales:
        return None
    floor = SCALE_FLOOR * float(rows.spread())
    return Remedied(_held(fit, model, rows, _floors(known, floor)), _floor_words(floor))


def _at_known_tails(fit: Callable[..., Fit], model: Model, rows: Rows) -> Remedied | None:
    """The fit with known degrees of freedom, where some rows alone would decide on them."""
    known = roles(model, rows.keywords) if rows.y.ndim == 1 else None
    if known is None or not known.tails:
        return None
    found = _held(fit, model, rows, {name: np.array(KNOWN_TAILS) for name in known.tails})
    return Remedied(found, f"{', '.join(known.tails)} at {KNOWN_TAILS:g}")


def _held(fit: Callable[..., Fit], model: Model, rows: Rows, constants: Mapping[str, Array]) -> Fit:
    """The fit with some constants at given values."""
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants.items()}
    basis = Basis.of(rows)
    found = fit(pyro.condition(model, data=values), rows.x @ basis.matrix, rows.y, **rows.arguments)
    return _mapped(replace(found, params={**found.params, **values}), model, basis, rows)


def _with_ridge(model: Model, rows: Rows) -> Remedied:
    """Normal priors on all coefficients of columns; everything else by maximum likelihood."""
    return Remedied(_ridge(flat(model), model, rows), RIDGE_WORDS)


def _with_priors(model: Model, rows: Rows) -> Remedied:
    """Normal priors on all coefficients of columns, and the priors of the model."""
    return Remedied(_ridge(model, model, rows), f"{RIDGE_WORDS}, and the priors of the model")


def _ridge(penalised: Model, model: Model, rows: Rows) -> Fit:
    basis = Basis.of(rows, standardised=True)
    known = roles(model, rows.keywords) if rows.y.ndim == 1 else None
    location = None if known is None else known.location
    unit = float(rows.spread()) if location is not None else 1.0
    priors = {
        f"{name}.weight": _normal(RIDGE_DEVIATION * (unit if name == location else 1.0))
        for name in predictor_names(model, **{n: torch.as_tensor(v) for n, v in rows.keywords.items()})
    }
    priors = priors if basis.matrix.shape[1] else {}
    found = map_estimate(with_priors(penalised, priors), rows.x @ basis.matrix, rows.y, **rows.arguments)
    return _mapped(found, model, basis, rows)


def _normal(deviation: float) -> Any:
    return dist.Normal(0.0, torch.tensor(deviation, dtype=torch.float64))


def _mapped(fit: Fit, model: Model, basis: Basis, rows: Rows) -> Fit:
    """A fit of a design of full rank as one of the original design."""
    params = {name: value.numpy() for name, value in fit.params.items()}
    for name in predictor_names(model, **{n: torch.as_tensor(v) for n, v in rows.keywords.items()}):
        if f"{name}.weight" in params:
            params[f"{name}.weight"] = basis.coefficients(params[f"{name}.weight"])
    return replace(fit, **_parts(model, params, rows), objective=None, coordinates=None)


def _known(model: Model, params: Mapping[str, Any], rows: Rows) -> Fit:
    """A fit of given parameters."""
    count = float(len(rows.y) if rows.weights is None else rows.weights.sum())
    size = int(sum(np.size(value) for value in params.values()))
    parts = _parts(model, params, rows)
    return Fit(
        **parts, nll=np.nan, loss=np.nan, converged=True, status="exact fit", n_iter=1, n=count, k=size
    )


def _parts(model: Model, params: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    names = tuple(f"x{place}" for place in range(rows.x.shape[1]))
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}
    sized = with_sizes(flat(model), torch.as_tensor(rows.y))
    return {"model": sized, "params": tensors, "columns": {"": names}, "keywords": tuple(rows.keywords)}
