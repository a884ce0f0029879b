"""The No-U-Turn Sampler, by nutpie."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.bayes.density import Density
from neglog.checkpoint import Journal
from neglog.errors import ModelError
from neglog.isolation import lent

MAX_INITIAL_VALUES = 20
"""Candidates for the initial value of a chain, each half as far from the start as the one before."""
MIN_PARALLEL_SECONDS = 3e-4
"""Seconds per evaluation from which on chains run in parallel: threads would wait for faster ones."""
TIMED_EVALUATIONS = 5
"""Evaluations whose time is measured for this."""
STATS = {
    "logp": "lp",
    "diverging": "diverging",
    "depth": "tree_depth",
    "maxdepth_reached": "reached_max_treedepth",
    "n_steps": "n_steps",
    "step_size": "step_size",
    "mean_tree_accept": "acceptance_rate",
    "energy": "energy",
    "energy_error": "energy_error",
}
"""nutpie's name of a statistic -> ArviZ's."""


def nuts(
    density: Density,
    start: Tensor,
    *,
    chains: int,
    draws: int,
    tune: int,
    seed: int,
    target_accept: float,
    cores: int | None,
    progress: bool,
    journal: Journal | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws `(chains, draws, K)` of z, and statistics of each, `(chains, draws)`.

    With a journal each chain has a seed of its own, and is kept when it has ended.

    Raises:
        ModelError: nutpie is not installed; the density is nowhere finite near `start`.

    Source: Hoffman & Gelman (2014), The No-U-Turn Sampler, JMLR 15.
    """
    nutpie, from_pyfunc = _imported()
    evaluate = density.program(start)

    quick = _evaluation_time(evaluate, start) < MIN_PARALLEL_SECONDS
    if cores is None:
        cores = 1 if density.reason or quick else min(chains, os.cpu_count() or 1)
    threads, known = 1 if quick else max(1, torch.get_num_threads() // cores), threading.local()
    raised: list[BaseException] = []

    def log_density(z: np.ndarray, **_: Any) -> tuple[float, np.ndarray]:
        if not hasattr(known, "settled"):
            join()
            known.settled = _register_thread(threads)
        if raised:
            return math.nan, np.full_like(z, math.nan)
        try:
            value, gradient = evaluate(torch.from_numpy(z))
        except BaseException as error:  # nutpie would panic: instead all steps diverge from here on
            raised.append(error)
            return math.nan, np.full_like(z, math.nan)
        return -value.item(), -gradient.numpy()

    model = from_pyfunc(
        density.size,
        lambda: log_density,
        lambda *_: lambda z, **_: {"z": z},
        [np.dtype("float64")],
        [(density.size,)],
        ["z"],
        make_initial_point_fn=partial(_initial_value, density, start),
    )
    cores = 1 if density.reason else cores  # Pyro's handlers are one stack for all threads
    begin = partial(
        nutpie.sample,
        model,
        draws=draws,
        tune=tune,
        target_accept=target_accept,
        progress_bar=progress,
        save_warmup=False,
        blocking=False,
    )
    with _threads_restored(), lent() as join:
        if journal is None:
            found = [_drawn(_sampled(begin(chains=chains, cores=cores, seed=seed), raised))]
        else:
            found = _chains_apart(begin, chains, seed, cores, raised, journal)
    z, stats = _joined(found)
    if z.shape != (chains, draws, density.size):
        raise ModelError(f"nutpie returned draws of shape {tuple(z.shape)}, not {chains} chains of {draws}.")
    return z, stats


def _joined(found: Sequence[Mapping[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The draws of several groups of chains, and their statistics."""
    names = found[0]["stats"]
    stats = {name: torch.cat([each["stats"][name] for each in found]) for name in names}
    return torch.cat([each["z"] for each in found]), stats


def _drawn(trace: Any) -> dict[str, Any]:
    """The draws of a trace, and their statistics."""
    return {"z": torch.from_numpy(np.array(trace.posterior["z"].values)), "stats": _statistics(trace)}


def _chains_apart(
    begin: Callable[..., Any],
    chains: int,
    seed: int,
    cores: int,
    raised: Sequence[BaseException],
    journal: Journal,
) -> list[dict[str, Any]]:
    """The draws of each chain; ended ones are kept, and the others begin again from their seeds."""
    found: dict[int, dict[str, Any]] = dict(journal.found or {})
    left = [chain for chain in range(chains) if chain not in found]
    for place in range(0, len(left), cores):
        some = left[place : place + cores]
        seeds = [int(np.random.SeedSequence([seed, chain]).generate_state(1)[0]) for chain in some]
        samplers = [begin(chains=1, cores=1, seed=own) for own in seeds]
        with _cancelled(samplers):
            for chain, sampler in zip(some, samplers, strict=True):
                found[chain] = _drawn(_sampled(sampler, raised))
                journal.write(found)
    return [found[chain] for chain in range(chains)]


@contextmanager
def _cancelled(samplers: Sequence[Any]) -> Iterator[None]:
    """End all samplers after an error or an interrupt of one."""
    try:
        yield
    except BaseException:
        for sampler in samplers:
            with suppress(Exception):  # it has ended
                sampler.cancel()
        raise


def _imported() -> tuple[Any, Any]:
    """nutpie, and its function that takes a density written in Python."""
    try:
        import nutpie
        from nutpie.compiled_pyfunc import from_pyfunc
    except ImportError as error:
        raise ModelError(
            "`method='nuts'` needs nutpie: pip install 'neglog[nuts]', or choose `method='laplace'`."
        ) from error
    return nutpie, from_pyfunc


def _statistics(trace: Any) -> dict[str, Tensor]:
    """The statistics `(chains, draws)` of draws, under ArviZ's names."""
    stats = {ours: trace.sample_stats[theirs].values for theirs, ours in STATS.items()}
    kinds = {"u": np.int64, "i": np.int64, "b": np.bool_, "f": np.float64}
    return {name: torch.from_numpy(value.astype(kinds[value.dtype.kind])) for name, value in stats.items()}


def _sampled(sampler: Any, raised: Sequence[BaseException]) -> Any:
    """All draws; after an interrupt the chains end and none are returned.

    With `blocking=True` nutpie would return the draws that it has at an interrupt. An error of the model,
    the first of `raised`, is raised again as it is.
    """
    try:
        trace = sampler.wait()
    except BaseException:
        sampler.cancel()
        if raised:
            raise raised[0] from None
        raise
    if raised:
        raise raised[0]
    return trace


def _register_thread(threads: int) -> bool:
    """Register a foreign thread with CPython once, and set torch's number of threads in it.

    Otherwise CPython creates and destroys the state of the thread at each evaluation, which takes half as
    long as the evaluation. The states that stay are some kilobytes a chain.
    """
    torch.set_num_threads(threads)
    ctypes.pythonapi.PyGILState_Ensure()
    return True


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Restore torch's number of threads, which later threads inherit."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _evaluation_time(evaluate: Callable[[Tensor], Any], z: Tensor) -> float:
    """The least time of an evaluation, in seconds."""
    found = []
    for _ in range(TIMED_EVALUATIONS):
        started = time.perf_counter()
        evaluate(z)
        found.append(time.perf_counter() - started)
    return min(found)


def _initial_value(density: Density, start: Tensor, seed: int) -> np.ndarray:
    """The initial value of a chain: uniform around the start, about the noise of a row away."""
    random = np.random.default_rng(seed)
    for k in range(MAX_INITIAL_VALUES):
        z = start + torch.from_numpy(random.uniform(-1, 1, density.size)) * 0.5**k
        value, gradient = density.evaluation(start)(z)
        if bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all()):
            return z.numpy()
    raise ModelError(f"`{density.objective.name}` has no finite density near its initial values.")
