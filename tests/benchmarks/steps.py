"""The cost of one gradient step: neglog's `Adam` beside a loop of one's own, stock Pyro and NumPyro.

`measure` takes runs of steps in turn, in one thread, and gives the median processor time of a step in
milliseconds. All take full-batch steps of Adam with one learning rate, on the same data, in float64, from a
start of their own. `neglog, compiled` is `Adam(compile=True)`, which needs a C++ compiler.

``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python tests/benchmarks/steps.py [work ...]`` prints them.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from neglog import flat, models, on_features
from neglog.data import prepare
from neglog.fitting.start import starting_point
from neglog.guides import Delta
from neglog.objective.coordinates import rescaled
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective
from neglog.solvers import Adam
from neglog.solvers.gradient import GradientSteps

RATE = 1e-3
Steps = Callable[[int], None]
"""Takes so many steps."""


def linear_data(rows: int, columns: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    slopes = torch.linspace(-1, 1, columns, dtype=torch.float64)
    return x, 0.5 + x @ slopes + torch.randn(rows, generator=generator, dtype=torch.float64)


def network_data(rows: int, columns: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, torch.sin(2 * x[:, 0]) + torch.exp(0.5 * x[:, 1]) * noise


def two_headed_data(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 1 + 8 * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, 0]) + (0.5 + 0.3 * x[:, 0]) * noise


def trunk(columns: int, hidden: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Linear(columns, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        return nn.Sequential(*layers).double()


def neglog(model: Callable, x: Tensor, y: Tensor, compile: bool = False) -> Steps:
    objective = Objective(flat(model), prepare(x, y))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    z, problem = coordinates.z(theta), Lowered(objective, coordinates.blocks, coordinates.is_linear)
    taken = GradientSteps(Adam(learning_rate=RATE, decay=1.0, compile=compile), problem, z)

    def steps(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                taken.step(None)

    return steps


def stock_pyro(model: Callable, x: Tensor, y: Tensor) -> Steps:
    pyro.clear_param_store()
    model = flat(model)
    svi = SVI(model, Delta(model), pyro.optim.Adam({"lr": RATE}), Trace_ELBO())

    def steps(count: int) -> None:
        for _ in range(count):
            svi.step(x, y)

    return steps


def loop(loss: Callable[[], Tensor], parameters: list[Tensor], fused: bool) -> Steps:
    """What one writes without a library: the loss, its gradient, the optimiser."""
    optimiser = torch.optim.Adam(parameters, lr=RATE, fused=fused)

    def steps(count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

    return steps


def linear_loop(x: Tensor, y: Tensor, fused: bool) -> Steps:
    weight = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    bias, log_sigma = (torch.zeros((), dtype=x.dtype, requires_grad=True) for _ in range(2))

    def loss() -> Tensor:
        return -torch.distributions.Normal(x @ weight + bias, log_sigma.exp()).log_prob(y).sum()

    return loop(loss, [weight, bias, log_sigma], fused)


def lean_linear_loop(x: Tensor, y: Tensor, fused: bool) -> Steps:
    """The same with the density written out, as for speed."""
    weight = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    bias, log_sigma = (torch.zeros((), dtype=x.dtype, requires_grad=True) for _ in range(2))

    def loss() -> Tensor:
        squares = (y - x @ weight - bias).square().sum()
        return 0.5 * squares * torch.exp(-2 * log_sigma) + len(y) * (log_sigma + 0.9189385332046727)

    return loop(loss, [weight, bias, log_sigma], fused)


def network_loop(hidden: int, x: Tensor, y: Tensor, fused: bool) -> Steps:
    network = nn.Sequential(trunk(x.shape[1], hidden), nn.Linear(hidden, 2).double())

    def loss() -> Tensor:
        mean, log_variance = network(x).unbind(1)
        return torch.nn.functional.gaussian_nll_loss(
            mean, y, log_variance.exp(), full=True, eps=0.0, reduction="sum"
        )

    return loop(loss, list(network.parameters()), fused)


def numpyro_linear(x: Tensor, y: Tensor) -> Steps:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist

    jax.config.update("jax_enable_x64", True)
    columns, response = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())

    def model() -> None:
        weight = numpyro.sample(
            "weight", ndist.Normal(jnp.zeros(columns.shape[1]), 2.5).to_event(1).mask(False)
        )
        bias = numpyro.sample("bias", ndist.Normal(0.0, 5.0).mask(False))
        sigma = numpyro.sample("sigma", ndist.Exponential(1.0).mask(False))
        with numpyro.plate("rows", len(response)):
            numpyro.sample("y", ndist.Normal(columns @ weight + bias, sigma), obs=response)

    return _numpyro(model)


def numpyro_network(hidden: int, x: Tensor, y: Tensor) -> Steps:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist

    jax.config.update("jax_enable_x64", True)
    columns, response = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())
    sizes = [x.shape[1], hidden, hidden, 2]

    def model() -> None:
        at = columns
        for i, (before, after) in enumerate(pairwise(sizes)):
            shape = jnp.zeros((before, after))
            weight = numpyro.sample(f"weight{i}", ndist.Normal(shape, 1.0).to_event(2).mask(False))
            bias = numpyro.sample(f"bias{i}", ndist.Normal(shape[0], 1.0).to_event(1).mask(False))
            at = (jnp.tanh(at) if i else at) @ weight + bias
        with numpyro.plate("rows", len(response)):
            numpyro.sample("y", ndist.Normal(at[:, 0], jnp.exp(0.5 * at[:, 1])), obs=response)

    return _numpyro(model)


def _numpyro(model: Callable) -> Steps:
    import jax
    from numpyro.infer import SVI as JaxSVI
    from numpyro.infer import Trace_ELBO as JaxELBO
    from numpyro.infer.autoguide import AutoDelta
    from numpyro.optim import Adam as JaxAdam

    svi = JaxSVI(model, AutoDelta(model), JaxAdam(RATE), JaxELBO())
    state = [svi.init(jax.random.PRNGKey(0))]
    run = jax.jit(lambda state, count: jax.lax.fori_loop(0, count, lambda _, s: svi.update(s)[0], state))

    def steps(count: int) -> None:
        state[0] = jax.block_until_ready(run(state[0], count))

    return steps


def contenders(hidden: int | None, x: Tensor, y: Tensor) -> dict[str, Callable[[], Steps]]:
    """By name, what prepares a run of steps: what it costs is paid once, and is not part of a step.

    They are those of a network with two layers of `hidden` units, or of a linear model.
    """
    mine: Callable = models.gaussian
    own: dict[str, Callable] = {"loop": linear_loop, "lean loop": lean_linear_loop}
    jax_steps: Callable = numpyro_linear
    if hidden is not None:
        mine = on_features(models.heteroscedastic, trunk(x.shape[1], hidden))
        own = {"loop": partial(network_loop, hidden)}
        jax_steps = partial(numpyro_network, hidden)
    found: dict[str, Callable[[], Steps]] = {"neglog": partial(neglog, mine, x, y)}
    if shutil.which("g++") or shutil.which("clang++"):
        found["neglog, compiled"] = partial(neglog, mine, x, y, True)
    for name, make in own.items():
        found |= {name: partial(make, x, y, False), f"{name}, fused": partial(make, x, y, True)}
    found["pyro"] = partial(stock_pyro, mine, x, y)
    try:
        import numpyro  # noqa: F401
    except ImportError:
        return found
    return found | {"numpyro": partial(jax_steps, x, y)}


WORK: dict[str, tuple[int | None, Callable[[], tuple[Tensor, Tensor]]]] = {
    "linear, 500 rows": (None, lambda: linear_data(500)),
    "linear, 10,000 rows": (None, lambda: linear_data(10_000)),
    "network, 500 rows": (32, lambda: network_data(500)),
    "two heads, 500 rows": (64, lambda: two_headed_data(500)),
}
"""By name, the number of hidden units and the data."""


def measure(
    names: tuple[str, ...] = tuple(WORK), count: int = 100, repeats: int = 15
) -> dict[str, dict[str, dict[str, float]]]:
    """Work -> contender -> milliseconds of processor time: of a `step`, and what it took to `prepare`.

    To prepare is to trace or to compile, with the first step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: _measured(*WORK[name], count, repeats) for name in names}
    finally:
        torch.set_num_threads(threads)


def _measured(
    hidden: int | None, draw: Callable[[], tuple[Tensor, Tensor]], count: int, repeats: int
) -> dict[str, dict[str, float]]:
    ready: dict[str, Steps] = {}
    found: dict[str, dict[str, float]] = {}
    for name, make in contenders(hidden, *draw()).items():
        started = time.process_time()
        ready[name] = make()
        ready[name](1)
        found[name] = {"prepare": 1e3 * (time.process_time() - started)}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, steps in ready.items():
            started = time.process_time()
            steps(count)
            times[name].append(1e3 * (time.process_time() - started) / count)
    for name, each in times.items():
        found[name]["step"] = statistics.median(each)
    return found


if __name__ == "__main__":
    for work, by_name in measure(tuple(sys.argv[1:]) or tuple(WORK)).items():
        mine = by_name["neglog"]["step"]
        for name, cost in by_name.items():
            print(
                f"{work:20} {name:18} {cost['step']:.4f} ms a step; neglog's is {mine / cost['step']:.2f} of "
                f"it; {cost['prepare']:.0f} ms to prepare"
            )
