"""Losses of classes: codes 0, 1, ..., K - 1, without an order and with one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from neglog.calls import public
from neglog.errors import DataError
from neglog.losses.shapes import Reduction, check_outputs, check_pair, check_tensor, reduce


@public
def categorical_nll(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Minus the log-probability of a class: the cross-entropy.

    Density: ``log sum exp(logits) - logits[target]``, which `torch.nn.CrossEntropyLoss` is too.

    Shapes: ``target`` has any one shape, and ``logits`` that shape with the K classes behind it. A target
    is a code 0, 1, ..., K - 1, of an integer or a floating type. The result, in nats, has the shape of the
    target with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the log-odds between the classes (McFadden, 1974), whose sum is free: a constant
    added to all of them changes nothing.

    Raises ``DataError`` for logits of another shape or not of a floating type, for a target that is no code
    of a class, for an unknown reduction, and for the mean of nothing.

    >>> categorical_nll(torch.tensor([[0.0, 0.0]]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    check_outputs("logits", logits, target, shared=False)
    code = _codes(target, logits.shape[-1]).unsqueeze(-1)
    return reduce(-torch.log_softmax(logits, -1).gather(-1, code).squeeze(-1), reduction)


@public
def ordinal_nll(
    location: Tensor, target: Tensor, cutpoints: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-probability of a class in an order: the cumulative logit.

    Density: with ``b = cutpoints[target] - location`` and ``a = cutpoints[target - 1] - location``, the cuts
    above and below the class, ``-log(1 / (1 + exp(-b)) - 1 / (1 + exp(-a)))``, worked out without the
    difference; below the lowest class ``a`` is -∞, above the highest ``b`` is ∞.

    Shapes: ``location`` and ``target`` share any one shape; ``cutpoints`` are `(K - 1,)`, or have that shape
    with K - 1 behind it. A target is a code 0, 1, ..., K - 1. The result, in nats, has the shape of the
    target with ``reduction="none"`` and is a scalar otherwise.

    Its optimum estimates the location of a latent variable, and its thresholds (McCullagh, 1980).

    Raises ``DataError`` for anything but floating-point tensors of these shapes, for a target that is no code
    of a class, for an unknown reduction, and for the mean of nothing. Cutpoints are not searched for one that
    is not above the one before it.

    >>> ordinal_nll(torch.tensor([0.0]), torch.tensor([2.0]), torch.tensor([-1.0, 0.0]))
    tensor(0.6931)
    """
    check_pair("location", location, target)
    check_outputs("cutpoints", cutpoints, target)
    code = _codes(target, cutpoints.shape[-1] + 1).unsqueeze(-1)
    end = torch.full_like(cutpoints[..., :1], torch.inf)
    edges = torch.cat([-end, cutpoints, end], -1).expand(*target.shape, -1)
    lower, upper = (edges.gather(-1, code + side).squeeze(-1) for side in (0, 1))
    # The difference is a product: of 1 / (1 + exp(-b)), of 1 / (1 + exp(a)) and of 1 - exp(a - b).
    inside = torch.log(-torch.expm1(lower - upper))
    return reduce(-(logsigmoid(upper - location) + logsigmoid(location - lower) + inside), reduction)


def _codes(target: Tensor, classes: int) -> Tensor:
    """The codes as integers, refused unless they are those of classes."""
    if target.is_floating_point():
        check_tensor("target", target)
    code = target.long()
    wrong = (code != target) | (code < 0) | (code >= classes)
    if bool(wrong.any()):
        raise DataError(
            f"`target` must be a code 0, ..., {classes - 1} of one of {classes} classes, not "
            f"{target[wrong][0].item():g}. Number the classes from 0."
        )
    return code
