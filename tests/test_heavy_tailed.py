"""Truncated Student responses: an optimum, or the border at which their likelihood is largest, at once."""

from __future__ import annotations

import math
import re
from typing import Any

import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from neglog import mle, models
from neglog.distributions import StudentT, Truncated
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError
from neglog.fitting import heavy_tailed
from neglog.fitting.student_rows import Heavy
from neglog.fitting.tilted import TruncatedRows
from neglog.objective.basis import Basis
from neglog.objective.coordinates import Coordinates
from neglog.observation import truncated
from neglog.predictors import linear, positive

ROWS = 80


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations of derivatives of the model that a fit takes."""
    found: list[str] = []
    for name in ("derivatives", "value_and_gradient"):
        original = getattr(Coordinates, name)

        def counted(self: Coordinates, z: Tensor, name: str = name, original: Any = original) -> Any:
            found.append(name)
            return original(self, z)

        monkeypatch.setattr(Coordinates, name, counted)
    return found


def _data(lower: float, upper: float) -> tuple[Tensor, Tensor]:
    """The rows of a Normal response around a line that lie between bounds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)
    y = 0.3 * x.sum(1) + torch.randn(ROWS, generator=generator, dtype=torch.float64)
    seen = (y >= lower) & (y <= upper)
    return x[seen], y[seen]


@pytest.mark.parametrize("upper", [0.8, math.inf])
@pytest.mark.parametrize("df", [1e-3, 2.0, 200.0])
def test_the_loss_of_truncated_student_rows_and_its_derivatives(df: float, upper: float) -> None:
    lower, (x, y) = -1.0, _data(-1.0, upper)
    basis = Basis(torch.cat([torch.ones_like(x[:, :1]), x], 1), False, torch.eye(3, dtype=torch.float64))
    ones = torch.ones_like(y)
    rows = TruncatedRows(y, lower * ones, upper * ones, ones, basis, torch.tensor([1.0, 0, 0]).double())

    def loss(z: Tensor) -> Tensor:
        response = StudentT(z[-1].exp(), basis.at(z[:-2]), z[-2].exp())
        return -Truncated(response, lower, upper).log_prob(y).sum()

    z = torch.tensor([0.1, 0.2, -0.3, -0.4, math.log(df)], dtype=torch.float64, requires_grad=True)
    value, gradient, hessian = Heavy(rows).derivatives(z.detach())
    assert abs(value - loss(z).item()) <= 1e-10 * abs(value)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(z), z)[0], rtol=1e-8, atol=1e-8)
    exact = torch.autograd.functional.hessian(loss, z.detach())
    torch.testing.assert_close(hessian, exact, rtol=1e-7, atol=1e-7)


def test_student_rows_between_bounds_as_flat_as_a_normal_are_refused_at_once(evaluations: list[str]) -> None:
    """Steps in df, scale and location followed the collapse, thousands of evaluations long."""
    bounds = -0.9, 0.9
    x, y = _data(*bounds)
    with pytest.raises(UnboundedLikelihoodError, match=r"no maximum: between two bounds .*`df` and `scale`"):
        mle(truncated(models.student_t, *bounds), x, y)
    assert len(evaluations) == 0
    known = pyro.condition(models.student_t, {"df": torch.tensor(4.0, dtype=torch.float64)})
    assert mle(truncated(known, *bounds), x, y).converged


def test_between_bounds_the_likelihood_of_student_rows_rises_as_df_and_scale_go_to_0() -> None:
    """At df = 0 the density is 1 / (2 √(w² + r²) arsinh(1 / w)) between -1 and 1, around a row at 0."""
    others = [mp.mpf(k) / 40 for k in range(1, 40)]

    def loss(w: Any) -> Any:
        mass = mp.log(2 * mp.asinh(1 / w))
        return sum(mass + mp.log(mp.sqrt(w * w + r * r)) for r in (mp.mpf(0), *others))

    falls = [loss(mp.mpf(10) ** -power) for power in (100, 200, 400, 800)]
    assert falls[0] > falls[1] > falls[2] > falls[3]


