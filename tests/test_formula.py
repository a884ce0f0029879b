"""Formulas: formulaic's designs, without the intercept, that survive JSON and refuse what they cannot do."""

import json
from pathlib import Path

import formulaic
import numpy as np
import pandas as pd
import pytest

from neglog.errors import DataError, ModelError
from neglog.formula import Design, Learned, learn
from neglog.formula.expressions import columns_used
from neglog.formula.tagged import from_json, to_json
from neglog.tables import read_table

DATA = Path(__file__).parent / "data"
N = 40


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": generator.normal(size=N),
            "x": generator.normal(size=N) ** 2,
            "my col": generator.normal(size=N),
            "group": generator.choice(list("abc"), N),
            "cyl": generator.choice([4, 6, 8], N),
            "flag": generator.random(N) > 0.5,
        }
    )


RIGHT_SIDES = [
    "1",
    "0",
    "x",
    "x - 1",
    "C(group)",
    "0 + group",
    "x * group",
    "group - 1 + x:group",
    "(x + flag + group) ** 2",
    "np.log(`my col` ** 2) + flag + Q('my col')",
    "C(cyl) + poly(x, 3)",
    "scale(np.log(x)) + center(`my col`) + standardize(x)",
    "0 + bs(x, df=5) + cr(`my col`, df=4) + cc(x, df=4)",
    "bs(x, df=4):C(group)",
    "C(group, contr.treatment(base='b'))",
    "C(group, contr.sum) + C(cyl, contr.poly)",
    "C(group, contr.helmert) + C(cyl, Sum)",
    "C(group, contr.custom({'d': [1, 0, -1]}))",
    "C(group, levels=['c', 'b', 'a'])",
    "C(np.floor(x))",
    "hashed(group, levels=4)",
    "I(x ** 2) + {x + 1} + 2:x",
    "np.where(x > 1, x, 0)",
]


def through_json(design: Design) -> Design:
    return Design.from_json(json.loads(json.dumps(design.to_json(), allow_nan=False)))


@pytest.mark.parametrize("right", RIGHT_SIDES)
def test_the_design_is_formulaics_without_the_intercept(table: pd.DataFrame, right: str) -> None:
    learned = learn(f"y ~ {right}", table)
    factors = table.assign(flag=table["flag"].astype("category"))  # formulaic has truth values as numbers
    expected = formulaic.model_matrix(right, factors).drop(columns="Intercept", errors="ignore")
    found = learned.design.main.design(learned.table)
    assert list(found) == list(expected)
    assert np.array_equal(found.to_numpy(), expected.to_numpy(dtype=float))
    assert (found.dtypes == "float64").all()


@pytest.mark.parametrize("right", RIGHT_SIDES)
def test_json_keeps_the_design_exactly_on_any_rows(table: pd.DataFrame, right: str) -> None:
    learned = learn(f"y ~ {right}", table)
    again = through_json(learned.design)
    assert again.to_json() == learned.design.to_json()
    whole = learned.design.main.design(table)
    for rows in (table, table.iloc[:3], table.iloc[[7]]):  # one row has neither the levels nor the range
        pd.testing.assert_frame_equal(again.main.design(rows), whole.loc[rows.index], check_exact=True)


def test_applying_a_design_learns_nothing(table: pd.DataFrame) -> None:
    design = learn("y ~ scale(x) + C(group) + bs(x, df=5, extrapolation='clip')", table).design
    before = json.dumps(design.to_json())
    design.main.design(table.iloc[:5].assign(x=[-9.0, 0.0, 9.0, 99.0, 999.0]))
    assert json.dumps(design.to_json()) == before


def test_json_holds_no_rows_of_the_data(table: pd.DataFrame) -> None:
    short, long = (
        learn("y ~ scale(x) + C(group) + bs(x, df=5)", rows) for rows in (table, pd.concat([table] * 50))
    )
    sizes = [len(json.dumps(learned.design.to_json())) for learned in (short, long)]
    assert abs(sizes[0] - sizes[1]) < 100  # digits of the same numbers


def test_a_dot_is_every_other_column_and_stays_so(table: pd.DataFrame) -> None:
    learned = learn("y ~ .", table.assign(w=1.0), keep=["w"])
    assert learned.design.main.variables == ("x", "my col", "group", "cyl", "flag")
    assert list(learned.table) == ["y", "x", "my col", "group", "cyl", "flag", "w"]
    more = table.assign(new=0.0)
    assert list(through_json(learned.design).main.design(more)) == list(learned.design.main.columns)


