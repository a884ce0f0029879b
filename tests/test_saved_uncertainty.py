"""Saved fits have the tables, tests and intervals of the fit, and name what needs the rows."""

import json
import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from table import fitted

from neglog import (
    Fit,
    covariance,
    export,
    interval,
    map_estimate,
    mle,
    models,
    predict,
    summary,
    wald_test,
    weighted,
)
from neglog.errors import DataError, ModelError
from neglog.export import documents
from neglog.uncertainty.covariances import CovType
from neglog.uncertainty.resampling import bootstrap

EQUAL = 1e-12
"""Relative difference of standard errors: a vector is read from its file, or back from the solver's."""
FORMAT_2 = Path(__file__).parent / "data" / "format-2"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(3)
    x, t = generator.uniform(1, 3, 40), generator.uniform(1, 2, 40)
    group = generator.choice(["a", "b", "c"], 40)
    return pd.DataFrame({"x": x, "t": t, "g": group, "c": generator.poisson(t * np.exp(0.3 * x))})


def edited(folder: Path, field: str, **changes: Any) -> Path:
    path = folder / "model.json"
    fields = json.loads(path.read_text())
    del fields[documents.DIGEST]
    fields[field] |= changes
    path.write_bytes(documents.encoded(fields))
    return folder


@pytest.mark.parametrize(
    ("how", "name"),
    [(mle, name) for name in models.__all__] + [(map_estimate, name) for name in ("beta", "gaussian")],
)
def test_a_loaded_fit_prints_the_same_table(tmp_path: Path, how: Any, name: str) -> None:
    fit = fitted(name, how)
    again = export.load(export.save(export.load(export.save(fit, tmp_path / "a")), tmp_path / "b"))
    expected, found = summary(fit), summary(again)
    pd.testing.assert_frame_equal(found, expected, rtol=EQUAL, atol=0)
    assert {key: found.attrs[key] for key in ("cov_type", "nll", "n", "k", "status")} == {
        key: expected.attrs[key] for key in ("cov_type", "nll", "n", "k", "status")
    }
    assert found.attrs.get("reason") == expected.attrs.get("reason")
    assert again.retained is not None
    assert again.retained.kinds or "reason" in expected.attrs
    for kind in again.retained.kinds:
        pd.testing.assert_frame_equal(covariance(again, kind), covariance(fit, kind), rtol=1e-9, atol=1e-15)  # type: ignore[arg-type]


