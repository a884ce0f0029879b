"""Optima of the models without a reference case: closed forms, SciPy and statsmodels, on real data."""

import numpy as np
import pyro
import pytest
import scipy.optimize
import scipy.stats
from reference import number, table

from neglog import covariance, mle, models, predict
from neglog.errors import DataError, UnboundedLikelihoodError

POSITIVE = [models.lognormal, models.weibull, models.inverse_gaussian]
EACH = pytest.mark.parametrize("model", POSITIVE, ids=lambda model: model.__name__)
EVERY = pytest.mark.parametrize("model", [models.logistic, *POSITIVE], ids=lambda model: model.__name__)
EXACT = 1e-10
"""Relative: a certified optimum is within 1e-8 standard errors, here of less than 1e-2 of the estimates."""


def clotting():
    """Clotting times by the log of the plasma concentration (McCullagh & Nelder 1989, section 8.4.2)."""
    data = table("clotting")
    return data[["log_u"]], data["lot1"]


def two_groups():
    """The warp breaks of two wools: a column of 0 and 1, and a positive response."""
    data = table("warpbreaks")
    return data[["wool_B"]], data["breaks"]


def gasoline():
    data = table("gasoline")
    return data[["temp", *(f"batch_{i}" for i in range(1, 10))]], data["yield"]


def coefficients(fit):
    """Intercept and slopes of the location."""
    bias, weight = (next(v for k, v in fit.params.items() if k.endswith(e)) for e in (".bias", ".weight"))
    return np.array([bias.item(), *weight.tolist()])


def intercept_alone(model, y):
    return mle(model, np.empty((len(y), 0)), y)


def best(logpdf, x, y, start):
    """The optimum that SciPy finds of a log-density of `(y, eta, constant)`: coefficients, constant, NLL."""
    design = np.column_stack([np.ones(len(y)), x])

    def nll(theta):
        return -logpdf(np.asarray(y), design @ theta[:-1], np.exp(theta[-1])).sum()

    simplex = {"xatol": 1e-12, "fatol": 1e-14, "maxiter": 1000, "maxfev": 2000}
    for _ in range(2):  # a simplex that has collapsed starts afresh
        found = scipy.optimize.minimize(nll, start, method="Nelder-Mead", options=simplex)
        start = found.x
    return found.x[:-1], np.exp(found.x[-1]), found.fun


# Against SciPy. Its simplex sees the NLL alone, which is flat to 1e-16 within 1e-8 standard errors.


@pytest.mark.parametrize(
    ("model", "constant", "logpdf", "start"),
    [
        (models.lognormal, "sigma", lambda y, e, s: scipy.stats.lognorm.logpdf(y, s, scale=np.exp(e)),
         (5.0, -0.5, -2.0)),
        (models.weibull, "shape", lambda y, e, k: scipy.stats.weibull_min.logpdf(y, k, scale=np.exp(e)),
         (5.0, -0.5, 2.0)),
        (models.inverse_gaussian, "dispersion",
         lambda y, e, d: scipy.stats.invgauss.logpdf(y, np.exp(e) * d, scale=1 / d), (5.0, -0.5, -8.0)),
        (models.logistic, "scale", lambda y, e, s: scipy.stats.logistic.logpdf(y, e, s), (120.0, -30.0, 2.0)),
    ],
    ids=["lognormal", "weibull", "inverse_gaussian", "logistic"],
)  # fmt: skip
def test_the_optimum_is_scipys(model, constant, logpdf, start):
    x, y = clotting()
    fit = mle(model, x, y)
    coefs, value, nll = best(logpdf, x["log_u"], y, start)
    assert fit.converged
    assert fit.nll == pytest.approx(nll, abs=1e-11)
    np.testing.assert_allclose(coefficients(fit), coefs, rtol=1e-6)
    assert fit.params[constant].item() == pytest.approx(value, rel=1e-6)


def test_a_weibull_sample_is_fitted_as_scipy_fits_it():
    y = table("insurance")["Holders"].to_numpy()
    fit = intercept_alone(models.weibull, y)
    shape, _, scale = scipy.stats.weibull_min.fit(y, floc=0, optimizer=_to_the_last_digit)
    assert fit.params["shape"].item() == pytest.approx(shape, rel=1e-7)
    assert fit.params["log_scale.bias"].exp().item() == pytest.approx(scale, rel=1e-7)


def _to_the_last_digit(function, start, args=(), disp=0):
    return scipy.optimize.fmin(function, start, args=args, disp=disp, xtol=1e-12, ftol=1e-14, maxiter=10_000)


# Against closed forms.


