"""The losses: SciPy's densities, the dictionary between losses and likelihoods, and the refusals."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import Lasso, Ridge

from neglog import losses
from neglog.errors import DataError

ROUNDING = 1e-12  # float64, sums of a few dozen terms of order 1
SCALES = st.floats(1e-3, 1e3)

# function, name of the prediction, name of the scale (None for the losses without one)
LOSSES = [
    pytest.param(losses.mse, "prediction", None, id="mse"),
    pytest.param(losses.mae, "prediction", None, id="mae"),
    pytest.param(losses.gaussian_nll, "mean", "sigma", id="gaussian_nll"),
    pytest.param(losses.laplace_nll, "median", "scale", id="laplace_nll"),
    pytest.param(losses.heteroscedastic_nll, "mean", "log_variance", id="heteroscedastic_nll"),
    pytest.param(losses.logistic_nll, "location", "scale", id="logistic_nll"),
]
WITH_SCALE = [case for case in LOSSES if case.values[2]]


def call(loss, scale, prediction, target, value=1.5, **keywords):
    """Any of the losses, with its scale where it has one."""
    return loss(prediction, target, *([] if scale is None else [value]), **keywords)


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=ROUNDING, atol=ROUNDING)


# --- Values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
def test_squared_and_absolute_errors(shape):
    prediction, target = numbers(*shape), numbers(*shape, seed=1)
    residual = target.numpy() - prediction.numpy()
    close(losses.mse(prediction, target, reduction="none"), torch.as_tensor(residual**2))
    close(losses.mae(prediction, target, reduction="none"), torch.as_tensor(np.abs(residual)))


SCALE_SHAPES = {
    "number": lambda shape: 0.7,
    "integer": lambda shape: 2,
    "numpy number": lambda shape: np.float64(0.7),
    "scalar tensor": lambda shape: torch.tensor(0.7, dtype=torch.float64),
    "one per row": lambda shape: numbers(*shape, seed=2).exp(),
}


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
@pytest.mark.parametrize("scale", SCALE_SHAPES.values(), ids=SCALE_SHAPES.keys())
def test_likelihoods_are_those_of_scipy(shape, scale):
    prediction, target, scale = numbers(*shape), 3 * numbers(*shape, seed=1), scale(shape)

    def minus_logpdf(distribution, width):
        return torch.as_tensor(-distribution.logpdf(target.numpy(), prediction.numpy(), np.asarray(width)))

    close(
        losses.gaussian_nll(prediction, target, scale, reduction="none"),
        minus_logpdf(stats.norm, scale),
    )
    close(
        losses.laplace_nll(prediction, target, scale, reduction="none"),
        minus_logpdf(stats.laplace, scale),
    )
    close(
        losses.heteroscedastic_nll(prediction, target, scale, reduction="none"),
        minus_logpdf(stats.norm, np.exp(np.asarray(scale) / 2)),
    )


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
def test_reductions(loss, name, scale):
    prediction, target = numbers(3, 4), numbers(3, 4, seed=1)
    each = call(loss, scale, prediction, target, reduction="none")
    assert each.shape == target.shape
    close(call(loss, scale, prediction, target, reduction="sum"), each.sum())
    close(call(loss, scale, prediction, target, reduction="mean"), each.sum() / 12)
    close(call(loss, scale, prediction, target), each.mean())


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
def test_nothing_sums_to_zero(loss, name, scale):
    nothing = torch.empty(0)
    assert call(loss, scale, nothing, nothing, reduction="sum") == 0
    assert call(loss, scale, nothing, nothing, reduction="none").shape == (0,)


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_the_dtype_of_the_data_is_kept(loss, name, scale, shape, dtype):
    prediction, target = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
    assert call(loss, scale, prediction, target).dtype == dtype


@pytest.mark.parametrize("sigma", [1e-12, 1e12])
def test_nothing_is_clamped(sigma):
    # At a residual of one sigma the density is exp(-1/2) / (sqrt(2 pi) sigma), however small sigma is.
    expected = torch.tensor(0.5 + 0.5 * math.log(2 * math.pi) + math.log(sigma), dtype=torch.float64)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.full((1,), sigma, dtype=torch.float64)
    close(losses.gaussian_nll(zero, one, sigma), expected)
    close(losses.gaussian_nll(zero, one, one), expected)
    close(losses.heteroscedastic_nll(zero, one, 2 * math.log(sigma)), expected)
    close(losses.laplace_nll(zero, one, sigma), torch.tensor(1 + math.log(2 * sigma), dtype=torch.float64))


def test_heteroscedastic_is_gaussian_at_its_own_sigma():
    mean, target, log_variance = numbers(50), numbers(50, seed=1), 3 * numbers(50, seed=2)
    for reduction in ("none", "mean", "sum"):
        close(
            losses.heteroscedastic_nll(mean, target, log_variance, reduction=reduction),
            losses.gaussian_nll(mean, target, (log_variance / 2).exp(), reduction=reduction),
        )


POSITIVE = pytest.mark.parametrize(
    ("loss", "name", "scale", "logpdf"),
    [
        (losses.lognormal_nll, "log_median", "sigma",
         lambda e, y, s: stats.lognorm.logpdf(y, s, scale=np.exp(e))),
        (losses.weibull_nll, "log_scale", "shape",
         lambda e, y, k: stats.weibull_min.logpdf(y, k, scale=np.exp(e))),
        (losses.inverse_gaussian_nll, "log_mean", "dispersion",
         lambda e, y, d: stats.invgauss.logpdf(y, np.exp(e) * d, scale=1 / np.asarray(d))),
    ],
    ids=["lognormal_nll", "weibull_nll", "inverse_gaussian_nll"],
)  # fmt: skip


@POSITIVE
@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
@pytest.mark.parametrize("width", SCALE_SHAPES.values(), ids=SCALE_SHAPES.keys())
def test_likelihoods_of_positive_targets_are_those_of_scipy(loss, name, scale, logpdf, shape, width):
    prediction, target, width = numbers(*shape), numbers(*shape, seed=1).exp(), width(shape)
    expected = torch.as_tensor(-logpdf(prediction.numpy(), target.numpy(), np.asarray(width)))
    each = loss(prediction, target, width, reduction="none")
    close(each, expected)
    assert each.shape == target.shape
    close(loss(prediction, target, width), each.mean())
    assert loss(prediction.float(), target.float(), 0.7).dtype == torch.float32


@POSITIVE
def test_losses_of_positive_targets_broadcast_nothing(loss, name, scale, logpdf):
    with pytest.raises(DataError, match=rf"`{name}` has shape \(5, 1\).*Pass `{name}\.squeeze\(-1\)`"):
        loss(torch.zeros(5, 1), torch.ones(5), 1.0)
    with pytest.raises(DataError, match=rf"`{scale}` has shape \(1,\) and `target` has shape \(5,\)"):
        loss(torch.zeros(5), torch.ones(5), torch.ones(1))
    with pytest.raises(DataError, match=rf"`{scale}`.* -1"):
        loss(torch.zeros(5), torch.ones(5), -1.0)


def test_the_ends_of_what_a_float_holds():
    far = torch.tensor([-1e300, 1e300], dtype=torch.float64)
    close(losses.logistic_nll(torch.zeros_like(far), far, 1.0, reduction="none"), far.abs())
    # At the mean (target / mean - 1)² is 0 whatever their size, though mean² is no number.
    log_mean = torch.tensor([-600.0, 600.0], dtype=torch.float64)
    expected = 1.5 * log_mean + 0.5 * math.log(2 * math.pi)
    close(losses.inverse_gaussian_nll(log_mean, log_mean.exp(), 1.0, reduction="none"), expected)


def test_gaussian_nll_is_that_of_torch_with_its_constant():
    mean, target, sigma = numbers(50), numbers(50, seed=1), numbers(50, seed=2).exp()
    for reduction in ("none", "mean", "sum"):
        close(
            losses.gaussian_nll(mean, target, sigma, reduction=reduction),
            torch.nn.functional.gaussian_nll_loss(
                mean, target, sigma.square(), full=True, reduction=reduction
            ),
        )


@given(width=SCALES)
def test_the_dictionary_between_losses_and_likelihoods(width):
    prediction, target = numbers(20), numbers(20, seed=1)
    gaussian = losses.gaussian_nll(prediction, target, width)
    laplace = losses.laplace_nll(prediction, target, width)
    close(
        gaussian,
        losses.mse(prediction, target) / (2 * width**2) + math.log(width) + 0.5 * math.log(2 * math.pi),
    )
    close(laplace, losses.mae(prediction, target) / width + math.log(2 * width))


def test_the_smallest_likelihood_losses_are_functions_of_mse_and_mae():
    prediction, target = numbers(20), numbers(20, seed=1)
    mse, mae = losses.mse(prediction, target), losses.mae(prediction, target)
    smallest = losses.gaussian_nll(prediction, target, mse.sqrt())
    close(smallest, (1 + torch.log(2 * math.pi * mse)) / 2)
    assert smallest < min(
        losses.gaussian_nll(prediction, target, factor * mse.sqrt()) for factor in (0.99, 1.01)
    )
    smallest = losses.laplace_nll(prediction, target, mae)
    close(smallest, 1 + torch.log(2 * mae))
    assert smallest < min(losses.laplace_nll(prediction, target, factor * mae) for factor in (0.99, 1.01))


# --- Gradients ------------------------------------------------------------------------------------------


def linear_predictor():
    return torch.nn.Linear(3, 1)


def small_network():
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def gradients(module, loss):
    """The loss's gradient with respect to every parameter of the module, on 30 fixed rows."""
    x, y = numbers(30, 3), numbers(30, seed=1)
    return torch.autograd.grad(loss(module(x).squeeze(-1), y), list(module.parameters()))


