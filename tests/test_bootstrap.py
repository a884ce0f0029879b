"""The bootstrap: every draw is the fit to its own data, and what is said of the draws is right."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

import neglog
from neglog import bootstrap, map_estimate, mle, models, summary
from neglog.batches.batch import fitted_again
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.uncertainty.information import influence

MODULE = sys.modules["neglog.uncertainty.resampling"]
SAME = {"rtol": 1e-8, "atol": 1e-8}
"""Both solvers stop within 1e-8 standard errors of the optimum."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=3):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def poisson(mean):
    return torch.poisson(mean, generator=torch.Generator().manual_seed(4))


X = normal(80, 2)
ETA = 0.5 + 0.3 * X[:, 0]
DATA = {
    "gaussian": (models.gaussian, ETA + normal(80, seed=1), {}),
    "poisson": (models.poisson, poisson(ETA.exp()), {"exposure": 1 + uniform(80, seed=5)}),
    "bernoulli": (models.bernoulli, (uniform(80) < ETA.sigmoid()).double(), {}),
    "negative_binomial": (models.negative_binomial, poisson((1 + ETA + normal(80, seed=2)).exp()), {}),
    "student_t": (partial(models.student_t, df=4.0), ETA + normal(80, seed=6), {}),
    "heteroscedastic": (models.heteroscedastic, ETA + normal(80, seed=7), {}),
    "laplace": (models.laplace, ETA + normal(80, seed=8), {}),
}


def fitted(name="gaussian", **settings):
    model, y, keywords = DATA[name]
    return mle(model, X, y, **keywords, **settings)


def seen(monkeypatch):
    """What the refits are given."""
    given = []

    def watched(objective, start, stack):
        given.append((stack.y, stack.weights))
        return fitted_again(objective, start, stack)

    monkeypatch.setattr(MODULE, "fitted_again", watched)
    return given


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "rows") for name in DATA), ("poisson", "weights"), ("poisson", "parametric")]
)
def test_every_draw_is_the_fit_to_its_own_data(name, kind, monkeypatch):
    model, _, keywords = DATA[name]
    fit, given = fitted(name), seen(monkeypatch)
    found = bootstrap(fit, 2, kind=kind, seed=2)
    assert found.converged.all()
    assert list(found.draws.columns) == list(summary(fit).index)
    ((y, weights),) = given
    for s in range(2):
        own = {"weights": weights[s]} if kind != "parametric" else {}
        alone = mle(model, X, y if own else y[s], **own, **keywords)
        np.testing.assert_allclose(found.draws.loc[s], summary(alone)["estimate"], **SAME)


@pytest.mark.parametrize("kind", ["rows", "weights", "parametric"])
def test_one_by_one_is_the_same(kind, monkeypatch):
    fit = fitted("poisson")
    together = bootstrap(fit, 4, kind=kind)

    def refuse(*_, **__):
        raise ModelError("no")

    monkeypatch.setattr(MODULE, "fitted_again", refuse)
    np.testing.assert_allclose(bootstrap(fit, 4, kind=kind).draws, together.draws, **SAME)


def test_models_that_are_not_fitted_together_are_fitted_one_by_one():
    fit = mle(models.multivariate_gaussian, X[:30], normal(30, 2, seed=9))
    found = bootstrap(fit, 2)
    assert list(found.draws.columns) == list(summary(fit).index)
    assert found.converged.all()
    assert bootstrap(fitted("laplace"), 2, solver=neglog.solvers.Continuation()).converged.all()


def test_draws_in_parts_are_draws(monkeypatch):
    fit = fitted("poisson")
    for kind in ("rows", "weights", "parametric"):
        whole = bootstrap(fit, 5, kind=kind).draws
        monkeypatch.setattr(MODULE, "MAX_RESAMPLED_ENTRIES", 2 * len(X))
        monkeypatch.setattr(MODULE, "COUNTED_ENTRIES", len(X))
        parts = bootstrap(fit, 5, kind=kind)
        monkeypatch.undo()
        assert parts.draws.shape == (5, 3)
        if kind != "parametric":  # torch fills an array in an order of its own
            np.testing.assert_allclose(parts.draws, whole, **SAME)


def test_resampled_rows_are_as_many_as_there_were(monkeypatch):
    given = seen(monkeypatch)
    weights = torch.arange(80) % 3
    bootstrap(fitted(weights=weights), 20)
    assert given[0][1].shape == (20, int((weights > 0).sum()))
    assert (given[0][1].sum(-1) == weights.sum()).all()


@pytest.mark.parametrize("items", [None, np.repeat(np.arange(30), 2)], ids=["rows", "weights"])
def test_how_often_rows_are_drawn_is_multinomial(items):
    """The number in a row has the mean m and the variance m (1 - 1 / 30), two rows the covariance -m / 30."""
    draws = MODULE._counts(items, 30, 20_000, np.random.default_rng(0))
    mean = 1 if items is None else 2
    assert (draws.sum(1) == 30 * mean).all()
    expected = mean * (np.eye(30) - 1 / 30)
    error = mean * np.sqrt(2 / 20_000)  # of a variance; less of a covariance
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(mean / 20_000))
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=5 * error)


