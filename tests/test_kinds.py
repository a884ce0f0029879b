"""Models of zeros, of classes and of mixtures: raw Pyro, the hand-written losses, fits of other software."""

import math
import warnings
from functools import cache, partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from reference import table
from sklearn.mixture import GaussianMixture
from table import TABLE, fast_svi

from neglog import (
    covariance,
    datasets,
    flat,
    log_likelihood,
    losses,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    summary,
    with_priors,
)
from neglog.data import prepare
from neglog.errors import (
    ConvergenceWarning,
    DataError,
    ModelError,
    SingularDesignError,
    UnboundedLikelihoodError,
)
from neglog.export import load, save
from neglog.guides import Delta
from neglog.objective.objective import Objective
from neglog.solvers import LBFGS, Newton
from neglog.tracing import positive_names, predictor_names

ESTIMATE = 1e-6
"""Of the last standard error: what other software leaves undone."""
EXACT = 1e-10
"""Relative: sums of 60 terms of order one, each rounded at 1e-16."""
ROWS, COLUMNS = 60, 3

MODELS = {
    "zero_inflated_poisson": models.zero_inflated_poisson,
    "zero_inflated_negative_binomial": models.zero_inflated_negative_binomial,
    "categorical": partial(models.categorical, classes=3),
    "ordinal": partial(models.ordinal, classes=4),
    "gaussian_mixture": partial(models.gaussian_mixture, components=3),
}
LAW = pytest.mark.parametrize("name", MODELS)
THREE = pytest.mark.parametrize("name", ["gaussian_mixture"])
"""Three components; test_models.py runs the others, and two, under raw Pyro."""
COUNTS = ("zero_inflated_poisson", "zero_inflated_negative_binomial")

pytestmark = pytest.mark.usefixtures("seeded")


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def design(rows=ROWS, columns=COLUMNS):
    return normal(rows, columns)


def params(name, columns=COLUMNS, seed=0):
    """Values of every site, on their supports."""
    one, two, three = (0.3 * normal(k, columns, seed=seed + k) for k in (1, 2, 3))
    return {
        "zero_inflated_poisson": {
            "log_rate.weight": one[0],
            "log_rate.bias": tensor(1.0),
            "zero": tensor(0.3),
        },
        "zero_inflated_negative_binomial": {
            "log_mean.weight": one[0],
            "log_mean.bias": tensor(1.5),
            "dispersion": tensor(0.4),
            "zero": tensor(0.3),
        },
        "categorical": {"logit.weight": two, "logit.bias": tensor([0.4, -0.2])},
        "ordinal": {"location.weight": one[0], "cutpoints": tensor([-1.0, 0.3, 1.1])},
        "gaussian_mixture": {
            "mean.weight": three,
            "mean.bias": tensor([-4.0, 0.5, 5.0]),
            "sigma": tensor([0.5, 1.0, 0.8]),
            "weight": tensor([0.2, 0.5, 0.3]),
        },
    }[name]


def drawn(name, rows=ROWS, columns=COLUMNS, seed=0):
    """A design, and a response that the model draws at `params`."""
    x = design(rows, columns)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return x, pyro.condition(MODELS[name], params(name, columns, seed))(x)


@cache
def fitted(name):
    return mle(MODELS[name], *drawn(name, 150))


def hand_written(name, p, x, y):
    """The summed hand-written loss."""

    def eta(predictor):
        weight = p[f"{predictor}.weight"]
        return x @ (weight if weight.dim() == 1 else weight.T) + p.get(f"{predictor}.bias", 0.0)

    if name == "categorical":
        logit = eta("logit")
        return losses.categorical_nll(
            torch.cat([torch.zeros(len(x), 1).double(), logit], 1), y, reduction="sum"
        )
    if name == "ordinal":
        return losses.ordinal_nll(eta("location"), y, p["cutpoints"], reduction="sum")
    if name == "gaussian_mixture":
        return losses.gaussian_mixture_nll(eta("mean"), y, p["weight"].log(), p["sigma"], reduction="sum")
    more = (p["dispersion"],) if "dispersion" in p else ()
    predictor = "log_mean" if more else "log_rate"
    return getattr(losses, f"{name}_nll")(eta(predictor), y, *more, torch.logit(p["zero"]), reduction="sum")


def svi_loss(model, values, *data, **keywords):
    guide = Delta(model, init_loc_fn=pyro.infer.autoguide.initialization.init_to_value(values=values))
    return Trace_ELBO().loss(model, guide, *data, **keywords)


def latent(trace):
    sites = trace.iter_stochastic_nodes()
    return {name: site["value"] for name, site in sites if name not in ("y", "rows")}


# Raw Pyro


@LAW
def test_sites_have_their_shapes_whatever_the_rows(name):
    shapes = {site: value.shape for site, value in params(name).items()}
    for rows in (10, 50):
        trace = poutine.trace(MODELS[name]).get_trace(design(rows))
        assert {site: value.shape for site, value in latent(trace).items()} == shapes
        assert [frame.name for frame in trace.nodes["y"]["cond_indep_stack"]] == ["rows"]
        assert trace.nodes["y"]["value"].shape == (rows,)


