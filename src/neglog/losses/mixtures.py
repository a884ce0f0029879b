"""Losses of mixtures: of Normals, and of counts with zeros of another origin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from neglog.calls import public
from neglog.errors import DataError
from neglog.losses.counted import negative_binomial_nll, poisson_nll
from neglog.losses.shapes import HALF_LOG_TWO_PI, Reduction, check_outputs, check_scale, finite, reduce


@public
def gaussian_mixture_nll(
    mean: Tensor, target: Tensor, logits: Tensor, sigma: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a mixture of K Normals: the loss of a mixture density network.

    Density: ``target ~ Σ w Normal(mean, sigma)`` over the components, with ``w`` the softmax of ``logits``.

    Shapes: ``target`` has any one shape, and ``mean`` that shape with the K components behind it; ``logits``
    and ``sigma`` are `(K,)` or of the shape of ``mean``. The result, in nats, has the shape of the target
    with ``reduction="none"`` and is a scalar otherwise.

    Its optimum would estimate a density of several humps (Bishop, 1994), but the loss has no lower bound: a
    component on a single row, with a sigma near 0, makes it as small as one likes. What is useful is a local
    optimum.

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for an unknown reduction,
    and for the mean of nothing. Sigmas are not searched for values below 0.

    >>> two = torch.tensor([[0.0, 0.0]])
    >>> gaussian_mixture_nll(two, torch.tensor([1.0]), torch.zeros(2), torch.ones(2))
    tensor(1.4189)
    """
    check_outputs("mean", mean, target, shared=False)
    for name, value in (("logits", logits), ("sigma", sigma)):
        check_outputs(name, value, target)
        if value.shape[-1] != mean.shape[-1]:
            raise DataError(
                f"`{name}` has {value.shape[-1]} components and `mean` has {mean.shape[-1]}. Give as many."
            )
    z = (target.unsqueeze(-1) - mean) / sigma
    parts = torch.log_softmax(logits, -1) - sigma.log() - 0.5 * z.square() - HALF_LOG_TWO_PI
    return reduce(-torch.logsumexp(parts, -1), reduction)


@public
def zero_inflated_poisson_nll(
    log_rate: Tensor,
    target: Tensor,
    logit_zero: Tensor | float,
    exposure: Tensor | float = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability of a Poisson count that is replaced by 0 with some probability.

    Density: with ``π = 1 / (1 + exp(-logit_zero))`` and the Poisson's ``p``, ``-log(π + (1 - π) p(0))`` at 0
    and ``-log(1 - π) - log p(target)`` elsewhere.

    Shapes: ``log_rate`` and ``target`` share any one shape; ``exposure`` and ``logit_zero`` are numbers, the
    first positive, or tensors without dimensions or of that same shape. The result, in nats, has the shape
    with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the log of the rate of rows without structural zero, and the log-odds of a
    structural zero (Lambert, 1992).

    Raises ``DataError`` for anything but floating-point tensors of these shapes.

    >>> zero_inflated_poisson_nll(torch.tensor([0.0]), torch.tensor([0.0]), 0.0)  # -log(½ + ½ exp(-1))
    tensor(0.3799)
    """
    counted = poisson_nll(log_rate, target, exposure, reduction="none")
    return _zero_inflated(counted, target, logit_zero, reduction)


@public
def zero_inflated_negative_binomial_nll(
    log_mean: Tensor,
    target: Tensor,
    dispersion: Tensor | float,
    logit_zero: Tensor | float,
    exposure: Tensor | float = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability of a negative binomial count (NB2), replaced by 0 with some probability.

    Density: that of :func:`zero_inflated_poisson_nll`, with ``p`` that of :func:`negative_binomial_nll`.

    Shapes and errors are those of :func:`zero_inflated_poisson_nll`, for ``dispersion`` as for ``exposure``.

    Its optimum estimates the log of the mean of rows without structural zero, their dispersion, and the
    log-odds of a structural zero (Greene, 1994).

    >>> zero_inflated_negative_binomial_nll(
    ...     torch.tensor([0.0]), torch.tensor([1.0]), 1.0, 0.0
    ... )  # log 2 + log 4
    tensor(2.0794)
    """
    counted = negative_binomial_nll(log_mean, target, dispersion, exposure, reduction="none")
    return _zero_inflated(counted, target, logit_zero, reduction)


def _zero_inflated(
    counted: Tensor, target: Tensor, logit_zero: Tensor | float, reduction: Reduction
) -> Tensor:
    if isinstance(logit_zero, Tensor):
        check_scale("logit_zero", logit_zero, target)
        logit = logit_zero
    else:
        logit = target.new_tensor(finite("logit_zero", logit_zero, "a finite number or a torch.Tensor"))
    explained = torch.where(target == 0, -torch.logaddexp(logit, -counted), counted)
    return reduce(softplus(logit, threshold=40) + explained, reduction)
