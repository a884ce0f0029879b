"""ArviZ: fits, posteriors and whatever Pyro samples, as what ArviZ works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, Predictive
from torch import Tensor

from neglog.errors import DataError, ModelError
from neglog.fit import Fit, data_of
from neglog.objective import Objective
from neglog.posterior import Posterior
from neglog.predictive import drawn_from_prior, posterior_predictive, responses, row_log_likelihood
from neglog.predictors import RESPONSE

Groups = dict[str, dict[str, np.ndarray]]
COLUMN, ROW, RESPONSES = "column", "row", "response"


def to_arviz(result: Fit | Posterior, *, draws: int = 500, seed: int = 0) -> Any:
    """A posterior or a fit for ArviZ: `az.summary`, `az.loo`, `az.compare`, `az.plot_ppc` and the rest.

    Groups: posterior, log_likelihood (of each row, without its weight), posterior_predictive, observed_data,
    constant_data (designs, weights, keywords); of a posterior sample_stats, and prior and prior_predictive
    unless a prior is flat. Dimensions are called after the columns of the design and the numbers of rows.

    A fit is one draw, its estimates, and `draws` responses at them: no doubt about the parameters is in it.

    Args:
        result: what `posterior`, `mle` or `map_estimate` gave.
        draws: draws from the prior, and responses of a fit.
        seed: of the draws that are made here.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        DataError: a fit that was read from disk, without its data.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> found = to_arviz(mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)))
    >>> found["posterior"]["mean.weight"].dims
    ('chain', 'draw', 'column')
    """
    data_of(result) if isinstance(result, Fit) else None
    objective = result.objective
    assert objective is not None
    if isinstance(result, Fit):
        values = {name: value[None, None] for name, value in result.params.items()}
        one = {name: value[0] for name, value in values.items()}
        drawn = {name: value.expand(draws, *value.shape[1:]) for name, value in one.items()}
        y = responses(objective.model, objective.data, drawn, seed)[None]
        groups: Groups = {}
    else:
        values, y = dict(result.draws), posterior_predictive(result, seed=seed)
        groups = {"sample_stats": _arrays(result.stats)} | _priors(objective, draws, seed)
    groups |= {
        "posterior": _arrays(values),
        "log_likelihood": {RESPONSE: _log_likelihood(objective, values)},
        "posterior_predictive": _arrays({RESPONSE: y}),
        "observed_data": _arrays({RESPONSE: objective.data.y}),
        "constant_data": _arrays(_constants(objective)),
    }
    dims, coords = _dimensions(objective)
    return assembled(groups, dims, coords)


def assembled(groups: Groups, dims: Mapping[str, list[str]], coords: Mapping[str, Any]) -> Any:
    """Groups of arrays as the installed ArviZ takes them: by keyword before 1.0, as one mapping since."""
    import arviz

    from_dict: Any = arviz.from_dict
    if int(arviz.__version__.partition(".")[0]) < 1:
        return from_dict(**groups, dims=dims, coords=coords)
    return from_dict(groups, dims=dims, coords=coords)


def _arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in values.items()}


def _log_likelihood(objective: Objective, values: Mapping[str, Tensor]) -> np.ndarray:
    sites = objective.sites
    shape = next(iter(values.values())).shape[:2]
    parts = [site.transform.inv(values[name]).reshape(*shape, -1) for name, site in sites.items()]
    theta = torch.cat(parts, -1).flatten(0, 1)
    found = row_log_likelihood(objective, theta)
    return found.reshape(*shape, *found.shape[1:]).numpy()


def _priors(objective: Objective, draws: int, seed: int) -> Groups:
    if any(site.masked for site in objective.sites.values()):
        return {}
    found = drawn_from_prior(objective.model, objective.data, draws, seed)
    return {"prior": _arrays(found.draws), "prior_predictive": _arrays({RESPONSE: found.y})}


def _constants(objective: Objective) -> dict[str, Tensor]:
    data = objective.data
    designs = {f"x_{key}": x for key, x in data.x.items()} if isinstance(data.x, Mapping) else {"x": data.x}
    weights = {} if data.weights is None else {"weights": data.weights}
    return designs | weights | dict(data.keywords)


def _dimensions(objective: Objective) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The names of the dimensions of each variable, and what stands along them."""
    data = objective.data
    coords: dict[str, Any] = {ROW: [data.row(i) for i in range(data.rows)]}
    dims: dict[str, list[str]] = {name: [ROW] for name in _constants(objective)}
    for key, names in data.columns.items():
        dimension = f"{key}_{COLUMN}" if key else COLUMN
        coords[dimension] = list(names)
        dims[f"x_{key}" if key else "x"] = [ROW, dimension]
    dims[RESPONSE] = [ROW]
    if data.y.dim() == 2:
        dims[RESPONSE].append(RESPONSES)
        coords[RESPONSES] = list(data.responses) or list(range(data.y.shape[1]))
    for call in objective.calls:
        many = [] if call.outputs is None else [f"{call.name}_output"]
        if many:
            coords[many[0]] = list(objective.output_names(call))
        columns = objective.column_names(call)
        dimension = next((d for d in _keys(data.columns) if coords[d] == columns), f"{call.name}_{COLUMN}")
        coords[dimension] = columns
        dims[f"{call.name}.weight"] = [*many, dimension]
        dims[f"{call.name}.bias"] = many
    shapes = {name: len(site.shape) for name, site in objective.sites.items()}
    known = {name: of for name, of in dims.items() if name not in shapes or len(of) == shapes[name]}
    numbered = {
        name: [f"{name}_{j}" for j in range(length)] for name, length in shapes.items() if name not in known
    }
    return known | numbered, coords


