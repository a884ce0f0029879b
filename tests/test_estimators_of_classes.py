"""Classifiers whose classes have another order than that of the alphabet, in functions of scikit-learn."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import cross_val_predict, cross_val_score

from neglog import mle
from neglog.errors import DataError, ModelError
from neglog.estimators import LikelihoodClassifier, LikelihoodRegressor

LEVELS = ["low", "mid", "high"]
SORTED = [1, 2, 0]
"""The places of `LEVELS` among the sorted labels."""


@pytest.fixture(scope="module")
def rows():
    """A column, codes 0, 1, 2, and the same as ordered categories."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(90, 1))
    codes = np.digitize(x[:, 0] + draws.logistic(size=90), [-0.5, 1.0])
    return x, codes, pd.Series(pd.Categorical.from_codes(codes, LEVELS, ordered=True))


@pytest.fixture(scope="module")
def pair(rows):
    """The model of the categories, and that of their codes."""
    x, codes, labels = rows
    return LikelihoodClassifier("ordinal").fit(x, labels), LikelihoodClassifier("ordinal").fit(x, codes)


def test_classes_are_sorted_and_keep_the_order_of_the_model(rows, pair):
    x, codes, labels = rows
    named, numbered = pair
    assert named.classes_.tolist() == sorted(LEVELS)
    assert named.ordered_classes_.tolist() == LEVELS
    np.testing.assert_allclose(named.predict_proba(x)[:, SORTED], numbered.predict_proba(x), rtol=1e-14)
    np.testing.assert_array_equal(named.predict(x), np.array(LEVELS)[numbered.predict(x)])
    np.testing.assert_array_equal(
        named.predict_quantile(x, 0.3), np.array(LEVELS)[numbered.predict_quantile(x, 0.3)]
    )
    assert named.log_score(x, labels) == numbered.log_score(x, codes)
    assert named.nll_ == pytest.approx(mle("ordinal", "y ~ x", {"y": labels, "x": x[:, 0]}).nll, abs=1e-9)
    table = named.set_output(transform="pandas").predict_proba(x)
    assert table.columns.tolist() == sorted(LEVELS)
    named.set_output(transform="default")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(named)).predict_proba(x), named.predict_proba(x))


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", "roc_auc_ovo", "accuracy"])
def test_scorers_read_ordered_categories_as_their_codes(rows, pair, scoring):
    x, codes, labels = rows
    named, numbered = pair
    assert get_scorer(scoring)(named, x, labels) == pytest.approx(get_scorer(scoring)(numbered, x, codes))


