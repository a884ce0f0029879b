"""A row whose spread falls faster than those of all others rise has no maximum of the likelihood."""

import re
from functools import partial
from itertools import combinations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.optimize import linprog

from neglog import mle, models
from neglog.data import prepare_fit
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.log_scales import LogScale
from neglog.fitting.marked import check_marked_rows
from neglog.fitting.outweighed import outweighing_combinations
from neglog.handlers import flat
from neglog.objective.objective import Objective
from neglog.observation import censored, truncated
from neglog.predictors import linear, rows

REAL = LogScale(-1.0, 1.0)


def problem(outlier, seed=0, row=7):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(80, 2, generator=random).double()
    x[row, 1] = outlier
    return x, torch.randn(80, generator=random).double()


def unbounded(x, y, row):
    """Whether the likelihood rises on without end along the ray of a fall in one row alone."""
    others = torch.arange(len(y)) != row
    nlls = []
    for length in (50.0, 100.0):
        shift = length * (x[others, 1].max() - x[:, 1]) / (x[row, 1] - x[others, 1].max())
        log_sigma = torch.where(others, shift, -length)
        residual = torch.where(others, y - y[row], 0.0)
        nlls.append(float((log_sigma + 0.5 * (residual / log_sigma.exp()) ** 2).sum()))
    return nlls[1] < nlls[0] - 1


@pytest.mark.parametrize("outlier", [1e3, 1e6])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_huge_value_of_a_scale_column_is_refused(outlier, seed):
    x, y = problem(outlier, seed)
    assert unbounded(x, y, 7)
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 7 falls faster"):
        mle(models.heteroscedastic, {"mean": x[:, :1], "log_variance": x}, y)


def test_an_outlier_that_the_others_outweigh_is_fitted():
    x, y = problem(20.0)
    assert not unbounded(x, y, 7)
    assert mle(models.heteroscedastic, {"mean": x[:, :1], "log_variance": x}, y).converged


def test_the_weight_of_the_others_counts():
    x, y = problem(1e3)
    weights = torch.full((80,), 1e3, dtype=torch.float64)
    weights[7] = 1.0
    assert mle(models.heteroscedastic, {"mean": x[:, :1], "log_variance": x}, y, weights=weights).converged


def test_the_weight_of_the_outlier_counts():
    # Its leverage is 0.2 without the weights.
    x, y = problem(5.0)
    weights = torch.ones(80, dtype=torch.float64)
    weights[7] = 1e3
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 7 falls faster"):
        mle(models.heteroscedastic, {"mean": x[:, :1], "log_variance": x}, y, weights=weights)


def test_all_rows_of_an_exact_clock_are_counted():
    t = torch.linspace(1.7e12, 1.7e12 + 2e4, 24, dtype=torch.float64)
    with pytest.raises(UnboundedLikelihoodError, match="fits every row exactly"):
        mle(models.heteroscedastic, t[:, None], 0.002 * (t - t[0]) + 5)


@pytest.mark.parametrize("seed", range(6))
def test_a_certified_decrement_is_hidden_by_the_rounding_of_the_loss(seed):
    random = torch.Generator().manual_seed(seed)
    t = torch.round(1.7e12 + 3.6e6 * torch.rand(80, generator=random, dtype=torch.float64))
    y = t * (1 + 5e-6) + 37 + 0.1 * torch.randn(80, generator=random).double()
    fit = mle(models.gaussian, t[:, None], y)
    assert fit.converged
    decrement = float(re.search(r"decrement (\S+)", fit.status)[1])
    assert decrement <= max(1e-8, (64 * 2.2e-16 * (abs(fit.loss) + 80**0.5)) ** 0.5)


def grouped(outlier, seed, count=3):
    x, y = problem(0.0, seed)
    x = torch.cat([x, torch.randn(80, 1, generator=torch.Generator().manual_seed(seed)).double()], 1)
    x[7 : 7 + count, 1] = outlier * torch.arange(1, count + 1)
    return x, y


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_several_huge_values_of_a_scale_column_are_refused(count, seed):
    x, y = grouped(1e3, seed, count)
    named = ", ".join(str(7 + row) for row in range(count))
    with pytest.raises(UnboundedLikelihoodError, match=f"spread of rows {named} falls faster"):
        mle(models.heteroscedastic, {"mean": x, "log_variance": x}, y)


