# ruff: noqa: E501 (each line is as it is typed)
"""The first lines of an applied statistician: each is what such a person would type, and has a known answer.

Numbers are those of R and statsmodels, with the call; where there is none, of arithmetic on the same rows.
"""

import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from first_lines import check_refused, evaluated
from sklearn.model_selection import KFold, TimeSeriesSplit

import neglog
from neglog import models
from neglog.errors import DataError, ModelError, NeglogError, UnboundedLikelihoodError

DATA = Path(__file__).parent / "data"


@cache
def namespace():
    """What the lines may use: the package, and shipped tables."""
    names = {name: getattr(neglog, name) for name in neglog.__all__}
    tables = {
        name: pd.read_csv(DATA / f"{name}.csv")
        for name in ("cars", "airquality", "birthwt", "insurance", "warpbreaks")
    }
    shipped = {
        name: neglog.datasets.load(name) for name in ("engel", "menarche", "articles", "iris", "faithful")
    }
    tables["birthwt"]["race"] = tables["birthwt"]["race"].map({1: "white", 2: "black", 3: "other"})
    cars = tables["cars"]
    slope, intercept = np.polyfit(cars["speed"], cars["dist"], 1)
    fits = {"lm": neglog.mle("gaussian", "dist ~ speed", cars),
            "glm": neglog.mle("poisson", "breaks ~ wool + tension", tables["warpbreaks"]),
            "logit": neglog.mle("bernoulli", "low ~ age + lwt + smoke", tables["birthwt"])}  # fmt: skip
    return {**names, **tables, **shipped, **fits, "np": np, "pd": pd, "partial": partial, "models": models,
            "KFold": KFold, "TimeSeriesSplit": TimeSeriesSplit,
            "math": math, "slope": slope, "intercept": intercept, "e": lambda fit: estimate(fit)}  # fmt: skip


def estimate(fit):
    """Term -> estimate of the first parameter."""
    table = neglog.summary(fit)["estimate"]
    return table.xs(table.index[0][0]).to_dict()


