"""Rows of test_advice.py: messages about densities, fits, networks and what is uncertain about them."""

import os
import sys
import warnings
from functools import cache, partial
from unittest import mock

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch
from pyro.infer import MCMC, NUTS
from remedies import Row, row
from torch import nn

import neglog
from neglog import (
    bootstrap,
    censored,
    covariance,
    distributions,
    ensemble,
    flat,
    laplace_approximation,
    losses,
    map_estimate,
    masked,
    mle,
    models,
    on_features,
    truncated,
    with_priors,
)
from neglog.bayes import approximations
from neglog.comparison import compare_models
from neglog.distributions import information
from neglog.errors import (
    ConvergenceWarning,
    DataError,
    ModelError,
    SingularDesignError,
    UnboundedLikelihoodError,
)
from neglog.exchange.pyro_samples import from_pyro
from neglog.formula import learn
from neglog.networks import laplace as networks
from neglog.objective import blocks
from neglog.prediction import crps
from neglog.predictors import affine, linear, positive, rows
from neglog.solvers import LBFGS, SVI, Adam, Newton, Optimiser, VariableProjection
from neglog.split import tensor as split_tensor
from neglog.split.kinds import Sparse
from neglog.split.tensor import split
from neglog.uncertainty import profiles

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)
CLASSES = np.arange(N) % 3.0
COUNTS = RNG.poisson(3.0, size=N).astype(float)
LEVEL = np.sinh(np.linspace(-3.0, 3.0, 41)) / np.sinh(3.0)
"""A response between -1 and 1 of which many values are close to 0, and others far from it."""
BOTH = np.stack([Y, RNG.normal(size=N)], 1)
"""A response of two columns."""
ONE = torch.ones((), dtype=torch.float64)
FAR_OUT = X.copy()
FAR_OUT[7, 1] = 1e3
T9 = pyro.condition(models.student_t, {"df": torch.tensor(9.0, dtype=torch.float64)})
RANDOM = np.random.default_rng(1)
SPREAD_OUT = (RANDOM.normal(size=(300, 2)), RANDOM.uniform(0, 1, 300))
WHOLE = (np.random.default_rng(3).normal(size=(60, 1)), RNG.integers(0, 10, 60).astype(float))
FEATURES = nn.Sequential(nn.Linear(2, 2), nn.Tanh())


def outlier():
    """Eight rows in two groups, one of them far away."""
    random = torch.Generator().manual_seed(100)
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = 0.3 * x[:, 0] + 0.5 * torch.randn(8, generator=random, dtype=torch.float64)
    y = y + torch.where(torch.rand(8, generator=random, dtype=torch.float64) < 0.4, -1.5, 1.5)
    y[0] = 1e3 * y[0].abs()
    return x, y


def fitted(model, x=X, y=Y, estimate=mle, **settings):
    return lambda _: estimate(model, x, y, **settings)


def trained(objective):
    return mle(objective(models.heteroscedastic), X, Y, solver=Adam(epochs=2))


def loss(*arguments, function=losses.as_likelihood, **settings):
    return lambda _: function(*arguments, **settings)


SPARSE = scipy.sparse.random(400, 10, density=0.1, random_state=0, format="csr")


def scored(kind):
    return lambda _: neglog.scores(many(), X[:, :0], COUNTS, kind=kind)


def with_value(module, name, value, function):
    """A function while a constant of a module has another value."""

    def call(folder):
        with mock.patch.object(module, name, value):
            return function(folder)

    return call


def without_nutpie(folder):
    with mock.patch.dict(sys.modules, {"nutpie": None}):
        return sampled("nuts")(folder)


def sampled(method, model=models.gaussian, **settings):
    return lambda _: neglog.posterior(model, X, Y, method=method, draws=100, **settings)


def without_compiler(folder, **settings):
    with mock.patch.dict(os.environ, {"CXX": "no-such-compiler"}):
        return mle(models.gaussian, X, Y, solver=Adam(steps=2, **settings))


# Models


def shifted_twice(x, y=None):
    """A location with two intercepts, of which the data tell the sum alone."""
    shift = pyro.sample("shift", dist.Normal(0 * ONE, ONE))
    location = linear("location", x) + shift
    with rows(x):
        return pyro.sample("y", dist.Normal(location, ONE), obs=y)


def bounded(x, y=None, scale=None):
    """A location whose density is not a number above `BOUND`, without a scale or with one."""
    location = linear("location", x)
    spread = ONE if scale is None else positive(scale, x)
    with rows(x):
        return pyro.sample("y", dist.Normal(location + 0 * torch.sqrt(BOUND - location), spread), obs=y)


def simplex(x, y=None):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2, dtype=torch.float64)))
    location = linear("location", x) + share[0]
    with rows(x):
        return pyro.sample("y", dist.Normal(location, ONE), obs=y)


def observed(family):
    """A model of a location whose response is of some family."""

    def model(x, y=None):
        location = linear("location", x)
        with rows(x):
            return pyro.sample("y", family(location), obs=y)

    return model


def two_predictors(x, y=None):
    location, log_scale = linear("location", x), linear("log_scale", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(location, log_scale.exp()), obs=y)


def product(x, y=None):
    """A mean that is the product of two constants, of which the data tell the product alone."""
    first, second = positive("first", x), positive("second", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(first * second + 0 * x[:, 0], ONE), obs=y)


def of_low_rank(x, y=None):
    location = linear("location", x, outputs=2)
    ones = torch.ones(len(x), 2, dtype=torch.float64)
    with rows(x):
        return pyro.sample("y", dist.LowRankMultivariateNormal(location, ones[..., None], ones), obs=y)


