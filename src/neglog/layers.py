"""A model seen through its handlers and partials, and the other names that its function declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
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


def is_network(model: Callable[..., Any]) -> bool:
    """Whether a network computes the features of the model's predictors."""
    return any(hasattr(layer, "module") for layer in layers(model))


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


def also_called(
    location: str | None = None, scale: str | None = None, spread: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model whose predictors are known as ``location`` and ``scale``, besides their own names.

    Both are keys of `x`, and ``location.weight`` and ``scale`` sites of `start` and of priors. The names stay
    on the model as ``also_called``, and as ``designs_called`` that of the `spread`.

    Args:
        location: the first predictor.
        scale: the constant that is a scale.
        spread: in its place, another constant or predictor on which the spread depends, as a shape does: the
            key ``scale`` of `x` has its design, but its values are those of no scale.

    >>> @also_called(location="mean", scale="sigma")
    ... def keys(x, y=None):
    ...     return list(x)
    >>> keys({"location": 1.0, "scale": 2.0})
    ['mean', 'sigma']
    """
    names = {"location": location, "scale": scale, "log_scale": None if scale is None else f"log_{scale}"}

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(model)
        def accepting(x: Any, *args: Any, **keywords: Any) -> Any:
            x = current_names(accepting, x, "x") if isinstance(x, Mapping) else x
            return model(x, *args, **keywords)

        declared: Any = accepting
        declared.also_called = {name: own for name, own in names.items() if own is not None}
        declared.designs_called = {"scale": spread or scale} if spread or scale else {}
        return accepting

    return decorate


def with_limits(limits: Mapping[str, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model with the models that it is in a limit of its constants, such as ``zero → 0``.

    The mapping stays on the model as ``limits``; fits that end at such a border name the model.
    """

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        model.limits = limits  # type: ignore[attr-defined]
        return model

    return decorate


def limit_of(model: Callable[..., Any], border: str) -> str | None:
    """The name of the model that a model is in a limit, such as ``zero → 0``; None where it is none."""
    declared = (layer.limits for layer in layers(model) if hasattr(layer, "limits"))
    return next((limits[border] for limits in declared if border in limits), None)


def former_names(model: Callable[..., Any]) -> Mapping[str, str]:
    """Former name -> current name of each predictor of the model that was renamed."""
    return _declared(model, "renamed")


def _declared(model: Callable[..., Any], attribute: str) -> Mapping[str, str]:
    every = (getattr(layer, attribute, {}) for layer in layers(model))
    return next((names for names in every if names), {})


def design_names(model: Callable[..., Any], named: Collection[Any]) -> Mapping[str, str]:
    """Every other name of a predictor -> its own, for designs of these names.

    The first predictor of `weibull` is the logarithm of what is called its scale: there ``scale`` is the
    spread beside ``location`` alone, and unknown otherwise.
    """
    called = {name: own for name, own in _declared(model, "also_called").items() if name == "location"}
    spread = _declared(model, "designs_called")
    if called.get("location") == "log_scale" and "location" not in list(
        named
    ):  # a mapping may record what is looked up
        spread = {}
    return {**former_names(model), **called, **spread}


def site_names(model: Callable[..., Any]) -> Mapping[str, str]:
    """Every other name of a predictor or a constant -> its own, as they begin the names of sites."""
    return {**former_names(model), **_declared(model, "also_called")}


def replaced(names: Mapping[str, str], named: Mapping[str, Value]) -> dict[str, Value]:
    """The mapping, keyed by predictors or by their sites, with current names in the place of other ones.

    Raises:
        ModelError: a key is there under both names.
    """
    found: dict[str, Value] = {}
    for key, value in named.items():
        predictor, dot, part = key.partition(".")
        now = f"{names.get(predictor, predictor)}{dot}{part}"
        if now in found or (now != key and now in named):
            raise ModelError(f"{key!r} is another name of {now!r}, and both are given; drop {key!r}.")
        found[now] = value
    return found


def declared_loss(model: Callable[..., Any]) -> Any:
    """The loss that a model of neglog declares, inside any handlers; None of other models."""
    *_, inner = layers(model)
    return getattr(inner, "loss", None)


def current_names(
    model: Callable[..., Any], named: Mapping[str, Value], argument: str
) -> Mapping[str, Value]:
    """`replaced` by the names that the model declares, with a warning where a former name is replaced.

    Args:
        model: the model.
        named: values by predictor, or by site.
        argument: the name of the argument: `x` and `module` are keyed by predictors, all others by sites.

    Raises:
        ModelError: a key is there under both names.

    Warns:
        FutureWarning: a key is a former name.
    """
    former = former_names(model)
    of_designs = argument in ("x", "module")
    names = design_names(model, named) if of_designs else site_names(model)
    keys = {key.partition(".")[0] for key in named if isinstance(key, str)}
    if names.keys().isdisjoint(keys):
        return named
    found = replaced(names, named)
    old = {key: now for key, now in zip(named, found, strict=True) if key.partition(".")[0] in former}
    if old:
        warn_of_former(f"in `{argument}`, {', '.join(f'{key!r} is now {now!r}' for key, now in old.items())}")
    return found
