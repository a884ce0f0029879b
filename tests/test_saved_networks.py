"""Networks and models of one's own on disk: numbers and names alone; the caller of `load` gives the code."""

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from neglog import (
    Fit,
    covariance,
    export,
    flat,
    interval,
    laplace_approximation,
    load,
    map_estimate,
    masked,
    mle,
    models,
    on_features,
    predict,
    save,
    scores,
    summary,
    to_arviz,
    with_priors,
)
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.predictors import linear, rows
from neglog.solvers import LBFGS, Adam

X = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -0.5]])
Y = X[:, 0] ** 2 + 0.1 * torch.sin(30 * X[:, 0])
FORMAT_3 = Path(__file__).parent / "data" / "format-3"
FORMAT_4 = Path(__file__).parent / "data" / "format-4"
pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")


def tanh(units: int = 3, columns: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, units), nn.Tanh())


def normed(units: int = 3) -> nn.Module:
    """With running statistics, which are learned in training mode, and a frozen layer."""
    frozen = nn.Linear(2, 2).requires_grad_(False)
    return nn.Sequential(frozen, nn.Linear(2, units), nn.BatchNorm1d(units), nn.Tanh(), nn.Dropout(0.1))


def convolved() -> nn.Module:
    """Weights of three dimensions, and a buffer with infinite entries."""
    made = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Tanh())
    made.register_buffer("mask", torch.tensor([-torch.inf, 0.0]))
    return made


def fitted(module: nn.Module, model: Callable[..., Any] = models.gaussian, **options: Any) -> Fit:
    options = {"solver": Adam(steps=8, batch_size=8)} | options
    return map_estimate(on_features(model, module), X, Y, **options)


def own(x: Tensor, y: Tensor | None = None, power: float = 1.0) -> Tensor:
    """A model of one's own."""
    mean = linear("mean", x)
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0, dtype=x.dtype), 1.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale**power), obs=y)


