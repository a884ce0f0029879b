"""Nodes: the operations of a graph, and what is known of those whose values are at hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import BuiltinFunctionType, MappingProxyType, MethodDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from neglog.graphs.recording import SEQUENCE, among, filled
from neglog.internals import OpOverload

aten = torch.ops.aten
NOISY = torch.Tag.nondeterministic_seeded
METHODS = {"expand": Tensor.expand, "view": Tensor.view}
"""Common operations that torch offers as methods only."""
UNIFORM = {
    aten.ones.default: 1.0,
    aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
    aten.zeros.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.full.default: None,
    aten.full_like.default: None,
    aten.new_full.default: None,
    aten.expand.default: None,
}
"""Operations that fill a tensor with one number, and that number if it is not an argument."""
NUMBER_ARGUMENT = {aten.expand.default: 0, aten.new_full.default: 2}
"""The position of the argument that is the number, where it is not 1."""
DOUBLE = (torch.float64, torch.bool)
MAX_PLAIN_FUNCTIONS = 20_000
"""The number of operations and layouts of arguments for which the plain function is kept."""


@dataclass(eq=False, slots=True)
class Node:
    """A node of a graph: an input, a constant, or an operation on other nodes."""

    function: Callable[..., Any] | None = None
    """The function that is called; None for an input or a constant."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """The recorded value, while the graph is simplified."""
    operation: Any = None
    """The operation of torch that the function does."""
    is_constant: bool = False
    uniform: float | None = None
    """The number that an operation returns in every place."""
    is_plain: bool = False
    """Whether all tensors of an operation are of double precision, or Boolean."""
    inputs: tuple[Node, ...] = field(init=False)
    """The nodes among the arguments, each once."""

    def __post_init__(self) -> None:
        self.inputs = tuple(dict.fromkeys([*among(self.args, Node), *among(self.kwargs, Node)]))


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a graph: its inputs, of which the constants are the last, operations, and outputs."""

    inputs: list[Node]
    operations: list[Node]
    outputs: Any

    def __iter__(self) -> Iterator[Node]:
        yield from self.inputs
        yield from self.operations

    def stripped(self) -> Nodes:
        """The graph without its values, which are large, and with `is_plain` in their place."""
        for node in self.operations:
            node.is_plain = is_plain(node)
        for node in self:
            node.value = None
        return self

    def module(self, faster: Mapping[Any, Callable[..., Any]] = MappingProxyType({})) -> fx.GraphModule:
        """The graph as torch has it, with the functions of `faster` in the place of its keys."""
        graph, known = fx.Graph(), dict[Node, fx.Node]()
        for i, node in enumerate(self.inputs):
            known[node] = graph.placeholder(f"constant_{i}" if node.is_constant else f"input_{i}")
        for node in self.operations:
            assert node.function is not None
            args, kwargs = filled(node.args, known, Node), filled(node.kwargs, known, Node)
            known[node] = graph.call_function(faster.get(node.function, node.function), args, kwargs)
        graph.output(filled(self.outputs, known, Node))
        return fx.GraphModule(torch.nn.Module(), graph)


def reached(outputs: Any, stop: Iterable[Node] = ()) -> set[Node]:
    """The nodes on which outputs depend, and themselves, up to those where to `stop`."""
    stack, ends, found = among((outputs,), Node), set(stop), set[Node]()
    while stack:
        node = stack.pop()
        if node not in found and node not in ends:
            found.add(node)
            stack.extend(node.inputs)
    return found


def is_plain(node: Node) -> bool:
    """Whether an operation is one on double precision and truth values alone."""
    return all([_is_double(node.value), *[_is_double(each.value) for each in node.inputs]])


