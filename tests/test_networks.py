"""Networks: standard errors of their heads, and Laplace's approximation of all their weights."""

import json
import math
import pickle
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from neglog import (
    covariance,
    datasets,
    distributions,
    laplace_approximation,
    log_likelihood,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    summary,
    wald_test,
    with_priors,
)
from neglog.distributions.averaged import Averaged
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.networks.network import linear_layers, network_of, row_curvature
from neglog.predictors import linear, positive, rows
from neglog.solvers import LBFGS
from neglog.tracing import Run, run

EXACT = 1e-7
"""Relative: optima that are exact to 1e-9 standard errors, through matrices of condition 100."""
STRUCTURES = ("last_layer", "diagonal", "kronecker", "full")

pytestmark = pytest.mark.usefixtures("seeded")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


X = normal(60, 2)
MEAN = 0.5 + X @ tensor([0.6, -0.3])
Y = {
    "gaussian": MEAN + 0.3 * normal(60, seed=1),
    "heteroscedastic": MEAN + torch.exp(0.3 * X[:, 0]) * normal(60, seed=1),
    "poisson": torch.poisson(MEAN.exp(), generator=torch.Generator().manual_seed(1)),
    "negative_binomial": torch.poisson(
        MEAN.exp() * normal(60, seed=2).exp(), generator=torch.Generator().manual_seed(1)
    ),
    "student_t": MEAN + tensor(np.random.default_rng(0).standard_t(3, 60)),
}


def trunk(*sizes, seed=0):
    """A network of tanh layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.Tanh())]
        return nn.Sequential(*parts)


@cache
def fitted(name="gaussian", steps=60, sizes=(2, 4), estimate=mle):
    """A network after a few steps: at no optimum of its own."""
    net = on_features(getattr(models, name), trunk(*sizes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimate(net, X, Y[name], solver=LBFGS(max_steps=steps))


def given_features(fit):
    """A fit of the heads alone."""
    weights = {site: value for site, value in fit.params.items() if site.startswith("trunk")}
    return mle(pyro.condition(fit.model, weights), X, fit.objective.data.y)


def one_layer(bias=False, **conditions):
    """A linear model that is written as a network: one layer, whose output is the predictor."""
    held = {"weight": tensor([1.0])} | ({"bias": tensor(0.0)} if bias else {})
    return lambda model, predictor: pyro.condition(
        on_features(model, nn.Linear(2, 1, bias=bias)),
        {f"{predictor}.{part}": value for part, value in held.items()} | conditions,
    )


# Standard errors of the heads


@cache
def heads_alone(name):
    """The network with its heads at their optimum, and the linear model of its features."""
    with torch.no_grad():
        features = on_features(models.gaussian, trunk(2, 4))
        weights = {site.removeprefix("trunk."): v for site, v in fitted(name).params.items()}
        features = torch.func.functional_call(
            features.module, {k: weights[k] for k in features.trainable}, (X,)
        )
    linear = mle(getattr(models, name), features, Y[name])
    return mle_at(given_features(fitted(name)), fitted(name)), linear


@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic", "poisson"])
@pytest.mark.parametrize("kind", ["observed", "HC0", "cluster"])
def test_errors_of_heads_are_those_of_a_linear_model_of_the_features(name, kind):
    settings = {"groups": np.arange(60) // 4} if kind == "cluster" else {}
    found, linear = (covariance(fit, kind, **settings) for fit in heads_alone(name))
    assert not any(parameter.startswith("trunk") for parameter, _ in found.index)
    np.testing.assert_allclose(found, linear, rtol=1e-5, atol=1e-7 * float(linear.to_numpy().max()))
    assert found.attrs["cov_type"] == f"{kind}, given the features"


def mle_at(heads, fit):
    """The network with the heads at their optimum: one step of a solver that hardly moves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = dict(fit.params) | dict(heads.params)
        net = on_features(getattr(models, fit.objective.name), trunk(2, 4))
        return mle(net, X, fit.objective.data.y, start=start, solver=LBFGS(max_steps=0))


