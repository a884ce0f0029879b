"""Rows of test_advice.py: names of arguments and predictors, and comparisons of models."""

import warnings
from functools import partial

import numpy as np
import pandas as pd
from remedies import row

import neglog
from neglog import mle, models
from neglog.errors import DataError, ModelError

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)
FRAME = pd.DataFrame(X, columns=["a", "b"]).assign(y=1.0)


def compared(*chosen, x=X, y=Y, **settings):
    given = chosen[0] if len(chosen) == 1 and not isinstance(chosen[0], str) else list(chosen)
    return lambda _: neglog.compare(given, x, y, **{"folds": 2, **settings})


def summarised(**settings):
    def call(_):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return neglog.summary(mle(models.gaussian, X, Y), **settings)

    return call


MEDIANS = [partial(models.quantile, tau=0.5), partial(models.quantile, tau=0.4)]
ROWS = {
    "an argument under both of its names": row(
        ModelError,
        "drop `kind`",
        provoke=summarised(kind="HC1", cov_type="HC1"),
        follow=summarised(cov_type="HC1"),
    ),
    "a design under both names of its predictor": row(
        ModelError,
        "drop 'location'",
        provoke=lambda _: mle(models.gaussian, {"location": X, "mean": X}, Y),
        follow=lambda _: mle(models.gaussian, {"mean": X}, Y),
    ),
    "the kind of response of chosen models": row(
        ModelError,
        "`response`",
        "Leave it out",
        provoke=compared("gaussian", response="continuous"),
        follow=compared("gaussian"),
    ),
    "companions of arrays": row(
        DataError,
        "`also`",
        "'sigma': z",
        provoke=compared("gaussian", also=["sigma ~ a"]),
        follow=compared("gaussian", x={"mean": X, "sigma": X[:, :1]}),
    ),
    "models that are none": row(
        ModelError, "a list of models", provoke=compared(3), follow=compared([models.gaussian])
    ),
    "no models": row(ModelError, "neglog.models", provoke=compared([]), follow=compared("gaussian")),
    "two models of one name": row(
        ModelError,
        "a mapping, name -> model",
        provoke=compared(MEDIANS),
        follow=compared(dict(zip(("half", "less"), MEDIANS, strict=True))),
    ),
    "a fit in the place of a model": row(
        ModelError,
        "`information_criteria`",
        provoke=lambda _: neglog.compare([mle(models.gaussian, X, Y)], X, Y),
        follow=lambda _: neglog.information_criteria(
            {"a": mle(models.gaussian, X, Y), "b": mle(models.laplace, X, Y)}
        ),
    ),
}
