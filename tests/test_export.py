"""Saved models: the same predictions to the last bit, and a refusal of everything else."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE, fitted
from torch import Tensor

import neglog
from neglog import Fit, export, map_estimate, mle, models, predict, with_priors
from neglog.errors import DataError, ModelError
from neglog.export import documents
from neglog.formula import learn

N = 25


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(2)
    x = generator.uniform(1, 3, N)
    return pd.DataFrame(
        {"x": x, "group": generator.choice(["a", "b"], N), "y": x + generator.normal(size=N) / 3}
    )


@pytest.fixture(scope="module")
def x(table: pd.DataFrame) -> Tensor:
    return torch.tensor(table[["x"]].to_numpy())


@pytest.fixture(scope="module")
def y(table: pd.DataFrame) -> Tensor:
    return torch.tensor(table["y"].to_numpy())


@pytest.fixture
def fit(x: Tensor, y: Tensor) -> Fit:
    return mle(models.laplace, x, y)


def equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in first.arg_constraints
    )


@pytest.mark.parametrize(
    ("how", "name"),
    [(mle, name) for name in models.__all__]
    + [(map_estimate, name) for name in ("gaussian", "laplace", "beta")],
)
def test_every_model_comes_back_to_the_last_bit(tmp_path: Path, name: str, how: Any) -> None:
    (x, _), keywords = TABLE[name].sample(), TABLE[name].keywords()
    fit = fitted(name, how)
    again = export.load(export.save(fit, tmp_path / "deep" / "model"))
    assert isinstance(again, Fit)
    assert again.objective is None
    assert again.formula is None
    for key in ("nll", "loss", "converged", "status", "n_iter", "n", "k", "aic", "bic", "columns"):
        assert getattr(again, key) == getattr(fit, key), key
    assert set(again.params) == set(fit.params)
    assert all(torch.equal(again.params[site], fit.params[site]) for site in fit.params)
    assert equal(predict(again, x, **keywords), predict(fit, x, **keywords))


def test_designs_by_predictor_keep_their_columns(tmp_path: Path, table: pd.DataFrame, y: Tensor) -> None:
    designs = {"mean": table[["x"]], "sigma": table[["x"]] ** 2}
    fit = mle(models.gaussian, designs, y)
    again = export.load(export.save(fit, tmp_path))
    assert again.columns == {"mean": ("x",), "sigma": ("x",)}
    assert set(again.params) == {"mean.weight", "mean.bias", "log_sigma.weight", "log_sigma.bias"}
    assert equal(predict(again, designs), predict(fit, designs))


def test_what_was_conditioned_stays_fixed(tmp_path: Path, x: Tensor, y: Tensor) -> None:
    half = torch.tensor(0.5, dtype=torch.float64)
    fit = mle(pyro.condition(models.gaussian, {"mean.bias": half}), x, y)
    again = export.load(export.save(fit, tmp_path))
    assert set(again.params) == {"mean.weight", "sigma"}
    assert again.k == 2
    assert equal(predict(again, x), predict(fit, x))
    at_zero = predict(again, torch.zeros(1, 1, dtype=torch.float64)).mean
    assert torch.equal(at_zero, half[None])


def test_bound_keywords_come_back(
    tmp_path: Path, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(x: Tensor, y: Tensor | None = None, shift: float = 0.0) -> Tensor:
        mean = neglog.predictors.linear("mean", x) + shift
        with neglog.predictors.rows(x):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    monkeypatch.setattr(models, "shifted", shifted, raising=False)
    monkeypatch.setattr(models, "__all__", [*models.__all__, "shifted"])
    fit = mle(partial(shifted, shift=2.5), x, y)
    again = export.load(export.save(fit, tmp_path))
    assert json.loads((tmp_path / "model.json").read_text())["model"]["keywords"] == {"shift": 2.5}
    assert equal(predict(again, x), predict(fit, x))


def test_the_formula_comes_along(tmp_path: Path, table: pd.DataFrame) -> None:
    learned = learn("y ~ scale(x) + C(group)", table)
    design = learned.design
    fit = mle(models.gaussian, design.x(table, ("mean",)), design.y(table))
    again = export.load(export.save(fit, tmp_path, formula=design))
    assert again.formula is not None
    new = table.iloc[:4]
    assert equal(predict(again, again.formula.x(new, ("mean",))), predict(fit, design.x(new, ("mean",))))


def test_the_file_is_plain_and_holds_no_data(tmp_path: Path, fit: Fit) -> None:
    export.save(fit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["format"] == 5
    assert described["neglog"] == neglog.__version__
    handlers = [{"flat": []}]
    assert described["model"] == {"source": "neglog", "name": "laplace", "keywords": {}, "handlers": handlers}
    assert described["params"]["location.weight"]["values"] == fit.params["location.weight"].tolist()
    assert described["nll"] == fit.nll


FORMAT_1 = Path(__file__).parent / "data" / "format-1"


def test_models_of_format_1_predict_what_they_did() -> None:
    expected = json.loads((FORMAT_1 / "expected.json").read_text())
    x = torch.tensor(expected["columns"], dtype=torch.float64)
    for name, means in expected["means"].items():
        saved = export.load(FORMAT_1 / name)
        design = x if saved.formula is None else saved.formula.x(pd.DataFrame(expected["x"]), ("mean",))
        rows = {key: torch.ones(3, dtype=torch.float64) for key in saved.keywords}
        found = predict(saved, design, **rows).mean
        assert torch.allclose(found, torch.tensor(means, dtype=torch.float64), rtol=1e-12, atol=0), name


def test_a_model_of_format_1_is_replaced_whole(tmp_path: Path, fit: Fit) -> None:
    shutil.copytree(FORMAT_1 / "handlers", tmp_path, dirs_exist_ok=True)
    export.save(fit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert set(export.load(tmp_path).params) == set(fit.params)


def test_a_model_is_replaced_and_nothing_else_is(tmp_path: Path, fit: Fit, x: Tensor, y: Tensor) -> None:
    export.save(fit, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    export.save(mle(models.gaussian, x, y), tmp_path)
    assert set(export.load(tmp_path).params) == {"mean.weight", "mean.bias", "sigma"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["thesis.txt", "model.json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, fit: Fit, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="is not empty and holds no neglog model"):
        export.save(fit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(DataError, match=r"is a file\. Name a folder"):
        export.save(fit, tmp_path / name)


def my_model(x: Tensor, y: Tensor | None = None) -> Tensor:
    return models.gaussian(x, y)


def test_only_models_of_neglog_are_loaded_alone(tmp_path: Path, x: Tensor, y: Tensor) -> None:
    def gaussian(x: Tensor, y: Tensor | None = None) -> Tensor:  # by the name of one of ours
        return my_model(x, y)

    prior = {"mean.weight": dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)}
    for number, model in enumerate((my_model, gaussian, with_priors(models.gaussian, prior))):
        fit = map_estimate(model, x, y)
        folder = export.save(fit, tmp_path / str(number))
        with pytest.raises(ModelError, match=r"load\(folder, model=\.\.\.\)"):
            export.load(folder)
        assert equal(predict(export.load(folder, model=model), x), predict(fit, x))


def edited(folder: Path, **changes: Any) -> None:
    """Change fields of a saved model, with the digest of what comes of it."""
    path = folder / "model.json"
    fields = json.loads(path.read_text()) | changes
    path.write_bytes(documents.encoded({name: fields[name] for name in fields if name != documents.DIGEST}))


def described(name: str, **changes: Any) -> dict[str, Any]:
    plain = {"source": "neglog", "name": name, "keywords": {}, "handlers": [{"flat": []}]}
    return {"model": {**plain, **changes}}


def array(values: Any, shape: list[int], dtype: str = "float64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "values": values}


def scale(value: Any, **changes: Any) -> dict[str, Any]:
    """The parameters of `laplace` with another scale."""
    params = {"location.weight": array([1.0], [1]), "location.bias": array([0.0], [])}
    return {"params": {**params, "scale": array([value], []), **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 6}, r"saved by neglog .*, and this is .*; upgrade neglog"),
        ({"format": "x"}, r"model\.json is not neglog's"),
        ({"format": True}, r"model\.json is not neglog's"),
        (described("os.system"), "no model 'os.system'"),
        ({"model": {"name": "gaussian"}}, "`model` must be an object of handlers, keywords, name"),
        (described("gaussian"), "its estimates have the shapes"),
        (described("laplace", handlers=[{"x": 1}]), "handler .* is unknown"),
        (described("laplace", handlers=[{"flat": ["absent"]}]), "`flat` was given 'absent'"),
        (described("laplace", handlers=[{"condition": {"y": array([0.0], [])}}]), "fixed that are not"),
        (described("laplace", handlers=[{"censored": {"lower": 2.0, "upper": 1.0}}]), "lower < upper"),
        (described("laplace", keywords={"df": 4.0}), "`model.keywords` must be"),
        (described("categorical", keywords={"classes": 10**9}), "`model.keywords.classes` must be at most"),
        ({"columns": {"": ["x0", "x1"]}}, r"`location\.weight` has the shape \(1,\); .* \(2,\)"),
        ({"columns": {"location": ["x0"], "nope": ["x0"]}}, "`columns` must be .*designs for no more than"),
        ({"columns": {"": ["x0", "x0"]}}, "a list of different names"),
        ({"columns": {}}, "`columns` must be"),
        ({"columns": 3}, "`columns` must be an object; it is 3"),
        ({"responses": True}, "`responses` must be a list; it is True"),
        ({"responses": ["a"]}, "`responses` must be the names of no components"),
        ({"outputs": {"location": ["a"]}}, "`outputs` must be"),
        ({"row_keywords": ["exposure"]}, "exposure"),
        ({"formula": {"formula": "y ~ x"}}, "the saved formula is damaged"),
        ({"converged": 1}, "`converged` must be true or false"),
        ({"nll": {"float": "nan"}}, "`nll` must be finite, for a fit that converged"),
        ({"n": 0}, "`n` must be a positive number"),
        ({"k": 4}, "`k` must be 3"),
        ({"k": 2}, "`k` must be 3"),
        ({"steps": -1}, "`steps` must be a whole number, not negative"),
        ({"more": 1}, "lacks fields or has others"),
        (scale(-1.0), "the estimate of `scale` is outside its support"),
        (scale(0.0), "the estimate of `scale` is an end of its support"),
        (scale({"float": "inf"}), "`params.scale.values` must be finite"),
        (scale("1.0"), "`params.scale.values` must be a number; it is '1.0'"),
        (scale(1.0, **{"location.weight": array([1.0], [1, 1])}), r"has the shape \(1, 1\)"),
        (scale(1.0, **{"location.weight": array([1.0], [1], "float32")}), "its estimates need one dtype"),
        (scale(1.0, **{"location.weight": array([1.0], [1], "int64")}), "must be float32 or float64"),
        (scale(1.0, **{"location.weight": array([1.0], [2])}), "the shape of its 1 values"),
    ],
)
def test_a_description_that_no_fit_has_is_refused(
    tmp_path: Path, fit: Fit, changes: dict[str, Any], message: str
) -> None:
    edited(export.save(fit, tmp_path), **changes)
    with pytest.raises(DataError, match=message):
        export.load(tmp_path)


DEEP = 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"[]", "it is JSON of something else"),
        (b"\xff{}", "it is not JSON"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b'{"a": 1e999}', "which is not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "which is too large"),
        (b'{"format": 2, "format": 2}', "the field 'format' twice"),
        (b'{"a": "\\ud800"}', "it is not JSON"),
        (b'{"a": ' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
        (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as found:
        export.load(tmp_path)
    assert len(str(found.value)) < 500


def test_absent_files_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1 / "handlers", tmp_path / "old")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "old" / "model.json"):
        with pytest.raises(DataError, match=r"holds no saved model: it has no model\.json"):
            export.load(folder)
    whole = (tmp_path / "old" / "params.safetensors").read_bytes()
    for content in (whole[:-3], b"", (2**62).to_bytes(8, "little") + whole[8:]):
        (tmp_path / "old" / "params.safetensors").write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            export.load(tmp_path / "old")
    (tmp_path / "old" / "params.safetensors").unlink()
    with pytest.raises(DataError, match=r"params\.safetensors is missing"):
        export.load(tmp_path / "old")


@pytest.mark.parametrize("name", ["model.json", "params.safetensors"])
def test_pipes_folders_and_devices_are_no_models(tmp_path: Path, name: str) -> None:
    shutil.copytree(FORMAT_1 / "handlers", tmp_path, dirs_exist_ok=True)
    path = tmp_path / name
    for put in (os.mkfifo, os.mkdir, partial(os.symlink, "/dev/zero")):
        path.rmdir() if path.is_dir() else path.unlink()
        put(path)
        with pytest.raises(DataError, match=f"`{name}` is not a regular file"):
            export.load(tmp_path)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "model.json", "wb") as file:
        file.truncate(2**40)  # of zeros, which take no place on the disk
    with pytest.raises(DataError, match="is larger than"):
        export.load(tmp_path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, fit: Fit) -> None:
    for value in (torch.inf, 0.0, -1.0):
        wrong = replace(fit, params={**fit.params, "scale": torch.tensor(value, dtype=torch.float64)})
        with pytest.raises(ModelError, match="cannot be saved"):
            export.save(wrong, tmp_path / "a")
    bound = replace(fit, model=partial(models.student_t, df=torch.tensor(4.0)))
    with pytest.raises(ModelError, match=r"the keyword `df` cannot be saved: it is a Tensor"):
        export.save(bound, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_columns_that_the_formula_does_not_make_are_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    """The coefficients of two columns would change places, and predictions with them."""
    design = learn("y ~ scale(x) + C(group)", table).design
    fit = mle(models.gaussian, design.x(table, ("mean",)), design.y(table))
    export.save(fit, tmp_path, formula=design)
    edited(tmp_path, columns={"": list(reversed(fit.columns[""]))})
    with pytest.raises(DataError, match="columns"):
        export.load(tmp_path)


def test_hundreds_of_handlers_are_refused_before_one_is_built(tmp_path: Path, fit: Fit) -> None:
    """Each handler runs around all inside it: 1,500 took eight seconds, and 100,000 minutes."""
    export.save(fit, tmp_path)
    edited(tmp_path, model=described("laplace", handlers=[{"flat": []}] * 1500))
    with pytest.raises(DataError, match="handlers"):
        export.load(tmp_path)
