"""Data on disk: blocks of rows become what a fit reads in place, and nothing holds all of them in memory."""

import gc
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import covariance, mle, models, predict, score_test, spool, summary
from neglog.conversion import Named
from neglog.errors import DataError

N = 600


def table(seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(N, 3)), columns=["a", "b", "c"])
    frame["y"] = rng.poisson(np.exp(0.2 + 0.3 * frame["a"]))
    frame["weight"] = rng.integers(0, 3, N)
    frame["exposure"] = rng.uniform(0.5, 2.0, N)
    return frame


def blocks(frame, size=250):
    for start in range(0, len(frame), size):
        part = frame.iloc[start : start + size]
        names = ["a", "b"] if start else ["b", "a"]
        yield {"x": part[names], "y": part["y"], "weights": part["weight"], "exposure": part["exposure"]}


def test_a_fit_from_disk_is_that_from_memory():
    frame = table()
    data = spool(blocks(frame))
    assert data.rows == int((frame["weight"] > 0).sum())
    settings = {"weights": frame["weight"], "exposure": frame["exposure"]}
    found, expected = (
        mle(models.poisson, **data),
        mle(models.poisson, frame[["b", "a"]], frame["y"], **settings),
    )
    pd.testing.assert_frame_equal(summary(found), summary(expected), rtol=1e-12)
    new = predict(found, frame[["a", "b"]], exposure=frame["exposure"])  # by name
    torch.testing.assert_close(
        new.mean, predict(expected, frame[["b", "a"]], exposure=frame["exposure"]).mean
    )
    torch.testing.assert_close(predict(found, data["x"], exposure=data["exposure"]).mean.sum(),
                               new.mean[torch.tensor(frame["weight"].to_numpy() > 0)].sum())  # fmt: skip


def test_designs_by_predictor_responses_with_names_and_plain_arrays():
    frame = table()
    halves = [frame.iloc[:300], frame.iloc[300:]]
    data = spool({"x": {"mean": f[["a", "b"]], "log_variance": f[["c"]]}, "y": f["y"]} for f in halves)
    expected = mle(
        models.heteroscedastic, {"mean": frame[["a", "b"]], "log_variance": frame[["c"]]}, frame["y"]
    )
    pd.testing.assert_frame_equal(summary(mle(models.heteroscedastic, **data)), summary(expected), rtol=1e-9)
    data = spool((f[["a"]], f[["b", "c"]]) for f in halves)
    found = covariance(mle(models.multivariate_gaussian, **data))
    assert ("mean[c]", "a") in found.index
    data = spool((f[["a"]].to_numpy(), f["b"].to_numpy()) for f in halves)
    assert isinstance(data["x"], torch.Tensor)
    assert list(data) == ["x", "y"]
    none = spool((f[[]], f["b"]) for f in halves)
    assert mle(models.gaussian, **none).params["mean.bias"].item() == pytest.approx(frame["b"].mean())


def test_columns_have_names_where_frames_had_them():
    data = spool(blocks(table()))
    assert isinstance(data["x"], Named)
    fit = mle(models.poisson, **data)
    other = Named(data["x"].values[:, [1, 0]], ("a", "b"))
    kept = {"exposure": data["exposure"]}
    torch.testing.assert_close(predict(fit, other, **kept).mean, predict(fit, data["x"], **kept).mean)
    with pytest.raises(DataError, match=r"`x` .*'b'.*'a', 'z'"):
        predict(fit, Named(other.values, ("a", "z")), **kept)


def test_empty_blocks_and_blocks_without_weight_are_passed_over():
    x, y = np.ones((3, 1)), np.zeros(3)
    some = {"x": x, "y": y, "weights": np.ones(3)}
    none = [{"x": x[:0], "y": y[:0], "weights": y[:0]}, {"x": x, "y": y, "weights": y}]
    assert spool([*none, some, *none]).rows == 3


