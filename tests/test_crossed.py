"""Every argument of every public function, crossed with values of wrong kinds.

The outcome of a call is an answer or an error of `neglog.errors`, never one of another library.
The values are refused before anything is fitted, so a thousand calls take seconds.
"""

import inspect
import re
import tempfile
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from pyro import poutine

import neglog
from neglog import (
    datasets,
    flat,
    losses,
    map_estimate,
    mle,
    models,
    plots,
    predictors,
    reports,
    solvers,
    studies,
    with_priors,
)
from neglog.errors import ConvergenceWarning, DataError, ModelError, NeglogError
from neglog.formula import learn
from neglog.solvers import Adam
from neglog.validation import cross_validate

N = 20
RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(N, 2)), RNG.normal(size=N), np.ones(N)
COUNTS, GROUPS = RNG.poisson(3.0, size=N).astype(float), np.arange(N) // 4
FIT, NARROW = mle(models.gaussian, X, Y), mle(models.gaussian, X[:, :1], Y)
BINARY = mle(models.bernoulli, X, (COUNTS > 2.0).astype(float))
RATES = mle(models.poisson, X, COUNTS, exposure=W)
DRAWN = neglog.posterior(models.gaussian, X, Y, method="laplace", draws=100)
PRIOR = dist.Laplace(torch.zeros((), dtype=torch.float64), 1.0)
LASSO = flat(with_priors(models.gaussian, {"mean.weight": PRIOR}), "mean.bias", "sigma")
PATH = neglog.lasso_path(LASSO, X, Y, n_strengths=3)
DRAWS = neglog.bootstrap(FIT, 40)
GAUSSIAN = models.gaussian
FRAME = pd.DataFrame({"a": Y, "b": X[:, 0]})
PLACE = tempfile.TemporaryDirectory()
FOLDER = neglog.save(FIT, PLACE.name + "/fit")
TENSOR, DESIGN = torch.tensor(Y), torch.tensor(X)
ESTIMATES = neglog.summary(FIT)
TRUNK = torch.nn.Linear(2, 2)
NET = neglog.on_features(models.gaussian, torch.nn.Linear(X.shape[1], 2))
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    TRAINED = mle(NET, X, Y, solver=Adam(steps=2))
    MASKED = mle(
        neglog.on_features(
            models.gaussian, torch.nn.Sequential(torch.nn.Linear(X.shape[1], 2), torch.nn.Dropout(0.1))
        ),
        X,
        Y,
        solver=Adam(steps=2),
    )


def generated():
    yield 1.0


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.tensor(X).float(), 0.1, 0, torch.qint8)


def deep():
    found = []
    for _ in range(3000):
        found = [found]
    return found


