"""A model seen through its handlers and partials, and the former names that its function declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, TypeVar

from pyro.poutine.messenger import Messenger

from neglog.aliases import warn_of_former
from neglog.errors import ModelError

Value = TypeVar("Value")


def layers(model: Callable[..., Any]) -> Iterator[Any]:
    """The model, and what is inside its handlers and partials, from the outside in."""
    inner: Any = model
    while inner is not None:
        yield inner
        args: tuple[Any, ...] = getattr(inner, "args", ())
        inside = getattr(inner, "func", None) or getattr(inner, "model", None)
        inner = args[1] if len(args) > 1 and isinstance(args[0], Messenger) else inside


def renamed(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model some of whose predictors have a new name: former name -> current name.

    The former name is still a key of `x`, with a warning. The mapping stays on the model as ``renamed``.

    >>> import warnings
    >>> @renamed(centre="location")
    ... def keys(x, y=None):
    ...     return list(x)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FutureWarning)
    ...     keys({"centre": 1.0, "scale": 2.0})
    ['location', 'scale']
    """

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(model)
        def accepting(x: Any, y: Any = None, **keywords: Any) -> Any:
            return model(current_names(accepting, x, "x") if isinstance(x, Mapping) else x, y, **keywords)

        accepting.renamed = names  # type: ignore[attr-defined]
        return accepting

    return decorate


def former_names(model: Callable[..., Any]) -> Mapping[str, str]:
    """Former name -> current name of each predictor of the model that was renamed."""
    every = (getattr(layer, "renamed", {}) for layer in layers(model))
    return next((names for names in every if names), {})


def replaced(names: Mapping[str, str], named: Mapping[str, Value]) -> dict[str, Value]:
    """The mapping, keyed by predictors or by their sites, with current names in the place of former ones.

    Raises:
        ModelError: a key is there under both names.
    """
    found: dict[str, Value] = {}
    for key, value in named.items():
        predictor, dot, part = key.partition(".")
        now = f"{names.get(predictor, predictor)}{dot}{part}"
        if now != key and now in named:
            raise ModelError(f"{key!r} is the former name of {now!r}, and both are given; drop {key!r}.")
        found[now] = value
    return found


def current_names(
    model: Callable[..., Any], named: Mapping[str, Value], argument: str
) -> Mapping[str, Value]:
    """`replaced` by the names that the model declares, with a warning where something is replaced.

    Raises:
        ModelError: a key is there under both names.

    Warns:
        FutureWarning: a key is a former name.
    """
    names = former_names(model)
    if names.keys().isdisjoint(key.partition(".")[0] for key in named if isinstance(key, str)):
        return named
    found = replaced(names, named)
    pairs = ", ".join(f"{old!r} is now {new!r}" for old, new in zip(named, found, strict=True) if old != new)
    warn_of_former(f"in `{argument}`, {pairs}")
    return found
