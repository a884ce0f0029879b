"""Mixtures: where their fits begin, what their tables call the weights, and intervals within a range."""

import itertools
import re
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import bootstrap, covariance, map_estimate, mle, mle_batch, models, summary, with_priors
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError
from neglog.labels import tabulated
from neglog.models.expectation import mixtures_of_lines
from neglog.objective.coordinates import Coordinates
from neglog.predictors import linear, rows
from neglog.uncertainty.resampling import Bootstrap

# Body in kg and brain in g of 28 animals: R's MASS::Animals, Rousseeuw & Leroy (1987), p. 57.
ANIMALS = torch.tensor([
    1.35, 8.1, 465, 423, 36.33, 119.5, 27.66, 115, 1.04, 5.5, 11700, 50, 2547, 4603, 187.1, 419, 521, 655,
    10, 115, 3.3, 25.6, 529, 680, 207, 406, 62, 1320, 6654, 5712, 9400, 70, 6.8, 179, 35, 56, 0.12, 1,
    0.023, 0.4, 2.5, 12.1, 55.5, 175, 100, 157, 52.16, 440, 0.28, 1.9, 87000, 154.5, 0.122, 3, 192, 180,
], dtype=torch.float64).reshape(28, 2).log()  # fmt: skip
BODY, BRAIN = ANIMALS[:, :1], ANIMALS[:, 1]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Starts


def test_default_starts_find_the_two_lines_of_animals():
    fit = mle(models.gaussian_mixture, BODY, BRAIN)
    assert fit.converged
    assert fit.nll == pytest.approx(31.70426354, abs=1e-7)
    # No spike: both components have many rows, and a spread like that of the rows around one line.
    assert (28 * fit.params["weight"] > 8).all()
    assert (fit.params["sigma"] > 0.3).all()
    assert mle(models.gaussian_mixture, BODY, BRAIN).nll == fit.nll


def test_no_random_start_is_better_for_lines_that_cross():
    x, kind = normal(120, 1), torch.arange(120) % 3
    y = torch.stack([2 * x[:, 0], -2 * x[:, 0], 0.5 * x[:, 0] + 4])[kind, torch.arange(120)]
    y = y + 0.3 * normal(120, seed=1)
    model = partial(models.gaussian_mixture, components=3)
    slopes = torch.tensor([[2.0], [-2.0], [0.5]])
    known = mle(model, x, y, start={"mean.weight": slopes, "mean.bias": torch.tensor([0.0, 0.0, 4.0])})
    assert mle(model, x, y).nll <= known.nll + 1e-6


def test_mixtures_of_lines_are_in_the_units_of_the_data():
    plain = mixtures_of_lines(BODY, BRAIN, torch.ones(28).double(), 2)
    moved = mixtures_of_lines(1e6 * BODY - 5.0, 3.0 + 1e-3 * BRAIN, torch.ones(28).double(), 2)
    assert len(plain) == len(moved) > 1
    torch.testing.assert_close(moved.sigma, 1e-3 * plain.sigma, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        moved.coefficients[..., 1], 1e-9 * plain.coefficients[..., 1], rtol=1e-5, atol=1e-15
    )


def test_rows_that_are_all_alike_have_no_mixture_of_lines():
    assert len(mixtures_of_lines(BODY, torch.ones(28).double(), torch.ones(28).double(), 2)) == 0
    assert len(mixtures_of_lines(BODY, BRAIN, torch.zeros(28).double(), 2)) == 0


# Labels


def test_weights_are_not_called_after_as_many_columns():
    fit = mle(models.gaussian_mixture, torch.cat([BODY, BODY.square()], 1), BRAIN)
    labels = {("weight", "0"), ("weight", "1")}
    assert labels <= set(summary(fit).index)
    assert labels <= set(covariance(fit).index)
    assert labels <= set(tabulated(fit, {name: value[None] for name, value in fit.params.items()}).columns)


def test_sites_of_ones_own_are_not_called_after_columns():
    def model(x, y=None):
        bias = pyro.sample("bias", dist.Normal(x.new_zeros(()), 1.0))
        weight = pyro.sample("group.weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        mean = linear("mean", x) + weight[0] * x[:, 0] ** 2 + weight[1] * x[:, 1] ** 2
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, bias.exp()), obs=y)

    labels = set(summary(mle(model, normal(40, 2), normal(40, seed=1))).index)
    assert {("bias", ""), ("group.weight", "0"), ("group.weight", "1"), ("mean", "x0")} <= labels


# Intervals within a range


def clumps(few, seed=0):
    return torch.cat([normal(40, seed=seed), 6 + normal(few, seed=seed + 1)])


