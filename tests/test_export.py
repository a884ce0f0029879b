"""Saved models: the same predictions to the last bit, and a refusal of everything else."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE
from torch import Tensor

import neglog
from neglog import Fit, export, map_estimate, mle, models, predict, with_priors
from neglog.errors import DataError, ModelError
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


@pytest.mark.parametrize("name", models.__all__)
@pytest.mark.parametrize("how", [mle, map_estimate])
def test_every_model_comes_back_to_the_last_bit(tmp_path: Path, name: str, how: Any) -> None:
    x, y = TABLE[name].sample(60, 2)
    keywords = TABLE[name].keywords(60)
    fit = how(TABLE[name].model, x, y, **keywords)
    again = export.load(export.save(fit, tmp_path / "deep" / "model"))
    assert isinstance(again, Fit)
    assert again.objective is None
    assert again.formula is None
    for key in ("nll", "loss", "converged", "status", "steps", "n", "k", "aic", "bic", "columns"):
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
    assert json.loads((tmp_path / "model.json").read_text())["model"]["keywords"] == {
        "dict": [["shift", 2.5]]
    }
    assert equal(predict(again, x), predict(fit, x))


def test_the_formula_comes_along(tmp_path: Path, table: pd.DataFrame) -> None:
    learned = learn("y ~ scale(x) + C(group)", table)
    design = learned.design
    fit = mle(models.gaussian, design.x(table, ("mean",)), design.y(table))
    again = export.load(export.save(fit, tmp_path, formula=design))
    assert again.formula is not None
    new = table.iloc[:4]
    assert equal(predict(again, again.formula.x(new, ("mean",))), predict(fit, design.x(new, ("mean",))))


def test_the_files_are_plain_and_hold_no_data(tmp_path: Path, fit: Fit) -> None:
    export.save(fit, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "params.safetensors"]
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["format"] == 1
    assert described["neglog"] == neglog.__version__
    assert described["model"] == {"name": "laplace", "keywords": {"dict": []}, "handlers": [{"flat": []}]}
    assert described["nll"] == fit.nll


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


def test_only_models_of_neglog_can_be_saved(tmp_path: Path, x: Tensor, y: Tensor) -> None:
    with pytest.raises(
        ModelError, match=r"only models of neglog\.models can be saved, and `my_model` is not one"
    ):
        export.save(mle(my_model, x, y), tmp_path / "a")

    def gaussian(x: Tensor, y: Tensor | None = None) -> Tensor:  # by the name of one of ours
        return my_model(x, y)

    with pytest.raises(ModelError, match=r"only models of neglog\.models can be saved"):
        export.save(mle(gaussian, x, y), tmp_path / "a")
    prior = {"mean.weight": dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)}
    with pytest.raises(ModelError, match="inside the handler WithPriors cannot be saved"):
        export.save(map_estimate(with_priors(models.gaussian, prior), x, y), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def damage(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"saved by neglog .*, and this is .*\. Upgrade neglog"),
        ({"format": "x"}, r"model\.json is not neglog's"),
        ({"model": {"name": "os.system", "keywords": {"dict": []}, "handlers": []}}, "no model `os.system`"),
        ({"model": {"name": "gaussian"}}, r"is damaged \(KeyError: 'keywords'\)"),
        (
            {"model": {"name": "gaussian", "keywords": {"dict": []}, "handlers": []}},
            "its estimates have the shapes",
        ),
        (
            {"model": {"name": "laplace", "keywords": {"dict": []}, "handlers": [{"x": 1}]}},
            "handler .* is unknown",
        ),
        ({"columns": {"": ["x0", "x1"]}}, "its estimates have the shapes"),
        ({"columns": 3}, "is damaged"),
        ({"formula": {"formula": "y ~ x"}}, "the saved formula is damaged"),
    ],
)
def test_a_damaged_description_is_refused(
    tmp_path: Path, fit: Fit, changes: dict[str, Any], message: str
) -> None:
    damage(export.save(fit, tmp_path), **changes)
    with pytest.raises(DataError, match=message):
        export.load(tmp_path)


def test_damaged_and_absent_files_are_refused(tmp_path: Path, fit: Fit) -> None:
    with pytest.raises(DataError, match=r"holds no saved model: it has no model\.json"):
        export.load(tmp_path)
    export.save(fit, tmp_path)
    whole = (tmp_path / "params.safetensors").read_bytes()
    (tmp_path / "params.safetensors").write_bytes(whole[:-3])
    with pytest.raises(DataError, match="is damaged"):
        export.load(tmp_path)
    (tmp_path / "params.safetensors").unlink()
    with pytest.raises(DataError, match="is damaged"):
        export.load(tmp_path)
    (tmp_path / "model.json").write_text("not json")
    with pytest.raises(DataError, match=r"is damaged \(JSONDecodeError"):
        export.load(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(DataError, match=r"model\.json is not neglog's"):
        export.load(tmp_path)


def test_an_estimate_off_its_support_is_refused(tmp_path: Path, fit: Fit) -> None:
    from safetensors.torch import save_file

    export.save(fit, tmp_path)
    save_file(
        {**fit.params, "scale": torch.tensor(-1.0, dtype=torch.float64)}, tmp_path / "params.safetensors"
    )
    with pytest.raises(DataError, match="the estimate of `scale` is outside its support"):
        export.load(tmp_path)