def tied(x, y=None):
    """The weights of the head make features too."""
    weight = pyro.sample("mean.weight", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    features = torch.tanh(x * weight)
    mean = affine(features, weight, features.new_zeros(()), name="mean")
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def shifted(x, y=None, plate=None):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=plate) as taken:
        pyro.sample("y", dist.Normal(shift, 1.0), obs=None if y is None else y[taken])


def unseen():
    pyro.sample("shift", dist.Normal(0.0, 1.0))


def chains(run):
    found = MCMC(NUTS(unseen), num_samples=4, warmup_steps=2, disable_progbar=True)
    if run:
        found.run()
    return from_pyro(found)


SHIFT = {"shift": torch.zeros(5)}
ROWS_OF_Y = torch.tensor(X), torch.tensor(Y)


# Networks


class Twice(nn.Module):
    """A layer that is used twice, and a scale that belongs to none."""

    def __init__(self, scale):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2)) if scale else None

    def forward(self, x):
        found = self.layer(torch.tanh(self.layer(x)))
        return found if self.scale is None else found * self.scale


@cache
def network(kind="plain", steps=5):
    trunk = {"plain": FEATURES, "twice": Twice(False), "scale": Twice(True)}[kind]
    return map_estimate(on_features(models.gaussian, trunk), X, Y, solver=LBFGS(max_steps=steps))


