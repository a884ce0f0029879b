"""Deep ensembles: members equal to fits alone, and the mixture of their predictions."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import neglog
from neglog import ensemble, mle, models, on_features, predict, scores
from neglog.errors import ConvergenceWarning, ModelError
from neglog.fitting.ensembles import drawn
from neglog.networks.sampled import _normal_draws, _path
from neglog.solvers import SGD, Adam, AdamW, Newton, Optimiser

TRAININGS = {
    "Adam, minibatches": Adam(epochs=4, batch_size=16, learning_rate=0.01),
    "Adam, clipped and averaged": Adam(steps=12, max_norm=0.1, ema_decay=0.9),
    "AdamW": AdamW(epochs=3, batch_size=20),
    "SGD": SGD(epochs=3, batch_size=20, momentum=0.9, learning_rate=1e-2),
    "RAdam": Optimiser(torch.optim.RAdam, lr=0.01, steps=10),
}
pytestmark = pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")


def rows(number: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((number, 2), generator=generator, dtype=torch.float64)
    noise = torch.randn(number, generator=generator, dtype=torch.float64)
    return x, torch.sin(6 * x[:, 0]) + (0.1 + 0.3 * x[:, 1]) * noise


def net(*more: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), *more)


def alone(module: nn.Module, number: int, seed: int = 0) -> nn.Module:
    """The module at the initial weights of a member."""
    module = deepcopy(module)
    if number:
        module.load_state_dict({**module.state_dict(), **drawn(module, seed, number)})
    return module


@pytest.mark.parametrize("solver", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("objective", [lambda model: model, neglog.beta_nll], ids=["likelihood", "beta_nll"])
def test_members_are_the_fits_that_each_would_be_alone(solver, objective):
    x, y = rows()
    found = ensemble(objective(on_features(models.heteroscedastic, net())), x, y, members=3, solver=solver)
    for number, member in enumerate(found):
        model = objective(on_features(models.heteroscedastic, alone(net(), number)))
        single = mle(model, x, y, solver=solver)
        assert member.nll == pytest.approx(single.nll, rel=1e-9)
        assert member.trained_on == single.trained_on
        for name, value in single.params.items():
            torch.testing.assert_close(member.params[name], value, rtol=1e-7, atol=1e-9)


def test_members_of_a_network_with_dropout_are_those_alone_too():
    x, y = rows()
    module, solver = net(nn.Dropout(0.2), nn.BatchNorm1d(6)), Adam(epochs=3, batch_size=16)
    found = ensemble(on_features(models.gaussian, module), x, y, members=2, solver=solver)
    for number, member in enumerate(found):
        single = mle(on_features(models.gaussian, alone(module, number)), x, y, solver=solver)
        assert member.nll == single.nll
    assert not torch.equal(*(member.buffers["trunk.3.running_mean"] for member in found))


def test_warming_up_is_a_part_of_the_training_of_each_member():
    x, y = rows()
    solver = Adam(epochs=3, batch_size=16)
    model = neglog.warm_up(on_features(models.heteroscedastic, net()), 2)
    found = ensemble(model, x, y, members=2, solver=solver)
    single = mle(model, x, y, solver=solver)
    assert found.members[0].nll == pytest.approx(single.nll, rel=1e-9)
    assert found.members[0].n_iter == single.n_iter


def test_held_out_rows_end_the_training_at_the_smallest_mean_of_the_members():
    x, y = rows()
    solver = Adam(
        epochs=60, batch_size=16, learning_rate=0.05, validation=(x[:20] + 0.1, -y[:20]), patience=3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = ensemble(on_features(models.gaussian, net()), x, y, members=3, solver=solver)
    best = found.members[0].held_out
    each = [-float(scores(member, x[:20] + 0.1, -y[:20]).mean()) for member in found]
    assert np.mean(each) == pytest.approx(best, rel=1e-9)
    assert found.history.validation_loss.min() == pytest.approx(best)
    assert sorted(found.history.member.unique()) == [0, 1, 2]


def test_the_prediction_is_the_mixture_of_those_of_the_members():
    x, y = rows()
    found = ensemble(
        on_features(models.heteroscedastic, net()), x, y, members=3, solver=Adam(epochs=5, batch_size=16)
    )
    response, each = predict(found, x), [predict(member, x) for member in found]
    means, variances = torch.stack([one.mean for one in each]), torch.stack([one.variance for one in each])
    torch.testing.assert_close(response.aleatoric, variances.mean(0))
    torch.testing.assert_close(response.epistemic, means.var(0, correction=0))
    torch.testing.assert_close(response.variance, response.aleatoric + response.epistemic)
    density = torch.stack([one.log_prob(y) for one in each]).exp().mean(0)
    torch.testing.assert_close(scores(found, x, y), density.log())
    quantiles = neglog.quantile(found, x, 0.3)
    torch.testing.assert_close(response.cdf(quantiles), torch.full_like(y, 0.3))
    table = neglog.interval(found, x, 0.9, kind="outcome")
    torch.testing.assert_close(response.cdf(torch.tensor(table.upper.to_numpy())), torch.full_like(y, 0.95))
    with pytest.raises(ModelError, match="outcome"):
        neglog.interval(found, x)


def test_the_crps_of_a_mixture_of_normals_is_its_closed_form():
    x, y = rows(12)
    found = ensemble(on_features(models.gaussian, net()), x, y, members=3, solver=Adam(epochs=3))
    each = [predict(member, x) for member in found]

    def expected(mean: Tensor, variance: Tensor) -> Tensor:  # E|Z| of a Normal
        standard = torch.distributions.Normal(0.0, 1.0)
        scale = variance.sqrt()
        ratio = mean / scale
        return mean * (2 * standard.cdf(ratio) - 1) + 2 * scale * standard.log_prob(ratio).exp()

    distance = sum(expected(y - one.mean, one.variance) for one in each) / 3
    pairs = sum(expected(a.mean - b.mean, a.variance + b.variance) for a in each for b in each) / 9
    torch.testing.assert_close(scores(found, x, y, "crps"), distance - pairs / 2, rtol=1e-6, atol=1e-8)


def test_a_formula_and_its_table_train_an_ensemble_that_is_pickled():
    x, y = rows()
    table = pd.DataFrame({"a": x[:, 0].numpy(), "b": x[:, 1].numpy(), "y": y.numpy()})
    found = ensemble(
        on_features(models.gaussian, net()), "y ~ a + b", table, members=2, solver=Adam(epochs=2)
    )
    again = pickle.loads(pickle.dumps(found))
    torch.testing.assert_close(predict(again, table).mean, predict(found, table).mean)


def test_seeds_fix_the_initial_weights_and_differ():
    x, y = rows()
    model, solver = on_features(models.gaussian, net()), Adam(epochs=2)
    one, same, other = (ensemble(model, x, y, members=2, solver=solver, seed=s) for s in (0, 0, 1))
    assert one.members[1].nll == same.members[1].nll != other.members[1].nll
    assert one.members[0].nll == other.members[0].nll


def test_maximum_a_posteriori_has_the_priors():
    x, y = rows()
    model, solver = on_features(models.gaussian, net()), Adam(epochs=2)
    found = ensemble(model, x, y, members=2, method="map", solver=solver)
    assert found.members[0].loss == pytest.approx(neglog.map_estimate(model, x, y, solver=solver).loss)
    assert found.members[0].loss > found.members[0].nll


@pytest.fixture(scope="module")
def dropped():
    x, y = rows()
    return mle(on_features(models.gaussian, net(nn.Dropout(0.3))), x, y, solver=Adam(epochs=3, batch_size=16))


def test_masks_of_dropout_are_drawn_by_the_layers_of_the_network(dropped, trained):
    x, _ = rows()
    found = neglog.mc_dropout(dropped, draws=6, seed=3)
    seeds = torch.randint(2**62, (6,), generator=torch.Generator().manual_seed(3))
    weight, bias = dropped.params["mean.weight"], dropped.params["mean.bias"]
    means, module = [], dropped.module.train()
    for seed in seeds.tolist():
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            means.append(module(x) @ weight + bias)
    response = predict(found, x)
    torch.testing.assert_close(response.mean, torch.stack(means).mean(0))
    torch.testing.assert_close(response.epistemic, torch.stack(means).var(0, correction=0))
    assert len(found) == 6
    again = pickle.loads(pickle.dumps(found))
    torch.testing.assert_close(predict(again, x).mean, response.mean)
    for fit, reason in ((trained, "Dropout"), (mle(models.gaussian, *rows()), "is for networks")):
        with pytest.raises(ModelError, match=reason):
            neglog.mc_dropout(fit)


@pytest.fixture(scope="module")
def trained():
    x, y = rows()
    return mle(on_features(models.gaussian, net()), x, y, solver=Adam(epochs=20, batch_size=16))


def test_swag_has_the_moments_of_its_path(trained):
    path = _path(trained, 6, 0.02, 6, 0)
    drawn = _normal_draws(path, 4000, 4, 0)  # as the members have them: below
    away = path[-4:] - path.mean(0)
    expected = 0.5 * torch.diag(path.var(0, correction=0)) + 0.5 * away.T @ away / 3
    error = expected.diagonal().sqrt() / 4000**0.5
    assert ((drawn.mean(0) - path.mean(0)).abs() < 5 * error).all()
    unit = expected.diagonal().sqrt()
    difference = (torch.cov(drawn.T) - expected) / unit / unit[:, None]
    assert float(difference.abs().max()) < 0.12
    found = neglog.swag(trained, draws=5, epochs=6, rank=4, learning_rate=0.02)
    members = torch.stack([trained.objective.layout.theta(member.params) for member in found])
    torch.testing.assert_close(members, _normal_draws(path, 5, 4, 0))
    member = found.members[0]
    x, y = rows()
    assert member.nll == pytest.approx(float(-scores(member, x, y).sum()))


def test_swag_refuses_what_its_draws_would_not_fit(dropped, trained):
    with pytest.raises(ModelError, match="running statistics"):
        neglog.swag(dropped)
    with pytest.raises(ModelError, match="lower it"):
        neglog.swag(trained, learning_rate=1e6)
    x, y = rows()
    objective = neglog.beta_nll(on_features(models.heteroscedastic, net()))
    with pytest.raises(ModelError, match="descend the likelihood"):
        neglog.swag(mle(objective, x, y, solver=Adam(epochs=1)))
    with pytest.raises(ModelError, match="batch_size"):
        neglog.swag(trained, batch_size=0)
    same = [neglog.swag(trained, draws=2, epochs=2).members[1].nll for _ in range(2)]
    assert same[0] == same[1]


class Bare(nn.Module):
    """A module whose parameter has no initial distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.slope.to(x.dtype))


def test_what_has_no_random_weights_or_no_steps_is_refused():
    x, y = rows()
    with pytest.raises(ModelError, match="reset_parameters"):
        ensemble(on_features(models.gaussian, Bare()), x, y, solver=Adam(epochs=1))
    with pytest.raises(ModelError, match="bootstrap"):
        ensemble(models.gaussian, x, y, solver=Adam(epochs=1))
    with pytest.raises(ModelError, match="Newton"):
        ensemble(on_features(models.gaussian, net()), x, y, solver=Newton())
