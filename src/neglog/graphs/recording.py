"""Recording: the torch operations of a function, including those of its backward passes.

As `torch.fx.experimental.proxy_tensor.make_fx`, for ordinary tensors on the CPU, and much faster.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from neglog.internals import TorchDispatchMode

T = TypeVar("T")

INPUT, CONSTANT = "input", "constant"
"""The targets of inputs (by their numbers) and of constant tensors."""

ZERO_GRADIENT = torch.ops.aten._efficientzerotensor.default
"""Autograd's representation of a gradient of zero: a tensor without memory."""
ABSORBING = {torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar, torch.ops.aten.neg.default}
"""Operations that map such a gradient to another one."""
OF_SHAPE = {
    torch.ops.aten.transpose_.default: torch.ops.aten.transpose.int,
    torch.ops.aten.t_.default: torch.ops.aten.t.default,
}
"""Operations in place that change the shape of a tensor and none of its numbers, and those out of place."""
SEQUENCE = (tuple, list)
NESTED = (tuple, list, dict)
"""Types of arguments that may hold tensors."""


@dataclass(eq=False, slots=True)
class Operation:
    """One call, with operations instead of tensors among its arguments."""

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    varies: bool = False
    """Whether it depends on an input that varies between evaluations."""
    inputs: Sequence[Operation] = field(init=False)
    """The operations among its arguments."""

    def __post_init__(self) -> None:
        self.take(self.args, self.kwargs)

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Change the arguments."""
        self.args, self.kwargs = args, kwargs
        self.inputs = among(args, Operation) + (among(kwargs, Operation) if kwargs else [])


@dataclass(frozen=True)
class Recording:
    """The operations of a function, in their order, and which of them it returns."""

    operations: list[Operation]
    outputs: Any


def recorded(function: Callable[..., Any], inputs: Sequence[Tensor], varying: int) -> Recording:
    """The operations of ``function(*inputs)``, none of which changes a tensor in place.

    The first `varying` inputs vary between evaluations, so only recorded operations may depend on them.

    Raises:
        RuntimeError: control flow depends on the value of such a tensor, or the operation that produced a
            tensor was not recorded.
    """
    recorder = _Recorder(inputs, varying)
    with recorder:
        outputs = function(*inputs)
    found = Recording(recorder.operations, recorder.arguments(outputs))
    if not recorder.in_place:
        return found
    for operation, called in recorder.replaced:
        operation.target = called
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and seldom needed

    # That can be undone in a graph of operations only, not while autograd is at work.
    with torch.no_grad():
        return _of_module(make_fx(torch.func.functionalize(_module(found, len(inputs))))(*inputs))


class _Recorder(TorchDispatchMode):
    """Records every operation below autograd."""

    def __init__(self, inputs: Sequence[Tensor], varying: int) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.known: dict[int, Operation] = {}
        self.aliases: dict[int, set[int]] = {}  # the tensors that share a piece of memory
        self.kept: list[Tensor] = []  # an id is that of one tensor for as long as the tensor lives
        self.placed = 0  # the number of these that are among the aliases
        self.vanishing: set[int] = set()  # gradients of 0, whatever they are multiplied with
        self.in_place = False
        self.replaced: list[tuple[Operation, Any]] = []  # operations out of place, and those that were called
        self.overwritten: set[int] = set()  # tensors of which another one has changed the memory
        for i, value in enumerate(inputs):
            self.note(value, Operation(INPUT, (i,), varies=i < varying))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no compiler to hide from, and to import it takes seconds

    def note(self, value: Tensor, operation: Operation) -> None:
        """Remember which operation a tensor came from."""
        self.operations.append(operation)
        self.known[id(value)] = operation
        self.kept.append(value)

    def arguments(self, args: Any) -> Any:
        """Arguments with operations instead of tensors."""
        if isinstance(args, Tensor):
            self.in_place = self.in_place or id(args) in self.overwritten
            return self.known.get(id(args)) or self._constant(args)
        if isinstance(args, SEQUENCE):
            return type(args)([self.arguments(a) for a in args])
        if isinstance(args, dict):
            return {key: self.arguments(a) for key, a in args.items()}
        return args

    def _sharing(self, value: Tensor) -> set[int]:
        """The recorded tensors that share the memory of one."""
        for tensor in self.kept[self.placed :]:
            self.aliases.setdefault(_memory(tensor), set()).add(id(tensor))
        self.placed = len(self.kept)
        return self.aliases.get(_memory(value), set())

    def _constant(self, value: Tensor) -> Operation:
        beside = self._sharing(value) if value.numel() else set()
        if any(self.known[other].varies for other in beside):
            raise RuntimeError("a tensor was created outside the recorded operations")
        self.note(value, Operation(CONSTANT, (value.detach(),)))
        return self.known[id(value)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is ZERO_GRADIENT or (self.vanishing and self._vanishes(func, args)):
            return self._vanishing(func, args, kwargs)
        target = self._out_of_place(func, args, kwargs) if _is_mutable(func) else func
        operation = Operation(target, self.arguments(args), self.arguments(kwargs) if kwargs else {})
        operation.varies = any(each.varies for each in operation.inputs)
        if target is not func:
            self.replaced.append((operation, func))
        found = func(*args, **kwargs)
        self._note_result(found, operation, func)
        return found

    def _note_result(self, found: Any, operation: Operation, func: Any) -> None:
        """Record the result of an operation, which may be a tensor or many.

        Raises:
            RuntimeError: it is a number that depends on the inputs.
        """
        if isinstance(found, Tensor):
            self.note(found, operation)
        elif isinstance(found, tuple | list):
            self.operations.append(operation)
            for i, each in enumerate(found):
                self.note(each, Operation(operator.getitem, (operation, i), varies=operation.varies))
        elif operation.varies:
            raise RuntimeError(f"its control flow, or a number, depends on the value of a tensor ({func})")

    def _vanishes(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether the result of an operation is a gradient of 0, whatever it is multiplied with."""
        return func in ABSORBING and any(id(arg) in self.vanishing for arg in args)

    def _vanishing(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Zeros of the shape of an operation's result; as in autograd, zero times infinity is zero."""
        if func is ZERO_GRADIENT:
            shape, dtype = list(args[0]), kwargs["dtype"]
        else:
            found = func(*args, **kwargs)
            shape, dtype = list(found.shape), found.dtype
        zeros = torch.zeros(shape, dtype=dtype)
        self.note(zeros, Operation(torch.ops.aten.zeros.default, (shape,), {"dtype": dtype}))
        self.vanishing.add(id(zeros))
        return zeros

    def _out_of_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The out-of-place operation, if no other tensor whose memory is changed is read later."""
        if func in OF_SHAPE:
            return OF_SHAPE[func]
        value, name = args[0], func._schema.name.removeprefix("aten::")
        if name.endswith("_") and isinstance(value, Tensor):
            packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
            plain = getattr(packet, func._overloadname, None)
            beside = self._overlapping(value)
            found = plain(*args, **kwargs) if plain is not None and beside is not None else None
            if isinstance(found, Tensor) and (found.shape, found.dtype) == (value.shape, value.dtype):
                self.overwritten |= beside or set()
                return plain
        self.in_place = True
        return func

    def _overlapping(self, value: Tensor) -> set[int] | None:
        """The other tensors with memory of one; None unless all are results of operations."""
        sharing = self._sharing(value)
        if id(value) not in sharing:
            return None
        others = {id(each): each for each in self.kept if id(each) in sharing and each is not value}
        found = {key for key, each in others.items() if _overlap(value, each)}
        own = all(self.known[key].target not in (INPUT, CONSTANT) for key in (id(value), *found))
        return found if own else None


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors with the same storage have entries in common."""
    if one.dtype != other.dtype:
        return True
    used = torch.zeros(one.untyped_storage().nbytes() // one.element_size(), dtype=torch.bool)
    used.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(used.as_strided(other.shape, other.stride(), other.storage_offset()).any())


@cache
def _is_mutable(func: Any) -> bool:
    """Whether an operation changes one of its arguments."""
    return bool(func._schema.is_mutable)


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def filled(args: Any, values: Mapping[Any, Any], kind: type = Operation) -> Any:
    """Arguments with values instead of operations, or of other objects of a `kind`."""
    if isinstance(args, kind):
        return values[args]
    if isinstance(args, SEQUENCE):
        return type(args)([filled(a, values, kind) for a in args])
    if isinstance(args, dict):
        return {key: filled(a, values, kind) for key, a in args.items()}
    return args


def wanted(recording: Recording, always: Callable[[Any], bool]) -> list[Operation]:
    """The operations on which the outputs depend, and those whose targets are in `always`."""
    found = set(among((recording.outputs,), Operation))
    for operation in reversed(recording.operations):
        if operation in found or always(operation.target):
            found.add(operation)
            found.update(operation.inputs)
    return [operation for operation in recording.operations if operation in found]


def among(args: Any, kind: type[T]) -> list[T]:
    """The objects of a kind among arguments."""
    found: list[T] = []
    for each in args.values() if isinstance(args, dict) else args:
        if isinstance(each, kind):
            found.append(each)
        elif isinstance(each, NESTED):
            found += among(each, kind)
    return found


def _module(recording: Recording, count: int) -> fx.GraphModule:
    """A recording with a given number of inputs as a graph of torch.fx."""
    graph, constants = fx.Graph(), torch.nn.Module()
    inputs, nodes = [graph.placeholder(f"input_{i}") for i in range(count)], dict[Operation, Any]()
    for operation in recording.operations:
        if operation.target is INPUT:
            nodes[operation] = inputs[operation.args[0]]
        elif operation.target is CONSTANT:
            name = f"constant_{len(nodes)}"
            constants.register_buffer(name, operation.args[0])
            nodes[operation] = graph.get_attr(name)
        else:
            args, kwargs = filled(operation.args, nodes), filled(operation.kwargs, nodes)
            nodes[operation] = graph.call_function(operation.target, args, kwargs)
    graph.output(filled(recording.outputs, nodes))
    return fx.GraphModule(constants, graph)


def _of_module(module: fx.GraphModule) -> Recording:
    """The inverse of `_module`."""
    known, inputs = dict[fx.Node, Operation](), 0
    outputs: Any = None
    for node in module.graph.nodes:
        replace: Any = known.__getitem__
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), replace)
        if node.op == "output":
            outputs = args[0]
        elif node.op == "placeholder":
            known[node], inputs = Operation(INPUT, (inputs,)), inputs + 1
        elif node.op == "get_attr":
            known[node] = Operation(CONSTANT, (getattr(module, node.target),))
        else:
            known[node] = Operation(node.target, args, dict(kwargs))
    return Recording(list(known.values()), outputs)