def test_the_response_may_be_transformed_or_several(table: pd.DataFrame) -> None:
    logarithm = learn("log(x) ~ flag", table)
    assert np.array_equal(logarithm.design.y(table), np.log(table["x"]))
    both = learn("y + x ~ flag", table).design.y(table)
    assert list(both) == ["y", "x"]
    two_classes = learn("{group == 'a'} ~ x", table).design.y(table)
    assert np.array_equal(two_classes, table["group"] == "a")


def test_names_with_dots_and_spaces(table: pd.DataFrame) -> None:
    air = read_table(DATA / "airquality.csv")
    learned = learn("Ozone ~ Solar.R + log(`Solar.R`)", air, drop_missing=True)
    assert list(learned.design.main.columns) == ["Solar.R", "log(`Solar.R`)"]
    assert (learned.dropped, len(learned.table)) == (42, 111)
    assert learn("`my col` ~ x", table).design.y(table).name == "my col"


# Predictors


def test_one_design_serves_every_predictor_as_a_plain_frame(table: pd.DataFrame) -> None:
    design = learn("y ~ x + C(group)", table).design
    frame = design.x(table, ("mean", "log_variance"))
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == ["x", "C(group)[T.b]", "C(group)[T.c]"]
    assert design.without_bias(("mean", "log_variance")) == ()


def test_companions_give_predictors_their_own_designs(table: pd.DataFrame) -> None:
    design = learn("y ~ x", table, also=["log_variance ~ C(group)"]).design
    designs = design.x(table, ("mean", "log_variance"))
    assert {name: list(frame) for name, frame in designs.items()} == {
        "mean": ["x"],
        "log_variance": ["C(group)[T.b]", "C(group)[T.c]"],
    }
    assert {
        name: list(frame) for name, frame in through_json(design).x(table, ("mean", "log_variance")).items()
    } == {
        "mean": ["x"],
        "log_variance": ["C(group)[T.b]", "C(group)[T.c]"],
    }


def test_without_an_intercept_the_bias_is_to_be_held_at_zero(table: pd.DataFrame) -> None:
    design = learn("y ~ 0 + C(group)", table, also=["sigma ~ x - 1"]).design
    for known in (design, through_json(design)):
        assert not known.main.intercept
        assert known.without_bias(("mean",), ("sigma",)) == ("mean.bias", "log_sigma.bias")
        assert list(known.x(table, ("mean",), ("sigma",))["mean"]) == [
            "C(group)[a]",
            "C(group)[b]",
            "C(group)[c]",
        ]


def test_a_location_without_intercept_leaves_the_others_theirs(table: pd.DataFrame) -> None:
    for design in (learn("y ~ 0 + group", table).design, through_json(learn("y ~ 0 + group", table).design)):
        designs = design.x(table, ("mean", "log_variance"))
        assert list(designs["mean"]) == ["group[a]", "group[b]", "group[c]"]
        assert list(designs["log_variance"]) == ["group[T.b]", "group[T.c]"]
        assert design.without_bias(("mean", "log_variance")) == ("mean.bias",)


def test_an_unknown_predictor_is_refused_with_those_there_are(table: pd.DataFrame) -> None:
    design = learn("y ~ x", table, also=["log_varianc ~ x"]).design
    with pytest.raises(ModelError, match="no predictor `log_varianc`; besides `mean` it has `log_variance`"):
        design.x(table, ("mean", "log_variance"))
    design = learn("y ~ x", table, also=["mean ~ x"]).design
    with pytest.raises(ModelError, match=r"`mean` .*`y ~ x`"):
        design.x(table, ("mean",), ("sigma",))


# New tables


def test_new_levels_are_named(table: pd.DataFrame) -> None:
    new = table.assign(group=["z", *table["group"][1:-1], "q"])
    for right in ("group", "C(group)", "x:C(group, contr.sum)", "C(group, levels=['c', 'b', 'a'])"):
        design = learn(f"y ~ {right}", table).design
        with pytest.raises(
            DataError, match=r"column `group` has levels that the fit has not seen: 'z', 'q' \(row 0\)"
        ):
            design.main.design(new)
    with pytest.raises(DataError, match=r"not seen: 5 \(row 1\)\. It knows 4, 6, 8"):
        learn("y ~ C(cyl)", table).design.main.design(table.assign(cyl=[4, 5] + [6] * (N - 2)))
    with pytest.raises(DataError, match=r"not among the levels of `C\(np\.floor\(x\)\)`"):
        learn("y ~ C(np.floor(x))", table).design.main.design(table.assign(x=100.0))