WRONG = {
    "text": "no such thing",
    "a huge whole number": 10**30,
    "complex": 1j,
    "nothing": [],
    "ragged": [[1.0], [1.0, 2.0]],
    "a list of None": [None] * N,
    "a set": {1.0, 2.0},
    "a generator": generated(),
    "an object": object(),
    "a class": int,
    "a distribution": dist.Normal(0.0, 1.0),
    "a masked array": np.ma.array(Y, mask=Y > 0),
    "a complex array": Y + 1j,
    "a sparse tensor": torch.tensor(X).to_sparse(),
    "a meta tensor": torch.ones(N, device="meta"),
    "a quantised tensor": quantised(),
    "an array of text": np.array(["a"] * N),
    "an array of objects": np.array([None] * N),
    "three dimensions": X[:, :, None],
    "an empty frame": pd.DataFrame(),
    "a frame of text": pd.DataFrame({"a": ["a", "b"] * (N // 2)}),
    "a series of dates": pd.Series(pd.date_range("2020-01-01", periods=N)),
    "a sparse matrix": scipy.sparse.csr_matrix(X),
    "a missing value": pd.NA,
    "bytes": b"a",
    "a slice": slice(3),
    "keys that are no text": {1: X},
    "no key": {None: X},
    "a number beyond floats": 10**400,
    "a list without a repr": deep(),
    "a tensor in bfloat16": torch.tensor(X[:0]).bfloat16(),
    "a conjugate tensor": torch.tensor(X + 1j).conj(),
    "an array of lists": np.array([[1.0], [1.0, 2.0]] + [None] * (N - 2), dtype=object),
    "a scalar array": np.array(1e308),
    "a module": np,
}
DATA = {"x": X, "y": Y, "weights": W}
OF_X = {"x": X, "draws": 4, "seed": 0, "uncertainty": True, "cov_type": "cluster", "groups": GROUPS}
CALLS = {
    "mle": (mle, {"model": GAUSSIAN, **DATA, "solver": None, "start": None, "progress": False}),
    "mle with exposure": (partial(mle, models.poisson), {"x": X, "y": COUNTS, "exposure": W}),
    "map_estimate": (map_estimate, {"model": GAUSSIAN, **DATA, "solver": None, "start": None}),
    "mle_batch": (
        neglog.mle_batch,
        {"model": GAUSSIAN, **DATA, "y": np.stack([Y, Y]), "cov_type": "observed"},
    ),
    "posterior": (
        partial(neglog.posterior, GAUSSIAN, X, Y),
        {"weights": W, "method": "laplace", "draws": 100, "chains": 1, "tune": 1, "seed": 0}
        | {"target_accept": 0.8, "cores": 1, "progress": False, "space": "unconstrained", "guide": "full"}
        | {"steps": 100},
    ),
    "priors_for": (neglog.priors_for, {"model": GAUSSIAN, **DATA}),
    "prior_predictive": (neglog.prior_predictive, {"model": GAUSSIAN, "x": X, "draws": 1, "seed": 0}),
    "posterior_predictive": (neglog.posterior_predictive, {"posterior": DRAWN, "x": X[:2], "seed": 0}),
    "predict": (neglog.predict, {"fit": FIT, **OF_X}),
    "predict with exposure": (partial(neglog.predict, RATES), {"x": X, "exposure": W}),
    "predict by clusters": (
        partial(neglog.predict, FIT, X, uncertainty=True, cov_type="cluster", draws=4),
        {"groups": GROUPS},
    ),
    "interval": (
        partial(neglog.interval, FIT),
        {"x": X, "level": 0.9, "kind": "mean", "cov_type": "observed", "groups": None},
    ),
    "class_probabilities": (
        neglog.class_probabilities,
        {"fit": BINARY, "x": X, "uncertainty": True, "draws": 4, "seed": 0},
    ),
    "conformal": (neglog.conformal, {"fit": FIT, "x": X, "y": Y, "kind": "quantile"}),
    "conformal with exposure": (
        partial(neglog.conformal, RATES, kind="absolute"),
        {"x": X, "y": COUNTS, "exposure": W},
    ),
    "Conformal.interval": (neglog.conformal(FIT, X, Y).interval, {"x": X, "level": 0.9}),
    "Conformal.scores": (neglog.conformal(FIT, X, Y).scores, {"level": 0.9}),
    "Conformal.coverage": (neglog.conformal(FIT, X, Y).coverage, {"level": 0.9}),
    "coverage": (
        neglog.coverage,
        {"fit": FIT, "x": X, "y": Y, "levels": [0.5], "by": X[:, 0], "bins": 2},
    ),
    "reliability": (plots.reliability, {"fits": FIT, "x": X, "y": Y}),
    "recalibrate": (neglog.recalibrate, {"fit": FIT, "x": X, "y": Y, "method": "isotonic", "bins": 4}),
    "recalibrate with exposure": (
        partial(neglog.recalibrate, RATES, method="isotonic"),
        {"x": X, "y": COUNTS, "exposure": W},
    ),
    "Recalibration.predict": (neglog.recalibrate(FIT, X, Y).predict, {"x": X}),
    "quantile": (neglog.quantile, {"fit": FIT, "q": 0.5, **OF_X}),
    "log_likelihood": (neglog.log_likelihood, {"fit": FIT, "x": X, "y": Y}),
    "scores": (neglog.scores, {"fit": FIT, "x": X, "y": Y, "kind": "crps", "uncertainty": True, "draws": 4}),
    "quantile_process": (neglog.quantile_process, {**DATA, "taus": [0.5]}),
    "lasso_path": (neglog.lasso_path, {"model": LASSO, **DATA, "strengths": [2.0, 1.0]}),
    "LassoPath.fit": (PATH.fit, {"i": 1}),
    "LassoPath.model_at": (PATH.model_at, {"i": 1}),
    "Fit.terms": (FIT.terms, {"predictor": "mean"}),
    "spool": (neglog.spool, {"blocks": [(X, Y)], "directory": None}),
    "bootstrap": (neglog.bootstrap, {"fit": FIT, "draws": 4, "kind": "rows", "groups": GROUPS, "seed": 0}),
    "Bootstrap.interval": (DRAWS.interval, {"level": 0.8, "kind": "basic"}),
    "covariance": (neglog.covariance, {"fit": FIT, "cov_type": "observed", "bandwidth": "bofinger"}),
    "covariance by clusters": (partial(neglog.covariance, FIT, "cluster"), {"groups": GROUPS}),
    "summary": (neglog.summary, {"fit": FIT, "level": 0.9, "cov_type": "observed", "interval": "wald"}),
    "likelihood_ratio_test": (neglog.likelihood_ratio_test, {"fit": FIT, "restricted": NARROW}),
    "score_test": (
        neglog.score_test,
        {"fit": FIT, "added": X**2, "predictor": "mean", "cov_type": "observed"},
    ),
    "vuong_test": (neglog.vuong_test, {"first": FIT, "second": NARROW, "correction": None}),
    "wald_test": (neglog.wald_test, {"fit": FIT, "hypothesis": "x0 = 0", "cov_type": "observed"}),
    "information_criteria": (neglog.information_criteria, {"fits": {"wide": FIT, "narrow": NARROW}}),
    "compare": (
        neglog.compare,
        {"models": ["gaussian"], **DATA, "also": (), "folds": 2, "seed": 0, "response": None},
    ),
    "compare by a formula": (
        partial(neglog.compare, ["gaussian"]),
        {"x": "a ~ b", "y": FRAME, "also": (), "weights": None, "folds": 2},
    ),
    "save": (lambda fit, formula: neglog.save(fit, FOLDER, formula=formula), {"fit": FIT, "formula": None}),
    "load": (neglog.load, {"folder": FOLDER}),
    "laplace_approximation": (neglog.laplace_approximation, {"fit": FIT, "structure": "full"}),
    "cross_validate": (
        cross_validate,
        {"model": GAUSSIAN, **DATA, "folds": 2, "seed": 0, "solver": None, "scores": ("log",)},
    ),
    "censored": (neglog.censored, {"model": GAUSSIAN, "lower": 0.0, "upper": 1.0}),
    "truncated": (neglog.truncated, {"model": GAUSSIAN, "lower": 0.0, "upper": 1.0}),
    "masked": (neglog.masked, {"model": GAUSSIAN}),
    "weighted": (neglog.weighted, {"model": GAUSSIAN, "weights": torch.tensor(W)}),
    "with_priors": (with_priors, {"model": GAUSSIAN, "priors": {"sigma": dist.HalfNormal(1.0)}}),
    "picture": (plots.picture, {"fits": {"a": NARROW}, "y": Y, "names": ("x", "y")} | {"x": X[:, :1]}),
    "datasets.load": (datasets.load, {"name": "engel"}),
    "delta": (lambda delta: mle(partial(models.huber, delta=delta), X, Y), {"delta": 1.3}),
    "tau": (lambda tau: mle(partial(models.quantile, tau=tau), X, Y), {"tau": 0.3}),
    "df": (lambda df: mle(partial(models.student_t, df=df), X, Y), {"df": 4.0}),
    "start": (lambda value: mle(GAUSSIAN, X, Y, start={"sigma": value}), {"value": 1.0}),
    "mse": (losses.mse, {"prediction": TENSOR, "target": TENSOR, "reduction": "mean"}),
    "pinball": (losses.pinball, {"prediction": TENSOR, "target": TENSOR, "tau": 0.5}),
    "huber_nll": (losses.huber_nll, {"location": TENSOR, "target": TENSOR, "scale": 1.0, "delta": 1.0}),
    "weibull_nll": (losses.weibull_nll, {"log_scale": TENSOR, "target": TENSOR.exp(), "shape": 1.0}),
    "loss_of": (losses.loss_of, {"model": "gaussian", "learn": "sigma", "reduction": "mean"}),
    "likelihood_of": (losses.likelihood_of, {"loss": "squared_error"}),
    "likelihood_of huber": (partial(losses.likelihood_of, "huber"), {"delta": 1.0}),
    "likelihood_of quantile": (partial(losses.likelihood_of, "quantile"), {"quantile": 0.5}),
    "Likelihood.nll": (losses.likelihood_of("squared_error").nll, {"loss": TENSOR, "target": TENSOR}),
    "as_likelihood": (losses.as_likelihood, {"rho": torch.abs}),
    "linear": (predictors.linear, {"name": "mean", "x": DESIGN, "outputs": 2, "bias": True}),
    "positive": (predictors.positive, {"name": "sigma", "x": DESIGN, "rate": 1.0, "outputs": 2}),
    "probability": (predictors.probability, {"name": "share", "x": DESIGN}),
    "simplex": (predictors.simplex, {"name": "shares", "x": DESIGN, "outputs": 3}),
    "affine": (predictors.affine, {"x": DESIGN, "weight": DESIGN[0], "bias": DESIGN[0, 0], "outputs": None}),
    "rows": (predictors.rows, {"x": DESIGN}),
    "against_first": (predictors.against_first, {"logits": DESIGN}),
    "a response that sizes are read from": (partial(models.categorical, DESIGN), {"y": TENSOR.round().abs()}),
    "estimates_table": (reports.estimates_table, {"estimates": ESTIMATES, "level": 0.9}),
    "estimates_text": (reports.estimates_text, {"estimates": ESTIMATES}),
    "estimates_html": (reports.estimates_html, {"estimates": ESTIMATES}),
    "fit_table": (reports.fit_table, {"fit": FIT, "loss": "MSELoss"}),
    "fit_json": (reports.fit_json, {"fit": FIT, "estimates": ESTIMATES, "loss": "MSELoss"}),
    "comparison_table": (reports.comparison_table, {"comparison": None}),
    "write": (partial(plots.write, plots.picture({"a": NARROW}, X[:, :1], Y)), {"path": None}),
    "robustness": (
        partial(studies.robustness, rows=10, data_sets=2, shares=(0.0,)),
        {"losses": {"MSE": GAUSSIAN}, "outliers": "end"}
        | {"shares": (0.0,), "size": 1.0, "rows": 10, "data_sets": 2, "seed": 0},
    ),
    "on_features": (neglog.on_features, {"model": GAUSSIAN, "module": TRUNK, "prior": None, "name": "a"}),
    "a prior of features": (
        lambda value: neglog.on_features(GAUSSIAN, TRUNK, prior=lambda _: value)(DESIGN.float()),
        {"value": PRIOR},
    ),
    "flat": (flat, {"model": GAUSSIAN}),
    "beta_nll": (neglog.beta_nll, {"model": GAUSSIAN, "beta": 0.5}),
    "faithful": (neglog.faithful, {"model": GAUSSIAN}),
    "warm_up": (neglog.warm_up, {"model": GAUSSIAN, "epochs": 3}),
    "mc_dropout": (neglog.mc_dropout, {"fit": MASKED, "draws": 3, "seed": 0}),
    "swag": (
        neglog.swag,
        {"fit": TRAINED, "draws": 2, "epochs": 2, "learning_rate": 0.01, "rank": 2, "seed": 0},
    ),
    "natural_gaussian": (lambda x, y: mle(neglog.natural_gaussian, x, y), {"x": X, "y": Y}),
    "score": (neglog.score, {"model": GAUSSIAN, "kind": "crps"}),
    "quantile_heads": (neglog.quantile_heads, {"taus": [0.1, 0.5]}),
    "ensemble": (
        partial(neglog.ensemble, solver=Adam(steps=2)),
        {"model": NET, **DATA, "members": 2, "method": "mle", "seed": 0, "progress": False},
    ),
    "from_pyro": (
        partial(neglog.from_pyro, {"a": torch.zeros(5, 3)}),
        {"model": None, "prior": None, "posterior_predictive": None}
        | {"dims": {"a": ["k"]}, "coords": {"k": [1, 2, 3]}},
    ),
    "samples": (lambda value: neglog.from_pyro({"a": value}), {"value": torch.zeros(5)}),
    "names of dimensions": (
        lambda names: neglog.from_pyro({"a": torch.zeros(5, 3)}, dims={"a": names}),
        {"names": ["k"]},
    ),
    "to_arviz": (neglog.to_arviz, {"result": DRAWN, "draws": 5, "seed": 0}),
}
OF_SOLVERS = [
    (name, setting)
    for name in solvers.__all__
    if inspect.isclass(getattr(solvers, name)) and hasattr(getattr(solvers, name), "minimise")
    for setting in inspect.signature(getattr(solvers, name)).parameters
    if name not in ("Problem", "Kinked", "Separable") and not setting.startswith("_")
]


def is_readable(message):
    """Whether a message is one line of some sentences, without a whole array and without doubled stops.

    Two more lines may be a formula, and carets under the part of it that cannot be read.
    """
    sentences, *formula = message.split("\n")
    is_one_line = not formula or (len(formula) == 2 and re.fullmatch(r" *\^+", formula[1]) is not None)
    return len(message) <= 900 and is_one_line and not re.search(r"[^.]\.\.([^.]|$)", sentences)


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, (_, args) in CALLS.items() for a in args])
@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_are_errors_of_neglog(name, argument):
    call, arguments = CALLS[name]
    refused = {}
    for kind, value in WRONG.items():
        try:
            call(**{**arguments, argument: value})
        except NeglogError as error:
            refused[kind] = str(error)
        except Exception as error:
            raise AssertionError(f"{name}({argument}={kind}) raises {type(error).__name__}") from error
    assert [message for message in refused.values() if not is_readable(message)] == []
    assert len(refused) >= 0.6 * len(WRONG), "hardly anything is wrong here"


def test_a_start_at_the_end_of_the_range_of_floats_raises_no_error_of_python():
    with pytest.warns(ConvergenceWarning):
        assert not mle(GAUSSIAN, X, Y, start={"sigma": 1e308}).converged


RIGHT = {("callbacks", "nothing"), ("validation", "a frame of text")}
"""A setting, and a value that may be right."""


@pytest.mark.parametrize(("name", "setting"), OF_SOLVERS)
def test_wrong_settings_of_solvers_are_errors_of_neglog(name, setting):
    others = {"MultiStart": {"solver": solvers.Newton(), "starts": torch.zeros(1, 1)}}.get(name, {})
    for kind, value in WRONG.items():
        is_right = (setting in ("is_spurious", "scheduler") and callable(value)) or (setting, kind) in RIGHT
        if not is_right and kind not in ("a huge whole number", "a number beyond floats"):
            with pytest.raises(NeglogError):
                getattr(solvers, name)(**{**others, setting: value})


def test_every_public_function_is_crossed():
    """A function that is added to `neglog` is added to the table too."""
    functions = {name for name in neglog.__all__ if inspect.isfunction(getattr(neglog, name))}
    assert functions <= set(CALLS)


class Alone(torch.nn.Module):
    """A network that takes `x` alone, which is no model."""

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "model", [Alone(), lambda: None, lambda x: x, lambda x, y, z: x, torch.nn.Linear(2, 1)]
)
@pytest.mark.parametrize("call", [mle, neglog.priors_for, neglog.posterior, neglog.prior_predictive])
def test_a_model_that_does_not_take_x_and_y_is_refused(model, call):
    for given in (model, poutine.scale(model, scale=2.0)):
        with pytest.raises(ModelError, match=r"function `\(x, y=None\)`.* takes"):
            call(given, X, Y)


