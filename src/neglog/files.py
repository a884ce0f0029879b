"""Files: read whole and of bounded size, and replaced by one rename, so that no reader sees half of one.

A file is written under a random temporary name, opened exclusively, synchronised to the disk
and renamed. A process that is killed leaves the old file or the new one, and perhaps a temporary one, which
the next save removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path

from neglog.errors import DataError

if sys.platform != "win32":
    import fcntl

MAX_BYTES = 2**28
"""The largest file that is read or written, in bytes: about ten million estimates."""

ATTEMPTS = 10
"""How often a file is written again when another process has removed its temporary one."""

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.new")
_REGULAR = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags that keep the opening of a named pipe from waiting, and Windows from changing line ends."""


def read(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file, all of it from one state of the folder.

    Raises:
        DataError: the path is a folder, a named pipe or a device, or the file is larger than `limit` bytes.
        OSError: the file is not there, or cannot be read.
    """
    _check_regular(path, os.stat(path))  # Before it is opened: opening a device may act on it.
    descriptor = os.open(path, os.O_RDONLY | _REGULAR)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(path, status)
        content = file.read(limit + 1) if status.st_size <= limit else b""
    if status.st_size > limit or len(content) > limit:
        raise DataError(f"`{path.name}` is larger than {limit} bytes, so it is no model that neglog saved.")
    return content


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"`{path.name}` is not a regular file.")


def publish(path: Path, content: bytes) -> None:
    """Replace a file, or make it, by one rename; its permissions stay, and no symbolic link is followed.

    Raises:
        OSError: the file cannot be written; what was there is as before.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            os.replace(_written(path, content), path)
            break
        except FileNotFoundError:  # Another save took the temporary file for one that a killed save left.
            if attempt == ATTEMPTS or not path.parent.is_dir():
                raise
    _synchronise(path.parent)


def _written(path: Path, content: bytes) -> Path:
    """A new temporary file beside `path`, with this content safely on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(16)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _REGULAR, 0o666)
    try:
        with open(descriptor, "wb") as file:
            _claim(descriptor)
            _keep_permissions(path, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _keep_permissions(path: Path, descriptor: int) -> None:
    """Give the new file the permissions of the one that it replaces, such as those of a private model."""
    with contextlib.suppress(OSError):
        before = os.stat(path, follow_symlinks=False)
        if stat.S_ISREG(before.st_mode) and hasattr(os, "fchmod"):
            os.fchmod(descriptor, before.st_mode & 0o777)


def _claim(descriptor: int) -> bool:
    """Lock a file for as long as it is open; False if another process has it, or there are no such locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _synchronise(folder: Path) -> None:
    """Have the rename itself on the disk, where the system opens folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_temporary(name: str, of: str) -> bool:
    """Whether this is the name of a temporary file of the file `of`."""
    found = _TEMPORARY.fullmatch(name)
    return found is not None and found["name"] == of


def remove_temporary(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are gone; a writer at work has locked its own."""
    for name in os.listdir(path.parent):
        if is_temporary(name, path.name):
            _remove_unclaimed(path.with_name(name))


def _remove_unclaimed(path: Path) -> None:
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
            return
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | _REGULAR)
        try:
            if _claim(descriptor):
                os.unlink(path)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
