"""Estimators for scikit-learn: its own checks, its linear models, and its pipelines and searches."""

import pickle
import warnings
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import sklearn
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, QuantileRegressor
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from neglog import cross_validate, datasets, load, mle, models, predict, save, scores, summary
from neglog.errors import DataError, ModelError, RemedyWarning, UnboundedLikelihoodError
from neglog.estimators import LikelihoodClassifier, LikelihoodRegressor, NetworkRegressor, Standardised
from neglog.estimators.remedies import SCALE_FLOOR
from neglog.predictors import linear, rows
from neglog.solvers import LBFGS

EXACTLY = {"rtol": 1e-10, "atol": 1e-10}
"""Agreement of two exact solutions."""
OPTIMA = {"rtol": 1e-5, "atol": 1e-5}
"""Agreement with an iterative solver of scikit-learn at its own tolerance."""


def sample(rows=60, columns=3, seed=0):
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(rows, columns))
    return x, 2.0 + x @ np.arange(1.0, columns + 1) + draws.normal(size=rows)


def failures(estimator):
    """The checks of scikit-learn that fail, with their errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) > 50
    return {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}


FITTING = {
    "check_classifiers_train",
    "check_classifiers_one_label",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_regressors_int",
    "check_regressors_train",
    "check_sample_weight_equivalence_on_dense_data",
}
"""The checks whose data reach the solver as they are: what they find may differ from model to model."""


def of_the_fit(estimator):
    """The checks of `FITTING` raise nothing; all others ask the class, whatever its model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = [
            (e, check) for e, check in estimator_checks_generator(estimator) if check.func.__name__ in FITTING
        ]
        assert len(checks) >= 5
        for each, check in checks:
            check(each)


def test_no_check_of_the_fit_of_a_positive_response_fails():
    of_the_fit(LikelihoodRegressor("lognormal"))


@pytest.mark.parametrize("model", ["poisson", "beta"])
def test_checks_of_other_responses_fail_where_y_is_none_of_theirs(model):
    errors = failures(LikelihoodRegressor(model))
    assert errors
    for check, error in errors.items():
        text = f"{error} {error.__cause__} {error.__context__}"
        assert f"`{model}` needs every `y` to be" in text or check == "check_sample_weights_pandas_series"


def test_no_check_of_a_regressor_fails():
    assert failures(LikelihoodRegressor("gaussian")) == {}


@pytest.mark.parametrize("model", ["laplace", "student_t", "logistic"])
def test_no_check_of_the_fit_of_a_regressor_fails(model):
    of_the_fit(LikelihoodRegressor(model))


def test_no_check_of_a_classifier_fails():
    assert failures(LikelihoodClassifier("bernoulli")) == {}


def test_no_check_of_the_fit_of_another_classifier_fails():
    of_the_fit(LikelihoodClassifier("categorical"))


def test_gaussian_is_linear_regression():
    x, y = sample()
    weights = np.random.default_rng(1).integers(0, 4, len(y))
    for options in ({}, {"sample_weight": weights}):
        ours, theirs = LikelihoodRegressor().fit(x, y, **options), LinearRegression().fit(x, y, **options)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, **EXACTLY)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, **EXACTLY)
        np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **EXACTLY)
        assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-12)


@pytest.mark.parametrize("columns", [12, 70], ids=["dependent", "more columns than rows"])
def test_dependent_columns_have_the_coefficients_of_least_norm(columns):
    x, y = sample(40, columns)
    x[:, 5] = x[:, 4] - 2 * x[:, 3]
    with pytest.warns(RemedyWarning):
        ours = LikelihoodRegressor().fit(x, y)
    theirs = LinearRegression().fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=r"dependent|coefficients"):
        mle("gaussian", x, y)


@pytest.mark.parametrize("model", ["gaussian", "laplace", "student_t", "huber", "logistic", "quantile"])
def test_an_exact_fit_has_the_scale_at_its_floor(model):
    x, _ = sample()
    y = x @ [1.0, -2.0, 3.0] + 4.0
    with pytest.warns(RemedyWarning, match="floor"):
        fitted = LikelihoodRegressor(model).fit(x, y)
    np.testing.assert_allclose(fitted.coef_, [1.0, -2.0, 3.0], **EXACTLY)
    scale = fitted.params_["sigma" if model == "gaussian" else "scale"]
    assert float(scale) == pytest.approx(SCALE_FLOOR * y.std())
    with pytest.raises(UnboundedLikelihoodError):
        mle(model, x, y)


