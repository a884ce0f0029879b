"""What every test shares: the same examples on every run, and no clock that a slow machine could trip."""

import gc

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings

gc.disable()  # until all is collected: see below

settings.register_profile("neglog", deadline=None, derandomize=True, database=None)
settings.load_profile("neglog")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Documented examples are those of the package; searching the tests for some takes a while."""
    found = yield
    return [each for each in found if not isinstance(each, DoctestModule)]


def pytest_collection_finish():
    """Imported modules and collected tests stay until the end: the garbage collector need not visit them.

    What the tests keep, such as fits that they share, stays as well: it is visited seldom.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


@pytest.fixture
def seeded():
    """Raw Pyro draws from torch's generator and writes to the global parameter store: start both afresh."""
    import pyro  # here, so that the process that hands out the tests does without
    import torch

    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()
