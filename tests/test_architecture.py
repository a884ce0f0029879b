"""The structure, held true: imports go one way, and importing costs and changes nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neglog

SOURCE = Path(neglog.__file__).parent

# Each module and those it may import, package by package; the order is the order of the picture in
# docs/design.md. A package with a set in the place of modules is one thing: what others may ask of it, its
# `__init__` hands on. The name `__init__` is neglog itself.
MAY_IMPORT = {
    "errors": set(),
    "arguments": {"errors"},
    "isolation": {"errors"},
    "conversion": {"arguments", "errors"},
    "losses": {"arguments", "errors"},
    "datasets": {"arguments", "errors"},
    "distributions": {"errors"},
    "layers": {"errors"},
    "predictors": {"arguments", "errors", "isolation"},
    "beginnings": {"predictors"},
    "models": {"arguments", "beginnings", "distributions", "errors", "layers", "predictors"},
    "observation": {"arguments", "distributions", "errors", "predictors"},
    "modes": set(),
    "site_priors": {"arguments", "distributions", "errors", "isolation"},
    "handlers": {
        "arguments",
        "conversion",
        "errors",
        "isolation",
        "layers",
        "modes",
        "observation",
        "predictors",
        "site_priors",
    },
    "guides": set(),
    "kinks": {"distributions", "errors", "handlers"},
    "alignment": {"errors"},
    "intercepts": {"conversion"},
    "magnitudes": {"errors"},
    "data": {
        "alignment",
        "conversion",
        "distributions",
        "errors",
        "intercepts",
        "magnitudes",
        "predictors",
    },
    "spooled": {
        "alignment",
        "arguments",
        "conversion",
        "data",
        "errors",
        "intercepts",
        "isolation",
        "predictors",
    },
    "solvers": {"arguments", "errors", "guides"},
    "wellformed": {"errors", "handlers", "layers", "predictors"},
    "tracing": {
        "data",
        "distributions",
        "errors",
        "handlers",
        "isolation",
        "layers",
        "modes",
        "predictors",
        "wellformed",
    },
    "signatures": {"arguments", "data", "errors", "handlers", "layers", "tracing"},
    "dictionary": {
        "arguments",
        "distributions",
        "errors",
        "isolation",
        "layers",
        "losses",
        "models",
        "predictors",
        "tracing",
    },
    "graphs": {
        "recording": set(),
        "arrays": set(),
        "programs": set(),
        "nodes": set(),
        "cleaning": {"graphs.arrays", "graphs.nodes", "graphs.recording"},
        "graph": {"errors", "graphs.cleaning", "graphs.recording"},
        "staged": {"graphs.arrays", "graphs.programs"},
    },
    "objective": {
        "sites": {"errors", "handlers", "predictors", "tracing"},
        "hierarchy": {"distributions", "tracing"},
        "ranges": {"objective.sites"},
        "cuts": {
            "data",
            "handlers",
            "objective.hierarchy",
            "objective.sites",
            "predictors",
            "tracing",
        },
        "rowwise": {
            "data",
            "graphs.graph",
            "graphs.staged",
            "handlers",
            "layers",
            "objective.cuts",
            "objective.sites",
            "tracing",
        },
        "spread": {"data", "distributions", "errors"},
        "products": set(),
        "basis": {"objective.products"},
        "units": set(),
        "structure": {"distributions", "objective.cuts", "predictors"},
        "objective": {
            "data",
            "distributions",
            "errors",
            "handlers",
            "kinks",
            "layers",
            "modes",
            "objective.basis",
            "objective.cuts",
            "objective.rowwise",
            "objective.sites",
            "objective.spread",
            "objective.units",
            "objective.structure",
            "predictors",
            "tracing",
        },
        "links": {"distributions", "handlers", "objective.objective"},
        "pits": {"distributions", "errors", "objective.objective", "predictors"},
        "replay": {"graphs.graph"},
        "normals": {"distributions", "objective.objective"},
        "shrinkage": {
            "graphs.staged",
            "objective.hierarchy",
            "objective.normals",
            "objective.objective",
            "objective.replay",
            "tracing",
        },
        "blocks": {
            "distributions",
            "errors",
            "magnitudes",
            "objective.basis",
            "objective.cuts",
            "objective.objective",
            "objective.rowwise",
            "predictors",
            "tracing",
        },
        "literal": {"handlers", "objective.blocks"},
        "sums": {"objective.basis", "objective.blocks", "objective.rowwise"},
        "coordinates": {
            "distributions",
            "handlers",
            "kinks",
            "objective.basis",
            "objective.blocks",
            "objective.literal",
            "objective.objective",
            "objective.pits",
            "objective.rowwise",
            "objective.shrinkage",
            "objective.spread",
            "objective.sums",
            "predictors",
        },
        "quadratic": {"objective.coordinates", "objective.normals"},
        "lowered": {
            "handlers",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "objective.quadratic",
            "objective.replay",
            "predictors",
            "tracing",
        },
        "training": {
            "handlers",
            "modes",
            "objective.coordinates",
            "objective.lowered",
            "objective.objective",
            "objective.replay",
            "tracing",
        },
    },
    "projection": {
        "headed": {"errors", "objective.objective", "objective.sites", "predictors", "tracing"},
        "learned": {
            "graphs.graph",
            "objective.objective",
            "objective.replay",
            "objective.rowwise",
            "projection.headed",
            "tracing",
        },
        "nested": {
            "errors",
            "objective.cuts",
            "objective.objective",
            "objective.rowwise",
            "objective.shrinkage",
            "projection.headed",
            "solvers",
        },
        "projected": {
            "errors",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "projection.headed",
            "projection.learned",
            "projection.nested",
        },
    },
    "fitting": {
        "least_squares": {
            "distributions",
            "objective.basis",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "objective.quadratic",
            "predictors",
            "tracing",
        },
        "medians": {"kinks", "objective.objective", "predictors", "tracing"},
        "start": {
            "errors",
            "fitting.least_squares",
            "fitting.medians",
            "objective.objective",
            "objective.rowwise",
            "solvers",
        },
        "prior_units": {"errors", "objective.objective", "objective.units"},
        "joint_mode": {
            "errors",
            "objective.cuts",
            "objective.hierarchy",
            "objective.objective",
            "objective.sites",
            "predictors",
            "tracing",
            "wellformed",
        },
        "existence": {
            "distributions",
            "errors",
            "objective.coordinates",
            "objective.objective",
            "objective.spread",
        },
        "marked": {"errors", "objective.objective", "tracing"},
        "limits": {
            "distributions",
            "errors",
            "kinks",
            "objective.coordinates",
            "objective.objective",
            "solvers",
        },
        "curvature": {"objective.coordinates", "objective.objective", "predictors", "tracing"},
        "parabola": {
            "fitting.least_squares",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "objective.quadratic",
            "predictors",
            "tracing",
        },
        "penalised": {
            "distributions",
            "fitting.parabola",
            "handlers",
            "kinks",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "solvers",
        },
        "pinball": {
            "fitting.medians",
            "kinks",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "predictors",
            "solvers",
            "tracing",
        },
        "separation": {
            "distributions",
            "fitting.existence",
            "fitting.limits",
            "objective.coordinates",
            "objective.objective",
        },
        "ties": {"distributions", "errors", "objective.objective", "objective.pits", "solvers"},
        "elsewhere": {
            "beginnings",
            "errors",
            "isolation",
            "layers",
            "objective.coordinates",
            "objective.objective",
        },
        "refinement": {"distributions", "objective.blocks", "objective.coordinates", "predictors"},
        "offsets": {
            "distributions",
            "fitting.refinement",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "predictors",
            "tracing",
        },
        "cancellation": {
            "errors",
            "objective.blocks",
            "objective.coordinates",
            "objective.spread",
            "tracing",
        },
        "choice": {
            "errors",
            "fitting.curvature",
            "fitting.penalised",
            "fitting.pinball",
            "objective.coordinates",
            "objective.lowered",
            "objective.training",
            "projection.projected",
            "solvers",
        },
        "fit": {
            "arguments",
            "conversion",
            "data",
            "errors",
            "fitting.cancellation",
            "fitting.choice",
            "fitting.elsewhere",
            "fitting.existence",
            "fitting.joint_mode",
            "fitting.least_squares",
            "fitting.limits",
            "fitting.marked",
            "fitting.offsets",
            "fitting.penalised",
            "fitting.prior_units",
            "fitting.refinement",
            "fitting.separation",
            "fitting.start",
            "fitting.ties",
            "guides",
            "handlers",
            "isolation",
            "layers",
            "objective.coordinates",
            "objective.objective",
            "objective.spread",
            "objective.training",
            "predictors",
            "signatures",
            "solvers",
            "tracing",
        },
        "lasso": {
            "arguments",
            "conversion",
            "data",
            "errors",
            "fitting.existence",
            "fitting.fit",
            "fitting.joint_mode",
            "fitting.parabola",
            "fitting.penalised",
            "fitting.prior_units",
            "fitting.start",
            "handlers",
            "isolation",
            "kinks",
            "objective.coordinates",
            "objective.objective",
            "signatures",
            "solvers",
            "tracing",
        },
        "quantiles": {
            "arguments",
            "conversion",
            "errors",
            "fitting.fit",
            "handlers",
            "isolation",
            "models",
            "solvers",
        },
    },
    "batches": {
        "stack": {
            "alignment",
            "conversion",
            "data",
            "errors",
            "intercepts",
            "magnitudes",
            "predictors",
        },
        "likelihoods": {
            "batches.stack",
            "data",
            "handlers",
            "objective.objective",
            "objective.spread",
            "predictors",
            "solvers",
            "tracing",
        },
        "layout": {
            "batches.likelihoods",
            "batches.stack",
            "data",
            "distributions",
            "errors",
            "handlers",
            "kinks",
            "objective.blocks",
            "objective.objective",
            "objective.structure",
            "predictors",
            "tracing",
        },
        "whitening": {"batches.likelihoods"},
        "normal_equations": {"batches.likelihoods"},
        "replayed": {"batches.likelihoods", "data", "objective.objective", "objective.rowwise"},
        "precision": {
            "batches.layout",
            "batches.likelihoods",
            "batches.whitening",
            "kinks",
            "objective.objective",
            "objective.ranges",
            "objective.sites",
            "predictors",
        },
        "existence": {
            "batches.layout",
            "batches.likelihoods",
            "batches.stack",
            "batches.whitening",
            "errors",
            "fitting.existence",
            "fitting.marked",
            "objective.objective",
            "solvers",
        },
        "batch": {
            "arguments",
            "batches.existence",
            "batches.layout",
            "batches.likelihoods",
            "batches.normal_equations",
            "batches.precision",
            "batches.replayed",
            "batches.stack",
            "batches.whitening",
            "conversion",
            "errors",
            "fitting.marked",
            "fitting.start",
            "handlers",
            "isolation",
            "layers",
            "objective.coordinates",
            "objective.objective",
            "predictors",
            "signatures",
            "solvers",
            "tracing",
        },
    },
    "studies": {"arguments", "batches.batch", "errors", "handlers", "isolation", "models", "tracing"},
    "labels": {
        "fitting.fit",
        "isolation",
        "layers",
        "objective.objective",
        "objective.ranges",
        "objective.sites",
    },
    "uncertainty": {
        "information": {
            "data",
            "errors",
            "fitting.choice",
            "fitting.existence",
            "fitting.fit",
            "labels",
            "objective.basis",
            "objective.blocks",
            "objective.coordinates",
            "objective.objective",
            "predictors",
            "solvers",
            "tracing",
        },
        "bootstrap": {
            "arguments",
            "batches.batch",
            "batches.stack",
            "conversion",
            "data",
            "errors",
            "fitting.fit",
            "isolation",
            "labels",
            "objective.objective",
            "objective.ranges",
            "predictors",
            "solvers",
            "tracing",
            "uncertainty.information",
        },
        "fisher": {
            "distributions",
            "errors",
            "objective.coordinates",
            "predictors",
            "uncertainty.information",
        },
        "sparsity": {"errors", "fitting.pinball", "objective.coordinates"},
        "covariances": {
            "arguments",
            "conversion",
            "errors",
            "fitting.fit",
            "isolation",
            "labels",
            "objective.coordinates",
            "predictors",
            "uncertainty.bootstrap",
            "uncertainty.fisher",
            "uncertainty.information",
            "uncertainty.sparsity",
        },
        "profiles": {"errors", "objective.coordinates", "solvers"},
        "summaries": {
            "arguments",
            "batches.precision",
            "errors",
            "fitting.fit",
            "isolation",
            "labels",
            "objective.coordinates",
            "objective.objective",
            "objective.ranges",
            "objective.sites",
            "uncertainty.covariances",
            "uncertainty.information",
            "uncertainty.profiles",
        },
        "constraints": {"errors"},
        "hypotheses": {
            "arguments",
            "data",
            "distributions",
            "errors",
            "fitting.fit",
            "isolation",
            "labels",
            "objective.coordinates",
            "objective.objective",
            "predictors",
            "spooled",
            "uncertainty.constraints",
            "uncertainty.covariances",
            "uncertainty.fisher",
            "uncertainty.information",
        },
        "ranking": {"errors", "fitting.fit", "isolation", "uncertainty.hypotheses"},
    },
    "bayes": {
        "priors": {
            "data",
            "distributions",
            "errors",
            "handlers",
            "isolation",
            "objective.links",
            "objective.objective",
            "signatures",
            "tracing",
        },
        "density": {"fitting.start", "objective.coordinates", "objective.lowered", "objective.objective"},
        "diagnostics": set(),
        "nuts": {"bayes.density", "errors", "isolation"},
        "approximations": {
            "bayes.density",
            "errors",
            "fitting.choice",
            "fitting.fit",
            "objective.lowered",
            "objective.objective",
            "solvers",
            "uncertainty.covariances",
            "uncertainty.information",
        },
        "posterior": {
            "arguments",
            "bayes.approximations",
            "bayes.density",
            "bayes.diagnostics",
            "bayes.nuts",
            "data",
            "errors",
            "fitting.fit",
            "fitting.joint_mode",
            "fitting.prior_units",
            "handlers",
            "isolation",
            "objective.objective",
            "signatures",
            "tracing",
            "uncertainty.covariances",
        },
    },
    "prediction": {
        "predict": {
            "alignment",
            "arguments",
            "bayes.posterior",
            "data",
            "distributions",
            "errors",
            "fitting.fit",
            "handlers",
            "isolation",
            "layers",
            "predictors",
            "signatures",
            "tracing",
            "uncertainty.covariances",
        },
        "intervals": {
            "arguments",
            "bayes.posterior",
            "data",
            "distributions",
            "errors",
            "fitting.fit",
            "isolation",
            "prediction.predict",
            "predictors",
            "tracing",
            "uncertainty.covariances",
        },
        "crps": {"distributions", "errors"},
        "scores": {
            "arguments",
            "bayes.posterior",
            "data",
            "distributions",
            "errors",
            "fitting.fit",
            "isolation",
            "prediction.crps",
            "prediction.predict",
            "signatures",
            "tracing",
            "uncertainty.covariances",
        },
        "predictive": {
            "arguments",
            "bayes.posterior",
            "data",
            "errors",
            "handlers",
            "isolation",
            "objective.objective",
            "objective.replay",
            "prediction.predict",
            "predictors",
            "signatures",
            "tracing",
            "wellformed",
        },
    },
    "validation": {
        "arguments",
        "conversion",
        "data",
        "distributions",
        "errors",
        "fitting.fit",
        "handlers",
        "isolation",
        "prediction.predict",
        "prediction.scores",
        "signatures",
        "tracing",
    },
    "networks": {
        "network": {
            "errors",
            "fitting.fit",
            "modes",
            "objective.objective",
            "predictors",
            "tracing",
            "uncertainty.fisher",
            "uncertainty.information",
        },
        "structures": {"errors", "networks.network", "solvers"},
        "laplace": {
            "arguments",
            "distributions",
            "errors",
            "fitting.fit",
            "isolation",
            "networks.network",
            "networks.structures",
            "prediction.predict",
            "predictors",
            "tracing",
        },
    },
    "exchange": {
        "inference_data": {
            "arguments",
            "bayes.posterior",
            "conversion",
            "errors",
            "fitting.fit",
            "isolation",
            "objective.objective",
            "prediction.predictive",
            "predictors",
        },
        "pyro_samples": {"arguments", "conversion", "errors", "exchange.inference_data", "isolation"},
    },
    "__init__": {
        "batches.batch",
        "bayes.posterior",
        "bayes.priors",
        "exchange.inference_data",
        "exchange.pyro_samples",
        "fitting.fit",
        "fitting.lasso",
        "fitting.quantiles",
        "handlers",
        "losses",
        "models",
        "networks.laplace",
        "prediction.intervals",
        "prediction.predict",
        "prediction.predictive",
        "prediction.scores",
        "spooled",
        "uncertainty.bootstrap",
        "uncertainty.covariances",
        "uncertainty.hypotheses",
        "uncertainty.ranking",
        "uncertainty.summaries",
    },
    "tables": {"errors"},
    "formula": {"errors", "intercepts", "tables"},
    "comparison": {
        "errors",
        "fitting.fit",
        "formula",
        "handlers",
        "isolation",
        "losses",
        "models",
        "tracing",
        "uncertainty.ranking",
        "validation",
    },
    "reports": {"arguments", "comparison", "errors", "fitting.fit"},
    "export": {
        "__init__",
        "data",
        "errors",
        "fitting.fit",
        "formula",
        "handlers",
        "isolation",
        "layers",
        "models",
        "predictors",
        "tracing",
    },
    "plots": {
        "arguments",
        "comparison",
        "data",
        "errors",
        "fitting.fit",
        "formula",
        "isolation",
        "prediction.predict",
    },
    "usage": set(),
    "cli": {
        "__init__",
        "comparison",
        "errors",
        "export",
        "formula",
        "plots",
        "reports",
        "tables",
        "usage",
    },
}
HANDS_ON = {"losses": {"dictionary"}}
"""Names that a module hands on when they are asked for, and does not import: `losses.likelihood_of`."""
OUTSIDE = {"cli", "comparison", "export", "formula", "plots", "reports", "tables", "usage"}
"""The command line and what serves it."""
PACKAGES = {name: inside for name, inside in MAY_IMPORT.items() if isinstance(inside, dict)}
MODULES = {name: allowed for name, allowed in MAY_IMPORT.items() if name not in PACKAGES} | {
    f"{package}.{name}": allowed for package, inside in PACKAGES.items() for name, allowed in inside.items()
}


def files(name):
    """The files of a module, or of a package that is one thing."""
    path = SOURCE.joinpath(*name.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def modules(path, names):
    """The modules that ``from path import names`` takes of neglog, as the table has them."""
    first, *parts = path.split(".")
    if first != "neglog":
        return set()
    if not parts:
        return {name if name in MAY_IMPORT else "__init__" for name in names}
    if parts[0] not in PACKAGES:
        return {parts[0]}
    return {".".join(parts[:2])} if len(parts) > 1 else {f"{parts[0]}.{name}" for name in names}


def imports(name):
    """The modules of neglog that a module or a package imports, in or out of functions."""
    found = set()
    for file in files(name):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                found |= modules(node.module, [alias.name for alias in node.names])
            elif isinstance(node, ast.Import):
                found |= {m for alias in node.names for m in modules(alias.name, ["*"])}
    return found - {name}


def test_every_module_has_its_place():
    inside = {f"{package}.{file.stem}" for package in PACKAGES for file in (SOURCE / package).rglob("*.py")}
    top = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert top == set(MAY_IMPORT)
    assert inside - {f"{package}.__init__" for package in PACKAGES} == set(MODULES) - set(MAY_IMPORT)


def test_the_picture_is_the_table():
    """docs/design.md says of each module what it is for, in the order of the table."""
    document = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8")
    lines = document.split("```text\n")[1].split("```")[0].splitlines()
    found = [re.match(r"( *\S+) +\S", line)[1] for line in lines]
    expected = []
    for name in MAY_IMPORT:
        expected += [name, *(f"  {module}" for module in PACKAGES[name])] if name in PACKAGES else [name]
    assert found == expected


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    assert imports(name) - HANDS_ON.get(name, set()) <= MODULES[name]


def test_what_is_handed_on_is_not_imported():
    """Such an import stands under TYPE_CHECKING alone: the module itself does without."""
    for name, above in HANDS_ON.items():
        names = {f"neglog.{module}" for module in above}
        for file in files(name):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                found = {n.module for n in ast.walk(node) if isinstance(n, ast.ImportFrom)}
                assert typing or not found & names, file


def test_packages_hand_nothing_on():
    """A name has one place, and what is imported is what is used."""
    for package in PACKAGES:
        tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), package
        assert len(tree.body) == 1, package


def test_the_core_never_imports_what_stands_above_it():
    for name in MODULES.keys() - OUTSIDE:
        assert not imports(name) & {"__init__", *OUTSIDE}, name


def test_the_order_of_the_picture_has_no_cycle():
    """Nor has that of the packages, whose modules stand together."""
    seen = set()
    for package in MAY_IMPORT:
        for name in [f"{package}.{module}" for module in PACKAGES.get(package, ())] or [package]:
            assert MODULES[name] <= seen, name
            seen.add(name)


@pytest.mark.parametrize("name", ["models", "predictors", "losses"])
def test_models_and_losses_stand_alone(name):
    assert {module.split(".")[0] for module in imports(name)}.isdisjoint({"solvers", "objective", "fitting"})


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


@pytest.mark.parametrize(
    "name", ["errors", "models", "handlers", "fitting.fit", "prediction.predict", "solvers", "losses"]
)
def test_public_functions_have_docstrings(name):
    for file in files(name):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file.name}: {node.name}"


LIGHT = """
import sys, warnings, torch, pyro
filters, dtype = list(warnings.filters), torch.get_default_dtype()
validating = torch.distributions.Distribution._validate_args
from neglog import mle, mle_batch, models, losses, posterior, priors_for, scores, spool, summary, to_arviz
heavy = {"matplotlib", "arviz", "formulaic", "typer", "sklearn"} & set(sys.modules)
assert not heavy, heavy
assert filters == list(warnings.filters)
assert dtype == torch.get_default_dtype()
assert validating == torch.distributions.Distribution._validate_args
assert not list(pyro.get_param_store().keys())
"""


LAZY = """
import sys
import neglog
heavy = {"torch", "pyro", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert set(neglog.__all__) <= set(dir(neglog))
neglog.mle, neglog.errors.NeglogError, neglog.export.save
try:
    neglog.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
"""


def test_names_are_imported_when_they_are_used():
    subprocess.run([sys.executable, "-c", LAZY], check=True)


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
