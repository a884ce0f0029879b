"""Models of a real response: a location and a scale."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from neglog.arguments import number, share
from neglog.beginnings import Beginning, Shapes, line, many_optima, median
from neglog.calls import public
from neglog.distributions import AsymmetricLaplace, Huber, Laplace, Logistic, Normal, StudentT
from neglog.layers import also_called, renamed, with_limits
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, linear, positive, rows


@public
@also_called(location="mean", scale="sigma")
def gaussian(x: Designs, y: Tensor | None = None) -> Tensor:
    """Least squares: y ~ Normal(mean, sigma); the negative log-likelihood in `mean` is the MSE.

    Density: exp(-(y - mean)² / (2 sigma²)) / (sigma √(2π)).
    Sites: ``mean.weight`` `(P,)`, ``mean.bias`` `()`, ``sigma`` `()` in units of y
    (``log_sigma.*`` if `x` has a design for ``sigma``).
    Estimates: the conditional mean, and sigma² = RSS / n (not RSS / (n - p)).
    Source: Gauss (1809), Theoria motus, §§175-179.

    >>> import torch
    >>> from neglog import mle
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> round(fit.params["mean.weight"].item(), 6)
    2.5
    """
    mean = linear("mean", x)
    sigma = positive("sigma", x)
    with rows(x):
        return pyro.sample(RESPONSE, Normal(mean, sigma), obs=y)


declare_loss(
    gaussian,
    Loss(
        "MSE",
        torch_loss="torch.nn.MSELoss",
        density="exp(−(y − mean)² / 2σ²) / (σ√2π)",
        estimates="conditional mean; σ² = RSS / n",
        choose_when="noise is symmetric, with constant variance and without outliers",
        response="real",
        page="losses.md",
    ),
)


@public
@renamed(median="location")
def laplace(x: Designs, y: Tensor | None = None) -> Tensor:
    """Least absolute deviations: y ~ Laplace(location, scale); the NLL in `location` is the MAE.

    Density: exp(-|y - location| / scale) / (2 scale).
    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y
    (``log_scale.*`` if `x` has a design for ``scale``).
    Estimates: the conditional median, and scale = mean |y - location|.
    Source: Laplace (1774), Mémoire sur la probabilité des causes; Koenker & Bassett (1978).

    >>> import torch
    >>> from neglog import mle
    >>> x = torch.empty((5, 0), dtype=torch.float64)
    >>> fit = mle(laplace, x, torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64))
    >>> round(fit.params["location.bias"].item(), 6), round(fit.params["scale"].item(), 6)
    (3.0, 20.2)
    """
    location = linear("location", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample(RESPONSE, Laplace(location, scale), obs=y)


declare_loss(
    laplace,
    Loss(
        "MAE",
        torch_loss="torch.nn.L1Loss",
        density="exp(−abs(y − location) / b) / 2b",
        estimates="conditional median; b = mean absolute residual",
        choose_when="a few rows are outliers, and should not influence the estimates",
        response="real",
        page="robust.md",
    ),
)


@public
@also_called(location="mean", spread="log_variance")
def heteroscedastic(x: Designs, y: Tensor | None = None) -> Tensor:
    """Learned noise: y ~ Normal(mean, exp(log_variance / 2)); the Gaussian NLL with a variance head.

    Density: exp(-(y - mean)² / (2 v)) / √(2π v) with v = exp(log_variance).
    Sites: ``mean.weight`` `(P,)`, ``mean.bias`` `()`, ``log_variance.weight`` `(Q,)`,
    ``log_variance.bias`` `()`; exp(log_variance) is in squared units of y.
    Estimates: the conditional mean and the conditional variance.
    Source: Nix & Weigend (1994), Estimating the mean and variance of the target probability distribution.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([-1.0, 1.0, 8.0, 12.0], dtype=torch.float64)
    >>> group = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    >>> fit = mle(heteroscedastic, group, y)
    >>> round(fit.params["log_variance.weight"].exp().item(), 6)
    4.0
    """
    mean = linear("mean", x)
    log_variance = linear("log_variance", x)
    with rows(x):
        return pyro.sample(RESPONSE, Normal(mean, torch.exp(0.5 * log_variance)), obs=y)


declare_loss(
    heteroscedastic,
    Loss(
        "Gaussian NLL with a variance head",
        torch_loss="torch.nn.GaussianNLLLoss",
        density="Normal with variance exp(log_variance)",
        estimates="conditional mean and variance",
        choose_when="the variance depends on x, and is of interest",
        response="real",
        page="losses.md",
    ),
)


@public
def huber(x: Designs, y: Tensor | None = None, delta: float = 1.345) -> Tensor:
    """Huber's loss: y ~ Huber(location, scale, delta); quadratic near the line, linear beyond delta scales.

    Density: exp(-ρ(r / scale)) / (scale Z), ρ(u) = u²/2 for |u| ≤ delta and delta |u| - delta²/2 beyond,
    Z = √(2π) (2Φ(delta) - 1) + 2 exp(-delta²/2) / delta.
    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y.
    Estimates: Huber's location; at a Normal core the mean, with a scale that outliers hardly move.
    Source: Huber (1964), Robust estimation of a location parameter; delta = 1.345 keeps 95 % efficiency.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([*range(1, 20), 100], dtype=torch.float64)
    >>> fit = mle(huber, torch.empty((20, 0), dtype=torch.float64), y)
    >>> round(fit.params["location.bias"].item(), 2), y.mean().item()
    (10.65, 14.5)
    """
    delta = number("delta", delta, 0)
    location = linear("location", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample(RESPONSE, Huber(location, scale, delta), obs=y)


declare_loss(
    huber,
    Loss(
        "Huber loss",
        torch_loss="torch.nn.HuberLoss",
        density="exp(−ρ(r / scale)) / (scale · Z), ρ quadratic up to delta, then linear",
        estimates="Huber's location",
        choose_when="the noise is Normal with a few outliers",
        response="real",
        page="robust.md",
    ),
)


def _robust(share: float, df: float) -> Beginning:
    """At the line of least absolute deviations, with a `share` of their median as the scale."""

    def begin(x: Designs, y: Tensor, weights: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        found, residuals = line("location", x, y, weights, 1.0)
        spread = share * median(residuals.abs(), weights).clamp_min(1e-6 * residuals.abs().max())
        ends = {"location.bias": found[0], "location.weight": found[1:], "df": y.new_tensor(df)}
        return ends | {"scale": spread, "log_scale.bias": spread.log()}

    return begin


def _least_squares(x: Designs, y: Tensor, weights: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    found, residuals = line("location", x, y, weights, 2.0)
    spread = (weights @ residuals**2 / weights.sum()).sqrt()
    ends = {"location.bias": found[0], "location.weight": found[1:], "df": y.new_tensor(30.0)}
    return ends | {"scale": spread, "log_scale.bias": spread.log()}


@public
@many_optima(_robust(1.0, 3.0), _robust(0.1, 1.0), _least_squares)
@with_limits({"df → +∞": "gaussian"})
def student_t(x: Designs, y: Tensor | None = None, df: float | None = None) -> Tensor:
    """Heavy tails: y ~ StudentT(df, location, scale); a row far off hardly counts.

    Density: Γ((df+1)/2) / (Γ(df/2) √(df π) scale) · (1 + r² / (df scale²))^(-(df+1)/2).
    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y (not the
    standard deviation), and ``df`` `()` unless it is given.
    Estimates: the centre of a symmetric heavy-tailed law, and how heavy its tails are.
    Source: Lange, Little & Taylor (1989), Robust statistical modeling using the t distribution.

    >>> import torch
    >>> from functools import partial
    >>> from neglog import mle
    >>> y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 100.0], dtype=torch.float64)
    >>> fit = mle(partial(student_t, df=4.0), torch.empty((6, 0), dtype=torch.float64), y)
    >>> fit.params["location.bias"].item() < 5
    True
    """
    location = linear("location", x)
    scale = positive("scale", x)
    freedom = positive("df", x, rate=0.1) if df is None else location.new_tensor(number("df", df, 0))
    with rows(x):
        return pyro.sample(RESPONSE, StudentT(freedom, location, scale), obs=y)


declare_loss(
    student_t,
    Loss(
        "robust loss",
        torch_loss="the negative log-likelihood of Student's t",
        density="StudentT(df, location, scale), df estimated unless given",
        estimates="the centre of a heavy-tailed distribution",
        choose_when="the noise has heavy tails: large residuals are not errors",
        response="real",
        page="robust.md",
    ),
)


@public
def logistic(x: Designs, y: Tensor | None = None) -> Tensor:
    """Log-cosh loss: y ~ Logistic(location, scale); a square near the line, an absolute value far from it.

    Density: 1 / (4 scale cosh²(r / (2 scale))), r = y - location.
    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y, with which the
    standard deviation is π scale / √3 (``log_scale.*`` if `x` has a design for ``scale``).
    Estimates: the centre of a symmetric law, on which no row pulls with more than 1 / scale.
    Source: Verhulst (1845); Kalbfleisch & Prentice (2002), The Statistical Analysis of Failure Time Data.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 100.0], dtype=torch.float64)
    >>> fit = mle(logistic, torch.empty((6, 0), dtype=torch.float64), y)
    >>> fit.params["location.bias"].item() < 10 < y.mean().item()
    True
    """
    location = linear("location", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample(RESPONSE, Logistic(location, scale), obs=y)


declare_loss(
    logistic,
    Loss(
        "log-cosh loss",
        torch_loss="the log-cosh loss",
        density="1 / (4 · scale · cosh²(r / 2 scale))",
        estimates="the centre of a symmetric distribution",
        choose_when="noise is symmetric, with tails somewhat heavier than Normal",
        response="real",
        page="robust.md",
    ),
)


@public
@also_called(location="quantile")
def quantile(x: Designs, y: Tensor | None = None, tau: float = 0.5) -> Tensor:
    """Quantile regression: y ~ AsymmetricLaplace(quantile, scale, tau); its NLL is the pinball loss.

    Density: τ(1 - τ) / scale · exp(-pinball(r) / scale), pinball(r) = r (τ - 1[r < 0]).
    Sites: ``quantile.weight`` `(P,)`, ``quantile.bias`` `()`, ``scale`` `()` in units of y.
    Estimates: the conditional tau-quantile, and scale = mean pinball loss.
    Source: Koenker & Bassett (1978), Regression quantiles; Yu & Moyeed (2001) for the density.

    >>> import torch
    >>> from functools import partial
    >>> from neglog import mle
    >>> y = torch.arange(10, dtype=torch.float64)
    >>> fit = mle(partial(quantile, tau=0.85), torch.empty((10, 0), dtype=torch.float64), y)
    >>> round(fit.params["quantile.bias"].item(), 6)
    8.0
    """
    tau = share("tau", tau)
    centre = linear("quantile", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample(RESPONSE, AsymmetricLaplace(centre, scale, tau), obs=y)


declare_loss(
    quantile,
    Loss(
        "pinball loss",
        torch_loss="the pinball loss",
        density="τ(1 − τ) / scale · exp(−pinball(r) / scale)",
        estimates="conditional τ-quantile",
        choose_when="a quantile is of interest, under no assumption about the noise",
        response="real",
        page="quantile.md",
    ),
)
