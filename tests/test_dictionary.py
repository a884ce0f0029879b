"""The dictionary: losses of torch and scikit-learn, losses to train with, and losses of one's own."""

import copy
import io
import math
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from pyro.poutine.util import site_is_subsample
from reference import table
from sklearn import metrics
from sklearn._loss import loss as estimators
from table import TABLE, random_params
from torch import nn

from neglog import (
    censored,
    covariance,
    flat,
    log_likelihood,
    losses,
    map_estimate,
    mle,
    mle_batch,
    models,
    on_features,
    predict,
    summary,
    weighted,
    with_priors,
)
from neglog.distributions import FromLoss, normalised
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.guides import Delta
from neglog.predictors import against_first
from neglog.solvers import LBFGS, Newton

ROUNDING = 1e-10
"""Float64, sums of a few dozen terms of order 1."""
ROWS, COLUMNS = 12, 2


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=ROUNDING):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def leaves(model, x, y):
    """A value for every parameter of a model, as leaves."""
    trace = poutine.trace(model).get_trace(x, y)
    latent = [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    ]
    return {
        name: (0.5 * numbers(*trace.nodes[name]["value"].shape, seed=i)).requires_grad_()
        for i, name in enumerate(latent)
    }


def by_row(model, params, x, y):
    """Minus the log-density of each row, by plain Pyro."""
    site = poutine.trace(pyro.condition(model, params)).get_trace(x, y).nodes["y"]
    return -site["fn"].log_prob(site["value"])


def eta(params, name, x):
    weight = params[f"{name}.weight"]
    return x @ (weight if weight.dim() == 1 else weight.mT) + params[f"{name}.bias"]


# --- From a loss to its likelihood ----------------------------------------------------------------------

REAL = 3 * numbers(ROWS, seed=5)
COUNTS = torch.arange(ROWS, dtype=torch.float64) % 5
POSITIVE = numbers(ROWS, seed=6).exp()
YES = (COUNTS > 2).to(torch.float64)
CLASSES = COUNTS % 3


def logits(params, x):
    return nn.functional.pad(eta(params, "logit", x), (1, 0))


def variance(params, x):
    return eta(params, "mean", x), eta(params, "log_variance", x).exp()


# loss -> the target, and the predictions that the loss takes, as a function of parameters and design
TORCH = {
    "MSELoss": (nn.MSELoss, {}, REAL, lambda p, x: eta(p, "mean", x)),
    "L1Loss": (nn.L1Loss, {}, REAL, lambda p, x: eta(p, "location", x)),
    "HuberLoss": (nn.HuberLoss, {"delta": 0.7}, REAL, lambda p, x: eta(p, "location", x)),
    "SmoothL1Loss": (nn.SmoothL1Loss, {"beta": 2.5}, REAL, lambda p, x: eta(p, "location", x)),
    "SmoothL1Loss at 0": (nn.SmoothL1Loss, {"beta": 0.0}, REAL, lambda p, x: eta(p, "location", x)),
    "GaussianNLLLoss": (nn.GaussianNLLLoss, {}, REAL, variance),
    "GaussianNLLLoss full": (nn.GaussianNLLLoss, {"full": True}, REAL, variance),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, {}, COUNTS, lambda p, x: eta(p, "log_rate", x)),
    "PoissonNLLLoss full": (nn.PoissonNLLLoss, {"full": True}, COUNTS, lambda p, x: eta(p, "log_rate", x)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, {}, YES, lambda p, x: eta(p, "logit", x)),
    "BCEWithLogitsLoss weighted": (
        nn.BCEWithLogitsLoss,
        {"pos_weight": torch.tensor(2.5, dtype=torch.float64)},
        YES,
        lambda p, x: eta(p, "logit", x),
    ),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, {}, CLASSES, logits),
}


def call(loss, predictions, target):
    """A loss of torch, whose order of arguments differs from one to the other."""
    if isinstance(loss, nn.GaussianNLLLoss):
        mean, spread = predictions
        return loss(mean, target, spread)
    return loss(predictions, target.long() if isinstance(loss, nn.CrossEntropyLoss) else target)


@pytest.mark.parametrize("name", TORCH)
def test_the_nll_is_factor_times_loss_plus_constant(name):
    build, settings, target, predictions = TORCH[name]
    x = numbers(ROWS, COLUMNS, seed=1)
    likelihood = losses.likelihood_of(build(reduction="none", **settings))
    params = leaves(likelihood.model, x, target)
    counted = torch.ones_like(target) if likelihood.weights is None else likelihood.weights(target)
    nll = counted * by_row(likelihood.model, params, x, target)
    loss = call(build(reduction="none", **settings), predictions(params, x), target)
    close(likelihood.factor * loss + likelihood.constant(target), nll)
    wanted = torch.autograd.grad(nll.sum(), list(params.values()), retain_graph=True)
    found = torch.autograd.grad(likelihood.factor * loss.sum(), list(params.values()))
    assert all(gradient.abs().max() > 0.01 for gradient in wanted), "a law about zeros says nothing"
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", TORCH)
def test_a_value_of_the_loss_in_nats(name, reduction):
    build, settings, target, predictions = TORCH[name]
    x = numbers(ROWS, COLUMNS, seed=1)
    loss = build(reduction=reduction, **settings)
    likelihood = losses.likelihood_of(loss)
    assert likelihood.reduction == reduction
    params = leaves(likelihood.model, x, target)
    counted = torch.ones_like(target) if likelihood.weights is None else likelihood.weights(target)
    nll = counted * by_row(likelihood.model, params, x, target)
    reduced = {"none": nll, "mean": nll.mean(), "sum": nll.sum()}[reduction]
    close(likelihood.nll(call(loss, predictions(params, x), target), target), reduced)


