"""The mean squared error is a Gaussian likelihood: same gradients, same path, same optimum.

For residuals r = y - prediction and any fixed sigma the mean negative log-likelihood of a Normal is

    mean NLL  =  MSE / (2 sigma²)  +  log sigma  +  log(2 pi) / 2 ,

so in whatever makes the prediction   gradient(MSE) = 2 sigma² · gradient(mean NLL).   The factor is one
number: gradient descent on the MSE with learning rate eta takes, step for step, the path of gradient
descent on the mean NLL with rate 2 sigma² eta. The choice of sigma does not bend the path.

Here the path is walked three times: by hand on the MSE, by hand on the NLL, and by `pyro.infer.SVI` on the
model itself, its priors made flat and its sigma conditioned. (SVI sums over the rows where the other two
take the mean, so that its rate is divided by their number.) Left free, sigma then adds the one thing that
the MSE lacks, the spread of the noise: at the optimum sigma² = MSE.
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

SIGMAS = (0.5, 1.0, 1.5)
SIGMA = 0.7  # of the descent; any other gives the same path
RATE = 0.1
START = (-1.5, 3.0)  # weight, bias

Loss = Callable[[Tensor], Tensor]


def data(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, 1.0 + 2.0 * x[:, 0] + 0.8 * noise


def prediction(theta: Tensor, x: Tensor) -> Tensor:
    """A line; `theta` is (weight, bias)."""
    return x[:, 0] * theta[0] + theta[1]


def mse(x: Tensor, y: Tensor) -> Loss:
    return lambda theta: losses.mse(prediction(theta, x), y)


def nll(x: Tensor, y: Tensor, sigma: float) -> Loss:
    return lambda theta: losses.gaussian_nll(prediction(theta, x), y, sigma)


def gradient(loss: Loss, theta: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def random_gradients(x: Tensor, y: Tensor) -> dict[float, tuple[Tensor, Tensor]]:
    """For each sigma the gradients of mean NLL and MSE, `(40, 2)` each, at random parameters."""
    thetas = 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    of_mse = torch.stack([gradient(mse(x, y), theta) for theta in thetas])
    return {s: (torch.stack([gradient(nll(x, y, s), theta) for theta in thetas]), of_mse) for s in SIGMAS}


def descend(loss: Loss, rate: float, steps: int) -> Tensor:
    """The path `(steps + 1, 2)` of plain gradient descent."""
    path = [torch.tensor(START, dtype=torch.float64)]
    for _ in range(steps):
        path.append(path[-1] - rate * gradient(loss, path[-1]))
    return torch.stack(path)


def descend_by_svi(x: Tensor, y: Tensor, rate: float, steps: int) -> Tensor:
    """The same path, walked by Pyro itself: `SVI` with a Delta guide on the model."""
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    model = flat(pyro.condition(models.gaussian, {"sigma": sigma}))
    weight, bias = torch.tensor(START, dtype=torch.float64)
    start = {"mean.weight": weight[None], "mean.bias": bias}
    with pyro.get_param_store().scope():  # leaves Pyro's global store of parameters as it was
        guide = Delta(model, init_loc_fn=init_to_value(values=start))
        svi = pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": rate}), pyro.infer.Trace_ELBO())
        path = [torch.tensor(START, dtype=torch.float64)]
        for _ in range(steps):
            svi.step(x, y)
            now = guide.median()
            path.append(torch.stack([now["mean.weight"][0], now["mean.bias"]]).detach().clone())
    return torch.stack(path)


def draw(
    x: Tensor, y: Tensor, gradients: dict[float, tuple[Tensor, Tensor]], paths: dict[str, Tensor], to: Path
) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_gradients(left, gradients)
    draw_paths(middle, x, y, paths)
    draw_distances(right, paths)
    save(canvas, to)


def draw_gradients(axes: Axes, gradients: dict[float, tuple[Tensor, Tensor]]) -> None:
    ends = torch.tensor([-15.0, 15.0])
    for (sigma, (of_nll, of_mse)), colour in zip(gradients.items(), (BLUE, OCHRE, RED), strict=True):
        axes.plot(ends / (2 * sigma**2), ends, color=colour, lw=1, alpha=0.6)
        axes.scatter(of_nll, of_mse, s=13, color=colour, lw=0, zorder=3)
        say(axes, f"σ = {sigma}", (15 / (2 * sigma**2), 16.5), colour, ha="center")
    axes.set(xlim=(-30, 33), ylim=(-16, 18))
    dress(axes, "The gradients differ by 2σ²", "gradient of the mean NLL", "gradient of the MSE")


def draw_paths(axes: Axes, x: Tensor, y: Tensor, paths: dict[str, Tensor]) -> None:
    sides = (
        torch.linspace(-2, 3.2, 80, dtype=torch.float64),
        torch.linspace(-0.2, 3.4, 80, dtype=torch.float64),
    )
    weight, bias = torch.meshgrid(*sides, indexing="ij")
    surface = (y[:, None] - x * weight.reshape(1, -1) - bias.reshape(1, -1)).square().mean(0)
    levels = surface.min() + torch.logspace(-1.5, 1.3, 8)
    axes.contour(weight, bias, surface.reshape(weight.shape), levels, colors=RULE, linewidths=0.9)
    axes.plot(*paths["MSE"].T, color=RED, lw=7, alpha=0.3, solid_capstyle="round")
    axes.plot(*paths["NLL"].T, color=INK, lw=1)
    axes.plot(*paths["SVI"].T, "o", color=BLUE, ms=3.4)
    for text, height, colour in (
        ("MSE", 3.15, RED),
        ("Gaussian NLL", 2.95, INK),
        ("pyro.infer.SVI", 2.75, BLUE),
    ):
        say(axes, text, (1.6, height), colour)
    say(axes, "start", (START[0], START[1] + 0.17), QUIET, ha="center")
    dress(axes, "Three descents, one path", "weight", "bias")


def draw_distances(axes: Axes, paths: dict[str, Tensor]) -> None:
    steps = len(paths["MSE"])
    for name, colour, place in (("NLL", INK, "Gaussian NLL to MSE"), ("SVI", BLUE, "SVI to MSE")):
        distance = (paths[name] - paths["MSE"]).abs().amax(1)
        axes.semilogy(distance.clamp_min(1e-17), color=colour, lw=1.4)
        del place
    axes.set_ylim(1e-17, 10)
    dress(axes, "They part by rounding alone", "step", "largest distance of a parameter")
    del steps


def check(
    gradients: dict[float, tuple[Tensor, Tensor]], paths: dict[str, Tensor], optimum: Fit, smallest_mse: float
) -> None:
    # Both gradients are sums of as many float64 products, so they agree to rounding: about 1e-15 of their size.
    for sigma, (of_nll, of_mse) in gradients.items():
        assert torch.allclose(of_mse, 2 * sigma**2 * of_nll, rtol=1e-12, atol=1e-12)
    # Gradient descent on a convex loss forgets rounding errors, so that they don't grow with the steps.
    assert (paths["NLL"] - paths["MSE"]).abs().max() < 1e-12
    assert (paths["SVI"] - paths["MSE"]).abs().max() < 1e-12
    # What is left of the way to the optimum shrinks by a constant factor a step: below 1e-3 after 60.
    end = torch.stack([optimum.params["mean.weight"][0], optimum.params["mean.bias"]])
    assert torch.allclose(paths["MSE"][-1], end, atol=1e-3)
    assert abs(optimum.params["sigma"].item() ** 2 - smallest_mse) < 1e-10


def main() -> None:
    options = arguments(__file__, __doc__)
    rows, steps = (60, 60) if options.small else (200, 60)
    x, y = data(rows)
    gradients = random_gradients(x, y)
    paths = {
        "MSE": descend(mse(x, y), RATE, steps),
        "NLL": descend(nll(x, y, SIGMA), 2 * SIGMA**2 * RATE, steps),
        "SVI": descend_by_svi(x, y, 2 * SIGMA**2 * RATE / rows, steps),
    }
    optimum = mle(models.gaussian, x, y)
    smallest_mse = losses.mse(predict(optimum, x).mean, y).item()
    table(
        ("descent on", "rate", "weight", "bias", "off the MSE's path"),
        [
            (name, rate, *path[-1].tolist(), (path - paths["MSE"]).abs().max().item())
            for (name, path), rate in zip(
                paths.items(), (RATE, 2 * SIGMA**2 * RATE, 2 * SIGMA**2 * RATE / rows), strict=True
            )
        ],
    )
    print(
        f"\nleft free, sigma² = {optimum.params['sigma'].item() ** 2:.6f}; the smallest MSE = {smallest_mse:.6f}"
    )
    draw(x, y, gradients, paths, options.picture)
    check(gradients, paths, optimum, smallest_mse)


if __name__ == "__main__":
    main()