@LAW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_dtype_of_x(name, dtype):
    trace = poutine.trace(MODELS[name]).get_trace(design().to(dtype))
    assert {value.dtype for value in latent(trace).values()} | {trace.nodes["y"]["value"].dtype} == {dtype}


@LAW
def test_priors_are_proper(name):
    trace = poutine.trace(MODELS[name]).get_trace(design())
    for site in latent(trace):
        node = trace.nodes[site]
        assert torch.isfinite(node["fn"].log_prob(node["value"])).all()


@THREE
def test_runs_under_raw_svi(name):
    x, y = drawn(name)
    svi = SVI(MODELS[name], Delta(MODELS[name]), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    history = [svi.step(x, y) for _ in range(40)]
    assert np.mean(history[-10:]) < np.mean(history[:10])


@THREE
def test_runs_under_raw_nuts(name):
    x, y = drawn(name, 30, 1)
    mcmc = MCMC(NUTS(MODELS[name], max_tree_depth=4), num_samples=6, warmup_steps=6, disable_progbar=True)
    mcmc.run(x, y)
    draws = mcmc.get_samples()
    assert {site: d.shape[1:] for site, d in draws.items()} == {
        site: value.shape for site, value in params(name, 1).items()
    }
    assert all(torch.isfinite(d).all() for d in draws.values())


@LAW
@pytest.mark.parametrize("parallel", [False, True])
def test_runs_under_raw_predictive(name, parallel):
    draws = Predictive(MODELS[name], num_samples=7, parallel=parallel)(design())
    assert draws["y"].shape == (7, ROWS)
    assert torch.isfinite(draws["y"]).all()


@LAW
def test_parallel_prediction_matches_one_by_one(name):
    x, y = drawn(name, 5)
    many = [params(name, seed=s) for s in range(4)]
    batched = {site: torch.stack([p[site] for p in many]).unsqueeze(1) for site in many[0]}
    alone = [poutine.trace(pyro.condition(MODELS[name], p)).get_trace(x).nodes["y"]["fn"] for p in many]
    together = poutine.trace(pyro.condition(MODELS[name], batched)).get_trace(x).nodes["y"]["fn"]
    assert together.batch_shape == (4, 5)
    torch.testing.assert_close(together.log_prob(y), torch.stack([fn.log_prob(y) for fn in alone]))
    if name != "categorical":
        torch.testing.assert_close(together.mean, torch.stack([fn.mean for fn in alone]))
        torch.testing.assert_close(together.variance, torch.stack([fn.variance for fn in alone]))


# Losses


@LAW
def test_the_svi_loss_is_the_hand_written_one(name):
    for seed in range(3):
        (x, y), p = drawn(name, seed=seed), params(name, seed=seed + 5)
        nll = hand_written(name, p, x, y).item()
        assert svi_loss(flat(MODELS[name]), p, x, y) == pytest.approx(nll, rel=EXACT)
        objective = Objective(flat(MODELS[name]), prepare(x, y))
        assert objective.value(objective.layout.theta(p)) == pytest.approx(nll, rel=EXACT)


@LAW
def test_the_optimum_has_the_hand_written_loss_and_no_slope(name):
    x, y = drawn(name, 200)
    fit = mle(MODELS[name], x, y)
    assert fit.converged, fit.status
    assert fit.nll == pytest.approx(hand_written(name, fit.params, x, y).item(), rel=EXACT)
    assert log_likelihood(fit, x, y).sum().item() == pytest.approx(-fit.nll, rel=EXACT)
    objective = Objective(flat(MODELS[name]), prepare(x, y))
    slope = objective.gradient(objective.layout.theta(fit.params))
    assert slope.abs().max() < 1e-5
    assert np.isfinite(covariance(fit).to_numpy()).all()


@THREE
def test_map_estimates_have_a_joint_density(name):
    x, y = drawn(name)
    model = with_priors(MODELS[name], {"sigma": dist.LogNormal(tensor(0.0), tensor(1.0))})
    fit = map_estimate(model, x, y)
    assert fit.converged, fit.status
    trace = poutine.trace(pyro.condition(model, dict(fit.params))).get_trace(x, y)
    assert fit.loss == pytest.approx(-trace.log_prob_sum().item(), rel=EXACT)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
def test_cross_entropy_is_torchs(shape):
    logits = normal(*shape, 5)
    codes = torch.arange(math.prod(shape)).reshape(shape) % 5
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 5), codes.reshape(-1))
    for target in (codes, codes.double()):
        torch.testing.assert_close(losses.categorical_nll(logits, target), expected, rtol=1e-14, atol=0)
        assert losses.categorical_nll(logits, target, reduction="none").shape == shape
    torch.testing.assert_close(
        torch.nn.CrossEntropyLoss()(logits.reshape(-1, 5), codes.reshape(-1)), expected
    )


