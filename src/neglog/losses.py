"""The classical losses beside the negative log-likelihoods that they come from, in plain PyTorch.

With ``n`` residuals ``r``, means over the rows, and the same predictions on both sides::

    Gaussian NLL  =  MSE / (2 sigma²)  +  log sigma  +  log(2 pi) / 2
    MSE           =  2 sigma² · (Gaussian NLL - log sigma - log(2 pi) / 2)

    Laplace NLL   =  MAE / scale  +  log(2 scale)
    MAE           =  scale · (Laplace NLL - log(2 scale))

    heteroscedastic NLL  =  Gaussian NLL at sigma = exp(log_variance / 2), row by row

So for whatever fixed sigma the gradient of the MSE is ``2 sigma²`` times that of the Gaussian NLL, the
gradient of the MAE is ``scale`` times that of the Laplace NLL, and the minimisers are the same. Left
free, sigma² is the MSE itself and scale the MAE itself, and the smallest NLLs are
``(1 + log(2 pi MSE)) / 2`` and ``1 + log(2 MAE)``: numbers on one scale, which the losses are not.

A penalty on the weights is the negative log of a prior: :func:`ridge_alpha` and :func:`lasso_alpha`
derive what scikit-learn's ``alpha`` is.

Every function takes ``(prediction, target)`` and then the scale, as ``torch.nn.functional`` does, writes
out every constant, clamps nothing and broadcasts nothing: an ``(n, 1)`` prediction against an ``(n,)``
target, which PyTorch would compare all with all, is an error. Values are not searched for NaN, since
these functions sit inside training loops.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from neglog.errors import DataError

__all__ = [
    "TABLE",
    "Loss",
    "Reduction",
    "gaussian_nll",
    "heteroscedastic_nll",
    "laplace_nll",
    "lasso_alpha",
    "mae",
    "mse",
    "ridge_alpha",
]

Reduction = Literal["none", "mean", "sum"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_NUMBER_OR_TENSOR = "a finite number or a torch.Tensor"


def mse(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """The squared error, ``(target - prediction)²``.

    Density: ``target ~ Normal(prediction, sigma)`` with one fixed sigma, whichever it is.

    Shapes: ``prediction`` and ``target`` share any one shape; the result has it too with
    ``reduction="none"`` and is a scalar otherwise, in squared units of the target.

    Its optimum estimates the conditional mean (Legendre, 1805; Gauss, 1809).

    Raises ``DataError`` for anything but two floating-point tensors of the same shape, for an unknown
    reduction, and for the mean of nothing.

    >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(4.5000)
    """
    _check_pair("prediction", prediction, target)
    return _reduce((target - prediction).square(), reduction)


def mae(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """The absolute error, ``|target - prediction|``.

    Density: ``target ~ Laplace(prediction, scale)`` with one fixed scale, whichever it is.

    Shapes: ``prediction`` and ``target`` share any one shape; the result has it too with
    ``reduction="none"`` and is a scalar otherwise, in units of the target.

    Its optimum estimates the conditional median (Boscovich, 1757; Laplace, 1774).

    Raises ``DataError`` for anything but two floating-point tensors of the same shape, for an unknown
    reduction, and for the mean of nothing.

    >>> mae(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(1.5000)
    """
    _check_pair("prediction", prediction, target)
    return _reduce((target - prediction).abs(), reduction)


def gaussian_nll(
    mean: Tensor, target: Tensor, sigma: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Normal.

    Density: ``target ~ Normal(mean, sigma)``, so
    ``(target - mean)² / (2 sigma²) + log sigma + log(2 pi) / 2``.

    Shapes: ``mean`` and ``target`` share any one shape; ``sigma``, the standard deviation in units of the
    target, is a positive number, a tensor without dimensions or one of that same shape. The result, in
    nats, has the shape with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the conditional mean; a free scalar sigma ends at ``sqrt(MSE)``, which divides
    by n (Gauss, 1809). ``torch.nn.functional.gaussian_nll_loss`` takes ``sigma²`` instead, clamps it at
    1e-6 and leaves the constant out unless ``full=True``.

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for a number that is not
    positive and finite, for an unknown reduction, and for the mean of nothing. A *tensor* of scales is
    not searched for values below 0.

    >>> gaussian_nll(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]), 3.0, reduction="none")
    tensor([2.0176, 2.5176])
    """
    _check_pair("mean", mean, target)
    log_sigma = _log_scale("sigma", sigma, target)
    return _reduce(0.5 * ((target - mean) / sigma).square() + log_sigma + _HALF_LOG_TWO_PI, reduction)


def laplace_nll(
    median: Tensor, target: Tensor, scale: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Laplace distribution.

    Density: ``target ~ Laplace(median, scale)``, so ``|target - median| / scale + log(2 scale)``.

    Shapes: ``median`` and ``target`` share any one shape; ``scale``, the mean absolute deviation in units
    of the target, is a positive number, a tensor without dimensions or one of that same shape. The
    result, in nats, has the shape with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the conditional median; a free scalar scale ends at the MAE (Laplace, 1774).

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for a number that is not
    positive and finite, for an unknown reduction, and for the mean of nothing. A *tensor* of scales is
    not searched for values below 0.

    >>> laplace_nll(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]), 3.0, reduction="none")
    tensor([1.7918, 2.7918])
    """
    _check_pair("median", median, target)
    log_scale = _log_scale("scale", scale, target)
    return _reduce((target - median).abs() / scale + log_scale + math.log(2), reduction)


def heteroscedastic_nll(
    mean: Tensor, target: Tensor, log_variance: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Normal whose variance is predicted too.

    Density: ``target ~ Normal(mean, exp(log_variance / 2))``, so
    ``(log_variance + (target - mean)² exp(-log_variance) + log(2 pi)) / 2``.

    Shapes: ``mean`` and ``target`` share any one shape; ``log_variance``, any real number, is a number, a
    tensor without dimensions or one of that same shape. The result, in nats, has the shape with
    ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the conditional mean and the conditional variance (Nix and Weigend, 1994).
    ``torch.nn.functional.gaussian_nll_loss(mean, target, log_variance.exp(), full=True)`` is the same
    number wherever the variance is above 1e-6, at which it clamps.

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for a number that is not
    finite, for an unknown reduction, and for the mean of nothing.

    >>> mean, target = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])
    >>> heteroscedastic_nll(mean, target, torch.tensor([0.0, 2.0]), reduction="none")
    tensor([0.9189, 2.5279])
    """
    _check_pair("mean", mean, target)
    if isinstance(log_variance, Tensor):
        _check_scale("log_variance", log_variance, target)
    else:
        log_variance = target.new_tensor(_finite("log_variance", log_variance, _NUMBER_OR_TENSOR))
    squared = (target - mean).square() * torch.exp(-log_variance)
    return _reduce(0.5 * (squared + log_variance) + _HALF_LOG_TWO_PI, reduction)


