"""Few rows: what is done in less time is the same."""

from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE

from neglog import flat, mle, models
from neglog.data import prepare
from neglog.fitting import start
from neglog.fitting.start import starting_point
from neglog.graphs import arrays
from neglog.likelihood import graph as module
from neglog.likelihood.graph import GraphRows
from neglog.likelihood.rows import CURVATURES, SLOPES, VALUE, Rows, listed
from neglog.objective.basis import Basis
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.objective.products import TALL
from neglog.predictors import affine, rows
from neglog.solvers.solution import newton_direction, newton_directions

CLOSE = 1e-12
"""Sums of a thousand numbers in another order."""


@pytest.fixture
def shelf(monkeypatch):
    """No graphs of other tests."""
    monkeypatch.setattr(module, "_SHELF", module._Shelf())


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def problem(name, model=None, size=200, **keywords):
    """A problem and a place z near its start."""
    case = TABLE[name]
    x, y = case.sample(size)
    data = prepare(x, y, **case.keywords(size), **keywords)
    objective = Objective(flat(case.model if model is None else model), data)
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    return coordinates, coordinates.z(theta) + 0.05 * drawn(len(theta))


def assert_near(found, known):
    for a, b in zip(found, known, strict=True):
        a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE * float(b.abs().max()))


@pytest.mark.parametrize("rows", [5, TALL])
def test_short_products_are_those_of_chunks(rows, monkeypatch):
    basis, values = Basis(drawn(rows, 4), False, drawn(4, 4)), drawn(rows)
    short = basis.gather(values), basis.cross(values, basis)
    monkeypatch.setattr(Basis, "_is_short", lambda self, values: False)
    assert_near(short, (basis.gather(values), basis.cross(values, basis)))


@pytest.mark.parametrize("shift", [0.0, 3.0], ids=["definite", "indefinite"])
def test_the_direction_of_one_problem_is_that_of_many(shift):
    hessian, gradient = drawn(6, 6), drawn(6)
    hessian = hessian @ hessian.T - shift * torch.eye(6, dtype=torch.float64)
    direction, decrement, definite = newton_direction(hessian, gradient, 10)
    each, all_decrements, all_definite = newton_directions(
        hessian[None], gradient[None], torch.tensor([10.0], dtype=torch.float64)
    )
    assert definite == bool(all_definite[0]) == (shift == 0)
    assert_near((direction, decrement), (each[0], all_decrements[0]))


@pytest.mark.parametrize("name", ["gamma", "student_t", "heteroscedastic"])
def test_constants_that_stand_apart_are_added_as_they_are(name, monkeypatch):
    coordinates, z = problem(name)
    assert coordinates._apart
    found = coordinates.derivatives(z)
    monkeypatch.setattr(Coordinates, "_apart", False)
    assert_near(found, coordinates.derivatives(z))


def entangled(x, y=None):
    """A model whose intercept is in its spread too."""
    weight = pyro.sample("mean.weight", dist.Normal(x.new_zeros(x.shape[1]), 5.0).to_event(1))
    bias = pyro.sample("mean.bias", dist.Normal(x.new_zeros(()), 5.0))
    mean = affine(x, weight, bias, name="mean")
    with rows(x):
        return pyro.sample("y", dist.StudentT(5.0, mean, 1 + bias**2), obs=y)


def test_constants_that_do_not_stand_apart_are_pulled_back():
    x, y = TABLE["gamma"].sample(50)
    for model in (models.gamma, flat(entangled)):
        objective = Objective(model, prepare(x, y))
        coordinates = rescaled(objective, starting_point(objective, None))
        assert not coordinates._apart
        theta = objective.initial + 0.1
        gradient = coordinates.pull_back(objective.gradient(theta))
        assert_near((coordinates.value_and_gradient(coordinates.z(theta))[1],), (gradient,))


@pytest.mark.parametrize("name", ["poisson", "heteroscedastic", "ordinal", "multivariate_gaussian"])
def test_predictors_are_known_without_a_run(name):
    objective = problem(name)[0].objective
    theta = objective.initial + 0.1 * drawn(objective.size)
    known = {call.name: call.value for call in objective.at(theta).affines}
    found = {call.name: call.value for call in objective.affines(theta)}
    assert found.keys() == known.keys()
    assert_near(found.values(), known.values())
    few = objective.take(torch.tensor([3, 1, 2]))
    assert [len(call.design) for call in few.affines(theta)] == [3] * len(known)


@pytest.mark.parametrize("name", ["negative_binomial", "heteroscedastic", "ordinal"])
def test_the_noise_is_that_of_the_model(name, monkeypatch):
    objective = problem(name)[0].objective
    theta = starting_point(objective, None)
    assert isinstance(objective.backends.graph, GraphRows)
    found = [block.triangle for block in rescaled(objective, theta).blocks]
    monkeypatch.delitem(vars(objective.backends), "graph")  # without it the model is run
    assert_near(found, [block.triangle for block in rescaled(objective, theta).blocks])