def test_lognormal_is_least_squares_of_the_logarithm():
    # With log y = X b + sigma e the density of y is that of log y over y, so b is OLS, sigma² = RSS / n and
    # the NLL is n/2 (1 + log 2π sigma²) + Σ log y.
    x, y = gasoline()
    fit = mle(models.lognormal, x, y)
    log_y, design = np.log(y), np.column_stack([np.ones(len(y)), x])
    ols, (rss,), *_ = np.linalg.lstsq(design, log_y)
    np.testing.assert_allclose(coefficients(fit), ols, rtol=EXACT)
    assert fit.params["sigma"].item() == pytest.approx((rss / len(y)) ** 0.5, rel=EXACT)
    expected = 0.5 * len(y) * (1 + np.log(2 * np.pi * rss / len(y))) + log_y.sum()
    assert fit.nll == pytest.approx(expected, rel=EXACT)
    # Its mean is not exp(log_median), which is the median.
    medians = np.exp(design @ ols)
    np.testing.assert_allclose(predict(fit, x).icdf(number(0.5)), medians, rtol=1e-9)
    np.testing.assert_allclose(predict(fit, x).mean, medians * np.exp(rss / len(y) / 2), rtol=1e-9)


def test_weibull_solves_its_likelihood_equations():
    # With q = y / scale: Σ x (q^k - 1) = 0 for each column, and n / k + Σ log q - Σ q^k log q = 0.
    x, y = gasoline()
    fit = mle(models.weibull, x, y)
    design, shape = np.column_stack([np.ones(len(y)), x]), fit.params["shape"].item()
    log_q = np.log(y).to_numpy() - design @ coefficients(fit)
    power = np.exp(shape * log_q)
    size = np.abs(design).sum(axis=0)
    np.testing.assert_allclose(design.T @ (power - 1) / size, 0, atol=1e-9)
    assert len(y) / shape + log_q.sum() == pytest.approx(power @ log_q, rel=1e-9)


def test_a_weibull_of_shape_one_has_the_mean_as_its_scale():
    # The Exponential: d/d(scale) of n log(scale) + Σ y / scale gives scale = mean y, group by group.
    x, y = two_groups()
    fit = mle(pyro.condition(models.weibull, {"shape": number(1.0)}), x, y)
    means = [y[x["wool_B"] == group].mean() for group in (0, 1)]
    np.testing.assert_allclose(np.exp(np.cumsum(coefficients(fit))), means, rtol=EXACT)
    np.testing.assert_allclose(np.unique(predict(fit, x).mean), sorted(means), rtol=EXACT)


def test_inverse_gaussian_estimates_means_and_its_dispersion_is_the_deviance():
    # Tweedie (1957): mean = ȳ and dispersion = mean(1 / y) - 1 / ȳ; with groups, the pooled one.
    x, y = two_groups()
    fit = mle(models.inverse_gaussian, x, y)
    means = y.groupby(x["wool_B"]).transform("mean")
    np.testing.assert_allclose(predict(fit, x).mean, means, rtol=EXACT)
    dispersion = (1 / y - 1 / means).mean()
    assert fit.params["dispersion"].item() == pytest.approx(dispersion, rel=EXACT)
    np.testing.assert_allclose(predict(fit, x).variance, dispersion * means**3, rtol=EXACT)


def test_logistic_balances_the_pull_of_the_rows():
    # d/d(location): Σ x tanh(r / (2 scale)) = 0; d/d(scale): Σ r tanh(r / (2 scale)) = n scale.
    data = table("stackloss")
    x, y = data[["Air_Flow", "Water_Temp", "Acid_Conc"]], data["stack_loss"]
    fit = mle(models.logistic, x, y)
    design, scale = np.column_stack([np.ones(len(y)), x]), fit.params["scale"].item()
    residuals = y.to_numpy() - design @ coefficients(fit)
    pull = np.tanh(residuals / (2 * scale))
    np.testing.assert_allclose(design.T @ pull / np.abs(design).sum(axis=0), 0, atol=1e-9)
    assert residuals @ pull == pytest.approx(len(y) * scale, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "location", "constant"),
    [
        (models.lognormal, "log_median", "sigma"),
        (models.weibull, "log_scale", "shape"),
        (models.inverse_gaussian, "log_mean", "dispersion"),
        (models.logistic, "location", "scale"),
    ],
)
def test_a_constant_with_a_design_is_that_of_each_group(model, location, constant):
    x, y = two_groups()
    fit = mle(model, {location: x, constant: x}, y)
    assert {f"log_{constant}.weight", f"log_{constant}.bias"} < set(fit.params)
    logs = np.cumsum([fit.params[f"log_{constant}.bias"], *fit.params[f"log_{constant}.weight"]])
    groups = [intercept_alone(model, y[x["wool_B"] == group].to_numpy()) for group in (0, 1)]
    np.testing.assert_allclose(np.exp(logs), [g.params[constant] for g in groups], rtol=1e-8)
    assert fit.nll == pytest.approx(sum(g.nll for g in groups), rel=EXACT)


