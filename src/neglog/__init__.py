"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from typing import Any

from neglog.persistence import Reduced, written_by

__version__ = "0.1.0"

FORMER = {"quantiles": "quantile_process"}
"""Former name of a function -> its current name."""
EXTRAS = ("estimators",)
"""Packages that need others to be installed: attributes of neglog, and none of its `__all__`."""


def _reduced(value: Any) -> Reduced:
    """A fit or a posterior as the document that pickle writes."""
    from neglog.export.pickled import reduced

    return reduced(value)


written_by(_reduced)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `neglog --help` does not wait for torch."""
    import lazy_loader  # on first use too: the command line handles interrupts before anything slow

    attached, listed, names = lazy_loader.attach_stub(__name__, __file__)

    def find(name: str) -> Any:
        if name in FORMER:
            from neglog.aliases import former_function

            return former_function(name, attached(FORMER[name]))
        if name in EXTRAS:
            from importlib import import_module

            return import_module(f"{__name__}.{name}")
        return attached(name)

    globals().update(__getattr__=find, __dir__=listed, __all__=names)
    return names if name == "__all__" else find(name)


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))
