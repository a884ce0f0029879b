"""A model as JSON values: its name, its keywords, and the handlers around it from the inside out."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from neglog import models
from neglog.errors import DataError, ModelError
from neglog.export import arrays
from neglog.export.documents import fields, items, mapping, number, shortened, text, texts, wrong
from neglog.formula.tagged import to_json
from neglog.handlers import Model, censored, flat, masked, truncated
from neglog.layers import former_names, layers, replaced
from neglog.offset import with_offset
from neglog.tracing import model_name

PARAMS = "Save its estimates alone: safetensors.torch.save_file(dict(fit.params), path)."
"""The remedy for a fit that `save` cannot write."""

MAX_HANDLERS = 20
"""The largest number of handlers around a saved model; each of them takes time whenever the model is run."""


def described(model: Model) -> dict[str, Any]:
    """The JSON values of a model of `neglog.models`, inside handlers that a file can name.

    Raises:
        ModelError: it is another model, or inside another handler, or a keyword is no number.
    """
    if any(hasattr(layer, "module") for layer in layers(model)):
        raise ModelError(f"a model on the features of a network (`on_features`) cannot be saved. {PARAMS}")
    handlers: list[dict[str, Any]] = []
    keywords: dict[str, Any] = {}
    while isinstance(model, partial) or hasattr(model, "description"):
        if isinstance(model, partial):
            keywords = {**model.keywords, **keywords}  # Python makes one partial of two.
            outer, model = _of_partial(model)
            handlers = [*outer, *handlers]
        else:
            _check_bounds(model, keywords)
            of_handler: dict[str, Any] = getattr(model, "description", {})
            handlers.insert(0, {name: _settings(settings) for name, settings in of_handler.items()})
            _, model, *_ = layers(model)
    _check_ours(model)
    bound = {name: _keyword(name, value) for name, value in keywords.items()}
    return {"name": model_name(model), "keywords": bound, "handlers": handlers}


def _of_partial(model: partial[Any]) -> tuple[list[dict[str, Any]], Model]:
    """The JSON values of the handler that a partial applies, if it is one of Pyro's, and the model inside.

    Raises:
        ModelError: another positional argument than a handler is bound.
    """
    if model.args and isinstance(model.args[0], Messenger):
        return [_of_messenger(model.args[0])], model.args[1]
    if isinstance(model.func, partial) or not model.args:  # Pyro wraps its partials once more.
        return [], model.func
    raise ModelError("a model with bound positional arguments cannot be saved; bind keywords instead.")


def _check_ours(model: Model) -> None:
    name = model_name(model)
    if getattr(models, name, None) is model and name in models.__all__:
        return
    raise ModelError(
        f"only models of neglog.models can be saved, and `{name}` is not one of them: "
        f"{', '.join(models.__all__)}. {PARAMS}"
    )


def _keyword(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return to_json(float(value))
    raise ModelError(
        f"the keyword `{name}` cannot be saved: it is a {type(value).__name__}, and must be a Python number. "
        f"If it belongs to the rows, give it to the fit: mle(model, x, y, {name}=...)."
    )


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        side: value if isinstance(value, str) else _keyword(side, value) for side, value in settings.items()
    }


def _check_bounds(handler: Any, keywords: Mapping[str, Any]) -> None:
    for name in sorted(set(keywords) & getattr(handler, "row_bounds", set())):
        raise ModelError(
            f"the bound `{name}` is bound by functools.partial, and a file cannot distinguish it from a "
            f"keyword of the model. Give it to the handler: {handler.name}(model, {name}=...)."
        )


def _of_messenger(messenger: Messenger) -> dict[str, Any]:
    kind = type(messenger).__name__.lstrip("_")
    if isinstance(messenger, ConditionMessenger) and isinstance(messenger.data, dict):
        values = {name: torch.as_tensor(value) for name, value in messenger.data.items()}
        floats = {name: v if v.is_floating_point() else v.double() for name, v in values.items()}
        return {"condition": arrays.written(floats)}
    if kind == "Flat":
        return {"flat": sorted(messenger.names)}
    raise ModelError(f"a model inside the handler {kind} cannot be saved. {PARAMS}")


def rebuilt(value: Any, largest: int) -> Model:
    """The model of what `described` gave.

    Args:
        value: the JSON values.
        largest: the largest whole number that a keyword may have, such as a number of classes.

    Raises:
        DataError: the values are of anything else.
        ModelError: the model or a handler refuses its settings.
    """
    found = fields("model", value, {"name", "keywords", "handlers"})
    name = text("model.name", found["name"])
    if name not in models.__all__:
        raise DataError(f"there is no model {shortened(name)} in this version; upgrade neglog")
    function = getattr(models, name)
    keywords = mapping("model.keywords", found["keywords"])
    _check_known("model.keywords", keywords, list(inspect.signature(function).parameters)[2:])
    bound = {key: _number_or_none(f"model.keywords.{key}", each) for key, each in keywords.items()}
    for key, each in bound.items():
        if isinstance(each, int) and each > largest:
            raise wrong(f"model.keywords.{key}", f"at most {largest}, by the number of estimates", each)
    model: Model = partial(function, **bound) if bound else function
    handlers = items("model.handlers", found["handlers"])
    if len(handlers) > MAX_HANDLERS:
        raise wrong("model.handlers", f"a list of at most {MAX_HANDLERS} handlers", len(handlers))
    for handler in handlers:
        model = _inside(model, handler)
    return model


def conditions(model: Model) -> dict[str, Tensor]:
    """The values that `pyro.condition` fixes around a model and inside it."""
    messengers = [next(iter(getattr(layer, "args", ())), None) for layer in layers(model)]
    inside_out = [each.data for each in reversed(messengers) if isinstance(each, ConditionMessenger)]
    return {name: value for data in inside_out for name, value in data.items()}


def _check_known(name: str, found: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise wrong(name, f"an object of no more than {', '.join(known) or 'nothing'}", unknown)


def _number_or_none(name: str, value: Any) -> Any:
    return value if value is None else number(name, value)


def _inside(model: Model, handler: Any) -> Model:
    """The model inside a handler."""
    match handler:
        case {"flat": sites, **rest} if not rest:
            return flat(model, *replaced(former_names(model), dict.fromkeys(texts("flat", sites))))
        case {"condition": values, **rest} if not rest:
            data = replaced(former_names(model), arrays.read("condition", values))
            fixed: Model = pyro.condition(model, data=data)
            return fixed
        case {"masked": {**rest}, **others} if not rest and not others:
            return masked(model)
        case {"offset": {**rest}, **others} if not rest and not others:
            return with_offset(model)
        case {"censored": limits, **rest} if not rest:
            return censored(model, **_limits("censored", limits))
        case {"truncated": limits, **rest} if not rest:
            return truncated(model, **_limits("truncated", limits))
    raise DataError(f"the handler {shortened(handler)} is unknown to this version; upgrade neglog")


def _limits(name: str, value: Any) -> dict[str, Any]:
    found = fields(name, value, {"lower", "upper"})
    return {
        side: limit if isinstance(limit, str) else _number_or_none(f"{name}.{side}", limit)
        for side, limit in found.items()
    }
