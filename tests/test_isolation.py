"""Isolation: results depend on arguments alone, and the surroundings are afterwards as they were before."""

import gc
import io
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from functools import cache
from inspect import isfunction, signature
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import neglog
from neglog import isolation as isolation_module
from neglog import labels, losses, models, predictors, studies, tracing
from neglog.bayes import nuts
from neglog.comparison import compare_models
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.formula import learn
from neglog.guides import Delta
from neglog.handlers import on_features, with_priors
from neglog.isolation import isolated, isolation
from neglog.solvers import SVI, Adam, Newton
from neglog.validation import cross_validate

ROWS = 40
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((ROWS, 2), generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(ROWS, generator=GENERATOR, dtype=torch.float64)
COUNTS = torch.poisson(torch.full((ROWS,), 3.0, dtype=torch.float64), generator=GENERATOR)
DRAWS = torch.randn((ROWS, 3), generator=GENERATOR, dtype=torch.float64)


FIRST, SECOND, COUNT = X[:, :1], X[:, 1:], COUNTS[None]


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), nn.Tanh())


NET = on_features(models.gaussian, network())
FIT = neglog.mle(models.gaussian, X, Y)
SMALL = neglog.mle(models.gaussian, FIRST, Y)
RATE = neglog.mle(models.poisson, X, COUNTS)
MAP = neglog.map_estimate(models.poisson, X, COUNTS)
BATCH = neglog.mle_batch(models.gaussian, X, DRAWS.T, cov_type="observed")
LASSO = with_priors(models.gaussian, {"mean.weight": dist.Laplace(0.0, 1.0)})
POSTERIOR = neglog.posterior(models.poisson, X, COUNTS, method="laplace", draws=100)
TABLE = pd.DataFrame({"y": COUNTS.numpy(), "x": X[:, 0].numpy()})