# name -> settings, what sklearn.metrics averages, the half of it that estimators minimise, how many halves,
# the predictor, its inverse link, and a target
def _link(p):
    return p


SKLEARN = {
    "squared_error": (
        {},
        metrics.mean_squared_error,
        estimators.HalfSquaredError(),
        2,
        "mean",
        _link,
        REAL,
    ),
    "absolute_error": (
        {},
        metrics.mean_absolute_error,
        estimators.AbsoluteError(),
        1,
        "location",
        _link,
        REAL,
    ),
    "huber": (
        {"delta": 0.7},
        None,
        estimators.HuberLoss(delta=0.7),
        1,
        "location",
        _link,
        REAL,
    ),
    "quantile": (
        {"quantile": 0.8},
        partial(metrics.mean_pinball_loss, alpha=0.8),
        estimators.PinballLoss(quantile=0.8),
        1,
        "quantile",
        _link,
        REAL,
    ),
    "poisson": (
        {},
        metrics.mean_poisson_deviance,
        estimators.HalfPoissonLoss(),
        2,
        "log_rate",
        torch.exp,
        COUNTS,
    ),
    "gamma": (
        {},
        metrics.mean_gamma_deviance,
        estimators.HalfGammaLoss(),
        2,
        "log_mean",
        torch.exp,
        POSITIVE,
    ),
    "log_loss": (
        {},
        metrics.log_loss,
        estimators.HalfBinomialLoss(),
        1,
        "logit",
        torch.sigmoid,
        YES,
    ),
}


@pytest.mark.parametrize("name", SKLEARN)
def test_the_names_are_those_of_scikit_learns_metrics(name):
    settings, metric, half, halves, predictor, inverse, target = SKLEARN[name]
    x = numbers(ROWS, COLUMNS, seed=1)
    likelihood = losses.likelihood_of(name, **settings)
    params = leaves(likelihood.model, x, target)
    nll = by_row(likelihood.model, params, x, target)
    prediction = eta(params, predictor, x)
    raw = prediction.detach().numpy().copy()
    if metric is not None:
        value = metric(target.numpy(), inverse(prediction).detach().numpy())
        close(likelihood.nll(torch.tensor(value, dtype=torch.float64), target), nll.mean())
    # What estimators minimise under this name leaves out what does not depend on the prediction.
    loss = half.loss(target.numpy(), raw) + half.constant_to_optimal_zero(target.numpy())
    close(likelihood.factor * halves * torch.tensor(loss) + likelihood.constant(target), nll)
    (wanted,) = torch.autograd.grad(nll.sum(), params[f"{predictor}.weight"])
    gradient = torch.tensor(half.gradient(target.numpy(), raw))
    close(likelihood.factor * halves * x.T @ gradient, wanted)


def test_alpha_is_what_scikit_learn_calls_the_quantile_elsewhere():
    one, other = losses.likelihood_of("quantile", alpha=0.9), losses.likelihood_of("quantile", quantile=0.9)
    close(one.constant(REAL), other.constant(REAL))
    assert one.free.keywords == {"tau": 0.9}


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "HuberLoss", "GaussianNLLLoss", "PoissonNLLLoss"])
def test_a_fit_of_the_likelihood_minimises_the_loss(name):
    build, settings, target, predictions = TORCH[name]
    x = numbers(ROWS, COLUMNS, seed=1)
    loss = build(reduction="sum", **settings)
    likelihood = losses.likelihood_of(loss)
    fit = mle(likelihood.model, x, target)
    assert fit.converged
    assert "sigma" not in fit.params
    assert "scale" not in fit.params
    at = likelihood.nll(call(loss, predictions(fit.params, x), target), target)
    close(at.item(), fit.nll)
    assert mle(likelihood.free, x, target).nll <= fit.nll + ROUNDING


def test_the_free_model_of_a_deviance_has_a_shape():
    x = numbers(ROWS, COLUMNS, seed=1)
    likelihood = losses.likelihood_of("gamma")
    held, free = mle(likelihood.model, x, POSITIVE), mle(likelihood.free, x, POSITIVE)
    close(held.params["log_mean.weight"], free.params["log_mean.weight"], 1e-7)  # the deviance's optimum
    assert free.k == held.k + 1


def test_class_weights_are_frequency_weights():
    x = numbers(ROWS, COLUMNS, seed=1)
    weight = torch.tensor([1.0, 2.0, 3.5], dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=1)
    likelihood = losses.likelihood_of(loss)
    weights = likelihood.weights(CLASSES)
    assert weights.tolist() == [{0: 1.0, 1: 0.0, 2: 3.5}[int(code)] for code in CLASSES]
    params = leaves(likelihood.model, x, CLASSES)
    nll = by_row(likelihood.model, params, x, CLASSES)
    close(loss(logits(params, x), CLASSES.long()), weights @ nll / weights.sum())
    close(
        nn.CrossEntropyLoss(weight=weight, ignore_index=1, reduction="sum")(
            logits(params, x), CLASSES.long()
        ),
        weights @ nll,
    )
    alone = losses.likelihood_of(nn.CrossEntropyLoss(ignore_index=2)).weights(CLASSES)
    assert alone.tolist() == [float(code != 2) for code in CLASSES]


