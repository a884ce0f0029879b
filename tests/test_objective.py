"""The waist: one vector, its loss, and derivatives that are checked as numbers."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from table import REAL, STRUCTURES, TABLE, random_params, sample
from torch import nn

from neglog import flat, models, on_features, with_priors
from neglog.data import prepare
from neglog.errors import DataError, ModelError
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.solvers import Newton
from neglog.tracing import admits, positive_names, predictor_names

LAW = pytest.mark.parametrize("name", TABLE)
SMOOTH = pytest.mark.parametrize("name", [name for name, model in REAL.items() if model.smooth])


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def make(name, handler=lambda model: model, **keywords):
    entry = TABLE[name]
    x, y = entry.sample()
    return Objective(handler(entry.model), prepare(x, y, **entry.keywords(), **keywords))


def differences(function, at, step=1e-5):
    """Central differences: the error is step² plus rounding over step, 1e-9 or so of the third derivative."""
    moves = step * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + m) - function(at - m)) / (2 * step) for m in moves])


EACH = pytest.mark.parametrize(
    ("name", "handler"),
    [
        *(pytest.param(name, flat, id=f"{name}-mle") for name in TABLE),
        *(pytest.param(name, lambda model: model, id=f"{name}-map") for name in STRUCTURES),
    ],
)


@LAW
def test_vector_and_sites_are_two_names_of_one_thing(name):
    objective, params = make(name), random_params(TABLE[name])
    theta = objective.layout.theta(params)
    assert theta.shape == (objective.size,)
    back = objective.layout.params(theta)
    assert list(back) == list(objective.sites)
    for site, value in params.items():
        torch.testing.assert_close(back[site], value, rtol=1e-14, atol=0)


@EACH
def test_gradient_is_that_of_differences(name, handler):
    objective = make(name, handler)
    theta = objective.layout.theta(random_params(TABLE[name]))
    expected = differences(lambda t: number(objective.value(t)), theta)
    torch.testing.assert_close(objective.gradient(theta), expected, rtol=1e-6, atol=1e-5)


@EACH
def test_hessian_is_that_of_differences(name, handler):
    objective = make(name, handler)
    theta = objective.layout.theta(random_params(TABLE[name]))
    expected = differences(objective.gradient, theta)
    torch.testing.assert_close(objective.hessian(theta), expected, rtol=1e-5, atol=1e-4)


@LAW
def test_row_log_likelihoods_add_up(name):
    objective = make(name, weights=torch.arange(60.0))
    theta = objective.layout.theta(random_params(TABLE[name]))
    rows = objective.log_likelihood(theta)
    assert rows.shape == (objective.rows,) == (59,)  # the row of weight 0 is absent
    assert float(objective.terms(theta)[0]) == pytest.approx(
        -(rows * objective.data.weights).sum().item(), rel=1e-12
    )


# In the coordinates of a solver nothing but the coordinates changes.

HANDLERS = {
    "mle": flat,
    "map": lambda model: model,
    "bias fixed": lambda model: flat(_fixed(model, "bias")),
    "weights fixed": lambda model: flat(_fixed(model, "weight")),
    "half flat": lambda model: flat(model, f"{_entry(model).location}.weight"),
}


def _entry(model):
    return next(entry for entry in TABLE.values() if entry.model is model)


def _fixed(model, part):
    site, params = f"{_entry(model).location}.{part}", random_params(_entry(model))
    return pyro.condition(model, {site: torch.full_like(params[site], 0.5)} if site in params else {})


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        pytest.param(name, handler, id=f"{name}-{kind}")
        for kind, handler in HANDLERS.items()
        for name in (TABLE if kind == "mle" else STRUCTURES)
    ],
)
def test_coordinates_change_the_scale_and_not_the_loss(name, handler):
    objective = make(name, handler, weights=torch.linspace(0.5, 2, 60))
    coordinates = rescaled(objective, objective.initial)
    assert coordinates.is_linear
    theta = objective.initial + torch.linspace(-0.3, 0.4, objective.size, dtype=torch.float64)
    z = coordinates.z(theta)
    torch.testing.assert_close(coordinates.theta(z), theta, rtol=1e-12, atol=1e-13)
    assert coordinates.value(z) == pytest.approx(objective.value(theta), rel=1e-12)
    map_ = coordinates.directions(torch.eye(objective.size, dtype=torch.float64))
    value, gradient = coordinates.value_and_gradient(z)
    assert value == pytest.approx(objective.value(theta), rel=1e-12)
    torch.testing.assert_close(gradient, map_.T @ objective.gradient(theta), rtol=1e-10, atol=1e-10)
    expected = map_.T @ objective.hessian(theta) @ map_
    torch.testing.assert_close(coordinates.hessian(z), expected, rtol=1e-10, atol=1e-10)


@SMOOTH
def test_curvature_is_about_one_a_row_whatever_the_units(name):
    x, y = sample()
    x = x * torch.tensor([1e8, 1.0, 1e-8], dtype=torch.float64)
    objective = Objective(flat(TABLE[name].model), prepare(x, y * 1e6))
    coordinates = rescaled(objective, starting_point(objective, None))
    optimum = Newton().minimise(coordinates, coordinates.z(starting_point(objective, None)))
    eigenvalues = torch.linalg.eigvalsh(coordinates.hessian(optimum.z)) / objective.rows
    # The noise at the null model, which sets the units, is up to ten times that at the optimum.
    assert 0.1 < eigenvalues.min() < eigenvalues.max() < 100


@LAW
def test_literal_model_has_the_same_loss(name):
    objective = make(name)
    coordinates = rescaled(objective, objective.initial)
    z = coordinates.z(objective.layout.theta(random_params(TABLE[name])))
    arguments, keywords = coordinates.literal.arguments(None)
    values = coordinates.literal.values(z)
    trace = pyro.poutine.trace(pyro.condition(coordinates.literal.model, values)).get_trace(
        *arguments, **keywords
    )
    assert -trace.log_prob_sum().item() == pytest.approx(coordinates.value(z), rel=1e-12)
    torch.testing.assert_close(coordinates.literal.z(values), z, rtol=1e-12, atol=1e-12)


def test_hierarchical_priors_are_part_of_the_hessian():
    def model(x, y=None):
        spread = pyro.sample("spread", dist.LogNormal(x.new_zeros(()), 1.0))
        shrunk = with_priors(models.gaussian, {"mean.weight": dist.Normal(x.new_zeros(()), spread)})
        return shrunk(x, y)

    x, y = sample()
    objective = Objective(model, prepare(x, y))
    coordinates = rescaled(objective, starting_point(objective, None))
    z = coordinates.z(objective.initial + 0.2)
    whole = Coordinates(objective, coordinates.blocks, is_linear=False)
    torch.testing.assert_close(coordinates.hessian(z), whole.hessian(z), rtol=1e-10, atol=1e-10)


def test_a_network_is_not_cut():
    x, y = sample()
    net = on_features(models.gaussian, nn.Linear(3, 2))
    objective = Objective(flat(net), prepare(x, y))
    coordinates = rescaled(objective, starting_point(objective, None))
    assert not coordinates.is_linear
    z = coordinates.z(starting_point(objective, None))
    expected = differences(lambda t: number(coordinates.value(t)), z)
    torch.testing.assert_close(coordinates.value_and_gradient(z)[1], expected, rtol=1e-6, atol=1e-5)


# What a model says of itself.


@LAW
def test_names_are_read_from_the_model(name):
    entry = TABLE[name]
    assert predictor_names(entry.model, **entry.keywords()) == (entry.location, *entry.others)
    assert positive_names(entry.model, **entry.keywords()) == entry.designed


@LAW
def test_models_admit_what_they_draw(name):
    assert admits(TABLE[name].model, torch.tensor([-1.0, 0.0, 2.5])) == (name in {*REAL, "gaussian_mixture"})
    assert not admits(TABLE[name].model, torch.zeros(3, 7))
    if TABLE[name].row_keyword != "trials":
        assert admits(TABLE[name].model, TABLE[name].sample()[1])


@pytest.mark.parametrize("order", ["reversed", "of another machine", "of more digits"])
def test_a_model_admits_arrays_that_torch_does_not_take(order):
    y = np.array([-1.0, 2.5])
    stored = {"reversed": y[::-1], "of another machine": y.astype(">f8"), "of more digits": y.astype("g")}
    assert admits(models.gaussian, stored[order])
    assert not admits(models.gamma, stored[order])


@pytest.mark.parametrize("wrong", [None, "text", {1.0}, [[1.0], [2.0, 3.0]], np.ma.array([1.0], mask=[True])])
def test_what_is_no_array_is_refused_and_not_admitted(wrong):
    with pytest.raises(DataError, match="`y`"):
        admits(models.gaussian, wrong)


def test_a_model_needs_an_observation():
    def model(x, y=None):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match=r"no sample site named 'y'.*Its sites are 'z'"):
        Objective(model, prepare(*sample()))


def test_a_latent_site_inside_the_plate_is_refused():
    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            noise = pyro.sample("noise", dist.Normal(x.new_zeros(()), 1.0))
            return pyro.sample("y", dist.Normal(noise, 1.0), obs=y)

    with pytest.raises(ModelError, match="'noise' is inside the plate of rows"):
        Objective(model, prepare(*sample()))


def test_a_model_without_parameters_has_nothing_to_estimate():
    fixed = pyro.condition(models.gaussian, random_params(TABLE["gaussian"]))
    with pytest.raises(ModelError, match="no latent site"):
        Objective(fixed, prepare(*sample()))


@pytest.mark.parametrize("handler", [flat, lambda model: model], ids=["flat", "priors"])
@pytest.mark.parametrize("name", ["gaussian_mixture", "multivariate_heteroscedastic"])
def test_derivatives_of_many_predictors_together_are_those_of_each_pair(name, handler):
    x, y = TABLE[name].sample()
    designs = {"mean": x, "sigma": x[:, :1]} if name == "gaussian_mixture" else x
    objective = Objective(handler(TABLE[name].model), prepare(designs, y))
    theta = starting_point(objective, None)
    together = rescaled(objective, theta)
    apart = Coordinates(objective, together.blocks, is_linear=True)
    apart._stacked = None
    assert together._stacked is not None
    z = together.z(theta) + 0.1 * torch.cos(torch.arange(together.size, dtype=theta.dtype))
    for found, known in zip(together.derivatives(z), apart.derivatives(z), strict=True):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(known), rtol=1e-10, atol=1e-10)
    assert torch.equal(together.value_and_gradient(z)[1], together.derivatives(z)[1])
