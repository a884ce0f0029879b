"""Solvers on functions whose minima are known; they see one vector and nothing else."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from table import sample

from neglog import flat, mle, models
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import rescaled
from neglog.objective.corners import Cornered
from neglog.objective.objective import Objective
from neglog.predictors import linear, rows
from neglog.solvers import LBFGS, Chain, Continuation, Newton
from neglog.solvers.continuation import _Faces, _Vertex
from neglog.solvers.descent import descends, is_hidden, is_stuck, rounding_of


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


class Function:
    """A function of one vector as a problem, differentiated by autograd."""

    rows = 1

    def __init__(self, function, size):
        self.function, self.size, self.evaluations = function, size, 0

    def value(self, z):
        return float(self.function(z))

    def value_and_gradient(self, z):
        self.evaluations += 1
        leaf = z.clone().requires_grad_()
        value = self.function(leaf)
        return float(value.detach()), torch.autograd.grad(value, leaf)[0]

    def hessian(self, z):
        return torch.autograd.functional.hessian(self.function, z)

    def derivatives(self, z):
        return *self.value_and_gradient(z), self.hessian(z)

    def sample(self):
        return None

    def check(self, z):
        if self.value(z) < -1e6:
            raise UnboundedLikelihoodError("it falls without end.")


def rosenbrock(z):
    return (100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum()


SOLVERS = pytest.mark.parametrize("solver", [Newton(), LBFGS()], ids=lambda solver: type(solver).__name__)


@SOLVERS
@pytest.mark.parametrize("start", [(-1.2, 1.0), (0.0,) * 10], ids=len)
def test_rosenbrocks_valley(solver, start):
    found = solver.minimise(Function(rosenbrock, len(start)), vector(*start))
    assert found.converged
    torch.testing.assert_close(found.z, torch.ones(len(start), dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_last_step_that_rounding_stops_far_away_is_not_called_an_optimum():
    class Rising(Function):  # its rounding hides every descent
        def value(self, z):
            return float(self.evaluations)

        def value_and_gradient(self, z):
            return super().value_and_gradient(z)[0] + self.evaluations, super().value_and_gradient(z)[1]

    found = Newton().minimise(Rising(lambda z: ((z - 1) ** 2).sum(), 2), vector(1.3, 1.3))
    assert not found.converged
    assert "rounding" in found.status
    assert not found.status.startswith("optimum")


def test_newton_solves_a_quadratic_in_one_step():
    matrix = torch.diag(vector(1e-6, 1.0, 1e6))
    found = Newton().minimise(Function(lambda z: 0.5 * z @ matrix @ z - z.sum(), 3), vector(0, 0, 0))
    assert found.converged
    assert found.steps == 1
    torch.testing.assert_close(found.z, vector(1e6, 1.0, 1e-6), rtol=1e-12, atol=0)


@SOLVERS
def test_history_never_climbs(solver):
    found = solver.minimise(Function(rosenbrock, 4), vector(-1.2, 1.0, -1.0, 2.0))
    assert all(later <= earlier for earlier, later in zip(found.losses, found.losses[1:], strict=False))


def test_newton_leaves_a_saddle_that_it_can_see_and_claims_none():
    def saddle(z):
        return z[0] ** 2 - z[1] ** 2 + 0.25 * z[1] ** 4

    # At z[1] = 0 the gradient does not show the way down; the Hessian shows that it is no minimum.
    stuck = Newton().minimise(Function(saddle, 2), vector(1.0, 0.0))
    assert not stuck.converged
    assert "not positive definite" in stuck.status
    found = Newton().minimise(Function(saddle, 2), vector(1.0, 0.1))
    assert found.converged
    assert found.z[1].item() == pytest.approx(math.sqrt(2))


@SOLVERS
def test_a_function_that_falls_without_end_is_told(solver):
    with pytest.raises(UnboundedLikelihoodError, match="without end"):
        solver.minimise(Function(lambda z: -torch.exp(z).sum(), 2), vector(0.0, 0.0))


@SOLVERS
def test_a_trial_beyond_the_domain_is_a_step_too_far(solver):
    # The first full step leaves x > 0, where the function is NaN.
    found = solver.minimise(Function(lambda z: (z - 3 * torch.log(z)).sum(), 1), vector(20.0))
    assert found.converged
    assert found.z.item() == pytest.approx(3.0, rel=1e-7)


@SOLVERS
def test_steps_are_counted_and_limited(solver):
    limited = type(solver)(max_steps=3)
    found = limited.minimise(Function(rosenbrock, 2), vector(-1.2, 1.0))
    assert not found.converged
    assert found.steps == 3


def test_the_line_search_of_lbfgs_is_frugal():
    problem = Function(rosenbrock, 10)
    found = LBFGS().minimise(problem, torch.zeros(10, dtype=torch.float64))
    assert problem.evaluations < 1.5 * found.steps + 10


def test_a_chain_goes_on_where_the_solver_before_stopped():
    problem = Function(rosenbrock, 4)
    start = vector(-1.2, 1.0, 1.0, 1.0)
    found = Chain((LBFGS(max_steps=3), Newton())).minimise(problem, start)
    assert found.converged
    assert found.steps > 3
    assert len(found.losses) > 4
    alone = LBFGS(max_steps=3).minimise(problem, start)
    assert found.losses[:4] == alone.losses
    assert (
        Chain((LBFGS(), Newton())).minimise(problem, start).status == LBFGS().minimise(problem, start).status
    )


# The certificate of a vertex.


def lad(rows=30):
    x, y = sample(rows, 2)
    objective = Objective(flat(models.laplace), prepare(x, y))
    coordinates = Cornered.of(rescaled(objective, starting_point(objective, None)))
    return coordinates, coordinates.z(starting_point(objective, None))


def test_a_vertex_that_is_not_the_optimum_gets_no_certificate():
    coordinates, start = lad()
    optimum = Continuation().minimise(coordinates, start)
    held = coordinates.residuals(optimum.z).abs() < 1e-9
    assert optimum.converged
    assert held.sum() == 3
    signs = torch.where(held, 0.0, coordinates.residuals(optimum.z).sign())
    right = _Vertex(coordinates, held, signs, optimum.z)
    assert right.violation(optimum.z, torch.zeros(30).double()) < 1e-9
    wrong_vertices = 0
    for first in range(0, 27, 2):
        other = torch.zeros(30, dtype=torch.bool)
        other[first : first + 3] = True
        if torch.equal(other, held):
            continue
        signs = torch.where(other, 0.0, coordinates.residuals(optimum.z).sign())
        point = _Vertex(coordinates, other, signs, optimum.z).solve(optimum.z, 1e-8, _Faces(coordinates))
        if point is None:
            continue
        z = point[0]
        signs = torch.where(other, 0.0, coordinates.residuals(z).sign())
        assert _Vertex(coordinates, other, signs, z).violation(z, torch.zeros(30).double()) > 1e-3
        wrong_vertices += 1
    assert wrong_vertices > 5


def test_a_multiplier_beyond_one_is_a_violation():
    # The median of five numbers, held at the second of them: three signs pull one way and one the other.
    objective = Objective(flat(models.laplace), prepare(torch.empty(5, 0).double(), vector(0, 1, 2, 3, 4)))
    coordinates = Cornered.of(rescaled(objective, starting_point(objective, None)))
    theta = starting_point(objective, None)
    theta[objective.sites["location.bias"].place] = 1.0
    theta[objective.sites["scale"].place] = math.log(7 / 5)  # mean |r| at 1
    z = coordinates.z(theta)
    held = torch.tensor([False, True, False, False, False])
    vertex = _Vertex(coordinates, held, torch.where(held, 0.0, coordinates.residuals(z).sign()), z)
    assert vertex.violation(z, torch.zeros(5).double()) == pytest.approx(1.0, abs=1e-9)  # it needs 2


def test_continuation_without_a_certificate_does_not_converge(monkeypatch):
    coordinates, start = lad()
    monkeypatch.setattr(_Vertex, "violation", lambda *_: 1e-6)
    found = Continuation().minimise(coordinates, start)
    assert not found.converged
    assert "no certified optimum" in found.status


def test_a_run_cut_short_on_a_slope_is_not_called_a_runaway():
    x, y = sample()
    counts = torch.exp(0.3 * y).round()
    far = {"log_rate.bias": counts.mean().log() + 10.0}
    with pytest.warns(ConvergenceWarning, match="stopped after 1 steps"):
        fit = mle(models.poisson, x, counts, start=far, solver=Newton(max_steps=1))
    assert not fit.converged


def test_a_flat_bottom_where_the_solver_stood_all_along_is_no_border():
    def model(x, y=None):
        root = linear("root", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(root**2, 1.0), obs=y)

    # The loss is root⁴ / 2 a row: no curvature at 0, where it starts, and a minimum all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = mle(model, torch.empty((5, 0)), torch.zeros(5))
    assert "border" not in fit.status
    assert fit.params["root.bias"] == 0


class Grinding(Function):
    """A function that falls by 1e-8 a step, and is infinite a little further on, with a given Hessian."""

    def __init__(self, hessian):
        super().__init__(lambda z: 1 + 0.1 * z[0], len(hessian))
        self.curvature, self.wall = hessian, -math.inf

    def value_and_gradient(self, z):
        value, _ = super().value_and_gradient(z)
        return (value if z[0] >= self.wall else math.inf), 1e-7 * torch.eye(self.size, dtype=z.dtype)[0]

    def derivatives(self, z):
        self.wall = float(z[0]) - 1.5e-7
        return *self.value_and_gradient(z), self.curvature


@pytest.mark.parametrize(
    ("hessian", "steps"),
    [
        pytest.param(torch.diag(vector(1.0, -1.0)), 20, id="negative curvature"),
        pytest.param(vector(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0).reshape(3, 3), 5, id="flat"),
    ],
)
def test_newton_stops_unconverged_where_its_steps_hardly_descend_on_an_indefinite_hessian(hessian, steps):
    found = Newton().minimise(Grinding(hessian), torch.zeros(len(hessian), dtype=torch.float64))
    assert not found.converged
    assert found.steps == steps
    assert f"the last {steps} of which lowered the loss by less than 1e-06" in found.status


def test_newton_takes_long_steps_where_a_loss_falls_exponentially_towards_a_border():
    problem = Function(lambda z: (z[0] - 1) ** 2 + torch.exp(-z[1]), 2)
    found = Newton().minimise(problem, vector(0.0, 0.0))
    assert found.z[1] > 15
    assert found.steps <= 22  # 32 if each is one Newton step, which is 1 long


def test_newton_gives_up_where_a_loss_falls_ever_more_slowly_towards_infinity():
    # 1 / log z falls like 1 / t: each Newton step, or 8 of them, multiplies z.
    found = Newton().minimise(Function(lambda z: 1 / torch.log(z[0]), 1), vector(10.0))
    assert not found.converged
    assert found.steps <= 120  # 200 if steps are taken for as long as they lower the loss by more than 1e-6
    assert "the last 50 of which lowered the loss by less than 0.01" in found.status


def test_the_rules_of_descent_for_many_functions_are_those_for_one():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 200, generator=generator, dtype=torch.float64)
    values[1, ::7], values[1, 1::7] = -math.inf, math.nan
    value, reached, promised, noise = values[0], values[1], -values[2].abs(), 1e-3 * values[3].abs()
    rules = {
        "descends": (descends, (value, reached, promised, noise)),
        "is_hidden": (is_hidden, (promised, 1e6 * noise)),
        "is_stuck": (is_stuck, (promised.abs(), value.abs(), 1e3 * noise)),
        "rounding_of": (rounding_of, (value, 100 * noise)),
    }
    for name, (rule, given) in rules.items():
        alone = [rule(*each) for each in zip(*(part.tolist() for part in given), strict=True)]
        assert rule(*given).tolist() == alone, name
        assert len(set(alone)) > 1
    assert not descends(value, reached, promised, noise)[::7].any()
    assert not descends(value, reached, promised, noise)[1::7].any()