@pytest.mark.parametrize("shape", [(7,), (3, 4)], ids=str)
def test_losses_take_parameters_of_each_row(shape):
    target, location, spread = normal(*shape), normal(*shape, seed=1), normal(*shape, 3, seed=2)
    code = (torch.arange(target.numel()).reshape(shape) % 4).double()
    shared = losses.ordinal_nll(location, code, tensor([-1.0, 0.0, 2.0]), reduction="none")
    own = tensor([-1.0, 0.0, 2.0]).expand(*shape, 3)
    torch.testing.assert_close(losses.ordinal_nll(location, code, own, reduction="none"), shared)
    sigma, logits = tensor([0.5, 1.0, 2.0]), tensor([0.0, 1.0, -1.0])
    shared = losses.gaussian_mixture_nll(spread, target, logits, sigma, reduction="none")
    own = losses.gaussian_mixture_nll(
        spread, target, logits.expand(*shape, 3), sigma.expand(*shape, 3), reduction="none"
    )
    torch.testing.assert_close(own, shared)
    assert shared.shape == shape
    for loss, more in (
        (losses.zero_inflated_poisson_nll, ()),
        (losses.zero_inflated_negative_binomial_nll, (0.5,)),
    ):
        scalar = loss(location, code, *more, 0.3, reduction="none")
        each = loss(location, code, *more, torch.full(shape, 0.3).double(), reduction="none")
        torch.testing.assert_close(scalar, each, rtol=1e-7, atol=0)  # 0.3 in float32
        assert scalar.shape == shape


def test_gradients_reach_every_argument():
    code = tensor([0.0, 1.0, 2.0, 1.0])
    location, cuts = normal(4).requires_grad_(), tensor([-1.0, 0.5]).requires_grad_()
    logits, mean = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    sigma = tensor([0.5, 1.0, 2.0]).requires_grad_()
    zero, dispersion = tensor(0.3).requires_grad_(), tensor(0.7).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda a: losses.categorical_nll(a, code), logits)
    assert check(lambda a, b: losses.ordinal_nll(a, code, b), (location, cuts))
    assert check(lambda a, b, c: losses.gaussian_mixture_nll(a, code, b, c), (mean, logits, sigma))
    assert check(lambda a, b: losses.zero_inflated_poisson_nll(a, code, b), (location, zero))
    assert check(
        lambda a, b, c: losses.zero_inflated_negative_binomial_nll(a, code, b, c),
        (location, dispersion, zero),
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.categorical_nll(normal(5, 3), torch.zeros(4)),
            r"`logits` has shape \(5, 3\).*\(4, K\)",
        ),
        (lambda: losses.categorical_nll(normal(3), torch.zeros(4)), r"must have the shape \(4, K\), K at"),
        (lambda: losses.categorical_nll(normal(4, 0), torch.zeros(4)), "K at least 1"),
        (lambda: losses.categorical_nll(normal(2, 3), tensor([0.0, 3.0])), "code 0, ..., 2 .* not 3"),
        (lambda: losses.categorical_nll(normal(2, 3), tensor([0.0, 0.5])), "code 0, ..., 2 .* not 0.5"),
        (lambda: losses.categorical_nll(normal(2, 3), tensor([0.0, math.nan])), "not nan"),
        (lambda: losses.categorical_nll(normal(2, 3), torch.tensor([-1, 0])), "not -1"),
        (lambda: losses.categorical_nll(normal(2, 3), [0.0, 1.0]), "`target` must be a torch.Tensor"),
        (lambda: losses.categorical_nll(torch.zeros(2, 3).int(), torch.zeros(2)), "floating-point dtype"),
        (lambda: losses.ordinal_nll(normal(2, 1), torch.zeros(2), normal(2)), r"`location.squeeze\(-1\)`"),
        (lambda: losses.ordinal_nll(normal(2), torch.zeros(2), normal(3, 2)), r"\(2, K\) or \(K,\)"),
        (lambda: losses.ordinal_nll(normal(2), tensor([0.0, 3.0]), normal(2)), "one of 3 classes, not 3"),
        (lambda: losses.gaussian_mixture_nll(normal(3), normal(4), normal(3), normal(3)), "`mean` has shape"),
        (
            lambda: losses.gaussian_mixture_nll(normal(4, 3), normal(4), normal(2), normal(3)),
            "`logits` has 2 components and `mean` has 3",
        ),
        (
            lambda: losses.gaussian_mixture_nll(normal(4, 3), normal(4), normal(3), normal(5, 3)),
            r"`sigma` has shape \(5, 3\)",
        ),
        (
            lambda: losses.zero_inflated_poisson_nll(normal(4), torch.zeros(4).double(), normal(3)),
            "`logit_zero` has shape",
        ),
        (
            lambda: losses.zero_inflated_poisson_nll(normal(4), torch.zeros(4).double(), math.inf),
            "`logit_zero` must be a finite number",
        ),
    ],
)
def test_losses_refuse_what_does_not_fit(call, message):
    with pytest.raises(DataError, match=message):
        call()


