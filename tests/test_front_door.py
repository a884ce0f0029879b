"""One verb for arrays, and for a formula with its table."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.preprocessing import OneHotEncoder

from neglog import (
    bootstrap,
    censored,
    class_probabilities,
    compare,
    covariance,
    cross_validate,
    datasets,
    flat,
    interval,
    lasso_path,
    load,
    log_likelihood,
    map_estimate,
    masked,
    mle,
    mle_batch,
    models,
    posterior,
    posterior_predictive,
    predict,
    prior_predictive,
    priors_for,
    quantile,
    quantile_process,
    save,
    score_test,
    scores,
    summary,
    truncated,
    weighted,
    with_priors,
)
from neglog.errors import DataError, DateWarning, ModelError, SingularDesignError
from neglog.formula import learn
from neglog.predictors import linear, rows

DATA = __file__.replace("test_front_door.py", "data")
ENGEL = datasets.load("engel").assign(
    rich=lambda table: np.where(table["income"] > 900, "yes", "no"), times=np.arange(235) % 3 + 1
)
WARP = pd.read_csv(f"{DATA}/warpbreaks.csv")
FORMULA = "food_expenditure ~ income + C(rich)"


def by_hand(model, formula, table, also=(), **keywords):
    """The fit of arrays that `learn` makes."""
    learned = learn(formula, table, also)
    predictors = {"gaussian": ("mean",), "poisson": ("log_rate",)}[model.__name__]
    x = learned.design.x(learned.table, predictors, ("sigma",) if also else ())
    return mle(model, x, learned.design.y(learned.table), **keywords)


def same(one, other):
    assert one.nll == other.nll
    assert list(one.params) == list(other.params)
    assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)
    assert one.columns == other.columns


def test_a_formula_and_its_table_are_the_arrays_that_the_formula_makes():
    fit = mle(models.gaussian, FORMULA, ENGEL)
    same(fit, by_hand(models.gaussian, FORMULA, ENGEL))
    same(fit, mle("gaussian", FORMULA, data=ENGEL))
    same(fit, mle("gaussian", FORMULA, dict(ENGEL)))
    assert ("mean", "C(rich)[T.yes]") in summary(fit).index
    rich = map_estimate("gaussian", FORMULA, ENGEL)
    assert rich.loss > rich.nll


def test_each_predictor_may_have_its_formula():
    joint = {"mean": FORMULA, "sigma": "~ income"}
    fit = mle("gaussian", joint, ENGEL)
    same(fit, by_hand(models.gaussian, FORMULA, ENGEL, ["sigma ~ income"]))
    same(fit, mle("gaussian", {"location": FORMULA, "scale": "food_expenditure ~ income"}, ENGEL))
    same(fit, mle("gaussian", {"sigma": "food_expenditure ~ income", "mean": "~ income + C(rich)"}, ENGEL))
    alone = mle("heteroscedastic", {"mean": "food_expenditure ~ income"}, ENGEL)
    assert alone.params["log_variance.weight"].shape == (0,)
    assert mle("heteroscedastic", "food_expenditure ~ income", ENGEL).params["log_variance.weight"].shape == (
        1,
    )


def test_weights_and_row_wise_arguments_are_columns_or_arrays():
    counts = ENGEL["times"].astype(float)
    fit = mle("gaussian", FORMULA, ENGEL, weights="times", groups="rich")
    same(fit, by_hand(models.gaussian, FORMULA, ENGEL, weights=counts))
    same(fit, mle("gaussian", FORMULA, ENGEL, weights=counts.to_numpy()))
    assert fit.blueprint.roles == {"weights": "times", "groups": "rich"}
    rates = mle("poisson", "breaks ~ wool * tension", WARP.assign(t=2.0), exposure="t")
    plain = mle("poisson", "breaks ~ wool * tension", WARP)
    gap = plain.params["log_rate.bias"] - rates.params["log_rate.bias"]
    assert abs(float(gap) - np.log(2)) < 1e-10
    new = WARP.assign(t=4.0)[:3]
    assert torch.allclose(predict(rates, new).mean, 4 * predict(rates, new, exposure=np.ones(3)).mean)
    assert torch.equal(
        predict(rates, new.assign(u=1.0), exposure="u").mean, predict(rates, WARP.assign(t=1.0)[:3]).mean
    )
    dots = mle(
        "gaussian", "food_expenditure ~ .", ENGEL[["income", "food_expenditure", "times"]], weights="times"
    )
    assert dots.columns[""] == ("income",)


def test_everything_that_takes_rows_takes_a_table():
    formula = "food_expenditure ~ bs(income, df=5) + rich"
    fit = mle("gaussian", formula, ENGEL)
    learned = learn(formula, ENGEL)
    new = ENGEL.iloc[[5, 3, 100]].assign(other="ignored")
    x = learned.design.x(new, ("mean",))
    assert torch.equal(predict(fit, new).mean, predict(fit, x).mean)
    assert torch.equal(predict(fit, dict(new)).mean, predict(fit, x).mean)
    assert torch.equal(predict(fit, new, uncertainty=True).mean, predict(fit, x, uncertainty=True).mean)
    assert torch.equal(quantile(fit, new, 0.3), quantile(fit, x, 0.3))
    pd.testing.assert_frame_equal(interval(fit, new), interval(fit, x))
    y = new["food_expenditure"]
    assert torch.equal(log_likelihood(fit, new), log_likelihood(fit, x, y))
    assert torch.equal(scores(fit, new, kind="crps"), scores(fit, x, y, "crps"))
    draws = posterior("gaussian", formula, ENGEL, method="laplace", draws=200)
    assert torch.equal(predict(draws, new).mean, predict(draws, x).mean)
    assert torch.equal(posterior_predictive(draws, new), posterior_predictive(draws, x))
    assert torch.equal(scores(draws, new), scores(draws, x, y))


def test_rows_that_are_not_complete_are_refused_or_left_out():
    table = ENGEL.set_axis([f"house {i}" for i in range(235)]).copy()
    table.loc["house 7", "income"] = np.nan
    with pytest.raises(DataError, match=r"1 of 235 rows .*`income`.*drop_missing=True"):
        mle("gaussian", FORMULA, table)
    weights = np.arange(235) % 2 + 1.0
    fit = mle("gaussian", FORMULA, table, weights=weights, drop_missing=True)
    kept = np.arange(235) != 7
    same(fit, mle("gaussian", FORMULA, table[kept], weights=weights[kept]))
    assert fit.blueprint.dropped == 1


@pytest.mark.parametrize(
    ("formula", "table", "keywords", "error", "facts"),
    [
        ("food_expenditure ~ incme", ENGEL, {}, DataError, "no column `incme`.*Did you mean `income`"),
        (FORMULA, ENGEL, {"weights": "tmes"}, DataError, "no column `tmes`.*Did you mean `times`"),
        (FORMULA, ENGEL, {"exposure": "times"}, ModelError, "takes no `exposure`"),
        (FORMULA, ENGEL.to_numpy(), {}, DataError, "`data` must be the table"),
        (FORMULA, None, {}, ModelError, r"needs its table: mle\(model, 'y ~ x', data\)"),
        ({"mean": "~ income"}, ENGEL, {}, DataError, "no formula has a response"),
        ({"mean": "a ~ x", "sigma": "b ~ x"}, ENGEL, {}, DataError, "responses 'a', 'b'"),
        ({"mean": "income"}, ENGEL, {}, DataError, "needs a ~"),
        ({"mean": "rich ~ income", "sigma": 3}, ENGEL, {}, DataError, "'sigma' must be text"),
        ({"mean": FORMULA, "spread": "~ rich"}, ENGEL, {}, ModelError, "no predictor `spread`"),
        (FORMULA, ENGEL, {"data": ENGEL}, ModelError, "give one of them"),
        (ENGEL[["income"]], ENGEL["times"], {"data": ENGEL}, ModelError, "`data` is for formulas"),
        (ENGEL[["income"]], ENGEL["times"], {"weights": "w"}, DataError, "names the column 'w'"),
        (ENGEL[["income"]], None, {}, ModelError, "`mle` needs `y`"),
    ],
)
def test_what_cannot_be_read_is_named(formula, table, keywords, error, facts):
    with pytest.raises(error, match=facts):
        mle("gaussian", formula, table, **keywords)


def test_new_tables_that_cannot_be_read_are_named():
    fit = mle("gaussian", "food_expenditure ~ income + rich", ENGEL)
    with pytest.raises(DataError, match=r"not seen: 'maybe' \(row 3\).*'no', 'yes'"):
        predict(fit, ENGEL.iloc[2:5].assign(rich=["no", "maybe", "no"]))
    with pytest.raises(DataError, match="no column `rich`"):
        predict(fit, ENGEL[["income"]])
    with pytest.raises(DataError, match="`y` is missing"):
        scores(mle("gaussian", ENGEL[["income"]], ENGEL["times"].astype(float)), ENGEL[["income"]])
    with pytest.raises(ModelError, match=r"no model `gausian`.*`gaussian`"):
        mle("gausian", FORMULA, ENGEL)


REFERENCE = {
    # statsmodels 0.14 with patsy's formulas, of the rows that are complete; GLMs to a change of 1e-14.
    "products": (
        "gaussian",
        "Ozone ~ Wind * Temp + `Solar.R` + C(Month)",
        [-238.68674517682314, 13.677296421470535, 3.898605858991898, 0.06093861681840443],
        -481.2399603764778,
    ),
    "B-splines": (
        "gaussian",
        "Ozone ~ bs(Temp, df=5) + Wind",
        [47.58532798791676, 9.146500695156353, -8.830341250254257, 28.22922876885096],
        -510.81916691850245,
    ),
    "sums": (
        "gaussian",
        "breaks ~ C(wool, contr.sum) * C(tension, contr.sum)",
        [28.148148148148145, 2.888888888888888, -6.481481481481474, 8.240740740740735],
        -202.63493386161585,
    ),
    "offset": (
        "poisson",
        "breaks ~ wool * tension + offset(log(t))",
        [2.262668485588602, -0.2238122240238471, 0.686770503994542, 0.021567468737246253],
        -453.8889626569495,
    ),
    "weights": (
        "poisson",
        "breaks ~ wool + tension",
        [3.202540644686987, -0.199299297044647, 0.4368521636487447, 0.14076022187585716],
        -571.648168913096,
    ),
    "classes": (
        "bernoulli",
        "low ~ age + lwt + C(race) + smoke",
        [0.33245157195696806, -0.022478279874642917, -0.012525664016438485, 1.2316713730715179],
        -107.2886172670368,
    ),
    "exposure": (
        "poisson",
        "Claims ~ C(District) + Group + Age + offset(log(Holders))",
        [-1.8514130444235946, 0.025868190910989176, 0.03852392710388265, 0.2342053279772675],
        -184.37077699924265,
    ),
}
TABLES = {
    name: pd.read_csv(f"{DATA}/{name}.csv") for name in ("airquality", "warpbreaks", "birthwt", "insurance")
}
TABLES["warpbreaks"]["t"] = 1.0 + np.arange(54) % 4


@pytest.mark.parametrize("name", REFERENCE)
def test_real_data_through_formulas_as_statsmodels_has_them(name):
    model, formula, coefficients, log_likelihood_of_all = REFERENCE[name]
    response = formula.split()[0]
    table = next(table for table in TABLES.values() if response in table)
    weights = {"weights": "t"} if name == "weights" else {}
    fit = mle(model, formula, table, drop_missing=True, **weights)
    estimates = summary(fit)["estimate"]
    assert np.allclose(estimates.iloc[:4], coefficients, rtol=1e-8, atol=1e-8)
    assert abs(-fit.nll - log_likelihood_of_all) < 1e-8


def test_a_cluster_covariance_takes_the_groups_of_the_fit():
    """Standard errors of statsmodels; its factor counts no parameters but the linear ones."""
    air = TABLES["airquality"]
    fit = mle("gaussian", REFERENCE["products"][1], air, groups="Month", drop_missing=True)
    given = air.dropna(subset=["Ozone", "Solar.R"])["Month"]
    again = mle("gaussian", REFERENCE["products"][1], air, drop_missing=True)
    errors = np.sqrt(np.diag(covariance(fit, "cluster")))
    assert np.array_equal(errors, np.sqrt(np.diag(covariance(again, "cluster", groups=given))))
    found = dict(zip([term for _, term in covariance(fit, "cluster").index], errors, strict=True))
    assert abs(found["Intercept"] / 22.393454558287605 - 1) < 1e-8
    assert abs(found["Wind:Temp"] / 0.027623748197288484 - 1) < 1e-8
    assert (predict(fit, air.dropna()[:3], uncertainty=True, cov_type="cluster").variance > 0).all()
    with pytest.raises(DataError, match="needs `groups`"):
        covariance(again, "cluster")


@pytest.mark.parametrize("model", ["gaussian", "laplace", "heteroscedastic"])
def test_an_offset_of_a_real_response_is_taken_from_it(model):
    table = ENGEL.assign(known=100 * np.sin(np.arange(235)))
    fit = mle(model, "food_expenditure ~ income + offset(known)", table)
    without = mle(model, "I(food_expenditure - known) ~ income", table)
    assert abs(fit.nll - without.nll) < 1e-9
    assert all(torch.allclose(fit.params[name], without.params[name], rtol=1e-10) for name in fit.params)
    new = table[:4]
    gap = predict(fit, new).mean - predict(without, new).mean - torch.tensor(new["known"].to_numpy())
    assert float(gap.abs().max()) < 1e-9
    same(fit, mle(model, "food_expenditure ~ income", table, offset="known"))
    same(fit, mle(model, "food_expenditure ~ income", table, offset=table["known"].to_numpy()))
    arrays = mle(model, table[["income"]], table["food_expenditure"], offset=table["known"])
    assert arrays.nll == fit.nll


@pytest.mark.parametrize("model", ["poisson", "negative_binomial"])
def test_the_offset_of_a_log_rate_is_the_logarithm_of_an_exposure(model):
    table = TABLES["warpbreaks"].assign(offset=lambda each: np.log(each["t"]))
    fit = mle(model, "breaks ~ wool + offset(offset)", table)
    exposed = mle(model, "breaks ~ wool", table, exposure="t")
    assert abs(fit.nll - exposed.nll) < 1e-10
    assert all(torch.allclose(fit.params[name], exposed.params[name], rtol=1e-10) for name in fit.params)
    pd.testing.assert_frame_equal(summary(fit), summary(exposed), rtol=1e-8)
    pd.testing.assert_frame_equal(interval(fit, table[:3]), interval(exposed, table[:3]), rtol=1e-9)
    one, other = (bootstrap(each, draws=20, seed=1).covariance() for each in (fit, exposed))
    pd.testing.assert_frame_equal(one, other, rtol=1e-8)
    x = table[["t"]].assign(wool=1.0 * (table["wool"] == "B"))
    priors = priors_for(model, x, table["breaks"], offset=table["offset"])
    units = priors_for(model, x, table["breaks"], exposure=table["t"])
    for name, prior in units.items():
        if hasattr(prior, "loc"):
            assert torch.allclose(priors[name].loc, prior.loc)
            assert torch.allclose(priors[name].scale, prior.scale)


def test_new_rows_need_the_offset_that_the_fit_had():
    table = TABLES["warpbreaks"]
    fit = mle("poisson", "breaks ~ wool", table, offset=np.log(table["t"]))
    with pytest.raises(DataError, match="fitted with `offset`"):
        predict(fit, table)
    zeros = predict(fit, table, offset=np.zeros(54)).mean
    assert torch.allclose(
        predict(fit, table, offset=np.log(table["t"])).mean, zeros * torch.tensor(table["t"].to_numpy())
    )
    with pytest.raises(DataError, match="no column `t`"):
        predict(mle("poisson", "breaks ~ wool + offset(log(t))", table), table.drop(columns="t"))


def test_an_offset_beside_that_of_the_formula_is_added(tmp_path):
    table = TABLES["warpbreaks"].assign(o=np.linspace(-1, 1, 54))
    expected = mle("poisson", "breaks ~ wool + offset(log(t)) + offset(o)", table)
    by_column = mle("poisson", "breaks ~ wool + offset(log(t))", table, offset="o")
    by_array = mle("poisson", "breaks ~ wool + offset(log(t))", table, offset=table["o"].to_numpy())
    same(by_column, expected)
    same(by_array, expected)
    new = table.iloc[::-3]
    for fit in (by_column, load(save(by_column, tmp_path / "m"))):
        assert predict(fit, new).mean.allclose(predict(expected, new).mean)
    for fit in (by_array, load(save(by_array, tmp_path / "n"))):
        assert predict(fit, new, offset=new["o"]).mean.allclose(predict(expected, new).mean)
        with pytest.raises(DataError, match="fitted with `offset` beside"):
            predict(fit, new)
    with pytest.raises(DataError, match=r"`offset`.*53"):
        mle("poisson", "breaks ~ wool + offset(log(t))", table, offset=np.zeros(53))
    ranked = [
        compare(["poisson"], formula, table, folds=2, **keywords)["nll"].iloc[0]
        for formula, keywords in (
            ("breaks ~ wool + offset(t)", {"offset": "o"}),
            ("breaks ~ wool + offset(t) + offset(o)", {}),
        )
    ]
    assert ranked[0] == pytest.approx(ranked[1], abs=1e-9)


@pytest.mark.parametrize(
    ("formula", "keywords", "error", "facts"),
    [
        ("breaks ~ wool:offset(t)", {}, DataError, "offset must be a term of its own"),
        ("offset(breaks) ~ wool", {}, DataError, "offset must be a term of its own"),
        ("breaks ~ log(offset(t))", {}, DataError, "offset must be a term of its own"),
        ("breaks ~ offset(wool)", {}, DataError, "the offset `wool` needs numbers.*'A'"),
        (
            {"log_mean": "breaks ~ wool", "dispersion": "~ offset(t)"},
            {},
            DataError,
            "belongs to the location",
        ),
    ],
)
def test_offsets_out_of_place_are_refused(formula, keywords, error, facts):
    with pytest.raises(error, match=facts):
        mle("negative_binomial", formula, TABLES["warpbreaks"], **keywords)


def test_a_model_without_a_linear_predictor_takes_no_offset():
    def constant(x, y=None):
        level = pyro.sample("level", dist.Normal(0.0, 5.0))
        with rows(x):
            return pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    with pytest.raises(ModelError, match="no linear predictor"):
        mle(constant, np.zeros((4, 1)), np.arange(4.0), offset=np.arange(4.0))


def test_every_verb_of_fits_takes_a_formula():
    table, formula = TABLES["warpbreaks"], "breaks ~ wool + tension"
    learned = learn(formula, table)
    x, y, t = learned.design.x(table, ("log_rate",)), table["breaks"], table["t"]
    one = cross_validate("poisson", formula, table, exposure="t", weights="t", folds=3)
    other = cross_validate(models.poisson, x, y, exposure=t, weights=t, folds=3)
    assert torch.equal(one.scores, other.scores)
    process = quantile_process(formula, table, [0.3, 0.7], weights="t", groups="wool")
    arrays = quantile_process(x, y.astype(float), [0.3, 0.7], weights=t)
    for tau in (0.3, 0.7):
        same(process[tau], arrays[tau])
        assert predict(process[tau], table[:2]).batch_shape == (2,)
    prior = {"log_rate.weight": dist.Laplace(0.0, torch.tensor(0.5, dtype=torch.float64))}
    lasso = flat(with_priors("poisson", prior), "log_rate.bias")
    path = lasso_path(lasso, formula, table, exposure="t", n_strengths=4)
    assert torch.equal(path.nll, lasso_path(lasso, x, y, exposure=t, n_strengths=4).nll)
    assert predict(path.fit(3), table[:2]).batch_shape == (2,)
    for name, found in priors_for("poisson", formula, table, exposure="t").items():
        assert torch.equal(found.loc, priors_for("poisson", x, y, exposure=t)[name].loc)
    drawn = prior_predictive("poisson", formula, table, exposure="t", draws=3)
    assert torch.equal(drawn.y, prior_predictive("poisson", x, y, exposure=t, draws=3).y)


def test_models_are_compared_by_formulas_with_row_wise_columns():
    table, names = TABLES["warpbreaks"], ["poisson", "negative_binomial"]
    found = compare(names, "breaks ~ wool", table, exposure="t", weights="t", folds=2)
    x = pd.DataFrame({"wool[T.B]": 1.0 * (table["wool"] == "B")})
    keywords = {"exposure": table["t"], "weights": table["t"], "folds": 2}
    pd.testing.assert_frame_equal(found, compare(names, x, table["breaks"], **keywords))
    offset = compare(names, "breaks ~ wool + offset(log(t))", table, weights="t", folds=2)
    assert np.allclose(offset["nll"], found["nll"], rtol=1e-10)
    both = {"log_mean": "breaks ~ wool", "dispersion": "~ tension"}
    heads = compare(names, both, table, exposure="t", folds=2)
    assert heads.loc["negative_binomial", "k"] == 5
    assert heads.loc["poisson", "k"] == 2


def test_rows_of_a_group_are_in_one_fold():
    table = TABLES["warpbreaks"].assign(loom=np.arange(54) // 9)
    found = cross_validate("poisson", "breaks ~ 1", table, groups="loom", folds=3)
    assert all(len(set(found.folds[table["loom"].to_numpy() == each].tolist())) == 1 for each in range(6))
    assert len(set(found.folds.tolist())) == 3
    with pytest.raises(DataError, match="from 2 to the 6 groups"):
        cross_validate("poisson", "breaks ~ 1", table, groups="loom", folds=7)


def test_models_have_names_wherever_one_is_taken():
    y = TABLES["warpbreaks"]["breaks"].to_numpy(dtype=float)
    x = np.zeros((54, 0))
    plain = mle(models.poisson, x, y).nll
    assert mle(masked("poisson"), x, y).nll == plain
    assert mle(weighted("poisson", 1.0), x, y).nll == plain
    assert mle(flat("poisson"), x, y).nll == plain
    assert float(mle_batch("poisson", x, y[None]).nll[0]) == pytest.approx(plain, rel=1e-12)
    assert mle(truncated("poisson", lower=1), x, y).converged
    assert mle(censored("poisson", upper=50), x, y).converged


BIRTHS = TABLES["birthwt"].assign(
    text=lambda each: np.where(each["low"] == 1, "low", "high"),
    truth=lambda each: each["low"] == 1,
    numbers=lambda each: 10 + 5 * each["low"],
    ordered=lambda each: pd.Categorical(
        np.select([each["bwt"] < 2500, each["bwt"] < 3200], ["low", "middle"], "high"),
        ["low", "middle", "high"],
        ordered=True,
    ),
    size=lambda each: np.select([each["bwt"] < 2500, each["bwt"] < 3200], [1, 2], 4),
)


@pytest.mark.parametrize(
    ("column", "classes", "sign"),
    [("text", ("high", "low"), 1), ("truth", (False, True), 1), ("numbers", (10, 15), 1)],
)
def test_labels_of_two_classes(column, classes, sign):
    codes = mle("bernoulli", "low ~ age + smoke", BIRTHS)
    assert codes.classes == ()
    fit = mle("bernoulli", f"{column} ~ age + smoke", BIRTHS)
    same(fit, codes)
    assert fit.classes == classes
    arrays = mle("bernoulli", BIRTHS[["age", "smoke"]], BIRTHS[column].to_numpy())
    same(arrays, codes)
    same(mle("bernoulli", BIRTHS[["age", "smoke"]], list(BIRTHS[column])), codes)
    table = class_probabilities(fit, BIRTHS[:5])
    assert tuple(table.columns) == classes
    assert np.allclose(table[classes[1]], predict(codes, BIRTHS[:5]).mean)
    assert torch.equal(log_likelihood(fit, BIRTHS), log_likelihood(codes, BIRTHS))
    assert torch.equal(scores(fit, BIRTHS), log_likelihood(codes, BIRTHS))
    x, y = BIRTHS[["age", "smoke"]], BIRTHS[column]
    assert torch.equal(scores(arrays, x, y, "brier"), scores(codes, x, BIRTHS["low"], "brier"))
    assert torch.equal(
        cross_validate("bernoulli", x, y, folds=3).scores,
        cross_validate("bernoulli", x, BIRTHS["low"], folds=3).scores,
    )


@pytest.mark.parametrize("name", ["categorical", "ordinal"])
@pytest.mark.parametrize("column", ["ordered", "size"])
def test_labels_of_many_classes_come_back(name, column):
    codes = mle(name, BIRTHS[["smoke"]], BIRTHS["ordered"].cat.codes.to_numpy())
    fit = mle(name, f"{column} ~ smoke", BIRTHS)
    assert fit.nll == codes.nll
    first, second, third = fit.classes
    assert fit.classes == (("low", "middle", "high") if column == "ordered" else (1, 2, 4))
    index = list(summary(fit).index)
    if name == "categorical":
        assert (f"logit[{second}]", "smoke") in index
        assert (f"logit[{third}]", "Intercept") in index
    else:
        assert ("cutpoints", f"{first}|{second}") in index
        assert list(covariance(fit).index) == index
    table = class_probabilities(fit, BIRTHS)
    assert np.allclose(table.sum(axis=1), 1)
    assert np.allclose(table, class_probabilities(codes, BIRTHS[["smoke"]]))
    draws = posterior(name, f"{column} ~ smoke", BIRTHS, method="laplace", draws=200)
    assert list(class_probabilities(draws, BIRTHS[:2]).columns) == list(fit.classes)


@pytest.mark.parametrize(
    ("model", "column", "classes"),
    [
        ("bernoulli", "wool", ("A", "B")),
        ("bernoulli", "many", (False, True)),
        ("categorical", "tension", ("H", "L", "M")),
        ("ordinal", "code", (0, 1, 2)),
    ],
)
def test_a_response_of_categories_is_the_column_itself(model, column, classes):
    codes = TABLES["warpbreaks"]["tension"].map({"L": 0, "M": 1, "H": 2})
    table = TABLES["warpbreaks"].assign(code=codes, many=TABLES["warpbreaks"]["breaks"] > 26)
    fit = mle(model, f"C({column}) ~ breaks" if column != "many" else "C(many) ~ wool", table)
    same(fit, mle(model, f"{column} ~ breaks" if column != "many" else "many ~ wool", table))
    assert fit.classes == classes


def test_categories_of_a_response_are_compared_by_models_of_classes():
    table = compare(["bernoulli"], "C(wool) ~ breaks", TABLES["warpbreaks"], folds=2)
    assert table["nll"].iloc[0] == pytest.approx(mle("bernoulli", "wool ~ breaks", TABLES["warpbreaks"]).nll)
    three = TABLES["warpbreaks"]["tension"].map({"L": 0, "M": 1, "H": 2})
    with pytest.raises(DataError, match="0 or 1"):
        mle("bernoulli", "C(tension) ~ breaks", TABLES["warpbreaks"].assign(tension=three))


def test_text_is_sorted_and_categories_keep_their_order():
    fit = mle("ordinal", "text ~ age", BIRTHS)
    assert fit.classes == ("high", "low")
    order = pd.Categorical(BIRTHS["text"], ["low", "high", "unused"])
    assert mle("ordinal", BIRTHS[["age"]], pd.Series(order)).classes == ("low", "high")
    gaps = BIRTHS["text"].where(BIRTHS["age"] < 30)
    assert mle(masked("bernoulli"), BIRTHS[["age"]], gaps).n == (BIRTHS["age"] < 30).sum()


@pytest.mark.parametrize(
    ("model", "y", "facts"),
    [
        ("bernoulli", ["a", "b", "c", "a"], r"two classes, and `y` has 3: 'a', 'b', 'c'.*`categorical`"),
        ("bernoulli", ["a", "a", "a", "a"], "single class, 'a'"),
        ("categorical", ["a", 1, "a", 1], "of several kinds, int, str"),
        ("bernoulli", [0.0, 1.0, 2.0, 2.0], "row 2 has y = 2"),
        ("bernoulli", [0.0, 0.5, 1.0, 1.0], "row 1 has y = 0.5"),
    ],
)
def test_labels_that_are_none(model, y, facts):
    y = pd.Series(y, dtype=object) if "a" in y else np.array(y)
    with pytest.raises(DataError, match=facts):
        mle(model, np.arange(4.0)[:, None], y)


def test_a_label_that_predictions_cannot_know():
    fit = mle("bernoulli", "text ~ age", BIRTHS)
    with pytest.raises(
        DataError, match=r"`text` has a label .* not seen: 'huge' \(row 2\).* knows 'high', 'low'"
    ):
        scores(fit, BIRTHS[:4].assign(text=["low", "high", "huge", "low"]))
    with pytest.raises(DataError, match="`y` has a label"):
        log_likelihood(fit, BIRTHS[:2], [0.0, 1.0])
    with pytest.raises(ModelError, match="no model of classes"):
        class_probabilities(mle("gaussian", "bwt ~ age", BIRTHS), BIRTHS)


def _tables():
    """The same table in nullable and Arrow-backed columns of pandas, and as a mapping."""
    table = TABLES["warpbreaks"].assign(
        day=pd.date_range("2024-01-01", periods=54), many=lambda t: t["breaks"] > 25
    )
    yield "nullable", table.convert_dtypes()
    yield "Arrow", table.convert_dtypes(dtype_backend="pyarrow")
    yield "mapping", {name: table[name].tolist() for name in table}


@pytest.mark.parametrize(("kind", "table"), list(_tables()), ids=[kind for kind, _ in _tables()])
def test_tables_of_every_kind(kind, table):
    check_table(table)


def test_tables_of_polars():
    import polars  # here: that it has not been imported is a case of the others

    table = polars.DataFrame(dict(list(_tables())[2][1]))
    check_table(table)
    levels = polars.Enum(["L", "M", "H"])
    ordered = table.with_columns(
        polars.col("tension").cast(levels), polars.col("wool").cast(polars.Categorical)
    )
    assert mle("ordinal", "tension ~ wool", ordered).classes == ("L", "M", "H")
    arrays = table.select(polars.col("t"), polars.col("breaks").cast(polars.Float64))
    assert mle("gaussian", arrays.select("t"), arrays["breaks"], weights=arrays["t"]).n == float(
        arrays["t"].sum()
    )
    with pytest.raises(DataError, match=r"data.collect\(\)"):
        mle("gaussian", "breaks ~ wool", table.lazy())


def check_table(table):
    plain = mle("poisson", "breaks ~ wool + tension", TABLES["warpbreaks"], exposure="t")
    fit = mle("poisson", "breaks ~ wool + tension", table, exposure="t")
    same(fit, plain)
    assert torch.equal(predict(fit, table).mean, predict(plain, TABLES["warpbreaks"]).mean)
    assert torch.equal(log_likelihood(fit, table), log_likelihood(plain, TABLES["warpbreaks"]))
    assert mle("bernoulli", "many ~ wool", table).classes == (False, True)
    assert mle("categorical", "tension ~ wool", table).classes == ("H", "L", "M")
    with pytest.warns(DateWarning, match="`day` holds dates"):
        days = mle("gaussian", "breaks ~ day", table)
    assert days.params["mean.weight"].shape == (1,)


@pytest.mark.parametrize(
    ("right", "terms"),
    [
        ("0 + income", ["income"]),
        ("income - 1", ["income"]),
        (".", ["Intercept", "income", "rich[T.yes]", "times"]),
        ("I(income**2)", ["Intercept", "I(income ** 2)"]),
        ("poly(income, 2)", ["Intercept", "poly(income, 2)[1]", "poly(income, 2)[2]"]),
        ("income:rich", ["Intercept", "income:rich[no]", "income:rich[yes]"]),
        ("rich * income", ["Intercept", "rich[T.yes]", "income", "rich[T.yes]:income"]),
        ("(income + rich)^2 - rich", ["Intercept", "income", "income:rich[T.yes]"]),
        ("1", ["Intercept"]),
    ],
)
def test_the_habits_of_r_hold(right, terms):
    fit = mle("gaussian", f"food_expenditure ~ {right}", ENGEL)
    assert [term for parameter, term in summary(fit).index if parameter == "mean"] == terms


@pytest.mark.parametrize(
    ("formula", "marked"),
    [
        ("y ~ x + * z", "+ *"),
        ("y ~ log(x", "log(x"),
        ("y ~ x +", "+"),
        ("y x", "y x"),
        ("y ~ (x + z", "("),
        ("y ~ x + `z", "`z"),
    ],
)
def test_a_formula_that_does_not_parse_has_carets_under_the_place(formula, marked):
    with pytest.raises(DataError, match="cannot be read") as caught:
        mle("gaussian", formula, ENGEL)
    _, text, carets = str(caught.value).split("\n    ")
    assert text == formula
    assert text[carets.index("^") :][: carets.count("^")] == marked
    with pytest.raises(DataError, match="not an expression") as caught:
        mle("gaussian", "food_expenditure ~ I(3 +/ income)", ENGEL)
    _, text, carets = str(caught.value).split("\n    ")
    assert text[carets.index("^")] == "/"


def test_a_spline_is_known_in_the_range_of_the_fit():
    fit = mle("gaussian", "food_expenditure ~ bs(income, df=4)", ENGEL)
    with pytest.raises(
        DataError, match=r"from 377.058 to 4957.81, the range of the fit, and row 1 has 10000"
    ):
        predict(fit, {"income": [500.0, 1e4]})
    wide = mle("gaussian", "food_expenditure ~ bs(income, df=4, extrapolation='extend')", ENGEL)
    assert predict(wide, {"income": [500.0, 1e4]}).mean.isfinite().all()


def test_frames_with_categories_are_shown_the_formula():
    with pytest.raises(DataError, match=r"mle\(model, 'y ~ C\(wool\) \+ x', data\)"):
        mle("poisson", TABLES["warpbreaks"][["wool", "t"]], TABLES["warpbreaks"]["breaks"])


def classes_by_hand(x, y=None):
    """Three classes with the last as the reference, as a user might write them."""
    logits = linear("logit", x, outputs=2)
    with rows(x):
        logits = torch.cat([logits, torch.zeros_like(logits[..., :1])], dim=-1)
        return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def events_by_hand(x, y=None):
    logit = linear("logit", x)
    with rows(x):
        return pyro.sample("y", dist.Bernoulli(logits=logit), obs=y)


def test_labels_of_models_of_ones_own():
    fit = mle(events_by_hand, "text ~ smoke", BIRTHS)
    assert fit.classes == ("high", "low")
    assert fit.nll == pytest.approx(mle("bernoulli", "low ~ smoke", BIRTHS).nll, rel=1e-10)
    three = mle(classes_by_hand, BIRTHS[["smoke"]], BIRTHS["ordered"])
    assert list(class_probabilities(three, BIRTHS[["smoke"]])) == ["low", "middle", "high"]
    assert ("logit[0]", "smoke") in summary(three).index  # its reference is its own
    with pytest.raises(DataError, match="two classes, and `y` has 3"):
        mle(events_by_hand, "ordered ~ smoke", BIRTHS)
    assert mle(events_by_hand, "truth ~ smoke", BIRTHS).classes == (False, True)
    with pytest.raises(DataError, match="text where numbers are needed"):
        mle(partial(normal_by_hand), "text ~ smoke", BIRTHS)


def normal_by_hand(x, y=None):
    mean = linear("mean", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_labels_are_compared_by_models_of_classes():
    codes = BIRTHS["ordered"].cat.codes
    names = ["categorical", "ordinal", "poisson"]
    found = compare(names, "ordered ~ smoke", BIRTHS, folds=2)
    assert "poisson" in found.index[found["nll"].isna()]
    assert "needs numbers, and the response has labels, 'low', 'middle'" in found.loc["poisson", "reason"]
    numbers = compare(names[:2], BIRTHS[["smoke"]], codes, folds=2)
    assert np.allclose(found["held_out_mean"][:2], numbers["held_out_mean"], rtol=1e-12)
    x, y = BIRTHS[["smoke"]], BIRTHS["ordered"]
    pd.testing.assert_frame_equal(compare(names, x, y, folds=2), found)
    assert set(compare(models, "ordered ~ smoke", BIRTHS, folds=2).index) == {"categorical", "ordinal"}
    assert list(compare(models, x, y.astype(str), folds=2).index) == ["categorical"]
    assert list(compare(models, x, list(BIRTHS["text"]), folds=2).index) == ["bernoulli"]
    with pytest.raises(DataError, match="labels have no density"):
        compare(models, "text ~ smoke", BIRTHS, response="continuous")
    with pytest.raises(DataError, match="`gaussian` needs numbers"):
        compare(["gaussian"], "text ~ smoke", BIRTHS)
    with pytest.raises(DataError, match=r"holds text where numbers are needed.*'12,5'"):
        compare(models, "wrong ~ smoke", BIRTHS.assign(wrong="12,5"))


def test_splines_within_categories_name_the_formula_without_an_intercept():
    with pytest.raises(SingularDesignError, match=r"`0 \+ \.\.\.`, or .*C\(g\) \* cr\(x, df=4\)"):
        mle("gaussian", "bwt ~ cr(age, df=4):C(race)", BIRTHS)
    one = mle("gaussian", "bwt ~ 0 + cr(age, df=4):C(race)", BIRTHS)
    assert one.nll == pytest.approx(mle("gaussian", "bwt ~ C(race) * cr(age, df=3)", BIRTHS).nll, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("normal", "gaussian"),
        ("OLS", "gaussian"),
        ("linear", "gaussian"),
        ("logit", "bernoulli"),
        ("logistic regression", "bernoulli"),
        ("quasipoisson", "negative_binomial"),
        ("neg-bin", "negative_binomial"),
        ("nb", "negative_binomial"),
        ("gausian", "gaussian"),
    ],
)
def test_names_of_other_libraries_propose_a_model(name, model):
    with pytest.raises(ModelError, match=rf"no model `{name}`\. Did you mean `{model}`\?"):
        mle(name, FORMULA, ENGEL)


def test_groups_may_be_missing_in_rows_that_are_dropped():
    air = TABLES["airquality"]
    whole = mle("gaussian", "Ozone ~ Wind", air, groups="Month", drop_missing=True)
    gaps = air.assign(Month=air["Month"].where(air["Ozone"].notna()))
    fit = mle("gaussian", "Ozone ~ Wind", gaps, groups="Month", drop_missing=True)
    same(fit, whole)
    pd.testing.assert_frame_equal(covariance(fit, "cluster"), covariance(whole, "cluster"))
    late = air.assign(Month=air["Month"].where(air["Month"] != 6))
    with pytest.raises(DataError, match="`Month` of groups is missing in row 31"):
        mle("gaussian", "Ozone ~ Wind", late.assign(Ozone=1.0), groups="Month")
    without = mle("gaussian", "Ozone ~ Wind", air[air["Month"] != 6], drop_missing=True)
    for groups in ("Month", late["Month"], late["Month"].to_numpy()):
        fit = mle("gaussian", "Ozone ~ Wind", late, groups=groups, drop_missing=True)
        same(fit, without)
        assert fit.blueprint.dropped == without.blueprint.dropped + (air["Month"] == 6).sum()


@pytest.mark.parametrize(
    ("model", "response", "name"),
    [
        ("gaussian", "x", "weights"),
        ("poisson", "k", "exposure"),
        ("binomial", "k", "trials"),
        ("gaussian", "x", "offset"),
    ],
)
def test_rows_without_a_row_wise_argument_are_dropped(model, response, name):
    table = pd.DataFrame(
        {"x": [0.3, 1.0, 0.1, 2.0, 1.5], "k": [1, 0, 2, 1, 1], "w": [2.0, np.nan, 3.0, 2.0, 2.0]}
    )
    rest = table.drop(index=1)
    expected = mle(model, f"{response} ~ 1", rest, **{name: "w"})
    for values in ("w", table["w"], table["w"].to_numpy(), torch.tensor(table["w"].to_numpy())):
        fit = mle(model, f"{response} ~ 1", table, drop_missing=True, **{name: values})
        same(fit, expected)
        assert fit.blueprint.dropped == 1
        with pytest.raises(DataError, match=r"missing value, in `w`|NaN|nan"):
            mle(model, f"{response} ~ 1", table, **{name: values})


def test_trials_are_a_column_of_the_table():
    table = datasets.load("menarche")
    fit = mle("binomial", "reached ~ age", table, trials="girls")
    same(fit, mle("binomial", "reached ~ age", table, trials=table["girls"].to_numpy(float)))
    new = table[:3].assign(girls=10.0)
    assert torch.allclose(predict(fit, new).mean, 10 * torch.sigmoid(predict(fit, new).logits))
    with pytest.raises(DataError, match=r"no column `girl`.*Did you mean `girls`"):
        mle("binomial", "reached ~ age", table, trials="girl")
    with pytest.raises(ModelError, match="trials=n"):
        mle("binomial", "reached ~ age", table)


def test_the_bootstrap_draws_the_groups_of_the_fit():
    table = TABLES["warpbreaks"].assign(loom=np.arange(54) % 9)
    fit = mle("poisson", "breaks ~ tension", table, groups="loom")
    kept = bootstrap(fit, draws=20, seed=1)
    given = bootstrap(mle("poisson", "breaks ~ tension", table), draws=20, seed=1, groups=table["loom"])
    pd.testing.assert_frame_equal(kept.covariance(), given.covariance())
    rows = bootstrap(mle("poisson", "breaks ~ tension", table), draws=20, seed=1)
    assert not np.allclose(kept.covariance(), rows.covariance())


def test_truth_values_are_compared_as_labels():
    table = compare(["bernoulli"], "truth ~ smoke", BIRTHS, folds=2)
    codes = compare(["bernoulli"], "low ~ smoke", BIRTHS, folds=2)
    pd.testing.assert_frame_equal(table, codes)
    assert mle("bernoulli", "truth ~ smoke", BIRTHS).classes == (False, True)


def test_a_batch_takes_the_designs_and_the_response_of_a_formula():
    table = TABLES["warpbreaks"]
    weights = np.random.default_rng(0).multinomial(54, np.full(54, 1 / 54), size=3).astype(float)
    batch = mle_batch("poisson", "breaks ~ wool + tension", table, weights=weights, exposure="t")
    for place in range(3):
        one = mle("poisson", "breaks ~ wool + tension", table, weights=weights[place], exposure="t")
        for name, value in one.params.items():
            assert torch.allclose(batch.params[name][place], value, atol=1e-8)
    with pytest.raises(DataError, match="For a single data set, use `mle`"):
        mle_batch("poisson", "breaks ~ wool", table)


def test_a_score_test_takes_a_formula_of_the_added_columns():
    table = TABLES["warpbreaks"]
    fit = mle("poisson", "breaks ~ wool", table)
    found = score_test(fit, "tension", data=table)
    expected = score_test(fit, pd.get_dummies(table["tension"], drop_first=True, dtype=float))
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-10)
    assert found.df == 2
    assert score_test(fit, added="I(t ** 2)", data=table).df == 1
    with pytest.raises(DataError, match=r"score_test\(fit, 'tension', data=table\)"):
        score_test(fit, added="tension")
    with pytest.raises(DataError, match=r"no column `tensoin`.*Did you mean `tension`"):
        score_test(fit, added="tensoin", data=table)


def test_a_lasso_path_of_a_model_as_it_is_has_laplace_priors_of_scale_1():
    x, y = BIRTHS[["age", "lwt"]] / 10, BIRTHS["bwt"] / 1000
    prior = {"mean.weight": dist.Laplace(torch.zeros(()).double(), torch.ones(()).double())}
    named = flat(with_priors("gaussian", prior), "mean.bias", "sigma")
    path = lasso_path("gaussian", x, y, n_strengths=4)
    assert torch.equal(path.nll, lasso_path(named, x, y, n_strengths=4).nll)
    assert torch.equal(path.strengths, lasso_path(models.gaussian, x, y, n_strengths=4).strengths)
    with pytest.raises(ModelError, match="no Laplace or ElasticNet prior"):
        lasso_path(flat("gaussian"), x, y)


@pytest.mark.parametrize("name", ["quantile", "gaussian", models.quantile])
def test_a_quantile_process_says_that_it_takes_no_model(name):
    with pytest.raises(ModelError, match="`quantile_process` takes no model"):
        quantile_process(name, "low ~ smoke", data=BIRTHS, taus=[0.5])
    with pytest.raises(ModelError, match=r"by position.* `x`, no model"):
        quantile_process(name, "low ~ smoke", BIRTHS, [0.5])


def test_a_quantile_process_names_the_quantile_that_is_none():
    with pytest.raises(DataError, match=r"`taus` must be between 0 and 1; it is 1\.5"):
        quantile_process("bwt ~ smoke", BIRTHS, [0.5, 1.5])


def test_outcomes_of_labels_lie_between_labels():
    fit = mle("ordinal", "ordered ~ smoke", BIRTHS)
    found = interval(fit, BIRTHS, kind="outcome", level=0.5)
    codes = quantile(fit, BIRTHS, [0.5, 0.25, 0.75]).long().numpy()
    assert found.to_numpy().tolist() == np.array(fit.classes)[codes].tolist()
    assert found.index.equals(BIRTHS.index)
    assert bool((found["lower"] <= found["upper"]).all())  # in the order of the classes, not of their text
    assert found["estimate"].cat.categories.tolist() == list(fit.classes)
    answer = interval(mle("bernoulli", "text ~ smoke", BIRTHS), BIRTHS.head(2), kind="outcome")
    assert set(answer.to_numpy().ravel()) <= set(BIRTHS["text"])


def test_classes_without_an_order_have_no_interval():
    fit = mle("categorical", "ordered ~ smoke", BIRTHS)
    for kind in ("mean", "outcome"):
        with pytest.raises(ModelError, match=r"`categorical`.*class_probabilities"):
            interval(fit, BIRTHS, kind=kind)


def test_real_data_through_formulas_as_scikit_learn_has_them():
    air = TABLES["airquality"].dropna()
    months = OneHotEncoder(drop="first", sparse_output=False).fit_transform(air[["Month"]])
    x = np.column_stack([air["Wind"], air["Temp"], air["Wind"] * air["Temp"], months])
    theirs = LinearRegression().fit(x, air["Ozone"], sample_weight=air["Day"])
    fit = mle("gaussian", "Ozone ~ Wind * Temp + C(Month)", air, weights="Day")
    assert np.allclose(predict(fit, air).mean, theirs.predict(x), rtol=1e-8, atol=1e-8)
    middle = mle("laplace", "Ozone ~ Wind * Temp + C(Month)", air, weights="Day").nll
    residuals = np.abs(
        air["Ozone"] - QuantileRegressor(alpha=0.0).fit(x, air["Ozone"], air["Day"]).predict(x)
    )
    scale = np.average(residuals, weights=air["Day"])
    assert middle == pytest.approx(air["Day"].sum() * (1 + np.log(2 * scale)), rel=1e-8)


def test_a_bare_categorical_keeps_the_order_of_its_categories():
    x = np.linspace(-1.0, 1.0, 12)[:, None]
    labels = np.array(["some", "much", "little"] * 4)
    bare = pd.Categorical(labels, categories=["some", "much", "little"], ordered=True)
    fit, known = (mle("ordinal", x, y) for y in (bare, pd.Series(bare)))
    assert fit.classes == ("some", "much", "little")
    assert fit.nll == known.nll
    assert float(-scores(fit, x, bare).sum()) == pytest.approx(fit.nll)
    yes = pd.Categorical(np.where(labels == "some", "much", labels), categories=["much", "little"])
    assert mle("bernoulli", x, yes).classes == ("much", "little")
