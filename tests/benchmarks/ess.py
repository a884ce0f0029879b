"""Seconds for an effective draw of NUTS: `neglog.posterior` beside Pyro, NumPyro, PyMC and Bambi.

Everyone samples the same model under the same priors, those of the models themselves, Normal(0, 2.5) for a
weight, Normal(0, 5) for a bias and Exponential(1) for sigma, on the same 1 000 rows. A time is that of the
whole call, with whatever is traced or compiled in it, for each effective draw: the smallest bulk effective
size of all parameters (Vehtari et al. 2021). Pyro has no compiler and takes minutes, so it gets fewer draws.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import matplotlib.style
import numpy as np
from timing import CALLS, OURS, timed
from works import WORK, data

from neglog import models, posterior

# arviz-plots 0.8, which comes with Bambi, asks for a module that matplotlib 3.11 has no more.
if not hasattr(matplotlib.style, "core"):
    matplotlib.style.core = matplotlib.style

import arviz

ROWS, COLUMNS, CHAINS = 1000, 10, 4
DRAWS, TUNE = 1000, 500
OF_PYRO = {"draws": 100, "tune": 100, "chains": 1}
"""What Pyro is given: some 20 ms for each of its gradients."""
PREDICTORS = {"gaussian": "mean", "poisson": "log_rate", "bernoulli": "logit"}
ERRORS = 5.0
"""Means of any two may differ by so many of their Monte-Carlo errors."""
Draws = np.ndarray
"""Of bias and weights, `(chains, draws, 1 + P)`."""
Sampler = Callable[[np.ndarray, np.ndarray, int], Draws]


def stacked(bias: object, weight: object) -> Draws:
    return np.concatenate([np.asarray(bias)[..., None], np.asarray(weight)], axis=-1)


def neglog(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
    found = posterior(getattr(models, name), x, y, draws=DRAWS, tune=TUNE, chains=CHAINS, seed=seed)
    predictor = PREDICTORS[name]
    return stacked(found.draws[f"{predictor}.bias"], found.draws[f"{predictor}.weight"])


def pyro(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
    import pyro as package
    import torch
    from pyro.infer import MCMC, NUTS

    package.set_rng_seed(seed)
    settings = {"num_samples": OF_PYRO["draws"], "warmup_steps": OF_PYRO["tune"]}
    chain = MCMC(NUTS(getattr(models, name)), **settings, num_chains=1, disable_progbar=True)
    chain.run(torch.from_numpy(x), torch.from_numpy(y))
    samples = chain.get_samples(group_by_chain=True)
    predictor = PREDICTORS[name]
    return stacked(samples[f"{predictor}.bias"], samples[f"{predictor}.weight"])


def numpyro_chain(name: str) -> object:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(x: object, y: object) -> None:
        weight = numpyro.sample("weight", dist.Normal(jnp.zeros(COLUMNS), 2.5).to_event(1))
        eta = numpyro.sample("bias", dist.Normal(0.0, 5.0)) + x @ weight
        if name == "gaussian":
            noise = dist.Normal(eta, numpyro.sample("sigma", dist.Exponential(1.0)))
        else:
            noise = dist.Poisson(jnp.exp(eta)) if name == "poisson" else dist.BernoulliLogits(eta)
        numpyro.sample("y", noise, obs=y)

    parallel = {"chain_method": "parallel" if numpyro.util.jax.device_count() > 1 else "sequential"}
    kernel = numpyro.infer.NUTS(model)
    settings = {"num_warmup": TUNE, "num_samples": DRAWS, "num_chains": CHAINS, "progress_bar": False}
    return numpyro.infer.MCMC(kernel, **settings, **parallel)


def of_numpyro(chain: object, x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
    import jax

    chain.run(jax.random.PRNGKey(seed), x, y)
    samples = chain.get_samples(group_by_chain=True)
    return stacked(samples["bias"], samples["weight"])


def numpyro(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
    import jax

    jax.clear_caches()
    return of_numpyro(numpyro_chain(name), x, y, seed)


def numpyro_compiled(name: str) -> Sampler:
    """The same chain again and again: the second run has its machine code from the first."""
    kept: list[object] = []

    def sample(x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
        if not kept:
            kept.append(numpyro_chain(name))
            of_numpyro(kept[0], x, y, seed)
        return of_numpyro(kept[0], x, y, seed)

    return sample


def pymc(name: str, x: np.ndarray, y: np.ndarray, seed: int, by: str = "nutpie") -> Draws:
    import pymc as pm

    with pm.Model():
        weight, bias = pm.Normal("weight", 0.0, 2.5, shape=COLUMNS), pm.Normal("bias", 0.0, 5.0)
        eta = bias + pm.math.dot(x, weight)
        if name == "gaussian":
            pm.Normal("y", eta, pm.Exponential("sigma", 1.0), observed=y)
        elif name == "poisson":
            pm.Poisson("y", pm.math.exp(eta), observed=y)
        else:
            pm.Bernoulli("y", logit_p=eta, observed=y)
        settings = {"progressbar": False, "compute_convergence_checks": False, "random_seed": seed}
        cores = min(CHAINS, os.cpu_count() or 1)
        found = pm.sample(DRAWS, tune=TUNE, chains=CHAINS, cores=cores, nuts_sampler=by, **settings)
    return stacked(found["posterior"]["bias"], found["posterior"]["weight"])


def bambi(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Draws:
    import bambi as package
    from peers import frame

    table, right = frame(x, y)
    names = [f"x{j}" for j in range(x.shape[1])]
    priors = {column: package.Prior("Normal", mu=0.0, sigma=2.5) for column in names}
    priors["Intercept"] = package.Prior("Normal", mu=0.0, sigma=5.0)
    if name == "gaussian":
        priors["sigma"] = package.Prior("Exponential", lam=1.0)
    model = package.Model(
        f"y ~ {right}", table, family=name, priors=priors, auto_scale=False, center_predictors=False
    )
    found = model.fit(draws=DRAWS, tune=TUNE, chains=CHAINS, random_seed=seed, progressbar=False,
                      cores=min(CHAINS, os.cpu_count() or 1))  # fmt: skip
    group = found["posterior"]
    return np.stack([np.asarray(group[column]) for column in ["Intercept", *names]], axis=-1)


def samplers(name: str) -> dict[str, Sampler]:
    found: dict[str, Sampler] = {OURS: partial(neglog, name), "Pyro": partial(pyro, name)}
    if find_spec("numpyro"):
        found["NumPyro with compilation"] = partial(numpyro, name)
        found["NumPyro, compiled before"] = numpyro_compiled(name)
    if find_spec("pymc"):
        found["PyMC by nutpie"] = partial(pymc, name)
        found["PyMC's own NUTS"] = partial(pymc, name, by="pymc")
    if find_spec("bambi"):
        found["Bambi"] = partial(bambi, name)
    return found


def bulk(draws: Draws) -> np.ndarray:
    """The effective size of each parameter."""
    return np.array([float(arviz.ess(series, method="bulk")) for series in np.moveaxis(draws, -1, 0)])


def measure(name: str, repeats: int, clock: str) -> dict[str, object]:
    """Seconds for an effective draw; `above` is the farthest mean from ours, in Monte-Carlo errors."""
    work = next(work for work in WORK if work.name == name)
    x, y = data(work, ROWS, seed=0, columns=COLUMNS)
    times: dict[str, list[float]] = {}
    above: dict[str, float] = {}
    left_out: dict[str, str] = {}
    ours: Draws = np.empty(0)
    for peer, sample in samplers(name).items():
        for repeat in range(repeats):
            try:
                took, found = timed(lambda seed=repeat, sample=sample: sample(x, y, seed), CALLS[clock])
            except Exception as error:  # a peer that fails is a result too
                if peer == OURS:
                    raise
                left_out[peer] = f"{type(error).__name__}: {error}"[:100]
                break
            ours = found if peer == OURS else ours
            times.setdefault(peer, []).append(took / bulk(found).min())
            errors = np.hypot(*(each.std((0, 1)) / np.sqrt(bulk(each)) for each in (found, ours)))
            gap = np.abs(found.mean((0, 1)) - ours.mean((0, 1))) / errors
            above[peer] = max(above.get(peer, 0.0), float(gap.max()))
    wrong = {peer: gap for peer, gap in above.items() if gap > ERRORS}
    assert not wrong, wrong
    return {
        "work": f"an effective draw, {name}",
        "rows": ROWS,
        "clock": clock,
        "times": times,
        "above": above,
        "left out": left_out,
    }