@pytest.mark.parametrize(
    ("model", "constant", "value"),
    [
        ("lognormal", "sigma", lambda spread, y: spread),
        ("gamma", "shape", lambda spread, y: spread**-2),
        ("inverse_gaussian", "dispersion", lambda spread, y: spread**2 / np.exp(np.log(y).mean())),
        ("weibull", "shape", lambda spread, y: np.pi / 6**0.5 / spread),
    ],
)
def test_an_exact_fit_of_a_logarithm_has_its_spread_at_the_floor(model, constant, value):
    x, _ = sample()
    y = np.exp(x @ [0.1, -0.2, 0.3] + 1.0)
    with pytest.warns(RemedyWarning, match="floor, 1e-06 standard deviations of log y"):
        fitted = LikelihoodRegressor(model).fit(x, y)
    np.testing.assert_allclose(fitted.coef_, [0.1, -0.2, 0.3], **EXACTLY)
    np.testing.assert_allclose(fitted.predict(x), y, rtol=1e-6)
    spread = SCALE_FLOOR * np.log(y).std()
    assert float(fitted.params_[constant]) == pytest.approx(value(spread, y))
    relative = fitted.predict_distribution(x[:5]).stddev.numpy() / y[:5]
    np.testing.assert_allclose(relative, spread, rtol=0.7)
    with pytest.raises(UnboundedLikelihoodError):
        mle(model, x, y)


def test_a_constant_response_is_predicted():
    x, _ = sample()
    with pytest.warns(RemedyWarning, match="floor"):
        fitted = LikelihoodRegressor().fit(x, np.full(len(x), 7.0))
    np.testing.assert_allclose(fitted.predict(x), 7.0, **EXACTLY)


def test_separated_classes_have_a_ridge():
    x, _ = sample()
    labels = np.where(x[:, 0] > 0, "b", "a")
    with pytest.warns(RemedyWarning, match=r"Normal priors on coefficients, of standard deviation 2\.5"):
        fitted = LikelihoodClassifier("bernoulli").fit(x, labels)
    assert fitted.score(x, labels) > 0.95
    assert np.isfinite(fitted.params_["logit.weight"]).all()
    with pytest.raises(UnboundedLikelihoodError):
        mle("bernoulli", x, (labels == "b").astype(float))


def test_equal_values_of_y_leave_the_degrees_of_freedom_known():
    x, y = sample()
    with pytest.warns(RemedyWarning, match="df at 4"):
        fitted = LikelihoodRegressor("student_t").fit(x, np.sign(y))
    assert float(fitted.params_["df"]) == 4.0


def test_bernoulli_is_an_unpenalised_logistic_regression():
    x, y = sample(200)
    labels = np.where(y + np.random.default_rng(3).logistic(size=200) * 3 > 2, "yes", "no")
    ours = LikelihoodClassifier("bernoulli").fit(x, labels)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(x, labels)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), **OPTIMA)
    assert ours.classes_.tolist() == ["no", "yes"]
    assert (ours.predict(x) == theirs.predict(x)).all()
    assert ours.log_score(x, labels) == pytest.approx(
        np.log(ours.predict_proba(x)[range(200), (labels == "yes").astype(int)]).mean()
    )


def test_categorical_and_ordinal_predict_labels():
    iris = datasets.load("iris")
    kinds = {"versicolor": iris.pop("versicolor") > 0, "virginica": iris.pop("virginica") > 0}
    y = np.select(list(kinds.values()), list(kinds), "setosa")
    with pytest.warns(RemedyWarning):
        fitted = LikelihoodClassifier().fit(iris, y)
    assert fitted.score(iris, y) > 0.97
    assert fitted.feature_names_in_.tolist() == iris.columns.tolist()
    np.testing.assert_allclose(fitted.predict_proba(iris).sum(1), 1.0, **EXACTLY)
    sizes = pd.Series(pd.Categorical.from_codes([0, 1, 2] * 20, ["small", "medium", "large"], ordered=True))
    ordinal = LikelihoodClassifier("ordinal").fit(sample()[0], sizes)
    assert ordinal.classes_.tolist() == ["large", "medium", "small"]
    assert ordinal.ordered_classes_.tolist() == ["small", "medium", "large"]
    assert set(ordinal.predict(sample()[0])) <= set(sizes)


