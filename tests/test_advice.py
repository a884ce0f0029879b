"""Advice: each message with a remedy is provoked, and what it advises is followed.

A row has two functions of a folder: one raises the message, one does what it says and must work. The source
is read for messages that advise something; one without a row fails.
"""

import tempfile
from functools import cache, partial
from pathlib import Path

import advice_on_arguments
import advice_on_fits
import advice_on_tables
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import test_remedies
import torch
from pyro import poutine
from remedies import Row, advice, helper_texts, is_built, is_said, raised_at
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
from neglog.errors import NeglogError
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

ROWS = {
    "masked tensors": (
        lambda _: mle(models.gaussian, half_masked(), Y),
        lambda _: mle(models.gaussian, half_masked().get_data(), Y),
    ),
    "a model of other arguments": (fitted(lambda x, y, tau: 0), fitted(partial(models.quantile, tau=0.3))),
    "meta tensors": (
        fitted(models.gaussian, torch.ones(N, 2, device="meta")),
        fitted(models.gaussian, TENSOR),
    ),
    "no covariances": (
        lambda _: neglog.mle_batch(models.gaussian, X, BOTH.T).standard_errors,
        lambda _: neglog.mle_batch(models.gaussian, X, BOTH.T, covariance=True).standard_errors,
    ),
    "a batch of vectors": (
        lambda _: neglog.mle_batch(models.multivariate_gaussian, X, np.stack([BOTH, BOTH])),
        lambda _: [mle(models.multivariate_gaussian, X, y) for y in (BOTH, BOTH)],
    ),
    "a batch without designs": (
        lambda _: neglog.mle_batch(models.gaussian, {}, BOTH.T),
        lambda _: neglog.mle_batch(models.gaussian, {"mean": X}, BOTH.T),
    ),
    "a batch with NaN": (
        lambda _: neglog.mle_batch(models.gaussian, X, np.stack([Y, HOLES])),
        lambda _: neglog.mle_batch(models.gaussian, X[3:], np.stack([Y, HOLES])[:, 3:]),
    ),
    "corners under Laplace's method": (
        lambda _: neglog.posterior(models.laplace, X, Y, method="laplace", draws=100),
        lambda _: neglog.posterior(models.laplace, X, Y, method="nuts", draws=100, chains=1, tune=100),
    ),
    "two columns of one name": (
        fitted(models.gaussian, pd.DataFrame(X, columns=["a", "a"])),
        fitted(models.gaussian, pd.DataFrame(X, columns=["a", "b"])),
    ),
    "infinite densities": (
        fitted(models.poisson, y=COUNTS, exposure=np.where(np.arange(N) == int(COUNTS.argmax()), 0.0, 1.0)),
        fitted(models.poisson, y=COUNTS, exposure=np.ones(N)),
    ),
    "a negative exposure": (
        fitted(models.poisson, y=COUNTS, exposure=-np.ones(N)),
        fitted(models.poisson, y=COUNTS, exposure=np.ones(N)),
    ),
    "NaN in a design": (
        fitted(models.gaussian, np.where(X > 2, np.nan, X) * np.where(np.arange(N) < 1, np.nan, 1)[:, None]),
        fitted(models.gaussian, X[1:], Y[1:]),
    ),
    "no such data": (lambda _: datasets.load("enge"), lambda _: datasets.load("engel")),
    "settings inside a loss": (
        loss(losses.likelihood_of, nn.HuberLoss(), delta=2.0),
        loss(losses.likelihood_of, nn.HuberLoss(delta=2.0)),
    ),
    "PoissonNLLLoss of the mean": (
        loss(losses.likelihood_of, nn.PoissonNLLLoss(log_input=False)),
        loss(losses.likelihood_of, nn.PoissonNLLLoss(log_input=True)),
    ),
    "weights of a batch": (
        loss(losses.likelihood_of, nn.BCEWithLogitsLoss(weight=torch.ones(3))),
        fitted(models.bernoulli, X, CLASSES.clip(0, 1), weights=np.ones(N)),
    ),
    "labels": (
        loss(losses.likelihood_of, nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))),
        loss(losses.likelihood_of, nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))),
    ),
    "label smoothing": (
        loss(losses.likelihood_of, nn.CrossEntropyLoss(label_smoothing=0.1)),
        loss(losses.likelihood_of, nn.CrossEntropyLoss(label_smoothing=0.0)),
    ),
    "a loss inside a handler": (
        loss(losses.loss_of, poutine.scale(models.gaussian, scale=2.0)),
        loss(losses.loss_of, models.gaussian),
    ),
    "censored inside": (
        fitted(CENSORED_INSIDE, y=Y.clip(0)),
        fitted(CENSORED_OUTSIDE, y=Y.clip(0)),
    ),
    "rho in NumPy": (
        loss(losses.as_likelihood, lambda r: np.abs(r.numpy())),
        loss(losses.as_likelihood, lambda r: r.abs()),
    ),
    "rho reduced": (
        loss(losses.as_likelihood, lambda r: r.abs().sum()),
        loss(losses.as_likelihood, torch.abs),
    ),
    "rho that is constant": (
        loss(losses.as_likelihood, lambda r: r.detach().abs()),
        loss(losses.as_likelihood, torch.abs),
    ),
    "rho infinite at 0": (
        loss(losses.as_likelihood, lambda r: r.abs() - torch.log(r.abs())),
        loss(losses.as_likelihood, lambda r: r.abs() - torch.log(r.abs() + 1)),
    ),
    "rho too slow": (
        loss(losses.as_likelihood, lambda r: 1.01 * torch.log(1 + r.abs())),
        loss(losses.as_likelihood, lambda r: 3.0 * torch.log(1 + r.abs())),
    ),
    "rho that jumps": (
        loss(losses.as_likelihood, lambda r: r.abs() + (r > 1)),
        loss(losses.as_likelihood, lambda r: r.abs() + torch.sigmoid(r)),
    ),
    "a keyword that is no number": (
        lambda p: save(mle(partial(models.quantile, tau=torch.tensor(0.3)), X, Y), p / "m"),
        lambda p: save(mle(partial(models.quantile, tau=0.3), X, Y), p / "n"),
    ),
    "a bound in a partial": (
        lambda p: save(mle(partial(censored(models.gaussian), upper=9.0), X, Y), p / "m"),
        lambda p: save(mle(censored(models.gaussian, upper=9.0), X, Y), p / "n"),
    ),
    "a damaged folder": (
        lambda p: (save(fit(), p / "m") / "model.json").write_text("{") and load(p / "m"),
        lambda p: load(save(fit(), p / "n")),
    ),
    "a file for a folder": (lambda p: save(fit(), written(p, "a")), lambda p: save(fit(), p / "n")),
    "another folder": (lambda p: (written(p, "a"), save(fit(), p)), lambda p: save(fit(), p / "n")),
    "Continuation without corners": (
        fitted(models.gaussian, solver=solvers.Continuation()),
        fitted(models.gaussian),
    ),
    "ProximalNewton without priors": (
        fitted(models.gaussian, solver=solvers.ProximalNewton()),
        fitted(models.gaussian),
    ),
    "InteriorPoint without corners": (
        fitted(models.gaussian, solver=solvers.InteriorPoint()),
        fitted(models.gaussian),
    ),
    "dependent components": (
        fitted(models.multivariate_gaussian, y=np.stack([Y, 2 * Y], 1)),
        fitted(models.multivariate_gaussian, y=Y[:, None]),
    ),
    "few values under a mixture": (
        fitted(models.gaussian_mixture, y=(Y > 0).astype(float)),
        fitted(models.bernoulli, y=(Y > 0).astype(float)),
    ),
    "a fit from disk": (
        lambda p: covariance(load(saved(p))),
        lambda _: covariance(mle(models.gaussian, X, Y)),
    ),
    "no lasso prior": (
        lambda _: neglog.lasso_path(models.gaussian, X, Y, n=2),
        lambda _: neglog.lasso_path(LASSO, X, Y, n=2),
    ),
    "text with a level a row": (
        learned("y ~ t", FRAME.assign(t=[f"r{i}" for i in range(N)])),
        learned("y ~ a", FRAME),
    ),
    "no response": (learned("~ a"), learned("y ~ a")),
    "kept dates": (
        lambda _: learn("y ~ a", DATES, keep=["d"]),
        lambda _: learn("y ~ a", DATES, keep=["b"]),
    ),
    "kept text": (
        lambda _: learn("y ~ a", FRAME, keep=["g"]),
        lambda _: learn("y ~ a", FRAME, keep=["b"]),
    ),
    "several values of a setting": (
        learned("y ~ bs(a, df=[4, 5], extrapolation='clip')"),
        learned("y ~ bs(a, df=4, extrapolation='clip')"),
    ),
    "division by 0": (learned("y ~ {a + 1 / 0}"), learned("y ~ {a + 1 / 2}")),
    "a long expression": (learned("y ~ {" + "a + " * 30_000 + "a}"), learned("y ~ {a + a}")),
    "an expression of many parts": (learned("y ~ {" + "a+" * 20_000 + "a}"), learned("y ~ {a + a}")),
    "a column called as a number": (
        learned("y ~ .", FRAME.assign(**{"1": 1.0})),
        learned("y ~ .", FRAME.assign(one=X[:, 0] ** 2)),
    ),
    "text as response": (learned("g ~ a"), learned("{g == 'a'} ~ a")),
    "two responses": (learned("y ~ a ~ b"), learned("y ~ a + b")),
    "a formula that cannot be read": (learned("y ~ a +"), learned("y ~ a + b")),
    "a long formula": (learned("y ~ " + " + ".join(["a"] * 60_000)), learned("y ~ a")),
    "a column called as a function": (
        learned("y ~ log(a) + log", FRAME.assign(log=1.0, a=np.exp(X[:, 0]))),
        learned("y ~ log(a) + other", FRAME.assign(other=X[:, 1], a=np.exp(X[:, 0]))),
    ),
    "many terms": (learned("y ~ " + " * ".join(f"a{i}" for i in range(30))), learned("y ~ a * b")),
    "a power beyond floats": (learned("y ~ {a + 10 ** 400}"), learned("y ~ {a + 10.0}")),
    "too many brackets": (learned("y ~ " + "(" * 300 + "a" + ")" * 300), learned("y ~ (a)")),
    "an expression with an error": (learned("y ~ {a +* 1}"), learned("y ~ {a + 1}")),
    "exp10": (learned("y ~ exp10(a)"), learned("y ~ {10.0 ** a}")),
    "an infinite column of a formula": (
        learned("y ~ log(z)", FRAME.assign(z=np.arange(N) * 1.0)),
        learned("y ~ log(z + 1)", FRAME.assign(z=np.arange(N) * 1.0)),
    ),
    "levels that a fit has not seen": (
        lambda _: learn("y ~ g", FRAME).design.x(FRAME.assign(g="z"), ("mean",)),
        lambda _: learn("y ~ g", FRAME).design.x(FRAME.assign(g="b"), ("mean",)),
    ),
    "complex columns": (
        learned("y ~ c", COMPLEX),
        learned("y ~ c", COMPLEX.assign(c=np.abs(COMPLEX.c))),
    ),
    "infinite columns": (learned("y ~ a", INFINITE), learned("y ~ a", FRAME)),
    "labels of weights": (
        lambda _: neglog.weighted(models.gaussian, pd.Series(np.ones(N))),
        lambda _: neglog.weighted(models.gaussian, pd.Series(np.ones(N)).to_numpy()),
    ),
    "a lazy module": (
        lambda _: on_features(models.gaussian, nn.LazyLinear(2)),
        lambda _: on_features(models.gaussian, run_once(nn.LazyLinear(2))),
    ),
    "a mapping for a trunk": (
        fitted(MIX, {"mean": X}, solver=STEPS),
        fitted(on_features(models.gaussian, SHARED), solver=STEPS),
    ),
    "a network for no predictor": (
        fitted(on_features(models.gaussian, {"meen": TRUNK}), solver=STEPS),
        fitted(on_features(models.gaussian, SHARED), solver=STEPS),
    ),
    "both names": (
        fitted(models.laplace, {"median": X, "location": X}),
        fitted(models.laplace, {"location": X}),
    ),
    "a code without a class": (
        loss(losses.categorical_nll, torch.zeros(2, 3), torch.tensor([0.0, 3.0])),
        loss(losses.categorical_nll, torch.zeros(2, 3), torch.tensor([0.0, 2.0])),
    ),
    "rows of a penalty": (loss(losses.lasso_alpha, 1.0, 1.0, X), loss(losses.lasso_alpha, 1.0, 1.0, len(X))),
    "lists for a loss": (
        loss(losses.mse, [1.0], TARGET[:1]),
        loss(losses.mse, torch.as_tensor([1.0]), TARGET[:1].float()),
    ),
    "integers for a loss": (
        loss(losses.mse, torch.tensor([1]), TARGET[:1]),
        loss(losses.mse, torch.tensor([1]).double(), TARGET[:1]),
    ),
    "a scale of 0": (
        loss(losses.gaussian_nll, TARGET, TARGET, 0.0),
        loss(losses.gaussian_nll, TARGET, TARGET, 1.0),
    ),
    "a scale of text": (
        loss(losses.gaussian_nll, TARGET, TARGET, "1"),
        loss(losses.gaussian_nll, TARGET, TARGET, float("1")),
    ),
    "an infinite scale": (
        loss(losses.huber_nll, TARGET, TARGET, 1.0, np.inf),
        loss(losses.huber_nll, TARGET, TARGET, 1.0, 1.0),
    ),
    "no target": (loss(losses.mse, TARGET[:0], TARGET[:0]), loss(losses.mse, TARGET[:1], TARGET[:1])),
    "another reduction": (
        loss(losses.mse, TARGET, TARGET, reduction="avg"),
        loss(losses.mse, TARGET, TARGET, reduction="mean"),
    ),
    "classes from 1": (
        fitted(models.categorical, y=CLASSES - 1),
        fitted(models.categorical, y=CLASSES),
    ),
    "a gap in classes": (
        fitted(models.categorical, y=np.where(CLASSES == 1, 3.0, CLASSES)),
        fitted(models.categorical, y=CLASSES),
    ),
    "a density without predictors": (
        lambda _: neglog.mle_batch(model_of(lambda _, x, y: normal(0 * ONE, x, y)), X, BOTH.T),
        lambda _: neglog.mle_batch(model_of(normal), X, BOTH.T),
    ),
    "no bound": (fitted(censored(models.gaussian)), fitted(censored(models.gaussian, upper=5.0))),
    "a picture of vectors": (
        lambda _: plots.picture({"a": fit()}, X[:, :1], BOTH),
        lambda _: plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y),
    ),
    "a picture of another kind": (
        lambda p: plots.write(
            plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y), p / "a.x"
        ),
        lambda p: plots.write(
            plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y), p / "a.svg"
        ),
    ),
    "a picture of nothing": (
        lambda _: plots.picture({}, X[:, :1], Y),
        lambda _: plots.picture({"a": mle(models.gaussian, X[:, :1], Y)}, X[:, :1], Y),
    ),
    "no exposure for new rows": (
        lambda _: predict(rates(), X[:2]),
        lambda _: predict(rates(), X[:2], exposure=np.ones(2)),
    ),
    "more draws than there are": (
        lambda _: predict(posterior(), X[:2], draws=101),
        lambda _: predict(posterior(), X[:2], draws=100),
    ),
    "keywords without rows": (
        lambda _: neglog.posterior_predictive(of_counts(), exposure=np.ones(N)),
        lambda _: neglog.posterior_predictive(of_counts(), X, exposure=np.ones(N)),
    ),
    "Brier's score of numbers": (
        lambda _: neglog.scores(fit(), X, Y, kind="brier"),
        lambda _: neglog.scores(fit(), X, Y, kind="crps"),
    ),
    "a score of a missing row": (
        lambda _: neglog.scores(mle(masked(models.gaussian), X, HOLES), X, HOLES, kind="crps"),
        lambda _: neglog.scores(mle(masked(models.gaussian), X, HOLES), X[3:], HOLES[3:], kind="crps"),
    ),
    "a single column for a model": (
        lambda _: models.gaussian(TENSOR[:, 0]),
        lambda _: models.gaussian(TENSOR[:, 0][:, None]),
    ),
    "no designs for a model": (
        lambda _: models.gaussian({}),
        lambda _: models.gaussian({"mean": TENSOR[:, :0]}),
    ),
    "integers for a model": (
        lambda _: models.gaussian(torch.ones(N, 2, dtype=torch.long)),
        lambda _: models.gaussian(torch.ones(N, 2, dtype=torch.long).double()),
    ),
    "a size that is no whole number": (
        fitted(classes(lambda y: float(y.max()) + 1), y=CLASSES),
        fitted(classes(lambda y: int(float(y.max()) + 1)), y=CLASSES),
    ),
    "heads without a network": (
        fitted(models.gaussian, solver=solvers.VariableProjection()),
        fitted(models.gaussian),
    ),
    "heads with corners": (
        fitted(on_features(models.laplace, TRUNK), solver=solvers.VariableProjection()),
        fitted(on_features(models.huber, TRUNK), solver=solvers.Adam(steps=3)),
    ),
    "a prior of another support": (
        lambda _: map_estimate(with_priors(models.gaussian, {"sigma": dist.Normal(0.0, 1.0)}), X, Y),
        lambda _: map_estimate(with_priors(models.gaussian, {"sigma": dist.HalfNormal(1.0)}), X, Y),
    ),
    "a directory that is not there": (
        lambda p: neglog.spool([(X, Y)], p / "no" / "such"),
        lambda p: neglog.spool([(X, Y)], p),
    ),
    "no losses": (
        lambda _: studies.robustness({}),
        lambda _: studies.robustness({"MSE": models.gaussian}, rows=10, data_sets=2, shares=(0.0,)),
    ),
    "no such table": (lambda p: read_table(p / "no.csv"), lambda p: read_table(written(p, "a\n1\n"))),
    "no rows in a table": (
        lambda p: read_table(written(p, "a,b\n")),
        lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "another kind of table": (
        lambda p: read_table(written(p, "a\n1\n", "t.xls")),
        lambda p: read_table(written(p, "a\n1\n", "t.csv")),
    ),
    "an empty table": (lambda p: read_table(written(p, "")), lambda p: read_table(written(p, "a\n1\n"))),
    "fewer names than columns": (
        lambda p: read_table(written(p, "a\n1,2\n3,4\n")),
        lambda p: read_table(written(p, "a,b\n1,2\n3,4\n")),
    ),
    "a ragged table": (
        lambda p: read_table(written(p, "a,b\n1,2\n3,4,5\n")),
        lambda p: read_table(written(p, "a,b\n1,2\n3,4\n")),
    ),
    "a table in Latin-1": (
        lambda p: read_table(written(p, "ä\n1\n".encode("latin-1"))),
        lambda p: read_table(written(p, "ä\n1\n".encode())),
    ),
    "semicolons": (
        lambda p: read_table(written(p, "a;b\n1;2\n")),
        lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "no Parquet file": (
        lambda p: read_table(written(p, "a", "t.parquet")),
        lambda p: read_table(written(p, "a\n1\n", "t.csv")),
    ),
    "two names alike": (
        lambda p: read_table(written(p, "a,a\n1,2\n")),
        lambda p: read_table(written(p, "a,b\n1,2\n")),
    ),
    "missing values of a table": (
        lambda _: complete_rows(FRAME.assign(y=HOLES), ["y"]),
        lambda _: dropped(FRAME.assign(y=HOLES)),
    ),
    "two columns alike": (
        lambda _: require_columns(pd.DataFrame(X, columns=["a", "a"]), ["a"]),
        lambda _: require_columns(pd.DataFrame(X, columns=["a", "b"]), ["a"]),
    ),
    "a prior that cannot be drawn from": (fitted(model_of(undrawable)), fitted(model_of(drawable))),
    "too few draws": (
        lambda _: bootstrap(fit(), 20).interval(0.99),
        lambda _: bootstrap(fit(), 20).interval(0.6),
    ),
    "BCa of other draws": (
        lambda _: bootstrap(fit(), 40, kind="parametric").interval(0.6, "bca"),
        lambda _: bootstrap(fit(), 40, kind="parametric").interval(0.6, "basic"),
    ),
    "the bootstrap of a mode": (
        lambda _: bootstrap(map_estimate(models.gaussian, X, Y), 10),
        lambda _: bootstrap(mle(models.gaussian, X, Y), 10),
    ),
    "groups of parametric draws": (
        lambda _: bootstrap(fit(), 10, kind="parametric", groups=np.arange(N)),
        lambda _: bootstrap(fit(), 10, kind="parametric"),
    ),
    "a hypothesis that cannot be read": (
        lambda _: neglog.wald_test(fit(), "x0[ = 0"),
        lambda _: neglog.wald_test(fit(), "`mean[x0]` = 0"),
    ),
    "a hypothesis that is none": (
        lambda _: neglog.wald_test(fit(), "x0 * x1 = 1"),
        lambda _: neglog.wald_test(fit(), "x0 = 0, 2 * x0 - x1 = 1"),
    ),
    "a hypothesis beyond floats": (
        lambda _: neglog.wald_test(fit(), "x0 = 1e999"),
        lambda _: neglog.wald_test(fit(), "x0 = 1e9"),
    ),
    "constraints that follow from each other": (
        lambda _: neglog.wald_test(fit(), "x0 = 0, 2 * x0 = 0"),
        lambda _: neglog.wald_test(fit(), "x0 = 0"),
    ),
    "groups without clusters": (
        lambda _: covariance(fit(), "HC1", groups=np.arange(N)),
        lambda _: covariance(fit(), "cluster", groups=np.arange(N)),
    ),
    "a leverage of 1": (
        lambda _: covariance(mle(models.gaussian, np.eye(N)[:, :1], Y), "HC3"),
        lambda _: covariance(mle(models.gaussian, np.eye(N)[:, :1], Y), "HC1"),
    ),
    "a score test with corners": (
        lambda _: neglog.score_test(laplace(), X**2),
        lambda _: bootstrap(laplace(), 10),
    ),
    "densities against probabilities": (
        lambda _: neglog.vuong_test(mle(models.poisson, X, COUNTS), mle(models.gaussian, X, COUNTS)),
        lambda _: neglog.vuong_test(mle(models.poisson, X, COUNTS), mle(models.poisson, X[:, :1], COUNTS)),
    ),
    "no mapping of fits": (
        lambda _: neglog.compare([fit(), laplace()]),
        lambda _: neglog.compare({"a": fit(), "b": laplace()}),
    ),
    "a profile with corners": (
        lambda _: neglog.summary(laplace(), interval="profile"),
        lambda _: neglog.summary(laplace(), interval="wald"),
    ),
    "other folds": (
        lambda _: validations()[2].above(validations()[3]),
        lambda _: validations()[2].above(validations()[2]),
    ),
    "a score that was not asked for": (
        lambda _: validations()[2].above(validations()[2], "crps"),
        lambda _: scored().above(scored(), "crps"),
    ),
    "two sites of one name": (fitted(model_of(twice)), fitted(model_of(normal))),
    "two observations": (fitted(model_of(second)), fitted(model_of(normal))),
    "no distribution": (fitted(model_of(no_distribution)), fitted(model_of(normal))),
    "a parameter of Pyro": (fitted(model_of(with_param)), lambda _: map_estimate(model_of(with_site), X, Y)),
    "scores of other units": (
        lambda _: counted()[0].above(counted()[1]),
        lambda _: counted()[0].above(counted()[1], "crps"),
    ),
    "weights of a network": (
        lambda _: neglog.laplace_approximation(wide(), structure="full"),
        lambda _: neglog.laplace_approximation(wide(), structure="full", prior_precision=1.0),
    ),
    "a prior precision beside priors": (
        lambda _: neglog.laplace_approximation(shrunk(), structure="full", prior_precision=1.0),
        lambda _: neglog.laplace_approximation(shrunk(), structure="full"),
    ),
    "a mean that does not exist": (
        lambda _: neglog.interval(cauchy(), X[:2, :0], kind="mean"),
        lambda _: neglog.interval(cauchy(), X[:2, :0], kind="outcome"),
    ),
    "LBFGS of dropout": (
        fitted(on_features(models.gaussian, DROPOUT), solver=solvers.LBFGS()),
        fitted(on_features(models.gaussian, DROPOUT), solver=STEPS),
    ),
    "separated but for rows of no weight": (
        fitted(models.bernoulli, SIDES, ORDERED, weights=np.repeat([1.0, 1e-20], [20, 2])),
        fitted(models.bernoulli, SIDES, ORDERED, weights=np.repeat([1.0, 1e-2], [20, 2])),
    ),
    "a unit that priors exclude": (
        lambda _: map_estimate(models.gaussian, X, 1e100 * Y),
        lambda _: map_estimate(
            with_priors(models.gaussian, neglog.priors_for(models.gaussian, X, 1e100 * Y)), X, 1e100 * Y
        ),
    ),
    "a class without rows": (
        fitted(partial(models.categorical, classes=4), y=CLASSES),
        fitted(partial(models.categorical, classes=3), y=CLASSES),
    ),
}


ROWS = (
    {name: Row(NeglogError, (), *pair) for name, pair in ROWS.items()}
    | advice_on_tables.ROWS
    | advice_on_fits.ROWS
    | advice_on_arguments.ROWS
)


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
    ROWS[name].follow(tmp_path)


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
