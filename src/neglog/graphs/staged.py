"""Evaluation of a graph in stages, each a list of function calls with little overhead between them.

Subexpressions of the data alone are evaluated once for all parameters, those of the constants alone once for
all blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from torch import Tensor

from neglog.graphs.arrays import array, in_arrays, tensor
from neglog.graphs.nodes import Node, Nodes, reached

ROWS, NUMBERS, BOTH = "rows", "numbers", "both"
"""The kind of an input: data, constants that all rows share, or both."""
Function = Callable[..., Any]
Step = tuple[Function, Callable[[list[Any]], Iterable[Any]], int]
"""A function, the getter of its arguments from the slots, and the slot of its result."""
Language = Callable[[Node], Function]
"""From an operation of a graph to the function that evaluates it."""


@dataclass(frozen=True)
class Program:
    """A function whose intermediate values are stored in slots, which are reused after their last use."""

    inputs: int
    slots: list[Any] = field(repr=False)
    steps: list[Step] = field(repr=False)
    outputs: list[int] = field(repr=False)

    def __call__(self, *given: Any) -> list[Any]:
        slots = self.slots.copy()
        slots[: self.inputs] = given
        for function, arguments, place in self.steps:
            slots[place] = function(*arguments(slots))
        return [slots[place] for place in self.outputs]


def program(
    graph: Nodes,
    inputs: Sequence[Node],
    outputs: Sequence[Any],
    values: Mapping[Node, Any],
    language: Language,
) -> Program:
    """The program from some nodes of a graph to others; `values` are those of nodes that are constants."""
    writer = _Writer(inputs, language)
    needed = reached(outputs, inputs)
    nodes = [node for node in graph if node in needed]
    writer.keep(outputs)
    last = {n: node for node in nodes if node not in values for n in node.inputs}
    for node in nodes:
        if node in values:
            writer.constant(node, values[node])
        else:
            writer.step(node, [n for n in node.inputs if last[n] is node])
    return Program(len(inputs), writer.slots, writer.steps, writer.places(outputs))


class _Writer:
    """Writes a program, operation by operation."""

    def __init__(self, inputs: Sequence[Node], language: Language) -> None:
        self.language = language
        self.slots: list[Any] = [None] * len(inputs)
        self.steps: list[Step] = []
        self.place: dict[Node, int] = {node: i for i, node in enumerate(inputs)}
        self.free: list[int] = []
        self.kept: set[Node] = set()

    def keep(self, nodes: Sequence[Any]) -> None:
        self.kept |= {node for node in nodes if isinstance(node, Node)}

    def constant(self, node: Node, value: Any) -> None:
        self.kept.add(node)
        self.place[node] = self._new(value)

    def step(self, node: Node, dead: Sequence[Node]) -> None:
        """Append the operation of a node, which is the last use of the nodes `dead`."""
        function, arguments = self._call(node)
        places = [self._argument(argument) for argument in arguments]
        self.free += [self.place[n] for n in dead if n not in self.kept]
        self.place[node] = self.free.pop() if self.free else self._new(None)
        self.steps.append((function, _taking(places), self.place[node]))

    def _call(self, node: Node) -> tuple[Function, Sequence[Any]]:
        """The function of a node, of arguments by position alone, and these."""
        function, kwargs = self.language(node), node.kwargs
        if not kwargs:
            return function, node.args
        if not any(isinstance(value, Node) for value in kwargs.values()):
            return partial(function, **kwargs), node.args
        return partial(_by_name, function, list(kwargs)), (*node.args, *kwargs.values())

    def places(self, outputs: Sequence[Any]) -> list[int]:
        return [self._argument(output) for output in outputs]

    def _argument(self, argument: Any) -> int:
        """The slot of an argument."""
        if isinstance(argument, Node):
            return self.place[argument]
        if isinstance(argument, list | tuple) and any(isinstance(a, Node) for a in argument):
            place = self._new(None)
            self.steps.append((_listed, _taking([self._argument(a) for a in argument]), place))
            return place
        return self._new(argument)

    def _new(self, value: Any) -> int:
        self.slots.append(value)
        return len(self.slots) - 1


def _taking(places: Sequence[int]) -> Callable[[list[Any]], Iterable[Any]]:
    """A getter of the values in some slots."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0, 0))


def _listed(*values: Any) -> list[Any]:
    return list(values)


def _by_name(function: Function, names: Sequence[str], *values: Any) -> Any:
    """The function with the last of the values under their names."""
    first = len(values) - len(names)
    return function(*values[:first], **dict(zip(names, values[first:], strict=True)))


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