def test_quantile_is_quantile_regression():
    x, y = sample()
    ours = LikelihoodRegressor("quantile", settings={"tau": 0.8}).fit(x, y)
    theirs = QuantileRegressor(quantile=0.8, alpha=0.0).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **OPTIMA)
    np.testing.assert_allclose(ours.predict_quantile(x, 0.8), ours.predict(x), **EXACTLY)


def test_poisson_is_poisson_regression_and_exposure_is_routed():
    x, y = sample(200)
    counts, time = np.random.default_rng(1).poisson(np.exp(y / 4)), np.linspace(1, 3, 200)
    ours = LikelihoodRegressor("poisson").fit(x, counts)
    theirs = PoissonRegressor(alpha=0.0, tol=1e-10).fit(x, counts)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **OPTIMA)
    rate = LikelihoodRegressor("poisson").fit(x, counts, exposure=time)
    expected = predict(mle("poisson", x, counts.astype(float), exposure=time), x, exposure=time).mean.numpy()
    np.testing.assert_allclose(rate.predict(x, exposure=time), expected, **EXACTLY)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = LikelihoodRegressor("poisson")
        routed.set_fit_request(exposure=True).set_predict_request(exposure=True)
        routed.set_score_request(exposure=True)
        pipeline = make_pipeline(StandardScaler(), routed).fit(x, counts, exposure=time)
        np.testing.assert_allclose(pipeline.predict(x, exposure=time), expected, rtol=1e-8)
        found = cross_val_score(routed, x, counts, params={"exposure": time}, cv=3)
    assert np.isfinite(found).all()
    with pytest.raises(DataError, match="exposure"):
        rate.predict(x)


@pytest.mark.parametrize("model", ["gaussian", "poisson"])
def test_an_offset_is_needed_again_by_predictions(model):
    x, y = sample()
    y, known = np.abs(np.rint(y)), np.linspace(-1, 1, len(y))
    fitted, fit = LikelihoodRegressor(model).fit(x, y, offset=known), mle(model, x, y, offset=known)
    np.testing.assert_allclose(
        fitted.predict(x, offset=known), predict(fit, x, offset=known).mean.numpy(), **EXACTLY
    )
    with pytest.raises(DataError, match="offset"):
        fitted.predict(x)


def test_the_quantile_of_rows_with_an_offset_is_predicted_and_not_their_mean():
    x, y = sample()
    known = np.linspace(-9, 9, len(y))
    fitted = LikelihoodRegressor("quantile", settings={"tau": 0.9}).fit(x, y + known, offset=known)
    plain = LikelihoodRegressor("quantile", settings={"tau": 0.9}).fit(x, y)
    np.testing.assert_allclose(fitted.predict(x, offset=known) - known, plain.predict(x), rtol=1e-8)


def test_distributions_intervals_quantiles_and_scores():
    x, y = sample()
    fitted, fit = LikelihoodRegressor().fit(x, y), mle(models.gaussian, x, y)
    assert fitted.log_score(x, y) == pytest.approx(scores(fit, x, y).mean().item(), abs=1e-12)
    response = fitted.predict_distribution(x)
    assert torch.allclose(response.stddev, predict(fit, x).stddev)
    ends = fitted.predict_interval(x, level=0.9)
    np.testing.assert_allclose(ends[:, 0], fitted.predict_quantile(x, 0.05), **EXACTLY)
    np.testing.assert_allclose(ends.mean(1), fitted.predict(x), **EXACTLY)
    assert 0.75 < ((ends[:, 0] < y) & (y < ends[:, 1])).mean() <= 1.0
    frame = pd.DataFrame(x, columns=list("abc"), index=range(100, 160))
    table = LikelihoodRegressor().set_output(transform="pandas").fit(frame, y).predict_interval(frame)
    assert table.columns.tolist() == ["lower", "upper"]
    assert table.index.equals(frame.index)


