"""Documents checked against the model that they name: a fit that is loaded can predict, or is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from neglog.conversion import ALL
from neglog.data import Data
from neglog.errors import DataError
from neglog.export import arrays, blueprints, uncertainty
from neglog.export.described import CALLER, conditions, rebuilt
from neglog.export.documents import (
    flag,
    line,
    mapping,
    number,
    own_version,
    shortened,
    texts,
    version,
    whole,
    wrong,
)
from neglog.export.given import NOTHING, LoadArguments, check_buffers
from neglog.formula import Design
from neglog.handlers import Model, is_parameter
from neglog.inputs.given import design_names_of
from neglog.layers import former_names, is_network, replaced
from neglog.modes import InMode
from neglog.predictors import RESPONSE
from neglog.tracing import Run, initial_value, positive_names, predictor_names, run

NEEDED = {
    *("format", "neglog", "model", "params", "columns", "outputs", "responses", "row_keywords", "formula"),
    *("blueprint", "uncertainty", "buffers"),
    *("nll", "loss", "converged", "status", "steps", "n", "k"),
}
"""The fields of a document beside its digest."""

PRIOR_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative tolerance within which the log prior at the estimates must be loss minus NLL, by their dtype."""


PROBES = (0.0, 1.0, 0.5)
"""Rows of these numbers, at which the model of a caller is run: the first where it can be evaluated."""


def restored(document: Mapping[str, Any], given: LoadArguments = NOTHING) -> dict[str, Any]:
    """The attributes of a saved fit, by name; of the model that it names, or that is given.

    Raises:
        NeglogError: a field is missing, or is not what the model needs.
    """
    if set(document) != NEEDED:
        odd = sorted(set(document) ^ NEEDED)
        raise DataError(f"`model.json` lacks fields or has others than it should: {shortened(odd)}.")
    params = arrays.read("params", document["params"])
    buffers = arrays.buffers_read("buffers", document["buffers"])
    model = rebuilt(document["model"], params, buffers, given)
    former = former_names(model)
    params = replaced(former, params)
    columns, outputs = (replaced(former, _names(name, document[name])) for name in ("columns", "outputs"))
    responses, keywords = (texts(name, document[name]) for name in ("responses", "row_keywords"))
    formula = None
    if document["formula"] is not None:
        formula = Design.from_json(mapping("formula", document["formula"]))
    data = _one_row(columns, keywords, next((v.dtype for v in params.values()), torch.float64))
    _check_predictors(model, data)
    if formula is not None:
        _check_formula(model, data, formula, columns)
    params, bare, at = _runs(
        model, data, params, buffers, PROBES if document["model"]["source"] == CALLER else PROBES[:1]
    )
    _check_names(at, outputs, responses, formula)
    numbers = _numbers(document, _size(at, params), document["model"]["source"] == CALLER)
    _check_prior(at, params, numbers, version("neglog", document["neglog"]))
    predictors = frozenset(call.name for call in at.affines)
    classes = blueprints.count_of_classes(at.sites[RESPONSE]["fn"])
    return {
        "model": _with_buffers(model, bare, buffers),
        "buffers": MappingProxyType(buffers),
        "blueprint": blueprints.read(document["blueprint"], model, keywords, formula, classes),
        "retained": uncertainty.read(document["uncertainty"], bare, params, predictors),
        "params": params,
        "columns": columns,
        "outputs": outputs,
        "responses": responses,
        "keywords": keywords,
        "formula": formula,
        **numbers,
    }


def _runs(
    model: Model,
    data: Data,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    probes: Sequence[float],
) -> tuple[dict[str, Tensor], Run, Run]:
    """The estimates in the order of the model, a run at initial values, and one at the estimates."""
    for probe in probes:
        try:
            row = replace(data, x=_filled(data.x, probe))
            ordered, bare = _checked_params(model, row, params)
            check_buffers(bare.networks, buffers)
            return ordered, bare, _at_estimates(_with_buffers(model, bare, buffers), row, ordered)
        except (ValueError, RuntimeError):
            if probe == probes[-1]:
                raise
    raise AssertionError("there is a probe")


def _filled(x: Any, number: float) -> Any:
    """Designs of the same shapes, of one number."""
    if isinstance(x, Mapping):
        return {key: _filled(each, number) for key, each in x.items()}
    return torch.full_like(x, number)


