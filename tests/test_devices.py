"""Where and how gradient steps are taken: devices, lower precision, compilation; and laws of minibatches."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neglog
from neglog import Fit, mle, on_features, predict
from neglog.errors import ConvergenceWarning, DataError
from neglog.fitting.choice import problem_of
from neglog.fitting.pipeline import Posed, posed
from neglog.fitting.surrogates import parts_of
from neglog.handlers import flattened
from neglog.solvers import SGD, Adam, Optimiser
from neglog.solvers.gradient import GradientSteps
from neglog.training_objectives import inside

torch.manual_seed(0)
X = torch.randn(60, 3, dtype=torch.float64)
Y = X[:, 0] - 0.5 * X[:, 1] + 0.3 * torch.randn(60, dtype=torch.float64)
RESPONSES = {
    "heteroscedastic": Y,
    "student_t": Y,
    "poisson": Y.abs().round(),
    "gamma": Y.abs() + 0.1,
    "categorical": (Y > 0).long() + (Y > 0.8).long(),
}
LAYERS: dict[str, tuple[nn.Module, ...]] = {
    "plain": (),
    "dropout": (nn.Dropout(0.2), nn.BatchNorm1d(5)),
}


def network(model: Any = "heteroscedastic", *more: nn.Module) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return on_features(model, nn.Sequential(nn.Linear(3, 5), *more, nn.Tanh()).double())


def quietly(model: Any, solver: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mle(model, X, Y, solver=solver)


def problem(model: Any, y: Tensor, solver: Any) -> tuple[Any, Tensor, Posed]:
    found = posed(mle, model, X, y, None, solver, None, {})
    coordinates, own = problem_of(found.coordinates, getattr(found.solver, "solver", found.solver))
    return own, coordinates.z(found.theta), found


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", RESPONSES)
def test_a_step_on_a_device_has_all_tensors_there_and_reads_none(
    name: str, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the device "meta", whose tensors have no numbers: to read one, or to mix devices, is an error."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("neglog") and "check_dense" in vars(module):
            monkeypatch.setattr(module, "check_dense", lambda *_: None)
    solver = Adam(epochs=2, batch_size=16, dtype=torch.float32, max_norm=1.0, ema_decay=0.9)
    own, z, _ = problem(flattened(network(name, *LAYERS[layers])), RESPONSES[name], solver)
    taken: list[bool] = []
    with suppress(NotImplementedError), own.placed("meta", None, 0), own.training(0):  # nothing comes back
        for rule in (solver, SGD(epochs=2, batch_size=16, dtype=torch.float32)):
            steps = GradientSteps(rule, own, torch.empty(len(z), device="meta"))
            for batch in own.batches(16, 2, 0):
                assert steps.step(batch).is_meta
            taken.append(steps.z.is_meta)
    assert taken == [True, True]


@pytest.mark.parametrize("layers", LAYERS)
def test_the_cpu_by_name_gives_the_same_bits(layers: str) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "validation": 0.2}
    plain, named = (
        quietly(network("heteroscedastic", *LAYERS[layers]), Adam(**settings, **more))
        for more in ({}, {"device": "cpu"})
    )
    assert named.losses == plain.losses
    assert named.held_out == plain.held_out
    assert all(torch.equal(named.params[name], value) for name, value in plain.params.items())
    assert all(torch.equal(named.buffers[name], value) for name, value in plain.buffers.items())
    assert {value.device.type for value in named.params.values()} == {"cpu"}


@pytest.mark.parametrize("layers", LAYERS)
def test_autocast_lowers_the_precision_of_the_network_alone(layers: str) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "dtype": torch.float32, "decay": 1.0}
    exact, low = (
        quietly(network("heteroscedastic", *LAYERS[layers]), Adam(**settings, **more))
        for more in ({}, {"autocast": torch.bfloat16})
    )
    assert low.losses != exact.losses
    assert low.losses == pytest.approx(exact.losses, rel=0.02)
    assert {value.dtype for value in low.params.values()} == {torch.float32}
    assert low.nll == pytest.approx(exact.nll, rel=0.02)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no such device": (lambda: Adam(device="qux"), "'qux'"),
    "no numbers": (lambda: Adam(device="meta"), "'meta'"),
    "a number": (lambda: SGD(device=1.5), "`device`"),
    "a number of a device": (lambda: Optimiser(torch.optim.Adam, device="cuda:99"), "no such device here"),
    "a dtype": (lambda: Adam(autocast=torch.float32), "torch.bfloat16"),
    "float64": (lambda: quietly(network(), Adam(epochs=1, autocast=torch.bfloat16)), "dtype=torch.float32"),
    "no graph": (
        lambda: quietly(network("heteroscedastic", nn.Dropout(0.1)), Adam(epochs=1, compile=True)),
        "training mode",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_where_no_step_can_be_taken_is_refused(name: str) -> None:
    call, named = WRONG[name]
    with pytest.raises(DataError) as error:
        call()
    assert named in str(error.value)


def test_a_device_that_is_not_there_is_named() -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DataError, match=rf"`device` is '{missing}', and torch finds no such device here"):
        Adam(device=missing)


OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "likelihood": lambda model: model,
    "beta_nll": neglog.beta_nll,
    "faithful": neglog.faithful,
    "warm_up": lambda model: neglog.warm_up(model, 2),
}


@pytest.mark.parametrize("prior", [False, True], ids=["flat", "prior"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_a_minibatch_is_unbiased(name: str, prior: bool) -> None:
    solver = Adam(epochs=2, batch_size=15)
    model = OBJECTIVES[name](network())
    own, z, found = problem(model if prior else inside(model, flattened), Y, solver)
    z = z + 0.1 * torch.sin(torch.arange(len(z), dtype=z.dtype))
    parts = [problem for _, problem in parts_of(found.solver, own)]
    for each in parts:
        value, gradient = each.evaluation(z)(z)
        of_batch = [each.evaluation(z, 15)(z, index) for index in torch.randperm(60).split(15)]
        values, gradients = (torch.stack(list(parts)) for parts in zip(*of_batch, strict=True))
        torch.testing.assert_close(values.mean(0), value)
        torch.testing.assert_close(gradients.mean(0), gradient)
        assert float((gradients[0] - gradient).abs().max()) > 1e-3


def test_predictions_do_not_depend_on_the_rows_beside() -> None:
    fit = quietly(network("heteroscedastic", *LAYERS["dropout"]), Adam(epochs=3, batch_size=16))
    whole = predict(fit, X)
    for index in ([7], [3, 7, 50], list(range(59, -1, -1))):
        some = predict(fit, X[index])
        torch.testing.assert_close(some.mean, whole.mean[index], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(some.variance, whole.variance[index], rtol=1e-13, atol=1e-13)
