"""RMSE, MAE, R², deviance explained and calibration errors of held-out rows, as scikit-learn has them."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict

from neglog import compare, cross_validate, datasets, distributions, mle, predict
from neglog.distributions.family import deviance_of
from neglog.errors import DataError, ModelError

FOLDS = KFold(3, shuffle=True, random_state=0)
ENGEL = datasets.load("engel")[::3]
X, Y = ENGEL[["income"]].to_numpy() / 1000, ENGEL["food_expenditure"].to_numpy() / 1000
YES = (Y > 0.6).astype(float)
WARP = datasets.load("warpbreaks")
WOOL, BREAKS = WARP[["wool_B"]].to_numpy(float), WARP["breaks"].to_numpy(float)
KINDS = np.random.default_rng(0).integers(0, 3, len(Y))


def held_out(model, x, y, *scores, **keywords):
    return cross_validate(model, x, y, folds=FOLDS, scores=scores, **keywords)


def means(model, x, y):
    """The held-out mean of each row, the folds written out."""
    found = np.empty(len(y))
    for train, test in FOLDS.split(x):
        found[test] = predict(mle(model, x[train], y[train]), x[test]).mean
    return found


def test_errors_of_held_out_rows_are_those_of_scikit_learn():
    predicted = cross_val_predict(LinearRegression(), X, Y, cv=FOLDS)
    table = held_out("gaussian", X, Y, "rmse", "mae", "r2", "d2").table()
    expected = {
        "rmse": metrics.root_mean_squared_error(Y, predicted),
        "mae": metrics.mean_absolute_error(Y, predicted),
        "r2": metrics.r2_score(Y, predicted),
        "d2": metrics.r2_score(Y, predicted),
    }
    for name, value in expected.items():
        assert table.loc[name, "mean"] == pytest.approx(value, abs=1e-10)


def test_standard_errors_of_roots_and_ratios_are_those_of_the_jackknife():
    """The infinitesimal jackknife: n times the change by one row's share, to first order."""
    table = held_out("gaussian", X, Y, "rmse", "r2").table()
    predicted = cross_val_predict(LinearRegression(), X, Y, cv=FOLDS)
    count, step = len(Y), 1e-6
    for name, score in (("rmse", metrics.root_mean_squared_error), ("r2", metrics.r2_score)):
        shares = np.ones(count) + step * np.eye(count)
        changes = np.array([score(Y, predicted, sample_weight=each) for each in shares])
        slopes = (changes - score(Y, predicted)) / step * count
        assert table.loc[name, "std_error"] == pytest.approx(slopes.std(ddof=1) / count**0.5, rel=1e-4)


@pytest.mark.parametrize(("model", "power"), [("poisson", 1), ("gamma", 2), ("inverse_gaussian", 3)])
def test_explained_deviance_is_that_of_tweedie(model, power):
    found = held_out(model, WOOL, BREAKS, "d2").table().loc["d2", "mean"]
    expected = metrics.d2_tweedie_score(BREAKS, means(model, WOOL, BREAKS), power=power)
    assert found == pytest.approx(expected, abs=1e-8)


def test_explained_deviance_of_medians_counts_and_classes():
    medians = held_out("laplace", X, Y, "d2", "mae").table()["mean"]
    middle = np.median(Y)
    assert medians["d2"] == pytest.approx(1 - medians["mae"] / np.abs(Y - middle).mean(), abs=1e-6)
    trials = np.full(len(Y), 1.0)
    one = held_out("bernoulli", X, YES, "d2").table().loc["d2", "mean"]
    other = held_out("binomial", X, YES, "d2", trials=trials).table().loc["d2", "mean"]
    assert one == pytest.approx(other, abs=1e-8)
    log_mean = held_out("lognormal", X, Y, "d2").table().loc["d2", "mean"]
    assert log_mean == pytest.approx(held_out("gaussian", X, np.log(Y), "r2").table().loc["r2", "mean"])
    logistic = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    shares = cross_val_predict(logistic, X, KINDS, cv=FOLDS, method="predict_proba")
    table = held_out("categorical", X, KINDS, "d2").table()
    assert table.loc["d2", "mean"] == pytest.approx(metrics.d2_log_loss_score(KINDS, shares), abs=1e-4)
    assert table.loc["log", "mean"] == pytest.approx(-metrics.log_loss(KINDS, shares), abs=1e-4)


@pytest.mark.parametrize(
    "family",
    [
        lambda mean: distributions.Normal(mean, 1.0),
        lambda mean: distributions.Laplace(mean, 1.0),
        lambda mean: distributions.Poisson(mean),
        lambda mean: distributions.Binomial(5, mean / 5),
        lambda mean: distributions.NegativeBinomial2(mean, 0.3),
        lambda mean: distributions.Gamma(torch.tensor(1.0), 1 / mean),
        lambda mean: distributions.InverseGaussian(mean, 1.0),
    ],
)
def test_a_unit_deviance_is_twice_the_log_likelihood_that_is_missing(family):
    y, mean = torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([2.0, 2.0, 3.0]).double()
    expected = 2 * (family(y).log_prob(y) - family(mean).log_prob(y))
    torch.testing.assert_close(deviance_of(family(mean), family(mean), y), expected)


