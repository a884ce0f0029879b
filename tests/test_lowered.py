"""What is replayed says what the model says; what cannot be replayed is run."""

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from table import STRUCTURES, TABLE, random_params, sample

from neglog import flat, map_estimate, mle, models, on_features
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, DataError
from neglog.fitting.start import starting_point
from neglog.graphs import graph as graphs
from neglog.graphs import nodes, recording
from neglog.graphs.graph import trace
from neglog.graphs.machine import FASTER, tanh
from neglog.objective.coordinates import rescaled
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective
from neglog.predictors import linear, positive, rows
from neglog.solvers import LBFGS, SVI, Adam

CLOSE = 1e-12
"""Graph and model round differently, by some units in the last place of sums over 60 rows."""


def problem(model, x, y, start=None, **keywords):
    """The lowered problem, and a place z where nothing vanishes."""
    objective = Objective(model, prepare(x, y, **keywords), start)
    theta = starting_point(objective, start)
    coordinates = rescaled(objective, theta)
    generator = torch.Generator().manual_seed(1)
    z = coordinates.z(theta) + 0.1 * torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    return Lowered(objective, coordinates.blocks, coordinates.is_linear), coordinates, z


def assert_alike(lowered, coordinates, z):
    value, gradient = lowered.value_and_gradient(z)
    known, slope = coordinates.value_and_gradient(z)
    assert value == pytest.approx(known, rel=CLOSE)
    torch.testing.assert_close(gradient, slope, rtol=CLOSE, atol=CLOSE * float(slope.abs().max()))


def trunk(*sizes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [(torch.nn.Linear(*pair), torch.nn.Tanh()) for pair in pairwise(sizes)]
        return torch.nn.Sequential(*(part for pair in layers for part in pair)).double()


NETWORK = on_features(models.heteroscedastic, trunk(3, 8))
# Away from the null model: where a gradient is nothing but rounding, Adam blows it up to a step.
AWAY = {
    models.gaussian: {"mean.bias": -1.0, "sigma": 5.0},
    models.student_t: {"location.bias": -1.0, "scale": 5.0, "df": 3.0},
    NETWORK: {"mean.bias": -1.0, "log_variance.bias": 3.0},
}


def mixed(x, y=None):
    """A model of one's own: a constant beside its predictors, and a design that enters elsewhere too."""
    slope = pyro.sample("slope", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    mean = linear("mean", x) + slope * torch.tanh(x[:, 0])
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample("y", dist.StudentT(5.0, mean, scale), obs=y)


def undecided(x, y=None):
    """A model whose control flow depends on a parameter and on data."""
    mean, sigma = linear("mean", x), positive("sigma", x)
    if sigma > 1e3 or x.mean() > 1e3:
        mean = mean + 1.0
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def noisy(x, y=None):
    """A model that draws numbers of its own."""
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + 1e-3 * torch.rand(()), sigma), obs=y)


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        *(pytest.param(name, flat, id=f"{name}-mle") for name in TABLE),
        *(pytest.param(name, lambda model: model, id=f"{name}-map") for name in STRUCTURES),
    ],
)
def test_a_graph_says_what_the_model_says(name, handler):
    x, y = TABLE[name].sample()
    weights = torch.linspace(0.5, 2, len(y)) if handler is flat else None
    lowered, coordinates, z = problem(
        handler(TABLE[name].model), x, y, weights=weights, **TABLE[name].keywords()
    )
    for step in (0.0, 0.05, -0.1):  # the graph is held against the model at the first place only
        assert_alike(lowered, coordinates, z + step)
    assert lowered.reason == ""


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (models.gaussian, {"mean": sample()[0], "sigma": sample()[0][:, :1]}),
        (models.student_t, sample()[0]),
        (mixed, sample()[0]),
        (on_features(models.heteroscedastic, trunk(3, 8)), sample()[0]),
        (on_features(models.gaussian, {"mean": trunk(3, 4), "sigma": trunk(3, 2)}), sample()[0]),
        (pyro.condition(models.gaussian, {"mean.bias": torch.tensor(0.3, dtype=torch.float64)}), sample()[0]),
        (pyro.condition(models.gaussian, {"mean.weight": torch.ones(3, dtype=torch.float64)}), sample()[0]),
        (models.gaussian, sample()[0][:, :0]),
    ],
    ids=["two designs", "df", "one's own", "network", "two networks", "bias", "weight", "no columns"],
)
@pytest.mark.parametrize("handler", [flat, lambda model: model], ids=["mle", "map"])
def test_designs_networks_and_models_of_ones_own(model, x, handler):
    lowered, coordinates, z = problem(handler(model), x, sample()[1])
    for step in (0.0, 0.1):
        assert_alike(lowered, coordinates, z + step)
    assert lowered.reason == ""


