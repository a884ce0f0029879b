"""The result of a fit: a frozen value."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyro
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor, nn

from neglog.aliases import former_attribute
from neglog.arguments import text
from neglog.calls import public
from neglog.conversion import ALL
from neglog.data import Data
from neglog.designs import Columns
from neglog.errors import DataError, ModelError
from neglog.fitting.retained import Retained
from neglog.guides import Delta
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.persistence import AsDocument
from neglog.predictors import design_keys
from neglog.solvers import Epoch

if TYPE_CHECKING:
    import pandas as pd

FUNCTIONS = {
    "predict": "neglog.predict(fit, x).mean",
    "get_prediction": "neglog.interval(fit, x)",
    "predict_proba": "neglog.class_probabilities(fit, x)",
    "summary": "neglog.summary(fit)",
    "conf_int": "neglog.summary(fit), which has lower and upper",
    "bse": "neglog.summary(fit)['std_error']",
    "pvalues": "neglog.summary(fit)['p_value']",
    "cov_params": "neglog.covariance(fit)",
    "llf": "-fit.nll",
    "loglik": "-fit.nll",
    "fittedvalues": "neglog.predict(fit, x).mean, with the rows of the fit",
    "resid": "y - neglog.predict(fit, x).mean",
    "score": "neglog.scores(fit, x, y)",
    "coef_": "fit.params",
    "intercept_": "fit.params",
    "coef": "fit.params",
    "save": "neglog.save(fit, folder)",
    "state_dict": "dict(fit.params)",
    "parameters": "fit.params.values()",
    "forward": "neglog.predict(fit, x)",
    "sample": "neglog.predict(fit, x).sample()",
    "log_prob": "neglog.log_likelihood(fit, x, y)",
    "plot": "neglog.plots",
    "bootstrap": "neglog.bootstrap(fit)",
    "wald_test": "neglog.wald_test(fit, 'x1 = 0')",
}
"""Methods and attributes of other libraries -> what to write."""


@public
@dataclass(frozen=True, eq=False)
class Fit(AsDocument):
    """The result of a fit, a frozen value.

    Attributes:
        model: what was fitted, ``flat(model)`` for `mle`.
        params: site name -> estimate, on its own support, in the user's units.
        nll: minus the log-likelihood of the rows, in nats, with weights and every constant.
        loss: the SVI loss: `nll` for `mle`, `nll` minus the log prior for `map_estimate`.
        converged: whether the solver certified an optimum; `status` describes how, or why not.
        n_iter: the number of iterations of the solver.
        n: the number of observations, the sum of the weights.
        k: the number of free parameters, without those exactly at the corner of their prior.
        keywords: the names of row-wise arguments, such as ``("exposure",)``.
        columns: the names of the design columns, by key of `x` (``""`` where `x` is one design for all).
        outputs: predictor -> the names of its outputs, where it has many: ``("mean[a]", "mean[b]")``.
        responses: the names of the columns of `y`, where it has many and they have names.
        losses: the loss step by step.
        epochs: of a training, what was known at the end of each epoch: `neglog.solvers.Epoch`.
        held_out: of a training with `validation`, minus the mean log-likelihood of the held-out rows, in nats
            a row; else None.
        trained_on: the objective of training, such as `beta_nll`, where it is no likelihood; else empty.
        buffers: of a network, its buffers and frozen parameters under the names of its sites, such as the
            running statistics of BatchNorm, which a fit in training mode has learned.
        objective: the loss as a function of one vector, with the data; None for a fit read from disk.
        coordinates: the problem that the solver saw; None for a fit read from disk.
        groups: the group of each row, for covariances and the bootstrap, or None.
        blueprint: what was learned of the table of a formula, by which new tables are read; None without.
        retained: of a fit read from disk, the covariances of its estimates; else None.
    """

    model: Model = field(repr=False)
    params: Mapping[str, Tensor]
    nll: float
    loss: float
    converged: bool
    status: str
    n_iter: int
    n: float
    k: int
    keywords: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict, repr=False)
    outputs: Columns = field(default_factory=dict, repr=False)
    responses: tuple[str, ...] = ()
    losses: tuple[float, ...] = field(default=(), repr=False)
    epochs: tuple[Epoch, ...] = field(default=(), repr=False)
    held_out: float | None = field(default=None, repr=False)
    trained_on: str = field(default="", repr=False)
    buffers: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    objective: Objective | None = field(default=None, repr=False, compare=False)
    coordinates: Coordinates | None = field(default=None, repr=False, compare=False)
    groups: Any = field(default=None, repr=False, compare=False)
    blueprint: Blueprint | None = field(default=None, repr=False, compare=False)
    retained: Retained | None = field(default=None, repr=False, compare=False)

    steps = former_attribute("steps", "n_iter")

    if not TYPE_CHECKING:  # for type checkers, any attribute would exist

        def __getattr__(self, name):
            """Raise AttributeError, with the function of neglog where other libraries have a method."""
            call = FUNCTIONS.get(name)
            remedy = f"; write {call}" if call else ""
            raise AttributeError(f"'Fit' object has no attribute {name!r}{remedy}", name=name, obj=self)

    @property
    def history(self) -> pd.DataFrame:
        """The epochs of a training, or the steps of another solver, one row each.

        Columns: `epoch`, `steps` so far, `training_loss` and `validation_loss` in nats a row, `learning_rate`
        and `seconds`; NaN where there is no such number.
        """
        import pandas as pd

        rows: Iterable[tuple[Any, ...]] = self.epochs or (
            (step, step, loss / self.rows, math.nan, math.nan, math.nan)
            for step, loss in enumerate(self.losses, 1)
        )
        return pd.DataFrame(rows, columns=list(Epoch._fields)).astype(dict.fromkeys(Epoch._fields[2:], float))

    @property
    def rows(self) -> int:
        """The number of rows of the data, each counted once."""
        return round(self.n) if self.objective is None else self.objective.rows

    @property
    def module(self) -> nn.Module:
        """A copy of the network with the weights and buffers of the fit, in evaluation mode.

        Its heads are not in it: they are linear predictors of the model.

        Raises:
            ModelError: the model is no network of `on_features`.
        """
        network = next((layer for layer in layers(self.model) if hasattr(layer, "trainable")), None)
        if network is None:
            raise ModelError("this fit has no network; its estimates are fit.params.")
        module: nn.Module = copy.deepcopy(network.module)
        prefix = f"{network.name}."
        known = {**self.params, **self.buffers}
        state = {key.removeprefix(prefix): value for key, value in known.items() if key.startswith(prefix)}
        dtype = next(iter(self.params.values())).dtype
        module.to(dtype).load_state_dict(state, strict=False)
        return module.eval()

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels of the classes of the response, in the order of their codes; none of numbers."""
        return () if self.blueprint is None else self.blueprint.classes

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2k + 2 nll."""
        check_maximum_likelihood(self)
        return 2 * self.k + 2 * self.nll

    @property
    def aicc(self) -> float:
        """Akaike's criterion for few rows, aic + 2k (k + 1) / (n - k - 1); infinite for n ≤ k + 1.

        Source: Hurvich & Tsai (1989), Regression and time series model selection in small samples.
        """
        left = self.n - self.k - 1
        return self.aic + 2 * self.k * (self.k + 1) / left if left > 0 else math.inf

    @property
    def bic(self) -> float:
        """Schwarz's Bayesian information criterion, k log n + 2 nll."""
        check_maximum_likelihood(self)
        return self.k * math.log(self.n) + 2 * self.nll

    def terms(self, predictor: str) -> tuple[str, ...] | None:
        """The names of the columns that a linear predictor of this name has, or None if it has none."""
        for key in (*design_keys(text("predictor", predictor)), ALL):
            if key in self.columns:
                return self.columns[key]
        return None

    @property
    @isolated
    def guide(self) -> Delta:
        """A new `AutoDelta` (`neglog.guides.Delta`) of `model` at the optimum."""
        values = {name: value.clone() for name, value in self.params.items()}
        guide = Delta(self.model, init_loc_fn=init_to_value(values=values))
        if self.objective is not None:
            data = self.objective.data
            with pyro.get_param_store().scope():
                guide(data.x, data.y, **data.keywords)
        return guide

    def __copy__(self) -> Fit:
        return self

    def __deepcopy__(self, memo: Any) -> Fit:
        """An equal fit whose estimates are tensors of its own; rows, which nothing changes, are shared."""
        return replace(self, params=_cloned(self.params), buffers=_cloned(self.buffers))


