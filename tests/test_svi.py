"""The literal path: minibatches, schedules, early stopping."""

import dataclasses

import numpy as np
import pyro
import pytest
import torch
from table import STRUCTURES, TABLE, fast_svi, sample

from neglog import flat, mle, models
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, DataError
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective
from neglog.solvers import SVI


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match=r"`steps`.* 0"):
        SVI(steps=0)
    with pytest.raises(DataError, match=r"`batch_size`.* 0"):
        SVI(batch_size=0)
    with pytest.raises(DataError, match=r"must be a pyro.optim"):
        SVI(optim=torch.optim.Adam)


@pytest.mark.parametrize(
    ("name", "handler", "weighted"),
    [
        *(pytest.param(name, flat, True, id=f"{name}, mle, weighted") for name in TABLE),
        *(pytest.param(name, flat, False, id=f"{name}, mle") for name in STRUCTURES),
        *(pytest.param(name, lambda model: model, False, id=f"{name}, map") for name in STRUCTURES),
    ],
)
def test_a_minibatch_gradient_is_an_unbiased_estimate(name, handler, weighted):
    # Over a partition into batches of one size, each row comes equally often: the mean is the expectation.
    x, y = TABLE[name].sample()
    weights = torch.linspace(0.5, 2, len(y)) if weighted else None
    data = prepare(x, y, weights=weights, **TABLE[name].keywords())
    objective = Objective(handler(TABLE[name].model), data)
    coordinates = rescaled(objective, objective.initial)
    z = coordinates.z(objective.initial) + 0.1

    def gradient(index):
        values = {k: v.requires_grad_() for k, v in coordinates.literal.values(z).items()}
        arguments, keywords = coordinates.literal.arguments(index)
        conditioned = pyro.condition(coordinates.literal.model, values)
        loss = -pyro.poutine.trace(conditioned).get_trace(*arguments, **keywords).log_prob_sum()
        found = torch.autograd.grad(loss, list(values.values()))
        return torch.cat([g.reshape(-1) for g in found]), loss.detach()

    batches = [
        gradient(index)
        for index in torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).split(12)
    ]
    whole = gradient(None)
    torch.testing.assert_close(torch.stack([g for g, _ in batches]).mean(0), whole[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.stack([v for _, v in batches]).mean(), whole[1], rtol=1e-12, atol=0)
    assert not torch.allclose(batches[0][0], whole[0])


def test_minibatches_come_near_the_optimum():
    x, y = sample(400)
    exact = mle(models.gaussian, x, y)
    with pytest.warns(ConvergenceWarning):
        fit = mle(
            models.gaussian,
            x,
            y,
            solver=dataclasses.replace(fast_svi(150), batch_size=50, certainty=1e-9),
        )
    assert fit.nll - exact.nll < 0.1


def test_the_seed_decides_the_batches():
    x, y = sample(100)
    runs = []
    for seed in (0, 0, 1):
        with pytest.warns(ConvergenceWarning):
            runs.append(mle(models.gaussian, x, y, solver=SVI(steps=10, batch_size=10, seed=seed)).losses)
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("optim", "steps"),
    [
        (pyro.optim.ClippedAdam({"lr": 0.2, "lrd": 0.96}), 100),
        (
            pyro.optim.ReduceLROnPlateau(
                {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "patience": 20}
            ),
            200,
        ),
    ],
    ids=["a rate that falls", "a plateau"],
)
def test_any_optimiser_or_schedule_serves(optim, steps):
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=SVI(optim=optim, steps=steps, certainty=0.1))
    assert fit.converged
    # Within a tenth of a standard error, which constant rates circle, the loss is ½ · 0.1² above its minimum.
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, abs=5e-3)


def test_an_optimiser_serves_many_fits_and_keeps_no_state():
    x, y = sample()
    solver = SVI(optim=pyro.optim.Adam({"lr": 0.1}), steps=30, certainty=100.0)
    first, second = (mle(models.gaussian, x, y, solver=solver) for _ in range(2))
    assert first.losses == second.losses
    assert not solver.optim.optim_objs


def test_history_is_the_loss_step_by_step_and_progress_goes_to_the_terminal(capsys):
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=fast_svi(120), progress=True)
    assert len(fit.losses) == fit.n_iter == 120
    assert fit.losses[-1] == pytest.approx(fit.loss, rel=1e-9)
    assert fit.losses[0] > fit.losses[-1]
    out, err = capsys.readouterr()
    assert "SVI" in err
    assert out == ""


def test_early_stopping():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=SVI(steps=3000, patience=50))
    assert fit.n_iter < 3000
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, abs=1e-2)


def test_the_models_own_coordinates_serve_well_scaled_data():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=dataclasses.replace(fast_svi(80), rescale=False))
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, abs=1e-4)


def test_a_learning_rate_that_is_too_large_is_told():
    x, y = sample()
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit = mle(models.gaussian, x, y, solver=SVI(optim=pyro.optim.SGD({"lr": 0.02}), steps=40))
    assert not fit.converged


def test_single_precision_is_a_choice():
    x, y = sample()
    fit = mle(models.gaussian, x, y, solver=dataclasses.replace(fast_svi(80), dtype=torch.float32))
    assert {value.dtype for value in fit.params.values()} == {torch.float32}
    exact = mle(models.gaussian, x, y)
    np.testing.assert_allclose(fit.params["mean.weight"], exact.params["mean.weight"], atol=1e-3)
