"""Losses of a real target, and the likelihoods behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from neglog.calls import public
from neglog.errors import DataError
from neglog.losses.shapes import (
    HALF_LOG_TWO_PI,
    NUMBER_OR_TENSOR,
    Reduction,
    check_pair,
    check_scale,
    finite,
    log_scale,
    plain,
    positive,
    reduce,
)


@public
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
    check_pair("prediction", prediction, target)
    return reduce((target - prediction).square(), reduction)


@public
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
    check_pair("prediction", prediction, target)
    return reduce((target - prediction).abs(), reduction)


@public
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
    check_pair("mean", mean, target)
    log_sigma = log_scale("sigma", sigma, target)
    sigma = plain(sigma)
    return reduce(0.5 * ((target - mean) / sigma).square() + log_sigma + HALF_LOG_TWO_PI, reduction)


@public
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
    check_pair("median", median, target)
    log_scale_ = log_scale("scale", scale, target)
    scale = plain(scale)
    return reduce((target - median).abs() / scale + log_scale_ + math.log(2), reduction)


@public
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
    check_pair("mean", mean, target)
    if isinstance(log_variance, Tensor):
        check_scale("log_variance", log_variance, target)
    else:
        log_variance = target.new_tensor(finite("log_variance", log_variance, NUMBER_OR_TENSOR))
    squared = (target - mean).square() * torch.exp(-log_variance)
    return reduce(0.5 * (squared + log_variance) + HALF_LOG_TWO_PI, reduction)


@public
def pinball(prediction: Tensor, target: Tensor, tau: float, *, reduction: Reduction = "mean") -> Tensor:
    """The quantile loss, ``r (tau - 1[r < 0])`` with ``r = target - prediction``.

    Density: ``target ~ AsymmetricLaplace(prediction, scale, tau)`` with one fixed scale, whichever it is.

    Shapes: ``prediction`` and ``target`` share any one shape; the result has it too with
    ``reduction="none"`` and is a scalar otherwise, in units of the target.

    Its optimum estimates the conditional tau-quantile (Koenker and Bassett, 1978); at ``tau = 0.5`` it is
    half the absolute error.

    Raises ``DataError`` as :func:`mse`, and for a tau that is not between 0 and 1.

    >>> pinball(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), 0.9, reduction="none")
    tensor([0.9000, 0.1000])
    """
    check_pair("prediction", prediction, target)
    return reduce(_pinball(target - prediction, _share("tau", tau)), reduction)


@public
def huber(
    prediction: Tensor, target: Tensor, delta: float = 1.345, *, reduction: Reduction = "mean"
) -> Tensor:
    """Huber's loss: ``r² / 2`` where ``|r| <= delta``, ``delta (|r| - delta / 2)`` beyond.

    Density: ``target ~ Huber(prediction, scale=1, delta)``; `torch.nn.HuberLoss` is the same function.

    Shapes: ``prediction`` and ``target`` share any one shape; the result has it too with
    ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates Huber's location (Huber, 1964).

    Raises ``DataError`` as :func:`mse`, and for a delta that is not positive.

    >>> huber(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0]), 2.0, reduction="none")
    tensor([0.5000, 4.0000])
    """
    check_pair("prediction", prediction, target)
    return reduce(_huber(target - prediction, positive("delta", delta)), reduction)


@public
def huber_nll(
    location: Tensor,
    target: Tensor,
    scale: Tensor | float,
    delta: float = 1.345,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log of Huber's density.

    Density: ``rho(r / scale) + log scale + log Z``, with rho the Huber loss at ``delta``, in units of scale,
    and ``Z = sqrt(2 pi) (2 Phi(delta) - 1) + 2 exp(-delta² / 2) / delta``.

    Shapes and errors are those of :func:`laplace_nll`; ``delta`` is a positive number.

    Its optimum estimates Huber's location and his scale (Huber, 1964).

    >>> huber_nll(torch.tensor([0.0]), torch.tensor([0.0]), 1.0, 1e3)
    tensor(0.9189)
    """
    check_pair("location", location, target)
    delta, log_scale_ = positive("delta", delta), log_scale("scale", scale, target)
    scale = plain(scale)
    inner = math.sqrt(2 * math.pi) * math.erf(delta / math.sqrt(2))
    log_z = math.log(inner + 2 * math.exp(-0.5 * delta * delta) / delta)
    return reduce(_huber((target - location) / scale, delta) + log_scale_ + log_z, reduction)


