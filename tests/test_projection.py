"""Variable projection: heads at their optimum at every step, and what that makes of the rest."""

import math
import warnings
from functools import cache
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from neglog import censored, flat, map_estimate, models, on_features, with_priors
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.fitting.choice import choose
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective
from neglog.predictors import affine, linear, positive, rows
from neglog.projection.projected import Projected
from neglog.solvers import LBFGS, Chain, Newton, VariableProjection

EXACT = 1e-10
"""Relative: one solution of well-conditioned normal equations, and the same by another road."""
NESTED = 1e-8
"""Relative: Newton's method stops a millionth of the noise from an optimum, and takes one more step."""

pytestmark = pytest.mark.usefixtures("seeded")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


N = 80
X = normal(N, 2)
MEAN = torch.sin(2 * X[:, 0]) + 0.5 * X[:, 1]
Y = MEAN + 0.3 * normal(N, seed=1)
COUNTS = torch.poisson(MEAN.exp(), generator=torch.Generator().manual_seed(1))
CLASSES = (torch.arange(N) % 3).double()
WEIGHTS = 1 + (torch.arange(N) % 3).double()


def trunk(*sizes, seed=0):
    """A network of tanh layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(*(m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.Tanh())))


def known(model=models.gaussian, scale=0.3):
    return pyro.condition(model, {"sigma": tensor(scale)})


def layered(x, y=None):
    """A network in a model's own words: a hidden layer of linear predictors."""
    hidden = torch.tanh(linear("hidden", x, outputs=3))
    mean, sigma = linear("mean", hidden), positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def learning_a_prior(x, y=None):
    """A prior on the head whose location is a parameter too, and another family than the Normal one."""
    centre = pyro.sample("centre", dist.StudentT(3.0, torch.zeros((), dtype=torch.float64), 1.0))
    weight = pyro.sample("inside.weight", dist.StudentT(5.0, torch.zeros(3, 2).double(), 1.0).to_event(2))
    prior = {"mean.weight": dist.Normal(centre, 1.0)}
    return with_priors(models.gaussian, prior)(torch.tanh(x @ weight.T), y)


SMALL = trunk(2, 3)
CASES = {
    "known scale": (known(on_features(models.gaussian, SMALL)), Y),
    "gaussian": (on_features(models.gaussian, trunk(2, 3, 2)), Y),
    "heteroscedastic": (on_features(models.heteroscedastic, SMALL), Y),
    "poisson": (on_features(models.poisson, SMALL), COUNTS),
    "negative_binomial": (on_features(models.negative_binomial, SMALL), COUNTS),
    "student_t": (on_features(models.student_t, SMALL), Y),
    "categorical": (on_features(models.categorical, SMALL), CLASSES),
    "two networks": (
        on_features(models.heteroscedastic, {"mean": SMALL, "log_variance": trunk(2, 2, seed=1)}),
        Y,
    ),
    "vectors": (on_features(models.multivariate_gaussian, trunk(2, 2)), torch.stack([Y, MEAN.cos()], 1)),
    "no intercept": (pyro.condition(on_features(models.gaussian, SMALL), {"mean.bias": tensor(0.1)}), Y),
    "masked heads": (flat(on_features(models.gaussian, SMALL), "mean.weight", "sigma"), Y),
    "other priors": (
        with_priors(
            on_features(models.gaussian, SMALL, prior=lambda _: dist.StudentT(4.0, tensor(0.0), tensor(0.5))),
            {"mean.weight": dist.Normal(tensor(0.3), tensor(0.7)), "sigma": dist.HalfNormal(tensor(1.0))},
        ),
        Y,
    ),
    "one's own": (layered, Y),
    "a prior of a prior": (learning_a_prior, Y),
}
STARTS = {"one's own": {"hidden.weight": normal(3, 2, seed=4)}}
"""At weights of 0, where linear predictors start, hidden layers are at a saddle."""
KINDS = {"map": lambda model: model, "mle": flat}


def projected(model, y, weights=None, x=X):
    """The projected problem, and a place z where nothing vanishes."""
    objective = Objective(model, prepare(x, y, weights=weights))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    z = coordinates.z(theta) + 0.1 * normal(len(theta), seed=3)
    return Projected(objective, coordinates.blocks, coordinates.is_linear), coordinates, z


