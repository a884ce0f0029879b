"""Rows that are replayed say what the model says, for any number of them, or the model is run."""

from copy import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from table import SMOOTH_STRUCTURES, TABLE, sample

from neglog import censored, flat, map_estimate, masked, mle, models, truncated, with_priors
from neglog.data import prepare
from neglog.errors import DataError
from neglog.fitting.start import starting_point
from neglog.kinks import sharpened, smoothed
from neglog.likelihood import graph as module
from neglog.likelihood.backends import TRIALS
from neglog.likelihood.graph import GraphRows
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.predictors import linear, positive, rows

CLOSE = 1e-11
"""Graph and model round differently, by some units in the last place of sums over a thousand rows."""


SMOOTH = [name for name, case in TABLE.items() if case.smooth]
"""Solvers see other models without their corners."""


def run(objective):
    """The same objective, its model run at each evaluation."""
    other = copy(objective)
    other.backends = copy(objective.backends)
    other.backends.likelihood = lambda **_: other.backends.eager
    return other


@pytest.fixture
def shelf(monkeypatch):
    """No graphs of other tests."""
    monkeypatch.setattr(module, "_SHELF", module._Shelf())


@pytest.fixture
def traced(monkeypatch, shelf):
    """How many graphs were traced."""
    counted, trace = [], module._traced
    monkeypatch.setattr(module, "_traced", lambda cut: counted.append(cut.model) or trace(cut))
    return counted


def problems(model, x, y, **keywords):
    """The problem replayed, the problem run, and a place z where nothing vanishes."""
    objective = Objective(model, prepare(x, y, **keywords))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    generator = torch.Generator().manual_seed(1)
    z = coordinates.z(theta) + 0.05 * torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    return coordinates, Coordinates(run(objective), coordinates.blocks, coordinates.is_linear), z


def assert_alike(replayed, ran, z):
    found, known = replayed.derivatives(z), ran.derivatives(z)
    assert found[0] == pytest.approx(known[0], rel=CLOSE)
    assert replayed.value(z) == found[0] == replayed.value_and_gradient(z)[0]
    for a, b in zip(found[1:], known[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE * float(b.abs().max()))
    torch.testing.assert_close(replayed.value_and_gradient(z)[1], found[1], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        *(pytest.param(name, flat, id=f"{name}, mle") for name in SMOOTH),
        *(pytest.param(name, lambda model: model, id=f"{name}, map") for name in SMOOTH_STRUCTURES),
    ],
)
def test_rows_that_are_replayed_say_what_the_model_says(name, handler):
    case = TABLE[name]
    x, y = case.sample()
    weights = torch.linspace(0.5, 2, len(y)) if handler is flat else None
    replayed, ran, z = problems(handler(case.model), x, y, weights=weights, **case.keywords())
    assert isinstance(replayed.objective.backends.graph, GraphRows), replayed.objective.backends.graph
    for step in (0.0, 0.05, -0.1):  # the graph is held against the model elsewhere
        assert_alike(replayed, ran, z + step)


@pytest.mark.parametrize("name", ["poisson", "gamma", "student_t", "heteroscedastic", "ordinal"])
def test_one_graph_serves_any_number_of_rows_and_columns(name, traced):
    case = TABLE[name]
    for size, columns in ((60, 3), (29, 2), (31, 1), (2000, 4)):
        x, y = case.sample(size, columns)
        replayed, ran, z = problems(flat(case.model), x, y, **case.keywords(size))
        assert_alike(replayed, ran, z)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (models.student_t, {"location": sample()[0], "scale": sample()[0][:, :1]}),
        (partial(models.student_t, df=5.0), sample()[0]),
        (pyro.condition(models.gaussian, {"mean.bias": torch.tensor(0.3, dtype=torch.float64)}), sample()[0]),
        (pyro.condition(models.gaussian, {"sigma": torch.tensor(0.3, dtype=torch.float64)}), sample()[0]),
        (pyro.condition(models.gaussian, {"mean.weight": torch.ones(3, dtype=torch.float64)}), sample()[0]),
        (with_priors(models.gaussian, {"mean.weight": dist.StudentT(3.0, 0.0, 1.0)}), sample()[0]),
        (models.heteroscedastic, {"mean": sample()[0]}),
        (models.gaussian, sample()[0][:, :0]),
    ],
    ids=["two designs", "keyword", "bias", "sigma", "weight", "priors", "one design", "no columns"],
)
def test_designs_and_handlers(model, x):
    replayed, ran, z = problems(model, x, sample()[1])
    assert isinstance(replayed.objective.backends.graph, GraphRows), replayed.objective.backends.graph
    assert_alike(replayed, ran, z)