def _cloned(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return MappingProxyType({name: value.clone() for name, value in tensors.items()})


def check_maximum_likelihood(fit: Fit) -> None:
    """Refuse a fit that was trained on another objective than the likelihood.

    Raises:
        ModelError: naming the objective.
    """
    if fit.trained_on:
        raise ModelError(
            f"`{fit.trained_on}` is no likelihood, so there are no information criteria, tests or standard "
            "errors; compare by the scores of held-out rows, or fit the model alone."
        )


def check_fit(fit: Any) -> Fit:
    """Return a fit unchanged.

    Raises:
        ModelError: it is not a fit.
    """
    if not isinstance(fit, Fit):
        own = "; take its `fit_`" if isinstance(getattr(fit, "fit_", None), Fit) else ""
        raise ModelError(
            f"`fit` must be a result of `mle` or `map_estimate`, not of type {type(fit).__name__}{own}."
        )
    return fit


def data_of(fit: Fit, needed_by: str = "this computation") -> Data:
    """The data of a fit, which is `needed_by` some computation.

    Raises:
        ModelError: it is not a fit.
        DataError: the fit was read from disk, which does not keep them.
    """
    check_fit(fit)
    if fit.objective is None:
        if fit.retained is not None and fit.retained.source:
            raise DataError(
                f"{needed_by} needs the rows of the fit, and this one {fit.retained.source}, without them; "
                "give the rows as tensors."
            )
        raise DataError(
            f"{needed_by} needs the rows of the fit, and this one has none: it was read from disk, or is "
            "that of an estimator; fit the model again."
        )
    return fit.objective.data