def test_several_outliers_that_a_mean_cannot_follow_are_fitted():
    x, y = grouped(1e3, 0)
    x[7:10, 1] = 1e3
    fit = mle(models.heteroscedastic, {"mean": x[:, :0], "log_variance": x[:, 1:2]}, y)
    assert fit.converged


def test_several_values_that_the_others_outweigh_are_fitted():
    x, y = grouped(4.0, 1)
    assert mle(models.heteroscedastic, {"mean": x, "log_variance": x}, y).converged


def rising(columns, scale, rows):
    """Whether some log scales 1, X in the columns decrease in sum, and increase in no row but in `rows`."""
    design = np.column_stack([np.ones(len(scale)), scale])
    others = np.delete(design, rows, 0)
    found = linprog(design.sum(0), A_ub=-others, b_ub=np.zeros(len(others)), bounds=(-1, 1))
    return (
        found.fun < -1e-6 and np.linalg.matrix_rank(np.column_stack([np.ones(len(rows)), columns[rows]])) == 2
    )


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize(("seed", "rows"), [(7, [1, 5]), (9, [5, 10]), (16, [6, 7])])
def test_rows_that_only_a_combination_of_columns_outweighs_are_refused(name, seed, rows):
    """No column alone is extreme in them; such fits were certified at a local optimum."""
    random = np.random.default_rng(seed)
    x, scale, y = random.normal(size=(12, 1)), random.standard_t(2, size=(12, 2)), random.normal(size=12)
    assert rising(x, scale, rows)
    location, spread = ("mean", "sigma") if name == "gaussian" else ("location", "scale")
    named = ", ".join(map(str, rows))
    with pytest.raises(UnboundedLikelihoodError, match=f"spread of rows {named} falls faster"):
        mle(getattr(models, name), {location: x, spread: scale}, y)


def test_the_search_of_combinations_finds_what_linear_programmes_find():
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(4):
        columns, scale = random.normal(size=(9, 1)), random.standard_t(2, size=(9, 2))
        design = torch.tensor(np.column_stack([scale, np.ones(9)]))
        found = {tuple(g.tolist()) for g in outweighing_combinations(design, torch.ones(9).double(), REAL, 2)}
        pairs = {pair for pair in combinations(range(9), 2) if rising(columns, scale, list(pair))}
        assert found <= pairs
        # A row that outweighs the others alone does so with any other row, and is found as one row.
        alone = {row for row in range(9) if rising_alone(scale, row)}
        assert {pair for pair in pairs if not alone & set(pair)} <= found
        verdicts.append(bool(found))
    assert 0 < sum(verdicts) < 4


def rising_alone(scale, row):
    design = np.column_stack([np.ones(len(scale)), scale])
    others = np.delete(design, row, 0)
    return linprog(design.sum(0), A_ub=-others, b_ub=np.zeros(len(others)), bounds=(-1, 1)).fun < -1e-6


POSITIVE = {
    "gamma": ("log_mean", "shape", 0.5),
    "weibull": ("log_scale", "shape", 1.0),
    "lognormal": ("log_median", "sigma", 1.0),
    "inverse_gaussian": ("log_mean", "dispersion", 1.0),
    "beta": ("logit_mean", "precision", 0.5),
}
"""The predictors of a location and a shape, and the gain of a followed row per nat that others lose."""


def positive(name, outlier):
    """A column that is -1 or 1 but for one row, between which the log shape can be tilted."""
    x = torch.ones(24, 1, dtype=torch.float64)
    x[::2], x[5] = -1.0, outlier
    y = torch.randn(24, generator=torch.Generator().manual_seed(3)).double()
    y = torch.sigmoid(y) if name == "beta" else y.exp()
    location, shape, _ = POSITIVE[name]
    return {location: x[:, :0], shape: x}, y


@pytest.mark.parametrize("name", POSITIVE)
def test_a_shape_of_a_positive_response_that_grows_in_one_row_faster_is_refused(name):
    """With 1 in 11 and -1 in 12 rows, a log shape of x - 1 gains `ratio` (outlier - 1) and loses 24."""
    enough = 24 / POSITIVE[name][2] + 1
    x, y = positive(name, 1.2 * enough)
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 5 falls faster"):
        mle(getattr(models, name), x, y)
    x, y = positive(name, 0.8 * enough)
    assert mle(getattr(models, name), x, y).converged


