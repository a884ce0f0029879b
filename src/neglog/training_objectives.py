"""Objectives of training that are no likelihoods: handlers for models with a location and a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from neglog.arguments import number, whole
from neglog.calls import public
from neglog.distributions.family import family_of, location_of, plain, scale_of
from neglog.errors import ModelError
from neglog.handlers import Model
from neglog.layers import layers
from neglog.models.named import model_of
from neglog.predictors import RESPONSE


@dataclass(frozen=True, eq=False)
class TrainingObjective:
    """A model that is trained on another objective than its likelihood.

    Attributes:
        model: the model, whose likelihood the fit reports.
        name: the objective, as it was asked for.
        handler: from the unit of the response, a handler whose SVI loss is the objective.
    """

    model: Model
    name: str
    handler: Callable[[float], Callable[[Model], Model]]

    def __call__(self, x: Any, y: Any = None, **keywords: Any) -> Any:
        return self.handler(1.0)(self.model)(x, y, **keywords)

    def inside(self, handler: Callable[[Model], Model]) -> TrainingObjective:
        """The same objective of the model with a handler."""
        return replace(self, model=handler(self.model))


@dataclass(frozen=True, eq=False)
class WarmUp(TrainingObjective):
    """An objective of the first `epochs`, after which the model is trained on its likelihood."""

    epochs: int = 0

    def __call__(self, x: Any, y: Any = None, **keywords: Any) -> Any:
        return self.model(x, y, **keywords)


def inside(model: Model, handler: Callable[[Model], Model]) -> Model:
    """The model with a handler, which is put inside an objective of training."""
    return model.inside(handler) if isinstance(model, TrainingObjective) else handler(model)


def apart(model: Model) -> tuple[Model, TrainingObjective | None]:
    """A model, and the objective of training around it.

    Raises:
        ModelError: there is another handler around the objective.
    """
    within, objective = (model.model, model) if isinstance(model, TrainingObjective) else (model, None)
    hidden = next((layer for layer in layers(within) if isinstance(layer, TrainingObjective)), None)
    if hidden is not None:
        name = hidden.name.partition("(")[0]
        raise ModelError(f"`{name}` must be the outermost handler: {name}(on_features(model, module)).")
    return within, objective


def check_is_likelihood(model: Model, caller: str) -> None:
    """Refuse a model that is trained on an objective of training.

    Raises:
        ModelError: naming the objective.
    """
    if isinstance(model, TrainingObjective) and not isinstance(model, WarmUp):
        raise ModelError(
            f"`{model.name}` is no likelihood, which {caller} needs; train it by `mle`, or give the "
            "model alone."
        )


@public
def beta_nll(model: Model | str, beta: float = 0.5) -> Model:
    """The model trained on its negative log-likelihood with each row times its detached scale^(2 beta).

    A plain likelihood weighs rows by the inverse of their squared scale, so that a network which explains
    badly fitted rows by a large scale stops learning their location. At ``beta = 0`` the objective is
    the negative log-likelihood; at ``beta = 1`` the gradient in the location is scale² times that of the
    likelihood: for a Normal density that of the squared error.

    The fit is none of maximum likelihood: it has predictions and scores, and no standard errors, tests or
    information criteria.

    Args:
        model: any model whose density has a location and a scale.
        beta: from 0 to 1.

    Raises:
        ModelError: `beta` is outside this range; when the model runs: its density has no scale.

    Source: Seitzer, Tavakoli, Antic & Martius (2022), On the pitfalls of heteroscedastic uncertainty
    estimation with probabilistic neural networks.
    """
    beta = number("beta", beta)
    if not 0 <= beta <= 1:
        raise ModelError(f"`beta` must be from 0 to 1; it is {beta:g}.")
    return TrainingObjective(model_of(model), f"beta_nll(beta={beta:g})", lambda _: _BetaNLL(beta))


@public
def faithful(model: Model | str) -> Model:
    """The model trained so that the location is learned as with a constant scale, and the scale beside it.

    The loss of a row is -log p(y | location, u) - log p(y | [location], scale([features])), with u the
    standard deviation of the response and [.] held constant in derivatives: the location never pays for
    the scale, and the scale is that of its residuals. Features that the location is computed from are
    held constant in all other predictors. In raw Pyro u is 1: standardise the response.

    The fit is none of maximum likelihood: it has predictions and scores, and no standard errors, tests or
    information criteria.

    Args:
        model: a model whose density has a location and a scale, such as
            ``on_features(models.heteroscedastic, module)``; its first predictor is that of the location.

    Raises:
        ModelError: when the model runs: its density has no location or no scale.

    Source: Stirn, Wessels, Schertzer, Pereira, Sanjana & Knowles (2023), Faithful heteroscedastic regression
    with neural networks.
    """
    return TrainingObjective(model_of(model), "faithful()", _Faithful)


@public
def warm_up(model: Model | str, epochs: int) -> Model:
    """The model trained first with its scale held, so that the location is found before the scale.

    For the first `epochs` the scale of each row is the standard deviation of the response, and only what the
    location depends on is learned. Then training begins anew from there on the likelihood: with the
    optimiser, schedule and validation that were asked for. In raw Pyro it is the model itself.

    Args:
        model: a model whose density has a scale.
        epochs: the number of epochs before.

    Raises:
        ModelError: `epochs` is no positive whole number; when the model is trained: its density has no scale.
    """
    epochs = whole("epochs", epochs)
    return WarmUp(model_of(model), f"warm_up(epochs={epochs})", _ScaleHeld, epochs)


class _ScaleHeld(Messenger):
    """The density of the response with a constant scale."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE:
            scale = _needed(scale_of(msg["fn"]), "warm_up", "scale")
            msg["fn"] = _with(msg["fn"], scale=torch.full_like(scale, self.unit))


