"""Cancellation: whether float64 can evaluate a predictor from the coefficients that are returned."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.errors import SingularDesignError
from neglog.objective.blocks import Block, scores_at
from neglog.objective.coordinates import Coordinates
from neglog.objective.spread import ROUNDINGS
from neglog.tracing import Affine

ROWS_AT_ONCE = 8192
"""The number of rows whose products are formed at once."""
DEFINITE = 1e-5
"""The most that the rounding of the products of columns and coefficients may change the loss by, in nats."""


def check_cancellation(coordinates: Coordinates, theta: Tensor) -> None:
    """Refuse coefficients `theta` `(K,)` whose products with nearly dependent columns cancel.

    Where columns are alike to 12 digits their coefficients are of 1e12 times the noise, and of opposite
    signs: the loss of the numbers that are returned is rounding. The products of a column far from 0 cancel
    against the bias; that is the same in all rows, so they may be larger, up to where the rounding of the
    predictor is that of a degenerate spread.

    Raises:
        SingularDesignError: naming the columns.
    """
    calls = {call.name: call for call in coordinates.objective.calls}
    scores = _scores(coordinates, theta)
    for block in coordinates.nearly_dependent:
        own = scores[block.predictor][:, block.output or 0]
        _check(coordinates, block, calls[block.predictor], theta, own)


def _scores(coordinates: Coordinates, theta: Tensor) -> dict[str, Tensor]:
    """The slopes of the log-likelihood in each predictor, `(N, D)`, but for their sign."""
    objective = coordinates.objective
    etas = {call.name: call.value.detach() for call in objective.affines(theta)}
    found = zip(etas, scores_at(objective, theta, etas), strict=True)
    return {name: score.reshape(objective.rows, -1) for name, score in found}


def _check(coordinates: Coordinates, block: Block, call: Affine, theta: Tensor, scores: Tensor) -> None:
    coefficients, eps = theta[block.places], torch.finfo(theta.dtype).eps
    bias, weight = coefficients[: int(block.one)], coefficients[int(block.one) :]
    if not len(weight):
        return
    origin, middle = torch.zeros_like(weight), call.design.mean(dim=0)
    sums, sizes = _products(call.design, middle if block.one else origin, weight)
    nats = float((scores * eps * sums).norm())
    whole = float(_products(call.design, origin, weight)[0].max()) + float(bias.abs().sum())
    noise = float(scores.square().mean().rsqrt())
    names = call.column_names(coordinates.objective.data)
    if not nats <= DEFINITE:
        large = (sizes > 0.1 * sizes.max()).tolist()
        columns = [name for name, is_large in zip(names, large, strict=True) if is_large]
        raise SingularDesignError(
            f"the columns {', '.join(columns)} of `{call.name}` are so nearly dependent that float64 cannot "
            f"evaluate it: its coefficients reach {float(weight.abs().max()):.1g}, and the rounding of their "
            f"products moves the log-likelihood by {nats:.0e}. Leave one of them out, give their difference "
            "as a column, or use `map_estimate` with proper priors."
        )
    if not eps * ROUNDINGS * whole <= noise:
        far = (middle * weight).abs().argmax()
        raise SingularDesignError(
            f"the column {names[int(far)]} of `{call.name}` is so far from 0 that float64 cannot evaluate "
            f"it: terms of {whole:.1g} cancel and leave a rounding error of {noise:.1g}. Subtract a "
            "constant from the column, such as its mean."
        )


def _products(design: Tensor, middle: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sizes of the products of columns, less their `middle`, with `weight` `(P,)`.

    Their sums in each row `(N,)`, and the largest of each column `(P,)`; no copy of the design is made.
    """
    sums, largest = [], torch.zeros_like(weight)
    for part in design.split(ROWS_AT_ONCE):
        terms = (part - middle).abs() * weight.abs()
        sums.append(terms.sum(dim=1))
        largest = torch.maximum(largest, terms.amax(dim=0))
    return torch.cat(sums), largest
