"""What a formula may compute: row-by-row arithmetic on columns, and formulaic's transforms.

formulaic evaluates the Python in a formula. Here an expression is read first, for three reasons:
- it must be a function of each row alone, or carry a state that can be saved (`center`, `scale`, `bs`,
  `poly`, ...): `x / x.max()` would mean something else on every new table;
- a saved model holds expressions, and loading a file must never run code that its author slipped in;
- its names tell which columns of the table are used.
"""

import ast
import re
from collections.abc import Iterator

import numpy as np

from neglog.errors import DataError

# Everything that formulaic 1.x offers by a bare name, but for `lag`, which looks at other rows.
# These need no call: `C(g, Sum)`.
PATSY_CONTRASTS = frozenset({"Treatment", "Poly", "Sum", "Helmert", "Diff"})
TRANSFORMS = PATSY_CONTRASTS | frozenset(
    {
        "log",
        "log10",
        "log2",
        "exp",
        "exp10",
        "exp2",
        "center",
        "scale",
        "standardize",
        "poly",
        "bs",
        "cr",
        "cs",
        "cc",
    }
    | {"C", "I", "Q", "hashed"}
)
CONTRASTS = frozenset({"helmert", "poly", "sum", "treatment", "SAS", "diff", "custom"})
NUMPY = frozenset({"where", "clip", "pi", "e", "inf"})  # besides the elementwise functions

_SYNTAX = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Attribute),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
    *(ast.Tuple, ast.List, ast.Dict),
)
_BACKTICKS = re.compile(r"`([^`]+)`")


def columns_used(expression: str, method: str) -> tuple[str, ...]:
    """The columns that one factor of a formula reads, in order.

    `method` is formulaic's word for how it is evaluated: ``lookup``, ``python`` or ``literal``.

    Raises:
        DataError: The expression is not Python, or does what a formula may not do.
    """
    if method == "lookup":
        return (expression,)
    tree, aliases = _parse(expression)
    if method == "literal":
        return ()
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    functions |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    columns: list[str] = []
    for node in _walk(tree):
        _check(node, expression)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Q":
            columns += [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
        elif isinstance(node, ast.Name) and id(node) not in functions and node.id not in PATSY_CONTRASTS:
            columns.append(aliases.get(node.id, node.id))
    return tuple(dict.fromkeys(columns))


def categorical_column(expression: str, method: str) -> str | None:
    """The column behind ``g``, ``C(g)`` or ``C(g, ...)``; None for anything that computes."""
    if method == "lookup":
        return expression
    tree, aliases = _parse(expression)
    call = tree.body
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "C" and call.args:
        first = call.args[0]
        if isinstance(first, ast.Name):
            return aliases.get(first.id, first.id)
    return None


def functions_used(expression: str, method: str) -> set[str]:
    """The names that an expression needs for their function: ``log``, ``C``, ``np``."""
    if method != "python":
        return set()
    tree, _ = _parse(expression)
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    owners = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.id for node in called + owners if isinstance(node, ast.Name)}


def _parse(expression: str) -> tuple[ast.Expression, dict[str, str]]:
    """The syntax tree, with names in backticks replaced by aliases (returned: alias to column)."""
    aliases: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        aliases[name := f"column_in_backticks_{len(aliases)}"] = match[1]
        return name

    try:
        return ast.parse(_BACKTICKS.sub(alias, expression).strip(), mode="eval"), aliases
    except SyntaxError:
        raise DataError(
            f"`{expression}` is not an expression that a formula can hold. Check its brackets."
        ) from None


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Depth first, so that columns come in the order in which they are written."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def _check(node: ast.AST, expression: str) -> None:
    remedy = "Compute it as a column of the table, or use center(), scale(), poly(), bs()."
    if not isinstance(node, _SYNTAX):
        kind = type(node).__name__
        raise DataError(
            f"`{expression}` holds more than a formula may ({kind}): arithmetic on columns only. {remedy}"
        )
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
        raise DataError(f"`{expression}` calls something without a name. {remedy}")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in TRANSFORMS:
        name, known = node.func.id, ", ".join(sorted(TRANSFORMS, key=str.lower))
        hint = f"Write `np.{name}`." if _is_elementwise(name) else f"They have {known}, and np.…"
        raise DataError(f"`{expression}` calls `{name}`, which formulas do not have. {hint}")
    if isinstance(node, ast.Attribute) and not _is_known_attribute(node):
        remedy += " A column with a dot in its name goes in backticks."
        raise DataError(
            f"`{expression}` uses `.{node.attr}`, which is not a function of each row alone: it would mean "
            f"something else on new rows. {remedy}"
        )


def _is_known_attribute(node: ast.Attribute) -> bool:
    """`np.log` and its like, or a contrast such as `contr.sum`."""
    owner = node.value.id if isinstance(node.value, ast.Name) else None
    if owner == "contr":
        return node.attr in CONTRASTS
    return owner == "np" and (node.attr in NUMPY or _is_elementwise(node.attr))


def _is_elementwise(name: str) -> bool:
    function = getattr(np, name, None)
    # A generalised ufunc such as `np.matmul` has a signature, and mixes rows.
    return isinstance(function, np.ufunc) and function.signature is None