def test_a_gaussian_comes_down_to_few_operations():
    lowered, _, z = problem(flat(models.gaussian), *sample())
    lowered.evaluation(z)
    assert lowered.replays[0].graph.nodes <= 30
    assert lowered.replays[0].used == ()  # the data are in it


def placed(x, y=None):
    """Normal priors away from 0, one of whose spreads is a parameter itself."""
    spread = pyro.sample("spread", dist.Exponential(torch.tensor(1.0, dtype=torch.float64)))
    weight = pyro.sample("slope", dist.Normal(torch.full((2,), 0.7, dtype=torch.float64), 0.3).to_event(1))
    mean = linear("mean", x) + pyro.sample("shift", dist.Normal(weight[0], spread))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + weight[1] * x[:, 0] ** 2, spread), obs=y)


def test_normal_priors_that_do_not_depend_on_parameters_are_one_quadratic_form():
    lowered, coordinates, z = problem(placed, *sample())
    for step in (0.0, 0.3, -0.5):
        assert_alike(lowered, coordinates, z + step)
    assert lowered.reason == ""
    assert lowered._quadratic.sites == {"slope", "mean.bias", "mean.weight"}


def test_a_masked_or_weighted_prior_is_left_to_the_model():
    halved = pyro.poutine.scale(models.poisson, scale=0.5)
    for model in (flat(models.poisson), halved, pyro.poutine.mask(models.poisson, mask=torch.tensor(True))):
        lowered, coordinates, z = problem(model, *counts())
        assert lowered._quadratic is None
        assert_alike(lowered, coordinates, z)


def counts():
    x, y = sample()
    return x, y.abs().round()


@pytest.mark.parametrize(
    ("function", "nodes"),
    [
        (lambda z: ((z * 2 + 3) / 4 - 1).neg() * 0.5, 2),  # one factor and one number
        (lambda z: (z * 2 - 1).sum() * 3 + 5, 3),  # sum, factor, number
        (lambda z: (z - torch.arange(3.0).double()).sum(-1) + (z.sum() - 2), 3),  # sum, sum, number
        (lambda z: (torch.arange(3.0).double() - z).sum() + 1, 3),
        (lambda z: torch.cat([z.split_with_sizes([3, 0])[0], z.new_zeros(0)]) * 2, 1),
        (lambda z: (0.5 * z.pow(2)).sum([0]) / 2, 2),  # an inner product
        (lambda z: (3 * z).sum(0, keepdim=True), 2),
        (lambda z: z.sum() / 1e-310, 2),  # whose reciprocal is no number
    ],
)
def test_numbers_in_a_row_become_one(function, nodes):
    places = [torch.tensor(values, dtype=torch.float64) for values in ([1, -2, 0.5], [1e3, 7, 0], [0, 0, 0])]
    graph = trace(function, places[0], [], fixed=True)
    for z in places:
        torch.testing.assert_close(graph.function()(z), function(z), rtol=1e-15, atol=0)
    assert graph.nodes == nodes


def test_programs_go_when_nobody_has_them():
    lowered, _, z = problem(models.gaussian, *sample())
    kept = torch.jit._state._python_cu.get_functions
    before, program = len(kept()), lowered.program(z)
    assert program is not lowered.evaluation(z)  # it is one
    assert len(kept()) == before
    torch.testing.assert_close(program(z), lowered.evaluation(z)(z), rtol=CLOSE, atol=0)


@pytest.mark.parametrize("name", ["gaussian", "poisson", "heteroscedastic", "categorical"])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_are_unbiased(name, weighted):
    # Over a partition into batches of one size, each row comes equally often: the mean is the whole.
    case = TABLE[name]
    x, y = case.sample()
    weights = torch.linspace(0.5, 2, len(y)) if weighted else None
    lowered, coordinates, z = problem(case.model, x, y, weights=weights, **case.keywords())
    batches = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).split(12)
    found = [lowered.evaluation(z, 12)(z, index) for index in batches]
    value, gradient = coordinates.value_and_gradient(z)
    assert float(torch.stack([v for v, _ in found]).mean()) == pytest.approx(value, rel=CLOSE)
    mean = torch.stack([g for _, g in found]).mean(0)
    torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-10)
    assert lowered.reason == ""
    assert len(lowered.replays) == 1


