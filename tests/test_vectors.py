"""Vector-valued models: real data against independent software, closed forms, and stability."""

from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from reference import CASES, table
from table import fast_svi

from neglog import (
    covariance,
    log_likelihood,
    losses,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    summary,
)
from neglog.distributions import MultivariateNormal, correlation_cholesky
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.export import load, save
from neglog.models.vectors import _lkj_partial, _log_half_cauchy
from neglog.predictors import linear, rows
from neglog.solvers import LBFGS, SVI
from neglog.uncertainty.covariances import unconstrained_covariance
from neglog.uncertainty.information import optimum

IN_STANDARD_ERRORS = 1e-4
LOG_LIKELIHOOD = 1e-6
STANDARD_ERROR = 1e-7
"""Relative: optima are exact to 1e-9 standard errors, and so are those of the references."""


def cholesky_linear(x, y=None):
    """A covariance of two components whose Cholesky factor is linear in x, its diagonal on the log scale."""
    mean = linear("mean", x, outputs=2)
    first, cross, second = linear("logL11", x), linear("L21", x), linear("logL22", x)
    top = torch.stack([first.exp(), torch.zeros_like(first)], dim=-1)
    factor = torch.stack([top, torch.stack([cross, second.exp()], dim=-1)], dim=-2)
    with rows(x):
        return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=factor), obs=y)


MODELS = {
    "mvn_iris": models.multivariate_gaussian,
    "mvn_iris_bygroup": models.multivariate_heteroscedastic,
    "mvn2_iris_sdcorr": models.multivariate_heteroscedastic,
    "mvn2_iris_chol": cholesky_linear,
}
NAMES = {"location": "mean", "logsd1": "log_scale", "logsd2": "log_scale", "atanhrho": "partial"}


def test_every_case_with_estimates_is_held_here():
    assert set(MODELS) == {n for n, case in CASES.items() if case["family"] == "mvn" and "params" in case}


def problem(name):
    case, data = CASES[name], table(CASES[name]["data"]["name"])
    columns = [c for c in case["model"]["blocks"][0]["columns"] if c != "(Intercept)"]
    return case, data[columns], data[case["response"]]


@cache
def fitted(model, name):
    _, x, y = problem(name)
    return mle(model, x, y)


def entry(case, x, parameter):
    """The row, and the two components, of an entry ``cov[A,B]`` or ``cov[GROUP][A,B]`` of a covariance."""
    group = next((g for g in x.columns if f"[{g}]" in parameter), None)
    first, second = parameter.rpartition("[")[2].rstrip("]").split(",")
    row = 0 if group is None else int(np.flatnonzero(x[group] == 1)[0])
    return row, case["response"].index(first), case["response"].index(second)


def label(case, parameter):
    """The row of `summary` that a parameter of the case is."""
    block, _, column = parameter.partition("].") if "]." in parameter else parameter.partition(".")
    responses = case["response"]
    outer, _, response = block.partition("[")
    ours = NAMES.get(outer, outer)
    which = {"logsd1": responses[0], "logsd2": responses[-1], "atanhrho": "1,0"}.get(outer, response)
    return f"{ours}[{which}]" if which else ours, column.replace("(Intercept)", "Intercept")


def estimates(fit, case, x):
    """The estimates under the names of the case."""
    matrices, shown = predict(fit, x).covariance_matrix, summary(fit)["estimate"]
    return {
        name: matrices[entry(case, x, name)].item() if name.startswith("cov") else shown[label(case, name)]
        for name in (parameter["name"] for parameter in case["params"])
    }


def standard_errors(fit, case, x):
    """Kind -> those of every parameter of the case; of entries of covariances by the delta method."""
    (coordinates, z), names = optimum(fit), [parameter["name"] for parameter in case["params"]]
    of_entries, objective = [name for name in names if name.startswith("cov")], coordinates.objective

    def entries(theta):
        whole = objective.at(theta).sites["y"]["fn"].covariance_matrix
        return torch.stack([whole[entry(case, x, name)] for name in of_entries])

    slopes = torch.autograd.functional.jacobian(entries, coordinates.theta(z)) if of_entries else None
    errors = {}
    for kind in ("observed", "sandwich"):
        table_, (matrix, _) = covariance(fit, kind), unconstrained_covariance(coordinates, z, kind)
        places = {name: label(case, name) for name in names if name not in of_entries}
        errors[kind] = {name: table_.loc[at, at] ** 0.5 for name, at in places.items()}
        if slopes is not None:
            own = (slopes @ matrix @ slopes.T).diagonal().sqrt().tolist()
            errors[kind] |= dict(zip(of_entries, own, strict=True))
    return errors


