"""Former names of functions, arguments and attributes: each warns and gives what its current name gives."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import neglog
from neglog import mle, models
from neglog.aliases import former_argument, former_attribute, former_function
from neglog.errors import ModelError

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 2))
Y = 1 + X @ [0.5, -0.3] + RNG.normal(size=40)
LAPLACE = dist.Laplace(torch.zeros((), dtype=torch.float64), 1.0)
FIT = mle(models.gaussian, X, Y)


def same(one, other):
    """Whether two answers are equal: tables, tensors, mappings of tensors, or records of these."""
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def spread(fit, **keywords):
    return neglog.predict(fit, X[:3], uncertainty=True, draws=16, **keywords).variance


def batch(**keywords):
    return neglog.mle_batch(models.gaussian, X, np.stack([Y, -Y]), **keywords).standard_errors


RENAMED = {
    "summary": (neglog.summary, (FIT,), {"kind": "HC1"}, {"cov_type": "HC1"}),
    "covariance": (neglog.covariance, (FIT,), {"kind": "opg"}, {"cov_type": "opg"}),
    "predict": (spread, (FIT,), {"kind": "HC3"}, {"cov_type": "HC3"}),
    "quantile": (
        neglog.quantile,
        (FIT, X[:2], 0.9),
        {"kind": "HC3", "uncertainty": True},
        {"cov_type": "HC3", "uncertainty": True},
    ),
    "interval": (neglog.interval, (FIT, X[:3]), {"covariance": "HC3"}, {"cov_type": "HC3"}),
    "scores": (
        neglog.scores,
        (FIT, X[:3], Y[:3], "crps"),
        {"covariance": "HC3", "uncertainty": True, "draws": 16},
        {"cov_type": "HC3", "uncertainty": True, "draws": 16},
    ),
    "wald_test": (neglog.wald_test, (FIT, "x0 = 0"), {"kind": "HC1"}, {"cov_type": "HC1"}),
    "score_test": (neglog.score_test, (FIT, X**2, "mean"), {"kind": "expected"}, {"cov_type": "expected"}),
    "mle_batch": (batch, (), {"covariance": True}, {"cov_type": "observed"}),
}


@pytest.mark.parametrize("name", RENAMED)
def test_a_former_argument_warns_and_gives_the_same(name):
    function, args, former, current = RENAMED[name]
    old, new = next(iter(former)), next(iter(current))
    with pytest.warns(FutureWarning, match=f"`{old}` of `{name}` is now `{new}`") as seen:
        found = function(*args, **former)
    assert len(seen) == 1
    assert seen[0].filename == __file__  # the line that is to be changed, not one of ours
    assert same(found, function(*args, **current))


def test_the_kind_of_covariance_changes_the_numbers():
    """Else the same numbers under both names would prove nothing."""
    for name in ("summary", "covariance", "predict", "interval", "wald_test", "score_test"):
        function, args, _, current = RENAMED[name]
        assert not same(function(*args), function(*args, **current)), name


def test_both_names_at_once_are_refused():
    with pytest.raises(ModelError, match="`kind` is the former name of `cov_type`"):
        neglog.summary(FIT, kind="HC1", cov_type="HC1")


def test_a_batch_without_covariances_under_the_former_name():
    with pytest.warns(FutureWarning):
        found = neglog.mle_batch(models.gaussian, X, np.stack([Y, -Y]), covariance=False)
    assert found.covariance is None
    with pytest.raises(ModelError, match="`cov_type` must be 'observed'"):
        neglog.mle_batch(models.gaussian, X, np.stack([Y, -Y]), cov_type="sandwich")


def test_tables_have_the_kind_of_covariance_under_both_keys():
    for table in (neglog.summary(FIT, cov_type="HC1"), neglog.covariance(FIT, "HC1")):
        assert table.attrs["cov_type"] == table.attrs["kind"] == "HC1"


def test_signatures_show_current_names_alone():
    for name in ("summary", "covariance", "predict", "quantile", "wald_test", "score_test"):
        names = inspect.signature(getattr(neglog, name)).parameters
        assert "cov_type" in names, name
        assert "kind" not in names, name


def test_the_warning_names_both_names():
    class Result:
        n_iter = 2
        steps = former_attribute("steps", "n_iter")

    @former_argument("old", "new", convert=str)
    def function(new):
        return new

    with pytest.warns(FutureWarning, match=r"`Result.steps` is now `Result.n_iter`"):
        assert Result().steps == 2
    with pytest.warns(FutureWarning, match="`old` of `function` is now `new`"):
        assert function(old=1) == "1"
    with pytest.warns(FutureWarning, match="`earlier` is now `function`"):
        assert former_function("earlier", function)(new="2") == "2"


def test_the_former_name_of_the_quantile_process_warns_and_gives_the_same():
    with pytest.warns(FutureWarning, match="`quantiles` is now `quantile_process`") as seen:
        found = neglog.quantiles(X, Y, [0.3, 0.6])
    assert [warning.filename for warning in seen] == [__file__]
    known = neglog.quantile_process(X, Y, [0.3, 0.6])
    assert found.keys() == known.keys()
    assert all(same(dict(found[tau].params), dict(known[tau].params)) for tau in known)
    assert "quantiles" not in neglog.__all__


def test_the_number_of_iterations_under_its_former_name():
    many = neglog.mle_batch(models.poisson, X, np.abs(np.stack([Y, 2 * Y])).round())
    one = mle(models.poisson, X, np.abs(Y).round())
    for fit, name in ((one, "Fit"), (many, "BatchFit")):
        with pytest.warns(FutureWarning, match=f"`{name}.steps` is now `{name}.n_iter`"):
            found = fit.steps
        assert same(found, fit.n_iter)
    assert one.n_iter > 0


def test_the_size_of_the_grid_of_a_path_under_its_former_name():
    lasso = neglog.with_priors(models.gaussian, {"mean.weight": LAPLACE})
    with pytest.warns(FutureWarning, match="`n` of `lasso_path` is now `n_strengths`"):
        found = neglog.lasso_path(lasso, X, Y, n=3)
    known = neglog.lasso_path(lasso, X, Y, n_strengths=3)
    assert len(known.strengths) == 3
    assert same(dict(found.params), dict(known.params))


def test_compare_of_fits_warns_and_ranks_them_by_information_criteria():
    fits = {"wide": FIT, "narrow": mle(models.gaussian, X[:, :1], Y)}
    with pytest.warns(FutureWarning, match="`compare` of fits is now `information_criteria`") as seen:
        found = neglog.compare(fits)
    assert [warning.filename for warning in seen] == [__file__]
    assert found.equals(neglog.information_criteria(fits))
    with pytest.warns(FutureWarning):  # one of the function, and one of its argument
        assert neglog.compare(fits=fits).equals(found)
