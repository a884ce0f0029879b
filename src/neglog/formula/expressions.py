"""The operations of a formula: row-by-row arithmetic on columns, and formulaic's transforms.

An expression is parsed once, by `syntax`, and its tree alone is used, for three reasons:
- it must be a function of each row alone, or carry a state that can be saved (`center`, `scale`, `bs`,
  `poly`, ...): `x / x.max()` would mean something else on every new table;
- a saved model holds expressions, and loading a file must never run code that its author slipped in, nor
  hang;
- its names are the columns of the table that are used.
"""

import ast
import re
from collections.abc import Iterator

from neglog.errors import DataError
from neglog.formula.limits import shown
from neglog.formula.signatures import CENTRED, OFFSET_FUNCTION, STATES
from neglog.formula.syntax import arguments, column_name, function_name, parse

_LITERAL = re.compile(r"[0-9]{1,300}(\.[0-9]{0,300})?|\.[0-9]{1,300}")


def columns_used(expression: str, method: str) -> tuple[str, ...]:
    """The columns that one factor of a formula reads, in order.

    `method` is formulaic's word for how it is evaluated: ``lookup``, ``python`` or ``literal``.

    Raises:
        DataError: the expression is not Python, or does what a formula may not do; or the method is unknown.
    """
    if method == "lookup":
        return (expression,)
    if method == "literal":
        check_literal(expression)
        return ()
    if method != "python":
        raise DataError(
            f"`{shown(expression)}` has the unknown kind `{shown(method)}`. Save the model again."
        )
    return tuple(dict.fromkeys(_columns(parse(expression))))


def check_literal(text: str) -> None:
    """Raise DataError unless a text is the number of a term: ``1``, ``2.5``."""
    if not _LITERAL.fullmatch(text):
        raise DataError(f"`{shown(text)}` is not a number that a term of a formula can have. Write 2:x.")


def categorical_column(expression: str, method: str) -> str | None:
    """The column behind ``g``, ``C(g)`` or ``C(g, ...)``; None for anything that computes."""
    if method == "lookup":
        return expression
    tree = parse(expression) if method == "python" else None
    if isinstance(tree, ast.Call) and function_name(tree) == "C" and isinstance(tree.args[0], ast.Name):
        return column_name(tree.args[0])
    return None


def centred_spline(expression: str, method: str) -> tuple[str, str]:
    """The expression, with ``constraints='center'`` in a call of `cr`, `cs` or `cc` without constraints."""
    tree = parse(expression) if method == "python" else None
    if not isinstance(tree, ast.Call) or function_name(tree) not in CENTRED:
        return expression, method
    if "constraints" in arguments(tree)[1]:
        return expression, method
    constraint = ast.keyword("constraints", ast.Constant("center"))
    return ast.unparse(ast.Call(tree.func, tree.args, [*tree.keywords, constraint])), method


def is_offset(expression: str, method: str) -> bool:
    """Whether an expression is ``offset(...)``."""
    tree = parse(expression) if method == "python" else None
    return isinstance(tree, ast.Call) and function_name(tree) == OFFSET_FUNCTION


def offset_argument(expression: str) -> tuple[str, str]:
    """The expression inside ``offset(...)``, and how it is evaluated."""
    tree = parse(expression)
    assert isinstance(tree, ast.Call)
    (inside,), _ = arguments(tree)
    if isinstance(inside, ast.Name):
        return column_name(inside), "lookup"
    return ast.unparse(inside), "python"


def functions_used(expression: str, method: str) -> set[str]:
    """The names that an expression needs for their function: ``log``, ``C``, ``np``."""
    if method != "python":
        return set()
    nodes = list(ast.walk(parse(expression)))
    owners = [node.func for node in nodes if isinstance(node, ast.Call)]
    owners += [node.value for node in nodes if isinstance(node, ast.Attribute)]
    return {node.id for node in owners if isinstance(node, ast.Name)}


def stateful_calls(expression: str, method: str) -> Iterator[ast.Call]:
    """The calls of an expression that learn a state."""
    if method == "python":
        for node in ast.walk(parse(expression)):
            if isinstance(node, ast.Call) and function_name(node) in STATES:
                yield node


def has_argument(name: str, expression: str, method: str) -> bool:
    """Whether an expression is a call with a constant argument of this name, such as ``contrasts``."""
    tree = parse(expression) if method == "python" else None
    return isinstance(tree, ast.Call) and name in arguments(tree)[1]


def state_key(call: ast.Call) -> str:
    """The name under which the state of a call is kept: the call as it is written, in one way."""
    return ast.unparse(call)


def _columns(node: ast.AST) -> Iterator[str]:
    """The columns of a checked tree, in the order in which they are written."""
    match node:
        case ast.Name():
            yield column_name(node)
        case ast.Attribute():
            return
        case ast.Call(func=ast.Name(id="Q"), args=[ast.Constant(value=name)]):
            yield str(name)
        case ast.Call():
            for argument in arguments(node)[0]:
                yield from _columns(argument)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _columns(child)
