"""Stages: a graph whose inputs change at different times, in parts that are evaluated when theirs do.

What depends on the data alone is evaluated once for all parameters, and what depends on a few numbers alone
once for all blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

ROWS, NUMBERS, BOTH = "rows", "numbers", "both"
"""What an input belongs to: to the data, to the numbers that all rows share, or to neither alone."""


@dataclass(frozen=True)
class Stages:
    """``body(*others, *of_rows(*rows), *of_numbers(*numbers))``: the outputs that were asked for.

    `rows` names what `of_rows` gives.
    """

    of_rows: Callable[..., tuple[Any, ...]] = field(repr=False)
    of_numbers: Callable[..., tuple[Any, ...]] = field(repr=False)
    body: Callable[..., tuple[Any, ...]] = field(repr=False)
    rows: tuple[fx.Node, ...] = field(repr=False)


def staged(
    graph: fx.Graph, constants: Sequence[Tensor], kinds: Sequence[str], wanted: Sequence[int]
) -> Stages:
    """The stages of the outputs that `wanted` numbers, of a graph whose first inputs have these `kinds`.

    The `constants` are its other inputs. Each stage takes the inputs of its kind, in their order.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    inputs, held = placeholders[: len(kinds)], placeholders[len(kinds) :]
    values = dict(zip(held, constants, strict=True))
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs = [output.args[0][i] for i in wanted]
    kind = _kinds(graph, dict(zip(inputs, kinds, strict=True)), set(held))
    needed = _needed(outputs)
    body = [node for node in graph.nodes if node in needed and kind.get(node) == BOTH]
    taken = _taken(body, outputs)
    known = {name: [n for n in graph.nodes if n in taken and kind.get(n) == name] for name in (ROWS, NUMBERS)}
    own = {
        name: [n for n, k in zip(inputs, kinds, strict=True) if k == name] for name in (ROWS, NUMBERS, BOTH)
    }
    return Stages(
        _function(graph, own[ROWS], known[ROWS], values),
        _function(graph, own[NUMBERS], known[NUMBERS], values),
        _function(graph, [*own[BOTH], *known[ROWS], *known[NUMBERS]], outputs, values),
        tuple(known[ROWS]),
    )


def _kinds(graph: fx.Graph, inputs: dict[fx.Node, str], held: set[fx.Node]) -> dict[fx.Node, str]:
    """What each node depends on; constants depend on nothing and are left out."""
    kind = dict(inputs)
    for node in graph.nodes:
        if node.op == "placeholder" or node.op == "output" or node in held:
            continue
        found = {kind[n] for n in node.all_input_nodes if n in kind}
        kind[node] = found.pop() if len(found) == 1 else BOTH
    return kind


def _needed(outputs: Sequence[Any]) -> set[fx.Node]:
    stack, needed = [node for node in outputs if isinstance(node, fx.Node)], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return needed


def _taken(body: Sequence[fx.Node], outputs: Sequence[Any]) -> set[fx.Node]:
    """What the body reads, and what is an output as it is."""
    return {n for node in body for n in node.all_input_nodes} | {n for n in outputs if isinstance(n, fx.Node)}


def _function(
    graph: fx.Graph, inputs: Sequence[fx.Node], outputs: Sequence[Any], values: dict[fx.Node, Tensor]
) -> Callable[..., tuple[Any, ...]]:
    """The function from some nodes of a graph to others."""
    new, known = fx.Graph(), dict[fx.Node, fx.Node]()
    needed = _between(inputs, outputs)
    for number, node in enumerate(inputs):
        known[node] = new.placeholder(f"input_{number}")
    held = [node for node in values if node in needed]
    for number, node in enumerate(held):
        known[node] = new.placeholder(f"constant_{number}")
    for node in graph.nodes:
        if node in needed and node not in known:
            known[node] = new.node_copy(node, known.__getitem__)
    new.output(tuple(known[o] if isinstance(o, fx.Node) else o for o in outputs))
    module = fx.GraphModule(torch.nn.Module(), new)
    forward, constants = type(module).forward, tuple(values[node] for node in held)
    return lambda *given: forward(module, *given, *constants)


def _between(inputs: Sequence[fx.Node], outputs: Sequence[Any]) -> set[fx.Node]:
    """What has to be evaluated for the outputs where the inputs are known, and the constants it takes."""
    stop, stack, needed = set(inputs), [n for n in outputs if isinstance(n, fx.Node)], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node not in needed and node not in stop:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return needed
