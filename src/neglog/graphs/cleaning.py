"""Cleaning: a graph of torch operations with what need not be said at each evaluation left out.

What does not depend on the inputs is evaluated once, what is said twice is computed once, numbers that are
added or multiplied one after the other become one, and sums over rows of products become inner products.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from neglog.graphs.arrays import PLAIN

aten = torch.ops.aten
OpOverload = torch._ops.OpOverload
NOISY = torch.Tag.nondeterministic_seeded

SAME = {
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.expand.default,
}
"""Operations that say nothing where shape, strides and kind are the same before and after."""
SHAPED = {
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.full_like.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.new_full.default,
}
"""Operations that ask for no more than the shape and the kind of a tensor."""
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
"""Operations that give one number in every place, and the number, where it is not that of an argument."""


def cleaned(
    module: fx.GraphModule, inputs: Sequence[Any], fixed: bool
) -> tuple[tuple[int, ...], fx.GraphModule, tuple[Tensor, ...]]:
    """Which inputs after the first one are used, the clean graph, and the constants that it takes after them.

    With `fixed` all inputs but the first are constants. A first input that is a whole number is the size of
    a dimension, which will be another one when the graph is used.

    Raises:
        RuntimeError: an operation draws numbers or changes its arguments.
    """
    return _Cleaner(module, inputs, fixed).graph()


class _Cleaner:
    """Copies a graph operation by operation, with the value of each at hand."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any], fixed: bool) -> None:
        self.module, self.inputs, self.fixed = module, inputs, fixed
        self.rows = inputs[0] if isinstance(inputs[0], int) else None
        self.body = fx.Graph()
        self.anchor = self.body.call_function(operator.pos, (0,))  # placeholders stand before it
        self.known: dict[Any, fx.Node] = {}
        self.constants: list[Tensor] = []
        self.held: dict[int, fx.Node] = {}

    def graph(self) -> tuple[tuple[int, ...], fx.GraphModule, tuple[Tensor, ...]]:
        env: dict[fx.Node, Any] = {}
        numbers = iter(range(len(self.inputs)))
        with self.body.inserting_before(self.anchor):
            places = [self.body.placeholder(f"input_{i}") for i in range(len(self.inputs))]
        for place, value in zip(places, self.inputs, strict=True):
            place.meta["value"] = value
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                number = next(numbers)
                env[node] = self.inputs[number] if self.fixed and number else places[number]
            elif node.op == "get_attr":
                env[node] = getattr(self.module, node.target)
            elif node.op == "output":
                self.body.output(self._arguments(map_arg(node.args[0], env.__getitem__)))
            else:
                env[node] = self._apply(
                    node.target, *map_arg((node.args, dict(node.kwargs)), env.__getitem__)
                )
        return self._finished(places)

    def _finished(self, places: list[fx.Node]) -> tuple[tuple[int, ...], fx.GraphModule, tuple[Tensor, ...]]:
        self.body.erase_node(self.anchor)
        self.body.eliminate_dead_code()
        used = tuple(i - 1 for i, place in enumerate(places) if i and place.users)
        for place in places[1:]:
            if not place.users:
                self.body.erase_node(place)
        kept = [n for n in self.held.values() if n.users]
        constants = tuple(n.meta["value"] for n in kept)
        for node in self.held.values():
            if not node.users:
                self.body.erase_node(node)
        for node in self.body.nodes:
            node.meta[PLAIN] = _is_plain(node)
        for node in self.body.nodes:
            node.meta = {PLAIN: node.meta[PLAIN]}  # the values are large
        return used, fx.GraphModule(torch.nn.Module(), self.body), constants

    # One operation

    def _apply(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation: its value where all arguments are values, else a node."""
        if isinstance(target, OpOverload) and (NOISY in target.tags or target._schema.is_mutable):
            raise RuntimeError(f"{target} draws numbers or changes its arguments, so it cannot be replayed")
        if not _varies((args, kwargs)):
            return target(*args, **kwargs)
        simpler = self._simpler(target, args, kwargs)
        return simpler if simpler is not None else self._node(target, args, kwargs)

    def _node(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        """A node of the new graph, or the one that says the same already."""
        value = target(*_values(args), **_values(kwargs))
        args, kwargs = self._arguments(args), self._arguments(kwargs)
        key = (target, _key(args), _key(kwargs))
        if key not in self.known:
            fast = _fast(target, _values(args), _values(kwargs), value)
            node = self.body.call_function(fast, args, kwargs)
            node.meta |= {"value": value, "target": target, "uniform": _uniform(target, args)}
            self.known[key] = node
        return self.known[key]

    def _arguments(self, args: Any) -> Any:
        """Arguments in which each tensor is an input of the graph."""
        if isinstance(args, Tensor):
            return self._hold(args)
        if isinstance(args, tuple | list):
            return type(args)(self._arguments(a) for a in args)
        if isinstance(args, dict):
            return {key: self._arguments(a) for key, a in args.items()}
        return args

    def _hold(self, value: Tensor) -> fx.Node:
        if id(value) not in self.held:
            with self.body.inserting_before(self.anchor):
                node = self.body.placeholder(f"constant_{len(self.held)}")
            node.meta["value"] = value
            self.held[id(value)] = node
        return self.held[id(value)]

    # Rules

    def _simpler(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation comes to where it can be said with less, or None."""
        if target in SAME and isinstance(args[0], fx.Node):
            before, after = args[0].meta["value"], target(*_values(args), **_values(kwargs))
            return args[0] if _layout(before) == _layout(after) else None
        if target in SHAPED:
            found = target(*_values(args), **_values(kwargs))
            return None if self._has_rows(found) else found
        if kwargs:
            return None
        if target is operator.getitem:
            return self._piece(*args)
        if not _all_floating(args):
            return None
        if target in (aten.add.Tensor, aten.sub.Tensor):
            left, right = args
            return self._sum_of_two(left, right, 1.0 if target is aten.add.Tensor else -1.0)
        if target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor):
            return self._product(target, *args)
        if target is aten.neg.default:
            return self._times(args[0], -1.0)
        if target is aten.pow.Tensor_Scalar and args[1] == 1:
            return args[0]
        if target is aten.sum.default or (target is aten.sum.dim_IntList and _is_of_all(*args)):
            return self._sum(args[0])
        if target is aten.cat.default:
            return self._joined(*args)
        if target in (aten.mv.default, aten.mm.default) and isinstance(args[1], fx.Node):
            node, factor = _apart(args[1])
            return None if factor == 1.0 else self._times(self._node(target, (args[0], node), {}), factor)
        return None

    def _product(self, target: Any, left: Any, right: Any) -> Any:
        left, right = _number(left, right), _number(right, left)
        if target is not aten.div.Tensor and isinstance(left, float):
            left, right = right, left
        if isinstance(left, float):
            return None
        if isinstance(right, float):
            factor = 1 / right if target is aten.div.Tensor and right else right
            if target is aten.div.Tensor and not _is_normal(factor):
                return self._node(target, (left, right), {})
            return self._times(left, factor)
        if target is aten.mul.Tensor and isinstance(left, fx.Node) and isinstance(right, fx.Node):
            (left, a), (right, b) = _apart(left), _apart(right)
            return self._times(self._node(target, (left, right), {}), a * b)
        return self._node(target, (left, right), {})

    def _times(self, node: Any, factor: float) -> Any:
        """`node` times a number; numbers in a row are multiplied here, and those added are so after it."""
        if factor == 1.0:
            return node
        base, shift = _level(node)
        if shift:
            return self._plus(self._times(base, factor), shift * factor)
        node, inner = _apart(node)
        factor *= inner
        if factor == 1.0:
            return node
        if factor == -1.0:
            return self._node(aten.neg.default, (node,), {})
        return self._node(aten.mul.Tensor, (node, factor), {})

    def _plus(self, node: Any, number: float) -> Any:
        """`node` plus a number; numbers in a row are added here."""
        base, shift = _level(node)
        number += shift
        return self._node(aten.add.Tensor, (base, number), {}) if number else base

    def _sum_of_two(self, left: Any, right: Any, sign: float) -> Any:
        left, right = _number(left, right), _number(right, left)
        if isinstance(right, float):
            return self._plus(left, sign * right)
        if isinstance(left, float):
            return self._plus(self._times(right, sign), left)
        target, shift = (aten.add.Tensor if sign > 0 else aten.sub.Tensor), 0.0
        if _is_scalar(left) and _is_scalar(right):
            # Of rows, what nearly cancels stands together as the model has put it.
            (left, a), (right, b) = _level(left), _level(right)
            shift = a + sign * b
        return self._plus(self._node(target, (left, right), {}), shift)

    def _sum(self, node: Any) -> Any:
        """The sum of all entries: numbers are taken out of it, and a product is an inner product."""
        value, count, target = node.meta["value"], node.meta["value"].numel(), node.meta.get("target")
        if value.dim() == 0:
            return node
        known = not self._has_rows(value)
        base, shift = _level(node)
        if shift and known:
            return self._plus(self._whole(base), count * shift)
        inner, factor = _apart(node)
        if inner is not node:
            return self._times(self._whole(inner), factor)
        if known and target in (aten.add.Tensor, aten.sub.Tensor):
            (left, right), sign = node.args, 1.0 if target is aten.add.Tensor else -1.0
            if _like(left, value) and _is_scalar(right):
                return self._sum_of_two(self._whole(left), self._times(right, float(count)), sign)
            if _like(left, value) and _is_fixed(right, value):
                return self._plus(self._whole(left), sign * float(right.meta["value"].sum()))
            if _like(right, value) and _is_fixed(left, value):
                return self._plus(self._times(self._whole(right), sign), float(left.meta["value"].sum()))
        if target is aten.mul.Tensor and value.dim() == 1 and all(_like(a, value) for a in node.args):
            return self._node(aten.dot.default, node.args, {})
        if target is aten.pow.Tensor_Scalar and node.args[1] == 2 and value.dim() == 1:
            return self._node(aten.dot.default, (node.args[0], node.args[0]), {})
        return None

    def _has_rows(self, value: Tensor) -> bool:
        """Whether the number of entries will be another one when the graph is used."""
        return self.rows in value.shape

    def _whole(self, node: Any) -> Any:
        found = self._sum(node)
        return self._node(aten.sum.default, (node,), {}) if found is None else found

    def _piece(self, parts: Any, index: int) -> Any:
        """A piece that is all there is."""
        if not isinstance(parts, fx.Node) or parts.meta.get("target") is not aten.split_with_sizes.default:
            return None
        whole: Any = parts.args[0]
        piece = parts.meta["value"][index]
        return whole if _layout(whole.meta["value"]) == _layout(piece) else None

    def _joined(self, parts: Sequence[Any], dim: int = 0) -> Any:
        """What is joined of one piece and empty ones."""
        some = [part for part in parts if _values(part).numel()]
        return some[0] if len(some) == 1 and isinstance(some[0], fx.Node) else None