def _keys(columns: Mapping[str, Any]) -> list[str]:
    return [f"{key}_{COLUMN}" if key else COLUMN for key in columns]


def from_pyro(
    source: Any,
    *args: Any,
    model: Any = None,
    draws: int = 1000,
    posterior_predictive: Mapping[str, Tensor] | None = None,
    prior: Mapping[str, Tensor] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Any:
    """What Pyro sampled, for ArviZ, in any version of it.

    Args:
        source: a `pyro.infer.MCMC` that has run; or samples, site name -> `(S, *shape)`, as
            `pyro.infer.Predictive` gives them; or a guide, a function of `args`.
        args: the arguments of the model and of the guide, with the observations.
        model: the model; with it come log_likelihood and observed_data, of each observed site.
        draws: draws from a guide.
        posterior_predictive: site name -> draws `(S, ...)`, of the same number.
        prior: site name -> draws `(S, ...)`, of any number.
        dims: variable -> the names of its dimensions.
        coords: dimension -> what stands along it.
        keywords: the keywords of the model and of the guide.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        ModelError: `source` is something else, or has no samples.
        DataError: predictive draws of another number.
    """
    samples, groups = _samples(source, args, keywords, draws)
    chains, count = next(iter(samples.values())).shape[:2]
    groups["posterior"] = _arrays(samples)
    if posterior_predictive is not None:
        wrong = [name for name, value in posterior_predictive.items() if len(value) != chains * count]
        if wrong:
            raise DataError(
                f"`posterior_predictive` needs {chains * count} draws; {wrong[0]!r} has "
                f"{len(posterior_predictive[wrong[0]])}."
            )
        groups["posterior_predictive"] = {
            name: value.reshape(chains, count, *value.shape[1:])
            for name, value in _arrays(posterior_predictive).items()
        }
    if prior is not None:
        groups["prior"] = {name: value[None] for name, value in _arrays(prior).items()}
    if model is not None:
        groups |= _observed(model, args, keywords, samples)
    return assembled(groups, dict(dims or {}), dict(coords or {}))


def _samples(
    source: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], draws: int
) -> tuple[dict[str, Tensor], Groups]:
    """Site name -> samples `(chains, draws, *shape)`, and statistics of them where there are some."""
    if isinstance(source, MCMC):
        found = dict(source.get_samples(group_by_chain=True))
        chains, count = next(iter(found.values())).shape[:2]
        diverging = np.zeros((chains, count), dtype=bool)
        for chain, places in enumerate(source.diagnostics().get("divergences", {}).values()):
            diverging[chain, places] = True
        return found, {"sample_stats": {"diverging": diverging}}
    if callable(source):
        with torch.no_grad():
            sites = poutine.trace(source).get_trace(*args, **keywords).nodes
            drawn = Predictive(source, num_samples=draws)(*args, **keywords)
        source = {
            name: value
            for name, value in drawn.items()
            if name in sites and not sites[name]["infer"].get("is_auxiliary")
        }
    if not isinstance(source, Mapping) or not source:
        raise ModelError(
            "`source` must be a pyro.infer.MCMC, a guide, or samples (site name -> tensor); "
            f"it is {type(source).__name__}."
        )
    return {name: value[None] for name, value in source.items()}, {}


def _observed(
    model: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], samples: Mapping[str, Tensor]
) -> Groups:
    """The observed sites: their values, and the log-density of each at every draw."""
    shape = next(iter(samples.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in samples.items()}
    parts: dict[str, list[Tensor]] = {}
    for i in range(shape[0] * shape[1]):
        held = pyro.condition(model, data={name: value[i] for name, value in flat.items()})
        with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            trace = poutine.trace(held).get_trace(*args, **keywords)
        sites = {
            name: site
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and site["is_observed"] and name not in samples
        }
        for name, site in sites.items():
            if not poutine.util.site_is_subsample(site):
                parts.setdefault(name, []).append(site["fn"].log_prob(site["value"]))
    values = {name: trace.nodes[name]["value"] for name in parts}
    densities = {name: torch.stack(each).reshape(*shape, *each[0].shape) for name, each in parts.items()}
    return {"log_likelihood": _arrays(densities), "observed_data": _arrays(values)}
