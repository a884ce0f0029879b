"""Rows of test_advice.py: messages of formulas and tables in the place of arrays."""

import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
from remedies import Row, row

from neglog import censored, class_probabilities, compare, covariance, mle, models, predict, scores
from neglog.errors import DataError, ModelError

N = 20
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "y": RNG.normal(size=N),
        "x": RNG.normal(size=N),
        "t": RNG.uniform(1, 2, N),
        "g": list("abcd" * (N // 4)),
    }
)
CLASSES = TABLE.assign(y=["no", "yes"] * (N // 2), many=list("abc" * 6 + "ab"))
GAPS = TABLE.assign(g=TABLE["g"].where(TABLE.index > 0))
DATED = TABLE.assign(d=pd.date_range("2024-01-01", periods=N, freq="11D"))
HALVES = np.array([0.5, 1.5] * (N // 2))
SUCCESSES = TABLE.assign(s=RNG.integers(0, 4, N), f=RNG.integers(1, 4, N))
TRUTHS = TABLE.assign(b=TABLE["x"] > 0)
CENSORED = censored("weibull")


class LazyFrame:
    """A frame of polars whose rows are not computed yet."""

    def collect(self):
        """The table."""
        return TABLE


def written(folder):
    TABLE.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def lazily(data):
    """A fit to a table, where polars has been imported."""
    polars = SimpleNamespace(LazyFrame=LazyFrame, DataFrame=mock.Mock, Series=mock.Mock)
    with mock.patch.dict(sys.modules, {"polars": polars}):
        return mle("gaussian", "y ~ x", data)


def fitted(x="y ~ x", y=TABLE, model="gaussian", **keywords):
    return lambda _: mle(model, x, y, **keywords)


ROWS: dict[str, Row] = {
    "a caret between columns": row(
        DataError,
        "`I(x ^ t)`",
        "I(x ** z)",
        provoke=fitted("y ~ I(x ^ t)"),
        follow=fitted("y ~ I(t ** x)"),
    ),
    "a df without a basis": row(
        DataError,
        "`cr` the df 1",
        "df=3",
        provoke=fitted("y ~ cr(x, df=1)"),
        follow=fitted("y ~ cr(x, df=3)"),
    ),
    "one knot that is no list": row(
        DataError,
        "the knot 0.1",
        "knots=[0.1]",
        provoke=fitted("y ~ bs(x, knots=0.1)"),
        follow=fitted("y ~ bs(x, knots=[0.1])"),
    ),
    "a df and knots": row(
        DataError,
        "`df` and `knots`",
        provoke=fitted("y ~ bs(x, df=5, knots=[0.1])"),
        follow=fitted("y ~ bs(x, df=5)"),
    ),
    "a cubic spline without df": row(
        DataError, "`df`", "cr(x, df=4)", provoke=fitted("y ~ cr(x)"), follow=fitted("y ~ cr(x, df=4)")
    ),
    "a product with 0": row(
        DataError,
        "`0 * x`",
        "intercept",
        provoke=lambda _: mle("gaussian", "y ~ t + 0*x", TABLE),
        follow=lambda _: mle("gaussian", "y ~ t", TABLE),
    ),
    "a product with 0 in brackets": row(
        DataError,
        "(0)",
        "product",
        "intercept",
        provoke=lambda _: mle("gaussian", "y ~ t + (0)*x", TABLE),
        follow=lambda _: mle("gaussian", "y ~ t", TABLE),
    ),
    "a product with a bracket that is empty": row(
        DataError,
        "(0)",
        "product",
        provoke=lambda _: mle("gaussian", "y ~ x:((1 - 1))", TABLE),
        follow=lambda _: mle("gaussian", "y ~ x:(t - 1)", TABLE),
    ),
    "signs in a row": row(
        DataError,
        "100 signs",
        provoke=lambda _: mle("gaussian", "y ~ " + "-" * 20_000 + "x", TABLE),
        follow=lambda _: mle("gaussian", "y ~ x", TABLE),
    ),
    "an offset that is text": row(
        DataError,
        "the offset `g`",
        "'a'",
        provoke=fitted("y ~ x + offset(g)"),
        follow=fitted("y ~ x + offset(t)"),
    ),
    "a spline beyond its range": row(
        DataError,
        "`bs(x, df=4)`",
        "row 0 has 100",
        provoke=lambda _: predict(mle("gaussian", "y ~ bs(x, df=4)", TABLE), {"x": [100.0]}),
        follow=lambda _: (
            predict(mle("gaussian", "y ~ bs(x, df=4, extrapolation='extend')", TABLE), {"x": [100.0]}).mean
        ),
    ),
    "a column without a table": row(
        DataError,
        "`weights` names the column 't'",
        provoke=fitted(TABLE[["x"]], TABLE["y"], weights="t"),
        follow=fitted(weights="t"),
    ),
    "a label that is not known": row(
        DataError,
        "`y` has a label",
        "'maybe' (row 1)",
        "'no', 'yes'",
        provoke=lambda _: scores(mle("bernoulli", "y ~ x", CLASSES), CLASSES.assign(y=["no", "maybe"] * 10)),
        follow=lambda _: scores(mle("bernoulli", "y ~ x", CLASSES), CLASSES),
    ),
    "three classes where two are": row(
        DataError,
        "`bernoulli`",
        "'a', 'b', 'c'",
        provoke=fitted("many ~ x", CLASSES, "bernoulli"),
        follow=fitted("many ~ x", CLASSES, "categorical"),
    ),
    "labels of several kinds": row(
        DataError,
        "int, str",
        provoke=fitted(TABLE[["x"]], pd.Series(["a", 1] * 10, dtype=object), "bernoulli"),
        follow=fitted(TABLE[["x"]], pd.Series(["a", "1"] * 10, dtype=object), "bernoulli"),
    ),
    "formulas without a response": row(
        DataError,
        "'mean'",
        provoke=fitted({"mean": "~ x", "sigma": "~ x"}),
        follow=fitted({"mean": "y ~ x", "sigma": "~ x"}),
    ),
    "a parameter on the left": row(
        DataError,
        "'sigma'",
        "'~ x'",
        provoke=fitted({"mean": "y ~ x", "sigma": "sigma ~ x"}),
        follow=fitted({"mean": "y ~ x", "sigma": "~ x"}),
    ),
    "a list of formulas": row(
        ModelError,
        "{'mean': 'y ~ x', 'sigma': '~ z'}",
        provoke=fitted(["y ~ x", "sigma ~ x"]),
        follow=fitted({"mean": "y ~ x", "sigma": "~ x"}),
    ),
    "categories as a response of numbers": row(
        DataError,
        "`C(t)`",
        "`t ~ ...`",
        provoke=fitted("C(t) ~ x"),
        follow=fitted("t ~ x"),
    ),
    "classes that are no whole numbers": row(
        DataError,
        "row 0 has y = 0.5",
        "y.astype(str)",
        provoke=fitted(TABLE[["x"]], HALVES, "categorical"),
        follow=fitted(TABLE[["x"]], HALVES.astype(str), "categorical"),
    ),
    "successes and failures": row(
        ModelError,
        "n = s + f",
        provoke=fitted("cbind(s, f) ~ x", SUCCESSES, "binomial"),
        follow=fitted("s ~ x", SUCCESSES.assign(n=SUCCESSES["s"] + SUCCESSES["f"]), "binomial", trials="n"),
    ),
    "formulas of two responses": row(
        DataError,
        "'y', 't'",
        provoke=fitted({"mean": "y ~ x", "sigma": "t ~ x"}),
        follow=fitted({"mean": "y ~ x", "sigma": "y ~ x"}),
    ),
    "a formula without a tilde": row(
        DataError,
        "'sigma'",
        "'~ x'",
        provoke=fitted({"mean": "y ~ x", "sigma": "x"}),
        follow=fitted({"mean": "y ~ x", "sigma": "~ x"}),
    ),
    "numbers as text": row(
        DataError,
        "`x`",
        "pandas.to_numeric(table['x'])",
        provoke=lambda _: predict(mle("gaussian", "y ~ x", TABLE), TABLE.astype({"x": str})),
        follow=lambda _: predict(
            mle("gaussian", "y ~ x", TABLE), TABLE.assign(x=pd.to_numeric(TABLE["x"].astype(str)))
        ),
    ),
    "truth values as text": row(
        DataError,
        "`b`",
        "table['b'] == 'True'",
        provoke=lambda _: predict(mle("gaussian", "y ~ b", TRUTHS), TRUTHS.astype({"b": str})),
        follow=lambda _: predict(
            mle("gaussian", "y ~ b", TRUTHS), TRUTHS.assign(b=TRUTHS["b"].astype(str) == "True")
        ),
    ),
    "dates as text in new rows": row(
        DataError,
        "`d`",
        "pandas.to_datetime",
        provoke=lambda _: predict(mle("gaussian", "y ~ d", DATED), DATED.astype({"d": str})),
        follow=lambda _: predict(
            mle("gaussian", "y ~ d", DATED), DATED.assign(d=pd.to_datetime(DATED["d"].astype(str)))
        ),
    ),
    "a row as a series": row(
        DataError,
        "`x`",
        "frame.iloc[[0]]",
        provoke=lambda _: predict(mle("gaussian", "y ~ x", TABLE), TABLE.iloc[0]),
        follow=lambda _: predict(mle("gaussian", "y ~ x", TABLE), TABLE.iloc[[0]]),
    ),
    "no rows": row(
        DataError,
        "`x`",
        "None",
        provoke=lambda _: predict(mle("gaussian", "y ~ x", TABLE), None),
        follow=lambda _: predict(mle("gaussian", "y ~ x", TABLE), TABLE),
    ),
    "numbers without names": row(
        DataError,
        "`x`",
        "pandas.DataFrame(values, columns=",
        provoke=lambda _: predict(mle("gaussian", "y ~ x", TABLE), [1.0, 2.0]),
        follow=lambda _: predict(
            mle("gaussian", "y ~ x", TABLE), pd.DataFrame([[1.0], [2.0]], columns=["x"])
        ),
    ),
    "a path in the place of a table": row(
        DataError,
        "`data`",
        "pandas.read_csv(data)",
        provoke=fitted(y="t.csv"),
        follow=lambda folder: mle("gaussian", "y ~ x", pd.read_csv(written(folder))),
    ),
    "a lazy frame": row(
        DataError,
        "`data`",
        provoke=lambda _: lazily(LazyFrame()),
        follow=lambda _: lazily(LazyFrame().collect()),
    ),
    "columns of several lengths": row(
        DataError,
        "`data`",
        provoke=fitted(y={"y": [1.0, 2.0, 3.0], "x": [1.0, 2.0]}),
        follow=fitted(y={"y": [1.0, 2.0, 4.0], "x": [1.0, 2.0, 2.5]}),
    ),
    "arrays without a response": row(
        ModelError, "`mle` needs `y`", provoke=fitted(TABLE[["x"]], None), follow=fitted()
    ),
    "a table that is given twice": row(
        ModelError, "`data`", "`y`", provoke=fitted(data=TABLE), follow=fitted(y=None, data=TABLE)
    ),
    "groups that are missing": row(
        DataError,
        "`g`",
        "row 0",
        provoke=fitted(y=GAPS, groups="g"),
        follow=fitted(y=GAPS.drop(index=0), groups="g"),
    ),
    "an offset beside that of the formula": row(
        DataError,
        "`offset`",
        provoke=lambda _: predict(mle("gaussian", "y ~ x + offset(t)", TABLE, offset=TABLE["x"]), TABLE),
        follow=lambda _: predict(
            mle("gaussian", "y ~ x + offset(t)", TABLE, offset=TABLE["t"]), TABLE, offset=TABLE["t"]
        ),
    ),
    "companions beside a mapping": row(
        DataError,
        "`also`",
        provoke=lambda _: compare(["gaussian"], {"mean": "y ~ x"}, TABLE, also=["sigma ~ x"], folds=2),
        follow=lambda _: compare(["gaussian"], {"mean": "y ~ x", "sigma": "~ x"}, TABLE, folds=2),
    ),
    "clusters without groups": row(
        DataError,
        "`groups`",
        provoke=lambda _: covariance(mle("gaussian", "y ~ x", TABLE), "cluster"),
        follow=lambda _: covariance(mle("gaussian", "y ~ x", TABLE, groups="g"), "cluster"),
    ),
    "probabilities of what is no class": row(
        ModelError,
        "`gaussian`",
        provoke=lambda _: class_probabilities(mle("gaussian", "y ~ x", TABLE), TABLE),
        follow=lambda _: predict(mle("gaussian", "y ~ x", TABLE), TABLE),
    ),
    "nothing after the tilde": row(DataError, "`1`", provoke=fitted("y ~"), follow=fitted("y ~ 1")),
    "a response on both sides": row(DataError, "`y`", provoke=fitted("y ~ x + y"), follow=fitted("y ~ x")),
    "functions of R": row(DataError, "C(g)", provoke=fitted("y ~ factor(g)"), follow=fitted("y ~ C(g)")),
    "survival times of R": row(
        DataError,
        "Surv",
        "`upper`",
        provoke=fitted("Surv(t, x) ~ 1", TABLE, "weibull"),
        follow=fitted("t ~ x", TABLE.assign(u=TABLE["t"].where(TABLE["x"] > 1, np.inf)), CENSORED, upper="u"),
    ),
    "random effects of R": row(
        DataError, "C(g)", "groups='g'", provoke=fitted("y ~ (1 | g)"), follow=fitted("y ~ C(g)", groups="g")
    ),
    "contrasts that there are not": row(
        DataError, "`sum`", "contr.sum", provoke=fitted("y ~ C(g, sum)"), follow=fitted("y ~ C(g, contr.sum)")
    ),
    "a reference as in R": row(
        DataError,
        "`base`",
        "Treatment('b')",
        provoke=fitted("y ~ C(g, base='b')"),
        follow=fitted("y ~ C(g, Treatment('b'))"),
    ),
    "a base of a logarithm": row(
        DataError,
        "log(x) / log(2)",
        provoke=fitted("y ~ log(t, 2)"),
        follow=fitted("y ~ I(log(t) / log(2))"),
    ),
    "a comparison between terms": row(
        DataError, "I(x > 1)", provoke=fitted("y ~ x > 1"), follow=fitted("y ~ I(x > 1)")
    ),
    "a function of all of numpy": row(
        DataError, "np.rint(x)", provoke=fitted("y ~ np.round(x)"), follow=fitted("y ~ np.rint(x)")
    ),
    "an attribute of a column": row(
        DataError,
        "`.month`",
        "table['month'] = table['d'].dt.month",
        provoke=fitted("y ~ I(d.dt.month)", DATED),
        follow=fitted("y ~ month", DATED.assign(month=DATED["d"].dt.month)),
    ),
    "an attribute in the place of a column": row(
        DataError,
        "table['d.dt.month'] = table['d'].dt.month",
        provoke=fitted("y ~ d.dt.month", DATED),
        follow=fitted("y ~ d.dt.month", DATED.assign(**{"d.dt.month": DATED["d"].dt.month})),
    ),
    "a column in brackets": row(
        DataError, "Q('its name')", provoke=fitted("y ~ T['x']"), follow=fitted("y ~ Q('x')")
    ),
    "a formula as the model": row(
        ModelError,
        "mle('gaussian', 'y ~ x', data)",
        provoke=lambda _: mle("y ~ x", TABLE),
        follow=fitted("y ~ x"),
    ),
    "labels beside numbers": row(
        DataError,
        "'bernoulli'",
        provoke=lambda _: compare(["gaussian"], "y ~ x", CLASSES, folds=2),
        follow=lambda _: compare(["bernoulli"], "y ~ x", CLASSES, folds=2),
    ),
    "densities of labels": row(
        DataError,
        "`response`",
        provoke=lambda _: compare(models, "y ~ x", CLASSES, response="continuous", folds=2),
        follow=lambda _: compare(models, "y ~ x", CLASSES, folds=2),
    ),
}