@pytest.mark.parametrize("model", [models.gaussian, models.laplace, models.huber, models.student_t])
@pytest.mark.parametrize("handler", [censored, truncated])
def test_bounded_responses_are_replayed(handler, model):
    """Which rows are censored, and derivatives of |r| that vanish, kept these models from being traced."""
    x, y = sample()
    replayed, ran, z = problems(flat(handler(model, upper=1.0)), *bounded(handler, x, y))
    assert isinstance(replayed.objective.backends.graph, GraphRows), replayed.objective.backends.graph
    assert_alike(replayed, ran, z)


def bounded(handler, x, y):
    return (x, y.clamp(max=1.0)) if handler is censored else (x[y < 1.0], y[y < 1.0])


def test_a_gradient_that_vanishes_is_traced():
    """That of `Tensor.abs` twice over has no memory."""

    def model(x, y=None):
        mean = linear("mean", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(mean.abs() ** 2, 1.0), obs=y)

    replayed, ran, z = problems(flat(model), *sample())
    assert isinstance(replayed.objective.backends.graph, GraphRows), replayed.objective.backends.graph
    assert_alike(replayed, ran, z)


def test_a_long_loss_of_few_rows_is_traced_when_it_repays(shelf):
    x, y = sample()
    problem = Coordinates(*problem_of_bounded(x, y))
    z = torch.zeros(problem.size, dtype=torch.float64)
    for _ in range(TRIALS + 1):
        problem.value(z)  # which takes a fifth of the time of derivatives
    for _ in range(TRIALS):
        problem.derivatives(z)
        assert "graph" not in problem.objective.backends.__dict__
    problem.derivatives(z)
    assert isinstance(problem.objective.backends.__dict__["graph"], GraphRows)
    again = Coordinates(*problem_of_bounded(x, y))  # the graph is kept for further fits
    again.value(z)
    assert isinstance(again.objective.backends.__dict__["graph"], GraphRows)


def test_a_long_loss_of_many_optima_is_traced_at_once(shelf):
    x, y = sample()
    model = flat(truncated(models.student_t, upper=3.5))
    problem = Coordinates(Objective(model, problems(model, x, y.sigmoid())[0].objective.data), (), False)
    assert not problem.objective.backends._may_be_short


def problem_of_bounded(x, y):
    found = problems(flat(truncated(models.weibull, upper=3.5)), x, y.sigmoid())[0]
    objective = Objective(found.objective.model, found.objective.data)
    return objective, found.blocks, True


def test_where_rows_are_looked_at_one_by_one_the_model_is_run():
    x, y = sample()
    y[:5] = torch.nan
    replayed, ran, z = problems(flat(masked(models.gaussian)), x, y)
    assert "control flow" in str(replayed.objective.backends.graph)
    assert_alike(replayed, ran, z)


def test_conditioned_values_are_told_apart(traced):
    x, y = sample()
    for sigma in (0.5, 0.5, 2.0):
        model = pyro.condition(models.logistic, {"scale": torch.tensor(sigma, dtype=torch.float64)})
        assert_alike(*problems(flat(model), x, y))
    assert len(traced) == 2


def test_a_second_fit_of_its_kind_traces_nothing(traced):
    for seed in range(3):
        x, y = TABLE["gamma"].sample(seed=seed)
        assert mle(models.gamma, x, y).converged
        assert map_estimate(models.gamma, x, y).converged
    assert len(traced) == 1


