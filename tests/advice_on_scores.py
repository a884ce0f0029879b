"""Rows of test_advice.py: held-out scores, estimators, and what users of PyTorch give."""

from functools import cache

import numpy as np
from remedies import row
from torch import nn

import neglog
from neglog import losses, mle, predict
from neglog.errors import DataError, ModelError, SingularDesignError
from neglog.estimators import LikelihoodClassifier

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 1)), RNG.normal(size=N)
KINDS = np.arange(N) % 3
BOTH = np.column_stack([Y, RNG.normal(size=N)])
TABLE = {"y": Y, "x": X[:, 0], "g": np.array(list("uv"))[np.arange(N) % 2]}
COUNTS = RNG.poisson(3.0, size=N).astype(float)
TWICE = 1 + np.arange(N) % 2


def scored(model, y, *scores):
    return lambda _: neglog.cross_validate(model, X, y, folds=2, scores=scores)


def classifier(model):
    return LikelihoodClassifier(model).fit(X, KINDS)


def heavy():
    """A fit whose predictions have no mean."""
    return mle("student_t", X, np.where(np.arange(N) < 14, Y, 1e4 * Y))


@cache
def approximation():
    model = neglog.on_features("gaussian", nn.Linear(1, 1).double())
    return neglog.laplace_approximation(neglog.map_estimate(model, X, Y))


LINE = mle("gaussian", X, Y)


def recalibrated(model, y, **settings):
    return lambda _: neglog.recalibrate(mle(model, X, y), X, y, **settings)


ROWS = {
    "the deviance of a family without one": row(
        ModelError,
        "`Logistic`",
        provoke=scored("logistic", Y, "d2"),
        follow=scored("logistic", Y, "log", "r2"),
    ),
    "the calibration of vectors": row(
        ModelError,
        "calibration error",
        provoke=scored("multivariate_gaussian", BOTH, "calibration"),
        follow=scored("multivariate_gaussian", BOTH),
    ),
    "the squared error of classes": row(
        ModelError,
        "'brier', 'calibration' and 'd2'",
        provoke=scored("categorical", KINDS, "rmse"),
        follow=scored("categorical", KINDS, "brier", "calibration", "d2"),
    ),
    "what is explained of a constant": row(
        DataError,
        "a response that varies",
        provoke=scored("poisson", np.ones(N), "r2"),
        follow=scored("poisson", np.ones(N), "rmse"),
    ),
    "the interval of classes without an order": row(
        ModelError,
        "predict_proba",
        provoke=lambda _: classifier("categorical").predict_interval(X),
        follow=lambda _: (
            classifier("categorical").predict_proba(X),
            classifier("ordinal").predict_interval(X),
        ),
    ),
    "the class of a loss": row(
        ModelError,
        "`MSELoss`",
        provoke=lambda _: losses.likelihood_of(nn.MSELoss),
        follow=lambda _: losses.likelihood_of(nn.MSELoss()),
    ),
    "a device": row(
        ModelError,
        "on the CPU",
        provoke=lambda _: mle("gaussian", X, Y, device="cuda"),
        follow=lambda _: mle("gaussian", X, Y),
    ),
    "a dtype": row(
        ModelError,
        "in float64",
        provoke=lambda _: mle("gaussian", X, Y, dtype="float32"),
        follow=lambda _: mle("gaussian", X, Y),
    ),
    "splines within categories beside an intercept": row(
        SingularDesignError,
        "`0 + ...`",
        provoke=lambda _: mle("gaussian", "y ~ cr(x, df=3):C(g)", TABLE),
        follow=lambda _: (
            mle("gaussian", "y ~ 0 + cr(x, df=3):C(g)", TABLE),
            mle("gaussian", "y ~ C(g) * cr(x, df=3)", TABLE),
        ),
    ),
    "the conformal intervals of a heavy tail": row(
        ModelError,
        "kind='quantile'",
        provoke=lambda _: neglog.conformal(heavy(), X, Y),
        follow=lambda _: neglog.conformal(heavy(), X, Y, kind="quantile"),
    ),
    "weights of held-out rows": row(
        ModelError,
        "numpy.repeat(rows, weights, axis=0)",
        provoke=lambda _: neglog.conformal(mle("gaussian", X, Y), X, Y, weights=TWICE),
        follow=lambda _: neglog.conformal(
            mle("gaussian", X, Y), np.repeat(X, TWICE, axis=0), np.repeat(Y, TWICE, axis=0)
        ),
    ),
    "the interval of a mean that is none of a fit's": row(
        ModelError,
        "use kind='outcome'",
        provoke=lambda _: neglog.interval(approximation(), X),
        follow=lambda _: neglog.interval(approximation(), X, kind="outcome"),
    ),
    "no rows for calibration": row(
        DataError,
        "not seen",
        provoke=lambda _: neglog.conformal(mle("gaussian", X, Y), X[:0], Y[:0]),
        follow=lambda _: neglog.conformal(mle("gaussian", X[:10], Y[:10]), X[10:], Y[10:]),
    ),
    "draws of a value that predicts by itself": row(
        ModelError,
        "leave `draws` out",
        provoke=lambda _: neglog.predict(approximation(), X, draws=8),
        follow=lambda _: (neglog.predict(approximation(), X), approximation().predict(X, draws=8)),
    ),
    "the temperature of counts": row(
        ModelError,
        "method='isotonic'",
        provoke=recalibrated("poisson", COUNTS),
        follow=recalibrated("poisson", COUNTS, method="isotonic"),
    ),
    "bins of a temperature": row(
        ModelError,
        "leave them out",
        provoke=recalibrated("gaussian", Y, bins=4),
        follow=recalibrated("gaussian", Y),
    ),
    "more bins than rows": row(
        ModelError,
        "at most 21",
        provoke=recalibrated("gaussian", Y, method="isotonic", bins=22),
        follow=recalibrated("gaussian", Y, method="isotonic", bins=21),
    ),
    "the recalibration of vectors": row(
        ModelError,
        "a model of each",
        provoke=recalibrated("multivariate_gaussian", BOTH),
        follow=recalibrated("gaussian", BOTH[:, 1]),
    ),
    "the recalibration of censored rows": row(
        ModelError,
        "Leave out the handler",
        provoke=recalibrated(neglog.censored("gaussian", lower=0.0), Y.clip(min=0.0)),
        follow=recalibrated("gaussian", Y),
    ),
    "a temperature of 0": row(
        DataError,
        "Give more rows",
        provoke=lambda _: neglog.recalibrate(LINE, X[:1], predict(LINE, X[:1]).mean),
        follow=lambda _: neglog.recalibrate(LINE, X, Y),
    ),
    "the coverage of no level": row(
        ModelError,
        "give one at least",
        provoke=lambda _: neglog.coverage(LINE, X, Y, []),
        follow=lambda _: neglog.coverage(LINE, X, Y, [0.9]),
    ),
    "the reliability of no fit": row(
        DataError,
        "Pass at least one",
        provoke=lambda _: neglog.plots.reliability({}, X, Y),
        follow=lambda _: neglog.plots.reliability({"line": LINE}, X, Y),
    ),
}
