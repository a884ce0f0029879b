"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What `__init__.pyi` names, imported when it is first used: `neglog --help` does not wait for torch."""
    import lazy_loader  # on first use too: the command line handles interrupts before anything slow

    find, listed, names = lazy_loader.attach_stub(__name__, __file__)
    globals().update(__getattr__=find, __dir__=listed, __all__=names)
    return names if name == "__all__" else find(name)


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))
