"""Likelihoods of classes as classifiers of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from neglog.calls import public
from neglog.distributions.family import family_of
from neglog.errors import DataError, ModelError
from neglog.estimators.base import LikelihoodEstimator, response_of, validated
from neglog.estimators.rows import Array
from neglog.models.named import model_of
from neglog.prediction.classes import class_probabilities
from neglog.prediction.intervals import quantile
from neglog.prediction.predictions import predict
from neglog.tracing import model_name

OF_CLASSES = ("0 or 1", "class")
"""The responses that are classes, as models declare them."""


@public
class LikelihoodClassifier(ClassifierMixin, LikelihoodEstimator):
    """A likelihood of classes as a classifier of scikit-learn."""

    def __init__(
        self,
        model: Any = "categorical",
        method: str = "mle",
        *,
        settings: Mapping[str, Any] | None = None,
        priors: Any = None,
        solver: Any = None,
    ) -> None:
        super().__init__(model, method, settings=settings, priors=priors, solver=solver)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None) -> Self:
        """Fit the model to labels of any kind."""
        model = self._model()
        ordered = _categories(y)
        self._check_classes()
        X, y = validated(self, X, y, dtype=np.float64)
        y = column_or_1d(y)
        check_classification_targets(y)
        if self._is_binary() and type_of_target(y) == "multiclass":
            raise DataError(
                "Only binary classification is supported. The type of the target is multiclass: take "
                'model="categorical", or "ordinal" if the classes have an order.'
            )
        rows = self._checked_rows(X, np.arange(len(y), dtype=np.float64), sample_weight, {"offset": offset})
        labels = y[rows.y.astype(int)]
        found = np.unique(labels)
        self.classes_ = found if ordered is None else np.array([each for each in ordered if each in found])
        if len(self.classes_) < 2:
            raise DataError(f"a classifier needs at least 2 classes; the data has one class: {found[0]!r}.")
        return self._fit_rows(model, replace(rows, y=self._response(labels)))

    def _check_classes(self) -> None:
        """Refuse a model of neglog whose response is no class.

        Raises:
            ModelError: naming those that are.
        """
        if response_of(self.model) not in (None, *OF_CLASSES):
            raise ModelError(
                f"`{model_name(model_of(self.model))}` is no model of classes; a classifier has "
                "model='bernoulli' (logistic regression), 'categorical' or 'ordinal'."
            )

    def _response(self, y: Any) -> Array:
        """The codes of labels.

        Raises:
            DataError: a label that the fit has not seen.
        """
        y = column_or_1d(y)
        order = np.argsort(self.classes_, kind="stable")
        place = np.searchsorted(self.classes_, y, sorter=order)
        codes = order[np.minimum(place, len(order) - 1)]
        unknown = self.classes_[codes] != y
        if bool(np.any(unknown)):
            row = int(np.argmax(unknown))
            raise DataError(f"`y` has the label {y[row]!r} in row {row}, which is not in `classes_`.")
        return codes.astype(np.float64)

    def _is_binary(self) -> bool:
        return response_of(self.model) == "0 or 1"

    def _sizes(self) -> Any:
        return np.arange(len(self.classes_), dtype=np.float64)

    def predict_proba(self, X: Any, *, offset: Any = None) -> Any:
        """The probability of each class, `(N, K)`, in the order of `classes_`."""
        x, keywords = self._new_rows(X, {"offset": offset})
        shares = class_probabilities(self._fitted(), x, **keywords).to_numpy()
        return self._table(shares / shares.sum(1, keepdims=True), X, self.classes_)

    def predict_log_proba(self, X: Any, *, offset: Any = None) -> Any:
        """The log-probability of each class, `(N, K)`, in the order of `classes_`."""
        with np.errstate(divide="ignore"):
            return self._table(np.log(np.asarray(self.predict_proba(X, offset=offset))), X, self.classes_)

    def predict_quantile(self, X: Any, q: float | Sequence[float] = 0.5, *, offset: Any = None) -> Any:
        """Quantiles of an ordered response: the first class up to which the probability is at least q.

        Raises:
            ModelError: the classes have no order.
        """
        x, keywords = self._new_rows(X, {"offset": offset})
        fit = self._fitted()
        response = predict(fit, x, **keywords)
        if self._is_binary() or not family_of(response).ordered:
            raise ModelError(
                "classes without an order have no quantiles or intervals; predict_proba has their "
                "probabilities, and model='ordinal' gives classes an order."
            )
        found = self.classes_[quantile(fit, x, q, **keywords).numpy().astype(int)]
        return found if found.ndim == 1 else self._table(found, X, list(np.ravel(q)))

    def predict_interval(self, X: Any, level: float = 0.95, *, offset: Any = None) -> Any:
        """The first and the last class of the central interval of an ordered response, `(N, 2)`.

        Raises:
            ModelError: the classes have no order.
        """
        found = self.predict_quantile(X, [0.5 - level / 2, 0.5 + level / 2], offset=offset)
        return self._table(np.asarray(found), X, ("lower", "upper"))

    @property
    def coef_(self) -> Array:
        """The coefficients of the columns, `(1, P)`; of K > 2 classes without an order `(K, P)`, those of the
        first class 0: log-odds against it."""
        return self._against_first(np.atleast_2d(self._part("weight")))

    @property
    def intercept_(self) -> Array:
        """The intercepts, `(1,)`; of K > 2 classes without an order `(K,)`, that of the first class 0."""
        return self._against_first(np.atleast_1d(self._part("bias")))

    def _against_first(self, found: Array) -> Array:
        is_several = 1 < len(found) == len(self.classes_) - 1
        return np.concatenate([np.zeros_like(found[:1]), found]) if is_several else found

    def predict(self, X: Any, *, offset: Any = None) -> Any:
        """The most probable class of each row."""
        shares = np.asarray(self.predict_proba(X, offset=offset))
        return self.classes_[np.argmax(shares, axis=1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = not self._is_binary()
        tags.classifier_tags.poor_score = self.model == "ordinal"
        return tags


def _categories(y: Any) -> list[Any] | None:
    """The categories of an ordered column in their order; None of any other."""
    dtype: Any = getattr(y, "dtype", None)
    return list(dtype.categories) if getattr(dtype, "ordered", False) else None
