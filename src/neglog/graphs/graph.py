"""Graphs: a function of tensors, traced once and simplified, for thousands of evaluations.

An evaluation runs a sequence of torch operations, without the model, autograd and handlers.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, fx

from neglog.errors import DataError
from neglog.graphs.machine import FASTER
from neglog.graphs.nodes import Nodes
from neglog.graphs.recording import INPUT, Operation, Recording, recorded
from neglog.graphs.simplify import cleaned
from neglog.internals import is_operation, machine_code, program_of

SIZES = frozenset({"size", "sizes", "input_sizes", "shape", "start", "end", "length", "repeats"})
"""The names of arguments that are sizes."""
WARM = 3
"""Number of runs after which torch's interpreter has finished optimising a program."""


@dataclass(frozen=True)
class Graph:
    """A simplified graph; `used` are the numbers of the inputs that it takes after the first."""

    used: tuple[int, ...]
    clean: Nodes = field(repr=False)
    constants: tuple[Tensor, ...] = field(repr=False)

    @property
    def nodes(self) -> int:
        """The number of operations."""
        return len(self.clean.operations)

    @cached_property
    def module(self) -> fx.GraphModule:
        """The graph as a module of torch."""
        return self.clean.module()

    def function(self) -> Callable[..., Any]:
        """The function of the first input and of the `used` ones."""
        forward, module, constants = type(self.module).forward, self.module, self.constants
        # Without the bookkeeping of nn.Module.__call__.
        return lambda first, *others: forward(module, first, *others, *constants)

    def compiled(self, first: Tensor, *others: Tensor) -> Callable[..., Any]:
        """The function of all its inputs, of which these are an example, as machine code.

        Raises:
            DataError: there is no C++ compiler.
        """
        _check_compiler()
        inputs, constants = [each.contiguous() for each in (first, *others)], self.constants
        whole = machine_code(self.clean.module(FASTER), [*inputs, *constants])
        return lambda *given: whole(*(each.contiguous() for each in given), *constants)

    def program(self, first: Tensor, *others: Tensor) -> Callable[..., Any]:
        """The function of all its inputs, of which these are an example, as a TorchScript program.

        It has less overhead per operation, and releases Python's global lock, so that threads run in
        parallel.

        Raises:
            RuntimeError: torch cannot express it as such a program.
            AttributeError: this version of torch has no TorchScript interpreter.
        """
        forward, module, constants = type(self.module).forward, self.module, self.constants
        program = program_of(lambda *inputs: forward(module, *inputs), (first, *others, *constants))
        for _ in range(WARM):
            program(first, *others, *constants)
        return lambda first, *others: program(first, *others, *constants)


def _check_compiler() -> None:
    names = (os.environ["CXX"],) if "CXX" in os.environ else ("g++", "clang++")
    if sys.platform != "win32" and not any(map(shutil.which, names)):
        raise DataError(
            f"`compile=True` needs a C++ compiler, and there is no {' or '.join(names)}. Install one, or "
            "leave `compile` out: the numbers are the same."
        )


def trace(function: Callable[..., Any], first: Tensor, others: Sequence[Tensor], fixed: bool) -> Graph:
    """The graph of ``function(first, *others)``, which has no side effects and no randomness.

    With `fixed` the others are constants, and subexpressions of these alone are evaluated here, once.

    Raises:
        RuntimeError: it cannot be recorded (see `neglog.graphs.recording.recorded`), is random, or modifies
            tensors in place that it did not create.
    """
    inputs = (first, *others)
    recording = recorded(function, inputs, varying=1 if fixed else len(inputs))
    with torch.no_grad():
        used, clean, constants = cleaned(recording, inputs, fixed)
    return Graph(used, clean, constants)


def trace_rows(
    function: Callable[..., Any], inputs: Sequence[Tensor], rows: int
) -> tuple[Nodes, tuple[int, ...], tuple[Tensor, ...]]:
    """The graph of ``function(*inputs)`` for any number of rows, the inputs that it uses, and its constants.

    The first input of the graph is the number of rows, the last ones are the constants. While tracing it is
    `rows`, which must differ from all other sizes among the inputs.

    Raises:
        RuntimeError: it cannot be traced: see `trace`.
    """
    recording = recorded(function, inputs, varying=len(inputs))
    number = Operation(INPUT, (-1,))
    for operation in recording.operations:
        if is_operation(operation.target):
            _size(operation, rows, number)
    whole = Recording([number, *recording.operations], recording.outputs)
    for operation in whole.operations:
        if operation.target is INPUT:
            operation.args = (operation.args[0] + 1,)
    with torch.no_grad():
        used, clean, constants = cleaned(whole, (rows, *inputs), fixed=False)
    return clean, used, constants


def _size(operation: Operation, rows: int, number: Operation) -> None:
    """Replace the arguments of an operation that are sizes of `rows` by `number`."""
    args, kwargs = list(operation.args), operation.kwargs
    places = [place for place in _sizes(operation.target) if place < len(args)]
    for place in places:
        args[place] = _sized(args[place], rows, number)
    names = [name for name in kwargs if name in SIZES]
    if places or names:
        sized = {name: _sized(kwargs[name], rows, number) for name in names}
        operation.take(tuple(args), kwargs | sized)


@cache
def _sizes(target: Any) -> tuple[int, ...]:
    """The positions of the arguments of an operation that are sizes."""
    return tuple(i for i, argument in enumerate(target._schema.arguments) if argument.name in SIZES)


def _sized(argument: Any, rows: int, number: Operation) -> Any:
    """A size, or sizes, with `number` in the place of `rows`."""
    if isinstance(argument, list | tuple):
        return [number if type(a) is int and a == rows else a for a in argument]
    return number if type(argument) is int and argument == rows else argument
