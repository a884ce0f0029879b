"""Hypothesis tests of fits: statistic, degrees of freedom and p-value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.arguments import choice, text
from neglog.calls import check_settings, public
from neglog.conversion import ALL
from neglog.data import Data
from neglog.designs import prepare_designs
from neglog.distributions import probabilities
from neglog.errors import DataError, ModelError, did_you_mean, written
from neglog.fitting.fit import Fit, check_maximum_likelihood, data_of
from neglog.formula import learn
from neglog.inputs.frames import as_table
from neglog.isolation import isolated
from neglog.labels import estimates
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.predictors import design_keys
from neglog.split.reading import split_of
from neglog.spooled import beside
from neglog.uncertainty.constraints import linear_constraints
from neglog.uncertainty.covariances import CovType, covariance
from neglog.uncertainty.fisher import expected_information
from neglog.uncertainty.information import information, inverse_root, optimum

Correction = Literal["aic", "bic"]


@public
@dataclass(frozen=True, repr=False)
class HypothesisTest:
    """The result of a test. A value.

    Attributes:
        test: its name.
        hypothesis: the null hypothesis, in words.
        statistic: under the hypothesis chi-squared with `df` degrees of freedom; standard normal if `df` is
            None.
        df: the degrees of freedom, or None.
        p_value: the probability of a statistic at least as extreme under the hypothesis.
    """

    test: str
    hypothesis: str
    statistic: float
    df: int | None
    p_value: float

    def __repr__(self) -> str:
        law = "z" if self.df is None else f"chi²({self.df})"
        p = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.4f}"
        return f"{self.test} of {self.hypothesis}: {law} = {self.statistic:.4g}, {p}"


@isolated
def likelihood_ratio_test(fit: Fit, restricted: Fit) -> HypothesisTest:
    """Wilks' test of a restricted model: twice the difference of the log-likelihoods.

    The restricted model is `fit`'s with fewer columns, or with constants fixed by `pyro.condition`; nesting
    is not verified. On the boundary of the larger model (a dispersion of 0) the statistic is not chi-squared,
    and the p-value is too large.

    Raises:
        ModelError: a fit with priors or without an optimum; a density against probabilities; the restricted
            model has as many parameters, or a higher likelihood, which a nested model cannot have.
        DataError: the fits are of different rows, weights or responses, or were read from disk.

    Source: Wilks (1938), The large-sample distribution of the likelihood ratio.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.arange(12.0, dtype=torch.float64)[:, None]
    >>> y = torch.sin(x[:, 0]) + 0.1 * x[:, 0]
    >>> likelihood_ratio_test(mle(models.gaussian, x, y), mle(models.gaussian, x[:, :0], y))
    likelihood-ratio test of `gaussian` with 2 parameters in the place of 3: chi²(1) = 0.4431, p = 0.5057
    """
    check_alike(fit, restricted)
    df, statistic = fit.k - restricted.k, 2 * (restricted.nll - fit.nll)
    if df <= 0:
        raise ModelError(
            f"`restricted` has {restricted.k} parameters and `fit` {fit.k}; it must have fewer. For models "
            "that are not nested use `vuong_test`."
        )
    if statistic < -1e-6:
        raise ModelError(
            f"`restricted` has the higher likelihood, by {-statistic / 2:.3g} nats, so it is not nested in "
            "`fit`; use `vuong_test`."
        )
    assert restricted.objective is not None
    name = f"`{restricted.objective.name}` with {restricted.k} parameters in the place of {fit.k}"
    return _chi_squared("likelihood-ratio test", name, max(statistic, 0.0), df)


@former_argument("kind", "cov_type")
@isolated
def wald_test(
    fit: Fit, hypothesis: str, *, cov_type: CovType = "observed", **settings: Any
) -> HypothesisTest:
    """Wald's test of linear hypotheses, such as ``"x1 = 0, x2 - x3 = 1"``.

    Args:
        fit: a fit.
        hypothesis: constraints, separated by commas. Parameters are ``mean[x1]``, ``mean[Intercept]``,
            ``sigma``, or ``x1`` alone where one predictor has it; ``= 0`` may be left out; names with other
            characters are written in backticks: ``"`mean[C(group)[T.b]]` = 0"``.
        cov_type: of `covariance`, such as ``"sandwich"``.
        settings: further arguments of `covariance`.

    Raises:
        ModelError: a hypothesis that cannot be parsed, or has an unknown name; linearly dependent
            constraints; as `covariance`.
        DataError: as `covariance`.

    Source: Wald (1943), Tests of statistical hypotheses concerning several parameters.
    """
    if not isinstance(hypothesis, str):
        raise ModelError(f"`hypothesis` must be text, as 'x1 = 0, x2 = x3'; it is {written(hypothesis)}.")
    check_settings(wald_test, settings, covariance)
    matrix = covariance(fit, cov_type, **settings)
    rows, values = linear_constraints(hypothesis, list(matrix.index))
    distance = rows @ torch.tensor(estimates(fit)[list(matrix.index)].to_numpy()) - values
    spread = rows @ torch.tensor(matrix.to_numpy()) @ rows.T
    scale = spread.diagonal().sqrt()
    correlation = spread / scale[:, None] / scale
    if not bool((scale > 0).all()) or not float(torch.linalg.eigvalsh(correlation)[0]) > 1e-10:
        raise ModelError(f"the constraints of {hypothesis!r} follow from each other; leave one of them out.")
    unit = distance / scale
    return _chi_squared(
        "Wald test", hypothesis, float(unit @ torch.linalg.solve(correlation, unit)), len(values)
    )


@former_argument("kind", "cov_type")
@isolated
def score_test(
    fit: Fit,
    added: Any,
    predictor: str | None = None,
    *,
    data: Any = None,
    cov_type: Literal["observed", "expected"] = "observed",
) -> HypothesisTest:
    """Rao's score test that columns added to a predictor have coefficients of 0. No model is fitted.

    Columns added to a constant, such as `sigma`, test whether it varies with them.

    Args:
        fit: a fit of `mle`.
        added: the columns, `(N, Q)`, an array or a data frame; or the right side of a formula for the table
            `data`, such as ``"z"`` or ``"C(g) + I(x ** 2)"``.
        predictor: the parameter that they are added to, such as ``"mean"``; None with one predictor.
        data: the table of the rows of the fit, where `added` is a formula.
        cov_type: the kind of the information, ``"observed"`` or ``"expected"``, as for `covariance`.

    Raises:
        ModelError: an unknown predictor, or several without `predictor`; a fit with priors, without an
            optimum or with corners; an unknown `cov_type`; a singular information.
        DataError: a formula without `data`; the columns are not `(N, Q)`, or not numbers; the fit was read
            from disk.
        SingularDesignError: the columns depend on those of the fit.

    Source: Rao (1948), Large sample tests of statistical hypotheses concerning several parameters.
    """
    choice("cov_type", cov_type, ("observed", "expected"))
    coordinates, _ = optimum(fit, "`score_test`")
    _check_likelihood(fit)
    if coordinates.kinked:
        raise ModelError("a score test needs a smooth loss, and this one has corners; use `bootstrap`.")
    name = _predictor(fit, coordinates, predictor)
    columns, names = _columns(split_of(_designed(added, data)), coordinates.objective.data)
    objective = Objective(fit.model, _widened(coordinates.objective, name, columns, names))
    theta = objective.layout.theta(_embedded(fit, objective, name))
    df = objective.size - coordinates.objective.size
    if df <= 0:
        raise ModelError(f"`{objective.name}` takes no columns for {name!r}.")
    wide = rescaled(objective, theta)
    z = wide.z(theta)
    matrix = information(wide, z) if cov_type == "observed" else expected_information(wide, z)
    pull = inverse_root(wide, matrix).T @ wide.value_and_gradient(z)[1]
    tested = ", ".join(f"{name}[{each}] = 0" for each in names)
    return _chi_squared("score test", tested, float(pull @ pull), df)


@isolated
def vuong_test(first: Fit, second: Fit, *, correction: Correction | None = None) -> HypothesisTest:
    """Vuong's test of two models that are not nested: both are equally near the truth.

    The statistic is the mean difference of the rows' log-likelihoods in its standard errors: above 0 it
    favours the first. Losses are compared as likelihoods, so squares may be compared with absolute values.

    Args:
        first, second: fits of `mle` to the same rows, of densities of the same kind.
        correction: the penalty for the k1 - k2 additional parameters of the first: None, ``"aic"``
            (k1 - k2) or ``"bic"`` ((k1 - k2) / 2 · log n).

    Raises:
        ModelError: a fit with priors or without an optimum; an unknown correction; a density against
            probabilities, of counts or of rows censored; models that give every row the same likelihood.
        DataError: the fits are of different rows, weights or responses, or were read from disk.

    Source: Vuong (1989), Likelihood ratio tests for model selection and non-nested hypotheses, equation 5.7.
    """
    check_alike(first, second)
    choice("correction", correction, (None, "aic", "bic"))
    rows, names = [], []
    for fit in (first, second):
        assert fit.objective is not None
        theta = fit.objective.layout.theta(fit.params)
        with torch.no_grad():
            rows.append(fit.objective.log_likelihood(theta))
        names.append(f"`{fit.objective.name}`")
    weights, gaps = data_of(first).weights, rows[0] - rows[1]
    weights = torch.ones_like(gaps) if weights is None else weights
    mean = weights @ gaps / first.n
    deviation = float((weights @ (gaps - mean).square() / first.n).sqrt())
    if not math.isfinite(deviation):
        raise ModelError("a row has no finite likelihood under one of the models, so there is no test.")
    if deviation <= 1e-12 * float(rows[0].abs().max()):
        raise ModelError("both models give every row the same likelihood, so there is nothing to test.")
    additional = first.k - second.k
    penalty = {None: 0.0, "aic": float(additional), "bic": additional / 2 * math.log(first.n)}[correction]
    statistic = (float(mean) * first.n - penalty) / (math.sqrt(first.n) * deviation)
    p_value = math.erfc(abs(statistic) / math.sqrt(2))
    return HypothesisTest(
        "Vuong test", f"{names[0]} as near the truth as {names[1]}", statistic, None, p_value
    )


def check_alike(first: Fit, second: Fit) -> None:
    """Verify that two fits are maxima of comparable likelihoods.

    Raises:
        ModelError: a fit with priors or without an optimum; a density against probabilities, of counts or of
            rows that are censored in one fit alone.
        DataError: the fits are of different rows, weights or responses, or were read from disk.
    """
    _check_likelihood(first, second)
    _check_same_rows(first, second)
    one, other = _probabilities(first), _probabilities(second)
    if not torch.equal(one, other):
        raise ModelError(
            "the density of one model cannot be compared with the probabilities of the other, in "
            f"{int((one != other).sum())} of {len(one)} rows. Compare models of counts or classes with each "
            "other, and models of measurements with each other, censored at the same bounds."
        )


def _probabilities(fit: Fit) -> Tensor:
    """Whether a fit gives a row a probability instead of a density."""
    assert fit.objective is not None
    return probabilities(fit.objective.response(fit.objective.layout.theta(fit.params)), fit.objective.data.y)


def _chi_squared(test: str, hypothesis: str, statistic: float, df: int) -> HypothesisTest:
    if math.isnan(statistic):
        raise ModelError(f"the {test} of {hypothesis} has no statistic: it is not a number at the estimates.")
    half = torch.tensor([df / 2, statistic / 2], dtype=torch.float64)
    return HypothesisTest(test, hypothesis, statistic, df, float(torch.special.gammaincc(*half)))


def _check_likelihood(*fits: Fit) -> None:
    for fit in fits:
        data_of(fit, "a test of likelihoods")
        check_maximum_likelihood(fit)
        assert fit.objective is not None
        if not all(site.masked for site in fit.objective.sites.values()):
            raise ModelError("a test of likelihoods needs fits of `mle`, and this one has priors.")
        if not fit.converged:
            raise ModelError(f"a fit without a certified optimum cannot be tested: {fit.status}.")


def _check_same_rows(first: Fit, second: Fit) -> None:
    one, other = data_of(first), data_of(second)
    for name, left, right in (
        ("rows", _row_numbers(one), _row_numbers(other)),
        ("response", one.y, other.y),
        ("weights", _weights(one), _weights(other)),
    ):
        if left.shape != right.shape or not torch.equal(left.nan_to_num(), right.nan_to_num()):
            raise DataError(f"the two fits differ in their {name}; a test needs both on the same data.")


def _row_numbers(data: Data) -> Tensor:
    return torch.arange(data.rows) if data.index is None else data.index


def _weights(data: Data) -> Tensor:
    return data.y.new_ones(data.rows) if data.weights is None else data.weights


def _predictor(fit: Fit, coordinates: Coordinates, predictor: str | None) -> str:
    """The parameter that columns are added to, under its name in `x`."""
    calls = [call.name for call in coordinates.objective.calls]
    constants = [name for name in fit.params if "." not in name]
    if predictor is None:
        if len(calls) != 1:
            raise ModelError(
                f"`predictor` must name the one of {', '.join(calls + constants)} to which the columns are "
                "added."
            )
        return calls[0]
    text("predictor", predictor)
    if not any(predictor in design_keys(name) for name in calls) and predictor not in constants:
        near = did_you_mean(predictor, calls + constants) if isinstance(predictor, str) else ""
        raise ModelError(
            f"there is no predictor {predictor!r}; there are {', '.join(calls + constants)}.{near}"
        )
    return predictor


def _designed(added: Any, data: Any) -> Any:
    """The columns of the right side of a formula, or columns as they were given.

    Raises:
        DataError: a formula without a table; as `neglog.formula.learn`.
    """
    if not isinstance(added, str):
        return added
    if data is None:
        raise DataError(f"`added` is a formula, and needs the table: score_test(fit, {added!r}, data=table).")
    table = as_table("data", data)
    name = next(each for each in map("added{}".format, range(len(table.columns) + 1)) if each not in table)
    learned = learn(f"{name} ~ {added.strip().removeprefix('~')}", table.assign(**{name: 0.0}))
    return learned.design.main.design(learned.table)


def _columns(added: Any, data: Data) -> tuple[Tensor, tuple[str, ...]]:
    """The added columns `(N, Q)` of the fitted rows, and their names."""
    try:
        found, columns = prepare_designs(added, dtype=data.y.dtype)
    except DataError as error:
        raise DataError(str(error).replace("`x`", "`added`")) from error
    if not isinstance(found, Tensor):
        raise DataError("`added` must be one design, `(N, Q)`; it is a mapping of them.")
    data.check_rows("added", added)
    own = columns[ALL] if hasattr(added, "columns") else tuple(f"added{j}" for j in range(found.shape[1]))
    return found if data.index is None else found.index_select(0, data.index), own


def _widened(objective: Objective, name: str, added: Tensor, names: tuple[str, ...]) -> Data:
    """The data with more columns for one predictor."""
    data = objective.data
    if isinstance(data.x, Mapping):
        x, columns = dict(data.x), dict(data.columns)
    else:
        x = {call.name: data.x for call in objective.calls}
        columns = {call.name: data.columns.get(ALL, ()) for call in objective.calls}
    key = next((key for key in x if name in design_keys(key) or key in design_keys(name)), name)
    before = x.get(key, added[:, :0])
    x[key], columns[key] = beside(before, added), (*columns.get(key, ()), *names)
    return replace(data, x=x, columns=columns)


def _embedded(fit: Fit, objective: Objective, name: str) -> dict[str, Tensor]:
    """The estimates as parameters of the wider model: new weights are 0."""
    values = {}
    for site in objective.sites.values():
        parameter, _, part = site.name.rpartition(".")
        old = fit.params.get(site.name)
        if old is None and part == "bias":
            link = torch.logit if parameter == f"logit_{name}" else torch.log
            old = link(fit.params[name])
        if old is None:
            old = torch.zeros(site.shape, dtype=fit.objective.data.y.dtype if fit.objective else None)
        if old.shape != site.shape:
            old = torch.cat([old, old.new_zeros((*old.shape[:-1], site.shape[-1] - old.shape[-1]))], dim=-1)
        values[site.name] = old
    return values
