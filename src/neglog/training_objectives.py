"""Objectives of training that are no likelihoods: handlers for models with a location and a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from neglog.arguments import choice, number, share, shown, whole
from neglog.calls import public
from neglog.distributions.family import family_of, location_of, plain, scale_of, tailed
from neglog.distributions.interpolated import Interpolated
from neglog.empirical import EmpiricalDistribution
from neglog.errors import ModelError
from neglog.handlers import Model
from neglog.layers import layers
from neglog.models.named import model_of
from neglog.predictors import RESPONSE, Designs, affine, design, rows

SMALLEST_GAP = 1e-3
"""Smallest initial distance of two quantiles, relative to the largest."""


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


def _made(handler: Callable[..., Messenger], *settings: Any) -> Messenger:
    """A handler that does not depend on the unit of the response, which is the last of the settings."""
    *own, _ = settings
    return handler(*own)


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
    return TrainingObjective(model_of(model), f"beta_nll(beta={beta:g})", partial(_made, _BetaNLL, beta))


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


@public
def score(model: Model | str, kind: str = "crps") -> Model:
    """The model trained on a proper score of its density, in the place of the negative log-likelihood.

    The score of a row is the lower, the better the density predicts it. ``"crps"`` is the continuous ranked
    probability score, which is in units of y and grows as |y - location| far away, so that no row weighs as
    much as under the log score. It needs a density with a closed form: Normal, Laplace, logistic, Student's
    t, log-normal, Gamma, Weibull, Beta, Poisson, Bernoulli, or a mixture of Normals.

    The fit is none of maximum likelihood: it has predictions and scores, and no standard errors, tests or
    information criteria.

    Args:
        model: any model with such a density.
        kind: ``"crps"``.

    Raises:
        ModelError: another `kind`; when the model runs: its density has no closed form.

    Source: Gneiting & Raftery (2007), Strictly proper scoring rules; Gneiting et al. (2005) for Normals.
    """
    choice("kind", kind, ("crps",))
    return TrainingObjective(model_of(model), f'score("{kind}")', partial(_made, _Score))


@public
def quantile_heads(taus: Sequence[float]) -> Model:
    """Quantiles at several levels at once, which never cross, trained on the mean of their pinball losses.

    The quantile in the middle is a linear predictor; each further one is at a distance of exp(linear
    predictor) from its neighbour. ``on_features(quantile_heads([0.1, 0.5, 0.9]), module)`` is a network with
    such heads, and `neglog.quantile` of its fit has the quantiles. Between and beyond them the density of the
    fit is that of `neglog.distributions.interpolated.Interpolated`.

    The fit is none of maximum likelihood: it has predictions and scores, and no standard errors, tests or
    information criteria.

    Args:
        taus: at least two levels between 0 and 1, in ascending order.

    Raises:
        ModelError: other levels.

    Source: Koenker & Bassett (1978), Regression quantiles.
    """
    levels = _levels(taus)
    name = f"quantile_heads([{', '.join(f'{level:g}' for level in levels)}])"
    return TrainingObjective(partial(_quantiles, taus=levels), name, partial(_made, _Pinball))


def _levels(taus: Any) -> tuple[float, ...]:
    try:
        levels = tuple(share("taus", tau) for tau in taus)
    except TypeError:
        levels = ()
    if len(levels) < 2 or any(low >= high for low, high in pairwise(levels)):
        raise ModelError(
            "`taus` must be at least two levels between 0 and 1 in ascending order, such as [0.1, 0.5, 0.9]; "
            f"it is {shown(taus)}. A single quantile is models.quantile."
        )
    return levels


def levels_of(objective: TrainingObjective) -> tuple[float, ...]:
    """The levels of `quantile_heads`; none of another objective."""
    inner = objective.model
    return inner.keywords["taus"] if isinstance(inner, partial) and inner.func is _quantiles else ()


def _quantiles(x: Designs, y: Tensor | None = None, taus: Sequence[float] = (0.1, 0.5, 0.9)) -> Tensor:
    """Quantiles at several levels that never cross: y ~ Interpolated(quantiles, taus)."""
    columns = design("quantiles", x)
    zeros, size = columns.new_zeros((len(taus), columns.shape[1])), len(taus)
    weight = pyro.sample("quantiles.weight", dist.Normal(zeros, 2.5).to_event(2))
    prior = dist.Normal(columns.new_zeros(size), 5.0).to_event(1)
    bias = pyro.sample("quantiles.bias", prior, infer={"begin": partial(_own_quantiles, taus=taus)})
    values = affine(columns, weight, bias, [f"{tau:g}" for tau in taus], name="quantiles")
    with rows(x):
        return pyro.sample(RESPONSE, Interpolated(ascending(values), taus), obs=y)


def ascending(values: Tensor) -> Tensor:
    """Quantiles `(..., Q)`: the one in the middle, and the others at distances of exp(value)."""
    middle = values.shape[-1] // 2
    centre = values[..., middle : middle + 1]
    below = values[..., :middle].flip(-1).exp().cumsum(-1).flip(-1)
    above = values[..., middle + 1 :].exp().cumsum(-1)
    return torch.cat([centre - below, centre, centre + above], -1)


def _own_quantiles(y: Tensor, weights: Tensor, shape: torch.Size, taus: Sequence[float]) -> Tensor:
    """The values of `ascending` whose quantiles are those of y."""
    quantiles = EmpiricalDistribution(y, weights).interpolated(taus)
    gaps = quantiles.diff()
    least = SMALLEST_GAP * (float(gaps.max()) or float(y.abs().max()) or 1.0)
    gaps = gaps.clamp(min=least).log()
    middle = len(taus) // 2
    return torch.cat([gaps[:middle], quantiles[middle : middle + 1], gaps[middle:]])


class _Pinball(Messenger):
    """The mean pinball loss of the quantiles in the place of the negative log-density."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE:
            msg["fn"] = _Scored(msg["fn"], lambda fn, y: fn.pinball(y))


class _Score(Messenger):
    """The continuous ranked probability score in the place of the negative log-density."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == RESPONSE:
            fn = tailed(msg["fn"])
            formula = family_of(fn).crps
            if formula is None:
                raise ModelError(
                    f"`score` needs a CRPS in closed form, and `{type(fn).__name__}` has none. Train on the "
                    "likelihood."
                )
            msg["fn"] = _Scored(fn, formula)


class _Scored(TorchDistribution):
    """A distribution with minus a score of y in the place of its log-density."""

    def __init__(self, fn: Any, score: Callable[[Any, Tensor], Tensor]) -> None:
        self.fn, self.score = fn, score
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the distribution."""
        return self.fn.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the scores `(N,)`."""
        return -self.score(self.fn, value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the distribution."""
        return self.fn.sample(torch.Size(sample_shape))


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
