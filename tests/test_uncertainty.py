"""Uncertainty around the optimum: standard errors of other software, closed forms, and what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pyro
import pytest
import scipy.stats
import torch
from quadrature import panels
from reference import CASES, fitted, label, problem, table

from neglog import (
    bootstrap,
    censored,
    covariance,
    distributions,
    map_estimate,
    mle,
    models,
    predict,
    summary,
    with_priors,
)
from neglog.distributions.family import REGISTERED, family_of
from neglog.empirical import EmpiricalDistribution
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.labels import jacobian
from neglog.predictors import linear, positive, rows
from neglog.reports import estimates_html, estimates_latex, estimates_text
from neglog.tracing import Run, run
from neglog.uncertainty.sparsity import reach_of

CASE = 1e-7
"""Relative: the references come from solvers that stop at 1e-8 of a standard error, or sum series to 1e-8."""
EXACT = 1e-9
"""Relative: closed forms, beside optima that are exact to 1e-9 standard errors."""
TABLED = [
    (name, kind)
    for name, case in CASES.items()
    for kind in ("observed", "sandwich", "expected")
    if case["family"] != "mvn"  # held in test_vectors.py
    if any(parameter.get(f"se_{kind}") is not None for parameter in case.get("params", []))
]


def errors(fit, kind="observed", **settings):
    matrix = covariance(fit, kind, **settings)
    return pd.Series(np.sqrt(np.diag(matrix)), index=matrix.index)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_model():
    """The design with its column of ones, the residuals and sigma of a Gaussian case."""
    case = problem("gauss_cars")
    design = np.column_stack([np.ones(len(case.y)), case.x["mean"]])
    residuals = case.y.to_numpy() - design @ np.linalg.lstsq(design, case.y, rcond=None)[0]
    return fitted("gauss_cars"), design, residuals


COEFFICIENTS = [("mean", "Intercept"), ("mean", "speed")]


@pytest.mark.parametrize(("name", "kind"), TABLED, ids=lambda value: value)
def test_every_standard_error_meets_the_reference(name, kind):
    found, case = errors(fitted(name), kind), CASES[name]
    for parameter in case["params"]:
        known = parameter.get(f"se_{kind}")
        if known is not None:
            # A score of 0 is a difference of numbers of order one, so its square root is of order 1e-8.
            assert found[label(parameter["name"], case)] == pytest.approx(
                known, rel=CASE, abs=1e-7 * (known == 0)
            )


BLOCKS = [
    *[("heteroscedastic", kind) for kind in ("opg", "sandwich", "expected")],
    *[("poisson", kind) for kind in ("HC2", "HC3", "cluster", "expected")],
    ("multivariate_gaussian", "sandwich"),
    *[("laplace", kind) for kind in ("observed", "iid", "kernel")],
]


@pytest.mark.parametrize(("name", "kind"), BLOCKS)
def test_blocks_of_rows_add_up_to_the_whole(name, kind, monkeypatch):
    x, noise = normal(60, 2), normal(60, 2, seed=1)
    y = {"poisson": (x[:, 0] + noise[:, 0]).exp().round(), "multivariate_gaussian": noise}
    weights = 1 + torch.arange(60.0) % 3
    fit = mle(getattr(models, name), x, y.get(name, x[:, 0] + noise[:, 0]), weights=weights)
    groups = [np.arange(60) // 7, np.arange(60) % 5]
    settings = {"groups": groups} if kind == "cluster" else {}
    whole = covariance(fit, kind, **settings)
    monkeypatch.setattr("neglog.uncertainty.information.MAX_SCORE_ENTRIES", 13 * fit.k)
    np.testing.assert_allclose(covariance(fit, kind, **settings), whole, rtol=EXACT, atol=1e-14)


def test_sigma_has_the_textbook_standard_error():
    fit, _, residuals = linear_model()
    sigma = (residuals @ residuals / 50) ** 0.5
    assert errors(fit)["sigma", ""] == pytest.approx(sigma / 100**0.5, rel=EXACT)


@pytest.mark.parametrize("kind", ["HC0", "HC1", "HC2", "HC3"])
def test_heteroscedasticity_consistent_errors_are_those_of_least_squares(kind):
    fit, design, residuals = linear_model()
    inverse = np.linalg.inv(design.T @ design)
    left = 1 - np.einsum("ij,jk,ik->i", design, inverse, design)
    shares = {"HC0": 1.0, "HC1": 48 / 50, "HC2": left, "HC3": left**2}[kind]
    expected = inverse @ (design.T * (residuals**2 / shares)) @ design @ inverse
    found = covariance(fit, kind).loc[COEFFICIENTS, COEFFICIENTS]
    np.testing.assert_allclose(found, expected, rtol=EXACT)


def test_outer_product_of_gradients():
    fit, design, residuals = linear_model()
    sigma = fit.params["sigma"].item()
    scores = np.column_stack([design * residuals[:, None] / sigma**2, residuals**2 / sigma**3 - 1 / sigma])
    order = [*COEFFICIENTS, ("sigma", "")]
    found = covariance(fit, "opg").loc[order, order]
    np.testing.assert_allclose(found, np.linalg.inv(scores.T @ scores), rtol=1e-8)


def clustered(design, residuals, codes):
    sums = np.stack([(design * residuals[:, None])[codes == code].sum(0) for code in np.unique(codes)])
    count, (rows, width) = len(sums), design.shape
    factor = count / (count - 1) * (rows - 1) / (rows - width)
    inverse = np.linalg.inv(design.T @ design)
    return factor * inverse @ sums.T @ sums @ inverse


def test_clusters_have_a_finite_sample_factor():
    fit, design, residuals = linear_model()
    codes = np.arange(50) // 5
    found = covariance(fit, "cluster", groups=codes).loc[COEFFICIENTS, COEFFICIENTS]
    np.testing.assert_allclose(found, clustered(design, residuals, codes), rtol=EXACT)
    # statsmodels 0.15: OLS(...).get_robustcov_results("cluster", groups=...).bse
    np.testing.assert_allclose(np.sqrt(np.diag(found)), [7.74827394, 0.6035316], rtol=1e-8)


def test_several_groupings_are_added_and_subtracted():
    fit, design, residuals = linear_model()
    one, other = np.arange(50) // 5, np.arange(50) % 7
    expected = (
        clustered(design, residuals, one)
        + clustered(design, residuals, other)
        - clustered(design, residuals, one * 7 + other)
    )
    names = pd.DataFrame({"one": one.astype(str), "other": other})
    for groups in ([one, other], names, np.stack([one, other], axis=1)):
        found = covariance(fit, "cluster", groups=groups).loc[COEFFICIENTS, COEFFICIENTS]
        np.testing.assert_allclose(found, expected, rtol=EXACT)


@pytest.mark.parametrize("kind", ["observed", "expected", "opg", "HC1", "HC3", "cluster"])
def test_weight_two_is_the_row_twice(kind):
    x, mean = normal(30, 2), models.poisson
    y = torch.poisson(torch.exp(0.5 + 0.3 * x[:, 0]), generator=torch.Generator().manual_seed(1))
    weights = 1 + torch.arange(30.0) % 3
    twice = torch.arange(30).repeat_interleave(weights.long())
    groups = np.arange(30) // 4
    settings = ({"groups": groups}, {"groups": groups[twice]}) if kind == "cluster" else ({}, {})
    one = covariance(mle(mean, x, y, weights=weights), kind, **settings[0])
    other = covariance(mle(mean, x[twice], y[twice]), kind, **settings[1])
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-12)


def test_weights_of_a_quantile_are_rows_too():
    x, y = normal(40, 1), normal(40, seed=1)
    weights = 1 + torch.arange(40.0) % 2
    twice = torch.arange(40).repeat_interleave(weights.long())
    for kind in ("observed", "iid", "kernel"):
        one = covariance(mle(models.laplace, x, y, weights=weights), kind)
        other = covariance(mle(models.laplace, x[twice], y[twice]), kind)
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-12)


def engel(tau, **settings):
    data = table("engel")
    x, y = data[["income"]], data["foodexp"]
    fit = mle(partial(models.quantile, tau=tau), x, y)
    design = np.column_stack([np.ones(len(y)), x])
    line = np.array([fit.params["quantile.bias"].item(), fit.params["quantile.weight"].item()])
    return fit, design, y.to_numpy() - design @ line


def bandwidth(tau, n, kind):
    """Koenker's bandwidth.rq, in SciPy's words."""
    at, density = scipy.stats.norm.ppf(tau), scipy.stats.norm.pdf(scipy.stats.norm.ppf(tau))
    if kind == "bofinger":
        return n**-0.2 * (4.5 * density**4 / (2 * at**2 + 1) ** 2) ** 0.2
    return (
        n ** (-1 / 3)
        * scipy.stats.norm.ppf(0.975) ** (2 / 3)
        * (1.5 * density**2 / (2 * at**2 + 1)) ** (1 / 3)
    )


@pytest.mark.parametrize("kind", ["hall-sheather", "bofinger"])
@pytest.mark.parametrize("tau", [0.25, 0.5])
def test_quantiles_have_koenkers_and_powells_covariance(tau, kind):
    fit, design, residuals = engel(tau)
    h = bandwidth(tau, 235, kind)
    assert reach_of(tau, 235.0, kind) == pytest.approx(h, rel=1e-12)
    gram, order = design.T @ design, [("quantile", "Intercept"), ("quantile", "income")]
    low, high = np.quantile(residuals, [tau - h, tau + h])
    iid = tau * (1 - tau) * ((high - low) / (2 * h)) ** 2 * np.linalg.inv(gram)
    found = covariance(fit, "iid", bandwidth=kind)
    np.testing.assert_allclose(found.loc[order, order], iid, rtol=1e-7)
    spread = min(residuals.std(ddof=1), np.subtract(*np.quantile(residuals, [0.75, 0.25])) / 1.34)
    width = (scipy.stats.norm.ppf(tau + h) - scipy.stats.norm.ppf(tau - h)) * spread
    density = scipy.stats.norm.pdf(residuals / width) / width
    bread = np.linalg.inv(design.T @ (density[:, None] * design))
    found = covariance(fit, "kernel", bandwidth=kind)
    np.testing.assert_allclose(found.loc[order, order], tau * (1 - tau) * bread @ gram @ bread, rtol=1e-7)
    # The scale is a mean over the rows, and has the standard error of one.
    losses = residuals * (tau - (residuals < 0))
    assert found.loc[("scale", ""), ("scale", "")] == pytest.approx(losses.var() / 235, rel=1e-9)
    assert found.attrs["cov_type"] == "kernel"
    assert covariance(fit, "sandwich", bandwidth=kind).equals(found)


def test_a_bandwidth_stays_between_zero_and_one():
    assert 0.95 + reach_of(0.95, 20.0, "bofinger") < 1


def test_weighted_quantiles_are_those_of_repeated_rows():
    values, weights = normal(9), torch.tensor([1.0, 2.0, 3.0] * 3)
    twice = np.repeat(values.numpy(), weights.int().numpy())
    for share in (0.0, 0.1, 0.37, 0.5, 0.99, 1.0):
        found = EmpiricalDistribution(values, weights).interpolated([share]).item()
        assert found == pytest.approx(np.quantile(twice, share), abs=1e-12)
        step = EmpiricalDistribution(values, weights).quantile(share).item()
        assert step == np.quantile(twice, share, method="inverted_cdf")


AT = {
    "Normal": (0.3, 1.7), "Laplace": (0.3, 1.7), "Logistic": (0.3, 1.7), "AsymmetricLaplace": (0.3, 1.7),
    "StudentT": (4.5, 0.3, 1.7), "Poisson": (2.5,), "NegativeBinomial2": (2.5, 0.8), "Bernoulli": (0.7,),
    "Binomial": (0.7,), "LogNormal": (0.3, 0.6), "Gamma": (2.5, 1.3), "Weibull": (1.5, 2.2),
    "InverseGaussian": (1.4, 2.3), "Beta": (3.5, 4.5),
}  # fmt: skip
FIXED = {"AsymmetricLaplace": {"tau": 0.3}, "Binomial": {"total_count": 7.0}}


def test_every_family_of_expected_information_is_checked():
    assert {kind.__name__ for kind, family in REGISTERED.items() if family.information} == set(AT)


@pytest.mark.parametrize("name", AT)
def test_expected_information_is_the_mean_square_of_the_score(name):
    kind = getattr(distributions, name)
    parameters, entries = REGISTERED[kind].parameters, REGISTERED[kind].information
    names = ("mean", "shape") if name == "InverseGaussian" else parameters
    at = torch.tensor(AT[name], dtype=torch.float64)
    fixed = {key: torch.tensor([value], dtype=torch.float64) for key, value in FIXED.get(name, {}).items()}

    def squares(y):
        leaf = at[:, None].expand(-1, len(y)).clone().requires_grad_()
        log_density = kind(**dict(zip(names, leaf, strict=True)), **fixed).log_prob(y)
        (score,) = torch.autograd.grad(log_density.sum(), leaf)
        return (log_density.exp() * score[:, None] * score).detach()

    fn = kind(**dict(zip(names, at[:, None], strict=True)), **fixed)
    if fn.support.is_discrete:
        last = int(fixed.get("total_count", 1 + 80 * (name[0] in "PN")))
        total = squares(torch.arange(1 + last, dtype=torch.float64)).sum(-1)
    else:
        real = fn.support.lower_bound if hasattr(fn.support, "lower_bound") else -2000.0
        y, weights = panels(float(real), float(getattr(fn.support, "upper_bound", 2000.0)))
        total = squares(y) @ weights
    found = np.zeros((len(at), len(at)))
    for (a, b), entry in entries(fn, *at[:, None]).items():
        found[a, b] = found[b, a] = float(entry)
    np.testing.assert_allclose(found, total, rtol=1e-6, atol=1e-7)


def test_the_bootstrap_is_the_one_of_its_name():
    fit = fitted("gauss_cars")
    again = bootstrap(fit, 50, seed=3).covariance()
    found = covariance(fit, "bootstrap", draws=50, seed=3)
    np.testing.assert_allclose(found, again.loc[found.index, found.columns])


@pytest.mark.parametrize(
    ("kind", "settings", "error", "message"),
    [
        ("robust", {}, ModelError, "`cov_type` must be one of 'observed'"),
        ("cluster", {}, DataError, "needs `groups`"),
        ("HC1", {"groups": np.arange(50)}, DataError, "does not use `groups`"),
        ("cluster", {"groups": np.arange(3)}, DataError, "one entry for each of 50 rows"),
        ("kernel", {}, ModelError, "this loss is smooth"),
    ],
)
def test_kinds_that_cannot_be_had(kind, settings, error, message):
    with pytest.raises(error, match=message):
        covariance(fitted("gauss_cars"), kind, **settings)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("hetero_cars", "HC3", "need leverages"),
        ("laplace_engel", "HC1", "not defined for a loss with corners"),
        ("laplace_engel", "opg", "not defined for a loss with corners"),
        ("ridge_bern_birthwt", "sandwich", "this fit has priors"),
        ("lasso_pois_insurance", "observed", "prior with corners"),
        ("laplace_engel", "iid", "`bandwidth` must be"),
    ],
)
def test_models_that_a_kind_is_not_for(name, kind, message):
    settings = {"bandwidth": "wide"} if kind == "iid" else {}
    with pytest.raises(ModelError, match=message):
        covariance(fitted(name), kind, **settings)


def test_a_row_that_decides_a_coefficient_alone_is_named():
    x, y = torch.zeros(8, 1, dtype=torch.float64), normal(8)
    x[3] = 1.0
    with pytest.raises(ModelError, match="row 3 has a leverage of 1"):
        covariance(mle(models.gaussian, x, y), "HC2")


def test_what_is_not_identified_is_named():
    """Two constants of which only the product counts; the fit is taken as it is, not as a solver found it."""
    from dataclasses import replace

    import pyro.distributions as dist

    from neglog.predictors import linear, rows

    def product(x, y=None):
        mean = linear("mean", x)
        one, other = (pyro.sample(name, dist.LogNormal(mean.new_zeros(()), 1.0)) for name in ("one", "other"))
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, one * other), obs=y)

    x, y = normal(20, 1), normal(20, seed=1)
    one = mle(pyro.condition(product, {"one": torch.tensor(1.0, dtype=torch.float64)}), x, y)
    from neglog import flat
    from neglog.objective.coordinates import rescaled
    from neglog.objective.objective import Objective

    objective = Objective(flat(product), one.objective.data)
    params = {"one": torch.tensor(1.0, dtype=torch.float64), **one.params}
    coordinates = rescaled(objective, objective.layout.theta(params))
    loose = replace(one, params=params, objective=objective, coordinates=coordinates, k=4)
    with pytest.raises(ModelError, match="singular at the optimum along `one` and `other`"):
        covariance(loose)


# The table


def test_the_table_says_what_it_is():
    fit = fitted("gauss_cars")
    found = summary(fit)
    facts = {
        "nll",
        "loss",
        "aic",
        "aicc",
        "bic",
        "n",
        "k",
        "converged",
        "status",
        "level",
        "interval",
        "cov_type",
        "kind",
    }
    assert set(found.attrs) == facts
    assert found.attrs["cov_type"] == "observed"
    assert found.attrs["aicc"] == pytest.approx(fit.aic + 2 * 3 * 4 / (50 - 3 - 1))
    assert list(found) == ["estimate", "std_error", "z", "p_value", "lower", "upper"]
    assert summary(fitted("laplace_engel")).attrs["cov_type"] == "expected"
    alone = summary(fitted("lasso_pois_insurance"))
    assert alone["std_error"].isna().all()
    assert "corners" in alone.attrs["reason"]


def test_each_row_of_the_table_has_the_error_of_its_own_number():
    """A table begins with the intercepts, and a covariance with the weights."""
    x, y = normal(40, 3), normal(40, seed=1)
    fit = mle(models.heteroscedastic, {"mean": x, "log_variance": x[:, :1]}, y)
    matrix, found = covariance(fit), summary(fit)
    assert list(found.index) != list(matrix.index)
    for row, error in found["std_error"].items():
        assert error == matrix.loc[row, row] ** 0.5


def test_few_rows_have_an_infinite_aicc():
    fit = mle(models.gaussian, normal(4, 1), normal(4, seed=1))
    assert fit.aicc == np.inf


@pytest.mark.parametrize("kind", ["sandwich", "HC3", "bootstrap"])
def test_the_table_has_the_kind_that_was_asked_for(kind):
    fit = fitted("gauss_cars")
    settings = {"draws": 50} if kind == "bootstrap" else {}
    found, wanted = summary(fit, cov_type=kind, **settings), errors(fit, kind, **settings)
    np.testing.assert_allclose(found["std_error"], wanted.loc[found.index], rtol=1e-12)
    reach = scipy.stats.norm.ppf(0.975) * wanted["sigma", ""] / fit.params["sigma"].item()
    assert found.loc[("sigma", ""), "upper"] == pytest.approx(fit.params["sigma"].item() * np.exp(reach))


def test_a_kind_that_was_asked_for_is_not_dropped_in_silence():
    with pytest.raises(ModelError, match="this fit has priors"):
        summary(fitted("ridge_bern_birthwt"), cov_type="sandwich")


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_profiles_of_a_normal_sample_are_known(level):
    # 2 log LR is n log(1 + t² / (n - p)) for a coefficient, n (r - 1 - log r) for sigma, r its squared ratio.
    fit, design, residuals = linear_model()
    found, quantile = summary(fit, level=level, interval="profile"), scipy.stats.chi2.ppf(level, 1)
    t = (48 * np.expm1(quantile / 50)) ** 0.5
    ordinary = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (residuals @ residuals) / 48)
    for label_, error in zip(COEFFICIENTS, ordinary, strict=True):
        row = found.loc[label_]
        np.testing.assert_allclose(
            row[["lower", "upper"]], row["estimate"] + t * error * np.array([-1, 1]), rtol=1e-6
        )
    sigma = found.loc[("sigma", "")]
    for end in (sigma["lower"], sigma["upper"]):
        ratio = (sigma["estimate"] / end) ** 2
        assert 50 * (ratio - 1 - np.log(ratio)) == pytest.approx(quantile, rel=1e-6)
    assert sigma["lower"] < sigma["estimate"] < sigma["upper"]
    assert found.attrs["interval"] == "profile"


def test_profiles_of_a_poisson_model_are_those_of_refits():
    fit, case = fitted("pois_warpbreaks_weighted"), problem("pois_warpbreaks_weighted")
    found = summary(fit, interval="profile")
    x, quantile = case.x["log_rate"], scipy.stats.chi2.ppf(0.95, 1)
    for end in ("lower", "upper"):
        bias = torch.tensor(found.loc[("log_rate", "Intercept"), end], dtype=torch.float64)
        held = mle(pyro.condition(models.poisson, {"log_rate.bias": bias}), x, case.y, **case.keywords)
        assert 2 * (held.nll - fit.nll) == pytest.approx(quantile, rel=1e-5)


def test_an_open_profile_ends_at_the_border():
    # The likelihood of a Student's df rises to that of the Normal as it grows, and stays there.
    x, y = normal(60, 1), scipy.stats.t(5).ppf((np.arange(60) + 0.5) / 60)
    fit = mle(models.student_t, x, y)
    found = summary(fit, interval="profile").loc[("df", "")]
    assert 0 < found["lower"] < found["estimate"] < found["upper"] == np.inf


@pytest.mark.parametrize("name", ["laplace_engel", "ridge_bern_birthwt"])
def test_profiles_that_there_are_not(name):
    with pytest.raises(ModelError, match=r"profile.*smooth"):
        summary(fitted(name), interval="profile")


def test_bound_numbers_have_no_profile():
    y = torch.tensor([0.0, 1.0, 2.0] * 6, dtype=torch.float64)
    fit = mle(models.ordinal, normal(18, 1), y)
    found = summary(fit, interval="profile")
    assert found.loc["cutpoints", ["lower", "upper"]].isna().all(axis=None)
    assert "`cutpoints` constrain each other" in found.attrs["reason"]
    assert found.loc[("location", "x0"), "lower"] < found.loc[("location", "x0"), "estimate"]
    assert np.isfinite(found.loc[("location", "x0"), ["lower", "upper"]].to_numpy(float)).all()
    with pytest.raises(ModelError, match="`interval` must be"):
        summary(fit, interval="likelihood")


def test_a_censored_density_has_no_closed_information():
    x, y = normal(30, 1), normal(30, seed=1).clamp_min(0.0)
    fit = mle(censored(models.gaussian, lower=0.0), x, y)
    with pytest.raises(ModelError, match="is not known"):
        covariance(fit, "expected")
    assert (errors(fit, "sandwich") > 0).all()


def test_a_posterior_has_its_curvature_alone():
    fit = map_estimate(models.gaussian, normal(20, 1), normal(20, seed=1))
    assert summary(fit).attrs["cov_type"] == "observed"
    with pytest.raises(ModelError, match="curvature of its posterior"):
        covariance(fit, "cluster", groups=np.arange(20))


# The table on paper


def test_the_labels_of_classes_are_in_the_table():
    labels = np.array(["low", "mid", "high"])[np.arange(30) % 3]
    text = estimates_text(summary(mle(models.categorical, normal(30, 1), labels)))
    assert "logit[low]" in text
    assert "logit[mid]" in text


def test_the_table_is_written_as_text_html_and_latex():
    x = pd.DataFrame({"a_1 & <b>": normal(20)})
    table_ = summary(mle(models.gaussian, x, normal(20, seed=1)), level=0.9)
    text, html, latex = (write(table_) for write in (estimates_text, estimates_html, estimates_latex))
    for written in (text, html, latex):
        assert f"{table_['estimate'].iloc[0]:.5g}" in written
        assert "90" in written
    assert "a_1 & <b>" in text
    assert "<td>a_1 &amp; &lt;b&gt;</td>" in html
    body, foot = html.split("<tfoot>")
    assert body.count("<tr>") == 4
    assert foot.count("<tr>") == 2
    assert r"a\_1 \& $<$b$>$" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    below = [row for row in rows if row.startswith(r"\multicolumn{8}{l}{")]
    assert rows[-2:] == below
    assert {row.replace(r"\&", "").count("&") for row in rows[:-2]} == {7}
    assert len(rows) == 6
    for written in (text, html, latex):  # what a paper says below its table
        for name in ("nll", "aic", "aicc", "bic"):
            assert f"= {table_.attrs[name]:.5g}" in written
        assert "n = 20, k = 3, NLL" in written
        assert "standard errors: observed; intervals: wald, 90" in written


def test_a_table_without_errors_says_why():
    lasso = with_priors(models.gaussian, {"mean.weight": pyro.distributions.Laplace(torch.zeros(1), 0.1)})
    table_ = summary(map_estimate(lasso, normal(20, 1), normal(20, seed=1)))
    assert (
        estimates_text(table_)
        .splitlines()[-1]
        .startswith("standard errors: none, since a prior with corners")
    )


def classed(kind, rows=90):
    x = normal(rows, 2)
    noise = torch.rand(rows, generator=torch.Generator().manual_seed(5), dtype=torch.float64).logit()
    y = torch.bucketize(x[:, 0] + noise, torch.tensor([-0.7, 0.8], dtype=torch.float64)).double()
    return mle(kind, x, y), x, y


def test_the_expected_information_of_a_multinomial_logit_is_the_observed_one():
    fit, _, _ = classed(models.categorical)
    np.testing.assert_allclose(covariance(fit, "expected"), covariance(fit), rtol=1e-9)


def test_the_expected_information_of_classes_is_the_mean_of_the_products_of_scores():
    # Σ over rows and classes of P(y = k) s s', with the scores of all rows at class k by the opg of a fit.
    fit, x, _ = classed(models.ordinal)
    objective = fit.objective
    theta = objective.layout.theta(fit.params)
    probabilities = predict(fit, x).probs
    total = torch.zeros(len(theta), len(theta)).double()
    for k in range(3):
        data = replace(objective.data, y=torch.full((90,), float(k)).double())

        def terms(t, data=data):
            return run(objective.model, data, Run(objective.layout.params(t))).log_prob("y")

        scores = torch.autograd.functional.jacobian(terms, theta)
        total += scores.T @ (probabilities[:, k, None] * scores)
    slopes = jacobian(objective.layout, theta)
    exact = slopes @ torch.linalg.inv(total) @ slopes.T
    np.testing.assert_allclose(covariance(fit, "expected"), exact, rtol=1e-7)
    assert not np.allclose(covariance(fit, "expected"), covariance(fit), rtol=1e-4)


@pytest.mark.parametrize("family", [pyro.distributions.Normal, torch.distributions.Normal])
def test_the_normal_of_pyro_and_torch_has_the_expected_information_of_neglogs(family):
    def model(x, y=None):
        mean, sigma = linear("mean", x), positive("sigma", x)
        with rows(x):
            return pyro.sample("y", family(mean, sigma), obs=y)

    x, y = normal(30, 1), normal(30, seed=1)
    if family is torch.distributions.Normal:
        fn = family(torch.zeros(3), torch.ones(3))
        assert family_of(fn) is family_of(pyro.distributions.Normal(0.0, 1.0)) is not None
        return
    ours, theirs = (covariance(mle(each, x, y), "expected") for each in (models.gaussian, model))
    np.testing.assert_allclose(theirs, ours, rtol=1e-9)


def test_a_fraction_of_a_row_has_no_leverage_by_its_weight_and_not_by_its_place():
    x, y = normal(20, 1), normal(20, seed=1)
    x[3] = 40.0
    weights = torch.ones(20)
    weights[3] = 0.001
    with pytest.raises(ModelError, match=r"row 3 has a weight of 0\.001, less than one"):
        covariance(mle(models.gaussian, x, y, weights=weights), "HC2")


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (models.negative_binomial, torch.tensor([3.0, 2.0, 3.0, 2.0] * 10)),
        (models.zero_inflated_poisson, torch.tensor([3.0, 2.0, 4.0, 2.0] * 10)),
    ],
    ids=["negative_binomial", "zero_inflated"],
)
def test_a_fit_at_a_border_has_all_columns_and_a_reason(model, y):
    with pytest.warns(ConvergenceWarning, match="border"):
        fit = mle(model, torch.empty(40, 0), y)
    found = summary(fit)
    assert list(found.columns) == ["estimate", "std_error", "z", "p_value", "lower", "upper"]
    assert found.drop(columns="estimate").isna().all(axis=None)
    assert "largest at the border" in found.attrs["reason"]


@pytest.mark.parametrize("interval", ["wald", "profile"])
def test_the_table_of_a_fit_at_its_border_has_its_columns(interval):
    x = np.random.default_rng(3).standard_normal((200, 2))
    y = np.random.default_rng(4).binomial(30, 0.05, 200)
    with pytest.warns(ConvergenceWarning):
        fit = mle(models.negative_binomial, x, y)
    table = summary(fit, interval=interval)
    assert table[["std_error", "lower", "upper"]].isna().all().all()
    assert "dispersion" in table.attrs["reason"]