def ridge_alpha(sigma: float, prior_scale: float) -> float:
    """The ``alpha`` of scikit-learn's ``Ridge`` that a Normal prior on the weights amounts to.

    Density: ``y ~ Normal(bias + X @ weight, sigma)`` and ``weight ~ Normal(0, prior_scale)``, with sigma
    fixed and a flat prior on the bias, which ``Ridge`` does not penalise. Then::

        -log posterior         =  RSS / (2 sigma²)  +  ‖weight‖² / (2 prior_scale²)  +  constant
        2 sigma² · the above   =  RSS  +  (sigma² / prior_scale²) ‖weight‖²  +  constant

    ``Ridge`` minimises ``RSS + alpha ‖weight‖²``, so ``alpha = sigma² / prior_scale²``, however many rows
    there are.

    Units: sigma is in units of y, prior_scale in units of a weight.

    With this alpha the optimum of ``Ridge`` is the MAP estimate, which for a Normal posterior is its mean
    too (Hoerl and Kennard, 1970).

    Raises ``DataError`` unless both are positive, finite numbers.

    >>> ridge_alpha(sigma=3.0, prior_scale=2.0)
    2.25
    """
    return (_positive("sigma", sigma) / _positive("prior_scale", prior_scale)) ** 2


def lasso_alpha(sigma: float, prior_scale: float, rows: int) -> float:
    """The ``alpha`` of scikit-learn's ``Lasso`` that a Laplace prior on the weights amounts to.

    Density: ``y ~ Normal(bias + X @ weight, sigma)`` and ``weight ~ Laplace(0, prior_scale)``, with sigma
    fixed and a flat prior on the bias, which ``Lasso`` does not penalise. Then::

        -log posterior              =  RSS / (2 sigma²)  +  ‖weight‖₁ / prior_scale  +  constant
        (sigma² / rows) · the above =  RSS / (2 rows)  +  (sigma² / (rows prior_scale)) ‖weight‖₁  +  constant

    ``Lasso`` minimises ``RSS / (2 rows) + alpha ‖weight‖₁``, so ``alpha = sigma² / (rows prior_scale)``.
    Unlike ``Ridge``, it divides by the rows: with one and the same prior, alpha shrinks as data come in.

    Units: sigma is in units of y, prior_scale in units of a weight.

    With this alpha the optimum of ``Lasso`` is the MAP estimate, with some weights exactly 0 (Tibshirani,
    1996); the posterior mean has none.

    Raises ``DataError`` unless sigma and prior_scale are positive, finite numbers and rows is a whole
    number of at least 1.

    >>> lasso_alpha(sigma=3.0, prior_scale=2.0, rows=10)
    0.45
    """
    if not isinstance(rows, Integral) or isinstance(rows, bool) or rows < 1:
        raise DataError(f"`rows` must be a whole number of at least 1, not {rows!r}. Give the rows of X.")
    return _positive("sigma", sigma) ** 2 / (int(rows) * _positive("prior_scale", prior_scale))


