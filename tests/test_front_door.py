"""One verb for arrays, and for a formula with its table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import (
    datasets,
    interval,
    log_likelihood,
    map_estimate,
    mle,
    models,
    posterior,
    posterior_predictive,
    predict,
    quantile,
    scores,
    summary,
)
from neglog.errors import DataError, ModelError
from neglog.formula import learn

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