# Fits of other software


def check(fit, expected, loglik, errors=None):
    assert fit.converged, fit.status
    assert -fit.nll == pytest.approx(loglik, abs=1e-8)
    matrix = covariance(fit)
    ours = dict(zip(matrix.index, np.sqrt(np.diag(matrix)), strict=True))
    flat_errors = list(ours.values())
    found = torch.cat([fit.params[site].reshape(-1) for site in fit.objective.sites])
    np.testing.assert_allclose(found, expected, rtol=0, atol=ESTIMATE * min(flat_errors))
    if errors is not None:
        np.testing.assert_allclose(flat_errors, errors, rtol=2e-6)


# statsmodels 0.15, ZeroInflatedPoisson and ZeroInflatedNegativeBinomialP (p = 2), whose optimiser stops 1e-7
# from the parameters.
SCHOOL = ("Eth_N", "Sex_M", "Lrn_SL")
ZIP = [-0.45415743438269984, 0.22642700541216576, 0.132351088386134, 2.9033329998563335]
ZIP_SEX = [-0.45415777478840713, 0.22642746851929185, 0.13235060313907854, 2.9033329814221145]
ZINB = [-0.5381832358000922, 0.2393429894775672, 0.07406219791637172, 2.9216098106428583, 0.7763778368499482]


def quine():
    data = table("quine")
    return data[list(SCHOOL)], data["Days"], data[["Sex_M"]]


def test_zero_inflated_poisson_meets_statsmodels():
    x, days, sex = quine()
    fit = mle(models.zero_inflated_poisson, x, days)
    zero = 1 / (1 + math.exp(2.7227667154519635))
    check(fit, [*ZIP, zero], -1131.9920473384204)
    both = mle(models.zero_inflated_poisson, {"log_rate": x, "zero": sex}, days)
    errors = [0.041840868691088176, 0.0413373450695147, 0.04149503986407286, 0.039850523523003285]
    errors += [0.7277888382508206, 0.5885082627384515]
    check(
        both,
        [*ZIP_SEX, 0.9426366296018364, -3.245225575897348],
        -1131.097120310075,
        errors,
    )
    # The score of `zero`: the zeros that are expected to be of the other origin are their share of all rows.
    of_zero = predict(fit, x).log_prob(tensor(0.0)).exp()[days.to_numpy() == 0]
    assert (fit.params["zero"] / of_zero).sum() == pytest.approx(
        len(days) * fit.params["zero"].item(), rel=1e-8
    )


def test_zero_inflated_negative_binomial_meets_statsmodels():
    x, days, _ = quine()
    fit = mle(models.zero_inflated_negative_binomial, x, days)
    assert fit.converged
    assert -fit.nll == pytest.approx(-552.0094561794286, abs=1e-9)
    found = [*fit.params["log_mean.weight"].tolist(), fit.params["log_mean.bias"], fit.params["dispersion"]]
    np.testing.assert_allclose(found, ZINB, atol=1e-6)
    assert torch.logit(fit.params["zero"]).item() == pytest.approx(-3.8312223880353673, abs=1e-5)


def test_exposure_multiplies_the_mean():
    x, days, _ = quine()
    for model, predictor in (
        (models.zero_inflated_poisson, "log_rate"),
        (models.zero_inflated_negative_binomial, "log_mean"),
    ):
        once, thrice = mle(model, x, days), mle(model, x, days, exposure=np.full(len(days), 3.0))
        assert thrice.nll == pytest.approx(once.nll, rel=1e-12)
        shift = once.params[f"{predictor}.bias"] - thrice.params[f"{predictor}.bias"]
        assert shift.item() == pytest.approx(math.log(3), rel=1e-8)


# statsmodels 0.15, MNLogit and OrderedModel(distr="logit"), on the rows written out.
MULTINOMIAL = [
    0.4463958928215823, 0.6649353277114357, -0.4356886990880043, 0.13137030246982204, -0.6665704576353135,
    0.3608518826432925, 0.7348632192628816, 1.612631066117854, -0.7356317401001478, -0.40797808632792937,
    -1.4123276842072134, 0.4818270026221178, -0.41922874117925774, -0.1387427589953618,
]  # fmt: skip
MULTINOMIAL_ERRORS = [
    0.14155731027114501, 0.18633752484163035, 0.17253286748783944, 0.2231067121449352, 0.20625332922816622,
    0.13239755266714964, 0.13693797587470838, 0.16713170955761197, 0.15527143041145997, 0.21149662167908853,
    0.20014943849162747, 0.12413706539705861, 0.17293453284983225, 0.15922956846730177,
]  # fmt: skip
CUMULATIVE = [
    0.5663937381853625, 1.2888191108929652, -0.5723500019059286, -0.3661863719604209, -1.0910146591237535,
    0.36028400468121113, -0.4961351382070128, 0.6907082597413315,
]  # fmt: skip
CUMULATIVE_ERRORS = [
    0.10465278385949438, 0.12715614542743733, 0.11923795798605767, 0.15517323560801688, 0.15148596787701485,
    0.09553578608108303, 0.12484721042539614,
]  # fmt: skip


