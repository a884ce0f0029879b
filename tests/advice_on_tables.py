"""Rows of test_advice.py: messages of formulas, tables, saved models and the command line."""

import gzip
import json
import os
import sys
from functools import cache
from unittest import mock

import numpy as np
import pandas as pd
import torch
import typer
from remedies import Row, row

from neglog import mle, models, predict, scores
from neglog.cli import commands
from neglog.errors import DataError, ModelError
from neglog.export import load, save
from neglog.export.documents import DIGEST, encoded
from neglog.formula import learn
from neglog.formula.design import Design
from neglog.tables import read_table, write_table

N = 20
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=N),
        "a": RNG.normal(size=N),
        "b": RNG.normal(size=N),
        "g": list("abcd" * (N // 4)),
        "h": list("uvwxy" * (N // 5)),
    }
)
WIDE = pd.DataFrame(RNG.normal(size=(3, 31)), columns=[*(f"v{i}" for i in range(30)), "y"])
LEVELS = pd.DataFrame({name: [f"{name}{i % 150}" for i in range(300)] for name in "de"}).assign(y=0.0)
CUT = FRAME.assign(c=pd.cut(FRAME["a"], 3))
NO_PYARROW = {"pyarrow": None}
MANY = [f"v{i}" for i in range(9)]
MANY_CATEGORIES = pd.DataFrame({name: list("abb") for name in MANY}).assign(y=0.0)


@cache
def a_growing_mean():
    line = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None]
    return mle(models.inverse_gaussian, line, torch.exp(line[:, 0] + 0.1 * torch.cos(40 * line[:, 0])))


def scored(*x):
    return lambda _: scores(a_growing_mean(), torch.tensor(x)[:, None], torch.ones(len(x)))


def fitted(formula, table=FRAME, **settings):
    return lambda _: learn(formula, table, **settings)


def new_rows(formula, **columns):
    """The design of a formula on rows of which some columns are others."""
    return lambda _: learn(formula, FRAME).design.main.design(FRAME.assign(**columns))


@cache
def written_formula():
    return json.dumps(learn("y ~ a + poly(b, 2)", FRAME, ["sigma ~ a"]).design.to_json())


def read_back(**changes):
    """A formula of a file in which some entries of its `main` side, or of itself, are others."""

    def read(_):
        saved = json.loads(written_formula())
        for name, value in changes.items():
            place = saved if name in saved else saved["main"]
            place[name] = value(place[name]) if callable(value) else value
        return Design.from_json(saved)

    return read


def resaved(folder, change, model=models.gaussian):
    """A saved model in whose document `change` was made."""
    x = FRAME[["a", "b"]]
    where = save(mle(model, x, FRAME["y"]), folder / "m") / "model.json"
    document = json.loads(where.read_text())
    change(document)
    del document[DIGEST]
    where.write_bytes(encoded(document))
    return load(folder / "m")


def unchanged(document):
    return None


def command(function, *arguments, **options):
    """The exit code of a command of the command line, which is 0, or the error that it reports."""
    try:
        function(*arguments, **options)
    except typer.Exit as ended:
        if ended.exit_code:
            raise (ended.__context__ or ended) from None
    return 0


def table(folder, name="t.csv", frame=FRAME):
    frame.to_csv(folder / name, index=False)
    return folder / name


def fit(folder, data=None, **options):
    return command(commands.fit, data or table(folder), "y ~ a", "gaussian", **options)


def compressed(folder, content):
    path = folder / "t.csv.gz"
    path.write_bytes(content)
    return fit(folder, path)


def recompressed(folder):
    return compressed(folder, zipped()), fit(folder)


def no_parquet(folder):
    (folder / "t.parquet").write_bytes(b"PAR1")
    return read_table(folder / "t.parquet")


def zipped():
    return gzip.compress(FRAME.to_csv(index=False).encode())


def pipe(folder):
    os.mkfifo(folder / "pipe.csv")
    return fit(folder, folder / "pipe.csv")


def predicted(folder, formula=True, prefix="", out=None, frame=FRAME):
    """What `neglog predict` makes of a table."""
    learned = learn("y ~ a", FRAME)
    x = learned.design.x(learned.table, ("mean",))
    done = mle(models.gaussian, x, learned.design.y(learned.table))
    save(done, folder / "m", formula=learned.design if formula else None)
    data = table(folder, frame=frame)
    return command(commands.predict, folder / "m", data, prefix=prefix, out=out and folder / out)


def without_formula(folder):
    saved = load(save(mle(models.gaussian, FRAME[["a"]], FRAME["y"]), folder / "m"))
    return predict(saved, FRAME[["a"]])


def without(modules, function):
    """A function while some modules cannot be imported."""

    def call(folder):
        with mock.patch.dict(sys.modules, modules):
            return function(folder)

    return call


CLI = {
    "a pipe": row(DataError, "pipe.csv", provoke=pipe, follow=fit),
    "text that is not gzipped": row(
        DataError,
        "t.csv.gz",
        provoke=lambda p: compressed(p, b"y,a\n1,2\n"),
        follow=recompressed,
    ),
    "a file that is cut off": row(
        DataError,
        "t.csv.gz",
        provoke=lambda p: compressed(p, zipped()[:60]),
        follow=lambda p: compressed(p, zipped()),
    ),
    "a folder that is not there": row(
        DataError,
        "--out",
        "no",
        provoke=lambda p: fit(p, out=p / "no" / "m"),
        follow=lambda p: ((p / "no").mkdir(), fit(p, out=p / "no" / "m")),
    ),
    "predictions in the place of the data": row(
        DataError,
        "--out",
        "t.csv",
        provoke=lambda p: predicted(p, out="t.csv"),
        follow=lambda p: predicted(p, out="other.csv"),
    ),
    "a fit without a formula": row(
        DataError, "m", provoke=lambda p: predicted(p, formula=False), follow=without_formula
    ),
    "a column of the name of a prediction": row(
        DataError,
        "`mean`",
        "--prefix predicted_",
        provoke=lambda p: predicted(p, frame=FRAME.assign(mean=0.0)),
        follow=lambda p: predicted(p, frame=FRAME.assign(mean=0.0), prefix="predicted_"),
    ),
}

TABLES = {
    "a column of objects": row(
        DataError,
        "column `o`",
        provoke=lambda _: learn("y ~ o", FRAME.assign(o=[(1, 2)] * N)),
        follow=lambda _: learn("y ~ o", FRAME.assign(o=[float(i) for i in range(N)])),
    ),
    "a product that takes long to code": row(
        DataError,
        "categories",
        "Leave out interactions",
        provoke=lambda _: learn(f"y ~ {':'.join(MANY)}", MANY_CATEGORIES),
        follow=lambda _: learn(f"y ~ {':'.join(MANY[:7])}", MANY_CATEGORIES),
    ),
    "a score that is not a number": row(
        DataError,
        "row 1",
        "leave the row out",
        provoke=scored(0.0, 2000.0),
        follow=scored(0.0),
    ),
    "reading Parquet without pyarrow": row(
        DataError,
        "t.parquet",
        "pip install pyarrow",
        provoke=without(NO_PYARROW, no_parquet),
        follow=lambda p: read_table(table(p)),
    ),
    "writing Parquet without pyarrow": row(
        DataError,
        "t.parquet",
        "pip install pyarrow",
        provoke=without(NO_PYARROW, lambda p: write_table(FRAME, p / "t.parquet")),
        follow=without(NO_PYARROW, lambda p: write_table(FRAME, p / "t.csv") or (p / "t.csv").stat()),
    ),
}

SAVED = {
    "an unknown handler": row(
        DataError,
        "smoothed",
        provoke=lambda p: resaved(p, lambda d: d["model"].update(handlers=[{"smoothed": {}}])),
        follow=lambda p: resaved(p, unchanged),
    ),
    "an unknown model": row(
        DataError,
        "weibull2",
        provoke=lambda p: resaved(p, lambda d: d["model"].update(name="weibull2")),
        follow=lambda p: resaved(p, unchanged),
    ),
    "a model of a later version": row(
        DataError,
        "9.0",
        provoke=lambda p: resaved(p, lambda d: d.update(format=99, neglog="9.0")),
        follow=lambda p: resaved(p, unchanged),
    ),
    "formulas that disagree": row(
        DataError,
        "`also`",
        provoke=read_back(also=[]),
        follow=read_back(),
    ),
    "entries of another kind": row(
        DataError, "formula is damaged", provoke=read_back(others=[1]), follow=read_back()
    ),
    "an expression of an unknown kind": row(
        DataError,
        "`smooth`",
        provoke=read_back(terms=lambda terms: [*terms[:-1], [["c", "smooth"]]]),
        follow=read_back(),
    ),
    "a state that no column has": row(
        DataError,
        "poly(b, 2)",
        provoke=read_back(transforms={"dict": [["poly(b, 2)", {"dict": []}]]}),
        follow=read_back(),
    ),
    "a state of a wrong kind": row(
        DataError,
        "saved state is damaged",
        provoke=read_back(transforms={"dict": [["poly(b, 2)", {"float": "one"}]]}),
        follow=read_back(),
    ),
    "columns that no term gives": row(
        DataError,
        "`columns`",
        provoke=read_back(columns=lambda names: [*names[:-1], "c"]),
        follow=read_back(),
    ),
}

FORMULAS = {
    "two formulas of the location": row(
        ModelError,
        "`mean`",
        "`y ~ a`",
        provoke=lambda _: learn("y ~ a", FRAME, ["mean ~ b"]).design.x(FRAME, ("mean",)),
        follow=lambda _: learn("y ~ a", FRAME).design.x(FRAME, ("mean",)),
    ),
    "two formulas of a companion": row(
        DataError,
        "`sigma`",
        provoke=fitted("y ~ a", also=["sigma ~ a", "sigma ~ b"]),
        follow=fitted("y ~ a", also=["sigma ~ a + b"]),
    ),
    "a formula without a response": row(
        DataError, "`1 ~ a`", provoke=fitted("1 ~ a"), follow=fitted("y ~ a")
    ),
    "a product of many categories": row(
        DataError, "20000 columns", provoke=fitted("y ~ d:e", LEVELS), follow=fitted("y ~ d + e", LEVELS)
    ),
    "a term that is another number": row(
        DataError, "`111", provoke=fitted(f"y ~ {'1' * 400}:a"), follow=fitted("y ~ 2:a")
    ),
    "interactions of all columns": row(
        DataError, "32768", provoke=fitted("y ~ (.)**2:(.)**2", WIDE), follow=fitted("y ~ .", WIDE)
    ),
    "a category of many levels": row(
        DataError,
        "`C(a, contr.sum)`",
        "501",
        provoke=fitted("y ~ C(a, contr.sum)", pd.DataFrame({"a": np.arange(501.0), "y": 0.0})),
        follow=fitted("y ~ C(hashed(a, levels=10))", pd.DataFrame({"a": np.arange(501.0), "y": 0.0})),
    ),
    "text in new rows": row(
        DataError,
        "column `a`",
        "'few'",
        provoke=new_rows("y ~ a", a="few"),
        follow=new_rows("y ~ a", a=3.0),
    ),
    "a value beyond the levels": row(
        DataError,
        "levels=['a', 'b']",
        provoke=fitted("y ~ C(g, levels=['a', 'b'])"),
        follow=lambda _: (
            learn("y ~ C(g, levels=['a', 'b', 'c', 'd'])", FRAME),
            learn("y ~ C(g, levels=['a', 'b'])", FRAME[FRAME.g < "c"]),
        ),
    ),
    "a spline of too few degrees of freedom": row(
        DataError,
        "bs(a, df=2)",
        provoke=fitted("y ~ bs(a, df=2)"),
        follow=fitted("y ~ bs(a, df=4)"),
    ),
    "levels that are intervals": row(
        DataError,
        "Interval",
        provoke=lambda _: learn("y ~ c", CUT).design.to_json(),
        follow=lambda _: learn("y ~ c", CUT.astype({"c": str})).design.to_json(),
    ),
    "a long number": row(
        DataError, "1024", provoke=fitted("y ~ I(a + 10**400)"), follow=fitted("y ~ I(a + 10**40)")
    ),
    "a huge literal": row(
        DataError, "1024", provoke=fitted("y ~ I(a + 1" + "0" * 400 + ")"), follow=fitted("y ~ I(a + 100)")
    ),
    "a number that does not exist": row(
        DataError, "division", provoke=fitted("y ~ I(a + 1/0)"), follow=fitted("y ~ I(a + 1/2)")
    ),
    "a bitwise not of a float": row(
        DataError, "unary", provoke=fitted("y ~ I(a + ~2.5)"), follow=fitted("y ~ I(a + 2.5)")
    ),
    "a nested expression": row(
        DataError, "100 levels", provoke=fitted("y ~ I(" + "-" * 120 + "a)"), follow=fitted("y ~ I(-a)")
    ),
}

ROWS: dict[str, Row] = {**CLI, **TABLES, **SAVED, **FORMULAS}
