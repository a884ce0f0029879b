"""The first formulas that a newcomer writes, held against least squares on designs that are made by hand."""

import re

import numpy as np
import pandas as pd
import pytest

from neglog import mle, predict
from neglog.errors import DataError, ModelError, NeglogError
from neglog.formula import learn
from neglog.formula.signatures import FROM_R

N = 60
RANDOM = np.random.default_rng(0)
T = pd.DataFrame(
    {
        "y": RANDOM.normal(size=N) + np.arange(N) % 3,
        "x": RANDOM.normal(size=N),
        "z": RANDOM.uniform(1, 2, N),
        "g": np.array(list("abc"))[np.arange(N) % 3],
        "my col": RANDOM.normal(size=N),
        "flag": RANDOM.random(N) > 0.5,
        "count": RANDOM.poisson(3, N),
        "w": np.arange(N) % 4.0,
        "day": pd.date_range("2024-01-01", periods=N),
    }
)
T["cat"] = pd.Categorical(T["g"], ["c", "a", "b", "unused"])
T["ordered"] = pd.Categorical(T["g"], ["c", "a", "b"], ordered=True)
T["whole"] = T["count"].astype("Int64")
ONE, X, Z = np.ones(N), T["x"].to_numpy(), T["z"].to_numpy()
A, B, C = (1.0 * (T["g"] == level).to_numpy() for level in "abc")
F = T["flag"].to_numpy(float)
DOT = T[["y", "x", "z", "g"]]

DESIGNS = {
    "y ~ 1": [ONE],
    "y ~ x": [ONE, X],
    "y~x+z": [ONE, X, Z],
    "y ~ x + x": [ONE, X],
    "y ~ x - x": [ONE],
    "y ~ 0 + x": [X],
    "y ~ x - 1": [X],
    "y ~ -1 + x": [X],
    "y ~ g": [ONE, B, C],
    "y ~ C(g)": [ONE, B, C],
    "y ~ 0 + g": [A, B, C],
    "y ~ cat": [ONE, A, B],
    "y ~ C(cat)": [ONE, A, B],
    "y ~ C(g, contr.sum)": [ONE, A - C, B - C],
    "y ~ C(g, Sum)": [ONE, A - C, B - C],
    "y ~ C(g, Treatment(reference='b'))": [ONE, A, C],
    "y ~ C(g, Treatment('b'))": [ONE, A, C],
    "y ~ C(g, contr.treatment('b'))": [ONE, A, C],
    "y ~ C(g, Treatment)": [ONE, B, C],
    "y ~ C(g, levels=['c', 'a', 'b'])": [ONE, A, B],
    "y ~ g * x": [ONE, B, C, X, B * X, C * X],
    "y ~ x * g": [ONE, B, C, X, B * X, C * X],
    "y ~ x + g:x": [ONE, X, B * X, C * X],
    "y ~ g:x": [ONE, A * X, B * X, C * X],
    "y ~ x:z": [ONE, X * Z],
    "y ~ g/x": [ONE, B, C, A * X, B * X, C * X],
    "y ~ (x + z)**2": [ONE, X, Z, X * Z],
    "y ~ (x + z)^2 - z": [ONE, X, X * Z],
    "y ~ x^2": [ONE, X],
    "y ~ I(x**2) + x": [ONE, X, X**2],
    "y ~ I(x > 0)": [ONE, X > 0],
    "y ~ poly(x, 2)": [ONE, X, X**2],
    "y ~ poly(x, 2, raw=TRUE)": [ONE, X, X**2],
    "y ~ scale(x, scale=F)": [ONE, X],
    "y ~ np.log(z)": [ONE, np.log(Z)],
    "y ~ log(z) + np.sqrt(z)": [ONE, np.log(Z), np.sqrt(Z)],
    "y ~ scale(x) + center(z)": [ONE, X, Z],
    "y ~ `my col`": [ONE, T["my col"]],
    "y ~ Q('my col')": [ONE, T["my col"]],
    "y ~ flag": [ONE, F],
    "y ~ flag * x": [ONE, F, X, F * X],
    "y ~ 0 + flag": [1 - F, F],
    "y ~ 0 + flag + x": [1 - F, F, X],
    "y ~ x:flag": [ONE, (1 - F) * X, F * X],
    "y ~ flag:x": [ONE, (1 - F) * X, F * X],
    "y ~ 0 + flag:x": [(1 - F) * X, F * X],
    "y ~ flag:g": [cell * level for cell in (1 - F, F) for level in (A, B, C)],
    "y ~ flag / x": [ONE, F, (1 - F) * X, F * X],
    "y ~ x:I(x > 0)": [ONE, X * (X <= 0), X * (X > 0)],
    "y ~ 0 + {x > 0}": [X <= 0, X > 0],
    "y ~ I(flag * 1):x": [ONE, F * X],
    "y ~ x + I(x^2)": [ONE, X, X**2],
    "y ~ I(count^2)": [ONE, T["count"] ** 2],
    "y ~ I((x + z)^2) + log(z^0.5)": [ONE, (X + Z) ** 2, np.log(Z)],
    "y ~ I(z^-1)": [ONE, 1 / Z],
    "y ~ I(2^x) + I(x^2)": [ONE, 2**X, X**2],
    "y ~ {-x^2}": [ONE, -(X**2)],
    "y ~ {(x > 0) ^ flag}": [ONE, (X > 0) ^ T["flag"]],
    "y ~ g + x %in% g": [ONE, B, C, A * X, B * X, C * X],
    "y ~ x %in% g": [ONE, A * X, B * X, C * X],
    "y ~ (x + z) %in% g": [ONE, *(level * column for column in (X, Z) for level in (A, B, C))],
    "y ~ ordered": [ONE, A, B],
    "y ~ C(ordered, contr.poly)": [ONE, A - C, A - 2 * B + C],
    "y ~ whole": [ONE, T["count"]],
    "y ~ np.where(x > 0, x, 0)": [ONE, np.maximum(X, 0)],
    "y ~ bs(x, df=3)": [ONE, X, X**2, X**3],
    "y ~ ns(x, df=1)": [ONE, X],
    "y ~ x + offset(z)": [ONE, X],
}


