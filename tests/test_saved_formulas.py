"""Formulas from files: nothing in them runs, hangs or fills the memory; the harmless keep their numbers."""

import copy
import json
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from neglog import export, mle, models
from neglog.cli.commands import app
from neglog.errors import DataError
from neglog.export.documents import encoded, parsed, verified
from neglog.formula import Design, learn
from neglog.formula.language import read_formula
from neglog.formula.tagged import from_json

N = 80
SECONDS = 2.0
"""CPU time within which a formula is refused: less than a second, and as much again for a busy machine."""


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": generator.normal(size=N),
            "x": np.exp(generator.normal(size=N)),
            "a": generator.normal(size=N),
            "b": generator.normal(size=N),
            "my col": np.exp(generator.normal(size=N)),
            "group": generator.choice(list("abc"), N),
            "cyl": generator.choice([4, 6, 8], N),
            "flag": generator.random(N) > 0.5,
        }
    )


@contextmanager
def at_once() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


SAVED: dict[str, str] = {}


def saved(table: pd.DataFrame, formula: str = "y ~ x") -> dict[str, Any]:
    """A saved design as a file holds it."""
    if formula not in SAVED:
        SAVED[formula] = json.dumps(learn(formula, table).design.to_json())
    design: dict[str, Any] = json.loads(SAVED[formula])
    return design


def with_term(table: pd.DataFrame, text: str, how: str = "python") -> dict[str, Any]:
    design = saved(table)
    design["main"]["terms"].append([[text, how]])
    return design


# Code