def test_a_weighted_yes_adds_the_log_of_its_weight():
    """With an intercept alone the weighted fit has log-odds log(3 · yes / no)."""
    y = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    likelihood = losses.likelihood_of(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])))
    fit = mle(likelihood.free, torch.empty((5, 0)), y, weights=likelihood.weights(y))
    assert fit.params["logit.bias"].item() == pytest.approx(math.log(3 * 2 / 3), abs=1e-9)


def test_torch_clamps_a_variance_and_says_nothing():
    """Below eps the loss stands still in value; its likelihood does not, and the note says so."""
    loss = nn.GaussianNLLLoss(full=True, eps=1e-2)
    mean, target = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    ours = losses.heteroscedastic_nll(mean, target, math.log(1e-3))
    assert loss(mean, target, torch.full_like(mean, 1e-3)) != ours
    assert "eps = 0.01" in losses.likelihood_of(loss).note


@pytest.mark.parametrize(
    ("loss", "settings", "reason"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), {}, "label_smoothing=0.1.*depends on the logits"),
        (nn.PoissonNLLLoss(log_input=False), {}, "adds eps to it inside the log.*log_input=True"),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), {}, r"weighs the rows of one batch.*weights=w"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), {}, "`pos_weight` has 3 values"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.zeros(1)), {}, "`pos_weight`.*positive"),
        (nn.BCELoss(), {}, "`BCELoss` is not in the dictionary.*use BCEWithLogitsLoss on logits"),
        (nn.NLLLoss(), {}, "use CrossEntropyLoss on logits"),
        (nn.TripletMarginLoss(), {}, "`TripletMarginLoss` is not in the dictionary.*as_likelihood"),
        (nn.L1Loss(reduction="average"), {}, "`reduction`.*none.*mean.*sum.*average"),
        (nn.HuberLoss(delta=-1.0), {}, "`delta`.*positive.*-1.0"),
        (nn.SmoothL1Loss(beta=-1.0), {}, "`beta`.*positive"),
        (nn.MSELoss(), {"delta": 1.0}, "`MSELoss`.*give delta to its constructor"),
        ("hinge", {}, "it is 'hinge'.*not a negative log-likelihood"),
        ("mse", {}, "'squared_error'.*it is 'mse'"),
        ("huber", {}, r"'huber' needs delta; given are none.*likelihood_of\('huber', delta=...\)"),
        ("huber", {"alpha": 0.9}, "alpha re-estimates delta from the residuals"),
        ("quantile", {"quantile": 0.5, "alpha": 0.5}, "'quantile' needs quantile or alpha"),
        ("quantile", {"alpha": 1.5}, "`quantile` must be between 0 and 1"),
        ("poisson", {"alpha": 0.5}, "'poisson' needs no settings; given are alpha"),
    ],
)
def test_losses_without_a_likelihood_are_refused(loss, settings, reason):
    with pytest.raises(ModelError, match=f"(?s){reason}"):
        losses.likelihood_of(loss, **settings)


def test_a_loss_with_a_forward_of_its_own_is_not_taken_for_its_parent():
    class Twice(nn.MSELoss):
        def forward(self, prediction, target):
            return 2 * super().forward(prediction, target)

    with pytest.raises(ModelError, match="`Twice` is not in the dictionary"):
        losses.likelihood_of(Twice())


def test_a_likelihood_is_frozen():
    with pytest.raises(AttributeError, match="cannot assign"):
        losses.likelihood_of(nn.MSELoss()).factor = 1.0


# --- And back -------------------------------------------------------------------------------------------


# What the predictors and the constants of a model are to its hand-written loss, where they are not the same.
TRANSLATED = {
    "categorical": lambda e: (against_first(e),),
    "zero_inflated_poisson": lambda e, z: (e, torch.logit(z)),
    "zero_inflated_negative_binomial": lambda e, a, z: (e, a, torch.logit(z)),
    "gaussian_mixture": lambda m, s, w: (m, w.log(), s),
    "multivariate_gaussian": lambda m, s, c: (m, s[:, None] * c),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if entry.nll])
def test_the_loss_of_a_model_is_its_nll(name, reduction):
    entry = TABLE[name]
    x, y = entry.sample()
    params, keywords = random_params(entry, size=0.3), entry.keywords(len(y))
    trace = poutine.trace(pyro.condition(entry.model, params)).get_trace(x, y, **keywords)
    nll = -trace.nodes["y"]["fn"].log_prob(y)
    prediction, _, *rest = entry._arguments(params, x, y)
    prediction, *rest = TRANSLATED.get(name, lambda *same: same)(prediction, *rest)
    loss = losses.loss_of(entry.model, reduction=reduction)
    expected = {"none": nll, "mean": nll.mean(), "sum": nll.sum()}[reduction]
    close(loss(prediction, y, *rest, **keywords), expected)


def test_every_model_with_a_hand_written_likelihood_has_a_loss_to_train_with():
    for name in (name for name, entry in TABLE.items() if entry.nll):
        assert losses.loss_of(name).name == name
        assert losses.loss_of(getattr(models, name)).arguments == losses.loss_of(name).arguments
    with pytest.warns(FutureWarning, match="arguments"):
        assert losses.loss_of(models.huber).asks == ("scale",)  # the former name


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss"])
def test_there_and_back_again(name):
    build, settings, target, _ = TORCH[name]
    likelihood = losses.likelihood_of(build(**settings))
    back, prediction = losses.loss_of(likelihood.model), numbers(ROWS, seed=3)
    assert back.arguments == ()
    close(back(prediction, target), likelihood.nll(build(**settings)(prediction, target), target))