NUMBERS = [
    # R: lm(dist ~ speed, cars): coef, logLik, AIC, BIC
    ('e(mle("gaussian", "dist ~ speed", cars))["speed"]', 3.932409, 1e-6),
    ('e(mle(models.gaussian, "dist ~ speed", data=cars))["Intercept"]', -17.579095, 1e-6),
    ('mle("gaussian", "dist ~ 1", cars).params["mean.bias"].item()', 42.98, 1e-10),
    ('mle("poisson", "breaks ~ 1", warpbreaks).params["log_rate.bias"].exp().item()', 1520 / 54, 1e-8),
    ("-lm.nll", -206.57844, 1e-5),
    ("lm.aic", 419.15686, 1e-5),
    ("lm.bic", 424.89290, 1e-4),
    ("lm.n", 50, 0),
    ("lm.k", 3, 0),
    ('e(mle("gaussian", "dist ~ 0 + speed", cars))["speed"]', 2.909132, 1e-6),  # lm(dist ~ 0 + speed)
    ('e(mle("gaussian", "dist ~ speed - 1", cars))["speed"]', 2.909132, 1e-6),
    ('e(mle("gaussian", "dist ~ 1", cars))["Intercept"]', 42.98, 1e-9),  # mean(dist)
    ('e(mle("gaussian", "dist ~ .", cars))["speed"]', 3.932409, 1e-6),
    ('e(mle("gaussian", "np.log(dist) ~ np.log(speed)", cars))["np.log(speed)"]', "log-log", 1e-9),
    ('[b for t, b in e(mle("gaussian", "dist ~ I(speed**2) + speed", cars)).items() if t.startswith("I(")][0]', 0.09996, 1e-5),  # lm: 0.09996
    ('summary(lm).loc[("mean", "speed"), "std_error"]', 0.4155128 * math.sqrt(48 / 50), 1e-6),  # lm, with n
    ('summary(lm)["p_value"].iloc[1] < 1e-10', True, 0),
    ('list(summary(lm).columns[-2:])', ["lower", "upper"], 0),
    ('summary(lm, level=0.9).attrs["level"]', 0.9, 0),
    ('summary(lm, cov_type="HC1").attrs["cov_type"]', "HC1", 0),
    # The sandwich of R: sqrt(diag(sandwich::vcovHC(lm(dist ~ speed, cars), "HC0")))
    ('summary(lm, cov_type="HC0").loc[("mean", "speed"), "std_error"]', "HC0", 1e-9),
    ('covariance(lm).shape', (3, 3), 0),
    ('float(predict(lm, {"speed": [10.0]}).mean)', 21.744993, 1e-5),  # predict(lm, data.frame(speed = 10))
    ('float(predict(lm, pd.DataFrame({"speed": [10, 20], "other": ["a", "b"]})).mean[1])', 61.06908, 1e-5),
    ('interval(lm, {"speed": [10.0]}, level=0.95).shape[0]', 1, 0),
    ('float(quantile(lm, {"speed": [10.0]}, 0.5))', 21.744993, 1e-5),
    ('float(wald_test(lm, "speed = 0").p_value) < 1e-10', True, 0),
    ('float(wald_test(lm, "speed = 4").p_value) > 0.5', True, 0),
    ('wald_test(glm, "tension[T.L] = 0, tension[T.M] = 0").df', 2, 0),
    # Anova by likelihood ratio. R: anova(lm0, lm): n log(RSS0 / RSS1)
    ('likelihood_ratio_test(lm, mle("gaussian", "dist ~ 1", cars)).statistic', "ratio", 1e-8),
    ('float(scores(lm, cars, cars["dist"]).sum())', -206.57844, 1e-5),
    ('float(log_likelihood(lm, cars, cars["dist"]).sum())', -206.57844, 1e-5),
    ('cross_validate("gaussian", "dist ~ speed", cars, folds=5).mean < 0', True, 0),
    ('compare(["gaussian", "laplace"], "dist ~ speed", cars, folds=2).shape[0]', 2, 0),
    ('compare(["poisson", "negative_binomial"], "breaks ~ wool", warpbreaks, folds=2).index[0]', "negative_binomial", 0),
    ('information_criteria({"a": lm, "b": mle("gaussian", "dist ~ 1", cars)}).index[0]', "a", 0),
    ('vuong_test(glm, mle("negative_binomial", "breaks ~ wool + tension", warpbreaks)) is not None', True, 0),
    # R: glm(breaks ~ wool + tension, poisson, warpbreaks); here levels are in alphabetical order: H, L, M
    ('e(glm)["wool[T.B]"]', -0.2059884, 1e-6),
    ('e(glm)["tension[T.L]"]', 0.5184885, 1e-6),
    ('e(glm)["tension[T.M]"]', 0.5184885 - 0.3213204, 1e-6),
    ('e(mle("poisson", "breaks ~ C(wool) + C(tension)", warpbreaks))["C(wool)[T.B]"]', -0.2059884, 1e-6),
    ('e(mle("poisson", "breaks ~ wool * tension", warpbreaks))["wool[T.B]:tension[T.L]"] < 0', True, 0),
    ('mle("poisson", "breaks ~ wool * tension", warpbreaks).k', 6, 0),
    ('mle("poisson", "breaks ~ wool:tension", warpbreaks).nll', "interaction", 1e-7),
    ('mle("poisson", "breaks ~ C(wool, contr.sum)", warpbreaks).nll', "wool", 1e-8),
    ('summary(glm).loc[("log_rate", "wool[T.B]"), "std_error"]', 0.05157117, 1e-6),
    ('summary(glm).loc[("log_rate", "wool[T.B]"), "z"]', -3.994, 1e-3),
    ('math.exp(e(glm)["wool[T.B]"])', 0.8138425, 1e-6),
    ('float(mle("poisson", "breaks ~ 1", warpbreaks).params["log_rate.bias"])', math.log(28.148148148), 1e-9),
    ('mle("negative_binomial", "breaks ~ wool + tension", warpbreaks).nll < glm.nll', True, 0),
    ('1 / float(mle("negative_binomial", "breaks ~ wool + tension", warpbreaks).params["dispersion"])', 9.9437, 2e-3),
    # R: glm(low ~ age + lwt + smoke, binomial, MASS::birthwt)
    ('e(logit)["smoke"] > 0', True, 0),
    ('logit.k', 4, 0),
    ('e(mle("bernoulli", "low ~ smoke", birthwt))["smoke"]', 0.7040592, 1e-6),
    ('e(mle("bernoulli", "low ~ smoke", birthwt))["Intercept"]', -1.0870514, 1e-6),
    ('math.exp(e(mle("bernoulli", "low ~ smoke", birthwt))["smoke"])', 2.021944, 1e-5),  # the odds ratio
    ('e(mle("bernoulli", "low ~ race", birthwt))["race[T.white]"] < 0', True, 0),
    ('mle("bernoulli", "low ~ C(race, contr.treatment(base=\'white\'))", birthwt).k', 3, 0),
    ('float(predict(logit, birthwt).mean.mean())', 59 / 189, 1e-9),  # the score equation of the intercept
    ('class_probabilities(logit, birthwt).shape', (189, 2), 0),
    ('mle("bernoulli", "wool ~ breaks", warpbreaks).classes', ("A", "B"), 0),
    ('list(class_probabilities(mle("categorical", "tension ~ breaks", warpbreaks), warpbreaks))', ["H", "L", "M"], 0),
    ('mle("ordinal", "tension ~ breaks", warpbreaks.assign(tension=pd.Categorical(warpbreaks.tension, ["L", "M", "H"], '
     'ordered=True))).classes', ("L", "M", "H"), 0),
    # R: glm(cbind(Menarche, Total - Menarche) ~ Age, binomial, menarche)
    ('e(mle("binomial", "reached ~ age", menarche, trials="girls"))["age"]', 1.63197, 1e-5),
    # R: MASS::Insurance, glm(Claims ~ ..., poisson, offset = log(Holders))
    ('mle("poisson", "Claims ~ C(District)", insurance, exposure="Holders").nll', "offset", 1e-8),
    ('mle("poisson", "Claims ~ C(District) + offset(log(Holders))", insurance).nll', "offset", 1e-8),
    ('mle("poisson", "Claims ~ C(District)", insurance, offset=np.log(insurance.Holders)).nll', "offset", 1e-8),
    ('e(mle("poisson", "Claims ~ 1", insurance, exposure="Holders"))["Intercept"]', "rate", 1e-9),
    ('float(predict(mle("poisson", "Claims ~ 1", insurance, exposure="Holders"), insurance).mean.sum())', "claims", 1e-7),
    # R: quantreg::rq(foodexp ~ income, engel), at 0.5 and 0.9
    ('e(mle("laplace", "food_expenditure ~ income", engel))["income"]', 0.56018, 5e-6),
    ('e(mle(partial(models.quantile, tau=0.9), "food_expenditure ~ income", engel))["income"]', 0.68630, 5e-6),
    ('mle("student_t", "food_expenditure ~ income", engel).converged', True, 0),
    ('mle("huber", "food_expenditure ~ income", engel).converged', True, 0),
    ('mle("gamma", "food_expenditure ~ income", engel).converged', True, 0),
    ('mle("gaussian", {"mean": "food_expenditure ~ income", "sigma": "~ income"}, engel).nll < 1400', True, 0),
    ('mle("heteroscedastic", "food_expenditure ~ income", engel).nll', 1353.7, 0.05),
    # Splines and polynomials: the same space of functions is the same likelihood
    ('mle("gaussian", "dist ~ poly(speed, 2)", cars).nll', "quadratic", 1e-8),
    ('mle("gaussian", "dist ~ bs(speed, df=4)", cars).k', 6, 0),
    ('mle("gaussian", "dist ~ ns(speed, df=3)", cars).k', 5, 0),
    ('mle("gaussian", "dist ~ cr(speed, df=4)", cars).converged', True, 0),
    ('mle("gaussian", "dist ~ center(speed)", cars).nll', 206.57844, 1e-5),
    ('e(mle("gaussian", "dist ~ center(speed)", cars))["Intercept"]', 42.98, 1e-9),
    ('e(mle("gaussian", "dist ~ scale(speed)", cars))["scale(speed)"]', 3.932409 * 5.287644, 1e-4),
    ('float(predict(mle("gaussian", "dist ~ poly(speed, 2)", cars), {"speed": [10.0]}).mean)', "at ten", 1e-7),
    # Weights, missing cells, subsets
    ('mle("gaussian", "dist ~ speed", cars.assign(w=2.0), weights="w").n', 100, 0),
    ('e(mle("gaussian", "dist ~ speed", cars, weights=np.full(50, 3.0)))["speed"]', 3.932409, 1e-6),
    ('mle("gaussian", "Ozone ~ Wind", airquality, drop_missing=True).n', 116, 0),
    ('e(mle("gaussian", "Ozone ~ Wind", airquality.dropna()))["Wind"] < 0', True, 0),
    ('e(mle("gaussian", "Ozone ~ Wind", airquality, drop_missing=True))["Wind"]', -5.5509, 1e-4),  # lm
    ('e(mle("gaussian", "Ozone ~ Wind + C(Month)", airquality, drop_missing=True))["C(Month)[T.6]"] is not None', True, 0),
    ('mle("gaussian", "dist ~ speed", cars.query("speed > 10")).n', 41, 0),
    # Clusters, bootstrap, penalties, draws
    ('summary(mle("poisson", "breaks ~ tension", warpbreaks, groups="wool"), cov_type="cluster").attrs["cov_type"]', "cluster", 0),
    ('summary(lm, cov_type="opg").shape[0]', 3, 0),
    ('summary(lm, interval="profile").attrs["interval"]', "profile", 0),
    ('bootstrap(lm, 20, seed=1) is not None', True, 0),
    ('map_estimate("gaussian", "dist ~ speed", cars).loss > 206.5', True, 0),
    ('posterior("poisson", "breaks ~ wool", warpbreaks, method="laplace", draws=500).converged', True, 0),
    ('lm.converged', True, 0),
    ('float(lasso_path("gaussian", "dist ~ speed", cars).params["mean.weight"][0])', 0.0, 0),
    # Offsets of a path, factors of truth values, powers, nesting, folds
    ('lasso_path("poisson", "Claims ~ Age", insurance, offset=np.log(insurance.Holders), n_strengths=3).nll[0].item()', "rate null", 1e-6),
    ('lasso_path("poisson", "Claims ~ Age + offset(log(Holders))", insurance, n_strengths=3).nll[0].item()', "rate null", 1e-6),
    ('list(e(mle("gaussian", "dist ~ 0 + fast", cars.assign(fast=cars.speed > 15))))[:2]', ["fast[False]", "fast[True]"], 0),
    ('e(mle("gaussian", "dist ~ fast", cars.assign(fast=cars.speed > 15)))["fast[T.True]"]', "fast", 1e-9),
    ('mle("gaussian", "dist ~ I(speed > 15):speed", cars).k', 4, 0),
    ('mle("gaussian", "dist ~ speed + I(speed^2)", cars).nll', "quadratic", 1e-8),
    ('mle("poisson", "breaks ~ wool + tension %in% wool", warpbreaks).nll', "interaction", 1e-7),
    ('mle("poisson", "breaks ~ C(tension, contr.poly)", warpbreaks).k', 3, 0),
    ('list(quantile_process("dist ~ speed", cars, [0.25, 0.75]))', [0.25, 0.75], 0),
    ('cross_validate("gaussian", "dist ~ speed", cars, folds=TimeSeriesSplit(4)).folds.max().item()', 3, 0),
    ('cross_validate("gaussian", "dist ~ speed", cars, folds=[(range(40), range(40, 50))]).rows.tolist()', list(range(40, 50)), 0),
    ('compare(["gaussian", "laplace"], "dist ~ speed", cars, folds=KFold(2)).shape[0]', 2, 0),
    ('lm.params["sigma"].item()', 15.37959 * math.sqrt(48 / 50), 1e-4),  # sigma(lm), with n in place of n - 2
]  # fmt: skip
"""Line, its known answer or the name of one in `computed`, and the largest difference."""


