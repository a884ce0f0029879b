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
from neglog.export.documents import fields, items, line, mapping, number, shortened, text, texts, wrong
from neglog.export.given import (
    LoadArguments,
    NeededError,
    check_dtypes,
    check_networks,
    dtypes_of,
    is_network,
)
from neglog.formula.tagged import to_json
from neglog.handlers import Model, Weighted, censored, flat, is_flat, masked, on_features, truncated
from neglog.layers import former_names, layers, replaced
from neglog.models.named import model_of
from neglog.modes import InMode
from neglog.offset import with_offset
from neglog.tracing import model_name

NEGLOG, CALLER = "neglog", "caller"
"""Where the innermost model is from: this library, or the caller of `load`."""

MAX_HANDLERS = 20
"""The largest number of handlers around a saved model; each of them takes time whenever the model is run."""


def described(model: Model) -> dict[str, Any]:
    """The JSON values of a model: its name, its keywords, and the handlers around it that a file can name.

    Of another model than those of `neglog.models`, of a handler that a file cannot name, and of a network
    whose prior is a function, the caller of `load` must give what is inside: there ``source`` is ``caller``.
    The weights of a network with the default prior are a handler, for which a module must be given.

    Raises:
        ModelError: a keyword is no number, or a positional argument is bound.
    """
    handlers: list[dict[str, Any]] = []
    keywords: dict[str, Any] = {}
    while not _is_own(model):
        found = _outermost(model, keywords)
        if found is None:
            break
        outer, inner = found
        handlers = [*outer, *handlers]
        if isinstance(model, partial):
            keywords = {**model.keywords, **keywords}  # Python makes one partial of two.
        model = inner
    bound = {name: _keyword(name, value) for name, value in keywords.items()}
    source = NEGLOG if _is_own(model) else CALLER
    return {"source": source, "name": model_name(model), "keywords": bound, "handlers": handlers}


def as_given(model: Model) -> dict[str, Any]:
    """The JSON values of a model that the caller of `load` gives as it is."""
    return {"source": CALLER, "name": model_name(model), "keywords": {}, "handlers": []}


def is_complete(found: Mapping[str, Any]) -> bool:
    """Whether a file with these JSON values of a model needs no code of the caller."""
    return found["source"] == NEGLOG and not any("network" in handler for handler in found["handlers"])


def _outermost(model: Model, keywords: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Model] | None:
    """The JSON values of the outermost layer of a model, and the model inside; None where a file has none."""
    if isinstance(model, partial):
        return _of_partial(model)
    if is_network(model):
        network: Any = model
        if network.prior is not None:
            return None
        return [{"network": {"name": network.name, "dtypes": dtypes_of(network)}}], network.model
    if not hasattr(model, "description"):
        return None
    _check_bounds(model, keywords)
    handler: Any = model
    _, inner, *_ = layers(model)
    return [{name: _settings(settings) for name, settings in handler.description.items()}], inner


def _of_partial(model: partial[Any]) -> tuple[list[dict[str, Any]], Model] | None:
    """The JSON values of the handler that a partial applies, if it is one of Pyro's, and the model inside.

    Raises:
        ModelError: another positional argument than a handler is bound.
    """
    if model.args and isinstance(model.args[0], Messenger):
        found = _of_messenger(model.args[0])
        return None if found is None else (found, model.args[1])
    if isinstance(model.func, partial) or not model.args:  # Pyro wraps its partials once more.
        return [], model.func
    raise ModelError("a model with bound positional arguments cannot be saved; bind keywords instead.")


def _is_own(model: Model) -> bool:
    """Whether it is one of the models of `neglog.models`, without handlers."""
    if isinstance(model, partial):
        return False
    name = model_name(model)
    return getattr(models, name, None) is model and name in models.__all__


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


def _of_messenger(messenger: Messenger) -> list[dict[str, Any]] | None:
    """The JSON values of a handler of Pyro; None where a file cannot name it."""
    if isinstance(messenger, ConditionMessenger) and isinstance(messenger.data, dict):
        values = {name: torch.as_tensor(value) for name, value in messenger.data.items()}
        floats = {name: v if v.is_floating_point() else v.double() for name, v in values.items()}
        return [{"condition": arrays.written(floats)}]
    if isinstance(messenger, InMode | Weighted):
        return []  # Its buffers are those of the fit; weights belong to the rows, which are not saved.
    return [{"flat": sorted(messenger.names)}] if is_flat(messenger) else None


