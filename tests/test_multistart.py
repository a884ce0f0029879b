"""Likelihoods of many optima: the best of several starts, and what is said of the others."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from neglog import beginnings, mle, models
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError
from neglog.solvers import Chain, MultiStart, Newton, TrustRegion, multistart

EXACT = 1e-9


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


class Wells:
    """A function of one number with minima at -2 (lower) and near 2, over many rows."""

    size = 1

    def __init__(self, rows=10, offset=0.0):
        self.rows, self.offset, self.evaluations = rows, offset, 0

    def function(self, z):
        return ((z**2 - 4) ** 2 + z).sum() + self.offset

    def value(self, z):
        self.evaluations += 1
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

    roughly = derivatives

    def sample(self):
        return self.few if self.rows > 20_000 else None

    def check(self, z):
        if float(z) > 100:
            raise UnboundedLikelihoodError("it falls without end.")


STARTS = vector([-3.0], [3.0], [2.5])


def test_the_lowest_minimum_wins_and_the_others_are_told():
    found = MultiStart(Newton(), STARTS).minimise(Wells(), vector(3.5))
    assert found.converged
    assert found.z.item() == pytest.approx(-2.03, abs=0.01)
    alone = Newton().minimise(Wells(), vector(3.5))
    assert found.value < alone.value - 3
    assert re.search(
        r"; best of 4 starts: 1 ended at this optimum, 3 at an optimum of larger loss \(1\.9.*\)$",
        found.status,
    )


def test_where_all_agree_it_is_the_first():
    found = MultiStart(Newton(), vector([-2.5], [-3.0])).minimise(Wells(), vector(-1.5))
    assert found.status.endswith("best of 3 starts: 3 ended at this optimum")


def test_a_start_is_not_followed_to_an_optimum_that_is_known():
    starts, alone = (-2.5, -2.9, -3.5), Wells()
    ends = [Newton().minimise(alone, vector(start)) for start in starts]
    problem = Wells()
    found = MultiStart(Newton(), vector(*([start] for start in starts[1:]))).minimise(
        problem, vector(starts[0])
    )
    assert found.status == f"{ends[0].status}; best of 3 starts: 3 ended at this optimum"
    assert found.z == ends[0].z
    assert problem.evaluations < alone.evaluations


@pytest.mark.parametrize("place", [-2.0, -1.8, 1.9])
def test_a_place_is_near_an_optimum_where_the_function_is_its_parabola(place):
    known, problem = Newton().minimise(Wells(), vector(-2.5)), Wells()
    value, gradient, _ = problem.derivatives(vector(place))
    assert multistart._is_around(known, vector(place), value, gradient) == (place == -2.0)
    assert not multistart._is_around(known, vector(place), value + 1.0, gradient)
    assert not multistart._is_around(known, vector(place), value, -gradient)


def test_starts_on_the_way_to_a_known_optimum_change_no_number():
    r = np.random.default_rng(5)
    x = r.normal(size=(300, 3))
    y = x.sum(1) + r.standard_t(3, size=300)
    fit, alone = mle(models.student_t, x, y), mle(models.student_t, x, y, solver=Newton())
    assert fit.status == f"{alone.status}; best of 4 starts: 4 ended at this optimum"
    assert fit.nll == alone.nll
    for name, value in alone.params.items():
        assert torch.equal(fit.params[name], value)


@pytest.mark.parametrize("patience", [1, 3])
def test_starts_that_wait_change_no_optimum(patience, monkeypatch):
    whole = MultiStart(Newton(), STARTS).minimise(Wells(), vector(3.5))
    monkeypatch.setattr(multistart, "MAX_EVALUATIONS", patience)
    found = MultiStart(Newton(), STARTS).minimise(Wells(), vector(3.5))
    assert found.converged
    assert found.value == pytest.approx(whole.value, rel=EXACT)


def test_a_start_that_takes_long_is_not_followed_where_another_is_lower(monkeypatch):
    class Crawling(Newton):
        def minimise(self, problem, start, progress=False):
            z = start
            while float(z) > 3:  # at losses above that of either minimum
                z = z - 0.05
                problem.derivatives(z)
            return super().minimise(problem, z, progress)

    problem = Wells()
    found = MultiStart(Crawling(), vector([-3.0])).minimise(problem, vector(30.0))
    assert found.converged
    assert found.z.item() == pytest.approx(-2.03, abs=0.01)
    assert found.status.endswith("best of 2 starts: 1 ended at this optimum, 1 at no optimum")
    assert problem.evaluations < 2 * multistart.MAX_EVALUATIONS
    alone = MultiStart(Crawling(), vector([30.0])).minimise(Wells(), vector(30.0))
    assert alone.converged  # the lowest of those that wait is followed where none has ended


def test_starts_after_many_vain_evaluations_have_few():
    class Idle:
        def __init__(self):
            self.counts = []

        def minimise(self, problem, start, progress=False):
            self.counts.append(0)
            while True:
                problem.derivatives(start)
                self.counts[-1] += 1

    idle = Idle()
    starts = torch.linspace(3.0, 4.0, 7, dtype=torch.float64)[:, None]
    assert not MultiStart(idle, starts).minimise(Wells(), vector(2.9)).converged
    assert idle.counts[:8] == [multistart.MAX_EVALUATIONS] * 2 + [multistart.FEW_EVALUATIONS] * 6


def test_the_last_start_is_abandoned_where_its_loss_hardly_falls():
    class Idle:
        def minimise(self, problem, start, progress=False):
            for step in range(10_000):
                problem.derivatives(start - 1e-5 * step)
            raise AssertionError("it was never stopped")

    problem = Wells()
    found = MultiStart(Idle(), vector([3.5])).minimise(problem, vector(3.0))
    assert not found.converged
    assert found.status.endswith("none of 2 starts ended at an optimum")
    assert problem.evaluations < 5 * multistart.MAX_EVALUATIONS


def test_a_mixture_without_an_optimum_names_the_rows_that_a_component_can_follow():
    random = torch.Generator().manual_seed(100)
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = 0.3 * x[:, 0] + 0.5 * torch.randn(8, generator=random, dtype=torch.float64)
    y = y + torch.where(torch.rand(8, generator=random, dtype=torch.float64) < 0.4, -1.5, 1.5)
    y[0] = 1e3 * y[0].abs()
    with pytest.warns(ConvergenceWarning, match="no maximum, as a component can follow 2 rows exactly"):
        mle(models.gaussian_mixture, x, y)


def test_of_very_many_rows_a_sample_chooses():
    whole = Wells(rows=1_000_000)
    whole.few = Wells(rows=10_000)
    found = MultiStart(Newton(), STARTS).minimise(whole, vector(3.5))
    assert found.converged
    assert found.z.item() == pytest.approx(-2.03, abs=0.01)
    assert "best of 4 starts on 10000 rows" in found.status
    assert whole.evaluations < 0.3 * whole.few.evaluations


def test_a_start_without_a_minimum_does_not_spoil_the_others():
    class Refusing(Newton):
        def minimise(self, problem, start, progress=False):
            problem.check(start)
            return super().minimise(problem, start, progress)

    found = MultiStart(Refusing(), STARTS).minimise(Wells(), vector(200.0))
    assert found.converged
    assert found.status.endswith("1 at no optimum")
    with pytest.raises(UnboundedLikelihoodError, match="without end"):
        MultiStart(Refusing(), vector([150.0])).minimise(Wells(), vector(200.0))


def test_starts_that_cannot_change_a_refusal_are_not_followed():
    class Refusing:
        tried = 0

        def minimise(self, problem, start, progress=False):
            self.tried += 1
            problem.check(start)

    solver = Refusing()
    with pytest.raises(UnboundedLikelihoodError, match="without end"):
        MultiStart(solver, vector([150.0], [160.0], [1.0], [2.0])).minimise(Wells(), vector(200.0))
    assert solver.tried == 3


def test_models_whose_likelihood_is_log_concave_start_once():
    """In location / scale and 1 / scale: Pratt (1981), Burridge (1981). A StudentT and a mixture are not."""
    declared = {name for name in models.__all__ if hasattr(getattr(models, name), "beginnings")}
    assert declared == {"student_t", "gaussian_mixture"}
    x = np.linspace(0, 1, 20)[:, None]
    assert "starts" not in mle(models.huber, x, x[:, 0] + np.cos(9 * np.arange(20))).status


def test_a_start_of_the_users_own_is_the_only_one():
    x, y = crossing(8)
    assert "starts" in mle(models.gaussian_mixture, x, y).status
    fit = mle(models.gaussian_mixture, x, y, start={"mean.weight": vector([1.0], [-1.0])})
    assert "starts" not in fit.status
    assert "starts" not in mle(models.gaussian_mixture, x, y, solver=Newton()).status


def crossing(seed):
    """Two lines through one point, of slopes 2 and -2: nothing in y alone tells them apart."""
    r = np.random.default_rng(seed)
    x = r.normal(size=(120, 1))
    return x, np.where(r.uniform(size=120) < 0.6, 2 * x[:, 0], -2 * x[:, 0]) + 0.3 * r.normal(size=120)


@pytest.mark.parametrize("seed", [6, 8])
def test_lines_that_cross_are_found(seed):
    """From the quantiles of y alone Newton stops 150 nats above, or at a component on a single row."""
    fit = mle(models.gaussian_mixture, *crossing(seed))
    assert fit.converged, fit.status
    assert sorted(fit.params["mean.weight"][:, 0].tolist()) == pytest.approx([-2, 2], abs=0.15)
    assert "at an optimum of larger loss" in fit.status


def test_a_core_with_rows_far_from_it_is_found():
    r = np.random.default_rng(14)
    x = r.normal(size=(120, 1))
    r.uniform(size=120), r.normal(size=120)
    y = np.where(r.uniform(size=120) < 0.7, 0.2, 5.0) * r.normal(size=120)
    fit = mle(models.gaussian_mixture, x[:, :0], y)
    assert fit.converged, fit.status
    assert sorted(fit.params["sigma"].tolist()) == pytest.approx([0.2, 5.0], rel=0.3)


def test_heavy_tails_have_many_optima_and_the_best_is_taken():
    r = np.random.default_rng(13)
    x = r.normal(size=(14, 1))
    y = np.where(r.uniform(size=14) < 0.6, 3 * x[:, 0], -3 * x[:, 0] + 4) + 0.1 * r.normal(size=14)
    cauchy = partial(models.student_t, df=1.0)
    fit, alone = mle(cauchy, x, y), mle(cauchy, x, y, solver=Newton())
    assert alone.converged
    assert fit.converged
    assert fit.nll < alone.nll - 1


@pytest.mark.parametrize("handled", ["weights", "design", "df"])
def test_it_is_never_worse_than_a_single_start(handled):
    r = np.random.default_rng(1)
    x = r.normal(size=(60, 2))
    y = x @ np.array([1.0, -1.0]) + r.standard_t(2, size=60)
    y[:5] += 30
    model = partial(models.student_t, df=3.0) if handled == "df" else models.student_t
    keywords = {"weights": r.integers(0, 3, 60)} if handled == "weights" else {}
    designs = {"location": x, "scale": x[:, :1]} if handled == "design" else x
    best, alone = (mle(model, designs, y, solver=s, **keywords) for s in (None, Newton()))
    assert best.converged
    assert best.nll <= alone.nll + EXACT


def test_a_trust_region_leaves_a_saddle_that_newton_stops_at():
    saddle = Wells()
    saddle.function = lambda z: ((z**2 - 4) ** 2).sum()
    assert not Newton().minimise(saddle, vector(0.0)).converged
    found = Chain((Newton(), TrustRegion())).minimise(saddle, vector(0.0))
    assert found.converged
    assert abs(found.z.item()) == pytest.approx(2.0)


def test_beginnings_that_ask_for_the_same_line_find_it_once(monkeypatch):
    found, line = [], beginnings._line
    monkeypatch.setattr(beginnings, "_line", lambda *given: found.append(given[-1]) or line(*given))
    x, y = crossing(8)
    mle(models.gaussian_mixture, x, y)
    assert found == [1.0]
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    once, twice = (beginnings.line("mean", x, y, torch.ones_like(y), 1.0) for _ in range(2))
    assert found == [1.0] * 3, "nothing is kept outside"
    with beginnings.shared():
        assert all(map(torch.equal, once, beginnings.line("mean", x, y, torch.ones_like(y), 1.0)))
        other = beginnings.line("mean", x, y, torch.linspace(0, 1, len(y), dtype=y.dtype), 1.0)
    assert not torch.equal(other[0], twice[0])
