"""Prediction: the doubt about parameters, intervals and quantiles, beside closed forms and statsmodels."""

from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import table
import torch
from table import TABLE

from neglog import (
    censored,
    covariance,
    datasets,
    interval,
    map_estimate,
    mle,
    models,
    posterior,
    predict,
    quantile,
    summary,
    truncated,
)
from neglog.distributions import Normal, Poisson
from neglog.distributions.averaged import Averaged, Listed, quantile_of
from neglog.errors import ModelError
from neglog.prediction.intervals import _unbounded_ends
from neglog.prediction.predictions import parameter_draws
from neglog.predictors import linear, rows
from neglog.uncertainty.covariances import theta_covariance

ROUNDING = 1e-12
"""Sums of a few hundred numbers of order one."""
NUMBERS = [name for name in TABLE if name != "categorical" and "multivariate" not in name]


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(name):
    return table.fitted(name), *TABLE[name].sample(), TABLE[name].keywords()


# The mixture over draws of the parameters.


@pytest.mark.parametrize("name", TABLE)
def test_a_mixture_is_the_mean_of_the_model_at_each_draw(name):
    fit, x, y, keywords = fitted(name)
    x, y, keywords = x[:10], y[:10], {key: value[:10] for key, value in keywords.items()}
    together = predict(fit, x, uncertainty=True, draws=4, **keywords)
    assert not isinstance(together.component, Listed)  # every model of the library runs for all draws at once
    values = parameter_draws(fit, 4)
    each = [
        predict(mle_at(fit, {site: value[s] for site, value in values.items()}), x, **keywords)
        for s in range(4)
    ]
    density = torch.stack([fn.log_prob(y).exp() for fn in each]).mean(0)
    torch.testing.assert_close(together.log_prob(y).exp(), density, rtol=1e-9, atol=1e-300)
    if name not in NUMBERS:
        return
    torch.testing.assert_close(together.mean, torch.stack([fn.mean for fn in each]).mean(0))
    second = torch.stack([fn.variance + fn.mean.square() for fn in each]).mean(0)
    torch.testing.assert_close(together.variance, second - together.mean.square())
    q = number([[0.025], [0.6]])
    at = together.icdf(q)
    reached = torch.stack([fn.cdf(at) for fn in each]).mean(0)
    torch.testing.assert_close(together.cdf(at), reached)
    torch.testing.assert_close(together.sf(at), 1 - reached)
    if together.support.is_discrete:
        assert bool((reached >= q - 1e-12).all())
        before = together.cdf(at - 1)
        assert bool((before < q).all())
    else:
        torch.testing.assert_close(reached, q.expand(at.shape), rtol=1e-10, atol=0)


def mle_at(fit, params):
    """A fit that stands at other values of its parameters."""
    return type(fit)(**{**vars(fit), "params": params})


def test_a_gaussian_line_has_the_well_known_variance():
    # sigma² + x' V x, but for the mean of exp(2 log sigma), which is 1 + 1 / n above: that of the draws.
    n = 4000
    x = normal(n, 2)
    fit = mle(models.gaussian, x, 1 + x @ number([1.0, -2.0]) + normal(n, seed=1))
    new = 20 * normal(5, 2, seed=2)  # far out, where the doubt about the line is as large as the noise
    order = [("mean", term) for term in ("Intercept", "x0", "x1")]
    matrix = torch.tensor(covariance(fit).loc[order, order].to_numpy())
    design = torch.cat([torch.ones(5, 1), new], 1)
    line, noise = (design @ matrix * design).sum(1), fit.params["sigma"].square()
    assert bool((line > 0.05 * noise).any())
    share = line / (noise + line)
    for draws in (64, 4096):
        found = predict(fit, new, uncertainty=True, draws=draws)
        missed = found.variance / (noise * (1 + 1 / n) + line) - 1
        # One standard error of the variance of as many random points, which a scrambled net stays within.
        assert bool((missed.abs() < share * (2 / draws) ** 0.5).all())
        torch.testing.assert_close(
            found.mean, predict(fit, new).mean, rtol=0, atol=float(line.max()) ** 0.5 / draws**0.5
        )


