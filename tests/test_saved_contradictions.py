"""Saved models whose parts contradict each other, with the digest that belongs to them: each is refused.

The digest protects against damage. Who edits a file can compute it, so that all that can be derived from
another part of the file is derived again on load.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import export, map_estimate, mle, models, predict
from neglog.errors import DataError, NeglogError
from neglog.export import documents
from neglog.formula import Design, learn

Steps = tuple[Any, ...]
N = 40


def rows() -> pd.DataFrame:
    generator = np.random.default_rng(3)
    x = generator.uniform(1, 3, N)
    group = generator.choice(["a", "b", "c"], N)
    return pd.DataFrame(
        {
            "y": 2 * x + generator.normal(size=N),
            "z": x + generator.normal(size=N),
            "x": x,
            "w": generator.normal(size=N),
            "k": generator.integers(0, 4, N),
            "flag": generator.random(N) > 0.5,
            "group": group,
            "ordered": pd.Categorical(generator.choice([1, 2, 3], N)),
            "single": generator.normal(size=N).astype("float32"),
        }
    )


SAVED: dict[tuple[str, ...], str] = {}


def document(folder: Path, formula: str, *also: str) -> dict[str, Any]:
    """The fields of a saved fit of a formula, without their digest."""
    if (formula, *also) not in SAVED:
        design = learn(formula, rows(), also=also).design
        fit = mle(models.gaussian, design.x(rows(), ("mean",), ("sigma",)), design.y(rows()))
        path = export.save(fit, folder, formula=design) / "model.json"
        SAVED[formula, *also] = path.read_text()
        export.load(folder)
    fields: dict[str, Any] = json.loads(SAVED[formula, *also])
    del fields[documents.DIGEST]
    return fields


def put(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_bytes(documents.encoded(fields))
    return folder


def at(value: Any, steps: Steps) -> Any:
    """What is there; in the pairs of a tagged mapping, a name stands for its value."""
    for step in steps:
        if isinstance(value, dict) and step not in value and "dict" in value:
            (value,) = (item for key, item in value["dict"] if key == step)
        else:
            value = value[step]
    return value


def change(fields: dict[str, Any], steps: Steps, value: Any) -> None:
    place = at(fields, steps[:-1])
    value = value(at(place, steps[-1:])) if callable(value) else value
    if isinstance(place, dict) and steps[-1] not in place and "dict" in place:
        (pair,) = (each for each in place["dict"] if each[0] == steps[-1])
        pair[1] = value
    else:
        place[steps[-1]] = value


def swapped(first: int, second: int) -> Callable[[list[Any]], list[Any]]:
    def swap(items: list[Any]) -> list[Any]:
        items[first], items[second] = items[second], items[first]
        return items

    return swap


def scalar(value: Any, dtype: str = "<f8") -> dict[str, Any]:
    return {"scalar": value, "dtype": dtype}


def state(key: str, *steps: Any) -> Steps:
    return ("formula", "main", "transforms", key, *steps)


NOTHING: dict[str, Any] = {"dict": []}
KNOTS = "bs(x, knots=[2, 2.5])"
POLY, BS, CR, CC = (
    "poly(x, 2)",
    "bs(x, df=6)",
    "cr(x, df=5, constraints='center')",
    "cc(x, df=4, constraints='center')",
)
SCALE, CENTER, STANDARDIZE = "scale(x)", "center(x)", "standardize(x, rescale=False)"
CONTRADICTIONS: list[tuple[str, Steps, Any]] = [
    # States of another dtype, with text, numbers that no rows give, or of another length.
    (POLY, state(POLY, "alpha", 0), scalar(2, "<i8")),
    (POLY, state(POLY, "alpha", 0), scalar(2.7, "<i8")),
    (POLY, state(POLY, "alpha", 0), scalar("2.0", "<f8")),
    (POLY, state(POLY, "alpha", 0), scalar("2.0", "<U1")),
    (POLY, state(POLY, "alpha", 0), scalar(2.0, "<f4")),
    (POLY, state(POLY, "alpha", 0), scalar(2.1, "<f2")),
    (POLY, state(POLY, "alpha", 0), scalar(True, "|b1")),
    (POLY, state(POLY, "alpha", 0), scalar({"float": "nan"})),
    (POLY, state(POLY, "alpha", 0), 2),
    (POLY, state(POLY, "alpha", 0), True),
    (POLY, state(POLY, "alpha", 0), {"array": {"list": [2.0]}, "dtype": "<f8"}),
    (POLY, state(POLY, "alpha"), {"dict": [[0, scalar(2.0)]]}),
    (POLY, state(POLY, "alpha"), {"dict": [[k, scalar(2.0)] for k in range(3)]}),
    (POLY, state(POLY, "alpha"), {"dict": [[False, scalar(2.0)], [True, scalar(2.0)]]}),
    (POLY, state(POLY, "alpha"), {"list": [scalar(2.0), scalar(2.0)]}),
    (POLY, state(POLY, "norms2", 1), scalar(0.0)),
    (POLY, state(POLY, "norms2", 1), scalar(-1.0)),
    (POLY, state(POLY, "norms2", 1), scalar({"float": "inf"})),
    (POLY, state(POLY, "norms2", 0), scalar(2.0)),
    (POLY, state(POLY, "norms2", 0), scalar(40.5)),
    (POLY, state(POLY, "norms2"), NOTHING),
    ("poly(x, 2, raw=True)", state("poly(x, 2, raw=True)"), {"dict": [["alpha", NOTHING]]}),
    (BS, state(BS, "knots", "list"), swapped(4, 5)),
    (BS, state(BS, "knots", "list"), swapped(0, 9)),
    (BS, state(BS, "knots", "list"), lambda knots: [knots[0]] * 7 + knots[7:]),
    (BS, state(BS, "knots", "list"), lambda knots: knots[:4] + [knots[4]] * 3 + knots[7:-4] + [1e300] * 4),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:4], -1e300, *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:4], True, *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:4], 2, *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:4], "2.0", *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:4], {"float": "nan"}, *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:5], *knots[6:]]),
    (BS, state(BS, "knots", "list"), lambda knots: [*knots[:5], knots[5], *knots[5:]]),
    (BS, state(BS, "knots", "list"), lambda knots: knots[1:-1]),
    (BS, state(BS, "knots", "list"), []),
    (BS, state(BS, "lower_bound"), 1.5),
    (BS, state(BS, "upper_bound"), 1e300),
    (BS, state(BS, "upper_bound"), {"float": "inf"}),
    (KNOTS, state(KNOTS, "knots", "list"), lambda knots: [*knots[:4], 1.5, *knots[5:]]),
    (CR, state(CR, "knots", "list"), swapped(1, 2)),
    (CR, state(CR, "knots", "list"), lambda knots: [*knots[:2], knots[1], *knots[3:]]),
    (CR, state(CR, "knots", "list"), lambda knots: [*knots[:-1], 1e300]),
    (CR, state(CR, "knots", "list"), lambda knots: [*knots[:2], *knots[3:]]),
    (CR, state(CR, "cyclic"), True),
    (CR, state(CR, "constraints", "array", "list", 0, "list", 0), 0.9),
    (CR, state(CR, "constraints", "dtype"), "<f4"),
    (CR, state(CR, "constraints"), None),
    (CC, state(CC, "knots", "list"), swapped(1, 2)),
    (CC, state(CC, "cyclic"), False),
    (CC, state(CC, "cyclic"), 1),
    (CC, state(CC, "constraints"), 1),
    (SCALE, state(SCALE, "center"), scalar(2, "<i8")),
    (SCALE, state(SCALE, "center"), scalar(2.4, "<i8")),
    (SCALE, state(SCALE, "center"), scalar(2.1, "<f4")),
    (SCALE, state(SCALE, "center"), scalar("2.0", "<U1")),
    (SCALE, state(SCALE, "center"), None),
    (SCALE, state(SCALE, "center"), {"array": {"list": [2.0]}, "dtype": "<f8"}),
    (SCALE, state(SCALE, "center"), {"array": {"list": [2.0, 2.0, 2.0]}, "dtype": "<f8"}),
    (SCALE, state(SCALE, "scale"), True),
    (SCALE, state(SCALE, "scale"), scalar(True, "|b1")),
    (SCALE, state(SCALE, "scale"), scalar(0.0)),
    (SCALE, state(SCALE, "scale"), scalar(-1.0)),
    (SCALE, state(SCALE, "scale"), scalar({"float": "inf"})),
    (SCALE, state(SCALE, "ddof"), 0),
    (SCALE, state(SCALE, "ddof"), True),
    (SCALE, state(SCALE, "ddof"), "1"),
    (CENTER, state(CENTER, "center"), scalar({"float": "nan"})),
    (CENTER, state(CENTER, "scale"), scalar(2.0)),
    (STANDARDIZE, state(STANDARDIZE, "scale"), scalar(2.0)),
    ("scale(x, center=2)", state("scale(x, center=2)", "center"), {"array": 3, "dtype": "<i8"}),
    ("scale(bs(x, df=4))", state("scale(bs(x, df=4))", 1), lambda each: {"dict": each["dict"][:2]}),
    ("scale(bs(x, df=4))", state("scale(bs(x, df=4))", "dict"), lambda pairs: pairs[:-1]),
    ("scale(poly(x, 2))", state("scale(poly(x, 2))", "scale", "array", "list"), [1.0]),
    # States and terms that do not belong together.
    (SCALE, ("formula", "main", "transforms", "dict"), lambda pairs: [*pairs, ["scale(w)", pairs[0][1]]]),
    (SCALE, ("formula", "main", "transforms", "dict"), []),
    (SCALE, ("formula", "main", "transforms", "dict", 0, 0), "scale(w)"),
    ("x", ("formula", "main", "transforms"), {"dict": [["scale(x)", NOTHING]]}),
    # Levels.
    ("group", ("formula", "main", "levels", "group", "list"), ["b", "a", "c"]),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "c", "b"]),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "b", "b"]),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "b", "c", "d"]),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "b"]),
    ("group", ("formula", "main", "levels", "group", "list"), []),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "b", 3]),
    ("group", ("formula", "main", "levels", "group", "list"), [1, 2, 3]),
    ("group", ("formula", "main", "levels", "group", "list"), ["a", "b", None]),
    ("group", ("formula", "main", "levels"), NOTHING),
    ("group", ("formula", "main", "levels", "dict"), lambda pairs: [*pairs, ["y", {"list": ["a"]}]]),
    ("C(k)", ("formula", "main", "levels", "C(k)", "list"), ["0", "1", "2", "3"]),
    ("C(k)", ("formula", "main", "levels", "C(k)", "list"), [0, True, 2, 3]),
    ("C(k)", ("formula", "main", "levels", "C(k)", "list"), [0, 1, 2, {"float": "nan"}]),
    ("C(k)", ("formula", "main", "levels", "C(k)", "list"), [0, 2, 1, 3]),
    ("C(k)", ("formula", "main", "levels"), NOTHING),
    ("C(k, contr.poly)", ("formula", "main", "levels", "C(k, contr.poly)", "list"), [0, 2, 1, 3]),
    ("C(k, levels=[3, 2, 1, 0])", ("formula", "main", "levels", "dict", 0, 1, "list"), [0, 1, 2, 3]),
    ("C(x > 2)", ("formula", "main", "levels", "C(x > 2)", "list"), [True, False]),
    ("C(group, contr.sum)", ("formula", "main", "levels", "C(group, contr.sum)", "list"), ["b", "a", "c"]),
    ("C(group, contr.poly)", ("formula", "main", "levels", "C(group, contr.poly)", "list"), ["a", "b"]),
    ("C(group, contr.sum)", ("formula", "main", "terms", 1, 0, 0), "C(group, contr.helmert)"),
    ("C(group, contr.treatment('b'))", ("formula", "main", "levels", "dict", 0, 1, "list"), ["a", "c", "d"]),
    ("x", ("formula", "main", "levels"), {"dict": [["x", {"list": [1.0, 2.0]}]]}),
    # Formulas, terms and columns.
    ("x + w", ("formula", "formula"), "y ~ w + x"),
    ("x + w", ("formula", "formula"), "y ~ x"),
    ("x + w", ("formula", "formula"), "z ~ x + w"),
    ("x + w", ("formula", "formula"), "y ~ 0 + x + w"),
    ("x + w", ("formula", "formula"), "y ~ x + I(w)"),
    ("x + w", ("formula", "formula"), ["y ~ x + w"]),
    ("x + w", ("formula", "formula"), "y ~ x + w +"),
    ("x + w", ("formula", "main", "terms"), swapped(1, 2)),
    ("x + w", ("formula", "main", "terms", 2, 0, 0), "k"),
    ("x + w", ("formula", "main", "terms", 2, 0), "wk"),
    ("x + w", ("formula", "main", "terms"), lambda terms: terms[:2]),
    ("x + w", ("formula", "main", "terms"), lambda terms: terms[1:]),
    ("x + w", ("formula", "main", "columns"), swapped(0, 1)),
    ("x + w", ("columns", ""), swapped(0, 1)),
    ("x + w", ("formula", "also"), ["sigma ~ x"]),
    ("x + w", ("formula", "others"), lambda others: {"sigma": None}),
    ("x + w", ("formula", "response", "terms", 0, 0, 0), "x"),
    ("x + w", ("formula", "response", "terms", 0, 0, 0), "w"),
    ("x + w", ("formula", "response", "columns"), ["x"]),
    ("x + w", ("formula", "shared"), lambda shared: {}),
    ("x + w", ("formula",), lambda formula: {**formula, "more": 1}),
    ("x + w", ("formula", "main"), lambda main: {**main, "more": 1}),
    ("0 + x", ("formula", "shared"), None),
    ("0 + x", ("formula", "shared", "terms"), lambda terms: terms[1:]),
    ("0 + x", ("formula", "formula"), "y ~ x"),
    ("0 + scale(x)", ("formula", "shared", "transforms", "scale(x)", "center"), scalar(0.0)),
    # Columns of text.
    ("group", ("formula", "main", "texts"), []),
    ("x + group", ("formula", "main", "texts"), ["x", "group"]),
    ("C(group)", ("formula", "main", "texts"), []),
    ("C(k > 1) + x", ("formula", "main", "texts"), ["k"]),
    ("C(group) + ordered", ("formula", "main", "texts"), ["ordered", "group"]),
    ("x", ("formula", "main", "texts"), ["w"]),
    ("x", ("formula", "main", "texts"), "x"),
    ("x", ("formula", "response", "texts"), ["y"]),
    # The fit.
    ("x", ("neglog",), []),
    ("x", ("neglog",), 1),
    ("x", ("neglog",), None),
    ("x", ("neglog",), "\x1b[2J0.1.0"),
    ("x", ("neglog",), ""),
    ("x", ("status",), "optimum\x1b[2J"),
    ("x", ("status",), "optimum\nneglog: error: disk full"),
    ("x", ("status",), ["optimum"]),
    ("x", ("k",), 2),
    ("x", ("k",), 0),
    ("x", ("k",), 3.0),
    ("x", ("n",), True),
    ("x", ("steps",), 1.5),
    ("x", ("loss",), lambda loss: loss + 0.5),
    ("x", ("nll",), lambda nll: nll - 0.5),
    ("x", ("model", "handlers"), []),
    ("x", ("model", "handlers", 0, "flat"), ["sigma"]),
    ("x", ("model", "handlers", 0, "flat"), ["mean.weight", "mean.bias"]),
    ("x", ("responses",), ["a"]),
    ("0 + x", ("model", "handlers"), lambda handlers: json.loads(json.dumps(handlers).replace("0.0", "0.5"))),
]  # fmt: skip


@pytest.mark.parametrize(("right", "steps", "value"), CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_contradictions_are_refused_on_load(tmp_path: Path, right: str, steps: Steps, value: Any) -> None:
    whole = document(tmp_path / "whole", f"y ~ {right}")
    fields = copy.deepcopy(whole)
    change(fields, steps, value)
    assert json.dumps(fields) != json.dumps(whole)
    with pytest.raises(NeglogError) as caught:
        export.load(put(tmp_path / "changed", fields))
    assert len(str(caught.value)) < 700


COMPANION = ("y ~ x + group", "sigma ~ scale(x) + group")
OF_COMPANIONS: list[tuple[Steps, Any]] = [
    (("also",), []),
    (("also",), ["sigma ~ group + scale(x)"]),
    (("also",), ["sigma ~ x + group"]),
    (("also",), ["mean ~ scale(x) + group"]),
    (("also", 0), 1),
    (("others",), {}),
    (("others",), lambda others: {"mean": others["sigma"]}),
    (("others", "sigma", "terms"), swapped(1, 2)),
    (("others", "sigma", "texts"), []),
    (("others", "sigma", "levels", "group", "list"), ["a", "c", "b"]),
    (("others", "sigma", "columns"), swapped(0, 1)),
    (("others", "sigma", "transforms", "scale(x)", "scale"), scalar(0.0)),
    (("others", "sigma", "transforms", "scale(x)", "scale"), True),
    (("others", "sigma"), None),
]


@pytest.mark.parametrize(("steps", "value"), OF_COMPANIONS, ids=range(len(OF_COMPANIONS)))
def test_contradictions_of_other_predictors_are_refused(tmp_path: Path, steps: Steps, value: Any) -> None:
    fields = document(tmp_path / "whole", *COMPANION)
    change(fields, ("formula", *steps), value)
    with pytest.raises(NeglogError):
        export.load(put(tmp_path / "changed", fields))


def test_sides_of_one_table_agree(tmp_path: Path) -> None:
    """The state of `scale(x)` and the levels of `group` are the same wherever they are used."""
    for right, steps, value in [
        ("y ~ scale(x)", ("transforms", "scale(x)", "center"), scalar(0.25)),
        ("y ~ C(group, contr.poly)", ("levels", "C(group, contr.poly)", "list"), ["c", "a", "b"]),
    ]:
        fields = document(tmp_path / "whole", right, right.replace("y", "sigma", 1))
        export.load(put(tmp_path / "same", copy.deepcopy(fields)))
        change(fields, ("formula", "others", "sigma", *steps), value)
        with pytest.raises(DataError, match="differ between the sides"):
            export.load(put(tmp_path / "changed", fields))


FORMULAS = [
    *("x", "x + w", "0 + x", ".", ". - w", "log(x) + . - group", "x * group", "group:x", "group:C(k)"),
    *("C(k)", POLY, BS, CR, CC, SCALE, CENTER, STANDARDIZE, "poly(x, 3, raw=True)"),
    *("bs(x, knots=[2, 2.5], lower_bound=0, upper_bound=4)", "bs(x, 4, degree=2, extrapolation='extend')"),
    *("bs(x, df=5, include_intercept=True)", "bs(k, df=4)", "bs(log(x), df=4)", "cr(x, knots=[2.5, 2])"),
    *("cs(x, df=4)", "cr(x, 3, constraints=[[1, 0, 0, 0]])", "cr(x, df=3, cyclic=True)"),
    *("cc(x, 4, None, 0, 4)", "scale(poly(x, 2))", "scale(bs(x, df=4))", "center(cr(x, df=4))"),
    *("poly(scale(x), 2)", "scale(single)", "center(single)", "scale(x, center=2, scale=2.0)"),
    *("standardize(k)", "scale(flag)", "flag", "{~flag}", "{flag & (x > 2)}", "{k & 2}", "{(x + 1) ** -1}"),
    *("C(x > 2)", "C(k // 2)", "C(group == 'a')", "{group == 'a'}", "ordered", "C(ordered)", "single"),
    *("C(flag)", "hashed(group, levels=4)", "C(group, contr.sum)", "C(group, contr.poly)", "C(k, Diff)"),
    *("C(group, Helmert)", "C(group, contr.SAS)", "C(group, contr.treatment('b'))", "I(group)"),
    *("C(group, contr.custom([[1, 0], [0, 1], [-1, -1]]))", "C(k, levels=[3, 2, 1, 0])"),
    *("np.where(x > 2, x, 0)", "np.bitwise_and(k, 1)", "{(k & 1) * (w + 1) ** -1 * ~flag}"),
    *("poly(x, 2):group", "scale(x)*C(k)", "2:x", "np.exp(poly(x, 2))", "poly(x, 1) + I(x**2):flag"),
]


@pytest.mark.parametrize("right", FORMULAS)
def test_designs_of_all_transforms_come_back_to_the_last_bit(right: str) -> None:
    table = rows()
    design = learn(f"y ~ {right}", table, also=["sigma ~ scale(x) + group"]).design
    again = Design.from_json(json.loads(json.dumps(design.to_json())))
    for side, other in ((design.main, again.main), (design.shared, again.shared)):
        pd.testing.assert_frame_equal(side.design(table), other.design(table), check_exact=True)


def test_a_penalised_fit_has_the_loss_of_its_priors(tmp_path: Path) -> None:
    design = learn("y ~ x", rows()).design
    fit = map_estimate(models.gaussian, design.x(rows(), ("mean",), ("sigma",)), design.y(rows()))
    export.save(fit, tmp_path, formula=design)
    assert export.load(tmp_path).loss == fit.loss
    fields = json.loads((tmp_path / "model.json").read_text())
    del fields[documents.DIGEST]
    for name, value in [("loss", fit.nll), ("nll", fit.loss)]:
        with pytest.raises(DataError, match="log prior"):
            export.load(put(tmp_path / name, {**fields, name: value}))
    for version, loss in [("0.0.9", fit.loss + 1.0), ("0.0.9", fit.loss)]:  # other priors, perhaps
        export.load(put(tmp_path / "other", {**fields, "neglog": version, "loss": loss}))
    with pytest.raises(DataError, match="log prior"):
        export.load(put(tmp_path / "other", {**fields, "neglog": "0.0.9", "loss": fit.nll}))


def test_names_without_control_characters_come_back(tmp_path: Path) -> None:
    x = pd.DataFrame({"Größe\n(cm)\t": rows()["x"], "b\u00a0c": rows()["w"]})
    fit = mle(models.gaussian, x, rows()["y"])
    again = export.load(export.save(fit, tmp_path))
    assert again.columns == fit.columns
    assert torch.equal(predict(again, x).mean, predict(fit, x).mean)
    from neglog.errors import ModelError

    with pytest.raises(ModelError, match="without control characters"):
        export.save(mle(models.gaussian, x.set_axis(["a\x1b[31m", "b"], axis=1), rows()["y"]), tmp_path)


def test_a_companion_that_a_model_does_not_know_is_left_out_whole(tmp_path: Path) -> None:
    design = learn("y ~ x", rows(), also=["log_variance ~ x", "sigma ~ w"]).design
    known = design.known_to(("mean",), ("sigma",))
    assert known.also == ("sigma ~ w",)
    fit = mle(models.gaussian, known.x(rows(), ("mean",), ("sigma",)), known.y(rows()))
    assert export.load(export.save(fit, tmp_path, formula=known)).formula is not None


def test_an_estimate_at_the_end_of_its_support_is_refused(tmp_path: Path) -> None:
    """A dispersion of 0 was loaded, and predicted densities that are not numbers."""
    path = export.save(mle(models.inverse_gaussian, rows()[["w"]], rows()["x"]), tmp_path) / "model.json"
    fields = json.loads(path.read_text())
    del fields[documents.DIGEST]
    fields["params"]["dispersion"]["values"] = [0.0]
    with pytest.raises(DataError, match=r"`dispersion` is an end of its support: 0\.0"):
        export.load(put(tmp_path, fields))
