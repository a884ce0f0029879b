"""Objectives of training as losses of predictions and targets, for loops of one's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.calls import public
from neglog.data import Data
from neglog.distributions.interpolated import Interpolated
from neglog.errors import DataError
from neglog.layers import layers
from neglog.losses.shapes import Reduction, check_pair, reduce
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run
from neglog.training_objectives import TrainingObjective, ascending

LOG_TWO_PI = math.log(2 * math.pi)


def objective_of(objective: TrainingObjective, nll: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss of an objective of training, with the arguments of the hand-written loss of its model.

    Features are not known to it: under `faithful`, the head of the scale takes them detached, so that it does
    not train what the location is computed from.
    """
    first = next(iter(inspect.signature(nll).parameters))
    by_row = frozenset().union(*(getattr(layer, "row_supports", {}) for layer in layers(objective.model)))

    def loss(prediction: Tensor, target: Tensor, *, reduction: Any = "mean", **rest: Any) -> Tensor:
        with torch.no_grad():
            nll(prediction, target, **rest, reduction="none")  # refuses other shapes
        values = {key: _flat(value, target) for key, value in {first: prediction, **rest}.items()}
        keywords = {key: values.pop(key) for key in by_row & set(values)}
        return reduce(_row_losses(objective, values, target, keywords).reshape(target.shape), reduction)

    return loss


@public
def natural_gaussian_nll(
    precision_mean: Tensor, target: Tensor, log_precision: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Normal in natural parameters; see `neglog.natural_gaussian`.

    Density: with ``p = exp(log_precision)``, ``½ (p target² + precision_mean² / p - log_precision + log 2π) -
    precision_mean · target``.

    Shapes: all three share any one shape. The result, in nats, has it with ``reduction="none"`` and is a
    scalar otherwise.

    Raises ``DataError`` for anything but floating-point tensors of one shape.

    >>> natural_gaussian_nll(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(0.9189)
    """
    check_pair("precision_mean", precision_mean, target)
    check_pair("log_precision", log_precision, target)
    residual = target - precision_mean * torch.exp(-log_precision)
    return reduce(0.5 * (residual.square() * log_precision.exp() - log_precision + LOG_TWO_PI), reduction)


def heads_of(levels: tuple[float, ...]) -> Callable[..., Tensor]:
    """The loss of `neglog.quantile_heads`: of predictions `(..., Q)`, and targets `(...)`."""

    def loss(prediction: Tensor, target: Tensor, *, reduction: Any = "mean") -> Tensor:
        if prediction.shape != (*target.shape, len(levels)):
            raise DataError(
                f"`prediction` must have the shape {(*target.shape, len(levels))}, that of the target and "
                f"one output for each level; it has {tuple(prediction.shape)}."
            )
        return reduce(Interpolated(ascending(prediction), levels).pinball(target), reduction)

    return loss


def _flat(value: Tensor | float, target: Tensor) -> Tensor:
    """A value of each element of the target, `(N,)`."""
    return torch.as_tensor(value, dtype=target.dtype).expand(target.shape).reshape(-1)


def _row_losses(
    objective: TrainingObjective, values: Mapping[str, Tensor], target: Tensor, keywords: Mapping[str, Any]
) -> Tensor:
    """The losses `(N,)` of the model run at values of its predictors and constants."""
    y = target.reshape(-1)
    data = Data(y.new_zeros((len(y), 0)), y, None, dict(keywords))
    with pyro.validation_enabled(False):
        at = run(objective.handler(1.0)(objective.model), data, Run(values, etas=values))
    return -at.log_prob(RESPONSE)
