"""ArviZ: fits and posteriors as what ArviZ works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.arguments import whole
from neglog.bayes.posterior import Posterior
from neglog.conversion import as_numpy
from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit, data_of
from neglog.isolation import isolated
from neglog.objective.objective import Objective
from neglog.prediction.predictive import drawn_from_prior, posterior_predictive, responses, row_log_likelihood
from neglog.predictors import RESPONSE, design_keys

Groups = dict[str, dict[str, np.ndarray]]
TERM, ROW, RESPONSES = "term", "observation", "response"


@isolated
def to_arviz(result: Fit | Posterior, *, draws: int = 500, seed: int = 0) -> Any:
    """A posterior or a fit for ArviZ: `az.summary`, `az.loo`, `az.compare`, `az.plot_ppc` and the rest.

    Groups: posterior, log_likelihood (of each row, without its weight), posterior_predictive, observed_data,
    constant_data (designs, weights, keywords); of a posterior sample_stats, and prior and prior_predictive
    unless a prior is flat. Along ``term`` stand the names of the columns, along ``observation`` the numbers
    of the rows. (ArviZ 1.x has dimensions called row and column of its own, in its pictures.)

    A fit is one draw, its estimates, and `draws` responses at them: no doubt about the parameters is in it,
    so that `az.plot_ppc` works on it and `az.loo` has nothing to work on.

    Args:
        result: what `posterior`, `mle` or `map_estimate` gave.
        draws: draws from the prior, and responses of a fit.
        seed: of the draws that are made here.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        ModelError: neither a fit nor a posterior; `draws` is not a positive whole number.
        DataError: a fit that was read from disk, without its data.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> found = to_arviz(mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)))
    >>> found["posterior"]["mean.weight"].dims
    ('chain', 'draw', 'term')
    """
    if not isinstance(result, Fit | Posterior):
        raise ModelError(
            f"`to_arviz` takes a fit or a posterior; this is {type(result).__name__}. For what Pyro sampled "
            "there is `from_pyro`."
        )
    draws = whole("draws", draws)
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
        groups = {"sample_stats": arrays(result.stats)} | _priors(objective, draws, seed)
    groups |= {
        "posterior": arrays(values),
        "log_likelihood": {RESPONSE: _log_likelihood(objective, values)},
        "posterior_predictive": arrays({RESPONSE: y}),
        "observed_data": arrays({RESPONSE: objective.data.y}),
        "constant_data": arrays(_constants(objective)),
    }
    dims, coords = _dimensions(objective)
    return assembled(groups, dims, coords)


def assembled(groups: Groups, dims: Mapping[str, list[str]], coords: Mapping[str, Any]) -> Any:
    """Groups of arrays as the installed ArviZ takes them: by keyword before 1.0, as one mapping since.

    What has no numbers, such as the weights of no columns, is left out: ArviZ cannot summarise it.
    """
    import arviz

    from_dict: Any = arviz.from_dict
    groups = {name: {key: v for key, v in group.items() if v.size} for name, group in groups.items()}
    try:
        if int(arviz.__version__.partition(".")[0]) < 1:
            return from_dict(**groups, dims=dims, coords=coords)
        return from_dict(groups, dims=dims, coords=coords)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"ArviZ refuses the names of `dims` and `coords`: {error}") from error


def arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as NumPy has them."""
    return {name: as_numpy(value) for name, value in values.items()}


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
    return {"prior": arrays(found.draws), "prior_predictive": arrays({RESPONSE: found.y})}


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
        dimension = f"{key}_{TERM}" if key else TERM
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
        own = [f"{key}_{TERM}" for key in design_keys(call.name)] + [TERM]  # `scale` for `log_scale`
        dimension = next((d for d in own if coords.get(d) == columns), f"{call.name}_{TERM}")
        coords[dimension] = columns
        dims[f"{call.name}.weight"] = [*many, dimension]
        dims[f"{call.name}.bias"] = many
    shapes = {name: len(site.shape) for name, site in objective.sites.items()}
    known = {name: of for name, of in dims.items() if name not in shapes or len(of) == shapes[name]}
    numbered = {
        name: [f"{name}_{j}" for j in range(length)] for name, length in shapes.items() if name not in known
    }
    return known | numbered, coords