def least_squares(columns, y, weights=None):
    """The negative log-likelihood of a Normal at its maximum."""
    w = np.ones(len(y)) if weights is None else weights
    design, root = np.stack([np.asarray(each, float) for each in columns], axis=1), np.sqrt(w)
    found = np.linalg.lstsq(root[:, None] * design, root * y, rcond=None)[0]
    variance = w @ (y - design @ found) ** 2 / w.sum()
    return w.sum() / 2 * (np.log(2 * np.pi * variance) + 1)


@pytest.mark.parametrize("formula", DESIGNS)
def test_first_formulas_are_least_squares_of_their_designs(formula):
    y = T["y"].to_numpy() - (Z if "offset" in formula else 0)
    assert mle("gaussian", formula, T).nll == pytest.approx(least_squares(DESIGNS[formula], y), abs=1e-8)


@pytest.mark.parametrize(
    ("table", "keywords", "rows"),
    [
        (T, {"weights": "w"}, T["w"]),  # a quarter of the rows has none
        (T, {"weights": T["w"].rename("any")}, T["w"]),
        (T.assign(y=T["y"].where(T["x"] > 0)), {"drop_missing": True}, X > 0),
        (T.set_axis([f"row {i}" for i in range(N)]), {"weights": T["w"].to_numpy()}, T["w"]),
        (T.set_axis([0] * N), {}, ONE),
        (T.rename(columns={"day": 3}), {}, ONE),
        (T[["y", "x", "z", "z"]], {}, ONE),
        (T.convert_dtypes(), {}, ONE),
        (T.convert_dtypes(dtype_backend="pyarrow"), {}, ONE),
    ],
)
def test_tables_as_they_come(table, keywords, rows):
    fit = mle("gaussian", "y ~ x", table, **keywords)
    expected = least_squares([ONE, X], T["y"].to_numpy(), np.asarray(rows, float))
    assert fit.nll == pytest.approx(expected, abs=1e-8)


def test_a_dot_is_the_other_columns_and_other_columns_are_ignored():
    fit = mle("gaussian", "y ~ .", DOT)
    assert fit.nll == pytest.approx(least_squares([ONE, X, Z, B, C], T["y"].to_numpy()), abs=1e-8)
    new = {"x": [0.5], "z": [1.5], "g": ["b"], "other": ["?"]}
    assert predict(fit, new).mean.shape == (1,)