def test_a_constant_is_fixed_learned_or_passed():
    prediction, scale = numbers(ROWS, seed=3), numbers(ROWS, seed=4).exp()
    passed = losses.loss_of(models.laplace)
    assert passed.arguments == ("scale",)
    close(passed(prediction, REAL, scale), losses.laplace_nll(prediction, REAL, scale))
    close(passed(prediction, REAL, scale=0.7), losses.laplace_nll(prediction, REAL, 0.7))
    fixed = losses.loss_of(models.laplace, scale=0.7)
    close(fixed(prediction, REAL), losses.laplace_nll(prediction, REAL, 0.7))
    assert list(fixed.parameters()) == []
    learned = losses.loss_of(models.laplace, learn="scale", scale=0.7).double()
    close(learned(prediction, REAL), losses.laplace_nll(prediction, REAL, 0.7), 1e-6)  # log 0.7 in float32
    assert learned.arguments == ()
    assert set(learned.constants) == {"scale"}


def test_tuning_constants_keep_their_defaults_and_are_not_asked_for():
    assert losses.loss_of(models.huber).arguments == ("scale",)
    prediction = numbers(ROWS, seed=3)
    for bound in (losses.loss_of(partial(models.huber, delta=2.0)), losses.loss_of("huber", delta=2.0)):
        close(bound(prediction, REAL, 1.5), losses.huber_nll(prediction, REAL, 1.5, 2.0))
    both = losses.loss_of(partial(models.huber, delta=2.0), delta=3.0, scale=1.0)
    close(both(prediction, REAL), losses.huber_nll(prediction, REAL, 1.0, 3.0))
    free = losses.loss_of(partial(models.student_t, df=None))
    assert free.arguments == ("scale", "df")


def test_priors_do_not_count_and_other_handlers_are_refused():
    prior = with_priors(flat(models.gaussian), {"sigma": dist.HalfNormal(1.0)})
    assert losses.loss_of(prior).arguments == ("sigma",)
    with pytest.raises(ModelError, match="handler Weighted"):
        losses.loss_of(weighted(models.gaussian, 2.0))


@pytest.mark.parametrize("name", ["gaussian", "student_t", "negative_binomial", "gamma", "beta"])
def test_training_with_the_loss_ends_at_the_maximum_likelihood(name):
    """A linear network with the learned constants, by torch's own L-BFGS: the optimum of `mle`."""
    entry = TABLE[name]
    x, y = entry.sample()
    model = getattr(models, name)
    keywords = entry.keywords(len(y))
    fit = mle(entry.model, x, y, **keywords)
    network = nn.Linear(x.shape[1], 1).double()
    fixed = {"df": 4.0} if name == "student_t" else {}
    loss = losses.loss_of(model, learn=tuple(entry.constants), reduction="sum", **fixed).double()
    optimiser = torch.optim.LBFGS(
        [*network.parameters(), *loss.parameters()],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        value = loss(network(x).squeeze(-1), y, **keywords)
        value.backward()
        return value

    optimiser.step(closure)
    assert closure().item() == pytest.approx(fit.nll, abs=1e-8)
    for key, value in loss.constants.items():
        if key not in fixed:
            close(value.detach(), fit.params[key], 1e-5)


def test_a_learned_constant_is_a_parameter_like_any_other():
    loss = losses.loss_of(models.student_t, learn=("scale", "df"), df=4.0)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale", "log_df"]
    assert loss.log_df.item() == pytest.approx(math.log(4))
    prediction = numbers(ROWS, seed=3).float()
    loss(prediction, REAL.float()).backward()
    assert loss.log_scale.grad.abs() > 1e-3
    assert loss.log_df.grad.abs() > 1e-6
    assert loss.double().log_df.dtype == torch.float64
    other = losses.loss_of(models.student_t, learn=("scale", "df")).double()
    stream = io.BytesIO()
    torch.save(loss.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    close(other(prediction.double(), REAL), loss(prediction.double(), REAL))
    twin = copy.deepcopy(loss)
    with torch.no_grad():
        twin.log_df += 1
    assert twin(prediction.double(), REAL) != loss(prediction.double(), REAL)


def test_the_loss_of_a_loss_of_ones_own():
    cauchy = losses.as_likelihood(lambda r: torch.log1p(r**2))
    loss = losses.loss_of(cauchy, learn="scale", scale=2.0).double()
    prediction = numbers(ROWS, seed=3)
    close(loss(prediction, REAL), losses.student_t_nll(prediction, REAL, 2.0, 1.0), 1e-6)
    close(losses.loss_of(cauchy)(prediction, REAL, 2.0), losses.student_t_nll(prediction, REAL, 2.0, 1.0))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda: losses.loss_of("gausian"),
            "there is no model `gausian`. Did you mean `gaussian`",
        ),
        (lambda: losses.loss_of(lambda x, y=None: None), "`<lambda>` has no hand-written loss"),
        (lambda: losses.loss_of(models.gaussian, scale=1.0), "has no constant 'scale'; it has 'sigma'"),
        (
            lambda: losses.loss_of(models.gaussian, learn="scale"),
            "no positive constant 'scale' to learn.*'sigma'",
        ),
        (lambda: losses.loss_of(models.poisson, learn="exposure"), "no positive constant 'exposure'.*none"),
        (lambda: losses.loss_of(models.binomial, learn="trials"), "no positive constant 'trials' to learn"),
        (lambda: losses.loss_of(models.heteroscedastic, learn="log_variance"), "no positive constant"),
        (
            lambda: losses.loss_of(models.gaussian_mixture, learn="sigma"),
            "no positive constant 'sigma'.*none",
        ),
        (
            lambda: losses.loss_of(models.huber, learn="delta"),
            "no positive constant 'delta' to learn.*'scale'",
        ),
        (
            lambda: losses.loss_of(models.gaussian, learn="sigma", sigma=0.0),
            "`sigma` must start at a positive",
        ),
        (
            lambda: losses.loss_of(models.gaussian, sigma=torch.ones(3)),
            "`sigma` must be a number to be fixed",
        ),
        (
            lambda: losses.loss_of(pyro.condition(models.gaussian, {"mean.bias": torch.tensor(0.0)})),
            "has no constant 'mean.bias'",
        ),
    ],
)
def test_losses_that_cannot_be_made_are_refused(build, reason):
    with pytest.raises(ModelError, match=f"(?s){reason}"):
        build()