@cache
def computed():
    """Answers by arithmetic, not by neglog."""
    names = namespace()
    cars, warp, insurance = names["cars"], names["warpbreaks"], names["insurance"]
    x = np.column_stack([np.ones(50), cars["speed"]])
    residuals = cars["dist"] - x @ np.linalg.lstsq(x, cars["dist"], rcond=None)[0]
    bread = np.linalg.inv(x.T @ x)
    spread = bread @ (x.T * residuals.to_numpy() ** 2) @ x @ bread
    squares = np.polyfit(cars["speed"], cars["dist"], 2)
    quadratic = ((cars["dist"] - np.polyval(squares, cars["speed"])) ** 2).mean()
    null = ((cars["dist"] - cars["dist"].mean()) ** 2).sum()
    cells = warp.groupby(["wool", "tension"])["breaks"].transform("mean")
    rates = insurance.groupby("District")[["Claims", "Holders"]].transform("sum")
    expected = rates["Claims"] / rates["Holders"] * insurance["Holders"]
    total = insurance["Claims"].sum() / insurance["Holders"].sum()
    return {
        "log-log": np.polyfit(np.log(cars["speed"]), np.log(cars["dist"]), 1)[0],
        "HC0": math.sqrt(spread[1, 1]),
        "ratio": 50 * math.log(null / (residuals**2).sum()),
        "interaction": poisson_nll(warp["breaks"], cells),
        "wool": poisson_nll(warp["breaks"], warp.groupby("wool")["breaks"].transform("mean")),
        "offset": poisson_nll(insurance["Claims"], expected),
        "rate": math.log(insurance["Claims"].sum() / insurance["Holders"].sum()),
        "claims": insurance["Claims"].sum(),
        "quadratic": 25 * (math.log(2 * math.pi * quadratic) + 1),
        "at ten": np.polyval(squares, 10.0),
        "rate null": poisson_nll(insurance["Claims"], insurance["Holders"] * total),
        "fast": cars["dist"][cars["speed"] > 15].mean() - cars["dist"][cars["speed"] <= 15].mean(),
    }


