"""The first call: from data to within 1e-6 nats a row of the optimum, in a process that has just begun.

``python cold.py CONTENDER WORK ROWS BEST`` is such a process: it imports, then fits, and says how long each
took. Stochastic optimisers run in bursts until they are near enough; what they compile is part of the call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np

WORKS = ("gaussian", "poisson", "bernoulli")
CONTENDERS = ("neglog", "pyro", "numpyro", "pymc", "bambi")
NEAR = 1e-6
LIMIT = 60.0
BURST, RATE = 200, 0.01
"""Steps of Adam between two looks at the loss, and its learning rate."""
Tries = Iterator[np.ndarray]
"""Intercepts and slopes `(1 + P,)`, nearer and nearer."""


def draw(work: str, rows: int, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    eta = 0.5 + x @ np.linspace(-0.2, 0.2, columns)
    if work == "gaussian":
        return x, eta + rng.normal(size=rows)
    if work == "poisson":
        return x, rng.poisson(np.exp(eta)).astype(float)
    return x, (rng.random(rows) < 1 / (1 + np.exp(-eta))).astype(float)


def nll(work: str, found: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Nats a row, up to a constant of y; sigma at its best."""
    eta = found[0] + x @ found[1:]
    if work == "gaussian":
        return 0.5 * np.log(np.mean((y - eta) ** 2))
    if work == "poisson":
        return np.mean(np.exp(eta) - y * eta)
    return np.mean(np.logaddexp(0, eta) - y * eta)


def neglog() -> Callable[..., Tries]:
    from neglog import mle, models

    def fit(work: str, x: np.ndarray, y: np.ndarray) -> Tries:
        params = mle(getattr(models, work), x, y).params
        bias, weight = (
            next(value for name, value in params.items() if name.endswith(part))
            for part in ("bias", "weight")
        )
        yield np.append(bias, weight)

    return fit


def pyro() -> Callable[..., Tries]:
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO

    from neglog import flat, models
    from neglog.guides import Delta

    def fit(work: str, x: np.ndarray, y: np.ndarray) -> Tries:
        model = flat(getattr(models, work))
        guide = Delta(model)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        columns, response = torch.as_tensor(x), torch.as_tensor(y)
        while True:
            for _ in range(BURST):
                svi.step(columns, response)
            at = guide.median()
            bias, weight = (next(v for k, v in at.items() if k.endswith(part)) for part in ("bias", "weight"))
            yield np.append(bias.detach(), weight.detach())

    return fit


def numpyro() -> Callable[..., Tries]:
    import jax
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoDelta

    jax.config.update("jax_enable_x64", True)

    def fit(work: str, x: np.ndarray, y: np.ndarray) -> Tries:
        columns, response = jax.numpy.asarray(x), jax.numpy.asarray(y)

        def model() -> None:
            bias = numpyro.sample("bias", dist.ImproperUniform(dist.constraints.real, (), ()))
            weight = numpyro.sample(
                "weight", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],))
            )
            eta = bias + columns @ weight
            if work == "gaussian":
                sigma = numpyro.sample("sigma", dist.ImproperUniform(dist.constraints.positive, (), ()))
                density = dist.Normal(eta, sigma)
            else:
                density = (
                    dist.Poisson(jax.numpy.exp(eta)) if work == "poisson" else dist.Bernoulli(logits=eta)
                )
            numpyro.sample("y", density, obs=response)

        guide = AutoDelta(model, init_loc_fn=numpyro.infer.init_to_value(values=begin(x, work)))
        svi = SVI(model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())
        state = svi.init(jax.random.PRNGKey(0))
        burst = jax.jit(lambda state: jax.lax.fori_loop(0, BURST, lambda _, s: svi.update(s)[0], state))
        while True:
            state = burst(state)
            at = guide.median(svi.get_params(state))
            yield np.append(at["bias"], at["weight"])

    return fit


def begin(x: np.ndarray, work: str) -> dict[str, object]:
    """Flat priors say nothing of where to begin."""
    return {"bias": 0.0, "weight": np.zeros(x.shape[1])} | ({"sigma": 1.0} if work == "gaussian" else {})