REFUSED = [
    ("y ~ xx", T, {}, "no column `xx`.*Did you mean `x`"),
    ("Y ~ x", T, {}, "no column `Y`.*Did you mean `y`"),
    ("y ~ my col", T, {}, "Missing operator"),
    ("y ~", T, {}, "nothing after its ~.*`1`"),
    ("~ x", T, {}, "needs one response"),
    ("", T, {}, "needs one response"),
    ("y ~ y", T, {}, "the response `y` is on the right, too"),
    ("y ~ x + y", T, {}, "the response `y` is on the right, too"),
    ("y ~ x ~ z", T, {}, r"incorrectly used(.|\n)*\^"),
    ("y ~ x)", T, {}, r"cannot be read(.|\n)*\^"),
    ("y ~ (x", T, {}, r"cannot be read(.|\n)*\^"),
    ("y = x", T, {}, r"has =.*`y ~ x`(.|\n)*\^"),
    ("y ~ x | g", T, {}, r"no \|"),
    ("y ~ sqrt(z)", T, {}, "Write `np.sqrt`"),
    ("y ~ factor(g)", T, {}, r"Write `C\(g\)`"),
    ("y ~ s(x)", T, {}, r"Write a spline, such as `ns\(x, df=4\)`"),
    ("y ~ x.mean()", T, {}, "not a function of each row alone"),
    ("y ~ lag(x)", T, {}, "calls `lag`, which is not a function of each row alone"),
    ("y ~ x", T[:0], {}, "the table has no rows"),
    ("y ~ x", T[:1], {}, "fits every row exactly"),
    ("y ~ x", T[["y", "x", "x"]], {}, "several columns named `x`"),
    ("y ~ x", T.assign(x=T["x"].where(T["x"] > 0)), {}, "rows have a missing value, in `x`"),
    ("y ~ whole", T.assign(whole=T["whole"].where(T["x"] > 0)), {}, "missing value, in `whole`"),
    ("y ~ x", T, {"weights": "g"}, "`g` needs numbers: row 0 has 'a'"),
    ("y ~ x", T.assign(w=-1.0), {"weights": "w"}, "`weights` must be finite and not negative"),
    ("y ~ x", T.assign(w=0.0), {"weights": "w"}, "all `weights` are 0"),
    ("y ~ x", T.assign(w=np.nan), {"groups": "w"}, "groups is missing in row 0"),
    ("g ~ x", T, {}, "the response `g` holds text where numbers are needed"),
    ("y ~ x", "data.csv", {}, "`data` must be the table of the formula"),
]


@pytest.mark.parametrize(("formula", "table", "keywords", "facts"), REFUSED)
def test_first_mistakes_are_named(formula, table, keywords, facts):
    with pytest.raises(NeglogError, match=facts):
        mle("gaussian", formula, table, **keywords)


def test_mistakes_beside_the_formula_are_named():
    with pytest.raises(ModelError, match="is a formula, and the model comes first"):
        mle("y ~ x", T)
    with pytest.raises(DataError, match="`exposure` must be not negative"):
        mle("poisson", "count ~ x", T.assign(t=-1.0), exposure="t")
    fit = mle("gaussian", "y ~ x + g", T)
    with pytest.raises(DataError, match=r"missing value, in `x` \(1\).*table\.dropna\(subset=\['x'\]\)"):
        predict(fit, T[:2].assign(x=[1.0, np.nan]))
    with pytest.raises(DataError, match="holds text where numbers are needed: row 1 has 'b'"):
        predict(fit, T[:2].assign(x=["1", "b"]))
    with pytest.raises(DataError, match="the table has no rows"):
        predict(fit, T[:0])


@pytest.mark.parametrize(
    ("name", "column", "facts"),
    [
        ("day", ["2024-01-05"], "'2024-01-05'.*pandas.to_datetime"),
        ("day", ["5 Jan 2024"], "'5 Jan 2024'.*pandas.to_datetime"),
        ("C(count)", ["1"], r"numbers are needed: row 0 has '1'.*pandas.to_numeric\(table\['count'\]\)"),
        ("C(flag)", ["True"], r"True and False are needed: row 0 has 'True'.*table\['flag'\] == 'True'"),
        ("number", ["1"], "numbers are needed: row 0 has '1'"),
    ],
)
@pytest.mark.filterwarnings("ignore:column `day` holds dates")
def test_new_columns_of_another_type_are_named_with_what_converts_them(name, column, facts):
    fit = mle("gaussian", f"y ~ {name}", T.assign(number=pd.Categorical(np.arange(N) % 3)))
    with pytest.raises(DataError, match=facts):
        predict(fit, {name.strip("C()"): column})