def test_a_seed_is_all_that_a_bootstrap_depends_on():
    fit, before = fitted(), torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    for kind in ("rows", "weights", "parametric"):
        first = bootstrap(fit, 5, kind=kind, seed=1).draws
        assert first.equals(bootstrap(fit, 5, kind=kind, seed=1).draws)
        assert not np.isclose(first, bootstrap(fit, 5, kind=kind, seed=2).draws).any()
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_a_group_is_drawn_as_one(kind):
    """Rows that stand there four times, as groups, are the rows alone."""
    model, y, _ = DATA["gaussian"]
    order = torch.randperm(320, generator=torch.Generator().manual_seed(0))
    fourfold = mle(model, X.repeat(4, 1)[order], y.repeat(4)[order])
    names = np.tile(np.arange(80), 4)[order.numpy()]
    first = list(dict.fromkeys(names))  # groups are numbered as they come
    alone = mle(model, X[first], y[first])
    groups = [f"patient {name}" for name in names]
    grouped = bootstrap(fourfold, 6, kind=kind, groups=groups)
    plain = bootstrap(alone, 6, kind=kind)
    np.testing.assert_allclose(grouped.draws, plain.draws, **SAME)
    # Taken for 320 rows of their own they would seem to vary half as much.
    twice = bootstrap(fourfold, 400, kind=kind).standard_errors
    ratio = bootstrap(fourfold, 400, kind=kind, groups=groups).standard_errors / twice
    assert ratio.between(1.7, 2.3).all()


def test_weights_of_the_fit_are_rows():
    """A weight of 2 is the row twice, in each kind of draw: the spreads agree to their Monte-Carlo error."""
    model, y, _ = DATA["gaussian"]
    weights = 1 + torch.arange(80) % 3
    index = torch.arange(80).repeat_interleave(weights)
    short, long = mle(model, X, y, weights=weights), mle(model, X[index], y[index])
    for kind in ("rows", "weights", "parametric"):
        a = bootstrap(short, 1000, kind=kind).standard_errors
        b = bootstrap(long, 1000, kind=kind, seed=1).standard_errors
        np.testing.assert_allclose(a / b, 1, atol=5 * 1000**-0.5)  # each has a relative error of (2·1000)^-½


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_weights_count_within_groups(kind):
    model, y, _ = DATA["gaussian"]
    weights, groups = 1 + torch.arange(80) % 3, np.arange(80) // 8
    index = torch.arange(80).repeat_interleave(weights)
    short = bootstrap(mle(model, X, y, weights=weights), 5, kind=kind, groups=groups)
    long = bootstrap(mle(model, X[index], y[index]), 5, kind=kind, groups=groups[index.numpy()])
    np.testing.assert_allclose(short.draws, long.draws, **SAME)


@pytest.mark.parametrize("name", DATA)
def test_parametric_draws_are_fitted_together(name):
    """The model runs a few times for all draws, and as often for twice as many."""
    model, y, keywords = DATA[name]
    runs = [0]

    def counted(x, y=None, **keywords):
        runs[0] += 1
        model(x, y, **keywords)

    fit, used = mle(counted, X, y, **keywords), []
    for draws in (20, 40):
        before = runs[0]
        bootstrap(fit, draws, kind="parametric")
        used.append(runs[0] - before)
    assert used[1] <= used[0] + 10, used


@pytest.mark.parametrize("name", ["gaussian", "poisson", "bernoulli", "student_t"])
def test_parametric_draws_vary_as_the_information_says(name):
    fit = fitted(name)
    ratio = bootstrap(fit, 1000, kind="parametric").standard_errors / summary(fit)["std_error"]
    assert ratio.between(0.8, 1.25).all()


def test_the_bayesian_bootstrap_of_a_mean_is_known():
    """Under Dirichlet(1, ..., 1) weights the mean varies by var(y) / (n + 1) (Rubin 1981)."""
    y = DATA["gaussian"][1]
    found = bootstrap(mle(models.gaussian, torch.empty(80, 0), y), 4000, kind="weights")
    expected = float((y.var(correction=0) / 81) ** 0.5)
    assert found.standard_errors["mean", "Intercept"] == pytest.approx(expected, rel=5 * 8000**-0.5)
    np.testing.assert_allclose(found.covariance().to_numpy().diagonal(), found.standard_errors**2)


def test_intervals_cover():
    """Of 90 % intervals of 4 coefficients in 20 samples; 5 standard errors of that share are 0.17."""
    covered = dict.fromkeys(("percentile", "basic", "bca"), 0)
    truth = np.array([1.0, 2.0, 0.0, -1.0])
    for seed in range(20):
        x, noise = normal(60, 3, seed=seed), normal(60, seed=1000 + seed)
        fit = mle(models.gaussian, x, 1 + x @ torch.tensor(truth[1:]) + noise)
        found = bootstrap(fit, 200, seed=seed)
        for kind in covered:
            lower, upper = found.interval(0.9, kind).loc["mean"].to_numpy().T
            covered[kind] += ((lower <= truth) & (truth <= upper)).sum()
    for kind, number in covered.items():
        assert number / 80 >= 0.9 - 0.17, kind


