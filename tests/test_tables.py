"""Tables: to the last digit, and every thing that can be wrong with one in a sentence."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neglog.errors import DataError
from neglog.tables import complete_rows, read_table, require_columns

DATA = Path(__file__).parent / "data"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_floats_come_back_to_the_last_digit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.random(1000) * 10.0 ** generator.integers(-300, 300, 1000)
    path = write(tmp_path / "x.csv", "x\n" + "\n".join(repr(float(value)) for value in values))
    assert np.array_equal(read_table(path)["x"].to_numpy(), values)


def test_every_format_gives_the_same_table(tmp_path: Path) -> None:
    table = read_table(DATA / "warpbreaks.csv")
    assert table.shape == (54, 3)
    assert table.iloc[0].tolist() == [26, "A", "L"]
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    table.set_index("breaks").to_parquet(tmp_path / "named.pq")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((DATA / "warpbreaks.csv").read_bytes()))
    for name in ("t.tsv", "t.parquet", "named.pq", "t.csv.gz"):
        pd.testing.assert_frame_equal(read_table(tmp_path / name), table)


def test_a_byte_order_mark_and_spaces_after_commas_are_no_part_of_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"\xef\xbb\xbfx, y\n1, a\n")
    assert read_table(path).to_dict("list") == {"x": [1], "y": ["a"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.csv", None, r"absent\.csv` does not exist\. Give the path"),
        ("x.xlsx", "x", r"x\.xlsx` is not a kind of table that neglog knows\. Use \.csv"),
        ("x.csv", "", r"is empty\. Put column names in its first line"),
        ("x.csv", "x,y\n", "has column names but no rows"),
        ("x.csv", "x,y,x\n1,2,3\n", r"has several columns named `x`\. Give each a name of its own"),
        ("x.csv", "x,y\n1,2,3\n4,5,6\n", r"names 2 columns, but its lines have more fields\. Name every"),
        ("x.csv", "x,y\n1,2\n1,2,3\n", "not a regular table: Expected 2 fields in line 3, saw 3"),
        ("x.csv", "x;y\n1,5;2,5\n", "seems to be separated by ';': its header is `x;y`"),
        ("x.csv", "x\tname\n1\t2\n", r"seems to be separated by '\\t'"),
        ("x.csv", b"x\n\xff\n", r"is not UTF-8 text \(byte 2\)\. Save it in UTF-8"),
        ("x.parquet", "x", r"is not a Parquet file: .*Save it again, or as \.csv"),
    ],
)
def test_an_unusable_file_is_refused(
    tmp_path: Path, name: str, text: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if text is not None:
        write(path, text)
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder, not a table"):
        read_table(tmp_path)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", "x")

    def no_pyarrow(*args: object, **kwargs: object) -> None:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", no_pyarrow)
    with pytest.raises(DataError, match=r"needs pyarrow: `pip install pyarrow`"):
        read_table(path)


def test_missing_values_are_counted_where_they_are() -> None:
    table = read_table(DATA / "airquality.csv")
    message = r"^42 of 153 rows have a missing value, in `Ozone` \(37\), `Solar\.R` \(7\)\. .*--drop-missing"
    with pytest.raises(DataError, match=message):
        complete_rows(table, ["Ozone", "Solar.R", "Wind"])
    rows, dropped = complete_rows(table, ["Ozone", "Solar.R", "Wind"], drop_missing=True)
    assert (dropped, len(rows), list(rows)) == (42, 111, ["Ozone", "Solar.R", "Wind"])
    assert rows.index[:5].tolist() == [0, 1, 2, 3, 6]  # the rows of the table, not new numbers
    assert complete_rows(table, ["Wind"])[1] == 0  # a missing value in an unused column does not count


def test_no_row_left_is_an_error() -> None:
    table = pd.DataFrame({"x": [1.0, np.nan], "y": [np.nan, 1.0]})
    with pytest.raises(DataError, match=r"no row is complete.*`x`, `y`"):
        complete_rows(table, ["x", "y"], drop_missing=True)


def test_an_infinite_value_is_named() -> None:
    table = pd.DataFrame({"x": [1.0, -np.inf, np.inf]})
    with pytest.raises(DataError, match=r"column `x` has 2 infinite values; row 1 has -inf"):
        complete_rows(table, ["x"])


def test_absent_columns_are_listed_with_the_nearest_name() -> None:
    table = pd.DataFrame({"income": [1.0], "foodexp": [1.0]})
    with pytest.raises(
        DataError, match=r"no column `incom`; its columns are `income`, `foodexp`\. Did you mean `income`\?"
    ):
        require_columns(table, ["incom", "foodexp"])
    with pytest.raises(DataError, match="several columns named `x`"):
        require_columns(pd.DataFrame([[1, 2]], columns=["x", "x"]), ["x"])


def test_columns_become_plain_numbers_text_and_categories() -> None:
    table = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "real": pd.array([1.5, None, 2.5], dtype="Float64"),
            "truth": pd.array([True, None, False], dtype="boolean"),
            "object": pd.Series([True, None, False], dtype=object),
            "text": pd.array(["a", None, "b"], dtype="string"),
            "level": pd.Categorical(["a", None, "b"], categories=["c", "b", "a"]),
        }
    )
    rows, dropped = complete_rows(table, table.columns, drop_missing=True)
    assert dropped == 1
    assert [rows[name].dtype.kind for name in ("whole", "real", "truth", "object")] == ["i", "f", "b", "b"]
    assert rows["text"].tolist() == ["a", "b"]
    assert rows["level"].cat.categories.tolist() == ["b", "a"]  # in their own order, without the unused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.to_datetime(["2020-01-01"]), r"column `x` holds datetime64.* values\. Turn them into numbers"),
        ([1 + 2j], "column `x` holds complex numbers"),
        ([[1, 2]], "column `x` holds object values"),
    ],
)
def test_other_kinds_of_column_are_refused(values: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        complete_rows(pd.DataFrame({"x": values}), ["x"])