def _is_plain(node: fx.Node) -> bool:
    """Whether an operation is one on double precision and truth values alone."""
    values = [each.meta.get("value") for each in (node, *node.all_input_nodes)]
    kinds = {part.dtype for value in values for part in _tensors(value) if isinstance(part, Tensor)}
    return kinds <= {torch.float64, torch.bool}


def _number(value: Any, other: Any) -> Any:
    """A constant that is the same everywhere as a float, where the other argument has its shape."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, fx.Node) and isinstance(other, fx.Node) and value.meta.get("uniform") is not None:
        like, uniform = other.meta["value"], value.meta["uniform"]
        fits = _kind(value.meta["value"]) == _kind(like) and other.meta.get("uniform") is None
        return uniform if fits else value
    if not isinstance(value, Tensor) or not isinstance(other, fx.Node) or not value.numel():
        return value
    shape = other.meta["value"].shape
    if value.dtype != other.meta["value"].dtype or np.broadcast_shapes(value.shape, shape) != shape:
        return value
    one = value.reshape(-1)[0]
    return float(one) if torch.equal(value, one.expand(value.shape)) else value


def _uniform(target: Any, args: Any) -> float | None:
    """The number that an operation gives in every place, or None."""
    if target not in UNIFORM or UNIFORM[target] is not None:
        return UNIFORM.get(target)
    number = args[0] if target is aten.expand.default else args[2 if target is aten.new_full.default else 1]
    if isinstance(number, fx.Node):
        number = (
            number.meta.get("value") if number.op == "placeholder" and "constant" in number.name else None
        )
        number = number.reshape(-1)[0] if isinstance(number, Tensor) and number.numel() == 1 else None
    return None if number is None else float(number)


def _apart(node: Any) -> tuple[Any, float]:
    """A node as another one times a number."""
    target = node.meta.get("target")
    if target is aten.neg.default:
        return node.args[0], -1.0
    if target is aten.mul.Tensor and isinstance(node.args[1], float):
        return node.args[0], node.args[1]
    return node, 1.0


def _level(node: Any) -> tuple[Any, float]:
    """A node as another one plus a number."""
    if isinstance(node, fx.Node) and node.meta.get("target") is aten.add.Tensor:
        left, right = node.args
        if isinstance(right, float):
            return left, right
    return node, 0.0


def _is_normal(number: float) -> bool:
    return math.isfinite(number) and abs(number) >= sys.float_info.min


def _is_of_all(node: Any, dims: Sequence[int] | None = None, keepdim: bool = False) -> bool:
    """Whether a sum is over all dimensions."""
    return not keepdim and len(dims or ()) in (0, node.meta["value"].dim())


def _is_fixed(argument: Any, value: Tensor) -> bool:
    """Whether an argument is a constant of the same kind."""
    held = (
        isinstance(argument, fx.Node)
        and argument.op == "placeholder"
        and argument.name.startswith("constant_")
    )
    return held and _kind(argument.meta["value"]) == _kind(value)


def _all_floating(args: tuple[Any, ...]) -> bool:
    values = [value for value in _values(args) if isinstance(value, Tensor)]
    return all(value.is_floating_point() for value in values)


def _like(argument: Any, value: Tensor) -> bool:
    return isinstance(argument, fx.Node) and _kind(argument.meta["value"]) == _kind(value)


def _is_scalar(argument: Any) -> bool:
    return isinstance(argument, float) or (
        isinstance(argument, fx.Node) and argument.meta["value"].dim() == 0
    )


def _kind(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype


def _layout(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype, value.stride()


def _varies(args: Any) -> bool:
    """Whether a node is among the arguments."""
    found: list[fx.Node] = []
    map_arg(args, found.append)
    return bool(found)


def _values(args: Any) -> Any:
    return map_arg(args, lambda node: node.meta["value"])


def _key(args: Any) -> Any:
    if isinstance(args, tuple | list):
        return tuple(_key(a) for a in args)
    if isinstance(args, dict):
        return tuple((key, _key(a)) for key, a in sorted(args.items()))
    # 1, 1.0 and True are equal, and 0.0 is -0.0.
    return (type(args), math.copysign(1.0, args), args) if isinstance(args, int | float) else args


def _fast(target: Any, args: Any, kwargs: Any, value: Any) -> Callable[..., Any]:
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
    alike = [_layout(found) for found in _tensors(same)] == [_layout(found) for found in _tensors(value)]
    return plain if alike else target


def _tensors(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]