def pymc() -> Callable[..., Tries]:
    import_module("matplotlib.style.core")  # an attribute that ArviZ looks for
    import pymc as pm

    def fit(work: str, x: np.ndarray, y: np.ndarray) -> Tries:
        with pm.Model():
            eta = pm.Flat("bias", initval=0.0) + x @ pm.Flat(
                "weight", shape=x.shape[1], initval=np.zeros(x.shape[1])
            )
            if work == "gaussian":
                pm.Normal("y", eta, pm.HalfFlat("sigma", initval=1.0), observed=y)
            elif work == "poisson":
                pm.Poisson("y", pm.math.exp(eta), observed=y)
            else:
                pm.Bernoulli("y", logit_p=eta, observed=y)
            at = pm.find_MAP(progressbar=False)
        yield np.append(at["bias"], at["weight"])

    return fit


def bambi() -> Callable[..., Tries]:
    import_module("matplotlib.style.core")
    import bambi
    import pandas as pd
    import pymc as pm

    def fit(work: str, x: np.ndarray, y: np.ndarray) -> Tries:
        names = [f"x{j}" for j in range(x.shape[1])]
        priors = {name: bambi.Prior("Flat") for name in ("Intercept", *names)}
        priors |= {"sigma": bambi.Prior("HalfFlat")} if work == "gaussian" else {}
        data = pd.DataFrame(x, columns=names).assign(y=y)
        model = bambi.Model(f"y ~ {' + '.join(names)}", data, family=work, priors=priors)
        model.build()
        start = dict.fromkeys(priors, 0.0) | ({"sigma": 1.0} if work == "gaussian" else {})
        with model.backend.model:
            at = pm.find_MAP(start=start, progressbar=False)
        slopes = np.array([float(at[name]) for name in names])
        yield np.append(float(at["Intercept"]) - x.mean(0) @ slopes, slopes)  # its columns are centred

    return fit


def main(contender: str, work: str, rows: int, best: float) -> None:
    warnings.simplefilter("ignore")
    x, y = draw(work, rows)
    started = time.perf_counter()
    fit = {f.__name__: f for f in (neglog, pyro, numpyro, pymc, bambi)}[contender]()
    imported, above = time.perf_counter() - started, np.inf
    started = time.perf_counter()
    looking = 0.0
    for found in fit(work, x, y):
        looked = time.perf_counter()
        above = nll(work, found, x, y) - best
        looking += time.perf_counter() - looked
        if above <= NEAR or time.perf_counter() - started > LIMIT:
            break
    seconds = time.perf_counter() - started - looking
    print(json.dumps({"import": imported, "fit": seconds, "above": float(above)}))


def measure(work: str, rows: int, repeats: int) -> dict[str, object]:
    """The seconds of each contender in `repeats` processes of its own, and how near it came."""
    from neglog import mle, models

    x, y = draw(work, rows)
    params = mle(getattr(models, work), x, y).params
    bias, weight = (next(v for k, v in params.items() if k.endswith(part)) for part in ("bias", "weight"))
    best, times, above, imports, left_out = nll(work, np.append(bias, weight), x, y), {}, {}, {}, {}
    for _ in range(repeats):
        for name in CONTENDERS:
            command = [sys.executable, __file__, name, work, str(rows), repr(float(best))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and name == CONTENDERS[0]:
                raise RuntimeError(done.stderr)
            if done.returncode:
                left_out[name] = done.stderr.strip().splitlines()[-1][:100]
                continue
            said = json.loads(done.stdout.splitlines()[-1])
            times.setdefault(name, []).append(said["fit"])
            imports.setdefault(name, []).append(said["import"])
            above[name] = max(above.get(name, 0.0), said["above"])
    return {
        "work": f"cold call, {work}",
        "rows": rows,
        "clock": "wall",
        "times": times,
        "imports": imports,
        "above": above,
        "left out": left_out,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
