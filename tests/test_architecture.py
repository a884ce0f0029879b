"""The structure, held true: imports go one way, and importing costs and changes nothing."""

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import neglog

SOURCE = Path(neglog.__file__).parent

PROJECT = Path(__file__).parent.parent


def layers():
    """The modules and packages of neglog, the lowest first, as import-linter holds them."""
    contract, _ = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [sorted(layer.split(" | ")) for layer in reversed(contract["layers"])]


def test_imports_go_one_way():
    """The contracts stand in pyproject.toml: layers, and no circles within packages."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stdout


def test_imports_are_absolute():
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), file


def test_the_map_has_every_package():
    """docs/design.md says of each package and module at the top what it is for, layer by layer."""
    document = (PROJECT / "docs" / "design.md").read_text(encoding="utf-8")
    lines = document.split("```text\n")[1].split("```")[0].splitlines()
    found = [line.split()[0] for line in lines if not line.startswith(" ")]
    at, expected = 0, layers()
    for layer in expected:
        assert sorted(found[at : at + len(layer)]) == layer
        at += len(layer)
    assert at == len(found)


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


def files(name):
    """The files of a module, or of a package."""
    path = SOURCE.joinpath(*name.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize(
    "name", ["errors", "models", "handlers", "fitting.fit", "prediction.predictions", "solvers", "losses"]
)
def test_public_functions_have_docstrings(name):
    for file in files(name):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file.name}: {node.name}"


LIGHT = """
import sys
import neglog

def imported(*names):
    return set(names) & set(sys.modules)

assert not imported("torch", "pyro", "pandas", "numpy")
assert set(neglog.__all__) <= set(dir(neglog))
try:
    neglog.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
assert not imported("torch", "pyro", "pandas", "numpy")

from neglog.losses import gaussian_mixture_nll, huber, multivariate_gaussian_nll, ordinal_nll, poisson_nll
from neglog.losses import ridge_alpha, weibull_nll
assert imported("torch") and not imported("pyro")  # functions of predictions and targets train without Pyro

import warnings, torch, pyro
filters, dtype = list(warnings.filters), torch.get_default_dtype()
validating = torch.distributions.Distribution._validate_args

def check_nothing_changed():
    assert filters == list(warnings.filters)
    assert dtype == torch.get_default_dtype()
    assert validating == torch.distributions.Distribution._validate_args
    assert not list(pyro.get_param_store().keys())

from neglog import map_estimate, mle, models
assert not imported("pandas")
check_nothing_changed()
x, y = torch.zeros(4, 0), torch.tensor([0.0, 1.0, 2.0, 5.0])
mle(models.gaussian, x.numpy(), y.numpy(), weights=[1.0, 1.0, 2.0, 1.0])
map_estimate(models.laplace, x, y)
assert not imported("pandas")

from neglog import mle_batch, losses, posterior, priors_for, scores, spool, summary, to_arviz
heavy = imported("matplotlib", "arviz", "formulaic", "typer", "sklearn")
assert not heavy, heavy
check_nothing_changed()
neglog.errors.NeglogError, neglog.export.save
"""


def test_importing_is_light_and_changes_nothing():
    """Names are imported when they are used, and fits of arrays do not import pandas."""
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


def test_no_module_bears_the_name_of_a_public_function():
    """It would take the place of the function as an attribute of its package, whichever is imported last."""
    paths = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    modules = {path.with_suffix("").parts for path in paths}
    everywhere = {name for name in neglog.__all__ if inspect.isfunction(getattr(neglog, name))}
    assert not {path for path in modules if path[-1] in everywhere}
    for package in [neglog, *(getattr(neglog, name) for name in neglog.__all__)]:
        if inspect.ismodule(package):
            own = tuple(package.__name__.split(".")[1:])
            names = getattr(package, "__all__", ())
            called = {(*own, name) for name in names if not inspect.ismodule(getattr(package, name))}
            assert not called & modules, package.__name__
