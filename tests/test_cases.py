"""Real data against independent software: estimates to 1e-4 standard errors, log-likelihoods to 1e-6."""

import numpy as np
import pytest
import torch
from reference import CASES, estimates, fitted, label, problem, table
from table import fast_svi

from neglog import covariance, log_likelihood, map_estimate, mle, models, on_features
from neglog.errors import (
    ConvergenceWarning,
    DataError,
    NeglogError,
    SingularDesignError,
    UnboundedLikelihoodError,
)
from neglog.solvers import LBFGS

IN_STANDARD_ERRORS = 1e-4
LOG_LIKELIHOOD = 1e-6
STANDARD_ERROR = 1e-4

VECTOR = [name for name, case in CASES.items() if case["family"] == "mvn"]
"""Held in test_vectors.py."""
UNIQUE = [
    name
    for name, case in CASES.items()
    if "params" in case and case.get("unique_optimum", True) and name not in VECTOR
]
UNIQUE.remove("nasty_nan_gauss_airquality")
KINKED = {"laplace", "asymmetric_laplace"}
LASSO = [name for name in UNIQUE if CASES[name]["kind"] == "map_lasso"]
SMOOTH = [name for name in UNIQUE if CASES[name]["family"] not in KINKED and name not in LASSO]
REFUSED = {
    "nasty_collinear_gauss_cars": (SingularDesignError, "speed, speed2"),
    "nasty_perfect_gauss_line": (UnboundedLikelihoodError, "no maximum"),
    "nasty_perfect_wampler1": (UnboundedLikelihoodError, "no maximum"),
    "nasty_n1_gauss": (UnboundedLikelihoodError, "no maximum"),
    "nasty_const_gauss": (UnboundedLikelihoodError, "no maximum"),
    "nasty_nltp_gauss_longley5": (SingularDesignError, "7 coefficients .* 5 rows"),
    "nasty_inf_x": (DataError, "row 7 .*'speed'"),
    "nasty_empty": (DataError, "no rows"),
    "nasty_w_negative": (DataError, "row 2 has -1"),
    "nasty_dummytrap_pois_warpbreaks": (SingularDesignError, "wool_A.* are linearly dependent"),
    "nasty_sep_bern_tiny": (UnboundedLikelihoodError, "never falls as .*`logit` of x → .∞"),
    "nasty_sep_bern_iris": (UnboundedLikelihoodError, "`bernoulli` has no maximum.*separates"),
    "nasty_sep_quasi_bern": (UnboundedLikelihoodError, "never falls as .*`logit` of x → .∞"),
    "nasty_bern_all_ones": (UnboundedLikelihoodError, "every `y` is 1.*`logit` of Intercept → .∞"),
    "nasty_pois_zeros": (UnboundedLikelihoodError, "`log_rate` of Intercept → -∞"),
    "nasty_pois_zero_cell": (UnboundedLikelihoodError, "`log_rate` of cell_AL → -∞"),
    "nasty_beta_zero": (DataError, r"`beta`.* row 3 has y = 0"),
    "nasty_gamma_zero": (DataError, r"`gamma`.* row 2 has y = 0"),
    "nasty_pois_fraction": (DataError, r"`poisson` needs every `y` to be a whole number.* row 2 has y = 2.5"),
    "nasty_binom_over": (DataError, r"number of trials; 1 of 5 do not: row 2 has y = 6.0, trials = 5"),
    "nasty_exposure_zero_claims": (DataError, r"row 5 has y = .*, exposure = 0"),
}
BORDER = {"nasty_nb2_under_p": ("`dispersion` → 0", 1e-3), "nasty_t_light_p": (r"`df` → \+∞", 0.02)}


def scale_of(parameter):
    """The standard error that a difference is measured in."""
    return parameter.get("se_observed") or parameter.get("se_expected") or 1.0