def test_influence_is_known_for_a_normal_sample():
    y = DATA["gaussian"][1]
    fit = mle(models.gaussian, torch.empty(80, 0), y, weights=torch.full((80,), 3.0))
    residuals, sigma = y - y.mean(), float(y.std(correction=0))
    expected = torch.stack([residuals / 240, (residuals**2 - sigma**2) / (2 * 240 * sigma)], -1)
    np.testing.assert_allclose(influence(fit), expected, rtol=1e-9, atol=1e-12)


def test_accelerated_intervals_are_those_of_scipy():
    y = -torch.log(uniform(60))
    found = bootstrap(mle(models.gaussian, torch.empty(60, 0), y), 8000)
    theirs = stats.bootstrap(
        (y.numpy(),), np.mean, n_resamples=8000, method="BCa", rng=np.random.default_rng(0)
    )
    error = 5 * theirs.standard_error * 2 * 8000**-0.5 / 0.37  # that of a 2.5 % quantile, twice
    ours = found.interval(kind="bca").loc[("mean", "Intercept")]
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=error)
    percentile = found.interval().loc[("mean", "Intercept")]
    assert (ours > percentile).all()  # skewed to the right, and so are they
    basic = found.interval(kind="basic").loc[("mean", "Intercept")].to_numpy()
    np.testing.assert_allclose(basic, 2 * y.mean().item() - percentile.to_numpy()[::-1])


def test_accelerated_intervals_of_groups_and_of_weights():
    whole = torch.arange(80) % 2 + 1
    index = torch.arange(80).repeat_interleave(whole)
    model, y, _ = DATA["gaussian"]
    weighted, long = mle(model, X, y, weights=whole), mle(model, X[index], y[index])
    a, b = (bootstrap(fit, 2000, seed=3).interval(kind="bca") for fit in (weighted, long))
    width = (a["upper"] - a["lower"]).to_numpy()[:, None]
    np.testing.assert_allclose(a / width, b / width, atol=0.12)
    grouped = bootstrap(long, 2000, groups=np.arange(len(index))).interval(kind="bca")
    np.testing.assert_allclose(grouped, bootstrap(long, 2000).interval(kind="bca"), rtol=1e-6)


def test_draws_without_an_optimum_are_told_and_left_out():
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    fit = mle(models.bernoulli, x, torch.tensor([0.0, 0, 0, 1, 0, 1, 1, 1], dtype=torch.float64))
    with pytest.warns(ConvergenceWarning, match=r"leaves out \d+ of 100 draws"):
        found = bootstrap(fit, 100)
    assert 0 < found.converged.sum() < 100
    assert found.draws.index.tolist() == found.converged.nonzero()[0].tolist()
    assert np.isfinite(found.draws).all(axis=None)
    assert bootstrap(fit, 100, kind="weights").converged.all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "jackknife"}, ModelError, "'rows', 'weights', 'parametric'; it is 'jackknife'"),
        ({"draws": 1}, ModelError, "`draws` must be a whole number, 2 or more; it is 1"),
        ({"groups": [1, 2]}, DataError, "one entry for each of 80 rows; it has 2"),
        ({"groups": [None] + [1, 2] * 39 + [3]}, DataError, "missing in row 0"),
        ({"groups": [1] * 80}, DataError, "a single group"),
        ({"groups": [1, 2] * 40, "kind": "parametric"}, DataError, "leave `groups` out"),
    ],
)
def test_what_does_not_fit_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        bootstrap(fitted(), **settings)


def test_fits_that_cannot_be_bootstrapped_are_refused():
    model, y, _ = DATA["gaussian"]
    with pytest.raises(ModelError, match="this one has priors"):
        bootstrap(map_estimate(model, X, y))
    with pytest.raises(DataError, match="no whole numbers; use kind='weights'"):
        bootstrap(mle(model, X, y, weights=torch.full((80,), 0.5)))
    assert bootstrap(mle(model, X, y, weights=torch.full((80,), 0.5)), 3, kind="weights").converged.all()
    with pytest.warns(ConvergenceWarning):
        stopped = mle(models.poisson, X, poisson(ETA.exp()), solver=neglog.solvers.Newton(max_steps=1))
    with pytest.raises(ModelError, match="without a certified optimum"):
        bootstrap(stopped)


def test_intervals_that_cannot_be_had_are_refused():
    found = bootstrap(fitted(), 100, kind="weights")
    for level, kind, message in [
        (1.5, "percentile", "`level` must be between 0 and 1; it is 1.5"),
        (0.999, "percentile", "100 draws are too few for a tail probability"),
        (0.9, "normal", "'percentile', 'basic', 'bca'; it is 'normal'"),
        (0.9, "bca", "needs resampled rows"),
    ]:
        with pytest.raises(ModelError, match=message):
            found.interval(level, kind)
