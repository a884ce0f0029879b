"""Former names of public functions, arguments and attributes: they still work for one release, and warn."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from neglog.errors import ModelError, warn

P = ParamSpec("P")
R = TypeVar("R")


def warn_of_former(pairs: str) -> None:
    """Warn that names have changed: `pairs` is a sentence of former and current names.

    Warns:
        FutureWarning: always.
    """
    warn(f"{pairs}; the former name will be refused.", FutureWarning)


def former_argument(
    former: str, current: str, convert: Callable[[Any], Any] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function one of whose keyword arguments has a new name.

    Args:
        former, current: the names.
        convert: the value of the current argument from that of the former one, where they differ.

    Raises:
        ModelError: when the function is called with both names.

    Warns:
        FutureWarning: when the function is called with the former name.

    >>> import warnings
    >>> @former_argument("kind", "cov_type")
    ... def errors(cov_type="observed"):
    ...     return cov_type
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FutureWarning)
    ...     errors(kind="HC3")
    'HC3'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def accepting(*args: P.args, **kwargs: P.kwargs) -> R:
            if former in kwargs:
                if current in kwargs:
                    raise ModelError(
                        f"`{former}` is the former name of `{current}`, and both are given; drop `{former}`."
                    )
                warn_of_former(f"the argument `{former}` of `{function.__name__}` is now `{current}`")
                value = kwargs.pop(former)
                kwargs[current] = value if convert is None else convert(value)
            return function(*args, **kwargs)

        return accepting

    return decorate


def former_attribute(former: str, current: str) -> Any:
    """A property under the former name of an attribute.

    >>> import warnings
    >>> class Result:
    ...     n_iter = 3
    ...     steps = former_attribute("steps", "n_iter")
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FutureWarning)
    ...     Result().steps
    3
    """

    def value(self: Any) -> Any:
        owner = type(self).__name__
        warn_of_former(f"`{owner}.{former}` is now `{owner}.{current}`")
        return getattr(self, current)

    return property(value, doc=f"The former name of `{current}`.")


def former_function(former: str, current: Callable[P, R]) -> Callable[P, R]:
    """A function under its former name, in the same module.

    >>> import warnings
    >>> def whole(x):
    ...     return round(x)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FutureWarning)
    ...     former_function("entire", whole)(2.2)
    2
    """

    def accepting(*args: P.args, **kwargs: P.kwargs) -> R:
        warn_of_former(f"`{former}` is now `{current.__name__}`")
        return current(*args, **kwargs)

    accepting.__name__ = accepting.__qualname__ = former
    accepting.__doc__ = f"The former name of `{current.__name__}`."
    return accepting
