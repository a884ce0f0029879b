"""The structure, held true: imports go one way, and importing costs and changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neglog

SOURCE = Path(neglog.__file__).parent

# Each module and those it may import; the order is the order of the picture in docs/design.md.
MAY_IMPORT = {
    "errors": set(),
    "arguments": {"errors"},
    "losses": {"errors"},
    "datasets": {"errors"},
    "distributions": {"errors"},
    "predictors": {"errors"},
    "beginnings": {"predictors"},
    "models": {"beginnings", "distributions", "errors", "predictors"},
    "observation": {"distributions", "errors", "predictors"},
    "handlers": {"errors", "observation", "predictors"},
    "guides": set(),
    "kinks": {"distributions", "errors", "handlers"},
    "data": {"distributions", "errors", "predictors"},
    "spooled": {"data", "errors", "predictors"},
    "solvers": {"errors", "guides"},
    "tracing": {"data", "errors", "handlers", "predictors"},
    "dictionary": {"distributions", "errors", "losses", "models", "predictors", "tracing"},
    "recording": set(),
    "arrays": set(),
    "programs": set(),
    "cleaning": {"arrays"},
    "graphs": {"cleaning", "errors", "recording"},
    "staged": {"arrays", "programs"},
    "sites": {"errors", "handlers", "predictors", "tracing"},
    "cuts": {"data", "handlers", "predictors", "sites", "tracing"},
    "rowwise": {"cuts", "data", "graphs", "handlers", "sites", "staged", "tracing"},
    "basis": set(),
    "objective": {
        "basis",
        "cuts",
        "data",
        "distributions",
        "errors",
        "handlers",
        "kinks",
        "predictors",
        "rowwise",
        "sites",
        "tracing",
    },
    "blocks": {"basis", "cuts", "errors", "objective", "predictors", "rowwise", "tracing"},
    "literal": {"blocks", "handlers"},
    "sums": {"blocks", "rowwise"},
    "coordinates": {
        "basis",
        "blocks",
        "distributions",
        "handlers",
        "kinks",
        "literal",
        "objective",
        "predictors",
        "rowwise",
        "sums",
    },
    "quadratic": {"coordinates", "distributions"},
    "least_squares": {"blocks", "coordinates", "objective", "predictors", "quadratic", "tracing"},
    "medians": {"kinks", "objective", "predictors", "tracing"},
    "start": {"errors", "least_squares", "medians", "objective", "rowwise", "solvers"},
    "existence": {"coordinates", "errors", "objective"},
    "curvature": {"coordinates", "objective", "predictors", "tracing"},
    "parabola": {"blocks", "coordinates", "objective", "predictors", "quadratic", "tracing"},
    "penalised": {
        "blocks",
        "coordinates",
        "distributions",
        "handlers",
        "kinks",
        "objective",
        "parabola",
        "solvers",
    },
    "pinball": {"blocks", "coordinates", "kinks", "medians", "objective", "predictors", "solvers", "tracing"},
    "elsewhere": {"beginnings", "coordinates", "objective", "tracing"},
    "refinement": {"blocks", "coordinates", "predictors"},
    "lowered": {
        "blocks",
        "coordinates",
        "data",
        "graphs",
        "handlers",
        "objective",
        "predictors",
        "quadratic",
        "tracing",
    },
    "choice": {"coordinates", "curvature", "errors", "lowered", "penalised", "pinball", "solvers"},
    "fit": {
        "choice",
        "coordinates",
        "data",
        "elsewhere",
        "errors",
        "existence",
        "guides",
        "handlers",
        "least_squares",
        "objective",
        "penalised",
        "predictors",
        "refinement",
        "solvers",
        "start",
        "tracing",
    },
    "lasso": {
        "coordinates",
        "data",
        "errors",
        "fit",
        "handlers",
        "kinks",
        "objective",
        "parabola",
        "penalised",
        "solvers",
        "start",
        "tracing",
    },
    "stack": {"data", "errors", "predictors"},
    "likelihoods": {"data", "handlers", "objective", "predictors", "solvers", "stack", "tracing"},
    "layout": {
        "blocks",
        "data",
        "errors",
        "handlers",
        "kinks",
        "likelihoods",
        "objective",
        "predictors",
        "stack",
        "tracing",
    },
    "whitening": {"likelihoods"},
    "normal_equations": {"likelihoods"},
    "replayed": {"data", "likelihoods", "objective", "rowwise"},
    "precision": {"kinks", "layout", "likelihoods", "objective", "predictors", "whitening"},
    "batch": {
        "arguments",
        "coordinates",
        "errors",
        "existence",
        "handlers",
        "layout",
        "likelihoods",
        "normal_equations",
        "objective",
        "precision",
        "predictors",
        "replayed",
        "solvers",
        "stack",
        "start",
        "tracing",
        "whitening",
    },
    "quantiles": {"errors", "fit", "handlers", "models", "solvers"},
    "labels": {"fit", "objective", "tracing"},
    "uncertainty": {
        "basis",
        "blocks",
        "choice",
        "coordinates",
        "data",
        "errors",
        "existence",
        "fit",
        "labels",
        "objective",
        "predictors",
        "solvers",
        "tracing",
    },
    "bootstrap": {
        "arguments",
        "batch",
        "data",
        "errors",
        "fit",
        "labels",
        "objective",
        "predictors",
        "stack",
        "tracing",
        "uncertainty",
    },
    "fisher": {"coordinates", "distributions", "errors", "predictors", "uncertainty"},
    "sparsity": {"coordinates", "errors", "pinball"},
    "covariances": {
        "bootstrap",
        "coordinates",
        "errors",
        "fisher",
        "fit",
        "labels",
        "predictors",
        "sparsity",
        "uncertainty",
    },
    "profiles": {"coordinates", "errors", "solvers"},
    "summaries": {
        "arguments",
        "covariances",
        "errors",
        "fit",
        "labels",
        "objective",
        "precision",
        "profiles",
        "uncertainty",
    },
    "constraints": {"errors"},
    "hypotheses": {
        "constraints",
        "coordinates",
        "covariances",
        "data",
        "errors",
        "fisher",
        "fit",
        "labels",
        "objective",
        "predictors",
        "spooled",
        "uncertainty",
    },
    "ranking": {"errors", "fit", "hypotheses"},
    "studies": {"batch", "errors", "handlers", "models", "tracing"},
    "priors": {"data", "distributions", "errors", "handlers", "objective", "tracing"},
    "density": {"coordinates", "lowered", "objective", "start"},
    "diagnostics": set(),
    "nuts": {"density", "errors"},
    "approximations": {
        "choice",
        "covariances",
        "density",
        "errors",
        "fit",
        "lowered",
        "objective",
        "solvers",
        "uncertainty",
    },
    "posterior": {
        "arguments",
        "approximations",
        "covariances",
        "data",
        "density",
        "diagnostics",
        "errors",
        "fit",
        "handlers",
        "nuts",
        "objective",
        "tracing",
    },
    "predict": {
        "arguments",
        "covariances",
        "data",
        "distributions",
        "errors",
        "fit",
        "handlers",
        "posterior",
        "predictors",
        "tracing",
    },
    "intervals": {
        "arguments",
        "covariances",
        "data",
        "distributions",
        "errors",
        "fit",
        "posterior",
        "predict",
        "predictors",
        "tracing",
    },
    "crps": {"distributions", "errors"},
    "scores": {
        "covariances",
        "crps",
        "data",
        "distributions",
        "errors",
        "fit",
        "posterior",
        "predict",
        "tracing",
    },
    "validation": {"data", "errors", "fit", "handlers", "scores", "tracing"},
    "network": {"errors", "fisher", "fit", "objective", "predictors", "tracing", "uncertainty"},
    "structures": {"errors", "network", "solvers"},
    "laplace": {
        "arguments",
        "distributions",
        "errors",
        "fit",
        "network",
        "predict",
        "predictors",
        "structures",
        "tracing",
    },
    "predictive": {
        "arguments",
        "data",
        "errors",
        "handlers",
        "lowered",
        "objective",
        "posterior",
        "predict",
        "predictors",
        "tracing",
    },
    "inference_data": {
        "arguments",
        "errors",
        "fit",
        "objective",
        "posterior",
        "predictive",
        "predictors",
    },
    "pyro_samples": {"arguments", "errors", "inference_data"},
}
HANDS_ON = {"losses": {"dictionary"}}
"""Names that a module hands on when they are asked for, and does not import: `losses.likelihood_of`."""
ABOVE = set(MAY_IMPORT)
"""What stands above the core (the command line and what serves it) may import anything below it."""


def modules():
    names = {path.stem for path in SOURCE.glob("*.py")} | {
        p.parent.name for p in SOURCE.glob("*/__init__.py")
    }
    return sorted(names - {"__init__"})


def imports(name):
    """The modules of neglog that a module or a package imports, in or out of functions."""
    package = SOURCE / name
    files = list(package.rglob("*.py")) if package.is_dir() else [SOURCE / f"{name}.py"]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                parts = (node.module or "").split(".")
                if parts[0] == "neglog":
                    found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("neglog.")}
    return found - {name}


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_go_one_way(name):
    assert imports(name) - HANDS_ON.get(name, set()) <= MAY_IMPORT[name]


def test_what_is_handed_on_is_not_imported():
    """Such an import stands under TYPE_CHECKING alone: the module itself does without."""
    for name, above in HANDS_ON.items():
        names = {f"neglog.{module}" for module in above}
        for file in (SOURCE / name).glob("*.py"):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                found = {n.module for n in ast.walk(node) if isinstance(n, ast.ImportFrom)}
                assert typing or not found & names, file


def test_the_core_never_imports_what_stands_above_it():
    above = set(modules()) - ABOVE
    assert {"cli", "formula", "plots", "export"} <= above
    for name in MAY_IMPORT:
        assert not imports(name) & above


def test_the_order_of_the_picture_has_no_cycle():
    seen = set()
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= seen, name
        seen.add(name)


@pytest.mark.parametrize("name", ["models", "predictors", "losses"])
def test_models_and_losses_stand_alone(name):
    assert not imports(name) & {"solvers", "objective", "coordinates", "fit"}


def test_losses_have_no_pyro_inside():
    for file in (SOURCE / "losses").glob("*.py"):
        assert "import pyro" not in file.read_text(encoding="utf-8"), file


def test_solvers_know_no_site():
    for file in (SOURCE / "solvers").glob("*.py"):
        assert "pyro.sample" not in file.read_text(encoding="utf-8"), file


def test_nothing_is_pickled_or_evaluated():
    for file in SOURCE.rglob("*.py"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, file
        assert "pickle.load" not in file.read_text(encoding="utf-8"), file
        assert "torch.load" not in file.read_text(encoding="utf-8"), file


def test_public_names_are_sorted_and_documented():
    assert neglog.__all__ == sorted(neglog.__all__)
    for name in neglog.__all__:
        assert getattr(neglog, name).__doc__, name


@pytest.mark.parametrize("module", ["errors", "models", "handlers", "fit", "predict", "solvers", "losses"])
def test_public_functions_have_docstrings(module):
    tree_files = (SOURCE / module).rglob("*.py") if (SOURCE / module).is_dir() else [SOURCE / f"{module}.py"]
    for file in tree_files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file.name}: {node.name}"


LIGHT = """
import sys, warnings, torch, pyro
filters, dtype = list(warnings.filters), torch.get_default_dtype()
validating = torch.distributions.Distribution._validate_args
import neglog
heavy = {"matplotlib", "arviz", "formulaic", "typer", "sklearn"} & set(sys.modules)
assert not heavy, heavy
assert filters == list(warnings.filters)
assert dtype == torch.get_default_dtype()
assert validating == torch.distributions.Distribution._validate_args
assert not list(pyro.get_param_store().keys())
"""


def test_importing_is_light_and_changes_nothing():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


FIRST = """
import sys, warnings
import table
from neglog import mle
assert "sympy" not in sys.modules
warnings.simplefilter("ignore")
for model in table.TABLE.values():
    if model.name not in ("weibull", "ordinal") and not model.name.startswith("multivariate"):
        x, y = model.sample()
        mle(model.model, x, y, **model.keywords())
        assert "sympy" not in sys.modules, model.name
"""


def test_a_first_fit_imports_no_algebra():
    """SymPy takes a quarter of a second, and `torch.broadcast_shapes` imports it.

    Torch's own Weibull and MultivariateNormal call that, and `ordinal` is traced by torch's compiler.
    """
    subprocess.run([sys.executable, "-c", FIRST], check=True, cwd=Path(__file__).parent)
