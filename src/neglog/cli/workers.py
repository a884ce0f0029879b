"""Tasks side by side, in as many processes as there are cores.

Processes are forked, since a new interpreter would import torch for longer than most fits take. Each has one
thread of torch, and so has a run without processes: the results are the same numbers.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from neglog.errors import ModelError

if TYPE_CHECKING:
    from neglog.checkpoint import SharedJournal

T = TypeVar("T")
R = TypeVar("R")


def default_cores() -> int:
    """The number of cores that this process may use; 1 where processes cannot be forked."""
    if not sys.platform.startswith("linux"):  # macOS has fork, but its frameworks do not survive one
        return 1
    return len(os.sched_getaffinity(0))


def side_by_side(
    work: Callable[[T], R], tasks: Iterable[T], cores: int, kept: SharedJournal | None = None
) -> list[R]:
    """The result of each task, in their order; the next one begins where one ends.

    Args:
        work: what is done in other processes; results are without tensors, which processes would share.
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
        workers = _Workers(work, cores, kept)
        try:
            for number, task in enumerate(tasks):
                workers.begin(number, task)
            while workers.busy:
                workers.collect()
        finally:
            workers.end()
        return [workers.results[number] for number in sorted(workers.results)]


class _Workers:
    """Processes that do one task after the other: what the first one imports and traces serves the next."""

    def __init__(self, work: Callable[[Any], Any], cores: int, kept: SharedJournal | None) -> None:
        self.work, self.cores, self.kept = work, cores, kept
        self.results: dict[int, Any] = {}
        self.processes: dict[Connection, Any] = {}
        self.busy: dict[Connection, int] = {}

    def begin(self, number: int, task: Any) -> None:
        """Hand a task to a process that is free, once there is one."""
        while len(self.busy) == self.cores:
            self.collect()
        free = next((each for each in self.processes if each not in self.busy), None) or self._started()
        self.busy[free] = number
        with suppress(ConnectionError):  # of a process that has ended, which `collect` reports
            free.send(task)

    def _started(self) -> Connection:
        context: Any = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        others = [*self.processes, ours]
        process = context.Process(target=_serve, args=(self.work, theirs, others, self.kept), daemon=True)
        with warnings.catch_warnings():  # Python warns of threads, which the process does not use
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self.processes[ours] = process
        return cast(Connection, ours)

    def collect(self) -> None:
        """Wait until a process sends something: a result, or states to keep."""
        for pipe in wait(list(self.busy)):
            assert isinstance(pipe, Connection)
            try:
                succeeded, result = pipe.recv()
            except (EOFError, ConnectionError):
                process = self.processes[pipe]
                process.join()
                raise ModelError(
                    f"a process of the comparison ended without a result (exit code {process.exitcode}), as "
                    "where memory runs out. Run with --cores 1."
                ) from None
            if succeeded is None:
                assert self.kept is not None
                self.kept.take(result)
                continue
            number = self.busy.pop(pipe)
            if not succeeded:
                raise result
            self.results[number] = result

    def end(self) -> None:
        """End all processes."""
        for pipe, process in self.processes.items():
            process.terminate()
            process.join()
            pipe.close()


def _serve(
    work: Callable[[Any], Any], pipe: Connection, others: Iterable[Connection], kept: SharedJournal | None
) -> None:
    """Send the result of each task that comes, or its error; before it the states that it keeps.

    It ends when the process that sends tasks does, of which it has copies of other pipes: these are closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is reported by the parent alone
    gc.freeze()  # a search for garbage would copy all memory of the parent
    for other in others:
        other.close()
    if kept is not None:
        kept.relay(partial(_send_states, pipe))
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_outcome(work, pipe.recv(), kept))


def _outcome(work: Callable[[Any], Any], task: Any, kept: SharedJournal | None) -> tuple[bool, Any]:
    """Whether a task succeeded, and its result or its error.

    Raises:
        ConnectionError: the process that takes its states has ended.
    """
    try:
        return True, work(task)
    except ConnectionError:
        raise
    except Exception as error:
        return False, error
    finally:
        if kept is not None:
            kept.end()


def _send_states(pipe: Connection, states: bytes) -> None:
    pipe.send((None, states))


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
