"""Posteriors, against closed forms; what is refused, and what is said of draws that are not to be trusted."""

import json
import math
import warnings

import arviz as az
import numpy as np
import posteriors
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import (
    flat,
    map_estimate,
    mle,
    models,
    posterior,
    posterior_predictive,
    prior_predictive,
    with_priors,
)
from neglog.bayes.density import density
from neglog.bayes.diagnostics import pareto_k
from neglog.data import prepare
from neglog.errors import DataError, ModelError, SamplingWarning
from neglog.objective.objective import Objective
from neglog.predictors import linear, rows

FEW = pytest.mark.filterwarnings("ignore::neglog.errors.SamplingWarning")
"""Few draws: R-hat is a little above its limit now and then, and the errors know how few they are."""
ERRORS = 5.0
"""Standard errors of a Monte-Carlo mean: one in two million is further off. A seed does not fix the draws of
NUTS: its paths are chaotic, and another machine's rounding leads them elsewhere."""
STEPS = 400
NOISE = (STEPS / 2) ** -0.5
"""Standard error of a variational mean, in posterior sds, and √2 times that of the log of a width: that of an
average over the later half of the steps, each of which has the noise of one draw."""


def conditioned(x, y=None):
    return pyro.condition(models.gaussian, {"sigma": torch.tensor(1.0, dtype=torch.float64)})(x, y)


def of_rate(x, y=None):
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 3.0))
    with rows(x):
        return pyro.sample("y", dist.Exponential(rate), obs=y)


def of_shares(x, y=None):
    shares = pyro.sample("shares", dist.Dirichlet(x.new_tensor([1.0, 2.0, 3.0])))
    with rows(x):
        return pyro.sample("y", dist.Categorical(shares), obs=y)


def wall(x, y=None):
    """A thousand times as steep to the right of zero: about half of all paths run into it, and diverge."""
    place = pyro.sample("place", dist.Normal(x.new_zeros(()), 1.0))
    mean = torch.where(place > 0, 1000 * place, place)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, x.new_ones(())), obs=y)


def heavy(x, y=None):
    """Tails that no Normal has; the data say nothing of them."""
    part = pyro.sample("part", dist.Cauchy(x.new_zeros(30), 1.0).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(0.0 * part.sum(), x.new_ones(())), obs=y)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2)) * [1.0, 100.0] + [3.0, 0.0]
    return x, x @ [1.0, -0.02] + 0.5 + rng.normal(size=40)


@pytest.fixture(scope="module")
def waits():
    return np.zeros((15, 0)), np.random.default_rng(2).exponential(0.5, size=15)


def conjugate(x, y):
    """The mean and the covariance of bias and weights under Normal(0, 5), Normal(0, 2.5) and sigma = 1."""
    design = np.column_stack([np.ones(len(x)), x])
    inverse = np.linalg.inv(design.T @ design + np.diag([1 / 25, 1 / 6.25, 1 / 6.25]))
    return inverse @ design.T @ y, inverse


def stacked(found):
    draws = found.draws
    return torch.cat([draws["mean.bias"][..., None], draws["mean.weight"]], -1).numpy()


def assert_within_error(series, mean, sd):
    """`series` `(chains, draws)` has this mean and standard deviation, within their own errors."""
    assert abs(series.mean() - mean) <= ERRORS * float(az.mcse(series, method="mean"))
    # Draws that vary too little think too well of themselves: their error, as a share of the known spread.
    share = float(az.mcse(series, method="sd")) / series.std()
    assert abs(series.std() - sd) <= ERRORS * share * sd


def test_nuts_meets_the_conjugate_line(line):
    found = posterior(conditioned, *line, draws=1000, tune=200, seed=1)
    mean, covariance = conjugate(*line)
    assert found.converged, found.status
    assert found.shape == (4, 1000)
    for series, m, s in zip(
        np.moveaxis(stacked(found), -1, 0), mean, np.sqrt(covariance.diagonal()), strict=True
    ):
        assert_within_error(series, m, s)


