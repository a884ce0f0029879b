"""Models by name: ``"poisson"`` for `neglog.models.poisson`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neglog import models
from neglog.arguments import check_takes_rows, checked_model
from neglog.layers import layers
from neglog.models.names import check_name

Model = Callable[..., Any]


def model_named(name: str) -> Model:
    """A model of `neglog.models`.

    Raises:
        ModelError: there is none of that name; the message lists those that there are.
    """
    check_name(name)
    model: Model = getattr(models, name)
    return model


def model_of(given: Any) -> Model:
    """A model that was given by its name, or as a function.

    Raises:
        ModelError: there is no model of that name; or it is no function of `(x, y=None)`.
    """
    if isinstance(given, str):
        return model_named(given)
    *_, inner = layers(checked_model(given))
    if inner is not given:
        check_takes_rows(inner)
    checked: Model = given
    return checked
