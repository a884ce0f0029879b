"""Functions given by their partial derivatives.

Autograd differentiates a formula operation by operation: the second derivative of twenty operations is some
hundreds. Here each derivative is a formula of its own, so each order costs one evaluation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Index = tuple[int, ...]


class Law:
    """A function of tensors that broadcast, and its partial derivatives, each a formula of the same tensors.

    ``partials[()]`` is the function, ``partials[0, 1]`` its derivative in the first and the second argument;
    indices are sorted. A derivative that is not there, of an order that is, vanishes: so does one in an
    argument that is not differentiated at all. What all formulas need, such as a quadrature, is `common`: a
    function of the order of the derivatives that are wanted and of the arguments, evaluated once. Formulas
    then have its value as their first argument. The formulas of the highest order are differentiated by
    autograd, which gives all orders beyond; no others need be fit for it. Forward mode over forward mode is
    beyond torch's functions of one's own, which this is made of: `torch.func.hessian` is right, and
    ``jacfwd(jacfwd(f))`` is not.

    >>> import torch
    >>> product = Law({(): lambda x, y: x * y, (0,): lambda x, y: y, (1,): lambda x, y: x})
    >>> torch.func.grad(product)(torch.tensor(2.0), torch.tensor(3.0))
    tensor(3.)
    """

    def __init__(
        self, partials: Mapping[Index, Callable[..., Any]], common: Callable[..., Any] | None = None
    ) -> None:
        self.partials, self.common = partials, common
        self.order = max(map(len, partials))

    def __call__(self, *arguments: Tensor) -> Tensor:
        return self.partial((), arguments)

    def partial(self, index: Index, arguments: tuple[Tensor, ...], known: list[Any] | None = None) -> Any:
        """The derivative at `index`; None where it vanishes. `known` has the common value, if computed."""
        index = tuple(sorted(index))
        if index not in self.partials:
            return None
        if len(index) < self.order and torch.is_grad_enabled():
            return _Partial.apply(self, index, [] if known is None else known, *arguments)
        return self.formula(index, arguments, None if torch.is_grad_enabled() else known)

    def formula(self, index: Index, arguments: tuple[Tensor, ...], known: list[Any] | None) -> Any:
        """The formula at `index`; `known`, where it is given, keeps the common value for other orders."""
        if self.common is None:
            return self.partials[index](*arguments)
        if known is None:
            return self.partials[index](self.common(len(index), *arguments), *arguments)
        if not known:
            known.append(self.common(self.order, *arguments))
        return self.partials[index](known[0], *arguments)


class _Partial(torch.autograd.Function):
    """A partial derivative, whose own derivatives are those of the next order."""

    @staticmethod
    def forward(law: Law, index: Index, known: list[Any], *arguments: Tensor) -> Tensor:
        result = law.formula(index, arguments, known)
        return result.clone() if any(result is argument for argument in arguments) else result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.law, ctx.index, ctx.known, *arguments = inputs
        ctx.save_for_backward(*arguments)
        ctx.save_for_forward(*arguments, output)
        ctx.slopes = {}

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), arguments = gradients, ctx.saved_tensors
        found: list[Tensor | None] = [None, None, None]
        for place, argument in enumerate(arguments):
            slope = _slope(ctx, place, arguments) if ctx.needs_input_grad[place + 3] else None
            found.append(None if slope is None else (gradient * slope).sum_to_size(argument.shape))
        return tuple(found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        *saved, output = ctx.saved_tensors
        arguments, total = tuple(saved), torch.zeros_like(output)
        for place, tangent in enumerate(tangents[3:]):
            slope = None if tangent is None else ctx.law.partial((*ctx.index, place), arguments, ctx.known)
            total = total if slope is None else total + slope * tangent
        return total

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        law: Law,
        index: Index,
        known: list[Any],
        *arguments: Tensor,
    ) -> Any:
        dims = in_dims[3:]
        rank = max(a.dim() - (dim is not None) for a, dim in zip(arguments, dims, strict=True))
        lifted = (
            a if dim is None else a.movedim(dim, 0)[(slice(None), *(None,) * (rank + 1 - a.dim()))]
            for a, dim in zip(arguments, dims, strict=True)
        )
        return _Partial.apply(law, index, [], *lifted), 0


def _slope(ctx: Any, place: int, arguments: tuple[Tensor, ...]) -> Any:
    """The derivative in the argument at `place`, computed once as long as the graph exists."""
    recorded = torch.is_grad_enabled()
    if place not in ctx.slopes or (recorded and not ctx.slopes[place][0]):
        slope = ctx.law.partial((*ctx.index, place), arguments, ctx.known)
        ctx.slopes[place] = recorded, slope
    return ctx.slopes[place][1]


# Each call inspects the signature, which takes as long as three operations unless it is stored.
_Partial.forward.__signature__ = inspect.signature(_Partial.forward)  # type: ignore[attr-defined]
