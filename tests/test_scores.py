"""Scores: closed forms and brute force, what they are of, and the comparison of fits by criteria."""

import math
from itertools import pairwise

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scoringrules
import torch
from table import TABLE

from neglog import (
    datasets,
    distributions,
    information_criteria,
    log_likelihood,
    map_estimate,
    mle,
    models,
    posterior,
    predict,
    scores,
    vuong_test,
)
from neglog.distributions import (
    AsymmetricLaplace,
    Bernoulli,
    Censored,
    Gamma,
    Huber,
    Laplace,
    Logistic,
    LogNormal,
    NegativeBinomial2,
    Normal,
    NormalMixture,
    Ordered,
    Poisson,
    StudentT,
)
from neglog.distributions.averaged import Averaged
from neglog.distributions.family import REGISTERED, family_of
from neglog.distributions.positive import Beta, Weibull
from neglog.errors import DataError, ModelError
from neglog.prediction.crps import crps
from neglog.prediction.scoring import score_of
from neglog.validation import cross_validate

INTEGRAL = 1e-8
"""Relative: Gauss's rule beside closed forms, with 1e-9 of the probability left out at each end."""
CORNER = 1e-6
"""The same for densities with corners that are not at a quantile between panels."""


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FAMILIES = [
    Normal(number(0.2), number(1.3)),
    Laplace(number(0.2), number(1.3)),
    Logistic(number(0.2), number(1.3)),
    StudentT(number(4.0), number(0.2), number(1.3)),
    LogNormal(number(0.2), number(0.8)),
    Gamma(number(2.5), number(1.3)),
    Beta(number(2.5), number(1.3)),
    NormalMixture(number([0.4, 0.6]).log(), number([-1.0, 2.0]), number([0.5, 1.0])),
    Weibull(number(1.3), number(0.8)),
    Poisson(number(2.5)),
    Bernoulli(logits=number(0.3)),
]
KNOWN = {
    "crps_normal": (Normal(number(0.2), number(1.3)), (0.2, 1.3)),
    "crps_laplace": (Laplace(number(0.2), number(1.3)), (0.2, 1.3)),
    "crps_logistic": (Logistic(number(0.2), number(1.3)), (0.2, 1.3)),
    "crps_t": (StudentT(number(4.0), number(0.2), number(1.3)), (4.0, 0.2, 1.3)),
    "crps_lognormal": (LogNormal(number(0.2), number(0.8)), (0.2, 0.8)),
    "crps_gamma": (Gamma(number(2.5), number(1.3)), (2.5, 1.3)),
    "crps_beta": (Beta(number(2.5), number(1.3)), (2.5, 1.3)),
    "crps_poisson": (Poisson(number(2.5)), (2.5,)),
}


@pytest.mark.parametrize("fn", FAMILIES, ids=lambda fn: type(fn).__name__)
def test_closed_forms_and_integrals_are_one_number(fn, monkeypatch):
    assert family_of(fn).crps is not None
    own = {Beta: [0.01, 0.3, 0.7, 0.999], Bernoulli: [0.0, 1.0, 0.0, 1.0], Poisson: [0.0, 1.0, 2.0, 30.0]}
    y = number(own.get(type(fn), [0.01, 0.7, 2.5, 30.0]))
    fn = fn.expand((4,))
    closed = crps(fn, y)
    monkeypatch.setattr("neglog.prediction.crps._closed", lambda fn, y: None)
    torch.testing.assert_close(crps(fn, y), closed, rtol=INTEGRAL, atol=1e-9)


@pytest.mark.parametrize("name", KNOWN)
def test_closed_forms_are_those_of_scoringrules(name):
    fn, parameters = KNOWN[name]
    y = {"crps_beta": 0.7, "crps_poisson": np.arange(4.0)}.get(name, np.array([0.01, 0.7, 2.0, 30.0]))
    found = crps(fn.expand(np.shape(y)), number(y))
    np.testing.assert_allclose(found, getattr(scoringrules, name)(y, *parameters), rtol=1e-10)


