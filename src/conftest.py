"""Documented examples are collected from the modules that have some; to search the others takes a while."""

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether a module has no documented examples."""
    is_bare = collection_path.suffix == ".py" and ">>>" not in collection_path.read_text(encoding="utf-8")
    return True if is_bare else None