def gammas(x, y=None):
    mean, shape = linear("log_mean", x).exp(), linear("log_shape", x).exp()
    with rows(x):
        return pyro.sample("y", dist.Gamma(shape, shape / mean), obs=y)


def test_a_shape_of_a_model_of_ones_own_is_refused_too():
    x, y = positive("gamma", 80.0)
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 5 falls faster"):
        mle(gammas, {"log_mean": x["log_mean"], "log_shape": x["shape"]}, y)


def test_a_log_scale_of_a_vector_that_falls_in_one_row_faster_is_refused():
    """It was fitted until it was too narrow, and not certified."""
    x, y = problem(1e3)
    y = torch.stack([y, y.flip(0)], 1)
    designs = {"mean": x[:, :1], "log_scale": x, "partial": x[:, :1]}
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 7 falls faster"):
        mle(models.multivariate_heteroscedastic, designs, y)


SHAPES = {
    "gamma": ("log_mean", "shape"),
    "weibull": ("log_scale", "shape"),
    "lognormal": ("log_median", "sigma"),
    "inverse_gaussian": ("log_mean", "dispersion"),
    "gaussian": ("mean", "sigma"),
    "logistic": ("location", "scale"),
}


def marked_rows(row):
    random = np.random.default_rng(0)
    x, mark = random.normal(size=(60, 1)), np.zeros((60, 1))
    mark[row] = 1.0
    y = np.exp(0.3 * x[:, 0]) * random.weibull(1.5, 60)
    return x, mark, y


@pytest.mark.parametrize("name", SHAPES)
def test_an_observed_row_that_a_column_of_the_shape_marks_is_refused_among_censored_ones(name):
    x, mark, y = marked_rows(7)
    bound = float(np.quantile(y, 0.8))
    assert y[7] < bound
    location, shape = SHAPES[name]
    with pytest.raises(UnboundedLikelihoodError, match="x0 for row 7 alone"):
        mle(censored(getattr(models, name), upper=bound), {location: x, shape: mark}, y.clip(max=bound))


@pytest.mark.parametrize("wrap", [partial(censored, upper=3.0), partial(truncated, lower=-8.0, upper=8.0)])
def test_one_huge_value_of_a_scale_column_is_refused_between_bounds(wrap):
    x, y = problem(1e4)
    with pytest.raises(UnboundedLikelihoodError, match="spread of row 7 falls faster"):
        mle(wrap(models.gaussian), {"mean": x[:, :1], "sigma": x}, y)


def test_a_censored_row_that_a_column_of_the_shape_marks_cannot_be_followed_exactly():
    x, mark, y = marked_rows(7)
    y[7] = bound = float(np.quantile(y, 0.8))
    objective = Objective(
        flat(censored(models.weibull, upper=bound)),
        prepare_fit({"log_scale": x, "shape": mark}, y.clip(max=bound)),
    )
    check_marked_rows(objective)


def test_a_spread_of_each_row_between_two_bounds_is_refused_without_a_local_maximum():
    """Others of infinite spread are uniform, so nothing outweighs the one row whose spread goes to 0."""
    random = np.random.default_rng(3)
    x, y = random.normal(size=(60, 1)), random.integers(0, 10, 60).astype(float)
    with pytest.raises(
        UnboundedLikelihoodError, match="no maximum: with the columns of `log_variance`"
    ) as error:
        mle(truncated(models.heteroscedastic, 0.0, 9.0), x, y)
    row = int(re.search(r"spread of row (\d+)", str(error.value)).group(1))
    others = np.delete(x[:, 0], row)
    side = 1.0 if x[row, 0] > others.max() else -1.0
    falls = []
    for depth in (5.0, 20.0, 40.0):
        slope = (depth + 10) / (side * x[row, 0] - (side * others).max())
        spread = np.exp(-depth + slope * (side * x[row, 0] - side * x[:, 0]))
        usual = np.minimum(spread, 1e6)  # beyond, the density is uniform
        low, high = (stats.norm.cdf((bound - y[row]) / usual) for bound in (0.0, 9.0))
        density = stats.norm.pdf((y - y[row]) / usual) / usual / (high - low)
        falls.append(-float(np.log(np.where(spread > usual, 1 / 9, density)).sum()))
    assert abs(falls[0] - falls[1] - 15) < 0.1
    assert abs(falls[1] - falls[2] - 20) < 0.1
