"""Losses of positive targets: the likelihoods themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.calls import public
from neglog.losses.shapes import HALF_LOG_TWO_PI, Reduction, check_pair, plain, reduce
from neglog.losses.shapes import log_scale as log_of


@public
def lognormal_nll(
    log_median: Tensor, target: Tensor, sigma: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a target whose logarithm is Normal.

    Density: ``(log target - log_median)² / (2 sigma²) + log sigma + log target + log(2 pi) / 2``.

    Shapes: ``log_median`` and ``target`` share any one shape; ``sigma``, the standard deviation of
    ``log target``, is a positive number, a tensor without dimensions or one of that same shape. The result,
    in nats, has the shape with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the log of the conditional median (Galton, 1879).

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for a number that is not
    positive and finite, for an unknown reduction, and for the mean of nothing. A *tensor* is not searched for
    values below 0.

    >>> lognormal_nll(torch.tensor([0.0]), torch.tensor([1.0]), 1.0)
    tensor(0.9189)
    """
    check_pair("log_median", log_median, target)
    log_sigma, log_target = log_of("sigma", sigma, target), torch.log(target)
    sigma = plain(sigma)
    squared = ((log_target - log_median) / sigma).square()
    return reduce(0.5 * squared + log_sigma + log_target + HALF_LOG_TWO_PI, reduction)


@public
def weibull_nll(
    log_scale: Tensor, target: Tensor, shape: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Weibull with scale ``exp(log_scale)``.

    Density: with ``q = log target - log_scale``, ``exp(shape q) - shape q + log target - log shape``.

    Shapes and errors are those of :func:`lognormal_nll`, for ``shape`` as for ``sigma``.

    Its optimum estimates the log of the time at which a share 1 - 1 / e has failed (Weibull, 1951).

    >>> weibull_nll(torch.tensor([0.0]), torch.tensor([2.0]), 1.0)
    tensor(2.)
    """
    check_pair("log_scale", log_scale, target)
    log_shape, log_target = log_of("shape", shape, target), torch.log(target)
    shape = plain(shape)
    power = shape * (log_target - log_scale)
    return reduce(power.exp() - power + log_target - log_shape, reduction)


@public
def inverse_gaussian_nll(
    log_mean: Tensor, target: Tensor, dispersion: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of an inverse Gaussian with mean ``exp(log_mean)`` and its GLM dispersion.

    Density: ``(target / mean - 1)² / (2 dispersion target) + log(2 pi dispersion target³) / 2``; the variance
    is ``dispersion mean³``.

    Shapes and errors are those of :func:`lognormal_nll`, for ``dispersion`` as for ``sigma``; it is in one
    over the units of the target.

    Its optimum estimates the log of the conditional mean (McCullagh and Nelder, 1989).

    >>> inverse_gaussian_nll(torch.tensor([0.0]), torch.tensor([1.0]), 1.0)
    tensor(0.9189)
    """
    check_pair("log_mean", log_mean, target)
    log_dispersion, log_target = log_of("dispersion", dispersion, target), torch.log(target)
    dispersion = plain(dispersion)
    deviance = torch.expm1(log_target - log_mean).square() / target
    return reduce(
        0.5 * (deviance / dispersion + log_dispersion) + 1.5 * log_target + HALF_LOG_TWO_PI, reduction
    )
