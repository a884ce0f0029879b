"""The tables of `make uci` and their splits; NumPy alone, for environments without neglog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDER = Path(__file__).parent.parent / "data" / "uci"
TABLES = ("yacht", "energy", "concrete", "wine-red", "kin8nm", "power", "naval")
"""By number of rows; for each a file whose last column is the response."""
SPLITS = 20
TEST_SHARE, VALIDATION_SHARE = 0.1, 0.05
"""Of all rows, and of the rest."""


@dataclass(frozen=True)
class Split:
    """Standardised training, validation and test rows, and the unit of the response.

    Attributes:
        train, validation, test: pairs of features `(N, P)` and responses `(N,)`, standardised by the mean and
            the standard deviation of the training rows.
        shift, unit: of the response: y = shift + unit times the standardised one.
    """

    train: tuple[Array, Array]
    validation: tuple[Array, Array]
    test: tuple[Array, Array]
    shift: float
    unit: float


def read(name: str) -> Array:
    """A table `(N, P + 1)`, the response in the last column."""
    return np.loadtxt(FOLDER / f"{name}.csv", delimiter=",", skiprows=1)


def split(table: Array, seed: int) -> Split:
    """Random 90 % of the rows for training, of which 5 % are validation rows, and 10 % for the test."""
    order = np.random.default_rng(seed).permutation(len(table))
    tested = round(TEST_SHARE * len(table))
    validated = tested + round(VALIDATION_SHARE * (len(table) - tested))
    test, validation, train = (table[part] for part in np.split(order, [tested, validated]))
    centre, unit = train.mean(0), train.std(0)
    unit[unit == 0] = 1.0
    rows = [(part - centre) / unit for part in (train, validation, test)]
    pairs = [(part[:, :-1], part[:, -1]) for part in rows]
    return Split(pairs[0], pairs[1], pairs[2], float(centre[-1]), float(unit[-1]))