RUN = "__import__('os').system('touch SENTINEL')"
ATTACKS = [
    # Two parsers of one text: backticks in text literals hid what stands between them.
    f"np.where('`' and {RUN} and '`', log(x), log(x))",
    f'np.where("`" and {RUN} and "`", x, x)',
    f"'`' + {RUN} + '`'",
    f"x if '`' else {RUN} if '`' else x",
    f"'\\'`' and {RUN} and '`'",
    f"'''`''' and {RUN} and '''`'''",
    f"r'\\`' and {RUN} and r'`'",
    f"x + `'` + {RUN} + `'`",
    f'x + `"` + {RUN} + `"`',
    # Calls, attributes and names outside of the list.
    RUN,
    f"x + {RUN}",
    f"[{RUN}, x]",
    f"log({RUN})",
    f"C(x, levels=[{RUN}])",
    f"C(x, {RUN})",
    f"C(x, contr.treatment(base={RUN}))",
    f"C(x, contr.custom({{'a': {RUN}}}))",
    f"bs(x, df={RUN})",
    f"bs(x, knots=[{RUN}])",
    f"poly(x, **{RUN})",
    f"poly(*[{RUN}])",
    f"Q({RUN})",
    f"Q(variable={RUN})",
    f"f'{{{RUN}}}'",
    f"log(f'{{{RUN}}}')",
    f"'%s' % {RUN}",
    f"'{{0.__class__}}'.format({RUN})",
    f"(lambda: {RUN})()",
    f"[{RUN} for _ in [1]]",
    f"(v := {RUN})",
    f"{{{RUN}: x}}",
    f"x[{RUN}]",
    f"log.__call__({RUN})",
    "eval('1')",
    "exec('1')",
    "open('SENTINEL', 'w')",
    "getattr(np, 'save')('SENTINEL', x)",
    "np.save('SENTINEL', x)",
    "np.savetxt('SENTINEL', x)",
    "np.load('SENTINEL')",
    "np.ctypeslib.load_library('SENTINEL', '.')",
    "np.f2py.os.system('touch SENTINEL')",
    "np.lib.format.open_memmap('SENTINEL', mode='w+', shape=(1,))",
    "np.memmap('SENTINEL', mode='w+', shape=(1,))",
    "np.frompyfunc(log, 1, 1)(x)",
    "np.vectorize(log)(x)",
    "x.to_csv('SENTINEL')",
    "x.to_pickle('SENTINEL')",
    "x.values.tofile('SENTINEL')",
    "x.__class__.__base__.__subclasses__()",
    "().__class__.__mro__[1].__subclasses__()",
    "contr.__init__.__globals__",
    "contr.sum.__init__.__globals__['inspect'].os.system('touch SENTINEL')",
    "C.__globals__",
    "C(x, contr.mro)",
    "C(x, contr.__class__)",
    "hashed(x, levels=4, hash_func=eval)",
    "hashed(x, 4, hash_func=exit)",
    "center(x, _state=x)",
    "center(x, _context=x)",
    "Q('x', _context={'data': 1})",
    "__FORMULAIC_SPEC__.formula",
    "__builtins__['eval']('1')",
    "\uff45\uff56\uff41\uff4c('1')",  # Full-width letters, which Python reads as `eval`.
    "np.\uff4c\uff4f\uff41\uff44('SENTINEL')",
    "\uff58.\uff54\uff4f_csv('SENTINEL')",
    # Functions that would write into the table or leave rows out.
    "np.log(x, x)",
    "np.log(x, out=x)",
    "np.log(x, where=flag)",
    "np.log(x, dtype='float16')",
    "np.clip(x, 0, 1, x)",
    "np.clip(x, 0, 1, out=x)",
    "np.add.at(x, 0, 1)",
    "np.put(x, 0, 1)",
    # Other rows.
    "x @ x",
    "np.sum(x)",
    "np.matmul(x, x)",
    "lag(x)",
    "'a' in group",
    "x is x",
    "x + [1, 2]",
    "scale(x, center=x)",
    # Not of the language.
    "x +",
    "x\0",
    "x; y",
    "x = 1",
    "import os",
    "await x",
    "yield x",
    "...",
    "b'x'",
    "1j * x",
    "None",
    "'text'",
    "",
    "log()",
    "log(x, x, x)",
    "C()",
    "poly(x, degre=2)",
    "poly(x, 2, degree=2)",
    "bs(x, 5, None, 3, False, 0, 1, 'clip', 1)",
    "hashed(x)",
    "Q(1)",
    "Q('x', 'y')",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_a_saved_expression_that_does_more_than_compute_is_refused(
    table: pd.DataFrame, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with at_once(), pytest.raises(DataError):
        Design.from_json(with_term(table, text))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ATTACKS[:30])
@pytest.mark.parametrize("formula", ["{{{}}} ~ x", "y ~ {{{}}}"])
def test_a_typed_formula_runs_no_code(
    table: pd.DataFrame, formula: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with at_once(), pytest.raises(DataError):
        learn(formula.format(text), table)
    assert not list(tmp_path.iterdir())


def test_the_head_of_a_call_on_the_left_runs_no_code(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        learn(f"{{{RUN}(y)}} ~ x", table)
    assert not list(tmp_path.iterdir())


def test_what_is_checked_is_what_is_computed(table: pd.DataFrame) -> None:
    """A column whose name looks like code is a column, whatever quotes its name holds."""
    for name in (
        "'",
        '"',
        "it's",
        "__import__('os')",
        "np",
        "log",
        "C",
        "a + b",
        "{x}",
        "eval",
        "é ☃",
        "x.y",
    ):
        named = table.rename(columns={"my col": name})
        design = learn(f"y ~ I(2 * `{name}`)", named).design
        again = Design.from_json(json.loads(json.dumps(design.to_json())))
        assert np.array_equal(again.main.design(named).to_numpy()[:, 0], 2 * named[name])


@contextmanager
def tampered(table: pd.DataFrame, folder: Path, text: str) -> Iterator[Path]:
    fit_folder = folder / "fit"
    learned = learn("y ~ log(x)", table)
    fit = mle(models.gaussian, learned.design.x(learned.table, ("mean",)), learned.design.y(learned.table))
    path = export.save(fit, fit_folder, formula=learned.design) / "model.json"
    described = verified(parsed(path.read_bytes()))
    terms = described["formula"]["main"]["terms"]
    assert terms[1] == [["log(x)", "python"]]
    terms[1] = [[text, "python"]]
    path.write_bytes(encoded(described))  # with the digest that belongs to it
    yield fit_folder


@pytest.mark.parametrize("text", [ATTACKS[0], "x + 0*9**9**9", "-" * 20_000 + "x"])
def test_predict_refuses_a_tampered_model_in_one_line(
    table: pd.DataFrame, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.to_csv(tmp_path / "rows.csv", index=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with tampered(table, tmp_path, text) as folder:
        with pytest.raises(DataError, match=re.escape(f"`{text[:60]}")):
            export.load(folder)
        result = CliRunner().invoke(app, ["predict", str(folder), str(tmp_path / "rows.csv")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("neglog: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 500
    assert not list(work.iterdir())


# Cost

COSTS = [
    "x + 0*9**9**9",
    "x + 9**9**9*0",
    "x + 0*(2 << 10**9)",
    "x + " + "9" * 400,
    "x + " + "9" * 5000,
    "x + 1 / 0",
    "x + 2.0**10**9",
    "x + (-8)**0.5",
    "np.power(10**400, x)",
    "hashed(x, levels=10**9)",
    "hashed(x, 10**9)",
    "hashed(x, levels=1e9)",
    "hashed(x, levels=[10**9])",
    "hashed(x, levels=4999, contrasts=contr.poly)",
    "poly(x, 10**6)",
    "poly(x, degree=10**6, raw=True)",
    "bs(x, df=10**7)",
    "bs(x, df=[10**7])",
    "bs(x, 10**7)",
    f"bs(x, knots=[{', '.join(map(str, range(9000)))}])",
    "bs(x, df=5, degree=10**5)",
    "cr(x, df=10**7)",
    "cc(x, 10**7)",
    "scale(x, center=[[0], [0]])",
    "-" * 20_000 + "x",
    "~" * 20_000 + "x",
    "not " * 20_000 + "x",
    "(" * 20_000 + "x" + ")" * 20_000,
    "x" + "+x" * 20_000,
    "x" + "**x" * 20_000,
    "x" + "(1)" * 20_000,
    "x" + ".a" * 20_000,
    "x < " * 20_000 + "x",
    "I(" * 150 + "x" + ")" * 150,
    "C(x, levels=[" + "1, " * 30_000 + "])",
    "`" * 99_999,
    "'" * 99_999,
    "'\\" * 40_000,
    "x" * 200_000,
    "'a' * 10**9",
    "10**9 * 'a'",
    "'%999999999d' % x",
    "log('a' * 10**9)",
    "C(x, levels=['a' * 10**9])",
    "[1] * 10**9",
    "C(x, levels=[1] * 10**9)",
    "(1,) * 10**9",
    "np.zeros(10**12)",
    "np.arange(10**12)",
]


@pytest.mark.parametrize("text", COSTS, ids=range(len(COSTS)))
def test_a_saved_expression_of_unbounded_cost_is_refused_at_once(table: pd.DataFrame, text: str) -> None:
    with at_once(), pytest.raises(DataError) as caught:
        Design.from_json(with_term(table, text))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", COSTS, ids=range(len(COSTS)))
def test_a_typed_expression_of_unbounded_cost_is_refused_at_once(table: pd.DataFrame, text: str) -> None:
    with at_once(), pytest.raises(DataError) as caught:
        learn(f"y ~ {{{text}}}", table)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["group * 10**9", "group % x", "np.multiply(group, 10**9)", "center(group)"])
def test_text_is_not_multiplied(table: pd.DataFrame, text: str) -> None:
    with at_once(), pytest.raises(DataError, match="with text"):
        learn(f"y ~ {{{text}}}", table)


@pytest.mark.parametrize("power", [4, 5, 40, 10**9])
@pytest.mark.parametrize("sign", ["**", "^"])
def test_a_large_power_is_all_interactions(table: pd.DataFrame, power: int, sign: str) -> None:
    with at_once():
        learned = learn(f"y ~ (a + b + x + cyl){sign}{power}", table)
    full = learn("y ~ a * b * x * cyl", table)
    assert len(learned.design.main.columns) == 15
    assert set(learned.design.main.columns) == set(full.design.main.columns)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_small_power_is_formulaics(table: pd.DataFrame, power: int) -> None:
    import formulaic

    right = f"(x + a:b + group + flag) ** {power}"
    factors = table.assign(flag=table["flag"].astype("category"))  # formulaic has truth values as numbers
    expected = formulaic.model_matrix(right, factors).drop(columns="Intercept")
    found = learn(f"y ~ {right}", table).design.main.design(table)
    assert list(found) == list(expected)
    assert np.array_equal(found.to_numpy(), expected.to_numpy(dtype=float))


@pytest.mark.parametrize(
    "right",
    [
        "(" + " + ".join(f"v{i}" for i in range(30)) + ") ** 30",
        " * ".join(f"v{i}" for i in range(30)),
        ":".join(f"v{i}" for i in range(30)),
        ". ** 9",
        "(.) * (.) * (.)",
        "x ** 0",
        "x ** 1.5",
        "x ** a",
        "(" * 20_000 + "x" + ")" * 20_000,
        "x + " + "-" * 20_000 + "(a",
        "x" * 300_000,
        "{" + "`" * 998 + "}",
        "0[)",
        "x" + " + x" * 60_000,
    ],
    ids=range(14),
)
def test_a_formula_with_too_many_terms_is_refused_at_once(right: str) -> None:
    wide = pd.DataFrame(np.zeros((3, 30)), columns=[f"v{i}" for i in range(30)]).assign(y=0.0, x=1.0, a=1.0)
    with at_once(), pytest.raises(DataError) as caught:
        learn(f"y ~ {right}", wide)
    assert len(str(caught.value)) < 500


def test_products_of_many_levels_are_refused_at_once() -> None:
    names = [f"g{i}" for i in range(6)]
    rows = np.random.default_rng(0).integers(0, 30, (300, 6)).astype(str)
    wide = pd.DataFrame(np.char.add("l", rows), columns=names).assign(y=0.0)
    with at_once(), pytest.raises(DataError, match="more than 20000 columns"):
        learn(f"y ~ {':'.join(names)}", wide)


def joined(design: dict[str, Any], factors: list[list[list[str]]], columns: list[str]) -> dict[str, Any]:
    """The design with other terms, and a formula that agrees with them."""
    terms = [":".join(f"{{{text}}}" if how == "python" else text for text, how in term) for term in factors]
    design["main"].update(terms=[[["1", "literal"]], *factors], columns=columns)
    return {**design, "formula": f"y ~ {' + '.join(terms)}"}


@pytest.mark.parametrize(("products", "categories"), [(1, 9), (1, 13), (8, 7)])
def test_products_of_many_categories_without_their_margins_are_refused_at_once(
    table: pd.DataFrame, products: int, categories: int
) -> None:
    """formulaic takes minutes to choose their contrasts."""
    factors = [[[f"v{i}_{j}", "lookup"] for j in range(categories)] for i in range(products)]
    design = joined(saved(table), factors, ["v"] * 20_000)
    design["main"]["texts"] = [name for term in factors for name, _ in term]
    wide = pd.DataFrame({name: ["a", "b", "b"] for name in design["main"]["texts"]}).assign(y=0.0)
    with at_once(), pytest.raises(DataError, match="categories take too long"):
        Design.from_json(design)
    with at_once(), pytest.raises(DataError, match="categories take too long"):
        learn(design["formula"], wide)


def test_products_of_categories_with_their_margins_are_coded(table: pd.DataFrame) -> None:
    names = [f"v{i}" for i in range(8)]
    wide = pd.DataFrame({name: ["a", "b", "b"] for name in names}).assign(y=0.0)
    with at_once():
        learned = learn(f"y ~ {' * '.join(names)}", wide)
    assert len(learned.design.main.columns) == 2**8 - 1


def test_expressions_of_mixed_kinds_of_numbers_take_a_limited_time(table: pd.DataFrame) -> None:
    texts = [f"np.power(a, -1) + (c & {i}) + d + e + f + g" for i in range(200)]
    design = joined(saved(table), [[[text, "python"]] for text in texts], texts)
    with at_once():
        Design.from_json(design)  # Where the kinds of one expression are known, they are tried first.
    texts = [f"np.power(a, -1) + (a & {i}) + d + e + f + g" for i in range(200)]
    design = joined(saved(table), [[[text, "python"]] for text in texts], texts)
    with at_once(), pytest.raises(DataError, match="cannot be computed from such columns"):
        Design.from_json(design)


# What belongs together


Steps = tuple[str | int, ...]
BIG = {"array": {"list": [1.0] * 5000}, "dtype": "<f8"}
TAMPERED: list[tuple[str, Steps, Any]] = [
    ("x", ("main", "terms", 1, 0, 1), "eval"),
    ("x", ("main", "terms", 1, 0, 1), "Python"),
    ("x", ("main", "terms", 1, 0, 1), ["python"]),
    ("x", ("main", "terms", 1, 0), ["x", "lookup", "python"]),
    ("x", ("main", "terms", 1, 0, 0), 1),
    ("x", ("main", "terms", 1, 0, 0), None),
    ("x", ("main", "terms", 1), []),
    ("x", ("main", "terms", 1), [[f"v{i}", "lookup"] for i in range(60)]),
    ("x", ("main", "terms", 1), [["1", "lookup"]]),
    ("x", ("main", "terms"), {"a": 1}),
    ("x", ("main", "terms"), "x"),
    ("x", ("main", "terms"), [[[f"v{i}", "lookup"]] for i in range(40_000)]),
    ("x", ("main", "terms", 0, 0, 0), "__import__('os')"),
    ("x", ("main", "terms", 0, 0, 0), "9**9"),
    ("x", ("main", "terms", 0, 0, 0), "9" * 100_000),
    ("x", ("main", "terms", 0, 0, 0), "[1]"),
    ("x", ("main", "columns"), "x"),
    ("x", ("main", "columns"), [1]),
    ("x", ("main", "columns"), ["x"] * 30_000),
    ("x", ("main", "texts"), ["nowhere"]),
    ("x", ("main", "texts"), [["x"]]),
    ("x", ("main", "levels"), {"dict": [["nowhere", {"list": ["a"]}]]}),
    ("x", ("main", "levels"), {"dict": [["x", 3]]}),
    ("x", ("main", "levels"), {"list": []}),
    ("x", ("main", "transforms"), 3),
    ("x", ("others",), [1]),
    ("x", ("others",), {"sigma": {"terms": []}}),
    ("x", ("formula",), 1),
    ("x", ("also",), [1]),
    ("x", ("shared",), 1),
    ("group", ("main", "levels", "dict", 0, 1), {"list": [{"dict": []}]}),
    ("group", ("main", "levels", "dict", 0, 1), {"list": [f"l{i}" for i in range(6000)]}),
    ("C(group, contr.poly)", ("main", "levels", "dict", 0, 1), {"list": [f"l{i}" for i in range(600)]}),
    ("center(x)", ("main", "transforms", "dict"), []),
    ("center(x)", ("main", "transforms", "dict", 0, 1), {"dict": []}),
    ("center(x)", ("main", "transforms", "dict", 0, 1), {"dict": [["center", 0.0]]}),
    ("center(x)", ("main", "transforms", "dict", 0, 1, "dict", 1, 1), "__import__('os')"),
    ("center(x)", ("main", "transforms", "dict", 0, 1, "dict", 1, 1), {"array": {"list": [{"list": [1.0]}]}}),
    (
        "center(x)",
        ("main", "transforms", "dict", 0, 1, "dict", 1, 1),
        {"array": {"list": [{"list": [1.0]}] * 9}, "dtype": "<f8"},
    ),
    ("poly(x, 3)", ("main", "transforms", "dict", 0, 1), {"dict": []}),
    ("poly(x, 3, raw=True)", ("main", "transforms", "dict", 0, 1), {"dict": [["alpha", 1]]}),
    ("bs(x, df=4)", ("main", "transforms", "dict", 0, 1, "dict", 2, 1), {"list": [0.5] * 5000}),
    ("bs(x, df=4)", ("main", "transforms", "dict", 0, 1, "dict", 2, 1), {"list": ["0.5"]}),
    ("cr(x, df=4)", ("main", "transforms", "dict", 0, 1, "dict", 4, 1), BIG),
]


@pytest.mark.parametrize(("right", "path", "value"), TAMPERED, ids=range(len(TAMPERED)))
def test_parts_that_do_not_belong_together_are_refused_on_load(
    table: pd.DataFrame, right: str, path: Steps, value: Any
) -> None:
    design = saved(table, f"y ~ {right}")
    Design.from_json(copy.deepcopy(design))
    place: Any = design
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with at_once(), pytest.raises(DataError) as caught:
        Design.from_json(design)
    assert len(str(caught.value)) < 500


def nested(tag: str, depth: int) -> Any:
    value: Any = {tag: []}
    for _ in range(depth):
        value = {tag: [value]}
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"array": {"list": ["a"]}, "dtype": "<U1000000000"},
        {"array": {"list": ["a"] * 100_000}, "dtype": "<U9999"},
        {"array": {"list": [1]}, "dtype": "O"},
        {"array": {"list": [1]}, "dtype": "V1000000000"},
        {"array": {"list": [1]}, "dtype": "S1000000000"},
        {"array": {"list": [1]}, "dtype": "M8[s]"},
        {"array": {"list": [1]}, "dtype": "f8, f8"},
        {"array": {"list": [1]}, "dtype": "(100000,100000)f8"},
        {"array": {"list": [1]}, "dtype": ["f8"]},
        {"array": {"list": [1]}, "dtype": [["a", "f8", 1000000000]]},
        {"array": {"list": [1]}},
        {"array": {"list": [10**30]}, "dtype": "<i8"},
        {"array": {"list": [{"list": [1]}, {"list": [1, 2]}]}, "dtype": "<f8"},
        {"scalar": "a", "dtype": "<U1000000000"},
        {"scalar": 1, "dtype": "O"},
        {"scalar": {"list": [1]}, "dtype": "V8"},
        {"float": "1e5"},
        {"float": "__import__('os')"},
        {"float": ["nan"]},
        {"float": "nan", "dtype": "f8"},
        {"float": "nan", "array": 1},
        {"dict": [[{"list": []}, 1]]},
        {"dict": [1]},
        {"dict": {"a": 1}},
        {"list": 3},
        {"list": None},
        {1: 2},
        nested("list", 5000),
        nested("tuple", 200),
    ],
    ids=range(29),
)
def test_saved_values_of_unbounded_size_or_unknown_kind_are_refused(value: Any) -> None:
    with at_once(), pytest.raises(DataError, match="the saved state is damaged") as caught:
        from_json(value)
    assert len(str(caught.value)) < 500


def test_a_table_gives_no_more_columns_than_the_file_names(table: pd.DataFrame) -> None:
    design = saved(table, "y ~ hashed(group, levels=4)")
    design["main"]["terms"][1] = [[f"hashed(group, levels={n})", "python"] for n in (400, 401, 402)]
    with at_once(), pytest.raises(DataError, match="columns"):
        Design.from_json(design).main.design(table)


# What is harmless

HARMLESS = {
    "log(x)": lambda t: np.log(t.x),
    "np.log(x)": lambda t: np.log(t.x),
    "log10(x)": lambda t: np.log10(t.x),
    "log2(x)": lambda t: np.log2(t.x),
    "exp(a)": lambda t: np.exp(t.a),
    "exp2(a)": lambda t: 2.0**t.a,
    "np.sqrt(x)": lambda t: np.sqrt(t.x),
    "np.abs(a)": lambda t: t.a.abs(),
    "np.sin(2 * np.pi * a)": lambda t: np.sin(2 * np.pi * t.a),
    "np.log1p(x) / np.e": lambda t: np.log1p(t.x) / np.e,
    "np.maximum(a, b)": lambda t: np.maximum(t.a, t.b),
    "np.power(x, 3)": lambda t: t.x**3,
    "np.where(x > 1, x, 0)": lambda t: np.where(t.x > 1, t.x, 0),
    "np.clip(a, -1, 1)": lambda t: t.a.clip(-1, 1),
    "np.clip(a, a_min=-1, a_max=None)": lambda t: t.a.clip(lower=-1),
    "np.log(`my col` ** 2)": lambda t: np.log(t["my col"] ** 2),
    "log(Q('my col'))": lambda t: np.log(t["my col"]),
    "I(x ** 2)": lambda t: t.x**2,
    "I(`my col`)": lambda t: t["my col"],
    "a + b * x - 3 / x": lambda t: t.a + t.b * t.x - 3 / t.x,
    "-a": lambda t: -t.a,
    "+a": lambda t: t.a,
    "a // 2 + a % 2": lambda t: t.a // 2 + t.a % 2,
    "2 ** a": lambda t: 2**t.a,
    "x ** 0.5": lambda t: t.x**0.5,
    "x * 2 ** 10": lambda t: t.x * 1024,
    "x * 10 ** 20": lambda t: t.x * 1e20,
    "x * 10 ** 300": lambda t: t.x * 1e300,
    "x < np.inf": lambda t: np.ones(len(t)),
    "cyl ** 2": lambda t: t.cyl**2,
    "cyl ** 40": lambda t: t.cyl.astype(float) ** 40,
    "cyl * 10 ** 18 * 100": lambda t: t.cyl * 1e20,
    "np.square(cyl * 10 ** 10)": lambda t: (t.cyl * 1e10) ** 2,
    "cyl & 4": lambda t: t.cyl & 4,
    "(x > 1) & (a < 0)": lambda t: (t.x > 1) & (t.a < 0),
    "(x > 1) | ~(a <= 0)": lambda t: (t.x > 1) | (t.a > 0),
    "(x > 1) ^ flag": lambda t: (t.x > 1) ^ t.flag,
    "~flag": lambda t: ~t.flag,
    "flag == True": lambda t: t.flag,
    "group == 'a'": lambda t: t.group == "a",
    'group == "it\'s"': lambda t: np.zeros(len(t)),
    "np.equal(group, 'a')": lambda t: t.group == "a",
    "group + '_' + group == 'a_a'": lambda t: t.group == "a",
    "(cyl == 4) * x": lambda t: (t.cyl == 4) * t.x,
    "x * (1 > 0 and 2 > 1)": lambda t: t.x,
    "x * (not 0)": lambda t: t.x,
    "poly(cyl * 10**7, 3, raw=True)[3]": lambda t: (t.cyl * 1e7) ** 3,
}


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_expressions_keep_their_numbers(table: pd.DataFrame, text: str) -> None:
    expression, _, column = text.partition("[")
    before = table.copy(deep=True)
    design = learn(f"y ~ {{{expression}}}", table).design
    again = Design.from_json(json.loads(json.dumps(design.to_json())))
    found = [each.main.design(table) for each in (design, again)]
    pd.testing.assert_frame_equal(*found, check_exact=True)
    expected = np.asarray(HARMLESS[text](table), dtype=float)
    values = found[0].iloc[:, -1]
    assert column or list(found[0]) in ([expression], [f"{expression}[T.True]"])
    np.testing.assert_allclose(values, expected, rtol=1e-14)
    assert table.equals(before)


@pytest.mark.parametrize("text", ["x > 1 and a < 0", "0 < x < 1", "not flag"])
def test_single_truths_of_columns_have_a_remedy(table: pd.DataFrame, text: str) -> None:
    with pytest.raises(DataError, match=r"Join columns by & or \|: \(a < b\) & \(b < c\)"):
        learn(f"y ~ {{{text}}}", table)
    learn("y ~ {(a < b) & (b < x)}", table)


@pytest.mark.parametrize(
    "text",
    [
        "I('a')",
        "C(group, contr.treatment(base=5))",
        "C(group, contr.custom([[[1]]]))",
        "C(group, 5)",
        "C(group, contr.poly(scores=['a']))",
        "bs(x, df=1.5)",
        "bs(x, df=5, knots=[1])",
        "bs(x, df=5, extrapolation='sideways')",
        "cr(x, df=5, constraints='everywhere')",
        "poly(x, -1)",
        "hashed(group, levels=0)",
        "`" * 998,
        "scale(x, scale=0)",
        "np.bitwise_and(x, 1)",
        "poly(poly(x, 2), 2)",
    ],
)
def test_arguments_that_functions_do_not_take_are_errors_by_name(table: pd.DataFrame, text: str) -> None:
    with pytest.raises(DataError):
        learn(f"y ~ {{{text}}}", table)


@pytest.mark.parametrize("levels", ["-1", "0", "False"])
def test_a_hash_needs_a_level(table: pd.DataFrame, levels: str) -> None:
    """A file whose category had no level was loaded."""
    text = f"hashed(x, levels={levels})"
    design = joined(saved(table), [[["x", "lookup"]], [[text, "python"]]], ["x"])
    design["main"]["levels"] = {"dict": [[text, {"list": []}]]}
    for call in (lambda: Design.from_json(design), lambda: learn(f"y ~ {text}", table)):
        with pytest.raises(DataError, match="needs the number of levels"):
            call()


def test_a_long_sum_is_read_in_linear_time() -> None:
    names = [f"x{i}" for i in range(1000)]
    with at_once():
        _, right, _ = read_formula(f"y ~ {' + '.join(names)}", ["y", *names])
    assert right[1:] == tuple(((name, "lookup"),) for name in names)


def test_exp10_is_refused_since_formulaic_computes_a_tenth_power(table: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"Write \{10\.0 \*\* x\}"):
        learn("y ~ exp10(x)", table)
    assert np.array_equal(learn("y ~ {10.0 ** a}", table).design.main.design(table).iloc[:, 0], 10.0**table.a)


def test_a_state_is_found_whatever_else_is_called_like_it(table: pd.DataFrame) -> None:
    """Columns `my col` and `my_col` once shared the name of a state, which was learned again on new rows."""
    both = table.assign(my_col=100 * table["my col"])
    design = learn("y ~ center(`my col`) + center(my_col) + scale(`my col`)", both).design
    whole = design.main.design(both)
    again = Design.from_json(json.loads(json.dumps(design.to_json())))
    pd.testing.assert_frame_equal(again.main.design(both.iloc[:5]), whole.iloc[:5], check_exact=True)
    np.testing.assert_allclose(whole["center(my_col)"], 100 * whole["center(`my col`)"], rtol=1e-12)


def test_states_of_earlier_versions_are_found(table: pd.DataFrame) -> None:
    design = saved(table, "y ~ center(`my col`)")
    entry = design["main"]["transforms"]["dict"][0]
    assert entry[0] == "center(`my col`)"
    entry[0] = "center(my_col)"
    expected = table["my col"] - table["my col"].mean()
    assert np.array_equal(Design.from_json(design).main.design(table).iloc[:, 0], expected)


def test_a_column_named_by_a_number_is_not_the_intercept(table: pd.DataFrame) -> None:
    numbers = pd.DataFrame(table[["a", "b", "x"]].to_numpy()).assign(y=table["y"])
    for right in (".", "`1` + `2`"):
        with pytest.raises(DataError, match=r"column `\d` has a number for its name.*Rename"):
            learn(f"y ~ {right}", numbers)
    renamed = numbers.rename(columns="x{}".format)
    assert list(learn("xy ~ .", renamed).design.main.columns) == ["x0", "x1", "x2"]


def test_errors_quote_no_control_characters(table: pd.DataFrame) -> None:
    with pytest.raises(DataError) as caught:
        Design.from_json(with_term(table, "x\x1b[31m\n\x07 + frobnicate(x)"))
    assert str(caught.value).isprintable()


def test_reading_a_formula_warns_of_nothing(table: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn("y ~ {x is_}".replace(" is_", ""), table)
        with pytest.raises(DataError):
            learn(r"y ~ {C(x, levels=['\d'])}", table)


def test_truth_values_of_older_files_stay_numbers(table: pd.DataFrame) -> None:
    """Earlier versions took truth values as numbers, and saved no levels of them."""
    design = learn("y ~ x:flag + I(x > 1) + group", table).design
    saved = json.loads(json.dumps(design.to_json()))
    new = Design.from_json(saved).main.design(table)
    assert {"x:flag[False]", "x:flag[True]", "I(x > 1)[T.True]"} <= set(new)
    main = saved["main"]
    main["levels"] = {"dict": [pair for pair in main["levels"]["dict"] if pair[0] == "group"]}
    main["columns"] = ["I(x > 1)", "group[T.b]", "group[T.c]", "x:flag"]
    old = Design.from_json(saved).main.design(table)
    np.testing.assert_array_equal(old["x:flag"], table.x * table.flag)
    np.testing.assert_array_equal(old["I(x > 1)"], table.x > 1)


@pytest.mark.parametrize(
    "right", ["I(flag) * x", "{~flag}", "{flag & (x > 1)}", "flag:group", "C(flag):x", "np.isnan(x):a"]
)
def test_factors_of_truth_values_are_saved_and_applied_to_a_row(table: pd.DataFrame, right: str) -> None:
    design = learn(f"y ~ {right}", table).design
    again = Design.from_json(json.loads(json.dumps(design.to_json())))
    whole = design.main.design(table)
    for rows in (table, table.iloc[[3]], table[table.flag]):
        pd.testing.assert_frame_equal(again.main.design(rows), whole.loc[rows.index], check_exact=True)
