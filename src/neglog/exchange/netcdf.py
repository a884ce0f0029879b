"""ArviZ's data structure → a NetCDF file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neglog.arguments import as_path
from neglog.calls import public
from neglog.errors import DataError
from neglog.tables import replacing

ENGINES = {"h5netcdf": ("h5netcdf", "h5py"), "netcdf4": ("netCDF4",)}
"""Name in xarray of what writes NetCDF -> the libraries it needs, in the order of preference."""


@public
def write_netcdf(found: Any, path: str | Path) -> Path:
    """Write what `to_arviz` returns into a NetCDF file, which `arviz.from_netcdf` reads.

    Both an `InferenceData` of ArviZ before 1.0 and an `xarray.DataTree` since are written.

    Raises:
        DataError: as `check_netcdf`.
        OSError: the file cannot be written; a former one is as before.
    """
    path = as_path("path", path)
    engine = check_netcdf(path)
    if not hasattr(found, "to_netcdf"):
        raise DataError(f"`found` must be the result of to_arviz; it is {type(found).__name__}.")
    with replacing(path) as temporary:
        found.to_netcdf(str(temporary), engine=engine)
    return path


@public
def check_netcdf(path: Path) -> str:
    """The library of xarray that writes NetCDF.

    Raises:
        DataError: none is installed, or the path does not end in .nc.
    """
    if path.suffix.lower() != ".nc":
        raise DataError(f"a posterior is written as NetCDF, and not as `{path}`. End its name in .nc.")
    for engine, needed in ENGINES.items():
        if all(find_spec(module) is not None for module in needed):
            return engine
    raise DataError(f"writing `{path}` needs h5netcdf: pip install 'neglog[netcdf]'.")