def check(fit, case):
    found = estimates(fit, case)
    for parameter in case["params"]:
        difference = (found[parameter["name"]] - parameter["value"]) / scale_of(parameter)
        assert abs(difference) < IN_STANDARD_ERRORS, parameter["name"]
    assert -fit.nll == pytest.approx(case["loglik"], abs=LOG_LIKELIHOOD)


def test_every_case_has_a_test():
    tested = {
        *UNIQUE,
        *VECTOR,
        *REFUSED,
        *BORDER,
        "nasty_nan_gauss_airquality",
        "nasty_nonunique_lad_median",
        "oracle_neural_hetero_public",
    }
    assert tested == set(CASES)


@pytest.mark.parametrize("name", UNIQUE)
def test_exact_solver_meets_the_reference(name):
    problem_, fit = problem(name), fitted(name)
    assert fit.converged
    check(fit, problem_.case)
    if "penalty" not in problem_.case["model"]:
        assert fit.k == problem_.case["n_params"]
        assert fit.aic == pytest.approx(problem_.case["aic"], abs=2 * LOG_LIKELIHOOD)


@pytest.mark.parametrize("name", SMOOTH)
def test_lbfgs_meets_the_reference(name):
    problem_ = problem(name)
    check(problem_.fit(solver=LBFGS()), problem_.case)


@pytest.mark.parametrize("name", ["hetero_engel", "nist_longley", "nasty_scale_y_gauss_stackloss"])
def test_svi_meets_the_reference(name):
    problem_ = problem(name)
    fit = problem_.fit(solver=fast_svi())
    assert fit.converged
    check(fit, problem_.case)


@pytest.mark.parametrize("name", ["laplace_engel"])
def test_svi_comes_near_the_vertex_and_does_not_claim_it(name):
    problem_ = problem(name)
    with pytest.warns(ConvergenceWarning, match="not certified"):
        fit = problem_.fit(solver=fast_svi(last=1e-4))
    assert not fit.converged
    assert -fit.nll == pytest.approx(problem_.case["loglik"], abs=1e-3)
    assert -fit.nll <= problem_.case["loglik"] + LOG_LIKELIHOOD


@pytest.mark.parametrize("name", [n for n in UNIQUE if scale_of(CASES[n]["params"][0]) != 1.0])
def test_standard_errors_meet_the_reference(name):
    problem_ = problem(name)
    matrix = covariance(fitted(name))
    errors = dict(zip(matrix.index, np.sqrt(np.diag(matrix)), strict=True))
    for parameter in problem_.case["params"]:
        assert errors[label(parameter["name"], problem_.case)] == pytest.approx(
            scale_of(parameter), rel=STANDARD_ERROR
        ), parameter["name"]


@pytest.mark.parametrize("name", LASSO)
def test_lasso_zeros_are_exact(name):
    problem_ = problem(name)
    found = estimates(fitted(name), problem_.case)
    assert {site for site, value in found.items() if value == 0} == set(problem_.case["exact_zeros"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "log_joint" in case])
def test_map_loss_is_the_joint_density(name):
    problem_ = problem(name)
    assert -fitted(name).loss == pytest.approx(problem_.case["log_joint"], abs=LOG_LIKELIHOOD)


@pytest.mark.parametrize("name", REFUSED)
def test_nasty_case_is_refused_by_name(name):
    error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        problem(name).fit()


@pytest.mark.parametrize("name", BORDER)
def test_a_supremum_at_the_border_is_told(name):
    problem_, (what, tolerance) = problem(name), BORDER[name]
    with pytest.warns(ConvergenceWarning, match=f"largest at the border.*{what}"):
        fit = problem_.fit()
    assert not fit.converged
    values = problem_.case["expect"]["values"]
    assert -fit.nll == pytest.approx(values["sup_loglik"], abs=tolerance)
    found = estimates(fit, problem_.case)
    for column in ("(Intercept)", "x"):
        assert found[f"location.{column}"] == pytest.approx(values["limit"][column], abs=1e-2)


