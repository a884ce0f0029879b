"""Columns of dates, and columns of text that are no categories."""

import datetime
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from neglog.cli.commands import app
from neglog.errors import DataError, DateWarning
from neglog.formula import Design, learn
from neglog.tables import read_table, write_table

N = 80
DAYS = pd.date_range("2024-01-01", periods=N)
FIRST = 19723
"""Days from 1970-01-01 to 2024-01-01."""


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": generator.normal(size=N),
            "x": generator.normal(size=N),
            "date": DAYS,
            "month": DAYS.to_period("M").to_timestamp(),
            "id": [f"row {i}" for i in range(N)],
        }
    )


def through_json(design: Design) -> Design:
    return Design.from_json(json.loads(json.dumps(design.to_json())))


# Reading


def test_iso_dates_in_a_file_are_dates(table: pd.DataFrame, tmp_path: Path) -> None:
    table["time"] = [f"2024-02-29T12:{i // 2:02}" for i in range(N)]
    table["zoned"] = "2024-02-29T12:30:00+02:00"
    table["gaps"] = ["2024-01-01", *[None] * (N - 1)]
    table["notes"] = ["2024-01-01", *["unknown"] * (N - 1)]
    table["wrong"] = ["2023-02-29"] * N
    table["german"] = "29.02.2024"
    table["year"] = 2024
    table.to_csv(tmp_path / "rows.csv", index=False)
    read = read_table(tmp_path / "rows.csv")
    kinds = {name: pd.api.types.is_datetime64_any_dtype(read[name]) for name in read}
    assert [name for name in read if kinds[name]] == ["date", "month", "time", "zoned", "gaps"]
    assert (read["date"] == DAYS).all()
    assert read["gaps"].isna().sum() == N - 1
    assert list(read) == list(table)


def test_dates_are_written_as_they_are_read(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "rows.csv", index=False)
    write_table(read_table(tmp_path / "rows.csv"), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "rows.csv").read_text()


# Dates in formulas


def test_dates_are_numbers_of_days_with_a_word_about_it(table: pd.DataFrame) -> None:
    with pytest.warns(DateWarning, match=r"`date` holds dates, .*days since 1970-01-01; C\(date\)"):
        learned = learn("y ~ date + x", table)
    assert list(learned.design.main.columns) == ["date", "x"]
    for design in (learned.design, through_json(learned.design)):
        for rows in (table, design.rows(table)[0], learned.table):
            assert design.main.design(rows)["date"].tolist() == list(range(FIRST, FIRST + N))


@pytest.mark.parametrize(
    "dates",
    [
        DAYS.tz_localize("UTC"),
        DAYS.tz_localize("UTC").tz_convert("Asia/Tokyo"),
        DAYS.astype("datetime64[s]"),
        [day.date() for day in DAYS],
        [day.to_pydatetime() for day in DAYS],
    ],
    ids=["utc", "tokyo", "seconds", "date", "datetime"],
)
def test_every_kind_of_date_is_read(table: pd.DataFrame, dates: object) -> None:
    with pytest.warns(DateWarning):
        learned = learn("y ~ date", table.assign(date=dates))
    assert learned.design.main.design(learned.table)["date"].tolist() == list(range(FIRST, FIRST + N))
    noon = pd.DataFrame({"date": [datetime.datetime(2024, 1, 1, 12)]})
    assert learned.design.main.design(noon)["date"].tolist() == [FIRST + 0.5]