def rebuilt(
    value: Any, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], given: LoadArguments
) -> Model:
    """The model of what `described` gave, with what the caller of `load` gives.

    Args:
        value: the JSON values.
        params: the estimates.
        buffers: the buffers and frozen parameters of networks.
        given: the model, and the network, of the caller.

    Raises:
        DataError: the values are of anything else.
        ModelError: the model or a handler refuses its settings; what is given is not what was fitted.
        NeededError: a model or a network must be given.
    """
    found = fields("model", value, {"source", "name", "keywords", "handlers"})
    name, source = line("model.name", found["name"]), text("model.source", found["source"])
    if source not in (NEGLOG, CALLER):
        raise wrong("model.source", f"{NEGLOG} or {CALLER}", source)
    keywords = mapping("model.keywords", found["keywords"])
    handlers = items("model.handlers", found["handlers"])
    if len(handlers) > MAX_HANDLERS:
        raise wrong("model.handlers", f"a list of at most {MAX_HANDLERS} handlers", len(handlers))
    if given.model is not None:
        model, inner = _of_caller(found, given.model)
    elif source == CALLER:
        raise NeededError(
            f"it is a fit of `{name}`, which is not in neglog.models, or is inside a handler that a file has "
            "no name for. Give the model that was fitted: load(folder, model=...)"
        )
    else:
        model, inner = _of_neglog(name, keywords, sum(v.numel() for v in params.values()) + 2), 0
    model = _with_handlers(model, handlers[inner:], params, given)
    check_networks(model, params, buffers)
    return model


def _with_handlers(
    model: Model, handlers: list[Any], params: Mapping[str, Tensor], given: LoadArguments
) -> Model:
    """The model inside handlers; the network of one of them is the caller's."""
    if given.module is not None and not any("network" in mapping("handler", each) for each in handlers):
        raise ModelError("the fit has no network for `module`, or `model` has it already; leave `module` out")
    for handler in handlers:
        model = _on_network(model, handler, params, given) or _inside(model, handler)
    return model


def _of_neglog(name: str, keywords: Mapping[str, Any], largest: int) -> Model:
    """A model of neglog with its keywords; `largest` is the largest whole number that one may have."""
    if name not in models.__all__:
        raise DataError(f"there is no model {shortened(name)} in this version; upgrade neglog")
    function = getattr(models, name)
    _check_known("model.keywords", keywords, list(inspect.signature(function).parameters)[2:])
    bound = {key: _number_or_none(f"model.keywords.{key}", each) for key, each in keywords.items()}
    for key, each in bound.items():
        if isinstance(each, int) and each > largest:
            raise wrong(f"model.keywords.{key}", f"at most {largest}, by the number of estimates", each)
    return partial(function, **bound) if bound else function


def _of_caller(found: Mapping[str, Any], given: Any) -> tuple[Model, int]:
    """The model of the caller with the keywords of the fit, and the number of handlers that it has already.

    It may be what was fitted, or what is inside some of its handlers.

    Raises:
        ModelError: it is another one.
    """
    model = model_of(given)
    keywords, handlers = found["keywords"], found["handlers"]
    if not keywords and not handlers and found["source"] == CALLER:
        return model, 0
    theirs = described(model)
    _check_alike(found, theirs)
    bound = {
        key: _number_or_none(f"model.keywords.{key}", each)
        for key, each in keywords.items()
        if key not in theirs["keywords"]
    }
    return (partial(model, **bound) if bound else model), len(theirs["handlers"])


def _check_alike(found: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise ModelError unless the JSON values of a model are those of the fit, without its outer handlers."""
    if found["source"] == NEGLOG and (theirs["source"], theirs["name"]) != (NEGLOG, found["name"]):
        raise ModelError(f"the fit is of `{found['name']}`, and `model` is `{theirs['name']}`")
    keywords, handlers = found["keywords"], found["handlers"]
    for key, value in theirs["keywords"].items():
        if keywords.get(key, CALLER) != value:
            raise ModelError(f"`model` has {key}={value}, and the fit {key}={keywords.get(key, 'unbound')}")
    if theirs["handlers"] != handlers[: len(theirs["handlers"])]:
        raise ModelError(
            f"`model` is inside the handlers {shortened(theirs['handlers'])}, and the fit inside "
            f"{shortened(handlers)}, from the inside out"
        )


def _on_network(
    model: Model, handler: Any, params: Mapping[str, Tensor], given: LoadArguments
) -> Model | None:
    """The model on the features of the caller's network; None where the handler is another one.

    Raises:
        NeededError: no network is given.
    """
    match handler:
        case {"network": settings, **rest} if not rest:
            found = fields("network", settings, {"name", "dtypes"})
            name = text("network.name", found["name"])
            if given.module is None:
                raise NeededError(
                    f"it is a fit of a network, with {_sizes(name, params)}. Give one like it: "
                    "load(folder, module=...)"
                )
            network = on_features(model, given.module, name=name)
            check_dtypes(network, mapping("network.dtypes", found["dtypes"]))
            return network
    return None


def _sizes(name: str, params: Mapping[str, Tensor]) -> str:
    """The parameters of a network with their shapes, in words."""
    prefix = f"{name}."
    return ", ".join(
        f"`{key.removeprefix(prefix)}` {tuple(value.shape)}"
        for key, value in params.items()
        if key.startswith(prefix)
    )


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