@pytest.mark.parametrize(
    "estimator",
    [
        LikelihoodRegressor("student_t"),
        LikelihoodRegressor(partial(models.quantile, tau=0.3)),
        LikelihoodClassifier("ordinal"),
    ],
    ids=["student_t", "quantile", "ordinal"],
)
def test_copies_predict_the_same(estimator, tmp_path):
    x, y = sample()
    y = y if isinstance(estimator, LikelihoodRegressor) else np.digitize(y, [0.0, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator.fit(x, y)
    joblib.dump(fitted, tmp_path / "fitted")
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "fitted")):
        np.testing.assert_array_equal(copy.predict(x), fitted.predict(x))
    assert not hasattr(clone(fitted), "params_")
    assert repr(pickle.loads(pickle.dumps(clone(fitted)))) == repr(clone(fitted))


def test_the_fit_of_an_estimator_is_saved_without_rows(tmp_path):
    x, y = sample()
    for estimator in (LikelihoodRegressor("laplace"), LikelihoodRegressor(method="map", priors="data")):
        fitted = estimator.fit(x, y)
        assert fitted.fit_.objective is None
        again = load(save(fitted.fit_, tmp_path / estimator.method))
        np.testing.assert_array_equal(
            predict(again, x).mean.numpy(), fitted.predict_distribution(x).mean.numpy()
        )
        assert again.params.keys() == fitted.params_.keys()


def test_a_remedied_fit_is_pickled():
    """Its floor holds the scale fixed: the fit has a parameter less than the model."""
    x, y = sample(40, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RemedyWarning)
        exact = LikelihoodRegressor().fit(x, x @ np.arange(4.0))
        separated = LikelihoodClassifier("bernoulli").fit(x, y > 2)
        wide = LikelihoodRegressor("student_t").fit(x[:3], y[:3])
    for fitted in (exact, separated, wide):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(x), fitted.predict(x))


def test_searches_pipelines_and_cross_validation():
    engel = datasets.load("engel")
    x, y = engel[["income"]], engel["food_expenditure"]
    grid = {"likelihoodregressor__model": ["gaussian", "laplace", "huber"]}
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), LikelihoodRegressor())
    search = GridSearchCV(
        pipeline, grid, cv=3, scoring=lambda fitted, x, y: fitted[-1].log_score(fitted[:-1].transform(x), y)
    )
    search.fit(x, y)
    assert search.best_params_["likelihoodregressor__model"] == "laplace"
    predicted = cross_val_predict(LikelihoodRegressor("laplace"), x, y, cv=4)
    assert np.corrcoef(predicted, y)[0, 1] > 0.8
    taus = GridSearchCV(LikelihoodRegressor("quantile"), {"settings": [{"tau": 0.1}, {"tau": 0.5}]}, cv=2)
    assert taus.fit(x, y).best_params_ == {"settings": {"tau": 0.5}}


def test_columns_of_several_kinds():
    breaks = datasets.load("warpbreaks")
    x, y = breaks.drop(columns="breaks"), breaks["breaks"]
    coded = ColumnTransformer([("kinds", OneHotEncoder(drop="first"), list(x.columns))])
    fitted = make_pipeline(coded, LikelihoodRegressor("poisson")).fit(x, y)
    formula = mle("poisson", f"breaks ~ {' + '.join(x.columns)}", breaks)
    np.testing.assert_allclose(fitted.predict(x), predict(formula, breaks).mean.numpy(), rtol=1e-8)


def test_priors_are_counted_by_map():
    x, y = sample()
    shrunk = LikelihoodRegressor(method="map", priors="data").fit(x, y)
    assert np.linalg.norm(shrunk.coef_) < np.linalg.norm(LikelihoodRegressor().fit(x, y).coef_)
    with pytest.raises(ModelError, match='method="map"'):
        LikelihoodRegressor(priors="data").fit(x, y)


def test_bad_input_is_named():
    x, y = sample()
    with pytest.raises(ModelError, match="gaussian"):
        LikelihoodRegressor("gausian").fit(x, y)
    with pytest.raises(ModelError, match="method"):
        LikelihoodRegressor(method="ml").fit(x, y)
    with pytest.raises(DataError, match="one class"):
        LikelihoodClassifier().fit(x, np.ones(len(x)))
    with pytest.raises(DataError, match="label"):
        LikelihoodClassifier().fit(x, np.arange(len(x)) % 2).log_score(x, np.full(len(x), 5))
    with pytest.raises(ModelError, match="exposure"):
        LikelihoodRegressor().fit(x, y, exposure=np.ones(len(x)))