def test_calls_that_do_not_fit_are_refused():
    loss = losses.loss_of(models.gaussian)
    y = torch.zeros(5)
    with pytest.raises(DataError, match=r"lacks an argument. Call loss\(prediction, target, sigma\)"):
        loss(y, y)
    with pytest.raises(DataError, match="takes sigma after the target; it was given 2 by position"):
        loss(y, y, 1.0, 1.0)
    with pytest.raises(DataError, match="by name scale"):
        loss(y, y, scale=1.0)
    with pytest.raises(DataError, match="by name sigma"):
        loss(y, y, 1.0, sigma=1.0)
    with pytest.raises(DataError, match=r"Pass `mean\.squeeze\(-1\)`"):
        loss(y[:, None], y, 1.0)
    with pytest.raises(DataError, match="`reduction`"):
        losses.loss_of(models.gaussian, reduction="average")(y, y, 1.0)


# --- A loss of one's own --------------------------------------------------------------------------------


def huber_rho(r):
    size = r.abs()
    return torch.where(size <= 1.345, 0.5 * r**2, 1.345 * (size - 1.345 / 2))


def log_cosh(r):
    """Without the overflow of cosh."""
    return r.abs() + torch.log1p(torch.exp(-2 * r.abs())) - math.log(2)


def barron(r):
    """Barron (2019), A general and adaptive robust loss function, at α = 1.5."""
    return (0.5 / 1.5) * ((r**2 / 0.5 + 1) ** 0.75 - 1)


def linex(r):
    return torch.exp(r) - r - 1


def pinball(r):
    """Written so that its gradient at 0 is that of one side."""
    return torch.where(r < 0, -0.3 * r, 0.7 * r)


def insensitive(r):
    return (r.abs() - 0.5).clamp(min=0)


# ρ -> Z, or None where only quadrature knows it, and SciPy's distribution
RHOS = {
    "squares": (lambda r: r**2 / 2, math.sqrt(2 * math.pi), scipy.stats.norm),
    "absolute": (lambda r: r.abs(), 2.0, scipy.stats.laplace),
    "cauchy": (lambda r: torch.log1p(r**2), math.pi, scipy.stats.cauchy),
    "t": (
        lambda r: 2.0 * torch.log1p(r**2 / 3),
        1 / scipy.stats.t.pdf(0, 3),
        scipy.stats.t(3),
    ),
    "log cosh": (log_cosh, math.pi, scipy.stats.hypsecant),
    "linex": (linex, math.e, scipy.stats.gumbel_l),
    "fourth power": (lambda r: r**4, 2 * math.gamma(1.25), scipy.stats.gennorm(4)),
    "pinball": (
        pinball,
        1 / 0.21,
        scipy.stats.laplace_asymmetric(math.sqrt(0.7 / 0.3), 0, 1 / math.sqrt(0.21)),
    ),
    "insensitive": (insensitive, 3.0, None),
    "narrow": (lambda r: (1e6 * r) ** 2 / 2, 1e-6 * math.sqrt(2 * math.pi), scipy.stats.norm(0, 1e-6)),
    "wide": (lambda r: (1e-8 * r) ** 2 / 2, 1e8 * math.sqrt(2 * math.pi), scipy.stats.norm(0, 1e8)),
    "elsewhere": (lambda r: (r - 30) ** 2 / 2, math.sqrt(2 * math.pi), scipy.stats.norm(30)),
    "very heavy": (
        lambda r: 0.6 * torch.log1p(r**2),
        math.sqrt(math.pi) * math.gamma(0.1) / math.gamma(0.6),
        scipy.stats.t(0.2, scale=1 / math.sqrt(0.2)),
    ),
    "barron": (barron, None, None),
    "two valleys": (lambda r: (r**2 - 4) ** 2 / 4, None, None),
}
KNOWN = [name for name, (_, _, known) in RHOS.items() if known is not None]


@pytest.mark.parametrize("name", RHOS)
def test_the_normaliser(name):
    rho, z, _ = RHOS[name]
    if z is None:

        def density(r):
            return math.exp(-float(rho(torch.tensor(r, dtype=torch.float64))))

        z = sum(scipy.integrate.quad(density, *ends, epsrel=1e-12)[0] for ends in ((-60, 0), (0, 60)))
    assert normalised(rho).log_z == pytest.approx(math.log(z), abs=1e-11)