@pytest.mark.parametrize("fn", FAMILIES, ids=lambda fn: type(fn).__name__)
def test_closed_forms_have_their_derivatives(fn):
    family = family_of(fn)
    y = number([0.1, 0.7]) if type(fn) is Beta else number([0.0, 1.0]) + 1.0 * (type(fn) is not Bernoulli)
    names = fn._kept if isinstance(fn, NormalMixture) else family.parameters
    leaves = [getattr(fn, name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *values: family.crps(type(fn)(**dict(zip(names, values, strict=True))), y), leaves
    )


def test_every_closed_form_is_held():
    assert {type(fn) for fn in FAMILIES} == {kind for kind, family in REGISTERED.items() if family.crps}


@pytest.mark.parametrize(
    "fn",
    [AsymmetricLaplace(number(0.2), number(1.3), number(0.8)), Huber(number(0.2), number(1.3), number(1.0))],
    ids=["AsymmetricLaplace", "Huber"],
)
def test_what_has_no_closed_form_is_integrated(fn):
    for y in (-3.0, 0.3, 40.0):
        corners = sorted([-60.0, 0.2 - 1.3, 0.2, 0.2 + 1.3, y, 90.0])
        known = sum(
            scipy.integrate.quad(lambda t, y=y: (float(fn.cdf(number(t))) - (t >= y)) ** 2, *ends, limit=500)[
                0
            ]
            for ends in pairwise(corners)
        )
        assert float(crps(fn.expand((1,)), number([y]))) == pytest.approx(known, rel=CORNER)


@pytest.mark.parametrize(
    "fn",
    [
        Poisson(number(3.3)),
        NegativeBinomial2(number(3.3), number(2.0)),
        Poisson(number(40_000.0)),
        Ordered(number(0.3), number([-1.0, 0.4, 2.0])),
    ],
    ids=["poisson", "negative_binomial", "large", "ordered"],
)
def test_counts_are_summed(fn):
    large = float(fn.mean) > 1000
    top = 3.0 if type(fn) is Ordered else 900.0
    ys = number([38_000.0, 40_010.0, 50_000.0] if large else [0.0, 2.0, min(25.0, top)])
    k = torch.arange(36_000.0 if large else 0.0, 55_000.0 if large else 2000.0, dtype=torch.float64)
    known = [(fn.cdf(k) - (k >= y).double()).square().sum() for y in ys]
    torch.testing.assert_close(crps(fn.expand((3,)), ys), torch.stack(known), rtol=1e-8, atol=0)


def test_a_mixture_over_draws_is_scored_as_one():
    fn = Averaged(Normal(normal(64, 1), number(1.0)))
    y = number([0.4])
    # E|X - y| - E|X - X'| / 2 of a mixture of Normals with one sigma, in closed form (Grimit et al. 2006).
    means = fn.component.loc[:, 0]

    def away(mean, sigma):
        z = mean / sigma
        return 2 * sigma * Normal(0.0, 1.0).log_prob(z).exp() + mean * (2 * torch.special.ndtr(z) - 1)

    first = away(y - means, number(1.0)).mean()
    second = away(means[:, None] - means, number(2.0).sqrt()).mean()
    assert float(crps(fn, y)) == pytest.approx(float(first - second / 2), rel=INTEGRAL)


def test_what_is_piled_up_at_a_bound_is_scored_too():
    # scoringrules has the Normal that is censored on both sides in closed form.
    fn = Censored(Normal(number(0.4), number(1.3)), lower=0.0, upper=2.0).expand((4,))
    y = number([0.0, 0.5, 1.7, 2.0])
    known = scoringrules.crps_cnormal(y.numpy(), 0.4, 1.3, 0.0, 2.0)
    np.testing.assert_allclose(crps(fn, y), known, rtol=INTEGRAL)


class Sampled(dist.Normal):
    """It draws, and has neither a distribution function nor a density."""

    def cdf(self, value):
        raise NotImplementedError

    def log_prob(self, value):
        return torch.full_like(value, torch.nan)


def test_what_has_no_distribution_function_is_scored_from_draws():
    y = number([-1.0, 0.0, 3.0]).expand(100, 3).reshape(-1)
    found = crps(Sampled(torch.zeros(300).double(), number(1.0)), y).reshape(100, 3)
    known = crps(Normal(torch.zeros(300).double(), number(1.0)), y).reshape(100, 3)[0]
    error = found.std(0) / 10
    assert bool(((found.mean(0) - known).abs() < 4 * error).all())
    assert bool((error < 0.01).all())


# The scores of a fit.


@pytest.mark.parametrize("name", ["gaussian", "binomial", "categorical", "multivariate_gaussian"])
def test_the_log_score_is_the_log_density(name):
    (x, y), keywords = TABLE[name].sample(), TABLE[name].keywords()
    fit = mle(TABLE[name].model, x, y, **keywords)
    for uncertainty in (False, True):
        found = scores(fit, x, y, uncertainty=uncertainty, draws=8, **keywords)
        known = predict(fit, x, uncertainty=uncertainty, draws=8, **keywords).log_prob(y)
        torch.testing.assert_close(found, known)


def test_scores_of_intervals_and_quantiles_by_hand():
    x, y = torch.empty((4, 0), dtype=torch.float64), number([1.0, 2.0, 3.0, 6.0])
    fit = mle(models.gaussian, x, y)
    sigma = fit.params["sigma"].item()
    reach = 1.959963984540054 * sigma
    far = number([3.0, 3.0 + reach + 1, 3.0 - reach - 2, 3.0])
    torch.testing.assert_close(
        scores(fit, x, far, "interval"), 2 * reach + 2 / 0.05 * number([0.0, 1.0, 2.0, 0.0])
    )
    torch.testing.assert_close(scores(fit, x, y, "pinball"), 0.5 * (y - 3.0).abs())
    high = 3.0 + 1.2815515655446004 * sigma
    pinball = torch.where(y > high, 0.9 * (y - high), 0.1 * (high - y))
    torch.testing.assert_close(scores(fit, x, y, "pinball@0.9"), pinball)
    both = [scores(fit, x, y, f"pinball@{level}") for level in (0.05, 0.95)]
    # An interval score is the pinball losses of its ends, 2 / (1 - level) times.
    torch.testing.assert_close(scores(fit, x, y, "interval@0.9"), 2 / 0.1 * (both[0] + both[1]))


def test_brier_scores_of_classes():
    for name in ("categorical", "ordinal"):
        (x, y), _ = TABLE[name].sample(), None
        fit = mle(TABLE[name].model, x, y)
        probs = predict(fit, x).probs
        hit = torch.nn.functional.one_hot(y.long(), probs.shape[-1])
        torch.testing.assert_close(scores(fit, x, y, "brier"), (probs - hit).square().sum(-1))
    (x, y), _ = TABLE["bernoulli"].sample(), None
    fit = mle(models.bernoulli, x, y)
    torch.testing.assert_close(scores(fit, x, y, "brier"), (predict(fit, x).mean - y).square())
    # Of 0 and 1 the ranked probability score is the Brier score.
    torch.testing.assert_close(scores(fit, x, y, "crps"), scores(fit, x, y, "brier"))
    doubted = scores(fit, x, y, "brier", uncertainty=True)
    torch.testing.assert_close(doubted, (predict(fit, x, uncertainty=True).mean - y).square())


def test_the_brier_score_is_that_of_torchs_own_classes_too():
    logits = torch.tensor([[0.3, -1.0, 0.2], [1.0, 0.0, -0.5]], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for ours, theirs in (
        (distributions.Bernoulli(logits=logits[:, 0]), torch.distributions.Bernoulli(logits=logits[:, 0])),
        (distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=logits)),
    ):
        torch.testing.assert_close(score_of(theirs, y, "brier"), score_of(ours, y, "brier"))


@pytest.mark.parametrize("kind", ["crps", "pinball@0.2", "interval@0.8"])
def test_a_proper_score_is_lowest_at_the_truth(kind):
    y = normal(4000) + 1
    x = torch.empty((4000, 0), dtype=torch.float64)
    fit = mle(models.gaussian, x, y)

    def mean(shift, factor):
        params = {"mean.weight": fit.params["mean.weight"], "mean.bias": fit.params["mean.bias"] + shift,
                  "sigma": fit.params["sigma"] * factor}  # fmt: skip
        return float(scores(type(fit)(**{**vars(fit), "params": params}), x, y, kind).mean())

    best = mean(0.0, 1.0)
    assert all(best < mean(*other) for other in ((0.3, 1.0), (-0.3, 1.0), (0.0, 0.7), (0.0, 1.4)))


def test_a_posterior_has_scores():
    x = normal(40, 1)
    y = x[:, 0] + normal(40, seed=1)
    drawn = posterior(models.gaussian, x, y, method="laplace", draws=100)
    torch.testing.assert_close(scores(drawn, x, y), predict(drawn, x).log_prob(y))
    assert scores(drawn, x, y, "crps").shape == (40,)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rps", "there is no score 'rps'"),
        ("crps@0.5", "there is no score 'crps@0.5'"),
        ("pinball@2", "must be between 0 and 1"),
        ("pinball@high", "must be between 0 and 1"),
        ("brier", "the Brier score needs a response of classes"),
    ],
)
def test_scores_that_there_are_not(kind, message):
    x, y = torch.empty((4, 0), dtype=torch.float64), number([1.0, 2.0, 3.0, 6.0])
    with pytest.raises(ModelError, match=message):
        scores(mle(models.gaussian, x, y), x, y, kind)