def of_logarithms(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A model that cannot be evaluated at a row of zeros."""
    slope = pyro.sample("slope", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 10.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(slope * x[:, 0].log(), 0.5), obs=y)


@pytest.mark.parametrize(
    ("make", "dtype"), [(tanh, torch.float64), (normed, torch.float32), (convolved, torch.float64)]
)
def test_a_network_predicts_the_same_numbers(tmp_path: Path, make: Callable[[], Any], dtype: Any) -> None:
    fit = fitted(make(), solver=Adam(steps=8, batch_size=8, dtype=dtype))
    save(fit, tmp_path)
    fresh = make()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    for again in (load(tmp_path, module=fresh), load(tmp_path, model=on_features(models.gaussian, fresh))):
        assert torch.equal(predict(again, X).mean, predict(fit, X).mean)
        assert torch.equal(predict(again, X).stddev, predict(fit, X).stddev)
        assert torch.equal(scores(again, X, Y), scores(fit, X, Y))
        assert all(torch.equal(again.buffers[name], value) for name, value in fit.buffers.items())
        assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    twice = load(save(again, tmp_path / "twice"), module=make())
    assert torch.equal(predict(twice, X).mean, predict(fit, X).mean)


def test_networks_of_their_own_for_two_predictors(tmp_path: Path) -> None:
    def modules() -> dict[str, nn.Module]:
        return {"mean": tanh(3), "log_variance": tanh(2)}

    fit = fitted(modules(), models.heteroscedastic)  # type: ignore[arg-type]
    save(fit, tmp_path)
    again = load(tmp_path, module=modules())
    assert torch.equal(predict(again, X).variance, predict(fit, X).variance)
    other = {**modules(), "mean": tanh(4)}
    with pytest.raises(ModelError, match=r"`trunk\.mean\.0\.weight` has the shape \(3, 2\).*\(4, 2\)"):
        load(tmp_path, module=other)


def test_without_its_network_a_fit_names_what_it_needs(tmp_path: Path) -> None:
    save(fitted(tanh()), tmp_path)
    with pytest.raises(
        ModelError, match=r"`0\.weight` \(3, 2\), `0\.bias` \(3,\).*load\(folder, module=\.\.\.\)"
    ):
        load(tmp_path)


def bigger_statistics() -> nn.Module:
    """A BatchNorm with a buffer of another shape."""
    made: Any = normed()
    made[2].running_mean = torch.zeros(4)
    return made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: normed(4), r"parameter `trunk\.1\.weight` has the shape \(3, 2\) in the file, and \(4, 2\)"),
        (tanh, r"parameter `trunk\.1\.bias` of shape \(3,\), and the network has none"),
        (
            lambda: nn.Sequential(*normed(), nn.Linear(3, 3)),
            r"parameter `trunk\.5\.weight` of shape \(3, 3\)",
        ),
        (lambda: normed().double(), r"`trunk\.\S+` was float32.*float64"),
        (bigger_statistics, r"buffer `trunk\.2\.running_mean` has the shape \(3,\) in the file, and \(4,\)"),
        (lambda: normed().requires_grad_(True), r"parameter `trunk\.0\.weight` of shape \(2, 2\)"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, make: Callable[[], nn.Module], said: str) -> None:
    save(fitted(normed()), tmp_path)
    with pytest.raises(ModelError, match=said):
        load(tmp_path, module=make())


def test_buffers_of_another_dtype_are_refused(tmp_path: Path) -> None:
    save(fitted(convolved()), tmp_path)
    other = convolved()
    other.register_buffer("mask", torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"`trunk\.mask` was float32.*float64"):
        load(tmp_path, module=other)


def test_a_network_with_a_prior_of_its_own_is_given_with_its_model(tmp_path: Path) -> None:
    def prior(value: Tensor) -> Any:
        return dist.Normal(0.0, 2.0 * torch.ones_like(value))

    def net(units: int = 3) -> Any:
        return on_features(models.gaussian, tanh(units), prior=prior)

    fit = mle(net(), X, Y, solver=LBFGS(max_steps=3))
    save(fit, tmp_path)
    with pytest.raises(ModelError, match="model="):
        load(tmp_path, module=tanh())
    assert torch.equal(predict(load(tmp_path, model=net()), X).mean, predict(fit, X).mean)
    with pytest.raises(
        ModelError, match=r"`trunk\.0\.weight` has the shape \(3, 2\) in the file, and \(4, 2\)"
    ):
        load(tmp_path, model=net(4))


def test_what_needs_the_rows_is_refused_by_name(tmp_path: Path) -> None:
    save(fitted(tanh()), tmp_path)
    again = load(tmp_path, module=tanh())
    with pytest.raises(DataError, match=r"`laplace_approximation` needs the rows"):
        laplace_approximation(again)
    with pytest.raises(DataError, match="`to_arviz` needs the rows"):
        to_arviz(again)
    with pytest.raises(DataError, match=r"cov_type='HC3' needs the rows"):
        covariance(load(save(mle(own, X[:, :1], Y), tmp_path / "own"), model=own), "HC3")


def test_the_heads_of_a_network_keep_their_standard_errors(tmp_path: Path) -> None:
    fit = map_estimate(on_features(models.gaussian, tanh(1, columns=1)), X[:, :1], Y)
    save(fit, tmp_path)
    again = load(tmp_path, module=tanh(1, columns=1))
    pd.testing.assert_frame_equal(summary(again), summary(fit), rtol=1e-12)


@pytest.mark.parametrize("given", [own, partial(own, power=2.0), masked(own)])
def test_a_model_of_ones_own_may_be_given_bare_or_as_fitted(tmp_path: Path, given: Any) -> None:
    model = masked(partial(own, power=2.0))
    fit = mle(model, X[:, :1], Y)
    save(fit, tmp_path)
    given = model if given is not own and not isinstance(given, partial) else given
    again = load(tmp_path, model=given)
    assert torch.equal(predict(again, X[:, :1]).mean, predict(fit, X[:, :1]).mean)
    pd.testing.assert_frame_equal(summary(again), summary(fit), rtol=1e-12)


def test_a_model_that_fails_at_zero_is_saved(tmp_path: Path) -> None:
    x = X[:, :1].abs() + 0.5
    fit = mle(of_logarithms, x, Y)
    assert torch.equal(predict(load(save(fit, tmp_path), model=of_logarithms), x).mean, predict(fit, x).mean)


def other_sites(x: Tensor, y: Tensor | None = None) -> Any:
    """A model of other parameters than `own`."""
    return models.student_t(x, y)


def two_scales(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A model with the names of `own`, and a scale of another shape."""
    mean = linear("mean", x)
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale[0]), obs=y)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (two_scales, r"`scale` has the shape \(\); the model needs the shape \(2,\)"),
        (other_sites, "the model needs"),
        (partial(own, power=2.0), r"power=2\.0"),
        (masked(own), "handlers"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, given: Any, said: str) -> None:
    save(mle(own, X[:, :1], Y), tmp_path)
    with pytest.raises(ModelError, match=said):
        load(tmp_path, model=given)