def quiet(function):
    """Without warnings; filters are those of all threads, so that the main thread alone sets them."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


@cache
def trained():
    return quiet(lambda: neglog.map_estimate(NET, X, Y, solver=Adam(steps=20)))


@cache
def dropped():
    net = on_features(models.gaussian, torch.nn.Sequential(network(), torch.nn.Dropout(0.1)))
    return quiet(lambda: neglog.mle(net, X, Y, solver=Adam(steps=2)))


@cache
def approximated():
    return neglog.laplace_approximation(trained())


SLOW = {
    "laplace": lambda: neglog.posterior(models.poisson, X, COUNTS, method="laplace", draws=100).draws,
    "compare_models": lambda: [
        (each.model, each.fit.nll)
        for each in compare_models(
            learn("y ~ x", TABLE), folds=2, candidates={"poisson": models.poisson}
        ).entries
    ],
    "robustness": lambda: studies.robustness(shares=[0.2], data_sets=3, rows=20),
    "to_arviz": lambda: neglog.to_arviz(POSTERIOR).posterior["log_rate.weight"].values,
    "parametric bootstrap": lambda: neglog.bootstrap(FIT, draws=10, kind="parametric").draws,
    "profile": lambda: neglog.summary(RATE, interval="profile"),
    "outcome interval": lambda: neglog.interval(RATE, X, kind="outcome"),
    "vi": lambda: quiet(
        lambda: neglog.posterior(models.poisson, X, COUNTS, method="vi", draws=100, steps=100).draws
    ),
    "lasso_path": lambda: neglog.lasso_path(LASSO, X, Y, strengths=[5.0]).params,
}


@isolated
def settings():
    """What a model of the user's finds."""
    return (
        poutine.runtime.am_i_wrapped(),
        pyro.settings.get(),
        np.geterr(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.ones(()).device,
        torch.is_autocast_enabled("cpu"),
        torch.is_anomaly_enabled(),
        torch._C._autograd._top_saved_tensors_default_hooks(True),
        torch.are_deterministic_algorithms_enabled(),
    )


ENTRIES = {
    "settings": settings,
    "mle": lambda: neglog.mle(models.heteroscedastic, X, Y).params,
    "map_estimate": lambda: neglog.map_estimate(models.poisson, X, COUNTS).params,
    "guide": lambda: FIT.guide,
    "svi": lambda: quiet(lambda: neglog.mle(models.gaussian, X, Y, solver=SVI(steps=5)).params),
    "adam": lambda: quiet(lambda: neglog.mle(models.gaussian, X, Y, solver=Adam(steps=5)).params),
    "quantile_process": lambda: neglog.quantile_process(X, Y, [0.25, 0.5])[0.25].params,
    "mle_batch": lambda: neglog.mle_batch(models.poisson, X, COUNT).params,
    "standard errors": lambda: BATCH.standard_errors,
    "batch interval": lambda: BATCH.interval(),
    "priors_for": lambda: neglog.priors_for(models.gaussian, X, Y),
    "predict": lambda: neglog.predict(FIT, X),
    "predict draws": lambda: neglog.predict(POSTERIOR, X),
    "interval": lambda: neglog.interval(RATE, X),
    "quantile": lambda: neglog.quantile(RATE, X, [0.1, 0.9]),
    "conformal": lambda: neglog.conformal(FIT, X, Y, kind="quantile").interval(X),
    "conformal scores": lambda: neglog.conformal(FIT, X, Y, kind="normalised").scores(),
    "coverage": lambda: neglog.coverage(RATE, X, COUNTS),
    "recalibrate": lambda: neglog.recalibrate(FIT, X, Y).temperature,
    "recalibrated": lambda: neglog.recalibrate(RATE, X, COUNTS, method="isotonic").predict(X),
    "log_likelihood": lambda: neglog.log_likelihood(FIT, X, Y),
    "scores": lambda: neglog.scores(RATE, X, COUNTS),
    "prior_predictive": lambda: neglog.prior_predictive(models.poisson, X, draws=5).y,
    "posterior_predictive": lambda: neglog.posterior_predictive(POSTERIOR, X),
    "summary": lambda: neglog.summary(RATE),
    "covariance": lambda: neglog.covariance(RATE, "sandwich"),
    "expected": lambda: neglog.covariance(RATE, "expected"),
    "bootstrap": lambda: neglog.bootstrap(FIT, draws=10).draws,
    "likelihood_ratio_test": lambda: neglog.likelihood_ratio_test(FIT, SMALL).p_value,
    "wald_test": lambda: neglog.wald_test(FIT, "x0 = 0").p_value,
    "score_test": lambda: neglog.score_test(SMALL, SECOND).p_value,
    "vuong_test": lambda: neglog.vuong_test(FIT, neglog.mle(models.laplace, X, Y)).p_value,
    "information_criteria": lambda: neglog.information_criteria({"two": FIT, "one": SMALL}),
    "compare": lambda: neglog.compare(["gaussian"], X, Y, folds=2)["held_out_mean"].tolist(),
    "cross_validate": lambda: cross_validate(models.gaussian, X, Y, folds=2).scores,
    "laplace_approximation": lambda: neglog.laplace_approximation(trained()).predict(X, draws=8),
    "ensemble": lambda: quiet(
        lambda: [
            fit.nll for fit in neglog.ensemble(NET, X, Y, members=2, solver=Adam(epochs=2, batch_size=20))
        ]
    ),
    "swag": lambda: [fit.nll for fit in neglog.swag(trained(), draws=2, epochs=2)],
    "mc_dropout": lambda: neglog.scores(neglog.mc_dropout(dropped(), draws=2), X, Y),
    "linearised": lambda: approximated().linearised(X)[1],
    "estimates": lambda: labels.estimates(FIT),
    "names": lambda: tracing.predictor_names(models.heteroscedastic),
    "as_likelihood": lambda: losses.as_likelihood(lambda r: torch.log1p(r**2)).density.log_z,
    "spool": lambda: neglog.mle(models.gaussian, **neglog.spool([(X, Y)])).params,
}


def equal(one, other):
    """Whether two answers are the same to the last bit."""
    if isinstance(one, pd.DataFrame | pd.Series):
        return one.equals(other)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other) and not other.is_inference()
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, torch.distributions.Distribution):
        return equal((one.mean, one.variance), (other.mean, other.variance))
    if isinstance(one, Delta):
        return equal(one.median(), other.median())
    if hasattr(one, "keys"):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.fixture(scope="module")
def clean():
    return {name: entry() for name, entry in (ENTRIES | SLOW).items()}


class Halved(TorchFunctionMode):
    """A mode of the user's under which every exponential is half of what it is."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        return found / 2 if function is torch.exp else found


class Refused(TorchDispatchMode):
    """A mode of the user's under which nothing can be computed."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(function)


