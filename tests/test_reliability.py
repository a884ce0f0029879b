"""Coverage by bins, sharpness, and reliability diagrams."""

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import coverage, mle, models, plots, predict, recalibrate
from neglog.distributions import Bernoulli, Normal, Poisson
from neglog.errors import DataError, ModelError
from neglog.prediction.accuracy import SUMMARIES
from neglog.prediction.reliability import reliability_of
from neglog.validation import cross_validate


def drawn(rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 2.0, rows)
    return torch.tensor(x)[:, None], torch.tensor(x + np.exp(x - 1.0) * rng.normal(size=rows))


def test_coverage_by_a_covariate_shows_what_the_average_hides():
    x, y = drawn(2000, 0)
    wrong, right = mle(models.gaussian, x[:400], y[:400]), mle(models.heteroscedastic, x[:400], y[:400])
    tables = [coverage(fit, x[400:], y[400:], [0.8], by=x[400:, 0], bins=4) for fit in (wrong, right)]
    assert list(tables[0]["rows"]) == [400] * 4
    assert np.allclose(tables[0]["std_error"], 0.02)
    away = [((table["coverage"] - 0.8) / table["std_error"]).abs().max() for table in tables]
    assert away[0] > 6
    assert away[1] < 4
    at = predict(wrong, x[400:])
    ends = at.icdf(torch.tensor([[0.1], [0.9]], dtype=torch.float64))
    inside = ((ends[0] <= y[400:]) & (y[400:] <= ends[1])).double()
    whole = coverage(wrong, x[400:], y[400:], [0.8])
    assert len(whole) == 1  # one predicted scale
    assert whole["coverage"][0] == pytest.approx(float(inside.mean()))
    assert whole["width"][0] == pytest.approx(float((ends[1] - ends[0]).mean()))
    by_scale = coverage(right, x[400:], y[400:], [0.8], bins=4)
    assert by_scale["width"].is_monotonic_increasing


def test_a_column_of_the_table_makes_the_bins():
    x, y = drawn(100, 1)
    table = pd.DataFrame({"x": x[:, 0], "y": y, "half": np.arange(100) // 50})
    found = coverage(mle("gaussian", "y ~ x", table), table, levels=[0.5, 0.9], by="half", bins=2)
    assert list(found["rows"]) == [50] * 4
    assert list(found["level"]) == [0.5, 0.9] * 2


def test_sharpness_is_the_mean_standard_deviation():
    x, y = drawn(60, 2)
    fn = predict(mle(models.heteroscedastic, x, y), x)
    assert torch.equal(SUMMARIES["sharpness"].parts(fn, None, y)[:, 0], fn.stddev)
    table = cross_validate(models.gaussian, x, y, folds=3, scores=["sharpness"]).table()
    assert 0.5 < table.loc["sharpness", "mean"] < 2


@pytest.mark.parametrize("kind", ["numbers", "counts", "classes"])
def test_a_calibrated_prediction_is_within_the_band_and_another_is_not(kind):
    size = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = {"numbers": Normal(size, 1.0), "counts": Poisson(3 * size), "classes": Bernoulli(size)}[kind]
    wrong = {"numbers": Normal(size, 2.0), "counts": Poisson(9 * size), "classes": Bernoulli(size**3)}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        y = right.sample()
    shares = []
    for fn in (right, wrong):
        found = reliability_of(fn, y)
        assert found.of_classes == (kind == "classes")
        shares.append(((found.lower <= found.observed) & (found.observed <= found.upper)).mean())
    assert shares[0] >= 0.8
    assert shares[1] <= 0.5


def test_the_picture_has_a_panel_for_each_fit(tmp_path):
    x, y = drawn(200, 3)
    fit = mle(models.gaussian, x[:60], y[:60])
    better = recalibrate(fit, x[60:120], y[60:120])
    figure = plots.reliability({"fit": fit, "recalibrated": better}, x[120:], y[120:])
    assert [axes.get_title("left") for axes in figure.axes] == ["fit", "recalibrated"]
    assert len(plots.reliability(fit, x, y).axes) == 1
    yes = mle(models.bernoulli, x, (y > 1).double())
    assert plots.write(plots.reliability(yes, x, (y > 1).double()), tmp_path / "a.png").stat().st_size > 0


def test_what_has_no_coverage_is_refused():
    x, y = drawn(40, 4)
    fit, yes = mle(models.gaussian, x, y), (y > 1).double()
    for call, error, facts in (
        (lambda: coverage(mle(models.bernoulli, x, yes), x, yes), ModelError, "no classes"),
        (lambda: coverage(fit, x, y, 0.5), ModelError, "`levels` must be several"),
        (lambda: coverage(fit, x, y, []), ModelError, "`levels` is empty"),
        (lambda: coverage(fit, x, y, [1.0]), ModelError, "`levels` must be between 0 and 1"),
        (lambda: coverage(fit, x, y, by=y[:3]), DataError, "`by`.* 40 rows"),
        (lambda: coverage(fit, x, y, by=torch.full((40,), float("nan"))), DataError, "`by`"),
        (lambda: coverage(fit, x, y, bins=0), ModelError, "`bins`"),
        (lambda: coverage(fit, x[:0], y[:0]), DataError, "no rows"),
        (lambda: plots.reliability({}, x, y), DataError, "no fit to draw"),
        (lambda: plots.reliability(None, x, y), ModelError, "NoneType"),
    ):
        with pytest.raises(error, match=facts):
            call()