def test_dates_are_categories_where_asked_for(table: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned = learn("y ~ C(month)", table)
    names = ["C(month)[T.2024-02-01]", "C(month)[T.2024-03-01]"]
    assert list(learned.design.main.columns) == names
    design = through_json(learned.design)
    for rows in (table.iloc[40:50], design.rows(table.iloc[40:50])[0], learned.table.iloc[40:50]):
        assert (design.main.design(rows)[names[0]] == (table["month"][40:50] == "2024-02-01")).all()
    new = table.assign(month=pd.Timestamp("2025-01-01"))
    with pytest.raises(DataError, match="`month` has levels that the fit has not seen: '2025-01-01'"):
        design.main.design(new)
    as_text = table.assign(month=table["month"].dt.strftime("%Y-%m-%d"))
    pd.testing.assert_frame_equal(design.main.design(as_text), learned.design.main.design(table))


def test_missing_dates_are_missing(table: pd.DataFrame) -> None:
    late = {name: table[name].where(table.index >= first) for name, first in (("date", 3), ("month", 4))}
    gaps = table.assign(**late)
    with pytest.raises(DataError, match=r"4 of 80 rows have a missing value, in `month`"):
        learn("y ~ C(month)", gaps)
    with pytest.warns(DateWarning), pytest.raises(DataError, match=r"3 of 80 rows have a missing value"):
        learn("y ~ date", gaps)
    with pytest.warns(DateWarning, match="`date`"):
        learned = learn("y ~ date + C(month)", gaps, drop_missing=True)
    assert learned.dropped == 4
    assert list(learned.design.main.columns)[1:] == ["C(month)[T.2024-02-01]", "C(month)[T.2024-03-01]"]


def test_dates_are_compared_with_dates(table: pd.DataFrame) -> None:
    with pytest.warns(DateWarning):
        design = learn("y ~ {date >= '2024-02-01'} + {(date == '2024-01-03') * 1}", table).design
    found = through_json(design).main.design(table)
    assert (found.iloc[:, 0] == (DAYS >= "2024-02-01")).all()
    assert found.iloc[:, 1].sum() == 1
    with pytest.raises(DataError, match="comparison of numbers with text"), pytest.warns(DateWarning):
        learn("y ~ {date >= 'February'}", table)


def test_numbers_are_not_compared_with_text(table: pd.DataFrame) -> None:
    """pandas finds a number different from any text, so that the column would be 0 throughout."""
    with pytest.raises(DataError, match="comparison of numbers with text"):
        learn("y ~ {x == '1'}", table)


def test_weights_are_no_dates(table: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="`date` needs numbers, and holds dates"):
        learn("y ~ x", table, keep=["date"])


def test_the_command_line_fits_dates_and_predicts(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "rows.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        rows, folder = str(tmp_path / "rows.csv"), str(tmp_path / "fit")
        fit = CliRunner().invoke(app, ["fit", rows, "y ~ date", "-m", "gaussian", "--out", folder])
    assert fit.exit_code == 0
    assert "neglog: warning: column `date` holds dates" in fit.stderr
    predicted = CliRunner().invoke(app, ["predict", folder, rows])
    assert predicted.exit_code == 0
    assert predicted.stderr == ""
    assert ",2024-01-01,2024-01-01,row 0," in predicted.stdout.splitlines()[1]


# Text that is no category


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([f"row {i}" for i in range(N)], rf"as many levels as rows, {N}: row 0 has 'row 0'.*Leave it out"),
        ([f"{i},000" for i in range(N)], rf"numbers are needed: row 0 has '0,000'. It has {N} levels in {N}"),
        (
            [f"{i},5" for i in range(N)],
            rf"numbers are needed: row 0 has '0,5'. It has {N} levels in {N} rows",
        ),
        ([f"${i}" for i in range(N)], rf"numbers are needed: row 0 has '\$0'. It has {N} levels"),
        (
            ["1,000", "2,000"] * (N // 2),
            f"numbers are needed: row 0 has '1,000'. It has 2 levels in {N} rows",
        ),
        (DAYS.strftime("%Y-%m-%d"), f"dates as text: row 0 has '2024-01-01'. It has {N} levels.*to_datetime"),
        (["2024-01-01", "2024-01-02"] * (N // 2), "dates as text: .* It has 2 levels"),
        (DAYS.strftime("%d.%m.%Y"), f"as many levels as rows, {N}: row 0 has '01.01.2024'"),
    ],
    ids=["identifiers", "thousands", "commas", "currency", "few thousands", "dates", "few dates", "german"],
)
@pytest.mark.parametrize("right", ["{}", "x + {}", "x:{}", "0 + {}"])
def test_text_that_is_no_category_is_named(
    table: pd.DataFrame, values: list[str], named: str, right: str
) -> None:
    texts = table.assign(text=list(values))
    with pytest.raises(DataError, match=f"column `text` .*{named}.*write C\\(text\\)"):
        learn(f"y ~ {right.format('text')}", texts)
    assert len(learn("y ~ C(text)", texts).design.main.columns) == len(set(values)) - 1


def test_categories_are_still_categories(table: pd.DataFrame) -> None:
    groups = table.assign(group=["a", "b"] * (N // 2), few=[f"l{i // 2}" for i in range(N)])
    assert len(learn("y ~ group + few", groups).design.main.columns) == N // 2
    typed = table.assign(id=table["id"].astype("category"))
    assert len(learn("y ~ id", typed).design.main.columns) == N - 1


def test_too_many_levels_are_refused_before_they_are_coded() -> None:
    wide = pd.DataFrame({"y": np.zeros(12_000), "id": [f"l{i // 2}" for i in range(12_000)]})
    for right in ("id", "C(id)"):
        with pytest.raises(DataError, match="has 6000 levels; at most 5000"):
            learn(f"y ~ {right}", wide)
    with pytest.raises(DataError, match="has 6000 levels; at most 500"):
        learn("y ~ C(id, contr.poly)", wide)
