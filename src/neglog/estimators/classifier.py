"""Likelihoods of classes as classifiers of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from neglog.calls import public
from neglog.errors import DataError
from neglog.estimators.base import LikelihoodEstimator, response_of
from neglog.estimators.rows import Array
from neglog.prediction.classes import class_probabilities


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
        X, y = validate_data(self, X, y, dtype=np.float64)
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