# Against statsmodels 0.15.0: r = GLM(lot1, [1, log_u], InverseGaussian(Log())).fit(tol=1e-15, maxiter=200).
# Its `params`, its `deviance` (n times the dispersion of maximum likelihood), `r.llf_scaled(deviance / n)`.
GLM = {"coefficients": [5.290404230671077, -0.5416349144364067], "deviance": 0.0035601507040454246}
GLM_LOG_LIKELIHOOD = -24.78943716061695


def test_inverse_gaussian_is_the_glm():
    x, y = clotting()
    fit = mle(models.inverse_gaussian, x, y)
    np.testing.assert_allclose(coefficients(fit), GLM["coefficients"], rtol=EXACT)
    assert len(y) * fit.params["dispersion"].item() == pytest.approx(GLM["deviance"], rel=EXACT)
    assert -fit.nll == pytest.approx(GLM_LOG_LIKELIHOOD, rel=EXACT)


def test_lognormal_standard_errors_are_those_of_least_squares():
    # The inverse information of (b, sigma) is sigma² (X'X)⁻¹ and sigma² / 2n, with sigma² = RSS / n.
    x, y = clotting()
    fit = mle(models.lognormal, x, y)
    design, sigma = np.column_stack([np.ones(len(y)), x]), fit.params["sigma"].item()
    variances = np.diag(sigma**2 * np.linalg.inv(design.T @ design))
    matrix = covariance(fit)
    found = dict(zip(matrix.index, np.diag(matrix), strict=True))
    assert found["log_median", "Intercept"] == pytest.approx(variances[0], rel=1e-8)
    assert found["log_median", "log_u"] == pytest.approx(variances[1], rel=1e-8)
    assert found["sigma", ""] == pytest.approx(sigma**2 / (2 * len(y)), rel=1e-8)


# Units, starts, and what has no answer.


@EVERY
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e6, 1e12])
def test_units_of_the_response_leave_the_slopes(model, size):
    x, y = clotting()
    plain, scaled = mle(model, x, y), mle(model, x, y * size)
    slope = coefficients(scaled)[1] / (size if model is models.logistic else 1)
    assert scaled.converged
    assert slope == pytest.approx(coefficients(plain)[1], rel=1e-9)
    assert scaled.nll == pytest.approx(plain.nll + len(y) * np.log(size), rel=1e-10)


@EVERY
@pytest.mark.parametrize("far", [-10.0, 10.0])
def test_a_start_far_away_finds_the_same_optimum(model, far):
    x, y = clotting()
    plain = mle(model, x, y)
    location = next(name for name in plain.params if name.endswith(".bias"))
    found = mle(model, x, y, start={location: plain.params[location].item() + far})
    assert found.converged
    assert found.nll == pytest.approx(plain.nll, rel=1e-12)


@EVERY
@pytest.mark.parametrize("size", [1e-6, 5.0, 1e6])
def test_a_constant_response_has_no_maximum(model, size):
    x, _ = clotting()
    with pytest.raises(UnboundedLikelihoodError, match=f"`{model.__name__}` fits every row exactly"):
        mle(model, x, np.full(len(x), size))


@EACH
@pytest.mark.parametrize(("value", "shown"), [(0.0, r"0\.0"), (-1.5, r"-1\.5")])
def test_a_response_that_is_not_positive_is_refused(model, value, shown):
    x, y = clotting()
    y = y.where(y.index != 2, value)
    needed = f"`{model.__name__}` needs every `y` to be positive; 1 of 9 do not: row 2 has y = {shown}"
    with pytest.raises(DataError, match=needed):
        mle(model, x, y)


@EACH
def test_a_row_near_zero_is_no_perfect_fit(model):
    # A spread of half of every y, from 1e-7 to 1e7: the smallest is below the rounding of the largest.
    x = np.linspace(-16, 16, 40)[:, None]
    y = np.exp(x[:, 0] + 0.5 * np.sin(5 * x[:, 0]))
    assert mle(model, x, y).converged


def test_logistic_starts_from_as_far_as_curvature_vanishes():
    # At the start all rows are hundreds of scales away, where the curvature is exp(-500).
    y = np.linspace(340.0, 770.0, 50)
    fit = intercept_alone(models.logistic, y)
    assert fit.converged
    assert fit.params["location.bias"].item() == pytest.approx(y.mean(), rel=EXACT)