def test_tests_intervals_and_uncertain_predictions_of_a_loaded_fit(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    fit = mle("poisson", "c ~ x + C(g)", table, exposure="t")
    again = export.load(export.save(fit, tmp_path))
    assert again.blueprint is not None
    assert again.blueprint.roles == {"exposure": "t"}
    for kind in ("observed", "HC1"):
        found = wald_test(again, "x = 0", cov_type=kind)  # type: ignore[arg-type]
        assert np.isclose(found.statistic, wald_test(fit, "x = 0", cov_type=kind).statistic, rtol=1e-10)  # type: ignore[arg-type]
    new = table.iloc[:5]
    pd.testing.assert_frame_equal(interval(again, new), interval(fit, new), rtol=1e-9)
    one, other = (predict(each, new, uncertainty=True, draws=16).mean for each in (again, fit))
    assert torch.allclose(one, other, rtol=1e-9, atol=0)


def test_labels_of_classes_come_back(tmp_path: Path, table: pd.DataFrame) -> None:
    for number, labels in enumerate((["low", "high", "mid"], [1, 2, 5], [True, False])):
        y = pd.Series(np.resize(labels, len(table)), name="k")
        model = models.categorical if len(labels) > 2 else models.bernoulli
        for part, arguments in enumerate([(table[["x"]], y), ("k ~ x", table.assign(k=y))]):
            fit = mle(model, *arguments)
            again = export.load(export.save(fit, tmp_path / f"{number}{part}"))
            assert again.classes == fit.classes
            assert len(fit.classes) == len(labels)


@pytest.mark.parametrize("kind", ["HC2", "HC3", "cluster", "bootstrap"])
def test_what_needs_the_rows_is_refused_by_name(tmp_path: Path, table: pd.DataFrame, kind: Any) -> None:
    again = export.load(export.save(mle("poisson", table[["x"]], table["c"]), tmp_path))
    groups = {"groups": table["g"]} if kind == "cluster" else {}
    with pytest.raises(DataError, match=f"cov_type='{kind}' needs the rows .* read from disk"):
        covariance(again, kind, **groups)
    with pytest.raises(DataError, match=r"interval='profile' needs the rows .* read from disk"):
        summary(again, interval="profile")
    with pytest.raises(DataError, match=r"`bootstrap` needs the rows .* read from disk"):
        bootstrap(again, 10)


def test_a_fit_without_standard_errors_keeps_the_reason(tmp_path: Path) -> None:
    fit = fitted("gaussian", mle)
    again = export.load(edited(export.save(fit, tmp_path), "uncertainty", covariances={}, reason="flat"))
    assert summary(again).attrs["reason"] == "flat"
    with pytest.raises(ModelError, match="flat"):
        covariance(again)


KINDS = [kind for kind in get_args(CovType) if kind != "bootstrap"]


def outcome(fit: Fit, kind: Any, groups: Any = None) -> tuple[str, Any]:
    """The covariance of a kind, or its error."""
    try:
        return "covariance", covariance(fit, kind, groups=groups).to_numpy()
    except (DataError, ModelError) as error:
        return str(error), None


@pytest.mark.parametrize(
    "how", ["poisson", "laplace", "categorical", "ordinal", "multivariate_gaussian", "map"]
)
def test_a_loaded_fit_has_each_covariance_of_the_fit_or_its_reason(tmp_path: Path, how: str) -> None:
    """What the fit had and a loaded one lacks is HC2 and HC3, which need the rows; `iid` is of corners."""
    fit = fitted("gaussian", map_estimate) if how == "map" else fitted(how, mle)
    again = export.load(export.save(export.load(export.save(fit, tmp_path / "a")), tmp_path / "b"))
    for kind in KINDS:
        said, expected = outcome(fit, kind)
        found, values = outcome(again, kind)
        if expected is not None and kind in ("HC2", "HC3"):
            assert f"cov_type='{kind}' needs the rows" in found
        elif expected is not None:
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-15, err_msg=kind)
        elif kind == "cluster" and "`groups`" in said:
            with pytest.raises((DataError, ModelError), match=r"saved without any|loss with corners|priors"):
                covariance(again, kind)
        else:
            assert found == said


def test_the_groups_of_a_fit_are_kept_in_its_covariance(tmp_path: Path, table: pd.DataFrame) -> None:
    fit = mle("poisson", "c ~ x", table, groups="g")
    again = export.load(export.save(fit, tmp_path))
    pd.testing.assert_frame_equal(covariance(again, "cluster"), covariance(fit, "cluster"), rtol=1e-9)
    pd.testing.assert_frame_equal(
        summary(again, cov_type="cluster"), summary(fit, cov_type="cluster"), rtol=1e-9
    )
    one, other = (predict(each, table[:3], uncertainty=True, cov_type="cluster") for each in (again, fit))
    assert torch.allclose(one.mean, other.mean, rtol=1e-9)
    with pytest.raises(DataError, match="needs the rows"):
        covariance(again, "cluster", groups=table["g"])


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_a_fit_without_an_optimum_has_one_reason_for_all_kinds(tmp_path: Path) -> None:
    y = torch.linspace(-1, 1, 30, dtype=torch.float64)
    fit = mle("student_t", torch.empty((30, 0), dtype=torch.float64), y)
    again = export.load(export.save(fit, tmp_path))
    assert not fit.converged
    for kind in (*KINDS, "bootstrap"):
        with pytest.raises((ModelError, DataError), match=r"without an optimum|without any"):
            covariance(again, kind)  # type: ignore[arg-type]


def test_weights_of_a_handler_are_left_with_the_rows(tmp_path: Path, table: pd.DataFrame) -> None:
    """A fit could be neither saved nor pickled, nor predict other rows, nor read a formula."""
    weights = 1.0 + np.arange(len(table)) % 3
    model = weighted(models.poisson, torch.tensor(weights))
    fit, same = mle(model, "c ~ x", table), mle("poisson", "c ~ x", table, weights=weights)
    new = table[:3]
    assert torch.allclose(predict(fit, new).mean, predict(same, new).mean, rtol=1e-9)
    for number, each in enumerate(
        (fit, mle(model, table[["x"]], table["c"]), mle(weighted(model, 2.0), "c ~ x", table))
    ):
        again = export.load(export.save(each, tmp_path / str(number)))
        for copy in (again, pickle.loads(pickle.dumps(each))):
            assert torch.equal(predict(copy, new[["x"]]).mean, predict(each, new[["x"]]).mean)
            pd.testing.assert_frame_equal(summary(copy), summary(each), rtol=EQUAL)
    with pytest.raises(DataError, match="40 weights for 39 rows"):
        mle(model, "c ~ x", table[1:])


