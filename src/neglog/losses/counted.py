"""Losses of counts, of yes or no, of shares and of positive targets: the likelihoods themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from neglog.calls import public
from neglog.losses.shapes import NUMBER_OR_TENSOR, Reduction, check_pair, check_scale, positive, reduce


@public
def poisson_nll(
    log_rate: Tensor, target: Tensor, exposure: Tensor | float = 1.0, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-probability of a Poisson count.

    Density: ``m - target · log m + log target!`` with ``m = exposure · exp(log_rate)``.

    Shapes: ``log_rate`` and ``target`` share any one shape; ``exposure`` is a positive number or a tensor
    without dimensions or of that same shape. The result, in nats, has the shape with ``reduction="none"``
    and is a scalar otherwise. `torch.nn.PoissonNLLLoss(full=True)` approximates the factorial.

    Its optimum estimates the log of the conditional rate (Nelder and Wedderburn, 1972).

    Raises ``DataError`` for anything but floating-point tensors of these shapes.

    >>> poisson_nll(torch.tensor([0.0]), torch.tensor([2.0]))
    tensor(1.6931)
    """
    check_pair("log_rate", log_rate, target)
    log_mean = log_rate + torch.log(_tensor("exposure", exposure, target))
    return reduce(log_mean.exp() - target * log_mean + torch.lgamma(target + 1), reduction)


@public
def negative_binomial_nll(
    log_mean: Tensor,
    target: Tensor,
    dispersion: Tensor | float,
    exposure: Tensor | float = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability of a negative binomial count with variance ``m + dispersion · m²`` (NB2).

    Density: with ``s = 1 / dispersion`` and ``m = exposure · exp(log_mean)``,
    ``log Gamma(s) + log target! - log Gamma(target + s) + (target + s) log(1 + m / s) - target log(m / s)``.

    Shapes and errors are those of :func:`poisson_nll`.

    Its optimum estimates the log of the conditional mean, and how much rates vary beyond it (Hilbe, 2011).

    >>> negative_binomial_nll(torch.tensor([0.0]), torch.tensor([0.0]), 1.0)
    tensor(0.6931)
    """
    check_pair("log_mean", log_mean, target)
    alpha = _tensor("dispersion", dispersion, target)
    log_mean = log_mean + torch.log(_tensor("exposure", exposure, target))
    size, log_ratio = 1 / alpha, log_mean + torch.log(alpha)
    counts = torch.lgamma(size) + torch.lgamma(target + 1) - torch.lgamma(target + size)
    return reduce(
        counts + (target + size) * softplus(log_ratio, threshold=40) - target * log_ratio, reduction
    )


@public
def bernoulli_nll(logit: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Minus the log-probability of yes or no: the binary cross-entropy.

    Density: ``log(1 + exp(logit)) - target · logit``, which `torch.nn.BCEWithLogitsLoss` is too.

    Shapes and errors are those of :func:`mse`.

    Its optimum estimates the log-odds of ``target = 1`` (Cox, 1958).

    >>> bernoulli_nll(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    check_pair("logit", logit, target)
    return reduce(softplus(logit, threshold=40) - target * logit, reduction)


@public
def binomial_nll(
    logit: Tensor, target: Tensor, trials: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-probability of a number of successes in trials.

    Density: ``trials · log(1 + exp(logit)) - target · logit - log C(trials, target)``.

    Shapes and errors are those of :func:`poisson_nll`, for ``trials`` as for ``exposure``.

    Its optimum estimates the log-odds of a success (Cox, 1958).

    >>> binomial_nll(torch.tensor([0.0]), torch.tensor([1.0]), 2.0)
    tensor(0.6931)
    """
    check_pair("logit", logit, target)
    n = _tensor("trials", trials, target)
    ways = torch.lgamma(n + 1) - torch.lgamma(target + 1) - torch.lgamma(n - target + 1)
    return reduce(n * softplus(logit, threshold=40) - target * logit - ways, reduction)


@public
def gamma_nll(
    log_mean: Tensor, target: Tensor, shape: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Gamma with mean ``exp(log_mean)`` and variance ``mean² / shape``.

    Density: with ``q = shape · target / mean``, ``q - shape log q + log target + log Gamma(shape)``.

    Shapes and errors are those of :func:`poisson_nll`, for ``shape`` as for ``exposure``.

    Its optimum estimates the log of the conditional mean (McCullagh and Nelder, 1989).

    >>> gamma_nll(torch.tensor([0.0]), torch.tensor([2.0]), 1.0)
    tensor(2.)
    """
    check_pair("log_mean", log_mean, target)
    k = _tensor("shape", shape, target)
    log_q = torch.log(k) + torch.log(target) - log_mean
    return reduce(log_q.exp() - k * log_q + torch.log(target) + torch.lgamma(k), reduction)


@public
def beta_nll(
    logit_mean: Tensor, target: Tensor, precision: Tensor | float, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Beta with mean ``1 / (1 + exp(-logit_mean))``.

    Density: with ``a = mean · precision`` and ``b = (1 - mean) · precision``,
    ``(1 - a) log target + (1 - b) log(1 - target) + log B(a, b)``.

    Shapes and errors are those of :func:`poisson_nll`, for ``precision`` as for ``exposure``.

    Its optimum estimates the log-odds of the conditional mean (Ferrari and Cribari-Neto, 2004).

    >>> beta_nll(torch.tensor([0.0]), torch.tensor([0.3]), 2.0).abs() < 1e-6
    tensor(True)
    """
    check_pair("logit_mean", logit_mean, target)
    total = _tensor("precision", precision, target)
    a, b = torch.sigmoid(logit_mean) * total, torch.sigmoid(-logit_mean) * total
    normaliser = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return reduce((1 - a) * torch.log(target) + (1 - b) * torch.log1p(-target) + normaliser, reduction)


def _tensor(name: str, value: Tensor | float, target: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        check_scale(name, value, target)
        return value
    return target.new_tensor(positive(name, value, NUMBER_OR_TENSOR))