@contextmanager
def put_back(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextmanager
def numpy_raises():
    before = np.seterr(all="raise")
    try:
        yield
    finally:
        np.seterr(**before)


def conditioned():
    return poutine.condition(data={"y": torch.zeros(ROWS, dtype=torch.float64), "sigma": torch.tensor(9.0)})


SURROUNDINGS = {
    "scale": lambda: poutine.scale(scale=2.0),
    "condition": conditioned,
    "mask": lambda: poutine.mask(mask=False),
    "block": poutine.block,
    "plate": lambda: pyro.plate("rows", 7),
    "validation off": lambda: pyro.validation_enabled(False),
    "approximate": lambda: pyro.settings.context(binomial_approx_log_prob_tol=0.1),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float16": lambda: put_back(torch.set_default_dtype, torch.float16, torch.float32),
    "float64": lambda: put_back(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: put_back(torch.set_default_device, "meta", None),
    "device": lambda: torch.device("meta"),
    "function mode": Halved,
    "dispatch mode": Refused,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(torch.Tensor.half, torch.Tensor.double),
    "deterministic": lambda: put_back(torch.use_deterministic_algorithms, True, False),
    "NumPy raises": numpy_raises,
    "random state": lambda: put_back(torch.manual_seed, 7, 8),
}


def random_state():
    with isolation():  # the modes of some surroundings take no such question
        return torch.get_rng_state().tolist()


def state():
    """What a computation must leave as it was."""
    return (
        list(poutine.runtime._PYRO_STACK),
        list(poutine.runtime._DIM_ALLOCATOR._stack),
        sorted(pyro.get_param_store().keys()),
        pyro.settings.get(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.overrides._get_current_function_mode_stack(),
        torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        torch.is_autocast_enabled("cpu"),
        torch.is_anomaly_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        random_state(),
        np.geterr(),
        np.random.get_state()[1].tolist(),
        warnings.filters[:],
        signal.getsignal(signal.SIGINT),
        threading.active_count(),
    )


def check(entries, clean):
    """Hold each answer against that in clean surroundings, and the surroundings against those before."""
    found, changed = {}, []
    for name, entry in entries.items():
        before = state()
        found[name] = entry()
        changed += [name] if state() != before else []
    with isolation():
        assert [name for name in entries if not equal(clean[name], found[name])] == []
    assert changed == []


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_results_depend_on_arguments_alone(surroundings, clean):
    names = ("settings", "mle", "map_estimate", "predict", "summary")
    with SURROUNDINGS[surroundings]():
        check({name: ENTRIES[name] for name in names}, clean)


def test_all_results_depend_on_arguments_alone(clean):
    surroundings = [each() for each in SURROUNDINGS.values()]
    with ExitStack() as every:
        for each in surroundings:
            every.enter_context(each)
        check(ENTRIES | SLOW, clean)


def test_results_under_vmap(clean):
    def run(t):
        check(ENTRIES, clean)
        return t

    torch.func.vmap(run)(torch.zeros(2))


def test_a_warning_names_the_line_that_called():
    with pytest.warns(ConvergenceWarning) as caught:
        neglog.mle(models.gaussian, X, Y, solver=Adam(steps=1))
    assert caught[0].filename == __file__


def test_signatures_and_documentation_are_kept():
    assert list(signature(neglog.mle).parameters)[:3] == ["model", "x", "y"]
    assert neglog.mle.__name__ == "mle"
    assert "Maximum likelihood" in neglog.mle.__doc__


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_made_in_inference_mode(dtype):
    with torch.inference_mode():
        x, y, weights = X.to(dtype) * 1, Y.to(dtype) * 1, torch.ones(ROWS, dtype=dtype)
        start = {"mean.bias": torch.zeros((), dtype=dtype)}
    found = neglog.mle(models.gaussian, x, y, weights=weights, start=start)
    known = neglog.mle(models.gaussian, x.clone(), y.clone(), weights=weights.clone(), start=start)
    assert equal(found.params, known.params)
    assert equal(neglog.summary(found), neglog.summary(known))


def test_data_without_numbers():
    with pytest.raises(DataError, match="meta"):
        neglog.mle(models.gaussian, X.to("meta"), Y)


def test_a_traced_model_does_not_see_the_sites_of_a_fit():
    def outer():
        neglog.mle(models.gaussian, X, Y)
        _ = FIT.guide
        return pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    assert set(poutine.trace(outer).get_trace().nodes) == {"_INPUT", "z", "_RETURN"}


def test_parameters_of_a_model_are_not_left_in_the_store(seeded):
    def model(x, y=None):
        width = pyro.param("width", torch.ones((), dtype=torch.float64)).detach()
        bias = pyro.sample("bias", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(bias, width), obs=y)

    pyro.param("own", torch.ones(()))
    neglog.mle(model, X, Y)
    assert list(pyro.get_param_store().keys()) == ["own"]
    pyro.param("width", torch.full((), 3.0, dtype=torch.float64))
    assert neglog.mle(model, X, Y).nll > ROWS  # a parameter that is there counts


def test_a_fit_inside_a_fit():
    def model(x, y=None):
        scale = neglog.mle(models.gaussian, X, Y).params["sigma"]
        bias = pyro.sample("bias", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(bias, scale), obs=y)

    fit = neglog.mle(model, X, Y)
    assert fit.converged
    torch.testing.assert_close(fit.params["bias"], Y.mean())


JOBS = ["mle", "map_estimate", "svi", "predict", "summary", "bootstrap", "guide", "laplace", "names"]


def test_threads(clean):
    """Eight threads at once: the results of one, and nothing left behind."""
    before = state()
    with ThreadPoolExecutor(8) as pool:
        found = quiet(lambda: list(pool.map(lambda name: (ENTRIES | SLOW)[name](), JOBS * 4)))
    assert state() == before
    assert [name for name, one in zip(JOBS * 4, found, strict=True) if not equal(clean[name], one)] == []


def test_what_threads_get_is_documented():
    page = " ".join((Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8").split())
    assert "Threads that call neglog wait for each other, and get the results of a single thread" in page


def test_a_thread_that_fails_leaves_others_alone():
    def fails(x, y=None):
        pyro.sample("bias", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
        raise RuntimeError("of the model")

    def job(model):
        try:
            return neglog.mle(model, X, Y).nll
        except ModelError as error:
            return str(error.__cause__)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(job, [models.gaussian, fails] * 8))
    assert found == [FIT.nll, "of the model"] * 8
    assert not poutine.runtime._PYRO_STACK


def workers():
    """The threads of nutpie, which Python does not know of."""
    tasks = Path("/proc/self/task")
    names = []
    for task in tasks.iterdir() if tasks.exists() else []:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            names.append((task / "comm").read_text())
    return sum(name.startswith("nutpie") for name in names)


def test_an_error_of_the_model_comes_out_of_nuts_as_it_is():
    """nutpie ends in a panic of its own and a RuntimeError with the text of the error."""
    pytest.importorskip("nutpie")
    runs, before = [0], state()

    def model(x, y=None):
        runs[0] += 1
        if runs[0] > 200:
            raise ZeroDivisionError("of the model")
        mean = predictors.linear("mean", x)
        bool(mean.sum() > 0)  # control flow, so that each evaluation runs the model
        with predictors.rows(x):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(ZeroDivisionError, match="of the model"):
        neglog.posterior(model, X, Y, draws=100, chains=2)
    assert state() == before


@pytest.mark.parametrize("cores", [1, 2])
def test_an_interrupt_of_nuts_is_one(monkeypatch, cores):
    """nutpie returns the draws so far when it is interrupted; a posterior of them would claim to be whole."""
    pytest.importorskip("nutpie")  # which changes warning filters when it is imported
    settle, sampling, before = nuts._register_thread, threading.Event(), state()

    def settled(threads):
        sampling.set()
        return settle(threads)

    def interrupt():
        sampling.wait()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(nuts, "_register_thread", settled)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        neglog.posterior(models.poisson, X, COUNTS, draws=100_000, chains=2, cores=cores)
    for _ in range(100):
        if workers() == 0 and threading.active_count() == before[-1]:
            break
        time.sleep(0.05)
    assert state() == before
    assert workers() == 0


def test_every_public_function_that_computes_is_isolated():
    """Handlers return models, and `spool` calls the user's iterator in the user's own surroundings."""
    functions = {name for name in neglog.__all__ if isfunction(getattr(neglog, name))}
    bare = {name for name in functions if not hasattr(getattr(neglog, name), "isolated")}
    handlers = {"censored", "flat", "masked", "on_features", "truncated", "weighted", "with_priors"}
    handlers |= {"beta_nll", "faithful", "warm_up", "score", "quantile_heads"}
    assert bare == handlers | {"natural_gaussian", "spool"}


@pytest.mark.parametrize("solver", [None, SVI(steps=5)], ids=["default", "SVI"])
def test_an_interrupt_in_a_model_is_one(solver):
    """Whichever run of the model it interrupts; the next fit is as if it had not been."""

    def model(x, y=None):
        left.append(1)
        if len(left) == at:
            raise KeyboardInterrupt
        return models.poisson(x, y)

    left, at = [], 0
    known, before = quiet(lambda: neglog.mle(model, X, COUNTS, solver=solver)), state()
    runs = len(left)
    while len(left) >= at and at < runs:  # a fit whose graph is known runs the model less often
        at, left = at + 1, []
        with suppress(KeyboardInterrupt):
            quiet(lambda: neglog.mle(model, X, COUNTS, solver=solver))
            assert len(left) < at  # else the interrupt was swallowed
        assert state() == before
    assert at >= 3
    at, left = 0, []
    assert equal(quiet(lambda: neglog.mle(model, X, COUNTS, solver=solver)).params, known.params)


def blocks():
    for start in range(0, ROWS, 10):
        yield X[start : start + 10], Y[start : start + 10]


def bars(function):
    """Without what a progress bar writes."""
    with redirect_stderr(io.StringIO()):
        return quiet(function)


SOURCES = str(Path(neglog.__file__).parent)
INTERRUPTED = {
    "mle": ENTRIES["mle"],
    "mle_batch": ENTRIES["mle_batch"],
    "lasso_path": SLOW["lasso_path"],
    "parametric bootstrap": SLOW["parametric bootstrap"],
    "bootstrap one by one": lambda: neglog.bootstrap(FIT, draws=2, solver=Newton()).draws,
    "spool": lambda: neglog.mle(models.gaussian, **neglog.spool(blocks())).params,
    "profile": SLOW["profile"],
    "vi": SLOW["vi"],
    "laplace_approximation": ENTRIES["laplace_approximation"],
    "ensemble": ENTRIES["ensemble"],
    "SVI": lambda: bars(lambda: neglog.mle(models.gaussian, X, Y, solver=SVI(steps=5), progress=True).params),
    "Adam": lambda: bars(
        lambda: neglog.mle(models.gaussian, X, Y, solver=Adam(steps=5), progress=True).params
    ),
    "cross_validate": lambda: bars(
        lambda: cross_validate(models.gaussian, X, Y, folds=2, progress=True).scores
    ),
}


def interrupted(function, at=0):
    """The number of calls of functions of neglog that it makes; it is interrupted at one of them."""
    calls = 0

    def watch(frame, event, _):
        nonlocal calls
        if event != "call" or not frame.f_code.co_filename.startswith(SOURCES):
            return
        if frame.f_code.co_filename != isolation_module.__file__:  # a second Ctrl-C may fall into the exits
            calls += 1
            if calls == at:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def left():
    """What an interrupted function may leave behind: `state`, open files and threads by name."""
    gc.collect()
    folder = Path("/proc/self/fd")
    files = len(list(folder.iterdir())) if folder.exists() else 0
    for thread in threading.enumerate():  # a bar of rich's ends with its next look at the clock
        if thread is not threading.main_thread():
            thread.join(1.0)
    return state(), files, sorted(thread.name for thread in threading.enumerate())


SHARES = (0.0, 0.5, 0.9)
"""The part of a computation before it is interrupted, for one function after the other."""


@pytest.mark.parametrize(
    ("name", "share"), [(name, SHARES[i % len(SHARES)]) for i, name in enumerate(INTERRUPTED)]
)
def test_an_interrupt_at_any_depth_leaves_nothing_behind(name, share, monkeypatch, tmp_path):
    gc.freeze()  # what other tests keep need not be visited when garbage is collected
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path.parent / "inductor")
    )  # torch makes it on import
    function = INTERRUPTED[name]
    answers = []
    count, before = interrupted(lambda: answers.append(function())), left()
    at = 1 + int(share * count)
    with suppress(KeyboardInterrupt):
        calls = interrupted(function, at)  # what is cached is not computed again
        assert calls < at or ignored  # Python ignores what is raised while an object is deleted
    assert left() == before
    assert list(tmp_path.iterdir()) == []
    assert equal(answers[0], function())


def test_progress_bars_leave_no_thread():
    before = set(threading.enumerate())
    for solver in (Adam(steps=2), SVI(steps=2)):
        bars(lambda solver=solver: neglog.mle(models.gaussian, X, Y, solver=solver, progress=True))
    assert not set(threading.enumerate()) - before


def test_a_compiled_caller_compiles_no_fit():
    """`torch.compile` translated the whole of a fit for five minutes."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def doubled(x):
        return torch.mul(neglog.mle(models.gaussian, x, Y).params["mean.bias"], 2)

    try:
        fit = torch.compile(neglog.mle, backend=backend)(models.gaussian, X, Y)
        assert not graphs
        within = torch.compile(doubled, backend=backend)(X)
    finally:
        torch._dynamo.reset()
    targets = {node.target for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert targets <= {torch.mul}
    assert fit.params["mean.bias"] == FIT.params["mean.bias"]
    assert within == 2 * FIT.params["mean.bias"]
