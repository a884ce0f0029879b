"""Networks whose layers depend on training and evaluation mode: Dropout, BatchNorm and their kind."""

import copy
import warnings

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from neglog import (
    covariance,
    laplace_approximation,
    log_likelihood,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    scores,
)
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, ModelError
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective
from neglog.solvers import LBFGS, SVI, Adam, Newton, TrustRegion, VariableProjection

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(80, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(80, generator=GENERATOR, dtype=torch.float64)
RATE, STEPS = 0.02, 40
CLOSE = 1e-9
"""Relative: the same steps by two programs, after 40 of them."""

START = {
    "mean.weight": torch.tensor([0.3, -0.2, 0.4, 0.1], dtype=torch.float64),
    "mean.bias": torch.tensor(0.5, dtype=torch.float64),
    "sigma": torch.tensor(1.3, dtype=torch.float64),
}
"""Away from the null model, where a gradient is nothing but rounding, which Adam makes a step of."""

pytestmark = pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")


class Noisy(nn.Module):
    """A layer of one's own whose forward asks for its mode."""

    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) if self.training else x


class Centred(nn.Module):
    """A layer of one's own that replaces its buffer in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return x - self.mean


LAYERS = {
    "batch norm": lambda: [nn.BatchNorm1d(4)],
    "dropout": lambda: [nn.Dropout(0.3)],
    "both": lambda: [nn.BatchNorm1d(4), nn.Dropout(0.3)],
    "alpha dropout": lambda: [nn.AlphaDropout(0.2)],
    "feature dropout": lambda: [nn.Dropout1d(0.3)],
    "instance norm": lambda: [
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ],
    "spectral norm": lambda: [nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))],
    "noisy": lambda: [Noisy()],
    "centred": lambda: [Centred()],
}  # fmt: skip


def trunk(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 4), *LAYERS[name](), nn.Tanh()).double()


def plain_loop(module, seed, batch_size):
    """The losses of gradient steps in PyTorch, and the parameters: a linear head, and a Normal density."""
    weight, bias = (START[f"mean.{part}"].clone().requires_grad_() for part in ("weight", "bias"))
    log_sigma = START["sigma"].log().requires_grad_()
    optimiser = torch.optim.Adam([*module.parameters(), weight, bias, log_sigma], lr=RATE)
    shuffle, losses = torch.Generator().manual_seed(0), []
    indices = (torch.randperm(80, generator=shuffle).split(batch_size) for _ in range(STEPS))
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index in [i for epoch in indices for i in epoch][:STEPS] if batch_size else [slice(None)] * STEPS:
            optimiser.zero_grad()
            mean = module(X[index]) @ weight + bias
            log_prob = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(Y[index])
            loss = -log_prob.mean() * 80
            loss.backward()
            losses.append(loss.item())
            optimiser.step()
    return losses, weight.detach(), bias.detach()


def adam(**settings):
    return Adam(learning_rate=RATE, decay=1.0, steps=STEPS, rescale=False, **settings)


def literal(**settings):
    return SVI(optim=pyro.optim.Adam({"lr": RATE}), steps=STEPS, rescale=False, **settings)


@pytest.mark.parametrize("name", LAYERS)
def test_training_is_that_of_a_loop_in_pytorch(name):
    module, mine = trunk(name), trunk(name)
    losses, weight, bias = plain_loop(module, 0, None)
    fit = mle(on_features(models.gaussian, mine), X, Y, solver=adam(), start=START)
    assert fit.losses == pytest.approx(losses, rel=CLOSE)
    torch.testing.assert_close(fit.params["mean.weight"], weight, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        mean = module.eval()(X) @ weight + bias
    torch.testing.assert_close(predict(fit, X).mean, mean, rtol=1e-6, atol=1e-8)
    for key, value in module.named_buffers():
        torch.testing.assert_close(fit.buffers[f"trunk.{key}"], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_minibatches_and_the_literal_path_take_the_same_steps(batch_size):
    losses, *_ = plain_loop(trunk("both"), 0, batch_size)
    for solver in (adam(batch_size=batch_size), literal(batch_size=batch_size)):
        fit = mle(on_features(models.gaussian, trunk("both")), X, Y, solver=solver, start=START)
        assert fit.losses == pytest.approx(losses, rel=CLOSE)
        assert not fit.converged
        assert "in training mode" in fit.status


def test_masks_are_fresh_at_each_step_and_decided_by_the_seed():
    net = on_features(models.gaussian, trunk("dropout"))
    still = [
        mle(net, X, Y, solver=Adam(steps=5, learning_rate=1e-300, seed=s), start=START)
        for s in (0, 0, 1)
    ]  # fmt: skip
    first, again, other = (fit.losses for fit in still)
    assert len(set(first)) == 5
    assert first == again != other


@pytest.mark.parametrize("given", [True, False])
def test_the_module_comes_back_as_it_was(given):
    module = trunk("both").train(given)
    module[0].bias.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    state = torch.random.get_rng_state()
    fit = mle(on_features(models.gaussian, module), X, Y, solver=adam())
    predict(fit, X)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [part.training for part in module.modules()] == [given] * 5
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    assert float(fit.buffers["trunk.1.running_mean"].abs().max()) > 0


def trained(name="both", model=models.gaussian, estimate=mle, steps=STEPS):
    net = on_features(model, trunk(name))
    return estimate(net, X, Y, solver=Adam(steps=steps, batch_size=20))


def test_everything_after_training_is_in_evaluation_mode():
    fit = trained()
    whole = predict(fit, X).mean
    torch.testing.assert_close(torch.cat([predict(fit, X[i : i + 1]).mean for i in range(5)]), whole[:5])
    assert fit.nll == pytest.approx(-float(log_likelihood(fit, X, Y).sum()), rel=1e-12)
    crps = scores(fit, X, Y, kind="crps")
    torch.testing.assert_close(scores(fit, X[:1], Y[:1], kind="crps"), crps[:1])
    again = laplace_approximation(fit, "diagonal", prior_precision=1.0)
    torch.testing.assert_close(again.predict(X[:3]).mean, whole[:3])
    guide = fit.guide
    with torch.no_grad():
        values = guide(X, Y)
        drawn = pyro.poutine.trace(pyro.condition(fit.model, values)).get_trace(X)
    torch.testing.assert_close(drawn.nodes["y"]["fn"].mean, whole)


def test_errors_of_heads_are_given_the_features_in_evaluation_mode():
    fit = trained()
    held = {name: value for name, value in fit.params.items() if name.startswith("trunk")}
    heads = mle(pyro.condition(fit.model, held), X, Y)
    assert heads.converged
    module = trunk("both")
    module.load_state_dict({k.removeprefix("trunk."): v for k, v in {**held, **fit.buffers}.items()})
    with torch.no_grad():
        features = module.eval()(X)
    linear = mle(models.gaussian, features, Y)
    assert heads.nll == pytest.approx(linear.nll, rel=1e-12)
    order = [("mean.weight", str(j)) for j in range(4)]
    names = [("mean", f"x{j}") for j in range(4)]
    np.testing.assert_allclose(
        covariance(heads).loc[order, order], covariance(linear).loc[names, names], rtol=1e-6
    )


def test_the_density_of_a_posterior_is_that_of_evaluation_mode():
    objective = Objective(on_features(models.gaussian, trunk("dropout")), prepare(X[:20], Y[:20]))
    theta = objective.initial + 0.1
    lowered = Lowered(objective, (), is_linear=False)
    first, again = (lowered.value_and_gradient(theta)[0] for _ in range(2))
    assert first == again == pytest.approx(objective.value(theta), rel=1e-12)
    assert lowered.reason == ""


def test_the_default_solver_trains_networks_that_depend_on_their_mode(monkeypatch):
    class Short(Adam):
        def __init__(self, **settings):
            super().__init__(steps=3, **settings)

    monkeypatch.setattr("neglog.fitting.choice.Adam", Short)
    fit = map_estimate(on_features(models.gaussian, trunk("batch norm")), X, Y)
    assert fit.n_iter == 3
    assert "in training mode" in fit.status


@pytest.mark.parametrize("solver", [LBFGS(), VariableProjection(), Newton(), TrustRegion()])
def test_solvers_of_one_fixed_function_are_refused(solver):
    net = on_features(models.gaussian, trunk("dropout"))
    with pytest.raises(ModelError, match=f"{type(solver).__name__}.*Use `Adam` or `SVI`"):
        mle(net, X, Y, solver=solver)


def test_a_layer_in_evaluation_mode_stays_in_it():
    module = trunk("both")
    module[1].eval()
    module[2].eval()
    fit = map_estimate(on_features(models.gaussian, module), X, Y, solver=LBFGS(max_steps=5))
    assert torch.equal(fit.buffers["trunk.1.running_mean"], torch.zeros(4).double())
    assert not module[1].training
    assert module[0].training


def test_layers_that_do_nothing_are_left_to_the_usual_solvers():
    still = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.0), nn.Tanh())
    fit = map_estimate(on_features(models.gaussian, still), X, Y, solver=LBFGS(max_steps=5))
    assert "training mode" not in fit.status


def test_networks_of_their_own_are_all_trained():
    nets = {"mean": trunk("both").eval(), "sigma": trunk("batch norm")}
    fit = mle(on_features(models.gaussian, nets), X, Y, solver=adam())
    assert int(fit.buffers["trunk.mean.1.num_batches_tracked"]) == STEPS
    assert int(fit.buffers["trunk.sigma.1.num_batches_tracked"]) == STEPS
    assert torch.isfinite(predict(fit, X[:1]).mean).all()


def test_a_network_inside_a_model_of_ones_own_is_trained():
    net = on_features(models.gaussian, trunk("both"))

    def own(x, y=None):
        return net(x, y)

    direct, inside = (mle(model, X, Y, solver=adam()) for model in (net, own))
    assert inside.losses == direct.losses
    torch.testing.assert_close(predict(inside, X[:1]).mean, predict(direct, X[:1]).mean)


def test_a_batch_of_one_row_is_refused_by_its_cause():
    with pytest.raises(ModelError, match=r"BatchNorm.*`batch_size`"):
        mle(on_features(models.gaussian, trunk("both")), X, Y, solver=Adam(steps=10, batch_size=79))


def test_a_lazy_module_needs_its_shape_first():
    module = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()).double()
    with pytest.raises(ModelError, match=r"`0\.weight`.*has no shape yet"):
        on_features(models.gaussian, module)
    module(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mle(on_features(models.gaussian, module), X, Y, solver=Adam(steps=3))
