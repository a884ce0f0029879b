"""Networks whose outputs are the parameters of a likelihood, as regressors of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pyro
import torch
from sklearn.utils import Tags
from torch import Tensor, nn

from neglog.arguments import shown
from neglog.calls import public
from neglog.errors import ModelError, RemedyWarning, UnboundedLikelihoodError, warn
from neglog.estimators.base import response_values, validated
from neglog.estimators.regressor import LikelihoodRegressor
from neglog.estimators.remedies import Remedied, Roles, roles
from neglog.estimators.rows import Array, Rows
from neglog.fitting.estimates import map_estimate, mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model, flat, on_features
from neglog.inputs.given import offset_model
from neglog.modes import InMode
from neglog.solvers import LBFGS

HIDDEN_UNITS = 16
"""The units of the hidden layer of the network that is built where none is given."""
TRUNK = "trunk"
NETWORK_SCALE_FLOOR = 0.1
"""The scale, in standard deviations of y, where a network can fit every row exactly."""


@public
class Standardised(nn.Module):
    """A network on standardised columns, `(x - centre) / unit`.

    Args:
        module: from the standardised columns to features.
        columns: the number of columns; `centre` and `unit` are buffers, here 0 and 1.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, module: nn.Module, columns: int) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("centre", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("unit", torch.ones(columns, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The features `(N, F)` of rows `(N, P)`."""
        features: Tensor = self.module(((x - self.centre) / self.unit).to(x.dtype))
        return features


@public
class NetworkRegressor(LikelihoodRegressor):
    """A network with a linear head for each parameter of a likelihood, as a regressor of scikit-learn.

    Columns, and a real response, are standardised before the fit, so that the priors of the network and of
    the model are in their units; parameters of the heads are stored in units of y. `module_` is the network
    with its standardisation, `Standardised`: ``load(save(net.fit_, folder), module=net.module_)``.

    Args:
        module: a `torch.nn.Module` from the standardised columns to features; or a function from the number
            of columns to one; by default a hidden layer of `HIDDEN_UNITS` units with tanh.
        model: the model whose predictors are linear in the features.
        method: ``"map"``, with the priors of the network and of the model, or ``"mle"``.
        settings, solver: as for `LikelihoodRegressor`; by default `LBFGS` with at most `max_iter` steps.
        max_iter: the number of steps; with fewer than an optimum needs, training stops early.
        random_state: the seed of the weights of a network that is built.
    """

    _of_classes = "map_estimate(on_features(models.{}, module), x, y), whose y are labels"

    def __init__(
        self,
        module: Any = None,
        model: Any = "heteroscedastic",
        method: str = "map",
        *,
        settings: Mapping[str, Any] | None = None,
        solver: Any = None,
        max_iter: int = 200,
        random_state: int = 0,
    ) -> None:
        super().__init__(model, method, settings=settings, solver=solver)
        self.module = module
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        exposure: Any = None,
        offset: Any = None,
        trials: Any = None,
    ) -> Self:
        """Fit the network and its heads."""
        self._check_response()
        X, y = validated(self, X, y, dtype=np.float64, y_numeric=True)
        given = {"exposure": exposure, "offset": offset, "trials": trials}
        rows = self._checked_rows(X, response_values(y), sample_weight, given)
        known = roles(self._model(), rows.keywords)
        self._location, self._outputs = (None if known is None else known.location), 1
        self.module_ = Standardised(self._built(X.shape[1]), X.shape[1])
        mean, deviation = rows.moments(rows.x)
        self.module_.centre.copy_(torch.from_numpy(mean))
        self.module_.unit.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1.0)))
        return self._fit_rows(on_features(self._model(), self.module_, name=TRUNK), rows, known)

    def _built(self, columns: int) -> nn.Module:
        """The network at its initial weights: a copy of the one that was given."""
        if isinstance(self.module, nn.Module):
            return deepcopy(self.module)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.random_state)
            if self.module is None:
                return nn.Sequential(nn.Linear(columns, HIDDEN_UNITS), nn.Tanh())
            if not callable(self.module):
                raise ModelError(
                    "`module` must be a torch.nn.Module, or a function from the number of columns to one; it "
                    f"is {shown(self.module)}. The likelihood is `model`: NetworkRegressor(model='poisson')."
                )
            built = self.module(columns)
        if not isinstance(built, nn.Module):
            raise ModelError(f"`module` must give a torch.nn.Module; it gave {type(built).__name__}.")
        return built

    def _fit_rows(self, model: Model, rows: Rows, known: Roles | None = None) -> Self:
        self._check_method()
        shift, unit, y, keywords = 0.0, 1.0, rows.y, dict(rows.keywords)
        if self._location is not None:
            without = replace(rows, y=y - keywords.get("offset", 0.0))
            shift, unit = float(without.moments(without.y)[0]), float(without.spread())
            y = (y - shift) / unit
            keywords |= {"offset": keywords["offset"] / unit} if "offset" in keywords else {}
        estimate = mle if self.method == "mle" else map_estimate
        solver = LBFGS(max_steps=self.max_iter) if self.solver is None else self.solver

        def fit_to(model: Model) -> Fit:
            return estimate(model, rows.x, y, weights=rows.weights, solver=solver, **keywords)

        remedy = ""
        try:
            fit = fit_to(model)
        except UnboundedLikelihoodError as error:
            remedy = f"the scale at its floor, {NETWORK_SCALE_FLOOR:g} standard deviations of y"
            warn(f"{str(error).partition('. ')[0].rstrip('.')}. Fitted with {remedy}.", RemedyWarning)
            held = self._floors(known)
            fit = fit_to(pyro.condition(model, data=held))
            fit = replace(fit, params={**fit.params, **held})
        params = dict(fit.params)
        if known is not None:
            params = _in_units(params, known, shift, unit)
        self._store(fit)
        return self._keep(Remedied(fit, remedy), rows, params, fit.nll + fit.n * float(np.log(unit)))

    @torch.no_grad()
    def _floors(self, known: Roles | None) -> dict[str, torch.Tensor]:
        """Values of the parameters of the scale, in standardised units, at which it is at its floor."""
        if known is None:
            return {}
        first = next(self.module_.parameters())
        features = self.module_.module(first.new_zeros((2, self.n_features_in_))).shape[1]
        held = {name: np.full_like(value, NETWORK_SCALE_FLOOR) for name, value in known.scales.items()}
        for name, power in known.log_scales.items():
            held[f"{name}.weight"] = np.zeros(features)
            held[f"{name}.bias"] = np.array(power * np.log(NETWORK_SCALE_FLOOR))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in held.items()}

    def _store(self, fit: Fit) -> None:
        """Write the weights and the buffers of the fit to `module_`, in evaluation mode."""
        found = {**fit.params, **fit.buffers}
        keys = {f"{TRUNK}.{key}": key for key in self.module_.state_dict()}
        state = {key: found[site] for site, key in keys.items() if site in found}
        self.module_.load_state_dict(state, strict=False)
        self.module_.eval()

    def _flat_model(self, fit: Fit, rows: Rows) -> Model:
        prefix = f"{TRUNK}."
        buffers = {key.removeprefix(prefix): value for key, value in fit.buffers.items()}
        network = on_features(self._model(), self.module_, name=TRUNK)
        model: Model = InMode(False, {TRUNK: buffers})(flat(offset_model(network, rows.keywords)))
        return model

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags

    def _part(self, part: str) -> Array:
        raise AttributeError(f"a network has no coefficients of its columns; see `params_` ({part}).")


def _in_units(params: Mapping[str, Tensor], known: Roles, shift: float, unit: float) -> dict[str, Tensor]:
    """Parameters for y from those for (y - shift) / unit."""
    found = dict(params)
    for name in known.scales:
        found[name] = found[name] * unit
    for name, power in known.log_scales.items():
        found[f"{name}.bias"] = found[f"{name}.bias"] + power * np.log(unit)
    if known.location is not None:
        found[f"{known.location}.weight"] = found[f"{known.location}.weight"] * unit
        found[f"{known.location}.bias"] = found[f"{known.location}.bias"] * unit + shift
    return found