@pytest.mark.parametrize("name", MODELS)
def test_exact_solver_meets_the_reference(name):
    case, x, _ = problem(name)
    fit = fitted(MODELS[name], name)
    assert fit.converged
    assert -fit.nll == pytest.approx(case["loglik"], abs=LOG_LIKELIHOOD)
    assert fit.k == case["n_params"]
    found = estimates(fit, case, x)
    for parameter in case["params"]:
        off = (found[parameter["name"]] - parameter["value"]) / parameter["se_observed"]
        assert abs(off) < IN_STANDARD_ERRORS, parameter["name"]
    for kind, errors in standard_errors(fit, case, x).items():
        assert errors == {
            parameter["name"]: pytest.approx(parameter[f"se_{kind}"], rel=STANDARD_ERROR)
            for parameter in case["params"]
        }


@pytest.mark.parametrize(
    ("model", "solver"),
    [
        (models.multivariate_gaussian, LBFGS()),
        (models.multivariate_heteroscedastic, LBFGS()),
        (models.multivariate_gaussian, fast_svi()),
    ],
    ids=["lbfgs", "lbfgs, covariance of x", "svi"],
)
def test_other_roads_meet_the_same_optimum(model, solver):
    _, x, y = problem("mvn2_iris_sdcorr")
    start = {"mean.weight": torch.tensor([[0.3], [0.1]]), "mean.bias": torch.tensor([5.7, 3.1])}
    exact, other = fitted(model, "mvn2_iris_sdcorr"), mle(model, x, y, solver=solver, start=start)
    assert other.converged
    assert other.nll == pytest.approx(exact.nll, abs=5e-5 if isinstance(solver, SVI) else 1e-9)


@pytest.mark.parametrize("model", [models.multivariate_gaussian, models.multivariate_heteroscedastic])
def test_a_singular_covariance_is_refused_by_name(model):
    case, _, y = problem("nasty_mvn_singular_iris")
    assert case["expect"]["status"] == "no_mle"
    x = torch.empty((len(y), 0), dtype=torch.float64)
    with pytest.raises(UnboundedLikelihoodError, match="Sepal_Length, SL2 of `y` are linearly dependent"):
        mle(model, x, y)


def test_too_few_rows_for_a_covariance_are_refused():
    _, x, y = problem("mvn_iris")
    with pytest.raises(UnboundedLikelihoodError, match="5 rows are too few for 4 components and 2 coeff"):
        mle(models.multivariate_gaussian, x.iloc[48:53, :1], y.iloc[48:53])
    assert mle(models.multivariate_gaussian, x.iloc[48:54, :1], y.iloc[48:54]).converged


# Closed forms.


def test_constant_covariance_is_least_squares_and_the_residuals_covariance():
    _, x, y = problem("mvn_iris")
    fit = fitted(models.multivariate_gaussian, "mvn_iris")
    columns = np.column_stack([np.ones(len(x)), x])
    coefficients, *_ = np.linalg.lstsq(columns, y, rcond=None)
    residuals = y.to_numpy() - columns @ coefficients
    np.testing.assert_allclose(fit.params["mean.bias"], coefficients[0], rtol=1e-12)
    np.testing.assert_allclose(fit.params["mean.weight"].T, coefficients[1:], rtol=1e-9, atol=1e-12)
    covariance_ = predict(fit, x).covariance_matrix
    np.testing.assert_allclose(covariance_[7], residuals.T @ residuals / len(y), rtol=1e-10)


def test_standard_errors_of_a_constant_covariance_are_the_textbooks():
    # Anderson (1958): the mean's is s / √n, a standard deviation's s / √(2n), a correlation's (1 - r²) / √n.
    _, _, y = problem("mvn_iris")
    fit = mle(models.multivariate_gaussian, np.empty((150, 0)), y)
    shown, n = summary(fit), len(y)
    deviations, correlations = y.std(ddof=0), y.corr()
    for response in y.columns:
        error = shown.loc[(f"mean[{response}]", "Intercept"), "std_error"]
        assert error == pytest.approx(deviations[response] / n**0.5, rel=1e-6)
        error = shown.loc[("scale", response), "std_error"]
        assert error == pytest.approx(deviations[response] / (2 * n) ** 0.5, rel=1e-6)
    for first, second in [("Sepal_Width", "Sepal_Length"), ("Petal_Width", "Petal_Length")]:
        r = correlations.loc[first, second]
        shown_ = shown.loc[("correlation", f"{first},{second}")]
        assert shown_["estimate"] == pytest.approx(r, rel=1e-9)
        assert shown_["std_error"] == pytest.approx((1 - r**2) / n**0.5, rel=1e-6)
        z = np.arctanh(r) + np.array([-1, 1]) * 1.959963984540054 / n**0.5
        np.testing.assert_allclose(shown_[["lower", "upper"]].astype(float), np.tanh(z), rtol=1e-6)