def test_supports_are_told_apart(traced):
    x, y = sample()
    bounded = with_priors(models.student_t, {"scale": dist.Uniform(0.0, torch.tensor(9.0).double())})
    for model in (models.student_t, bounded, models.student_t):
        assert_alike(*problems(flat(model), x, y))
    assert len(traced) == 2


LEVEL = 0.0


def leaning(x, y=None):
    """A model that reads a global number."""
    location, scale = linear("location", x), positive("scale", x)
    with rows(x):
        return pyro.sample("y", dist.StudentT(4.0, location + LEVEL, scale), obs=y)


def test_a_graph_that_no_longer_says_what_its_model_says_is_traced_anew(traced, monkeypatch):
    x, y = sample()
    first = mle(leaning, x, y)
    monkeypatch.setitem(globals(), "LEVEL", 1.0)
    second = mle(leaning, x, y)
    assert len(traced) == 2
    moved = second.params["location.bias"] - first.params["location.bias"]
    assert moved.item() == pytest.approx(-1.0, abs=1e-9)


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (1.0, 2.0)])
def test_smoothed_and_sharpened_densities_are_traced_once(traced, strengths):
    x, y = sample()
    count = []
    for strength in strengths:
        before = len(traced)
        for width in (1.0, 0.1):
            model = sharpened(smoothed(models.laplace, width), strength)
            assert isinstance(Objective(model, prepare(x, y)).backends.graph, GraphRows)
        count.append(len(traced) - before)
    assert count == [2, 0]


def undecided(x, y=None):
    """A model whose control flow depends on data."""
    mean, sigma = linear("mean", x), positive("sigma", x)
    if x.mean() > 1e3:
        mean = mean + 1.0
    with rows(x):
        return pyro.sample("y", dist.StudentT(5.0, mean, sigma), obs=y)


def test_what_cannot_be_traced_is_run():
    x, y = sample()
    replayed, ran, z = problems(flat(undecided), x, y)
    assert "control flow" in str(replayed.objective.backends.graph)
    assert_alike(replayed, ran, z)
    assert mle(undecided, x, y).converged


def crowded(x, y=None):
    """A model of two groups of rows, told apart by their number: a graph of few rows says nothing of many."""
    mean, sigma = linear("mean", x), positive("sigma", x)
    shift = 1.0 if len(x) > 40 else 0.0
    with rows(x):
        return pyro.sample("y", dist.StudentT(5.0, mean + shift, sigma), obs=y)


def test_a_graph_that_says_something_else_is_not_used():
    x, y = sample()
    replayed, ran, z = problems(flat(crowded), x, y)
    assert replayed.objective.backends.graph == "its graph does not reproduce the values of the model"
    assert_alike(replayed, ran, z)


def test_many_constants_are_left_to_the_model():
    x, y = sample(60, 3)
    y = torch.stack([y, *(y.roll(i) for i in range(1, 6))], dim=1)
    objective = Objective(flat(models.multivariate_gaussian), prepare(x, y))
    assert objective.backends.graph == "it has 6 predictors and 21 constants"


def test_the_shelf_holds_so_many_graphs(monkeypatch, shelf):
    monkeypatch.setattr(module, "MAX_KEPT_GRAPHS", 2)
    x, y = sample()
    for df in (3.0, 4.0, 5.0):
        assert isinstance(
            Objective(partial(models.student_t, df=df), prepare(x, y)).backends.graph, GraphRows
        )
    assert len(module._SHELF.graphs) == 2


def test_a_row_without_a_density_is_told_of_many_too(monkeypatch):
    monkeypatch.setattr("neglog.objective.objective.BLOCK_ROWS", 100)
    monkeypatch.setattr("neglog.objective.coordinates.MIN_SAMPLED_ROWS", 200)
    x, y = TABLE["poisson"].sample(500)
    exposure = torch.ones(500, dtype=torch.float64)
    y[321], exposure[321] = 3.0, 0.0
    with pytest.raises(DataError, match=r"row 321 has y = 3\.0, exposure = 0"):
        mle(models.poisson, x, y, exposure=exposure)
