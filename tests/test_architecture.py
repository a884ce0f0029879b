"""The structure, held true: imports go one way, and importing costs and changes nothing."""

import ast
import inspect
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

import neglog
import neglog.distributions

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


@cache
def nodes():
    """Every node of the syntax of every file."""
    files = {file: file.read_text(encoding="utf-8") for file in sorted(SOURCE.rglob("*.py"))}
    return {file: list(ast.walk(ast.parse(text))) for file, text in files.items()}


def test_imports_are_absolute():
    for file, inside in nodes().items():
        for node in inside:
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


RECORDS = ("distributions/", "likelihood/structure.py", "observation.py")
"""Where classes of distributions may be told apart: the records of families, the structure of a model, and
the handlers that put one distribution around another. Everything else asks those."""
NAMES = ("predictors.py", "layers.py", "wellformed.py", "labels.py")
"""Where names of sites and predictors have a meaning: where they are given, declared, checked and shown."""
SPELLINGS = {"log_", "logit_", "_cholesky", ".weight", ".bias", "variance", "scale", "location"}
KINDS_OF_OTHERS = {("usage.py", "NoArgsIsHelpError")}
"""Classes of other libraries that are told by their names, since releases define them in different places."""


@cache
def laws():
    """The names of the classes of distributions: neglog's, Pyro's and torch's."""
    every = [module for key, module in sys.modules.items() if key.startswith("neglog.distributions")]
    found = [value for module in (dist, torch.distributions, *every) for value in vars(module).values()]
    kinds = (value for value in found if isinstance(value, type))
    laws = {kind for kind in kinds if issubclass(kind, torch.distributions.Distribution)}
    return {kind.__name__ for kind in laws} - {"Distribution", "TorchDistribution", "TorchDistributionMixin"}


def words(node):
    """The names and the string constants in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name | ast.Attribute):
            yield each.id if isinstance(each, ast.Name) else each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def tells_class(node, laws):
    """Whether an expression tells classes of distributions apart: by class, or by the name of a class."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("isinstance", "issubclass") and bool(set(words(node.args[1])) & laws)
    if isinstance(node, ast.MatchClass):
        return bool(set(words(node.cls)) & laws)
    if not isinstance(node, ast.Compare):
        return False
    sides = (node.left, *node.comparators)
    of_class = any(isinstance(side, ast.Name | ast.Attribute) and set(words(side)) & laws for side in sides)
    named = (isinstance(side, ast.Attribute) and side.attr in ("__name__", "__qualname__") for side in sides)
    strings = (each for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant))
    return of_class or (any(named) and any(isinstance(each.value, str) for each in strings))


def tells_spelling(node):
    """Whether an expression tests how the name of a site or a predictor is spelled."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        tests = node.func.attr in ("startswith", "endswith", "removeprefix", "removesuffix")
        return tests and bool(set(words(node.args[0])) & SPELLINGS)
    if isinstance(node, ast.Compare):
        return isinstance(node.left, ast.Constant) and node.left.value in SPELLINGS
    return False


def looks(inside, laws, file=""):
    """The lines of some nodes at which classes of distributions or spellings of names are told apart."""
    for node in inside:
        known = isinstance(node, ast.Compare) and any((file, word) in KINDS_OF_OTHERS for word in words(node))
        if not known and not file.startswith(RECORDS) and tells_class(node, laws):
            yield node.lineno
        if file not in NAMES and tells_spelling(node):
            yield node.lineno


def test_classes_and_spellings_are_told_apart_in_the_records_alone():
    """A response written with another class, or with other names, takes the same road."""
    found = {
        f"{file.relative_to(SOURCE).as_posix()}:{line}"
        for file, inside in nodes().items()
        for line in looks(inside, laws(), file.relative_to(SOURCE).as_posix())
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(fn, dist.Laplace)",
        "issubclass(objective.family, Ordered | Categorical)",
        "type(fn) is Normal",
        "response.family is not Normal",
        'type(handler).__name__ in ("_Flat", "_WithPriors")',
        'kind.__name__ == "Normal"',
        'site.endswith("_cholesky")',
        'name.startswith("log_")',
        '"variance" in name',
        "match fn:\n    case dist.Normal():\n        pass",
    ],
)
def test_each_way_to_tell_classes_apart_is_found(source):
    assert list(looks(ast.walk(ast.parse(source)), laws())) != []
    other = "isinstance(x, Tensor) and name == site.name and kind.__name__ == name"
    assert list(looks(ast.walk(ast.parse(other)), laws())) == []


def test_solvers_know_no_site():
    for file in (SOURCE / "solvers").glob("*.py"):
        assert "pyro.sample" not in file.read_text(encoding="utf-8"), file


def test_nothing_is_pickled_or_evaluated():
    for file, inside in nodes().items():
        calls = {
            node.func.id for node in inside if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
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
    "name",
    [
        "errors",
        "models",
        "handlers",
        "fitting.fit",
        "fitting.estimates",
        "prediction.predictions",
        "solvers",
        "losses",
    ],
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
mle(models.laplace, torch.arange(6.0).numpy()[:, None], torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0, 1.0]).numpy())
assert not imported("pandas")

from neglog import mle_batch, losses, posterior, priors_for, scores, spool, summary, to_arviz
heavy = imported("matplotlib", "arviz", "formulaic", "typer", "sklearn")
assert not heavy, heavy
check_nothing_changed()
neglog.errors.NeglogError, neglog.export.save
"""


FIRST = """
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


PICTURES = """
import neglog.plots
assert not imported("matplotlib.pyplot"), "pictures leave the global state of pyplot alone"
"""


def test_importing_is_light_and_changes_nothing():
    """Names are imported when they are used, fits of arrays do not import pandas, and no fit imports SymPy.

    SymPy takes a quarter of a second, and `torch.broadcast_shapes` imports it. Torch's own Weibull and
    MultivariateNormal call that, and `ordinal` is traced by torch's compiler.
    """
    program = LIGHT + FIRST + PICTURES  # in one process, as starting one is most of the cost
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)


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
