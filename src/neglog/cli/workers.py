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
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from neglog.errors import ModelError

if TYPE_CHECKING:
    from neglog.checkpoint import Several

T = TypeVar("T")
R = TypeVar("R")


def default_cores() -> int:
    """The number of cores that this process may use; 1 where processes cannot be forked."""
    if not sys.platform.startswith("linux"):  # macOS has fork, but its frameworks do not survive one
        return 1
    return len(os.sched_getaffinity(0))


def side_by_side(
    work: Callable[[T], R], tasks: Iterable[T], cores: int, kept: Several | None = None
) -> list[R]:
    """The result of each task, in their order; the next one begins where one ends.

    Args:
        work: what is done in a process of its own; results are without tensors, which processes would share.
        tasks: taken one at a time, when a process is free.
        cores: the largest number of processes at a time; with 1 there are none.
        kept: the states that tasks keep, which this process writes.

    Raises:
        ModelError: a process ended without a result.
        Exception: what a task raised; no other process goes on then, nor after an interrupt.
    """
    with single_thread():
        if cores == 1:
            return [work(task) for task in tasks]
        results: dict[int, R] = {}
        running: dict[Connection, tuple[int, Any]] = {}
        try:
            for number, task in enumerate(tasks):
                while len(running) >= cores:
                    _collect(running, results, kept)
                _begin(work, task, number, running, kept)
            while running:
                _collect(running, results, kept)
        finally:
            for receiver, (_, process) in running.items():
                process.terminate()
                process.join()
                receiver.close()
        return [results[number] for number in sorted(results)]


Running = dict[Connection, tuple[int, Any]]
"""The pipe of each process, with the number of its task."""


def _begin(work: Callable[[T], R], task: T, number: int, running: Running, kept: Several | None) -> None:
    context: Any = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, task, sender, kept), daemon=True)
    with warnings.catch_warnings():  # Python warns of threads, which the process does not use
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    running[receiver] = number, process
    sender.close()


def _serve(work: Callable[[T], R], task: T, sender: Connection, kept: Several | None) -> None:
    """Send the result of a task, or its error, from its own process; before it the states that it keeps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is reported by the parent alone
    with suppress(BrokenPipeError):  # the parent was killed
        if kept is not None:
            kept.relay(partial(_send_states, sender))
        try:
            outcome: tuple[bool, Any] = (True, work(task))
        except BrokenPipeError:
            raise
        except Exception as error:
            outcome = False, error
        if kept is not None:
            kept.end()
        sender.send(outcome)


def _send_states(sender: Connection, states: bytes) -> None:
    sender.send((None, states))


def _collect(running: Running, results: dict[int, Any], kept: Several | None) -> None:
    """Wait until a process sends something: its result, or a state to keep."""
    for receiver in wait(list(running)):
        assert isinstance(receiver, Connection)
        number, process = running[receiver]
        try:
            succeeded, result = receiver.recv()
        except EOFError:
            _ended(receiver, running)
            raise ModelError(
                f"a process of the comparison ended without a result (exit code {process.exitcode}), as "
                "where memory runs out. Run with --cores 1."
            ) from None
        if succeeded is None:
            if kept is not None:
                kept.take(result)
            continue
        _ended(receiver, running)
        if not succeeded:
            raise result
        results[number] = result


def _ended(receiver: Connection, running: Running) -> None:
    _, process = running.pop(receiver)
    receiver.close()
    process.join()


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
