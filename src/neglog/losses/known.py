"""From a loss that others have written to its likelihood: classes of torch.nn, names of scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any, get_args

import pyro
import torch
from torch import Tensor, nn

from neglog import models
from neglog.arguments import choice, flag, is_loss, number, share
from neglog.calls import public
from neglog.errors import ModelError, did_you_mean, written
from neglog.losses.real import gaussian_nll, huber_nll, laplace_nll, quantile_nll
from neglog.losses.shapes import Reduction, check_tensor
from neglog.synonyms import model_meant

Model = Callable[..., Any]
OfTarget = Callable[[Tensor], Tensor]


@public
@dataclass(frozen=True, eq=False)
class Likelihood:
    """The likelihood whose negative log a loss is: for every row, NLL = `factor` · loss + `constant(target)`.

    Attributes:
        loss: the loss, with its settings.
        identity: the same equation, written out.
        model: the Pyro model whose NLL it is, its scale held where the loss has it.
        free: the model to fit: its scale is estimated, as the loss cannot.
        factor: what the loss of a row is multiplied by.
        constant: what is then added: a function of the target, of its shape.
        reduction: what the loss does with its rows: "none", "mean" or "sum".
        weights: where the loss counts some targets more, their frequency weights: a function of the target.
            Then each row's NLL counts that often; ``mle(free, x, y, weights=likelihood.weights(y))``.
        note: what else to know.
    """

    loss: str
    identity: str
    model: Model = field(repr=False)
    free: Model = field(repr=False)
    factor: float = 1.0
    constant: OfTarget = field(default=torch.zeros_like, repr=False)
    reduction: Reduction = "mean"
    weights: OfTarget | None = field(default=None, repr=False)
    note: str = ""

    def nll(self, loss: Tensor, target: Tensor) -> Tensor:
        """A value of the loss in nats: the NLL of the same rows under the same reduction.

        >>> target, prediction = torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0])
        >>> likelihood = likelihood_of(nn.L1Loss())
        >>> likelihood.nll(nn.L1Loss()(prediction, target), target)  # 1.5 + log 2
        tensor(2.1931)
        """
        check_tensor("loss", loss)
        check_tensor("target", target)
        constant = self.constant(target)
        reduced = {"none": constant, "sum": constant.sum(), "mean": constant.mean()}[self.reduction]
        return self.factor * loss + reduced


@public
def likelihood_of(loss: nn.Module | str, **settings: float) -> Likelihood:
    """The likelihood that a loss is minus the log of, with the factor and the constant between them.

    Args:
        loss: an instance of `MSELoss`, `L1Loss`, `HuberLoss`, `SmoothL1Loss`, `GaussianNLLLoss`,
            `PoissonNLLLoss`, `BCEWithLogitsLoss` or `CrossEntropyLoss` of torch.nn; or the name under which
            scikit-learn's metrics know it: "squared_error", "absolute_error", "huber", "quantile",
            "poisson", "gamma", "log_loss".
        settings: of a name: ``delta`` of "huber"; ``quantile``, or ``alpha``, of "quantile".

    A name of scikit-learn means the loss that `sklearn.metrics` averages: the whole squared error and the
    whole deviance, twice the log-likelihood that is missing to a perfect fit. The loss of its estimators
    under the same name (`sklearn._loss`) is half of these three, without terms that do not depend on the
    prediction; the optimum is the same.

    Raises:
        ModelError: another loss, or settings with which it is no likelihood; the message gives the reason.

    >>> likelihood_of(nn.SmoothL1Loss(beta=2.0)).identity
    'NLL = beta · loss + log Z(beta), with scale = 1 and delta = beta; Z as in losses.huber_nll'
    >>> likelihood_of("squared_error").factor
    0.5
    """
    if isinstance(loss, str):
        if loss not in _NAMES:
            raise ModelError(
                f"`loss` must be one of {', '.join(map(repr, _NAMES))}; it is {written(loss)}."
                f"{_nearest(loss)} " + _HINTS.get(loss, "For one of your own see losses.as_likelihood.")
            )
        return _NAMES[loss](**_taken(loss, settings))
    if is_loss(loss) and not isinstance(loss, nn.Module):
        name = getattr(loss, "__name__", "")
        raise ModelError(f"`{name}` is no instance of a loss; give one, such as torch.nn.MSELoss().")
    name = getattr(loss, "__name__", type(loss).__name__)
    if type(loss) not in _CLASSES:
        raise ModelError(
            f"`{name}` is not in the dictionary; there are {', '.join(c.__name__ for c in _CLASSES)}, and "
            f"names of scikit-learn. {_HINTS.get(name, 'For one of your own see losses.as_likelihood.')}"
        )
    if settings:
        raise ModelError(f"`{name}` holds its own settings; give {', '.join(settings)} to its constructor.")
    reduction: Any = getattr(loss, "reduction", None)
    choice("reduction", reduction, get_args(Reduction))
    return replace(_CLASSES[type(loss)](loss), reduction=reduction)


_OF_MODELS = {
    "gaussian": "squared_error",
    "laplace": "absolute_error",
    "bernoulli": "log_loss",
    "huber": "huber",
    "quantile": "quantile",
    "poisson": "poisson",
    "gamma": "gamma",
}
"""Model -> the name of its loss."""


def _nearest(name: str) -> str:
    meant = _OF_MODELS.get(model_meant(name) or "")
    return f" Did you mean {meant!r}?" if meant else did_you_mean(name, _NAMES)


_HINTS = {
    "BCELoss": "It takes probabilities and cuts their logs off at -100; use BCEWithLogitsLoss on logits.",
    "NLLLoss": "It takes log-probabilities that need not add up; use CrossEntropyLoss on logits.",
    "hinge": (
        "exp(-loss), summed over the classes, depends on the prediction, so the loss is not a negative "
        "log-likelihood."
    ),
    "HingeEmbeddingLoss": "exp(-loss) is not proportional to a density of the target.",
    "MultiMarginLoss": (
        "exp(-loss), summed over the classes, depends on the prediction, so the loss is not a negative "
        "log-likelihood."
    ),
}


def _taken(name: str, settings: Mapping[str, float]) -> dict[str, float]:
    """The settings of a name, refused unless they are those that it needs."""
    needed = {"huber": ("delta",), "quantile": ("quantile", "alpha")}.get(name, ())
    if len(settings) == bool(needed) and set(settings) <= set(needed):
        return dict(zip(needed, settings.values(), strict=False))
    more = (
        (
            "scikit-learn's alpha re-estimates delta from the residuals at every step, so there is no "
            "single likelihood. "
        )
        if name == "huber" and "alpha" in settings
        else ""
    )
    raise ModelError(
        f"{name!r} needs {' or '.join(needed) or 'no settings'}; given are {', '.join(settings) or 'none'}. "
        f"{more}Write likelihood_of({', '.join([repr(name), *(f'{key}=...' for key in needed[:1])])})."
    )


def _positive(name: str, value: Any) -> float:
    one = isinstance(value, Tensor) and value.layout == torch.strided and value.numel() == 1
    return number(name, value.reshape(()) if one else value, 0)


def _held(model: Model, site: str) -> Model:
    """The model with a scale of 1."""
    return pyro.condition(model, data={site: torch.ones((), dtype=torch.float64)})


def _at_zero(nll: Callable[..., Tensor], *scale: float) -> OfTarget:
    """The constant of a loss that is 0 at a perfect prediction: it is the NLL there."""
    return lambda target: nll(target, target, *scale, reduction="none")


def _mse(loss: Any) -> Likelihood:
    return Likelihood(
        loss="the squared error",
        identity="NLL = loss / 2 + log(2π) / 2, with sigma = 1",
        model=_held(models.gaussian, "sigma"),
        free=models.gaussian,
        factor=0.5,
        constant=_at_zero(gaussian_nll, 1.0),
        note="With another sigma: loss / (2 sigma²) + log sigma + log(2π) / 2.",
    )


def _l1(loss: Any) -> Likelihood:
    return Likelihood(
        loss="the absolute error",
        identity="NLL = loss + log 2, with scale = 1",
        model=_held(models.laplace, "scale"),
        free=models.laplace,
        constant=_at_zero(laplace_nll, 1.0),
        note="With another scale: loss / scale + log(2 scale).",
    )


def _huber(loss: Any) -> Likelihood:
    delta = _positive("delta", loss.delta)
    model = partial(models.huber, delta=delta)
    return Likelihood(
        loss=f"Huber's loss, delta = {delta:g}",
        identity="NLL = loss + log Z(delta), with scale = 1; Z as in losses.huber_nll",
        model=_held(model, "scale"),
        free=model,
        constant=_at_zero(huber_nll, 1.0, delta),
        note="In the free model delta is in units of the estimated scale, no longer in those of the target.",
    )


def _smooth_l1(loss: Any) -> Likelihood:
    if isinstance(loss.beta, Real) and loss.beta == 0:
        return replace(_l1(loss), loss="the absolute error: smooth L1 with beta = 0")
    beta = _positive("beta", loss.beta)
    huber = _huber(nn.HuberLoss(delta=beta))
    return replace(
        huber,
        loss=f"smooth L1, beta = {beta:g}: Huber's loss over beta",
        identity="NLL = beta · loss + log Z(beta), with scale = 1 and delta = beta; Z as in losses.huber_nll",
        factor=beta,
    )


def _gaussian_nll(loss: Any) -> Likelihood:
    constant = 0.0 if loss.full else 0.5 * math.log(2 * math.pi)
    return Likelihood(
        loss=f"the Gaussian NLL, full = {loss.full}",
        identity=f"NLL = loss{'' if loss.full else ' + log(2π) / 2'}, with var = exp(log_variance)",
        model=models.heteroscedastic,
        free=models.heteroscedastic,
        constant=lambda target: torch.full_like(target, constant),
        note=f"Where var is above eps = {loss.eps:g}; below, the loss and its gradient are those at eps. "
        "losses.heteroscedastic_nll takes the log of the variance, and needs no eps.",
    )


def _poisson_nll(loss: Any) -> Likelihood:
    if not flag("log_input", loss.log_input):
        raise ModelError(
            "`PoissonNLLLoss(log_input=False)` predicts the mean itself and adds eps to it inside the log: "
            "that is minus the log of no density, nor has it the log link of `models.poisson`. Predict the "
            "log of the mean with log_input=True."
        )

    def constant(target: Tensor) -> Tensor:
        factorial = torch.lgamma(target + 1)
        if not loss.full:
            return factorial
        stirling = torch.xlogy(target, target) - target + 0.5 * torch.log(2 * math.pi * target)
        return factorial - torch.where(target > 1, stirling, 0.0)

    return Likelihood(
        loss=f"the Poisson NLL of a log rate, full = {loss.full}",
        identity="NLL = loss + log(target!)" + (" - Stirling's formula for it" if loss.full else ""),
        model=models.poisson,
        free=models.poisson,
        constant=constant,
        note="Stirling's formula stands in for targets above 1." if loss.full else "",
    )


def _bce(loss: Any) -> Likelihood:
    if loss.weight is not None:
        raise ModelError(
            "`BCEWithLogitsLoss(weight=...)` weighs the rows of one batch; give frequency weights to the "
            "fit: mle(models.bernoulli, x, y, weights=w)."
        )
    likelihood = Likelihood(
        loss="the binary cross-entropy",
        identity="NLL = loss, for targets 0 and 1",
        model=models.bernoulli,
        free=models.bernoulli,
    )
    if loss.pos_weight is None:
        return likelihood
    if loss.pos_weight.numel() != 1:
        raise ModelError(
            f"`pos_weight` has {loss.pos_weight.numel()} values: several labels a row. The models here have "
            "one; take a label at a time."
        )
    more = _positive("pos_weight", loss.pos_weight)
    return replace(
        likelihood,
        loss=f"the binary cross-entropy, pos_weight = {more:g}",
        identity="weight · NLL = loss, for targets 0 and 1, with weight = pos_weight where the target is 1",
        weights=lambda target: 1 + (more - 1) * target,
        note="A weighted fit estimates the log-odds plus log pos_weight: take that off to predict.",
    )


def _cross_entropy(loss: Any) -> Likelihood:
    smoothing = number("label_smoothing", loss.label_smoothing)
    if smoothing:
        raise ModelError(
            f"`CrossEntropyLoss(label_smoothing={smoothing:g})` has no likelihood: exp(-loss), "
            "summed over the classes, depends on the logits. Set it to 0; a prior on the weights "
            "(`map_estimate`) also keeps probabilities away from 0 and 1."
        )
    likelihood = Likelihood(
        loss="the cross-entropy",
        identity="NLL = loss",
        model=models.categorical,
        free=models.categorical,
        note="The model's logits are those against class 0, so theirs is 0.",
    )
    weight, ignored = loss.weight, int(number("ignore_index", loss.ignore_index))
    if weight is None and ignored < 0:
        return likelihood

    def weights(target: Tensor) -> Tensor:
        code = target.long()
        each = torch.ones_like(code, dtype=torch.get_default_dtype()) if weight is None else weight[code]
        return torch.where(code == ignored, 0.0, each)

    return replace(
        likelihood,
        loss="the cross-entropy, classes weighted",
        identity="weight · NLL = loss, with the weight of the target's class",
        weights=weights,
        note=f"{likelihood.note} Under reduction='mean' torch divides by the sum of these weights.",
    )


def _pinball(quantile: float) -> Likelihood:
    quantile = share("quantile", quantile)
    model = partial(models.quantile, tau=quantile)
    return Likelihood(
        loss=f"the pinball loss, quantile = {quantile:g}",
        identity="NLL = loss - log(quantile (1 - quantile)), with scale = 1",
        model=_held(model, "scale"),
        free=model,
        constant=_at_zero(quantile_nll, 1.0, quantile),
        note="With another scale: loss / scale + log(scale / (quantile (1 - quantile))).",
    )


def _poisson_deviance() -> Likelihood:
    return Likelihood(
        loss="the Poisson deviance, 2 (y log(y / mean) - y + mean)",
        identity="NLL = loss / 2 + log(y!) - y log y + y",
        model=models.poisson,
        free=models.poisson,
        factor=0.5,
        constant=lambda y: torch.lgamma(y + 1) - torch.xlogy(y, y) + y,
        note="The loss takes the mean, exp(log_rate).",
    )


def _gamma_deviance() -> Likelihood:
    return Likelihood(
        loss="the Gamma deviance, 2 (log(mean / y) + y / mean - 1)",
        identity="NLL = loss / 2 + log y + 1, with shape = 1",
        model=_held(models.gamma, "shape"),
        free=models.gamma,
        factor=0.5,
        constant=lambda y: torch.log(y) + 1,
        note="With another shape k: k loss / 2 + log y + k - k log k + log Γ(k). The loss takes the mean, "
        "exp(log_mean).",
    )


_CLASSES: dict[type[nn.Module], Callable[[Any], Likelihood]] = {
    nn.MSELoss: _mse,
    nn.L1Loss: _l1,
    nn.HuberLoss: _huber,
    nn.SmoothL1Loss: _smooth_l1,
    nn.GaussianNLLLoss: _gaussian_nll,
    nn.PoissonNLLLoss: _poisson_nll,
    nn.BCEWithLogitsLoss: _bce,
    nn.CrossEntropyLoss: _cross_entropy,
}
_NAMES: dict[str, Callable[..., Likelihood]] = {
    "squared_error": lambda: _mse(None),
    "absolute_error": lambda: _l1(None),
    "huber": lambda delta: _huber(nn.HuberLoss(delta=_positive("delta", delta))),
    "quantile": _pinball,
    "poisson": _poisson_deviance,
    "gamma": _gamma_deviance,
    "log_loss": lambda: replace(
        _bce(nn.BCEWithLogitsLoss()), note="The loss takes the probability, 1 / (1 + exp(-logit))."
    ),
}