def test_missing_values_are_refused_and_the_complete_rows_fit():
    problem_ = problem("nasty_nan_gauss_airquality")
    with pytest.raises(DataError, match="row 4 of column 'Solar_R'"):
        problem_.fit()
    check(problem_.complete().fit(), problem_.case)


def test_lad_optimum_that_is_not_unique_is_in_the_solution_set_and_says_so():
    problem_ = problem("nasty_nonunique_lad_median")
    fit = problem_.fit()
    assert 4 <= fit.params["location.bias"].item() <= 7
    assert -fit.nll == pytest.approx(problem_.case["loglik"], abs=LOG_LIKELIHOOD)
    assert "not unique" in fit.status


FILIP = [
    -1467.48961422980, -2772.17959193342, -2316.37108160893, -1127.97394098372, -354.478233703349,
    -75.1242017393757, -10.8753180355343, -1.06221498588947, -0.670191154593408e-1, -0.246781078275479e-2,
    -0.402962525080404e-4,
]  # fmt: skip


def polynomial(x, degree):
    return np.stack([x**k for k in range(1, degree + 1)], axis=1)


def coefficients(fit):
    return np.array([fit.params["mean.bias"].item(), *fit.params["mean.weight"].tolist()])


def test_longley_certified_to_ten_digits():
    case = CASES["nist_longley"]
    found = estimates(problem("nist_longley").fit(), case)
    columns = case["model"]["blocks"][0]["columns"]
    np.testing.assert_allclose(
        [found[f"location.{c}"] for c in columns], case["certified"]["coef"], rtol=1e-10
    )


def test_filip_certified_to_seven_digits():
    data = table("filip")
    fit = mle(models.gaussian, polynomial(data["x"].to_numpy(), 10), data["y"])
    # A column-scaled condition number of 5e9 leaves 16 - 9.7 digits at worst; normal equations have none.
    np.testing.assert_allclose(coefficients(fit), FILIP, rtol=1e-7)


DELTA = [
    759,
    -2048,
    2048,
    -2048,
    2523,
    -2048,
    2048,
    -2048,
    1838,
    -2048,
    2048,
    -2048,
    1838,
    -2048,
    2048,
    -2048,
    2523,
    -2048,
    2048,
    -2048,
    759,
]


@pytest.mark.parametrize(("noise", "digits"), [(1, 1e-8), (100, 1e-6)], ids=["wampler4", "wampler5"])
def test_wampler_certified(noise, digits):
    # NIST StRD: y = 1 + x + ... + x⁵ + noise · delta at x = 0 ... 20; the certified coefficients are 1.
    x = np.arange(21.0)
    y = 1 + polynomial(x, 5).sum(axis=1) + noise * 100 * np.array(DELTA)
    np.testing.assert_allclose(coefficients(mle(models.gaussian, polynomial(x, 5), y)), 1.0, rtol=digits)


@pytest.mark.parametrize("power", [1.0, 0.1], ids=["wampler1", "wampler2"])
def test_wampler_without_noise_has_no_maximum(power):
    x = np.arange(21.0)
    y = 1 + polynomial(x, 5) @ power ** np.arange(1, 6)
    with pytest.raises(UnboundedLikelihoodError, match="no maximum"):
        mle(models.gaussian, polynomial(x, 5), y)


def test_network_comes_near_the_oracle():
    case, data = CASES["oracle_neural_hetero_public"], table("oracle_public")
    train, test = data[data["is_test"] == 0], data[data["is_test"] == 1]
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(
        torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh()
    )
    net = on_features(models.heteroscedastic, trunk)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit = map_estimate(net, 4 * train[["x"]] - 2, train["y"], solver=LBFGS(max_steps=500))
    score = -log_likelihood(fit, 4 * test[["x"]] - 2, test["y"]).mean().item()
    assert case["values"]["oracle_test_nll"] - 0.05 < score < case["criterion"]["acceptable"]


def test_refusals_share_one_base():
    for error in {error for error, _ in REFUSED.values()}:
        assert issubclass(error, NeglogError)
        assert issubclass(error, ValueError)