def test_a_response_that_does_not_fit_has_no_score():
    x, y = torch.empty((3, 0), dtype=torch.float64), number([1.0, 2.0, 6.0])
    fit = mle(models.poisson, x, y)
    with pytest.raises(DataError, match="needs every `y` to be"):
        scores(fit, x, number([0.5, 1.0, 2.0]), "crps", uncertainty=True)
    with pytest.raises(DataError, match="`y` of row 1 is missing"):
        scores(fit, x, number([1.0, math.nan, 2.0]), "crps")
    (x, y), _ = TABLE["categorical"].sample(), None
    with pytest.raises(ModelError, match="unordered classes"):
        scores(mle(TABLE["categorical"].model, x, y), x, y, "crps")


# Held out.


def test_cross_validation_keeps_the_scores_that_are_asked_for():
    x = normal(40, 1)
    y = x[:, 0] + normal(40, seed=1)
    plain = cross_validate(models.gaussian, x, y, folds=4)
    asked = cross_validate(models.gaussian, x, y, folds=4, scores=("crps", "pinball@0.9"))
    assert torch.equal(plain.scores, asked.scores)
    assert list(plain.by_name) == ["log"]
    assert list(asked.by_name) == ["log", "crps", "pinball@0.9"]
    out = asked.folds == 2
    fit = mle(models.gaussian, x[~out], y[~out])
    torch.testing.assert_close(asked.by_name["crps"][out], scores(fit, x[out], y[out], "crps"))
    torch.testing.assert_close(asked.scores[out], log_likelihood(fit, x[out], y[out]))
    table = asked.table()
    assert table.loc["log", "mean"] == pytest.approx(asked.mean)
    assert table.loc["log", "std_error"] == pytest.approx(asked.standard_error)
    other = cross_validate(models.laplace, x, y, folds=4, scores=("crps",))
    gap, error = other.above(asked, "crps")
    each = other.by_name["crps"] - asked.by_name["crps"]
    assert gap == pytest.approx(float(each.mean()))
    assert error == pytest.approx(float(each.std()) / 40**0.5)
    with pytest.raises(DataError, match="no held-out score 'brier'"):
        asked.above(other, "brier")
    with pytest.raises(ModelError, match="there is no score 'rps'"):
        cross_validate(models.gaussian, x, y, scores=("rps",))