def test_one_component_is_the_scalar_model():
    _, x, y = problem("mvn2_iris_sdcorr")
    one = y.iloc[:, :1]
    vector, scalar = mle(models.multivariate_gaussian, x, one), mle(models.gaussian, x, one.iloc[:, 0])
    assert vector.nll == pytest.approx(scalar.nll, rel=1e-12)
    vector = mle(models.multivariate_heteroscedastic, x, one)
    scalar = mle(models.heteroscedastic, x, one.iloc[:, 0])
    assert vector.nll == pytest.approx(scalar.nll, rel=1e-12)


def test_weights_are_repeated_rows():
    _, x, y = problem("mvn2_iris_sdcorr")
    weights = torch.arange(len(y), dtype=torch.float64) % 3
    index = np.repeat(np.arange(len(y)), weights.long())
    once = mle(models.multivariate_heteroscedastic, x, y, weights=weights)
    twice = mle(models.multivariate_heteroscedastic, x.iloc[index], y.iloc[index])
    assert once.nll == pytest.approx(twice.nll, rel=1e-12)
    assert once.aic == pytest.approx(twice.aic, rel=1e-12)


def test_units_do_not_matter():
    _, x, y = problem("mvn2_iris_sdcorr")
    factors = np.array([1e6, 1e-6])
    model = models.multivariate_heteroscedastic
    plain, scaled = fitted(model, "mvn2_iris_sdcorr"), mle(model, x, y.to_numpy() * factors)
    assert scaled.nll == pytest.approx(plain.nll + len(y) * np.log(factors).sum(), rel=1e-9)
    np.testing.assert_allclose(
        scaled.params["mean.weight"].numpy() / factors[:, None], plain.params["mean.weight"], rtol=1e-8
    )


# The parametrisation.


def correlations_of(partial, dimensions):
    factor = correlation_cholesky(partial, dimensions)
    return factor @ factor.mT