class _BetaNLL(Messenger):
    """Multiply the log-likelihood of each row by its scale^(2 beta), held constant in derivatives."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE and self.beta:
            scale = _needed(scale_of(msg["fn"]), "beta_nll", "scale")
            msg["scale"] = msg["scale"] * scale.detach() ** (2 * self.beta)


class _Faithful(Messenger):
    """The two terms of `faithful` in the place of the density of the response."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.design: Tensor | None = None

    def __enter__(self) -> _Faithful:
        self.design = None
        return super().__enter__()

    def _pyro_affine(self, msg: dict[str, Any]) -> None:
        design, *others = msg["args"]
        if self.design is None:
            self.design = design
        elif design is self.design:
            msg["args"] = (design.detach(), *others)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE:
            msg["fn"] = _Apart(msg["fn"], self.unit)


class _Apart(TorchDistribution):
    """A distribution whose log-density has a term for its location and one for its scale."""

    def __init__(self, fn: Any, unit: float) -> None:
        self.fn = fn
        location = _needed(location_of(fn), "faithful", "location")
        scale = _needed(scale_of(fn), "faithful", "scale")
        self.of_location = _with(fn, scale=torch.full_like(scale, unit))
        self.of_scale = _with(fn, location=location.detach())
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the distribution."""
        return self.fn.support

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of both terms `(N,)`."""
        return self.of_location.log_prob(value) + self.of_scale.log_prob(value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the distribution."""
        return self.fn.sample(torch.Size(sample_shape))


def _with(fn: Any, **roles: Tensor) -> Any:
    """The distribution with another location or scale."""
    own = plain(fn)
    family = family_of(own)
    values = {name: getattr(own, name) for name in type(own).arg_constraints}
    for role, value in roles.items():
        names = getattr(family, role)
        names = (names,) if isinstance(names, str) else names
        values[next(name for name in names if name in values)] = value
    return type(own)(**values, validate_args=False)


def _needed(value: Tensor | None, objective: str, part: str) -> Tensor:
    if value is None:
        raise ModelError(f"`{objective}` needs a density with a {part}, and that of this model has none.")
    return value
