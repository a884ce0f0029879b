"""Bad input: each kind is an error of `neglog.errors` that says what to do; nothing is changed in silence."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import log_likelihood, mle, mle_batch, models, predict
from neglog.data import prepare
from neglog.errors import DataError, ModelError, NeglogError, SingularDesignError, UnboundedLikelihoodError

X = np.column_stack([np.arange(8.0), np.arange(8.0) ** 2])
Y = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 8.0, 6.0, 9.0])


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


BAD = {
    "nan in x": (
        changed(X, (3, 1), np.nan),
        Y,
        DataError,
        r"`x` is NaN or infinite in 1 .*row 3 of column 'x1'",
    ),
    "infinite x": (changed(X, (0, 0), np.inf), Y, DataError, "row 0 of column 'x0'; drop or correct"),
    "nan in y": (
        X,
        changed(Y, 2, np.nan),
        DataError,
        "`y` is NaN or infinite in 1 of 8 places, first in row 2",
    ),
    "infinite y": (X, changed(Y, 2, -np.inf), DataError, "first in row 2"),
    "lengths": (X, Y[:-1], DataError, "`y` has 7 rows and `x` has 8"),
    "x of one dimension": (X[:, 0], Y, DataError, r"shape \(rows, columns\); it has \(8,\).*x\[:, None\]"),
    "x of three": (X[:, :, None], Y, DataError, r"it has \(8, 2, 1\)"),
    "y as a column": (
        X,
        Y[:, None],
        DataError,
        r"it has \(8, 1\). Pass numpy.asarray\(y\)\[:, 0\]",
    ),
    "y as a scalar": (X, np.array(1.0), DataError, r"`y` needs the shape \(rows,\)"),
    "no rows": (X[:0], Y[:0], DataError, "no rows"),
    "integers in x": (X.astype(int), Y, DataError, r"`x` holds int64.*x.astype\(float\)"),
    "integers in y": (X, Y.astype(int), DataError, r"`y` holds integers.*numpy.array\(y, float\)"),
    "booleans in x": (X > 3, Y, DataError, "`x` holds bool"),
    "integer tensor": (torch.tensor(X).long(), Y, DataError, "`x` holds int64"),
    "objects in x": (X.astype(object), Y, DataError, r"`x` holds object, not numbers; convert"),
    "objects in y": (X, Y.astype(object), DataError, "`y` holds object"),
    "strings": (X.astype(str), Y, DataError, "`x` holds <U"),
    "complex": (X.astype(complex), Y, DataError, "`x` holds complex"),
    "ragged": ([[1.0], [1.0, 2.0]], [1.0, 2.0], DataError, "not a rectangular array"),
    "something else": (X, "y", DataError, "`y` must be a tensor, a NumPy array or a data frame; it is str"),
    "constant y": (X, np.full(8, 5.0), UnboundedLikelihoodError, r"fits every row exactly \(row 0: y = 5\)"),
    "perfect fit": (X, 1 + X @ [2.0, -3.0], UnboundedLikelihoodError, "no maximum"),
    "duplicate columns": (X[:, [0, 0]], Y, SingularDesignError, "x0, x1 of `mean` are linearly dependent"),
    "a constant column": (changed(X, (slice(None), 0), 3.0), Y, SingularDesignError, "Intercept, x0"),
    "a column of zeros": (
        changed(X, (slice(None), 1), 0.0),
        Y,
        SingularDesignError,
        "x1 of `mean` is 0 in every row",
    ),
    "fewer rows than parameters": (X[:2], Y[:2], SingularDesignError, "3 coefficients .* 2 rows"),
    "as many rows as parameters": (X[:3], Y[:3], UnboundedLikelihoodError, "no maximum"),
    "unknown predictor": (
        {"mean": X, "sgima": X},
        Y,
        ModelError,
        "no predictor 'sgima'; it has 'mean', 'sigma'",
    ),
    "designs of different lengths": ({"mean": X, "sigma": X[:5]}, Y, DataError, "different numbers of rows"),
    "empty mapping": ({}, Y, ModelError, "empty mapping"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    x, y, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        mle(models.gaussian, x, y)
    assert isinstance(caught.value, NeglogError)


@pytest.mark.parametrize("model", [models.laplace, models.heteroscedastic], ids=lambda model: model.__name__)
@pytest.mark.parametrize("name", [name for name, (x, *_) in BAD.items() if not isinstance(x, dict)])
def test_every_model_refuses_bad_input(name, model):
    x, y, error, message = BAD[name]
    with pytest.raises(error, match=message.replace("`mean`", "`(mean|location)`")):
        mle(model, x, y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(7), "`weights` has 7 rows and `x` has 8"),
        (changed(np.ones(8), 4, -1), "1 are not: row 4 has -1"),
        (changed(np.ones(8), 4, np.nan), "row 4 has nan"),
        (np.zeros(8), "all `weights` are 0"),
        (np.ones((8, 1)), r"`weights` needs the shape \(rows,\)"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        mle(models.gaussian, X, Y, weights=weights)


def test_rows_of_weight_0_may_hold_anything_and_keep_the_numbering():
    weights = np.array([1.0, 0, 1, 1, 1, 1, 1, 1])
    fit = mle(models.gaussian, changed(X, (1, 0), np.nan), changed(Y, 1, np.inf), weights=weights)
    assert fit.n == 7
    with pytest.raises(DataError, match="row 5 of column"):
        mle(models.gaussian, changed(X, (5, 0), np.nan), Y, weights=weights)


def same(first, second):
    for name, value in first.params.items():
        torch.testing.assert_close(value, second.params[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "convert",
    [
        torch.tensor,
        lambda a: torch.tensor(np.repeat(a, 2, axis=0))[::2],
        lambda a: a.astype(">f8"),
        lambda a: a[::-1][::-1],
        lambda a: pd.DataFrame(a).iloc[:, :] if a.ndim == 2 else pd.Series(a),
        lambda a: a.tolist(),
    ],
    ids=["tensor", "strided", "big-endian", "negative strides", "frame", "list"],
)
def test_every_container_gives_the_same_fit(convert):
    same(mle(models.gaussian, convert(X), convert(Y)), mle(models.gaussian, X, Y))


def test_integer_columns_of_a_frame_are_numbers():
    frame = pd.DataFrame(X.astype(int), columns=["a", "b"])
    fit = mle(models.gaussian, frame, pd.Series(Y.astype(int)))
    same(fit, mle(models.gaussian, X, Y))
    assert fit.columns == {"": ("a", "b")}


def test_integer_weights_are_numbers():
    same(mle(models.gaussian, X, Y, weights=np.ones(8, int)), mle(models.gaussian, X, Y))


def test_text_columns_are_refused_by_name():
    frame = pd.DataFrame({"a": Y, "b": list("abababab")})
    with pytest.raises(DataError, match=r"column 'b' of `x` holds .*get_dummies\(x, columns=\['b'\]"):
        mle(models.gaussian, frame, Y)


def test_columns_of_one_name_are_refused():
    with pytest.raises(DataError, match="two columns named 'a'"):
        mle(models.gaussian, pd.DataFrame(X, columns=["a", "a"]), Y)


def test_missing_values_of_nullable_columns_are_nan():
    frame = pd.DataFrame({"a": pd.array([1, 2, None, 4, 5, 6, 7, 8], dtype="Int64")})
    with pytest.raises(DataError, match="row 2 of column 'a'"):
        mle(models.gaussian, frame, Y)


def test_nothing_is_written_to_the_users_arrays():
    x, y = X.copy(), Y.copy()
    mle(models.laplace, x, y, weights=np.ones(8))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_a_float64_array_is_shared_and_not_copied():
    data = prepare(X, Y)
    assert data.x.data_ptr() == X.ctypes.data


# Prediction reads its designs as the fit did.


def test_frames_are_read_by_name():
    frame = pd.DataFrame(X, columns=["a", "b"])
    fit = mle(models.gaussian, frame, Y)
    swapped = predict(fit, frame[["b", "a"]].assign(c=0.0)).mean
    torch.testing.assert_close(swapped, predict(fit, frame).mean, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (pd.DataFrame(X[:, :1], columns=["a"]), "`x` lacks 'b', which the model was fitted on"),
        (X[:, :1], "has 1 columns; the model was fitted on 2: a, b"),
        ({"mean": X}, "fitted on one design"),
        (changed(X, (3, 0), np.nan), "row 3 of column 'a'"),
        (X[:, 0], r"shape \(rows, columns\)"),
        (X.astype(int), "holds int64"),
    ],
)
def test_designs_of_another_form_are_refused(x, message):
    fit = mle(models.gaussian, pd.DataFrame(X, columns=["a", "b"]), Y)
    with pytest.raises(DataError, match=message):
        predict(fit, x)


def test_designs_by_predictor_must_be_the_same_ones():
    fit = mle(models.gaussian, {"mean": X, "sigma": X[:, :1]}, Y)
    with pytest.raises(DataError, match=r"designs for \['mean', 'sigma'\]; `x` has \['mean'\]"):
        predict(fit, {"mean": X})
    with pytest.raises(DataError, match="fitted on a mapping with designs"):
        predict(fit, X)


def test_log_likelihood_holds_y_to_the_model():
    fit = mle(models.gaussian, X, Y)
    with pytest.raises(DataError, match="`y` has 7 rows"):
        log_likelihood(fit, X, Y[:-1])
    with pytest.raises(DataError, match="row 0"):
        log_likelihood(fit, X, changed(Y, 0, np.nan))


@pytest.mark.parametrize("weight", [1e300, 1e20, 1e-12, 1e-300])
def test_weights_whose_sum_is_no_number_of_rows_are_refused(weight):
    """At 1e300 a decrement of 1e134 was certified; at 1e20 and 1e-12 an optimum was not believed to exist."""
    x, y = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64) % 3
    weights = torch.full((8,), weight, dtype=torch.float64)
    with pytest.raises(DataError, match="weights / "):
        mle(models.poisson, x, y, weights=weights)
    assert mle(models.poisson, x, y, weights=weights / weight).converged


ONE = torch.ones(8, dtype=torch.float64)


@pytest.mark.parametrize(
    ("x", "weights", "fact"),
    [
        (1.0, 1e-12 * ONE, "8e-12"),
        (1.0, 1e17 * ONE, "8e+17"),
        (1.0, 0 * ONE, "all `weights` are 0"),
        (1.0, -ONE, "row 0"),
        (1.0, torch.inf * ONE, "row 0"),
        (1e160, ONE, "1e160"),
    ],
)
def test_many_data_sets_are_held_to_the_ranges_of_one(x, weights, fact):
    columns = x * torch.linspace(1.0, 2.0, 8, dtype=torch.float64)[:, None]
    y = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 8.0, 7.0], dtype=torch.float64)
    several = columns.expand(2, 8, 1), y.expand(2, 8), torch.stack([weights, ONE])
    for fit, data in ((mle, (columns, y, weights)), (mle_batch, several)):
        with pytest.raises(DataError, match=re.escape(fact)):
            fit(models.gaussian, *data[:2], weights=data[2])
