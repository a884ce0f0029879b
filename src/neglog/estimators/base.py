"""The common part of the estimators: checks of rows, the state of a fit, and predictive distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor

from neglog.arguments import choice, mapping, shown
from neglog.bayes.priors import priors_for
from neglog.calls import public
from neglog.conversion import is_frame
from neglog.data import Data
from neglog.errors import DataError, ModelError, NeglogError, did_you_mean, reason_of
from neglog.estimators.remedies import Remedied, maximum
from neglog.estimators.rows import Array, Rows
from neglog.fitting.estimates import map_estimate, mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model, flat, with_priors
from neglog.inputs.frames import of_pandas
from neglog.inputs.given import offset_model
from neglog.isolation import isolated
from neglog.layers import declared_loss
from neglog.likelihood.sites import lay_out
from neglog.models.named import model_of
from neglog.persistence import check_model_pickles
from neglog.prediction.predictions import log_likelihood, predict
from neglog.predictors import RESPONSE
from neglog.signatures import model_keywords
from neglog.tracing import Run, initial_value, model_name, run, with_sizes

ROW_KEYWORDS = ("exposure", "offset", "trials")
"""The row-wise arguments of models that estimators pass on."""
ESTIMATION_METHODS = ("mle", "map")
OUTPUTS = ("default", "pandas", "polars")
OF_SETTINGS = "settings__"
"""The prefix of a single setting of the model, as `set_params` and searches name it."""


def scorer(method: Callable[..., float]) -> Callable[..., float]:
    """Decorate a score of an estimator that is also given to scikit-learn as ``scoring=``.

    As such it scores pipelines, by their last step, and requests the row-wise arguments that are routed.
    """

    @wraps(method)
    def score(estimator: Any, X: Any, *args: Any, **keywords: Any) -> float:
        if isinstance(estimator, Pipeline):
            return score(estimator[-1], estimator[:-1].transform(X), *args, **keywords)
        if not isinstance(estimator, LikelihoodEstimator):
            raise ModelError(
                f"`{method.__name__}` scores an estimator of neglog, or a pipeline that ends in one; it "
                f"was given {shown(estimator)}."
            )
        return method(estimator, X, *args, **keywords)

    def requests() -> MetadataRequest:
        found = MetadataRequest(owner=method.__name__)
        for name in ("sample_weight", *ROW_KEYWORDS):
            found.score.add_request(param=name, alias=True)
        return found

    vars(score)["get_metadata_routing"] = requests
    return score


@public
class LikelihoodEstimator(BaseEstimator):
    """A likelihood behind the interface of scikit-learn.

    After `fit` the state is `fit_`, a `Fit` without its rows and with flat priors: `save`, `pickle` and
    processes take it.
    """

    _location: str | None = None
    """The predictor that shifts the response, if there is one."""

    def __getstate__(self) -> Any:
        check_model_pickles(self.model)
        return super().__getstate__()

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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; if `deep`, also each setting: ``settings__tau``."""
        found: dict[str, Any] = super().get_params(deep)
        if deep and isinstance(self.settings, Mapping):
            found |= {f"{OF_SETTINGS}{name}": value for name, value in self.settings.items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor, or a single setting of the model: ``settings__tau=0.9``."""
        own = {name: value for name, value in params.items() if not name.startswith(OF_SETTINGS)}
        super().set_params(**own)
        parts = {name.removeprefix(OF_SETTINGS): params[name] for name in params if name not in own}
        if parts:
            self.settings = {**mapping("settings", self.settings or {}, '{"tau": 0.9}'), **parts}
        return self

    def set_output(self, *, transform: str | None = None) -> Self:
        """Whether tables are arrays, "default", or data frames of "polars", or of "pandas" with the index
        of X."""
        if transform is not None:
            self._output = choice("transform", transform, OUTPUTS)
        return self

    def _model(self) -> Model:
        """The model with its settings bound.

        Raises:
            ModelError: there is none of that name.
        """
        model = model_of(self.model)
        if not self.settings:
            return model
        known = model_keywords(model)
        settings = mapping("settings", self.settings, '{"tau": 0.9}')
        for name in set() if known is None else set(settings).difference(known):
            its = f"the settings {', '.join(sorted(known))}" if known else "no settings"
            raise ModelError(
                f"`settings` has {name!r}, and `{model_name(model)}` has {its}."
                f"{did_you_mean(name, known or ())}"
            )
        return partial(model, **settings)

    def _checked_rows(self, x: Array, y: Array, sample_weight: Any, keywords: Mapping[str, Any]) -> Rows:
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
            if not bool((weights > 0).any()):
                raise ValueError("Sample weights must contain at least one non-zero number.")
        return Rows(x, np.require(y, requirements="W"), weights, _row_keywords(x, keywords)).counted()

    def _fit_rows(self, model: Model, rows: Rows) -> Self:
        """Fit, and keep the result as arrays."""
        self._check_method()
        penalised = self._penalised(model, rows)
        estimate = mle if self.method == "mle" else map_estimate
        found = maximum(penalised, rows, estimate, solver=self.solver)
        fit = found.fit
        return self._keep(found, rows, {name: value.clone() for name, value in fit.params.items()}, fit.nll)

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

    def _keep(self, found: Remedied, rows: Rows, params: Mapping[str, Tensor], nll: float) -> Self:
        """Keep the result of a fit, without its rows.

        Args:
            found: the fit, whose model may have priors and parameters held fixed.
            rows: its rows.
            params: the estimates, of the parameters held fixed too.
            nll: minus the log-likelihood of the rows at them.
        """
        fit, model = found.fit, self._flat_model(found.fit, rows)
        order, sizes = _sizes(model, self.n_features_in_, rows)
        params = {name: params[name] for name in sorted(params, key=order.index)}
        self.remedy_, self.loss_ = found.remedy, nll + fit.loss - fit.nll
        self.fit_ = Fit(
            model=model,
            params=MappingProxyType(params),
            nll=nll,
            loss=nll,
            converged=fit.converged,
            status=fit.status,
            n_iter=fit.n_iter,
            n=fit.n,
            **sizes,
            keywords=tuple(rows.keywords),
            columns={"": _columns(self)},
            buffers=fit.buffers,
        )
        if math.isnan(nll):  # of a fit that a remedy knows without a likelihood
            found_nll = -_total(self.fit_, rows)
            self.loss_, self.fit_ = found_nll, replace(self.fit_, nll=found_nll, loss=found_nll)
        return self

    @property
    def params_(self) -> dict[str, Array]:
        """The estimates of all parameters, by site."""
        return {name: value.numpy() for name, value in self.fit_.params.items()}

    @property
    def nll_(self) -> float:
        """Minus the log-likelihood of the rows that were fitted."""
        return self.fit_.nll

    @property
    def converged_(self) -> bool:
        """Whether an optimum was certified."""
        return self.fit_.converged

    @property
    def status_(self) -> str:
        """How an optimum was certified, or why not."""
        return self.fit_.status

    @property
    def n_iter_(self) -> int:
        """The number of iterations of the solver, at least 1."""
        return max(self.fit_.n_iter, 1)

    def _part(self, part: str) -> Array:
        """The weight, or the bias, of the location; of the first predictor where none is the location."""
        params = self.params_ if "fit_" in self.__dict__ else {}
        parts = {name: value for name, value in params.items() if name.partition(".")[2] == part}
        found = parts.get(f"{self._location}.{part}", next(iter(parts.values()), None))
        if found is None:
            raise AttributeError(f"there are no coefficients; call `fit` of a model that has some ({part}).")
        return found

    def _sizes(self) -> Any:
        """A response with as many classes, or columns, as that of the fit."""
        return np.zeros(2)

    def _fitted(self) -> Fit:
        """The fit, without its rows."""
        check_is_fitted(self)
        return self.fit_

    def _new_rows(self, X: Any, keywords: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
        check_is_fitted(self)
        x = validated(self, X, reset=False, dtype=np.float64)
        return x, _row_keywords(x, keywords)

    def _flat_model(self, fit: Fit, rows: Rows) -> Model:
        """The model of a fit, with flat priors, the sizes of its response, and the offset of the rows."""
        model = offset_model(self._model(), rows.keywords)
        return with_sizes(flat(model), torch.as_tensor(self._sizes()))

    def predict_distribution(
        self, X: Any, *, exposure: Any = None, offset: Any = None, trials: Any = None
    ) -> Any:
        """The distribution of y for each row, a torch distribution of batch shape `(N,)`.

        For a classifier, that of the codes 0, ..., K - 1 of `ordered_classes_`.
        """
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        return predict(self._fitted(), x, **keywords)

    @scorer
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
        """The mean of log p(y | x) over the rows, in nats: the higher, the better.

        ``scoring=LikelihoodRegressor.log_score`` also scores a pipeline that ends in a likelihood, with the
        row-wise arguments and the weights that are routed.
        """
        x, keywords = self._new_rows(X, {"exposure": exposure, "offset": offset, "trials": trials})
        found = log_likelihood(self._fitted(), x, self._response(y), **keywords).numpy()
        check_consistent_length(x, found)
        return float(np.average(found, weights=sample_weight))

    def _response(self, y: Any) -> Array:
        """A response as the model takes it."""
        return response_values(y)

    def _table(self, values: Array, X: Any, names: Iterable[Any]) -> Any:
        """An array `(N, C)`, or a data frame with the index of X, as `set_output` requires."""
        if getattr(self, "_output", "default") == "default":
            return values
        if self._output == "polars":
            import polars

            return polars.DataFrame(values, schema=[str(name) for name in names])
        import pandas as pd

        return pd.DataFrame(values, columns=list(names), index=getattr(X, "index", None))


def _columns(estimator: Any) -> tuple[str, ...]:
    """The names of the columns, of which two may be alike in X."""
    names = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    if names and len(set(names)) == len(names):
        return names
    return tuple(f"x{place}" for place in range(estimator.n_features_in_))


@isolated
def _sizes(model: Model, columns: int, rows: Rows) -> tuple[list[str], dict[str, Any]]:
    """The parameters of a model in their order, their number, and the names of outputs of predictors."""
    keywords = {name: torch.ones(1, dtype=torch.float64) for name in rows.keywords}
    y = torch.zeros(1, dtype=torch.float64)
    data = Data(torch.zeros((1, columns), dtype=torch.float64), y, None, keywords)
    bare = run(model, data, Run({RESPONSE: y}, fill=initial_value), response=False)
    outputs = {call.name: call.output_names(data) for call in bare.affines if call.outputs is not None}
    sites = lay_out(bare)
    return list(sites), {"k": sum(site.size for site in sites.values()), "outputs": outputs}


def validated(estimator: Any, X: Any, *y: Any, **how: Any) -> Any:
    """The rows as arrays, by position, as scikit-learn checks them.

    Raises:
        DataError: text, dates, or a formula, in the place of numbers; a missing value.
    """
    _check_dates(X)
    for each in y:
        check_present(each)
    if isinstance(X, str):
        raise DataError(f"`X` is the text {shown(X)}; formulas are for neglog.mle(model, formula, table).")
    with _numbers_needed():
        sparse = estimator.__sklearn_tags__().input_tags.sparse
        return validate_data(estimator, X, *y, accept_sparse="csr" if sparse else False, **how)


def response_values(y: Any) -> Array:
    """A response of numbers.

    Raises:
        DataError: it is text; a value is missing.
    """
    check_present(y)
    with _numbers_needed():
        return np.asarray(y, dtype=np.float64)


def _check_dates(X: Any) -> None:
    """Raise DataError if a column is of dates or durations, which would be counted in nanoseconds."""
    X = of_pandas(X)
    if is_frame(X):
        kinds = {name: getattr(dtype, "kind", "") for name, dtype in X.dtypes.items()}
    else:
        kinds = {"X": getattr(getattr(X, "dtype", None), "kind", "")}
    name = next((name for name, kind in kinds.items() if kind in ("M", "m")), None)
    if name is not None:
        raise DataError(
            f"the column {name!r} of X has dates where numbers are needed. Make them numbers of days: "
            "(dates - dates.min()).dt.days."
        )


def check_present(y: Any) -> None:
    """Raise DataError if a response of objects, as of text, lacks one: ``None``, NaN or ``pandas.NA``."""
    values = np.asarray(y)
    if y is None or values.dtype != object:
        return  # NaN among numbers is refused by scikit-learn
    import pandas as pd

    missing = np.asarray(pd.isna(values)).reshape(len(values), -1).any(1)
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(
            f"Input y contains NaN: row {row} is {values[row]!r}. Leave out the rows without a response."
        )


@contextmanager
def _numbers_needed() -> Iterator[None]:
    """The error of a conversion of text, or of a missing cell, with its remedy."""
    try:
        yield
    except TypeError as error:
        if "NAType" not in str(error):
            raise
        raise DataError(
            "Input X contains NaN: a cell is pandas.NA. Impute it, or leave out its row."
        ) from None
    except ValueError as error:
        if "could not convert string to float" not in str(error):
            raise
        raise DataError(
            f"text where numbers are needed ({reason_of(error)}). Columns of X need an encoder, such as "
            "OneHotEncoder in a ColumnTransformer; labels in y are for LikelihoodClassifier."
        ) from error


def _total(fit: Fit, rows: Rows) -> float:
    """The log-likelihood of the rows at the estimates, by their weights."""
    each = log_likelihood(fit, rows.x, rows.y, **rows.keywords).numpy()
    return float(each.sum() if rows.weights is None else rows.weights @ each)


def _row_keywords(x: Array, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The row-wise arguments that were given, `(N,)` each."""
    found = {}
    for name, values in keywords.items():
        if values is not None:
            if isinstance(values, str):
                raise DataError(
                    f"`{name}` must be an array of numbers, one for each row; it is {shown(values)}."
                )
            found[name] = np.require(values, dtype=np.float64, requirements="W")
            check_consistent_length(x, found[name])
    return found


def response_of(model: Any) -> str | None:
    """The kind of response that a model of neglog declares; None of others, and of names of no model."""
    try:
        declared = declared_loss(model_of(model))
    except NeglogError:
        return None
    return None if declared is None else declared.response
