"""Ensembles drawn from one fit: masks of Dropout, and weights along a path of gradient steps."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from neglog.arguments import number, seed_of, whole
from neglog.errors import ModelError
from neglog.fitting.choice import problem_of
from neglog.fitting.ensembles import Ensemble, network_layer
from neglog.fitting.fit import Fit, check_fit, data_of
from neglog.isolation import isolated
from neglog.modes import layers_of_dropout
from neglog.objective.training import depends_on_mode
from neglog.solvers.optimiser import SGD


@isolated
def mc_dropout(fit: Fit, *, draws: int = 50, seed: int = 0) -> Ensemble:
    """Predictions of a network with Dropout over many masks: an ensemble of the fit under each.

    `predict`, `quantile`, `interval(kind="outcome")` and `scores` take it; the variance of the means is its
    `epistemic` part. Layers of Dropout draw, all others are in evaluation mode.

    Args:
        fit: a fit of a network with layers of Dropout.
        draws: the number of masks.
        seed: the same seed gives the same masks.

    Raises:
        ModelError: the network has no layer of Dropout.

    Source: Gal & Ghahramani (2016), Dropout as a Bayesian approximation.
    """
    draws, seed = whole("draws", draws), seed_of(seed)
    if not layers_of_dropout(network_layer(check_fit(fit).model, "mc_dropout").module):
        raise ModelError(
            "the network of this fit has no layer of Dropout, so it draws no masks; see `ensemble`."
        )
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (draws,), generator=generator).tolist()
    return Ensemble((fit,), tuple(seeds))


@isolated
def swag(
    fit: Fit,
    *,
    draws: int = 30,
    epochs: int = 20,
    learning_rate: float = 1e-2,
    batch_size: int | None = None,
    rank: int = 20,
    seed: int = 0,
) -> Ensemble:
    """SWAG: weights drawn from a Normal with the moments of a path of gradient steps from a fit.

    Stochastic gradient descent with a constant learning rate goes on from the fit. At the end of each epoch
    its weights enter a mean, a variance of each, and the deviations of the last ones: the Normal has half the
    covariance of the variances and half that of the deviations. `predict` and the other functions of
    predictions take the ensemble of its draws.

    Args:
        fit: a fit of a network, at which the path begins.
        draws: the number of draws.
        epochs: the epochs of the path, at least 2.
        learning_rate: that of `SGD` with a momentum of 0.9, on the mean loss of a row; the Normal is the
            wider, the larger it is.
        batch_size: the rows of a step; by default a tenth of all.
        rank: the number of last deviations in the covariance.
        seed: of the order of rows, and of the draws.

    Raises:
        ModelError: the fit was trained on another objective than the likelihood; it has no network, or one
            with Dropout or running statistics, which belong to one set of weights; the steps diverged.
        DataError: the fit was read from disk, without its rows.

    Source: Maddox et al. (2019), A simple baseline for Bayesian uncertainty in deep learning.
    """
    draws, epochs, rank, seed = (
        whole("draws", draws),
        whole("epochs", epochs, 2),
        whole("rank", rank, 2),
        seed_of(seed),
    )
    rows = data_of(fit, "`swag`").rows
    network_layer(fit.model, "swag")
    if fit.trained_on:
        raise ModelError(
            f"this fit was trained on `{fit.trained_on}`, which the steps of `swag` would leave: they "
            "descend the likelihood. Use `ensemble`."
        )
    batch_size = max(1, rows // 10) if batch_size is None else whole("batch_size", batch_size)
    path = _path(fit, epochs, number("learning_rate", learning_rate, 0), batch_size, seed)
    return Ensemble(tuple(_at(fit, theta) for theta in _normal_draws(path, draws, rank, seed)))


def _normal_draws(path: Tensor, draws: int, rank: int, seed: int) -> Tensor:
    """Draws `(draws, K)` of the Normal with the moments of a path `(epochs, K)`."""
    mean, spread = path.mean(0), path.var(0, correction=0).sqrt()
    away = path[-rank:] - mean
    generator = torch.Generator().manual_seed(seed)
    each, common = (
        torch.randn((draws, size), dtype=path.dtype, generator=generator) for size in (len(mean), len(away))
    )
    return mean + spread * each / 2**0.5 + common @ away / (2 * (len(away) - 1)) ** 0.5


def _path(fit: Fit, epochs: int, learning_rate: float, batch_size: int, seed: int) -> Tensor:
    """The unconstrained parameters `(epochs, K)` at the end of each epoch of gradient steps from a fit."""
    assert fit.coordinates is not None
    if depends_on_mode(fit.coordinates):
        raise ModelError(
            "this network has Dropout or running statistics, which belong to one set of weights; use "
            "`mc_dropout` or `ensemble`."
        )
    solver = SGD(epochs=1, batch_size=batch_size, learning_rate=learning_rate, momentum=0.9, rescale=False)
    coordinates, problem = problem_of(fit.coordinates, solver)
    z, found = coordinates.z(coordinates.objective.layout.theta(fit.params)), []
    for epoch in range(epochs):
        z = replace(solver, seed=seed + epoch).minimise(problem, z).z
        found.append(coordinates.theta(z))
    path = torch.stack(found).detach()
    if not bool(torch.isfinite(path).all()):
        raise ModelError(f"the steps of `swag` diverged at a learning rate of {learning_rate:g}; lower it.")
    return path


def _at(fit: Fit, theta: Tensor) -> Fit:
    """The fit at other parameters `(K,)`, which are no optimum."""
    assert fit.objective is not None
    params = {name: value.detach() for name, value in fit.objective.layout.params(theta).items()}
    nll, prior = fit.objective.terms(theta)
    status = "a draw of the weights around a fit"
    return replace(
        fit,
        params=MappingProxyType(params),
        nll=float(nll),
        loss=float(nll) + float(prior),
        converged=False,
        status=status,
    )
