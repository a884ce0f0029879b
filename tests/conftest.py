"""What every test shares: the same examples on every run, and no clock that a slow machine could trip."""

import gc

import pyro
import pytest
import torch
from hypothesis import settings

settings.register_profile("neglog", deadline=None, derandomize=True, database=None)
settings.load_profile("neglog")


def pytest_collection_finish():
    """Imported modules and collected tests stay until the end: the garbage collector need not visit them.

    What the tests keep, such as fits that they share, stays as well: it is visited seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


@pytest.fixture
def seeded():
    """Raw Pyro draws from torch's generator and writes to the global parameter store: start both afresh."""
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()
