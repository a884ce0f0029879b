"""Natural cubic splines as R has them, and splines that sum to one beside an intercept."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neglog import datasets, mle, predict, scores, summary
from neglog.errors import DataError
from neglog.formula import Design, learn

WOMEN = pd.DataFrame(
    {
        "height": np.arange(58.0, 73.0),
        "weight": [115.0, 117, 120, 123, 126, 129, 132, 135, 139, 142, 146, 150, 154, 159, 164],
    }
)
ENGEL = datasets.load("engel").assign(half=np.arange(235) % 2, round=lambda each: each["income"] // 400)


def nll(right, **keywords):
    return mle("gaussian", f"food_expenditure ~ {right}", ENGEL, **keywords).nll


def test_natural_splines_have_the_columns_of_r():
    """The coefficients of ``lm(weight ~ ns(height, df = 5), data = women)``, an example in R's help of ns."""
    fit = mle("gaussian", "weight ~ ns(height, df=5)", WOMEN)
    expected = [114.7447, 15.9474, 25.1695, 33.2582, 50.7894, 45.0363]
    assert np.allclose(summary(fit)["estimate"].iloc[:6], expected, atol=5e-5, rtol=0)


def test_natural_splines_are_linear_beyond_their_range():
    fit = mle("gaussian", "weight ~ ns(height, df=5)", WOMEN)
    for start, step in ((58.0, -1.0), (72.0, 1.0)):
        heights = start + step * np.array([-1e-4, 0.0, 1e-4, 5.0, 10.0])
        before, here, near, far, further = predict(fit, {"height": heights}).mean.tolist()
        assert further - far == pytest.approx(far - here, rel=1e-10)
        assert near - here == pytest.approx(here - before, rel=1e-6)


def natural_space(x, knots):
    """Natural cubic splines as truncated powers (Hastie, Tibshirani & Friedman 2009, section 5.2.1)."""
    *inner, last, end = knots

    def slope(knot):
        return (np.maximum(x - knot, 0) ** 3 - np.maximum(x - end, 0) ** 3) / (end - knot)

    return np.stack([np.ones_like(x), x, *(slope(knot) - slope(last) for knot in inner)], axis=1)


@pytest.mark.parametrize(
    ("right", "column", "inner"),
    [
        ("ns(income, df=4)", "income", [0.25, 0.5, 0.75]),
        ("ns(round, df=3)", "round", [1 / 3, 2 / 3]),  # quantiles of all rows, ties included
        ("0 + ns(income, 4, include_intercept=True)", "income", [1 / 3, 2 / 3]),
        ("ns(income, df=1)", "income", []),
    ],
)
def test_natural_splines_span_those_with_knots_at_quantiles(right, column, inner):
    x = ENGEL[column].to_numpy(float)
    space = natural_space(x / 1000, np.quantile(x, [0, *inner, 1]) / 1000)
    y = ENGEL["food_expenditure"].to_numpy()
    rss = np.sum((y - space @ np.linalg.lstsq(space, y, rcond=None)[0]) ** 2)
    assert nll(right) == pytest.approx(235 / 2 * (np.log(2 * np.pi * rss / 235) + 1), abs=1e-8)


def test_without_an_intercept_natural_splines_are_zero_at_the_lower_bound():
    side = learn("weight ~ 0 + ns(height, df=3)", WOMEN).design.main
    assert np.allclose(side.design(WOMEN).iloc[0], 0, atol=1e-15)
    chosen = learn("weight ~ ns(height, knots=[62, 70], lower_bound=58, upper_bound=72)", WOMEN).design.main
    assert chosen.columns[-1].endswith("[3]")


@pytest.mark.parametrize("right", ["ns(x, df=4)", "ns(x, knots=[2.5, 1])", "z + cr(x, df=3)", "0 + cc(x, 4)"])
def test_saved_splines_are_the_same_on_any_rows(right):
    table = pd.DataFrame({"x": np.linspace(0, 4, 40) ** 1.5, "z": np.arange(40.0), "y": np.ones(40)})
    design = learn(f"y ~ {right}", table).design
    again = Design.from_json(json.loads(json.dumps(design.to_json())))
    assert again.to_json() == design.to_json()
    for rows in (table, table[3:4], table[:2].assign(x=[-1.0, 99.0])):
        assert np.array_equal(again.main.design(rows), design.main.design(rows))