def test_a_model_without_an_order_has_its_classes_sorted(rows):
    x, codes, _ = rows
    two = pd.Series(pd.Categorical.from_codes(codes // 2, ["no", "maybe"], ordered=True))
    fitted = LikelihoodClassifier("bernoulli").fit(x, two)
    plain = LikelihoodClassifier("bernoulli").fit(x, two.astype(object))
    assert fitted.classes_.tolist() == fitted.ordered_classes_.tolist() == ["maybe", "no"]
    np.testing.assert_array_equal(fitted.coef_, plain.coef_)


def test_the_order_is_kept_where_scikit_learn_encodes_labels(rows, pair):
    x, codes, labels = rows
    ordinal = LikelihoodClassifier("ordinal", order=LEVELS)
    assert clone(ordinal).order == LEVELS
    found = cross_val_predict(ordinal, x, labels, method="predict_proba", cv=3)
    expected = cross_val_predict(LikelihoodClassifier("ordinal"), x, codes, method="predict_proba", cv=3)
    np.testing.assert_allclose(found[:, SORTED], expected, rtol=1e-14)
    bags = BaggingClassifier(ordinal, n_estimators=2, bootstrap=False).fit(x, labels)
    np.testing.assert_allclose(bags.predict_proba(x)[:, SORTED], pair[1].predict_proba(x), rtol=1e-12)
    text = ordinal.fit(x, labels.astype(object))
    np.testing.assert_array_equal(text.predict_proba(x), pair[0].predict_proba(x))
    part = LikelihoodClassifier("ordinal", order=[*LEVELS, "never"]).fit(x[codes > 0], labels[codes > 0])
    assert part.ordered_classes_.tolist() == ["mid", "high"]


@pytest.mark.parametrize("order", ["low", ["low", "mid"], ["low", "low", "mid", "high"], 3])
def test_an_order_that_is_none_is_refused(rows, order):
    x, _, labels = rows
    with pytest.raises(ModelError, match="`order`"):
        LikelihoodClassifier("ordinal", order=order).fit(x, labels)


def test_an_enum_of_polars_has_an_order(rows):
    polars = pytest.importorskip("polars")
    x, codes, _ = rows
    labels = polars.Series([LEVELS[code] for code in codes], dtype=polars.Enum(LEVELS))
    assert LikelihoodClassifier("ordinal").fit(x, labels).ordered_classes_.tolist() == LEVELS


def test_accuracy_takes_an_offset_and_it_is_routed(rows):
    x, codes, _ = rows
    known, high = np.linspace(-3, 3, len(x)), codes > 0
    fitted = LikelihoodClassifier("bernoulli").fit(x, high, offset=known)
    expected = (fitted.predict(x, offset=known) == high).mean()
    assert fitted.score(x, high, offset=known) == pytest.approx(expected, abs=1e-15)
    weights = np.arange(len(x)) % 3
    assert fitted.score(x, high, weights, offset=known) == pytest.approx(
        np.average(fitted.predict(x, offset=known) == high, weights=weights)
    )
    with pytest.raises(DataError, match="offset"):
        fitted.score(x, high)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = LikelihoodClassifier("bernoulli").set_fit_request(offset=True).set_score_request(offset=True)
        assert np.isfinite(cross_val_score(routed, x, high, params={"offset": known}, cv=3)).all()


NOTHING = [None, np.nan, pd.NA, pd.NaT]


@pytest.mark.parametrize("nothing", NOTHING, ids=str)
@pytest.mark.parametrize("estimator", [LikelihoodClassifier("bernoulli"), LikelihoodRegressor()], ids=str)
def test_a_missing_response_is_named(estimator, nothing):
    x, y = np.arange(6.0)[:, None], np.array([0.0, 1, 1, 0, 1, 0])
    without = y.astype(object)
    without[2] = nothing
    for values in (without, without.tolist(), pd.Series(without, dtype=object)):
        with pytest.raises(ValueError, match=r"Input y contains NaN"):
            estimator.fit(x, values)
    fitted = clone(estimator).fit(x, y)
    for question in (fitted.log_score, fitted.score):
        with pytest.raises(ValueError, match="NaN"):
            question(x, without)


def test_a_missing_cell_is_named():
    x = pd.DataFrame({"a": pd.Series([pd.NA, 1.0, 2.0, 5.0])})
    with pytest.raises(DataError, match=r"Input X contains NaN"):
        LikelihoodRegressor().fit(x, [1.0, 2.0, 4.0, 5.0])


@pytest.mark.parametrize("model", ["categorical", "ordinal"])
def test_a_regressor_of_classes_names_the_classifier(rows, model):
    x, codes, labels = rows
    for y in (codes, labels):
        with pytest.raises(ModelError, match=rf"LikelihoodClassifier\('{model}'\)"):
            LikelihoodRegressor(model).fit(x, y)


def test_dates_are_refused_and_not_counted_in_nanoseconds():
    dates = pd.Series(pd.date_range("2020-01-01", periods=6), name="d")
    y = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 6.0])
    for column in (dates, dates.dt.tz_localize("UTC"), dates - dates[0], dates.astype("datetime64[s]")):
        with pytest.raises(DataError, match=r"dates.*days"):
            LikelihoodRegressor().fit(column.to_frame(), y)
    with pytest.raises(DataError, match="dates"):
        LikelihoodRegressor().fit(dates.to_numpy()[:, None], y)
    days = (dates - dates.min()).dt.days.to_frame()
    assert LikelihoodRegressor().fit(days, y).coef_ == pytest.approx(np.polyfit(range(6), y, 1)[0])
