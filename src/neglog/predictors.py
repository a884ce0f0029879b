"""Predictors: the input-dependent parameters that models are made of.

A predictor is named after the parameter that it predicts. Its sites stand above the plate of rows:
``NAME.weight`` with shape ``(P,)`` and ``NAME.bias`` with shape ``()``. Both priors are proper and
weakly informative for columns and a response of order one: Normal(0, 2.5) and Normal(0, 5).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import effectful
from torch import Tensor

from neglog.errors import DataError, ModelError

Designs = Tensor | Mapping[str, Tensor]

ROWS = "rows"
RESPONSE = "y"


def row_count(x: Designs) -> int:
    """The number of rows N of a design `(N, P)`, or of a mapping of them.

    Raises:
        ModelError: `x` is an empty mapping, which says nothing of the rows.
    """
    if isinstance(x, Mapping):
        if not x:
            raise ModelError(
                "`x` is an empty mapping; give at least one predictor a design, if need be without columns."
            )
        return next(iter(x.values())).shape[0]
    return x.shape[0]


def rows(x: Designs) -> pyro.plate:
    """The plate of independent observations, one for each row of `x`."""
    return pyro.plate(ROWS, row_count(x))


def design(name: str, x: Designs) -> Tensor:
    """The design `(N, P)` that `x` holds for the predictor `name`; without columns if it holds none.

    Raises:
        DataError: the design has not two dimensions.
    """
    if isinstance(x, Mapping):
        rows = row_count(x)
        found = x[name] if name in x else next(iter(x.values())).new_empty((rows, 0))
    else:
        found = x
    if found.dim() != 2:
        raise DataError(
            f"the design of `{name}` needs the shape (rows, columns); it has {tuple(found.shape)}. "
            "For a single column, pass x[:, None]."
        )
    return found


@effectful(type="affine")
def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight + bias`, as an effect: a handler may stand in for it and hand in the predictor's values.

    Shapes: `x` is `(N, P)`; `weight` is `(P,)`, or `(*S, 1, P)` under a vectorising plate of shape `S`;
    the value is `(N,)`, or `(*S, N)`. A weight drawn from a float32 prior takes the dtype of `x`.
    """
    weight = weight.to(x.dtype)
    if weight.dim() == 1:
        return x @ weight + bias
    return (x @ weight.transpose(-1, -2)).squeeze(-1) + bias


def linear(name: str, x: Designs) -> Tensor:
    """A linear predictor with sites ``NAME.weight`` `(P,)` and ``NAME.bias`` `()`; its value is `(N,)`.

    A mapping `x` that has no design for `name` makes the predictor a constant (`P = 0`).
    To leave the intercept out, condition it: ``pyro.condition(model, {"NAME.bias": torch.tensor(0.0)})``.

    >>> import torch
    >>> def median_model(x, y=None):
    ...     median = linear("median", x)
    ...     with rows(x):
    ...         return pyro.sample("y", dist.Laplace(median, 1.0), obs=y)
    >>> median_model(torch.zeros(4, 2)).shape
    torch.Size([4])
    """
    columns = design(name, x)
    weight = pyro.sample(f"{name}.weight", dist.Normal(columns.new_zeros(columns.shape[1]), 2.5).to_event(1))
    bias = pyro.sample(f"{name}.bias", dist.Normal(columns.new_zeros(()), 5.0))
    return affine(columns, weight, bias, name=name)


def positive(name: str, x: Designs, rate: float = 1.0) -> Tensor:
    """A positive parameter: a constant, or ``exp`` of a linear predictor where `x` has a design for it.

    As a constant it is one site ``NAME`` of shape `()` with the prior Exponential(rate). With a design, its
    linear predictor lives on the log scale and the sites say so: ``log_NAME.weight``, ``log_NAME.bias``.
    """
    if isinstance(x, Mapping) and name in x:
        return torch.exp(linear(f"log_{name}", x[name]))
    like = next(iter(x.values())) if isinstance(x, Mapping) else x
    return pyro.sample(name, dist.Exponential(like.new_full((), rate)))
