"""Hypotheses: statistics of other software, closed forms, and what cannot be tested."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import scipy.stats
import torch
from reference import problem

from neglog import (
    censored,
    covariance,
    datasets,
    information_criteria,
    likelihood_ratio_test,
    map_estimate,
    mle,
    models,
    score_test,
    vuong_test,
    wald_test,
)
from neglog.errors import DataError, ModelError, SingularDesignError
from neglog.uncertainty.constraints import linear_constraints

STATSMODELS = 1e-6
"""Relative: its iterations stop where the deviance moves by 1e-8, which leaves weights 1e-7 off."""
INTERACTIONS = ["wool_B_x_tension_M", "wool_B_x_tension_H"]
MAIN = ["wool_B", "tension_M", "tension_H"]


@pytest.fixture(scope="module")
def breaks():
    case = problem("pois_warpbreaks")
    x = case.x["log_rate"]
    return case.fit(), mle(models.poisson, x[MAIN], case.y), x


@pytest.fixture(scope="module")
def cars():
    case = problem("gauss_cars")
    return case.fit(), case.x["mean"], case.y


def test_the_three_tests_of_an_interaction_are_those_of_statsmodels(breaks):
    # statsmodels 0.15: GLM(...).wald_test, .score_test and twice the difference of llf.
    fit, small, x = breaks
    ratio = likelihood_ratio_test(fit, small)
    wald = wald_test(fit, " = ".join([*INTERACTIONS, "0"]))
    score = score_test(small, x[INTERACTIONS])
    assert (ratio.df, wald.df, score.df) == (2, 2, 2)
    assert ratio.statistic == pytest.approx(28.08675747660675, rel=STATSMODELS)
    assert wald.statistic == pytest.approx(27.82708978112725, rel=STATSMODELS)
    assert score.statistic == pytest.approx(28.10228645, rel=STATSMODELS)
    assert wald.p_value == pytest.approx(9.066177766746969e-07, rel=1e-5)
    assert "log_rate[wool_B_x_tension_M] = 0" in score.hypothesis


def test_a_wald_test_takes_multiples_and_numbers(breaks):
    found = wald_test(breaks[0], "log_rate[wool_B] = -5e-1, 2*tension_M - tension_H/3 = -1")
    assert found.statistic == pytest.approx(0.4843483751561176, rel=STATSMODELS)
    assert found.p_value == pytest.approx(0.7849194424267475, rel=STATSMODELS)


def test_a_wald_test_of_one_coefficient_is_its_z(cars):
    fit = cars[0]
    for kind in ("observed", "HC1"):
        matrix, at = covariance(fit, kind), ("mean", "speed")
        z = (fit.params["mean.weight"].item() - 4) / matrix.loc[at, at] ** 0.5
        assert wald_test(fit, "speed = 4", cov_type=kind).statistic == pytest.approx(z**2, rel=1e-9)


def test_the_score_test_of_a_spread_is_breusch_and_pagans(cars):
    # R's car: ncvTest(lm(dist ~ speed, cars)), chi-squared 4.650233.
    found = score_test(cars[0], cars[1], "sigma", cov_type="expected")
    assert found.statistic == pytest.approx(4.650233, abs=1e-6)
    assert found.hypothesis == "sigma[speed] = 0"


def test_the_score_test_of_a_column_is_n_r_squared(cars):
    # With the expected information of a Normal, n times the R² of the residuals on all columns.
    fit, x, y = cars
    found = score_test(fit, x**2, cov_type="expected").statistic
    design = np.column_stack([np.ones(50), x])
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    wide = np.column_stack([design, x**2])
    explained = wide @ np.linalg.lstsq(wide, residuals, rcond=None)[0]
    assert found == pytest.approx(50 * (explained @ explained) / (residuals @ residuals), rel=1e-7)


def test_score_tests_skip_the_rows_that_the_fit_skipped(cars):
    _, x, y = cars
    weights = np.ones(50)
    weights[::7] = 0
    kept = weights > 0
    one = score_test(mle(models.gaussian, x, y, weights=weights), x**2)
    other = score_test(mle(models.gaussian, x[kept], y[kept]), (x**2)[kept])
    assert one.statistic == pytest.approx(other.statistic, rel=1e-9)


def test_a_ratio_of_normals_is_known(cars):
    fit, x, y = cars
    found = likelihood_ratio_test(fit, mle(models.gaussian, x.iloc[:, :0], y))
    residuals = y - np.poly1d(np.polyfit(x["speed"], y, 1))(x["speed"])
    statistic = 50 * np.log(((y - y.mean()) ** 2).sum() / (residuals**2).sum())
    assert found.statistic == pytest.approx(statistic, rel=1e-10)
    assert found.p_value == pytest.approx(scipy.stats.chi2.sf(statistic, 1), rel=1e-8)


def test_vuongs_statistic_is_a_paired_z(cars):
    fit, x, y = cars
    second = mle(models.student_t, x, y)
    (mean, sigma), (location, df, scale) = (
        [f.params[f"{name}.bias"].item() + x["speed"] * f.params[f"{name}.weight"].item()]
        + [f.params[constant].item() for constant in constants]
        for f, name, constants in ((fit, "mean", ["sigma"]), (second, "location", ["df", "scale"]))
    )
    gap = scipy.stats.norm.logpdf(y, mean, sigma) - scipy.stats.t.logpdf(y, df, location, scale)
    for correction, off in ((None, 0), ("aic", -1), ("bic", -np.log(50) / 2)):
        found = vuong_test(fit, second, correction=correction)
        assert found.statistic == pytest.approx((gap.sum() - off) / (50**0.5 * gap.std()), rel=1e-8)
        assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(found.statistic)), rel=1e-8)
        assert found.df is None
    assert vuong_test(second, fit).statistic == pytest.approx(-vuong_test(fit, second).statistic)


def test_a_test_is_a_value_that_can_be_read(cars):
    found = wald_test(cars[0], "speed = 4")
    assert repr(found) == "Wald test of speed = 4: chi²(1) = 0.02756, p = 0.8681"
    with pytest.raises(FrozenInstanceError):
        found.p_value = 0.0


INDEX = [
    ("mean", "x1"),
    ("mean", "x:2"),
    ("mean", "Intercept"),
    ("spread", "x1"),
    ("sigma", ""),
    ("m[a]", "C(g)[T.b]"),
]


@pytest.mark.parametrize(
    ("text", "row", "value"),
    [
        ("sigma = 2", [0, 0, 0, 0, 1, 0], 2),
        ("mean[x1]", [1, 0, 0, 0, 0, 0], 0),
        ("x:2 = Intercept - 1", [0, 1, -1, 0, 0, 0], -1),
        ("3 * mean[x1] * 2 - -spread[x1] / 4 + 1 = 1e-1", [6, 0, 0, 0.25, 0, 0], -0.9),
        ("`m[a][C(g)[T.b]]` = .5", [0, 0, 0, 0, 0, 1], 0.5),
        ("`C(g)[T.b]` = +1", [0, 0, 0, 0, 0, 1], 1),
    ],
)
def test_constraints_are_read(text, row, value):
    matrix, values = linear_constraints(text, INDEX)
    np.testing.assert_allclose(matrix, [row])
    np.testing.assert_allclose(values, [value])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x1 = 0", r"may be mean\[x1\] or spread\[x1\]"),
        ("nothing = 0", "there is no parameter 'nothing'"),
        ("sigma * sigma = 1", "not a list of linear constraints"),
        ("1 / sigma = 1", "divides by sigma"),
        ("sigma =", "not a list of linear constraints"),
        ("", "not a list of linear constraints"),
        ("sigma = 0,", "not a list of linear constraints"),
        ("sigma ** 2 = 1", "not a list of linear constraints"),
        ("sigma sigma = 1", "not a list of linear constraints"),
        ("1 = 1", "no parameter"),
        ("sigma > 0", "cannot be read from '> 0' on"),
    ],
)
def test_constraints_that_cannot_be_read(text, message):
    with pytest.raises(ModelError, match=message):
        linear_constraints(text, INDEX)


def test_constraints_that_follow_from_each_other(cars):
    with pytest.raises(ModelError, match="follow from each other"):
        wald_test(cars[0], "speed = 0, 2 * speed = 0")


def test_likelihoods_of_other_data_are_not_compared(cars):
    fit, x, y = cars
    for other, what in (
        (mle(models.gaussian, x.iloc[:, :0], y + 1), "response"),
        (mle(models.gaussian, x.iloc[1:, :0], y[1:]), "rows"),
        (mle(models.gaussian, x.iloc[:, :0], y, weights=np.full(50, 2.0)), "weights"),
    ):
        with pytest.raises(DataError, match=f"differ in their {what}"):
            likelihood_ratio_test(fit, other)


def test_likelihoods_that_are_not_nested(cars):
    fit, x, y = cars
    with pytest.raises(ModelError, match="must have fewer"):
        likelihood_ratio_test(fit, fit)
    heavy = mle(models.student_t, x.iloc[:, :0], y)
    with pytest.raises(ModelError, match="it is not nested"):
        likelihood_ratio_test(heavy, mle(models.gamma, x.iloc[:, :0], y))


def test_what_has_no_test(cars):
    fit, x, y = cars
    with pytest.raises(ModelError, match="this one has priors"):
        vuong_test(fit, map_estimate(models.gaussian, x, y))
    with pytest.raises(ModelError, match="nothing to test"):
        vuong_test(fit, fit)
    with pytest.raises(ModelError, match="`correction` must be"):
        vuong_test(fit, mle(models.laplace, x, y), correction="hqic")
    counts = mle(models.poisson, x, y)
    with pytest.raises(ModelError, match="density of one model cannot be compared"):
        vuong_test(fit, counts)
    with pytest.raises(ModelError, match="density of one model cannot be compared"):
        likelihood_ratio_test(fit, counts)
    with pytest.raises(ModelError, match="smooth loss"):
        score_test(mle(models.laplace, x, y), x**2)
    with pytest.raises(ModelError, match="there is no predictor 'median'"):
        score_test(fit, x**2, "median")
    with pytest.raises(DataError, match="one entry for each of 50 rows"):
        score_test(fit, (x**2)[:7])
    with pytest.raises(SingularDesignError, match="dependent"):
        score_test(fit, 2 * x.rename(columns={"speed": "twice"}))
    with pytest.raises(ModelError, match="`predictor` must name"):
        score_test(problem("hetero_cars").fit(), x**2)


def test_zero_inflation_against_dispersion():
    # The classic use: two ways of having more zeros than a Poisson, neither nested in the other.
    students = datasets.load("articles")
    x, articles = students.drop(columns="articles"), students["articles"]
    zeros = mle(models.zero_inflated_poisson, {"log_rate": x, "zero": x}, articles)
    negative = mle(models.negative_binomial, x, articles)
    found = vuong_test(negative, zeros, correction="bic")
    assert found.statistic > 0
    assert torch.isfinite(torch.tensor(found.p_value))


def test_censored_rows_are_not_compared_with_their_densities(cars):
    """Of a row at its bound one model gives a probability and the other a density, which has units."""
    _, x, y = cars
    top = y.clip(upper=float(y.quantile(0.8)))
    bound = float(top.max())
    plain, tobit = mle(models.gaussian, x, top), mle(censored(models.gaussian, upper=bound), x, top)
    for test in (vuong_test, likelihood_ratio_test):
        with pytest.raises(ModelError, match=rf"in {int((top == bound).sum())} of {len(y)} rows"):
            test(plain, tobit)
    other = mle(censored(models.logistic, upper=bound), x, top)
    assert vuong_test(tobit, other).statistic == -vuong_test(other, tobit).statistic
    assert len(information_criteria({"normal": tobit, "logistic": other})) == 2


@pytest.mark.parametrize("hypothesis", ["a / 0 = 1", "1 / 0 = a", "a = 1e999", "a = 1e308 * 1e308"])
def test_hypotheses_with_numbers_that_are_not_finite_are_refused(hypothesis):
    with pytest.raises(ModelError, match=r"not linear|beyond the range"):
        linear_constraints(hypothesis, [("mean", "a")])
