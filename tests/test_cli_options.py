"""Options of the command line: each with a known number, and with one wrong input that is one clear line."""

import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import neglog
from neglog import datasets, mle, models, summary
from neglog.cli import workers
from neglog.cli.catalogue import catalogue, listing
from neglog.cli.commands import app
from neglog.errors import DataError, ModelError
from neglog.exchange.netcdf import write_netcdf
from neglog.losses import TABLE
from neglog.tables import parse_table, read_table

DATA = Path(__file__).parent / "data"
CARS, INSURANCE, WARP = (str(DATA / f"{name}.csv") for name in ("cars", "insurance", "warpbreaks"))
ENGEL, MENARCHE = (str(datasets.path(name)) for name in ("engel", "menarche"))
CLAIMS = ["fit", INSURANCE, "Claims ~ C(Age)", "-m", "poisson"]
ON_CARS = ["fit", CARS, "dist ~ speed", "-m", "gaussian"]
COMPARED = ["compare", CARS, "dist ~ speed", "--no-plot", "--folds", "2", "--cores", "1"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no more models than these."""
    monkeypatch.setattr(neglog.models, "__all__", ["gaussian", "huber", "quantile", "poisson", "binomial"])


def run(*arguments: str, input: bytes | None = None) -> Any:
    result = CliRunner().invoke(app, arguments, input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def answer(*arguments: str, **how: Any) -> Any:
    result = run(*arguments, "--json", **how)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def estimates(*arguments: str, column: str = "estimate", **how: Any) -> dict[str, float]:
    return {row["term"] or row["parameter"]: row[column] for row in answer(*arguments, **how)["estimates"]}


def complaint(*arguments: str, **how: Any) -> str:
    """The one line of a failure."""
    result = run(*arguments, **how)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("neglog: error: ")
    return line


def test_an_exposure_is_an_offset_of_its_logarithm() -> None:
    table = read_table(INSURANCE)
    table.assign(log_t=np.log(table["Holders"])).to_csv("logs.csv", index=False)
    exposed = estimates(*CLAIMS, "--exposure", "Holders")
    offset = estimates("fit", "logs.csv", "Claims ~ C(Age)", "-m", "poisson", "--offset", "log_t")
    of_formula = estimates("fit", INSURANCE, "Claims ~ C(Age) + offset(log(Holders))", "-m", "poisson")
    assert exposed == pytest.approx(offset, rel=1e-9)
    assert exposed == pytest.approx(of_formula, rel=1e-9)


def test_trials_are_those_of_r() -> None:
    # R: glm(cbind(Menarche, Total - Menarche) ~ Age, binomial, MASS::menarche)
    found = estimates("fit", MENARCHE, "reached ~ age", "-m", "binomial", "--trials", "girls")
    assert found == pytest.approx({"Intercept": -21.22639, "age": 1.63197}, abs=1e-5)


def test_tau_is_that_of_quantreg() -> None:
    # R: quantreg::rq(foodexp ~ income, tau = 0.9, engel)
    for option in (["--tau", "0.9"], ["--set", "tau=0.9"]):
        found = estimates("fit", ENGEL, "food_expenditure ~ income", "-m", "quantile", *option)
        assert found["Intercept"] == pytest.approx(67.35087, abs=5e-6)
        assert found["income"] == pytest.approx(0.68630, abs=5e-6)


def test_a_parameter_may_be_known() -> None:
    found = estimates(*ON_CARS, "--set", "sigma=15")
    assert "sigma" not in found
    assert found["speed"] == pytest.approx(3.932408759124087, rel=1e-9)  # lm(dist ~ speed, cars)
    errors = estimates(*ON_CARS, "--set", "sigma=15", column="std_error")
    speed = read_table(CARS)["speed"]
    assert errors["speed"] == pytest.approx(15 / np.sqrt(((speed - speed.mean()) ** 2).sum()), rel=1e-9)


def test_standard_errors_are_of_the_kind_and_level_that_was_given() -> None:
    table = read_table(INSURANCE)
    fit = mle("poisson", "Claims ~ C(Age)", table, exposure="Holders", groups="Group")
    for options, kind in (
        (["--groups", "Group"], "cluster"),
        (["--cov-type", "HC1"], "HC1"),
        (["--groups", "Group", "--cov-type", "opg"], "opg"),
    ):
        said = answer(*CLAIMS, "--exposure", "Holders", "--level", "0.8", *options)
        expected = summary(fit, cov_type=kind, level=0.8)
        assert said["cov_type"] == kind
        for name in ("std_error", "lower", "upper"):
            assert [row[name] for row in said["estimates"]] == pytest.approx(expected[name].tolist())
    assert "80 % from" in run(*CLAIMS, "--level", "0.8").stdout


def test_each_parameter_has_a_formula_of_its_own() -> None:
    new, former = (estimates(*ON_CARS, option, "sigma ~ speed") for option in ("--formula", "--also"))
    table = read_table(CARS)
    fit = mle("gaussian", {"mean": "dist ~ speed", "sigma": "~ speed"}, table)
    assert new == former
    assert list(new.values())[-1] == pytest.approx(float(fit.params["log_sigma.weight"]))


def test_a_table_on_standard_input() -> None:
    content = Path(CARS).read_bytes()
    assert estimates("fit", "-", *ON_CARS[2:], input=content) == estimates(*ON_CARS)
    run(*ON_CARS, "--out", "m")
    assert run("predict", "m", "-", input=content).stdout == run("predict", "m", CARS).stdout
    assert "`standard input` is empty" in complaint("fit", "-", *ON_CARS[2:], input=b"")
    with pytest.raises(DataError, match="several columns named `a`"):
        parse_table(b"a,a\n1,2\n", "standard input")


def test_the_exposure_of_new_rows_is_a_column_too() -> None:
    assert run(*CLAIMS, "--exposure", "Holders", "--out", "m").exit_code == 0
    table = read_table(INSURANCE)
    run("predict", "m", INSURANCE, "--exposure", "Holders", "--out", "p.csv")
    fit = mle("poisson", "Claims ~ C(Age)", table, exposure="Holders")
    expected = neglog.predict(fit, table).mean.numpy()
    assert read_table("p.csv")["mean"].to_numpy() == pytest.approx(expected, rel=1e-12)
    assert run("predict", "m", INSURANCE).stdout == Path("p.csv").read_text()  # the column of the fit
    assert "no column `holders`" in complaint("predict", "m", INSURANCE, "--exposure", "holders")


def test_a_further_score_is_shown_for_the_models_that_have_it(few_models: None) -> None:
    found = {each["model"]: each for each in answer(*COMPARED, "--score", "r2", "--score", "d2")["models"]}
    assert 0 < found["gaussian"]["r2"] < 1
    assert found["gaussian"]["d2"] == pytest.approx(found["gaussian"]["r2"])
    assert found["huber"]["d2"] is None
    text = run(*COMPARED, "--score", "r2", "--score", "d2")
    assert "– " in next(line for line in text.stdout.splitlines() if line.startswith("huber")) + " "
    wrong = run(*COMPARED, "--score", "r3")
    assert wrong.exit_code == 2
    assert "there is no score 'r3'" in wrong.stderr


def test_labels_are_classes() -> None:
    said = answer("fit", WARP, "wool ~ breaks", "-m", "bernoulli")
    fit = mle("bernoulli", "wool ~ breaks", read_table(WARP))
    assert said["nll"] == pytest.approx(fit.nll)
    ranked = answer("compare", WARP, "tension ~ breaks", "--folds", "2")
    assert {entry["model"] for entry in ranked["models"]} == {"categorical"}
    assert ranked["picture"] is None
    assert "of classes" in complaint("compare", WARP, "tension ~ breaks", "--folds", "2", "--plot", "p.png")
    assert [each["model"] for each in answer("compare", WARP, "wool ~ breaks", "--folds", "2")["models"]] == [
        "bernoulli"
    ]


def test_predictions_of_classes_are_probabilities() -> None:
    run("fit", WARP, "tension ~ breaks", "-m", "categorical", "--out", "m")
    run("predict", "m", WARP, "--out", "p.csv")
    table = read_table("p.csv")
    fit = mle("categorical", "tension ~ breaks", read_table(WARP))
    expected = neglog.class_probabilities(fit, read_table(WARP))
    assert table[["p_H", "p_L", "p_M"]].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-12)
    assert table["predicted"].tolist() == expected.idxmax(axis=1).tolist()


@pytest.mark.usefixtures("few_models")
def test_a_setting_requests_the_model_that_has_it() -> None:
    def ranked(*options: str) -> set[str]:
        return {each["model"] for each in answer(*COMPARED, *options)["models"]}

    assert ranked() == {"gaussian", "huber"}
    assert ranked("--tau", "0.5") == {"gaussian", "huber", "quantile"}
    assert ranked("--set", "delta=2") == {"gaussian", "huber"}


@pytest.mark.usefixtures("few_models")
def test_models_that_do_not_take_the_rows_are_not_compared() -> None:
    counts = ["compare", INSURANCE, "Claims ~ C(Age)", "--no-plot", "--folds", "2", "--cores", "1"]
    assert [each["model"] for each in answer(*counts, "--exposure", "Holders")["models"]] == ["poisson"]
    successes = answer("compare", MENARCHE, "reached ~ age", "--trials", "girls", "--folds", "2")
    assert [each["model"] for each in successes["models"]] == ["binomial"]
    grouped = answer(*counts, "--exposure", "Holders", "--groups", "District")
    assert grouped["models"] != answer(*counts, "--exposure", "Holders")["models"]


@pytest.mark.usefixtures("few_models")
def test_offsets_and_weights_of_a_comparison_are_columns() -> None:
    table = read_table(INSURANCE)
    table.assign(log_t=np.log(table["Holders"]), w=2).to_csv("more.csv", index=False)
    counts = ["compare", "more.csv", "Claims ~ C(Age)", "--no-plot", "--folds", "2", "--cores", "1"]
    exposed, offset, weighted = (
        answer(*counts, *options)["models"][0]
        for options in (
            ["--exposure", "Holders"],
            ["--offset", "log_t"],
            ["--exposure", "Holders", "--weights", "w"],
        )
    )
    assert offset["nll"] == pytest.approx(exposed["nll"], rel=1e-9)
    assert offset["held_out_mean"] == pytest.approx(exposed["held_out_mean"], rel=1e-9)
    assert weighted["nll"] == pytest.approx(2 * exposed["nll"], rel=1e-9)


def test_rows_of_a_posterior_are_columns() -> None:
    table = read_table(INSURANCE)
    table.assign(log_t=np.log(table["Holders"]), w=2).to_csv("more.csv", index=False)
    claims = ["posterior", "more.csv", "Claims ~ C(Age)", "-m", "poisson", "--out", "p.nc"]
    fast = ["--method", "laplace", "--draws", "100"]
    exposed, offset, weighted = (
        estimates(*claims, *fast, *options, column="mean")
        for options in (
            ["--exposure", "Holders"],
            ["--offset", "log_t"],
            ["--exposure", "Holders", "--weights", "w"],
        )
    )
    assert offset == pytest.approx(exposed, rel=1e-6)
    expected = neglog.posterior(
        *("poisson", "Claims ~ C(Age)", read_table("more.csv")),
        **{"method": "laplace", "draws": 100, "exposure": "Holders", "weights": "w"},
    )
    assert weighted["Intercept"] == pytest.approx(float(expected.mean["log_rate.bias"]))
    assert weighted["Intercept"] != pytest.approx(exposed["Intercept"], rel=1e-6)
    tried = ["posterior", MENARCHE, "reached ~ age", "-m", "binomial", "--out", "p.nc", *fast]
    found = estimates(*tried, "--trials", "girls", column="mean")
    assert found["age"] == pytest.approx(1.6, abs=0.1)
    assert "trials" in complaint(*tried)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ON_CARS, "--exposure", "speed"], "--exposure"),
        ([*CLAIMS, "--exposure", "holders"], "no column `holders`"),
        (["fit", MENARCHE, "reached ~ age", "-m", "binomial"], "trials"),
        ([*ON_CARS, "--offset", "nope"], "no column `nope`"),
        ([*ON_CARS, "--cov-type", "HC9"], "`cov_type` must be one of"),
        ([*ON_CARS, "--cov-type", "cluster"], "--groups"),
        ([*ON_CARS, "--groups", "nope"], "no column `nope`"),
        ([*ON_CARS, "--level", "2"], "--level"),
        ([*ON_CARS, "--tau", "0.5"], "`gaussian` has no setting `tau`"),
        ([*ON_CARS, "--set", "sigma"], "a name and a number"),
        ([*ON_CARS, "--set", "sigma=x"], "needs a number"),
        ([*ON_CARS, "--set", "sigma=1", "--set", "sigma=2"], "given twice"),
        ([*ON_CARS, "--set", "sigma=0"], "`sigma` must be a positive number; it is 0"),
        ([*COMPARED, "--set", "sigma=nan"], "`sigma` must be a positive number; it is nan"),
        ([*ON_CARS, "--formula", "~ speed"], "must name one predictor"),
        ([*ON_CARS, "--formula", "mean ~ speed"], "has two formulas"),
        (["fit", ENGEL, "food_expenditure ~ income", "-m", "quantile", "--tau", "2"], "`tau`"),
        ([*COMPARED, "--exposure", "speed"], "takes `exposure`"),
        ([*COMPARED, "--set", "nope=1"], "no model has a setting `nope`"),
        ([*COMPARED, "--groups", "nope"], "no column `nope`"),
        ([*COMPARED, "--cores", "0"], "--cores"),
        (["posterior", CARS, "dist ~ speed", "-m", "gaussian", "--out", "p.csv"], "End its name in .nc"),
        (["posterior", CARS, "dist ~ speed", "-m", "gaussian"], "--out"),
        (["posterior", CARS, "dist ~ speed", "-m", "gaussian", "--out", "p.nc", "--draws", "0"], "`draws`"),
        (["models", "--nope"], "--nope"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], message: str) -> None:
    assert message in complaint(*arguments)


def test_the_help_and_the_table_have_each_model_once() -> None:
    assert [entry["model"] for entry in catalogue()] == sorted(
        models.__all__, key=[entry["model"] for entry in catalogue()].index
    )
    for entry in catalogue():
        declared = TABLE[entry["model"]]
        assert entry["loss"] == declared.name
        for name in ("torch_loss", "density", "estimates", "choose_when", "response"):
            assert entry[name] == getattr(declared, name)
    lines = listing().splitlines()
    assert sum(line.startswith("    ") for line in lines) == len(models.__all__)
    assert all(len(line) <= 80 for line in lines)
    assert {row["model"]: row["loss"] for row in answer("models")} == {
        name: loss.name for name, loss in TABLE.items()
    }
    assert "torch.nn.PoissonNLLLoss" in " ".join(run("models").stdout.split())


def test_draws_of_a_posterior_are_written_for_arviz() -> None:
    fast = ["--method", "laplace", "--draws", "500"]
    said = answer("posterior", CARS, "dist ~ speed", "-m", "poisson", "--out", "p.nc", *fast)
    found = neglog.posterior("poisson", "dist ~ speed", read_table(CARS), method="laplace", draws=500)
    means = {row["term"]: row["mean"] for row in said["estimates"]}
    assert means["speed"] == pytest.approx(float(found.mean["log_rate.weight"]))
    with xr.open_dataset("p.nc", group="posterior", engine="h5netcdf") as draws:
        assert draws["log_rate.weight"].shape == (1, 500, 1)


def test_the_structure_of_newer_arviz_is_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"a": ("draw", [1.0, 2.0])})})
    write_netcdf(tree, "tree.nc")
    with xr.open_dataset("tree.nc", group="posterior", engine="h5netcdf") as draws:
        assert draws["a"].values.tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="to_arviz"):
        write_netcdf({}, "tree.nc")
    monkeypatch.setattr("neglog.exchange.netcdf.find_spec", lambda module: module == "h5netcdf" or None)
    with pytest.raises(DataError, match="neglog\\[netcdf\\]"):
        write_netcdf(tree, "other.nc")


# Side by side


@pytest.mark.usefixtures("few_models")
def test_fits_side_by_side_are_those_one_after_the_other() -> None:
    assert answer(*COMPARED[:-1], "2") == answer(*COMPARED)
    run(*COMPARED[:3], "--folds", "2", "--cores", "2", "--plot", "p.png")
    assert Path("p.png").exists()


def test_errors_of_other_processes_are_raised_here() -> None:
    def fails(number: int) -> int:
        if number == 1:
            raise DataError("no such row")
        return os._exit(9) if number == 2 else number

    assert workers.side_by_side(lambda number: number * 2, range(5), 3) == [0, 2, 4, 6, 8]
    with pytest.raises(DataError, match="no such row"):
        workers.side_by_side(fails, [0, 1], 2)
    with pytest.raises(ModelError, match="exit code 9"):
        workers.side_by_side(fails, [0, 2], 2)


def test_an_interrupt_ends_all_processes() -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, partial(os.kill, os.getpid(), signal.SIGINT))
    started: list[int] = []

    def waits(number: int) -> None:
        signal.pause()

    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            workers.side_by_side(waits, (started.append(n) or n for n in range(4)), 2)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
    assert started == [0, 1, 2]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_table_of_labels_is_ranked_in_python_too() -> None:
    table = pd.DataFrame(read_table(WARP))
    ranked = neglog.compare(models, "tension ~ breaks", table, folds=2)
    assert set(ranked.index) == {"categorical"}
    assert ranked.loc["categorical", "nll"] == pytest.approx(52.6001, abs=1e-4)


# In the words of the command line

PLACES = {
    "dist ~ speed +": ("dist ~ speed +", "+"),
    "dist ~ log speed": ("dist ~ log speed", "log speed"),
    "dist = speed": ("dist = speed", "="),
}


@pytest.mark.parametrize("formula", PLACES)
def test_carets_stand_under_the_place_in_a_formula(formula: str) -> None:
    result = run("fit", CARS, formula, "-m", "gaussian")
    line, shown, carets = result.stderr.splitlines()
    assert line.startswith("neglog: error: the formula")
    text, place = PLACES[formula]
    assert shown.strip() == text
    assert shown[carets.index("^") : carets.rindex("^") + 1] in place


@pytest.mark.parametrize(
    ("request_", "facts"),
    [
        (("fit", MENARCHE, "reached ~ age", "-m", "binomial"), "--trials COLUMN"),
        (
            ("fit", CARS, "dist ~ speed", "-m", "gaussian", "--exposure", "speed"),
            "`gaussian` takes no --exposure",
        ),
        (("fit", CARS, "dist ~ speed", "-m", "gaussian", "--cov-type", "cluster"), "--groups COLUMN"),
        (
            ("fit", CARS, "dist ~ speed", "-m", "gaussian", "--map", "--cov-type", "expected"),
            "--cov-type observed",
        ),
        (("fit", CARS, "dist ~ speed + I(2*speed)", "-m", "gaussian"), "neglog fit --map"),
        (("fit", CARS, "dist ~ speed", "-m", "gaussian", "--level", "95"), "95 % are 0.95"),
    ],
)
def test_errors_speak_the_command_line(request_: tuple[str, ...], facts: str) -> None:
    said = complaint(*request_)
    assert facts in said
    assert not [
        word for word in ("mle(", "map_estimate", "trials=", "cov_type=", "drop_missing=") if word in said
    ]
