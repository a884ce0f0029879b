"""Checkpoints: a killed computation goes on from its last state and ends at the same numbers."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from checkpointing import RIVALS, WORK, outcome
from torch import nn
from typer.testing import CliRunner

from neglog import (
    Checkpoint,
    bootstrap,
    compare,
    files,
    map_estimate,
    mle,
    models,
    on_features,
    posterior,
    truncated,
    validation,
)
from neglog.bayes import nuts
from neglog.checkpoint import Journal
from neglog.cli.commands import app
from neglog.errors import CheckpointError, DataError, ModelError
from neglog.fitting import pipeline
from neglog.solvers import LBFGS, SGD, SVI, Adam, Chain, Newton, VariableProjection
from neglog.solvers.chain import minimised
from neglog.solvers.training import Run

X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
Y = torch.sin(3 * X[:, 0]) + 0.1 * torch.cos(40 * X[:, 0])
pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge", "ignore:the posterior of")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["adam", "side by side"])
def test_a_killed_computation_ends_at_the_same_numbers(tmp_path: Path, name: str) -> None:
    assert outcome(name, tmp_path, seed=0) == {"resumed": True, "same": True, "left": []}


class Interrupted(BaseException):
    """In the place of a kill, within a process."""


def interrupted(monkeypatch: pytest.MonkeyPatch, writes: int, work: Any) -> bool:
    """Whether a computation was interrupted after it had written so many states."""
    count, publish = [0], files.publish

    def published(path: Path, content: bytes) -> None:
        publish(path, content)
        count[0] += 1
        if count[0] == writes:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", published)
        try:
            work()
        except Interrupted:
            return True
    return False


def network(*more: nn.Module) -> Any:
    torch.manual_seed(0)
    return on_features(models.gaussian, nn.Sequential(nn.Linear(1, 3), *more, nn.Tanh()))


SOLVERS = {
    "full batches": Adam(steps=150),
    "patience": Adam(steps=400, patience=60, tolerance=1e-2),
    "validation": Adam(
        epochs=12,
        batch_size=8,
        validation=0.2,
        ema_decay=0.9,
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    ),
    "an optimiser": SGD(epochs=9, batch_size=8, momentum=0.9, validation=range(8)),
    "a plateau": SVI(
        steps=12,
        optim=pyro.optim.ReduceLROnPlateau(
            {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01, "momentum": 0.9}, "patience": 2}
        ),
    ),
    "a descent with held-out rows": LBFGS(max_steps=30, validation=0.2),
    "a chain": Chain((LBFGS(max_steps=20), VariableProjection(max_steps=8))),
    "one that keeps no steps": Newton(),
    "between bounds": Adam(steps=150),
    "towards a border": Adam(steps=500),
    "at a border": None,
}
BOUNDED = {
    "between bounds": (truncated(models.gaussian, lower=-1.5, upper=1.5), Y),
    "towards a border": (truncated(models.gaussian, lower=-1.2, upper=1.2), Y),
    "at a border": (truncated(models.gaussian, lower=-1.0, upper=1.0), X[:, 0]),
}
"""Truncated models, of which the likelihood of the latter two is largest where `sigma` is infinite."""


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_go_on_from_their_state(monkeypatch: Any, tmp_path: Path, name: str) -> None:
    def fit(**options: Any) -> Any:
        more = (nn.BatchNorm1d(3), nn.Dropout(0.2)) if name in ("a plateau", "an optimiser") else ()
        model = models.student_t if name == "one that keeps no steps" else network(*more)
        if name in BOUNDED:
            bounded, y = BOUNDED[name]
            return mle(bounded, X[:, :0], y, solver=SOLVERS[name], **options)
        return map_estimate(model, X, Y, solver=SOLVERS[name], **options)

    whole = fit()
    checkpoint = Checkpoint(tmp_path / "fit", steps=2)
    writes = 1 if name in BOUNDED else 2  # the second one of these is the end
    stops = sum(interrupted(monkeypatch, writes, partial(fit, checkpoint=checkpoint)) for _ in range(2))
    assert stops or name in ("one that keeps no steps", "at a border")
    for _ in range(2):
        found = fit(checkpoint=checkpoint)
        assert (found.loss, found.losses, found.status) == (whole.loss, whole.losses, whole.status)
        assert all(torch.equal(found.params[key], value) for key, value in whole.params.items())
        assert all(torch.equal(found.buffers[key], value) for key, value in whole.buffers.items())


@pytest.mark.parametrize("name", ["lbfgs", "path", "quantiles", "bootstrap", "comparison", "side by side"])
def test_interrupted_computations_end_at_the_same_numbers(
    monkeypatch: Any, tmp_path: Path, name: str
) -> None:
    whole = WORK[name](None)
    checkpoint = Checkpoint(tmp_path / "state", steps=1)
    assert interrupted(monkeypatch, 2, partial(WORK[name], checkpoint))
    assert WORK[name](checkpoint) == whole


def test_finished_chains_are_kept(monkeypatch: Any, tmp_path: Path) -> None:
    pytest.importorskip("nutpie")
    sampled = partial(posterior, models.gaussian, X, Y, draws=100, tune=30, chains=2, cores=1)
    whole = sampled(checkpoint=tmp_path / "at once")
    assert interrupted(monkeypatch, 1, partial(sampled, checkpoint=tmp_path / "draws"))
    begun: list[int] = []
    drawn = nuts._drawn
    monkeypatch.setattr(nuts, "_drawn", lambda trace: begun.append(1) or drawn(trace))
    for left in (1, 1):  # of two chains one is sampled, and then none
        found = sampled(checkpoint=tmp_path / "draws")
        assert len(begun) == left
        assert all(torch.equal(found.draws[name], value) for name, value in whole.draws.items())
        assert torch.equal(found.stats["lp"], whole.stats["lp"])


def test_a_finished_fit_runs_no_step(monkeypatch: Any, tmp_path: Path) -> None:
    solver = Adam(steps=60)
    whole = map_estimate(network(), X, Y, solver=solver, checkpoint=tmp_path / "fit")
    monkeypatch.setattr(Run, "advance", lambda *_: pytest.fail("a step"))
    again = map_estimate(network(), X, Y, solver=solver, checkpoint=tmp_path / "fit")
    assert again.loss == whole.loss


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda path: map_estimate(network(), X, Y + 1e-9, solver=Adam(steps=60), checkpoint=path), "data"),
        (
            lambda path: map_estimate(network(), X, Y, solver=Adam(steps=61), checkpoint=path),
            "steps=60.*steps=61",
        ),
        (
            lambda path: mle(network(), X, Y, solver=Adam(steps=60), checkpoint=path),
            "function is map_estimate",
        ),
        (
            lambda path: map_estimate(
                on_features(models.gaussian, nn.Linear(1, 5)), X, Y, solver=Adam(steps=60), checkpoint=path
            ),
            r"parameters is trunk\.0\.weight \(3, 1\).*trunk\.weight \(5, 1\)",
        ),
        (
            lambda path: map_estimate(
                on_features(models.laplace, network().module), X, Y, solver=Adam(steps=60), checkpoint=path
            ),
            "model is gaussian, and here it is laplace",
        ),
        (lambda path: posterior(models.gaussian, X, Y, draws=100, checkpoint=path), "another call"),
        (lambda path: bootstrap(mle(models.gaussian, X, Y), 10, checkpoint=path), "another call"),
    ],
)
def test_the_checkpoint_of_another_call_is_refused(tmp_path: Path, changed: Any, said: str) -> None:
    map_estimate(network(), X, Y, solver=Adam(steps=60), checkpoint=tmp_path / "fit")
    with pytest.raises(DataError, match=said):
        changed(tmp_path / "fit")


def test_other_priors_are_another_call(tmp_path: Path) -> None:
    def net(scale: float) -> Any:
        torch.manual_seed(0)
        prior = partial(torch.distributions.Normal, 0.0)
        return on_features(
            models.gaussian, nn.Linear(1, 2), prior=lambda value: pyro.distributions.Normal(0.0, scale)
        ), prior

    map_estimate(net(1.0)[0], X, Y, solver=LBFGS(max_steps=5), checkpoint=tmp_path / "fit")
    with pytest.raises(DataError, match="initial loss"):
        map_estimate(net(2.0)[0], X, Y, solver=LBFGS(max_steps=5), checkpoint=tmp_path / "fit")


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-3],
        lambda c: c[:200] + b"x" + c[201:],
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),  # in a number
        lambda c: b"",
        lambda c: b"1",
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "fit"
    map_estimate(network(), X, Y, solver=Adam(steps=10), checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is no checkpoint of this version of neglog, or is damaged"):
        map_estimate(network(), X, Y, solver=Adam(steps=10), checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_not_advised_to_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(CheckpointError, match=r"Name another file\.$"):
        mle(models.gaussian, X, Y, checkpoint=path)
    path.write_text("neglog checkpoint 0 of another version")
    with pytest.raises(CheckpointError, match=r"Name another file, or remove this one\.$"):
        mle(models.gaussian, X, Y, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"needs a file, and .* is a folder"):
        mle(models.gaussian, X, Y, checkpoint=tmp_path)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`checkpoint` must be a path"):
        mle(models.gaussian, X, Y, checkpoint=3)
    with pytest.raises(DataError, match="which does not exist"):
        mle(models.gaussian, X, Y, checkpoint=tmp_path / "none" / "fit")
    with pytest.raises(ModelError, match="`steps`"):
        Checkpoint(tmp_path / "fit", steps=0)
    with pytest.raises(ModelError, match="method='nuts'"):
        posterior(models.gaussian, X, Y, method="laplace", checkpoint=tmp_path / "draws")


def test_states_are_written_no_more_often_than_they_are_due(monkeypatch: Any, tmp_path: Path) -> None:
    writes = [0]
    publish = files.publish

    def published(path: Path, content: bytes) -> None:
        writes[0] += 1
        publish(path, content)

    monkeypatch.setattr(files, "publish", published)
    for checkpoint, most in ((tmp_path / "seconds", 1), (Checkpoint(tmp_path / "steps", steps=100), 4)):
        writes[0] = 0
        map_estimate(network(), X, Y, solver=Adam(steps=300), checkpoint=checkpoint)
        assert writes[0] <= most


def test_all_kinds_of_state_come_back(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.arange(3), torch.tensor(0.1), torch.zeros((2, 0))],
        "arrays": {1: np.array([1.5, np.nan]), None: np.array(["a", "b"], dtype=object)},
        "plain": (1, True, None, "text", 0.1, float("-inf")),
    }
    settings = Checkpoint(tmp_path / "state")
    Journal(settings, {"a": "1"}).write(state)
    found = Journal(settings, {"a": "1"}).found
    assert repr(found) == repr(state)
    with pytest.raises(ModelError, match="cannot keep a function"):
        Journal(settings, {"a": "1"}).write(lambda: 0)


def command(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_a_comparison_scores_finished_folds_no_more(monkeypatch: Any, tmp_path: Path) -> None:
    """Of 2 models with 3 folds, 2 fits and 4 folds are in the file when the comparison is interrupted."""
    folds, solved, held_out = list[int](), list[int](), validation._held_out
    monkeypatch.setattr(validation, "_held_out", lambda *a: folds.append(1) or held_out(*a))
    monkeypatch.setattr(pipeline, "minimised", lambda *a, **c: solved.append(1) or minimised(*a, **c))
    compared = partial(compare, RIVALS, X, Y, folds=3, checkpoint=Checkpoint(tmp_path / "state", steps=1))
    assert interrupted(monkeypatch, 6, compared)
    assert (len(folds), len(solved)) == (4, 2)
    compared()
    assert (len(folds), len(solved)) == (6, 2)


def test_the_checkpoint_of_another_comparison_is_refused(tmp_path: Path) -> None:
    def call(rivals: Any = RIVALS, y: Any = Y, **asked: Any) -> Any:
        return compare(rivals, X, y, **{"folds": 2, "checkpoint": tmp_path / "state", **asked})

    call()
    known = pyro.condition(models.laplace, data={"scale": torch.tensor(1.0, dtype=torch.float64)})
    for changed, said in (
        (lambda: call(y=Y + 1e-9), "its data is"),
        (lambda: call(weights=torch.ones(30)), "its data is"),
        (lambda: call(groups=np.arange(30)), "its data is"),
        (lambda: call(folds=3), "its folds is 2, and here it is 3"),
        (lambda: call(seed=1), "its seed is 0, and here it is 1"),
        (lambda: call(scores=["rmse"]), "its scores is"),
        (lambda: call(["gaussian"]), "its models is"),
        (lambda: call({**RIVALS, "laplace": known}), "its parameters is"),
        (lambda: mle(models.gaussian, X, Y, checkpoint=tmp_path / "state"), "its function is compare"),
    ):
        with pytest.raises(CheckpointError, match=said):
            changed()


def test_a_comparison_on_the_command_line_keeps_folds(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "__all__", ["gaussian", "laplace"])
    monkeypatch.setattr("neglog.checkpoint.WRITING_SHARE", 1e9)
    monkeypatch.setattr("neglog.selection.SECONDS_BETWEEN_FOLDS", 0.0)
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()})
    table.to_csv("rows.csv", index=False)
    request = ["compare", "rows.csv", "y ~ x", "--no-plot", "--folds", "2", "--cores", "2"]
    whole = command(*request)
    kept = [*request, "--checkpoint", "state"]
    assert interrupted(monkeypatch, 6, partial(CliRunner().invoke, app, kept))
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_held_out", lambda *_: os._exit(3))  # all folds are in the file
        assert command(*kept) == whole
    table.assign(y=table.y + 1).to_csv("rows.csv", index=False)
    result = CliRunner().invoke(app, kept)
    assert result.exit_code == 2
    assert "is the checkpoint of another call: its data is" in result.stderr


def test_the_command_line_takes_checkpoints(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()})
    table.to_csv("rows.csv", index=False)
    first, second = (
        command("fit", "rows.csv", "y ~ x", "--model", "gaussian", "--checkpoint", "fit") for _ in range(2)
    )
    assert first == second == command("fit", "rows.csv", "y ~ x", "--model", "gaussian")
    table.assign(y=table.y + 1).to_csv("rows.csv", index=False)
    result = CliRunner().invoke(
        app, ["fit", "rows.csv", "y ~ x", "--model", "gaussian", "--checkpoint", "fit"]
    )
    assert result.exit_code == 2
    assert "is the checkpoint of another call: its data is" in result.stderr
    request = [
        "posterior",
        "rows.csv",
        "y ~ x",
        "--model",
        "gaussian",
        "--out",
        "draws.nc",
        "--checkpoint",
        "draws",
    ]
    sizes = ["--draws", "100", "--tune", "50", "--chains", "2"]
    assert command(*request, *sizes) == command(*request, *sizes)
