# ruff: noqa: E501 (each line is as it is typed)
"""The first lines of a user of scikit-learn: each is what such a person would type, beside what it equals.

Most of the second lines are scikit-learn's own; the others are arithmetic, or the same question to `mle`.
"""

import copy
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from first_lines import check_refused, check_same
from sklearn import (
    base,
    calibration,
    compose,
    ensemble,
    feature_selection,
    impute,
    inspection,
    linear_model,
    metrics,
    multiclass,
    multioutput,
    pipeline,
    preprocessing,
)
from sklearn import model_selection as ms

import neglog
from neglog import models
from neglog.errors import DataError, ModelError
from neglog.estimators import LikelihoodClassifier, LikelihoodRegressor, NetworkRegressor


@cache
def namespace():
    """What the lines may use: both packages, small data, and fits of both."""
    draws = np.random.default_rng(0)
    X = draws.normal(size=(40, 3))
    y = 2 + X @ [1.0, 2.0, 0.0] + draws.normal(size=40)
    labels = np.where(y + draws.logistic(size=40) > 2, "yes", "no")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    kinds = np.array(list("uvw"))[np.arange(40) % 3]
    data = {
        "X": X,
        "y": y,
        "labels": labels,
        "three": np.array(["low", "mid", "high"])[np.digitize(y + draws.normal(size=40), [1.0, 3.0])],
        "frame": frame,
        "table": frame.assign(kind=kinds),
        "counts": draws.poisson(np.exp(y / 4)),
        "positive": np.exp(y / 3),
        "w": 1.0 + np.arange(40) % 3,
        "t": np.linspace(1, 3, 40),
        "site": np.arange(40) % 4,
        "gaps": np.where(X > 1, np.nan, X),
        "dummies": np.column_stack([X, kinds == "v", kinds == "w"]).astype(float),
    }
    linear = linear_model.LinearRegression().fit(X, y)
    logistic = linear_model.LogisticRegression(C=np.inf, tol=1e-12).fit(X, labels)
    fits = {
        "reg": LikelihoodRegressor().fit(X, y),
        "clf": LikelihoodClassifier("bernoulli").fit(X, labels),
        "ordinal": LikelihoodClassifier("ordinal").fit(X, pd.Series(data["three"]).astype(pd.CategoricalDtype(["low", "mid", "high"], ordered=True))),
        "linear": linear,
        "logistic": logistic,
        "poisson": linear_model.PoissonRegressor(alpha=0, tol=1e-12).fit(X, data["counts"]),
        "sigma": np.sqrt(np.mean((y - linear.predict(X)) ** 2)),
    }  # fmt: skip
    names = {"LinearRegression": linear_model.LinearRegression, "QuantileRegressor": linear_model.QuantileRegressor,
             "GammaRegressor": linear_model.GammaRegressor, "TweedieRegressor": linear_model.TweedieRegressor}  # fmt: skip
    for module in (ms, pipeline, preprocessing, compose, ensemble, feature_selection, impute, inspection, metrics,
                   calibration, multiclass, multioutput, base):  # fmt: skip
        names |= {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    ours = {"LikelihoodRegressor": LikelihoodRegressor, "LikelihoodClassifier": LikelihoodClassifier,
            "NetworkRegressor": NetworkRegressor, "models": models, "neglog": neglog, "mle": neglog.mle,
            "predict": neglog.predict}  # fmt: skip
    names["logistic_by"] = lambda w, y=labels: linear_model.LogisticRegression(C=np.inf, tol=1e-12).fit(
        X, y, w
    )
    return {
        **names,
        **ours,
        **data,
        **fits,
        "np": np,
        "pd": pd,
        "torch": torch,
        "pickle": pickle,
        "copy": copy,
    }


LINES = [
    # A regression
    ("LikelihoodRegressor().fit(X, y).coef_", "linear.coef_"),
    ("LikelihoodRegressor().fit(X, y).intercept_", "linear.intercept_"),
    ('LikelihoodRegressor("gaussian").fit(X, y).predict(X)', "linear.predict(X)"),
    ("LikelihoodRegressor(model=models.gaussian).fit(X, y).predict(X[:2])", "linear.predict(X[:2])"),
    ("reg.score(X, y)", "linear.score(X, y)"),
    ("reg.n_features_in_", "3"),
    ("reg.predict(X, return_std=True)[1]", "np.full(40, sigma)"),
    ("reg.predict_distribution(X).stddev", "np.full(40, sigma)"),
    ("reg.predict_interval(X, level=0.9)[:, 1]", "linear.predict(X) + 1.6448536269514722 * sigma"),
    ("reg.predict_quantile(X, 0.9)", "linear.predict(X) + 1.2815515655446004 * sigma"),
    ("reg.predict_quantile(X, [0.1, 0.9]).shape", "(40, 2)"),
    ("reg.log_score(X, y)", "-np.log(sigma) - np.log(2 * np.pi) / 2 - 0.5"),
    ("reg.nll_", "-40 * reg.log_score(X, y)"),
    ("reg.converged_", "True"),
    ("LikelihoodRegressor().fit(X, y, w).coef_", "LinearRegression().fit(X, y, w).coef_"),
    ("LikelihoodRegressor().fit(X, y, sample_weight=w).intercept_", "LinearRegression().fit(X, y, w).intercept_"),
    ("LikelihoodRegressor().fit(frame, pd.Series(y)).predict(frame)", "linear.predict(X)"),
    ("LikelihoodRegressor().fit(frame, y).feature_names_in_.tolist()", '["a", "b", "c"]'),
    ('LikelihoodRegressor().fit(frame, pd.DataFrame({"y": y})).coef_', "linear.coef_"),
    ("LikelihoodRegressor().fit(X.tolist(), y.tolist()).coef_", "linear.coef_"),
    ("LikelihoodRegressor().fit(torch.tensor(X), torch.tensor(y)).coef_", "linear.coef_"),
    ("LikelihoodRegressor().fit(X, y.reshape(-1, 1)).coef_", "linear.coef_"),
    ("LikelihoodRegressor().fit(np.float32(X), np.float32(y)).predict(X)", "LinearRegression().fit(np.float32(X).astype(float), np.float32(y).astype(float)).predict(X)"),
    # Other likelihoods
    ('LikelihoodRegressor("quantile", settings={"tau": 0.9}).fit(X, y).predict(X)', "QuantileRegressor(quantile=0.9, alpha=0).fit(X, y).predict(X)"),
    ('LikelihoodRegressor("quantile").set_params(settings__tau=0.9).fit(X, y).coef_', "QuantileRegressor(quantile=0.9, alpha=0).fit(X, y).coef_"),
    ('LikelihoodRegressor("laplace").fit(X, y).coef_', "QuantileRegressor(quantile=0.5, alpha=0).fit(X, y).coef_"),
    ('LikelihoodRegressor("poisson").fit(X, counts).predict(X)', "poisson.predict(X)"),
    ('LikelihoodRegressor("poisson").fit(X, counts).coef_', "poisson.coef_"),
    ('LikelihoodRegressor("poisson").fit(X, counts, exposure=t).predict(X, exposure=t)', "predict(mle('poisson', X, counts, exposure=t), X, exposure=t).mean"),
    ('LikelihoodRegressor("gamma").fit(X, positive).predict(X)', "GammaRegressor(alpha=0, tol=1e-10).fit(X, positive).predict(X)"),
    ('LikelihoodRegressor("inverse_gaussian").fit(X, positive).coef_', "TweedieRegressor(power=3, alpha=0, link='log', tol=1e-10).fit(X, positive).coef_"),
    ('LikelihoodRegressor("lognormal").fit(X, positive).coef_', "LinearRegression().fit(X, np.log(positive)).coef_"),
    ('LikelihoodRegressor("negative_binomial").fit(X, counts).params_["dispersion"] > 0', "True"),
    ('LikelihoodRegressor("heteroscedastic").fit(X, y).predict_distribution(X).stddev.std() > 0.01', "True"),
    ('np.linalg.norm(LikelihoodRegressor(method="map").fit(X, y).coef_) < np.linalg.norm(linear.coef_)', "True"),
    # Classes
    ("clf.classes_.tolist()", '["no", "yes"]'),
    ("clf.predict(X)", "logistic.predict(X)"),
    ("clf.predict_proba(X)", "logistic.predict_proba(X)"),
    ("clf.predict_log_proba(X)", "logistic.predict_log_proba(X)"),
    ("clf.score(X, labels)", "logistic.score(X, labels)"),
    ("clf.coef_", "logistic.coef_"),
    ("clf.intercept_", "logistic.intercept_"),
    ("clf.log_score(X, labels)", "-log_loss(labels, logistic.predict_proba(X))"),
    ('roc_auc_score(labels == "yes", clf.predict_proba(X)[:, 1])', 'roc_auc_score(labels == "yes", logistic.predict_proba(X)[:, 1])'),
    ('LikelihoodClassifier("bernoulli").fit(X, labels == "yes").predict(X)', 'logistic.predict(X) == "yes"'),
    ('LikelihoodClassifier("bernoulli").fit(X, np.int64(labels == "yes")).predict(X).dtype', "np.dtype('int64')"),
    ("LikelihoodClassifier().fit(X, labels, sample_weight=w).predict_proba(X)", "logistic_by(w).predict_proba(X)"),
    ("LikelihoodClassifier().fit(X, three).predict_proba(X)", "logistic_by(None, three).predict_proba(X)"),
    ("LikelihoodClassifier().fit(X, three).coef_[1:]", "(logistic_by(None, three).coef_ - logistic_by(None, three).coef_[0])[1:]"),
    ("ordinal.classes_.tolist()", '["high", "low", "mid"]'),
    ("ordinal.ordered_classes_.tolist()", '["low", "mid", "high"]'),
    ("ordinal.predict_quantile(X, 0.5)", "ordinal.ordered_classes_[(ordinal.predict_proba(X)[:, [1, 2, 0]].cumsum(1) < 0.5).sum(1)]"),
    ("ordinal.predict_interval(X, level=0.8)[:, 1]", "ordinal.ordered_classes_[(ordinal.predict_proba(X)[:, [1, 2, 0]].cumsum(1) < 0.9).sum(1)]"),
    # Cross-validation and searches
    ("cross_val_score(LikelihoodRegressor(), X, y)", "cross_val_score(linear, X, y)"),
    ('cross_val_score(reg, X, y, scoring="neg_root_mean_squared_error", cv=3)', 'cross_val_score(linear, X, y, scoring="neg_root_mean_squared_error", cv=3)'),
    ("cross_val_score(reg, X, y, scoring=LikelihoodRegressor.log_score, cv=2).shape", "(2,)"),
    ('cross_val_score(clf, X, labels, scoring="neg_log_loss", cv=3)', 'cross_val_score(logistic, X, labels, scoring="neg_log_loss", cv=3)'),
    ('cross_val_score(clf, X, labels == "yes", scoring="neg_brier_score", cv=3)', 'cross_val_score(logistic, X, labels == "yes", scoring="neg_brier_score", cv=3)'),
    ("cross_val_score(reg, X, y, groups=site, cv=GroupKFold(4))", "cross_val_score(linear, X, y, groups=site, cv=GroupKFold(4))"),
    ("cross_val_predict(reg, X, y, cv=3)", "cross_val_predict(linear, X, y, cv=3)"),
    ('cross_val_predict(clf, X, labels, cv=3, method="predict_proba")', 'cross_val_predict(logistic, X, labels, cv=3, method="predict_proba")'),
    ('cross_validate(reg, X, y, scoring=["r2", "neg_mean_absolute_error"], cv=2)["test_r2"]', 'cross_val_score(linear, X, y, cv=2)'),
    ('GridSearchCV(LikelihoodRegressor(), {"model": ["gaussian", "laplace"]}, cv=2).fit(X, y).best_params_["model"] in ("gaussian", "laplace")', "True"),
    ('GridSearchCV(LikelihoodRegressor("quantile"), {"settings__tau": [0.5, 0.9]}, cv=2).fit(X, y).best_params_', '{"settings__tau": 0.5}'),
    ('GridSearchCV(clf, {"method": ["mle", "map"]}, scoring="neg_log_loss", cv=2).fit(X, labels).best_params_', '{"method": "map"}'),
    ("RandomizedSearchCV(LikelihoodRegressor(), {'model': ['gaussian', 'huber']}, n_iter=1, cv=2, random_state=0).fit(X, y).predict(X).shape", "(40,)"),
    ("train_test_split(X, y, random_state=0)[0].shape", "(30, 3)"),
    # Pipelines
    ("make_pipeline(StandardScaler(), LikelihoodRegressor()).fit(X, y).predict(X)", "linear.predict(X)"),
    ("make_pipeline(StandardScaler(), LikelihoodRegressor()).fit(X, y)[-1].predict_interval(StandardScaler().fit_transform(X))", "reg.predict_interval(X)"),
    ("make_pipeline(PolynomialFeatures(2), LikelihoodRegressor()).fit(X, y).score(X, y)", "make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(X, y).score(X, y)"),
    ("make_pipeline(SplineTransformer(n_knots=4), LikelihoodRegressor()).fit(X, y).score(X, y)", "make_pipeline(SplineTransformer(n_knots=4), LinearRegression()).fit(X, y).score(X, y)"),
    ("make_pipeline(SimpleImputer(), LikelihoodRegressor()).fit(gaps, y).predict(X)", "make_pipeline(SimpleImputer(), LinearRegression()).fit(gaps, y).predict(X)"),
    ('make_pipeline(make_column_transformer((OneHotEncoder(drop="first"), ["kind"]), remainder="passthrough"), LikelihoodRegressor()).fit(table, y).predict(table)', "LinearRegression().fit(dummies, y).predict(dummies)"),
    ('make_pipeline(make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"), LikelihoodRegressor()).fit(table, y).predict(table)', "LinearRegression().fit(dummies, y).predict(dummies)"),
    ('Pipeline([("scale", StandardScaler()), ("model", LikelihoodRegressor())]).set_params(model__model="laplace")["model"].model', '"laplace"'),
    ("make_pipeline(StandardScaler(), LikelihoodRegressor()).fit(X, y, likelihoodregressor__sample_weight=w).predict(X)", "LinearRegression().fit(X, y, w).predict(X)"),
    ("TransformedTargetRegressor(LikelihoodRegressor(), func=np.log, inverse_func=np.exp).fit(X, positive).predict(X)", "np.exp(LinearRegression().fit(X, np.log(positive)).predict(X))"),
    ("MultiOutputRegressor(LikelihoodRegressor()).fit(X, np.column_stack([y, -y])).predict(X)[:, 1]", "-linear.predict(X)"),
    ('OneVsRestClassifier(LikelihoodClassifier("bernoulli")).fit(X, three).predict(X).shape', "(40,)"),
    ('StackingRegressor([("g", LikelihoodRegressor())], LinearRegression(), cv=2).fit(X, y).predict(X)', 'StackingRegressor([("g", LinearRegression())], LinearRegression(), cv=2).fit(X, y).predict(X)'),
    ('StackingClassifier([("b", LikelihoodClassifier("bernoulli"))], cv=2).fit(X, labels).predict(X).shape', "(40,)"),
    ('VotingRegressor([("g", LikelihoodRegressor()), ("h", LinearRegression())]).fit(X, y).predict(X)', "linear.predict(X)"),
    ("BaggingRegressor(LikelihoodRegressor(), n_estimators=2, random_state=0).fit(X, y).predict(X)", "BaggingRegressor(LinearRegression(), n_estimators=2, random_state=0).fit(X, y).predict(X)"),
    ('CalibratedClassifierCV(LikelihoodClassifier("bernoulli"), cv=2).fit(X, labels).predict_proba(X).shape', "(40, 2)"),
    ('calibration_curve(labels == "yes", clf.predict_proba(X)[:, 1], n_bins=3)[0]', 'calibration_curve(labels == "yes", logistic.predict_proba(X)[:, 1], n_bins=3)[0]'),
    ("permutation_importance(reg, X, y, n_repeats=2, random_state=0).importances_mean", "permutation_importance(linear, X, y, n_repeats=2, random_state=0).importances_mean"),
    ('partial_dependence(reg, X, [0], grid_resolution=5)["average"]', 'partial_dependence(linear, X, [0], grid_resolution=5)["average"]'),
    ('partial_dependence(clf, X, [0], grid_resolution=5)["average"]', 'partial_dependence(logistic, X, [0], grid_resolution=5, response_method="predict_proba")["average"]'),
    ("RFE(LikelihoodRegressor(), n_features_to_select=1).fit(X, y).support_.tolist()", "[False, True, False]"),
    ("SelectFromModel(LikelihoodRegressor()).fit(X, y).get_support().tolist()", "[True, True, False]"),
    ("mean_pinball_loss(y, reg.predict_quantile(X, 0.9), alpha=0.9)", "mean_pinball_loss(y, linear.predict(X) + 1.2815515655446004 * sigma, alpha=0.9)"),
    # Conventions
    ('LikelihoodRegressor("huber").get_params()["model"]', '"huber"'),
    ('LikelihoodRegressor().set_params(model="huber").model', '"huber"'),
    ("repr(LikelihoodRegressor('huber'))", "\"LikelihoodRegressor(model='huber')\""),
    ('hasattr(clone(reg), "coef_")', "False"),
    ('clone(LikelihoodRegressor("quantile", settings={"tau": 0.9})).settings', '{"tau": 0.9}'),
    ("is_regressor(reg) and is_classifier(clf)", "True"),
    ("pickle.loads(pickle.dumps(reg)).predict(X)", "linear.predict(X)"),
    ("copy.deepcopy(clf).predict_proba(X)", "logistic.predict_proba(X)"),
    ('list(LikelihoodRegressor().set_output(transform="pandas").fit(frame, y).predict_interval(frame))', '["lower", "upper"]'),
    ('LikelihoodClassifier("bernoulli").set_output(transform="pandas").fit(frame, labels).predict_proba(frame)["yes"].to_numpy()', "logistic.predict_proba(X)[:, 1]"),
    ('LikelihoodRegressor().set_output(transform="polars").fit(frame, y).predict_interval(frame)["lower"].to_numpy()', "reg.predict_interval(X)[:, 0]"),
    # The functions beside the estimators
    ('neglog.cross_validate("gaussian", X, y, folds=KFold(3), scores="r2").table().loc["r2", "mean"]', "r2_score(y, cross_val_predict(linear, X, y, cv=KFold(3)))"),
    ('neglog.losses.likelihood_of("squared_error").free', "models.gaussian"),
    ("NetworkRegressor(max_iter=1).fit(X, y, sample_weight=w).predict(X).shape", "(40,)"),
    ('NetworkRegressor(model="poisson", max_iter=1).fit(X, counts, exposure=t).predict(X, exposure=2 * t)', '2 * NetworkRegressor(model="poisson", max_iter=1).fit(X, counts, exposure=t).predict(X, exposure=t)'),
    # Whatever scikit-learn wraps around a regressor
    ("GridSearchCV(make_pipeline(StandardScaler(), LikelihoodRegressor()), {}, scoring=LikelihoodRegressor.log_score, cv=2).fit(X, y).best_score_", "cross_val_score(LikelihoodRegressor(), X, y, scoring=LikelihoodRegressor.log_score, cv=2).mean()"),
    ("permutation_importance(reg, X, y, n_repeats=2, random_state=0).importances", "permutation_importance(linear, X, y, n_repeats=2, random_state=0).importances"),
    ("learning_curve(LikelihoodRegressor(), X, y, cv=2, train_sizes=[0.5, 1.0])[2]", "learning_curve(LinearRegression(), X, y, cv=2, train_sizes=[0.5, 1.0])[2]"),
    ('validation_curve(LikelihoodRegressor("quantile"), X, y, param_name="settings__tau", param_range=[0.3, 0.5], cv=2)[1].shape', "(2, 2)"),
    ('partial_dependence(reg, X, [0], method="brute")["average"]', 'partial_dependence(linear, X, [0], method="brute")["average"]'),
    ("TransformedTargetRegressor(LikelihoodRegressor(), transformer=StandardScaler()).fit(X, y).predict(X)", "linear.predict(X)"),
    ("MultiOutputRegressor(LikelihoodRegressor()).fit(X, np.c_[y, -y]).predict(X)", "np.c_[linear.predict(X), -linear.predict(X)]"),
    ("BaggingRegressor(LikelihoodRegressor(), n_estimators=2, random_state=0).fit(X, y).predict(X)", "BaggingRegressor(LinearRegression(), n_estimators=2, random_state=0).fit(X, y).predict(X)"),
    ("VotingRegressor([('a', LikelihoodRegressor())]).fit(X, y).predict(X)", "linear.predict(X)"),
    ("StackingRegressor([('a', LikelihoodRegressor())], LikelihoodRegressor(), cv=2).fit(X, y).predict(X)", "StackingRegressor([('a', LinearRegression())], LinearRegression(), cv=2).fit(X, y).predict(X)"),
    ("make_pipeline(FeatureUnion([('s', StandardScaler())]), LikelihoodRegressor()).fit(X, y).predict(X)", "linear.predict(X)"),
    ("RFE(LikelihoodRegressor(), n_features_to_select=2).fit(X, y).support_.tolist()", "RFE(LinearRegression(), n_features_to_select=2).fit(X, y).support_.tolist()"),
    ("SelectFromModel(LikelihoodRegressor()).fit(X, y).get_support().tolist()", "SelectFromModel(LinearRegression()).fit(X, y).get_support().tolist()"),
    ("make_pipeline(SimpleImputer(), LikelihoodRegressor()).fit(gaps, y).predict(gaps)", "make_pipeline(SimpleImputer(), LinearRegression()).fit(gaps, y).predict(gaps)"),
    ("make_pipeline(TargetEncoder(random_state=0), LikelihoodRegressor()).fit(table[['kind']], y).predict(table[['kind']])", "make_pipeline(TargetEncoder(random_state=0), LinearRegression()).fit(table[['kind']], y).predict(table[['kind']])"),
    # Whatever it wraps around a classifier
    ("FixedThresholdClassifier(clf, threshold=0.3, pos_label='yes').fit(X, labels).predict(X).tolist()", "np.where(clf.predict_proba(X)[:, 1] >= 0.3, 'yes', 'no').tolist()"),
    ("OneVsRestClassifier(LikelihoodClassifier('bernoulli')).fit(X, labels).predict_proba(X)", "clf.predict_proba(X)"),
    ("CalibratedClassifierCV(LikelihoodClassifier('ordinal', order=['low', 'mid', 'high']), cv=2).fit(X, three).classes_.tolist()", '["high", "low", "mid"]'),
    ("StackingClassifier([('a', LikelihoodClassifier('bernoulli'))], LikelihoodClassifier('bernoulli'), cv=2).fit(X, labels).classes_.tolist()", '["no", "yes"]'),
    ("VotingClassifier([('a', LikelihoodClassifier('bernoulli'))], voting='soft').fit(X, labels).predict_proba(X)", "clf.predict_proba(X)"),
    ("cross_val_predict(LikelihoodClassifier('bernoulli'), X, labels, method='predict_log_proba', cv=2)", "np.log(cross_val_predict(LikelihoodClassifier('bernoulli'), X, labels, method='predict_proba', cv=2))"),
    ("LikelihoodClassifier('bernoulli').fit(frame, pd.Series(labels, dtype='string')).predict_proba(frame)", "clf.predict_proba(X)"),
    ("LikelihoodClassifier('bernoulli').fit(frame, pd.Series(labels, dtype='category')).predict_proba(frame)", "clf.predict_proba(X)"),
    ("make_pipeline(StandardScaler(), LikelihoodRegressor('poisson')).fit(X, counts, likelihoodregressor__exposure=t)[:-1].transform(X)", "StandardScaler().fit_transform(X)"),
]  # fmt: skip
"""A line, and a line with the same value."""


@pytest.mark.parametrize(("line", "same"), LINES, ids=[line for line, _ in LINES])
def test_a_line_has_the_value_of_the_other(line, same):
    check_same(line, same, namespace)


REFUSED = [
    ('LikelihoodRegressor("linear").fit(X, y)', ModelError, "Did you mean `gaussian`"),
    ('LikelihoodRegressor("poison").fit(X, counts)', ModelError, "Did you mean `poisson`"),
    ('LikelihoodClassifier("logistic regression").fit(X, labels)', ModelError, "Did you mean `bernoulli`"),
    ('LikelihoodClassifier("logistic").fit(X, labels)', ModelError, "`logistic` is no model of classes"),
    ('LikelihoodClassifier("bernoulli").fit(X, three)', DataError, 'model="categorical"'),
    ('LikelihoodRegressor("bernoulli").fit(X, labels)', DataError, "LikelihoodClassifier"),
    ("LikelihoodRegressor().fit(table, y)", DataError, "OneHotEncoder in a ColumnTransformer"),
    ('LikelihoodRegressor().fit("y ~ a", frame)', DataError, "neglog.mle(model, formula, table)"),
    ('LikelihoodRegressor("quantile", tau=0.9)', ModelError, "Did you mean `settings`"),
    ('LikelihoodRegressor("huber", settings={"epsilon": 2.0}).fit(X, y)', ModelError, "the settings delta"),
    ('LikelihoodRegressor(method="ridge").fit(X, y)', ModelError, "'mle' or 'map'"),
    ('LikelihoodRegressor("poisson").fit(X, y)', DataError, "whole number"),
    ('LikelihoodRegressor("poisson").fit(X, counts, exposure=t).predict(X)', DataError, "`exposure`"),
    ("LikelihoodRegressor().fit(X, np.column_stack([y, y]))", ValueError, "1d array"),
    ("LikelihoodRegressor().fit(X)", ModelError, "needs `y`"),
    ("LikelihoodRegressor('categorical').fit(X, three)", ModelError, "LikelihoodClassifier('categorical')"),
    ("LikelihoodRegressor().fit(frame.assign(d=pd.date_range('2020', periods=40)), y)", DataError, "dates.min()"),
    ("LikelihoodRegressor('poisson').fit(X, counts, exposure='t')", DataError, "`exposure`"),
    ("LikelihoodClassifier().fit(X, [None, *labels[1:]])", DataError, "row 0 is None"),
    ("neglog.covariance(reg.fit_)", DataError, "that of an estimator"),
    ("reg.predict_interval(X, level=95)", ModelError, "`level`"),
    ("LikelihoodRegressor().fit(gaps, y)", ValueError, "NaN"),
    ("LikelihoodRegressor().fit(X[:, 0], y)", ValueError, "Reshape your data"),
    ("LikelihoodRegressor().predict(X)", ValueError, "not fitted yet"),
    ("reg.predict(X[:, :2])", ValueError, "2 features"),
    ("reg.predict_interval(X, alpha=0.1)", ModelError, "Did you mean `level`"),
    ("clf.predict_interval(X)", ModelError, "model='ordinal'"),
    ("mle('gaussian', X, y, sample_weight=w)", ModelError, "Did you mean `weights`"),
    ("mle(LinearRegression(), X, y)", ModelError, "sklearn.model_selection"),
    ("mle('gaussian', X, y).predict(X)", AttributeError, "neglog.predict(fit, x)"),
    ("neglog.cross_validate('gaussian', X, y, cv=5)", ModelError, "Did you mean `folds`"),
    ("neglog.cross_validate('gaussian', X, y, scoring='r2')", ModelError, "Did you mean `scores`"),
    ("neglog.losses.likelihood_of('neg_mean_squared_error')", ModelError, "'squared_error'"),
    ("NetworkRegressor('poisson').fit(X, counts)", ModelError, "model='poisson'"),
]  # fmt: skip
"""Line, the error that it raises, and a fact that the error names."""


@pytest.mark.parametrize(("line", "error", "fact"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_a_line_that_is_wrong_names_what_is_wrong(line, error, fact):
    check_refused(line, error, fact, namespace)