def housing():
    data = table("housing")
    return data.drop(columns=["Sat", "Freq"]), data["Sat"], data["Freq"]


def test_the_multinomial_logit_meets_statsmodels():
    x, satisfaction, count = housing()
    fit = mle(models.categorical, x, satisfaction, weights=count)
    check(fit, MULTINOMIAL, -1735.041933170561, MULTINOMIAL_ERRORS)
    assert fit.k == 14
    assert fit.n == 1681
    # The score of the intercepts: fitted and observed shares of each class are the same.
    probs = torch.tensor(count.to_numpy()) @ predict(fit, x).probs
    observed = [count[satisfaction == k].sum() for k in range(3)]
    np.testing.assert_allclose(probs, observed, rtol=1e-9)


def test_the_cumulative_logit_meets_statsmodels_and_polr():
    x, satisfaction, count = housing()
    fit = mle(models.ordinal, x, satisfaction, weights=count)
    assert fit.converged
    assert -fit.nll == pytest.approx(-1739.5746495294743, abs=1e-8)
    found = [*fit.params["location.weight"].tolist(), *fit.params["cutpoints"].tolist()]
    np.testing.assert_allclose(found, CUMULATIVE, atol=2e-9)  # its derivatives are differences
    errors = np.sqrt(np.diag(covariance(fit)))
    np.testing.assert_allclose(errors[:7], CUMULATIVE_ERRORS, rtol=1e-6)
    assert 2 * fit.nll == pytest.approx(3479.149, abs=5e-4)  # the residual deviance that `polr` prints


def test_classes_that_are_read_are_bound():
    x, satisfaction, count = housing()
    read = mle(models.ordinal, x, satisfaction, weights=count)
    bound = mle(partial(models.ordinal, classes=3), x, satisfaction, weights=count)
    assert read.nll == bound.nll
    assert predict(read, x).probs.shape == (72, 3)
    torch.testing.assert_close(predict(read, x).probs.sum(-1), torch.ones(72).double())


@LAW
def test_a_saved_fit_predicts_as_it_did(name, tmp_path):
    x, y = drawn(name, 150)
    fit = mle(getattr(models, name), x, y)
    again = load(save(fit, tmp_path / "model"))
    assert torch.equal(predict(again, x).log_prob(y), predict(fit, x).log_prob(y))
    assert len(summary(again)) == len(summary(fit))


@pytest.mark.parametrize(
    ("name", "solver"),
    [(name, LBFGS()) for name in MODELS] + [("categorical", fast_svi(200, last=1e-5))],
)
def test_every_solver_ends_at_the_same_optimum(name, solver):
    x, y = drawn(name, 150)
    fit, other = fitted(name), mle(MODELS[name], x, y, solver=solver)
    assert other.converged, other.status
    assert other.nll == pytest.approx(fit.nll, abs=1e-7)
    for site, value in fit.params.items():
        torch.testing.assert_close(other.params[site], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("column", "components"), [("Petal_Width", 2), ("Petal_Length", 3)])
def test_a_mixture_without_columns_is_scikit_learns(column, components):
    y = table("iris")[[column]]
    theirs = GaussianMixture(components, tol=1e-14, max_iter=100_000, reg_covar=0, random_state=0).fit(y)
    model = partial(models.gaussian_mixture, components=components)
    fit = mle(model, np.empty((len(y), 0)), y[column])
    assert fit.converged, fit.status
    if components == 2:
        assert -fit.nll == pytest.approx(theirs.score(y) * len(y), abs=1e-7)
        np.testing.assert_allclose(
            fit.params["mean.bias"].sort().values, np.sort(theirs.means_[:, 0]), rtol=1e-5
        )
    else:  # theirs ends at a lower optimum, from any of 20 starts
        assert -fit.nll > theirs.score(y) * len(y) + 0.5
    # Expectation maximisation creeps: where it ends it is 1e-6 off, while from our optimum it does not move.
    start = {
        "means_init": fit.params["mean.bias"].reshape(-1, 1).numpy(),
        "weights_init": fit.params["weight"].numpy(),
        "precisions_init": fit.params["sigma"].pow(-2).reshape(-1, 1, 1).numpy(),
    }
    again = GaussianMixture(components, tol=1e-14, reg_covar=0, **start).fit(y)
    np.testing.assert_allclose(fit.params["mean.bias"], again.means_[:, 0], rtol=1e-8)
    np.testing.assert_allclose(fit.params["sigma"], np.sqrt(again.covariances_[:, 0, 0]), rtol=1e-8)
    np.testing.assert_allclose(fit.params["weight"], again.weights_, rtol=1e-8)