@pytest.mark.parametrize("predictor", [linear_predictor, small_network])
@given(width=SCALES)
def test_the_gradients_of_loss_and_likelihood_are_proportional(predictor, width):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = predictor().double()
    pairs = [
        (losses.mse, losses.gaussian_nll, 2 * width**2),
        (losses.mae, losses.laplace_nll, width),
    ]
    for loss, likelihood, factor in pairs:
        expected = gradients(module, loss)
        actual = gradients(module, lambda p, y, nll=likelihood: nll(p, y, width))
        assert all(gradient.abs().max() > 0.01 for gradient in expected), "a law about zeros says nothing"
        for one, other in zip(expected, actual, strict=True):
            close(factor * other, one)


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
def test_gradients_reach_every_argument(loss, name, scale):
    # Residuals are kept away from 0, where the absolute value has no derivative.
    prediction, target, width = (
        numbers(5).requires_grad_(),
        (3 + numbers(5, seed=1).abs()).requires_grad_(),
        (1 + numbers(5, seed=2).abs()).requires_grad_(),
    )
    arguments = (prediction, target) if scale is None else (prediction, target, width)
    assert torch.autograd.gradcheck(loss, arguments)


# --- Priors as penalties --------------------------------------------------------------------------------


def minus_log_posterior(weight, bias, x, y, sigma, prior):
    nll = losses.gaussian_nll(x @ weight + bias, y, sigma, reduction="sum")
    return nll - prior.log_prob(weight).sum()