def test_two_scales_of_ten_columns_are_fitted():
    """Combinations of columns that outweigh rows were looked for in 10¹² tuples."""
    x, y = sample(120, 10)
    assert mle("heteroscedastic", x, y).converged


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_a_network_learns_mean_and_spread_in_the_units_of_y(tmp_path):
    draws = np.random.default_rng(0)
    x = draws.uniform(-2, 2, size=(150, 1))
    y = 500 + 100 * np.sin(2 * x[:, 0]) + np.where(x[:, 0] > 0, 20, 5) * draws.normal(size=150)
    fitted = NetworkRegressor(max_iter=100).fit(x, y)
    assert fitted.score(x, y) > 0.9
    spread = fitted.predict_distribution(np.array([[-1.0], [1.0]])).stddev
    assert 2 < spread[0] < spread[1] < 40
    assert fitted.log_score(x, y) == pytest.approx(-fitted.nll_ / len(y), abs=1e-9)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_interval(x), fitted.predict_interval(x))
    save(fitted.fit_, tmp_path)
    fresh = Standardised(torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh()), 1)
    for loaded in (load(tmp_path, module=fitted.module_), load(tmp_path, module=fresh)):
        mean = predict(loaded, x).mean.numpy()
        np.testing.assert_array_equal(mean, fitted.predict(x))
        assert summary(loaded).attrs["reason"]
    with pytest.raises(ModelError, match=r"`module\.0\.weight` \(16, 1\).*module="):
        load(tmp_path)
    module = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh())
    before = module[0].weight.clone()
    NetworkRegressor(module, "laplace", max_iter=10).fit(x, y)
    assert torch.equal(module[0].weight, before)


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_a_network_ended_by_held_out_rows_finds_waves_of_mean_and_spread():
    """Normal, mean sin(2πx) + x/2, log sd -1.6 + 1.4 sin²(3πx) - x/2: 0.06 nats above the true density.

    After 200 steps it is 0.1 to 0.2, as the waves of the spread are found last.
    """
    draws = np.random.default_rng(0)
    x = draws.uniform(size=(2400, 1))
    mean = np.sin(2 * np.pi * x[:, 0]) + x[:, 0] / 2
    sd = np.exp(-1.6 + 1.4 * np.sin(3 * np.pi * x[:, 0]) ** 2 - x[:, 0] / 2)
    y = mean + sd * draws.normal(size=len(x))
    fitted = NetworkRegressor(solver=LBFGS(max_steps=800, validation=0.15)).fit(x[:400], y[:400])
    true = norm(mean, sd).logpdf(y)[400:].mean()
    assert true - 0.1 < fitted.log_score(x[400:], y[400:]) < true


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_a_network_takes_exposures_and_offsets():
    x, y = sample(40, 2)
    time = np.linspace(1, 3, 40)
    counts = np.random.default_rng(1).poisson(time * np.exp(y / 6))
    fitted = NetworkRegressor(model="poisson", max_iter=30).fit(x, counts, exposure=time)
    same = NetworkRegressor(model="poisson", max_iter=30).fit(x, counts, offset=np.log(time))
    np.testing.assert_allclose(
        fitted.predict(x, exposure=time), same.predict(x, offset=np.log(time)), rtol=1e-6
    )
    known = 10 * x[:, 0] ** 3
    moved = NetworkRegressor(max_iter=30).fit(x, 5 * y + known, offset=known)
    plain = NetworkRegressor(max_iter=30).fit(x, 5 * y)
    assert fitted.score(x, counts, exposure=time) > 0.1
    np.testing.assert_allclose(moved.predict(x, offset=known) - known, plain.predict(x), rtol=1e-4)
    with pytest.raises(DataError, match="exposure"):
        fitted.predict(x)


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_no_check_of_a_network_but_equivalence_of_weights_fails():
    assert set(failures(NetworkRegressor(max_iter=10))) <= {"check_sample_weight_equivalence_on_dense_data"}


def test_cross_validation_takes_splitters():
    x, y = sample()
    sites = np.arange(len(y)) // 10
    found = cross_validate("gaussian", x, y, folds=GroupKFold(3), groups=sites)
    for fold, (train, test) in enumerate(GroupKFold(3).split(x, y, sites)):
        assert (found.folds[test] == fold).all()
        fit = mle("gaussian", x[train], y[train])
        assert torch.allclose(found.scores[test], scores(fit, x[test], y[test]))