X, Y = np.ones((2, 2)), np.zeros(2)
A = pd.DataFrame(X, columns=["a", "b"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "has no rows"),
        ([X], r"block 0 of the data: it must be \(x, y\).* it is ndarray"),
        ([{"x": X}], "block 0 of the data: it needs 'x' and 'y'; it has 'x'"),
        ([(X, Y), (X[:, :1], Y)], "block 1 of the data: `x` has the columns x0; the first block had x0, x1"),
        ([(A, Y), (A.rename(columns={"b": "c"}), Y)], "columns a, c; the first block had a, b"),
        ([(A, Y), (A.assign(c=1.0), Y)], "columns a, b, c; the first block had a, b"),
        ([({"mean": A}, Y), ({"sigma": A}, Y)], "columns sigma: a, b; the first block had mean: a, b"),
        ([(X, Y), (X * np.nan, Y)], "block 1 of the data: `x` is NaN or infinite"),
        ([(X, Y), (X, Y + np.inf)], "block 1 of the data: `y` is NaN or infinite"),
        ([(X, Y), (X.astype(int), Y)], "block 1 of the data: `x` holds int64"),
        ([(X, Y), (X.astype(str), Y)], "block 1 of the data: `x` holds <U32, not numbers"),
        ([(X, Y), (X, Y[:1])], "block 1 of the data: `y` has 1 rows and `x` has 2"),
        ([(X, Y), (X, X)], r"block 1 of the data: it has y \(2,\), and the first block had y"),
        ([(X, A), (X, A[["b", "a"]])], "it has y of b, a, and the first block had y of a, b"),
        ([(X, Y), {"x": X, "y": Y, "weights": Y + 1}], "it has y, weights, and the first block had y"),
        ([{"x": X, "y": Y, "t": Y}, (X, Y)], "it has y, and the first block had y, t"),
        ([{"x": X, "y": Y, "weights": Y - 1}], "block 0 of the data: `weights` must be finite and not neg"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused_by_number(given, message):
    with pytest.raises(DataError, match=message):
        spool(given)


def test_errors_of_the_source_are_its_own():
    def broken():
        yield X, Y
        raise FileNotFoundError("part 2")

    with pytest.raises(FileNotFoundError, match="part 2"):
        spool(broken())


def test_a_disk_without_room_is_told(tmp_path):
    with pytest.raises(DataError, match=r"missing.*`directory`"):
        spool([(X, Y)], tmp_path / "missing")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written to .*too large"):
            spool([(np.ones((20_000, 1)), np.ones(20_000))], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_files_go_with_the_last_tensor(tmp_path):
    gc.freeze()  # what other tests keep need not be visited when garbage is collected
    data = spool(blocks(table()), tmp_path)
    fit = mle(models.poisson, **data)
    with pytest.raises(TypeError, match="spool the data again"):
        pickle.dumps(data)
    del data
    gc.collect()
    assert covariance(fit).shape == (3, 3)  # the fit holds what it reads
    del fit
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_score_test_puts_large_designs_together_on_disk(monkeypatch):
    frame = table()
    fit = mle(models.poisson, frame[["a", "b"]], frame["y"])
    expected = score_test(fit, frame[["c"]])
    monkeypatch.setattr("neglog.spooled.MAX_NUMBERS_IN_MEMORY", 100)
    monkeypatch.setattr("neglog.spooled.COPIED_ROWS", 7)
    assert score_test(fit, frame[["c"]]) == expected


MEMORY = """
import resource
import numpy as np
import neglog.objective.objective, neglog.spooled, neglog.uncertainty.information
from neglog import covariance, likelihood_ratio_test, log_likelihood, mle, models, score_test, spool, summary
from neglog import wald_test

neglog.objective.objective.BLOCK_ROWS, neglog.objective.objective.SAMPLE_ROWS = 5000, 1000
neglog.uncertainty.information.MAX_SCORE_ENTRIES, neglog.spooled.MAX_NUMBERS_IN_MEMORY = 100_000, 500_000
ROWS, COLUMNS = 32_000, 100
rng = np.random.default_rng(0)

def blocks(rows):
    for _ in range(0, rows, 2000):
        x = rng.normal(size=(2000, COLUMNS))
        yield {"x": x, "y": rng.poisson(np.exp(0.1 * x[:, 0])), "street": rng.integers(0, 50, 2000)}

def work(data):
    x, y = data["x"], data["y"]
    fit = mle(models.poisson, x, y)
    assert fit.converged
    for kind in ("observed", "expected", "opg", "HC1", "HC3"):
        covariance(fit, kind)
    summary(fit, cov_type="cluster", groups=data["street"])
    wald_test(fit, "x0 = 0.1, x1 = 0")
    score_test(fit, x[:, :1].square())
    likelihood_ratio_test(fit, mle(models.poisson, x[:, :0], y))
    assert abs(log_likelihood(fit, x, y).sum() + fit.nll) < 1e-6 * fit.nll

work(spool(blocks(2000)))
data = spool(blocks(ROWS))
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + 8 * ROWS * COLUMNS // 2,) * 2)
work(data)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and limits what malloc takes")
def test_a_fit_and_its_covariances_need_less_memory_than_the_data():
    # Blocks come from mmap, so that holes between them do not count.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", MEMORY], check=True, env=env)
