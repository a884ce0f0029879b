"""Tasks side by side: each in a process of its own, as many at a time as there are cores.

Processes are forked, since a new interpreter would import torch for longer than most fits take. Each has one
thread of torch, and so has a run without processes: the results are the same numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from neglog.errors import ModelError

if TYPE_CHECKING:
    from neglog.checkpoint import Journal
    from neglog.comparison import Detached

T = TypeVar("T")
R = TypeVar("R")


def default_cores() -> int:
    """The number of cores that this process may use; 1 where processes cannot be forked."""
    if not sys.platform.startswith("linux"):  # macOS has fork, but its frameworks do not survive one
        return 1
    return len(os.sched_getaffinity(0))


def side_by_side(
    work: Callable[[T], R],
    tasks: Iterable[T],
    cores: int,
    arrived: Callable[[int, R], None] = lambda _, __: None,
) -> list[R]:
    """The result of each task, in their order; the next one begins where one ends.

    Args:
        work: what is done in a process of its own; results are without tensors, which processes would share.
        tasks: taken one at a time, when a process is free.
        cores: the largest number of processes at a time; with 1 there are none.
        arrived: called with the number of each task and its result when it has ended.

    Raises:
        ModelError: a process ended without a result.
        Exception: what a task raised; no other process goes on then, nor after an interrupt.
    """
    with single_thread():
        results: dict[int, R] = _Results(arrived)
        if cores == 1:
            for number, task in enumerate(tasks):
                results[number] = work(task)
            return list(results.values())
        running: dict[Connection, tuple[int, Any]] = {}
        try:
            for number, task in enumerate(tasks):
                while len(running) >= cores:
                    _collect(running, results)
                _begin(work, task, number, running)
            while running:
                _collect(running, results)
        finally:
            for receiver, (_, process) in running.items():
                process.terminate()
                process.join()
                receiver.close()
        return [results[number] for number in sorted(results)]


class _Results(dict[int, R]):
    """Number of a task -> its result, which is reported when it is there."""

    def __init__(self, arrived: Callable[[int, R], None]) -> None:
        super().__init__()
        self.arrived = arrived

    def __setitem__(self, number: int, result: R) -> None:
        super().__setitem__(number, result)
        self.arrived(number, result)


def remembered(
    work: Callable[[str], Detached], names: Iterable[str], *, cores: int, journal: Journal
) -> list[Detached]:
    """`side_by_side` for models by name, without those whose fits are in the checkpoint."""
    states: dict[str, Any] = dict(journal.found or {})
    all_names: list[str] = []
    new: list[str] = []

    def left() -> Iterator[str]:
        for name in names:
            all_names.append(name)
            if name not in states:
                new.append(name)
                yield name

    def arrived(number: int, result: Detached) -> None:
        states[new[number]] = result.state()
        journal.write(states)

    from neglog.comparison import Detached

    side_by_side(work, left(), cores, arrived)
    return [Detached.of_state(states[name]) for name in all_names]


def _begin(work: Callable[[T], R], task: T, number: int, running: dict[Connection, tuple[int, Any]]) -> None:
    context: Any = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, task, sender), daemon=True)
    with warnings.catch_warnings():  # Python warns of threads, which the process does not use
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    running[receiver] = number, process
    sender.close()


def _serve(work: Callable[[T], R], task: T, sender: Connection) -> None:
    """Send the result of a task, or its error, from its own process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is reported by the parent alone
    try:
        outcome: tuple[bool, Any] = (True, work(task))
    except Exception as error:
        outcome = False, error
    sender.send(outcome)


def _collect(running: dict[Connection, tuple[int, Any]], results: dict[int, R]) -> None:
    """Wait until a process has ended, and take its result."""
    for receiver in wait(list(running)):
        assert isinstance(receiver, Connection)
        number, process = running[receiver]
        try:
            succeeded, result = receiver.recv()
        except EOFError:
            process.join()
            raise ModelError(
                f"a process of the comparison ended without a result (exit code {process.exitcode}), as "
                "where memory runs out. Run with --cores 1."
            ) from None
        finally:
            receiver.close()
            del running[receiver]
        process.join()
        if not succeeded:
            raise result
        results[number] = result


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread of torch, until the block ends."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