def _is_double(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype in DOUBLE
    return all(part.dtype in DOUBLE for part in tensors_in(value) if isinstance(part, Tensor))


def number_of(value: Any, other: Any) -> Any:
    """A constant that is the same everywhere as a float, where the other argument has its shape."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Node) and isinstance(other, Node):
        return _number_of_node(value, other)
    if isinstance(value, Tensor) and isinstance(other, Node) and value.numel():
        return _number_of_tensor(value, other)
    return value


def _number_of_node(value: Node, other: Node) -> Any:
    """The number that an operation repeats in the shape of the other argument; else the operation."""
    if value.uniform is None or other.uniform is not None:
        return value
    return value.uniform if kind_of(value.value) == kind_of(other.value) else value


def _number_of_tensor(value: Tensor, other: Node) -> Any:
    """The number that a tensor repeats, where it fits the shape of the other argument; else itself."""
    shape = other.value.shape
    if value.dtype != other.value.dtype:
        return value
    if value.dim() and value.shape != shape and np.broadcast_shapes(value.shape, shape) != shape:
        return value
    number = float(value.reshape(-1)[0])
    return number if _repeats(value, number) else value


def _repeats(value: Tensor, number: float) -> bool:
    """Whether a tensor is one number in every place."""
    return number == number if value.numel() == 1 else bool((value == number).all())


def uniform_of(target: Any, args: Any) -> float | None:
    """The number with which an operation fills its result, or None."""
    if target not in UNIFORM or UNIFORM[target] is not None:
        return UNIFORM.get(target)
    number = args[NUMBER_ARGUMENT.get(target, 1)]
    if isinstance(number, Node):
        number = _constant_number(number)
    return None if number is None else float(number)


def _constant_number(node: Node) -> Tensor | None:
    """The number of a constant that is one number; None if it is something else."""
    value = node.value if node.is_constant else None
    return value.reshape(-1)[0] if isinstance(value, Tensor) and value.numel() == 1 else None


def factored(node: Any) -> tuple[Any, float]:
    """A node as another one times a number."""
    target = node.operation
    if target is aten.neg.default:
        return node.args[0], -1.0
    if target is aten.mul.Tensor and isinstance(node.args[1], float):
        return node.args[0], node.args[1]
    return node, 1.0


def shifted(node: Any) -> tuple[Any, float]:
    """A node as another one plus a number."""
    if isinstance(node, Node) and node.operation is aten.add.Tensor:
        left, right = node.args
        if isinstance(right, float):
            return left, right
    return node, 0.0


def is_normal(number: float) -> bool:
    """Whether a float is finite and not subnormal."""
    return math.isfinite(number) and abs(number) >= sys.float_info.min


def is_of_all(node: Any, dims: Sequence[int] | None = None, keepdim: bool = False) -> bool:
    """Whether a sum is over all dimensions."""
    return not keepdim and len(dims or ()) in (0, node.value.dim())


def is_fixed(argument: Any, value: Tensor) -> bool:
    """Whether an argument is a constant of the same kind."""
    return isinstance(argument, Node) and argument.is_constant and kind_of(argument.value) == kind_of(value)


def all_floating(args: tuple[Any, ...]) -> bool:
    """Whether all tensors among the arguments are of a floating-point dtype."""
    return all(value.is_floating_point() for value in values_of(args) if isinstance(value, Tensor))


def is_like(argument: Any, value: Tensor) -> bool:
    """Whether an argument is a node of the shape and dtype of a value."""
    return isinstance(argument, Node) and kind_of(argument.value) == kind_of(value)


def is_scalar(argument: Any) -> bool:
    """Whether an argument is a float, or a node of dimension 0."""
    return isinstance(argument, float) or (isinstance(argument, Node) and argument.value.dim() == 0)


def kind_of(value: Tensor) -> tuple[Any, ...]:
    """The shape and dtype of a tensor."""
    return value.shape, value.dtype


def layout_of(value: Tensor) -> tuple[Any, ...]:
    """The shape, dtype and strides of a tensor."""
    return value.shape, value.dtype, value.stride()


@cache
def may_not_be_replayed(target: Any) -> bool:
    """Whether an operation draws random numbers or changes its arguments in place."""
    return isinstance(target, OpOverload) and (NOISY in target.tags or target._schema.is_mutable)


def signature_of(args: Any) -> Any:
    """The properties of arguments that determine whether a function accepts them, and its result's layout."""
    if isinstance(args, Tensor):
        return layout_of(args)
    if isinstance(args, SEQUENCE):
        return tuple([signature_of(a) for a in args])
    if isinstance(args, dict):
        return tuple([(key, signature_of(a)) for key, a in args.items()])
    return float if isinstance(args, float) else (type(args), args)


def values_of(args: Any) -> Any:
    """The arguments with recorded values in place of nodes."""
    if isinstance(args, Node):
        return args.value
    if isinstance(args, SEQUENCE):
        return type(args)([values_of(a) for a in args])
    if isinstance(args, dict):
        return {key: values_of(a) for key, a in args.items()}
    return args


def key_of(args: Any) -> Any:
    """A hashable key of arguments, in which 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(args, Node):
        return args
    if isinstance(args, SEQUENCE):
        return tuple([key_of(a) for a in args])
    if isinstance(args, dict):
        return tuple([(key, key_of(a)) for key, a in sorted(args.items())])
    # 1, 1.0 and True are equal, and 0.0 is -0.0.
    return (type(args), math.copysign(1.0, args), args) if isinstance(args, (int, float)) else args


_PLAIN: dict[Any, Callable[..., Any]] = {}


def plain_function(target: Any, args: Any, kwargs: Any, value: Any) -> Callable[..., Any]:
    """The `_plain_function`, found once for all arguments that look alike."""
    key = target, signature_of(args), signature_of(kwargs)
    found = _PLAIN.get(key)
    if found is None:
        if len(_PLAIN) >= MAX_PLAIN_FUNCTIONS:
            _PLAIN.clear()
        found = _PLAIN[key] = _plain_function(target, args, kwargs, value)
    return found


def _plain_function(target: Any, args: Any, kwargs: Any, value: Any) -> Callable[..., Any]:
    """The plain function of torch that does the same at half the cost of a call, or the operation itself."""
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return target
    name = target._schema.name.removeprefix("aten::")
    plain: Any = METHODS.get(name, getattr(torch, name, None))
    if not isinstance(plain, BuiltinFunctionType | MethodDescriptorType):
        return target
    try:
        same = plain(*args, **kwargs)
    except (TypeError, RuntimeError):  # other arguments than those of the operation
        return target
    alike = [layout_of(found) for found in tensors_in(same)] == [
        layout_of(found) for found in tensors_in(value)
    ]
    return plain if alike else target


def tensors_in(value: Any) -> list[Any]:
    """The values of a sequence as a list; a single value as a list of one."""
    return list(value) if isinstance(value, tuple | list) else [value]