def test_calibration_errors_by_hand():
    shares, bins = means("bernoulli", X, YES), np.linspace(0, 1, 16)
    place = np.digitize(shares, bins[1:-1])
    gaps = [abs((shares - YES)[place == each].sum()) for each in range(15)]
    found = held_out("bernoulli", X, YES, "calibration").table().loc["calibration", "mean"]
    assert found == pytest.approx(sum(gaps) / len(YES), abs=1e-9)
    levels, below = np.arange(0.05, 1, 0.05), []
    for train, test in FOLDS.split(X):
        fit = mle("gaussian", X[train], Y[train])
        below.append(stats.norm.cdf(Y[test], predict(fit, X[test]).mean, fit.params["sigma"]))
    gaps = [np.mean(np.concatenate(below) <= level) - level for level in levels]
    found = held_out("gaussian", X, Y, "calibration").table().loc["calibration", "mean"]
    assert found == pytest.approx(np.abs(gaps).mean(), abs=1e-12)


def test_the_truth_is_calibrated_whatever_the_kind_of_numbers():
    draws = np.random.default_rng(0)
    x = draws.normal(size=(4000, 1))
    counts = draws.poisson(np.exp(0.3 + 0.2 * x[:, 0])).astype(float)
    assert held_out("poisson", x, counts, "calibration").table().loc["calibration", "mean"] < 0.01
    assert held_out("gaussian", x, counts, "calibration").table().loc["calibration", "mean"] > 0.03


def test_scores_of_all_rows_count_weights_and_differ_in_pairs():
    weights = 1.0 + np.arange(len(Y)) % 2
    rows = np.repeat(np.arange(len(Y)), weights.astype(int))
    weighted = held_out("gaussian", X, Y, "rmse", "r2", weights=weights)
    folds = torch.as_tensor(weighted.folds.numpy()[rows])
    squares = []
    for fold in range(3):
        kept, out = rows[folds != fold], rows[folds == fold]
        squares.append((Y[out] - predict(mle("gaussian", X[kept], Y[kept]), X[out]).mean.numpy()) ** 2)
    squares = np.concatenate(squares)
    table = weighted.table()["mean"]
    assert table["rmse"] == pytest.approx(squares.mean() ** 0.5, abs=1e-10)
    assert table["r2"] == pytest.approx(1 - squares.mean() / np.var(Y[rows]), abs=1e-10)
    other = held_out("laplace", X, Y, "rmse", "r2", weights=weights)
    gap, error = other.above(weighted, "rmse")
    assert gap == pytest.approx(other.table().loc["rmse", "mean"] - table["rmse"])
    assert 0 < error < gap + 1


@pytest.mark.parametrize(
    ("model", "y", "score", "error", "facts"),
    [
        ("gaussian", Y, "mse", ModelError, "'mse'.*What is meant may be 'rmse'"),
        ("gaussian", Y, "rsme", ModelError, "Did you mean 'rmse'"),
        ("gaussian", Y, "neg_log_loss", ModelError, "What is meant may be 'log'"),
        ("student_t", Y, "d2", ModelError, "`StudentT` has no deviance"),
        ("categorical", np.arange(len(Y)) % 3, "rmse", ModelError, "'brier', 'calibration' and 'd2'"),
        ("multivariate_gaussian", np.stack([Y, Y + X[:, 0] ** 2], 1), "rmse", ModelError, "one number"),
    ],
)
def test_scores_that_a_response_does_not_have(model, y, score, error, facts):
    with pytest.raises(error, match=facts):
        held_out(model, X, y, score)


def test_scores_of_all_rows_are_no_scores_of_rows():
    from neglog import scores

    with pytest.raises(ModelError, match=r"cross_validate\(model, x, y, scores=\['rmse'\]\)"):
        scores(mle("gaussian", X, Y), X, Y, "rmse")
    with pytest.raises(DataError, match="needs a response that varies"):
        held_out("poisson", X, np.ones(len(Y)), "r2")


def test_formulas_have_these_scores_too():
    table = pd.DataFrame({"y": Y, "x": X[:, 0], "t": 1.0})
    found = cross_validate("gaussian", "y ~ x", table, folds=FOLDS, scores=["r2"], weights="t").table()
    assert found.loc["r2", "mean"] == pytest.approx(
        held_out("gaussian", X, Y, "r2").table().loc["r2", "mean"]
    )


def test_models_are_compared_with_further_scores():
    table = compare(["gaussian", "student_t"], X, Y, folds=3, scores=["rmse", "d2"])
    alone = cross_validate("gaussian", X, Y, folds=3, scores=["rmse", "d2"]).table()
    for name in ("rmse", "d2"):
        assert table.loc["gaussian", name] == alone.loc[name, "mean"]
        assert table.loc["gaussian", f"{name}_standard_error"] == alone.loc[name, "std_error"]
    assert np.isfinite(table.loc["student_t", "rmse"])
    assert np.isnan(table.loc["student_t", "d2"])  # it has no deviance
    with pytest.raises(ModelError, match="Did you mean 'rmse'"):
        compare(["gaussian"], X, Y, scores=["rmes"])