def test_models_and_networks_that_are_not_needed_are_compared(tmp_path: Path) -> None:
    save(mle(models.gaussian, X[:, :1], Y), tmp_path)
    assert load(tmp_path, model="gaussian").converged
    with pytest.raises(ModelError, match="the fit is of `gaussian`, and `model` is `laplace`"):
        load(tmp_path, model="laplace")
    with pytest.raises(ModelError, match="leave `module` out"):
        load(tmp_path, module=tanh())


def test_other_priors_than_those_of_the_fit_are_refused(tmp_path: Path) -> None:
    def lasso(scale: float) -> Any:
        prior = dist.Normal(torch.zeros((), dtype=torch.float64), scale)
        return flat(with_priors(own, {"mean.weight": prior}), "mean.bias")

    fit = map_estimate(lasso(0.1), X[:, :1], Y)
    save(fit, tmp_path)
    assert load(tmp_path, model=lasso(0.1)).loss == fit.loss
    with pytest.raises(ModelError, match="log prior"):
        load(tmp_path, model=lasso(0.2))


def test_the_file_of_a_network_has_no_code(tmp_path: Path) -> None:
    save(fitted(normed()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert b"Linear" not in (tmp_path / "model.json").read_bytes()


def test_models_of_format_3_predict_what_they_did() -> None:
    expected = json.loads((FORMAT_3 / "expected.json").read_text())
    new = pd.DataFrame(expected["table"])
    formula, designs, classes = (export.load(FORMAT_3 / name) for name in ("formula", "designs", "classes"))
    both = {"location": new[["x"]], "scale": new[["x"]]}
    found = {
        "formula": predict(formula, new).mean,
        "designs": predict(designs, both).stddev,
        "classes": predict(classes, new).probs,
        "errors": torch.tensor(summary(formula)["std_error"].to_numpy()),
    }
    for name, values in found.items():
        assert torch.allclose(values, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-12), name


def test_a_folder_of_a_newer_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save(mle(models.gaussian, X[:, :1], Y), tmp_path) / "model.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"format": fields["format"] + 1, "neglog": "99.0"}))
    with pytest.raises(
        DataError, match=r"^`\S+` was saved by neglog 99\.0, and this is \S+; upgrade neglog\.$"
    ):
        load(tmp_path)


def test_a_network_of_a_formula_reads_tables_again(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "g": ["u", "v"] * 12, "y": Y})
    model = on_features(models.heteroscedastic, tanh(columns=3))
    fit = mle(model, "y ~ a + b + g", table, solver=Adam(epochs=2))
    found = load(save(fit, tmp_path), module=tanh(columns=3))
    assert torch.equal(predict(found, table).mean, predict(fit, table).mean)
    assert torch.equal(scores(found, table), scores(fit, table))


def test_features_that_depend_on_each_other_are_no_hindrance(tmp_path: Path) -> None:
    """Nothing tells their coefficients apart, so there are no standard errors; the estimates are kept."""
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    with torch.no_grad():
        module[0].bias[0] = -1e3  # type: ignore[union-attr]
    fit = mle(on_features(models.gaussian, module), X, Y, solver=Adam(epochs=2))
    found = load(save(fit, tmp_path), module=module)
    assert torch.equal(predict(found, X).mean, predict(fit, X).mean)
    with pytest.raises(ModelError):
        covariance(found)


def test_models_of_format_4_predict_what_they_did() -> None:
    expected = json.loads((FORMAT_4 / "expected.json").read_text())
    new = pd.DataFrame(expected["table"])
    module = tanh(2, columns=1).double()
    formula, classes = (export.load(FORMAT_4 / name) for name in ("formula", "classes"))
    network = export.load(FORMAT_4 / "network", module=module)
    found = {
        "formula": predict(formula, new).mean,
        "classes": predict(classes, new).probs,
        "network": predict(network, new[["x"]]).mean,
        "errors": torch.tensor(summary(formula)["std_error"].to_numpy()),
    }
    for name, values in found.items():
        assert torch.allclose(values, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-12), name
    with pytest.raises(DataError, match="weights of a network"):
        predict(network, new[["x"]], uncertainty=True)


def test_a_loaded_network_predicts_with_its_uncertainty(tmp_path: Path) -> None:
    fit = map_estimate(on_features(models.gaussian, tanh(1, columns=1)), X[:, :1], Y)
    assert fit.converged
    save(load(save(fit, tmp_path / "a"), module=tanh(1, columns=1)), tmp_path / "b")
    again = load(tmp_path / "b", module=tanh(1, columns=1))
    new = X[:5, :1]
    one, other = (predict(each, new, uncertainty=True) for each in (again, fit))
    assert torch.allclose(one.stddev, other.stddev, rtol=1e-9)
    assert torch.allclose(pickle.loads(pickle.dumps(fit)).params["sigma"], fit.params["sigma"])
    pd.testing.assert_frame_equal(interval(again, new), interval(fit, new), rtol=1e-9)
    assert "weights of the network" not in again.retained.kinds  # type: ignore[union-attr]


def test_a_loaded_network_has_the_reason_of_the_fit_without_uncertainty(tmp_path: Path) -> None:
    for solver in (LBFGS(max_steps=2), Adam(epochs=1)):
        fit = map_estimate(on_features(models.gaussian, tanh()), X, Y, solver=solver)
        again = load(save(fit, tmp_path), module=tanh())
        with pytest.raises(ModelError) as of_fit:
            predict(fit, X, uncertainty=True)
        with pytest.raises(ModelError) as of_loaded:
            predict(again, X, uncertainty=True)
        assert str(of_loaded.value) == str(of_fit.value)


def test_a_module_without_values_is_named(tmp_path: Path) -> None:
    save(fitted(tanh()), tmp_path)
    with torch.device("meta"):
        bare = tanh()
    for call in (lambda: load(tmp_path, module=bare), lambda: on_features("gaussian", bare)):
        with pytest.raises(ModelError, match=r"`0\.weight`.*meta device"):
            call()


class Two(nn.Module):
    """A module with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(1, 3)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return torch.tanh(self.left(u) + self.right(v))


def test_a_module_with_several_inputs_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = {"u": torch.rand(20, 2, dtype=torch.float64), "v": torch.rand(20, 1, dtype=torch.float64)}
    with pytest.warns(ConvergenceWarning):
        fit = mle(on_features(models.gaussian, Two().double()), x, x["v"][:, 0], solver=Adam(steps=3))
    again = load(save(fit, tmp_path), module=Two().double())
    for found in (again, pickle.loads(pickle.dumps(fit))):
        assert torch.equal(predict(found, x).mean, predict(fit, x).mean)
