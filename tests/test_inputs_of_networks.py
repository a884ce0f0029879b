"""Inputs of networks: images, sequences, tokens, and mappings for modules with several inputs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neglog import Fit, laplace_approximation, log_likelihood, mle, models, on_features, predict
from neglog.errors import ConvergenceWarning, DataError
from neglog.solvers import SVI, Adam

torch.manual_seed(0)
IMAGES = torch.randn(40, 1, 6, 6, dtype=torch.float64)
TOKENS = torch.randint(0, 5, (40, 2))
TABLE = torch.randn(40, 2, dtype=torch.float64)
KINDS = torch.randint(0, 3, (40,))
Y = IMAGES.mean((1, 2, 3)) + TABLE[:, 0] + 0.3 * torch.randn(40, dtype=torch.float64)


class Both(nn.Module):
    """A module with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.layer = nn.Embedding(3, 2), nn.Linear(4, 3)

    def forward(self, table: Tensor, kinds: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([table, self.kinds(kinds)], 1)))


class Sequences(nn.Module):
    """A recurrent network on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cells = nn.Embedding(5, 3), nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cells(self.words(x))[1][0]
        return found


def made(kind: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module: nn.Module = kind()
        return module.double()


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3), nn.Tanh())


INPUTS: dict[str, tuple[nn.Module, Any]] = {
    "images": (made(convolution), IMAGES),
    "tokens": (made(Sequences), TOKENS),
    "several": (made(Both), {"table": TABLE, "kinds": KINDS}),
}


def rows(x: Any, index: Any) -> Any:
    return {key: value[index] for key, value in x.items()} if isinstance(x, dict) else x[index]


def trained(module: nn.Module, x: Any, solver: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mle(on_features(models.heteroscedastic, module), x, Y, solver=solver)


@pytest.mark.parametrize("name", INPUTS)
def test_a_network_takes_inputs_of_any_shape(name: str) -> None:
    module, x = INPUTS[name]
    fit = trained(module, x, Adam(epochs=3, batch_size=16, learning_rate=0.01, validation=0.2))
    features = fit.module(**x) if isinstance(x, dict) else fit.module(x)
    with torch.no_grad():
        mean = features @ fit.params["mean.weight"] + fit.params["mean.bias"]
    torch.testing.assert_close(predict(fit, x).mean, mean.detach())
    some = torch.arange(0, 40, 3)
    torch.testing.assert_close(
        log_likelihood(fit, rows(x, some), Y[some]), predict(fit, x).log_prob(Y)[some].detach()
    )
    literal = trained(module, x, SVI(epochs=2, batch_size=16))
    replayed = trained(module, x, Adam(epochs=2, batch_size=16))
    assert literal.losses == pytest.approx(replayed.losses, rel=1e-8)


def test_images_in_memory_have_an_approximate_posterior() -> None:
    fit = trained(*INPUTS["images"], Adam(epochs=20, learning_rate=0.01))
    approximation = laplace_approximation(fit, structure="last_layer", prior_precision=1.0)
    assert bool((approximation.predict(IMAGES).variance > 0).all())


WRONG: dict[str, tuple[Any, str]] = {
    "another key": ({"table": TABLE, "kind": KINDS}, "table, kinds"),
    "a key too few": ({"table": TABLE}, "'kinds'"),
    "other rows": ({"table": TABLE, "kinds": KINDS[1:]}, "different numbers of rows"),
    "NaN": ({"table": TABLE.clone().fill_(torch.nan), "kinds": KINDS}, "row 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_a_module_does_not_take_are_refused(name: str) -> None:
    x, named = WRONG[name]
    with pytest.raises(DataError, match=named):
        mle(on_features(models.gaussian, made(Both)), x, Y)


def test_the_first_image_that_is_not_finite_is_named() -> None:
    x = IMAGES.clone()
    x[7, 0, 2, 3] = torch.inf
    with pytest.raises(DataError, match="row 7"):
        mle(on_features(models.gaussian, made(convolution)), x, Y)


def test_integers_for_a_network_of_numbers_are_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match=r"x.double\(\)"):
        mle(on_features(models.gaussian, nn.Linear(2, 2).double()), KINDS[:, None].repeat(1, 2), Y)


def test_features_of_another_number_of_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(40, F\)"):
        mle(
            on_features(models.gaussian, nn.Sequential(nn.Linear(6, 2), nn.Flatten(0, 2)).double()), IMAGES, Y
        )
