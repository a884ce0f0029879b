"""Calls of public functions and classes: one that does not fit the signature raises an error of neglog."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter
from types import FunctionType
from typing import Any, TypeVar

from neglog.errors import ModelError
from neglog.synonyms import nearest_argument

T = TypeVar("T")

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
SINGLE = (*POSITIONAL, Parameter.KEYWORD_ONLY)
"""Kinds of parameters that take one argument each."""


def public(target: T) -> T:
    """Decorate a public function, or the constructor and the public methods of a class.

    A call that does not fit the signature raises a ModelError instead of Python's TypeError: it names the
    argument, the nearest known one, and how to call the function. A call that fits costs one `try`; errors
    from inside the function are raised as they are.

    >>> @public
    ... def density(x, scale=1.0): ...
    >>> density(0.0, scal=2.0)
    Traceback (most recent call last):
    neglog.errors.ModelError: `density` takes no `scal`. Did you mean `scale`? Call it as density(x, ...
    """
    if not isinstance(target, type):
        function: Any = target
        return _checked(function)
    for name, value in list(vars(target).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, FunctionType):
            setattr(target, name, _checked(value))
        elif isinstance(value, classmethod | staticmethod):
            setattr(target, name, type(value)(_checked(value.__func__)))
    return target


def _checked(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            problem = misfit(function, args, kwargs)
            if problem is None:
                raise
            raise problem from None

    return checked


def misfit(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelError | None:
    """The error of a call that does not fit the signature of a function; None for one that does."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].name in ("self", "cls"):
            parameters, args = parameters[1:], args[1:]
        name = call_name(function)
        return ModelError(f"`{name}` {_reason(parameters, args, kwargs)} {_usage(name, parameters)}")
    return None


def check_settings(function: Callable[..., Any], given: Iterable[str], *others: Callable[..., Any]) -> None:
    """Refuse keywords that neither the function takes nor the others, to which it passes them on.

    Raises:
        ModelError: one is unknown; the nearest known name is proposed.
    """
    known = _names(each for f in (function, *others) for each in inspect.signature(f).parameters.values())
    for name in given:
        if name not in known:
            raise ModelError(
                f"`{call_name(function)}` {_unknown(name, known)} Its arguments are {', '.join(known)}."
            )


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"takes no `{name}`.{nearest_argument(name, known)}"


def _reason(parameters: Sequence[Parameter], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why a call fails: an unknown keyword, or arguments that are too many, given twice, or missing."""
    known, places = _names(parameters), _names(parameters, POSITIONAL)
    unknown = set(kwargs) - set(known)
    if unknown and not _has(parameters, Parameter.VAR_KEYWORD):
        return _unknown(min(unknown), known)
    if len(args) > len(places) and not _has(parameters, Parameter.VAR_POSITIONAL):
        plural = "s" * (len(places) != 1)
        first = f" Its first argument is `{places[0]}`, no model." if _is_model(places, args[0]) else ""
        return f"takes at most {len(places)} argument{plural} by position; it was given {len(args)}.{first}"
    twice = [place for place in places[: len(args)] if place in kwargs]
    if twice:
        return f"was given `{twice[0]}` twice, by position and by keyword."
    return _needed(_missing(parameters, {*places[: len(args)], *kwargs}), kwargs)


def _needed(missing: Sequence[str], given: Collection[str]) -> str:
    formula = " It is the place of the formula." if "`x`" in missing and "formula" in given else ""
    return f"needs {', '.join(missing)}.{formula}"


def _is_model(places: Sequence[str], first: Any) -> bool:
    """Whether the first argument is a model, or the name of one, and the function takes something else."""
    return bool(places) and places[0] == "x" and (callable(first) or _is_name(first))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _missing(parameters: Sequence[Parameter], given: Collection[str]) -> list[str]:
    required = [each.name for each in parameters if each.kind in SINGLE and each.default is Parameter.empty]
    return [f"`{name}`" for name in required if name not in given]


def _has(parameters: Sequence[Parameter], kind: Any) -> bool:
    return any(each.kind is kind for each in parameters)


def _names(parameters: Iterable[Parameter], kinds: Collection[Any] = BY_NAME) -> list[str]:
    """The names of the parameters of some kinds, each once."""
    names = dict.fromkeys(each.name for each in parameters if each.kind in kinds)
    return [name for name in names if name not in ("self", "cls")]


def call_name(function: Callable[..., Any]) -> str:
    """The name by which a function is called: ``Fit.terms`` of a method, ``Fit`` of its constructor."""
    qualified = getattr(function, "__qualname__", type(function).__name__)
    name: str = qualified.rpartition("<locals>.")[2]
    return name.removesuffix(".__init__").removesuffix(".__call__")


def _usage(name: str, parameters: Sequence[Parameter]) -> str:
    """How to call a function: required arguments by name, optional ones as ``name=...``."""
    shown: list[str] = []
    starred = False
    for each in parameters:
        if each.kind is Parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
        starred |= each.kind in (Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY)
        star = "*" * (each.kind is Parameter.VAR_POSITIONAL) + "**" * (each.kind is Parameter.VAR_KEYWORD)
        shown.append(f"{star}{each.name}{'' if each.default is Parameter.empty else '=...'}")
    return f"Call it as {name}({', '.join(shown)})."
