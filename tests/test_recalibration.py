"""Recalibration: closed forms of temperatures, laws of mapped distribution functions, and what is refused."""

import copy
import math
import pickle
from functools import cache, partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from table import TABLE, fitted

from neglog import (
    censored,
    class_probabilities,
    conformal,
    interval,
    mle,
    models,
    posterior,
    predict,
    quantile,
    recalibrate,
    scores,
)
from neglog.distributions import Laplace, LogNormal, Normal, NormalMixture, Poisson, StudentT
from neglog.distributions.averaged import Averaged
from neglog.distributions.derived import mean_of, variance_of
from neglog.distributions.recalibrated import Monotone, Remapped, Stretched
from neglog.errors import DataError, ModelError

SEARCH = 1e-7
"""Relative: the temperature of a search for the least loss, whose curvature is known to half the digits."""
QUADRATURE = 1e-7
NODES = np.polynomial.legendre.leggauss(120)
CLASSES = ("bernoulli", "categorical", "ordinal")


def drawn(rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 2.0, rows)
    y = np.sin(3.0 * x) + (0.2 + x) * (rng.exponential(size=rows) - 1.0)
    return torch.tensor(x)[:, None], torch.tensor(y)


@cache
def line(name="gaussian"):
    x, y = drawn(60, 1)
    return mle(getattr(models, name), x, y.exp() if name in ("lognormal", "gamma") else y)


def test_the_temperature_of_a_normal_is_the_root_mean_square_of_residuals():
    x, y = drawn(100, 2)
    for name in ("gaussian", "heteroscedastic"):
        at = predict(line(name), x)
        found = recalibrate(line(name), x, y)
        expected = float(((y - at.mean) / at.stddev).square().mean().sqrt())
        assert found.temperature == pytest.approx(expected, rel=SEARCH)
        new = found.predict(x)
        assert isinstance(new, Normal)
        assert torch.allclose(new.stddev, found.temperature * at.stddev)
        assert torch.equal(new.mean, at.mean)
        assert float(scores(found, x, y).mean()) > float(scores(line(name), x, y).mean())


def test_the_temperature_of_a_laplace_is_the_mean_absolute_residual():
    x, y = drawn(100, 2)
    at = predict(line("laplace"), x)
    expected = float(((y - at.mean) / at.scale).abs().mean())
    assert recalibrate(line("laplace"), x, y).temperature == pytest.approx(expected, rel=SEARCH)


def test_a_lognormal_is_stretched_on_the_logarithm():
    x, y = drawn(100, 2)
    fit = line("lognormal")
    at = predict(fit, x)
    found = recalibrate(fit, x, y.exp())
    assert found.temperature == pytest.approx(
        float(((y - at.loc) / at.scale).square().mean().sqrt()), rel=SEARCH
    )
    assert isinstance(found.predict(x), LogNormal)


@pytest.mark.parametrize("name", TABLE)
def test_temperatures_are_at_an_optimum_of_the_log_score(name):
    row = TABLE[name]
    (x, y), keywords = row.sample(60, 3, seed=5), row.keywords(60)
    fit = fitted(name)
    if name in CLASSES:
        y = likely(fit, x)
    if y.dim() > 1:
        with pytest.raises(ModelError, match="of vectors has no recalibration"):
            recalibrate(fit, x, y, **keywords)
        return
    if (
        name not in CLASSES
        and name != "lognormal"
        and predict(fit, x, **keywords).support is not dist.constraints.real
    ):
        with pytest.raises(ModelError, match="use method='isotonic'"):
            recalibrate(fit, x, y, **keywords)
        return
    found = recalibrate(fit, x, y, **keywords)
    best = float(found.predict(x, **keywords).log_prob(y).sum())
    at_one = copy.copy(found)
    for factor in (0.99, 1.01):
        object.__setattr__(at_one, "temperature", factor * found.temperature)
        assert float(at_one.predict(x, **keywords).log_prob(y).sum()) < best
    object.__setattr__(at_one, "temperature", 1.0)
    same = at_one.predict(x, **keywords).log_prob(y)
    assert torch.allclose(same, predict(fit, x, **keywords).log_prob(y), atol=1e-12)