def poisson_nll(y, mean):
    return float((mean - y * np.log(mean) + [math.lgamma(k + 1) for k in y]).sum())


@pytest.mark.parametrize(("line", "answer", "tolerance"), NUMBERS, ids=[line for line, *_ in NUMBERS])
def test_a_line_gives_its_known_answer(line, answer, tolerance):
    found = evaluated(line, namespace, quiet=False)
    answer = computed()[answer] if isinstance(answer, str) and answer in computed() else answer
    assert found == (pytest.approx(answer, abs=tolerance, rel=0) if tolerance else answer)


REFUSED = [
    ('lasso_path(flat("gaussian"), "dist ~ speed", cars)', ModelError, "with_priors"),
    ('score_test(lm, "speed = 5")', DataError, "`added`"),
    ('mle("gaussian", "dist ~ sped", cars)', DataError, "Did you mean `speed`"),
    ('mle("gausian", "dist ~ speed", cars)', ModelError, "Did you mean `gaussian`"),
    ('mle("gaussian", "Ozone ~ Wind", airquality)', DataError, "37 of 153 rows have a missing value"),
    ('mle("gaussian", "dist ~ speed + I(2 * speed)", cars)', NeglogError, "linearly dependent"),
    ('mle("gaussian", "dist ~ speed +", cars)', DataError, "cannot be read"),
    ('predict(glm, {"wool": ["C"], "tension": ["L"]})', DataError, "has not seen: 'C'"),
    ('predict(lm, {"velocity": [1.0]})', DataError, "speed"),
    ('predict(mle("gaussian", "dist ~ bs(speed, df=4)", cars), {"speed": [99.0]})', DataError, "speed"),
    ('mle("bernoulli", "y ~ x", {"y": [0, 0, 1, 1], "x": [1.0, 2.0, 3.0, 4.0]})', UnboundedLikelihoodError, "separat"),
    ('mle("poisson", "dist ~ speed", cars, exposure="t")', DataError, "no column `t`"),
    ('mle("gaussian", "wool ~ breaks", warpbreaks)', DataError, "`wool`"),
    ('summary(lm, cov_type="HC9")', ModelError, "`cov_type`"),
]  # fmt: skip
"""Line, the error that it raises, and a fact that the error names."""


@pytest.mark.parametrize(("line", "error", "fact"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_a_line_that_is_wrong_names_what_is_wrong(line, error, fact):
    check_refused(line, error, fact, namespace)