@pytest.mark.parametrize("name", posteriors.CASES)
def test_long_chains_meet_importance_sampling_on_real_data(name):
    kept = json.loads(posteriors.KEPT.read_text(encoding="utf-8"))[name]
    for parameter, known in kept["importance sampling"].items():
        for number in ("mean", "sd"):
            ours, theirs = (kept[by][parameter] for by in ("nuts", "importance sampling"))
            error = math.hypot(ours[f"error of {number}"], theirs[f"error of {number}"])
            assert abs(ours[number] - theirs[number]) <= ERRORS * error, parameter
            assert error <= 0.02 * known["sd"]


@FEW
@pytest.mark.parametrize("name", posteriors.CASES)
def test_nuts_meets_importance_sampling_on_real_data(name):
    known = json.loads(posteriors.KEPT.read_text(encoding="utf-8"))[name]["importance sampling"]
    found = posteriors.series(posteriors.CASES[name]().draw(chains=1, draws=300, tune=120, seed=2))
    assert set(found) == set(known)
    for parameter, values in found.items():
        assert_within_error(values, known[parameter]["mean"], known[parameter]["sd"])


@FEW
def test_nuts_knows_the_jacobian_of_a_rate(waits):
    for model, shape, rate in (
        (of_rate, 2 + 15, 3 + waits[1].sum()),
        (flat(of_rate), 1 + 15, waits[1].sum()),
    ):
        found = posterior(model, *waits, draws=600, tune=200, chains=2)
        assert_within_error(found.draws["rate"].numpy(), shape / rate, math.sqrt(shape) / rate)


@FEW
def test_nuts_knows_the_jacobian_of_shares():
    y = np.repeat([0.0, 1.0, 2.0], [2, 5, 1])
    found = posterior(of_shares, np.zeros((8, 0)), y, draws=150, tune=100, chains=2)
    alpha = np.array([3.0, 7.0, 4.0])  # 1, 2, 3 and the counts
    mean = alpha / alpha.sum()
    sd = np.sqrt(mean * (1 - mean) / (alpha.sum() + 1))
    for k in range(3):
        assert_within_error(found.draws["shares"][..., k].numpy(), mean[k], sd[k])


@pytest.mark.parametrize(
    ("choices", "noise"),
    [
        ({"method": "laplace"}, 0),
        ({"method": "laplace", "space": "natural"}, 0),
        ({"method": "vi", "steps": STEPS}, NOISE),
    ],
)
def test_approximations_meet_the_conjugate_line(line, choices, noise):
    found = posterior(conditioned, *line, draws=2000, **choices)
    mean, covariance = conjugate(*line)
    draws, sd = stacked(found)[0], np.sqrt(covariance.diagonal())
    assert found.converged, found.status
    error = ERRORS * math.hypot(noise, 2000**-0.5)
    assert (abs(draws.mean(0) - mean) <= error * sd).all()
    assert (abs(draws.std(0) / sd - 1) <= error / math.sqrt(2)).all()
    assert (abs(np.corrcoef(draws.T) - covariance / np.outer(sd, sd)) <= error).all()


def test_the_two_modes_of_a_rate_differ_by_the_jacobian(waits):
    # Of log(rate): at log(shape / rate), with variance 1 / shape; of the rate: at (shape - 1) / rate.
    shape, rate = 2 + 15, 3 + waits[1].sum()
    logs = posterior(of_rate, *waits, method="laplace", draws=2000).draws["rate"].log()
    assert abs(float(logs.mean()) - math.log(shape / rate)) <= ERRORS / math.sqrt(shape * 2000)
    natural = posterior(of_rate, *waits, method="laplace", space="natural", draws=2000)
    sd = math.sqrt(shape - 1) / rate
    assert abs(float(natural.mean["rate"]) - (shape - 1) / rate) <= ERRORS * sd / math.sqrt(2000)
    assert "natural" in natural.status


def test_the_variational_normal_is_the_nearest(waits):
    # Of u = log rate, with density exp(a u - b exp(u)), KL(q || p) is least at the variance 1 / a and the
    # mean log(a / b) - 1 / 2a, half a variance below the mode.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # the left tail is no Normal's
        found = posterior(of_rate, *waits, method="vi", guide="diagonal", draws=2000, steps=STEPS)
    a, b = 2 + 15, 3 + waits[1].sum()
    logs = found.draws["rate"].log()
    error = ERRORS * math.hypot(NOISE, 2000**-0.5)
    assert abs(float(logs.mean()) - math.log(a / b) + 0.5 / a) <= error / math.sqrt(a)
    assert abs(float(logs.std()) * math.sqrt(a) - 1) <= error / math.sqrt(2)
    assert list(pyro.get_param_store().keys()) == []


