"""The names of the models, without the models, which import torch."""

from __future__ import annotations

from neglog import models
from neglog.errors import ModelError
from neglog.synonyms import nearest_model


def check_name(name: str) -> None:
    """Raise ModelError unless there is a model of that name; the message lists those that there are."""
    if "~" in name:
        raise ModelError(
            f"`{name}` is a formula, and the model comes first. Write mle('gaussian', {name!r}, data)."
        )
    if name not in models.__all__:
        near = nearest_model(name, models.__all__)
        *some, last = (f"`{each}`" for each in models.__all__)
        raise ModelError(f"there is no model `{name}`.{near} There are {', '.join(some)} and {last}.")
