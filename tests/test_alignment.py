"""Rows that belong together: the labels of pandas are the same in all arguments, or the call is refused."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import neglog
from neglog import log_likelihood, mle, models, quantile
from neglog.errors import DataError
from neglog.validation import cross_validate

ROWS = 80
RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(ROWS, 2)), columns=["a", "b"], index=np.arange(ROWS) + 100)
Y = pd.Series(RNG.normal(size=ROWS), index=X.index)
COUNTS = pd.Series(RNG.poisson(3.0, size=ROWS), index=X.index)
GROUPS = pd.Series(np.arange(ROWS) // 8, index=X.index)
SHUFFLED = RNG.permutation(ROWS)
FIT = mle(models.gaussian, X, Y)
RATES = mle(models.poisson, X, COUNTS, exposure=Y.abs() + 1)


def shuffled(labelled):
    return labelled.iloc[SHUFFLED]


def relabelled(labelled):
    return labelled.set_axis(np.arange(ROWS) + 7)


def y_of(wrong):
    """Each public function of a design and a response, the labels of the response being wrong."""
    gaussian, y = models.gaussian, wrong(Y)
    return {
        "mle": lambda: mle(gaussian, X, y),
        "map_estimate": lambda: neglog.map_estimate(gaussian, X, y),
        "mle_batch": lambda: neglog.mle_batch(gaussian, X, y, weights=np.ones((2, ROWS))),
        "posterior": lambda: neglog.posterior(gaussian, X, y, method="laplace", draws=100),
        "priors_for": lambda: neglog.priors_for(gaussian, X, y),
        "prior_predictive": lambda: neglog.prior_predictive(gaussian, X, y, draws=1),
        "quantile_process": lambda: neglog.quantile_process(X, y, [0.5]),
        "lasso_path": lambda: neglog.lasso_path(gaussian, X, y),
        "cross_validate": lambda: cross_validate(gaussian, X, y),
        "log_likelihood": lambda: neglog.log_likelihood(FIT, X, y),
        "scores": lambda: neglog.scores(FIT, X, y, "crps"),
        "spool": lambda: neglog.spool([(X, y)]),
    }


def others_of(wrong):
    """Each further argument with rows, its labels being wrong."""
    return {
        "weights": lambda: mle(models.gaussian, X, Y, weights=wrong(Y.abs())),
        "exposure": lambda: mle(models.poisson, X, COUNTS, exposure=wrong(Y.abs())),
        "a bound": lambda: mle(neglog.censored(models.gaussian), X, Y, upper=wrong(Y + 1)),
        "a second design": lambda: mle(models.gaussian, {"mean": X, "sigma": wrong(X)}, Y),
        "y of an array of columns": lambda: mle(models.gaussian, X.to_numpy(), Y, weights=wrong(Y.abs())),
        "weights of many": lambda: neglog.mle_batch(models.gaussian, X, Y, weights=wrong(Y.abs())),
        "weights of folds": lambda: cross_validate(models.gaussian, X, Y, weights=wrong(Y.abs())),
        "exposure of new rows": lambda: neglog.predict(RATES, X, exposure=wrong(Y.abs())),
        "exposure of scores": lambda: neglog.scores(RATES, X, COUNTS, exposure=wrong(Y.abs())),
        "exposure of intervals": lambda: neglog.interval(RATES, X, exposure=wrong(Y.abs())),
        "exposure of a prior": lambda: neglog.prior_predictive(models.poisson, X, exposure=wrong(Y.abs())),
        "new designs": lambda: neglog.predict(
            mle(models.gaussian, {"mean": X, "sigma": X}, Y), {"mean": X, "sigma": wrong(X)}
        ),
        "groups of a fit": lambda: mle(models.gaussian, X, Y, groups=wrong(GROUPS)),
        "groups of a comparison": lambda: neglog.compare([models.gaussian], X, Y, groups=wrong(GROUPS)),
        "groups of draws": lambda: neglog.bootstrap(FIT, 20, groups=wrong(GROUPS)),
        "groups": lambda: neglog.covariance(FIT, "cluster", groups=wrong(GROUPS)),
        "one of two groupings": lambda: neglog.covariance(FIT, "cluster", groups=[GROUPS, wrong(GROUPS)]),
        "groupings": lambda: neglog.covariance(FIT, "cluster", groups=wrong(GROUPS.to_frame())),
        "groups of a summary": lambda: neglog.summary(FIT, cov_type="cluster", groups=wrong(GROUPS)),
        "groups of a prediction": lambda: neglog.predict(
            FIT, X, uncertainty=True, cov_type="cluster", groups=wrong(GROUPS)
        ),
        "added columns": lambda: neglog.score_test(FIT, wrong(X) ** 2),
    }


CASES = [
    pytest.param(cases(wrong)[name], id=f"{name}, {wrong.__name__}")
    for wrong in (shuffled, relabelled)
    for cases in (y_of, others_of)
    for name in cases(wrong)
]


@pytest.mark.parametrize("call", CASES)
def test_rows_with_other_labels_are_refused(call):
    with pytest.raises(DataError, match="do not belong together: row 0 is labelled 100"):
        call()


@pytest.mark.parametrize("groups", [GROUPS.to_numpy()[:-1], 3])
def test_groups_of_other_rows_are_refused_by_the_fit(groups):
    with pytest.raises(DataError, match="`groups` must have one entry for each"):
        mle(models.gaussian, X.to_numpy(), Y.to_numpy(), groups=groups)


def test_the_remedies_put_the_rows_together():
    y = shuffled(Y)
    with pytest.raises(DataError, match=r"pass y\.loc\[x\.index\]; or, .* pass y\.set_axis\(x\.index\)\."):
        mle(models.gaussian, X, y)
    assert mle(models.gaussian, X, y.loc[X.index]).nll == FIT.nll
    assert mle(models.gaussian, X, y.set_axis(X.index)).nll > FIT.nll


def test_labels_of_rows_of_weight_0_are_those_of_all_rows():
    fit = mle(models.gaussian, X, Y, weights=(GROUPS > 1).astype(float))
    kept = mle(models.gaussian, X[GROUPS > 1], Y[GROUPS > 1])
    found = neglog.covariance(fit, "cluster", groups=GROUPS)
    expected = neglog.covariance(kept, "cluster", groups=GROUPS[GROUPS > 1])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    with pytest.raises(DataError, match="do not belong together"):
        neglog.covariance(fit, "cluster", groups=shuffled(GROUPS))
    with pytest.raises(DataError, match="one entry for each of 80 rows; it has 160"):
        neglog.covariance(fit, "cluster", groups=pd.concat([GROUPS, GROUPS]))


def test_arrays_belong_together_by_position():
    shifted = Y.set_axis(range(ROWS))
    assert mle(models.gaussian, X.to_numpy(), shifted).nll == FIT.nll
    assert mle(models.gaussian, X, torch.tensor(Y.to_numpy())).nll == FIT.nll


@pytest.mark.parametrize("y", [Y.to_numpy()[:-1], np.tile(Y.to_numpy(), 2), Y[:-1], pd.concat([Y, Y])])
def test_cross_validation_counts_the_rows(y):
    with pytest.raises(DataError, match=f"`y` has {len(y)} rows and `x` has {ROWS}"):
        cross_validate(models.gaussian, X, y)


# What would be lost in silence: masks and imaginary parts.

MASKED = np.ma.array(Y.to_numpy(), mask=np.arange(ROWS) < 4)
LOSSY = {
    "masked": MASKED,
    "list of masked": [*MASKED],
    "complex array": Y.to_numpy() + 1j,
    "complex series": Y + 1j,
    "complex tensor": torch.tensor(Y.to_numpy()) + 1j,
    "list of complex": (Y + 1j).tolist(),
    "series of objects": (Y + 1j).astype(object),
}
COLUMNS = {
    "masked": np.ma.array(X.to_numpy(), mask=False),
    "list of masked": [np.ma.array(row, mask=[True, False]) for row in X.to_numpy()],
    "complex array": X.to_numpy() + 1j,
    "complex frame": X.assign(b=X["b"] + 1j),
    "frame of objects": (X + 1j).astype(object),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_masks_and_imaginary_parts_are_not_lost(kind):
    lossy = LOSSY[kind]
    for call in (
        lambda: mle(models.gaussian, X, lossy),
        lambda: mle(models.gaussian, X, Y, weights=lossy),
        lambda: mle(models.poisson, X, COUNTS, exposure=lossy),
        lambda: neglog.mle_batch(models.gaussian, X, Y, weights=lossy),
        lambda: neglog.predict(RATES, X, exposure=lossy),
        lambda: neglog.log_likelihood(FIT, X, lossy),
        lambda: cross_validate(models.gaussian, X, Y, weights=lossy),
        lambda: mle(neglog.censored(models.gaussian), X, Y, upper=lossy),
    ):
        with pytest.raises(DataError, match=r"is a masked array|holds complex|holds object"):
            call()


@pytest.mark.parametrize("kind", COLUMNS)
def test_masks_and_imaginary_parts_of_designs_are_not_lost(kind):
    lossy = COLUMNS[kind]
    for call in (
        lambda: mle(models.gaussian, lossy, Y),
        lambda: mle(models.gaussian, {"mean": X, "sigma": lossy}, Y),
        lambda: neglog.predict(FIT, lossy),
        lambda: neglog.score_test(FIT, lossy),
    ):
        with pytest.raises(DataError, match=r"is a masked array|holds complex|holds object"):
            call()


def test_masked_groups_are_refused():
    groups = np.ma.array(GROUPS.to_numpy(), mask=np.arange(ROWS) < 8)
    for call in (
        lambda: neglog.bootstrap(FIT, 20, groups=groups),
        lambda: neglog.covariance(FIT, "cluster", groups=groups),
        lambda: neglog.covariance(FIT, "cluster", groups=[GROUPS, groups]),
    ):
        with pytest.raises(DataError, match="`groups` is a masked array"):
            call()


def test_what_a_mask_hides_is_left_out_by_the_remedy():
    fit = mle(neglog.masked(models.gaussian), X, np.ma.filled(MASKED.astype(float), np.nan))
    assert fit.nll == mle(models.gaussian, X[4:], Y[4:]).nll
    assert mle(models.gaussian, np.ma.getdata(COLUMNS["masked"]), Y).nll == FIT.nll


def test_rows_in_reverse_are_the_same_rows():
    """torch takes no array with negative strides, as that of a reversed series."""
    weights = pd.Series([1.0, 2.0] * (len(Y) // 2), index=Y.index)
    backwards = [rows.iloc[::-1] for rows in (X, Y, weights)]
    fits = [mle(models.gaussian, x, y, weights=w) for x, y, w in ((X, Y, weights), backwards)]
    assert math.isclose(fits[1].nll, fits[0].nll, rel_tol=1e-12)
    assert log_likelihood(fits[0], *backwards[:2]).tolist() == log_likelihood(fits[0], X, Y).tolist()[::-1]
    shares = np.array([0.1, 0.5, 0.9])
    assert torch.equal(quantile(fits[0], X, shares[::-1]), quantile(fits[0], X, shares).flip(1))