def expectation_maximisation(x, y, mean, sigma, steps=5000):
    """Dempster, Laird & Rubin (1977) for a mixture of lines; `mean` `(N, K)` is where it starts."""
    design = np.column_stack([np.ones(len(y)), x])
    weight = np.full(mean.shape[1], 1 / mean.shape[1])
    for _ in range(steps):
        parts = np.log(weight / sigma) - 0.5 * ((y[:, None] - mean) / sigma) ** 2 - 0.5 * np.log(2 * np.pi)
        total = np.logaddexp.reduce(parts, axis=1)
        share = np.exp(parts - total[:, None])
        lines = [np.linalg.lstsq(design * w[:, None] ** 0.5, y * w**0.5, rcond=None)[0] for w in share.T]
        mean = design @ np.stack(lines, axis=1)
        sigma = np.sqrt((share * (y[:, None] - mean) ** 2).sum(0) / share.sum(0))
        weight = share.mean(0)
    return total.sum(), np.stack(lines, axis=1), sigma, weight


def test_a_mixture_of_lines_is_that_of_expectation_maximisation():
    data = table("iris")
    x, y = data["Sepal_Length"].to_numpy(), data["Sepal_Width"].to_numpy()
    start = np.quantile(y, [0.25, 0.75]) + np.zeros((len(y), 1))
    total, lines, sigma, weight = expectation_maximisation(x, y, start, np.full(2, y.std() / 2))
    fit = mle(models.gaussian_mixture, x[:, None], y)
    assert fit.converged, fit.status
    assert -fit.nll == pytest.approx(total, abs=1e-8)
    np.testing.assert_allclose(fit.params["mean.bias"], lines[0], rtol=1e-5)
    np.testing.assert_allclose(fit.params["mean.weight"][:, 0], lines[1], rtol=1e-5)
    np.testing.assert_allclose(fit.params["sigma"], sigma, rtol=1e-6)
    np.testing.assert_allclose(fit.params["weight"], weight, rtol=1e-6)


# Designs, networks, starts


def test_every_parameter_may_have_a_design():
    x, y = drawn("gaussian_mixture", 300, 1)
    empty = {"mean": x, "sigma": x[:, :0], "weight": x[:, :0]}
    same = mle(models.gaussian_mixture, empty, y)
    constant = mle(models.gaussian_mixture, x, y)
    assert same.nll == pytest.approx(constant.nll, rel=1e-9)
    torch.testing.assert_close(
        same.params["log_sigma.bias"].exp(), constant.params["sigma"], rtol=1e-6, atol=0
    )
    shares = torch.softmax(torch.cat([torch.zeros(1).double(), same.params["logit_weight.bias"]]), 0)
    torch.testing.assert_close(shares, constant.params["weight"], rtol=1e-6, atol=0)
    all_of_them = mle(partial(models.gaussian_mixture, components=3), dict.fromkeys(empty, x), y)
    assert all_of_them.converged, all_of_them.status
    assert all_of_them.nll < constant.nll
    shapes = {site: tuple(value.shape) for site, value in all_of_them.params.items()}
    assert shapes == {
        "mean.weight": (3, 1), "mean.bias": (3,), "log_sigma.weight": (3, 1), "log_sigma.bias": (3,),
        "logit_weight.weight": (2, 1), "logit_weight.bias": (2,),
    }  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_a_design_without_columns_is_a_constant_share_of_zeros(name):
    x, y = drawn(name, 300)
    location = next(iter(params(name))).removesuffix(".weight")
    constant, empty = mle(MODELS[name], x, y), mle(MODELS[name], {location: x, "zero": x[:, :0]}, y)
    assert empty.nll == pytest.approx(constant.nll, rel=1e-10)
    assert empty.params["logit_zero.bias"].sigmoid().item() == pytest.approx(
        constant.params["zero"].item(), rel=1e-6
    )


