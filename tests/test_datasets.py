"""The shipped data sets: there, documented, and to the last digit."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neglog import datasets
from neglog.errors import DataError

README = datasets.path("engel").with_name("README.md")
CASES = Path(__file__).parent / "cases" / "data"
# Data sets that the reference cases have too: our column to theirs.
SHARED = {
    "phones": {"year": "year", "calls": "calls"},
    "warpbreaks": {name: name for name in ("wool_B", "tension_M", "tension_H", "breaks")},
    "menarche": {"age": "Age", "girls": "Total", "reached": "Menarche"},
    "gasoline": {name: name for name in ("gravity", "pressure", "temp10", "temp", "yield")},
    "iris": {
        "sepal_length": "Sepal_Length",
        "sepal_width": "Sepal_Width",
        "petal_length": "Petal_Length",
        "petal_width": "Petal_Width",
        "versicolor": "Species_versicolor",
        "virginica": "Species_virginica",
    },
    "housing": {
        "satisfaction": "Sat",
        "influence_medium": "Infl_Medium",
        "influence_high": "Infl_High",
        "apartment": "Type_Apartment",
        "atrium": "Type_Atrium",
        "terrace": "Type_Terrace",
        "contact_high": "Cont_High",
        "householders": "Freq",
    },
    "ozone": {"ozone": "Ozone", "radiation": "Solar_R", "wind": "Wind", "temperature": "Temp", "day": "Day"},
}
# Where the cases call the file otherwise.
ELSEWHERE = {"ozone": "airquality_cc"}


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


def test_phones_hold_the_counts_and_six_years_of_minutes():
    phones = datasets.load("phones")
    assert phones["year"].tolist() == [*range(1950, 1974)]
    assert phones["calls"].iloc[:4].tolist() == [4.4, 4.7, 4.7, 5.9]
    assert phones["year"][phones["calls"] > 100].tolist() == [*range(1964, 1970)]
    # Least squares as R's MASS has it: calls = -260.059 + 5.041 (year - 1900).
    slope, intercept = np.polyfit(phones["year"] - 1900, phones["calls"], 1)
    assert (round(slope, 3), round(intercept, 3)) == (5.041, -260.059)


def test_warpbreaks_are_nine_looms_a_cell():
    warpbreaks = datasets.load("warpbreaks")
    cells = warpbreaks.groupby(["wool_B", "tension_M", "tension_H"])["breaks"]
    assert cells.size().tolist() == [9] * 6
    # A-L, A-H, A-M, B-L, B-H, B-M: nine times 44.56, 24.56, 24.00, 28.22, 18.78, 28.78, the means in R.
    assert cells.sum().tolist() == [401, 221, 216, 254, 169, 259]


def test_menarche_counts_are_among_the_girls_asked():
    menarche = datasets.load("menarche")
    assert menarche["girls"].sum() == 3918
    assert ((menarche["reached"] >= 0) & (menarche["reached"] <= menarche["girls"])).all()
    assert menarche["age"].is_monotonic_increasing


def test_gasoline_has_one_crude_a_batch():
    gasoline = datasets.load("gasoline")
    crudes = gasoline.groupby("batch")[["gravity", "pressure", "temp10"]]
    assert (crudes.nunique() == 1).all(axis=None)
    assert crudes.ngroups == 10
    assert gasoline["yield"].between(0.028, 0.457).all()


def test_irises_are_fifty_of_each_species():
    iris = datasets.load("iris")
    setosa = (iris["versicolor"] == 0) & (iris["virginica"] == 0)
    assert (setosa.sum(), iris["versicolor"].sum(), iris["virginica"].sum()) == (50, 50, 50)
    # The means in Fisher (1936), table II.
    assert iris[setosa].mean().iloc[:4].round(3).tolist() == [5.006, 3.428, 1.462, 0.246]


def test_old_faithful_has_the_eruptions_that_r_summarises():
    faithful = datasets.load("faithful")
    assert len(faithful) == 272
    # summary(faithful): minima, medians, means and maxima.
    assert faithful["duration"].agg(["min", "median", "mean", "max"]).round(3).tolist() == [
        1.6,
        4.0,
        3.488,
        5.1,
    ]
    assert faithful["waiting"].agg(["min", "median", "mean", "max"]).round(1).tolist() == [43, 76, 70.9, 96]


def test_articles_are_longs():
    articles = datasets.load("articles")
    assert (len(articles), (articles["articles"] == 0).sum(), articles["woman"].sum()) == (915, 275, 421)
    # Long (1997): 1.69 articles on average, with a variance of 3.71.
    assert (round(articles["articles"].mean(), 2), round(articles["articles"].var(), 2)) == (1.69, 3.71)
    assert articles["prestige"].agg(["min", "max"]).tolist() == [0.755, 4.62]


def test_householders_are_counted_once():
    housing = datasets.load("housing")
    assert (len(housing), housing["householders"].sum()) == (72, 1681)
    assert housing.groupby("satisfaction")["householders"].sum().tolist() == [567, 446, 668]


def test_leukaemia_has_thirty_relapses_in_pairs():
    patients = datasets.load("leukaemia")
    assert patients.groupby("pair")["treated"].agg(["size", "sum"]).to_numpy().tolist() == [[2, 1]] * 21
    # Gehan (1965): 359 weeks and 9 relapses with the drug, 182 and 21 without.
    totals = patients.groupby("treated")[["weeks", "relapsed"]].sum()
    assert totals.to_numpy().tolist() == [[182, 21], [359, 9]]


@pytest.mark.parametrize(("name", "columns"), SHARED.items())
def test_tables_are_those_of_the_reference_cases(name, columns):
    reference = pd.read_csv(CASES / f"{ELSEWHERE.get(name, name)}.csv")
    for ours, theirs in columns.items():
        shift = 1900 if ours == "year" else 0
        # Some doubles of the cases went through a multiplication, which costs the last bit.
        assert np.allclose(datasets.load(name)[ours], reference[theirs] + shift, rtol=1e-14, atol=0), ours


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
    known = ", ".join(sorted(file.stem for file in README.parent.glob("*.csv")))
    with pytest.raises(DataError, match=rf"one of the data sets {known}; it is .Engel.*Did you mean .engel"):
        call("Engel")