@public
def student_t_nll(
    location: Tensor,
    target: Tensor,
    scale: Tensor | float,
    df: Tensor | float,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-density of Student's t with a location and a scale.

    Density: ``(df + 1) / 2 · log(1 + (r / scale)² / df) + log scale + log(df pi) / 2 + log Gamma(df / 2) -
    log Gamma((df + 1) / 2)``.

    Shapes and errors are those of :func:`laplace_nll`, for ``df`` as for ``scale``.

    Its optimum estimates the centre of a heavy-tailed law (Lange, Little and Taylor, 1989).

    >>> student_t_nll(torch.tensor([0.0]), torch.tensor([0.0]), 1.0, 1.0)
    tensor(1.1447)
    """
    check_pair("location", location, target)
    log_scale_ = log_scale("scale", scale, target)
    scale = plain(scale)
    freedom = df if isinstance(df, Tensor) else target.new_tensor(positive("df", df, NUMBER_OR_TENSOR))
    check_scale("df", freedom, target)
    constant = (
        torch.lgamma(freedom / 2) - torch.lgamma((freedom + 1) / 2) + 0.5 * torch.log(freedom * math.pi)
    )
    kernel = 0.5 * (freedom + 1) * torch.log1p(((target - location) / scale).square() / freedom)
    return reduce(kernel + log_scale_ + constant, reduction)


@public
def logistic_nll(
    location: Tensor, target: Tensor, scale: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a logistic distribution: the log-cosh loss.

    Density: ``2 log(2 cosh(r / (2 scale))) + log scale``.

    Shapes and errors are those of :func:`laplace_nll`.

    Its optimum estimates the centre of a symmetric law with tails like the Laplace's (Verhulst, 1845).

    >>> logistic_nll(torch.tensor([0.0]), torch.tensor([0.0]), 1.0)
    tensor(1.3863)
    """
    check_pair("location", location, target)
    log_scale_ = log_scale("scale", scale, target)
    scale = plain(scale)
    z = (target - location) / scale
    return reduce(softplus(z, threshold=40) + softplus(-z, threshold=40) + log_scale_, reduction)


@public
def quantile_nll(
    quantile: Tensor,
    target: Tensor,
    scale: Tensor | float,
    tau: float = 0.5,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-density of the asymmetric Laplace distribution.

    Density: ``pinball(r) / scale + log(scale / (tau (1 - tau)))``.

    Shapes and errors are those of :func:`laplace_nll`; ``tau`` is a number between 0 and 1.

    Its optimum estimates the conditional tau-quantile; a free scale ends at the mean pinball loss (Yu and
    Moyeed, 2001).

    >>> quantile_nll(torch.tensor([0.0]), torch.tensor([1.0]), 1.0, 0.5)
    tensor(1.8863)
    """
    check_pair("quantile", quantile, target)
    tau, log_scale_ = _share("tau", tau), log_scale("scale", scale, target)
    scale = plain(scale)
    constant = math.log(tau) + math.log1p(-tau)
    return reduce(_pinball(target - quantile, tau) / scale + log_scale_ - constant, reduction)


def _pinball(r: Tensor, tau: float) -> Tensor:
    return torch.maximum(tau * r, (tau - 1) * r)


def _huber(r: Tensor, delta: float) -> Tensor:
    size = r.abs()
    return torch.where(size <= delta, 0.5 * r.square(), delta * (size - 0.5 * delta))


def _share(name: str, value: float) -> float:
    number = finite(name, value)
    if not 0 < number < 1:
        raise DataError(f"`{name}` must be between 0 and 1, not {number:g}. The median is 0.5.")
    return number
