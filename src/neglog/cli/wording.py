"""Messages that name arguments of Python, in the words of the command line."""

from __future__ import annotations

import re

_CALLS = r"(?:mle|map_estimate|posterior|compare)"
IN_OPTIONS: tuple[tuple[str, str], ...] = (
    (r"trials=n, of shape \(rows,\)", "--trials COLUMN"),
    (
        rf"`{_CALLS}` takes no `(\w+)`, and (`\w+`) has no row-wise argument of this name\."
        r"( Leave it out\.)?.*",
        r"\2 takes no --\1.\3",
    ),
    (
        r"needs `groups`: the group of each row, one entry a row\b.*",
        "needs the group of each row: --groups COLUMN.",
    ),
    (
        r"kind='rows' needs observations that can be counted\b.*",
        "--cov-type bootstrap needs whole numbers in the column of --weights.",
    ),
    (r"cov_type='(\w+)'", r"--cov-type \1"),
    (r"`map_estimate`, which", "`neglog fit --map`, which"),
    (r" \((?:drop_missing|response)=\S+\)", ""),
)
"""Pattern of a message of the functions -> its words on the command line."""


def in_options(message: str) -> str:
    """A message in the words of the command line.

    >>> in_options("`binomial` needs the number of trials of each row: trials=n, of shape (rows,).")
    '`binomial` needs the number of trials of each row: --trials COLUMN.'
    """
    for pattern, words in IN_OPTIONS:
        message = re.sub(pattern, words, message)
    return message
