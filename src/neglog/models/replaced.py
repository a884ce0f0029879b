"""The loss that the negative log-likelihood of a model replaces, declared beside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from neglog.calls import public

Response = Literal["real", "positive", "count", "share", "0 or 1", "class", "vector"]


@public
@dataclass(frozen=True)
class Loss:
    """The classical loss of a model: an entry of `neglog.losses.TABLE`, and a row of the documents' tables.

    >>> from neglog.losses import TABLE
    >>> TABLE["laplace"].name
    'MAE'
    """

    name: str
    """The classical loss."""
    torch_loss: str
    """The PyTorch class to train a network with, or the loss in words where PyTorch has none."""
    density: str
    """The density of y."""
    estimates: str
    """What a prediction estimates at the optimum."""
    choose_when: str
    """The data for which it is the right one."""
    response: Response
    """The kind of y."""
    page: str
    """The page in docs/ that shows the model at work."""


def declare_loss(model: Callable[..., Any], loss: Loss) -> None:
    """State which loss a model of `neglog.models` replaces; it stays on the model as ``loss``."""
    function: Any = model
    function.loss = loss