@pytest.mark.parametrize(
    "knots", [[0.0, 2.0, 1.0, 9.0], [0.0, 1.0, 9.0], [0.0, 1.0, 2.0, 8.0], [0.0, 1.0, 2.0, 9]]
)
def test_the_knots_of_a_saved_natural_spline_are_checked(knots):
    table = pd.DataFrame({"x": np.arange(10.0), "y": np.ones(10)})
    saved = learn("y ~ ns(x, df=3)", table).design.to_json()
    Design.from_json(saved)
    damaged = copy.deepcopy(saved)
    ((_, state),) = damaged["main"]["transforms"]["dict"]
    next(entry for entry in state["dict"] if entry[0] == "knots")[1] = {"list": knots}
    with pytest.raises(DataError, match=r"the state of `ns\(x, df=3\)` cannot be used: `knots`"):
        Design.from_json(damaged)


@pytest.mark.parametrize(
    ("spline", "facts"),
    [
        ("ns(x)", "either `df` or `knots`"),
        ("ns(x, df=3, knots=[2])", "either `df` or `knots`"),
        ("ns(x, df=0)", "from 1 on; it is 0"),
        ("ns(x, df=1, include_intercept=True)", "from 2 on; it is 1"),
        ("ns(x, df=2.5)", "it is 2.5"),
        ("ns(x, df=9)", "8 different inner knots between 0 and 2.*smaller `df`"),
        ("ns(x, knots=[7])", "`knots` lie outside"),
        ("ns(x, degree=2)", "`degree`, which it does not take.*`df`, `knots`"),
        ("ns(x, df=501)", "at most 500"),
    ],
)
def test_natural_splines_that_cannot_be(spline, facts):
    with pytest.raises(DataError, match=facts):
        learn(f"y ~ {spline}", pd.DataFrame({"x": np.arange(12.0) % 3, "y": np.ones(12)}))


def test_splines_that_sum_to_one_are_centred_beside_an_intercept():
    full = nll("0 + cr(income, df=5)")
    assert nll("cr(income, df=4)") == pytest.approx(full, abs=1e-8)
    assert nll("cr(income, df=4, constraints='center')") == nll("cr(income, df=4)")
    assert nll("cr(income, 4) * C(half)") == pytest.approx(nll("0 + cr(income, 5):C(half)"), abs=1e-8)
    assert nll("cc(income, df=3)") == pytest.approx(nll("0 + cc(income, df=4)"), abs=1e-8)
    design = learn("food_expenditure ~ 0 + cr(income, df=5)", ENGEL).design
    assert "center" not in str(design.main.columns)
    assert "center" in str(design.shared.columns)
    assert Design.from_json(design.to_json()).to_json() == design.to_json()


def test_formulas_that_were_saved_without_centring_are_loaded():
    design = learn("food_expenditure ~ 0 + cr(income, df=5)", ENGEL).design
    saved = design.to_json() | {"formula": "food_expenditure ~ cr(income, df=5)", "shared": None}
    saved["main"] = json.loads(json.dumps(saved["main"]))
    saved["main"]["terms"].insert(0, [["1", "literal"]])
    loaded = Design.from_json(saved)
    assert loaded.main.intercept
    assert loaded.main.design(ENGEL).equals(design.main.design(ENGEL))


def test_mean_and_variance_by_splines_of_age_predict_new_rows():
    """GAGurine of R's MASS: at most 3.10 nats a row, and fewer than a constant variance has."""
    table = pd.read_csv(Path(__file__).parent / "data" / "gagurine.csv")
    held_out = np.arange(len(table)) % 5 == 2
    formulas = {"mean": "GAG ~ ns(Age, df=8)", "log_variance": "~ ns(Age, df=4)"}
    found = {
        name: -scores(mle(name, formula, table[~held_out]), table[held_out]).mean().item()
        for name, formula in (("heteroscedastic", formulas), ("gaussian", formulas["mean"]))
    }
    assert found["heteroscedastic"] < min(3.10, found["gaussian"])
