"""`compare`: models ranked by the scores of held-out rows, as on the command line."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import neglog
from neglog import compare, cross_validate, mle, models
from neglog.comparison import compare_models
from neglog.errors import DataError, ModelError
from neglog.formula import learn

RNG = np.random.default_rng(7)
X = RNG.normal(size=(40, 2))
Y = 1 + X @ [0.5, -0.3] + RNG.laplace(size=40)
TABLE = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": Y, "w": RNG.integers(1, 3, 40)})
COUNTS = RNG.poisson(np.exp(0.3 + 0.5 * X[:, 0]))
NAMES = ["gaussian", "laplace", "logistic"]


def test_the_table_has_the_fits_and_the_scores_of_its_models():
    table = compare([models.gaussian, "laplace"], X, Y, folds=4, seed=3)
    assert table["held_out_mean"].is_monotonic_decreasing
    for name in ("gaussian", "laplace"):
        model = getattr(models, name)
        scores, fit = cross_validate(model, X, Y, folds=4, seed=3), mle(model, X, Y)
        assert table.loc[name, "held_out_mean"] == scores.mean
        assert table.loc[name, "held_out_standard_error"] == scores.standard_error
        assert (table.loc[name, ["nll", "aic", "bic"]] == [fit.nll, fit.aic, fit.bic]).all()
    best, second = (cross_validate(getattr(models, name), X, Y, folds=4, seed=3) for name in table.index)
    gap, error = best.above(second)
    assert tuple(table.iloc[1][["behind_the_best", "behind_standard_error"]]) == (gap, error)
    assert table["converged"].all()
    assert table.attrs["verdict"].startswith("Train with")
    assert table.loc["laplace", "replaces"].startswith("torch.nn.L1Loss")


def test_a_formula_and_a_table_give_the_table_of_the_arrays(monkeypatch):
    arrays = compare(NAMES, TABLE[["a", "b"]], TABLE["y"], weights=TABLE["w"], folds=2)
    formula = compare(NAMES, "y ~ a + b", TABLE, weights="w", folds=2)
    pd.testing.assert_frame_equal(arrays, formula)
    monkeypatch.setattr(models, "__all__", NAMES)
    known = compare_models(learn("y ~ a + b", TABLE, keep=("w",)), weights="w", folds=2)
    every = compare(models, "y ~ a + b", TABLE, weights="w", folds=2)
    assert list(every.index) == [entry.model for entry in known.entries]
    assert every.attrs["verdict"] == known.verdict
    pd.testing.assert_frame_equal(every, formula)
    pd.testing.assert_frame_equal(compare(models, X, Y, folds=2), compare(NAMES, X, Y, folds=2))


def test_all_models_of_the_kind_of_the_response(monkeypatch):
    monkeypatch.setattr(models, "__all__", ["gaussian", "poisson", "bernoulli"])
    counted = compare(models, X, COUNTS, folds=2)
    assert list(counted.index) == ["poisson"]
    assert counted.attrs["response"] == "discrete"
    assert "whole numbers" in counted.attrs["scope"]
    assert list(compare(models, X, COUNTS, folds=2, response="continuous").index) == ["gaussian"]


def test_models_of_your_own_under_names_of_your_own():
    tails = {f"t{df}": partial(models.student_t, df=float(df)) for df in (3, 30)}
    table = compare(tails, X, Y, folds=2)
    assert set(table.index) == {"t3", "t30"}
    with pytest.raises(ModelError, match="mapping, name -> model"):
        compare(list(tails.values()), X, Y)


def test_designs_by_predictor_and_keywords_of_the_rows():
    noisy = compare([models.heteroscedastic, models.gaussian], {"mean": X, "log_variance": X[:, :1]}, Y)
    assert noisy.loc["heteroscedastic", "k"] == 5
    assert noisy.loc["gaussian", "reason"] is not None
    exposure = torch.rand(40, dtype=torch.float64) + 0.5
    rates = compare([models.poisson, models.negative_binomial], X, COUNTS, exposure=exposure, folds=2)
    assert rates.loc["poisson", "nll"] == mle(models.poisson, X, COUNTS, exposure=exposure).nll


def test_probabilities_are_not_ranked_with_densities():
    with pytest.raises(ModelError, match="one log score is of a density"):
        compare([models.poisson, models.gaussian], X, COUNTS, folds=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"models": 3}, ModelError, "neglog.models, a list of models"),
        ({"models": []}, ModelError, "empty"),
        ({"models": ["gausian"]}, ModelError, "no model `gausian`"),
        ({"models": ["poisson"]}, DataError, "no model could be fitted"),
        ({"folds": 41}, DataError, "`folds`"),
        ({"response": "discrete"}, ModelError, "`response`"),
        ({"also": ["sigma ~ a"]}, DataError, "formulas"),
        ({"x": "y ~ a", "y": TABLE, "exposure": Y}, ModelError, "`exposure`"),
        ({"x": "y ~ a", "y": TABLE, "weights": "ww"}, DataError, "no column `ww`"),
    ],
)
def test_what_cannot_be_compared(arguments, error, message):
    with pytest.raises(error, match=message):
        compare(**{"models": NAMES, "x": X, "y": Y, **arguments})


def test_fits_are_ranked_by_information_criteria():
    fit = mle(models.gaussian, X, Y)
    with pytest.raises(ModelError, match="`information_criteria` ranks fits"):
        compare([fit, fit], X, Y)


def test_the_verbs_of_everyday_stand_at_the_top(tmp_path):
    fit = mle(models.gaussian, X, Y)
    assert neglog.load(neglog.save(fit, tmp_path / "fit")).nll == fit.nll
    assert neglog.cross_validate is neglog.validation.cross_validate
    assert neglog.save is neglog.export.save
    assert neglog.load is neglog.export.load
    for name in ("cross_validate", "datasets", "load", "save"):
        assert name in neglog.__all__
    with pytest.raises(DataError, match="`folder`"):
        neglog.save(fit, 3)


@pytest.mark.parametrize("chosen", [models, ["gaussian"]], ids=["all", "one"])
@pytest.mark.parametrize(
    ("weights", "named"), [(10**30, "each row"), (np.ones(29), "29 rows"), (np.full(30, np.nan), "finite")]
)
def test_weights_that_fit_no_rows_are_refused_before_models_are_chosen(chosen, weights, named):
    table = pd.DataFrame({"y": np.linspace(-1.5, 2.5, 30), "x": np.arange(30.0) % 7})
    with pytest.raises(DataError, match=f"`weights`.*{named}"):
        compare(chosen, "y ~ x", table, weights=weights, folds=2)
