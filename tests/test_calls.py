"""Calls of public functions and classes that do not fit the signature are errors that name the argument."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import test_signatures
import torch

import neglog
from neglog import flat, losses, masked, models
from neglog.calls import public
from neglog.errors import ModelError, did_you_mean

PAGES = [*(Path(__file__).parent.parent / "docs").glob("*.md"), Path(__file__).parent.parent / "README.md"]
BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def public_modules():
    """The modules among the public names, and those from which the documentation imports."""
    imported = {name for page in PAGES for name in re.findall(r"from (neglog\.\w+)", page.read_text("utf-8"))}
    names = {f"neglog.{name}" for name in neglog.__all__ if inspect.ismodule(getattr(neglog, name))}
    return [neglog, *map(importlib.import_module, sorted(names | imported))]


def public_names(module):
    own = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def methods_of(cls):
    """The constructor and the public methods that a class of neglog defines, as unbound functions."""
    for name, value in vars(cls).items():
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and (not name.startswith("_") or name in ("__init__", "__call__")):
            yield f"{cls.__name__}.{name}", function


def public_callables():
    """Name -> function, for every public function and for the methods of every public class."""
    found = {}
    for module in public_modules():
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.isclass(value):
                if not issubclass(value, Exception) and not getattr(value, "_is_protocol", False):
                    found |= dict(methods_of(value))
            elif callable(value) and value.__module__.startswith("neglog"):
                found[f"{module.__name__}.{name}"] = value
    return found


CALLABLES = public_callables()
OPEN = {
    "from_pyro": "keywords of the model",
    "row_supports": "keywords of the model",
    "sized": "keywords of the model",
    "likelihood_of": "the constants of a loss, see test_an_unknown_constant_of_a_loss_is_named",
    "loss_of": "the constants of a loss, see test_an_unknown_constant_of_a_loss_is_named",
    "forward": "the scales of a loss, see test_dictionary.test_calls_that_do_not_fit_are_refused",
    "fit_json": "entries of the object that is written",
    "comparison_json": "entries of the object that is written",
    "posterior_json": "entries of the object that is written",
}
"""Functions that take any keyword, and what the keywords name."""
ITSELF = ("self", "cls")


def network():
    x, y, exposure = test_signatures.X, test_signatures.COUNTS, test_signatures.EXPOSURE
    model = neglog.on_features(models.poisson, torch.nn.Linear(2, 1).double())
    return neglog.laplace_approximation(neglog.map_estimate(model, x, y, exposure=exposure))


HANDED_ON = {
    "summary": (lambda **k: neglog.summary(test_signatures.FIT, **k), "levels", "level"),
    "wald_test": (lambda **k: neglog.wald_test(test_signatures.FIT, "x0 = 0", **k), "group", "groups"),
    "Optimiser": (lambda **k: neglog.solvers.Optimiser(torch.optim.SGD, **k), "moment", "momentum"),
    "linearised": (lambda **k: network().linearised(test_signatures.X, **k), "exposures", "exposure"),
}
"""Functions whose keywords are those of another function or of the model: call, unknown, nearest."""


def parameters_of(function):
    return [each for each in inspect.signature(function).parameters.values() if each.name not in ITSELF]


def placed(function, count=0):
    """As many arguments by position, behind the object that a method belongs to."""
    takes_itself = next(iter(inspect.signature(function).parameters), "") in ITSELF
    return [None] * (takes_itself + count)


def takes(function, kind):
    return any(each.kind is kind for each in parameters_of(function))


def test_the_walk_finds_functions_methods_and_constructors():
    assert {"neglog.mle", "neglog.flat", "Fit.terms", "LassoPath.model_at", "Newton.__init__"} <= set(
        CALLABLES
    )
    assert {"neglog.losses.mse", "neglog.predictors.linear", "neglog.plots.write"} <= set(CALLABLES)
    assert {"neglog.datasets.load", "neglog.reports.fit_table", "neglog.models.ordinal"} <= set(CALLABLES)


@pytest.mark.parametrize("name", CALLABLES)
def test_a_call_that_does_not_fit_is_an_error_of_neglog(name):
    function = CALLABLES[name]
    check_unknown_keywords(function)
    check_a_missing_argument(function)
    check_one_argument_too_many(function)


def check_unknown_keywords(function):
    if takes(function, inspect.Parameter.VAR_KEYWORD):
        return  # the names are those of the model, of the table or of sites: see below
    with pytest.raises(ModelError, match="takes no `zzzz`"):
        function(*placed(function), zzzz=1)
    for each in parameters_of(function):
        if each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            unknown = f"{each.name}_"
            with pytest.raises(ModelError, match=f"takes no `{unknown}`. Did you mean `{each.name}`"):
                function(*placed(function), **{unknown: 1})


def test_functions_of_any_keyword_refuse_unknown_ones_themselves():
    loose = {
        name.removesuffix(".__init__").rpartition(".")[2]
        for name, function in CALLABLES.items()
        if takes(function, inspect.Parameter.VAR_KEYWORD)
    }
    assert loose - set(test_signatures.UNKNOWN) == {*OPEN, *HANDED_ON}


@pytest.mark.parametrize("name", HANDED_ON)
def test_keywords_that_are_handed_on_are_verified_first(name):
    call, unknown, near = HANDED_ON[name]
    with pytest.raises(ModelError, match=f"`{name}` takes no `{unknown}`.*Did you mean `{near}`"):
        call(**{unknown: 1.0})


def test_an_unknown_constant_of_a_loss_is_named():
    with pytest.raises(ModelError, match=r"'sigm'.*Did you mean 'sigma'"):
        losses.loss_of(models.gaussian, sigm=1.0)
    with pytest.raises(ModelError, match="'huber' needs delta; given are delt"):
        losses.likelihood_of("huber", delt=1.0)
    with pytest.raises(ModelError, match=r"'hubr'.*Did you mean 'huber'"):
        losses.likelihood_of("hubr")


def check_a_missing_argument(function):
    required = [
        each
        for each in parameters_of(function)
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if required:
        with pytest.raises(ModelError, match=f"needs .*`{required[0].name}`"):
            function(*placed(function))


def check_one_argument_too_many(function):
    if takes(function, inspect.Parameter.VAR_POSITIONAL):
        return
    most = sum(each.kind in BY_POSITION for each in parameters_of(function))
    with pytest.raises(ModelError, match=f"at most {most} arguments? by position; it was given {most + 1}"):
        function(*placed(function, most + 1))


def test_an_argument_given_twice_is_named():
    with pytest.raises(ModelError, match="`mse` was given `target` twice"):
        losses.mse(torch.zeros(2), torch.zeros(2), target=torch.zeros(2))


def test_errors_from_inside_a_public_function_are_left_as_they_are():
    @public
    def inner(x):
        return x + None

    def model(x, y=None):
        return len(3)

    with pytest.raises(TypeError, match="unsupported operand"):
        inner(1)
    with pytest.raises(TypeError, match="has no len"):
        flat(masked(model))(torch.zeros(2, 1))


def test_public_functions_keep_their_name_and_signature():
    assert models.gaussian.__name__ == "gaussian"
    assert list(inspect.signature(models.huber).parameters) == ["x", "y", "delta"]


def test_the_nearest_name_is_found_in_upper_and_lower_case_and_by_its_beginning():
    assert did_you_mean("Wald", ["wald", "profile"]) == " Did you mean 'wald'?"
    assert did_you_mean("inc", ["income", "food"], "`{}`") == " Did you mean `income`?"
    assert did_you_mean(["incme", "fod"], ["income", "food"], "`{}`") == " Did you mean `income`, `food`?"
    assert did_you_mean("", ["income"]) == did_you_mean("zzz", ["income"]) == ""