def test_student_rows_above_a_bound_with_light_tails_are_at_the_border_of_the_normal(
    evaluations: list[str],
) -> None:
    y = -torch.log(1 - (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS * 0.98)
    empty = torch.empty((ROWS, 0))
    normal = mle(truncated(models.gaussian, 0.0, 4.0), empty, y)
    before = len(evaluations)
    with pytest.warns(ConvergenceWarning, match="never falls as `df` → .*the model is `gaussian`"):
        fit = mle(truncated(models.student_t, 0.0, 4.0), empty, y)
    assert not fit.converged
    assert abs(fit.nll - normal.nll) < 1e-6
    assert len(evaluations) == before


def test_student_rows_with_heavy_tails_between_bounds_take_few_evaluations(evaluations: list[str]) -> None:
    shares = (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS
    y = torch.tan(math.pi * (shares - 0.5) * 0.96)
    fit = mle(truncated(models.student_t, -20.0, 20.0), torch.empty((ROWS, 0)), y)
    assert fit.converged
    assert abs(fit.params["df"].item() - 1) < 0.3
    assert len(evaluations) <= 5


def test_a_truncated_t_with_other_names_and_torchs_class_takes_the_same_road(evaluations: list[str]) -> None:
    def heavy(x: Tensor, y: Tensor | None = None) -> Tensor:
        centre, width, freedom = linear("centre", x), positive("width", x), positive("freedom", x)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.StudentT(freedom, centre, width), obs=y)

    bounds = -0.9, 0.9
    x, y = _data(*bounds)
    with pytest.raises(UnboundedLikelihoodError, match=r"between two bounds .*`freedom` and `width`"):
        mle(truncated(heavy, *bounds), x, y)
    assert len(evaluations) == 0


def test_the_lowest_end_that_follows_no_rows_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four starts lead to a density that follows rows: their equal losses are not compared."""
    ends = [heavy_tailed._End(math.inf, torch.zeros(3), heavy_tailed.COLLAPSED) for _ in range(2)]
    ends += [heavy_tailed._End(2.0, torch.ones(3)), heavy_tailed._End(1.0, torch.ones(3))]
    monkeypatch.setattr(heavy_tailed, "_normal", lambda rows: None)
    monkeypatch.setattr(heavy_tailed, "_starts", lambda rows, normal: range(4))
    monkeypatch.setattr(heavy_tailed, "_end", lambda rows, start, log_df, normal: ends[start])
    assert heavy_tailed._best(None, None) is ends[3]


def _uniform(rows: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 2))
    return torch.from_numpy(x), torch.from_numpy(rng.uniform(0, 1, rows))


def test_a_known_df_between_bounds_is_refused_where_a_line_leaves_all_but_one_row(
    evaluations: list[str],
) -> None:
    """Steps crept out of the bounds and onto rows, for seconds."""
    x, y = _uniform(300)
    known = pyro.condition(models.student_t, {"df": torch.tensor(9.0, dtype=torch.float64)})
    with pytest.raises(
        UnboundedLikelihoodError, match=r"follows row (\d+) and lies beyond .*`scale`"
    ) as error:
        mle(truncated(known, 0.0, 1.0), x, y)
    assert len(evaluations) == 0
    row = int(re.search(r"row (\d+)", str(error.value)).group(1))  # type: ignore[union-attr]
    centred = (x - x.mean(0)).numpy()
    products = centred @ np.linalg.solve(centred.T @ centred, centred[row])
    location = y[row].item() - 1e5 * (products[row] - products)
    assert (np.delete(location, row) < -100).all()
    losses = []
    for scale in (1e-2, 1e-4, 1e-8):
        start, end = (stats.t.logsf((bound - location) / scale, 9) for bound in (0.0, 1.0))
        mass = start + np.log(-np.expm1(end - start))
        losses.append(
            -float((stats.t.logpdf((y.numpy() - location) / scale, 9) - math.log(scale) - mass).sum())
        )
    assert losses[0] > losses[1] > losses[2]
    assert abs(losses[1] - losses[2] - math.log(1e4)) < 0.1


def test_fewer_columns_lead_to_the_uniform_border_of_a_known_df() -> None:
    known = pyro.condition(models.student_t, {"df": torch.tensor(9.0, dtype=torch.float64)})
    y = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="`y` is uniform between its bounds"):
        fit = mle(truncated(known, 0.0, 1.0), torch.empty((50, 0)), y)
    assert abs(fit.nll) < 1e-4


def test_a_scale_of_0_beyond_the_bounds_follows_no_row() -> None:
    """It leaves a power of the distance from the location, as Pareto's density is."""
    y = torch.linspace(1.0, 3.0, 20, dtype=torch.float64)
    ones = torch.ones_like(y)
    rows = TruncatedRows(
        y, ones, 3 * ones, ones, Basis(ones[:, None], False, torch.eye(1).double()), torch.ones(1).double()
    )
    for location, border in ((0.5, ""), (2.0, heavy_tailed.COLLAPSED)):
        whole = torch.tensor([location, -20.0, 0.0], dtype=torch.float64)
        nearest = y[(y - location).abs().argmin()] if border else location
        whole[0] = nearest
        end = heavy_tailed._end(rows, whole, None, None)
        assert end is not None
        assert end.border == border
        assert math.isfinite(end.value) == (not border)


def test_the_border_of_an_infinite_df_has_the_density_of_the_normal_far_from_its_location() -> None:
    """Ten thousand scales from its location a t of 1e10 df is not Normal: the border was lost."""
    y = torch.cat([torch.zeros(20), torch.linspace(0.1, 2.0, 20)]).double()
    ones = torch.ones_like(y)
    basis = Basis(ones[:, None], False, torch.eye(1).double())
    rows = TruncatedRows(y, 0 * ones, math.inf * ones, ones, basis, torch.ones(1).double())
    end = heavy_tailed._normal(rows)
    assert end is not None
    assert end.border == heavy_tailed.EXPONENTIAL
    location, scale, df = end.whole[0], end.whole[1].exp(), end.whole[2].exp()
    assert location / scale < -1e3
    found = -Truncated(StudentT(df, location, scale), 0.0, math.inf).log_prob(y).sum()
    assert float(found) == pytest.approx(float(len(y) * (1 + y.mean().log())), abs=1e-4)  # the exponential
    assert end.value == pytest.approx(float(found), abs=1e-4)


@pytest.mark.parametrize("is_given", [True, False])
def test_an_optimum_is_not_lost_to_a_border(is_given: bool) -> None:
    """The four default starts end at the border of the Normal, at 32.66; SciPy finds 28.30."""
    x = torch.tensor(
        [-0.25159, 0.47652, -0.67288, 1.55105, -0.68667, -0.04753, 0.36035, -0.38498, -0.25493, 0.92306],
        dtype=torch.float64,
    )
    y = torch.tensor(
        [-4.661, -68.19822, -1.28888, -31.91289, -0.31987, -1.72514, -1.43433, 0.57275, -2.90111, -2.48899],
        dtype=torch.float64,
    )
    start = {"location.bias": 10.208, "location.weight": [16.159], "scale": 0.634, "df": 1.931}
    fit = mle(truncated(models.student_t, upper=1.0), x[:, None], y, start=start if is_given else None)
    assert fit.converged
    assert fit.nll < 29

    def loss(at: Any) -> float:
        location, scale, df = at[0] + at[1] * x.numpy(), math.exp(at[2]), math.exp(at[3])
        mass = stats.t.logcdf((1.0 - location) / scale, df)
        return float(-(stats.t.logpdf(y.numpy(), df, location, scale) - mass).sum())

    found = optimize.minimize(loss, [10.208, 16.159, math.log(0.634), math.log(1.931)], method="BFGS")
    assert fit.nll == pytest.approx(found.fun, abs=1e-4)