@pytest.mark.parametrize(
    ("fitted", "new"),
    [
        (pd.Categorical([0, 1, 2]), [0, 1, 2]),
        (pd.Categorical([0, 1, 2]), [0.0, 1.0, 2.0]),
        ([0, 1, 2], pd.Categorical([0, 1, 2])),
        (["0", "1", "x"], [0.0, 1.0]),  # as pandas reads 0 and 1 beside a missing value
    ],
)
def test_categories_of_numbers_are_known_as_numbers_and_as_text(fitted, new):
    levels = pd.Series(fitted)
    table = T.assign(k=levels.loc[np.arange(N) % 3].to_numpy())
    table["k"] = table["k"].astype(levels.dtype)
    fit = mle("gaussian", "y ~ C(k)", table)
    expected = predict(fit, table[: len(new)]).mean
    assert predict(fit, pd.DataFrame({"k": new})).mean.equal(expected)


def test_rows_are_a_table_or_what_makes_one_is_named():
    fit = mle("gaussian", "y ~ x + g", T)
    rows = T[["x", "g"]].to_dict("records")
    assert predict(fit, rows).mean.equal(predict(fit, T).mean)
    assert mle("gaussian", "y ~ x", T[["y", "x"]].to_dict("records")).nll == mle("gaussian", "y ~ x", T).nll
    design = np.stack([X, B, C], axis=1)
    assert predict(fit, design).mean.numpy() == pytest.approx(predict(fit, T).mean.numpy())
    for wrong, fact in {
        "a row": (T.iloc[0], "iloc[[0]]"),
        "none": (None, "None"),
        "numbers": ([1.0, 2.0], "pandas.DataFrame(values, columns="),
        "a path": ("rows.csv", "pandas.read_csv(x)"),
    }.values():
        with pytest.raises(DataError, match="must be the table of the formula") as caught:
            predict(fit, wrong)
        assert fact in str(caught.value)


def test_truth_values_are_factors_with_the_levels_false_and_true():
    fit = mle("gaussian", "y ~ flag * x", T)
    assert fit.columns[""] == ("flag[T.True]", "x", "flag[T.True]:x")
    assert mle("gaussian", "y ~ 0 + I(x > 0)", T).columns[""] == ("I(x > 0)[False]", "I(x > 0)[True]")
    numbers = T.assign(flag=T["flag"].astype(int))  # as another program may write them
    for new in (T.head(9), numbers.head(9), T[T["flag"]], T[~T["flag"]]):
        expected = predict(fit, T).mean[list(new.index)]
        assert predict(fit, new).mean.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
    with pytest.raises(DataError, match=r"`flag` has levels that the fit has not seen: 2 \(row 0\)"):
        predict(fit, T.assign(flag=2))
    with pytest.raises(DataError, match=r"`flag` holds text where True and False are needed: row 0"):
        predict(fit, T.assign(flag="yes"))


def test_a_response_and_an_offset_of_truth_values_are_numbers():
    answer = mle("bernoulli", "flag ~ x", T)
    assert answer.nll == pytest.approx(mle("bernoulli", T[["x"]], T["flag"]).nll)
    assert mle("gaussian", "{x > 0} ~ z", T).nll == pytest.approx(
        least_squares([ONE, Z], 1.0 * (X > 0)), abs=1e-8
    )
    offset = mle("gaussian", "y ~ x + offset(flag)", T)
    assert offset.nll == pytest.approx(least_squares([ONE, X], T["y"] - F), abs=1e-8)


@pytest.mark.parametrize("formula", ["y ~ I(x^z)", "y ~ {count^count}"])
def test_a_caret_between_columns_of_numbers_is_refused(formula):
    with pytest.raises(DataError, match=r"Write \*\* for a power"):
        mle("gaussian", formula, T)


