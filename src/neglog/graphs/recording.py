"""Recording: the torch operations that a function comes to, those of its backward passes among them.

What `torch.fx.experimental.proxy_tensor.make_fx` does, for plain tensors on the CPU, in a tenth of its time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode


def recorded(function: Callable[..., Any], inputs: Sequence[Tensor], varying: int) -> fx.GraphModule:
    """The operations of ``function(*inputs)``, none of which changes a tensor in place.

    The first `varying` inputs may have other values later, so that nothing but operations may depend on them.

    Raises:
        RuntimeError: the value of a tensor that depends on them decides what is run, or nobody knows how
            some tensor came about.
    """
    recorder = _Recorder(inputs, varying)
    with recorder:
        outputs = function(*inputs)
    recorder.graph.output(recorder.nodes(outputs))
    module = fx.GraphModule(recorder.constants, recorder.graph)
    if not recorder.in_place:
        return module
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and seldom needed

    # That can be undone in a graph of operations only, not while autograd is at work.
    with torch.no_grad():
        return make_fx(torch.func.functionalize(module))(*inputs)


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd, and notes it as a node of a graph."""

    def __init__(self, inputs: Sequence[Tensor], varying: int) -> None:
        super().__init__()
        self.graph, self.constants = fx.Graph(), torch.nn.Module()
        self.known: dict[int, fx.Node] = {}
        self.varies: set[int] = set()
        self.aliases: dict[int, set[int]] = {}  # the tensors that share a piece of memory
        self.kept: list[Tensor] = []  # an id is that of one tensor for as long as the tensor lives
        self.in_place = False
        for i, value in enumerate(inputs):
            self.note(value, self.graph.placeholder(f"input_{i}"), i < varying)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no compiler to hide from, and to import it takes seconds

    def note(self, value: Tensor, node: fx.Node, varies: bool) -> None:
        """Remember which node a tensor came from, and whether it depends on a varying input."""
        self.known[id(value)] = node
        self.kept.append(value)
        self.aliases.setdefault(_memory(value), set()).add(id(value))
        if varies:
            self.varies.add(id(value))

    def nodes(self, args: Any) -> Any:
        """Arguments with nodes in the place of tensors."""
        if isinstance(args, Tensor):
            return self.known[id(args)] if id(args) in self.known else self._constant(args)
        if isinstance(args, tuple | list):
            return type(args)(self.nodes(a) for a in args)
        if isinstance(args, dict):
            return {key: self.nodes(a) for key, a in args.items()}
        return args

    def _constant(self, value: Tensor) -> fx.Node:
        if value.numel() and self.aliases.get(_memory(value), set()) & self.varies:
            raise RuntimeError("a tensor came about out of sight")
        name = f"constant_{len(self.kept)}"
        self.constants.register_buffer(name, value.detach())
        node = self.graph.get_attr(name)
        self.note(value, node, False)
        return node

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = self._out_of_place(func, args, kwargs) if func._schema.is_mutable else func
        node = self.graph.call_function(target, self.nodes(args), self.nodes(kwargs))
        varies = any(id(value) in self.varies for value in _tensors((args, kwargs)))
        found = func(*args, **kwargs)
        if isinstance(found, Tensor):
            self.note(found, node, varies)
        elif isinstance(found, tuple | list):
            for i, each in enumerate(found):
                self.note(each, self.graph.call_function(operator.getitem, (node, i)), varies)
        elif varies:
            raise RuntimeError(f"its control flow, or a number, depends on the value of a tensor ({func})")
        return found

    def _out_of_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation that gives a new tensor, where nothing else sees the one that is changed."""
        value, name = args[0], func._schema.name.removeprefix("aten::")
        if name.endswith("_") and isinstance(value, Tensor) and self._is_own(value):
            packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
            plain = getattr(packet, func._overloadname, None)
            found = plain(*args, **kwargs) if plain is not None else None
            if isinstance(found, Tensor) and (found.shape, found.dtype) == (value.shape, value.dtype):
                return plain
        self.in_place = True
        return func

    def _is_own(self, value: Tensor) -> bool:
        """Whether a tensor is what an operation gave, and no other tensor shares its memory."""
        alone = self.aliases.get(_memory(value)) == {id(value)}
        return alone and self.known[id(value)].op == "call_function"


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _tensors(args: Any) -> list[Tensor]:
    if isinstance(args, Tensor):
        return [args]
    if isinstance(args, dict):
        args = args.values()
    elif not isinstance(args, tuple | list):
        return []
    return [value for each in args for value in _tensors(each)]