@pytest.mark.parametrize(("model", "reason"), [(undecided, "traced"), (noisy, "draws numbers")])
def test_what_cannot_be_replayed_is_run(model, reason):
    lowered, coordinates, z = problem(flat(model), *sample())
    value, gradient = lowered.value_and_gradient(z)
    assert reason in lowered.reason
    known, slope = coordinates.value_and_gradient(z)
    near = 1e-2 if model is noisy else CLOSE
    assert value == pytest.approx(known, rel=near)
    torch.testing.assert_close(gradient, slope, rtol=near, atol=near * float(slope.abs().max()))


def test_fits_of_models_that_cannot_be_traced_are_the_same():
    x, y = sample()
    for solver in (Adam(steps=30, decay=1.0), Adam(steps=30, batch_size=25)):
        with pytest.warns(ConvergenceWarning):
            run, replayed = (
                mle(m, x, y, solver=solver, start=AWAY[models.gaussian]) for m in (undecided, models.gaussian)
            )
        assert run.losses == pytest.approx(replayed.losses, rel=1e-10)


def test_a_graph_that_says_something_else_is_not_used():
    # A model with a memory of its own: no two runs of it are alike.
    counter = iter(range(100))

    def drifting(x, y=None):
        mean, sigma = linear("mean", x), positive("sigma", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(mean + float(next(counter)), sigma), obs=y)

    lowered, _, z = problem(flat(drifting), *sample())
    lowered.value_and_gradient(z)
    assert "does not reproduce the values of the model" in lowered.reason


def doubling(x):
    """An operation in place, on a tensor that another one shares its memory with."""
    whole = torch.sin(x)
    part = whole[:2]
    part *= 2.0
    return whole.sum(), part + whole[1:3]


def flattening(x):
    """In place, on a tensor of its own."""
    return torch.sin(x).mul_(2.0).clamp_(min=0.0).sum(), x.exp()


def in_pieces(x):
    """In place, on a piece whose memory no later operation reads by another name; then a shape in place."""
    first, second = torch.stack([x, x.exp()]).chunk(2)
    return second.mul_(first).sum() + first.sum(), torch.stack([x, x]).cos().transpose_(0, 1)[:, 0]


def written_through(x):
    """In place, and an alias from before is read afterwards."""
    whole = torch.sin(x)
    alias = whole.view(2, 2)
    whole.add_(1.0)
    return alias.sum(), whole


@pytest.mark.parametrize("function", [doubling, flattening, in_pieces, written_through])
@pytest.mark.parametrize("fixed", [True, False])
def test_operations_in_place_are_replayed_out_of_place(function, fixed):
    first, other = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = trace(lambda a, b: function(a + b), first, [other], fixed)
    for at in (first, 2 * first):
        rows = [] if fixed else [other]
        before = at.clone()
        for found, known in zip(graph.function()(at, *rows), function(at + other), strict=True):
            torch.testing.assert_close(found, known, rtol=1e-15, atol=1e-15)
        assert torch.equal(at, before)


