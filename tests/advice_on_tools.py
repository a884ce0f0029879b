"""Rows of test_advice.py: messages of comparisons, estimators, and the command line."""

import os
from unittest import mock

import numpy as np
import pandas as pd
import torch
from advice_on_tables import command, fit, table
from remedies import Row, row
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, StratifiedKFold

from neglog import compare, map_estimate, mle, models, on_features, predict
from neglog.cli import commands, workers
from neglog.errors import DataError, ModelError
from neglog.estimators import LikelihoodClassifier, LikelihoodRegressor, NetworkRegressor
from neglog.solvers import Adam
from neglog.validation import cross_validate

N = 30
RNG = np.random.default_rng(0)
COUNTS = pd.DataFrame({"y": RNG.poisson(3.0, N), "x": RNG.normal(size=N), "t": RNG.uniform(1, 2, N)})
LABELS = COUNTS.assign(y=["no", "yes"] * (N // 2))
STEPS = COUNTS.assign(x=np.arange(N) % 3.0)
HOLED = COUNTS.assign(x=COUNTS["x"].where(np.arange(N) > 0))
X, Y, THREE = COUNTS[["x"]], RNG.normal(size=N), np.arange(N) % 3
MISSING = np.array(["a", None, *"bc" * (N // 2 - 1)], dtype=object)
KNOWN = MISSING.astype(bool)
CELLS = pd.DataFrame({"a": pd.Series([pd.NA, *np.linspace(0.0, 1.0, N - 1)], dtype=object)})
DATES = pd.Series(pd.date_range("2020-01-01", periods=N), name="d")


def of_labels(folder, cores=1, **options):
    """What `neglog compare` makes of a response of classes, which few models have."""
    data = table(folder, frame=LABELS)
    return command(commands.compare, data, "y ~ x", folds=2, cores=cores, **options)


def ended(*_):
    """In the place of the work of a process."""
    os._exit(9)


def out_of_memory(folder, cores):
    """The same where the system ends each further process."""
    with mock.patch.object(workers, "_serve", ended):
        return of_labels(folder, cores, no_plot=True)


def sampled(folder, out):
    """The exit code of `neglog posterior`, of a few draws."""
    how = {"method": commands._Method.LAPLACE, "draws": 100}
    return command(
        commands.posterior, table(folder, frame=COUNTS), "y ~ x", "poisson", out=folder / out, **how
    )


def compared(**settings):
    return lambda _: compare(models, "y ~ x", COUNTS, folds=2, **settings)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh())


def in_folds(splitter):
    return lambda _: cross_validate(models.gaussian, X.to_numpy(), Y, folds=splitter)


def validated_on(rows):
    return lambda _: mle(models.gaussian, X, Y, solver=Adam(steps=2, validation=rows))


def in_halves(data, **keywords):
    halves = [(np.arange(15), np.arange(15, 29))]
    return cross_validate("poisson", "y ~ x", data, folds=halves, **keywords)


ROWS: dict[str, Row] = {
    "a picture of classes": row(
        DataError,
        "c.png",
        "classes",
        provoke=lambda p: of_labels(p, plot=p / "c.png"),
        follow=of_labels,
    ),
    "a setting of no model": row(
        ModelError,
        "`nope`",
        provoke=lambda p: of_labels(p, settings=["nope=1"], no_plot=True),
        follow=lambda p: of_labels(p, no_plot=True),
    ),
    "a setting that is given twice": row(
        ModelError,
        "`sigma`",
        provoke=lambda p: fit(p, settings=["sigma=1", "sigma=2"]),
        follow=lambda p: fit(p, settings=["sigma=2"]),
    ),
    "a process that the system ends": row(
        ModelError,
        "exit code 9",
        "--cores 1",
        provoke=lambda p: out_of_memory(p, 2),
        follow=lambda p: out_of_memory(p, 1),
    ),
    "draws that are not NetCDF": row(
        DataError,
        "draws.csv",
        ".nc",
        provoke=lambda p: sampled(p, "draws.csv"),
        follow=lambda p: (sampled(p, "draws.nc"), (p / "draws.nc").stat()),
    ),
    "a row-wise argument of no model": row(
        ModelError,
        "nope",
        provoke=lambda _: compare(models, X, Y > 0, folds=2, nope=Y),
        follow=lambda _: compare(models, X, Y > 0, folds=2),
    ),
    "an exposure of densities": row(
        DataError,
        "continuous",
        "exposure",
        "response='discrete'",
        provoke=compared(exposure="t", response="continuous"),
        follow=compared(exposure="t", response="discrete"),
    ),
    "three classes of a binary classifier": row(
        DataError,
        'model="categorical"',
        provoke=lambda _: LikelihoodClassifier("bernoulli").fit(X, THREE),
        follow=lambda _: LikelihoodClassifier("categorical").fit(X, THREE),
    ),
    "a regressor of classes": row(
        ModelError,
        "LikelihoodClassifier('categorical')",
        provoke=lambda _: LikelihoodRegressor("categorical").fit(X, THREE),
        follow=lambda _: LikelihoodClassifier("categorical").fit(X, THREE),
    ),
    "an estimator in the place of its fit": row(
        ModelError,
        "`fit_`",
        provoke=lambda _: predict(LikelihoodRegressor().fit(X, Y), X),
        follow=lambda _: predict(LikelihoodRegressor().fit(X, Y).fit_, X),
    ),
    "a network of classes": row(
        ModelError,
        "map_estimate(on_features(models.categorical, module), x, y)",
        provoke=lambda _: NetworkRegressor(model="categorical").fit(X, THREE),
        follow=lambda _: map_estimate(on_features(models.categorical, network()), X, THREE),
    ),
    "a missing label": row(
        DataError,
        "row 1 is None",
        provoke=lambda _: LikelihoodClassifier().fit(X, MISSING),
        follow=lambda _: LikelihoodClassifier().fit(X[KNOWN], MISSING[KNOWN]),
    ),
    "a missing cell": row(
        DataError,
        "pandas.NA",
        provoke=lambda _: LikelihoodRegressor().fit(CELLS, Y),
        follow=lambda _: LikelihoodRegressor().fit(CELLS[CELLS["a"].notna()], Y[CELLS["a"].notna()]),
    ),
    "dates in a design of an estimator": row(
        DataError,
        "(dates - dates.min()).dt.days",
        provoke=lambda _: LikelihoodRegressor().fit(DATES.to_frame(), Y),
        follow=lambda _: LikelihoodRegressor().fit((DATES - DATES.min()).dt.days.to_frame(), Y),
    ),
    "coefficients before a fit": row(
        AttributeError,
        "`fit`",
        "weight",
        provoke=lambda _: LikelihoodRegressor().coef_,
        follow=lambda _: LikelihoodRegressor().fit(X, Y).coef_,
    ),
    "folds of groups without groups": row(
        DataError,
        "GroupKFold",
        "30 rows",
        "`groups`",
        provoke=in_folds(GroupKFold(3)),
        follow=lambda _: cross_validate(
            models.gaussian, X.to_numpy(), Y, folds=GroupKFold(3), groups=np.arange(N)
        ),
    ),
    "strata of numbers": row(
        DataError,
        "StratifiedKFold",
        "KFold",
        provoke=in_folds(StratifiedKFold(3)),
        follow=in_folds(KFold(3)),
    ),
    "a splitter that cannot divide the rows": row(
        DataError,
        "`validation`, GroupKFold",
        "next(splitter.split(x, y, groups))[1]",
        provoke=validated_on(GroupKFold(2)),
        follow=validated_on(next(GroupKFold(2).split(X, Y, np.arange(N) % 4))[1]),
    ),
    "more folds than rows by a splitter": row(
        DataError,
        "n_splits=31",
        "fewer folds",
        provoke=in_folds(KFold(31)),
        follow=in_folds(KFold(30)),
    ),
    "the class of a splitter": row(
        DataError, "the class KFold", "KFold(5)", provoke=in_folds(KFold), follow=in_folds(KFold(5))
    ),
    "the fold of each row": row(
        DataError,
        "split 1",
        "PredefinedSplit",
        provoke=in_folds(np.arange(N) % 3),
        follow=in_folds(PredefinedSplit(np.arange(N) % 3)),
    ),
    "no folds": row(
        DataError, "one or more", provoke=in_folds([]), follow=in_folds([(np.arange(20), np.arange(20, N))])
    ),
    "a row fitted and held out": row(
        DataError,
        "split 1",
        "row 19 on both sides",
        provoke=in_folds([(np.arange(20), np.arange(19, N))]),
        follow=in_folds([(np.arange(19), np.arange(19, N))]),
    ),
    "positions of a table with missing rows": row(
        DataError,
        "1 rows with missing values were dropped",
        provoke=lambda _: in_halves(HOLED, drop_missing=True),
        follow=lambda _: in_halves(HOLED.dropna()),
    ),
    "more knots than values": row(
        DataError,
        "8 different inner knots between 0 and 2",
        provoke=lambda _: mle("poisson", "y ~ ns(x, df=9)", STEPS),
        follow=lambda _: mle("poisson", "y ~ ns(x, df=2)", STEPS),
    ),
}
