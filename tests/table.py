"""One table of models: what each law needs to know of a model, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import scipy.stats
import torch
from torch import Tensor

from neglog import losses, models


@dataclass(frozen=True)
class Model:
    """A model, its hand-written NLL and SciPy's, both functions of the constrained sites and the data.

    `smooth` says whether the loss has a second derivative everywhere.
    """

    name: str
    model: Callable[..., Any]
    nll: Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
    logpdf: Callable[[Mapping[str, Tensor], Tensor, Tensor], Any]
    location: str
    scale: str
    smooth: bool = True


def eta(name: str, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


TABLE = {
    model.name: model
    for model in (
        Model(
            "gaussian",
            models.gaussian,
            lambda p, x, y: losses.gaussian_nll(eta("mean", p, x), y, p["sigma"], reduction="sum"),
            lambda p, x, y: scipy.stats.norm.logpdf(y, eta("mean", p, x), p["sigma"]),
            "mean",
            "sigma",
        ),
        Model(
            "laplace",
            models.laplace,
            lambda p, x, y: losses.laplace_nll(eta("median", p, x), y, p["scale"], reduction="sum"),
            lambda p, x, y: scipy.stats.laplace.logpdf(y, eta("median", p, x), p["scale"]),
            "median",
            "scale",
            smooth=False,
        ),
        Model(
            "heteroscedastic",
            models.heteroscedastic,
            lambda p, x, y: losses.heteroscedastic_nll(
                eta("mean", p, x), y, eta("log_variance", p, x), reduction="sum"
            ),
            lambda p, x, y: scipy.stats.norm.logpdf(
                y, eta("mean", p, x), torch.exp(eta("log_variance", p, x) / 2)
            ),
            "mean",
            "log_variance",
        ),
    )
}


def sample(rows: int = 60, columns: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A design with columns of order one, and a response that depends on it with noise that grows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    slopes = torch.linspace(-1, 2, columns, dtype=torch.float64)
    return x, 1.5 + x @ slopes + torch.exp(0.3 * x[:, 0]) * noise


def random_params(model: Model, columns: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Values for every site, on their supports."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = {f"{model.location}.weight": normal(columns), f"{model.location}.bias": normal()}
    if model.scale == "log_variance":
        return params | {"log_variance.weight": 0.3 * normal(columns), "log_variance.bias": normal()}
    return params | {model.scale: normal().exp()}
