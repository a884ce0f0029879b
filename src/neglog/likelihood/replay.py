"""Functions of a vector and of rows, evaluated by a graph where it agrees with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from neglog.graphs.graph import Graph, trace
from neglog.likelihood.rows import agree

CHECK_OFFSET = 2**-8
"""Offset of the second point at which a graph and its model are compared."""


@dataclass(frozen=True)
class Replay:
    """The loss and its gradient, as a function of z `(K,)` and of the rows in `used`, in their order.

    `reason` is the reason why the model itself is run in each call; it is empty if a graph is used.
    """

    evaluate: Callable[..., tuple[Tensor, Tensor]] = field(repr=False)
    used: tuple[int, ...]
    reason: str = ""
    graph: Graph | None = field(default=None, repr=False)


def replayed(
    function: Callable[..., Any], z: Tensor, parts: list[Tensor], others: list[Tensor] | None, compile: bool
) -> Replay:
    """The graph of ``function(z, *parts)`` if it can be traced and agrees with it; else the function.

    They are compared at `z` and near it. Without `others` the `parts` are constants, and the result is a
    function of z alone; with it they are compared on these further rows too.
    """

    def unlowered(z: Tensor, *rows: Tensor) -> Any:
        return function(z, *(rows or parts))

    eager = () if others is None else tuple(range(len(parts)))
    try:
        with torch.no_grad():
            graph = trace(function, z, parts, fixed=others is None)
            evaluate = graph.function()
            for at, rows in ((z, parts), (z * (1 + CHECK_OFFSET) + CHECK_OFFSET, others or parts)):
                found = evaluate(at, *(rows[i] for i in graph.used))
                if not all(agree(a, b) for a, b in zip(found, function(at, *rows), strict=True)):
                    return Replay(unlowered, eager, "its graph does not reproduce the values of the model")
    except Exception as error:  # whatever it is that torch cannot trace, the model itself can still be run
        return Replay(unlowered, eager, f"it cannot be traced: {error}")
    return Replay(
        graph.compiled(z, *(parts[i] for i in graph.used)) if compile else evaluate, graph.used, graph=graph
    )


def stacked(
    one: Replay, z: Tensor, parts: list[Tensor], others: list[Tensor] | None, compile: bool
) -> Replay:
    """A function of many vectors `(S, K)` at a time from that of one: in one graph, or vector by vector.

    Its values are `(S,)` and its gradients `(S, K)`; `parts` and `others` are as for `replayed`.
    """

    def of_each(z: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = zip(*(one.evaluate(each, *rows) for each in z), strict=True)
        return torch.stack(values), torch.stack(gradients)

    apart = replace(one, evaluate=of_each, graph=None)
    if one.graph is None:
        return apart
    some = [] if others is None else [parts[i] for i in one.used]
    further = None if others is None else [others[i] for i in one.used]
    batched = torch.vmap(one.graph.function(), in_dims=(0, *(None for _ in some)))
    found = replayed(batched, z, some, further, compile)
    return apart if found.reason else replace(found, used=tuple(one.used[i] for i in found.used))