@cache
def weighted_problem(name):
    return problem(name, weights=torch.linspace(0.5, 2, 200))


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if case.smooth])
@pytest.mark.parametrize("far", [0.0, 3.0, 800.0], ids=["near", "far", "overflowing"])
def test_arrays_say_what_tensors_say(name, far):
    coordinates, z = weighted_problem(name)
    graph, rows = coordinates.objective.backends.graph, coordinates.objective.as_read
    assert isinstance(graph, GraphRows)
    assert rows.few
    numbers = coordinates.theta(z)[graph.places] * (1 + far)
    etas = [block.eta(z[block.places]) * (1 + far) for block in coordinates.blocks]
    for what in (VALUE, SLOPES, CURVATURES):
        found = listed(graph.evaluate(what, numbers, etas, Rows(rows.data, few=True)))
        known = listed(graph.evaluate(what, numbers, etas, Rows(rows.data)))
        for a, b in zip(found, known, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            size = float(b.nan_to_num(0.0, 0.0, 0.0).abs().max()) if b.numel() else 0.0
            torch.testing.assert_close(a, b, rtol=1e-11, atol=CLOSE * max(1.0, size), equal_nan=True)


ATEN = torch.ops.aten
A, B = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
INFINITE = torch.tensor([[1.0, -torch.inf], [-torch.inf, -torch.inf], [torch.inf, 0.0]], dtype=torch.float64)
OPERATIONS = {
    "pad": (ATEN.constant_pad_nd.default, A, [1, 2]),
    "pad two dimensions": (ATEN.constant_pad_nd.default, A, [0, 1, 2, 0], 7.0),
    "crop": (ATEN.constant_pad_nd.default, A, [-1, 0, 1, -2]),
    "logaddexp": (ATEN.logaddexp.default, INFINITE[:, 0], INFINITE[:, 1]),
    "logsumexp": (ATEN.logsumexp.default, A, [-1]),
    "logsumexp of infinities": (ATEN.logsumexp.default, INFINITE, [1], True),
    "log_softmax": (ATEN._log_softmax.default, A, -1, False),
    "log_softmax of infinities": (ATEN._log_softmax.default, INFINITE, 1, False),
    "log_softmax backward": (ATEN._log_softmax_backward_data.default, A, B, 0, torch.float64),
    "cumprod": (ATEN.cumprod.default, A, 1),
    "squeeze": (ATEN.squeeze.dim, A[:, :1], -1),
    "squeeze of many": (ATEN.squeeze.dim, A, -1),
    "squeeze of all": (ATEN.squeeze.default, A[:1, :1]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_arrays_is_torchs(name):
    function, *args = OPERATIONS[name]
    known = function(*args)
    with np.errstate(all="ignore"):
        found = arrays.NAMES[function._schema.name.removeprefix("aten::")](*map(arrays.array, args))
    torch.testing.assert_close(arrays.tensor(found), known, rtol=1e-14, atol=0, equal_nan=True)


def test_most_operations_of_few_rows_are_those_of_arrays():
    for name in ("negative_binomial", "beta", "student_t", "gamma", "poisson", "heteroscedastic", "huber",
                 "gaussian_mixture"):  # fmt: skip
        graph = problem(name)[0].objective.backends.graph
        stages = graph.stages[graph.all, True]
        functions = [function for function, _, _ in (*stages.of_numbers.steps, *stages.body.steps)]
        lifted = {f.function for f in functions if isinstance(f, arrays._Lifted)}
        assert not lifted, f"{name}: {lifted}"


def test_single_precision_is_left_to_torch():
    data = prepare(*TABLE["gamma"].sample(), dtype=torch.float32)
    objective = Objective(flat(models.gamma), data)
    assert isinstance(objective.backends.graph, GraphRows)
    assert not objective.as_read.few


def test_arrays_that_say_something_else_are_not_used(monkeypatch, shelf):
    x, y = TABLE["gamma"].sample()
    known = mle(models.gamma, x, y)
    module._SHELF.graphs.clear()
    monkeypatch.setitem(arrays.NAMES, "log1p", lambda a: a)
    objective = Objective(flat(models.gamma), prepare(x, y))
    assert objective.backends.graph == "its graph does not reproduce the values of the model"
    assert mle(models.gamma, x, y).nll == pytest.approx(known.nll, rel=CLOSE)


def test_a_graph_is_held_in_full_once_for_few_rows_and_once_for_many(monkeypatch, shelf):
    held, says = [], module.agrees

    def counted(found, what, where, known):
        if what == CURVATURES:
            held.append(where[-1].few)
        return says(found, what, where, known)

    monkeypatch.setattr(module, "agrees", counted)
    for size, count in ((100, 1), (200, 1), (11_000, 2), (12_000, 2), (100, 2)):
        x, y = TABLE["gamma"].sample(size)
        assert mle(models.gamma, x, y).converged
        assert len(held) == count
    assert held == [True, False]


@pytest.mark.parametrize("name", ["negative_binomial", "heteroscedastic", "ordinal", "student_t"])
@pytest.mark.parametrize("handler", [flat, lambda model: model], ids=["mle", "map"])
def test_the_null_model_replayed_is_the_null_model(name, handler):
    x, y = TABLE[name].sample(60)
    objective = Objective(handler(TABLE[name].model), prepare(x, y, weights=torch.linspace(0.5, 2, 60)))
    assert isinstance(objective.backends.graph, GraphRows)
    for places in (torch.arange(objective.size), torch.arange(1, objective.size, 2)):
        still = torch.tensor([n for n in places.tolist() if not _is_weight(objective, n)])
        replayed = start._CutNull(objective, objective.initial, still, objective.backends.graph)
        z = objective.initial[still] + 0.1 * drawn(len(still))
        null = start._Null(objective, objective.initial, still)
        assert_near(replayed.derivatives(z), null.derivatives(z))
        assert replayed.value(z) == pytest.approx(null.value(z), rel=CLOSE)


def _is_weight(objective, place):
    sites = (site for name, site in objective.sites.items() if name.endswith(".weight"))
    return any(site.offset <= place < site.offset + site.size for site in sites)


def test_constants_alone_are_numbers_for_any_number_of_rows():
    graph = problem("student_t")[0].objective.backends.graph
    for few in (True, False):
        stages = graph._stages(graph.all, few)
        with np.errstate(all="ignore"):
            found = stages.of_numbers(np.array([0.3, 1.2]))
        assert {type(value) for value in found} == {np.float64}