def test_intervals_of_weights_are_those_of_their_log_odds():
    y = clumps(1)
    y = torch.cat([y, y[-1:] + 0.5])
    fit = mle(models.gaussian_mixture, y.new_empty((len(y), 0)), y)
    table = summary(fit, level=0.999).loc["weight"]
    w, error = fit.params["weight"].numpy(), table["std_error"].to_numpy()
    assert (w - 3.29 * error).min() < 0  # where the interval on the line would end
    wide = 3.2905267314919255 * error / (w * (1 - w))
    for column, side in (("lower", -1), ("upper", 1)):
        ends = 1 / (1 + np.exp(-(np.log(w / (1 - w)) + side * wide)))
        np.testing.assert_allclose(table[column], ends, rtol=1e-9)


def spread(x, y=None):
    """A Normal density whose spread on either half of the rows is a share of a whole."""
    shares = pyro.sample("shares", dist.Dirichlet(x.new_ones(3)))
    scale = torch.where(torch.arange(len(x)) < 6, shares[..., 0], shares[..., 1])
    mean = linear("mean", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def test_intervals_of_many_data_sets_stay_in_the_range_too():
    y = 0.1 * normal(5, 12, seed=3)
    fit = mle_batch(spread, y.new_empty((12, 0)), y, cov_type="observed")
    lower, upper = fit.interval(0.999)["shares"]
    known = fit.converged
    assert known.any()
    wide = 3.290527 * fit.standard_errors["shares"][known]
    assert (fit.params["shares"][known] - wide).min() < 0  # where the interval on the line would end
    assert ((lower[known] >= 0) & (upper[known] <= 1)).all()


def test_basic_intervals_stay_in_the_range_of_a_parameter():
    y = clumps(4)
    fit = mle(models.gaussian_mixture, y.new_empty((44, 0)), y)
    draws = bootstrap(fit, draws=20, kind="weights").draws.copy()
    draws[("weight", "1")] = np.linspace(0.001, 0.3, 20)  # far to both sides of the estimate
    draws[("sigma", "1")] = np.linspace(0.1, 9.0, 20)
    draws[("mean[1]", "Intercept")] = np.linspace(-20, 20, 20)
    table = Bootstrap(fit, "weights", draws, np.ones(20, dtype=bool)).interval(0.8, "basic")
    assert (table.loc["sigma"] > 0).all(axis=None)
    assert ((table.loc["weight"] > 0) & (table.loc["weight"] < 1)).all(axis=None)
    # Of a positive parameter t² / q, and 2 t - q of a real one.
    t, q = fit.params["sigma"][1].item(), np.quantile(draws[("sigma", "1")], [0.9, 0.1])
    np.testing.assert_allclose(table.loc[("sigma", "1")], t**2 / q)
    t, q = fit.params["mean.bias"][1].item(), np.array([16.0, -16.0])
    np.testing.assert_allclose(table.loc[("mean[1]", "Intercept")], 2 * t - q)


def few_rows(rows: int, columns: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return x, torch.randn(rows, generator=generator, dtype=torch.float64)


def test_components_on_a_few_rows_are_recognised_soon(monkeypatch):
    calls = []
    original = Coordinates._summed
    monkeypatch.setattr(Coordinates, "_summed", lambda *args, **kw: calls.append(1) or original(*args, **kw))
    with pytest.raises(UnboundedLikelihoodError, match="of 8 rows"):
        map_estimate(models.gaussian_mixture, *few_rows(8, 2))
    assert len(calls) <= 400  # 821 before their lines were held against the rows


@pytest.mark.parametrize("fit", [mle, map_estimate])
def test_components_with_a_design_for_sigma_that_follow_a_few_rows_are_named(fit):
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 2))
    y = 0.5 * random.normal(size=20) + random.choice([-1.5, 1.5], 20)
    with pytest.raises(
        UnboundedLikelihoodError, match=r"fits \d of 20 rows exactly .* a component follows"
    ) as error:
        fit(models.gaussian_mixture, {"mean": x, "sigma": x}, y)
    assert ("the likelihood has no maximum" in str(error.value)) == (fit is mle)
    assert ("the posterior has a mode there" in str(error.value)) == (fit is map_estimate)