def test_levels_that_leave_out_a_value_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"not among the levels of `C\(group, levels=\['a', 'b'\]\)`"):
        learn("y ~ C(group, levels=['a', 'b'])", table)


def test_new_tables_must_have_the_columns_and_their_kinds(table: pd.DataFrame) -> None:
    design = learn("y ~ x + group", table).design
    with pytest.raises(DataError, match=r"no column `x`; its columns are `y`, `X`, .*Did you mean `X`"):
        design.main.design(table.rename(columns={"x": "X"}))
    with pytest.raises(DataError, match=r"column `x` .*row 0 has 'n/a'"):
        design.main.design(table.assign(x="n/a"))
    with pytest.raises(DataError, match="not seen: '1'"):
        design.main.design(table.assign(group=1))


def test_codes_that_look_like_numbers_are_still_text() -> None:
    codes = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0], "code": ["1", "2", "x", "z"]})
    design = learn("y ~ C(code)", codes).design
    assert design.main.design(pd.DataFrame({"code": [2, 1]})).to_numpy().tolist() == [[1, 0, 0], [0, 0, 0]]


def test_the_range_of_a_spline_is_kept(table: pd.DataFrame) -> None:
    design = learn("y ~ bs(x, df=4)", table).design
    with pytest.raises(DataError, match=r"is known from .* the range of the fit, and row"):
        design.main.design(table.assign(x=1e6))


def test_rows_of_a_new_table_need_no_response(table: pd.DataFrame) -> None:
    design = learn("y ~ x", table, also=["log_variance ~ cyl"]).design
    new = pd.DataFrame({"x": [1.0, np.nan, 3.0], "cyl": [4, 6, 8], "y": np.nan})
    with pytest.raises(DataError, match=r"1 of 3 rows have a missing value, in `x` \(1\)"):
        design.rows(new)
    rows, dropped = design.rows(new, drop_missing=True)
    assert (rows.index.tolist(), list(rows), dropped) == ([0, 2], ["x", "cyl"], 1)