class Dead(nn.Module):
    """Features that are all 0, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.layer, self.factor = nn.Linear(2, 2), factor
        with torch.no_grad():
            self.layer.bias[:] = -50.0 if factor == 1.0 else 1.0

    def forward(self, x):
        return self.factor * torch.relu(self.layer(x))


def normal_prior(value):
    return dist.Normal(torch.zeros_like(value), torch.ones_like(value))


def laplace_prior(value):
    return dist.Laplace(torch.zeros_like(value), torch.ones_like(value))


def of_dead(structure, prior=None, estimate=mle, factor=1.0, **settings):
    return lambda _: laplace_approximation(
        estimate(on_features(models.gaussian, Dead(factor), prior=prior), X, Y, solver=LBFGS(max_steps=2)),
        structure,
        **settings,
    )


def approximated(fit, structure="kronecker", **settings):
    return lambda _: laplace_approximation(fit(), structure, **settings)


@cache
def uneven():
    priors = on_features(models.gaussian, FEATURES, prior=lambda value: dist.Normal(0.0, 1.0 + value.abs()))
    return map_estimate(with_priors(priors, {}), X, Y, solver=LBFGS(max_steps=5))


@cache
def flat_network():
    heads = dict(fit_of_heads().params)
    start = start_of_trunk() | heads | {"mean.bias": heads["mean.bias"] + 0.3 * heads["sigma"]}
    return mle(on_features(models.gaussian, FEATURES), X, Y, start=start, solver=LBFGS(max_steps=0))


def start_of_trunk():
    return {name: value for name, value in network().params.items() if name.startswith("trunk")}


@cache
def fit_of_heads():
    return mle(pyro.condition(on_features(models.gaussian, FEATURES), start_of_trunk()), X, Y)


def small_fit(*more):
    net = on_features(models.gaussian, nn.Sequential(FEATURES, *more))
    return mle(net, X, Y, solver=Adam(epochs=2, batch_size=10))


def small_ensemble():
    return ensemble(on_features(models.gaussian, FEATURES), X, Y, members=2, solver=Adam(epochs=2))


def normed(x, **settings):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return lambda _: mle(on_features(models.gaussian, net), x, Y[: len(x)], solver=Adam(steps=2, **settings))


# Fits


@cache
def fit(model=models.gaussian, columns=2):
    return mle(model, X[:, :columns], Y)


def warned(function):
    """A function whose warning about convergence is an error."""

    def call(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            return function(folder)

    return call


def least():
    bound = np.full(N, -0.5)
    return {"y": np.maximum(Y, bound), "least": bound}


def features(**settings):
    return on_features(models.gaussian, FEATURES)


def censored_network(lower):
    return lambda _: mle(
        censored(on_features(models.gaussian, FEATURES), lower=lower),
        X,
        np.maximum(Y, -0.5),
        solver=VariableProjection(max_steps=2) if lower == "least" else LBFGS(max_steps=2),
        **({"least": np.full(N, -0.5)} if lower == "least" else {}),
    )


FAR = np.linspace(1.7e12, 1.7e12 + 2e4, N)
TREND = 0.002 * (FAR - FAR[0]) + 5 + 1e-6 * Y
SLIGHTLY = np.stack([X[:, 0], X[:, 0] + 1e-13 * X[:, 1]], 1)
VON_MISES = observed(lambda at: dist.VonMises(at, ONE))
CLOCK = np.round(1.7e12 + 3.6e6 * RNG.uniform(size=60))
CLOCKS = CLOCK[:, None], CLOCK * (1 + 5e-6) + 37 + RNG.normal(size=60)
LASSO = with_priors(models.gaussian, {"mean.weight": dist.Laplace(0 * ONE, ONE)})
HALVES = np.tile([[1.0], [-1.0]], (N // 2, 1))
SIGNS = np.repeat([1.0, -1.0], N // 2)
GROUPS = [np.array(list(map(int, digits))) for digits in ("12111002110221021201", "12111020110221021201")]
"""Two groupings that differ in two rows."""
HEAVY = np.tan(np.pi * (np.arange(N) + 0.5) / N - np.pi / 2)
HEAVY = np.sign(HEAVY) * HEAVY**2
TIED = np.concatenate([np.ones(15), [-1.0, 0.2, 0.9, 1.7, 2.8]])
BOUND = float(Y.mean()) + 0.05
INNER_DISPERSION = {"dispersion": dist.LogNormal(0 * ONE, ONE)}
INNER_ZERO = {"zero": dist.Beta(2 * ONE, 2 * ONE)}
INNER_PRIORS = {
    "poisson": {},
    "negative_binomial": INNER_DISPERSION,
    "zero_inflated_poisson": INNER_ZERO,
    "zero_inflated_negative_binomial": INNER_DISPERSION | INNER_ZERO,
}
"""Priors whose density is 0 at the borders."""
CLUSTERS = np.array([-3.2, -2.6, 2.6, 2.8, 3.0, 3.2])
"""Two clusters, of which the smaller one is a local optimum of a Cauchy location."""
SKEWED = np.concatenate([np.full(30, 0.012), [5.0, 20.0]])
SUBSTITUTE = {"log_mean": X[:, :0], "dispersion": np.eye(N)[:, :1]}
OVERDISPERSED = np.where(np.arange(N) == 0, 4.0, np.where(np.arange(N) % 3 == 0, 9.0, 1.0))
NEXT = np.array([-1.0, -1.0, 1.0, 1.0, 0.0, 1e-7])[:, None]
"""Two rows next to each other, between rows whose residuals are large."""
LINE = np.array([-1.0, 1.0, -1.0, 1.0, 0.0, 0.0])
OFTEN = np.array([1e5, 1e5, 1e5, 1e5, 1.0, 1.0])
SEPARATED = (X[:, 0] > 0).astype(float)
RECORDS = np.array(list(zip(X[:, 0], X[:, 1], strict=True)), dtype=[("a", float), ("b", float)])
COMPLEX_OBJECTS = (X + 1j).astype(object)
PARTLY = np.where(np.arange(2 * N).reshape(N, 2) == 3, np.nan, BOTH)
PARTLY_ROW = np.where(np.arange(N)[:, None] == 1, np.nan, BOTH)


def nested():
    return torch.nested.nested_tensor(list(torch.tensor(X)))


def quantised():
    return torch.quantize_per_tensor(torch.tensor(X).float(), 0.1, 0, torch.qint8)


DENSITIES = {
    "records": row(
        DataError,
        "`x`",
        "pandas.DataFrame(x)",
        provoke=lambda _: mle(models.gaussian, RECORDS, Y),
        follow=lambda _: mle(models.gaussian, pd.DataFrame(RECORDS), Y),
    ),
    "complex numbers as objects": row(
        DataError,
        "`x` holds complex numbers",
        provoke=lambda _: mle(models.gaussian, COMPLEX_OBJECTS, Y),
        follow=lambda _: mle(models.gaussian, np.real(COMPLEX_OBJECTS.astype(complex)), Y),
    ),
    "a column of complex numbers as objects": row(
        DataError,
        "column 'a' of `x` holds complex numbers",
        provoke=lambda _: mle(models.gaussian, pd.DataFrame({"a": COMPLEX_OBJECTS[:, 0]}), Y),
        follow=lambda _: mle(
            models.gaussian, pd.DataFrame({"a": COMPLEX_OBJECTS[:, 0].astype(complex).real}), Y
        ),
    ),
    "a series of complex numbers as objects": row(
        DataError,
        "`y` holds complex numbers",
        provoke=lambda _: mle(models.gaussian, X, pd.Series(COMPLEX_OBJECTS[:, 1] + Y)),
        follow=lambda _: mle(models.gaussian, X, pd.Series((COMPLEX_OBJECTS[:, 1] + Y).astype(complex).real)),
    ),
    "probabilities of negative numbers": row(
        DataError,
        "discrete",
        "response='continuous'",
        provoke=lambda _: compare_models(
            learn("y ~ 1", frame().assign(y=np.round(3 * Y))), response="discrete"
        ),
        follow=lambda _: compare_models(
            learn("y ~ 1", frame().assign(y=np.round(3 * Y))), response="continuous", folds=2
        ),
    ),
    "a comparison of vectors": row(
        DataError,
        "`multivariate_gaussian`",
        provoke=lambda _: compare_models(learn("y + a ~ b", frame())),
        follow=lambda _: [
            mle(model, X[:, 1:], BOTH).bic
            for model in (models.multivariate_gaussian, models.multivariate_heteroscedastic)
        ],
    ),
    "flat priors of separated classes": row(
        ModelError,
        "'logit.weight', 'logit.bias'",
        provoke=lambda _: neglog.posterior(flat(models.bernoulli), X, SEPARATED, method="laplace", draws=100),
        follow=lambda _: neglog.posterior(
            with_priors(flat(models.bernoulli), neglog.priors_for(models.bernoulli, X, SEPARATED)),
            X,
            SEPARATED,
            method="laplace",
            draws=100,
        ),
    ),
    "a nested tensor": row(
        DataError,
        "`x`",
        provoke=lambda _: mle(models.gaussian, nested(), Y),
        follow=lambda _: mle(models.gaussian, torch.nested.to_padded_tensor(nested(), 0.0), Y),
    ),
    "a quantised tensor": row(
        DataError,
        "x.dequantize()",
        provoke=lambda _: mle(models.gaussian, quantised(), Y),
        follow=lambda _: mle(models.gaussian, quantised().dequantize(), Y),
    ),
    "Laplace's method for many parameters": row(
        ModelError,
        "4 parameters",
        provoke=with_value(approximations, "MAX_NEWTON_PARAMETERS", 3, sampled("laplace")),
        follow=with_value(approximations, "MAX_NEWTON_PARAMETERS", 3, sampled("vi", steps=100)),
    ),
    "a simplex in its own space": row(
        ModelError,
        "`share`",
        provoke=sampled("laplace", simplex, space="natural"),
        follow=sampled("laplace", simplex, space="unconstrained"),
    ),
    "no nutpie": row(ModelError, "neglog[nuts]", provoke=without_nutpie, follow=sampled("laplace")),
    "a model without a loss": row(
        ModelError,
        "`simplex`",
        provoke=loss(simplex, function=losses.loss_of),
        follow=lambda _: mle(simplex, X, Y, solver=SVI(steps=2)),
    ),
    "one huge value of a scale column": row(
        UnboundedLikelihoodError,
        "row 7",
        "`log_variance`",
        provoke=lambda _: mle(models.heteroscedastic, {"mean": X[:, :1], "log_variance": FAR_OUT}, Y),
        follow=lambda _: (
            mle(models.heteroscedastic, {"mean": X[:, :1], "log_variance": FAR_OUT[:, :1]}, Y),
            mle(models.heteroscedastic, {"mean": X[:, :1], "log_variance": np.arcsinh(FAR_OUT)}, Y),
            map_estimate(models.heteroscedastic, {"mean": X[:, :1], "log_variance": FAR_OUT}, Y),
        ),
    ),
    "a tensor that is fixed": row(
        ModelError,
        "`sigma`",
        "Tensor",
        provoke=loss(models.gaussian, sigma=torch.ones(N), function=losses.loss_of),
        follow=lambda _: losses.loss_of(models.gaussian)(torch.zeros(N), torch.ones(N), sigma=torch.ones(N)),
    ),
    "rho that swings": row(
        ModelError,
        "`rho`",
        provoke=loss(lambda r: torch.tan(r) ** 2),
        follow=loss(lambda r: r.abs() + torch.tanh(r) ** 2),
    ),
    "rho of a tensor that is trained": row(
        ModelError,
        "`rho`",
        provoke=loss(lambda r: r.abs() * torch.ones((), dtype=torch.float64, requires_grad=True)),
        follow=loss(lambda r: r.abs() * torch.ones((), dtype=torch.float64, requires_grad=True).detach()),
    ),
    "rho that is NaN": row(
        ModelError,
        "`rho`",
        provoke=loss(lambda r: torch.where((r > 3.5) & (r < 3.7), torch.nan, r.abs())),
        follow=loss(lambda r: r.abs()),
    ),
    "rho of a root": row(
        ModelError, "r = 0", provoke=loss(lambda r: (r * r).sqrt()), follow=loss(lambda r: r.abs())
    ),
    "bounds of a family without a distribution function": row(
        ModelError,
        "`VonMises`",
        provoke=fitted(censored(observed(lambda at: dist.VonMises(at, ONE)), lower=-0.5), y=Y.clip(-0.5)),
        follow=fitted(
            censored(observed(lambda at: distributions.Normal(at, ONE)), lower=-0.5), y=Y.clip(-0.5)
        ),
    ),
    "bounds of classes without an order": row(
        ModelError,
        "`Categorical`",
        "`ordinal`",
        provoke=lambda _: mle(neglog.truncated(models.categorical, upper=1.0), X, CLASSES.clip(0, 1)),
        follow=lambda _: mle(neglog.truncated(models.ordinal, upper=2.0), X, CLASSES),
    ),
    "chains that did not run": row(
        ModelError, "`run`", provoke=lambda _: chains(run=False), follow=lambda _: chains(run=True)
    ),
    "samples of a model without observations": row(
        ModelError,
        "`args`",
        provoke=lambda _: from_pyro(SHIFT, model=unseen),
        follow=lambda _: (from_pyro(SHIFT), from_pyro(SHIFT, *ROWS_OF_Y, model=shifted)),
    ),
    "samples of a part of the rows": row(
        ModelError,
        "'y'",
        provoke=lambda _: from_pyro(SHIFT, *ROWS_OF_Y, model=partial(shifted, plate=2)),
        follow=lambda _: from_pyro(SHIFT, *ROWS_OF_Y, model=shifted),
    ),
    "components of another number": row(
        DataError,
        "`logits`",
        "3",
        provoke=lambda _: losses.gaussian_mixture_nll(
            torch.zeros(4, 2), torch.zeros(4), logits=torch.zeros(3), sigma=torch.ones(2)
        ),
        follow=lambda _: losses.gaussian_mixture_nll(
            torch.zeros(4, 2), torch.zeros(4), logits=torch.zeros(2), sigma=torch.ones(2)
        ),
    ),
}

FAR_ZEROS = np.where(np.arange(N) < N // 2, 0.0, Y + 50.0)
APART = with_priors(
    models.gaussian_mixture,
    {"sigma": dist.InverseGamma(2.0, 1.0), "weight": dist.Dirichlet(2 * torch.ones(2))},
)

FITS = {
    "a truncated density far from its location": row(
        UnboundedLikelihoodError,
        "`logistic`",
        "`location` of Intercept → -∞",
        provoke=lambda _: mle(truncated(models.logistic, lower=0.0), np.zeros((32, 0)), SKEWED),
        follow=lambda _: mle(models.logistic, np.zeros((32, 0)), SKEWED),
    ),
    "a truncated t whose df goes to 0": row(
        UnboundedLikelihoodError,
        "`student_t`",
        "`df` and `scale`",
        provoke=lambda _: mle(truncated(models.student_t, -1.0, 1.0), np.zeros((41, 0)), LEVEL),
        follow=lambda _: (
            mle(truncated(partial(models.student_t, df=4.0), -1.0, 1.0), np.zeros((41, 0)), LEVEL),
            map_estimate(truncated(models.student_t, -1.0, 1.0), np.zeros((41, 0)), LEVEL),
        ),
    ),
    "a known df between bounds": row(
        UnboundedLikelihoodError,
        "`student_t`",
        "beyond the bounds of all others",
        provoke=lambda _: mle(truncated(T9, 0.0, 1.0), *SPREAD_OUT),
        follow=lambda _: (
            mle(truncated(T9, 0.0, 1.0), SPREAD_OUT[0][:, :0], SPREAD_OUT[1]),
            map_estimate(truncated(T9, 0.0, 1.0), *SPREAD_OUT),
        ),
    ),
    "a spread of each row between two bounds": row(
        UnboundedLikelihoodError,
        "`log_variance`",
        "No local maximum",
        provoke=lambda _: mle(truncated(models.heteroscedastic, 0.0, 9.0), *WHOLE),
        follow=lambda _: (
            mle(truncated(models.gaussian, 0.0, 9.0), *WHOLE),
            map_estimate(truncated(models.heteroscedastic, 0.0, 9.0), *WHOLE),
        ),
    ),
    "a mixture without an optimum": row(
        ConvergenceWarning,
        "a component can follow 2 rows exactly",
        "fewer components",
        provoke=warned(lambda _: mle(models.gaussian_mixture, *outlier())),
        follow=warned(lambda _: mle(models.gaussian, *outlier())),
    ),
    "an objective without information criteria": row(
        ModelError,
        "`faithful()`",
        "held-out rows",
        provoke=lambda _: trained(neglog.faithful).aic,
        follow=lambda _: (neglog.scores(trained(neglog.faithful), X, Y), trained(lambda model: model).aic),
    ),
    "an objective in the place of a likelihood": row(
        ModelError,
        "`map_estimate`",
        "`mle`",
        provoke=fitted(neglog.faithful(models.heteroscedastic), estimate=map_estimate),
        follow=lambda _: (
            trained(neglog.faithful),
            map_estimate(models.heteroscedastic, X, Y, solver=Adam(epochs=2)),
        ),
    ),
    "an objective without gradient steps": row(
        ModelError,
        "`Newton`",
        "solver=neglog.solvers.Adam",
        provoke=fitted(neglog.faithful(models.heteroscedastic), solver=Newton()),
        follow=lambda _: trained(neglog.faithful),
    ),
    "L-BFGS of torch": row(
        DataError,
        "neglog.solvers.LBFGS()",
        provoke=lambda _: Optimiser(torch.optim.LBFGS),
        follow=fitted(models.poisson, y=COUNTS, solver=LBFGS()),
    ),
    "other rows without a response": row(
        DataError,
        "`validation`",
        "(x, y)",
        provoke=fitted(models.gaussian, solver=Adam(epochs=2, validation={"x": X})),
        follow=lambda _: (
            mle(models.gaussian, X, Y, solver=Adam(epochs=2, validation=(X, Y))),
            mle(models.gaussian, X, Y, solver=Adam(epochs=2, validation={"x": X, "y": Y})),
        ),
    ),
    "too few epochs": row(
        ConvergenceWarning,
        "epoch 2",
        "more epochs",
        provoke=warned(fitted(models.gaussian, solver=Adam(epochs=2, validation=(X, Y)))),
        follow=warned(fitted(models.gaussian, solver=Adam(epochs=400, decay=1.0, validation=(X, Y)))),
    ),
    "too few steps before held-out rows": row(
        ConvergenceWarning,
        "step 2",
        "more steps",
        provoke=warned(fitted(models.student_t, solver=LBFGS(max_steps=2, validation=(X, Y)))),
        follow=warned(fitted(models.student_t, solver=LBFGS(max_steps=2000, validation=(X, Y)))),
    ),
    "a design that is too large to be made dense": row(
        DataError,
        "10 columns",
        "Leave out columns",
        provoke=with_value(split_tensor, "MAX_DENSE", 1_000, lambda _: split(Sparse(SPARSE)).abs()),
        follow=with_value(split_tensor, "MAX_DENSE", 1_000, lambda _: split(Sparse(SPARSE[:, :2])).abs()),
    ),
    "a dispersion of one row": row(
        UnboundedLikelihoodError,
        "`log_dispersion` of x0 → -∞",
        "(row 0)",
        provoke=lambda _: mle(models.negative_binomial, SUBSTITUTE, OVERDISPERSED),
        follow=lambda _: mle(models.negative_binomial, SUBSTITUTE | {"dispersion": X[:, :0]}, OVERDISPERSED),
    ),
    "a mean that follows rows": row(
        ConvergenceWarning,
        "`multivariate_heteroscedastic`",
        "of 8 rows exactly",
        provoke=warned(fitted(models.multivariate_heteroscedastic, X[:8, :1], BOTH[:8])),
        follow=warned(fitted(models.multivariate_gaussian, X[:8, :1], BOTH[:8])),
    ),
    **{
        f"{name} of zeros": row(
            UnboundedLikelihoodError,
            f"`{name}`",
            "every `y` is 0",
            *(f"`{site}`" for site in inner),
            provoke=fitted(getattr(models, name), y=0 * COUNTS),
            follow=warned(
                fitted(with_priors(getattr(models, name), inner), y=0 * COUNTS, estimate=map_estimate)
            ),
        )
        for name, inner in INNER_PRIORS.items()
    },
    "two intercepts": row(
        SingularDesignError,
        "`location` of Intercept",
        "`shift`",
        provoke=fitted(shifted_twice),
        follow=fitted(pyro.condition(shifted_twice, {"shift": 0 * ONE})),
    ),
    "steps that are too large": row(
        UnboundedLikelihoodError,
        "`poisson`",
        "learning rate",
        provoke=fitted(models.poisson, y=COUNTS, solver=Adam(steps=50, learning_rate=1e6)),
        follow=fitted(models.poisson, y=COUNTS, solver=Adam(steps=50, learning_rate=1e-2)),
    ),
    "columns that float64 cannot tell apart": row(
        SingularDesignError,
        "x0, x1",
        "`log_rate`",
        provoke=fitted(models.poisson, SLIGHTLY, COUNTS),
        follow=fitted(models.poisson, SLIGHTLY[:, :1], COUNTS),
    ),
    "a column for each row": row(
        UnboundedLikelihoodError,
        "every row exactly",
        "'sigma': dist.InverseGamma(2.0, 1.0)",
        provoke=fitted(models.gaussian, np.eye(N), estimate=map_estimate),
        follow=fitted(
            with_priors(models.gaussian, {"sigma": dist.InverseGamma(2.0, 1.0)}),
            np.eye(N),
            estimate=map_estimate,
        ),
    ),
    "a column far from 0": row(
        SingularDesignError,
        "x0",
        "`mean`",
        provoke=fitted(models.gaussian, FAR[:, None], TREND),
        follow=fitted(models.gaussian, FAR[:, None] - FAR.mean(), TREND),
    ),
    "columns far from 0 of a large design": row(
        SingularDesignError,
        "columns [0]",
        provoke=with_value(blocks, "MAX_COPIED", 10, fitted(models.student_t, *CLOCKS)),
        follow=with_value(
            blocks, "MAX_COPIED", 10, fitted(models.student_t, CLOCKS[0] - CLOCKS[0].mean(), CLOCKS[1])
        ),
    ),
    "a path of columns that tell nothing": row(
        DataError,
        "`y`",
        provoke=lambda _: neglog.lasso_path(LASSO, HALVES, SIGNS, n_strengths=2),
        follow=lambda _: neglog.lasso_path(LASSO, X, Y, n_strengths=2),
    ),
    "zeros under priors of a log-variance": row(
        UnboundedLikelihoodError,
        "every `y` is 0",
        "'log_variance.bias': dist.Normal(0.0, 0.3)",
        provoke=fitted(models.heteroscedastic, X[:, :0], 0 * Y, estimate=map_estimate),
        follow=fitted(
            with_priors(models.heteroscedastic, {"log_variance.bias": dist.Normal(0.0, 0.3)}),
            X[:, :0],
            0 * Y,
            estimate=map_estimate,
        ),
    ),
    "equal responses of heavy tails": row(
        UnboundedLikelihoodError,
        "`student_t`",
        "10 responses are equal (0)",
        provoke=fitted(models.student_t, X, FAR_ZEROS),
        follow=fitted(
            with_priors(models.student_t, {"scale": dist.InverseGamma(2.0, 1.0)}),
            X,
            FAR_ZEROS,
            estimate=map_estimate,
        ),
    ),
    "rows at one of two bounds": row(
        UnboundedLikelihoodError,
        "Every row of `y` is censored",
        "`bernoulli`",
        provoke=fitted(censored(models.gaussian, lower=-3.0, upper=3.0), X, np.where(Y > 0, 3.0, -3.0)),
        follow=fitted(models.bernoulli, X, (Y > 0).astype(float)),
    ),
    "equal responses of a mixture": row(
        UnboundedLikelihoodError,
        "`gaussian_mixture`",
        "15 responses are equal (1)",
        "'sigma': dist.InverseGamma(2.0, 1.0)",
        provoke=fitted(models.gaussian_mixture, X[:, :0], TIED),
        follow=lambda _: (
            fitted(models.gaussian, X[15:, :0], TIED[15:])(_),
            fitted(APART, X[:, :0], TIED, estimate=map_estimate)(_),
        ),
    ),
    "no compiler": row(
        DataError,
        "no-such-compiler",
        provoke=partial(without_compiler, compile=True),
        follow=without_compiler,
    ),
    "BatchNorm of one row": row(
        ModelError,
        "BatchNorm",
        provoke=normed(X, batch_size=N - 1),
        follow=normed(X, batch_size=N // 2),
    ),
    "numbers that overflow": row(
        ModelError,
        "`x`",
        provoke=lambda _: neglog.predict(of_noise(), 1e6 * X).mean,
        follow=lambda _: neglog.predict(of_noise(), X).mean,
    ),
    "some entries of rows": row(
        ModelError,
        "`LowRankMultivariateNormal`",
        provoke=fitted(masked(of_low_rank), y=PARTLY),
        follow=fitted(masked(of_low_rank), y=PARTLY_ROW),
    ),
    "a log-score of large counts": row(
        ModelError,
        "CRPS",
        provoke=with_value(
            crps, "MAX_SUMMED_COUNTS", 64, lambda _: neglog.scores(many(), X[:, :0], COUNTS, kind="crps")
        ),
        follow=with_value(
            crps, "MAX_SUMMED_COUNTS", 64, lambda _: neglog.scores(many(), X[:, :0], COUNTS, kind="log")
        ),
    ),
    "a design without an intercept of two predictors": row(
        ModelError,
        "'location', 'log_scale'",
        "`two_predictors`",
        provoke=lambda _: mle(two_predictors, no_intercept().main.design(frame()), Y),
        follow=lambda _: mle(two_predictors, no_intercept().x(frame(), ("location", "log_scale")), Y),
    ),
    "a design without an intercept through a network": row(
        ModelError,
        "`x`",
        provoke=lambda _: mle(features(), no_intercept().main.design(frame()), Y, solver=Adam(steps=2)),
        follow=lambda _: mle(
            features(), learn("y ~ a + b", frame()).design.main.design(frame()), Y, solver=Adam(steps=2)
        ),
    ),
}


def in_cluster(start):
    x = np.zeros((len(CLUSTERS), 0))
    return mle(observed(lambda at: dist.Cauchy(at, ONE)), x, CLUSTERS, start={"location.bias": start})


def frame():
    return pd.DataFrame(X, columns=["a", "b"]).assign(y=Y)


def no_intercept():
    return learn("y ~ 0 + a + b", frame()).design


@cache
def many():
    return mle(models.negative_binomial, X[:, :0], np.exp(np.arange(N)).round())


NETWORKS = {
    "a weight without information": row(
        ModelError,
        "`trunk.layer.weight`",
        "structure='last_layer'",
        provoke=of_dead("diagonal", laplace_prior, map_estimate),
        follow=lambda _: (
            of_dead("diagonal", normal_prior, map_estimate)(_),
            of_dead("last_layer", laplace_prior, map_estimate)(_),
        ),
    ),
    "a layer without information": row(
        ModelError,
        "`trunk.layer.weight`",
        provoke=of_dead("kronecker", laplace_prior, map_estimate),
        follow=of_dead("kronecker", normal_prior, map_estimate),
    ),
    "priors without curvature": row(
        ModelError,
        "Normal priors",
        provoke=of_dead("full", laplace_prior, map_estimate),
        follow=of_dead("full", normal_prior, map_estimate),
    ),
    "features that are constant": row(
        ModelError,
        "`prior_precision`",
        provoke=of_dead("last_layer"),
        follow=lambda _: (
            of_dead("last_layer", prior_precision=1.0)(_),
            of_dead("last_layer", estimate=map_estimate)(_),
        ),
    ),
    "features beyond the range of floats": row(
        ModelError,
        "not finite",
        provoke=of_dead("diagonal", factor=1e160, prior_precision=1.0),
        follow=of_dead("diagonal", factor=2.0, prior_precision=1.0),
    ),
    "heads that share their weights with features": row(
        ModelError,
        "'mean.weight'",
        provoke=fitted(tied, estimate=map_estimate, solver=VariableProjection()),
        follow=fitted(tied, estimate=map_estimate, solver=LBFGS()),
    ),
    "heads of a density that is not replayed": row(
        ModelError, "`gaussian`", provoke=censored_network("least"), follow=censored_network(-0.5)
    ),
    "all weights of a large network": row(
        ModelError,
        "has 9",
        provoke=with_value(networks, "MAX_FULL_COVARIANCE_WEIGHTS", 3, approximated(network, "full")),
        follow=with_value(networks, "MAX_FULL_COVARIANCE_WEIGHTS", 3, approximated(network, "kronecker")),
    ),
    "layers with a scale": row(
        ModelError,
        "`trunk.scale`",
        provoke=approximated(partial(network, "scale")),
        follow=approximated(partial(network, "scale"), "diagonal"),
    ),
    "a layer that is used twice": row(
        ModelError,
        "kronecker",
        provoke=approximated(partial(network, "twice")),
        follow=approximated(partial(network, "twice"), "diagonal"),
    ),
    "priors that differ in a layer": row(
        ModelError,
        "`trunk.0.weight`",
        provoke=approximated(uneven),
        follow=approximated(uneven, "diagonal"),
    ),
    "heads that are not at their optimum": row(
        ModelError,
        "standard errors",
        provoke=lambda _: covariance(flat_network()),
        follow=lambda _: covariance(fit_of_heads()),
    ),
}

DOUBTS = {
    "few residuals near a median": row(
        ModelError,
        "cov_type='kernel'",
        provoke=lambda _: covariance(mle(models.laplace, NEXT, LINE, weights=OFTEN), "kernel"),
        follow=lambda _: covariance(mle(models.laplace, NEXT, LINE, weights=OFTEN), "iid"),
    ),
    "a profile with a higher likelihood": row(
        ModelError,
        "`location` Intercept",
        "above the estimate",
        provoke=lambda _: why_no_profile(in_cluster(-2.3)),
        follow=lambda _: neglog.summary(in_cluster(2.8), interval="profile")["lower"].item(),
    ),
    "a profile without numbers": row(
        ModelError,
        "`location` Intercept",
        "interval='wald'",
        provoke=lambda _: why_no_profile(mle(bounded, X[:, :0], Y)),
        follow=lambda _: neglog.summary(mle(bounded, X[:, :0], Y), interval="wald"),
    ),
    "a profile without an optimum": row(
        ModelError,
        "`location` Intercept",
        "interval='wald'",
        provoke=lambda _: why_no_profile(mle(partial(bounded, scale="s"), X[:, :0], Y)),
        follow=lambda _: neglog.summary(mle(partial(bounded, scale="s"), X[:, :0], Y), interval="wald"),
    ),
    "HC3 of a row of small weight": row(
        ModelError,
        "row 0",
        "0.5",
        "'HC1'",
        provoke=lambda _: covariance(lone(), "HC3"),
        follow=lambda _: covariance(lone(), "HC1"),
    ),
    "a family without an expected information": row(
        ModelError,
        "`model`",
        "`VonMises`",
        provoke=lambda _: covariance(fit(VON_MISES), "expected"),
        follow=lambda _: (covariance(fit(VON_MISES), "observed"), covariance(fit(VON_MISES), "sandwich")),
    ),
    "the expected information of large counts": row(
        ModelError,
        "cov_type='observed'",
        provoke=with_value(
            information, "MAX_COUNT_PROBABILITIES", 10, lambda _: covariance(spread(), "expected")
        ),
        follow=with_value(
            information, "MAX_COUNT_PROBABILITIES", 10, lambda _: covariance(spread(), "observed")
        ),
    ),
    "models that are not nested": row(
        ModelError,
        "`vuong_test`",
        provoke=lambda _: neglog.likelihood_ratio_test(fit(models.laplace), near()),
        follow=lambda _: neglog.vuong_test(fit(models.laplace), near()),
    ),
    "a mean that does not exist at a draw": row(
        ModelError,
        "kind='outcome'",
        provoke=lambda _: neglog.interval(heavy(), X[:2, :0], kind="mean"),
        follow=lambda _: neglog.interval(heavy(), X[:2, :0], kind="outcome"),
    ),
    "groupings that overlap": row(
        ModelError,
        "('mean', 'x0')",
        "'cluster'",
        provoke=lambda _: covariance(near(), "cluster", groups=GROUPS),
        follow=lambda _: (covariance(near(), "cluster", groups=GROUPS[0]), bootstrap(near(), 10)),
    ),
    "constants of which only the product is known": row(
        ModelError,
        "`first`",
        "`second`",
        provoke=lambda _: covariance(mle(product, X, np.abs(Y))),
        follow=lambda _: covariance(mle(pyro.condition(product, {"second": ONE}), X, np.abs(Y))),
    ),
    "a profile that is too rough": row(
        ModelError,
        "`mean` x0",
        "interval='wald'",
        provoke=with_value(profiles, "MAX_ROOT_STEPS", 1, lambda _: why_no_profile(near())),
        follow=lambda _: neglog.summary(near(), interval="wald"),
    ),
    "numbers that are bound to each other": row(
        ModelError,
        "`cutpoints`",
        provoke=lambda _: why_no_profile(ordinal()),
        follow=lambda _: neglog.summary(ordinal(), interval="wald"),
    ),
    "a score that has no closed form": row(
        ModelError,
        "closed form",
        "likelihood",
        provoke=lambda _: mle(neglog.score("huber"), X, Y, solver=Adam(steps=1)),
        follow=lambda _: mle("huber", X, Y, solver=Adam(steps=1)),
    ),
    "SWAG of a fit by another objective": row(
        ModelError,
        "likelihood",
        "`ensemble`",
        provoke=lambda _: neglog.swag(
            mle(neglog.score(on_features(models.gaussian, FEATURES)), X, Y, solver=Adam(epochs=1))
        ),
        follow=lambda _: small_ensemble(),
    ),
    "SWAG of a network with Dropout": row(
        ModelError,
        "running statistics",
        "`mc_dropout`",
        provoke=lambda _: neglog.swag(small_fit(nn.Dropout(0.1))),
        follow=lambda _: neglog.mc_dropout(small_fit(nn.Dropout(0.1)), draws=2),
    ),
    "a marginal likelihood of flat priors": row(
        ModelError,
        "`prior_precision`",
        provoke=lambda _: laplace_approximation(small_fit(), "last_layer").log_marginal_likelihood(),
        follow=lambda _: laplace_approximation(
            small_fit(), "last_layer", prior_precision=1.0
        ).log_marginal_likelihood(2.0),
    ),
    "an ensemble by another solver": row(
        ModelError,
        "Newton",
        "Adam",
        provoke=lambda _: neglog.ensemble(on_features(models.gaussian, FEATURES), X, Y, solver=Newton()),
        follow=lambda _: small_ensemble(),
    ),
    "the mean of an ensemble": row(
        ModelError,
        "kind='outcome'",
        provoke=lambda _: neglog.interval(small_ensemble(), X),
        follow=lambda _: neglog.interval(small_ensemble(), X, kind="outcome"),
    ),
}


@cache
def lone():
    x = np.eye(N)[:, :1]
    return mle(models.gaussian, x, Y, weights=np.where(np.arange(N) == 0, 0.5, 1.0))


@cache
def spread():
    return mle(models.negative_binomial, X[:, :1], RNG.negative_binomial(1, 0.1, size=N).astype(float))


@cache
def near():
    return mle(models.gaussian, X[:, :1], Y)


@cache
def ordinal():
    return mle(models.ordinal, X[:, :1], np.arange(N) % 3.0)


def why_no_profile(done):
    """A summary keeps the error of a profile as a text."""
    raise ModelError(neglog.summary(done, interval="profile").attrs["reason"])


@cache
def of_noise():
    return mle(models.heteroscedastic, X, Y)


@cache
def heavy():
    return neglog.posterior(models.student_t, X[:, :0], HEAVY, method="laplace", draws=100)


ROWS: dict[str, Row] = {**DENSITIES, **FITS, **NETWORKS, **DOUBTS}
