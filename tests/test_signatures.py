"""Keywords: unknown ones are named, with the nearest known one; row-wise ones keep to their support."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import neglog
from neglog import censored, map_estimate, mle, mle_batch, models, on_features
from neglog.errors import DataError, ModelError
from neglog.validation import cross_validate

ROWS = 80
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(ROWS, 2)), RNG.normal(size=ROWS)
COUNTS = RNG.poisson(3.0, size=ROWS).astype(float)
EXPOSURE = RNG.uniform(0.5, 2.0, size=ROWS)
FIT = mle(models.gaussian, X, Y)
RATES = mle(models.poisson, X, COUNTS, exposure=EXPOSURE)
DRAWN = neglog.posterior(models.gaussian, X, Y, method="laplace", draws=100)

NET = on_features(models.gaussian, torch.nn.Linear(2, 2))
UNKNOWN = {
    "mle": (lambda **k: mle(models.gaussian, X, Y, **k), "weight", "weights"),
    "map_estimate": (lambda **k: map_estimate(models.gaussian, X, Y, **k), "starts", "start"),
    "mle_batch": (lambda **k: mle_batch(models.gaussian, X, Y, **k), "cov_types", "cov_type"),
    "posterior": (lambda **k: neglog.posterior(models.gaussian, X, Y, **k), "draw", "draws"),
    "priors_for": (lambda **k: neglog.priors_for(models.gaussian, X, Y, **k), "weight", "weights"),
    "prior_predictive": (lambda **k: neglog.prior_predictive(models.gaussian, X, **k), "sead", "seed"),
    "ensemble": (lambda **k: neglog.ensemble(NET, X, Y, **k), "member", "members"),
    "conformal": (lambda **k: neglog.conformal(FIT, X, Y, **k), "kinds", "kind"),
    "recalibrate": (lambda **k: neglog.recalibrate(FIT, X, Y, **k), "methods", "method"),
    "lasso_path": (lambda **k: neglog.lasso_path(models.gaussian, X, Y, **k), "strength", "strengths"),
    "cross_validate": (lambda **k: cross_validate(models.gaussian, X, Y, **k), "fold", "folds"),
    "predict": (lambda **k: neglog.predict(FIT, X, **k), "uncertain", "uncertainty"),
    "class_probabilities": (lambda **k: neglog.class_probabilities(FIT, X, **k), "draw", "draws"),
    "interval": (lambda **k: neglog.interval(FIT, X, **k), "levels", "level"),
    "quantile": (lambda **k: neglog.quantile(FIT, X, 0.5, **k), "group", "groups"),
    "compare": (lambda **k: neglog.compare(["gaussian"], X, Y, **k), "fold", "folds"),
    "scores": (lambda **k: neglog.scores(FIT, X, Y, **k), "cov_typ", "cov_type"),
    "log_likelihood": (lambda **k: neglog.log_likelihood(RATES, X, COUNTS, **k), "exposures", "exposure"),
    "coverage": (lambda **k: neglog.coverage(FIT, X, Y, **k), "bin", "bins"),
    "reliability": (
        lambda **k: neglog.plots.reliability(RATES, X, COUNTS, **k),
        "exposures",
        "exposure",
    ),
    "posterior_predictive": (lambda **k: neglog.posterior_predictive(DRAWN, X, **k), "seeds", "seed"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_keyword_is_named_with_the_nearest_known_one(name):
    call, unknown, near = UNKNOWN[name]
    with pytest.raises(ModelError, match=f"`{name}` takes no `{unknown}`.*Did you mean `{near}`"):
        call(**{unknown: 1.0})


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_keyword_like_none_is_named(name):
    with pytest.raises(ModelError, match=f"`{name}` takes no `zzz`.*Leave it out"):
        UNKNOWN[name][0](zzz=1.0)


@pytest.mark.parametrize(
    ("model", "keyword", "near"),
    [
        (models.poisson, "exposur", "exposure"),
        (censored(models.weibull), "uper", "upper"),
        (censored(models.weibull, upper="until"), "untill", "until"),
        (on_features(models.poisson, torch.nn.Linear(2, 2)), "exposur", "exposure"),
        (models.binomial, "trial", "trials"),
        (partial(models.negative_binomial), "exposur", "exposure"),
    ],
)
def test_keywords_of_the_model_are_known_through_handlers(model, keyword, near):
    with pytest.raises(ModelError, match=f"takes no `{keyword}`.*Did you mean `{near}`"):
        mle(model, X, COUNTS + 1, **{keyword: EXPOSURE})


def test_what_other_libraries_call_so_is_pointed_out():
    with pytest.raises(ModelError, match=r"neglog\.interval\(fit, x, level=\.\.\.\)"):
        neglog.predict(FIT, X, level=0.9)
    with pytest.raises(ModelError, match="A penalty is a prior"):
        map_estimate(models.gaussian, X, Y, alpha=1.0)
    with pytest.raises(DataError, match=r"functools\.partial\(model, tau=0\.3\)"):
        mle(models.quantile, X, Y, tau=0.3)


def test_a_keyword_that_the_rows_had_is_needed():
    with pytest.raises(DataError, match="fitted with `exposure`"):
        neglog.predict(RATES, X)


# Exposure and trials

COUNT_MODELS = [
    models.poisson,
    models.negative_binomial,
    models.zero_inflated_poisson,
    models.zero_inflated_negative_binomial,
]


def at(values, row, value):
    values = values.copy()
    values[row] = value
    return values


@pytest.mark.parametrize("model", COUNT_MODELS, ids=lambda model: model.__name__)
@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")  # no zeros are too many here
def test_a_count_of_0_at_an_exposure_of_0_is_certain(model):
    counts, exposure = at(COUNTS, 5, 0.0), at(EXPOSURE, 5, 0.0)
    kept = np.arange(ROWS) != 5
    fit = mle(model, X, counts, exposure=exposure)
    without = mle(model, X[kept], counts[kept], exposure=exposure[kept])
    assert fit.nll == pytest.approx(without.nll, rel=1e-12)
    assert neglog.log_likelihood(fit, X, counts, exposure=exposure)[5] == 0
    response = neglog.predict(fit, X, exposure=exposure)
    assert response.mean[5] == response.variance[5] == 0
    at_zero = response.cdf(torch.zeros(ROWS, dtype=torch.float64))
    assert float(at_zero[5]) == pytest.approx(1, rel=4e-16)
    assert neglog.quantile(fit, X, 0.975, exposure=exposure)[5] == 0
    many = mle_batch(model, X, np.stack([counts, counts]), exposure=exposure)
    np.testing.assert_allclose(many.nll, fit.nll, rtol=1e-9)


@pytest.mark.parametrize("model", COUNT_MODELS[:2], ids=lambda model: model.__name__)
@pytest.mark.parametrize("kind", ["observed", "expected", "sandwich"])
def test_a_row_without_exposure_has_no_information(model, kind):
    counts, exposure = at(COUNTS, 5, 0.0), at(EXPOSURE, 5, 0.0)
    kept = np.arange(ROWS) != 5
    found = neglog.covariance(mle(model, X, counts, exposure=exposure), kind)
    expected = neglog.covariance(mle(model, X[kept], counts[kept], exposure=exposure[kept]), kind)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("model", COUNT_MODELS, ids=lambda model: model.__name__)
def test_a_count_above_0_at_an_exposure_of_0_is_refused(model):
    with pytest.raises(DataError, match=r"row 5 has y = 2.0, exposure = 0"):
        mle(model, X, at(COUNTS, 5, 2.0), exposure=at(EXPOSURE, 5, 0.0))


@pytest.mark.parametrize("model", COUNT_MODELS, ids=lambda model: model.__name__)
def test_a_negative_exposure_is_refused_with_its_row(model):
    weights, negative = at(np.ones(ROWS), 2, 0.0), at(EXPOSURE, 5, -1.0)
    plain = mle(models.poisson, X, COUNTS, exposure=EXPOSURE)
    for call in (
        lambda: mle(model, X, COUNTS, exposure=negative),
        lambda: mle(model, X, COUNTS, exposure=negative, weights=weights),
        lambda: map_estimate(model, X, COUNTS, exposure=pd.Series(negative)),
        lambda: mle_batch(model, X, np.stack([COUNTS, COUNTS]), exposure=negative),
        lambda: neglog.prior_predictive(model, X, exposure=negative),
        lambda: neglog.predict(plain, X, exposure=negative),
        lambda: neglog.scores(plain, X, COUNTS, exposure=negative),
    ):
        with pytest.raises(DataError, match=r"`exposure` must be not negative; 1 of .* row 5 has -1"):
            call()


@pytest.mark.parametrize("trials", [-1.0, 2.5])
def test_trials_are_whole_numbers(trials):
    wrong = at(np.full(ROWS, 20.0), 5, trials)
    with pytest.raises(DataError, match=f"`trials` must be a whole number.* row 5 has {trials:g}"):
        mle(models.binomial, X, COUNTS, trials=wrong)
    fit = mle(models.binomial, X, COUNTS, trials=np.full(ROWS, 20))
    with pytest.raises(DataError, match="row 5"):
        neglog.predict(fit, X, trials=wrong)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: censored(model, lower=-9.0)])
def test_a_misspelt_setting_that_is_bound_is_refused_with_the_nearest_name(wrap):
    x, y = torch.zeros((4, 0), dtype=torch.float64), torch.arange(4, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"`tua`.*`tau`"):
        mle(wrap(partial(models.quantile, tua=0.3)), x, y)