# What is refused


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y", "needs one response, one ~ and no |"),
        ("~ x", "needs one response"),
        ("y ~ x | cyl", "needs one response, one ~ and no |"),
        ("1 ~ x", r"has no response\. Write it as `y ~ x`"),
        ("y ~ x +", r"cannot be read: Operator `\+` has insuffi"),
        ("y ~ log(x", "cannot be read: Formula ended"),
        ("y ~ X", r"no column `X`; .* Did you mean `x`\?"),
        (
            "group ~ x",
            r"the response `group` holds text where numbers are needed: row 0 has 'c'\. .*`\{group == 'c'\}`",
        ),
        ("C(group) ~ x", "the response `group` holds text"),
        ("y ~ np.log(group)", "the formula cannot be evaluated"),
        ("y ~ log(`my col`)", r"`log\(`my col`\)` is nan in row \d+ and needs to be finite"),
        ("y ~ log(x - x)", "is -inf in row 0 and needs to be finite"),
        ("y ~ sqrt(x)", r"calls `sqrt`, which formulas do not have\. Write `np\.sqrt`"),
        ("y ~ frobnicate(x)", "calls `frobnicate`, which formulas do not have. They have bs"),
        ("y ~ lag(x)", "calls `lag`"),
        ("y ~ {x / x.max()}", r"uses `\.max`, which is not a function of each row alone"),
        ("y ~ {x - np.mean(x)}", r"uses `\.mean`, which is not a function of each row alone"),
        ("y ~ np.matmul(x, x)", r"uses `np\.matmul`"),
        ("y ~ np.add.reduce(x)", r"uses `\.reduce`"),
        ("y ~ log(Solar.R)", "A column with a dot in its name goes in backticks"),
        ("y ~ {[a for a in x]}", r"holds more than a formula may \(ListComp\)"),
        ("y ~ {x[0]}", r"in brackets.*Q\("),
        ("y ~ {(x)(x)}", r"\(x\)"),
    ],
)
def test_a_formula_that_cannot_be_used(table: pd.DataFrame, formula: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        learn(formula, table)


def test_a_column_that_hides_a_function_is_refused(table: pd.DataFrame) -> None:
    named = table.rename(columns={"x": "log"})
    with pytest.raises(DataError, match="`log` is both a column and a function"):
        learn("y ~ log + log(cyl)", named)
    assert list(learn("y ~ log", named).design.main.columns) == ["log"]
    assert list(learn("y ~ log(cyl)", named).design.main.columns) == ["log(cyl)"]


@pytest.mark.parametrize(
    ("also", "message"),
    [
        (["log(z) ~ x"], "must name one predictor before its ~"),
        (["a + b ~ x"], "must name one predictor"),
        (["sigma ~ x", "sigma ~ cyl"], "the predictor `sigma` has two formulas"),
        (["sigma ~ nowhere"], "no column `nowhere`"),
    ],
)
def test_a_companion_that_cannot_be_used(table: pd.DataFrame, also: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        learn("y ~ x", table, also=also)


def test_one_bad_number_does_not_make_a_column_categorical() -> None:
    table = pd.DataFrame({"y": [1.0, 2.0, 3.0], "x": ["1.5", "2,5", "3.5"]})
    with pytest.raises(DataError, match=r"column `x` .*row 1 has '2,5'.*C\(x\)"):
        learn("y ~ x", table)
    assert len(learn("y ~ C(x)", table).design.main.columns) == 2


# Saved state


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.1,
        float("inf"),
        "text",
        (1, "a", (2.5,)),
        [1, [None]],
        {0: 1.5, "a": {"b": []}, (1, 2): 3},
        np.float64(0.1),
        np.float32(0.1),
        np.int64(7),
        np.bool_(True),
        np.str_("a"),
        np.array(0.1),
        np.array([[1.0, np.nan], [np.inf, 1e-300]]),
        np.array(["a", "bc"]),
        np.array([1, 2], dtype="int32"),
    ],
)
def test_tagged_values_come_back_with_their_kind(value: object) -> None:
    again = from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))
    assert type(again) is type(value)
    np.testing.assert_equal(again, value)
    if isinstance(value, np.ndarray | np.generic):
        assert again.dtype == value.dtype  # type: ignore[attr-defined]


def test_what_needs_pickle_is_refused() -> None:
    with pytest.raises(DataError, match=r"a datetime\.timedelta in the formula's state cannot be saved"):
        to_json({"a": pd.Timedelta(1).to_pytimedelta()})


@pytest.mark.parametrize("damaged", [[1], {"what": 1}, {"array": [1], "dtype": "nonsense"}, {"dict": [1]}])
def test_damaged_tags_are_refused(damaged: object) -> None:
    with pytest.raises(DataError, match=r"saved state"):
        from_json(damaged)


@pytest.fixture
def learned(table: pd.DataFrame) -> Learned:
    return learn("y ~ x", table)


@pytest.mark.parametrize("key", ["formula", "main", "response", "others", "shared"])
def test_a_damaged_design_is_refused(learned: Learned, key: str) -> None:
    saved = learned.design.to_json()
    del saved[key]
    with pytest.raises(DataError, match="the saved formula is damaged"):
        Design.from_json(saved)


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').system('true')", "().__class__", "open('/etc/passwd')", "np.load('x')", "eval('1')"],
)
def test_a_saved_formula_cannot_run_code(learned: Learned, expression: str) -> None:
    saved = learned.design.to_json()
    saved["main"]["terms"] = [[[expression, "python"]]]
    with pytest.raises(DataError):
        Design.from_json(saved)


def test_columns_are_found_in_their_order() -> None:
    assert columns_used("np.log(`a b`) + C * c", "python") == ("a b", "C", "c")
    assert columns_used("C(g, contr.treatment(base='x'))", "python") == ("g",)
    assert columns_used("C(g, Sum)", "python") == ("g",)
    assert columns_used("Q('a b') + Q(\"c\")", "python") == ("a b", "c")
    assert columns_used("2", "literal") == ()
    assert columns_used("any thing", "lookup") == ("any thing",)


@pytest.mark.parametrize("right", ["x + 0*z", "x + z*0", "x + 0:z", "x + 0*9**9**9", "x + z**0"])
def test_products_with_0_are_refused(table: pd.DataFrame, right: str) -> None:
    """formulaic reads `0*z` as the removal of the intercept and of z."""
    with pytest.raises(DataError, match="intercept"):
        learn(f"y ~ {right}", table)