# Fits side by side.


def test_fits_side_by_side():
    engel = datasets.load("engel")
    x, y = engel[["income"]], engel["food_expenditure"]
    fits = {name: mle(getattr(models, name), x, y) for name in ("gaussian", "laplace", "huber")}
    table = information_criteria(fits)
    assert table["aic"].is_monotonic_increasing
    best, *rest = table.index
    for name, fit in fits.items():
        for column in ("nll", "k", "n", "aic", "aicc", "bic"):
            assert table.loc[name, column] == getattr(fit, column)
    raw = np.exp(-0.5 * table["delta"])
    np.testing.assert_allclose(table["aic_weight"], raw / raw.sum(), rtol=1e-12)
    assert table["bic_weight"].sum() == pytest.approx(1)
    assert math.isnan(table.loc[best, "vuong_z"])
    for name in rest:
        test = vuong_test(fits[name], fits[best])
        assert (table.loc[name, "vuong_z"], table.loc[name, "vuong_p"]) == (test.statistic, test.p_value)
        assert test.statistic < 0


def test_the_same_fit_twice_has_nothing_to_test():
    x, y = torch.empty((4, 0), dtype=torch.float64), number([1.0, 2.0, 3.0, 6.0])
    table = information_criteria({"a": mle(models.gaussian, x, y), "b": mle(models.gaussian, x, y)})
    assert table["vuong_z"].isna().all()
    assert table["aic_weight"].tolist() == [0.5, 0.5]


