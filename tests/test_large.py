"""Many rows: walked in blocks, begun on a sample, read in place; thresholds are lowered to see it happen."""

import os
import subprocess
import sys
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import flat, map_estimate, mle, models, with_priors
from neglog.data import Data, prepare
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.start import starting_point
from neglog.objective.basis import Basis, sample_of, triangle_of
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.objective.products import symmetric_products
from neglog.predictors import linear, rows
from neglog.solvers import Newton

N = 3000


@pytest.fixture
def many(monkeypatch):
    """Few rows are treated as very many."""
    monkeypatch.setattr("neglog.objective.objective.BLOCK_ROWS", 700)
    monkeypatch.setattr("neglog.objective.objective.SAMPLE_ROWS", 300)
    monkeypatch.setattr("neglog.objective.coordinates.MIN_SAMPLED_ROWS", 1000)
    monkeypatch.setattr("neglog.objective.basis.MIN_LARGE_DESIGN", 1000)
    monkeypatch.setattr("neglog.objective.basis.SAMPLED", 400)


def drawn(name, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 4))
    eta = 0.5 + x @ [0.3, -0.2, 0.1, 0.0]
    y = {
        "gaussian": lambda: eta + 0.7 * rng.normal(size=N),
        "heteroscedastic": lambda: eta + np.exp(0.3 * x[:, 0]) * rng.normal(size=N),
        "poisson": lambda: rng.poisson(np.exp(eta)).astype(float),
        "negative_binomial": lambda: rng.poisson(np.exp(eta) * rng.gamma(2, 0.5, N)).astype(float),
        "bernoulli": lambda: (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(float),
        "gamma": lambda: np.exp(eta) * rng.gamma(3, 1 / 3, N),
        "student_t": lambda: eta + rng.standard_t(4, N),
    }[name]()
    return x, y


NAMES = ("gaussian", "heteroscedastic", "poisson", "negative_binomial", "bernoulli", "gamma", "student_t")


def problem(name, x, y, **keywords):
    model = flat(getattr(models, name))
    objective = Objective(model, prepare(x, y, **keywords))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    return coordinates, coordinates.z(theta)


def unseen(count):
    """Rows that the sample of where to begin does not hold."""
    return sorted(set(range(N)) - set(sample_of(N, 300).tolist()))[:count]


def same_fit(first, second):
    assert first.converged
    assert second.converged
    for site, value in first.params.items():
        torch.testing.assert_close(value, second.params[site], rtol=1e-7, atol=1e-9)
    assert first.nll == pytest.approx(second.nll, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_rows_add_up_to_the_whole(name, monkeypatch):
    x, y = drawn(name)
    weights = np.random.default_rng(1).integers(0, 3, N).astype(float)
    whole, z = problem(name, x, y, weights=weights)
    value, gradient, hessian = whole.derivatives(z + 0.1)
    monkeypatch.setattr("neglog.objective.objective.BLOCK_ROWS", 700)
    blocks, _ = problem(name, x, y, weights=weights)
    assert len(blocks.objective.parts) > 2
    assert sum(part.rows for _, part in blocks.objective.parts) == int((weights > 0).sum())
    walked = blocks.derivatives(z + 0.1)
    assert walked[0] == pytest.approx(value, rel=1e-13)
    assert blocks.value(z + 0.1) == pytest.approx(value, rel=1e-13)
    torch.testing.assert_close(walked[1], gradient, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(blocks.value_and_gradient(z + 0.1)[1], gradient, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(walked[2], hessian, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_very_many_rows_end_where_few_would(name, many, monkeypatch):
    x, y = drawn(name)
    found = mle(getattr(models, name), x, y)
    monkeypatch.undo()
    same_fit(mle(getattr(models, name), x, y), found)


def test_priors_count_once_however_many_blocks_there_are(many, monkeypatch):
    x, y = drawn("poisson")
    found = map_estimate(models.poisson, x, y)
    monkeypatch.undo()
    expected = map_estimate(models.poisson, x, y)
    same_fit(expected, found)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


def test_keywords_and_designs_are_taken_apart_with_the_rows(many, monkeypatch):
    x, y = drawn("negative_binomial")
    exposure = np.random.default_rng(2).uniform(0.5, 2.0, N)
    fit = partial(
        mle, models.negative_binomial, {"log_mean": x, "dispersion": x[:, :1]}, y, exposure=exposure
    )
    found = fit()
    monkeypatch.undo()
    same_fit(fit(), found)


def test_a_model_that_holds_something_of_all_rows_is_not_taken_apart(many):
    x, y = drawn("poisson")
    exposure = torch.linspace(0.5, 2.0, N, dtype=torch.float64)

    def bound(x, y=None):
        rate = torch.exp(linear("log_rate", x)) * exposure
        with rows(x):
            return pyro.sample("y", dist.Poisson(rate), obs=y)

    found = mle(bound, x, y)
    assert not found.objective.separable
    assert len(found.objective.parts) == 1
    same_fit(mle(models.poisson, x, y, exposure=exposure), found)


def test_a_model_that_centres_its_columns_is_not_taken_apart(many, monkeypatch):
    x, y = drawn("gaussian")

    def centred(x, y=None):
        mean = linear("mean", x - x.mean(0))
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    found = mle(centred, x + 3, y)
    assert not found.objective.separable
    torch.testing.assert_close(
        found.params["mean.weight"], mle(models.gaussian, x, y).params["mean.weight"], rtol=1e-7, atol=1e-9
    )


def test_what_the_sample_does_not_see_is_estimated_all_the_same(many, monkeypatch):
    x, y = drawn("poisson")
    x[:, 3] = 0.0
    x[unseen(2), 3] = 1.0
    y[unseen(2)] = 4.0, 9.0
    found = mle(models.poisson, x, y)
    monkeypatch.undo()
    same_fit(mle(models.poisson, x, y), found)


def test_rare_events_are_found(many, monkeypatch):
    x, _ = drawn("bernoulli")
    y = np.zeros(N)
    y[[5, 900, 1700, 2100]] = 1.0
    found = mle(models.bernoulli, x[:, :1], y)
    monkeypatch.undo()
    same_fit(mle(models.bernoulli, x[:, :1], y), found)


def test_a_response_that_hardly_ever_moves_has_a_spread(many, monkeypatch):
    x, _ = drawn("gaussian")
    y = np.zeros(N)
    y[unseen(3)] = 1.0, -2.0, 4.0
    found = mle(models.gaussian, x, y)
    monkeypatch.undo()
    same_fit(mle(models.gaussian, x, y), found)


def test_separated_classes_are_named_among_very_many_rows(many):
    x, _ = drawn("bernoulli")
    with pytest.raises(UnboundedLikelihoodError, match="x0"):
        mle(models.bernoulli, x, (x[:, 0] > 1).astype(float))


def test_a_sample_judges_columns_only_where_their_sizes_agree():
    x = torch.randn((30_000, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert triangle_of(x, True) is not None
    products = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    products = products.T @ products

    def distance(triangle):
        inverse = torch.linalg.solve_triangular(triangle, torch.eye(6, dtype=x.dtype), upper=True)
        return float((inverse.T @ products @ inverse - torch.eye(6, dtype=x.dtype)).abs().max())

    assert distance(triangle_of(x, True)) < 1e-12


def test_an_outlier_beside_the_sample_is_not_overlooked(monkeypatch):
    monkeypatch.setattr("neglog.objective.basis.SAMPLED", 2000)
    x = torch.randn((30_000, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    even = triangle_of(x, True)
    assert float((even.T @ even / 30_000 - torch.eye(6, dtype=x.dtype)).abs().max()) < 0.1
    exact = x.T @ x
    assert float((even.T @ even)[1:, 1:].sub(exact).abs().max()) > 1.0  # it was a sample
    x[0, 2] = 1e6
    seen = triangle_of(x, True)
    torch.testing.assert_close((seen.T @ seen)[1:, 1:], x.T @ x, rtol=1e-9, atol=1e-6)


def test_products_are_those_of_the_columns():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn((5000, p), generator=generator, dtype=torch.float64) for p in (3, 20))
    values = torch.randn(5000, generator=generator, dtype=torch.float64)
    ones = torch.ones((5000, 1), dtype=torch.float64)
    for one in (True, False):
        for other in (True, False):
            whole = [torch.cat([ones, c], 1) if o else c for c, o in ((left, one), (right, other))]
            bases = [
                Basis(c, o, torch.eye(c.shape[1] + o, dtype=c.dtype))
                for c, o in ((left, one), (right, other))
            ]
            expected = whole[0].T @ (values[:, None] * whole[1])
            torch.testing.assert_close(bases[0].cross(values, bases[1]), expected, rtol=1e-12, atol=1e-10)
            part = slice(100, 4000)
            expected = whole[0][part].T @ (values[part, None] * whole[1][part])
            found = bases[0].cross(values[part], bases[1], part)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


MEMORY = """
import torch
from pathlib import Path
from neglog import mle, models

def peak():
    (line,) = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

x = torch.randn((250_000, 50), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
y = torch.poisson(torch.exp(0.1 * x[:, 0]), generator=torch.Generator().manual_seed(0))
mle(models.poisson, x[:5000], y[:5000])
before = peak()
for far in (0.0, 500.0, 1e8):
    x += far
    assert mle(models.poisson, x, y).converged
    x -= far
    print((peak() - before) / (8 * x.numel()))
"""


def test_no_copy_of_the_design_is_made():
    """In the place, and beyond 1e4 standard deviations from 0 one copy, without the means of the columns.

    The peak is that of the process itself: `resource.getrusage` counts that of its parent too. Memory that
    is freed is returned at once; otherwise the peak varies by a copy of the design.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of the memory of a process is read from /proc")
    returning = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True, env=returning
    )
    near, shifted, far = map(float, ran.stdout.split())
    assert near <= shifted < 0.7  # samples of a tenth, and some numbers for each row
    assert far < 2.5  # and the copy, with temporaries of it


def test_hessians_are_taken_anew_only_where_they_change(many):
    coordinates, z = problem("poisson", *drawn("poisson"))
    calls = []
    derivatives = coordinates.derivatives
    coordinates.derivatives = lambda at: calls.append(at) or derivatives(at)
    found = Newton().minimise(coordinates, z)
    assert found.converged
    assert found.steps > len(calls)
    exact = coordinates.hessian(found.z)
    assert float((found.hessian - exact).abs().max()) < 0.2 * float(exact.diagonal().max())
    gradient = coordinates.value_and_gradient(found.z)[1]
    assert float(gradient @ torch.linalg.solve(exact, gradient)) ** 0.5 < 1e-8


def lasso(spread, location=0.0):
    prior = dist.Laplace(
        torch.full((), location, dtype=torch.float64), torch.tensor(0.01, dtype=torch.float64)
    )
    known = pyro.condition(
        with_priors(models.gaussian, {"mean.weight": prior}),
        {"sigma": torch.tensor(spread, dtype=torch.float64)},
    )
    return flat(known, "mean.bias", "sigma")


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize(
    "fit",
    [
        partial(mle, models.laplace),
        partial(mle, partial(models.quantile, tau=0.9)),
        partial(map_estimate, lasso(0.7)),
        partial(map_estimate, lasso(1e-3)),
    ],
)
def test_what_a_solver_says_of_the_loss_is_what_the_rows_say(fit, shift, many):
    x, y = drawn("gaussian")
    found = fit(x, shift + y)
    objective = found.objective
    theta = objective.layout.theta(found.params)
    assert found.converged
    assert found.nll == pytest.approx(float(objective.terms(theta)[0]), rel=1e-10)
    assert found.loss == pytest.approx(objective.value(theta), rel=1e-10)


def test_a_loss_that_is_a_small_difference_is_added_up_row_by_row(many):
    x, _ = drawn("gaussian")
    y = 1e3 * x[:, 0] + 1e-3 * np.random.default_rng(1).normal(size=N)
    found = map_estimate(lasso(1e-3, 1e3), x, y)
    assert found.converged
    theta = found.objective.layout.theta(found.params)
    assert found.nll == pytest.approx(float(found.objective.terms(theta)[0]), rel=1e-10)


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_a_known_spread_far_below_the_response_is_no_slope_without_end(many):
    """The rise that its curvature foretells was lost in rounding, and the likelihood called unbounded."""
    x, _ = drawn("gaussian")
    noise = np.random.default_rng(1).normal(size=N)
    found = map_estimate(lasso(1e-3, 1e6), x, 1e6 * x[:, 0] + 1e-3 * noise)
    weight = np.linalg.lstsq(np.column_stack([np.ones(N), x]), 1e-3 * noise, rcond=None)[0][1:]
    expected = np.array([1e6, 0, 0, 0]) + weight
    np.testing.assert_allclose(found.params["mean.weight"], expected, rtol=1e-12, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "poisson", "heteroscedastic"])
def test_the_rows_are_multiplied_once_for_all_predictors_of_a_design(name, many, monkeypatch):
    seen = []

    def watched(columns, one, weights, rough=False):
        seen.append(len(weights))
        return symmetric_products(columns, one, weights, rough)

    monkeypatch.setattr("neglog.objective.basis.symmetric_products", watched)
    x, y = drawn(name)
    coordinates, z = problem(name, x, y)
    z = z + 0.1 * torch.sin(torch.arange(len(z), dtype=z.dtype))  # where no two rows weigh the same
    assert len(seen) <= 1  # that of a sample, which judges the columns
    seen.clear()
    coordinates.derivatives(z)
    blocks = len(coordinates.blocks)
    expected = [] if name == "gaussian" else [blocks * (blocks + 1) // 2] * len(coordinates.objective.parts)
    assert seen == expected


def test_views_of_the_same_memory_are_designs_of_their_own(many):
    """They began at the same place with the same shape, and were taken for one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 8))
    first, second = x[:, :3], x[:, ::2][:, :3]
    y = first @ [0.5, -0.3, 0.2] + np.exp(second @ [0.3, -0.2, 0.25]) * rng.normal(size=N)
    found = mle(models.heteroscedastic, {"mean": first, "log_variance": second}, y)
    known = mle(models.heteroscedastic, {"mean": first.copy(), "log_variance": second.copy()}, y)
    assert found.converged
    for name, value in known.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=1e-9, atol=1e-9)


def test_there_is_room_for_some_of_what_rows_come_to(many, monkeypatch):
    monkeypatch.setattr("neglog.likelihood.rows.MAX_NUMPY_ROWS", 100)
    x, y = drawn("poisson")
    coordinates, z = problem("poisson", x, y)
    expected = coordinates.derivatives(z)
    kept = [len(part.as_read.kept) for _, part in coordinates.objective.parts]
    assert all(kept)
    for room in (0, 1000):
        monkeypatch.setattr("neglog.objective.objective.MAX_KEPT_BYTES", room)
        other, _ = problem("poisson", x, y)
        value, gradient, hessian = other.derivatives(z)
        assert value == expected[0]
        assert torch.equal(gradient, expected[1])
        assert torch.equal(hessian, expected[2])
        assert not any(part.as_read.kept for _, part in other.objective.parts)


def test_a_fit_reads_the_ends_of_y_once_and_evaluates_no_loss_at_a_curved_optimum(monkeypatch) -> None:
    """Rows are read by solvers; checks of a certified optimum, and of y, add no pass of their own."""
    data, values = Data.ends.func, Coordinates.value
    read, evaluated = [], []

    def ends(self):
        read.append(len(self.y))
        return data(self)

    def value(self, z):
        evaluated.append(self.rows)
        return values(self, z)

    counted = cached_property(ends)
    counted.__set_name__(Data, "ends")
    monkeypatch.setattr(Data, "ends", counted)
    monkeypatch.setattr(Coordinates, "value", value)
    x = torch.randn((400, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.poisson((1000 + x[:, 0]).abs(), generator=torch.Generator().manual_seed(1))
    assert mle(models.poisson, x, y).converged
    assert read == [400]
    assert evaluated == []