SIGMA, PRIOR_SCALE = 1.7, 0.3


def penalised_data():
    x = numbers(40, 4)
    return x, x @ torch.tensor([1.0, 0.02, -0.5, 0.0], dtype=torch.float64) + 2 + numbers(40, seed=1)


def test_ridge_is_the_map_estimate_under_a_normal_prior():
    x, y = penalised_data()
    ridge = Ridge(alpha=losses.ridge_alpha(SIGMA, PRIOR_SCALE), tol=1e-12).fit(x.numpy(), y.numpy())
    weight = torch.tensor(ridge.coef_, requires_grad=True)
    bias = torch.tensor(float(ridge.intercept_), dtype=torch.float64, requires_grad=True)
    prior = torch.distributions.Normal(torch.zeros(4, dtype=torch.float64), PRIOR_SCALE)
    slopes = torch.autograd.grad(minus_log_posterior(weight, bias, x, y, SIGMA, prior), (weight, bias))
    # A convex objective whose gradient is 0 is at its minimum; each term of the gradient is of order 10.
    assert all(slope.abs().max() < 1e-10 for slope in slopes)


def test_lasso_is_the_map_estimate_under_a_laplace_prior():
    x, y = penalised_data()
    alpha = losses.lasso_alpha(SIGMA, PRIOR_SCALE, rows=len(x))
    lasso = Lasso(alpha=alpha, tol=1e-14, max_iter=100_000).fit(x.numpy(), y.numpy())
    weight = torch.tensor(lasso.coef_, requires_grad=True)
    bias = torch.tensor(float(lasso.intercept_), dtype=torch.float64, requires_grad=True)
    nll = losses.gaussian_nll(x @ weight + bias, y, SIGMA, reduction="sum")
    slope, slope_of_bias = torch.autograd.grad(nll, (weight, bias))
    kept = weight != 0
    assert 0 < kept.sum() < 4, "the law needs weights on both sides of the corner"
    # The subgradient of ‖weight‖₁ / PRIOR_SCALE: its sign where a weight is kept, anything within elsewhere.
    torch.testing.assert_close(slope[kept], -weight[kept].sign() / PRIOR_SCALE, rtol=1e-6, atol=1e-6)
    assert (slope[~kept].abs() < 1 / PRIOR_SCALE).all()
    assert slope_of_bias.abs() < 1e-6