@pytest.mark.parametrize(
    ("term", "facts"),
    [
        ("cr(x, df=1)", "`cr` the df 1.*from 2 on"),
        ("cc(x, df=0)", "`cc` the df 0"),
        ("cs(x, df=3.5)", "`cs` the df 3.5"),
        ("cr(x)", r"needs `df`.*cr\(x, df=4\)"),
        ("bs(x, df=2)", "`bs` the df 2.*from 3 on"),
        ("bs(x, df='a')", "the df 'a'"),
        ("bs(x, df=4, degree=-1)", "the degree -1"),
        ("bs(x, knots=9)", r"knots=\[9\]"),
        ("bs(x, df=5, knots=[0.1])", "both `df` and `knots`"),
        ("poly(x, 0)", "`poly` the degree 0"),
        ("poly(x, 2.5)", "the degree 2.5"),
    ],
)
def test_arguments_that_give_no_basis_are_named(term, facts):
    with pytest.raises(DataError, match=facts):
        mle("gaussian", f"y ~ {term}", T)


def test_what_a_function_refuses_is_said_without_classes_of_python():
    with pytest.raises(DataError) as caught:
        mle("gaussian", "y ~ center(g)", T)
    assert "center(g)" in str(caught.value)
    assert "Error" not in str(caught.value)
    assert "random effects" in refused("y ~ x + (1 | g)")
    assert "Write `C(g)`" in refused("y ~ as.factor(g)")
    assert "`trials`" in refused("cbind(count, w) ~ x")


NO_EXPRESSIONS = {"upper", "trials", "binomial", "neglog.censored(model)", "y1 + y2", "s", "d", "p"}
"""What stands in backticks in `FROM_R`, and is no term of a formula of the table of the test."""


def test_what_replaces_the_functions_of_r_can_be_fitted():
    table = T.assign(d=Z, p=Z / 3, h=T["flag"].astype(str))
    written = dict.fromkeys(term for text in FROM_R.values() for term in re.findall("`(.*?)`", text))
    for term in set(written) - NO_EXPRESSIONS:
        learn(f"y ~ {term}", table)
    assert len(written) > len(NO_EXPRESSIONS) + 10


@pytest.mark.parametrize(
    ("term", "remedy"),
    [
        ("x > 0", "I(x > 0)"),
        ("z + x>-0.5", "I(x > -0.5)"),
        ("g == 'a'", "I(g == 'a')"),
        ("`my col` <= z", "I(`my col` <= z)"),
        ("x >= log(z)", "I(x >= log(z))"),
        ("flag && flag", "I(flag & flag)"),
        ("!flag", "I(~flag)"),
        ("(x + z) > 1", "I(x > z)"),
        ("x %/% z", "I(x // z)"),
        ("x %% 2", "I(x % z)"),
        ("x %*% z", "x:z"),
        ("splines::ns(x, 4)", "ns(x, df=4)"),
        ("T$x", "x"),
        ("ordered(g)", "C(g, contr.poly)"),
        ("as.numeric(flag)", "I(x * 1)"),
        ("C(g, base='b')", "C(g, Treatment('b'))"),
        ("C(g, sum)", "contr.sum"),
        ("log(z, 2)", "I(log(x) / log(2))"),
        ("np.round(x)", "np.rint(x)"),
        ("T['x']", "Q('its name')"),
        ("(1 | g)", "C(g)"),
        ("day.dt.month", "table['day.dt.month'] = table['day'].dt.month"),
        ("I(day.dt.month)", "table['month'] = table['d'].dt.month"),
    ],
)
def test_what_formulas_do_not_have_is_refused_with_what_they_have(term, remedy):
    message = refused(f"y ~ {term}")
    assert remedy in message
    assert "not a function of each row" not in message


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: mle("gaussian", T, "y ~ x"), r"`y` is the formula 'y ~ x'.*mle\(model, 'y ~ x', data\)"),
        (lambda: mle("gaussian", formula="y ~ x", data=T), "needs `x`. It is the place of the formula"),
    ],
)
def test_a_formula_in_another_place_is_named(call, facts):
    with pytest.raises(ModelError, match=facts):
        call()


def refused(formula):
    with pytest.raises(DataError) as caught:
        mle("gaussian", formula, T)
    return str(caught.value)