def test_fits_that_cannot_stand_side_by_side():
    x, y = normal(20, 1), torch.arange(20.0, dtype=torch.float64)
    fit = mle(models.gaussian, x, y)
    with pytest.raises(DataError, match="at least two fits"):
        information_criteria({"a": fit})
    with pytest.raises(DataError, match="differ in their response"):
        information_criteria({"a": fit, "b": mle(models.gaussian, x, y + 1)})
    with pytest.raises(DataError, match="differ in their rows"):
        information_criteria({"a": fit, "b": mle(models.gaussian, x[:10], y[:10])})
    with pytest.raises(DataError, match="differ in their weights"):
        information_criteria({"a": fit, "b": mle(models.gaussian, x, y, weights=y + 1)})
    with pytest.raises(ModelError, match="has priors"):
        information_criteria({"a": fit, "b": map_estimate(models.gaussian, x, y)})
    with pytest.raises(ModelError, match="the density of one model"):
        information_criteria({"a": fit, "b": mle(models.poisson, x, y)})


def test_weights_are_rows_written_out():
    x, y, weights = normal(20, 1), normal(20, seed=1), 1.0 + torch.arange(20).double() % 3
    often = weights.long()
    names = ("gaussian", "laplace")
    weighted = information_criteria(
        {name: mle(getattr(models, name), x, y, weights=weights) for name in names}
    )
    written = information_criteria(
        {
            name: mle(getattr(models, name), x.repeat_interleave(often, 0), y.repeat_interleave(often))
            for name in names
        }
    )
    np.testing.assert_allclose(weighted.drop(columns="k"), written.drop(columns="k"), rtol=1e-7)


def test_a_column_of_noise_has_the_likelihood_and_not_the_criterion():
    x, y = normal(20, 3), normal(20, seed=1)
    table = information_criteria(
        {"noise": mle(models.gaussian, x, y), "none": mle(models.gaussian, x[:, :0], y)}
    )
    assert table.loc["noise", "nll"] < table.loc["none", "nll"]
    assert list(table.index) == ["none", "noise"]
    assert table.loc["none", "delta"] == 0


@pytest.mark.parametrize("kind", ["log", "crps", "pinball@0.3"])
def test_no_rows_have_no_scores(kind):
    x = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)[:, None]
    fit = mle(models.gaussian, x, x[:, 0].exp())
    assert scores(fit, x[:0], x[:0, 0], kind=kind).shape == (0,)
    with pytest.raises(DataError, match="`y`"):
        scores(fit, x[:0], x[:1, 0], kind=kind)


@pytest.mark.parametrize("kind", ["log", "crps"])
def test_a_score_that_is_no_number_is_refused(kind):
    """The mean is exp(-2000), which is 0 in floats, or exp(2000)."""
    line = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    fit = mle(models.inverse_gaussian, line, torch.exp(line[:, 0] + 0.1 * torch.cos(40 * line[:, 0])))
    with pytest.raises(DataError, match=rf"score '{kind}' of row 1 is not a number"):
        scores(fit, torch.tensor([[0.0], [2000.0]], dtype=torch.float64), torch.ones(2), kind)
