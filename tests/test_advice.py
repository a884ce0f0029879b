"""Advice: each message with a remedy is provoked, and what it advises is followed.

A row has two functions of a folder: one raises the message, one does what it says and must work. The source
is read for messages that advise something; one without a row fails.
"""

import pickle
import tempfile
from functools import cache, partial
from pathlib import Path

import advice_on_arguments
import advice_on_files
import advice_on_fits
import advice_on_formulas
import advice_on_names
import advice_on_scores
import advice_on_streams
import advice_on_tables
import advice_on_tools
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import test_remedies
import torch
from pyro import poutine
from remedies import Row, advice, helper_texts, is_built, is_said, raised_at, row
from torch import nn

import neglog
from neglog import (
    bootstrap,
    censored,
    covariance,
    datasets,
    losses,
    map_estimate,
    masked,
    mle,
    models,
    on_features,
    plots,
    predict,
    predictors,
    solvers,
    studies,
    truncated,
    with_priors,
)
from neglog.errors import DataError, ModelError, NeglogError, UnboundedLikelihoodError
from neglog.export import load, save
from neglog.formula import learn
from neglog.predictors import linear, positive, rows, sized
from neglog.tables import complete_rows, read_table, require_columns
from neglog.validation import cross_validate

N = 40
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)
COUNTS, CLASSES = RNG.poisson(3.0, size=N).astype(float), np.arange(N) % 3.0
BOTH = np.stack([Y, RNG.normal(size=N)], 1)
TENSOR, TARGET = torch.tensor(X), torch.tensor(Y)
FRAME = pd.DataFrame({"y": Y, "a": X[:, 0], "b": X[:, 1], "g": list("abcd" * (N // 4))})
TRUNK = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
ONE = torch.ones((), dtype=torch.float64)
STEPS = solvers.Adam(steps=3)


@cache
def fit():
    return mle(models.gaussian, X, Y)


@cache
def rates():
    return mle(models.poisson, X, COUNTS, exposure=np.ones(N))


@cache
def laplace():
    return mle(models.laplace, X, Y)


@cache
def posterior():
    return neglog.posterior(models.gaussian, X, Y, method="laplace", draws=100)


@cache
def validations():
    return {folds: cross_validate(models.gaussian, X, Y, folds=folds) for folds in (2, 3)}


@cache
def counted():
    return cross_validate(models.poisson, X, COUNTS, folds=2, scores=["crps"]), cross_validate(
        models.gaussian, X, COUNTS, folds=2, scores=["crps"]
    )


def written(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def saved(folder, name="m", **changes):
    return save(mle(models.gaussian, X, Y), folder / name)


def model_of(sample):
    """A model whose body after its predictor is a function of location, x and y."""

    def model(x, y=None):
        location = linear("location", x)
        return sample(location, x, y)

    return model


def normal(location, x, y):
    with rows(x):
        return pyro.sample("y", dist.Normal(location, ONE), obs=y)


def twice(location, x, y):
    linear("location", x)
    return normal(location, x, y)


def second(location, x, y):
    with rows(x):
        pyro.sample("z", dist.Normal(location, ONE), obs=torch.zeros(len(x)))
    return normal(location, x, y)


def with_param(location, x, y):
    return normal(location * pyro.param("p", torch.tensor(1.0)), x, y)


def with_site(location, x, y):
    return normal(location * pyro.sample("p", dist.Normal(1.0, 1.0)), x, y)


def no_distribution(location, x, y):
    return pyro.sample("y", lambda: location, obs=y)


def undrawable(location, x, y):
    pyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
    return normal(location, x, y)


def drawable(location, x, y):
    positive("scale", x)
    return normal(location, x, y)


def classes(read):
    @sized(classes=read)
    def model(x, y=None, classes=None):
        logits = predictors.against_first(linear("logits", x, outputs=classes - 1))
        with rows(x):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    return model


def dropped(table):
    return complete_rows(table, ["y"], drop_missing=True)


def fitted(model, x=X, y=Y, **settings):
    return lambda _: mle(model, x, y, **settings)


def learned(formula, table=FRAME):
    return lambda _: learn(formula, table)


def loss(function, *arguments, **settings):
    return lambda _: function(*arguments, **settings)


LASSO = with_priors(models.gaussian, {"mean.weight": dist.Laplace(torch.zeros_like(ONE), ONE)})
HOLES = np.where(np.arange(N) < 3, np.nan, Y)
DATES = FRAME.assign(d=pd.date_range("2020", periods=N))
CENSORED_OUTSIDE = censored(truncated(models.gaussian, lower=-9.0), lower=0.0)
CENSORED_INSIDE = truncated(censored(models.gaussian, lower=0.0), lower=-9.0)
MIX = on_features(models.gaussian, TRUNK)
DROPOUT = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
SHARED = {"mean": TRUNK}
NEAR = np.stack([X[:, 0], X[:, 0] + 1e-13 * X[:, 1]], 1)
COMPLEX = FRAME.assign(c=X[:, 0] + 1j)
INFINITE = FRAME.assign(a=np.where(np.arange(N) == 1, np.inf, X[:, 0]))

SIDES = np.concatenate([np.linspace(-2.0, 2.0, 20), [1.0, -1.0]])[:, None]
ORDERED = np.concatenate([np.repeat([0.0, 1.0], 10), [0.0, 1.0]])


def of_codes(x, y=None):
    """A model of a user, whose response has codes; those of neglog take labels."""
    return models.categorical(x, y)


ROWS: dict[str, Row] = {
    "masked tensors": row(
        DataError,
        "`x`",
        "masked tensor",
        "get_data",
        provoke=lambda _: mle(models.gaussian, half_masked(), Y),
        follow=lambda _: mle(models.gaussian, half_masked().get_data(), Y),
    ),
    "a model of other arguments": row(
        ModelError,
        "`model`",
        "(x, y, tau)",
        "functools.partial",
        provoke=fitted(lambda x, y, tau: 0),
        follow=fitted(partial(models.quantile, tau=0.3)),
    ),
    "meta tensors": row(
        DataError,
        "`x`",
        "meta tensor",
        provoke=fitted(models.gaussian, torch.ones(N, 2, device="meta")),
        follow=fitted(models.gaussian, TENSOR),
    ),
    "no covariances": row(
        ModelError,
        "`mle_batch`",
        "cov_type='observed'",
        provoke=lambda _: neglog.mle_batch(models.gaussian, X, BOTH.T).standard_errors,
        follow=lambda _: neglog.mle_batch(models.gaussian, X, BOTH.T, cov_type="observed").standard_errors,
    ),
    "a batch of vectors": row(
        ModelError,
        "`multivariate_gaussian`",
        "`y`",
        "(2, 40, 2)",
        "`mle`",
        provoke=lambda _: neglog.mle_batch(models.multivariate_gaussian, X, np.stack([BOTH, BOTH])),
        follow=lambda _: [mle(models.multivariate_gaussian, X, y) for y in (BOTH, BOTH)],
    ),
    "a batch without designs": row(
        DataError,
        "`x`",
        "empty mapping",
        provoke=lambda _: neglog.mle_batch(models.gaussian, {}, BOTH.T),
        follow=lambda _: neglog.mle_batch(models.gaussian, {"mean": X}, BOTH.T),
    ),
    "a batch with NaN": row(
        DataError,
        "`y`",
        "3 of 80 places",
        "row 0 of data set 1",
        provoke=lambda _: neglog.mle_batch(models.gaussian, X, np.stack([Y, HOLES])),
        follow=lambda _: neglog.mle_batch(models.gaussian, X[3:], np.stack([Y, HOLES])[:, 3:]),
    ),
    "corners under Laplace's method": row(
        ModelError,
        "`laplace`",
        "corners",
        "method='nuts'",
        provoke=lambda _: neglog.posterior(models.laplace, X, Y, method="laplace", draws=100),
        follow=lambda _: neglog.posterior(models.laplace, X, Y, method="nuts", draws=100, chains=1, tune=100),
    ),
    "two columns of one name": row(
        DataError,
        "`x`",
        "'a'",
        provoke=fitted(models.gaussian, pd.DataFrame(X, columns=["a", "a"])),
        follow=fitted(models.gaussian, pd.DataFrame(X, columns=["a", "b"])),
    ),
    "infinite densities": row(
        DataError,
        "`poisson`",
        "1 of 40",
        "row 36",
        "y = 8.0",
        "exposure = 0",
        provoke=fitted(
            models.poisson, y=COUNTS, exposure=np.where(np.arange(N) == int(COUNTS.argmax()), 0.0, 1.0)
        ),
        follow=fitted(models.poisson, y=COUNTS, exposure=np.ones(N)),
    ),
    "a negative exposure": row(
        DataError,
        "`exposure`",
        "40 of 40",
        "row 0 has -1",
        provoke=fitted(models.poisson, y=COUNTS, exposure=-np.ones(N)),
        follow=fitted(models.poisson, y=COUNTS, exposure=np.ones(N)),
    ),
    "NaN in a design": row(
        DataError,
        "`x`",
        "3 of 80 places",
        "row 0",
        "'x0'",
        provoke=fitted(
            models.gaussian, np.where(X > 2, np.nan, X) * np.where(np.arange(N) < 1, np.nan, 1)[:, None]
        ),
        follow=fitted(models.gaussian, X[1:], Y[1:]),
    ),
    "no such data": row(
        DataError,
        "`name`",
        "engel",
        "'enge'",
        provoke=lambda _: datasets.load("enge"),
        follow=lambda _: datasets.load("engel"),
    ),
    "settings inside a loss": row(
        ModelError,
        "`HuberLoss`",
        "delta",
        provoke=loss(losses.likelihood_of, nn.HuberLoss(), delta=2.0),
        follow=loss(losses.likelihood_of, nn.HuberLoss(delta=2.0)),
    ),
    "PoissonNLLLoss of the mean": row(
        ModelError,
        "`PoissonNLLLoss(log_input=False)`",
        "log_input=True",
        provoke=loss(losses.likelihood_of, nn.PoissonNLLLoss(log_input=False)),
        follow=loss(losses.likelihood_of, nn.PoissonNLLLoss(log_input=True)),
    ),
    "weights of a batch": row(
        ModelError,
        "`BCEWithLogitsLoss(weight=...)`",
        "weights=w",
        provoke=loss(losses.likelihood_of, nn.BCEWithLogitsLoss(weight=torch.ones(3))),
        follow=fitted(models.bernoulli, X, CLASSES.clip(0, 1), weights=np.ones(N)),
    ),
    "labels": row(
        ModelError,
        "`pos_weight`",
        "3 values",
        provoke=loss(losses.likelihood_of, nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))),
        follow=loss(losses.likelihood_of, nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))),
    ),
    "label smoothing": row(
        ModelError,
        "label_smoothing=0.1",
        "0",
        provoke=loss(losses.likelihood_of, nn.CrossEntropyLoss(label_smoothing=0.1)),
        follow=loss(losses.likelihood_of, nn.CrossEntropyLoss(label_smoothing=0.0)),
    ),
    "a loss inside a handler": row(
        ModelError,
        "ScaleMessenger",
        provoke=loss(losses.loss_of, poutine.scale(models.gaussian, scale=2.0)),
        follow=loss(losses.loss_of, models.gaussian),
    ),
    "censored inside": row(
        ModelError,
        "`Truncated`",
        "censored(truncated(model))",
        provoke=fitted(CENSORED_INSIDE, y=Y.clip(0)),
        follow=fitted(CENSORED_OUTSIDE, y=Y.clip(0)),
    ),
    "rho in NumPy": row(
        ModelError,
        "`rho`",
        "RuntimeError",
        "torch",
        provoke=loss(losses.as_likelihood, lambda r: np.abs(r.numpy())),
        follow=loss(losses.as_likelihood, lambda r: r.abs()),
    ),
    "rho reduced": row(
        ModelError,
        "`rho`",
        "shape (2, 3)",
        "shape ()",
        provoke=loss(losses.as_likelihood, lambda r: r.abs().sum()),
        follow=loss(losses.as_likelihood, torch.abs),
    ),
    "rho that is constant": row(
        ModelError,
        "`rho`",
        "gradient",
        provoke=loss(losses.as_likelihood, lambda r: r.detach().abs()),
        follow=loss(losses.as_likelihood, torch.abs),
    ),
    "rho infinite at 0": row(
        ModelError,
        "`rho`",
        "inf at r = 0",
        provoke=loss(losses.as_likelihood, lambda r: r.abs() - torch.log(r.abs())),
        follow=loss(losses.as_likelihood, lambda r: r.abs() - torch.log(r.abs() + 1)),
    ),
    "rho too slow": row(
        ModelError,
        "`rho`",
        "1.01 log|r|",
        provoke=loss(losses.as_likelihood, lambda r: 1.01 * torch.log(1 + r.abs())),
        follow=loss(losses.as_likelihood, lambda r: 3.0 * torch.log(1 + r.abs())),
    ),
    "rho that jumps": row(
        ModelError,
        "`rho`",
        "not differentiable",
        provoke=loss(losses.as_likelihood, lambda r: r.abs() + (r > 1)),
        follow=loss(losses.as_likelihood, lambda r: r.abs() + torch.sigmoid(r)),
    ),
    "a keyword that is no number": row(
        ModelError,
        "`tau`",
        "Tensor",
        "Python number",
        provoke=lambda p: save(mle(partial(models.quantile, tau=torch.tensor(0.3)), X, Y), p / "m"),
        follow=lambda p: save(mle(partial(models.quantile, tau=0.3), X, Y), p / "n"),
    ),
    "a bound in a partial": row(
        ModelError,
        "`upper`",
        "functools.partial",
        "censored(model, upper=...)",
        provoke=lambda p: save(mle(partial(censored(models.gaussian), upper=9.0), X, Y), p / "m"),
        follow=lambda p: save(mle(censored(models.gaussian, upper=9.0), X, Y), p / "n"),
    ),
    "a damaged folder": row(
        DataError,
        "JSON",
        "`neglog.save`",
        provoke=lambda p: (save(fit(), p / "m") / "model.json").write_text("{") and load(p / "m"),
        follow=lambda p: load(save(fit(), p / "n")),
    ),
    "a file for a folder": row(
        DataError,
        "t.csv` is a file",
        provoke=lambda p: save(fit(), written(p, "a")),
        follow=lambda p: save(fit(), p / "n"),
    ),
    "another folder": row(
        DataError,
        "not empty",
        "new folder",
        provoke=lambda p: (written(p, "a"), save(fit(), p)),
        follow=lambda p: save(fit(), p / "n"),
    ),
    "Continuation without corners": row(
        DataError,
        "`Continuation`",
        "Laplace",
        "`solver`",
        provoke=fitted(models.gaussian, solver=solvers.Continuation()),
        follow=fitted(models.gaussian),
    ),
    "ProximalNewton without priors": row(
        DataError,
        "`ProximalNewton`",
        "Laplace or ElasticNet priors",
        "`solver`",
        provoke=fitted(models.gaussian, solver=solvers.ProximalNewton()),
        follow=fitted(models.gaussian),
    ),
    "InteriorPoint without corners": row(
        DataError,
        "`InteriorPoint`",
        "Laplace density",
        "`solver`",
        provoke=fitted(models.gaussian, solver=solvers.InteriorPoint()),
        follow=fitted(models.gaussian),
    ),
    "a constant component": row(
        UnboundedLikelihoodError,
        "y[1]",
        "3 in every row",
        provoke=fitted(models.multivariate_gaussian, y=np.stack([Y, np.full(N, 3.0)], 1)),
        follow=fitted(models.multivariate_gaussian, y=Y[:, None]),
    ),
    "dependent components": row(
        UnboundedLikelihoodError,
        "`multivariate_gaussian`",
        "y[0], y[1]",
        provoke=fitted(models.multivariate_gaussian, y=np.stack([Y, 2 * Y], 1)),
        follow=fitted(models.multivariate_gaussian, y=Y[:, None]),
    ),
    "few values under a mixture": row(
        UnboundedLikelihoodError,
        "`gaussian_mixture`",
        "0 or 1",
        "`map_estimate`",
        provoke=fitted(models.gaussian_mixture, y=(Y > 0).astype(float)),
        follow=fitted(models.bernoulli, y=(Y > 0).astype(float)),
    ),
    "a fit from disk": row(
        DataError,
        "read from disk",
        "interval='profile'",
        provoke=lambda p: neglog.summary(load(saved(p)), interval="profile"),
        follow=lambda _: neglog.summary(mle(models.gaussian, X, Y), interval="profile"),
    ),
    "a covariance of a fit from disk": row(
        DataError,
        "read from disk",
        "cov_type='HC3'",
        provoke=lambda p: covariance(load(saved(p)), "HC3"),
        follow=lambda _: covariance(mle(models.gaussian, X, Y), "HC3"),
    ),
    "no lasso prior": row(
        ModelError,
        "`gaussian`",
        "mean.weight",
        "dist.Laplace",
        provoke=lambda _: neglog.lasso_path(neglog.flat(models.gaussian), X, Y, n_strengths=2),
        follow=lambda _: neglog.lasso_path(LASSO, X, Y, n_strengths=2),
    ),
    "a lasso path beside corners of the response": row(
        ModelError,
        "`laplace`",
        "'student_t'",
        provoke=lambda _: neglog.lasso_path(models.laplace, X, Y, n_strengths=2),
        follow=lambda _: neglog.lasso_path("student_t", X, Y, n_strengths=2),
    ),
    "a quantile process of a model": row(
        ModelError,
        "models.quantile",
        "quantile_process('y ~ x', data, taus)",
        provoke=lambda _: neglog.quantile_process("quantile", X, taus=[0.5]),
        follow=lambda _: neglog.quantile_process(X, Y, [0.5]),
    ),
    "quantiles of classes without an order": row(
        ModelError,
        "`categorical`",
        "class_probabilities",
        provoke=lambda _: neglog.interval(mle("categorical", X, CLASSES), X, kind="outcome"),
        follow=lambda _: neglog.class_probabilities(mle("categorical", X, CLASSES), X),
    ),
    "a model that pickle cannot write": row(
        ModelError,
        "neglog.save",
        provoke=lambda _: pickle.dumps(mle(lambda x, y=None: models.gaussian(x, y), X, Y)),
        follow=lambda p: save(mle(lambda x, y=None: models.gaussian(x, y), X, Y), p / "fit"),
    ),
    "a distribution of torch in a model": row(
        ModelError,
        "pyro.distributions.Normal",
        ".to_event(1)",
        provoke=lambda _: map_estimate(with_a_vector(torch.distributions.Normal(torch.zeros(2), 1.0)), X, Y),
        follow=lambda _: map_estimate(with_a_vector(dist.Normal(torch.zeros(2), 1.0).to_event(1)), X, Y),
    ),
    "a vector without an event under SVI": row(
        ModelError,
        ".to_event(1)",
        provoke=lambda _: by_svi(with_a_vector(dist.Normal(torch.zeros(2), 1.0))),
        follow=lambda _: by_svi(with_a_vector(dist.Normal(torch.zeros(2), 1.0).to_event(1))),
    ),
    "text with a level a row": row(
        DataError,
        "`t`",
        "40",
        "row 0 has 'r0'",
        "C(t)",
        provoke=learned("y ~ t", FRAME.assign(t=[f"r{i}" for i in range(N)])),
        follow=learned("y ~ a", FRAME),
    ),
    "no response": row(
        DataError,
        "`~ a`",
        "one response",
        provoke=learned("~ a"),
        follow=learned("y ~ a"),
    ),
    "kept dates": row(
        DataError,
        "`d`",
        "dates",
        provoke=lambda _: learn("y ~ a", DATES, keep=["d"]),
        follow=lambda _: learn("y ~ a", DATES, keep=["b"]),
    ),
    "kept text": row(
        DataError,
        "`g`",
        "row 0 has 'a'",
        provoke=lambda _: learn("y ~ a", FRAME, keep=["g"]),
        follow=lambda _: learn("y ~ a", FRAME, keep=["b"]),
    ),
    "several values of a setting": row(
        DataError,
        "df=[4, 5]",
        "`bs`",
        "`df`",
        provoke=learned("y ~ bs(a, df=[4, 5], extrapolation='clip')"),
        follow=learned("y ~ bs(a, df=4, extrapolation='clip')"),
    ),
    "division by 0": row(
        DataError,
        "`a + 1 / 0`",
        "division by zero",
        provoke=learned("y ~ {a + 1 / 0}"),
        follow=learned("y ~ {a + 1 / 2}"),
    ),
    "a long expression": row(
        DataError,
        "100000 characters",
        provoke=learned("y ~ {" + "a + " * 30_000 + "a}"),
        follow=learned("y ~ {a + a}"),
    ),
    "an expression of many parts": row(
        DataError,
        "nested too deeply",
        provoke=learned("y ~ {" + "a+" * 20_000 + "a}"),
        follow=learned("y ~ {a + a}"),
    ),
    "a column called as a number": row(
        DataError,
        "column `1`",
        provoke=learned("y ~ .", FRAME.assign(**{"1": 1.0})),
        follow=learned("y ~ .", FRAME.assign(one=X[:, 0] ** 2)),
    ),
    "text as response": row(
        DataError,
        "`g`",
        "row 0 has 'a'",
        "{g == 'a'}",
        provoke=learned("g ~ a"),
        follow=learned("{g == 'a'} ~ a"),
    ),
    "two responses": row(
        DataError,
        "`y ~ a ~ b`",
        "`~`",
        provoke=learned("y ~ a ~ b"),
        follow=learned("y ~ a + b"),
    ),
    "a formula that cannot be read": row(
        DataError,
        "`y ~ a +`",
        "`+`",
        provoke=learned("y ~ a +"),
        follow=learned("y ~ a + b"),
    ),
    "a long formula": row(
        DataError,
        "200000 characters",
        provoke=learned("y ~ " + " + ".join(["a"] * 60_000)),
        follow=learned("y ~ a"),
    ),
    "a column called as a function": row(
        DataError,
        "`log`",
        "column",
        "function",
        provoke=learned("y ~ log(a) + log", FRAME.assign(log=1.0, a=np.exp(X[:, 0]))),
        follow=learned("y ~ log(a) + other", FRAME.assign(other=X[:, 1], a=np.exp(X[:, 0]))),
    ),
    "many terms": row(
        DataError,
        "32768",
        provoke=learned("y ~ " + " * ".join(f"a{i}" for i in range(30))),
        follow=learned("y ~ a * b"),
    ),
    "a power beyond floats": row(
        DataError,
        "`a + 10 ** 400`",
        "1024",
        provoke=learned("y ~ {a + 10 ** 400}"),
        follow=learned("y ~ {a + 10.0}"),
    ),
    "too many brackets": row(
        DataError,
        "100 brackets",
        provoke=learned("y ~ " + "(" * 300 + "a" + ")" * 300),
        follow=learned("y ~ (a)"),
    ),
    "an expression with an error": row(
        DataError,
        "`a +* 1`",
        provoke=learned("y ~ {a +* 1}"),
        follow=learned("y ~ {a + 1}"),
    ),
    "exp10": row(
        DataError,
        "`exp10(a)`",
        "{10.0 ** x}",
        provoke=learned("y ~ exp10(a)"),
        follow=learned("y ~ {10.0 ** a}"),
    ),
    "an infinite column of a formula": row(
        DataError,
        "`log(z)`",
        "-inf in row 0",
        provoke=learned("y ~ log(z)", FRAME.assign(z=np.arange(N) * 1.0)),
        follow=learned("y ~ log(z + 1)", FRAME.assign(z=np.arange(N) * 1.0)),
    ),
    "levels that a fit has not seen": row(
        DataError,
        "`g`",
        "'z' (row 0)",
        "'a', 'b', 'c', 'd'",
        provoke=lambda _: learn("y ~ g", FRAME).design.x(FRAME.assign(g="z"), ("mean",)),
        follow=lambda _: learn("y ~ g", FRAME).design.x(FRAME.assign(g="b"), ("mean",)),
    ),
    "complex columns": row(
        DataError,
        "`c`",
        "complex",
        provoke=learned("y ~ c", COMPLEX),
        follow=learned("y ~ c", COMPLEX.assign(c=np.abs(COMPLEX.c))),
    ),
    "infinite columns": row(
        DataError,
        "`a`",
        "row 1 has inf",
        provoke=learned("y ~ a", INFINITE),
        follow=learned("y ~ a", FRAME),
    ),
    "labels of weights": row(
        DataError,
        "`weights`",
        "to_numpy()",
        provoke=lambda _: neglog.weighted(models.gaussian, pd.Series(np.ones(N))),
        follow=lambda _: neglog.weighted(models.gaussian, pd.Series(np.ones(N)).to_numpy()),
    ),
    "a lazy module": row(
        ModelError,
        "`weight`",
        "`module`",
        "no shape",
        provoke=lambda _: on_features(models.gaussian, nn.LazyLinear(2)),
        follow=lambda _: on_features(models.gaussian, run_once(nn.LazyLinear(2))),
    ),
    "successes and failures as R binds them": row(
        DataError,
        "cbind",
        "`trials`",
        provoke=lambda _: mle("gaussian", "cbind(k, n) ~ x", {"k": [1.0], "n": [3.0], "x": [0.0]}),
        follow=lambda _: mle(
            "binomial",
            "k ~ x",
            {"k": [1.0, 2.0, 1.0], "n": [3.0, 4.0, 4.0], "x": [0.0, 1.0, 2.0]},
            trials="n",
        ),
    ),
    "a mapping for a trunk": row(
        DataError,
        "`on_features`",
        "`x`",
        "mapping of modules",
        provoke=fitted(MIX, {"mean": X}, solver=STEPS),
        follow=fitted(on_features(models.gaussian, SHARED), solver=STEPS),
    ),
    "a network for no predictor": row(
        ModelError,
        "`on_features`",
        "'meen'",
        provoke=fitted(on_features(models.gaussian, {"meen": TRUNK}), solver=STEPS),
        follow=fitted(on_features(models.gaussian, SHARED), solver=STEPS),
    ),
    "both names": row(
        ModelError,
        "'median'",
        "'location'",
        provoke=fitted(models.laplace, {"median": X, "location": X}),
        follow=fitted(models.laplace, {"location": X}),
    ),
    "a code without a class": row(
        DataError,
        "`target`",
        "3 classes",
        "not 3",
        provoke=loss(losses.categorical_nll, torch.zeros(2, 3), torch.tensor([0.0, 3.0])),
        follow=loss(losses.categorical_nll, torch.zeros(2, 3), torch.tensor([0.0, 2.0])),
    ),
    "rows of a penalty": row(
        DataError,
        "`rows`",
        "whole number of at least 1",
        provoke=loss(losses.lasso_alpha, 1.0, 1.0, X),
        follow=loss(losses.lasso_alpha, 1.0, 1.0, len(X)),
    ),
    "lists for a loss": row(
        DataError,
        "`prediction`",
        "list",
        "torch.as_tensor",
        provoke=loss(losses.mse, [1.0], TARGET[:1]),
        follow=loss(losses.mse, torch.as_tensor([1.0]), TARGET[:1].float()),
    ),
    "integers for a loss": row(
        DataError,
        "`prediction`",
        "torch.int64",
        ".double()",
        provoke=loss(losses.mse, torch.tensor([1]), TARGET[:1]),
        follow=loss(losses.mse, torch.tensor([1]).double(), TARGET[:1]),
    ),
    "a scale of 0": row(
        DataError,
        "`sigma`",
        "above 0",
        "not 0",
        provoke=loss(losses.gaussian_nll, TARGET, TARGET, 0.0),
        follow=loss(losses.gaussian_nll, TARGET, TARGET, 1.0),
    ),
    "a scale of text": row(
        DataError,
        "`sigma`",
        "str",
        provoke=loss(losses.gaussian_nll, TARGET, TARGET, "1"),
        follow=loss(losses.gaussian_nll, TARGET, TARGET, float("1")),
    ),
    "an infinite scale": row(
        DataError,
        "`delta`",
        "not inf",
        provoke=loss(losses.huber_nll, TARGET, TARGET, 1.0, np.inf),
        follow=loss(losses.huber_nll, TARGET, TARGET, 1.0, 1.0),
    ),
    "no target": row(
        DataError,
        "`target`",
        "empty",
        provoke=loss(losses.mse, TARGET[:0], TARGET[:0]),
        follow=loss(losses.mse, TARGET[:1], TARGET[:1]),
    ),
    "another reduction": row(
        DataError,
        "`reduction`",
        '"mean"',
        "'avg'",
        provoke=loss(losses.mse, TARGET, TARGET, reduction="avg"),
        follow=loss(losses.mse, TARGET, TARGET, reduction="mean"),
    ),
    "classes from 1": row(
        DataError,
        "`y`",
        "row 0 has y = -1.0",
        provoke=fitted(of_codes, y=CLASSES - 1),
        follow=fitted(models.categorical, y=CLASSES),
    ),
    "a gap in classes": row(
        DataError,
        "`y`",
        "highest, 3",
        "y = 1",
        provoke=fitted(of_codes, y=np.where(CLASSES == 1, 3.0, CLASSES)),
        follow=fitted(models.categorical, y=CLASSES),
    ),
    "a density without predictors": row(
        ModelError,
        "`y`",
        "`model`",
        "'location'",
        provoke=lambda _: neglog.mle_batch(model_of(lambda _, x, y: normal(0 * ONE, x, y)), X, BOTH.T),
        follow=lambda _: neglog.mle_batch(model_of(normal), X, BOTH.T),
    ),
    "no bound": row(
        ModelError,
        "`censored`",
        "upper",
        provoke=fitted(censored(models.gaussian)),
        follow=fitted(censored(models.gaussian, upper=5.0)),
    ),
    "a picture of vectors": row(
        DataError,
        "`y`",
        "(40, 2)",
        provoke=lambda _: plots.picture({"a": fit()}, X[:, :1], BOTH),
        follow=lambda _: plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y),
    ),
    "a picture of another kind": row(
        DataError,
        "a.x`",
        ".svg",
        provoke=lambda p: plots.write(
            plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y), p / "a.x"
        ),
        follow=lambda p: plots.write(
            plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y), p / "a.svg"
        ),
    ),
    "a picture of nothing": row(
        DataError,
        "no fit",
        provoke=lambda _: plots.picture({}, X[:, :1], Y),
        follow=lambda _: plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y),
    ),
    "no exposure for new rows": row(
        DataError,
        "`exposure`",
        "`x`",
        provoke=lambda _: predict(rates(), X[:2]),
        follow=lambda _: predict(rates(), X[:2], exposure=np.ones(2)),
    ),
    "more draws than there are": row(
        ModelError,
        "`draws`",
        "101",
        "100",
        provoke=lambda _: predict(posterior(), X[:2], draws=101),
        follow=lambda _: predict(posterior(), X[:2], draws=100),
    ),
    "keywords without rows": row(
        DataError,
        "exposure",
        "`x`",
        provoke=lambda _: neglog.posterior_predictive(of_counts(), exposure=np.ones(N)),
        follow=lambda _: neglog.posterior_predictive(of_counts(), X, exposure=np.ones(N)),
    ),
    "Brier's score of numbers": row(
        ModelError,
        "Brier",
        "`Normal`",
        "'crps'",
        provoke=lambda _: neglog.scores(fit(), X, Y, kind="brier"),
        follow=lambda _: neglog.scores(fit(), X, Y, kind="crps"),
    ),
    "a score of a missing row": row(
        DataError,
        "`y` of row 0",
        "'crps'",
        provoke=lambda _: neglog.scores(mle(masked(models.gaussian), X, HOLES), X, HOLES, kind="crps"),
        follow=lambda _: neglog.scores(mle(masked(models.gaussian), X, HOLES), X[3:], HOLES[3:], kind="crps"),
    ),
    "a single column for a model": row(
        DataError,
        "`mean`",
        "(40,)",
        "x[:, None]",
        provoke=lambda _: models.gaussian(TENSOR[:, 0]),
        follow=lambda _: models.gaussian(TENSOR[:, 0][:, None]),
    ),
    "no designs for a model": row(
        ModelError,
        "`x`",
        "empty mapping",
        provoke=lambda _: models.gaussian({}),
        follow=lambda _: models.gaussian({"mean": TENSOR[:, :0]}),
    ),
    "integers for a model": row(
        DataError,
        "`mean`",
        "torch.int64",
        "x.double()",
        provoke=lambda _: models.gaussian(torch.ones(N, 2, dtype=torch.long)),
        follow=lambda _: models.gaussian(torch.ones(N, 2, dtype=torch.long).double()),
    ),
    "a size that is no whole number": row(
        ModelError,
        "`classes`",
        "3.0",
        "int()",
        provoke=fitted(classes(lambda y: float(y.max()) + 1), y=CLASSES),
        follow=fitted(classes(lambda y: int(float(y.max()) + 1)), y=CLASSES),
    ),
    "heads without a network": row(
        ModelError,
        "`VariableProjection`",
        "`gaussian`",
        "`solver`",
        provoke=fitted(models.gaussian, solver=solvers.VariableProjection()),
        follow=fitted(models.gaussian),
    ),
    "heads with corners": row(
        ModelError,
        "`VariableProjection`",
        "`laplace`",
        "`huber`",
        provoke=fitted(on_features(models.laplace, TRUNK), solver=solvers.VariableProjection()),
        follow=fitted(on_features(models.huber, TRUNK), solver=solvers.Adam(steps=3)),
    ),
    "a prior of another support": row(
        ModelError,
        "`sigma`",
        "whole real line",
        "HalfNormal",
        provoke=lambda _: map_estimate(with_priors(models.gaussian, {"sigma": dist.Normal(0.0, 1.0)}), X, Y),
        follow=lambda _: map_estimate(with_priors(models.gaussian, {"sigma": dist.HalfNormal(1.0)}), X, Y),
    ),
    "a directory that is not there": row(
        DataError,
        "such'",
        "`directory`",
        provoke=lambda p: neglog.spool([(X, Y)], p / "no" / "such"),
        follow=lambda p: neglog.spool([(X, Y)], p),
    ),
    "no losses": row(
        DataError,
        "`losses`",
        "empty",
        provoke=lambda _: studies.robustness({}),
        follow=lambda _: studies.robustness({"MSE": models.gaussian}, rows=10, data_sets=2, shares=(0.0,)),
    ),
    "no such table": row(
        DataError,
        "no.csv",
        "does not exist",
        provoke=lambda p: read_table(p / "no.csv"),
        follow=lambda p: read_table(written(p, "a\n1\n")),
    ),
    "no rows in a table": row(
        DataError,
        "t.csv",
        "no rows",
        provoke=lambda p: read_table(written(p, "a,b\n")),
        follow=lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "another kind of table": row(
        DataError,
        "t.xls",
        ".csv, .tsv or .parquet",
        provoke=lambda p: read_table(written(p, "a\n1\n", "t.xls")),
        follow=lambda p: read_table(written(p, "a\n1\n", "t.csv")),
    ),
    "an empty table": row(
        DataError,
        "t.csv` is empty",
        provoke=lambda p: read_table(written(p, "")),
        follow=lambda p: read_table(written(p, "a\n1\n")),
    ),
    "fewer names than columns": row(
        DataError,
        "t.csv` names 1 column",
        provoke=lambda p: read_table(written(p, "a\n1,2\n3,4\n")),
        follow=lambda p: read_table(written(p, "a,b\n1,2\n3,4\n")),
    ),
    "a ragged table": row(
        DataError,
        "t.csv",
        "2 fields in line 3, saw 3",
        provoke=lambda p: read_table(written(p, "a,b\n1,2\n3,4,5\n")),
        follow=lambda p: read_table(written(p, "a,b\n1,2\n3,4\n")),
    ),
    "a table in Latin-1": row(
        DataError,
        "t.csv",
        "UTF-8",
        "byte 0",
        provoke=lambda p: read_table(written(p, "ä\n1\n".encode("latin-1"))),
        follow=lambda p: read_table(written(p, "ä\n1\n".encode())),
    ),
    "semicolons": row(
        DataError,
        "t.csv",
        "';'",
        "`a;b`",
        provoke=lambda p: read_table(written(p, "a;b\n1;2\n")),
        follow=lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "no Parquet file": row(
        DataError,
        "t.parquet` is not a Parquet file",
        provoke=lambda p: read_table(written(p, "a", "t.parquet")),
        follow=lambda p: read_table(written(p, "a\n1\n", "t.csv")),
    ),
    "two names alike": row(
        DataError,
        "t.csv",
        "`a`",
        provoke=lambda p: read_table(written(p, "a,a\n1,2\n")),
        follow=lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "missing values of a table": row(
        DataError,
        "3 of 40",
        "`y` (3)",
        "drop_missing=True",
        provoke=lambda _: complete_rows(FRAME.assign(y=HOLES), ["y"]),
        follow=lambda _: dropped(FRAME.assign(y=HOLES)),
    ),
    "two columns alike": row(
        DataError,
        "`a`",
        provoke=lambda _: require_columns(pd.DataFrame(X, columns=["a", "a"]), ["a"]),
        follow=lambda _: complete_rows(pd.DataFrame(X, columns=["a", "b"]), ["a"]),
    ),
    "a prior that cannot be drawn from": row(
        ModelError,
        "`scale`",
        "`flat`",
        provoke=fitted(model_of(undrawable)),
        follow=fitted(model_of(drawable)),
    ),
    "too few draws": row(
        ModelError,
        "20 draws",
        "0.005",
        "`level`",
        provoke=lambda _: bootstrap(fit(), 20).interval(0.99),
        follow=lambda _: bootstrap(fit(), 20).interval(0.6),
    ),
    "BCa of other draws": row(
        ModelError,
        "'bca'",
        "'parametric'",
        "'basic'",
        provoke=lambda _: bootstrap(fit(), 40, kind="parametric").interval(0.6, "bca"),
        follow=lambda _: bootstrap(fit(), 40, kind="parametric").interval(0.6, "basic"),
    ),
    "the bootstrap of a mode": row(
        ModelError,
        "`bootstrap`",
        "priors",
        "`mle`",
        provoke=lambda _: bootstrap(map_estimate(models.gaussian, X, Y), 10),
        follow=lambda _: bootstrap(mle(models.gaussian, X, Y), 10),
    ),
    "groups of parametric draws": row(
        DataError,
        "kind='parametric'",
        "`groups`",
        provoke=lambda _: bootstrap(fit(), 10, kind="parametric", groups=np.arange(N)),
        follow=lambda _: bootstrap(fit(), 10, kind="parametric"),
    ),
    "a hypothesis that cannot be read": row(
        ModelError,
        "'x0[ = 0'",
        "'[ = 0'",
        "backticks",
        provoke=lambda _: neglog.wald_test(fit(), "x0[ = 0"),
        follow=lambda _: neglog.wald_test(fit(), "`mean[x0]` = 0"),
    ),
    "a hypothesis that is none": row(
        ModelError,
        "'x0 * x1 = 1'",
        "linear",
        provoke=lambda _: neglog.wald_test(fit(), "x0 * x1 = 1"),
        follow=lambda _: neglog.wald_test(fit(), "x0 = 0, 2 * x0 - x1 = 1"),
    ),
    "a hypothesis beyond floats": row(
        ModelError,
        "1e999",
        "finite",
        provoke=lambda _: neglog.wald_test(fit(), "x0 = 1e999"),
        follow=lambda _: neglog.wald_test(fit(), "x0 = 1e9"),
    ),
    "constraints that follow from each other": row(
        ModelError,
        "'x0 = 0, 2 * x0 = 0'",
        provoke=lambda _: neglog.wald_test(fit(), "x0 = 0, 2 * x0 = 0"),
        follow=lambda _: neglog.wald_test(fit(), "x0 = 0"),
    ),
    "groups without clusters": row(
        DataError,
        "cov_type='HC1'",
        "`groups`",
        "cov_type='cluster'",
        provoke=lambda _: covariance(fit(), "HC1", groups=np.arange(N)),
        follow=lambda _: covariance(fit(), "cluster", groups=np.arange(N)),
    ),
    "a leverage of 1": row(
        ModelError,
        "row 0",
        "leverage of 1",
        "'HC1'",
        provoke=lambda _: covariance(mle(models.gaussian, np.eye(N)[:, :1], Y), "HC3"),
        follow=lambda _: covariance(mle(models.gaussian, np.eye(N)[:, :1], Y), "HC1"),
    ),
    "a score test with corners": row(
        ModelError,
        "score test",
        "corners",
        "`bootstrap`",
        provoke=lambda _: neglog.score_test(laplace(), X**2),
        follow=lambda _: bootstrap(laplace(), 10),
    ),
    "densities against probabilities": row(
        ModelError,
        "40 of 40",
        provoke=lambda _: neglog.vuong_test(mle(models.poisson, X, COUNTS), mle(models.gaussian, X, COUNTS)),
        follow=lambda _: neglog.vuong_test(
            mle(models.poisson, X, COUNTS), mle(models.poisson, X[:, :1], COUNTS)
        ),
    ),
    "no mapping of fits": row(
        DataError,
        "`fits`",
        "list",
        provoke=lambda _: neglog.information_criteria([fit(), laplace()]),
        follow=lambda _: neglog.information_criteria({"a": fit(), "b": laplace()}),
    ),
    "a profile with corners": row(
        ModelError,
        "profile",
        "corners",
        "interval='wald'",
        provoke=lambda _: neglog.summary(laplace(), interval="profile"),
        follow=lambda _: neglog.summary(laplace(), interval="wald"),
    ),
    "other folds": row(
        DataError,
        "folds",
        provoke=lambda _: validations()[2].above(validations()[3]),
        follow=lambda _: validations()[2].above(validations()[2]),
    ),
    "a score that was not asked for": row(
        DataError,
        "'crps'",
        "`cross_validate`",
        provoke=lambda _: validations()[2].above(validations()[2], "crps"),
        follow=lambda _: scored().above(scored(), "crps"),
    ),
    "two sites of one name": row(
        ModelError,
        "`model`",
        "'location.bias'",
        provoke=fitted(model_of(twice)),
        follow=fitted(model_of(normal)),
    ),
    "two observations": row(
        ModelError,
        "`model`",
        "'z'",
        "'y'",
        provoke=fitted(model_of(second)),
        follow=fitted(model_of(normal)),
    ),
    "no distribution": row(
        ModelError,
        "`model`",
        "'y'",
        "function",
        provoke=fitted(model_of(no_distribution)),
        follow=fitted(model_of(normal)),
    ),
    "a parameter of Pyro": row(
        ModelError,
        "`model`",
        "pyro.param('p')",
        "pyro.sample('p'",
        provoke=fitted(model_of(with_param)),
        follow=lambda _: map_estimate(model_of(with_site), X, Y),
    ),
    "scores of other units": row(
        ModelError,
        "40 of 40",
        "'crps'",
        provoke=lambda _: counted()[0].above(counted()[1]),
        follow=lambda _: counted()[0].above(counted()[1], "crps"),
    ),
    "weights of a network": row(
        ModelError,
        "`prior_precision`",
        "`map_estimate`",
        provoke=lambda _: neglog.laplace_approximation(wide(), structure="full"),
        follow=lambda _: neglog.laplace_approximation(wide(), structure="full", prior_precision=1.0),
    ),
    "a prior precision beside priors": row(
        ModelError,
        "`prior_precision`",
        "priors",
        provoke=lambda _: neglog.laplace_approximation(shrunk(), structure="full", prior_precision=1.0),
        follow=lambda _: neglog.laplace_approximation(shrunk(), structure="full"),
    ),
    "a mean that does not exist": row(
        ModelError,
        "`student_t`",
        "mean",
        "kind='outcome'",
        provoke=lambda _: neglog.interval(cauchy(), X[:2, :0], kind="mean"),
        follow=lambda _: neglog.interval(cauchy(), X[:2, :0], kind="outcome"),
    ),
    "LBFGS of dropout": row(
        ModelError,
        "`LBFGS`",
        "Dropout",
        "`Adam`",
        provoke=fitted(on_features(models.gaussian, DROPOUT), solver=solvers.LBFGS()),
        follow=fitted(on_features(models.gaussian, DROPOUT), solver=STEPS),
    ),
    "separated but for rows of no weight": row(
        UnboundedLikelihoodError,
        "`bernoulli`",
        "2 rows",
        "row 20 with 1e-20",
        "x0",
        provoke=fitted(models.bernoulli, SIDES, ORDERED, weights=np.repeat([1.0, 1e-20], [20, 2])),
        follow=fitted(models.bernoulli, SIDES, ORDERED, weights=np.repeat([1.0, 1e-2], [20, 2])),
    ),
    "a unit that priors exclude": row(
        DataError,
        "`y`",
        "1e100",
        "`gaussian`",
        "y / 1e100",
        provoke=lambda _: map_estimate(models.gaussian, X, 1e100 * Y),
        follow=lambda _: map_estimate(
            with_priors(models.gaussian, neglog.priors_for(models.gaussian, X, 1e100 * Y)), X, 1e100 * Y
        ),
    ),
    "a class without rows": row(
        UnboundedLikelihoodError,
        "`categorical`",
        "no `y` is 3",
        "logit[3]",
        provoke=fitted(partial(models.categorical, classes=4), y=CLASSES),
        follow=fitted(partial(models.categorical, classes=3), y=CLASSES),
    ),
}


ROWS |= advice_on_formulas.ROWS | advice_on_tools.ROWS | advice_on_scores.ROWS
ROWS = ROWS | advice_on_tables.ROWS | advice_on_fits.ROWS | advice_on_arguments.ROWS | advice_on_names.ROWS
ROWS = ROWS | advice_on_files.ROWS | advice_on_streams.ROWS


def half_masked():
    return torch.masked.masked_tensor(TENSOR, torch.ones(N, 2, dtype=torch.bool))


def run_once(module):
    module(torch.zeros(2, 2))
    return module


@cache
def of_counts():
    return neglog.posterior(models.poisson, X, COUNTS, method="laplace", draws=100, exposure=np.ones(N))


@cache
def wide():
    return mle(on_features(models.gaussian, TRUNK), X, Y, solver=STEPS)


@cache
def shrunk():
    return map_estimate(on_features(models.gaussian, TRUNK), X, Y, solver=solvers.Adam(steps=300))


def with_a_vector(prior):
    """A model whose coefficients have a prior that the caller gives."""

    def model(x, y=None):
        weight = pyro.sample("w", prior)
        with rows(x):
            return pyro.sample("y", dist.Normal(x @ weight.to(x), 1.0), obs=y)

    return model


def by_svi(model):
    return map_estimate(model, X, Y, solver=solvers.SVI(steps=2))


@cache
def cauchy():
    return mle(partial(models.student_t, df=0.5), X[:, :0], Y)


@cache
def scored():
    return cross_validate(models.gaussian, X, Y, folds=2, scores=["crps"])


@cache
def provoked(name):
    """The message of a row, and where in the source it was raised."""
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ROWS[name].error) as caught:
        ROWS[name].provoke(Path(folder))
    return str(caught.value), raised_at(caught.value)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_advice_is_given_and_works(name, tmp_path):
    message, places = provoked(name)
    known = (
        bool(places & set(advice()))
        or any(is_built(at, message) for at in helper_texts())
        or any(is_said(at, message) for at in advice())
    )
    assert known, "the message advises nothing"
    for fact in ROWS[name].facts:
        assert fact in message
    assert ROWS[name].follow(tmp_path) is not None


def _of_remedies():
    """The messages of `test_remedies`, and where each is raised."""
    calls = [partial(case.call, case.given) for case in test_remedies.CODE.values()]
    for call in [*calls, *(provoke for provoke, *_ in test_remedies.CALLS.values())]:
        with pytest.raises(NeglogError) as caught:
            call()
        yield str(caught.value), raised_at(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_every_message_with_advice_has_a_row():
    """Every message of the source that advises something has a row that provokes it and follows it."""
    rows = [*_of_remedies(), *map(provoked, ROWS)]
    seen = set().union(*(places for _, places in rows))
    left = {
        f"{at[0]}: {text[:80].strip()}"
        for at, text in advice().items()
        if at not in seen and not any(is_said(at, message) for message, _ in rows)
    }
    left |= {
        f"{at[0]}: {text[:80].strip()}"
        for at, (text, *_) in helper_texts().items()
        if not any(is_built(at, message) for message, _ in rows)
    }
    assert left == set(), "write a row that provokes the message and follows its advice"
