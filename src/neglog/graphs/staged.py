"""Staged evaluation: parts of a graph that are evaluated only when their inputs change.

Subexpressions of the data alone are evaluated once for all parameters, those of the constants alone once for
all blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from neglog.graphs.arrays import array, in_arrays, tensor
from neglog.graphs.interpreter import Program, program
from neglog.graphs.nodes import Node, Nodes, reached

ROWS, NUMBERS, BOTH = "rows", "numbers", "both"
"""The kind of an input: data, constants that all rows share, or both."""


@dataclass(frozen=True, eq=False)
class Stages:
    """``body(*others, *of_rows(*rows), *of_numbers(*numbers))``: the requested outputs.

    `rows` names what `of_rows` gives.
    """

    of_rows: Program = field(repr=False)
    of_numbers: Program = field(repr=False)
    body: Program = field(repr=False)
    rows: tuple[Node, ...] = field(repr=False)
    arrays: bool = False
    """Whether the body is about arrays instead of tensors."""

    def known(self, rows: Sequence[Any]) -> list[Any]:
        """The subexpressions of the rows alone, for `outputs`."""
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
    graph: Nodes,
    constants: Sequence[Tensor],
    kinds: Sequence[str],
    wanted: Sequence[int],
    arrays: bool = False,
) -> Stages:
    """The stages of the outputs with the numbers `wanted`, of a graph whose first inputs have these `kinds`.

    The `constants` are its other inputs. Each stage takes the inputs of its kind, in their order. The stage
    of the constants takes and returns NumPy arrays and numbers, as the body does with `arrays`.
    """
    inputs, held = graph.inputs[: len(kinds)], graph.inputs[len(kinds) :]
    outputs = [graph.outputs[i] for i in wanted]
    values = dict(zip(held, constants, strict=True))
    shown = {node: array(value) for node, value in values.items()}
    kind_of = dict(zip(inputs, kinds, strict=True))
    rows, numbers, others = (_of_kind(kind_of, inputs, kind) for kind in (ROWS, NUMBERS, BOTH))
    known_rows, known_numbers = _known(graph, _kinds(graph, kind_of), outputs)
    body = [*others, *known_rows, *known_numbers], outputs
    return Stages(
        program(graph, rows, known_rows, values, in_tensors),
        program(graph, numbers, known_numbers, shown, in_arrays),
        program(graph, *body, shown, in_arrays) if arrays else program(graph, *body, values, in_tensors),
        tuple(known_rows),
        arrays,
    )


def _of_kind(kind_of: Mapping[Node, str], nodes: Iterable[Node], kind: str) -> list[Node]:
    return [node for node in nodes if kind_of.get(node) == kind]


def _known(
    graph: Nodes, kind_of: Mapping[Node, str], outputs: Sequence[Any]
) -> tuple[list[Node], list[Node]]:
    """The results that the body takes from the stage of the rows, and from that of the numbers."""
    needed = reached(outputs)
    body = [node for node in _of_kind(kind_of, graph, BOTH) if node in needed]
    taken = _taken(body, outputs)
    nodes = [node for node in graph if node in taken]
    return _of_kind(kind_of, nodes, ROWS), _of_kind(kind_of, nodes, NUMBERS)


def in_tensors(node: Node) -> Callable[..., Any]:
    """An operation as it is."""
    target: Any = node.function
    return target


def _kinds(graph: Nodes, inputs: dict[Node, str]) -> dict[Node, str]:
    """The kinds of inputs on which each node depends; constants are left out."""
    kind = dict(inputs)
    for node in graph.operations:
        found = {kind[n] for n in node.inputs if n in kind}
        kind[node] = found.pop() if len(found) == 1 else BOTH
    return kind


def _taken(body: Sequence[Node], outputs: Sequence[Any]) -> set[Node]:
    """The nodes that the body reads, and those that are outputs themselves."""
    return {n for node in body for n in node.inputs} | {n for n in outputs if isinstance(n, Node)}