@pytest.mark.parametrize("cell", [torch.nn.GRU, torch.nn.RNN])
def test_recurrent_networks_are_recorded_at_once(monkeypatch, cell):
    """Their operations in place took most of a fit: they were undone by a second, slower recording."""
    monkeypatch.setattr("torch.func.functionalize", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = cell(2, 3, batch_first=True).double()
    weights = dict(network.named_parameters())
    sizes = [each.numel() for each in weights.values()]

    def slope(z, x):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            pieces = zip(weights.items(), z.split(sizes), strict=True)
            values = {name: piece.reshape(each.shape) for (name, each), piece in pieces}
            out, _ = torch.func.functional_call(network, values, (x,))
            loss = out[:, -1].square().sum()
            return loss.detach(), torch.autograd.grad(loss, z)[0]

    x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(5, 4, 2)
    z = torch.cat([each.detach().reshape(-1) for each in weights.values()])
    graph = trace(slope, z, [x], fixed=False)
    for found, known in zip(graph.function()(2 * z, x.sin()), slope(2 * z, x.sin()), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-13, atol=1e-13)


def test_no_model_changes_a_tensor_in_place(monkeypatch):
    """A graph of operations in place is traced a second time, by a module that takes seconds to import."""
    seen = []
    monkeypatch.setattr(
        recording._Recorder, "_out_of_place", lambda self, func, *_: seen.append(func) or func
    )
    for case in TABLE.values():
        x, y = case.sample(4)
        with pyro.condition(data=random_params(case)), recording._Recorder([], 0):
            case.model(x, y, **case.keywords(4))
    assert seen == []


def test_what_nobody_asks_for_is_left_out_but_for_randomness():
    def idle(x, noise):
        torch.rand(3) if noise else x.sin() + 1.0
        return (x * 2.0).exp()

    at = torch.ones(3, dtype=torch.float64)
    assert trace(lambda x: idle(x, False), at, [], True).nodes == 2
    with pytest.raises(RuntimeError, match="draws numbers"):
        trace(lambda x: idle(x, True), at, [], True)


def test_plain_functions_are_told_by_all_that_decides_what_they_give():
    whole = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    given = [
        whole,
        whole.T,
        whole.float(),
        whole[0],
        [whole],
        (whole, 1),
        0,
        1,
        True,
        1.0,
        None,
        torch.float64,
    ]
    assert len({nodes.signature_of(each) for each in given}) == len(given)
    assert nodes.signature_of(whole) == nodes.signature_of(whole + 1.0)


def test_a_tensor_that_came_about_out_of_sight_is_refused():
    def hidden(x):
        return torch.from_numpy(x.numpy()) * 2.0

    with pytest.raises(RuntimeError, match="outside the recorded operations"):
        trace(hidden, torch.ones(3, dtype=torch.float64), [], True)


@pytest.mark.parametrize("far", [1e3, -1e3, math.inf, math.nan])
@pytest.mark.parametrize("name", ["gaussian", "negative_binomial", "beta", "multivariate_gaussian"])
def test_overflow_is_a_number_and_not_an_error(name, far):
    case = TABLE[name]
    lowered, _, z = problem(flat(case.model), *case.sample(), **case.keywords())
    lowered.value_and_gradient(z)
    away = z.clone()
    away[-1] += far  # a scale or a dispersion, or a coefficient
    value, gradient = lowered.value_and_gradient(away)
    assert isinstance(value, float)
    assert gradient.shape == z.shape
    if math.isnan(far):
        assert math.isnan(value)


def test_validation_is_put_back():
    before = torch.distributions.Distribution._validate_args, pyro.settings.get("validate_distributions_pyro")
    lowered, _, z = problem(flat(models.gaussian), *sample())
    lowered.value_and_gradient(z)
    after = torch.distributions.Distribution._validate_args, pyro.settings.get("validate_distributions_pyro")
    assert before == after


# Adam


def literal_twin(steps, **settings):
    """The solver that runs `pyro.infer.SVI` with the same steps as `Adam(steps=steps, decay=1.0, ...)`."""
    return SVI(optim=pyro.optim.Adam({"lr": 0.05}), steps=steps, **settings)


@pytest.mark.parametrize(
    ("handler", "model", "batch_size"),
    [
        pytest.param(flat, models.gaussian, None, id="gaussian-all rows"),
        pytest.param(flat, NETWORK, 25, id="network-batches"),
        pytest.param(None, models.student_t, 25, id="student_t, map-batches"),
        pytest.param(None, NETWORK, None, id="network, map-all rows"),
        pytest.param(None, NETWORK, 25, id="network, map-batches"),
    ],
)
def test_adam_takes_the_steps_of_the_literal_path(handler, model, batch_size):
    x, y = sample()  # 60 rows: two batches of 25, and one of 10
    fit = map_estimate if handler is None else mle
    solvers = Adam(steps=15, decay=1.0, batch_size=batch_size), literal_twin(15, batch_size=batch_size)
    with pytest.warns(ConvergenceWarning):
        replayed, literal = (fit(model, x, y, solver=s, start=AWAY[model]) for s in solvers)
    assert replayed.losses == pytest.approx(literal.losses, rel=1e-10)
    for name, value in literal.params.items():
        torch.testing.assert_close(replayed.params[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rescale", [True, False])
def test_by_default_adam_is_svi(rescale):
    x, y = sample()
    solvers = Adam(steps=40, rescale=rescale), SVI(steps=40, rescale=rescale)
    with pytest.warns(ConvergenceWarning):
        replayed, literal = (
            mle(models.gaussian, x, y, solver=s, start=AWAY[models.gaussian]) for s in solvers
        )
    assert replayed.losses == pytest.approx(literal.losses, rel=1e-10)


def test_adam_certifies_an_optimum():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=Adam())
    assert fit.converged
    assert fit.n_iter == len(fit.losses) == 2000
    assert "standard errors from an optimum" in fit.status
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, abs=5e-5)  # ½ · 0.01²


def test_adam_stops_early():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=Adam(steps=3000, patience=50))
    assert fit.n_iter < 1500
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, abs=1e-2)


