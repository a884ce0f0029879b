"""The command line: known numbers, one clear line for every failure, and nothing on stdout but results."""

import gzip
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.figure import Figure
from typer.testing import CliRunner

import neglog
from neglog import datasets, export, models, plots, predict
from neglog.cli import output
from neglog.cli.commands import app
from neglog.comparison import Entry
from neglog.errors import ConvergenceWarning, DataError
from neglog.formula import learn
from neglog.tables import read_table, write_table

DATA = Path(__file__).parent / "data"
CARS, AIR, WARP = (str(DATA / f"{name}.csv") for name in ("cars", "airquality", "warpbreaks"))
ENGEL = str(datasets.path("engel"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no more models than these, where others would show nothing more."""
    monkeypatch.setattr(neglog.models, "__all__", ["gaussian", "laplace", "poisson"])


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def answer(*arguments: str) -> Any:
    """What a command says with --json."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout, parse_constant=lambda literal: pytest.fail(f"{literal} is not JSON"))


def complaint(*arguments: str) -> str:
    """The one line of a failure, below which carets may mark a place in a formula."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    line, *place = result.stderr.splitlines()
    assert not place or (len(place) == 2 and set(place[1]) == {" ", "^"})
    assert line.startswith("neglog: error: ")
    return line


# fit


def test_fit_prints_what_r_prints() -> None:
    # R 4: summary(lm(dist ~ speed, cars)) and logLik, AIC, BIC of it.
    result = run("fit", CARS, "dist ~ speed", "--model", "gaussian")
    assert result.exit_code == 0
    for words in (
        ["mean", "Intercept", "-17.579"],
        ["speed", "3.9324"],
        ["NLL", "206.5784 nats"],
        ["AIC", "419.1569"],
        ["BIC", "424.8929"],
        ["rows", "50"],
        ["replaces", "torch.nn.MSELoss (MSE)"],
        ["converged", "yes"],
        ["method", "maximum likelihood"],
    ):
        assert any(all(word in line for word in words) for line in result.stdout.splitlines()), words
    assert result.stderr == ""


def test_fit_in_json_has_every_digit() -> None:
    said = answer("fit", CARS, "dist ~ speed", "-m", "gaussian")
    estimates = {(row["parameter"], row["term"]): row for row in said["estimates"]}
    assert estimates["mean", "Intercept"]["estimate"] == pytest.approx(-17.579094890510973, rel=1e-10)
    assert estimates["mean", "speed"]["estimate"] == pytest.approx(3.932408759124087, rel=1e-12)
    assert said["nll"] == pytest.approx(206.57844, abs=1e-5)
    assert (said["n"], said["k"], said["converged"], said["dropped"], said["saved"]) == (50, 3, True, 0, None)
    assert estimates["sigma", ""]["z"] is None  # which the table has as NaN


def test_fit_of_the_median_is_that_of_quantreg() -> None:
    # R: quantreg::rq(foodexp ~ income, data = engel)
    said = answer("fit", ENGEL, "food_expenditure ~ income", "-m", "laplace")
    estimates = {(row["parameter"], row["term"]): row["estimate"] for row in said["estimates"]}
    assert estimates["location", "Intercept"] == pytest.approx(81.48225, abs=5e-6)
    assert estimates["location", "income"] == pytest.approx(0.56018, abs=5e-6)
    assert said["replaces"] == "torch.nn.L1Loss (MAE)"


def test_terms_with_brackets_are_printed_whole() -> None:
    Path("colours.csv").write_text("y,colour\n1,red\n2,red\n4,blue\n7,blue\n")  # [red] is a style of rich
    result = run("fit", "colours.csv", "y ~ 0 + colour", "-m", "gaussian")
    assert "colour[blue]" in result.stdout
    assert "colour[red]" in result.stdout


def test_predictors_with_formulas_of_their_own() -> None:
    said = answer("fit", ENGEL, "food_expenditure ~ income", "-m", "gaussian", "--also", "sigma ~ income")
    both = answer("fit", ENGEL, "food_expenditure ~ income", "-m", "heteroscedastic")
    assert said["nll"] == pytest.approx(both["nll"], rel=1e-9)
    assert [(row["parameter"], row["term"]) for row in said["estimates"]][2:] == [
        ("log_sigma", "Intercept"),
        ("log_sigma", "income"),
    ]
    assert said["replaces"] == "the negative log-likelihood of `gaussian` with a head for `sigma`"


def test_maximum_a_posteriori_says_so() -> None:
    said = answer("fit", CARS, "dist ~ speed", "-m", "gaussian", "--map")
    assert said["loss"] > said["nll"] > 206.57844
    assert said["method"] == "map"
    assert said["replaces"].endswith("plus a penalty, minus the log of the priors")
    assert "maximum a posteriori" in run("fit", CARS, "dist ~ speed", "-m", "gaussian", "--map").stdout


def test_weights_are_rows_written_out(tmp_path: Path) -> None:
    table = read_table(CARS)
    table.assign(w=np.arange(50) % 3).to_csv("weighted.csv", index=False)
    table.loc[table.index.repeat(np.arange(50) % 3)].to_csv("long.csv", index=False)
    said = answer("fit", "weighted.csv", "dist ~ speed", "-m", "laplace", "--weights", "w")
    long = answer("fit", "long.csv", "dist ~ speed", "-m", "laplace")
    assert (said["n"], said["nll"]) == (long["n"], pytest.approx(long["nll"], rel=1e-9))


def test_missing_values_are_dropped_on_request_and_counted() -> None:
    result = run("fit", AIR, "Ozone ~ Wind", "-m", "gaussian", "--drop-missing")
    assert result.exit_code == 0
    assert result.stderr == "neglog: dropped 37 of 153 rows, which have a missing value\n"
    assert "116" in result.stdout


def test_a_fit_that_does_not_converge_is_printed_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neglog.mle

    def stops_early(*arguments: Any, **keywords: Any) -> neglog.Fit:
        warnings.warn("`gaussian` did not converge:\n3 steps.", ConvergenceWarning, stacklevel=2)
        return replace(whole(*arguments, **keywords), converged=False, status="stopped after 3 steps")

    monkeypatch.setattr(neglog, "mle", stops_early)
    result = run("fit", CARS, "dist ~ speed", "-m", "gaussian", "--out", "model")
    assert result.exit_code == 1
    assert "stopped after 3 steps" in result.stdout
    assert result.stderr.splitlines()[0] == "neglog: warning: `gaussian` did not converge: 3 steps."
    assert not export.load("model").converged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv", "y ~ x", "-m", "gaussian"], "`absent.csv` does not exist"),
        (
            [CARS, "dist ~ sped", "-m", "gaussian"],
            "no column `sped`; its columns are `speed`, `dist`. Did you mean `speed`?",
        ),
        (
            [CARS, "dist ~ speed", "-m", "ols"],
            "no model `ols`. Did you mean `gaussian`? There are `bernoulli`, `beta`",
        ),
        ([CARS, "dist speed", "-m", "gaussian"], "the formula `dist speed` cannot be read"),
        ([CARS, "dist ~ speed", "-m", "gaussian", "--weights", "w"], "the table has no column `w`"),
        (
            [WARP, "breaks ~ wool", "-m", "gaussian", "--weights", "tension"],
            "column `tension` needs numbers: row 0 has 'L'",
        ),
        (
            [WARP, "wool ~ tension", "-m", "gaussian"],
            "the response `wool` holds text where numbers are needed: row 0 has 'A'",
        ),
        ([AIR, "Ozone ~ Wind", "-m", "gaussian"], "37 of 153 rows have a missing value, in `Ozone` (37)"),
        (
            [CARS, "dist ~ speed", "-m", "gaussian", "--also", "log_variance ~ speed"],
            "no predictor `log_variance`; besides `mean` it has `sigma`",
        ),
        ([CARS, "dist ~ speed + I(2 * speed)", "-m", "gaussian"], "linearly dependent"),
        ([CARS, "dist ~ speed", "-m", "gaussian", "--out", CARS], "is a file. Name a folder"),
    ],
)
def test_fit_refuses_in_one_line(arguments: list[str], message: str) -> None:
    assert message in complaint("fit", *arguments)


def test_where_to_save_is_checked_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neglog, "mle", lambda *arguments, **keywords: pytest.fail("fitted in vain"))
    assert "is a file" in complaint("fit", CARS, "dist ~ speed", "-m", "gaussian", "--out", CARS)


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(13, "Permission denied", "cars.csv")

    monkeypatch.setattr("neglog.tables.pd.read_csv", forbidden)
    assert "Permission denied: 'cars.csv'" in complaint("fit", CARS, "dist ~ speed", "-m", "gaussian")


# predict


@pytest.fixture
def saved() -> str:
    assert run("fit", CARS, "dist ~ 0 + poly(speed, 2)", "-m", "laplace", "--out", "model").exit_code == 0
    return "model"


def test_predictions_stand_beside_the_columns_of_the_input(saved: str) -> None:
    pd.DataFrame({"name": ["a", "b"], "speed": [10, 21.5]}).to_csv("new.csv", index=False)
    result = run("predict", saved, "new.csv", "--out", "out.csv", "--level", "0.5")
    assert result.exit_code == 0
    assert (result.stdout, result.stderr) == ("", "neglog: 2 rows written to out.csv\n")
    table = read_table("out.csv")
    assert list(table) == ["name", "speed", "mean", "median", "sd", "lower", "upper"]
    fit = export.load(saved)
    assert fit.formula is not None
    expected = predict(fit, fit.formula.x(table, ("location",), ("scale",)))
    scale = fit.params["scale"].item()
    assert np.array_equal(table["mean"], expected.mean)
    assert np.array_equal(table["median"], table["mean"])
    assert table["sd"].to_numpy() == pytest.approx(2**0.5 * scale, rel=1e-12)
    # Half of a Laplace density lies within scale · log 2 of its median.
    assert (table["upper"] - table["median"]).to_numpy() == pytest.approx(scale * np.log(2), rel=1e-9)
    assert (table["median"] - table["lower"]).to_numpy() == pytest.approx(scale * np.log(2), rel=1e-9)


def test_predictions_go_to_stdout_and_to_every_kind_of_table(saved: str) -> None:
    result = run("predict", saved, CARS)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "speed,dist,mean,median,sd,lower,upper"
    run("predict", saved, CARS, "--out", "whole.csv")
    expected = read_table("whole.csv")
    assert Path("whole.csv").read_text() == result.stdout
    for name in ("out.tsv", "out.parquet"):
        run("predict", saved, CARS, "--out", name)
        pd.testing.assert_frame_equal(read_table(name), expected, check_exact=True)


def test_rows_that_cannot_be_predicted_are_left_out_on_request(saved: str) -> None:
    pd.DataFrame({"speed": [10, None, 12], "note": [None, "b", "c"]}).to_csv("new.csv", index=False)
    assert "1 of 3 rows have a missing value, in `speed` (1)" in complaint("predict", saved, "new.csv")
    result = run("predict", saved, "new.csv", "--drop-missing", "--out", "out.csv")
    assert result.stderr.splitlines()[0] == "neglog: dropped 1 of 3 rows, which have a missing value"
    assert read_table("out.csv")["speed"].tolist() == [10, 12]


def test_a_column_of_the_input_is_never_overwritten(saved: str) -> None:
    run("predict", saved, CARS, "--out", "once.csv")
    assert "`once.csv` has a column `mean` already" in complaint("predict", saved, "once.csv")
    assert run("predict", saved, "once.csv", "--prefix", "again_", "--out", "twice.csv").exit_code == 0
    twice = read_table("twice.csv")
    assert list(twice)[-5:] == ["again_mean", "again_median", "again_sd", "again_lower", "again_upper"]
    assert np.array_equal(twice["again_lower"], twice["lower"])


def test_predict_refuses_in_one_line(saved: str) -> None:
    assert "holds no saved model" in complaint("predict", ".", CARS)
    assert "no column `speed`" in complaint("predict", saved, WARP)
    assert "is not a kind of table" in complaint("predict", saved, CARS, "--out", "x.doc")
    fit = export.load(saved)
    export.save(replace(fit, formula=None), "bare")
    assert "was saved without a formula" in complaint("predict", "bare", CARS)
    assert run("predict", saved, CARS, "--level", "1").exit_code == 2


def test_new_levels_are_named() -> None:
    run("fit", WARP, "breaks ~ C(tension)", "-m", "gaussian", "--out", "model")
    pd.DataFrame({"tension": ["L", "X"]}).to_csv("new.csv", index=False)
    assert "levels that the fit has not seen: 'X' (row 1). It knows 'H', 'L', 'M'" in complaint(
        "predict", "model", "new.csv"
    )


# compare


def test_compare_ranks_and_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neglog.models, "__all__", ["gaussian", "heteroscedastic", "laplace", "student_t"])
    result = run("compare", ENGEL, "food_expenditure ~ income", "--folds", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    first = [line.split()[0] for line in lines if line and line.split()[0] in neglog.models.__all__]
    assert first[0] == "heteroscedastic"
    assert {"gaussian", "laplace", "student_t"} < set(first)
    assert lines[-1].startswith("Train with torch.nn.GaussianNLLLoss")
    assert result.stderr == "neglog: picture in engel-compare.png\n"
    assert Path("engel-compare.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("few_models")
def test_compare_in_json_has_every_digit() -> None:
    said = answer("compare", CARS, "dist ~ speed", "--folds", "3", "--no-plot")
    by_name = {entry["model"]: entry for entry in said["models"]}
    assert by_name["gaussian"]["nll"] == pytest.approx(206.57844, abs=1e-5)
    assert by_name["gaussian"]["replaces"] == "torch.nn.MSELoss (MSE)"
    assert said["models"][0]["behind_the_best"] == 0
    for entry in said["models"]:
        assert entry["held_out_sum"] == pytest.approx(50 * entry["held_out_mean"], rel=1e-12)
        assert entry["reason"] is None
    assert said["verdict"].startswith("Train with ")
    assert said["picture"] is None
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("few_models")
def test_compare_says_which_kind_it_compared_and_why() -> None:
    counts = ["compare", WARP, "breaks ~ wool", "--no-plot", "--folds", "2"]
    lines = run(*counts).stdout.splitlines()
    assert lines[-2].startswith("These are densities of measurements, since the response has whole numbers")
    said = answer(*counts, "--response", "discrete")
    assert said["response"] == "discrete"
    assert [entry["model"] for entry in said["models"]] == ["poisson"]
    assert "since that was asked for" in said["scope"]
    assert answer("compare", ENGEL, "food_expenditure ~ income", "--no-plot", "--folds", "2")["scope"] is None


@pytest.mark.usefixtures("few_models")
def test_the_seed_decides_the_folds() -> None:
    first, again, other = (
        answer("compare", CARS, "dist ~ speed", "--no-plot", "--folds", "2", "--seed", seed)
        for seed in ("1", "1", "2")
    )
    assert first == again
    assert first["models"] != other["models"]


@pytest.mark.usefixtures("few_models")
def test_a_model_that_fails_is_listed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neglog.mle

    def fails(model: Any, *arguments: Any, **keywords: Any) -> Any:
        if model is neglog.models.laplace:
            raise neglog.errors.UnboundedLikelihoodError("no maximum")
        return whole(model, *arguments, **keywords)

    monkeypatch.setattr("neglog.comparison.mle", fails)
    result = run("compare", CARS, "dist ~ speed", "--plot", "some.png")
    assert result.exit_code == 0
    assert "laplace: no maximum" in result.stdout.splitlines()
    assert any(line.startswith("laplace") and line.endswith("failed") for line in result.stdout.splitlines())
    assert Path("some.png").exists()


@pytest.mark.usefixtures("few_models")
def test_compare_refuses_in_one_line() -> None:
    pd.DataFrame({"x": range(6), "y": range(0, -6, -1)}).to_csv("line.csv", index=False)
    assert "no model could be fitted" in complaint("compare", "line.csv", "y ~ x")
    assert "`folds` must be a whole number" in complaint("compare", CARS, "dist ~ speed", "--folds", "51")
    assert "cannot be written as `x.doc`" in complaint("compare", CARS, "dist ~ speed", "--plot", "x.doc")
    assert "no model here has a predictor `rate`" in complaint(
        "compare", CARS, "dist ~ speed", "--also", "rate ~ 1"
    )
    assert run("compare", CARS, "dist ~ speed", "--plot", "x.png", "--no-plot").exit_code == 2
    assert not Path("x.png").exists()


def test_bars_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = []

    def bar(names: Any) -> Any:
        watched.extend(names)
        return iter(names)

    monkeypatch.setattr("neglog.cli.output.bar", bar)
    monkeypatch.setattr(  # which models are watched is decided before any is fitted
        "neglog.comparison.Task.entry", lambda task, name, *_: Entry(name, "a loss", reason="not tried")
    )
    run("compare", CARS, "dist ~ speed", "--no-plot", "--folds", "2")
    assert watched == []  # stderr is no terminal
    monkeypatch.setattr("neglog.cli.output.at_terminal", lambda: True)
    run("compare", CARS, "dist ~ speed", "--no-plot", "--folds", "2", "--json")
    assert watched == []
    run("compare", CARS, "dist ~ speed", "--no-plot", "--folds", "2")
    left_out = {"bernoulli", "beta", "binomial", "categorical", "gaussian_mixture", "ordinal", "quantile"}
    left_out |= {"multivariate_gaussian", "multivariate_heteroscedastic"}
    left_out |= {"negative_binomial", "poisson"}  # of the whole numbers of another kind of response
    left_out |= {"zero_inflated_negative_binomial", "zero_inflated_poisson"}
    assert sorted(watched) == sorted(set(neglog.models.__all__) - left_out)  # the slowest are first


def test_the_bar_shows_each_name_once(capsys: pytest.CaptureFixture[str]) -> None:
    from neglog.cli.output import bar

    assert list(bar(["a", "b"])) == ["a", "b"]
    assert capsys.readouterr().out == ""


# What ends in one line and code 2, or in an interrupt


def test_a_table_that_is_cut_off_or_no_file_is_one_line() -> None:
    whole = gzip.compress(Path(CARS).read_bytes())
    for name, content in {"cut": whole[:120], "damaged": whole[:30] + b"\xff" * 60 + whole[90:]}.items():
        Path(f"{name}.csv.gz").write_bytes(content)
        message = complaint("fit", f"{name}.csv.gz", "dist ~ speed", "-m", "gaussian")
        assert "is cut off or damaged. Copy or compress it again" in message
    os.mkfifo("pipe.csv")
    assert "is a pipe or a device" in complaint("fit", "pipe.csv", "dist ~ speed", "-m", "gaussian")
    Path("again.csv.gz").write_bytes(gzip.compress(Path(CARS).read_bytes()))  # the remedy
    assert run("fit", "again.csv.gz", "dist ~ speed", "-m", "gaussian").exit_code == 0


def test_a_comparison_without_a_score_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neglog.models, "__all__", ["gaussian", "laplace"])
    y = np.random.default_rng(0).normal(size=20)
    pd.DataFrame({"rare": [1.0] + [0.0] * 19, "y": y}).to_csv("rare.csv", index=False)
    message = complaint("compare", "rare.csv", "y ~ rare", "--no-plot")
    assert "no model could be scored on rows it has not seen. gaussian: without fold" in message


def test_a_long_cell_is_not_shown_whole() -> None:
    rows = "".join(f"{k},{k % 7}\n" for k in range(20))
    Path("long.csv").write_text(f"x,y\n{rows}{'a' * 1_000_000},1\n")
    message = complaint("fit", "long.csv", "y ~ x", "-m", "gaussian")
    assert len(message) < 1100
    assert "row 20 has 'aaa" in message
    assert message.endswith("if its values are categories.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--nope"], "--nope"),
        (["fit", CARS], "'FORMULA'"),
        (["fit", CARS, "dist ~ speed"], "'--model'"),
        (["nope"], "'nope'"),
        (["fit", CARS, "dist ~ speed", "-m", "gaussian", "--model", "laplace"], "gaussian, laplace"),
        (["fit", CARS, "dist ~ speed", "-m", "gaussian", "--out", "a", "--out=b"], "a, b"),
        (["predict", "a", CARS, "--level", "2"], "--level"),
        (["compare", CARS, "dist ~ speed", "--seed", "-1"], "'--seed'"),
        (["compare", CARS, "dist ~ speed", "--folds", "x"], "'--folds'"),
        (["compare", CARS, "dist ~ speed", "--no-plot", "--plot", "x.png"], "--no-plot"),
    ],
)
def test_errors_of_usage_are_one_line(arguments: list[str], message: str) -> None:
    line = complaint(*arguments)
    assert message in line
    assert "--help" in line


def test_a_list_of_formulas_may_have_several() -> None:
    formulas = ["--also", "sigma ~ speed", "--also", "nothing ~ speed"]
    assert "no predictor `nothing`" in complaint("fit", CARS, "dist ~ speed", "-m", "gaussian", *formulas)


def test_no_folder_is_made_and_no_data_are_replaced(saved: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    fit = ["fit", CARS, "dist ~ speed", "-m", "gaussian", "--out", "deep/model"]
    for arguments in (fit, ["predict", saved, CARS, "--out", "deep/x.csv"],
                      ["compare", CARS, "dist ~ speed", "--plot", "deep/x.png"]):  # fmt: skip
        assert "`deep`, which does not exist" in complaint(*arguments)
    assert sorted(Path.cwd().rglob("*")) == before
    Path("rows.csv").write_bytes(Path(CARS).read_bytes())
    Path("again.csv").symlink_to("rows.csv")
    for name in ("rows.csv", "./rows.csv", "again.csv"):
        assert "would replace the data" in complaint("predict", saved, "rows.csv", "--out", name)
    assert Path("rows.csv").read_bytes() == Path(CARS).read_bytes()


def test_a_table_that_is_not_gzipped_is_named() -> None:
    Path("plain.csv.gz").write_bytes(Path(CARS).read_bytes())
    assert "`plain.csv.gz` is not gzipped" in complaint(
        "fit", "plain.csv.gz", "dist ~ speed", "-m", "gaussian"
    )
    Path("plain.csv.gz").rename("plain.csv")  # the remedy
    assert run("fit", "plain.csv", "dist ~ speed", "-m", "gaussian").exit_code == 0


def test_an_interrupt_is_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(neglog, "mle", interrupted)
    result = run("fit", CARS, "dist ~ speed", "-m", "gaussian")
    assert (result.exit_code, result.stderr) == (130, "neglog: interrupted\n")


STARTED = """
import signal, sys
class Announced:
    def find_spec(name, path=None, target=None):
        if name == "neglog.cli.commands":
            print(flush=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has SIGINT ignored
sys.meta_path.insert(0, Announced)
from neglog.cli import main
main()
"""
"""The command line, with a line on stdout where the import of the program begins."""


@pytest.mark.parametrize(
    ("arguments", "delay"),
    [
        *((["--help"], delay) for delay in (0.0, 0.05, 0.2)),
        *((["fit", CARS, "dist ~ speed", "-m", "gaussian"], delay) for delay in (0.02, 0.1, 0.4)),
    ],
    ids=str,
)
def test_an_interrupt_of_the_start_is_code_130(delay: float, arguments: list[str]) -> None:
    command = [sys.executable, "-c", STARTED, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    remarks = process.communicate(timeout=60)[1]
    faster = [(0, "")]  # than the interrupt
    assert (process.returncode, remarks) in [(130, "neglog: interrupted\n"), (130, ""), *faster]


SWALLOWED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    raise ImportError("as an extension module does")
"""


def test_an_interrupt_within_an_import_that_turns_it_into_another_error_is_code_130() -> None:
    Path("swallows.py").write_text(SWALLOWED)
    program = STARTED.replace("main()", "from neglog.cli import commands; "
                              "commands.run = lambda: __import__('swallows'); main()")  # fmt: skip
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, '.')\n" + program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "neglog: interrupted\n")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "neglog", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"neglog {neglog.__version__}\n", "")


@pytest.mark.parametrize(("stdout", "code", "lines"), [("/dev/full", 2, 1), ("closed pipe", 0, 0)])
def test_an_output_that_takes_nothing_is_no_traceback(stdout: str, code: int, lines: int) -> None:
    command = [sys.executable, "-c", "from neglog.cli import main; main()", "--version"]
    if stdout == "closed pipe":
        heard, tell = os.pipe()
        os.close(heard)
    else:
        tell = os.open(stdout, os.O_WRONLY)
    done = subprocess.run(command, stdout=tell, stderr=subprocess.PIPE, text=True)
    os.close(tell)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, lines), done.stderr


def test_whole_numbers_beyond_64_bits_are_numbers() -> None:
    Path("large.csv").write_text("x,y\n" + "".join(f"{i},{10**30 * (i % 3)}\n" for i in range(9)))
    assert answer("fit", "large.csv", "y ~ 1", "-m", "laplace")["n"] == 9


def test_a_long_cell_is_quoted_in_part() -> None:
    Path("long.csv").write_text("x,y\n1,2\n2," + "9" * 100_000 + "\n3,4\n")
    with pytest.raises(DataError, match="row 1 has '999") as caught:
        learn("y ~ x", read_table("long.csv"))
    assert len(str(caught.value)) < 1000


def test_a_reader_that_leaves_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of `neglog ... | head`: rich ends the process with code 1."""
    heard, tell = os.pipe()
    os.close(heard)
    stdout = os.fdopen(tell, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(typer.Exit) as ended, output.reporting():
        output.print_tables("the estimates")
    monkeypatch.undo()
    with suppress(BrokenPipeError):
        stdout.close()
    assert ended.value.exit_code == 0


CLOSED = """
import os, sys
from neglog.cli import open_streams
open_streams()
from neglog.cli import output
from neglog.usage import say
output.print_tables("the estimates")
output.at_terminal()
say("a remark")
assert os.open("kept", os.O_CREAT | os.O_WRONLY) > 2  # no stream writes into it
sys.exit(2)
"""


def test_streams_that_are_closed_or_full_are_no_traceback() -> None:
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(CLOSED)}"
    for streams in ("<&- >&- 2>&-", "2>/dev/full"):
        done = subprocess.run(f"{program} {streams}", shell=True, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, ""), streams


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.parquet", "p.png"])
def test_what_cannot_be_written_whole_leaves_the_former_file(name: str) -> None:
    """As on a full disk."""
    Path(name).write_text("former")
    figure = Figure()
    figure.text(0.5, 0.5, "text")
    table = pd.DataFrame({"x": np.arange(20_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            plots.write(figure, name) if name == "p.png" else write_table(table, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert Path(name).read_text() == "former"
    assert os.listdir() == [name]


# The program


def test_the_program_itself() -> None:
    code = """if True:  # both in one process: starting one is most of the cost
        import sys
        from neglog.cli import main
        try:
            main()
        except SystemExit as ended:
            assert not ended.code
        sys.argv[1:] = ["fit", "absent.csv", "y ~ x", "-m", "gaussian"]
        main()
        raise AssertionError("it went on after an error")
    """
    command = [sys.executable, "-c", code, "fit", CARS, "dist ~ speed", "-m", "gaussian", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["nll"] == pytest.approx(206.57844, abs=1e-5)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "neglog: error: `absent.csv` does not exist. Give the path of a .csv, .tsv or .parquet file."
    ]


def test_help_and_version() -> None:
    for arguments in ([], ["fit"], ["predict"], ["compare"]):
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert "Usage: " in result.stdout
    assert run("--version").stdout == f"neglog {neglog.__version__}\n"
    assert run("fit", CARS).exit_code == 2


def test_help_and_wrong_columns_do_not_wait_for_the_libraries() -> None:
    # The package's own `__init__` is left out: what it imports is not the command line's doing.
    code = """if True:
        import sys, types
        sys.modules["neglog"] = package = types.ModuleType("neglog")
        package.__path__ = [sys.argv[1]]
        import neglog.cli.commands
        slow = {"torch", "pandas", "matplotlib", "formulaic"} & set(sys.modules)
        from neglog.cli import main
        cars = sys.argv[2]
        for wrong in (["fit", cars, "dist ~ sped", "-m", "gaussian"],
                      ["fit", cars, "dist ~ speed", "-m", "gausian"],
                      ["fit", "absent.csv", "dist ~ speed", "-m", "gaussian"],
                      ["compare", cars, "dist ~ speed", "--weights", "wt"],
                      ["posterior", cars, "dist", "-m", "gaussian", "--out", "d.nc"],
                      ["predict", "m", "absent.csv"]):
            sys.argv[1:] = wrong
            try:
                main()
            except SystemExit as ended:
                assert ended.code == 2
        sys.exit(bool(slow | {"torch", "matplotlib"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", code, os.fspath(Path(neglog.__file__).parent), CARS]
    assert subprocess.run(command, capture_output=True, check=True).stderr.count(b"neglog: error: ") == 6


def test_help_lists_the_models():
    assert len(models.__all__) > 20
    for command in ([], ["fit"]):
        shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout
        assert set(models.__all__) <= set(re.findall(r"\w+", shown))