@pytest.mark.parametrize("dimensions", [1, 2, 3, 7, 20])
def test_any_partial_correlations_make_a_correlation_matrix(dimensions):
    generator = torch.Generator().manual_seed(dimensions)
    pairs = dimensions * (dimensions - 1) // 2
    partial = 2 * torch.randn((50, pairs), generator=generator, dtype=torch.float64)
    factor = correlation_cholesky(partial, dimensions)
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
    matrix = factor @ factor.mT
    torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1), torch.ones(50, dimensions).double())
    # Its first column holds plain correlations; entry (2, 1) is given component 0.
    first = matrix[:, 1:, 0]
    rows_ = torch.tensor([i * (i - 1) // 2 for i in range(1, dimensions)], dtype=torch.long)
    torch.testing.assert_close(first, torch.tanh(partial[:, rows_]))
    if dimensions > 2:
        r10, r20, r21 = matrix[:, 1, 0], matrix[:, 2, 0], matrix[:, 2, 1]
        given = (r21 - r10 * r20) / ((1 - r10**2) * (1 - r20**2)).sqrt()
        torch.testing.assert_close(given, torch.tanh(partial[:, 2]), rtol=1e-9, atol=1e-9)


def test_the_factor_is_smooth_at_0_and_far_out():
    partial = torch.zeros(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: correlation_cholesky(p, 3), partial.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda p: correlation_cholesky(p, 3), partial)
    far = torch.tensor([300.0, -300.0, 18.0], dtype=torch.float64, requires_grad=True)
    factor = correlation_cholesky(far, 3)
    assert factor.diagonal().min() > 0
    (gradient,) = torch.autograd.grad(factor.diagonal().log().sum(), far)
    torch.testing.assert_close(gradient, -torch.tensor([1.0, -1.0, 1.0]).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dimensions", [2, 3, 6])
def test_the_prior_of_the_partial_correlations_is_lkj(dimensions):
    pairs = [(i, j) for i in range(dimensions) for j in range(i)]
    like = torch.zeros(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    partial = 0.7 * torch.randn(len(pairs), generator=generator, dtype=torch.float64)
    ours = _lkj_partial(like, pairs, dimensions).log_prob(partial)
    lower = torch.tril(torch.ones(dimensions, dimensions, dtype=torch.bool), -1)
    jacobian = torch.autograd.functional.jacobian(
        lambda p: correlation_cholesky(p, dimensions)[lower], partial
    )
    factor = correlation_cholesky(partial, dimensions)
    theirs = dist.LKJCholesky(dimensions, torch.ones((), dtype=torch.float64)).log_prob(factor)
    torch.testing.assert_close(ours, theirs + torch.linalg.slogdet(jacobian).logabsdet)


def test_the_prior_of_the_log_scales_is_half_cauchy():
    at = torch.tensor([-3.0, 0.0, 4.0], dtype=torch.float64)
    # The density of log s is that of s times s: 2 / (π (1 + s²)) · s = 1 / (π cosh(log s)).
    torch.testing.assert_close(
        _log_half_cauchy(at, 3).log_prob(at), -torch.log(torch.pi * torch.cosh(at)).sum()
    )


@pytest.mark.parametrize("dimensions", [10, 20])
def test_twenty_components_are_stable(dimensions):
    generator = np.random.default_rng(5)
    x = generator.normal(size=(900, 1))
    mix = np.eye(dimensions) + generator.normal(size=(dimensions, dimensions)) / dimensions**0.5
    units = 10.0 ** generator.integers(-4, 5, size=dimensions)
    y = (1 + x + generator.normal(size=(900, dimensions)) @ mix.T) * units
    fit = mle(models.multivariate_gaussian, x, y)
    assert fit.converged
    columns = np.column_stack([np.ones(900), x])
    residuals = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    _, size = np.linalg.slogdet(residuals.T @ residuals / 900 / np.outer(units, units))
    expected = 450 * (dimensions * (1 + np.log(2 * np.pi)) + size + 2 * np.log(units).sum())
    assert fit.nll == pytest.approx(expected, rel=1e-10)


def test_a_covariance_of_x_is_stable_with_twenty_components():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((40, 1), generator=generator, dtype=torch.float64)
    y = torch.randn((40, 20), generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = pyro.poutine.trace(models.multivariate_heteroscedastic).get_trace(x, y)
    assert torch.isfinite(trace.log_prob_sum())
    factor = trace.nodes["y"]["fn"].scale_tril
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert torch.isfinite(torch.linalg.inv(factor)).all()


# What a user meets.


def test_labels_are_the_names_of_the_responses_and_come_back_from_disk(tmp_path):
    _, x, y = problem("mvn2_iris_sdcorr")
    for model in (models.multivariate_gaussian, models.multivariate_heteroscedastic):
        fit = fitted(model, "mvn2_iris_sdcorr")
        again = load(save(fit, tmp_path / model.__name__))
        assert ("mean[Sepal_Width]", "PL_c") in summary(fit).index
        assert list(summary(again).index) == list(summary(fit).index)
        torch.testing.assert_close(
            predict(again, x).covariance_matrix, predict(fit, x).covariance_matrix, rtol=0, atol=0
        )
    unnamed = mle(models.multivariate_gaussian, x, y.to_numpy())
    assert ("mean[1]", "PL_c") in summary(unnamed).index
    assert covariance(unnamed).shape == (7, 7)


def test_log_likelihood_row_by_row():
    _, x, y = problem("mvn2_iris_sdcorr")
    fit = fitted(models.multivariate_heteroscedastic, "mvn2_iris_sdcorr")
    assert log_likelihood(fit, x, y).shape == (150,)
    assert -log_likelihood(fit, x, y).sum().item() == pytest.approx(fit.nll, rel=1e-12)


def test_covariance_of_x_comes_back_from_a_network():
    _, x, y = problem("mvn2_iris_sdcorr")
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh())
    net = on_features(models.multivariate_heteroscedastic, trunk)
    with pytest.warns(ConvergenceWarning):
        fit = map_estimate(net, x, y, solver=LBFGS(max_steps=4))
    matrix = predict(fit, x).covariance_matrix
    assert matrix.shape == (150, 2, 2)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()
    assert matrix.std(dim=0).min() > 0


def test_priors_shrink_correlations():
    _, x, y = problem("mvn2_iris_sdcorr")
    few_x, few_y = x.iloc[::15], y.iloc[::15]
    free, held = (f(models.multivariate_gaussian, few_x, few_y) for f in (mle, map_estimate))
    rho = [f.params["correlation_cholesky"][1, 0].abs().item() for f in (free, held)]
    assert rho[1] < rho[0]
    assert held.nll > free.nll


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (np.ones(5), DataError, r"shape \(rows, components\); it has \(5,\)"),
        (np.full((5, 2), np.nan), DataError, "NaN"),
        (np.ones((4, 2)), DataError, "4 rows"),
    ],
)
def test_wrong_responses(y, error, match):
    with pytest.raises(error, match=match):
        mle(models.multivariate_gaussian, np.empty((5, 0)), y)


def test_without_a_response_the_dimensions_are_asked_for():
    with pytest.raises(ModelError, match=r"read `dimensions` from.*functools.partial\(multivariate_gaussian"):
        models.multivariate_gaussian(torch.zeros(3, 1))


def test_density_is_scipys():
    generator = torch.Generator().manual_seed(1)
    factor = torch.linalg.cholesky(torch.eye(3).double() + 0.5)
    value = torch.randn((6, 3), generator=generator, dtype=torch.float64)
    ours = MultivariateNormal(torch.zeros(3).double(), scale_tril=factor).log_prob(value)
    theirs = scipy.stats.multivariate_normal.logpdf(value, cov=(factor @ factor.T).numpy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    many = MultivariateNormal(torch.zeros(6, 3).double(), scale_tril=factor.expand(6, 3, 3).clone())
    np.testing.assert_allclose(many.log_prob(value), theirs, rtol=1e-12)


def test_the_loss_by_hand_is_the_density_with_three_components():
    generator = torch.Generator().manual_seed(4)
    mean, y, log_scale, partial = torch.randn((4, 5, 3), generator=generator, dtype=torch.float64)
    r10, r20, r21 = torch.tanh(partial).T
    r = r10 * r20 + r21 * ((1 - r10**2) * (1 - r20**2)).sqrt()  # the definition of a partial correlation
    one = torch.ones_like(r)
    correlation = torch.stack([one, r10, r20, r10, one, r, r20, r, one], dim=-1).reshape(5, 3, 3)
    scale = log_scale.exp()
    covariance_ = scale[:, :, None] * correlation * scale[:, None, :]
    expected = [
        -scipy.stats.multivariate_normal.logpdf(*row)
        for row in zip(y.numpy(), mean.numpy(), covariance_.numpy(), strict=True)
    ]
    found = losses.multivariate_heteroscedastic_nll(mean, y, log_scale, partial, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_covariance_of_few_rows_that_the_mean_follows_is_given_up_soon():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)
    with pytest.raises(UnboundedLikelihoodError, match="spread of rows 3, 5, 7 falls faster"):
        mle(models.multivariate_heteroscedastic, x, y)
    with pytest.warns(ConvergenceWarning, match="follows"):
        found = map_estimate(models.multivariate_heteroscedastic, x, y)
    assert not found.converged
    assert found.n_iter <= 40  # it took 200
    assert "of 8 rows" in found.status
    assert "(row " in found.status


def test_spreads_over_many_powers_of_ten_are_fitted():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    found = mle(models.multivariate_heteroscedastic, x, torch.exp(7 * x) * noise)
    factor = predict(found, x).scale_tril[:, 0, 0]
    assert factor.min() < 1e-5 * factor.max()  # as small a share as that of rows which are followed
    assert found.converged


@pytest.mark.parametrize("name", ["correlation_cholesky", "dependence"])
def test_correlations_are_shown_whatever_the_site_of_their_factor_is_called(name):
    """The ending of the name decided: other factors were listed entry by entry, with standard errors of 0."""

    def model(x, y=None):
        mean = linear("mean", x, outputs=2)
        scale = pyro.sample("scale", dist.Exponential(torch.ones(2).double()).to_event(1))
        factor = pyro.sample(name, dist.LKJCholesky(2, torch.ones(()).double()))
        with rows(x):
            return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=scale[:, None] * factor), obs=y)

    x, noise = torch.zeros(30, 0).double(), torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    y = (noise @ torch.tensor([[1.0, 0.6], [0.0, 0.8]])).double()
    fit = mle(model, x, y)
    table = summary(fit)
    shown = table.loc[
        (name.removesuffix("_cholesky"), "0,1" if ("correlation", "0,1") in table.index else "1,0")
    ]
    assert shown["estimate"] == pytest.approx(np.corrcoef(y.T)[0, 1], abs=1e-5)
    assert -1 < shown["lower"] < shown["estimate"] < shown["upper"] < 1
    assert len(table) == 5


def test_a_matrix_whose_name_ends_as_that_of_a_factor_is_listed_by_its_entries():
    def model(x, y=None):
        slopes = pyro.sample("shift_cholesky", dist.Normal(torch.zeros(2, 2).double(), 9.0).to_event(2))
        with rows(x):
            return pyro.sample("y", dist.Normal(slopes.sum(0), 1.0).to_event(1), obs=y)

    y = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    table = summary(map_estimate(model, torch.zeros(30, 0).double(), y))
    assert len(table) == 4