def test_the_coefficients_of_a_remedied_fit_are_those_of_the_location():
    x, _ = sample()
    y = x @ [1.0, -2.0, 3.0] + 4.0
    with pytest.warns(RemedyWarning, match="floor"):
        fitted = LikelihoodRegressor("heteroscedastic").fit(x, y)
    np.testing.assert_allclose(fitted.coef_, [1.0, -2.0, 3.0], **EXACTLY)
    assert fitted.intercept_ == pytest.approx(4.0)
    assert list(fitted.params_) == ["mean.weight", "mean.bias", "log_variance.weight", "log_variance.bias"]


def of_a_scale_first(x, y=None):
    """A model whose location is its second predictor."""
    scale = linear("log_scale", x).exp()
    location = linear("location", x)
    with rows(x):
        return pyro.sample("y", dist.Laplace(location, scale), obs=y)


def test_the_coefficients_of_a_model_of_ones_own_are_those_of_the_location():
    x, y = sample()
    fitted = LikelihoodRegressor(of_a_scale_first).fit(x, y)
    np.testing.assert_array_equal(fitted.coef_, fitted.params_["location.weight"])
    assert fitted.intercept_ == float(fitted.params_["location.bias"])


@pytest.mark.parametrize("slope", [0.0, 2.0], ids=["constant", "exact"])
def test_a_mixture_that_is_fitted_exactly_has_its_scales_at_the_floor(slope):
    x, _ = sample()
    y = 1.0 + slope * x[:, 0]
    with pytest.warns(RemedyWarning, match="floor"):
        fitted = LikelihoodRegressor("gaussian_mixture").fit(x, y)
    np.testing.assert_allclose(fitted.predict(x), y, **EXACTLY)
    floor = SCALE_FLOOR * (y.std() if slope else 1.0)
    np.testing.assert_allclose(fitted.params_["sigma"], floor)
    assert fitted.nll_ == pytest.approx(len(y) * (np.log(floor) + np.log(2 * np.pi) / 2), rel=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(x), fitted.predict(x))


def test_read_only_rows_raise_no_warning():
    """Warnings are errors: torch has one of arrays that it cannot write."""
    x, _ = sample()
    y = x @ [1.0, -2.0, 3.0] + 4.0
    for values in (x, y):
        values.setflags(write=False)
    with pytest.warns(RemedyWarning) as seen:
        LikelihoodRegressor("heteroscedastic").fit(x, y)
    assert len(seen) == 1


def test_a_scorer_takes_pipelines_and_what_is_routed():
    x, y = sample(90)
    counts, time = np.random.default_rng(1).poisson(np.exp(y / 4)), np.linspace(1, 3, 90)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LikelihoodRegressor()),
        {"likelihoodregressor__model": ["gaussian", "laplace"]},
        scoring=LikelihoodRegressor.log_score,
        cv=3,
    ).fit(x, y)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    with sklearn.config_context(enable_metadata_routing=True):
        routed = LikelihoodRegressor("poisson").set_fit_request(exposure=True)
        found = cross_val_score(
            routed, x, counts, params={"exposure": time}, cv=2, scoring=LikelihoodRegressor.log_score
        )
    first, second = slice(0, 45), slice(45, 90)
    fits = [LikelihoodRegressor("poisson").fit(x[s], counts[s], exposure=time[s]) for s in (second, first)]
    expected = [
        fit.log_score(x[s], counts[s], exposure=time[s]) for fit, s in zip(fits, (first, second), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ModelError, match="estimator of neglog"):
        LikelihoodRegressor.log_score(LinearRegression().fit(x, y), x, y)


def test_a_level_is_named():
    x, y = sample()
    with pytest.raises(ModelError, match="`level`"):
        LikelihoodRegressor().fit(x, y).predict_interval(x, level=95)


@pytest.mark.filterwarnings("ignore:.*has found a local optimum")
def test_a_mixture_of_two_values_has_its_scales_at_the_floor():
    """Known scales cannot go to 0: the likelihood was refused as unbounded all the same."""
    x, y = sample(20)
    with pytest.warns(RemedyWarning, match="floor"):
        fitted = LikelihoodRegressor("gaussian_mixture").fit(x, (y > 2).astype(float))
    np.testing.assert_allclose(fitted.params_["sigma"], SCALE_FLOOR * (y > 2).std())
