"""Limits on the size of a formula: no text and no file makes its evaluation hang or exhaust memory."""

import math

MAX_FORMULA_LENGTH = 200_000
"""Characters of a whole formula."""

MAX_EXPRESSION_LENGTH = 100_000
"""Characters of one expression."""

MAX_NODES = 20_000
"""Nodes in the syntax tree of one expression."""

MAX_DEPTH = 100
"""Nesting depth of one expression; the evaluation recurses once a level."""

MAX_BITS = 1024
"""Binary digits of a whole number in an expression: the range of a float."""

MAX_EXPANSION = 2**15
"""Sum over the terms of 2 to the number of factors, the subsets among which contrasts are chosen."""

CODING_EXPONENT = math.log2(6)
"""Power of the number of subsets of a term's categories by which the time for their contrasts grows."""

MAX_CODING = 2 * 128**CODING_EXPONENT
"""Sum over the terms of that power of the number of subsets: two products of seven categories, a second."""

MAX_MIXTURE_NODES = 10_000
"""Syntax nodes that are evaluated while mixtures of kinds of numbers are tried for one side of a formula."""

MAX_COLUMNS = 20_000
"""Columns of one design."""

MAX_BASIS = 500
"""Degrees of freedom of one spline."""

MAX_DEGREE = 50
"""Degree of a polynomial, or of the polynomials between the knots of a spline."""

MAX_LEVELS = 5_000
"""Levels of one category. The coding matrix is dense, with the square of this number of entries."""

MAX_CONTRAST_LEVELS = 500
"""Levels of a category with contrasts of its own, some of which need time in the cube of this number."""

MAX_STATE_LENGTH = 1_000
"""Entries of one array in the state of a transform: knots, or coefficients of a polynomial."""

MAX_STATE_BYTES = 10**8
"""Bytes of one saved array; texts in an array all take the room of the longest."""

MAX_STATE_DEPTH = 32
"""Nesting depth of a saved value."""

_MAX_SHOWN = 80  # Characters of an expression in an error message.


def shown(text: str) -> str:
    """A text as an error message quotes it: one line, of printable characters, shortened if it is long."""
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: _MAX_SHOWN + 1])
    return printable if len(text) <= _MAX_SHOWN else f"{printable[:_MAX_SHOWN]}…"
