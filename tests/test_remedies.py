"""Remedies: what an error advises works for the caller who reads it."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import neglog
from neglog import flat, map_estimate, masked, mle, models, solvers, with_priors
from neglog.errors import NeglogError
from neglog.formula import learn

ROWS = 80
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(ROWS, 2)), RNG.normal(size=ROWS)
COUNTS = RNG.poisson(3.0, size=ROWS).astype(float)
FRAME = pd.DataFrame(X, columns=["a", "b"])
LETTERS, DAYS = list("abcd" * (ROWS // 4)), pd.date_range("2020-01-01", periods=ROWS, freq="7h")
SEPARATED = (X[:, 0] > 0).astype(float)
MASKED = np.ma.array(Y, mask=np.arange(ROWS) < 4)
ONE_ROW = np.eye(ROWS)[:, :1]
NORMAL = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
NAMES = {"numpy": np, "pandas": pd, "torch": torch, "pyro": pyro, "functools": functools}


@dataclass(frozen=True)
class Case:
    """A call of one argument `given` that is refused, and the text of the remedy in the message.

    The remedy is Python, evaluated with the argument under its `name`; the call must accept its value.
    """

    call: Callable[[Any], Any]
    name: str
    given: Any
    remedy: str


def of_another_library(table):
    """A table that is none of pandas, such as one of polars or pyarrow."""
    kind = type(type(table).__name__, (), {"__module__": "polars.dataframe", "to_pandas": lambda _: table})
    kind.__len__ = lambda _: len(table)
    return kind()


def of_x(given, remedy):
    return Case(lambda x: mle(models.gaussian, x, Y), "x", given, remedy)


def four_classes(x, y=None):
    """A model of a user, whose response has codes; those of neglog take labels."""
    return models.categorical(x, y, classes=4)


def of_y(given, remedy, model=models.gaussian):
    return Case(lambda y: mle(model, X, y), "y", given, remedy)


CODE = {
    "a single column": of_x(X[:, 0], "x[:, None]"),
    "a list of numbers": of_x(X[:, 0].tolist(), "numpy.array(x)[:, None]"),
    "a frame of another library": of_x(of_another_library(FRAME), "x.to_pandas()"),
    "a series of another library": of_y(of_another_library(pd.Series(Y)), "y.to_pandas()"),
    "groups of another library": Case(
        lambda groups: neglog.covariance(mle(models.gaussian, X, Y), "cluster", groups=groups),
        "groups",
        of_another_library(pd.Series(np.arange(ROWS) // 8)),
        "groups.to_pandas()",
    ),
    "a table of another library": Case(
        lambda table: learn("a ~ b", table), "table", of_another_library(FRAME), "table.to_pandas()"
    ),
    "a series as x": of_x(FRAME["a"], "x.to_frame()"),
    "integers": of_x(RNG.integers(9, size=(ROWS, 2)), "x.astype(float)"),
    "integers in a tensor": of_x(torch.tensor(RNG.integers(9, size=(ROWS, 2))), "x.double()"),
    "integers in a list": of_x(RNG.integers(9, size=(ROWS, 2)).tolist(), "numpy.array(x, float)"),
    "numbers as text": of_x(X.astype(str), "x.astype(float)"),
    "a column of text": of_x(
        FRAME.assign(g=LETTERS), "pandas.get_dummies(x, columns=['g'], drop_first=True, dtype=float)"
    ),
    "a column of numbers as text": of_x(FRAME.astype({"a": str}), "x.astype({'a': float})"),
    "a column of dates": of_x(
        FRAME.assign(day=DAYS),
        "x.assign(**{'day': (x['day'] - x['day'].min()) / pandas.Timedelta(days=1)})",
    ),
    "a column of durations": of_x(
        FRAME.assign(day=DAYS - DAYS[0]), "x.assign(**{'day': x['day'] / pandas.Timedelta(days=1)})"
    ),
    "a sparse tensor": of_y(torch.tensor(Y).to_sparse(), "y.to_dense()"),
    "a masked x": of_x(np.ma.array(X, mask=False), "numpy.ma.getdata(x)"),
    "text as response": of_y(np.array(LETTERS), "pandas.factorize(y, sort=True)[0]", models.poisson),
    "a series of text as response": of_y(
        pd.Series(LETTERS), "pandas.factorize(y, sort=True)[0]", models.poisson
    ),
    "a response in huge units": of_y(1e120 * np.exp(Y), "y / 1e121", models.gamma),
    "components in huge units": of_y(
        1e222 * np.stack([Y, Y + X[:, 0] ** 2], 1), "y / 1e222", models.multivariate_gaussian
    ),
    "a response in tiny units": of_y(1e-222 * Y, "y / 1e-222", models.laplace),
    "columns in huge units": of_x(1e200 * X, "x / 1e200"),
    "dates as response": of_y(pd.Series(DAYS), "(y - y.min()) / pandas.Timedelta(days=1)"),
    "an array of dates": of_y(DAYS.to_numpy(), "(y - y.min()) / numpy.timedelta64(1, 'D')"),
    "numbers as text in a response": of_y(Y.astype(str), "y.astype(float)"),
    "integers in a response": of_y(COUNTS.astype(int), "numpy.array(y, float)"),
    "a response of one column": of_y(Y[:, None], "numpy.asarray(y)[:, 0]"),
    "a frame of one column": of_y(pd.DataFrame({"y": Y}), "numpy.asarray(y)[:, 0]"),
    "a masked response": of_y(MASKED, "numpy.ma.filled(y.astype(float), numpy.nan)", masked(models.gaussian)),
    "one weight": Case(
        lambda w: mle(models.gaussian, X, Y, weights=w), "weights", 2.0, "numpy.full(len(x), 2.0)"
    ),
    "a setting of the model": Case(
        lambda tau: mle(models.quantile, X, Y, tau=tau) if isinstance(tau, float) else mle(tau, X, Y),
        "tau",
        0.3,
        "functools.partial(model, tau=0.3)",
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_code_in_a_message_mends_the_argument(name):
    case = CODE[name]
    with pytest.raises(NeglogError) as caught:
        case.call(case.given)
    assert case.remedy in str(caught.value)
    names = {case.name: case.given, "x": X, "model": models.quantile} | {case.name: case.given}
    case.call(eval(case.remedy, dict(NAMES), names))


def normal_prior(model, site):
    return with_priors(model, {site: NORMAL})


CALLS = {
    "dependent columns, mle": (
        lambda: mle(models.gaussian, X[:, [0, 0]], Y),
        "use `map_estimate`",
        lambda: map_estimate(models.gaussian, X[:, [0, 0]], Y),
    ),
    "dependent columns, map_estimate": (
        lambda: map_estimate(flat(models.gaussian, "mean.weight"), X[:, [0, 0]], Y),
        "give proper priors by `with_priors` to 'mean.weight'",
        lambda: map_estimate(with_priors(models.gaussian, {"mean.weight": NORMAL}), X[:, [0, 0]], Y),
    ),
    "too few rows": (
        lambda: map_estimate(flat(models.bernoulli, "logit.weight"), X[:1], [1.0]),
        "give proper priors by `with_priors` to 'logit.weight'",
        lambda: map_estimate(normal_prior(models.bernoulli, "logit.weight"), X[:1], [1.0]),
    ),
    "separated classes, mle": (
        lambda: mle(models.bernoulli, X, SEPARATED),
        "use `map_estimate`",
        lambda: map_estimate(models.bernoulli, X, SEPARATED),
    ),
    "separated classes, map_estimate": (
        lambda: map_estimate(flat(models.bernoulli, "logit.weight"), X, SEPARATED),
        "give proper priors by `with_priors` to 'logit.weight'",
        lambda: map_estimate(normal_prior(models.bernoulli, "logit.weight"), X, SEPARATED),
    ),
    "counts that are all 0, mle": (
        lambda: mle(models.poisson, X, 0 * COUNTS),
        "use `map_estimate`",
        lambda: map_estimate(models.poisson, X, 0 * COUNTS),
    ),
    "counts that are all 0, map_estimate": (
        lambda: map_estimate(flat(models.poisson, "log_rate.bias"), X, 0 * COUNTS),
        "give proper priors by `with_priors` to 'log_rate.bias'",
        lambda: map_estimate(normal_prior(models.poisson, "log_rate.bias"), X, 0 * COUNTS),
    ),
    "a perfect fit": (
        lambda: map_estimate(models.gaussian, X, 1 + X[:, 0]),
        "pyro.condition(model, {'sigma': torch.tensor(1.0)})",
        lambda: map_estimate(pyro.condition(models.gaussian, {"sigma": torch.tensor(1.0)}), X, 1 + X[:, 0]),
    ),
    "a scale of one row, mle": (
        lambda: mle(models.heteroscedastic, ONE_ROW, Y),
        "use `map_estimate`",
        lambda: map_estimate(models.heteroscedastic, ONE_ROW, Y),
    ),
    "a scale of one row, map_estimate": (
        lambda: map_estimate(flat(models.heteroscedastic, "log_variance.weight"), ONE_ROW, Y),
        "give proper priors by `with_priors` to 'log_variance.weight'",
        lambda: map_estimate(normal_prior(models.heteroscedastic, "log_variance.weight"), ONE_ROW, Y),
    ),
    "missing values": (
        lambda: mle(models.gaussian, X, MASKED.astype(float).filled(np.nan)),
        "fit `masked(model)`",
        lambda: mle(masked(models.gaussian), X, MASKED.astype(float).filled(np.nan)),
    ),
    "a level": (
        lambda: neglog.predict(mle(models.gaussian, X, Y), X, level=0.9),
        "neglog.interval(fit, x, level=...)",
        lambda: neglog.interval(mle(models.gaussian, X, Y), X, level=0.9),
    ),
    "a penalty": (
        lambda: map_estimate(models.gaussian, X, Y, alpha=1.0),
        "map_estimate(neglog.with_priors(model, ...), x, y)",
        lambda: map_estimate(with_priors(models.gaussian, {"mean.weight": NORMAL}), X, Y),
    ),
    "a class of a solver": (
        lambda: mle(models.gaussian, X, Y, solver=solvers.LBFGS),
        "call it: LBFGS()",
        lambda: mle(models.gaussian, X, Y, solver=solvers.LBFGS()),
    ),
    "leverages of two predictors": (
        lambda: neglog.covariance(mle(models.heteroscedastic, X[:, :1], Y), "HC3"),
        "Use 'HC1'",
        lambda: neglog.covariance(mle(models.heteroscedastic, X[:, :1], Y), "HC1"),
    ),
    "a kernel of a smooth loss": (
        lambda: neglog.covariance(mle(models.gaussian, X, Y), "kernel"),
        "use 'sandwich'",
        lambda: neglog.covariance(mle(models.gaussian, X, Y), "sandwich"),
    ),
    "weights that are no counts": (
        lambda: neglog.bootstrap(mle(models.gaussian, X, Y, weights=np.full(ROWS, 0.5)), 10),
        "use kind='weights'",
        lambda: neglog.bootstrap(mle(models.gaussian, X, Y, weights=np.full(ROWS, 0.5)), 10, kind="weights"),
    ),
    "one data set": (
        lambda: neglog.mle_batch(models.gaussian, X, Y),
        "For a single data set, use `mle`",
        lambda: mle(models.gaussian, X, Y),
    ),
    "no number of classes": (
        lambda: neglog.prior_predictive(models.categorical, X, draws=1),
        "functools.partial(categorical, classes=3)",
        lambda: neglog.prior_predictive(partial(models.categorical, classes=3), X, draws=1),
    ),
    "a flat prior to draw from": (
        lambda: neglog.prior_predictive(flat(models.gaussian, "sigma"), X, draws=1),
        "Give them priors by `with_priors`",
        lambda: neglog.prior_predictive(
            with_priors(models.gaussian, {"sigma": dist.HalfNormal(1.0)}), X, draws=1
        ),
    ),
    "no trials": (
        lambda: mle(models.binomial, X, COUNTS),
        "trials=n, of shape (rows,)",
        lambda: mle(models.binomial, X, COUNTS, trials=np.full(ROWS, 20)),
    ),
    "nested the other way": (
        lambda: neglog.likelihood_ratio_test(mle(models.gaussian, X[:, :1], Y), mle(models.gaussian, X, Y)),
        "use `vuong_test`",
        lambda: neglog.vuong_test(mle(models.gaussian, X[:, :1], Y), mle(models.gaussian, X, Y)),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_remedy_works(name):
    provoke, remedy, remedied = CALLS[name]
    with pytest.raises(NeglogError, match=re.escape(remedy)):
        provoke()
    remedied()
