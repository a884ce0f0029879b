"""Simplification of graphs of torch operations.

Constant folding, common subexpressions, fused scalar summands and factors, and inner products in the place of
sums over rows of products.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neglog.graphs.nodes import (
    SEQUENCE,
    Node,
    Nodes,
    all_floating,
    factored,
    is_fixed,
    is_like,
    is_normal,
    is_of_all,
    is_scalar,
    key_of,
    layout_of,
    may_not_be_replayed,
    number_of,
    plain_function,
    reached,
    shifted,
    uniform_of,
    values_of,
)
from neglog.graphs.recording import CONSTANT, INPUT, Operation, Recording, filled, wanted

aten = torch.ops.aten

IDENTITIES = {
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
"""Operations that are the identity if shape, strides and dtype of argument and result are equal."""
SHAPED = {
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.full_like.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.new_full.default,
}
"""Operations that depend on the shape and the dtype of a tensor alone."""


def cleaned(
    recording: Recording, inputs: Sequence[Any], fixed: bool
) -> tuple[tuple[int, ...], Nodes, tuple[Tensor, ...]]:
    """The inputs after the first that are used, the simplified graph, and its constants, which follow them.

    With `fixed` all inputs but the first are constants. A first input that is a whole number is the size of a
    dimension, which varies between evaluations.

    Raises:
        RuntimeError: an operation draws numbers or changes its arguments.
    """
    return _Cleaner(inputs, fixed).graph(recording)


class _Cleaner:
    """Copies a recording operation by operation, with the value of each, and simplifies it."""

    def __init__(self, inputs: Sequence[Any], fixed: bool) -> None:
        self.inputs, self.fixed = inputs, fixed
        self.rows = inputs[0] if isinstance(inputs[0], int) else None
        self.known: dict[Any, Node] = {}
        self.constants: dict[int, Node] = {}  # by the id of their tensors, which they keep

    def graph(self, recording: Recording) -> tuple[tuple[int, ...], Nodes, tuple[Tensor, ...]]:
        env: dict[Operation, Any] = {}
        places = [Node(value=value) for value in self.inputs]
        for operation in wanted(recording, may_not_be_replayed):
            target, args = operation.target, operation.args
            if target is INPUT:
                (number,) = args
                env[operation] = self.inputs[number] if self.fixed and number else places[number]
            elif target is CONSTANT:
                (env[operation],) = args
            else:
                varies = any(isinstance(env[each], Node) for each in operation.inputs)
                kwargs = filled(operation.kwargs, env) if operation.kwargs else {}
                env[operation] = self._apply(target, filled(args, env), kwargs, varies)
        return self._finished(places, self._arguments(filled(recording.outputs, env)))

    def _finished(
        self, places: list[Node], outputs: Any
    ) -> tuple[tuple[int, ...], Nodes, tuple[Tensor, ...]]:
        needed = reached(outputs)
        used = tuple(i for i, place in enumerate(places[1:]) if place in needed)
        constants = [node for node in self.constants.values() if node in needed]
        operations = [node for node in self.known.values() if node in needed]
        tensors = tuple(node.value for node in constants)
        inputs = [places[0], *(places[i + 1] for i in used), *constants]
        return used, Nodes(inputs, operations, outputs).stripped(), tensors

    # One operation

    def _apply(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], varies: bool) -> Any:
        """The result of an operation: its value where no argument is a node, else a node."""
        if may_not_be_replayed(target):
            raise RuntimeError(f"{target} draws numbers or changes its arguments, so it cannot be replayed")
        if not varies:
            return target(*args, **kwargs)
        simpler = self._simpler(target, args, kwargs)
        return simpler if simpler is not None else self._node(target, args, kwargs)

    def _node(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        """A node of the new graph, or an equal existing one (common subexpressions)."""
        args, kwargs = self._arguments(args), self._arguments(kwargs)
        key = (target, key_of(args), key_of(kwargs) if kwargs else ())
        known = self.known.get(key)
        if known is None:
            given, named = values_of(args), values_of(kwargs)
            value = target(*given, **named)
            function = plain_function(target, given, named, value)
            uniform = uniform_of(target, args)
            known = self.known[key] = Node(function, args, kwargs, value, target, uniform=uniform)
        return known

    def _arguments(self, args: Any) -> Any:
        """Arguments in which each tensor is an input of the graph."""
        if isinstance(args, Tensor):
            return self._constant(args)
        if isinstance(args, SEQUENCE):
            return type(args)([self._arguments(a) for a in args])
        if isinstance(args, dict):
            return {key: self._arguments(a) for key, a in args.items()}
        return args

    def _constant(self, value: Tensor) -> Node:
        if id(value) not in self.constants:
            self.constants[id(value)] = Node(value=value, is_constant=True)
        return self.constants[id(value)]

    # Rules

    def _simpler(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation by a simpler one, or None if no rule applies."""
        if target in IDENTITIES:
            return self._unchanged(target, args, kwargs)
        if target in SHAPED:
            found = target(*values_of(args), **values_of(kwargs))
            return None if self._has_rows(found) else found
        if kwargs:
            return None
        if target is operator.getitem:
            return self._piece(*args)
        rule = RULES.get(target)
        return rule(self, target, *args) if rule is not None and all_floating(args) else None

    def _unchanged(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument of an operation that leaves its numbers and its layout as they are."""
        if not isinstance(args[0], Node):
            return None
        before, after = args[0].value, target(*values_of(args), **values_of(kwargs))
        return args[0] if layout_of(before) == layout_of(after) else None

    def _matrix_product(self, target: Any, left: Any, right: Any) -> Any:
        """A matrix product whose factor is taken out of it."""
        if not isinstance(right, Node):
            return None
        node, factor = factored(right)
        return None if factor == 1.0 else self._times(self._node(target, (left, node), {}), factor)

    def _scaled(self, target: Any, node: Any, number: float) -> Any:
        """`node` times or divided by a number; a division becomes a product by a normal number."""
        if target is not aten.div.Tensor:
            return self._times(node, number)
        factor = 1 / number if number else number
        return self._times(node, factor) if is_normal(factor) else self._node(target, (node, number), {})

    def _product(self, target: Any, left: Any, right: Any) -> Any:
        left, right = number_of(left, right), number_of(right, left)
        if target is not aten.div.Tensor and isinstance(left, float):
            left, right = right, left
        if isinstance(left, float):
            return None
        if isinstance(right, float):
            return self._scaled(target, left, right)
        if target is aten.mul.Tensor and isinstance(left, Node) and isinstance(right, Node):
            (left, a), (right, b) = factored(left), factored(right)
            return self._times(self._node(target, (left, right), {}), a * b)
        return self._node(target, (left, right), {})

    def _times(self, node: Any, factor: float) -> Any:
        """`node` times a number; numbers in a row are multiplied here, and those added are so after it."""
        if factor == 1.0:
            return node
        base, shift = shifted(node)
        if shift:
            return self._plus(self._times(base, factor), shift * factor)
        node, inner = factored(node)
        factor *= inner
        if factor == 1.0:
            return node
        if factor == -1.0:
            return self._node(aten.neg.default, (node,), {})
        return self._node(aten.mul.Tensor, (node, factor), {})

    def _plus(self, node: Any, number: float) -> Any:
        """`node` plus a number; numbers in a row are added here."""
        base, shift = shifted(node)
        number += shift
        return self._node(aten.add.Tensor, (base, number), {}) if number else base

    def _sum_of_two(self, left: Any, right: Any, sign: float) -> Any:
        left, right = number_of(left, right), number_of(right, left)
        if isinstance(right, float):
            return self._plus(left, sign * right)
        if isinstance(left, float):
            return self._plus(self._times(right, sign), left)
        target, shift = (aten.add.Tensor if sign > 0 else aten.sub.Tensor), 0.0
        if is_scalar(left) and is_scalar(right):
            # The order of summands that depend on rows is kept: terms that nearly cancel are adjacent.
            (left, a), (right, b) = shifted(left), shifted(right)
            shift = a + sign * b
        return self._plus(self._node(target, (left, right), {}), shift)

    def _sum(self, node: Any) -> Any:
        """The sum of all entries: numbers are taken out of it, and a product becomes an inner product."""
        value = node.value
        if value.dim() == 0:
            return node
        known = not self._has_rows(value)
        base, shift = shifted(node)
        if shift and known:
            return self._plus(self._whole(base), value.numel() * shift)
        inner, factor = factored(node)
        if inner is not node:
            return self._times(self._whole(inner), factor)
        if node.operation in (aten.add.Tensor, aten.sub.Tensor):
            return self._sum_of_sums(node) if known else None
        return self._inner_product(node)

    def _sum_of_sums(self, node: Any) -> Any:
        """The sum of all entries of a sum or difference, of which one part is a constant or a number."""
        value, (left, right) = node.value, node.args
        sign = 1.0 if node.operation is aten.add.Tensor else -1.0
        if is_like(left, value) and is_scalar(right):
            return self._sum_of_two(self._whole(left), self._times(right, float(value.numel())), sign)
        if is_like(left, value) and is_fixed(right, value):
            return self._plus(self._whole(left), sign * float(right.value.sum()))
        if is_like(right, value) and is_fixed(left, value):
            return self._plus(self._times(self._whole(right), sign), float(left.value.sum()))
        return None

    def _inner_product(self, node: Any) -> Any:
        """The sum of all entries of a product or a square of vectors."""
        value, target = node.value, node.operation
        if target is aten.mul.Tensor and value.dim() == 1 and all(is_like(a, value) for a in node.args):
            return self._node(aten.dot.default, node.args, {})
        if target is aten.pow.Tensor_Scalar and node.args[1] == 2 and value.dim() == 1:
            return self._node(aten.dot.default, (node.args[0], node.args[0]), {})
        return None

    def _has_rows(self, value: Tensor) -> bool:
        """Whether the number of entries varies between evaluations."""
        return self.rows in value.shape

    def _whole(self, node: Any) -> Any:
        found = self._sum(node)
        return self._node(aten.sum.default, (node,), {}) if found is None else found

    def _piece(self, parts: Any, index: int) -> Any:
        """The only piece of a concatenation."""
        if not isinstance(parts, Node) or parts.operation is not aten.split_with_sizes.default:
            return None
        whole: Any = parts.args[0]
        piece = parts.value[index]
        return whole if layout_of(whole.value) == layout_of(piece) else None

    def _joined(self, parts: Sequence[Any], dim: int = 0) -> Any:
        """The concatenation of one piece and empty ones."""
        some = [part for part in parts if values_of(part).numel()]
        return some[0] if len(some) == 1 and isinstance(some[0], Node) else None


RULES: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: lambda cleaner, _, left, right: cleaner._sum_of_two(left, right, 1.0),
    aten.sub.Tensor: lambda cleaner, _, left, right: cleaner._sum_of_two(left, right, -1.0),
    aten.mul.Tensor: _Cleaner._product,
    aten.mul.Scalar: _Cleaner._product,
    aten.div.Tensor: _Cleaner._product,
    aten.neg.default: lambda cleaner, _, node: cleaner._times(node, -1.0),
    aten.pow.Tensor_Scalar: lambda _, __, node, exponent: node if exponent == 1 else None,
    aten.sum.default: lambda cleaner, _, node: cleaner._sum(node),
    aten.sum.dim_IntList: lambda cleaner, _, *args: cleaner._sum(args[0]) if is_of_all(*args) else None,
    aten.cat.default: lambda cleaner, _, *args: cleaner._joined(*args),
    aten.mv.default: _Cleaner._matrix_product,
    aten.mm.default: _Cleaner._matrix_product,
}
"""Operation -> the rule that simplifies it: of the cleaner, the operation and its arguments."""