@LAW
def test_a_network_may_stand_in_front(name):
    x, y = drawn(name)
    trunk = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double()
    model = with_priors(MODELS[name], {})
    net = on_features(model, trunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = map_estimate(net, x, y, solver=LBFGS(max_steps=15))
    assert math.isfinite(fit.loss)
    assert predict(fit, x).log_prob(y).shape == (ROWS,)


def test_components_begin_apart_in_the_units_of_y():
    x, y = design(90, 1), 70 + 13 * normal(90)
    objective = Objective(flat(partial(models.gaussian_mixture, components=3)), prepare(x, y))
    begin = objective.layout.params(objective.initial)
    torch.testing.assert_close(begin["mean.bias"], y.sort().values[[14, 44, 74]])
    torch.testing.assert_close(begin["sigma"], y.std(correction=0) / 3 * tensor([1.0, 1.05, 1.1]))
    model = {"mean": x, "sigma": x}
    other = Objective(flat(models.gaussian_mixture), prepare(model, y))
    torch.testing.assert_close(
        other.layout.params(other.initial)["log_sigma.bias"].exp(),
        y.std(correction=0) / 2 * tensor([1.0, 1.1]),
    )
    # Where they begin alike, they stay so: a stationary point that is no optimum.
    alike = {
        "mean.bias": y.mean().expand(2),
        "sigma": y.std(correction=0).expand(2),
        "weight": tensor([0.5, 0.5]),
    }
    saddle = Objective(flat(models.gaussian_mixture), prepare(x[:, :0], y))
    theta = saddle.layout.theta({"mean.weight": torch.empty(2, 0), **alike})
    assert saddle.gradient(theta).abs().max() < 1e-10
    assert torch.linalg.eigvalsh(saddle.hessian(theta))[0] < 1e-8


def test_weights_count_where_components_begin():
    x, y = design(90, 1), normal(90)
    weights = torch.arange(90) % 3
    index = torch.repeat_interleave(torch.arange(90), weights)
    model = flat(partial(models.gaussian_mixture, components=3))
    weighted = Objective(model, prepare(x, y, weights=weights))
    repeated, plain = Objective(model, prepare(x[index], y[index])), Objective(model, prepare(x, y))
    torch.testing.assert_close(weighted.initial, repeated.initial, rtol=1e-12, atol=1e-12)
    assert (weighted.initial - plain.initial).abs().max() > 0.01


def test_a_start_decides_which_optimum_and_which_order():
    y = table("iris")["Petal_Length"]
    x = np.empty((len(y), 0))
    fit = mle(models.gaussian_mixture, x, y)
    assert (fit.params["mean.bias"].diff() > 0).all()
    turned = mle(models.gaussian_mixture, x, y, start={"mean.bias": tensor([5.0, 1.5])})
    assert turned.nll == pytest.approx(fit.nll, rel=1e-10)
    torch.testing.assert_close(turned.params["mean.bias"].flip(0), fit.params["mean.bias"], rtol=1e-7, atol=0)


def test_rescaling_the_response_rescales_the_components():
    x, y = drawn("gaussian_mixture", 300, 1)
    fit, large = (
        mle(MODELS["gaussian_mixture"], x, scale * y + shift) for scale, shift in ((1, 0), (1e6, 1e7))
    )
    torch.testing.assert_close(large.params["sigma"], 1e6 * fit.params["sigma"], rtol=1e-6, atol=0)
    torch.testing.assert_close(large.params["weight"], fit.params["weight"], rtol=1e-6, atol=0)
    assert large.nll == pytest.approx(fit.nll + 300 * math.log(1e6), rel=1e-9)


def test_reversing_the_classes_turns_the_signs():
    x, y = drawn("ordinal", 300)
    fit, back = mle(MODELS["ordinal"], x, y), mle(MODELS["ordinal"], x, 3 - y)
    assert back.nll == pytest.approx(fit.nll, rel=1e-10)
    torch.testing.assert_close(
        back.params["location.weight"], -fit.params["location.weight"], rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(
        back.params["cutpoints"], -fit.params["cutpoints"].flip(0), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", ["categorical", "ordinal"])
def test_two_classes_are_a_logistic_regression(name):
    x = design(200)
    y = (x[:, 0] + normal(200, seed=1) > 0.3).double()
    fit, logistic = mle(getattr(models, name), x, y), mle(models.bernoulli, x, y)
    assert fit.nll == pytest.approx(logistic.nll, rel=1e-10)
    weight = fit.params["logit.weight" if name == "categorical" else "location.weight"].reshape(-1)
    torch.testing.assert_close(weight, logistic.params["logit.weight"], rtol=1e-6, atol=1e-8)
    bias = fit.params["logit.bias"] if name == "categorical" else -fit.params["cutpoints"]
    torch.testing.assert_close(bias[0], logistic.params["logit.bias"], rtol=1e-6, atol=1e-8)


def test_names_of_predictors_and_of_constants_with_a_design():
    named = {
        name: (predictor_names(getattr(models, name)), positive_names(getattr(models, name)))
        for name in MODELS
    }
    assert named == {
        "zero_inflated_poisson": (("log_rate",), ("zero",)),
        "zero_inflated_negative_binomial": (("log_mean",), ("dispersion", "zero")),
        "categorical": (("logit",), ()),
        "ordinal": (("location",), ()),
        "gaussian_mixture": (("mean",), ("sigma", "weight")),
    }


# What has no answer


@pytest.mark.parametrize("model", [models.categorical, models.ordinal], ids=["categorical", "ordinal"])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 0.5, 1.0], "row 1 has y = 0.5"),
        ([0.0, -1.0, 1.0], "row 1 has y = -1"),
        ([0.0, 1.0, 9.0], "row 2 has y = 9"),
        ([0.0, 0.0, 0.0], "at least 2 classes"),
    ],
)
def test_what_are_no_classes(model, y, message):
    with pytest.raises(DataError, match=message):
        mle(model, torch.empty(3, 0), tensor(y))