@cache
def solved(name, kind="map"):
    """The projected problem of a case, by its priors or with weights alone, z, and its optimum there."""
    model, y = CASES[name]
    problem, coordinates, z = projected(KINDS[kind](model), y, WEIGHTS if kind == "mle" else None)
    return problem, coordinates, z, problem.project(z)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("map", name) for name in CASES), ("mle", "gaussian"), ("mle", "poisson"), ("mle", "two networks")],
)
def test_the_loss_and_its_gradient_are_those_of_all_parameters_at_the_optimum(name, kind):
    problem, coordinates, z, (at, value, gradient) = solved(name, kind)
    known_value, slope = coordinates.value_and_gradient(at)
    assert torch.equal(at[problem.outer], z[problem.outer])
    assert value == pytest.approx(known_value, rel=1e-11, abs=1e-9)
    size = float(slope.abs().max())
    torch.testing.assert_close(gradient, slope, rtol=NESTED, atol=NESTED * size + 1e-7)
    assert value < coordinates.value(z)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_total_derivative(name):
    problem, _, _, (z, _, gradient) = solved(name)
    for seed in range(2):
        way = torch.zeros_like(z)
        way[problem.outer] = normal(len(problem.outer), seed=seed)
        step = 1e-4
        (_, above, _), (_, below, _) = problem.project(z + step * way), problem.project(z - step * way)
        # The error of the difference is step² times third derivatives, some tens a row.
        expected = (above - below) / (2 * step)
        assert float(gradient @ way) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def features_of(params):
    state = {key: params[f"trunk.{key}"].detach() for key, _ in SMALL.named_parameters()}
    return torch.func.functional_call(SMALL, state, (X,)).detach().numpy()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["rows", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_a_normal_mean_are_least_squares_and_ridge(kind, weights):
    problem, _, z = projected(KINDS[kind](CASES["known scale"][0]), Y, weights)
    params = problem.objective.layout.params(problem.theta(problem.project(z)[0]))
    columns = np.column_stack([np.ones(N), features_of(params)])
    root = np.ones(N) if weights is None else weights.numpy() ** 0.5
    left, right = root[:, None] * columns / 0.3, root * Y.numpy() / 0.3
    if kind == "map":  # Normal(0, 5) for the intercept, Normal(0, 2.5) for weights: further rows
        left = np.vstack([left, np.diag([1 / 5.0, *[1 / 2.5] * 3])])
        right = np.append(right, np.zeros(4))
    exact = np.linalg.lstsq(left, right, rcond=None)[0]
    found = np.append(params["mean.bias"], params["mean.weight"])
    np.testing.assert_allclose(found, exact, rtol=EXACT, atol=EXACT)


def test_an_unknown_scale_is_that_of_the_residuals():
    problem, _, z = projected(flat(on_features(models.gaussian, SMALL)), Y)
    params = problem.objective.layout.params(problem.theta(problem.project(z)[0]))
    columns = np.column_stack([np.ones(N), features_of(params)])
    _, (squares,), *_ = np.linalg.lstsq(columns, Y.numpy(), rcond=None)
    assert float(params["sigma"]) ** 2 == pytest.approx(squares / N, rel=EXACT)


def test_the_loss_is_the_one_that_is_written_by_hand():
    problem, _, z = projected(on_features(models.gaussian, SMALL), Y)
    at, value, _ = problem.project(z)
    params = problem.objective.layout.params(problem.theta(at))
    mean = torch.as_tensor(features_of(params)) @ params["mean.weight"] + params["mean.bias"]
    sigma = params["sigma"]
    nll = 0.5 * ((Y - mean) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)

    def shrunk(values, scale):
        return (0.5 * (values / scale).square() + math.log(scale) + 0.5 * math.log(2 * math.pi)).sum()

    weights = torch.cat([v.reshape(-1) for n, v in params.items() if n.startswith("trunk")])
    prior = shrunk(weights, 1.0) + shrunk(params["mean.weight"], 2.5) + shrunk(params["mean.bias"], 5.0)
    assert value == pytest.approx(float(nll.sum() + prior + sigma), rel=EXACT)  # sigma ~ Exponential(1)


def kaufman(problem, z, module, weights):
    """(P J)ᵀ (P J) with J the derivatives of the mean and P the projection off the features."""
    theta, root = problem.theta(z), weights.sqrt()[:, None] / 0.3

    def mean(outer):
        params = problem.objective.layout.params(theta.index_copy(0, problem.outer, outer))
        state = {key: params[f"trunk.{key}"] for key, _ in module.named_parameters()}
        return torch.func.functional_call(module, state, (X,)) @ params["mean.weight"]

    jacobian = root * torch.autograd.functional.jacobian(mean, theta[problem.outer])
    features = torch.as_tensor(features_of(problem.objective.layout.params(theta)))
    columns = root * torch.cat([torch.ones(N, 1).double(), features], 1)
    left = jacobian - columns @ torch.linalg.pinv(columns, rtol=1e-10) @ jacobian
    return left.T @ left


def test_the_curvature_of_a_normal_mean_is_kaufmans():
    problem, _, z = projected(flat(CASES["known scale"][0]), Y, WEIGHTS)
    z, _, _ = problem.project(z)
    found = problem.gauss_newton(z)
    torch.testing.assert_close(found, kaufman(problem, z, SMALL, WEIGHTS), rtol=NESTED, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_curvature_is_nowhere_negative(name):
    problem, _, _, (z, _, _) = solved(name)
    values = torch.linalg.eigvalsh(problem.gauss_newton(z))
    assert values[0] > -1e-9 * values[-1]


def test_blocks_of_rows_add_up(monkeypatch):
    problem, _, z = projected(*CASES["heteroscedastic"])
    whole = problem.gauss_newton(z)
    monkeypatch.setattr("neglog.projection.projected.MAX_HEAD_DERIVATIVES", 7 * len(problem.outer))
    torch.testing.assert_close(problem.gauss_newton(z), whole)


def test_heads_whose_loss_is_not_convex_together_are_searched():
    problem, _, _ = projected(*CASES["heteroscedastic"])
    assert problem.network.inside == (0,)
    together, _, _ = projected(*CASES["categorical"])
    assert together.network.inside == (0, 1)


def test_a_row_of_weight_two_is_the_row_twice():
    model, y = CASES["gaussian"]
    twice = torch.cat([torch.arange(N), torch.arange(0, N, 2)])
    weights = 2 - (torch.arange(N) % 2).double()
    one, _, z = projected(model, y, weights)
    other, _, _ = projected(model, y[twice], x=X[twice])
    theta = one.theta(z)
    first, second = (p.project(p.z(theta)) for p in (one, other))
    assert first[1] == pytest.approx(second[1], rel=EXACT)
    torch.testing.assert_close(one.theta(first[0]), other.theta(second[0]), rtol=NESTED, atol=NESTED)


@pytest.mark.parametrize("unit", ["twice", "dead"])
def test_what_features_do_not_tell_apart_stays_where_it_is(unit):
    """Two units of the same weights, or one that is always 0: heads have no one optimum, the loss has."""
    module = trunk(2, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[2] = parameter[1] if unit == "twice" else 0.0
    problem, _, _ = projected(flat(known(on_features(models.gaussian, module))), Y)
    z, value, gradient = problem.project(problem.z(problem.objective.initial))
    columns = np.column_stack([np.ones(N), features_of(problem.objective.layout.params(problem.theta(z)))])
    exact = np.linalg.lstsq(columns, Y.numpy(), rcond=None)[0]
    squares = np.square(Y.numpy() - columns @ exact).sum()
    constant = N * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
    assert value == pytest.approx(squares / 0.18 + constant, rel=EXACT)
    assert torch.isfinite(gradient).all()
    exact = kaufman(problem, z, module, torch.ones(N).double())
    torch.testing.assert_close(problem.gauss_newton(z), exact, rtol=1e-6, atol=1e-6)


def test_a_model_whose_designs_are_made_of_predictors_is_not_cut_at_them():
    objective = Objective(flat(layered), prepare(X, Y))
    assert not objective.structure.is_linear


# The solver


@cache
def apart(name):
    model, y = CASES[name]
    return map_estimate(model, X, y, solver=VariableProjection(), start=STARTS.get(name))


# Under flat priors heads may grow for ever while what they multiply shrinks.
@pytest.mark.parametrize("name", [n for n in CASES if n != "masked heads"])
def test_a_fit_ends_where_the_gradient_of_all_parameters_vanishes(name):
    fit = apart(name)
    assert fit.converged
    assert fit.status.startswith("optimum: gradient")
    gradient = fit.objective.gradient(fit.objective.layout.theta(fit.params))
    assert float(gradient.abs().max()) / N < 1e-7  # in the model's own units
    assert fit.loss == pytest.approx(fit.losses[-1], rel=EXACT)
    assert all(after <= before + 1e-9 for before, after in pairwise(fit.losses))


@pytest.mark.parametrize("name", ["known scale", "gaussian", "poisson", "categorical", "one's own"])
def test_it_ends_no_higher_than_all_weights_together(name):
    model, y = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        together = map_estimate(model, X, y, solver=LBFGS(max_steps=300), start=STARTS.get(name))
    assert apart(name).loss <= together.loss + 1e-6


def test_where_there_is_one_optimum_all_solvers_find_it():
    """One layer without a bend is a linear model: its predictor has one optimum."""
    net = on_features(models.poisson, nn.Linear(2, 1, bias=False))
    fits = [map_estimate(net, X, COUNTS, solver=solver) for solver in (LBFGS(), VariableProjection())]
    assert fits[1].loss == pytest.approx(fits[0].loss, rel=EXACT)
    slopes = [fit.params["log_rate.weight"] * fit.params["trunk.weight"][0] for fit in fits]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)


def test_newton_finishes_what_it_began():
    model, y = CASES["known scale"]
    fit = map_estimate(model, X, y, solver=Chain((VariableProjection(tolerance=1e-3), Newton())))
    assert fit.converged
    assert fit.loss == pytest.approx(map_estimate(model, X, y, solver=VariableProjection()).loss, rel=1e-6)


def test_steps_that_run_out_claim_nothing():
    model, y = CASES["gaussian"]
    with pytest.warns(ConvergenceWarning, match="stopped: gradient"):
        fit = map_estimate(model, X, y, solver=VariableProjection(max_steps=3))
    assert (fit.converged, fit.n_iter, len(fit.losses)) == (False, 3, 4)


def test_without_a_matrix_the_steps_are_those_of_the_projected_loss(monkeypatch):
    model, y = CASES["known scale"]
    monkeypatch.setattr("neglog.projection.projected.MAX_GAUSS_NEWTON_WEIGHTS", 1)
    problem, _, z = projected(model, y)
    assert problem.gauss_newton(z) is None
    fit = map_estimate(model, X, y, solver=VariableProjection())
    assert fit.converged


class Mixing(nn.Module):
    """Features of a row that depend on all others."""

    def __init__(self):
        super().__init__()
        self.layer = trunk(2, 3)

    def forward(self, x):
        found = self.layer(x)
        return found - found.mean(0)


def test_features_of_all_rows_together_have_no_matrix():
    problem, coordinates, z = projected(known(on_features(models.gaussian, Mixing())), Y)
    assert problem.gauss_newton(z) is None
    at, value, _ = problem.project(z)
    assert value == pytest.approx(coordinates.value(at), rel=EXACT)


def test_a_start_counts_for_the_trunk():
    model, y = CASES["known scale"]
    fit = map_estimate(model, X, y, solver=VariableProjection())
    again = map_estimate(model, X, y, solver=VariableProjection(), start=dict(fit.params))
    assert again.n_iter == 0
    assert again.loss == pytest.approx(fit.loss, rel=EXACT)


@pytest.mark.parametrize(
    ("name", "kind", "solver"),
    [
        ("known scale", "map", Chain((VariableProjection(max_steps=500), Newton()))),
        ("poisson", "map", Chain((VariableProjection(max_steps=500), Newton()))),
        ("heteroscedastic", "map", Chain((LBFGS(max_steps=500), Newton()))),
        ("known scale", "mle", LBFGS()),
    ],
)
def test_it_is_the_choice_where_heads_are_convex_together_and_priors_count(name, kind, solver):
    model, y = CASES[name]
    objective = Objective(KINDS[kind](model), prepare(X, y))
    assert choose(rescaled(objective, starting_point(objective, None))) == solver


def test_large_networks_are_searched_without_newton():
    objective = Objective(on_features(models.gaussian, trunk(2, 60, 2)), prepare(X, Y))
    assert choose(rescaled(objective, starting_point(objective, None))) == VariableProjection()


# What is refused


def tied(x, y=None):
    """The weights of the head make features too."""
    weight = pyro.sample("mean.weight", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    features = torch.tanh(x * weight)
    mean = affine(features, weight, features.new_zeros(()), name="mean")
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.gaussian, r"linear heads on features that a network learns, and `gaussian` has none"),
        (
            pyro.condition(
                on_features(models.gaussian, nn.Linear(2, 1)),
                {"mean.weight": tensor([1.0]), "mean.bias": tensor(0.0)},
            ),
            r"linear heads .* has none. Put the model on a network",
        ),
        (on_features(models.laplace, SMALL), r"needs a smooth loss, and that of `laplace` has corners"),
        (tied, r"features that do not depend on heads or constants, and those of `tied` depend on 'mean.w"),
    ],
    ids=["no network", "no free head", "corners", "tied"],
)
def test_models_without_such_heads_are_refused(model, said):
    with pytest.raises(ModelError, match=said):
        map_estimate(model, X, Y, solver=VariableProjection())


def test_densities_that_cannot_be_cut_are_refused():
    net = censored(on_features(models.gaussian, SMALL), lower="least")
    least = torch.full((N,), -0.5, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"`VariableProjection`.*`gaussian`"):
        map_estimate(net, X, torch.maximum(Y, least), least=least, solver=VariableProjection())


@pytest.mark.parametrize("settings", [{"memory": 0}, {"refresh": 0}, {"tolerance": 0.0}, {"max_steps": -1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(DataError, match=r"`VariableProjection`: `(memory|refresh|tolerance|max_steps)` must"):
        VariableProjection(**settings)
