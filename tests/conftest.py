"""What every test shares: the same examples on every run, and no clock that a slow machine could trip."""

from hypothesis import settings

settings.register_profile("neglog", deadline=None, derandomize=True, database=None)
settings.load_profile("neglog")
