"""Fits and posteriors as ArviZ's data structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.arguments import whole
from neglog.bayes.sampling import Posterior
from neglog.conversion import as_numpy
from neglog.data import Data
from neglog.errors import DataError, ModelError, reason_of
from neglog.fitting.fit import Fit, data_of
from neglog.isolation import isolated
from neglog.objective.objective import Objective
from neglog.prediction.predictive import drawn_from_prior, posterior_predictive, responses, row_log_likelihood
from neglog.predictors import RESPONSE, design_keys
from neglog.tracing import Affine

Groups = dict[str, dict[str, np.ndarray]]
TERM, ROW, RESPONSES = "term", "observation", "response"


@isolated
def to_arviz(result: Fit | Posterior, *, draws: int = 500, seed: int = 0) -> Any:
    """A posterior or a fit for ArviZ: `az.summary`, `az.loo`, `az.compare`, `az.plot_ppc` and the rest.

    Groups: posterior, log_likelihood (of each row, without its weight), posterior_predictive, observed_data,
    constant_data (designs, weights, keywords); for a posterior also sample_stats, and prior and
    prior_predictive unless a prior is flat. The dimension ``term`` is labelled by the names of the columns,
    ``observation`` by the numbers of the rows. (The figures of ArviZ 1.x reserve the names row and column.)

    A fit is a single draw, its estimates, and `draws` responses at them. It has no uncertainty of the
    parameters: `az.plot_ppc` works on it, `az.loo` does not.

    Args:
        result: a result of `posterior`, `mle` or `map_estimate`.
        draws: number of draws from the prior, and of responses of a fit.
        seed: the seed of these draws.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        ModelError: `result` is neither a fit nor a posterior; `draws` is not a positive whole number.
        DataError: the fit was read from disk, without its data.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> found = to_arviz(mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)))
    >>> found["posterior"]["mean.weight"].dims
    ('chain', 'draw', 'term')
    """
    if not isinstance(result, Fit | Posterior):
        raise ModelError(
            f"`to_arviz` takes a fit or a posterior; it is {type(result).__name__}. For samples of Pyro "
            "see `from_pyro`."
        )
    draws = whole("draws", draws)
    if isinstance(result, Fit):
        data_of(result, "`to_arviz`")
        objective = result.objective
        assert objective is not None
        values = {name: value[None, None] for name, value in result.params.items()}
        one = {name: value[0] for name, value in values.items()}
        drawn = {name: value.expand(draws, *value.shape[1:]) for name, value in one.items()}
        y = responses(objective.model, objective.data, drawn, seed)[None]
        groups: Groups = {}
    else:
        objective = result.objective_for("`to_arviz`")
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

    Empty arrays, such as the weights of no columns, are left out: ArviZ cannot summarise them.
    """
    import arviz

    from_dict: Any = arviz.from_dict
    groups = {name: {key: v for key, v in group.items() if v.size} for name, group in groups.items()}
    try:
        if int(arviz.__version__.partition(".")[0]) < 1:
            return from_dict(**groups, dims=dims, coords=coords)
        return from_dict(groups, dims=dims, coords=coords)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"ArviZ refuses the names of `dims` and `coords`: {reason_of(error)}.") from error


def arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as NumPy arrays."""
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
    """Variable -> the names of its dimensions, and dimension -> its labels."""
    axes = _Axes()
    axes.add_rows(objective)
    axes.add_response(objective.data)
    for call in objective.calls:
        axes.add_predictor(objective, call)
    for name, site in objective.sites.items():
        axes.add_site(name, len(site.shape))
    return axes.dims, axes.coords


@dataclass
class _Axes:
    """Variable -> the names of its dimensions, and dimension -> its labels, as ArviZ takes them."""

    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)

    def add_rows(self, objective: Objective) -> None:
        """The designs, weights and keywords of the rows."""
        data = objective.data
        self.coords[ROW] = [data.row(i) for i in range(data.rows)]
        self.dims |= {name: [ROW] for name in _constants(objective)}
        for key, names in data.columns.items():
            term = f"{key}_{TERM}" if key else TERM
            self.coords[term] = list(names)
            self.dims[f"x_{key}" if key else "x"] = [ROW, term]

    def add_response(self, data: Data) -> None:
        self.dims[RESPONSE] = [ROW]
        if data.y.dim() == 2:
            self.dims[RESPONSE].append(RESPONSES)
            self.coords[RESPONSES] = list(data.responses) or list(range(data.y.shape[1]))

    def add_predictor(self, objective: Objective, call: Affine) -> None:
        """The coefficients of a predictor, along the terms of its design and its outputs."""
        outputs = [] if call.outputs is None else [f"{call.name}_output"]
        if outputs:
            self.coords[outputs[0]] = list(call.output_names(objective.data))
        columns = call.column_names(objective.data)
        designs = [f"{key}_{TERM}" for key in design_keys(call.name)] + [TERM]  # `scale` for `log_scale`
        term = next((name for name in designs if self.coords.get(name) == columns), f"{call.name}_{TERM}")
        self.coords[term] = columns
        self.dims[f"{call.name}.weight"] = [*outputs, term]
        self.dims[f"{call.name}.bias"] = outputs

    def add_site(self, name: str, dimensions: int) -> None:
        """Numbered dimensions of a site, unless it has a name for each already."""
        names = self.dims.get(name)
        if names is None or len(names) != dimensions:
            self.dims[name] = [f"{name}_{j}" for j in range(dimensions)]
