"""The mean squared error is a Gaussian likelihood: same gradients, same path, same optimum.

For residuals r = y - prediction and any fixed sigma, the mean negative log-likelihood of a Normal is

    mean NLL  =  MSE / (2 sigma²)  +  log sigma  +  log(2 pi) / 2 ,

so gradient(MSE) = 2 sigma² · gradient(mean NLL) in the parameters of the prediction. Gradient descent on the
MSE with learning rate eta therefore takes the same steps as gradient descent on the mean NLL with learning
rate 2 sigma² eta, for every sigma.

The script computes this path three times: by hand on the MSE, by hand on the NLL, and by `pyro.infer.SVI` on
the model with flat priors and sigma conditioned. (SVI sums over the rows instead of averaging, so its
learning rate is divided by their number.) With a free sigma the likelihood also estimates the noise: sigma² =
MSE at the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from neglog import Fit, flat, losses, mle, models, predict
from neglog.guides import Delta

SIGMAS = (0.4, 0.7, 1.2)
SIGMA = 0.7  # of the descents; any other gives the same path
RATE = 0.1
STEPS = 60
START = torch.tensor([-1.5, 3.0], dtype=torch.float64)  # weight, bias

Loss = Callable[[Tensor], Tensor]


def draw_rows(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, 1.0 + 2.0 * x[:, 0] + 0.8 * noise


def mse(x: Tensor, y: Tensor) -> Loss:
    """The MSE of a line as a function of (weight, bias)."""
    return lambda theta: losses.mse(x[:, 0] * theta[0] + theta[1], y)


def nll(x: Tensor, y: Tensor, sigma: float) -> Loss:
    """The mean Gaussian NLL of a line as a function of (weight, bias)."""
    return lambda theta: losses.gaussian_nll(x[:, 0] * theta[0] + theta[1], y, sigma)


def gradient(loss: Loss, theta: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def random_gradients(x: Tensor, y: Tensor) -> dict[float, tuple[Tensor, Tensor]]:
    """For each sigma the gradients of mean NLL and MSE, `(40, 2)` each, at random parameters."""
    thetas = 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    of_mse = torch.stack([gradient(mse(x, y), theta) for theta in thetas])
    return {s: (torch.stack([gradient(nll(x, y, s), theta) for theta in thetas]), of_mse) for s in SIGMAS}


def descend(loss: Loss, rate: float) -> Tensor:
    """The path `(STEPS + 1, 2)` of plain gradient descent."""
    path = [START]
    for _ in range(STEPS):
        path.append(path[-1] - rate * gradient(loss, path[-1]))
    return torch.stack(path)


def descend_by_svi(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """The path `(STEPS + 1, 2)` of `pyro.infer.SVI`, with a Delta guide, on the model itself."""
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    model = flat(pyro.condition(models.gaussian, {"sigma": sigma}))
    # Copies, because a guide's parameters share memory with the values that they start from.
    start = {"mean.weight": START[:1].clone(), "mean.bias": START[1].clone()}
    path = [START]
    with pyro.get_param_store().scope():  # leaves Pyro's global store of parameters as it was
        guide = Delta(model, init_loc_fn=init_to_value(values=start))
        svi = pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": rate}), pyro.infer.Trace_ELBO())
        for _ in range(STEPS):
            svi.step(x, y)
            now = guide.median()
            path.append(torch.cat([now["mean.weight"], now["mean.bias"][None]]).detach().clone())
    return torch.stack(path)


def draw_gradients(axes: Axes, gradients: dict[float, tuple[Tensor, Tensor]]) -> None:
    ends = torch.tensor([-16.0, 16.0])
    for (sigma, (of_nll, of_mse)), colour in zip(gradients.items(), (BLUE, OCHRE, RED), strict=True):
        axes.plot(ends / (2 * sigma**2), ends, color=colour, lw=1, alpha=0.6)
        axes.scatter(of_nll, of_mse, s=13, color=colour, lw=0, zorder=3)
    say(axes, "σ = 0.4", (25, 8.6), BLUE, ha="right", va="bottom")
    say(axes, "σ = 0.7", (15.5, 16.8), OCHRE, ha="center")
    say(axes, "σ = 1.2", (5.5, 16.8), RED, ha="center")
    axes.set(xlim=(-26, 26), ylim=(-17, 18))
    dress(
        axes, "Gradients differ by the factor 2σ²", "gradient of the mean Gaussian NLL", "gradient of the MSE"
    )


def draw_paths(axes: Axes, x: Tensor, y: Tensor, paths: dict[str, Tensor]) -> None:
    sides = (torch.linspace(low, high, 80, dtype=torch.float64) for low, high in ((-2, 3.2), (-0.2, 3.4)))
    weight, bias = torch.meshgrid(*sides, indexing="ij")
    surface = (y[:, None] - x * weight.reshape(1, -1) - bias.reshape(1, -1)).square().mean(0)
    levels = surface.min() + torch.logspace(-1.5, 1.3, 8)
    axes.contour(weight, bias, surface.reshape(weight.shape), levels, colors=RULE, linewidths=0.9)
    axes.plot(*paths["MSE"].T, color=RED, lw=8, alpha=0.3, solid_capstyle="round")
    axes.plot(*paths["NLL"].T, color=INK, lw=1.2)
    axes.plot(*paths["SVI"].T, "o", color=BLUE, ms=3.4)
    at = paths["MSE"][5].tolist()
    for i, (text, colour) in enumerate((("MSE", RED), ("Gaussian NLL", INK), ("pyro.infer.SVI", BLUE))):
        say(axes, text, (at[0] + 0.2, at[1] + 0.62 - 0.17 * i), colour)
    say(axes, "start", (START[0].item(), START[1].item() + 0.2), QUIET, ha="center")
    dress(axes, "Three descents, one path", "weight", "bias")


def draw_distances(axes: Axes, paths: dict[str, Tensor], optimum: Tensor) -> None:
    axes.semilogy((paths["MSE"] - optimum).abs().amax(1), color=RED, lw=1.6)
    say(axes, "from the optimum", (26, 0.5), RED)
    for name, colour, height in (("NLL", INK, 1e-13), ("SVI", BLUE, 1e-14)):
        distance = (paths[name] - paths["MSE"]).abs().amax(1)
        axes.semilogy(distance.clamp_min(1e-17), "o", color=colour, ms=3)
        say(axes, f"{name}'s path from the MSE's", (26, height), colour)
    say(axes, "at the bottom: equal to the last bit", (60, 4e-19), QUIET, ha="right")
    axes.set_ylim(3e-20, 10)
    dress(axes, "They part by rounding alone", "step", "largest distance in a parameter")


def draw(
    x: Tensor,
    y: Tensor,
    gradients: dict[float, tuple[Tensor, Tensor]],
    paths: dict[str, Tensor],
    optimum: Tensor,
    to: Path,
) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_gradients(left, gradients)
    draw_paths(middle, x, y, paths)
    draw_distances(right, paths, optimum)
    save(canvas, to)


def check(
    gradients: dict[float, tuple[Tensor, Tensor]], paths: dict[str, Tensor], fit: Fit, smallest_mse: float
) -> None:
    # Two float64 sums over the same rows: they differ by rounding, some 1e-15 of their size.
    for sigma, (of_nll, of_mse) in gradients.items():
        assert torch.allclose(of_mse, 2 * sigma**2 * of_nll, rtol=1e-11, atol=1e-11)
    # Descent on a convex loss contracts, so a rounding error of 1e-16 a step does not grow with the steps.
    assert (paths["NLL"] - paths["MSE"]).abs().max() < 1e-11
    assert (paths["SVI"] - paths["MSE"]).abs().max() < 1e-11
    # At this rate 60 steps take off all but 1e-4 of the 3.5 that lie between the start and the optimum.
    assert (paths["MSE"][-1] - line(fit)).abs().max() < 0.01
    # Newton's method ends within about 1e-8 of an optimum.
    assert abs(fit.params["sigma"].item() ** 2 - smallest_mse) < 1e-8


def line(fit: Fit) -> Tensor:
    """(weight, bias) of a fit."""
    return torch.cat([fit.params["mean.weight"], fit.params["mean.bias"][None]])


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = draw_rows(60 if options.small else 200)
    rates = {"MSE": RATE, "NLL": 2 * SIGMA**2 * RATE, "SVI": 2 * SIGMA**2 * RATE / len(y)}
    paths = {
        "MSE": descend(mse(x, y), rates["MSE"]),
        "NLL": descend(nll(x, y, SIGMA), rates["NLL"]),
        "SVI": descend_by_svi(x, y, rates["SVI"]),
    }
    gradients = random_gradients(x, y)
    fit = mle(models.gaussian, x, y)
    smallest_mse = losses.mse(predict(fit, x).mean, y).item()

    rows = [(name, rates[name], *path[-1].tolist(), far(path, paths["MSE"])) for name, path in paths.items()]
    rows += [("mle(models.gaussian)", "", *line(fit).tolist(), "")]
    table(("descent on", "rate", "weight", "bias", "off the MSE's path"), rows)
    print(
        f"\nleft free, sigma² = {fit.params['sigma'].item() ** 2:.8f}; the smallest MSE = {smallest_mse:.8f}"
    )
    draw(x, y, gradients, paths, line(fit), options.picture)
    check(gradients, paths, fit, smallest_mse)


def far(path: Tensor, other: Tensor) -> float:
    return (path - other).abs().max().item()


if __name__ == "__main__":
    main()
