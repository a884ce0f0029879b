"""Nodes: what is known of the operations of a graph whose values are at hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from neglog.internals import OpOverload

aten = torch.ops.aten
NOISY = torch.Tag.nondeterministic_seeded
METHODS = {"expand": Tensor.expand, "view": Tensor.view}
"""Operations that torch offers as methods only, of those that are common."""
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
"""Operations that return one number in every place, and the number, where it is not that of an argument."""
NUMBER_ARGUMENT = {aten.expand.default: 0, aten.new_full.default: 2}
"""The position of the argument that is the number, where it is not 1."""


def is_plain(node: fx.Node) -> bool:
    """Whether an operation is one on double precision and truth values alone."""
    values = [each.meta.get("value") for each in (node, *node.all_input_nodes)]
    kinds = {part.dtype for value in values for part in tensors_in(value) if isinstance(part, Tensor)}
    return kinds <= {torch.float64, torch.bool}


def number_of(value: Any, other: Any) -> Any:
    """A constant that is the same everywhere as a float, where the other argument has its shape."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, fx.Node) and isinstance(other, fx.Node):
        return _number_of_node(value, other)
    if isinstance(value, Tensor) and isinstance(other, fx.Node) and value.numel():
        return _number_of_tensor(value, other)
    return value


def _number_of_node(value: fx.Node, other: fx.Node) -> Any:
    """The number that an operation repeats in the shape of the other argument; else the operation."""
    if value.meta.get("uniform") is None or other.meta.get("uniform") is not None:
        return value
    are_alike = kind_of(value.meta["value"]) == kind_of(other.meta["value"])
    return value.meta["uniform"] if are_alike else value


def _number_of_tensor(value: Tensor, other: fx.Node) -> Any:
    """The number that a tensor repeats, where it fits the shape of the other argument; else itself."""
    shape = other.meta["value"].shape
    if value.dtype != other.meta["value"].dtype or np.broadcast_shapes(value.shape, shape) != shape:
        return value
    one = value.reshape(-1)[0]
    return float(one) if torch.equal(value, one.expand(value.shape)) else value


def uniform_of(target: Any, args: Any) -> float | None:
    """The number that an operation gives in every place, or None."""
    if target not in UNIFORM or UNIFORM[target] is not None:
        return UNIFORM.get(target)
    number = args[NUMBER_ARGUMENT.get(target, 1)]
    if isinstance(number, fx.Node):
        number = _constant_number(number)
    return None if number is None else float(number)


def _constant_number(node: fx.Node) -> Tensor | None:
    """The number of a constant that is one number; None if it is something else."""
    value = node.meta.get("value") if node.op == "placeholder" and "constant" in node.name else None
    return value.reshape(-1)[0] if isinstance(value, Tensor) and value.numel() == 1 else None


def factored(node: Any) -> tuple[Any, float]:
    """A node as another one times a number."""
    target = node.meta.get("target")
    if target is aten.neg.default:
        return node.args[0], -1.0
    if target is aten.mul.Tensor and isinstance(node.args[1], float):
        return node.args[0], node.args[1]
    return node, 1.0


def shifted(node: Any) -> tuple[Any, float]:
    """A node as another one plus a number."""
    if isinstance(node, fx.Node) and node.meta.get("target") is aten.add.Tensor:
        left, right = node.args
        if isinstance(right, float):
            return left, right
    return node, 0.0


def is_normal(number: float) -> bool:
    """Whether a float is finite and not subnormal."""
    return math.isfinite(number) and abs(number) >= sys.float_info.min


def is_of_all(node: Any, dims: Sequence[int] | None = None, keepdim: bool = False) -> bool:
    """Whether a sum is over all dimensions."""
    return not keepdim and len(dims or ()) in (0, node.meta["value"].dim())


def is_fixed(argument: Any, value: Tensor) -> bool:
    """Whether an argument is a constant of the same kind."""
    held = (
        isinstance(argument, fx.Node)
        and argument.op == "placeholder"
        and argument.name.startswith("constant_")
    )
    return held and kind_of(argument.meta["value"]) == kind_of(value)


def all_floating(args: tuple[Any, ...]) -> bool:
    """Whether all tensors among the arguments are of a floating-point dtype."""
    values = [value for value in values_of(args) if isinstance(value, Tensor)]
    return all(value.is_floating_point() for value in values)


def is_like(argument: Any, value: Tensor) -> bool:
    """Whether an argument is a node of the shape and dtype of a value."""
    return isinstance(argument, fx.Node) and kind_of(argument.meta["value"]) == kind_of(value)


def is_scalar(argument: Any) -> bool:
    """Whether an argument is a float, or a node of dimension 0."""
    return isinstance(argument, float) or (
        isinstance(argument, fx.Node) and argument.meta["value"].dim() == 0
    )


def kind_of(value: Tensor) -> tuple[Any, ...]:
    """The shape and dtype of a tensor."""
    return value.shape, value.dtype


def layout_of(value: Tensor) -> tuple[Any, ...]:
    """The shape, dtype and strides of a tensor."""
    return value.shape, value.dtype, value.stride()


def may_not_be_replayed(target: Any) -> bool:
    """Whether an operation draws random numbers or changes its arguments in place."""
    return isinstance(target, OpOverload) and (NOISY in target.tags or target._schema.is_mutable)


def signature_of(args: Any) -> Any:
    """What decides whether a function of torch takes some arguments, and what its result looks like."""
    if isinstance(args, Tensor):
        return layout_of(args)
    if isinstance(args, tuple | list):
        return tuple(signature_of(a) for a in args)
    if isinstance(args, dict):
        return tuple((key, signature_of(a)) for key, a in args.items())
    return type(args), args


def varies(args: Any) -> bool:
    """Whether a node is among the arguments."""
    found: list[fx.Node] = []
    map_arg(args, found.append)
    return bool(found)


def values_of(args: Any) -> Any:
    """The arguments with recorded values in place of nodes."""
    return map_arg(args, lambda node: node.meta["value"])


def key_of(args: Any) -> Any:
    """A hashable key of arguments, in which 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(args, tuple | list):
        return tuple(key_of(a) for a in args)
    if isinstance(args, dict):
        return tuple((key, key_of(a)) for key, a in sorted(args.items()))
    # 1, 1.0 and True are equal, and 0.0 is -0.0.
    return (type(args), math.copysign(1.0, args), args) if isinstance(args, int | float) else args


def plain_function(target: Any, args: Any, kwargs: Any, value: Any) -> Callable[..., Any]:
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
