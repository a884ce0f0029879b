"""The shipped data sets: there, documented, and to the last digit."""

import csv
import math

import pytest

from neglog import datasets
from neglog.errors import DataError

README = datasets.path("engel").with_name("README.md")


def test_engel_is_the_published_table():
    engel = datasets.load("engel")
    assert list(engel.columns) == ["income", "food_expenditure"]
    assert len(engel) == 235
    # The first household of Koenker and Bassett (1982).
    assert engel.iloc[0].tolist() == [420.157650843928, 255.839424594576]
    # Least absolute deviations: the fit that R's quantreg prints in its vignette, 81.48225 + 0.56018 income.
    # Its residuals are as often above as below, up to the two that it passes through.
    residual = engel["food_expenditure"] - (81.4822474 + 0.5601806 * engel["income"])
    assert abs((residual > 1e-3).sum() - (residual < -1e-3).sum()) <= 2
    assert (residual.abs() <= 1e-3).sum() == 2


@pytest.mark.parametrize("file", sorted(README.parent.glob("*.csv")), ids=lambda file: file.stem)
def test_every_data_set_is_read_to_the_last_digit_and_documented(file):
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    frame = datasets.load(file.stem)
    assert list(frame.columns) == header
    assert frame.to_numpy().tolist() == [[float(cell) for cell in row] for row in rows]
    assert all(math.isfinite(value) for value in frame.to_numpy().ravel())

    documented = README.read_text(encoding="utf-8")
    assert f"## {file.name}\n" in documented
    assert all(f"`{column}`" in documented for column in header)


@pytest.mark.parametrize("call", [datasets.load, datasets.path])
def test_an_unknown_name_lists_the_known_ones(call):
    with pytest.raises(DataError, match=r"one of the data sets engel, not 'Engel'"):
        call("Engel")