def test_codes_with_a_gap_are_no_classes_of_the_bare_model():
    with pytest.raises(DataError, match="no row has y = 1"):
        models.categorical.sizes["classes"](tensor([0.0, 2.0, 2.0]))


def test_classes_that_are_missing_may_be_bound():
    y = tensor([0.0, 2.0, 2.0, 0.0])
    with pytest.raises(UnboundedLikelihoodError, match=r"`logit\[1\]` of Intercept → -∞"):
        mle(partial(models.categorical, classes=3), torch.empty(4, 0), y)
    with pytest.raises(
        UnboundedLikelihoodError, match=r"distance of `cutpoints\[1\]` from the one below → 0"
    ):
        mle(partial(models.ordinal, classes=3), torch.empty(4, 0), y)
    fit = map_estimate(partial(models.categorical, classes=3), torch.empty(4, 0), y)
    assert fit.converged
    assert predict(fit, torch.empty(1, 0)).probs.shape == (1, 3)
    with pytest.raises(DataError, match="a whole number from 0 to 1; 2 of 4 do not: row 1 has y = 2"):
        mle(partial(models.ordinal, classes=2), torch.empty(4, 0), y)


def test_entries_that_are_missing_say_nothing_of_the_classes():
    assert models.categorical.sizes["classes"](tensor([0.0, math.nan, 2.0, 1.0])) == 3


@pytest.mark.parametrize("model", [models.categorical, models.ordinal], ids=["categorical", "ordinal"])
def test_numbers_of_classes_that_are_none(model):
    with pytest.raises(ModelError, match="has no `y` to read `classes` from"):
        model(design())
    for classes in (1, 2.5):
        with pytest.raises(ModelError, match="whole number of classes, at least 2"):
            model(design(), classes=classes)


@pytest.mark.parametrize("components", [1, 0, 2.0, None])
def test_numbers_of_components_that_are_none(components):
    with pytest.raises(ModelError, match=r"`components`.* 2"):
        models.gaussian_mixture(design(), components=components)


@pytest.mark.parametrize("model", [models.categorical, models.ordinal], ids=["categorical", "ordinal"])
def test_separated_classes_have_no_maximum(model):
    x = torch.arange(9.0, dtype=torch.float64)[:, None]
    with pytest.raises(UnboundedLikelihoodError, match="of x0 → "):
        mle(model, x, torch.arange(9.0, dtype=torch.float64) // 3)


@pytest.mark.parametrize("name", COUNTS)
def test_zeros_that_are_too_few_end_at_the_border(name):
    counts = tensor([1.0, 2.0, 3.0, 2.0, 3.0, 15.0, 1.0, 22.0])
    with pytest.warns(ConvergenceWarning, match="`zero` → 0"):
        fit = mle(MODELS[name], torch.empty(8, 0), counts)
    assert not fit.converged
    base = models.poisson if name == "zero_inflated_poisson" else models.negative_binomial
    assert fit.nll == pytest.approx(mle(base, torch.empty(8, 0), counts).nll, rel=1e-8)


def test_a_component_that_falls_on_tied_rows_is_told():
    y = torch.cat([10 + normal(40), torch.zeros(20).double()])
    with pytest.raises(UnboundedLikelihoodError, match=r"fits 20 of 60 rows exactly \(row 40: y = 0\)"):
        mle(models.gaussian_mixture, torch.empty(60, 0), y, solver=Newton())
    with pytest.raises(UnboundedLikelihoodError, match="no maximum"):
        mle(models.gaussian_mixture, torch.empty(60, 0), y)
    model = with_priors(models.gaussian_mixture, {"sigma": dist.LogNormal(tensor(0.0), tensor(1.0))})
    fit = map_estimate(model, torch.empty(60, 0), y)
    assert fit.converged, fit.status
    assert fit.params["weight"][0].item() == pytest.approx(1 / 3, abs=0.01)


def test_data_frames_and_integers_serve_as_classes():
    y = np.array([0, 1, 1, 2])
    fit = mle(models.categorical, np.empty((4, 0)), y)
    same = mle(models.categorical, np.empty((4, 0)), pd.Series(y))
    assert fit.nll == same.nll == pytest.approx(6 * math.log(2), rel=1e-12)


def test_partial_separation_of_classes_is_told():
    # Setosa's petals are apart from all others; the two other kinds overlap.
    iris = datasets.load("iris")
    kind = iris["versicolor"] + 2 * iris["virginica"]
    with pytest.raises(UnboundedLikelihoodError, match=r"`logit\[1\]` of petal_width → \+∞"):
        mle(models.categorical, iris[["petal_length", "petal_width"]], kind)


def test_a_constant_column_cannot_be_told_from_the_cutpoints():
    x, y = TABLE["ordinal"].sample()
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    with pytest.raises(SingularDesignError, match=r"`location` of x3 .*cutpoints.*Leave one of these"):
        mle(models.ordinal, x, y)
