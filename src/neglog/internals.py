"""Private names of torch that have no public counterpart; no other module uses any."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import contains
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = [
    "COPY",
    "OpOverload",
    "TorchDispatchMode",
    "has_compilation",
    "has_dispatch_modes",
    "has_function_modes",
    "has_saved_tensors_hooks",
    "has_transforms",
    "is_operation",
    "is_written",
    "machine_code",
    "program_of",
    "standard_gamma",
    "tree_map",
    "uncompiled",
    "without_compilation",
    "without_dispatch_modes",
    "without_function_modes",
    "without_saved_tensors_hooks",
    "without_transforms",
    "wrapper",
]

OpOverload = torch._ops.OpOverload
"""An operation of torch for one set of argument types."""
COPY = torch.ops.aten._to_copy.default
"""The operation behind `Tensor.to`."""


def is_written(operation: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether an operation of torch writes to its first argument, and not to an `out`."""
    return bool(operation._schema.is_mutable) and "out" not in keywords


def wrapper(kind: type[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Any:
    """A tensor of a subclass, which has a shape and a dtype and holds no numbers."""
    return Tensor._make_wrapper_subclass(kind, tuple(shape), dtype=dtype)


def is_operation(target: Any) -> bool:
    """Whether the target of a node is an operation of torch."""
    return isinstance(target, OpOverload)


def standard_gamma(concentration: Tensor) -> Tensor:
    """Draws from Gamma(concentration, 1), of the shape of `concentration`."""
    return torch._standard_gamma(concentration)


def program_of(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """A function of tensors such as these `inputs` as a program of torch's own interpreter.

    As `torch.jit.trace`, which keeps what it traced until the process ends.

    Raises:
        RuntimeError: torch cannot write it as a program.
        AttributeError: this torch has no such interpreter.
    """
    written, *_ = torch._C._create_graph_by_tracing(
        function,
        inputs,
        lambda _: "",  # values have no names
        True,  # strict
        False,  # in place
        None,  # no module
        [],  # arguments have no names
    )
    program: Callable[..., Any] = torch._C._create_function_from_graph("program", written)
    return program


def machine_code(module: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """A graph of tensors as `torch.compile` translates it, without its checks of the inputs in each call.

    These take several times as long as a small graph. Inputs must have the shapes, strides and dtypes of the
    examples.
    """
    from torch._inductor import compile  # slow to import, and seldom needed

    compiled: Callable[..., Any] = compile(module, list(inputs))
    return compiled


# Modes of the caller


def uncompiled(function: Any) -> None:
    """Mark a function that `torch.compile` runs as it is, where it is called in a function that is compiled.

    As `torch.compiler.disable`, which takes a second to import.
    """
    function._torchdynamo_disable = True
    function._torchdynamo_disable_msg = "neglog runs models without torch.compile"
    if hasattr(eval_frame, "skip_code"):  # torch 2.4 and 2.5
        eval_frame.skip_code(function.__code__)
    else:
        as_it_is = eval_frame._FrameExecStrategy(
            eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT
        )
        eval_frame.set_code_exec_strategy(function.__code__, as_it_is)


has_compilation: Callable[[], bool] = partial(contains, sys.modules, "torch._dynamo")
"""Whether this may be inside a function of `torch.compile`."""


@contextmanager
def without_compilation() -> Iterator[None]:
    """Without `torch.compile` of the functions that are called, which a compiled caller causes."""
    callback = eval_frame.set_eval_frame(None)
    try:
        yield
    finally:
        eval_frame.set_eval_frame(callback)


has_function_modes: Callable[[], int] = torch._C._len_torch_function_stack
"""The number of `torch.overrides.TorchFunctionMode` that are entered."""
has_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""The number of `TorchDispatchMode` that are entered."""
has_transforms: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
"""The innermost transform of `torch.func` that is entered; None if there is none."""
has_saved_tensors_hooks: Callable[[], Any] = partial(
    getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None), True
)
"""The `torch.autograd.graph.saved_tensors_hooks` that are entered, which may change gradients; else None.

Torch 2.4 does not show them; there they stay as they are.
"""


@contextmanager
def without_function_modes() -> Iterator[None]:
    """Without `torch.overrides.TorchFunctionMode`, such as that of `torch.set_default_device`."""
    modes = [_pop_mode() for _ in range(has_function_modes())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


@contextmanager
def without_saved_tensors_hooks() -> Iterator[None]:
    """Without `torch.autograd.graph.saved_tensors_hooks`, with which `torch.func` refuses to work."""
    hooks = []
    while has_saved_tensors_hooks():
        hooks.append(torch._C._autograd._top_saved_tensors_default_hooks(True))
        torch._C._autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pack, unpack in reversed(hooks):
            torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Without the `TorchDispatchMode` of the caller."""
    from torch.utils._python_dispatch import _disable_current_modes  # slow to import, and seldom needed

    return _disable_current_modes()


def without_transforms() -> AbstractContextManager[Any]:
    """Without the transforms of `torch.func` of the caller."""
    from torch._functorch import pyfunctorch  # slow to import, and seldom needed

    return pyfunctorch.temporarily_clear_interpreter_stack()
