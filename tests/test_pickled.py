"""Fits in pickles and copies: the document of `save`, checked when it is read."""

import copy
import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from neglog import (
    beta_nll,
    bootstrap,
    covariance,
    cross_validate,
    faithful,
    interval,
    laplace_approximation,
    lasso_path,
    map_estimate,
    mle,
    mle_batch,
    models,
    on_features,
    posterior,
    posterior_predictive,
    predict,
    quantile_heads,
    quantile_process,
    score,
    scores,
    summary,
    to_arviz,
    warm_up,
    with_priors,
)
from neglog.errors import DataError, ModelError
from neglog.estimators import LikelihoodRegressor
from neglog.export import Saved
from neglog.predictors import linear, rows
from neglog.solvers import Adam

X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
Y = (2 * X[:, 0] + torch.sin(20 * X[:, 0])).round(decimals=3)


def own(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A model of this file, which a pickle refers to."""
    mean = linear("mean", x)
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0, dtype=torch.float64), 1.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


@pytest.mark.parametrize("how", [mle, map_estimate])
@pytest.mark.parametrize("model", [models.gaussian, models.laplace, own])
def test_a_fit_comes_back_from_a_pickle(how: Any, model: Any) -> None:
    fit = how(model, X, Y)
    again = pickle.loads(pickle.dumps(fit))
    twice = pickle.loads(pickle.dumps(again))
    for found in (again, twice):
        assert isinstance(found, Saved)
        assert all(torch.equal(found.params[name], value) for name, value in fit.params.items())
        assert (found.nll, found.loss, found.n, found.k) == (fit.nll, fit.loss, fit.n, fit.k)
        assert torch.equal(predict(found, X).mean, predict(fit, X).mean)
        pd.testing.assert_frame_equal(summary(found), summary(fit), rtol=1e-12)


def test_joblib_dumps_a_fit(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()})
    fit = mle("gaussian", "y ~ poly(x, 2)", table)
    joblib.dump({"fit": fit}, tmp_path / "fit.joblib")
    again = joblib.load(tmp_path / "fit.joblib")["fit"]
    assert torch.equal(predict(again, table).mean, predict(fit, table).mean)


def test_a_deep_copy_is_an_equal_fit_with_its_rows() -> None:
    fit = mle(models.gaussian, X, Y)
    again = copy.deepcopy(fit)
    assert covariance(again, "HC3").equals(covariance(fit, "HC3"))
    again.params["sigma"].zero_()
    assert float(fit.params["sigma"]) > 0
    assert copy.copy(fit) is fit


def test_a_deep_copy_of_a_posterior_has_draws_of_its_own() -> None:
    found = posterior(models.poisson, X, Y.abs().round(), method="laplace", draws=100)
    again = copy.deepcopy(found)
    assert torch.equal(predict(again, X).mean, predict(found, X).mean)
    again.draws["log_rate.bias"].zero_()
    assert bool(found.draws["log_rate.bias"].all())


def test_a_damaged_document_in_a_pickle_is_refused() -> None:
    content = pickle.dumps(mle(models.gaussian, X, Y))
    place = content.index(b'"nll": ') + 8
    with pytest.raises(DataError, match="digest"):
        pickle.loads(content[:place] + bytes([b"0123456789"[content[place] % 10]]) + content[place + 1 :])


@pytest.mark.parametrize("of", [models.poisson, own, "y ~ poly(x, 2)"])
def test_a_posterior_comes_back_from_a_pickle(of: Any) -> None:
    counts = Y.abs().round()
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": counts.numpy()})
    arguments = (models.poisson, of, table) if isinstance(of, str) else (of, X, counts)
    found, new = posterior(*arguments, method="laplace", draws=100), table if isinstance(of, str) else X
    mean, drawn, ends = predict(found, new).mean, posterior_predictive(found, new), interval(found, new)
    again = pickle.loads(pickle.dumps(found))
    twice = pickle.loads(pickle.dumps(again))
    for other in (again, twice, copy.deepcopy(again)):
        assert repr(other) == repr(found)
        assert all(torch.equal(other.draws[name], value) for name, value in found.draws.items())
        assert torch.equal(predict(other, new).mean, mean)
        assert torch.equal(posterior_predictive(other, new), drawn)
        pd.testing.assert_frame_equal(interval(other, new), ends)
    if not isinstance(of, str):
        assert torch.equal(scores(again, X, counts), scores(found, X, counts))
    with pytest.raises(DataError, match="`to_arviz` needs the rows of the posterior"):
        to_arviz(again)
    with pytest.raises(DataError, match="needs the rows of the posterior"):
        posterior_predictive(again)


def test_a_bootstrap_comes_back_from_a_pickle() -> None:
    found = bootstrap(mle(models.gaussian, X, Y), draws=50)
    again = pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(again.draws, found.draws)
    for kind in ("percentile", "basic"):
        pd.testing.assert_frame_equal(again.interval(0.8, kind), found.interval(0.8, kind))
        pd.testing.assert_frame_equal(copy.deepcopy(found).interval(0.8, kind), found.interval(0.8, kind))
    with pytest.raises(DataError, match="interval kind='bca' needs the rows"):
        again.interval(0.8, "bca")
    copy.deepcopy(found).interval(0.8, "bca")


def test_batches_come_back_from_a_pickle() -> None:
    found = mle_batch(models.gaussian, X, torch.stack([Y, Y.flip(0)]), cov_type="observed")
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert torch.equal(again.nll, found.nll)
        for name, ends in found.interval(0.9).items():
            assert all(
                torch.equal(one, other) for one, other in zip(again.interval(0.9)[name], ends, strict=True)
            )


def test_quantiles_come_back_from_a_pickle() -> None:
    found = quantile_process(X, Y, [0.2, 0.5])
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again.crossings == found.crossings
        assert all(
            torch.equal(again[tau].params["quantile.weight"], fit.params["quantile.weight"])
            for tau, fit in found.items()
        )


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_a_network_comes_back_from_a_pickle() -> None:
    trunk = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2), torch.nn.Tanh())
    fit = map_estimate(on_features(models.gaussian, trunk), X, Y, solver=Adam(steps=10))
    again = pickle.loads(pickle.dumps(fit))
    assert torch.equal(predict(again, X).mean, predict(fit, X).mean)


@pytest.mark.parametrize(
    ("model", "structure"),
    [
        ("gaussian", "last_layer"),
        ("student_t", "diagonal"),
        ("categorical", "kronecker"),
        ("gaussian", "full"),
    ],
)
def test_an_approximation_comes_back_from_a_pickle(tmp_path: Path, model: str, structure: Any) -> None:
    torch.manual_seed(0)
    net = on_features(getattr(models, model), torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh()))
    y = (Y.abs() > 1).double() + (X[:, 0] > 0.7) if model == "categorical" else Y
    fit = map_estimate(net, X, y)
    found = laplace_approximation(fit, structure)
    joblib.dump(found, tmp_path / "approximation")
    again = pickle.loads(pickle.dumps(found))
    for other in (again, pickle.loads(pickle.dumps(again)), copy.deepcopy(found), copy.deepcopy(again),
                  joblib.load(tmp_path / "approximation"), copy.copy(found)):  # fmt: skip
        assert repr(other) == repr(found)
        assert other.predictors == found.predictors
        for one, known in zip(other.linearised(X), found.linearised(X), strict=True):
            assert torch.equal(one, known)
        assert torch.equal(other.predict(X, draws=8).log_prob(y), found.predict(X, draws=8).log_prob(y))
        assert torch.equal(predict(other.fit, X).log_prob(y), predict(fit, X).log_prob(y))
    with pytest.raises(DataError, match="needs the rows of the fit"):
        laplace_approximation(again.fit, structure)


def test_an_approximation_with_buffers_comes_back_from_a_pickle() -> None:
    trunk = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2), torch.nn.Tanh())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = map_estimate(on_features(models.gaussian, trunk), X, Y, solver=Adam(steps=10))
    found = laplace_approximation(fit, "diagonal")
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.linearised(X)[0], found.linearised(X)[0])
    copied = copy.deepcopy(found)
    copied.fit.params["sigma"].zero_()
    copied.parts[0].precisions.zero_()
    assert torch.equal(found.predict(X).variance, again.predict(X).variance)


def test_a_damaged_approximation_is_refused() -> None:
    fit = map_estimate(on_features(models.gaussian, torch.nn.Linear(1, 2)), X, Y)
    make, (kept, own, state) = laplace_approximation(fit, "diagonal").__reduce__()
    state["values"]["sigma"] = state["values"]["sigma"] + 1
    with pytest.raises(DataError, match="it is damaged"):
        make(kept, own, state)


def test_a_model_with_a_bound_tensor_or_other_priors_comes_back_from_a_pickle() -> None:
    prior = {"location.weight": dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)}
    bound = partial(models.student_t, df=torch.tensor(4.0, dtype=torch.float64))
    for model in (bound, with_priors(models.student_t, prior)):
        fit = map_estimate(model, X, Y)
        assert torch.equal(predict(pickle.loads(pickle.dumps(fit)), X).mean, predict(fit, X).mean)


def test_a_lasso_with_zeros_comes_back_from_a_pickle() -> None:
    """It has fewer free parameters than its model."""
    prior = {"mean.weight": dist.Laplace(torch.zeros((), dtype=torch.float64), 1e-3)}
    fit = map_estimate(with_priors(models.gaussian, prior), X, Y)
    assert fit.k == 2
    assert pickle.loads(pickle.dumps(fit)).bic == fit.bic


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_objectives_of_training_come_back_from_a_pickle() -> None:
    """Some had a function without a name, which pickle cannot write."""
    x = torch.zeros(4, 0, dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 3.0, 2.0], dtype=torch.float64)
    for model in (
        beta_nll("heteroscedastic", 0.3),
        faithful("heteroscedastic"),
        warm_up("heteroscedastic", 2),
        score("heteroscedastic"),
        quantile_heads([0.1, 0.5, 0.9]),
    ):
        again = pickle.loads(pickle.dumps(model))
        one, other = (mle(each, x, y, solver=Adam(steps=2)) for each in (again, model))
        assert one.loss == other.loss


def test_results_are_compared_by_identity_and_are_keys() -> None:
    """Their tensors have no truth value, so that a comparison raised an error of torch."""
    x, y = torch.arange(9.0, dtype=torch.float64)[:, None], torch.arange(9.0, dtype=torch.float64) ** 0.5
    fit = mle("gaussian", x, y)
    found = posterior("gaussian", x, y, method="laplace", draws=100)
    path = lasso_path("gaussian", x, y, n_strengths=3)
    for value in (fit, found, cross_validate("gaussian", x, y, folds=3), path):
        again = pickle.loads(pickle.dumps(value))
        assert value == value
        assert value != again
        assert {value: 1}[value] == 1


def _within() -> Any:
    return lambda x, y=None: models.gaussian(x, y)


UNPICKLED = {
    "fit": lambda: mle(_within(), X, Y),
    "batch": lambda: mle_batch(_within(), torch.stack([X, X]), torch.stack([Y, Y])),
    "bootstrap": lambda: bootstrap(mle(_within(), X, Y), 4),
    "posterior": lambda: posterior(_within(), X, Y, method="laplace", draws=100),
    "estimator": lambda: LikelihoodRegressor(_within()).fit(X.numpy(), Y.numpy()),
}


@pytest.mark.filterwarnings("ignore::neglog.errors.SamplingWarning")
@pytest.mark.parametrize("of", UNPICKLED)
def test_a_model_that_pickle_cannot_write_is_an_error_with_a_remedy(of: str) -> None:
    found = UNPICKLED[of]()
    with pytest.raises(ModelError, match=r"the model cannot be pickled: .*_within.*neglog\.save"):
        pickle.dumps(found)
    copy.deepcopy(found)


def test_a_module_that_writes_functions_by_their_code_is_not_hindered() -> None:
    """As joblib's processes do, by cloudpickle: the model is not required to have a name in a module."""
    fit = mle(_within(), X, Y)
    of_cloudpickle: dict[str, Any] = {"__name__": "joblib.externals.cloudpickle"}
    exec("def reduce(value): return value.__reduce__()", of_cloudpickle)
    make, arguments = of_cloudpickle["reduce"](fit)
    assert make(*arguments).nll == fit.nll