def _with_buffers(model: Model, bare: Run, buffers: Mapping[str, Tensor]) -> Model:
    """The model with its networks in evaluation mode, with the buffers and frozen parameters of the fit."""
    constants = {name: _of_network(name, buffers) for name in bare.networks}
    found: Model = InMode(False, constants)(model) if constants else model
    return found


def _of_network(name: str, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): t for key, t in buffers.items() if key.startswith(prefix)}


def _names(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    """An object of lists of names."""
    return {key: texts(f"{name}.{key}", names) for key, names in mapping(name, value).items()}


def _numbers(document: Mapping[str, Any], size: int, may_have_corners: bool) -> dict[str, Any]:
    """The numbers of a fit of `size` free parameters; some may be at the corner of a prior of the caller."""
    found: dict[str, Any] = {
        **{name: float(number(name, document[name])) for name in ("nll", "loss", "n")},
        "n_iter": whole("steps", document["steps"]),
        "k": whole("k", document["k"]),
        "converged": flag("converged", document["converged"]),
        "status": line("status", document["status"]),
    }
    if not 0 < found["n"] < float("inf"):
        raise wrong("n", "a positive number of observations", found["n"])
    if found["k"] != size and not (may_have_corners and found["k"] < size):
        raise wrong("k", f"{size}, the number of free parameters", found["k"])
    for name in ("nll", "loss"):
        if found["converged"] and not abs(found[name]) < float("inf"):
            raise wrong(name, "finite, for a fit that converged", found[name])
    return found


def _size(at: Run, params: Mapping[str, Tensor]) -> int:
    """The number of free parameters: of numbers that fix the estimates on their supports."""
    transforms = {name: biject_to(at.sites[name]["fn"].support) for name in params}
    return sum(transforms[name].inv(value).numel() for name, value in params.items())


def _check_prior(at: Run, params: Mapping[str, Tensor], numbers: Mapping[str, Any], saved_by: str) -> None:
    """Raise DataError unless the loss is above the NLL by minus the log prior: by nothing, where it is flat.

    Another version may have had another prior.
    """
    nll, loss, prior = numbers["nll"], numbers["loss"], -float(at.prior())
    if not (math.isfinite(nll) and math.isfinite(loss)):
        return
    dtype = next((value.dtype for value in params.values()), torch.float64)
    tolerance = PRIOR_TOLERANCE[dtype] * (1 + abs(nll) + abs(prior))
    found = loss - nll
    same = abs(found - prior) <= tolerance
    if not (same if saved_by == own_version() or not prior else abs(found) > tolerance):
        raise DataError(
            f"`loss` is above `nll` by {found:.6g}, and minus the log prior of `model` at the estimates is "
            f"{prior:.6g}: `handlers` or one of the two is not that of the fit."
        )


def _one_row(columns: Mapping[str, tuple[str, ...]], keywords: tuple[str, ...], dtype: torch.dtype) -> Data:
    """A row of zeros, with everything that the model takes for each row."""
    if not columns:
        raise wrong("columns", "an object of one design or more", columns)
    designs = {key: torch.zeros((1, len(names)), dtype=dtype) for key, names in columns.items()}
    x = designs[ALL] if set(designs) == {ALL} else designs
    ones = {key: torch.ones(1, dtype=dtype) for key in keywords}
    return Data(x, torch.zeros(1, dtype=dtype), None, ones)


def _check_predictors(model: Model, data: Data) -> None:
    """Raise DataError if there is a design for a parameter that the model does not have."""
    designs = data.x if isinstance(data.x, Mapping) and not is_network(model) else {}  # else of its forward
    known = (
        {*predictor_names(model, **data.keywords), *positive_names(model, **data.keywords)} if designs else ()
    )
    unknown = sorted(set(designs) - set(known))
    if unknown:
        raise wrong("columns", f"an object of designs for no more than {sorted(known)}", unknown)


def _check_formula(model: Model, data: Data, formula: Design, columns: Mapping[str, tuple[str, ...]]) -> None:
    """Raise DataError unless the formula makes the columns that the fit has, in their order.

    A bias that the formula leaves out, and that is held fixed, is held at 0.
    """
    predictors, positive = design_names_of(model, data.keywords)
    needed = formula.columns(predictors, positive) if predictors else {"": formula.main.columns}
    if needed != dict(columns):
        raise wrong("columns", f"those of the formula, {shortened(needed)}", dict(columns))
    fixed = conditions(model)
    for site in formula.without_bias(predictors, positive) if predictors else ():
        if site in fixed and bool(fixed[site].any()):
            raise wrong(f"condition.{site}", "0, since the formula has no intercept", fixed[site].tolist())


def _checked_params(model: Model, data: Data, params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Run]:
    """The estimates in the order of the model's sites, of their shapes and on their supports, and a run."""
    bare = run(model, data, Run({RESPONSE: data.y}, fill=initial_value), response=False)
    sites = {name: site for name, site in bare.sites.items() if is_parameter(site)}
    free = [name for name, site in sites.items() if not site["is_observed"]]
    fixed = conditions(model)
    if set(fixed) != set(sites) - set(free):
        raise DataError(f"it holds sites fixed that are not the model's: {shortened(sorted(fixed))}.")
    priors = {name: sites[name]["fn"] for name in (*free, *fixed)}
    _check_values({**params, **fixed}, priors)
    _check_inside(params, priors)
    if len({value.dtype for value in params.values()}) != 1:
        raise DataError("its estimates need one dtype.")
    return {name: params[name] for name in free}, bare


def _check_values(values: Mapping[str, Tensor], priors: Mapping[str, Any]) -> None:
    """Raise DataError unless each value has the shape of its prior, and is on its support."""
    needed = {name: tuple(prior.shape()) for name, prior in priors.items()}
    found = {name: tuple(value.shape) for name, value in values.items()}
    if set(needed) != set(found):
        raise DataError(
            f"its estimates have the shapes {shortened(found)}; the model needs {shortened(needed)}."
        )
    for name, shape in needed.items():
        if found[name] != shape:
            raise DataError(
                f"the estimate of `{name}` has the shape {found[name]}; the model needs the shape {shape}."
            )
    for name, prior in priors.items():
        if not bool(prior.support.check(values[name]).all()):
            raise DataError(f"the estimate of `{name}` is outside its support, which is {prior.support}.")


def _check_inside(params: Mapping[str, Tensor], priors: Mapping[str, Any]) -> None:
    """Raise DataError where an estimate is an end of its support, as a scale of 0 is: no fit comes there."""
    for name, value in params.items():
        if not bool(torch.isfinite(biject_to(priors[name].support).inv(value)).all()):
            raise DataError(
                f"the estimate of `{name}` is an end of its support: {shortened(value.tolist())}."
            )


def _at_estimates(model: Model, data: Data, params: Mapping[str, Tensor]) -> Run:
    """The model run at its estimates."""
    values = {**params, RESPONSE: data.y}  # None is drawn, which may take long where estimates are absurd.
    try:
        with torch.no_grad():
            return run(model, data, Run(values), response=False)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"its estimates give `y` no distribution: {shortened(reason)}.") from None


def _check_names(
    at: Run, outputs: Mapping[str, tuple[str, ...]], responses: tuple[str, ...], formula: Design | None
) -> None:
    """Check the names of outputs and responses against the model and the formula."""
    needed = {call.name: len(call.outputs) for call in at.affines if call.outputs is not None}
    found = {name: len(names) for name, names in outputs.items()}
    if found != needed:
        raise wrong("outputs", f"names of as many outputs as {needed}", found)
    shape = at.sites[RESPONSE]["fn"].event_shape
    if responses and tuple(shape) != (len(responses),):
        raise wrong("responses", f"the names of {shape[0] if shape else 'no'} components", responses)
    if formula is not None:
        _check_response(formula, tuple(shape), responses)


def _check_response(formula: Design, shape: tuple[int, ...], responses: tuple[str, ...]) -> None:
    """Raise DataError unless the model has as many responses as the formula, of the same names."""
    names = formula.response.columns if len(formula.response.columns) > 1 else ()
    if responses not in ((), names):
        raise wrong("responses", f"those of the formula, {shortened(names)}", responses)
    if names and shape != (len(names),):
        raise wrong("formula", f"one of {shape[0] if shape else 1} responses", formula.formula)
