"""Regressions by likelihood as regressors of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils import Tags

from neglog.arguments import share
from neglog.calls import public
from neglog.distributions.derived import mean_of, variance_of
from neglog.errors import ModelError
from neglog.estimators.base import LikelihoodEstimator, check_present, response_of, response_values, validated
from neglog.estimators.remedies import roles
from neglog.estimators.rows import Array
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.models.named import model_of
from neglog.prediction.intervals import quantile
from neglog.prediction.predictions import predict, rows_of
from neglog.tracing import Run, model_name, run

POSITIVE = ("positive", "count", "share")
"""The responses that are not negative, as models declare them."""
CLASS = "class"
"""The response of more than two classes, which is no number."""


@public
class LikelihoodRegressor(RegressorMixin, LikelihoodEstimator):
    """A likelihood of `neglog.models`, or one of your own, as a regressor of scikit-learn."""

    _of_classes = "LikelihoodClassifier('{}')"

    def __init__(
        self,
        model: Any = "gaussian",
        method: str = "mle",
        *,
        settings: Mapping[str, Any] | None = None,
        priors: Any = None,
        solver: Any = None,
    ) -> None:
        super().__init__(model, method, settings=settings, priors=priors, solver=solver)

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
        """Fit the model."""
        model = self._model()
        self._check_response()
        several = response_of(self.model) == "vector"
        X, y = validated(self, X, y, dtype=np.float64, y_numeric=True, multi_output=several)
        given = {"exposure": exposure, "offset": offset, "trials": trials}
        rows = self._checked_rows(X, response_values(y), sample_weight, given)
        self._outputs = 1 if y.ndim == 1 else y.shape[1]
        known = roles(model, rows.keywords) if y.ndim == 1 else None
        self._location = None if known is None else known.location
        return self._fit_rows(model, rows)

    def _check_response(self) -> None:
        """Raise ModelError for a model of classes."""
        if response_of(self.model) == CLASS:
            name = model_name(model_of(self.model))
            raise ModelError(f"`{name}` is a model of classes; take {self._of_classes.format(name)}.")

    def _sizes(self) -> Any:
        return np.zeros((2, self._outputs)) if response_of(self.model) == "vector" else np.zeros(2)

    @property
    def coef_(self) -> Array:
        """The coefficients of the columns in the location, `(P,)`; of the first predictor without one."""
        return self._part("weight")

    @property
    def intercept_(self) -> Any:
        """The intercept of the location; of the first predictor where there is none."""
        found = self._part("bias")
        return float(found) if found.ndim == 0 else found

    def predict(
        self,
        X: Any,
        return_std: bool = False,
        *,
        exposure: Any = None,
        offset: Any = None,
        trials: Any = None,
    ) -> Any:
        """What the optimum estimates: the location of a real response, such as the mean of ``gaussian``, the
        median of ``laplace`` and the quantile of ``quantile``; the mean of any other.

        With `return_std` there is also the standard deviation of y for each row, as of scikit-learn's
        Gaussian processes: a tuple of two arrays.
        """
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        fit = self._fitted()
        found = _centre(fit, self._location, x, keywords)
        return (found, variance_of(predict(fit, x, **keywords)).sqrt().numpy()) if return_std else found

    def score(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        exposure: Any = None,
        offset: Any = None,
        trials: Any = None,
    ) -> float:
        """R² of `predict`."""
        from sklearn.metrics import r2_score

        check_present(y)
        predicted = self.predict(X, exposure=exposure, offset=offset, trials=trials)
        return float(r2_score(y, predicted, sample_weight=sample_weight))

    def predict_quantile(
        self,
        X: Any,
        q: float | Sequence[float] = 0.5,
        *,
        exposure: Any = None,
        offset: Any = None,
        trials: Any = None,
    ) -> Any:
        """Quantiles of y for each row: `(N,)`, or `(N, Q)` for Q probabilities."""
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        found = quantile(self._fitted(), x, q, **keywords).numpy()
        return found if found.ndim == 1 else self._table(found, X, list(np.ravel(q)))

    def predict_interval(
        self, X: Any, level: float = 0.95, *, exposure: Any = None, offset: Any = None, trials: Any = None
    ) -> Any:
        """The central interval of y for each row, `(N, 2)`, of the distribution at the estimates."""
        level = share("level", level)
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        found = quantile(self._fitted(), x, [0.5 - level / 2, 0.5 + level / 2], **keywords).numpy()
        return self._table(found, X, ("lower", "upper"))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        declared = response_of(self.model)
        tags.target_tags.positive_only = declared in POSITIVE
        tags.target_tags.multi_output = declared == "vector"
        return tags


@isolated
def _centre(fit: Fit, location: str | None, x: Array, keywords: Mapping[str, Any]) -> Array:
    if location is None:
        return mean_of(predict(fit, x, **keywords)).numpy()
    data = rows_of(fit, x, keywords, predict)
    with torch.no_grad():
        found = run(fit.model, data, Run(fit.params), response=False)
    return next(call.value for call in found.affines if call.name == location).numpy()
