"""Saves that are killed, watched and doubled, in processes that are forked from that of the tests.

Two fits are saved in turn whose numbers all differ: a mixture of the two is neither.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from neglog import Fit, export, mle, models

HOOKED = ("open", "fsync", "replace", "unlink", "listdir", "fchmod", "mkdir", "close")
"""What of the operating system a save goes through."""


def fits() -> tuple[Fit, Fit]:
    x = torch.arange(12.0, dtype=torch.float64)[:, None]
    y = torch.sin(x[:, 0]) + 0.1 * x[:, 0]
    return mle(models.gaussian, x, y), mle(models.laplace, x, 3 * y + 1)


def kind(folder: Path, both: tuple[Fit, Fit]) -> str:
    """Which of two fits a folder holds: "0", "1", "none" or "mixed"."""
    try:
        found = export.load(folder)
    except ValueError as error:
        return "none" if "holds no saved model" in str(error) else f"error: {error}"
    for number, fit in enumerate(both):
        same = found.nll == fit.nll and set(found.params) == set(fit.params)
        if same and all(torch.equal(found.params[name], fit.params[name]) for name in fit.params):
            return str(number)
    return "mixed"


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def killing(calls: int) -> None:
    """Have this process killed before its next call but `calls` of the operating system."""
    left = [calls]

    def hook(function: Callable[..., object]) -> Callable[..., object]:
        def hooked(*arguments: object, **keywords: object) -> object:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **keywords)

        return hooked

    for name in HOOKED:
        setattr(os, name, hook(getattr(os, name)))


def killed_at_every_call(folder: Path, both: tuple[Fit, Fit], before: bool) -> list[str]:
    """What a folder holds after a save of the second fit is killed before its k-th call, k = 0, 1, ...

    Then the first fit is saved there, and it is counted how many files there are.
    """
    found: list[str] = []
    while True:
        place = folder / str(len(found))
        if before:
            export.save(both[0], place)

        def work(place: Path = place, calls: int = len(found)) -> None:
            killing(calls)
            export.save(both[1], place)

        _, status = os.waitpid(forked(work), 0)
        found.append(kind(place, both))
        export.save(both[0], place)  # whatever the killed save left
        found[-1] += f" {kind(place, both)} {len(list(place.iterdir()))}"
        if not os.WIFSIGNALED(status):
            return found


def saving_in_turn(folder: Path, both: tuple[Fit, Fit], tell: int) -> Callable[[], None]:
    """Work that saves two fits in turn, and writes a byte to the descriptor `tell` after each save."""

    def work() -> None:
        while True:
            for fit in both:
                export.save(fit, folder)
                os.write(tell, b".")

    return work


def killed_at_any_time(folder: Path, both: tuple[Fit, Fit], tries: int) -> list[str]:
    found = []
    for k in range(tries):
        heard, tell = os.pipe()
        child = forked(saving_in_turn(folder, both, tell))
        for _ in range(k % 3):
            os.read(heard, 1)
        time.sleep(0.001 * (k % 7))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(heard)
        os.close(tell)
        found.append(kind(folder, both))
    return found


def read_during_saves(folder: Path, both: tuple[Fit, Fit], reads: int) -> list[str]:
    """What a reader finds while two others save."""
    export.save(both[0], folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    children = [forked(saving_in_turn(folder, both, nowhere)) for _ in range(2)]
    found = [kind(folder, both) for _ in range(reads)]
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found


def saved_by_several(folder: Path, both: tuple[Fit, Fit], saves: int) -> list[int]:
    """The exit codes of three processes that save at once, 0 for those whose saves all went well."""

    def work() -> None:
        try:
            for k in range(saves):
                export.save(both[k % 2], folder)
        except BaseException:
            os._exit(1)

    children = [forked(work) for _ in range(3)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def outcomes(folder: Path) -> dict[str, list[int] | list[str]]:
    """What came of saves of each kind."""
    both = fits()
    return {
        "several": saved_by_several(folder / "several", both, 6),
        "several left": [kind(folder / "several", both), *sorted(os.listdir(folder / "several"))],
        "first": killed_at_every_call(folder / "first", both, before=False),
        "later": killed_at_every_call(folder / "later", both, before=True),
        "any": killed_at_any_time(folder / "any", both, 14),
        "read": read_during_saves(folder / "read", both, 15),
    }