# --- The table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [m for m, loss in losses.TABLE.items() if loss.torch_loss.startswith("torch.")]
)
def test_the_table_names_classes_that_torch_has(model):
    module, _, name = losses.TABLE[model].torch_loss.partition(",")[0].rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), torch.nn.Module)


def test_the_losses_are_torchs():
    prediction, target = numbers(20), numbers(20, seed=1)
    close(torch.nn.MSELoss()(prediction, target), losses.mse(prediction, target))
    close(torch.nn.L1Loss()(prediction, target), losses.mae(prediction, target))
    close(torch.nn.HuberLoss(delta=0.7)(prediction, target), losses.huber(prediction, target, 0.7))
    yes = (target > 0).to(target.dtype)
    close(torch.nn.BCEWithLogitsLoss()(prediction, yes), losses.bernoulli_nll(prediction, yes))
    counts = torch.arange(20, dtype=target.dtype) % 4
    rate = torch.nn.PoissonNLLLoss(log_input=True, full=False)(prediction, counts)
    close(rate + torch.lgamma(counts + 1).mean(), losses.poisson_nll(prediction, counts))


def test_the_pinball_loss_is_scikit_learns():
    from sklearn.metrics import mean_pinball_loss

    prediction, target = numbers(20), numbers(20, seed=1)
    for tau in (0.1, 0.5, 0.9):
        expected = mean_pinball_loss(target, prediction, alpha=tau)
        assert losses.pinball(prediction, target, tau).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.1, float("nan")])
def test_a_tau_beyond_its_range_is_refused(tau):
    with pytest.raises(DataError, match="`tau` must be"):
        losses.pinball(numbers(3), numbers(3), tau)


def test_the_table_is_frozen():
    with pytest.raises(TypeError, match="does not support item assignment"):
        losses.TABLE["gaussian"] = losses.TABLE["laplace"]
    with pytest.raises(AttributeError, match="cannot assign to field"):
        losses.TABLE["gaussian"].name = "other"


