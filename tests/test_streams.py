"""Data sets and loaders of torch: one fit whichever holds the rows, of which a batch is held at a time."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

import neglog
from neglog import (
    Checkpoint,
    Fit,
    conformal,
    coverage,
    log_likelihood,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    recalibrate,
    scores,
)
from neglog.distributions import Normal
from neglog.distributions.averaged import quantile_of
from neglog.distributions.joined import Joined
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.solvers import LBFGS, SVI, Adam, AdamW

torch.manual_seed(0)
X = torch.randn(90, 3, dtype=torch.float64)
Y = X[:, 0] - 0.5 * X[:, 1] + 0.3 * torch.randn(90, dtype=torch.float64)
COUNTS = torch.poisson(Y.exp().clamp(max=5))
SOLVER = Adam(epochs=3, batch_size=16, learning_rate=0.01)


class Rows(Dataset[Any]):
    """A data set that reads a row at a time, and counts how many of its rows are held."""

    def __init__(self, *parts: Tensor, names: tuple[str, ...] = ()) -> None:
        self.parts, self.names = parts, names

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, i: int) -> Any:
        row = tuple(part[i] for part in self.parts)
        return dict(zip(self.names, row, strict=True)) if self.names else row


class Flow(IterableDataset[Any]):
    """Rows without a length, some of which may be missing."""

    def __init__(self, x: Tensor, y: Tensor, ends: tuple[int, ...] = ()) -> None:
        self.x, self.y, self.ends, self.epochs = x, y, list(ends), 0

    def __iter__(self) -> Iterator[Any]:
        self.epochs += 1
        end = self.ends[min(self.epochs, len(self.ends)) - 1] if self.ends else len(self.y)
        return zip(self.x[:end], self.y[:end], strict=True)


def network(*more: nn.Module, model: Any = models.heteroscedastic) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return on_features(model, nn.Sequential(nn.Linear(3, 5), *more, nn.Tanh()).double())


def quietly(model: Any, *data: Any, solver: Any = SOLVER, **more: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mle(model, *data, solver=solver, **more)


def check_same(fit: Fit, other: Fit) -> None:
    """All estimates to the last bit, and what was reported of them up to the order of sums."""
    for name, value in other.params.items():
        assert torch.equal(fit.params[name], value), name
    for name, value in other.buffers.items():
        assert torch.equal(fit.buffers[name], value), name
    assert fit.losses == other.losses
    assert fit.nll == pytest.approx(other.nll, rel=1e-12)
    assert fit.n == other.n
    assert (fit.held_out is None) == (other.held_out is None)
    if other.held_out is not None:
        assert fit.held_out == pytest.approx(other.held_out, rel=1e-12)


LAYERS: dict[str, tuple[nn.Module, ...]] = {
    "plain": (),
    "dropout": (nn.Dropout(0.2), nn.BatchNorm1d(5)),
}
GIVEN: dict[str, Callable[[], Any]] = {
    "a data set": lambda: Rows(X, Y),
    "mappings": lambda: Rows(X, Y, names=("x", "y")),
    "a loader": lambda: DataLoader(Rows(X, Y), batch_size=16, shuffle=True),
    "tensors of a data set": lambda: TensorDataset(X, Y),
    "a loader of tensors": lambda: DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True),
}


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("validation", [None, 0.2])
def test_one_fit_whichever_holds_the_rows(layers: str, validation: float | None) -> None:
    solver = replace(SOLVER, validation=validation)
    tensors = quietly(network(*LAYERS[layers]), X, Y, solver=solver)
    for given in GIVEN.values():
        check_same(quietly(network(*LAYERS[layers]), given(), solver=solver), tensors)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_the_order(seed: int) -> None:
    solver = replace(SOLVER, seed=seed)
    outside = torch.random.get_rng_state()
    first = quietly(network(), Rows(X, Y), solver=solver)
    assert torch.equal(torch.random.get_rng_state(), outside)
    check_same(first, quietly(network(), X, Y, solver=solver))
    assert first.losses != quietly(network(), X, Y, solver=replace(solver, seed=2)).losses


def test_rows_are_a_sample_where_they_are_many() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_500, 3, dtype=torch.float64, generator=generator)
    y = x[:, 0] + torch.randn(10_500, dtype=torch.float64, generator=generator)
    solver = Adam(steps=3, batch_size=100, learning_rate=0.01)
    check_same(quietly(network(), Rows(x, y), solver=solver), quietly(network(), x, y, solver=solver))


def test_weights_and_row_keywords_are_those_of_the_mappings() -> None:
    weights = 1.0 + torch.arange(90, dtype=torch.float64) % 2
    exposure = 0.5 + torch.rand(90, dtype=torch.float64)
    model = network(model=models.poisson)
    tensors = quietly(model, X, COUNTS, weights=weights, exposure=exposure)
    rows = Rows(X, COUNTS, weights, exposure, names=("x", "y", "weights", "exposure"))
    fit = quietly(model, rows)
    check_same(fit, tensors)
    assert fit.n == weights.sum()
    found, expected = (predict(each, X, exposure=exposure).mean for each in (fit, tensors))
    assert torch.equal(found, expected)
    held = quietly(model, rows, solver=replace(SOLVER, validation=0.2))
    check_same(
        held,
        quietly(model, X, COUNTS, weights=weights, exposure=exposure, solver=replace(SOLVER, validation=0.2)),
    )


def test_held_out_rows_count_by_their_weights() -> None:
    held = torch.arange(0, 90, 5)
    weights = 1.0 + torch.arange(90, dtype=torch.float64) % 3
    fit = quietly(network(), X, Y, weights=weights, solver=replace(SOLVER, validation=held))
    each = log_likelihood(fit, X[held], Y[held]) * weights[held]
    assert fit.held_out == pytest.approx(-float(each.sum() / weights[held].sum()), rel=1e-12)


def test_a_prior_is_not_scaled_up() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tensors = map_estimate(network(), X, Y, solver=SOLVER)
        fit = map_estimate(network(), Rows(X, Y), solver=SOLVER)
    check_same(fit, tensors)
    assert fit.loss == pytest.approx(tensors.loss, rel=1e-12)


def test_other_rows_validate_as_data_sets_do() -> None:
    held, kept = torch.arange(0, 90, 5), torch.tensor([i for i in range(90) if i % 5])
    expected = quietly(network(), X[kept], Y[kept], solver=replace(SOLVER, validation=(X[held], Y[held])))
    for given in ((X[kept], Y[kept]), (Rows(X[kept], Y[kept]),)):
        for rows in (
            Rows(X[held], Y[held]),
            DataLoader(Rows(X[held], Y[held]), batch_size=4),
            TensorDataset(X[held], Y[held]),
            (X[held], Y[held]),
        ):
            check_same(quietly(network(), *given, solver=replace(SOLVER, validation=rows)), expected)


def test_parts_of_a_data_set_are_data_sets() -> None:
    first, second = random_split(TensorDataset(X, Y), [60, 30], torch.Generator().manual_seed(0))
    index = torch.tensor(first.indices)
    check_same(quietly(network(), first), quietly(network(), X[index], Y[index]))
    rows = Subset(Rows(X, Y), first.indices)
    check_same(quietly(network(), rows), quietly(network(), X[index], Y[index]))
    assert second is not first


def test_a_loader_may_have_an_order_of_its_own() -> None:
    for loader in (
        DataLoader(Rows(X, Y), batch_size=16),
        DataLoader(Flow(X, Y), batch_size=16),
    ):
        fit = quietly(network(), loader, num_rows=90 if isinstance(loader.dataset, Flow) else None)
        literal = quietly(
            network(), loader, solver=SVI(epochs=3, optim=pyro_adam()), num_rows=fit_rows(loader)
        )
        assert fit.n_iter == literal.n_iter == 18
        assert fit.losses[0] == pytest.approx(literal.losses[0], rel=1e-9)
    generator = torch.Generator().manual_seed(5)
    shuffled = DataLoader(Rows(X, Y), batch_size=16, shuffle=True, generator=generator)
    before = generator.get_state()
    check_same(quietly(network(), shuffled), quietly(network(), shuffled))
    assert torch.equal(generator.get_state(), before)


def fit_rows(loader: Any) -> int | None:
    return 90 if isinstance(loader.dataset, Flow) else None


def pyro_adam() -> Any:
    import pyro

    return pyro.optim.Adam({"lr": 0.01})


def test_the_literal_path_reads_the_same_batches() -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "validation": 0.2}
    literal = quietly(network(), Rows(X, Y), solver=SVI(**settings))
    replayed = quietly(network(), Rows(X, Y), solver=Adam(**settings))
    assert literal.losses == pytest.approx(replayed.losses, rel=1e-8)
    assert literal.held_out == pytest.approx(replayed.held_out, rel=1e-8)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(
    "given", [lambda: Rows(X, Y), lambda: DataLoader(Flow(X, Y), batch_size=16)], ids=["indexed", "ordered"]
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    layers: str, given: Callable[[], Any], tmp_path: Path
) -> None:
    num_rows = None if isinstance(given(), Rows) else 90
    whole = quietly(network(*LAYERS[layers]), given(), num_rows=num_rows)

    def stop(epoch: Any) -> None:
        if epoch.epoch == 2 and not stopped:
            stopped.append(epoch)
            raise KeyboardInterrupt

    stopped: list[Any] = []
    checkpoint = Checkpoint(tmp_path / "state", steps=4)
    solver = replace(SOLVER, callbacks=(stop,))
    with pytest.raises(KeyboardInterrupt):
        quietly(network(*LAYERS[layers]), given(), num_rows=num_rows, solver=solver, checkpoint=checkpoint)
    again = quietly(
        network(*LAYERS[layers]), given(), num_rows=num_rows, solver=solver, checkpoint=checkpoint
    )
    check_same(again, whole)


def test_rows_are_read_once_an_epoch_and_not_held() -> None:
    read: list[int] = []

    class Read(Rows):
        def __getitem__(self, i: int) -> Any:
            read.append(i)
            return super().__getitem__(i)

    quietly(network(), Read(X, Y))
    gc.collect()
    assert sorted(read[-90:]) == list(range(90))  # which the log-likelihood of the fit is a sum over
    assert len(read) == 1 + 90 * (1 + 3 + 1)  # a row that shows the size, the start, three epochs, the end
    fit = quietly(network(), Read(X, Y))
    assert fit.objective is None
    assert fit.coordinates is None


def test_the_dtype_is_that_of_the_network() -> None:
    net = on_features(models.heteroscedastic, nn.Sequential(nn.Linear(3, 5), nn.Tanh()))
    fit = quietly(net, Rows(X, Y))
    assert {value.dtype for value in fit.params.values()} == {torch.float32}
    assert predict(fit, X).mean.dtype == torch.float32
    exact = quietly(net, Rows(X, Y), solver=replace(SOLVER, dtype=torch.float64))
    check_same(exact, quietly(net, X, Y))
    assert fit.nll == pytest.approx(exact.nll, rel=1e-4)
    single = sum(-log_likelihood(fit, X[i : i + 1], Y[i : i + 1]).double().item() for i in range(90))
    assert fit.nll == pytest.approx(single, rel=1e-6)


NEEDS_ROWS: dict[str, Callable[[Fit], Any]] = {
    "covariance": neglog.covariance,
    "bootstrap": neglog.bootstrap,
    "laplace_approximation": neglog.laplace_approximation,
    "uncertainty": lambda fit: predict(fit, X, uncertainty=True),
}


@pytest.mark.parametrize("name", NEEDS_ROWS)
def test_what_needs_the_rows_is_named(name: str) -> None:
    fit = quietly(network(), Rows(X, Y))
    with pytest.raises((DataError, ModelError), match=r"`Rows` in batches.*as tensors"):
        NEEDS_ROWS[name](fit)


def test_a_fit_of_a_stream_is_saved(tmp_path: Path) -> None:
    fit = quietly(network(), Rows(X, Y))
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh()).double()
    again = neglog.load(neglog.save(fit, tmp_path / "fit"), module=module)
    assert torch.equal(predict(again, X).mean, predict(fit, X).mean)


def loader_that_ends(*ends: int) -> DataLoader[Any]:
    return DataLoader(Flow(X, Y, ends), batch_size=16)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no length": (lambda: mle(network(), DataLoader(Flow(X, Y), batch_size=16), solver=SOLVER), "num_rows="),
    "another length": (lambda: mle(network(), Rows(X, Y), solver=SOLVER, num_rows=80), "has 90"),
    "tensors": (lambda: mle(network(), X, Y, solver=SOLVER, num_rows=90), "Leave it out"),
    "parts": (lambda: mle(network(), Rows(X, Y, Y), solver=SOLVER), "pair (x, y)"),
    "tensor parts": (lambda: mle(network(), TensorDataset(X, Y, Y), solver=SOLVER), "pairs"),
    "keys": (lambda: mle(network(), Rows(X, Y, names=("image", "label")), solver=SOLVER), "image, label"),
    "a keyword": (lambda: mle(network(), Rows(X, Y, Y, names=("x", "y", "exposures"))), "exposures"),
    "y": (lambda: mle(network(), Rows(X, Y), Y, solver=SOLVER), "`y` is given too"),
    "weights": (lambda: mle(network(), Rows(X, Y), weights=Y, solver=SOLVER), "`weights` is given too"),
    "a solver": (lambda: mle(network(), Rows(X, Y), solver=LBFGS()), "needs all rows"),
    "two sizes": (
        lambda: mle(network(), DataLoader(Rows(X, Y), 8, shuffle=True), solver=SOLVER),
        "the loader has 8",
    ),
    "two sizes of tensors": (
        lambda: mle(network(), DataLoader(TensorDataset(X, Y), 8, shuffle=True), solver=SOLVER),
        "the loader has 8",
    ),
    "a share of an order": (
        lambda: mle(network(), DataLoader(Rows(X, Y), 16), solver=replace(SOLVER, validation=0.2)),
        "validation=another_loader",
    ),
    "a loader that ends": (
        lambda: mle(network(), loader_that_ends(90, 70), solver=SOLVER, num_rows=90),
        "after 70 rows",
    ),
    "a column of y": (lambda: mle(network(), Rows(X, Y[:, None]), solver=SOLVER), r"[:, 0]"),
    "NaN": (lambda: mle(network(), Rows(X, Y.clone().index_fill(0, torch.tensor([3]), torch.nan))), "row 3"),
    "a count": (lambda: mle(network(model=models.poisson), Rows(X, Y)), "not negative"),
    "rows of validation": (
        lambda: mle(network(), X, Y, solver=replace(SOLVER, validation=Rows(X[:, :2], Y))),
        "shape",
    ),
    "another function": (lambda: neglog.ensemble(network(), Rows(X, Y), solver=SOLVER), "default_collate"),
    "a failing row": (lambda: mle(network(), Rows(X, Y[:80]), solver=SOLVER), "IndexError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_make_no_sense_are_refused(name: str) -> None:
    call, named = WRONG[name]
    with pytest.raises((DataError, ModelError)) as error:
        call()
    assert named in str(error.value)


def test_adamw_and_objectives_of_training_take_data_sets() -> None:
    solver = AdamW(epochs=3, batch_size=16, learning_rate=0.01)
    for objective in (neglog.beta_nll, neglog.faithful, lambda model: neglog.warm_up(model, 2)):
        fit, tensors = (
            quietly(objective(network()), *given, solver=solver) for given in ((Rows(X, Y),), (X, Y))
        )
        check_same(fit, tensors)
        assert fit.trained_on == tensors.trained_on


class Breaking(nn.Tanh):
    """A layer that does something wrong from some call in training mode on."""

    def __init__(self, after: int, wrong: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.calls, self.after, self.wrong = 0, after, wrong
        self.noise = nn.Dropout(0.01)  # so that the model is run in each step

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        found = self.noise(super().forward(x))
        return self.wrong(found) if self.training and self.calls > self.after else found


class Spoiled(Rows):
    """Rows of which some are wrong once all have been read a number of times."""

    def __init__(self, *parts: Tensor, reads: int, wrong: Callable[[Any], Any]) -> None:
        super().__init__(*parts)
        self.count, self.reads, self.wrong = 0, reads, wrong

    def __getitem__(self, i: int) -> Any:
        self.count += 1
        found = super().__getitem__(i)
        return self.wrong(found) if self.count > self.reads else found


LATE: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "rows of a module": (lambda: network(Breaking(14, lambda x: x[1:])), lambda: Rows(X, Y), r"\(16, F\)"),
    "a failing module": (
        lambda: network(Breaking(14, lambda x: x @ x)),
        lambda: Rows(X, Y),
        "raises RuntimeError",
    ),
    "a target": (
        network,
        lambda: Spoiled(X, Y, reads=91 + 180, wrong=lambda row: (row[0], row[1][None])),
        "shape",
    ),
    "a response": (
        network,
        lambda: Spoiled(X, Y, reads=91 + 180, wrong=lambda row: (row[0], row[1] * torch.nan)),
        "NaN",
    ),
    "a loader that ends": (network, lambda: loader_that_ends(90, 90, 90, 50), "after 50 rows"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_goes_wrong_after_an_epoch_leaves_its_weights(name: str) -> None:
    model, given, named = LATE[name]
    solver = replace(SOLVER, epochs=6)
    with pytest.warns(ConvergenceWarning, match=named) as seen:
        fit = mle(model(), given(), solver=solver, num_rows=90 if "loader" in name else None)
    assert "The weights are those after step" in str(seen[-1].message)
    good = int(fit.status.split("after step ")[1])
    assert good >= 6
    assert good % 6 == 0
    assert all(bool(value.isfinite().all()) for value in fit.params.values())


@pytest.mark.parametrize("given", [(X, Y), (Rows(X, Y),)], ids=["tensors", "a data set"])
def test_a_loss_that_is_not_finite_names_its_step_and_its_rows(given: Any) -> None:
    bad = (X[:, 2] == X[:, 2].max()).nonzero().item()

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.noise, self.layer = 0, nn.Dropout(0.01), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            found: Tensor = self.layer(self.noise(x))
            hit = (x[:, 2:] == X[:, 2].max()) & (self.calls > 7) & self.training
            return found.masked_fill(hit, torch.inf)

    model = on_features(models.heteroscedastic, Late().double())
    with pytest.warns(
        ConvergenceWarning, match=rf"not finite after \d+ steps, in row {bad};.*after step (6|12)"
    ):
        fit = mle(model, *given, solver=replace(SOLVER, epochs=4))
    assert all(bool(value.isfinite().all()) for value in fit.params.values())


# Predictions


class Watched(Rows):
    """Rows of which none is read while as many as two batches are held."""

    held: int = 0
    most: int = 0

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        x = x.clone()
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(x, self.let_go)
        return x, y

    def let_go(self) -> None:
        self.held -= 1


def as_tensor(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else torch.tensor(found.to_numpy(dtype=float))


ASKED: dict[str, Callable[..., Any]] = {
    "mean": lambda fit, *rows: predict(fit, rows[0]).mean,
    "quantiles": lambda fit, *rows: predict(fit, rows[0]).icdf(torch.tensor([[0.1], [0.8]]).double()),
    "log": log_likelihood,
    "crps": lambda fit, *rows: scores(fit, *rows, kind="crps"),
    "conformal": lambda fit, *rows: conformal(fit, *rows, kind="normalised").interval(rows[0]),
    "coverage": lambda fit, *rows: coverage(fit, *rows, levels=[0.5], bins=2),
    "temperature": lambda fit, *rows: predict(recalibrate(fit, *rows), rows[0]).stddev,
    "isotonic": lambda fit, *rows: scores(recalibrate(fit, *rows, method="isotonic"), *rows),
}


@pytest.fixture(scope="module")
def trained() -> Fit:
    return quietly(network(), X, Y)


@pytest.mark.parametrize("asked", ASKED)
def test_predictions_of_rows_in_batches_are_those_of_tensors(trained: Fit, asked: str) -> None:
    outside = torch.random.get_rng_state()
    tensors = as_tensor(ASKED[asked](trained, X, Y))
    for given in (Rows(X, Y), DataLoader(Rows(X, Y, names=("x", "y")), batch_size=16, shuffle=True)):
        found = as_tensor(ASKED[asked](trained, given))
        torch.testing.assert_close(found, tensors, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.random.get_rng_state(), outside)


def test_predictions_hold_one_batch_of_inputs(trained: Fit) -> None:
    rows = Watched(X, Y)
    answered = predict(trained, DataLoader(rows, batch_size=8))
    gc.collect()
    assert answered.batch_shape == (90,)
    assert rows.most <= 16
    assert rows.held == 0


@pytest.mark.parametrize("model", ["categorical", "poisson", "laplace", "bernoulli"])
def test_predictions_in_batches_of_any_response(model: str) -> None:
    y = {"laplace": Y, "poisson": COUNTS}.get(model, (Y > 0).double())
    fit = mle(model, X[:, :1], y)
    assert torch.allclose(scores(fit, Rows(X[:, :1], y)), scores(fit, X[:, :1], y), rtol=1e-12)
    loader = DataLoader(Rows(X[:, :1], y), batch_size=40)
    assert torch.allclose(predict(fit, loader).log_prob(y), predict(fit, X[:, :1]).log_prob(y), rtol=1e-12)


def test_row_wise_arguments_are_read_in_batches() -> None:
    exposure = torch.linspace(0.5, 2.0, 90, dtype=torch.float64)
    fit = mle(models.poisson, X[:, :1], COUNTS, exposure=exposure)
    rows = Rows(X[:, :1], COUNTS, exposure, names=("x", "y", "exposure"))
    found = predict(fit, DataLoader(rows, batch_size=20)).mean
    assert torch.allclose(found, predict(fit, X[:, :1], exposure=exposure).mean, rtol=1e-12)


def test_joined_distributions_are_those_of_their_rows() -> None:
    mean, scale = X[:, 0], X[:, 1].exp()
    whole, parts = Normal(mean, scale), Joined([Normal(mean[:30], scale[:30]), Normal(mean[30:], scale[30:])])
    for name in ("mean", "variance"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    for value in (Y, Y[0], torch.stack([Y, -Y]), Y[:2, None]):
        assert torch.allclose(parts.log_prob(value), whole.log_prob(value))
        assert torch.allclose(parts.cdf(value), whole.cdf(value))
        assert torch.allclose(quantile_of(parts, value.sigmoid()), whole.icdf(value.sigmoid()))
    assert parts.sample((5,)).shape == (5, 90)
