"""Rows of test_advice.py: messages that are built in several places, about arguments and models."""

from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from remedies import Row, row
from torch import nn

import neglog
from neglog import losses, map_estimate, mle, models, with_priors
from neglog.errors import DataError, ModelError, SingularDesignError, UnboundedLikelihoodError
from neglog.formula import learn
from neglog.formula.tagged import from_json
from neglog.predictors import linear, rows
from neglog.solvers import Adam

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)
FRAME = pd.DataFrame(X, columns=["a", "b"]).assign(y=Y)
RISING = mle(models.poisson, np.arange(N)[:, None] / N, np.arange(N) // 3 * 1.0)
ONE = torch.ones((), dtype=torch.float64)
OTHERS = pd.Series(Y, index=range(N, 2 * N))
TURNED = pd.Series(Y, index=range(N)[::-1])


def fitted(model, x=X, y=Y, estimate=mle, **settings):
    return lambda _: estimate(model, x, y, **settings)


def hierarchy(x, y=None):
    """A spread of the coefficients' prior, which the density rewards for being 0."""
    tau = pyro.sample("tau", dist.HalfNormal(ONE))
    shifts = pyro.sample("shifts", dist.Normal(torch.zeros(2, dtype=torch.float64), tau).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(x @ shifts, ONE), obs=y)


def wrong(x, y=None):
    return linear("location", x) / {}


def two_outputs(x, y=None):
    found = linear("found", x, outputs=2)
    with rows(x):
        return pyro.sample("y", dist.Normal(found[:, 0], found[:, 1].exp()), obs=y)


def steps(learning_rate):
    solver = Adam(steps=20, learning_rate=learning_rate, rescale=False)
    return fitted(models.heteroscedastic, 1e4 * X, estimate=map_estimate, solver=solver)


def of_logarithms(x, y=None):
    location, scale = linear("location", x), pyro.sample("scale", dist.HalfNormal(ONE))
    with rows(x):
        return pyro.sample("y", dist.Laplace(location, scale), obs=None if y is None else torch.log(y))


def batched(model, y):
    return lambda _: neglog.mle_batch(model, X, y)


FEW = np.where(np.arange(N) < 15, 0.0, Y)
VANISHING = {"tau": dist.InverseGamma(2.0 * ONE, ONE)}
BOTH = np.stack([np.stack([Y, Y**2], 1)] * 2)

ROWS: dict[str, Row] = {
    "labels of other rows": row(
        DataError,
        "`y`",
        "y.set_axis(x.index)",
        provoke=fitted(models.gaussian, FRAME[["a"]], OTHERS),
        follow=fitted(models.gaussian, FRAME[["a"]], OTHERS.set_axis(FRAME.index)),
    ),
    "labels in another order": row(
        DataError,
        "y.loc[x.index]",
        provoke=fitted(models.gaussian, FRAME[["a"]], TURNED),
        follow=fitted(models.gaussian, FRAME[["a"]], TURNED.loc[FRAME.index]),
    ),
    "a batch of a vector-valued predictor": row(
        ModelError,
        "`two_outputs`",
        "`mle`",
        provoke=lambda _: neglog.mle_batch(two_outputs, X[:, :1], [Y, Y**2]),
        follow=lambda _: [mle(two_outputs, X[:, :1], y) for y in (Y, Y**2)],
    ),
    "priors that are too wide for the steps": row(
        UnboundedLikelihoodError,
        "`heteroscedastic`",
        "`with_priors`",
        provoke=steps(10.0),
        follow=steps(1e-6),
    ),
    "a complex design": row(
        DataError,
        "`x`",
        provoke=fitted(models.gaussian, X + 1j),
        follow=fitted(models.gaussian, (X + 1j).real),
    ),
    "BCELoss": row(
        ModelError,
        "BCEWithLogitsLoss",
        provoke=lambda _: losses.likelihood_of(nn.BCELoss()),
        follow=lambda _: losses.likelihood_of(nn.BCEWithLogitsLoss()),
    ),
    "NLLLoss": row(
        ModelError,
        "CrossEntropyLoss",
        provoke=lambda _: losses.likelihood_of(nn.NLLLoss()),
        follow=lambda _: losses.likelihood_of(nn.CrossEntropyLoss()),
    ),
    "a spread without a joint mode": row(
        UnboundedLikelihoodError,
        "'tau'",
        "InverseGamma",
        provoke=fitted(hierarchy, estimate=map_estimate),
        follow=lambda _: (
            map_estimate(pyro.condition(hierarchy, {"tau": torch.tensor(1.0)}), X, Y),
            map_estimate(with_priors(hierarchy, VANISHING), X, Y),
            neglog.posterior(hierarchy, X, Y, method="vi", draws=100, steps=100),
        ),
    ),
    "columns joined by and": row(
        DataError,
        "&",
        provoke=lambda _: learn("y ~ I(a < 1 and b < 1)", FRAME),
        follow=lambda _: learn("y ~ I((a < 1) & (b < 1))", FRAME),
    ),
    "a list in a formula": row(
        DataError,
        "List",
        provoke=lambda _: learn("y ~ I([a, b])", FRAME),
        follow=lambda _: (
            learn("y ~ c", FRAME.assign(c=X.sum(1))),
            learn("y ~ center(a) + poly(b, 2)", FRAME),
        ),
    ),
    "a state of unknown tags": row(
        DataError,
        "'smooth'",
        provoke=lambda _: from_json({"smooth": []}),
        follow=lambda _: from_json({"list": []}),
    ),
    "a model that raises": row(
        ModelError,
        "`wrong`",
        "TypeError",
        provoke=fitted(wrong),
        follow=fitted(models.gaussian),
    ),
    "shapes that differ": row(
        DataError,
        "(3,)",
        "(4,)",
        provoke=lambda _: losses.mse(torch.zeros(3), torch.zeros(4)),
        follow=lambda _: losses.mse(torch.zeros(4), torch.zeros(4)),
    ),
    "a bound keyword of no model": row(
        ModelError,
        "`zeta`",
        provoke=fitted(partial(models.gaussian, zeta=1.0)),
        follow=fitted(models.gaussian),
    ),
    "a call without its fit": row(
        ModelError,
        "`fit`",
        "Call it as covariance(fit",
        provoke=lambda _: neglog.covariance(),
        follow=lambda _: neglog.covariance(mle(models.gaussian, X, Y)),
    ),
    "a table that is no data frame": row(
        DataError,
        "`table`",
        "pandas.DataFrame(table)",
        provoke=lambda _: learn("y ~ a", {"y": Y, "a": X[:, 0]}),
        follow=lambda _: learn("y ~ a", pd.DataFrame({"y": Y, "a": X[:, 0]})),
    ),
    "a count beyond float64": row(
        ModelError,
        "infinite rate",
        "Leave out the rows",
        provoke=lambda _: neglog.interval(RISING, 1e9 * np.eye(1), kind="outcome", draws=100),
        follow=lambda _: neglog.interval(RISING, np.eye(1), kind="outcome", draws=100),
    ),
    "a column of zeros": row(
        SingularDesignError,
        "0 in every row",
        "Leave it out",
        provoke=fitted(models.gaussian, X * [1.0, 0.0]),
        follow=fitted(models.gaussian, X[:, :1]),
    ),
    "priors in the unit of a constant": row(
        DataError,
        "`y`",
        "`with_priors`",
        provoke=lambda _: neglog.priors_for(models.gaussian, X, np.ones(N)),
        follow=fitted(with_priors(models.gaussian, {"sigma": dist.HalfNormal(ONE)}), estimate=map_estimate),
    ),
    "both names of an argument": row(
        ModelError,
        "`kind`",
        "`cov_type`",
        provoke=lambda _: neglog.covariance(mle(models.gaussian, X, Y), cov_type="HC1", kind="HC1"),
        follow=lambda _: neglog.covariance(mle(models.gaussian, X, Y), cov_type="HC1"),
    ),
    "absolute values of logarithms in a batch": row(
        ModelError,
        "a function of `y`",
        "pass the values of that function as `y`",
        provoke=batched(of_logarithms, np.exp(np.stack([Y, -Y]))),
        follow=batched(models.laplace, np.stack([Y, -Y])),
    ),
    "components of few rows": row(
        UnboundedLikelihoodError,
        "`gaussian_mixture`",
        "`map_estimate`",
        provoke=fitted(models.gaussian_mixture, X[:, :0], FEW),
        follow=fitted(
            with_priors(
                models.gaussian_mixture,
                {"sigma": dist.LogNormal(torch.zeros(2).double(), torch.ones(2).double()).to_event(1)},
            ),
            X[:, :0],
            FEW,
            map_estimate,
        ),
    ),
}
