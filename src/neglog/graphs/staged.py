"""Stages: a graph whose inputs change at different times, in parts that are evaluated when theirs do.

What depends on the data alone is evaluated once for all parameters, and what depends on a few numbers alone
once for all blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx

from neglog.graphs.arrays import array, in_arrays, tensor
from neglog.graphs.programs import Program, program

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
    shown = {node: array(value) for node, value in values.items()}
    body_given = [*own[BOTH], *known[ROWS], *known[NUMBERS]]
    return Stages(
        program(graph, own[ROWS], known[ROWS], values, in_tensors),
        program(graph, own[NUMBERS], known[NUMBERS], shown, in_arrays),
        program(graph, body_given, outputs, shown, in_arrays)
        if arrays
        else program(graph, body_given, outputs, values, in_tensors),
        tuple(known[ROWS]),
        arrays,
    )


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