def likely(fit, x):
    """Classes that a fit expects."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return predict(fit, x).sample()


@pytest.mark.parametrize("name", CLASSES)
def test_probabilities_of_classes_are_powers(name):
    row = TABLE[name]
    x, _ = row.sample(60, 3, seed=5)
    found = recalibrate(fitted(name), x, likely(fitted(name), x))
    before = class_probabilities(fitted(name), x).to_numpy()
    powers = before ** (1 / found.temperature)
    assert np.allclose(class_probabilities(found, x), powers / powers.sum(1, keepdims=True), rtol=1e-12)
    if name == "ordinal":
        assert torch.allclose(
            found.predict(x).cdf(torch.zeros(60)), torch.tensor(class_probabilities(found, x)[0])
        )


def test_a_mixture_over_draws_is_stretched_around_its_mean():
    x, y = drawn(80, 3)
    draws = posterior(models.gaussian, *drawn(40, 4), method="laplace", draws=100)
    found = recalibrate(draws, x, y)
    before, after = predict(draws, x), found.predict(x)
    assert torch.allclose(after.mean, before.mean)
    assert torch.allclose(after.variance, found.temperature**2 * before.variance)


def test_a_mixture_without_a_mean_is_stretched_around_its_median():
    x, y = drawn(60, 3)
    draws = posterior(partial(models.student_t, df=1.0), x, y, method="laplace", draws=100)
    assert not bool(torch.isfinite(predict(draws, x).mean).any())
    found, half = recalibrate(draws, x, y), torch.tensor(0.5, dtype=torch.float64)
    assert torch.allclose(found.predict(x).icdf(half), predict(draws, x).icdf(half))


NORMAL = Normal(torch.tensor([0.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64))


def as_double(*values):
    return [torch.tensor(each, dtype=torch.float64) for each in values]


REAL = {
    "Laplace": Laplace(*as_double([0.0, 2.0], [1.0, 3.0])),
    "StudentT": StudentT(*as_double([4.0, 5.0], [0.0, 2.0], [1.0, 3.0])),
    "NormalMixture": NormalMixture(*as_double([[0.0, 0.5]] * 2, [[-1.0, 2.0]] * 2, [[0.5, 1.0]] * 2)),
    "Averaged": Averaged(Normal(*as_double([[0.0, 2.0], [1.0, 3.0]], 1.0))),
}


def map_of(seed=0, rows=40, bins=7):
    at = torch.tensor(np.sort(np.random.default_rng(seed).beta(0.5, 0.8, rows)))
    return Monotone.of_ranks(at, 1 - at, bins)


CHANGED = {
    **{f"Stretched {name}": Stretched(fn, mean_of(fn), 1.7) for name, fn in REAL.items()},
    **{f"Remapped {name}": Remapped(fn, map_of()) for name, fn in (REAL | {"Normal": NORMAL}).items()},
    "Remapped LogNormal": Remapped(LogNormal(*as_double([0.0, 0.5], [0.5, 0.7])), map_of()),
}


@pytest.mark.parametrize("name", CHANGED)
def test_density_distribution_function_quantiles_and_moments_agree(name):
    fn = CHANGED[name]
    q = torch.tensor([0.003, 0.1, 0.37, 0.5, 0.81, 0.9995], dtype=torch.float64)[:, None]
    y = fn.icdf(q)
    assert y.shape == (6, 2)
    assert torch.allclose(fn.cdf(y), q.expand(6, 2), atol=1e-9)
    assert torch.allclose(fn.cdf(y) + fn.sf(y), torch.ones(6, 2, dtype=torch.float64))
    step = 1e-5
    slope = (fn.cdf(y + step) - fn.cdf(y - step)) / (2 * step)
    assert torch.allclose(fn.log_prob(y).exp(), slope, rtol=1e-5, atol=1e-9)
    # Moments as integrals of quantiles over probabilities.
    levels = getattr(fn, "through", map_of()).levels.numpy()

    def integral(power, row):
        t, weights = ((1 + NODES[0]) / 2, NODES[1] / 2)
        for _ in range(2):  # nodes crowd at both ends, where quantiles may be infinite
            weights = weights * 6 * t * (1 - t)
            t = t * t * (3 - 2 * t)
        p = torch.tensor(levels[:-1] + np.diff(levels) * t[:, None]).clamp(max=1 - 2e-16)
        return float(
            (
                fn.icdf(p.flatten()[:, None])[:, row].numpy() ** power
                * np.outer(weights, np.diff(levels)).flatten()
            ).sum()
        )

    if "StudentT" not in name:
        first, second = integral(1, 0), integral(2, 0)
        assert float(fn.mean[0]) == pytest.approx(first, rel=1e-6, abs=1e-6)
        assert float(fn.variance[0]) == pytest.approx(second - first**2, rel=1e-5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = fn.sample((4000,))
    assert draws.shape == (4000, 2)
    for row in range(2):
        cdf = fn.cdf(draws)[:, row].numpy()
        assert scipy.stats.kstest(cdf, "uniform").pvalue > 1e-3
    assert bool(((draws.mean(0) - fn.mean).abs() <= 4 * fn.stddev / math.sqrt(4000)).all())
    if "Averaged" not in name:
        assert fn.expand((3, 2)).log_prob(y[0]).shape == (3, 2)


def test_tails_keep_their_digits():
    fn = Remapped(NORMAL, map_of())
    far = torch.tensor([[-37.0, -100.0], [37.0, 100.0]], dtype=torch.float64)
    lower, upper = fn._log_tails(far)
    slopes = fn.through.slopes.log()
    assert torch.allclose(lower[0], NORMAL.log_cdf(far[0]) + slopes[0], rtol=1e-12)
    assert torch.allclose(upper[1], NORMAL.log_sf(far[1]) + slopes[-1], rtol=1e-12)
    assert bool(torch.isfinite(fn.log_prob(far)).all())


def test_the_map_of_the_identity_changes_nothing():
    at = torch.arange(1, 40, dtype=torch.float64) / 40
    for bins in (2, 5, 40):
        fn = Remapped(NORMAL, Monotone.of_ranks(at, 1 - at, bins))
        y = torch.tensor([[-2.0, 0.3], [0.4, 9.0]], dtype=torch.float64)
        assert torch.allclose(fn.log_prob(y), NORMAL.log_prob(y))
        assert torch.allclose(fn.mean, NORMAL.mean, atol=1e-7)
        assert torch.allclose(fn.variance, NORMAL.variance, rtol=1e-6)
        counts = Poisson(torch.tensor([2.0, 30.0], dtype=torch.float64))
        other = Remapped(counts, Monotone.of_ranks(at, 1 - at, bins))
        assert torch.allclose(other.log_prob(y.abs().round()), counts.log_prob(y.abs().round()))
        assert torch.allclose(other.variance, counts.variance)


def test_equal_and_certain_probabilities_give_no_jump():
    at = torch.tensor([0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.8, 1.0, 1.0], dtype=torch.float64)
    found = Monotone.of_ranks(at, 1 - at, 10)
    assert torch.allclose(found.lower, torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64))
    assert torch.allclose(found.levels, torch.tensor([0.0, 0.45, 0.7, 1.0], dtype=torch.float64))
    assert bool(torch.isfinite(found.slopes).all())


def test_the_transformed_calibration_rows_are_uniform():
    x, y = drawn(99, 5)
    fit = line()
    every = recalibrate(fit, x, y, method="isotonic", bins=100).predict(x).cdf(y).sort().values
    assert torch.allclose(every, torch.arange(1, 100, dtype=torch.float64) / 100)
    some = recalibrate(fit, x, y, method="isotonic").predict(x).cdf(y)
    assert torch.equal((some * 10 + 1e-9).long().bincount(), torch.tensor([9] + 9 * [10]))
    assert float((some.sort().values - every).abs().max()) < 0.06
    before = predict(fit, x).cdf(y).sort().values
    assert float((before - every).abs().max()) > 0.08


def test_coverage_of_recalibrated_quantiles_is_exact_for_a_wrong_model():
    """P(Y ≤ the quantile at r / (n + 1)) is r / (n + 1) for exchangeable rows, at the ranks of the knots."""
    found = []
    for seed in range(60):
        x, y = drawn(24 + 200, 100 + seed)
        quantiles = quantile(recalibrate(line(), x[:24], y[:24], method="isotonic"), x[24:], [0.2, 0.8])
        found.append((y[24:, None] <= quantiles).double().mean(0).numpy())
    found = np.array(found)
    assert (abs(found.mean(0) - [0.2, 0.8]) <= 3 * found.std(0, ddof=1) / math.sqrt(60)).all()


def test_counts_are_recalibrated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1))
    y = rng.negative_binomial(2, 2 / (2 + np.exp(1 + 0.5 * x[:, 0]))).astype(float)
    fit = mle(models.poisson, x[:200], y[:200])
    found = recalibrate(fit, x[200:400], y[200:400], method="isotonic")
    fn = found.predict(x[400:])
    k = torch.arange(200, dtype=torch.float64)[:, None]
    masses = fn.log_prob(k).exp()
    assert torch.allclose(masses.sum(0), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(masses.cumsum(0), fn.cdf(k), atol=1e-12)
    assert torch.allclose((k * masses).sum(0), fn.mean)
    assert bool((fn.cdf(fn.icdf(torch.tensor(0.9))) >= 0.9 - 1e-6).all())
    assert float(mean_of(fn).mean()) == pytest.approx(y[400:].mean(), rel=0.15)
    assert float(variance_of(fn).mean()) > 1.3 * float(predict(fit, x[400:]).variance.mean())
    for kind, sign in (("log", 1), ("crps", -1)):
        gain = scores(found, x[400:], y[400:], kind) - scores(fit, x[400:], y[400:], kind)
        assert sign * float(gain.mean()) > 0


@pytest.mark.parametrize(
    "name", ["gamma", "student_t", "gaussian_mixture", "negative_binomial", "beta", "quantile"]
)
def test_isotonic_recalibration_is_for_every_model_of_numbers(name):
    row = TABLE[name]
    (x, y), keywords = row.sample(60, 3, seed=5), row.keywords(60)
    fn = recalibrate(fitted(name), x, y, method="isotonic", **keywords).predict(x, **keywords)
    assert bool(torch.isfinite(fn.log_prob(y)).all())
    assert bool((fn.icdf(torch.tensor(0.3)) <= fn.icdf(torch.tensor(0.6))).all())
    assert bool((fn.variance > 0).all())
    expected = torch.linspace(0, 1, 62, dtype=torch.float64)[1:-1]
    if not fn.support.is_discrete:
        assert float((fn.cdf(y).sort().values - expected).abs().max()) < 0.1


def test_scores_intervals_and_conformal_take_a_recalibration():
    x, y = drawn(150, 7)
    crps = {}
    for method in ("temperature", "isotonic"):
        found = recalibrate(line(), x[:100], y[:100], method=method)
        assert torch.equal(scores(found, x, y), found.predict(x).log_prob(y))
        crps[method] = scores(found, x[100:], y[100:], "crps")
        spread = quantile(found, x[100:103], np.linspace(0.0005, 0.9995, 1000))
        gaps = (spread[:, :, None] - spread[:, None, :]).abs().mean((1, 2))
        errors = (spread - y[100:103, None]).abs().mean(1)
        assert torch.allclose(crps[method][:3], errors - gaps / 2, rtol=5e-3)
        ends = interval(found, x[100:], 0.8, "outcome")
        assert np.allclose(ends[["lower", "upper"]], quantile(found, x[100:], [0.1, 0.9]))
        assert conformal(found, x[:100], y[:100], kind="quantile").interval(x[100:]).shape == (50, 3)
        with pytest.raises(ModelError, match=r"`Recalibration`.*kind='outcome'"):
            interval(found, x)
    twice = recalibrate(recalibrate(line(), x, y), x, y)
    assert twice.temperature == pytest.approx(1.0, rel=SEARCH)


def test_tables_labels_and_row_wise_arguments():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=80), "t": rng.uniform(1, 3, 80)})
    table["y"] = rng.poisson(table["t"] * np.exp(0.5 * table["x"]))
    table["k"] = np.where(rng.normal(size=80) < table["x"], "yes", "no")
    found = recalibrate(mle("poisson", "y ~ x", table[:40], exposure="t"), table[40:], method="isotonic")
    assert scores(found, table, kind="crps").shape == (80,)
    assert not torch.equal(found.predict(table).mean, found.predict(table, exposure=np.ones(80)).mean)
    with pytest.raises(ModelError, match=r"`predict` takes no `exposur`.*`exposure`"):
        found.predict(table, exposur=np.ones(80))
    classes = recalibrate(mle("bernoulli", "k ~ x", table[:40]), table[40:])
    assert list(class_probabilities(classes, table)) == ["no", "yes"]
    assert classes.classes == ("no", "yes")


def test_pickles_and_copies_predict_alike():
    x, y = drawn(50, 8)
    for method in ("temperature", "isotonic"):
        for name in ("gaussian", "student_t"):
            found = recalibrate(line(name), x, y, method=method)
            for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
                assert torch.equal(again.predict(x).log_prob(y), found.predict(x).log_prob(y))
                assert repr(again) == repr(found)


def test_no_new_rows_have_no_distributions():
    x, y = drawn(50, 8)
    for method in ("temperature", "isotonic"):
        fn = recalibrate(line("student_t"), x, y, method=method).predict(x[:0])
        assert fn.log_prob(y[:0]).shape == fn.mean.shape == (0,)


def test_what_cannot_be_recalibrated_is_refused():
    x, y = drawn(40, 9)
    yes = (y > 0).double()
    certain = mle(models.bernoulli, x, (torch.arange(40) % 3 == 0).double())
    side = predict(certain, x).probs.round()
    for call, error, facts in (
        (lambda: recalibrate(line(), x, y, method="platt"), ModelError, "`method` must be 'temperature' or"),
        (lambda: recalibrate(line(), x, y, bins=4), ModelError, "`bins` are those of method='isotonic'"),
        (lambda: recalibrate(line(), x, y, method="isotonic", bins=42), ModelError, "at most 41"),
        (lambda: recalibrate(line(), x, y, method="isotonic", bins=1), ModelError, "`bins`"),
        (
            lambda: recalibrate(mle(models.bernoulli, x, yes), x, yes, method="isotonic"),
            ModelError,
            "no classes",
        ),
        (lambda: recalibrate(certain, x, side), DataError, "temperature of 0"),
        (lambda: recalibrate(certain, x, 1 - side), DataError, "temperature of infinity"),
        (lambda: recalibrate(line(), x, predict(line(), x).mean), DataError, "temperature of 0"),
        (lambda: recalibrate(line(), x[:0], y[:0]), DataError, "no rows"),
        (lambda: recalibrate(line(), x, y, weights=yes), ModelError, "no `weights`"),
        (lambda: recalibrate(line(), x, y.log()), DataError, "is missing"),
        (lambda: recalibrate(None, x, y), ModelError, "NoneType"),
    ):
        with pytest.raises(error, match=facts):
            call()
    known = mle(censored(models.gaussian, lower=-0.5), x, y.clamp(min=-0.5))
    for method in ("temperature", "isotonic"):
        with pytest.raises(ModelError, match="censored response"):
            recalibrate(known, x, y.clamp(min=-0.5), method=method)
