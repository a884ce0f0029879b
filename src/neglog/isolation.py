"""Isolation: a computation depends on its arguments alone, not on global state of Pyro and torch.

Pyro's handlers are one stack for all threads of a process, and torch's modes and defaults change what the
same lines compute. A public function that runs a model is `isolated`: one thread at a time, no handler but
those of the model itself, torch's own defaults. All state is restored afterwards, after an interrupt too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _ENUM_ALLOCATOR, _PYRO_STACK

from neglog.calls import public
from neglog.errors import ModelError, NeglogError, reason_of
from neglog.internals import (
    has_compilation,
    has_dispatch_modes,
    has_function_modes,
    has_saved_tensors_hooks,
    has_transforms,
    uncompiled,
    without_compilation,
    without_dispatch_modes,
    without_function_modes,
    without_saved_tensors_hooks,
    without_transforms,
)

P = ParamSpec("P")
R = TypeVar("R")

PYRO_DEFAULTS = {
    "binomial_approx_log_prob_tol": 0.0,
    "binomial_approx_sample_thresh": float("inf"),
    "cholesky_relative_jitter": 4.0,
    "module_local_params": False,
    "validate_distributions_pyro": True,
    "validate_distributions_torch": True,
    "validate_infer": True,
    "validate_poutine": True,
}
"""Pyro's settings as they are when Python runs without ``-O``."""


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """The function within `isolation`, with its name, signature and documentation; it is `public`.

    Errors of torch about overflow become errors of neglog.

    Raises:
        ModelError: a distribution refused its parameters, or a matrix could not be decomposed.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with isolation():
            try:
                return function(*args, **kwargs)
            except (ValueError, torch.linalg.LinAlgError) as error:
                if isinstance(error, NeglogError) or not _overflowed(error):
                    raise
                raise ModelError(
                    "a parameter of a distribution left its range, or a matrix could not be decomposed: "
                    f"{reason_of(error)}. Bring the columns of `x`, a real `y` and the parameters of priors "
                    "to order one, as by dividing each by its largest absolute value."
                ) from error

    alone.isolated = True  # type: ignore[attr-defined]
    checked = public(alone)
    for each in (alone, checked):
        uncompiled(each)
    return checked


@contextmanager
def user_code(function: str) -> Iterator[None]:
    """Errors of a function that the user wrote, as errors of neglog that name it; the original is the cause.

    Raises:
        ModelError: the function raised an error that is none of neglog's.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, NeglogError) or _overflowed(error):
            raise
        raise failed(function, error) from error


def failed(function: str, error: Exception) -> ModelError:
    """The error of neglog for an error that a function of the user raised."""
    lacking = getattr(error, "obj", None)  # of an AttributeError
    if type(lacking).__module__.startswith("torch.distributions"):
        kind = type(lacking).__name__
        return ModelError(
            f"{function} has a distribution of torch, {kind}, and sites need those of Pyro. Use "
            f"pyro.distributions.{kind}, with .to_event(1) for a vector."
        )
    return ModelError(
        f"{function} raises {type(error).__name__}: {reason_of(error)}. Correct the function; the "
        "traceback of the original error, above this one, ends in its line."
    )


def _overflowed(error: Exception) -> bool:
    """Whether torch refused numbers that are infinite or NaN, or a matrix that it cannot decompose."""
    if isinstance(error, ValueError):
        return "to satisfy the constraint" in reason_of(error)
    return isinstance(error, torch.linalg.LinAlgError)


@contextmanager
def isolation() -> Iterator[None]:
    """One thread at a time, without the handlers, modes and defaults of the caller, which are restored.

    It is reentrant, for a model that fits another one.
    """
    numpy = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")  # NumPy's defaults
    with _LOCK, _bare_pyro(), numpy, ExitStack() as usual:
        for deviates, default in TORCH_DEFAULTS:
            if deviates():
                usual.enter_context(default())
        yield


class _Lock:
    """A reentrant lock that its owner can lend to threads for which it waits."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Reset the lock, for a forked process, in which the threads of its parent do not run."""
        self.lock, self.guests = threading.RLock(), set[int]()

    def __enter__(self) -> None:
        if threading.get_ident() not in self.guests:
            self.lock.acquire()

    def __exit__(self, *reason: object) -> None:
        if threading.get_ident() not in self.guests:
            self.lock.release()

    @contextmanager
    def lent(self) -> Iterator[Callable[[], None]]:
        """A function by which a thread enters the lock as a guest, until the block ends."""
        mine = set[int]()

        def join() -> None:
            mine.add(threading.get_ident())
            self.guests.add(threading.get_ident())

        try:
            yield join
        finally:
            self.guests -= mine


_LOCK = _Lock()
lent = _LOCK.lent
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOCK.forget)


@contextmanager
def _bare_pyro() -> Iterator[None]:
    """No handlers, no plates, default settings; parameters that a model adds to Pyro's store are removed."""
    handlers, plates, enumerated = _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:], dict(vars(_ENUM_ALLOCATOR))
    store = pyro.get_param_store()
    names, stored = set(store.keys()), store.get_state()
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:] = handlers, plates
        vars(_ENUM_ALLOCATOR).update(enumerated)
        if set(store.keys()) != names:
            store.clear()
            store.set_state(stored)


@contextmanager
def _nondeterministic() -> Iterator[None]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)


@contextmanager
def _single_precision() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


TORCH_DEFAULTS: tuple[tuple[Callable[[], Any], Callable[[], AbstractContextManager[Any]]], ...] = (
    (has_compilation, without_compilation),
    (has_function_modes, without_function_modes),
    (has_dispatch_modes, without_dispatch_modes),
    (has_transforms, without_transforms),
    (torch.is_inference_mode_enabled, lambda: torch.inference_mode(False)),
    (lambda: not torch.is_grad_enabled(), torch.enable_grad),
    (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.autocast("cpu", enabled=False)),
    (has_saved_tensors_hooks, without_saved_tensors_hooks),
    (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(False)),
    (torch.are_deterministic_algorithms_enabled, _nondeterministic),
    (lambda: torch.get_default_dtype() != torch.float32, _single_precision),
    (lambda: pyro.settings.get() != PYRO_DEFAULTS, lambda: pyro.settings.context(**PYRO_DEFAULTS)),
)
"""Whether a mode or a setting differs from the default of torch or Pyro, and a context with the default."""