TAILS = (1e-12, 1e-6, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1 - 1e-9)


@pytest.mark.parametrize("name", KNOWN)
def test_the_tails_and_the_quantiles_are_those_of_scipy(name):
    rho, _, known = RHOS[name]
    ours = FromLoss(torch.tensor(2.0, dtype=torch.float64), 3.0, normalised(rho))
    values = torch.as_tensor(known.ppf(TAILS))
    y = 2.0 + 3.0 * values
    expected = torch.as_tensor(known.logpdf(values)) - math.log(3)
    # In "elsewhere" and far out, what y = 2 + 3 u rounds off is more than what quadrature does.
    loose = {"rtol": 1e-8, "atol": 0.0}
    torch.testing.assert_close(ours.log_prob(y), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.cdf(y), torch.as_tensor(known.cdf(values)), **loose)
    torch.testing.assert_close(ours.sf(y), torch.as_tensor(known.sf(values)), **loose)
    q = torch.tensor(TAILS[:-1], dtype=torch.float64)  # the last is not 1 - 1e-9 to 9 digits
    width = float(known.ppf(0.75) - known.ppf(0.25))
    torch.testing.assert_close(ours.density.quantile(q), values[:-1], rtol=1e-9, atol=1e-12 * width)
    torch.testing.assert_close(ours.cdf(ours.icdf(q)), q, **loose)
    assert ours.icdf(torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize("name", KNOWN)
def test_mean_and_variance_exist_or_are_nan(name):
    rho, _, known = RHOS[name]
    ours = FromLoss(torch.tensor(2.0, dtype=torch.float64), 3.0, normalised(rho))
    width = float(known.ppf(0.75) - known.ppf(0.25))
    assert ours.median.item() == pytest.approx(
        2 + 3 * float(known.median()), rel=1e-9, abs=1e-9 * (1 + width)
    )
    mean, variance_ = known.stats(moments="mv")
    if np.isfinite(mean):
        assert ours.mean.item() == pytest.approx(2 + 3 * float(mean), rel=1e-9, abs=1e-9)
    else:
        assert math.isnan(ours.mean)
    if np.isfinite(variance_):
        assert ours.variance.item() == pytest.approx(9 * float(variance_), rel=1e-9)
    else:
        assert math.isnan(ours.variance)


@pytest.mark.parametrize("name", ["cauchy", "pinball", "linex", "two valleys"])
def test_samples_follow_the_density(name):
    density = normalised(RHOS[name][0])
    ours = FromLoss(torch.tensor(2.0, dtype=torch.float64), torch.tensor([3.0] * 4000), density)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = ours.sample().double()
    uniform = FromLoss(torch.tensor(2.0, dtype=torch.float64), 3.0, density).cdf(drawn)
    assert scipy.stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", ["cauchy", "absolute", "linex"])
def test_derivatives(name):
    density = normalised(RHOS[name][0])
    y = torch.tensor([-3.0, 0.4, 2.5], dtype=torch.float64, requires_grad=True)
    location = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.1, 0.6], dtype=torch.float64, requires_grad=True)

    def build(a, b):
        return FromLoss(a, b, density)

    for of in ("log_prob", "cdf", "sf"):
        function = lambda a, b, v, of=of: getattr(build(a, b), of)(v)  # noqa: E731
        assert torch.autograd.gradcheck(function, (location, scale, y))
        assert torch.autograd.gradgradcheck(function, (location, scale, y))
    assert torch.autograd.gradcheck(lambda a, b, v: build(a, b).icdf(v), (location, scale, q))

    def draw(a, b):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build(a, b).rsample((5,))

    assert torch.autograd.gradcheck(draw, (location, scale))


def test_the_distribution_is_one_of_pyros():
    density = normalised(log_cosh)
    single = FromLoss(torch.zeros(()), torch.ones(3), density)
    assert single.batch_shape == (3,)
    assert single.expand((4, 3)).log_prob(torch.zeros(3)).shape == (4, 3)
    assert single.expand((4, 3)).sample().dtype == torch.float32
    assert single.cdf(torch.zeros(3)).dtype == torch.float32
    close(single.cdf(torch.zeros(3)), torch.full((3,), 0.5), 1e-6)
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        FromLoss(0.0, -1.0, density)
    with pytest.raises(ValueError, match="within the support"):
        single.log_prob(torch.tensor(math.nan))


