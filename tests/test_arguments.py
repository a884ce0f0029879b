"""What is given and cannot be used is an error that names it, whichever function is asked."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import neglog
from neglog import datasets, map_estimate, mle, models, posterior, with_priors
from neglog.errors import DataError, ModelError
from neglog.predictors import positive, rows

ENGEL = datasets.load("engel") / 1000
X, Y = ENGEL[["income"]], ENGEL["food_expenditure"]


@pytest.fixture(scope="module")
def fit():
    return mle(models.gaussian, X, Y)


@pytest.fixture(scope="module")
def found():
    return posterior(models.gaussian, X, Y, method="laplace", draws=200)


OF_A_FIT = {
    "summary": (),
    "covariance": (),
    "predict": (X,),
    "interval": (X,),
    "log_likelihood": (X, Y),
    "conformal": (X, Y),
    "recalibrate": (X, Y),
    "wald_test": ("income",),
    "score_test": (X**2,),
    "bootstrap": (),
    "laplace_approximation": (),
}


@pytest.mark.parametrize("name", OF_A_FIT)
@pytest.mark.parametrize("wrong", [None, 3, {"sigma": 1.0}])
def test_what_is_no_fit_is_told(name, wrong):
    with pytest.raises(ModelError, match=type(wrong).__name__):
        getattr(neglog, name)(wrong, *OF_A_FIT[name])


def test_tests_of_fits_tell_what_is_none(fit, found):
    for test in (neglog.likelihood_ratio_test, neglog.vuong_test):
        with pytest.raises(ModelError, match="not of type NoneType"):
            test(fit, None)
    with pytest.raises(ModelError, match="not of type Posterior"):
        neglog.information_criteria({"a": fit, "b": found})
    with pytest.raises(ModelError, match="not of type Posterior"):
        neglog.summary(found)
    with pytest.raises(DataError, match=r"`fits` must be a mapping.*it is list"):
        neglog.information_criteria([fit, fit])
    with pytest.raises(ModelError, match=r"`posterior` must be.*Fit"):
        neglog.posterior_predictive(fit)


@pytest.mark.parametrize("level", [0, 1, 1.5, "0.9", None, True, float("nan")])
def test_a_level_is_between_0_and_1(fit, level):
    asked = [
        neglog.summary,
        neglog.bootstrap(fit, 40).interval,
        lambda *a, **k: neglog.interval(a[0], X, **k),
    ]
    for ask in (
        lambda: asked[0](fit, level=level),
        lambda: asked[1](level=level),
        lambda: asked[2](fit, level=level),
    ):
        with pytest.raises(ModelError, match="`level` must be between 0 and 1"):
            ask()


@pytest.mark.parametrize("q", ["0.5", None, [0.5, "a"], [[0.5]], 1.0])
def test_a_quantile_is_asked_for_by_numbers(fit, q):
    with pytest.raises(ModelError, match=r"`q`.* 0 and 1"):
        neglog.quantile(fit, X, q)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("name", ["chains", "tune", "cores"])
def test_numbers_of_chains_are_positive(name, value):
    """`cores=0` had nutpie wait for ever."""
    with pytest.raises(ModelError, match=f"`{name}`.* {value!r}"):
        posterior(models.gaussian, X, Y, **{name: value})


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None])
def test_a_seed_is_a_whole_number(fit, found, seed):
    for ask in (
        lambda: posterior(models.gaussian, X, Y, method="laplace", seed=seed),
        lambda: neglog.predict(fit, X, uncertainty=True, seed=seed),
        lambda: neglog.posterior_predictive(found, seed=seed),
        lambda: neglog.prior_predictive(models.gaussian, X, seed=seed),
        lambda: neglog.bootstrap(fit, 10, seed=seed),
        lambda: neglog.to_arviz(found, seed=seed),
    ):
        with pytest.raises(ModelError, match=r"`seed`.* 0 "):
            ask()


def test_numbers_of_numpy_are_numbers(fit):
    assert posterior(models.gaussian, X, Y, method="laplace", draws=np.int64(100)).shape == (1, 100)
    assert neglog.summary(fit, level=np.float32(0.5)).attrs["level"] == 0.5


@pytest.mark.parametrize("draws", [0, 2.0, "a", True])
def test_draws_are_counted(fit, found, draws):
    for ask in (
        lambda: neglog.prior_predictive(models.gaussian, X, draws=draws),
        lambda: neglog.predict(fit, X, uncertainty=True, draws=draws),
        lambda: neglog.to_arviz(found, draws=draws),
    ):
        with pytest.raises(ModelError, match="`draws`"):
            ask()


@pytest.mark.parametrize("ask", [mle, map_estimate, posterior])
def test_a_model_is_a_function(ask):
    with pytest.raises(ModelError, match=r"`model`.* 3\.5"):
        ask(3.5, X, Y)


@pytest.mark.parametrize("ask", [mle, posterior])
def test_a_prior_that_cannot_be_drawn_from_is_told(ask):
    improper = dist.ImproperUniform(constraints.positive, (), ())
    with pytest.raises(ModelError, match=r"the prior of `sigma` cannot be drawn from.*`flat`"):
        ask(with_priors(models.gaussian, {"sigma": improper}), X, Y)


def test_hypotheses_and_added_columns_are_named(fit):
    with pytest.raises(ModelError, match="`hypothesis` must be text"):
        neglog.wald_test(fit, 3)
    with pytest.raises(DataError, match="`added` is NaN"):
        neglog.score_test(fit, np.full((235, 1), np.nan))
    with pytest.raises(DataError, match="`added`"):
        neglog.score_test(fit, "income")
    with pytest.raises(DataError, match="`added`"):
        neglog.score_test(fit, {"mean": X})


@pytest.mark.parametrize("groups", [3, "street", {"a": [1, 2]}])
def test_groups_are_one_entry_a_row(fit, groups):
    for ask in (
        lambda: neglog.covariance(fit, "cluster", groups=groups),
        lambda: neglog.bootstrap(fit, 10, groups=groups),
    ):
        with pytest.raises(DataError, match="`groups` must have one entry for each"):
            ask()


def twice(x, y=None):
    first, second = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("first", "second"))
    sigma = positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(first + second, sigma), obs=y)


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_what_is_not_identified_is_named_though_the_solver_stopped():
    fit = mle(twice, X, Y)
    with pytest.raises(ModelError, match=r"singular at the optimum along `first` and `second`"):
        neglog.covariance(fit)
    assert "`first` and `second`" in neglog.summary(fit).attrs["reason"]
    assert torch.isfinite(torch.tensor(neglog.summary(fit)["estimate"].to_numpy())).all()
