"""Likelihoods of classes as classifiers of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from neglog import models
from neglog.arguments import share, shown
from neglog.calls import public
from neglog.distributions.family import family_of
from neglog.errors import DataError, ModelError
from neglog.estimators.base import LikelihoodEstimator, check_present, response_of, validated
from neglog.estimators.rows import Array
from neglog.inputs.frames import of_pandas
from neglog.layers import layers
from neglog.models.named import model_of
from neglog.prediction.classes import class_probabilities
from neglog.prediction.intervals import quantile
from neglog.prediction.predictions import predict
from neglog.tracing import model_name

OF_CLASSES = ("0 or 1", "class")
"""The responses that are classes, as models declare them."""
UNORDERED = (models.bernoulli, models.categorical)
"""The models of classes without an order."""


@public
class LikelihoodClassifier(ClassifierMixin, LikelihoodEstimator):
    """A likelihood of classes as a classifier of scikit-learn.

    `classes_`, and the columns of probabilities, are sorted, as scikit-learn requires. `ordered_classes_` are
    the classes in the order of the model: that of ordered categories, or of `order`.

    Args:
        order: the labels of an ordered response from the lowest to the highest. In `cross_val_predict` of
            probabilities, stacking, voting and bagging scikit-learn replaces labels by their places among the
            sorted labels, so ordered categories lose their order; `order` is kept there, too. It may have
            labels that the rows lack.
    """

    def __init__(
        self,
        model: Any = "categorical",
        method: str = "mle",
        *,
        settings: Mapping[str, Any] | None = None,
        priors: Any = None,
        solver: Any = None,
        order: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(model, method, settings=settings, priors=priors, solver=solver)
        self.order = order

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None) -> Self:
        """Fit the model to labels of any kind."""
        model = self._model()
        ordered = None if self._is_unordered() else _categories(y)
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
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            found = self.classes_[0]
            raise DataError(f"a classifier needs at least 2 classes; the data has one class: {found!r}.")
        self.ordered_classes_ = self._in_order(ordered)
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

    def _in_order(self, ordered: list[Any] | None) -> Any:
        """`classes_` in the order of the model.

        Args:
            ordered: the categories of the response in their order, if it has any.

        Raises:
            ModelError: `order` lacks a class.
        """
        if self.order is not None and not self._is_unordered():
            ordered = given_order(self.order, self.classes_)
        if ordered is None:
            return self.classes_
        return self.classes_[np.argsort([ordered.index(each) for each in self.classes_.tolist()])]

    def _response(self, y: Any) -> Array:
        """The codes of labels, which are their places in `ordered_classes_`.

        Raises:
            DataError: a label that the fit has not seen.
        """
        check_present(y)
        y = column_or_1d(y)
        place = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        codes = self._places()[place]
        unknown = self.classes_[place] != y
        if bool(np.any(unknown)):
            row = int(np.argmax(unknown))
            raise DataError(f"`y` has the label {y[row]!r} in row {row}, which is not in `classes_`.")
        return codes.astype(np.float64)

    def _places(self) -> Any:
        """The place of each of `classes_` in `ordered_classes_`."""
        return np.argsort(np.searchsorted(self.classes_, self.ordered_classes_))

    def _is_unordered(self) -> bool:
        *_, inner = layers(model_of(self.model))
        return inner in UNORDERED

    def _is_binary(self) -> bool:
        return response_of(self.model) == "0 or 1"

    def _sizes(self) -> Any:
        return np.arange(len(self.classes_), dtype=np.float64)

    def predict_proba(self, X: Any, *, offset: Any = None) -> Any:
        """The probability of each class, `(N, K)`, in the order of `classes_`."""
        x, keywords = self._new_rows(X, {"offset": offset})
        shares = class_probabilities(self._fitted(), x, **keywords).to_numpy()[:, self._places()]
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
        found = self.ordered_classes_[quantile(fit, x, q, **keywords).numpy().astype(int)]
        return found if found.ndim == 1 else self._table(found, X, list(np.ravel(q)))

    def predict_interval(self, X: Any, level: float = 0.95, *, offset: Any = None) -> Any:
        """The first and the last class of the central interval of an ordered response, `(N, 2)`.

        Raises:
            ModelError: the classes have no order.
        """
        level = share("level", level)
        found = self.predict_quantile(X, [0.5 - level / 2, 0.5 + level / 2], offset=offset)
        return self._table(np.asarray(found), X, ("lower", "upper"))

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None) -> float:
        """The share of rows whose most probable class is y, the accuracy."""
        check_present(y)
        found = accuracy_score(y, self.predict(X, offset=offset), sample_weight=sample_weight)
        return float(found)

    @property
    def coef_(self) -> Array:
        """The coefficients of the columns, `(1, P)`; of K > 2 classes without an order `(K, P)`, those of the
        first class 0: log-odds against it. Of ordered classes, larger values are later classes."""
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
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_class = not self._is_binary()
        tags.classifier_tags.poor_score = self.model == "ordinal"
        return tags


def _categories(y: Any) -> list[Any] | None:
    """The categories of an ordered column in their order; None of any other."""
    dtype: Any = getattr(of_pandas(y), "dtype", None)
    return list(dtype.categories) if getattr(dtype, "ordered", False) else None


def given_order(order: Any, classes: Array) -> list[Any]:
    """The labels of the argument `order`, or their codes where `classes` are places among its sorted labels.

    Raises:
        ModelError: it is no list of different labels, or lacks one of the classes.
    """
    if isinstance(order, str) or not np.iterable(order):
        raise ModelError(
            f"`order` must list the labels from the lowest to the highest; it is {shown(order)}."
        )
    labels = np.asarray(order).tolist()
    listed = ", ".join(map(repr, labels))
    if len(set(labels)) < len(labels):
        raise ModelError(f"`order` must list each label once; it is {listed}.")
    found = classes.tolist()
    if set(found) <= set(labels):
        return labels
    if classes.dtype.kind in "iu" and set(found) <= set(range(len(labels))):
        return [sorted(labels).index(each) for each in labels]
    missing = next(each for each in found if each not in labels)
    raise ModelError(f"`order` lacks the label {missing!r} of `y`; it is {listed}.")