def test_a_seed_gives_the_same_draws_on_any_number_of_cores(waits):
    state = torch.get_rng_state()
    settings = {"draws": 100, "tune": 100, "chains": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        one, same, other = (
            posterior(of_rate, *waits, **settings, seed=seed, cores=cores).draws["rate"]
            for seed, cores in ((5, 1), (5, 2), (6, 1))
        )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(state, torch.get_rng_state())


@FEW
def test_weights_are_rows_counted():
    y = np.array([0.2, 0.7, 1.5])
    weights = np.array([2.0, 30.0, 4.0])  # without weights the rate is lower by a quarter
    found = posterior(of_rate, np.zeros((3, 0)), y, weights=weights, method="laplace", draws=400)
    shape, rate = 2 + 36, 3 + weights @ y
    logs = found.draws["rate"].log()
    assert abs(float(logs.mean()) - math.log(shape / rate)) <= ERRORS / math.sqrt(shape * 400)


def test_divergences_are_told():
    with pytest.warns(SamplingWarning, match=r"draws diverged.*raise `target_accept`"):
        found = posterior(wall, np.zeros((2, 0)), np.zeros(2), draws=100, tune=100, chains=2)
    assert not found.converged
    assert found.divergences == int(found.stats["diverging"].sum()) > 0


def test_a_bad_approximation_is_told():
    with pytest.warns(SamplingWarning, match="Pareto's k"):
        found = posterior(heavy, np.zeros((2, 0)), np.zeros(2), method="laplace")
    assert found.pareto_k > 0.7


@pytest.mark.parametrize("tail", [0.2, 0.6, 1.2])
def test_pareto_k_is_that_of_arviz(tail):
    ratios = torch.from_numpy(np.log(np.random.default_rng(4).pareto(1 / tail, 2025) + 1))
    # The tail is 3 √2025 = 135 of them, however that is rounded.
    if hasattr(az, "psislw"):
        expected = float(az.psislw(ratios.numpy())[1])
    else:  # ArviZ 1.x, which takes log-likelihoods of rows: the logarithms of what divides
        from arviz_stats.base import array_stats

        expected = float(array_stats.psislw(-ratios.numpy())[1])
    assert pareto_k(ratios) == pytest.approx(expected, rel=1e-9)
    assert pareto_k(torch.zeros(200)) == 0.0


def test_flat_priors_are_taken_where_the_data_make_the_posterior_proper(line):
    found = posterior(flat(models.gaussian), *line, method="laplace")
    fit = mle(models.gaussian, *line)
    error = found.sd["mean.weight"] * ERRORS / math.sqrt(1000)
    assert ((found.mean["mean.weight"] - fit.params["mean.weight"]).abs() <= error).all()


def test_flat_priors_are_refused_where_they_do_not():
    x = np.linspace(-1, 1, 20)[:, None]
    with pytest.raises(ModelError, match=r"'logit\.weight'.*flat.*separates"):
        posterior(flat(models.bernoulli), x, (x[:, 0] > 0).astype(float))
    heavy = x[:, 0] + np.random.default_rng(5).standard_t(1, size=20)  # the optimum is at a finite df
    with pytest.raises(ModelError, match=r"'df'"):
        posterior(flat(models.student_t, "df"), x, heavy)
    with pytest.raises(ModelError, match="flat, so there is nothing to draw"):
        prior_predictive(flat(models.gaussian, "sigma"), x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "gibbs"}, "`method` must be one of 'nuts', 'laplace', 'vi'"),
        ({"space": "natural"}, "is for `method='laplace'`"),
        ({"guide": "flow"}, "`guide` must be"),
        ({"draws": 10}, "`draws` must be a whole number, 100 or more"),
        ({"chains": 0}, "`chains` must be"),
        ({"target_accept": 1.0}, "`target_accept` must be between 0 and 1"),
    ],
)
def test_wrong_choices_are_refused(waits, wrong, message):
    with pytest.raises(ModelError, match=message):
        posterior(of_rate, *waits, **wrong)