def test_the_seed_alone_decides_the_draws():
    fit, x, _, _ = fitted("gaussian")
    state = torch.random.get_rng_state()
    first, again = (predict(fit, x, uncertainty=True).mean for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, predict(fit, x, uncertainty=True, seed=1).mean)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_kind_of_covariance_is_that_of_the_summary():
    fit, *_ = fitted("gaussian")
    for kind, groups in (("HC1", None), ("cluster", np.arange(60) // 6), ("bootstrap", None)):
        found = parameter_draws(fit, 4096, cov_type=kind, groups=groups)["mean.bias"].std()
        table = summary(fit, cov_type=kind, **({} if groups is None else {"groups": groups}))
        assert float(found) == pytest.approx(table.loc[("mean", "Intercept"), "std_error"], rel=5e-3)


def test_draws_are_of_the_component_that_was_chosen():
    far = Averaged(Normal(number([[-50.0, 0.0], [50.0, 1000.0]]), number(1.0)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = far.sample((4000,))
    assert draws.shape == (4000, 2)
    for column, (low, high) in zip(draws.T, ((-50.0, 50.0), (0.0, 1000.0)), strict=True):
        upper = column > (low + high) / 2
        assert abs(float(upper.double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5
        assert abs(float(column[upper].mean()) - high) < 4 / 2000**0.5
        assert abs(float(column[~upper].std()) - 1) < 4 / 4000**0.5


def test_a_posterior_is_predicted_from_by_its_own_draws():
    x = normal(40, 1)
    drawn = posterior(models.gaussian, x, x[:, 0] + normal(40, seed=1), method="laplace", draws=300)
    response = predict(drawn, x)
    assert response.component.batch_shape == (300, 40)
    weight, bias = (drawn.draws[f"mean.{part}"][0] for part in ("weight", "bias"))
    torch.testing.assert_close(response.mean, x[:, 0] * weight.mean() + bias.mean())
    assert predict(drawn, x, draws=100).draws == 100
    of_mean = interval(drawn, x, level=0.9)
    lines = weight @ x.T + bias[:, None]
    torch.testing.assert_close(torch.tensor(of_mean["upper"].to_numpy()), lines.quantile(0.95, 0))
    outcome = interval(drawn, x, kind="outcome")
    torch.testing.assert_close(response.cdf(torch.tensor(outcome["lower"].to_numpy())), number([0.025] * 40))
    with pytest.raises(ModelError, match="the posterior has 300"):
        predict(drawn, x, draws=301)
    with pytest.raises(ModelError, match="`predict` takes no `exposure`"):
        predict(drawn, x, exposure=torch.ones(40))


def own(x, y=None):
    """A model whose noise is read off all rows, so that it does not run for many parameters at a time."""
    mean = linear("mean", x)
    scale = 1 + mean.std()
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def test_a_model_that_runs_for_one_vector_alone_is_run_draw_by_draw():
    x = normal(30, 1)
    fit = mle(own, x, 0.3 * x[:, 0] + normal(30, seed=1))
    response = predict(fit, x, uncertainty=True, draws=8)
    assert isinstance(response.component, Listed)
    values = parameter_draws(fit, 8)
    means = x[:, 0] * values["mean.weight"] + values["mean.bias"][:, None]
    torch.testing.assert_close(response.mean, means.mean(0))
    assert response.sample((3,)).shape == (3, 30)
    low, high = response.icdf(number([[0.1], [0.9]]))
    torch.testing.assert_close(response.cdf(high) - response.cdf(low), number([0.8] * 30))


@pytest.mark.parametrize("draws", [0, -3, 2.5, True])
def test_a_number_of_draws_that_cannot_be(draws):
    fit, x, _, _ = fitted("gaussian")
    with pytest.raises(ModelError, match="must be a positive whole number"):
        predict(fit, x, uncertainty=True, draws=draws)


def test_values_outside_the_support_are_refused():
    fit, x, _, keywords = fitted("poisson")
    with pytest.raises(ValueError, match="support"):
        predict(fit, x, uncertainty=True, draws=8, **keywords).log_prob(number([0.5] * 60))


# Intervals of the mean.

ENGEL = {  # statsmodels 0.15.0, OLS(...).get_prediction(new).summary_frame()
    "estimate": [390.0646003621675, 632.6538122006293, 2088.1890832313998],
    "std_error": [10.171090861771356, 7.4478385093733275, 43.9853525080541],
}
COUNTED = {  # GLM(articles, x, Poisson()).get_prediction(x.iloc[[0, 100, 700]]).summary_frame(), at tol=1e-14
    "estimate": [1.9561384219286495, 1.291521536091467, 1.1366749402967407],
    "std_error": [0.09689709067846715, 0.0696038224142641, 0.06487844941393951],
    "lower": [1.7751514575521705, 1.1620583750136013, 1.016370181374414],
    "upper": [2.155578054743562, 1.4354079915895261, 1.2712198208643002],
}
PUBLISHED = {  # the same of articles > 0, Binomial()
    "estimate": [0.7649247809018697, 0.6152830161127888, 0.5172350740428925],
    "std_error": [0.02809986098487536, 0.035148971633740124, 0.043589782294660734],
    "lower": [0.7054913812762816, 0.5445167906963055, 0.4321274294025811],
    "upper": [0.8155008536029773, 0.6814859097733796, 0.6013544296394321],
}


def test_the_mean_of_least_squares_is_that_of_statsmodels():
    # OLS has s² = RSS / (n - p) and Student's quantiles; maximum likelihood RSS / n and normal ones.
    engel = datasets.load("engel")
    fit = mle(models.gaussian, engel[["income"]], engel["food_expenditure"])
    new = pd.DataFrame({"income": [500.0, 1000.0, 4000.0]}, index=["a", "b", "c"])
    found = interval(fit, new)
    assert list(found.index) == ["a", "b", "c"]
    np.testing.assert_allclose(found["estimate"], ENGEL["estimate"], rtol=1e-10)
    np.testing.assert_allclose(
        found["std_error"], np.multiply(ENGEL["std_error"], (233 / 235) ** 0.5), rtol=1e-8
    )
    reach = torch.special.ndtri(number(0.975)).item()
    np.testing.assert_allclose(found["upper"], found["estimate"] + reach * found["std_error"], rtol=1e-12)


@pytest.mark.parametrize(("model", "known"), [(models.poisson, COUNTED), (models.bernoulli, PUBLISHED)])
def test_the_mean_of_a_generalised_linear_model_is_that_of_statsmodels(model, known):
    students = datasets.load("articles")
    x, y = students.drop(columns="articles"), students["articles"]
    y = y if model is models.poisson else (y > 0).astype(float)
    found = interval(mle(model, x, y), x.iloc[[0, 100, 700]])
    for column, values in known.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-8, err_msg=column)


@pytest.mark.parametrize("name", NUMBERS)
def test_an_interval_of_the_mean_is_the_delta_method(name):
    fit, x, _, keywords = fitted(name)
    few, keywords = x[:3], {key: value[:3] for key, value in keywords.items()}
    found = interval(fit, few, **keywords)
    assert (found["lower"] < found["estimate"]).all()
    assert (found["estimate"] < found["upper"]).all()
    matrix = torch.tensor(covariance(fit).to_numpy())

    def means(*params):
        return predict(mle_at(fit, dict(zip(fit.params, params, strict=True))), few, **keywords).mean

    # By finite differences in the parameters as they are, in which the covariance is.
    columns = []
    for site, value in fit.params.items():
        if name == "gaussian_mixture" and site == "weight":
            return  # its shares are not free one by one
        for place in range(value.numel()):
            step = 1e-5 * max(1.0, float(value.abs().max()))
            ends_ = []
            for side in (-1, 1):
                moved = value.clone().reshape(-1)
                moved[place] += side * step
                ends_.append(means(*({**fit.params, site: moved.reshape(value.shape)}).values()))
            columns.append((ends_[1] - ends_[0]) / (2 * step))
    slopes = torch.stack(columns, 1)
    errors = torch.linalg.vecdot(slopes @ matrix, slopes).sqrt()
    np.testing.assert_allclose(found["std_error"], errors, rtol=1e-5)


@pytest.mark.parametrize("name", ["lognormal", "weibull", "zero_inflated_poisson", "gamma", "poisson"])
def test_a_positive_mean_has_an_interval_that_is_symmetric_on_the_logarithm(name):
    fit, x, _, keywords = fitted(name)
    found = interval(fit, x, level=0.99, **keywords)
    assert (found["lower"] > 0).all()
    np.testing.assert_allclose(found["lower"] * found["upper"], found["estimate"] ** 2, rtol=1e-9)
    reach = torch.special.ndtri(number(0.995)).item() * found["std_error"] / found["estimate"]
    np.testing.assert_allclose(np.log(found["upper"] / found["estimate"]), reach, rtol=1e-9)


@pytest.mark.parametrize("handler", [censored, truncated])
def test_the_mean_between_bounds_has_an_interval_too(handler):
    # The mean of a Normal above 0 in closed form, with m = mean / sigma: of what is piled up at 0
    # sigma (m Φ(m) + φ(m)), of what is cut off sigma (m + φ(m) / Φ(m)); differentiated in theta.
    x = normal(80, 1)
    y = (x[:, 0] + 0.5 + normal(80, seed=1)).abs()
    fit = mle(handler(models.gaussian, lower=0.0), x, y)
    found = interval(fit, x[:4])

    def means(theta):
        params = fit.objective.layout.params(theta)
        mean, sigma = x[:4, 0] * params["mean.weight"] + params["mean.bias"], params["sigma"]
        share, density = torch.special.ndtr(mean / sigma), Normal(0.0, 1.0).log_prob(mean / sigma).exp()
        return mean * share + sigma * density if handler is censored else mean + sigma * density / share

    theta = fit.objective.layout.theta(fit.params)
    slopes = torch.autograd.functional.jacobian(means, theta)
    errors = torch.linalg.vecdot(slopes @ theta_covariance(fit), slopes).sqrt()
    np.testing.assert_allclose(found["estimate"], means(theta), rtol=1e-9)
    np.testing.assert_allclose(found["std_error"], errors, rtol=1e-6)


def soft(x, y=None):
    """Counts whose rate is the softplus of a predictor."""
    rate = torch.nn.functional.softplus(linear("eta", x))
    with rows(x):
        return pyro.sample("y", dist.Poisson(rate), obs=y)


def test_an_interval_is_formed_where_the_predictor_is_whatever_the_link():
    x = normal(60, 1)
    fit = mle(soft, x, torch.exp(0.5 * x[:, 0]).round())
    found = interval(fit, x)
    etas = np.log(np.expm1(found))  # back from the softplus
    np.testing.assert_allclose(etas["lower"] + etas["upper"], 2 * etas["estimate"], rtol=1e-9, atol=1e-9)
    line = fit.params["eta.bias"] + x[:, 0] * fit.params["eta.weight"]
    np.testing.assert_allclose(etas["estimate"], line, rtol=1e-9, atol=1e-9)


def test_the_mean_of_a_binomial_stays_below_its_trials():
    fit, x, _, _ = fitted("binomial")
    trials = torch.full((60,), 4.0, dtype=torch.float64)
    found = interval(fit, x, level=0.9999, trials=trials)
    assert (found["upper"] < 4).all()
    logit = np.log(found / (4 - found))
    np.testing.assert_allclose(logit["lower"] + logit["upper"], 2 * logit["estimate"], atol=1e-9)


# Intervals of outcomes, and quantiles.


@pytest.mark.parametrize("name", NUMBERS)
def test_quantiles_are_those_of_the_prediction(name):
    fit, x, _, keywords = fitted(name)
    response = predict(fit, x, **keywords)
    found = quantile(fit, x, [0.1, 0.5, 0.95], **keywords)
    assert found.shape == (60, 3)
    torch.testing.assert_close(found[:, 1], quantile(fit, x, 0.5, **keywords), rtol=ROUNDING, atol=0)
    reached = response.cdf(found.T).T
    q = number([0.1, 0.5, 0.95]).expand(60, 3)
    if response.support.is_discrete:
        assert bool((reached >= q - 1e-12).all())
        before = response.cdf(found.T - 1).T
        assert bool((before < q).all())
    else:
        torch.testing.assert_close(reached, q, rtol=1e-9, atol=0)


def test_an_outcome_is_between_quantiles_and_wider_with_doubt():
    fit, x, _, _ = fitted("gaussian")
    known, doubted = (interval(fit, x, 0.9, "outcome", uncertainty=u) for u in (False, True))
    torch.testing.assert_close(
        torch.tensor(known[["lower", "upper"]].to_numpy()), quantile(fit, x, [0.05, 0.95])
    )
    assert (doubted["upper"] - doubted["lower"] > known["upper"] - known["lower"]).all()
    response = predict(fit, x, uncertainty=True)
    shares = response.cdf(torch.tensor(doubted["upper"].to_numpy()))
    torch.testing.assert_close(shares, number([0.95] * 60), rtol=1e-10, atol=0)


class Bare(dist.Gumbel):
    """A distribution with a distribution function and no quantile function."""

    def icdf(self, value):
        raise NotImplementedError


def test_a_quantile_without_a_quantile_function_is_a_root():
    q = number([0.001, 0.3, 0.999])
    bare, known = (kind(number(2.0), number(3.0)) for kind in (Bare, dist.Gumbel))
    torch.testing.assert_close(quantile_of(bare, q), known.icdf(q), rtol=1e-10, atol=0)
    mixed = Averaged(Bare(number([2.0, 4.0]), number(3.0)))
    at = mixed.icdf(q)
    torch.testing.assert_close(mixed.cdf(at), q, rtol=1e-10, atol=0)


def test_the_quantiles_of_a_censored_outcome_pile_up_at_the_bound():
    x = normal(80, 1)
    y = (x[:, 0] + normal(80, seed=1)).clamp(min=0.0)
    fit = mle(censored(models.gaussian, lower=0.0), x, y)
    response = predict(fit, x, uncertainty=True)
    at = response.icdf(number([[0.3], [0.8]]))
    piled = response.cdf(torch.zeros(80).double()) >= 0.3
    assert bool(piled.any())
    assert bool((at[0][piled] == 0).all())
    above = at > 0
    q = number([[0.3], [0.8]]).expand(2, 80)
    torch.testing.assert_close(response.cdf(at)[above], q[above], rtol=1e-10, atol=0)


def test_ends_of_the_support_are_the_quantiles_of_0_and_1():
    counts = Averaged(Poisson(number([[1.0], [2.0]])))
    assert counts.icdf(number([[0.0], [1.0]])).tolist() == [[0.0], [torch.inf]]
    with pytest.raises(ValueError, match="probabilities between 0 and 1"):
        counts.icdf(number(1.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(interval, level=1.0), "`level` must be between 0 and 1"),
        (partial(interval, kind="median"), "`kind` must be 'mean' or 'outcome'"),
        (partial(interval, cov_type="HC9"), "`cov_type` must be one of"),
        (partial(quantile, q=1.0), "`q` must be one number between 0 and 1"),
        (partial(quantile, q=[[0.5]]), "`q` must be one number between 0 and 1"),
    ],
)
def test_what_cannot_be_asked(call, message):
    fit, x, _, _ = fitted("gaussian")
    with pytest.raises(ModelError, match=message):
        call(fit, x)


def test_what_has_no_mean_or_no_quantiles_says_so():
    fit, x, _, _ = fitted("categorical")
    with pytest.raises(ModelError, match="the mean of `categorical` does not exist"):
        interval(fit, x)
    with pytest.raises(ModelError, match="no distribution function"):
        quantile(fit, x, 0.5)
    fit, x, _, _ = fitted("multivariate_gaussian")
    with pytest.raises(ModelError, match="has a response of vectors"):
        interval(fit, x)
    with pytest.raises(ModelError, match="a response of vectors"):
        quantile(fit, x, 0.5)


def test_a_posterior_mode_has_the_curvature_of_its_posterior():
    x = normal(40, 2)
    fit = map_estimate(models.poisson, x, dist.Poisson(torch.exp(0.5 * x[:, 0])).mean.round())
    assert (interval(fit, x)["std_error"] > 0).all()
    with pytest.raises(ModelError, match="has priors"):
        interval(fit, x, cov_type="sandwich")


def test_a_mean_that_is_rounded_to_the_end_of_its_support_has_an_interval():
    """Its distance from the end, by which the standard error was divided, is 0."""
    x, y = TABLE["zero_inflated_poisson"].sample(60, 1)
    fit = mle(models.zero_inflated_poisson, x, y)
    ends = interval(fit, -1e4 * torch.sign(fit.params["log_rate.weight"])[None])
    assert ends.to_numpy().tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_a_mean_next_to_either_of_two_ends_has_an_interval_between_them():
    mean, error = torch.tensor(
        [[0.0, 1e-320, 0.5, 1.0, 1.0], [0.0, 0.0, 0.1, 0.0, 1e-9]], dtype=torch.float64
    )
    low, high = _unbounded_ends(mean, error, 1.96, dist.constraints.unit_interval)
    assert bool(((low >= 0) & (low <= mean) & (mean <= high) & (high <= 1)).all())


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_a_count_beyond_float64_has_no_quantiles(name):
    """The search for one went on for ever."""
    x, y = TABLE[name].sample(60, 1)
    fit = mle(TABLE[name].model, x, y)
    far = 1e4 * torch.sign(next(iter(fit.params.values())))[None]
    with pytest.raises(ModelError, match="beyond the range of float64"):
        interval(fit, far, kind="outcome", draws=16)