def test_lists_that_hold_themselves_are_refused():
    circle = []
    circle.append(circle)
    for call in (lambda: mle(GAUSSIAN, circle, Y), lambda: neglog.covariance(FIT, "cluster", groups=circle)):
        with pytest.raises(DataError, match="not a rectangular array"):
            call()


def test_calls_that_fit_no_signature_name_the_nearest_setting():
    fit = mle(models.gaussian, X, Y)
    for call, facts in (
        (lambda: neglog.summary(fit, levl=0.9), ("`summary`", "`levl`", "`level`")),
        (lambda: neglog.summary(fit, alpha=0.1), ("`summary`", "`alpha`", "level")),
        (lambda: neglog.bootstrap(fit, n=10), ("`bootstrap`", "`n`", "draws")),
        (lambda: neglog.covariance(), ("`covariance`", "`fit`")),
    ):
        with pytest.raises(ModelError) as error:
            call()
        assert all(fact in str(error.value) for fact in facts)


@pytest.mark.parametrize(
    "arguments",
    [
        ("y ~ a", X),
        ("y ~ a", {"y": [1.0, 2.0], "a": [2.0, 3.0]}),
        (None, pd.DataFrame(X)),
        (b"y ~ a", pd.DataFrame({"y": [1.0], "a": [2.0]})),
        ("y ~ a", pd.DataFrame({"y": [1.0], "a": [2.0]}), 3),
        ("y ~ a", pd.DataFrame({"y": [1.0], "a": [2.0]}), [1]),
        ("y ~ a", pd.DataFrame({"y": [1.0], "a": [2.0]}), "sigma ~ a"),
    ],
)
def test_wrong_arguments_of_learn_are_errors_by_name(arguments):
    with pytest.raises(DataError, match=r"`formula`|`table`|`also`"):
        learn(*arguments)