def test_the_table_of_a_network_has_its_heads_alone():
    fit = mle_at(given_features(fitted()), fitted())
    table = summary(fit)
    assert table.attrs["cov_type"] == "observed, given the features"
    assert [label[0] for label in table.index] == ["mean.weight"] * 4 + ["mean", "sigma"]
    assert (table["std_error"] > 0).all()
    assert wald_test(fit, "mean[Intercept] = 0").statistic == pytest.approx(
        (table.loc[("mean", "Intercept"), "z"]) ** 2
    )


def test_features_have_no_names_of_columns():
    frame = pd.DataFrame(X.numpy(), columns=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = mle(on_features(models.gaussian, trunk(2, 2)), frame, Y["gaussian"], solver=LBFGS(max_steps=5))
    labels = summary(fit).index
    assert ("mean.weight", "1") in labels
    assert not {("mean", "a"), ("mean", "b")} & set(labels)


def test_heads_of_least_absolute_deviations_are_those_of_a_line():
    net, start = on_features(models.laplace, trunk(2, 3)), fitted(sizes=(2, 3))
    weights = {site: value for site, value in start.params.items() if site.startswith("trunk")}
    heads = mle(pyro.condition(net, weights), X, Y["gaussian"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = mle(net, X, Y["gaussian"], start=weights | dict(heads.params), solver=LBFGS(max_steps=0))
        off = mle(net, X, Y["gaussian"], start=weights, solver=LBFGS(max_steps=0))
    for kind in ("observed", "iid"):
        np.testing.assert_allclose(covariance(fit, kind), covariance(heads, kind), rtol=1e-9)
    with pytest.raises(ModelError, match=r"heads of this network are \S+ standard errors"):
        covariance(off)


def test_heads_that_are_not_at_their_optimum_have_no_errors():
    fit = fitted(steps=2)
    with pytest.raises(ModelError, match=r"heads .* standard errors"):
        covariance(fit)
    assert "heads of this network" in summary(fit).attrs["reason"]
    with pytest.raises(ModelError, match="refit of a network has other features"):
        covariance(fit, "bootstrap")


# The approximation


@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic", "negative_binomial", "student_t"])
def test_the_last_layer_is_the_covariance_of_the_heads(name):
    fit = given_features(fitted(name))
    found = laplace_approximation(fit, "last_layer").parts[0].root
    expected = covariance(fit, "expected")
    heads = [label for label in expected.index if label[1]]
    np.testing.assert_allclose(found @ found.T, expected.loc[heads, heads], rtol=1e-6, atol=1e-9)


def test_one_layer_is_a_linear_model():
    net = one_layer()(models.poisson, "log_rate")
    fit = map_estimate(net, X, Y["poisson"])
    unit = dist.Normal(tensor(0.0), tensor(1.0))
    same = map_estimate(with_priors(models.poisson, {"log_rate.weight": unit}), X, Y["poisson"])
    rows = torch.cat([X, torch.ones(60, 1).double()], dim=1)
    order = [("log_rate", "x0"), ("log_rate", "x1"), ("log_rate", "Intercept")]
    exact = covariance(same).loc[order, order].to_numpy()
    mean, spread = laplace_approximation(fit, "full").linearised(X)
    torch.testing.assert_close(spread[:, 0, 0], ((rows @ tensor(exact)) * rows).sum(1), rtol=EXACT, atol=0)
    torch.testing.assert_close(mean[:, 0].exp(), predict(same, X).mean, rtol=EXACT, atol=0)


@pytest.mark.parametrize("weights", [None, 1 + torch.arange(60.0) % 3])
def test_one_layer_of_a_normal_mean_is_least_squares_in_every_structure_but_one(weights):
    net = one_layer(bias=True)(models.gaussian, "mean")
    fit = mle(net, X, Y["gaussian"], weights=weights, solver=LBFGS(tolerance=1e-11))
    rows = torch.cat([X, torch.ones(60, 1).double()], dim=1)
    mass = torch.ones(60).double() if weights is None else weights.double()
    precision = rows.T @ (mass[:, None] * rows) / fit.params["sigma"] ** 2 + 0.3 * torch.eye(3).double()
    exact = ((rows @ torch.linalg.inv(precision)) * rows).sum(1)
    for structure in ("full", "kronecker"):
        found = laplace_approximation(fit, structure, prior_precision=0.3).linearised(X)[1]
        torch.testing.assert_close(found[:, 0, 0], exact, rtol=1e-6, atol=0)
    alone = laplace_approximation(fit, "diagonal", prior_precision=0.3).linearised(X)[1][:, 0, 0]
    torch.testing.assert_close(alone, (rows.square() / precision.diagonal()).sum(1), rtol=1e-6, atol=0)


def test_jacobians_are_those_of_the_predictors():
    network = network_of(fitted("heteroscedastic", sizes=(2, 3, 4)))
    found = network.jacobian(X[:5], network.weights)
    names = network.weights
    at = tuple(network.values[name] for name in names)
    exact = torch.autograd.functional.jacobian(
        lambda *w: network.predictors(X[:5], dict(zip(names, w, strict=True))), at
    )
    exact = torch.cat([part.reshape(5, 2, -1) for part in exact], dim=2)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)
    heads = predict(fitted("heteroscedastic", sizes=(2, 3, 4)), X[:5])
    torch.testing.assert_close(network.predictors(X[:5])[:, 0], heads.loc)


def test_structures_are_parts_of_one_matrix():
    fit = fitted("heteroscedastic", sizes=(2, 3, 4))
    full, alone = (laplace_approximation(fit, s, prior_precision=1.0) for s in ("full", "diagonal"))
    size = len(alone.parts[0].precisions)
    whole = torch.linalg.inv(full.parts[0].root @ full.parts[0].root.T)
    assert full.parts[0].root.shape[0] == size
    # The constants are in `full` too, and none of a heteroscedastic model.
    torch.testing.assert_close(whole.diagonal(), alone.parts[0].precisions, rtol=1e-6, atol=1e-9)


def test_layers_are_kronecker_products_of_what_goes_in_and_what_comes_back(monkeypatch):
    fit = fitted("heteroscedastic", sizes=(2, 3, 4))
    network = network_of(fit)
    curvature = row_curvature(network, network.objective)[0]
    monkeypatch.setattr("neglog.networks.network.MAX_JACOBIAN_ENTRIES", 7 * network.size(network.heads) * 2)
    (first, second), rows = linear_layers(network)
    assert rows == 60
    # The derivatives in a bias are those in what comes out of its layer.
    back = network.jacobian(X, (second.bias,))
    torch.testing.assert_close(second.outputs, (back.mT @ curvature @ back).sum(0))
    inside = torch.cat([X, torch.ones(60, 1).double()], dim=1)
    torch.testing.assert_close(first.inputs, inside.T @ inside)
    part = laplace_approximation(fit, prior_precision=0.7).parts[0]
    kron = torch.kron(first.outputs, first.inputs) / 60 + 0.7 * torch.eye(9).double()
    jacobian = network.jacobian(X[:4], part.names)
    ordered = torch.cat([jacobian[..., :6].reshape(4, 2, 3, 2), jacobian[..., 6:, None]], -1).flatten(2)
    torch.testing.assert_close(part.covariance(jacobian), ordered @ torch.linalg.inv(kron) @ ordered.mT)


def test_rows_without_known_information_have_their_curvature_where_it_is_positive():
    y = torch.stack([Y["gaussian"], Y["student_t"]], dim=1)
    net = on_features(models.multivariate_heteroscedastic, trunk(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = network_of(mle(net, X, y, solver=LBFGS(max_steps=5)))
    part = network.objective.take(slice(0, 4))
    found, *_ = row_curvature(network, part)

    def nll(etas):
        return -run(part.model, part.data, Run(network.values, etas=network.split(etas))).log_prob("y").sum()

    exact = torch.autograd.functional.hessian(nll, network.predictors(part.data.x))
    exact = torch.stack([exact[n, :, n] for n in range(4)])
    values, vectors = torch.linalg.eigh(exact)
    assert (values[:, 0] < 0).any()
    torch.testing.assert_close(found, vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_doubt_grows_away_from_the_data(structure):
    fit = fitted(estimate=map_estimate, steps=500)
    approximation = laplace_approximation(fit, structure)
    along = torch.linspace(0, 4, 5, dtype=torch.float64)[:, None] * tensor([1.0, 1.0])
    spread = approximation.linearised(along)[1][:, 0, 0]
    assert spread[-1] > 2 * spread[0]
    response = approximation.predict(along)
    torch.testing.assert_close(response.variance, spread + fit.params["sigma"] ** 2)
    torch.testing.assert_close(response.mean, predict(fit, along).mean)


def test_a_normal_of_pyro_is_predicted_as_ours_is():
    """Its variances were averaged over draws, since its class was another."""

    def of_pyro(x, y=None):
        mean, sigma = linear("mean", x), positive("sigma", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = map_estimate(on_features(of_pyro, trunk(2, 2)), X, Y["gaussian"], solver=LBFGS(max_steps=20))
    found = laplace_approximation(fit)
    spread = found.linearised(X)[1][:, 0, 0] + fit.params["sigma"] ** 2
    assert type(found.predict(X)) is distributions.Normal
    torch.testing.assert_close(found.predict(X).variance, spread)


def test_predictions_average_the_likelihood_over_the_doubt():
    fit = fitted("poisson", estimate=map_estimate)
    approximation = laplace_approximation(fit)
    mean, spread = approximation.linearised(X[:6])
    response = approximation.predict(X[:6], draws=20_000)
    assert isinstance(response, Averaged)
    assert approximation.predictors == ("log_rate",)
    # E exp(eta) of a Normal eta; the error of 20 000 draws with a spread below 1 is below 1.3 / 141.
    expected = (mean[:, 0] + spread[:, 0, 0] / 2).exp()
    torch.testing.assert_close(response.mean, expected, rtol=4 * 1.3 / 141, atol=0)
    again = approximation.predict(X[:6], draws=20_000)
    assert torch.equal(again.mean, response.mean)


def test_many_outputs_and_networks_of_their_own():
    classes = torch.tensor([0.0, 1.0, 2.0]).repeat(20).double()
    net = on_features(models.categorical, trunk(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = map_estimate(net, X, classes, solver=LBFGS(max_steps=50))
        both = on_features(models.heteroscedastic, {"mean": trunk(2, 3), "log_variance": trunk(2, 2)})
        other = map_estimate(both, X, Y["heteroscedastic"], solver=LBFGS(max_steps=50))
    approximation = laplace_approximation(fit)
    assert approximation.linearised(X)[1].shape == (60, 2, 2)
    shares = torch.stack([approximation.predict(X).log_prob(c.expand(60)).exp() for c in tensor([0, 1, 2])])
    torch.testing.assert_close(shares.sum(0), torch.ones(60).double())
    for structure in STRUCTURES:
        assert laplace_approximation(other, structure).linearised(X)[1].shape == (60, 2, 2)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_evidence_is_largest_at_its_precision(structure):
    best = laplace_approximation(fitted(), structure, prior_precision="evidence")
    for factor in (0.9, 1.1):
        other = laplace_approximation(fitted(), structure, prior_precision=factor * best.prior_precision)
        assert other.log_evidence < best.log_evidence


def test_the_evidence_of_a_linear_model_is_its_integral():
    # With w ~ Normal(0, 1 / p) the mode is not at the fit; this is the integral of a Normal around that,
    # log N(w; 0, 1 / p) - log det(H + p) / 2 but for constants.
    net = one_layer(sigma=tensor(0.5), **{"mean.bias": tensor(0.0)})(models.gaussian, "mean")
    fit = mle(net, X, Y["gaussian"], solver=LBFGS(tolerance=1e-11))
    first, second = (laplace_approximation(fit, "full", prior_precision=p).log_evidence for p in (0.5, 2.0))
    weight, gram = fit.params["trunk.weight"][0], X.T @ X / 0.25

    def gain(p):
        spread = torch.eye(2).double() + gram / p
        return -0.5 * float(torch.logdet(spread) + p * weight @ weight)

    assert first - second == pytest.approx(gain(0.5) - gain(2.0), rel=1e-9)


@cache
def beside_laplace_torch():
    """The fit whose numbers by laplace-torch are in `tests/data`, and these."""
    known = json.loads((Path(__file__).parent / "data" / "laplace_torch.json").read_text())
    state, sd = {key: tensor(value) for key, value in known["state"].items()}, known["delta"] ** -0.5
    module = nn.Sequential(nn.Linear(2, 5), nn.Tanh()).double()
    module.load_state_dict({key: value for key, value in state.items() if key.startswith("0")})
    net = on_features(
        models.gaussian, module, prior=lambda v: dist.Normal(torch.zeros_like(v), sd).to_event(v.dim())
    )
    weight, bias = state["2.weight"][0], state["2.bias"][0]
    priors = {
        "mean.weight": dist.Normal(torch.zeros_like(weight), sd).to_event(1),
        "mean.bias": dist.Normal(0.0 * bias, sd),
    }
    net = pyro.condition(with_priors(net, priors), {"sigma": tensor(known["sigma"])})
    start = {"mean.weight": weight, "mean.bias": bias}
    return map_estimate(net, tensor(known["x"]), tensor(known["y"]), start=start), known


@pytest.mark.parametrize(
    ("structure", "name"), [("full", "all full"), ("diagonal", "all diag"), ("last_layer", "last_layer full")]
)
def test_variances_and_evidence_are_those_of_laplace_torch(structure, name):
    fit, known = beside_laplace_torch()
    found = laplace_approximation(fit, structure)
    mean, covariance = found.linearised(tensor(known["new"]))
    np.testing.assert_allclose(mean[:, 0], known[name]["mean"], rtol=1e-7)
    np.testing.assert_allclose(covariance.reshape(-1), known[name]["var"], rtol=1e-7)
    assert found.log_evidence == pytest.approx(known[name]["evidence"], rel=1e-7)
    assert float(found.log_marginal_likelihood()) == found.log_evidence


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_evidence_is_differentiable_in_the_prior_precision(structure):
    found = laplace_approximation(fitted(), structure, prior_precision="evidence")
    best = tensor(found.prior_precision).requires_grad_()
    assert torch.autograd.gradcheck(found.log_marginal_likelihood, best)
    (slope,) = torch.autograd.grad(found.log_marginal_likelihood(best), best)
    assert abs(float(slope) * found.prior_precision) < 1e-4 * abs(found.log_evidence)
    again = pickle.loads(pickle.dumps(found))
    assert float(again.log_marginal_likelihood(3.0)) == float(found.log_marginal_likelihood(3.0))
    with pytest.raises(ModelError, match="prior_precision"):
        laplace_approximation(fitted(), "last_layer").log_marginal_likelihood()


def test_the_evidence_of_an_unknown_noise_is_its_integral():
    """Of one weight and a standard deviation with proper priors, beside the integral over both."""
    x, y = X[:, :1], Y["gaussian"]
    net = on_features(models.gaussian, nn.Linear(1, 1, bias=False), prior=lambda v: dist.Normal(0.0 * v, 1.0))
    net = pyro.condition(net, {"mean.weight": tensor([1.0]), "mean.bias": tensor(0.0)})
    fit = map_estimate(net, x, y)
    found = laplace_approximation(fit, "full")
    slope, log_sigma = torch.meshgrid(
        torch.linspace(-4, 4, 801).double(), torch.linspace(-3, 3, 601).double(), indexing="ij"
    )
    sigma = log_sigma.exp()
    residuals = y - slope[..., None] * x[:, 0]
    log_density = dist.Normal(0.0, sigma[..., None]).log_prob(residuals).sum(-1)
    log_density += dist.Normal(0.0, 1.0).log_prob(slope) + dist.Exponential(1.0).log_prob(sigma) + log_sigma
    step = float(slope[1, 0] - slope[0, 0]) * float(log_sigma[0, 1] - log_sigma[0, 0])
    integral = float(torch.logsumexp(log_density.reshape(-1), 0)) + math.log(step)
    assert found.log_evidence == pytest.approx(integral, abs=0.05)  # Laplace's approximation, of 60 rows


@pytest.mark.parametrize("name", ["engel", "ozone"])
def test_on_new_rows_doubt_is_better_than_none(name):
    data = datasets.load(name)
    data = (data - data.mean()) / data.std()
    x, y = data.drop(columns=(target := {"engel": "food_expenditure"}.get(name, name))), data[target]
    train = np.arange(len(x)) % 2 == 0
    net = on_features(models.gaussian, trunk(x.shape[1], 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = mle(net, x[train], y[train], solver=LBFGS(max_steps=60))
    plain = float(log_likelihood(fit, x[~train], y[~train]).mean())
    new = tensor(y[~train].to_numpy())
    for structure in STRUCTURES:
        approximation = laplace_approximation(fit, structure, prior_precision="evidence")
        assert float(approximation.predict(x[~train]).log_prob(new).mean()) > plain


class Odd(nn.Module):
    """A layer that is used twice, and a weight of no layer."""

    def __init__(self, scale=False):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if scale:
            self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x))) * (self.scale if hasattr(self, "scale") else 1.0)


def odd(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net = on_features(models.gaussian, Odd(scale))
        return map_estimate(net, X, Y["gaussian"], solver=LBFGS(max_steps=5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laplace_approximation(mle(models.gaussian, X, Y["gaussian"])), "is not a network"),
        (lambda: laplace_approximation(fitted(), "block"), "`structure` must be one of 'last_layer'"),
        (lambda: laplace_approximation(fitted()), "have flat priors.* Give `prior_precision`"),
        (lambda: laplace_approximation(fitted(), prior_precision=-1.0), "prior_precision.*evidence.*-1"),
        (lambda: laplace_approximation(fitted(), prior_precision="best"), "prior_precision.*evidence.*best"),
        (lambda: laplace_approximation(fitted(estimate=map_estimate), prior_precision=1.0), "leave `prior_"),
        (lambda: laplace_approximation(odd(True)), "`trunk.scale` is no weight of one"),
        (lambda: laplace_approximation(odd(False)), "layers that are used once"),
        (lambda: laplace_approximation(fitted(estimate=map_estimate)).predict(X, draws=0), "`draws` must be"),
    ],
)  # fmt: skip
def test_what_has_no_approximation_is_refused(call, message):
    with pytest.raises(ModelError, match=message):
        call()


def test_layers_need_one_prior_each():
    net = on_features(models.poisson, trunk(2, 2), prior=lambda value: dist.Normal(0.0, 1.0 + value.abs()))
    fit = map_estimate(with_priors(net, {}), X, Y["poisson"], solver=LBFGS(tolerance=1e-4))
    with pytest.raises(ModelError, match=r"one prior for all weights of a layer; those of `trunk.0.weight`"):
        laplace_approximation(fit)
    assert laplace_approximation(fit, "diagonal").prior_precision is None


def test_networks_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr("neglog.networks.laplace.MAX_FULL_COVARIANCE_WEIGHTS", 5)
    with pytest.raises(ModelError, match="for up to 5 weights, and this network has 17; use 'kronecker'"):
        laplace_approximation(fitted(estimate=map_estimate), "full")


def test_new_rows_are_checked():
    with pytest.raises(DataError, match="2"):
        laplace_approximation(fitted(estimate=map_estimate)).predict(X[:, :1])
