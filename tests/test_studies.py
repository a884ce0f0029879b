"""Simulation studies: the numbers are those of single fits, and their errors are what theory says."""

import math
from functools import partial

import pytest
import torch

from neglog import mle, models
from neglog.errors import DataError
from neglog.studies import INTERCEPT, LOSSES, OUTLIERS, SLOPE, robustness

SMALL = {"data_sets": 8, "rows": 30}


def off(size):
    return torch.tensor(size, dtype=torch.float64)


def test_a_cell_is_what_single_fits_say():
    table = robustness({"MAE": models.laplace}, shares=[0.1], seed=3, **SMALL)
    generator = torch.Generator().manual_seed(3)
    x, noise = torch.randn((2, 8, 30), generator=generator, dtype=torch.float64)
    order = torch.rand((8, 30), generator=generator).argsort(-1).argsort(-1)
    y = INTERCEPT + SLOPE * x + noise + 10.0 * (order < 3)
    fits = [mle(models.laplace, x[s][:, None], y[s]) for s in range(8)]
    slopes = torch.tensor([fit.params["location.weight"].item() for fit in fits]) - SLOPE
    cell = table.loc[(0.1, "MAE")]
    assert cell["slope_bias"] == pytest.approx(slopes.mean().item(), abs=1e-6)
    assert cell["slope_bias_se"] == pytest.approx(slopes.std().item() / math.sqrt(8), rel=1e-5)
    assert cell["slope_rmse"] == pytest.approx(slopes.square().mean().sqrt().item(), rel=1e-5)
    assert cell["slope_efficiency"] == 1  # beside itself
    assert cell["slope_efficiency_se"] == pytest.approx(0, abs=1e-12)


def test_least_squares_has_the_error_of_theory():
    # E[1 / sum (x - mean x)²] = 1 / (n - 3) for Normal x, the variance of the slope; four standard errors.
    table = robustness({"MSE": models.gaussian}, shares=[0.0, 0.2], rows=20, data_sets=2000)
    clean, outlying = table.loc[(0.0, "MSE")], table.loc[(0.2, "MSE")]
    assert abs(clean["slope_rmse"] - 17**-0.5) < 4 * clean["slope_rmse_se"]
    assert abs(clean["slope_bias"]) < 4 * clean["slope_bias_se"]
    assert abs(outlying["intercept_bias"] - 2.0) < 4 * outlying["intercept_bias_se"]
    assert (table["converged"] == 1).all()


def test_monte_carlo_errors_are_the_spread_over_seeds():
    columns = ["slope_bias", "slope_rmse", "slope_efficiency"]
    losses = {"MSE": models.gaussian, "MAE": models.laplace}
    cells = [
        robustness(losses, shares=[0.1], rows=40, data_sets=50, seed=seed).loc[(0.1, "MAE")]
        for seed in range(40)
    ]
    for column in columns:
        values = torch.tensor([cell[column] for cell in cells])
        said = torch.tensor([cell[f"{column}_se"] for cell in cells]).mean()
        # The spread of 40 numbers is known to 1 / sqrt(78) = 11 %; three times that.
        assert float(values.std() / said) == pytest.approx(1, abs=0.35), column


def test_a_seed_is_a_study_and_touches_nothing_else():
    before = torch.get_rng_state()
    first, again, other = (robustness(shares=[0.1], seed=seed, **SMALL) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first["slope_bias"].equals(other["slope_bias"])
    assert torch.equal(before, torch.get_rng_state())
    assert list(first.index) == [(0.1, name) for name in LOSSES]


@pytest.mark.parametrize("kind", OUTLIERS)
def test_the_outliers_are_as_many_and_as_far_as_asked(kind):
    x, noise = torch.randn((2, 5, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.arange(40).repeat(5, 1)
    y = INTERCEPT + SLOPE * x + noise
    for count in (0, 7):
        moved_x, moved_y = OUTLIERS[kind](x, y, off(10.0), order, count)
        moves = (moved_x - x).abs() + (moved_y - y).abs()
        assert ((moves > 0).sum(-1) == count).all()
        assert moves.sum().item() == pytest.approx(5 * count * 10)
    assert (kind == "leverage") == torch.equal(moved_y, y)
    if kind == "end":
        assert (x[moves > 0].reshape(5, 7).amin(-1) > x[moves == 0].reshape(5, 33).amax(-1)).all()
    if kind == "symmetric":
        assert ((moved_y - y)[moves > 0] * noise[moves > 0] > 0).all()


def test_losses_of_ones_own():
    own = {"t2": partial(models.student_t, df=2.0), "t30": partial(models.student_t, df=30.0)}
    table = robustness(own, shares=[0.2], data_sets=50)
    assert table.loc[(0.2, "t30"), "slope_efficiency"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": [0.1, 1.0]}, "`shares` must be at least 0 and below 1; one of them is 1"),
        ({"outliers": "left"}, "one of 'vertical', 'symmetric', 'end', 'leverage'; it is 'left'"),
        ({"data_sets": 1}, "`data_sets`.*2 or more"),
        ({"losses": {}}, "`losses` is empty"),
    ],
)
def test_what_makes_no_study_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        robustness(**arguments)