def matrix(values: list[float], size: int = 2, dtype: str = "float64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size, size], "values": values}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"covariances": {"observed": matrix([1.0], 1)}}, "shape"),
        ({"covariances": {"observed": matrix([1.0, 0.5, 0.4, 1.0])}}, "symmetric"),
        ({"covariances": {"observed": matrix([1.0, 0.0, 0.0, -1.0])}}, "negative variance"),
        ({"covariances": {"observed": matrix([1.0, 2.0, 2.0, 1.0])}}, "positive semidefinite"),
        ({"covariances": {"observed": matrix([1.0, 1e200, 1e200, 0.0])}}, "positive semidefinite"),
        (
            {"covariances": {"observed": {**matrix([1, 0, 0, 1]), "values": [1, 0, 0, {"float": "inf"}]}}},
            "finite",
        ),
        ({"covariances": {"HC3": matrix([1.0, 0.0, 0.0, 1.0])}}, "no more than observed"),
        ({"covariances": {"kernel": matrix([1.0, 0.0, 0.0, 1.0])}}, "no more than observed"),
        ({"corners": True}, "no more than expected"),
        ({"corners": 1}, "true or false"),
        ({"coefficients": 3}, "at most 2"),
        ({"coefficients": -1}, "not negative"),
        ({"reason": "flat"}, "empty"),
        ({"reason": 3}, "must be text"),
        ({"reasons": {"HC9": "none"}}, "reasons"),
        ({"reasons": {"observed": "none"}}, "reasons"),
        ({"reasons": {"HC2": 3}}, "must be text"),
        ({"covariances": {"weights of the network": matrix([1.0, 0.0, 0.0, 1.0])}}, "no more than observed"),
        ({"more": 3}, "an object of"),
    ],
)
def test_a_covariance_that_no_fit_has_is_refused(
    tmp_path: Path, table: pd.DataFrame, changes: dict[str, Any], message: str
) -> None:
    fit = mle(models.poisson, table[["x"]], table["c"])
    edited(export.save(fit, tmp_path), "uncertainty", **changes)
    with pytest.raises(DataError, match=message):
        export.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": {"exposure": 3}}, "must be text"),
        ({"roles": {"trials": "t"}}, "blueprint.roles"),
        ({"dropped": -1}, "not negative"),
        ({"classes": ["a", "b"]}, "no different labels"),
        ({"labelled": "c"}, "labelled"),
        ({"more": 1}, "an object of"),
    ],
)
def test_roles_that_no_fit_has_are_refused(
    tmp_path: Path, table: pd.DataFrame, changes: dict[str, Any], message: str
) -> None:
    fit = mle("poisson", "c ~ x", table, exposure="t")
    edited(export.save(fit, tmp_path), "blueprint", **changes)
    with pytest.raises(DataError, match=message):
        export.load(tmp_path)


@pytest.mark.parametrize(
    "labels", [["a"], ["a", "a", "b"], ["a", "b", {"float": "nan"}], ["a", "b", None], 3]
)
def test_labels_that_no_fit_has_are_refused(tmp_path: Path, table: pd.DataFrame, labels: Any) -> None:
    fit = mle(models.categorical, table[["x"]], table["g"])
    edited(export.save(fit, tmp_path), "blueprint", classes=labels)
    with pytest.raises(DataError, match=r"blueprint\.classes"):
        export.load(tmp_path)


def test_models_of_format_2_predict_what_they_did() -> None:
    expected = json.loads((FORMAT_2 / "expected.json").read_text())
    new = pd.DataFrame(expected["table"])
    formula, designs, classes = (export.load(FORMAT_2 / name) for name in ("formula", "designs", "classes"))
    both = {"mean": new[["x"]], "sigma": new[["x"]]}
    found = {
        "formula": predict(formula, new, exposure=new["t"].to_numpy()).mean,
        "designs": predict(designs, both).stddev,
        "classes": predict(classes, new[["x"]]).probs,
    }
    for name, values in found.items():
        assert torch.allclose(values, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-12), name
    assert "read from disk" in summary(designs).attrs["reason"]
