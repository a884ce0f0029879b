"""NIST's linear regressions: as many correct digits as anyone has, and all that the data allow."""

import numpy as np
import pyro
import pytest
from nist import LINEAR, columns, correct_digits, exact
from reference import number

from neglog import mle, models
from neglog.errors import UnboundedLikelihoodError

# Correct digits on these very doubles: R 4.2.2 lm.fit(tol = 1e-20), statsmodels 0.15.0 OLS with pinv and qr.
OTHERS = {
    "Norris": (12.5, 13.0, 12.0),
    "Pontius": (12.7, 6.3, 12.8),
    "NoInt1": (14.7, 14.7, 14.8),
    "NoInt2": (15.0, 15.0, 15.0),
    "Wampler1": (9.8, 9.2, 9.4),
    "Wampler2": (13.6, 10.4, 13.0),
    "Wampler3": (9.3, 9.2, 9.1),
    "Wampler4": (7.5, 7.8, 7.8),
    "Wampler5": (5.5, 5.8, 5.8),
    "Filip": (7.2, 0.0, 8.0),
    "Longley": (13.0, 10.9, 10.9),
}
PERFECT = ("Wampler1", "Wampler2")
EACH = pytest.mark.parametrize("name", LINEAR)
ALL = 14.5
"""Digits of a coefficient that is within a rounding or two of the exact one."""


def problem(name, model=models.gaussian):
    case = LINEAR[name]
    fixed = {} if case["intercept"] else {"mean.bias": number(0.0)}
    fixed |= {"sigma": number(1.0)} if name in PERFECT else {}
    design, y = columns(case), np.array(case["y"])
    whole = np.column_stack([np.ones(len(y)), design]) if case["intercept"] else design
    return (pyro.condition(model, fixed) if fixed else model), design, whole, y


def coefficients(fit):
    bias = [fit.params["mean.bias"].item()] if "mean.bias" in fit.params else []
    return np.array([*bias, *fit.params["mean.weight"].tolist()])


@EACH
def test_no_one_has_more_correct_digits(name):
    model, design, whole, y = problem(name)
    certified = LINEAR[name]["certified"]
    fit = mle(model, design, y)
    assert fit.converged
    numpy = correct_digits(np.linalg.lstsq(whole, y)[0], certified)
    # Powers of x are rounded to doubles, and the certified values to 15 digits: what is beyond the exact
    # solution of the doubles is luck, as are the 8.0 digits of a QR on Filip's data, which hold 7.6.
    most = correct_digits(exact(whole, y), certified)
    assert correct_digits(coefficients(fit), certified) >= min(max(*OTHERS[name], numpy), most) - 0.05


@EACH
def test_the_coefficients_are_the_exact_ones(name):
    model, design, whole, y = problem(name)
    assert correct_digits(coefficients(mle(model, design, y)), exact(whole, y)) > ALL


def test_weights_are_refined_too():
    _, design, whole, y = problem("Filip")
    weights = np.arange(len(y)) % 4 + 0.0
    kept = np.repeat(np.arange(len(y)), weights.astype(int))
    fit = mle(models.gaussian, design, y, weights=weights)
    assert correct_digits(coefficients(fit), exact(whole[kept], y[kept])) > ALL


@pytest.mark.parametrize("name", PERFECT)
def test_a_perfect_fit_has_no_sigma(name):
    design, y = columns(LINEAR[name]), np.array(LINEAR[name]["y"])
    with pytest.raises(UnboundedLikelihoodError, match="no maximum"):
        mle(models.gaussian, design, y)


@pytest.mark.parametrize(
    ("name", "residual_sum_of_squares"), [("Longley", 836424.055505915), ("Filip", 0.795851382172941e-3)]
)
def test_sigma_is_that_of_the_certified_residuals(name, residual_sum_of_squares):
    model, design, _, y = problem(name)
    sigma = mle(model, design, y).params["sigma"].item()
    assert sigma == pytest.approx(np.sqrt(residual_sum_of_squares / len(y)), rel=1e-9)
