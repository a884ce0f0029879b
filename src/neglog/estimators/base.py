"""The common part of the estimators: checks of rows, the state of a fit, and predictive distributions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from neglog.arguments import choice
from neglog.bayes.priors import priors_for
from neglog.calls import public
from neglog.errors import ModelError, NeglogError
from neglog.estimators.remedies import Remedied, maximum
from neglog.estimators.rows import Array, Rows
from neglog.fitting.estimates import map_estimate, mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model, flat, with_priors
from neglog.layers import declared_loss
from neglog.models.named import model_of
from neglog.prediction.predictions import log_likelihood, predict
from neglog.tracing import with_sizes

ROW_KEYWORDS = ("exposure", "offset", "trials")
"""The row-wise arguments of models that estimators pass on."""
ESTIMATION_METHODS = ("mle", "map")
OUTPUTS = ("default", "pandas")


@public
class LikelihoodEstimator(BaseEstimator):
    """A likelihood behind the interface of scikit-learn.

    After `fit` the state is plain arrays, so that estimators can be pickled, copied and sent to processes;
    the fit is rebuilt from them when it predicts.
    """

    def __init__(
        self,
        model: Any,
        method: str = "mle",
        *,
        settings: Mapping[str, Any] | None = None,
        priors: Any = None,
        solver: Any = None,
    ) -> None:
        self.model = model
        self.method = method
        self.settings = settings
        self.priors = priors
        self.solver = solver

    def set_output(self, *, transform: str | None = None) -> Self:
        """Whether tables are arrays, "default", or data frames with the index of X, "pandas"."""
        if transform is not None:
            self._output = choice("transform", transform, OUTPUTS)
        return self

    def _model(self) -> Model:
        """The model with its settings bound.

        Raises:
            ModelError: there is none of that name.
        """
        model = model_of(self.model)
        return partial(model, **self.settings) if self.settings else model

    def _checked_rows(self, x: Array, y: Array, sample_weight: Any, keywords: Mapping[str, Any]) -> Rows:
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
            if not bool((weights > 0).any()):
                raise ValueError("Sample weights must contain at least one non-zero number.")
        return Rows(x, y, weights, _row_keywords(x, keywords)).counted()

    def _fit_rows(self, model: Model, rows: Rows) -> Self:
        """Fit, and keep the result as arrays."""
        self._check_method()
        penalised = self._penalised(model, rows)
        estimate = mle if self.method == "mle" else map_estimate
        found = maximum(penalised, rows, estimate, solver=self.solver)
        return self._keep(model, found, rows)

    def _check_method(self) -> None:
        choice("method", self.method, ESTIMATION_METHODS)
        if self.method == "mle" and self.priors is not None:
            raise ModelError('`priors` are for method="map"; maximum likelihood has none.')

    def _penalised(self, model: Model, rows: Rows) -> Model:
        if self.priors is None:
            return model
        if isinstance(self.priors, str):
            choice("priors", self.priors, ("data",))
            found = priors_for(model, rows.x, rows.y, **rows.arguments)
            return with_priors(model, found)
        return with_priors(model, self.priors)

    def _keep(self, model: Model, found: Remedied, rows: Rows) -> Self:
        fit = found.fit
        self.params_ = {name: value.numpy().copy() for name, value in fit.params.items()}
        self.nll_, self.loss_ = fit.nll, fit.loss
        self.converged_, self.status_, self.n_iter_ = fit.converged, fit.status, max(fit.n_iter, 1)
        self.remedy_ = found.remedy
        self._numbers: dict[str, Any] = {"n": fit.n, "k": fit.k, "keywords": tuple(rows.keywords)}
        return self

    def _sizes(self) -> Any:
        """A response with as many classes, or columns, as that of the fit."""
        return np.zeros(2)

    def _fitted(self) -> Fit:
        """The fit, rebuilt from arrays, without its rows."""
        check_is_fitted(self)
        params = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.params_.items()}
        return Fit(
            model=self._flat_model(),
            params=params,
            nll=self.nll_,
            loss=self.loss_,
            converged=self.converged_,
            status=self.status_,
            n_iter=self.n_iter_,
            columns={"": tuple(f"x{place}" for place in range(self.n_features_in_))},
            **self._numbers,
        )

    def _new_rows(self, X: Any, keywords: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return self._design(x), _row_keywords(x, keywords)

    def _design(self, x: Array) -> Array:
        """The design of new rows, as the fit takes it."""
        return x

    def _flat_model(self) -> Model:
        """The model of the fit, with flat priors and the sizes of its response."""
        return with_sizes(flat(self._model()), torch.as_tensor(self._sizes()))

    def predict_distribution(
        self, X: Any, *, exposure: Any = None, offset: Any = None, trials: Any = None
    ) -> Any:
        """The distribution of y for each row, a torch distribution of batch shape `(N,)`.

        For a classifier, that of the codes 0, ..., K - 1 of `classes_`.
        """
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        return predict(self._fitted(), x, **keywords)

    def log_score(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        exposure: Any = None,
        offset: Any = None,
        trials: Any = None,
    ) -> float:
        """The mean of log p(y | x) over the rows, in nats: the higher, the better."""
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        found = log_likelihood(self._fitted(), x, self._response(y), **keywords).numpy()
        check_consistent_length(x, found)
        return float(np.average(found, weights=sample_weight))

    def _response(self, y: Any) -> Array:
        """A response as the model takes it."""
        return np.asarray(y, dtype=np.float64)

    def _table(self, values: Array, X: Any, names: Iterable[Any]) -> Any:
        """An array `(N, C)`, or a data frame with the index of X, as `set_output` requires."""
        if getattr(self, "_output", "default") == "default":
            return values
        import pandas as pd

        return pd.DataFrame(values, columns=list(names), index=getattr(X, "index", None))


def _row_keywords(x: Array, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The row-wise arguments that were given, `(N,)` each."""
    found = {}
    for name, values in keywords.items():
        if values is not None:
            found[name] = np.asarray(values, dtype=np.float64)
            check_consistent_length(x, found[name])
    return found


def response_of(model: Any) -> str | None:
    """The kind of response that a model of neglog declares; None of others, and of names of no model."""
    try:
        declared = declared_loss(model_of(model))
    except NeglogError:
        return None
    return None if declared is None else declared.response
