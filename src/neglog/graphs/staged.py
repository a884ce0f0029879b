"""Stages: a graph whose inputs change at different times, in parts that are evaluated when theirs do.

What depends on the data alone is evaluated once for all parameters, and what depends on a few numbers alone
once for all blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx

from neglog.graphs.arrays import array, in_arrays, tensor
from neglog.graphs.interpreter import Program, program

ROWS, NUMBERS, BOTH = "rows", "numbers", "both"
"""What an input belongs to: to the data, to the numbers that all rows share, or to neither alone."""


@dataclass(frozen=True)
class Stages:
    """``body(*others, *of_rows(*rows), *of_numbers(*numbers))``: the outputs that were asked for.

    `rows` names what `of_rows` gives.
    """

    of_rows: Program = field(repr=False)
    of_numbers: Program = field(repr=False)
    body: Program = field(repr=False)
    rows: tuple[fx.Node, ...] = field(repr=False)
    arrays: bool = False
    """Whether the body is about arrays instead of tensors."""

    def known(self, rows: Sequence[Any]) -> list[Any]:
        """What is known of the rows, for `outputs`."""
        found = self.of_rows(*rows)
        return list(map(array, found)) if self.arrays else found

    def outputs(self, others: Sequence[Tensor], known: Sequence[Any], numbers: Sequence[Tensor]) -> list[Any]:
        """The outputs, as tensors."""
        with np.errstate(all="ignore"):
            shared = self.of_numbers(*map(array, numbers))
            if self.arrays:
                return list(map(tensor, self.body(*map(array, others), *known, *shared)))
        return self.body(*others, *known, *map(tensor, shared))


def staged(
    graph: fx.Graph,
    constants: Sequence[Tensor],
    kinds: Sequence[str],
    wanted: Sequence[int],
    arrays: bool = False,
) -> Stages:
    """The stages of the outputs that `wanted` numbers, of a graph whose first inputs have these `kinds`.

    The `constants` are its other inputs. Each stage takes the inputs of its kind, in their order. That
    of the numbers takes and gives arrays and numbers, as the body does with `arrays`, instead of tensors.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    inputs, held = placeholders[: len(kinds)], placeholders[len(kinds) :]
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs = [output.args[0][i] for i in wanted]
    values = dict(zip(held, constants, strict=True))
    shown = {node: array(value) for node, value in values.items()}
    kind_of = dict(zip(inputs, kinds, strict=True))
    rows, numbers, others = (_of_kind(kind_of, inputs, kind) for kind in (ROWS, NUMBERS, BOTH))
    known_rows, known_numbers = _known(graph, _kinds(graph, kind_of, set(held)), outputs)
    body = [*others, *known_rows, *known_numbers], outputs
    return Stages(
        program(graph, rows, known_rows, values, in_tensors),
        program(graph, numbers, known_numbers, shown, in_arrays),
        program(graph, *body, shown, in_arrays) if arrays else program(graph, *body, values, in_tensors),
        tuple(known_rows),
        arrays,
    )


def _of_kind(kind_of: Mapping[fx.Node, str], nodes: Iterable[fx.Node], kind: str) -> list[fx.Node]:
    return [node for node in nodes if kind_of.get(node) == kind]


def _known(
    graph: fx.Graph, kind_of: Mapping[fx.Node, str], outputs: Sequence[Any]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """The results that the body takes from the stage of the rows, and from that of the numbers."""
    needed = _needed(outputs)
    body = [node for node in _of_kind(kind_of, graph.nodes, BOTH) if node in needed]
    taken = _taken(body, outputs)
    nodes = [node for node in graph.nodes if node in taken]
    return _of_kind(kind_of, nodes, ROWS), _of_kind(kind_of, nodes, NUMBERS)


def in_tensors(node: fx.Node) -> Callable[..., Any]:
    """An operation as it is."""
    target: Any = node.target
    return target


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