# ρ -> the model it is, and its name for the location
TWINS = {
    "squares": (lambda r: r**2 / 2, models.gaussian, "mean", "sigma"),
    "absolute": (lambda r: r.abs(), models.laplace, "location", "scale"),
    "huber": (huber_rho, models.huber, "location", "scale"),
    "cauchy": (lambda r: torch.log1p(r**2), partial(models.student_t, df=1.0), "location", "scale"),
    "pinball": (pinball, partial(models.quantile, tau=0.7), "quantile", "scale"),
    # 1 / (4 cosh²(u / 2)) is the logistic density
    "log cosh": (lambda r: 2 * log_cosh(r / 2), models.logistic, "location", "scale"),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_loss_that_has_a_model_is_that_model(name):
    rho, twin, location, scale = TWINS[name]
    data = table("stackloss")
    x, y = data.drop(columns="stack_loss"), data["stack_loss"]
    ours, theirs = mle(losses.as_likelihood(rho), x, y), mle(twin, x, y)
    assert ours.converged
    assert ours.nll == pytest.approx(theirs.nll, abs=1e-9)
    assert ours.aic == pytest.approx(theirs.aic, abs=1e-9)
    close(ours.params["location.weight"], theirs.params[f"{location}.weight"], 1e-6)
    close(ours.params["scale"], theirs.params[scale], 1e-6)
    close(log_likelihood(ours, x, y), log_likelihood(theirs, x, y), 1e-5)
    errors = [summary(fit)["std_error"].to_numpy() for fit in (ours, theirs)]
    np.testing.assert_allclose(*errors, rtol=1e-5)
    q = torch.tensor(0.8, dtype=torch.float64)
    close(predict(ours, x).icdf(q), predict(theirs, x).icdf(q), 1e-5)


@pytest.mark.parametrize(
    ("data", "response", "rho"),
    [
        ("stackloss", "stack_loss", barron),
        ("phones", "calls", barron),
        ("phones", "calls", log_cosh),
        ("stackloss", "stack_loss", linex),
    ],
)
def test_the_optimum_on_real_data_is_that_of_scipy(data, response, rho):
    frame = table(data)
    x, y = frame[[c for c in frame if c not in (response, "year_c")]], frame[response].to_numpy()
    fit = mle(losses.as_likelihood(rho), x, frame[response])
    assert fit.converged
    design = np.column_stack([np.ones(len(x)), (x - x.mean()) / x.std()])
    z = scipy.integrate.quad(
        lambda u: math.exp(-float(rho(torch.tensor(u, dtype=torch.float64)))),
        -60,
        60,
        epsabs=1e-13,
        limit=500,
    )[0]

    def nll(p):
        u = (y - design @ p[:-1]) / math.exp(p[-1])
        return rho(torch.tensor(u)).sum().item() + len(y) * (p[-1] + math.log(z))

    start = np.append(np.linalg.lstsq(design, y, rcond=None)[0], math.log(y.std()))
    for _ in range(4):
        found = scipy.optimize.minimize(
            nll, start, method="Nelder-Mead", options={"maxiter": 20000, "fatol": 1e-13, "xatol": 1e-10}
        )
        start = found.x
    assert fit.nll == pytest.approx(found.fun, abs=1e-7)
    assert fit.params["scale"].item() == pytest.approx(math.exp(found.x[-1]), rel=1e-4)


@pytest.mark.parametrize("slopes", [(1.0, 1.0), (2.0, 1.0)], ids=["symmetric", "asymmetric"])
def test_a_corner_with_curvature_is_certified_where_it_is(slopes):
    """|r| and a square: no closed model has it. The optimum must beat what L-BFGS reaches from it."""
    left, right = slopes
    model = losses.as_likelihood(lambda r: torch.where(r < 0, -left * r, right * r) + 0.05 * r**2)
    data = table("stackloss")
    x, y = data.drop(columns="stack_loss"), data["stack_loss"]
    fit = mle(model, x, y)
    assert fit.converged
    assert "subgradient condition" in fit.status
    theta = fit.objective.layout.theta(fit.params)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(100):
            away = size * torch.randn(theta.shape, generator=generator, dtype=torch.float64)
            away = away * torch.tensor([1 / 60, 1 / 20, 1 / 80, 1.0, 1.0])[: len(theta)]
            assert fit.objective.value(theta + away) > fit.loss
    if left == right:
        assert (summary(fit)["std_error"] > 0).all()
    else:  # location and scale tell of each other there, and corners have no curvature to say how much
        with pytest.raises(ModelError, match=r"asymmetric.*corner"):
            covariance(fit)
        assert summary(fit)["std_error"].isna().all()


@pytest.mark.parametrize("solver", [None, LBFGS(max_steps=50), Newton(max_steps=20)], ids=str)
def test_corners_elsewhere_are_never_claimed_to_be_certified(solver):
    data = table("stackloss")
    x, y = data.drop(columns="stack_loss"), data["stack_loss"]
    with pytest.warns(ConvergenceWarning, match="`insensitive` did not converge"):
        fit = mle(losses.as_likelihood(insensitive), x, y, solver=solver)
    assert not fit.converged
    assert summary(fit)["std_error"].isna().all()
    if solver is None:
        assert "not certified" in fit.status


CORNERS = {
    "nowhere": (log_cosh, 0.0, False),
    "a knee that is smooth": (huber_rho, 0.0, False),
    "at 0": (lambda r: r.abs() + 0.1 * r**2, 1.0, False),
    "on one side of 0": (pinball, 0.5, False),
    "upwards at 0": (lambda r: r**2 - r.abs(), 0.0, False),
    "at 1/2": (insensitive, 0.0, True),
    "at an edge of the panels": (lambda r: (r.abs() - 1).clamp(min=0), 0.0, True),
    "at both": (lambda r: r.abs() + (r.abs() - 2).clamp(min=0), 1.0, True),
    "in other units": (lambda r: (r.abs() * 1e-5 - 0.5).clamp(min=0), 0.0, True),
    "a steep square": (lambda r: 1e8 * r**2, 0.0, False),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners_are_found(name):
    rho, steepness, elsewhere = CORNERS[name]
    density = normalised(rho)
    assert density.steepness == pytest.approx(steepness)
    assert density.cornered is elsewhere


def test_the_model_is_one_like_any_other(seeded):
    model = losses.as_likelihood(log_cosh)
    x, y = numbers(40, 2), numbers(40, seed=1)
    y = y + 2 * x[:, 0]
    fit = mle(model, x, y)
    assert set(fit.params) == {"location.weight", "location.bias", "scale"}
    assert map_estimate(model, x, y).loss > fit.loss
    designed = mle(model, {"location": x, "scale": x[:, :1]}, y)
    assert {"log_scale.weight", "log_scale.bias"} <= set(designed.params)
    assert designed.nll < fit.nll
    twice = mle(model, torch.cat([x, x]), torch.cat([y, y]))
    counted = mle(model, x, y, weights=torch.full((40,), 2.0))
    assert counted.nll == pytest.approx(twice.nll, abs=1e-9)
    deep = map_estimate(on_features(model, nn.Sequential(nn.Linear(2, 2), nn.Tanh())), x, y)
    assert deep.params["trunk.0.weight"].shape == (2, 2)
    drawn = pyro.infer.Predictive(model, num_samples=3)(x.float())["y"]
    assert drawn.shape == (3, 40)
    guide = Delta(flat(model))
    adam = pyro.optim.ClippedAdam({"lr": 0.2, "betas": (0.9, 0.95), "lrd": 0.97})
    svi = PyroSVI(flat(model), guide, adam, Trace_ELBO())
    history = [svi.step(x, y) for _ in range(150)]
    assert history[-1] == pytest.approx(fit.nll, abs=1e-2)


def test_bounds_and_batches_take_a_loss_of_ones_own():
    x, y = numbers(40, 2), numbers(40, seed=1)
    ours, twin = losses.as_likelihood(lambda r: torch.log1p(r**2)), partial(models.student_t, df=1.0)
    bounded = [mle(censored(model, upper=0.5), x, y.clamp(max=0.5)).nll for model in (ours, twin)]
    assert bounded[0] == pytest.approx(bounded[1], abs=1e-9)
    together = mle_batch(ours, x, torch.stack([y, 2 * y]))
    each = torch.tensor([mle(twin, x, v).nll for v in (y, 2 * y)], dtype=torch.float64)
    close(together.nll, each, 1e-8)


def test_a_perfect_fit_is_told_even_where_there_is_no_variance():
    x = numbers(20, 1)
    with pytest.raises(UnboundedLikelihoodError, match="fits every row exactly"):
        mle(losses.as_likelihood(lambda r: torch.log1p(r**2)), x, 2 * x[:, 0])


def test_the_name_of_a_loss_is_that_of_its_function():
    assert losses.as_likelihood(log_cosh).__name__ == "log_cosh"
    assert losses.as_likelihood(lambda r: r**2).__name__ == "rho"


def tukey(r):
    inside = (1 - (r / 4.685) ** 2).clamp(min=0)
    return 4.685**2 / 6 * (1 - inside**3)


TRAINED = nn.Parameter(torch.tensor(1.0))

REFUSED = {
    "bounded": (tukey, r"cannot be normalised: as r → -∞ it grows like 0 log\|r\|.*bisquare"),
    "as slow as a log": (lambda r: torch.log1p(r.abs()), r"grows like 1 log\|r\|"),
    "on one side": (lambda r: torch.where(r > 0, r**2, 0 * r), "as r → -∞ it grows like 0"),
    "downwards": (lambda r: -r, "as r → [+]∞ it grows like 0"),
    "hardly faster than a log": (lambda r: 0.51 * torch.log1p(r**2), "tails too heavy to normalise"),
    "minus infinity": (lambda r: -(r**2), "is -inf at r = "),
    "a pole at 0": (lambda r: r.abs().log(), "is -inf at r = 0"),
    "nan": (lambda r: r * math.nan, "is nan at r = 0"),
    "a domain": (lambda r: -torch.sqrt(1 - r**2), "not finite beyond r = .*A loss must be a number"),
    "a hole": (lambda r: r**2 + 0 / (r - 1), "is not finite beyond r = "),
    "a vertical slope": (lambda r: r.abs().sqrt(), "not differentiable at r = 0.*vertical slope"),
    "a root of a square": (lambda r: (r * r).sqrt(), r"not differentiable at r = 0.*r\.abs\(\)"),
    "a jump": (lambda r: r**2 / 2 + (r > 1), "is not differentiable: it jumps"),
    "steps": (lambda r: torch.floor(r.abs()) + 0 * r, "two quadratures give"),
    "a part detached": (lambda r: r.abs() * r.abs().detach(), "its gradient is not its derivative"),
    "numpy": (lambda r: torch.tensor(np.square(r.detach().numpy())), "`rho` has no gradient"),
    "reduced": (lambda r: (r**2).mean(), r"it gives float64 of shape \(\)"),
    "another type": (lambda r: r.float() ** 2, r"it gives float32 of shape \(2, 3\)"),
    "no tensor": (lambda r: [1.0], "it gives list"),
    "of all rows": (lambda r: r**2 / (1 + r.abs().max()), "depends on the others"),
    "random": (lambda r: r**2 * torch.rand(()).double(), "differs between calls"),
    "of two arguments": (nn.HuberLoss(), "it raises TypeError: .*see losses.likelihood_of"),
    "trained": (lambda r: TRAINED * r**2, "depends on tensors that require gradients"),
    "swinging": (lambda r: torch.tan(r) ** 2, "oscillates too fast"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_functions_that_are_no_loss_of_a_likelihood_are_refused(name):
    rho, reason = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelError, match=f"(?s){reason}"):
            losses.as_likelihood(rho)


def test_a_name_that_the_losses_do_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"losses.*likelihoods"):
        losses.likelihoods  # noqa: B018
