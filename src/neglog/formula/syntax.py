"""The grammar of expressions: text → a syntax tree whose every node is on a list of allowed ones.

That tree, and no text, is what `evaluation` computes.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from neglog.errors import DataError
from neglog.formula.bases import why_no_basis
from neglog.formula.limits import (
    MAX_BASIS,
    MAX_BITS,
    MAX_CONTRAST_LEVELS,
    MAX_DEPTH,
    MAX_EXPRESSION_LENGTH,
    MAX_NODES,
    shown,
)
from neglog.formula.refusals import COMPUTE, Refused, unknown_argument, unknown_attribute, unknown_function
from neglog.formula.signatures import (
    CONTRASTS,
    FUNCTIONS,
    MAX_ARGUMENTS,
    NUMPY_CONSTANTS,
    PATSY_CONTRASTS,
    R_CONSTANTS,
    SEQUENCES,
    STATES,
    Signature,
    numpy_signature,
)

BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

# A text literal, closed or not, or a name in backticks.
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*+(?:\"|\\?\Z)|'(?:\\.|[^'\\])*+(?:'|\\?\Z)|`([^`]*)`", re.DOTALL)
# A function of R whose name begins with a keyword of Python.
_KEYWORD_CALL = re.compile(r"\b((?:as|is)\.[A-Za-z.]+)\(")

Number = bool | int | float


@lru_cache(maxsize=4096)
def parse(expression: str) -> ast.expr:
    """The syntax tree of an expression, every node of which a formula may hold. It must not be changed.

    The name of a column in backticks is an `ast.Name` that keeps its backticks.

    Raises:
        DataError: the expression is not Python, does what a formula may not do, or is too large.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise DataError(
            f"`{shown(expression)}` has more than {MAX_EXPRESSION_LENGTH} characters. Shorten it."
        )
    text, columns = _with_aliases(expression)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escape sequences in text, say
            tree = ast.parse(text.strip(), mode="eval").body
        _check_size(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = columns.get(node.id, node.id)
        _check(tree)
    except Refused as refused:
        raise DataError(f"`{shown(expression)}` {refused}") from None
    except (RecursionError, MemoryError):
        raise DataError(f"`{shown(expression)}` is nested too deeply. Simplify it.") from None
    except (SyntaxError, ValueError) as error:
        if foreign := _KEYWORD_CALL.search(_QUOTED.sub("", text)):
            raise DataError(f"`{shown(expression)}` {unknown_function(foreign[1])}") from None
        raise DataError(
            f"`{shown(expression)}` is not an expression that a formula can hold. Check its brackets."
            f"{_marked(text, getattr(error, 'offset', None) if text == expression else None)}"
        ) from None
    return tree


def _marked(text: str, offset: int | None) -> str:
    """An expression with a caret under the character at an offset from 1 on; empty without one."""
    if offset is None or shown(text) != text or "\n" in text or not 0 < offset <= len(text) + 1:
        return ""
    return f"\n    {text}\n    {' ' * (offset - 1)}^"


def column_name(node: ast.Name) -> str:
    """The column that a name means."""
    return node.id[1:-1] if node.id.startswith("`") else node.id


def function_name(call: ast.Call) -> str:
    """The name of the function that a call has, with its `np.`."""
    return ast.unparse(call.func)


def signature_of(call: ast.Call) -> Signature:
    """The signature of the function that a call has.

    Raises:
        ValueError: a formula has no such function.
    """
    match call.func:
        case ast.Name(id=name) if name in FUNCTIONS:
            return FUNCTIONS[name]
        case ast.Name(id=name):
            raise unknown_function(name)
        case ast.Attribute(value=ast.Name(id="np"), attr=name):
            found = numpy_signature(name)
            if found is not None:
                return found
    if isinstance(call.func, ast.Attribute):
        raise unknown_attribute(call.func)
    raise Refused(f"calls something without a name. {COMPUTE}")


def arguments(call: ast.Call) -> tuple[list[ast.expr], dict[str, ast.expr]]:
    """The arguments of a call that are computed from columns, and its constants by name.

    Raises:
        ValueError: the function does not take them.
    """
    signature = signature_of(call)
    leading = call.args[: signature.columns]
    if len(leading) < signature.required:
        raise Refused(f"calls `{function_name(call)}` with {len(leading)} of {signature.required} arguments.")
    named = _by_name(call, call.args[signature.columns :], signature.constants, signature.named)
    return leading, named


def contrast_arguments(node: ast.expr) -> tuple[str, dict[str, ast.expr]] | None:
    """The name of contrasts, with its `contr.`, and their arguments; None for anything else.

    Raises:
        ValueError: the contrasts do not take such arguments.
    """
    function = node.func if isinstance(node, ast.Call) else node
    match function:
        case ast.Name(id=name) if name in PATSY_CONTRASTS:
            names = PATSY_CONTRASTS[name]
        case ast.Attribute(value=ast.Name(id="contr"), attr=attr) if attr in CONTRASTS:
            name, names = f"contr.{attr}", CONTRASTS[attr]
        case _:
            return None
    return name, _by_name(node, node.args, names, ()) if isinstance(node, ast.Call) else {}


def constant(node: ast.expr) -> Any:
    """The value of an expression without columns: a number, text, None, or a list, tuple or dict of such.

    Raises:
        ValueError: it holds anything else, or a number that is too large.
    """
    match node:
        case ast.List(elts=items):
            return [constant(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(constant(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return {constant(key): constant(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Constant(value=str() | None):
            return node.value
    return _known(node)


def _known(node: ast.expr) -> Number | None:
    """The value of a number, or of a constant of R; refuses an expression that differs from row to row."""
    if isinstance(node, ast.Name) and node.id in R_CONSTANTS:
        return R_CONSTANTS[node.id]
    value = _check(node)
    if value is None:
        raise Refused(f"has a column where `{shown(ast.unparse(node))}` must be a constant. {COMPUTE}")
    return value


def arithmetic(op: ast.operator, left: Number, right: Number) -> Number:
    """One operation on two numbers.

    Raises:
        ValueError: the result is not a number, or too large.
    """
    whole = isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int)
    if whole and max(right, int(left).bit_length() * right) > 4 * MAX_BITS:  # `number` looks closer.
        raise Refused(f"holds a number of more than {MAX_BITS} binary digits. Write a smaller one.")
    try:
        return number(BINARY[type(op)](left, right))
    except Refused:
        raise
    except (ArithmeticError, ValueError, TypeError) as error:
        raise Refused(f"holds a number that cannot be computed ({error}). Correct it.") from None


def number(value: Any) -> Number:
    """A number as it enters arithmetic: whole numbers beyond 64 bits are floats, as in a table.

    Raises:
        ValueError: it is none, or too large for a float.
    """
    if not isinstance(value, bool | int | float):
        raise Refused(f"holds {shown(repr(value))} where a number is needed. {COMPUTE}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            raise Refused(
                f"holds a number of more than {MAX_BITS} binary digits. Write a smaller one."
            ) from None
    return value


def _with_aliases(expression: str) -> tuple[str, dict[str, str]]:
    """The expression with aliases for names in backticks, outside of text, and alias to name."""
    prefix = "column_in_backticks_"
    while prefix in expression:
        prefix += "_"
    aliases: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        aliases[name := f"{prefix}{len(aliases)}"] = match[0]
        return name

    return _QUOTED.sub(alias, expression), aliases


def _check_size(tree: ast.expr) -> None:
    level: list[ast.AST] = [tree]
    nodes, depth = 0, 0
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Refused(f"has more than {MAX_NODES} parts or {MAX_DEPTH} levels. Simplify it.")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


def _check(node: ast.expr) -> Number | None:
    """The value of a number; None for an expression that differs from row to row.

    Raises:
        ValueError: a formula may not hold this.
    """
    check = _CHECKS.get(type(node))
    if check is None:
        raise _unknown(node)
    return check(node)


def _unknown(node: ast.AST) -> Refused:
    kind = type(node).__name__
    if isinstance(node, ast.Subscript):
        return Refused("holds a column in brackets. Write its name alone, or Q('its name').")
    return Refused(f"holds more than a formula may ({kind}): arithmetic on columns only. {COMPUTE}")


def _check_unary(node: ast.UnaryOp) -> Number | None:
    value = _check(node.operand)
    return None if value is None else _negated(node.op, value)


def _check_boolean(node: ast.BoolOp) -> None:
    for each in node.values:
        _check(each)


def _check_comparison(node: ast.Compare) -> None:
    for op in node.ops:
        if type(op) not in COMPARISONS:
            raise _unknown(op)
    for each in (node.left, *node.comparators):
        _check_operand(each, text=True)


def _check_operand(node: ast.expr, text: bool) -> Number | None:
    return None if text and _is_text(node) else _check(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _check_binary(node: ast.BinOp) -> Number | None:
    if type(node.op) not in BINARY:
        raise _unknown(node.op)
    text = isinstance(node.op, ast.Add)  # Texts can be joined; all else would repeat or format them.
    left, right = _check_operand(node.left, text), _check_operand(node.right, text)
    return None if left is None or right is None else arithmetic(node.op, left, right)


def _negated(op: ast.unaryop, value: Number) -> Number:
    try:
        return number(UNARY[type(op)](value))
    except TypeError as error:
        raise Refused(f"holds a number that cannot be computed ({error}). Correct it.") from None


def _check_attribute(node: ast.Attribute) -> Number:
    """`np.pi` and its like."""
    if isinstance(node.value, ast.Name) and node.value.id == "np" and node.attr in NUMPY_CONSTANTS:
        return NUMPY_CONSTANTS[node.attr]
    raise unknown_attribute(node)


def _check_call(call: ast.Call) -> None:
    signature, function = signature_of(call), function_name(call)
    leading, parameters = arguments(call)
    if function == "Q":
        if not _is_text(leading[0]):
            raise Refused("needs the name of a column in quotes: Q('my column').")
        return
    for argument in leading:
        _check_operand(argument, signature.text)
    for name, node in parameters.items():
        _check_parameter(function, name, node)
    if function == "hashed":
        _check_hashed(parameters)
    if function in STATES:
        wrong = why_no_basis(function, {name: constant(node) for name, node in parameters.items()})
        if wrong is not None:
            raise Refused(wrong)


def _check_parameter(function: str, name: str, node: ast.expr) -> None:
    if name == "contrasts" and (_is_text(node) or isinstance(node, ast.Name | ast.Attribute | ast.Call)):
        return _check_contrasts(node)
    value = constant(node)
    if isinstance(value, list | tuple | dict):
        _check_sequence(function, name, value)
    largest = MAX_ARGUMENTS.get(name)
    if largest is not None and isinstance(value, int | float) and not value <= largest:
        raise Refused(f"gives `{function}` the {name} {value}; at most {largest} can be computed.")
    return None


def _check_contrasts(node: ast.expr) -> None:
    found = contrast_arguments(node)
    if found is None:
        raise Refused(f"has the unknown contrasts `{shown(ast.unparse(node))}`. Write contr.sum.")
    for each in found[1].values():
        constant(each)


def _check_sequence(function: str, name: str, values: Collection[Any]) -> None:
    if name not in SEQUENCES:
        raise Refused(f"gives `{function}` several values of `{name}`. Give one.")
    if name == "knots" and len(values) > MAX_BASIS:
        raise Refused(f"gives `{function}` {len(values)} knots; at most {MAX_BASIS} can be computed.")


def _check_hashed(parameters: Mapping[str, ast.expr]) -> None:
    levels = constant(parameters["levels"]) if "levels" in parameters else None
    if not isinstance(levels, int) or levels < 1:
        raise Refused("needs the number of levels: hashed(x, levels=16).")
    if "contrasts" in parameters and levels > MAX_CONTRAST_LEVELS:
        raise Refused(f"has contrasts for {levels} levels; at most {MAX_CONTRAST_LEVELS} can be computed.")


def _by_name(
    call: ast.Call, positional: Sequence[ast.expr], names: tuple[str, ...], named: tuple[str, ...]
) -> dict[str, ast.expr]:
    """The arguments of a call by name.

    Raises:
        ValueError: there are too many, one is given twice, or has another name.
    """
    found = dict(zip(names, positional, strict=False))
    for keyword in call.keywords:
        if keyword.arg not in (*names, *named) or keyword.arg in found:
            raise unknown_argument(function_name(call), f"the argument `{keyword.arg}`", (*names, *named))
        found[keyword.arg] = keyword.value
    if len(positional) > len(names):
        raise unknown_argument(function_name(call), "too many arguments", (*names, *named))
    return found


_CHECKS: Mapping[type[ast.expr], Callable[[Any], Number | None]] = {
    ast.Constant: lambda node: number(node.value),
    ast.Name: lambda node: None,
    ast.Attribute: _check_attribute,
    ast.BinOp: _check_binary,
    ast.UnaryOp: _check_unary,
    ast.BoolOp: _check_boolean,
    ast.Compare: _check_comparison,
    ast.Call: _check_call,
}
"""The nodes that an expression may have, and their checks."""
