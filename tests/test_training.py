"""Training by epochs: held-out rows, schedules, clipping, averages, callbacks, and optimisers of torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import ShuffleSplit
from torch import Tensor, nn
from torch.optim import lr_scheduler

from neglog import Fit, log_likelihood, map_estimate, mle, models, on_features, plots, predict
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.solvers import LBFGS, SGD, SVI, Adam, AdamW, Epoch, Optimiser, StopFit

torch.manual_seed(0)
X = torch.randn(60, 2, dtype=torch.float64)
Y = X[:, 0] - 0.5 * X[:, 1] + 0.3 * torch.randn(60, dtype=torch.float64)
START = {"mean.weight": torch.zeros(2), "mean.bias": torch.zeros(()), "sigma": torch.ones(())}
HELD = torch.arange(0, 60, 6)
KEPT = torch.tensor([i for i in range(60) if i % 6])


def trunk(*more: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(2, 6), *more, nn.Tanh()).double()


def network(*more: nn.Module) -> Any:
    return on_features(models.heteroscedastic, trunk(*more))


def quietly(model: Any, solver: Any, x: Any = X, y: Any = Y, **more: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mle(model, x, y, solver=solver, **more)


def test_held_out_rows_are_no_part_of_the_fit() -> None:
    model, solver = network(), Adam(epochs=6, batch_size=16, learning_rate=0.01)
    alone = quietly(model, solver, X[KEPT], Y[KEPT])
    mask = torch.zeros(60, dtype=torch.bool)
    mask[HELD] = True
    for validation in (HELD, HELD.tolist(), HELD.numpy(), mask):
        fit = quietly(model, replace(solver, validation=validation))
        assert fit.losses == alone.losses
        assert fit.n == alone.n == 50


def test_other_rows_validate_as_held_out_ones_do() -> None:
    kept = pd.DataFrame({"a": X[KEPT, 0], "b": X[KEPT, 1], "y": Y[KEPT], "w": 1.0 + (KEPT % 2)})
    held = pd.DataFrame({"b": X[HELD, 1], "y": Y[HELD], "w": 1.0 + (HELD % 2), "a": X[HELD, 0]})
    solver = Adam(epochs=30, batch_size=16, learning_rate=0.05, patience=5)
    whole = quietly(models.gaussian, replace(solver, validation=HELD))
    pair = replace(solver, validation=(X[HELD], Y[HELD]))
    named = replace(solver, validation={"x": held[["a", "b"]], "y": held["y"]})
    for fit in (
        quietly(models.gaussian, pair, X[KEPT], Y[KEPT]),
        quietly(models.gaussian, named, kept[["a", "b"]], kept["y"]),
        quietly(models.gaussian, replace(solver, validation=held), "y ~ a + b", kept),
    ):
        assert fit.losses == whole.losses
        assert fit.held_out == pytest.approx(whole.held_out, rel=1e-12)
    weights = 1.0 + torch.arange(60, dtype=torch.float64) % 2
    by_weight = quietly(models.gaussian, replace(solver, validation=HELD), weights=weights)
    found = quietly(models.gaussian, replace(solver, validation=held), "y ~ a + b", kept, weights="w")
    assert found.held_out == pytest.approx(by_weight.held_out, rel=1e-10)
    counts = quietly(
        "poisson",
        replace(
            solver,
            validation=(
                X[HELD],
                HELD % 3,
            ),
        ),
        X[KEPT],
        KEPT % 3,
    )
    assert counts.held_out == pytest.approx(-log_likelihood(counts, X[HELD], HELD % 3).mean().item())


def test_other_rows_that_do_not_fit_are_refused() -> None:
    def refused(named: str, validation: Any, **more: Any) -> None:
        solver = Adam(epochs=2, validation=validation)
        with pytest.raises(DataError) as error:
            mle("poisson", X[KEPT], KEPT % 3, solver=solver, **more)
        assert named in str(error.value)

    refused("row 1", (X[HELD], torch.tensor([0.0, -1.0, *[1.0] * 8])))
    refused("column", (X[HELD][:, :1], HELD % 3))
    refused("`validation`: `y` has 9 rows", (X[HELD], HELD[1:] % 3))
    refused("`exposure`", (X[HELD], HELD % 3), exposure=torch.ones(50))
    refused("response", {"x": X[HELD]})


def test_a_share_and_a_splitter_hold_rows_out_by_their_seeds() -> None:
    def held(**settings: Any) -> list[int]:
        fit = quietly(models.gaussian, Adam(epochs=1, **settings))
        assert fit.objective is not None
        assert fit.objective.data.index is not None
        return sorted(set(range(60)) - set(fit.objective.data.index.tolist()))

    first, again, other = (held(validation=0.2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 12
    splitter = ShuffleSplit(1, test_size=7, random_state=3)
    assert held(validation=splitter) == sorted(next(splitter.split(X))[1])


def test_the_weights_are_those_of_the_best_epoch() -> None:
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.1))
    solver = Adam(epochs=400, batch_size=10, learning_rate=0.05, decay=1.0, validation=HELD, patience=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a training that its held-out rows have ended is no failure
        fit = mle(model, X, Y, solver=solver)
    table = fit.history
    best = table["validation_loss"].idxmin()
    assert len(table) == best + 1 + 7 < 400
    assert fit.held_out == table["validation_loss"].min()
    assert fit.held_out == pytest.approx(-log_likelihood(fit, X[HELD], Y[HELD]).mean().item(), rel=1e-12)
    assert f"epoch {best + 1}," in fit.status
    assert f"{table['validation_loss'].iloc[-1] - fit.held_out:.3g}" in fit.status
    assert not fit.converged  # which is an optimum


def test_a_descent_has_the_weights_with_the_best_held_out_score() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fit = mle(network(), X, Y, solver=LBFGS(validation=HELD, patience=20))
    steps = len(fit.losses) - 1
    last = quietly(network(), LBFGS(max_steps=steps), X[KEPT], Y[KEPT])
    assert last.losses == fit.losses
    assert fit.n == 50
    assert not fit.converged
    held_out = [-log_likelihood(each, X[HELD], Y[HELD]).mean().item() for each in (fit, last)]
    assert fit.held_out == pytest.approx(held_out[0], abs=1e-12)
    assert held_out[0] < held_out[1]
    at = int(fit.status.partition("at step ")[2].partition(",")[0])
    best = quietly(network(), LBFGS(max_steps=at), X[KEPT], Y[KEPT])
    assert all(torch.equal(best.params[name], value) for name, value in fit.params.items())


def test_a_loss_that_is_still_decreasing_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match="still decreasing"):
        mle(network(), X, Y, solver=Adam(epochs=3, learning_rate=1e-4, validation=0.2))


def loop(
    optimiser: Callable[..., torch.optim.Optimizer],
    scheduler: Callable[..., Any] | None = None,
    max_norm: float = math.inf,
    decay: float | None = None,
) -> tuple[list[float], list[Tensor]]:
    """A loop in PyTorch on the mean loss of minibatches: its losses, and the last or average weights."""
    weights = [START["mean.weight"].double(), START["mean.bias"].double(), START["sigma"].double().log()]
    weights = [each.clone().requires_grad_() for each in weights]
    averages = [each.detach().clone() for each in weights]
    rule, losses = optimiser(weights), []
    schedule = scheduler(rule) if scheduler is not None else None
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(5):
        total = 0.0
        for index in torch.randperm(60, generator=shuffle).split(20):
            rule.zero_grad()
            mean = X[index] @ weights[0] + weights[1]
            loss = -torch.distributions.Normal(mean, weights[2].exp()).log_prob(Y[index]).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, max_norm)
            rule.step()
            losses.append(60 * loss.item())
            total += loss.item()
            if isinstance(schedule, lr_scheduler.OneCycleLR):
                schedule.step()
            for mean_of, each in zip(averages, weights, strict=True):
                mean_of.lerp_(each.detach(), 1 - decay if decay is not None else 1.0)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(total / 3)
        elif schedule is not None and not isinstance(schedule, lr_scheduler.OneCycleLR):
            schedule.step()
    return losses, averages


STEPPED = partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)
CYCLE = partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=15)
PLATEAU = partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.1)
LOOPS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "sgd": (
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        {},
        SGD(learning_rate=0.1, momentum=0.9, epochs=5),
    ),
    "adamw": (
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3),
        {"scheduler": STEPPED},
        AdamW(learning_rate=0.1, weight_decay=0.3, epochs=5, scheduler=STEPPED),
    ),
    "clipped": (
        partial(torch.optim.SGD, lr=0.5),
        {"max_norm": 0.1, "decay": 0.7},
        SGD(learning_rate=0.5, epochs=5, max_norm=0.1, ema_decay=0.7),
    ),
    "a cycle": (
        partial(torch.optim.Adam, lr=0.1),
        {"scheduler": partial(CYCLE, cycle_momentum=False)},
        Adam(learning_rate=0.1, epochs=5, scheduler=partial(CYCLE, cycle_momentum=False)),
    ),
    "a plateau": (
        partial(torch.optim.RAdam, lr=0.1),
        {"scheduler": PLATEAU},
        Optimiser(torch.optim.RAdam, lr=0.1, epochs=5, scheduler=PLATEAU),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_training_is_a_loop_in_pytorch(name: str) -> None:
    optimiser, more, solver = LOOPS[name]
    losses, weights = loop(optimiser, **more)
    solver = replace_settings(solver, batch_size=20, rescale=False)
    fit = quietly(models.gaussian, solver, start=START)
    assert fit.losses == pytest.approx(losses, rel=1e-8)
    found = [fit.params["mean.weight"], fit.params["mean.bias"], fit.params["sigma"].log()]
    for mine, known in zip(found, weights, strict=True):
        torch.testing.assert_close(mine, known, rtol=1e-7, atol=1e-9)


def replace_settings(solver: Any, **settings: Any) -> Any:
    if isinstance(solver, Optimiser):
        return Optimiser(solver.optimiser, **solver.options, epochs=5, scheduler=solver.scheduler, **settings)
    return replace(solver, **settings)


def test_the_literal_path_takes_the_same_steps_and_ends_at_the_same_epoch() -> None:
    settings: dict[str, Any] = {"epochs": 40, "batch_size": 10, "validation": HELD, "patience": 3}
    replayed, literal = (quietly(network(), solver) for solver in (Adam(**settings), SVI(**settings)))
    assert literal.losses == pytest.approx(replayed.losses, rel=1e-8)
    first, second = (fit.history.drop(columns="seconds").to_numpy() for fit in (replayed, literal))
    np.testing.assert_allclose(first, second, rtol=1e-7)
    assert literal.held_out == pytest.approx(replayed.held_out, rel=1e-8)


def test_callbacks_see_each_epoch_and_may_end_the_training() -> None:
    seen: list[Epoch] = []

    def look(epoch: Epoch) -> None:
        seen.append(epoch)
        with pytest.raises(AttributeError):
            epoch.epoch = 0  # type: ignore[misc]
        if epoch.epoch == 4:
            raise StopFit

    fit = quietly(network(), Adam(epochs=20, batch_size=20, callbacks=(look,)))
    assert [epoch.steps for epoch in seen] == [3, 6, 9, 12]
    assert fit.epochs == tuple(seen)
    assert "callback at epoch 4" in fit.status
    assert seen[-1].training_loss == pytest.approx(sum(fit.losses[-3:]) / 180, rel=1e-12)
    with pytest.raises(ZeroDivisionError):
        mle(network(), X, Y, solver=Adam(epochs=2, callbacks=(lambda _: 1 / 0,)))


def test_a_loss_that_is_not_finite_leaves_the_weights_of_the_epoch_before() -> None:
    solver = Adam(epochs=9, learning_rate=0.01, decay=1.0, scheduler=EXPLODING)
    with pytest.warns(ConvergenceWarning, match="not finite after 6 steps.*after step 5"):
        fit = mle(models.poisson, X, Y.exp().round(), solver=solver)
    good = quietly(models.poisson, replace(solver, epochs=5), X, Y.exp().round())
    torch.testing.assert_close(fit.params["log_rate.weight"], good.params["log_rate.weight"])


def test_a_training_that_fails_at_once_names_the_learning_rate() -> None:
    for model in (network(), network(nn.Dropout(0.1))):
        with pytest.raises(UnboundedLikelihoodError, match=r"not finite after \d+ steps.*learning rate"):
            quietly(model, SGD(epochs=1, batch_size=4, learning_rate=1e9, momentum=0.9))


def test_buffers_of_steps_that_fail_are_not_kept() -> None:
    solver = Adam(epochs=9, learning_rate=0.01, decay=1.0, scheduler=EXPLODING)
    fit = quietly(on_features("poisson", trunk(nn.BatchNorm1d(6))), solver, X, Y.exp().round())
    assert "not finite" in fit.status
    good = quietly(
        on_features("poisson", trunk(nn.BatchNorm1d(6))),
        replace(solver, epochs=fit.n_iter - 1),
        X,
        Y.exp().round(),
    )
    assert all(torch.equal(fit.buffers[name], value) for name, value in good.buffers.items())


EXPLODING = partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0 if epoch < 4 else 1e6)


def test_the_history_is_a_table() -> None:
    columns = ["epoch", "steps", "training_loss", "validation_loss", "learning_rate", "seconds"]
    trained = quietly(models.gaussian, Adam(epochs=4, batch_size=30)).history
    assert list(trained.columns) == columns
    assert trained["steps"].tolist() == [2, 4, 6, 8]
    assert trained["seconds"].is_monotonic_increasing
    assert trained["validation_loss"].isna().all()
    newton = mle(models.poisson, X, Y.exp().round())
    assert list(newton.history.columns) == columns
    assert len(newton.history) == len(newton.losses)
    assert newton.history["training_loss"].iloc[-1] == pytest.approx(newton.losses[-1] / 60)


def test_a_prior_counts_once_in_each_minibatch() -> None:
    model = on_features(models.gaussian, trunk())
    whole = map_estimate(model, X, Y)
    solver = Adam(epochs=100, batch_size=20, learning_rate=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = map_estimate(model, X, Y, solver=solver, start=whole.params)
    assert fit.loss == pytest.approx(whole.loss, abs=0.05)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "both": (lambda: Adam(steps=10, epochs=2), "`steps` or `epochs`"),
    "epochs": (lambda: Adam(epochs=0), "`epochs`"),
    "share": (lambda: Adam(validation=1.5), "`validation`"),
    "text": (lambda: Adam(validation="last"), "`validation`"),
    "callbacks": (lambda: Adam(callbacks=print), "`callbacks`"),
    "average": (lambda: Adam(ema_decay=1.0), "`ema_decay`"),
    "norm": (lambda: Adam(max_norm=0.0), "`max_norm`"),
    "a name": (lambda: Optimiser("adam"), "torch.optim"),
    "an instance": (lambda: Optimiser(torch.optim.SGD([torch.zeros(1)], lr=0.1)), "torch.optim"),
    "a range": (lambda: Optimiser(torch.optim.SGD, lr=-1.0), "-1"),
    "lbfgs": (lambda: Optimiser(torch.optim.LBFGS), "neglog.solvers.LBFGS"),
    "momentum": (lambda: SGD(momentum=2.0), "`momentum`"),
    "a scheduler": (lambda: quietly(models.gaussian, Adam(scheduler=lambda _: None)), "NoneType"),
    "rows": (lambda: quietly(models.gaussian, Adam(validation=[60])), "59"),
    "no rows left": (lambda: quietly(models.gaussian, Adam(validation=range(60))), "60 of 60"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    call, named = WRONG[name]
    with pytest.raises(DataError) as error:
        call()
    assert named in str(error.value)


def test_an_epoch_has_all_rows() -> None:
    seen = list(islice(quietly(models.gaussian, Adam(epochs=3, batch_size=16)).epochs, 9))
    assert [epoch.steps for epoch in seen] == [4, 8, 12]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_feature_that_is_0_in_every_row_is_none_of_a_column_of_the_scale(dtype: torch.dtype) -> None:
    layer = nn.Linear(2, 6)
    with torch.no_grad():
        layer.bias[0] = -1e3
    fit = quietly(
        on_features(models.heteroscedastic, nn.Sequential(layer, nn.ReLU())), Adam(epochs=2, dtype=dtype)
    )
    assert math.isfinite(fit.nll)


def test_the_history_has_a_picture() -> None:
    fit = quietly(network(), Adam(epochs=12, batch_size=16, learning_rate=0.05, validation=HELD))
    axes = plots.training(fit).axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines()}
    np.testing.assert_allclose(lines["held out"], fit.history[["epoch", "validation_loss"]])
    np.testing.assert_allclose(lines["training"], fit.history[["epoch", "training_loss"]])
    best = fit.history["validation_loss"].idxmin() + 1
    np.testing.assert_allclose(lines[f"epoch {best}"], [[best, fit.held_out]])
    assert axes.get_xlabel() == "epoch"
    assert plots.training(mle(models.poisson, X, Y.exp().round())).axes[0].get_xlabel() == "step"
    with pytest.raises(DataError, match="no history"):
        plots.training(replace(fit, epochs=(), losses=()))


def test_the_network_of_a_fit_is_a_trained_copy() -> None:
    own = trunk(nn.BatchNorm1d(6), nn.Dropout(0.3))
    before = {name: value.clone() for name, value in own.state_dict().items()}
    fit = quietly(on_features(models.heteroscedastic, own), Adam(epochs=3, batch_size=20))
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    with torch.no_grad():
        mean = fit.module(X) @ fit.params["mean.weight"] + fit.params["mean.bias"]
    torch.testing.assert_close(predict(fit, X).mean, mean)
    assert not fit.module.training
    with pytest.raises(ModelError, match="no network"):
        _ = mle(models.gaussian, X, Y).module


def test_layers_that_predictors_share_are_in_the_copy_under_both_names() -> None:
    shared = trunk()
    both = on_features(
        models.heteroscedastic, {"mean": shared, "log_variance": nn.Sequential(shared, nn.Tanh())}
    )
    fit = quietly(both, Adam(epochs=2))
    with torch.no_grad():
        features = fit.module["log_variance"](X)  # type: ignore[index]
        found = features @ fit.params["log_variance.weight"] + fit.params["log_variance.bias"]
    torch.testing.assert_close(predict(fit, X).variance.log(), found)