# --- Refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
@pytest.mark.parametrize(
    ("prediction", "target", "remedy"),
    [
        ((5, 1), (5,), r"Pass `{name}\.squeeze\(-1\)`"),
        ((5,), (5, 1), r"Pass `target\.squeeze\(-1\)`"),
        ((5,), (6,), r"one value of `{name}` for each value of `target`"),
        ((), (5,), r"one value of `{name}` for each value of `target`"),
        ((1,), (5,), r"one value of `{name}` for each value of `target`"),
        ((1, 5), (5, 1), r"one value of `{name}` for each value of `target`"),
    ],
    ids=str,
)
def test_shapes_that_differ(loss, name, scale, prediction, target, remedy):
    expected = rf"`{name}` has shape \({_inside(prediction)}\) and `target` has shape \({_inside(target)}\)"
    with pytest.raises(DataError, match=rf"{expected}.*{remedy.format(name=name)}"):
        call(loss, scale, torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize(("loss", "name", "scale"), WITH_SCALE)
@pytest.mark.parametrize(
    ("shape", "remedy"), [((5, 1), r"squeeze\(-1\)"), ((1,), "one value of"), ((6,), "one value of")], ids=str
)
def test_scales_that_would_broadcast(loss, name, scale, shape, remedy):
    expected = rf"`{scale}` has shape \({_inside(shape)}\) and `target` has shape \(5,\).*{remedy}"
    with pytest.raises(DataError, match=expected):
        loss(torch.zeros(5), torch.zeros(5), torch.ones(shape))


def _inside(shape):
    return str(tuple(shape))[1:-1]


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
def test_what_is_not_a_tensor(loss, name, scale):
    with pytest.raises(DataError, match=rf"`{name}`.* ndarray"):
        call(loss, scale, np.zeros(5), torch.zeros(5))
    with pytest.raises(DataError, match=r"`target`.* list"):
        call(loss, scale, torch.zeros(5), [0.0] * 5)


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_what_is_not_floating_point(loss, name, scale, dtype):
    with pytest.raises(DataError, match=rf"`{name}`.* {dtype}"):
        call(loss, scale, torch.zeros(5, dtype=dtype), torch.zeros(5))
    with pytest.raises(DataError, match=rf"`target`.* {dtype}"):
        call(loss, scale, torch.zeros(5), torch.zeros(5, dtype=dtype))
    if scale is not None:
        with pytest.raises(DataError, match=rf"`{scale}`.* {dtype}"):
            loss(torch.zeros(5), torch.zeros(5), torch.ones(5, dtype=dtype))


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
@pytest.mark.parametrize("reduction", ["average", None, "MEAN", 0])
def test_an_unknown_reduction(loss, name, scale, reduction):
    expected = rf'`reduction` must be one of "none", "mean", "sum", not {reduction!r}'
    with pytest.raises(DataError, match=expected):
        call(loss, scale, torch.zeros(5), torch.zeros(5), reduction=reduction)


@pytest.mark.parametrize(("loss", "name", "scale"), LOSSES)
def test_the_mean_of_nothing(loss, name, scale):
    with pytest.raises(DataError, match="`target` is empty"):
        call(loss, scale, torch.empty(0), torch.empty(0))


@pytest.mark.parametrize("value", [0.0, -1.0, 0, -2])
def test_a_scale_that_is_not_positive(value):
    zero = torch.zeros(5)
    with pytest.raises(DataError, match=rf"`sigma`.* {value:g}"):
        losses.gaussian_nll(zero, zero, value)
    with pytest.raises(DataError, match=rf"`scale`.* {value:g}"):
        losses.laplace_nll(zero, zero, value)
    with pytest.raises(DataError, match=rf"`sigma`.* {value:g}"):
        losses.ridge_alpha(value, 1.0)
    with pytest.raises(DataError, match=rf"`prior_scale`.* {value:g}"):
        losses.ridge_alpha(1.0, value)
    with pytest.raises(DataError, match=rf"`sigma`.* {value:g}"):
        losses.lasso_alpha(value, 1.0, 10)
    with pytest.raises(DataError, match=rf"`prior_scale`.* {value:g}"):
        losses.lasso_alpha(1.0, value, 10)


@pytest.mark.parametrize(("loss", "name", "scale"), WITH_SCALE)
def test_a_scale_that_is_not_a_finite_number(loss, name, scale):
    zero = torch.zeros(5)
    for value, shown in [(math.nan, "nan"), (math.inf, "inf"), ("1", "str"), (True, "bool"), ([1.0], "list")]:
        expected = rf"`{scale}` must be a finite number or a torch\.Tensor, not {shown}"
        with pytest.raises(DataError, match=expected):
            loss(zero, zero, value)


def test_a_prior_scale_that_is_not_a_finite_number():
    for value, shown in [(math.nan, "nan"), (math.inf, "inf"), (torch.ones(2), "Tensor")]:
        with pytest.raises(DataError, match=rf"`prior_scale`.* {shown}"):
            losses.ridge_alpha(1.0, value)
        with pytest.raises(DataError, match=rf"`prior_scale`.* {shown}"):
            losses.lasso_alpha(1.0, value, 10)


@pytest.mark.parametrize("rows", [0, -1, 1.5, 10.0, True, "10"])
def test_rows_that_cannot_be_counted(rows):
    with pytest.raises(DataError, match=rf"`rows`.* {rows!r}"):
        losses.lasso_alpha(1.0, 1.0, rows)