@dataclass(frozen=True)
class Loss:
    """What a model is called among losses: an entry of :data:`TABLE`.

    >>> TABLE["laplace"].name
    'MAE'
    """

    name: str
    """The classical loss."""
    density: str
    """The likelihood that it is minus the log of."""
    torch_loss: str
    """The PyTorch class to train a network with."""
    estimates: str
    """What a prediction estimates at the optimum."""
    choose_when: str
    """The data for which it is the right one."""


TABLE: Mapping[str, Loss] = MappingProxyType(
    {
        "gaussian": Loss(
            name="MSE",
            density="y ~ Normal(mean, sigma), one sigma for all rows",
            torch_loss="torch.nn.MSELoss",
            estimates="the conditional mean",
            choose_when="the noise has light tails and the same spread everywhere",
        ),
        "laplace": Loss(
            name="MAE",
            density="y ~ Laplace(median, scale), one scale for all rows",
            torch_loss="torch.nn.L1Loss",
            estimates="the conditional median",
            choose_when="some rows are far off and must not pull the line towards them",
        ),
        "heteroscedastic": Loss(
            name="Gaussian NLL with a variance head",
            density="y ~ Normal(mean, exp(log_variance / 2)), both linear in x",
            torch_loss="torch.nn.GaussianNLLLoss",
            estimates="the conditional mean and the conditional variance",
            choose_when="the spread of the noise changes with x",
        ),
    }
)
"""Model name → the loss that the model replaces, for those losses that PyTorch trains with directly."""


def _check_pair(name: str, prediction: Tensor, target: Tensor) -> None:
    for argument, value in ((name, prediction), ("target", target)):
        _check_tensor(argument, value)
    if prediction.shape != target.shape:
        raise DataError(
            f"`{name}` has shape {tuple(prediction.shape)} and `target` has shape {tuple(target.shape)}, "
            f"but they must be the same: nothing is broadcast. {_remedy(name, prediction, target)}"
        )


def _remedy(name: str, prediction: Tensor, target: Tensor) -> str:
    if prediction.shape == (*target.shape, 1):
        return f"Pass `{name}.squeeze(-1)`."
    if target.shape == (*prediction.shape, 1):
        return "Pass `target.squeeze(-1)`."
    return f"Give one value of `{name}` for each value of `target`."


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise DataError(
            f"`{name}` must be a torch.Tensor, not {type(value).__name__}. Wrap it in torch.as_tensor."
        )
    if not value.is_floating_point():
        raise DataError(
            f"`{name}` must be of a floating-point dtype, not {value.dtype}. Call .double() on it."
        )


def _check_scale(name: str, value: Tensor, target: Tensor) -> None:
    _check_tensor(name, value)
    if value.dim() > 0 and value.shape != target.shape:
        raise DataError(
            f"`{name}` has shape {tuple(value.shape)} and `target` has shape {tuple(target.shape)}: `{name}` "
            f"must be a scalar or of the shape of `target`. {_remedy(name, value, target)}"
        )


def _log_scale(name: str, value: Tensor | float, target: Tensor) -> Tensor | float:
    if isinstance(value, Tensor):
        _check_scale(name, value, target)
        return value.log()
    return math.log(_positive(name, value, _NUMBER_OR_TENSOR))


def _positive(name: str, value: object, needed: str = "a finite number") -> float:
    number = _finite(name, value, needed)
    if number <= 0:
        raise DataError(f"`{name}` must be above 0, not {number:g}. It is a scale: give its size.")
    return number


def _finite(name: str, value: object, needed: str = "a finite number") -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise DataError(f"`{name}` must be {needed}, not {type(value).__name__}. Convert it first.")
    if not math.isfinite(value):
        raise DataError(f"`{name}` must be {needed}, not {value}. Look for what made it so.")
    return float(value)


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        if values.numel() == 0:
            raise DataError("`target` is empty, and nothing has no mean. Pass at least one row.")
        return values.mean()
    choices = ", ".join(f'"{choice}"' for choice in get_args(Reduction))
    raise DataError(f"`reduction` must be one of {choices}, not {reduction!r}. Choose one of them.")