def test_the_seed_decides_the_batches():
    x, y = sample(100)
    with pytest.warns(ConvergenceWarning):
        first, again, other = (
            mle(models.gaussian, x, y, solver=Adam(steps=50, batch_size=10, seed=seed)).losses
            for seed in (0, 0, 1)
        )
    assert first == again != other


def test_a_learning_rate_that_is_too_large_is_told():
    lowered, _, z = problem(flat(models.poisson), *TABLE["poisson"].sample(), **TABLE["poisson"].keywords())
    found = Adam(steps=100, learning_rate=1e6).minimise(lowered, z)
    assert not found.converged
    assert "lower the learning rate" in found.status
    assert found.steps < 100
    assert not math.isfinite(found.losses[-1])
    assert all(map(math.isfinite, found.losses[:-1]))


def test_single_precision_is_a_choice():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=Adam(steps=1500, dtype=torch.float32))
    assert {value.dtype for value in fit.params.values()} == {torch.float32}
    torch.testing.assert_close(
        fit.params["mean.weight"].double(),
        mle(models.gaussian, x, y).params["mean.weight"],
        rtol=0,
        atol=1e-3,
    )


def test_progress_goes_to_the_terminal(capsys):
    mle(models.gaussian, *sample(), solver=Adam(), progress=True)
    out, err = capsys.readouterr()
    assert "Adam" in err
    assert out == ""


def test_settings_that_make_no_sense_are_refused():
    for settings in ({"steps": 0}, {"batch_size": 0}):
        with pytest.raises(DataError, match="must be a positive whole number; it is 0"):
            Adam(**settings)
    for settings in ({"learning_rate": 0.0}, {"learning_rate": math.inf}, {"decay": 0.0}, {"decay": 2.0}):
        with pytest.raises(DataError, match=f"`{next(iter(settings))}` must be"):
            Adam(**settings)


def test_compilation_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DataError, match=r"C\+\+ compiler, and there is no no-such-compiler"):
        mle(models.gaussian, *sample(), solver=Adam(compile=True))


# Networks


def test_machine_code_is_of_the_same_loss(monkeypatch):
    """Here the graph that the compiler is given is run as it is; the compiler itself takes seconds."""
    monkeypatch.setattr(graphs, "_check_compiler", lambda: None)
    monkeypatch.setattr(graphs, "machine_code", lambda module, inputs: taken.append(inputs) or module)
    taken = []
    x, y = torch.rand(30, 3, dtype=torch.float64), torch.rand(30, dtype=torch.float64)
    settings = {"steps": 6, "batch_size": 12, "learning_rate": 1e-2}
    with pytest.warns(ConvergenceWarning):
        plain, compiled = (
            mle(NETWORK, x, y, solver=Adam(**settings, compile=each)) for each in (False, True)
        )
    assert len(taken) == 2  # of 12 rows and of 6
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-12)
    lowered, _, z = problem(NETWORK, x, y)
    lowered.evaluation(z)
    code = lowered.replays[-1].graph.clean.module(FASTER)
    assert any(node.target is tanh for node in code.graph.nodes)


def test_the_tanh_of_machine_code_has_the_digits_of_torch():
    x = torch.cat([torch.logspace(-300, 3, 2000, dtype=torch.float64), torch.linspace(0, 1, 2001).double()])
    x = torch.cat([x, -x])
    torch.testing.assert_close(tanh(x), x.tanh(), rtol=10 * torch.finfo(torch.float64).eps, atol=0.0)
    assert bool(tanh(torch.tensor(math.nan)).isnan())
    small = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(tanh(small).sum(), small)
    torch.testing.assert_close(slope, 1 - small.detach().tanh() ** 2, rtol=1e-12, atol=0.0)


def test_a_network_is_fitted_on_its_graph():
    x, y = sample()
    solver = LBFGS(max_steps=40)
    with pytest.warns(ConvergenceWarning):
        fit = mle(NETWORK, x, y, solver=solver)
    objective = Objective(flat(NETWORK), prepare(x, y))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    eager = solver.minimise(coordinates, coordinates.z(theta))
    # Forty steps of a line search amplify differences of rounding.
    assert fit.losses[:20] == pytest.approx(eager.losses[:20], rel=1e-8)


def test_large_designs_are_not_copied(monkeypatch):
    monkeypatch.setattr("neglog.objective.lowered.MAX_FORMED_NUMBERS", 10)
    lowered, coordinates, z = problem(models.gaussian, *sample(40_000))
    assert_alike(lowered, coordinates, z)
    assert any(
        part.data_ptr() == coordinates.blocks[0].basis.columns.data_ptr() for part in lowered._rows.values()
    )
