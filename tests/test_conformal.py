"""Split conformal intervals: exact coverage for right and wrong models, and what is refused."""

import copy
import math
import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from table import TABLE

from neglog import (
    Conformal,
    conformal,
    ensemble,
    interval,
    laplace_approximation,
    map_estimate,
    mle,
    models,
    on_features,
    posterior,
    predict,
    quantile,
    scores,
)
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.solvers import Adam

KINDS = ["absolute", "normalised", "quantile"]
REPETITIONS, NEW = 60, 200
"""Calibrations of each law, and new rows of each."""
ROUNDING = 1e-12
"""Of the end of an interval that is the response of a calibration row."""


def drawn(rows, seed, counts=False):
    """Rows whose noise grows with x and is skewed, so that a line with one Normal noise is a wrong model."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 2.0, rows)
    noise = (0.2 + x) * (rng.exponential(size=rows) - 1.0)
    y = rng.poisson(np.exp(0.3 + x)).astype(float) if counts else np.sin(3.0 * x) + noise
    return torch.tensor(x)[:, None], torch.tensor(y)


@cache
def fitted(name):
    return mle(getattr(models, name), *drawn(80, 1, counts=name == "poisson"))


def coverages(fit, kind, n, level, counts=False):
    """The share of new rows in their interval, for each of many calibrations."""
    found = []
    for seed in range(REPETITIONS):
        x, y = drawn(n + NEW, 1000 + seed, counts)
        ends = conformal(fit, x[:n], y[:n], kind=kind).interval(x[n:], level)
        inside = (ends["lower"].to_numpy() <= y[n:].numpy()) & (y[n:].numpy() <= ends["upper"].to_numpy())
        found.append(inside.mean())
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "n", "level"), [("gaussian", 19, 0.8), ("heteroscedastic", 30, 0.9)])
def test_coverage_is_that_of_the_rank_under_wrong_models(name, n, level, kind):
    found = coverages(fitted(name), kind, n, level)
    expected = math.ceil(level * (n + 1)) / (n + 1)
    assert abs(found.mean() - expected) <= 3 * found.std(ddof=1) / math.sqrt(REPETITIONS)
    assert conformal(fitted(name), *drawn(n, 0)).coverage(level) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_of_counts_is_at_least_the_level(kind):
    found = coverages(fitted("poisson"), kind, 20, 0.8, counts=True)
    assert found.mean() >= 17 / 21 - 3 * found.std(ddof=1) / math.sqrt(REPETITIONS)


def test_coverage_given_the_calibration_rows_is_beta_distributed():
    """Vovk (2012): Beta(k, n + 1 - k), whose variance is far from that of independent new rows."""
    n, k = 19, 16
    found = coverages(fitted("gaussian"), "absolute", n, 0.8)
    expected = k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2)) + (k / (n + 1)) * (1 - k / (n + 1)) / NEW
    assert found.var(ddof=1) == pytest.approx(expected, rel=3 * math.sqrt(2 / REPETITIONS))


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_is_infinite_where_the_rank_exceeds_the_rows(kind):
    fit, (x, y) = fitted("gaussian"), drawn(18, 3)
    ends = conformal(fit, x, y, kind=kind).interval(x)
    assert (ends["lower"] == -np.inf).all()
    assert (ends["upper"] == np.inf).all()
    assert np.isfinite(ends["estimate"]).all()
    assert conformal(fit, x, y).coverage() == 1.0
    x, y = drawn(19, 3)
    assert np.isfinite(conformal(fit, x, y, kind=kind).interval(x)).all().all()


def test_ranks_are_exact():
    """20 × 0.55 is 11.000000000000002 in floats."""
    x, y = drawn(19, 3)
    found = conformal(fitted("gaussian"), x, y)
    assert found.coverage(0.55) == 11 / 20
    half = found.interval(x, 0.55)
    assert np.allclose(half["upper"] - half["estimate"], found.scores()[10])


def test_the_three_scores_are_their_formulas():
    fit, (x, y), (new, _) = fitted("heteroscedastic"), drawn(39, 4), drawn(5, 5)
    at, after = predict(fit, x), predict(fit, new)
    q = (y - at.mean).abs().sort().values[35]
    found = conformal(fit, x, y).interval(new, 0.9)
    assert np.allclose(found["lower"], after.mean - q)
    assert np.allclose(found["upper"], after.mean + q)
    q = ((y - at.mean).abs() / at.stddev).sort().values[35]
    found = conformal(fit, x, y, kind="normalised").interval(new, 0.9)
    assert np.allclose(found["upper"], after.mean + q * after.stddev)
    low, high = quantile(fit, x, [0.05, 0.95]).T
    q = torch.maximum(low - y, y - high).sort().values[35]
    found = conformal(fit, x, y, kind="quantile").interval(new, 0.9)
    assert np.allclose(found[["lower", "upper"]], quantile(fit, new, [0.05, 0.95]) + torch.stack([-q, q]))


def test_intervals_are_within_the_support_and_never_empty():
    fit, (x, y) = fitted("poisson"), drawn(30, 6, counts=True)
    ends = conformal(fit, x, y).interval(x, 0.99)
    assert (ends["lower"] == 0).all()
    assert (ends["upper"] == np.inf).all()
    near = predict(fit, x).mean.round()
    for kind in KINDS:
        ends = conformal(fit, x, near, kind=kind).interval(x, 0.9)
        assert (ends["lower"] <= ends["upper"]).all()
        assert (ends["lower"] >= 0).all()


@pytest.mark.parametrize("name", TABLE)
def test_every_model_of_numbers_has_conformal_intervals(name):
    """Others say that they have none. On the rows of the fit, of which every tenth is outside."""
    row = TABLE[name]
    (x, y), keywords = row.sample(40, 2), row.keywords(40)
    fit = mle(row.model, x, y, **keywords)
    for kind in KINDS:
        if y.dim() > 1 or name in ("bernoulli", "categorical", "ordinal"):
            with pytest.raises(ModelError, match="one number for each row"):
                conformal(fit, x, y, kind=kind, **keywords)
            continue
        ends = conformal(fit, x, y, kind=kind, **keywords).interval(x, 0.9, **keywords)
        inside = (ends["lower"] - ROUNDING <= y.numpy()) & (y.numpy() <= ends["upper"] + ROUNDING)
        assert inside.sum() >= 37
        assert inside.sum() == 37 or len(y.unique()) < 40


def test_a_table_keeps_its_index_and_row_wise_arguments():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=60), "t": rng.uniform(1, 3, 60)}, index=range(100, 160))
    table["y"] = rng.poisson(table["t"] * np.exp(0.5 * table["x"]))
    fit = mle("poisson", "y ~ x", table[:30], exposure="t")
    found = conformal(fit, table[30:50], kind="normalised")
    ends = found.interval(table[50:], 0.8)
    assert list(ends.index) == list(range(150, 160))
    assert list(ends.columns) == ["estimate", "lower", "upper"]
    others = found.interval(table[50:], 0.8, exposure=np.ones(10))
    assert not np.allclose(ends["estimate"], others["estimate"])
    with pytest.raises(ModelError, match=r"`interval` takes no `exposur`.*`exposure`"):
        found.interval(table[50:], exposur=np.ones(10))


def quiet_ensemble(network, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return ensemble(network, x, y, members=2, solver=Adam(steps=20))


def test_posteriors_and_approximations_of_networks_are_calibrated():
    x, y = drawn(90, 7)
    drawn_ones = posterior(models.gaussian, x[:40], y[:40], method="laplace", draws=100)
    network = on_features(
        models.gaussian, torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh()).double()
    )
    with pytest.warns(ConvergenceWarning):
        trained = map_estimate(network, x[:40], y[:40], solver=Adam(steps=20))
    approximated = laplace_approximation(trained)
    several = quiet_ensemble(network, x[:40], y[:40])
    for fit, kinds in (
        (drawn_ones, KINDS[:2]),
        (trained, KINDS),
        (approximated, KINDS),
        (several, KINDS),
    ):
        for kind in kinds:
            ends = conformal(fit, x[40:80], y[40:80], kind=kind).interval(x[80:], 0.9)
            assert np.isfinite(ends).all().all()
            assert (ends["lower"] < ends["upper"]).all()
    own = approximated.predict(x)
    assert torch.equal(predict(approximated, x).variance, own.variance)
    assert torch.allclose(scores(approximated, x, y), own.log_prob(y))
    assert interval(approximated, x, kind="outcome").shape == (90, 3)
    with pytest.raises(ModelError, match=r"`LaplaceApproximation`.* leave `draws`"):
        predict(approximated, x, draws=8)
    with pytest.raises(ModelError, match=r"`LaplaceApproximation`.* kind='outcome'"):
        interval(approximated, x)


def test_no_new_rows_have_no_intervals():
    x, y = drawn(30, 8)
    for kind in KINDS:
        assert conformal(fitted("gaussian"), x, y, kind=kind).interval(x[:0]).shape == (0, 3)


def test_pickles_and_copies_give_the_same_intervals():
    x, y = drawn(30, 9)
    drawn_ones = posterior(models.gaussian, x, y, method="laplace", draws=100)
    for fit, kinds in ((drawn_ones, KINDS[:2]), (fitted("heteroscedastic"), KINDS)):
        for kind in kinds:
            found = conformal(fit, x, y, kind=kind)
            for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
                assert isinstance(again, Conformal)
                pd.testing.assert_frame_equal(again.interval(x), found.interval(x))
    assert repr(found) == "Conformal(kind='quantile', n=30)"


def test_what_has_no_conformal_intervals_is_refused():
    x, y = drawn(30, 10)
    fit = fitted("gaussian")
    yes = mle(models.bernoulli, x, (y > 0).double())
    pairs = mle(models.multivariate_gaussian, x, torch.stack([y, y**2], -1))
    heavy = mle(models.student_t, x, torch.cat([y[:20], 1e3 * y[20:]]))
    assert float(predict(heavy, x).df.max()) <= 1
    missing = torch.where(torch.arange(30) == 4, math.nan, y)
    for call, error, facts in (
        (lambda: conformal(fit, x, y, kind="ratio"), ModelError, "`kind` must be one of 'absolute'"),
        (lambda: conformal(yes, x, (y > 0).double()), ModelError, "no classes"),
        (lambda: conformal(pairs, x, torch.stack([y, y], -1)), ModelError, "no vectors"),
        (lambda: conformal(heavy, x, y), ModelError, "row 0 .*use kind='quantile'"),
        (lambda: conformal(fit, x, y, weights=y.abs()), ModelError, r"no `weights`.*numpy\.repeat"),
        (lambda: conformal(fit, x[:0], y[:0]), DataError, "no rows"),
        (lambda: conformal(fit, x, missing), DataError, "`y` of row 4 is missing"),
        (lambda: conformal(fit, x), DataError, "`y` is missing"),
        (lambda: conformal(fitted("poisson"), x, y), DataError, "needs every `y`"),
        (lambda: conformal(fit, x, y).interval(x, 1.0), ModelError, "`level` must be between 0 and 1"),
        (lambda: conformal(None, x, y), ModelError, "NoneType"),
    ):
        with pytest.raises(error, match=facts):
            call()
    assert conformal(heavy, x, y, kind="quantile").interval(x, 0.8).notna().all().all()
