"""The Normal in natural parameters: one likelihood with the usual one, convex, and positive information."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neglog import (
    datasets,
    laplace_approximation,
    losses,
    map_estimate,
    mle,
    models,
    natural_gaussian,
    on_features,
    predict,
)
from neglog.errors import DataError
from neglog.networks.network import network_of, row_curvature
from neglog.solvers import LBFGS

ENGEL = datasets.load("engel") / 1000
X, Y = torch.tensor(ENGEL[["income"]].to_numpy()), torch.tensor(ENGEL["food_expenditure"].to_numpy())


def network():
    torch.manual_seed(0)
    return on_features(natural_gaussian, nn.Sequential(nn.Linear(1, 4), nn.Tanh()))


@pytest.fixture(scope="module")
def fit():
    return map_estimate(network(), X, Y)


def test_groups_have_their_means_and_variances():
    group = (X.median() < X).double()
    found, known = mle(natural_gaussian, group, Y), mle(models.heteroscedastic, group, Y)
    assert found.converged
    assert found.nll == pytest.approx(known.nll, rel=1e-10)
    torch.testing.assert_close(predict(found, group).variance, predict(known, group).variance)


def test_the_hand_written_loss_is_that_of_the_model(fit):
    eta, log_precision = torch.randn((2, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.linspace(-1, 2, 5, dtype=torch.float64)
    found = losses.loss_of(natural_gaussian, reduction="none")(eta, y, log_precision)
    variance = torch.exp(-log_precision)
    normal = torch.distributions.Normal(eta * variance, variance.sqrt())
    torch.testing.assert_close(found, -normal.log_prob(y))
    with pytest.raises(DataError):
        losses.loss_of(natural_gaussian)(eta, y, log_precision[:3])


def test_the_loss_is_convex_in_the_natural_parameters():
    points = torch.randn((200, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(eta, precision, y):
        return losses.objectives.natural_gaussian_nll(eta, y, precision.log(), reduction="sum")

    for eta, log_precision, y in points:
        at = (eta[None], log_precision.exp()[None])
        (a, b), (c, d) = torch.autograd.functional.hessian(lambda e, p, y=y: loss(e, p, y[None]), at)
        hessian = torch.stack([torch.cat([a, b], 1), torch.cat([c, d], 1)]).reshape(2, 2)
        assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-12


@pytest.mark.parametrize("structure", ["last_layer", "diagonal", "kronecker", "full"])
def test_laplaces_approximation_has_positive_information(fit, structure):
    assert fit.converged
    found = laplace_approximation(fit, structure)
    assert (found.linearised(X)[1].diagonal(dim1=1, dim2=2) > 0).all()
    assert (found.predict(X).variance > predict(fit, X).variance.min()).all()


@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_the_information_of_a_row_is_positive_semi_definite_away_from_an_optimum():
    fit = mle(network(), X, Y, solver=LBFGS(max_steps=2), start={"log_precision.bias": torch.tensor(3.0)})
    curved, _, _ = row_curvature(network_of(fit), fit.objective)
    assert float(torch.linalg.eigvalsh(curved).min()) > -1e-9
