"""An offset: a known number in the location predictor of each row, whose coefficient is 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from neglog.arguments import check_dense
from neglog.calls import public
from neglog.errors import DataError, ModelError
from neglog.models.named import model_of

Model = Callable[..., Any]

OFFSET_KEYWORD = "offset"
"""The row-wise argument that holds the offsets."""


class _Adding(Messenger):
    """Gives the first linear predictor that a model evaluates an offset `(N,)`."""

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.offset, self.found = offset, False

    def _pyro_affine(self, msg: dict[str, Any]) -> None:
        if self.found:
            return
        self.found = True
        before = msg["kwargs"].get("offset")
        msg["kwargs"]["offset"] = self.offset if before is None else before + self.offset


@public
def with_offset(model: Model | str) -> Model:
    """The model whose location predictor is ``x @ weight + bias + offset``, with `offset` `(N,)` by row.

    `mle` and its like put it around a model that is given an ``offset``. The location predictor is the first
    of
    the model: ``offset=log(t)`` in a model of a log rate is an exposure of t. Of a predictor with many
    outputs it is added to each. Without an offset nothing changes.

    Raises:
        ModelError: when the model runs, if it has no linear predictor.
        DataError: when the model runs: no number for each row.

    >>> import torch
    >>> from neglog import mle, models
    >>> x, y = torch.empty((3, 0), dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    >>> fit = mle(models.poisson, x, y, offset=torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64).log())
    >>> round(fit.params["log_rate.bias"].exp().item(), 6)
    1.0
    """
    return WithOffset(model_of(model))


class WithOffset:
    """A model with an offset in its location predictor."""

    row_keywords = frozenset({OFFSET_KEYWORD})
    """The row-wise arguments of the handler."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.description: dict[str, dict[str, Any]] = {"offset": {}}

    def __call__(self, x: Any, y: Tensor | None = None, offset: Tensor | None = None, **keywords: Any) -> Any:
        if offset is None:
            return self.model(x, y, **keywords)
        if not isinstance(offset, Tensor) or offset.dim() != 1:
            raise DataError("`offset` needs one number for each row, as a tensor of shape (rows,).")
        check_dense("offset", offset)
        with _Adding(offset) as adding:
            value = self.model(x, y, **keywords)
        if not adding.found:
            raise ModelError(
                "the model has no linear predictor (`neglog.predictors.linear`) to add `offset` to."
            )
        return value