def test_a_density_with_corners_has_no_laplace_approximation(line):
    with pytest.raises(ModelError, match="has corners"):
        posterior(models.laplace, *line, method="laplace")
    y = np.repeat([0.0, 1.0, 2.0], [2, 5, 1])
    with pytest.raises(ModelError, match="there is no Normal distribution"):
        posterior(of_shares, np.zeros((8, 0)), y, method="laplace", space="natural")


def test_predictive_draws_have_the_moments_of_their_mixture(line):
    x, y = line
    found = posterior(conditioned, x, y, method="laplace", draws=400)
    mean, covariance = conjugate(x, y)
    new = np.array([[0.0, 100.0], [5.0, 0.0]])
    drawn = posterior_predictive(found, new, seed=1)
    design = np.column_stack([np.ones(2), new])
    sd = np.sqrt(1 + np.einsum("ij,jk,ik->i", design, covariance, design))
    assert drawn.shape == (1, 400, 2)
    assert (abs(drawn[0].mean(0).numpy() - design @ mean) <= ERRORS * sd / math.sqrt(400)).all()
    assert (abs(drawn[0].std(0).numpy() / sd - 1) <= ERRORS / math.sqrt(2 * 400)).all()
    assert torch.equal(drawn, posterior_predictive(found, new, seed=1))
    assert not torch.equal(drawn, posterior_predictive(found, new, seed=2))
    with pytest.raises(DataError, match="need the `x` of the same rows"):
        posterior_predictive(found, exposure=np.ones(2))


def test_prior_draws_are_those_of_the_prior():
    found = prior_predictive(of_rate, np.zeros((3, 0)), draws=1000, seed=1)
    rate = found.draws["rate"][0]
    assert found.y.shape == (1, 1000, 3)
    assert abs(float(rate.mean()) - 2 / 3) <= ERRORS * math.sqrt(2) / 3 / math.sqrt(1000)
    # Given the rate, y has the mean 1 / rate.
    scaled = found.y[0, :, 0] * rate
    assert abs(float(scaled.mean()) - 1) <= ERRORS / math.sqrt(1000)
    classes = prior_predictive(models.categorical, np.zeros((4, 1)), np.array([0.0, 1.0, 2.0, 0.0]), draws=20)
    assert set(classes.y.unique().tolist()) <= {0.0, 1.0, 2.0}


@FEW
def test_a_model_that_cannot_be_traced_is_sampled_as_it_is():
    def twisted(x, y=None):
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 1.0))
        sign = 1.0 if float(shift.detach()) > -100 else 2.0
        with rows(x):
            return pyro.sample("y", dist.Normal(sign * shift, 1.0), obs=y)

    y = np.array([0.3, 0.1, 0.9])
    found = posterior(twisted, np.zeros((3, 0)), y, draws=100, tune=80, chains=2)
    assert_within_error(found.draws["shift"].numpy(), y.sum() / 4, 0.5)


def test_a_program_says_what_its_graph_says(line):
    target, start = density(Objective(models.gaussian, prepare(*line)))
    program, replayed = target.program(start), target.evaluation(start)
    assert program is target.program(start) is not replayed
    for z in (start, start + 0.5):
        for ours, known in zip(program(z), replayed(z), strict=True):
            torch.testing.assert_close(ours, known, rtol=1e-12, atol=1e-12)


def test_other_predictors_keep_their_names(line):
    def own(x, y=None):
        eta = linear("eta", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(eta, 1.0), obs=y)

    tight = with_priors(own, {"eta.weight": dist.Normal(0.0, torch.tensor(1e-3, dtype=torch.float64))})
    found = posterior(tight, *line, method="laplace")
    assert set(found.draws) == {"eta.weight", "eta.bias"}
    mode = map_estimate(tight, *line).params["eta.weight"]
    assert (
        (found.mean["eta.weight"] - mode).abs() <= ERRORS * found.sd["eta.weight"] / math.sqrt(1000)
    ).all()