def test_a_spike_that_priors_hold_is_no_reason_to_refuse_a_higher_mode():
    """Log sigma is Normal, so that the posterior is bounded; seven of eight starts fall onto a few rows."""
    random = np.random.default_rng(7)
    x, noise = random.normal(size=(20, 2)), 0.5 * random.normal(size=20)
    y = noise + random.choice([-1.5, 1.5], 20)
    designs = {"mean": x, "sigma": x}
    fit = map_estimate(models.gaussian_mixture, designs, y)
    assert fit.converged
    assert re.search(r"7 at a mode on a few rows that float64 cannot resolve$", fit.status)
    # The mode is above a component on any one row, for each fall of its log sigma where that row is.
    for row, fall in itertools.product(range(20), (20.0, 30.0, 40.0)):
        assert _spike(x, y, fit, row, fall) > fit.loss + 5


def _spike(x, y, fit, row, fall):
    """Minus the log-density with the smaller component of a fit on one row, at sigma = exp(-fall) there."""
    few, at = int(fit.params["weight"].argmin()), torch.tensor([*x[row], 1.0], dtype=torch.float64)
    params = {name: value.clone() for name, value in fit.params.items()}
    variances = torch.tensor([2.5**2, 2.5**2, 25.0], dtype=torch.float64)  # of the priors
    direction = variances * at / (variances @ at.square())
    params["mean.weight"][few], params["mean.bias"][few] = 0.0, y[row]
    params["log_sigma.weight"][few], params["log_sigma.bias"][few] = (
        -fall * direction[:2],
        -fall * direction[2],
    )
    params["weight"][few], params["weight"][1 - few] = 0.05, 0.95
    designs = dict.fromkeys(("mean", "sigma"), torch.as_tensor(x))
    trace = pyro.poutine.trace(pyro.condition(models.gaussian_mixture, params))
    return -trace.get_trace(designs, torch.as_tensor(y)).log_prob_sum().item()


def test_a_prior_that_vanishes_at_0_keeps_a_component_off_a_few_rows():
    prior = {"sigma": dist.LogNormal(torch.zeros(2).double(), torch.ones(2).double()).to_event(1)}
    fit = map_estimate(with_priors(models.gaussian_mixture, prior), *few_rows(8, 2))
    assert fit.converged
    assert fit.params["sigma"].min() > 1e-3


def equal_responses(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = few_rows(80, columns, seed=1)
    y[:60] = 1.0
    return x, y


def test_a_component_of_equal_responses_is_named_in_the_status():
    with pytest.warns(ConvergenceWarning, match="60 responses are equal"):
        fit = mle(models.gaussian_mixture, *equal_responses(1))
    assert fit.converged
    assert "60 responses are equal (1)" in fit.status
    assert f"{fit.params['sigma'].max().item():.3g}" in fit.status


@pytest.mark.parametrize("fit", [mle, map_estimate])
def test_equal_responses_that_all_starts_fall_onto_are_counted(fit):
    with pytest.raises(UnboundedLikelihoodError, match="60 responses are equal"):
        fit(models.gaussian_mixture, *equal_responses(0))


def test_equal_responses_by_rounding_are_no_pit():
    x, y = few_rows(300, 1)
    y = (10 * y).round() + 100 * (x[:, 0] > 0)
    assert "equal" not in mle(models.gaussian_mixture, x[:, :0], y).status


# Spurious optima


def test_a_component_of_a_handful_of_rows_counts_after_all_others():
    # By chance four of 80 responses lie within 0.001 of one plane: more than three coefficients could follow.
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    y = random.normal(size=80) + x[:, 0]
    fit = mle(models.gaussian_mixture, x, y)
    assert fit.converged
    assert "2 at a spurious optimum (" in fit.status
    assert fit.params["sigma"].min() > 0.05 * fit.params["sigma"].max()
    lower = re.findall(r"[\d.]+", fit.status.split("spurious optimum (")[1].split(")")[0])
    assert max(map(float, lower)) < fit.nll


def test_a_spurious_optimum_is_named_where_a_start_leads_to_it():
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    y = random.normal(size=80) + x[:, 0]
    y[:4] = 7.0 + x[:4, 1] + np.array([1e-3, -1e-3, 1e-3, -1e-3])
    start = {"mean.bias": [1e-9, 7.0], "mean.weight": [[1.0, 0.0], [0.0, 1.0]], "sigma": [1.0, 1e-3]}
    with pytest.warns(ConvergenceWarning, match="a spurious optimum: component 1"):
        fit = mle(models.gaussian_mixture, x, y, start=start)
    assert fit.converged
    assert re.search(r"component 1 is made of 4\.\d rows, has 3 coefficients", fit.status)
    priors = {"sigma": dist.InverseGamma(2.0, 1.0), "weight": dist.Dirichlet(2 * torch.ones(2))}
    held = map_estimate(with_priors(models.gaussian_mixture, priors), x, y, start=start)
    assert held.converged
    assert "spurious" not in held.status
