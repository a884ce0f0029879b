"""Checkpoints: the state of a long computation in one file, from which the same call goes on.

The file has numbers, text and a digest of both, and no code. One rename replaces it, so that a killed process
leaves the state before or the state after. It names the call that it belongs to: the function, the
data, the parameters and the settings; it is refused by any other call.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from neglog import files
from neglog.arguments import as_path, number, shown, whole
from neglog.calls import public
from neglog.errors import CheckpointError, DataError, ModelError

PREFIX = b"neglog checkpoint "
"""The beginning of the file, in each version of its format: a file without it is not ours to be removed."""
MAGIC = PREFIX + b"1 "
"""The beginning of the file, with the version of its format."""
MAX_CHECKPOINT_BYTES = 2**32
"""The largest checkpoint, in bytes."""
DEFAULT_SECONDS = 30.0
"""Seconds between two writes."""
WRITING_SHARE = 0.05
"""Largest share of the time that is spent on writing, where the seconds between two writes are few."""
PLAIN = (type(None), bool, int, float, str)
"""The classes of values that are written as they are."""


@public
@dataclass(frozen=True)
class Checkpoint:
    """Where a long computation keeps its state, and how often: for the argument `checkpoint`.

    After `kill -9` the same call goes on from the last state and ends at the same numbers. At the end the
    file holds the final state, from which the same call returns at once.

    Args:
        path: the file.
        seconds: the least number of seconds between two writes.
        steps: the least number of steps between two writes, in place of seconds: iterations of a solver,
            draws of a bootstrap, points of a path.

    Raises:
        DataError: `path` is no path.
        ModelError: `seconds` is negative, or `steps` not positive.
    """

    path: str | Path
    seconds: float = DEFAULT_SECONDS
    steps: int | None = None

    def __post_init__(self) -> None:
        as_path("path", self.path)
        if self.seconds != 0:
            number("seconds", self.seconds, 0)
        if self.steps is not None:
            whole("steps", self.steps)


class Journal:
    """The state of one computation in a file.

    Attributes:
        found: the state that the file had; None without one.
    """

    def __init__(self, settings: Checkpoint, facts: Mapping[str, str]) -> None:
        self.settings, self.facts = settings, dict(facts)
        self.path = as_path("checkpoint", settings.path)
        self.found: Any = None
        if not self.path.parent.is_dir():
            raise DataError(
                f"`checkpoint` needs the folder `{self.path.parent}`, which does not exist. Make it."
            )
        if self.path.is_dir():
            raise CheckpointError(
                f"`checkpoint` needs a file, and `{self.path}` is a folder. Name a file in it."
            )
        files.remove_temporary(self.path)
        if self.path.exists():
            self.found = self._read()
        self.last, self.last_step, self.cost = time.monotonic(), 0, 0.0

    def _read(self) -> Any:
        """The state in the file.

        Raises:
            CheckpointError: it is no checkpoint, is damaged, or belongs to another call.
        """
        content = b""
        try:
            content = files.read(self.path, MAX_CHECKPOINT_BYTES)
            known, state = _decoded(content)
        except (ValueError, SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"`{self.path}` is no checkpoint of this version of neglog, or is damaged ({error}). Name "
                f"another file{', or remove this one' if content.startswith(PREFIX) else ''}."
            ) from None
        self.check(self.facts, known)
        return state

    def check(self, facts: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Raise CheckpointError unless facts are those that are known of the call that wrote the file."""
        for name in {**facts, **known}:
            if facts.get(name) != known.get(name):
                raise CheckpointError(
                    f"`{self.path}` is the checkpoint of another call: its {name} is {known.get(name)}, and "
                    f"here it is {facts.get(name)}. Name another file, or remove this one to begin anew."
                )

    def is_due(self, step: int) -> bool:
        """Whether the state after this number of steps is to be written."""
        if self.settings.steps is not None:
            return step - self.last_step >= self.settings.steps
        return time.monotonic() - self.last >= max(self.settings.seconds, self.cost / WRITING_SHARE)

    def write(self, state: Any, step: int = 0) -> None:
        """Replace the file."""
        begun = time.monotonic()
        files.publish(self.path, _encoded(self.facts, state))
        self.last, self.last_step = time.monotonic(), step
        self.cost = self.last - begun

    def end(self, state: Any) -> None:
        """Write the final state."""
        self.write(state)

    def finished(self, key: str) -> Any:
        """The state of the file under this name; None where it has none."""
        return self.found.get(key) if isinstance(self.found, dict) else None


class Unkept:
    """In the place of a journal where there is no checkpoint."""

    found: Any = None

    def is_due(self, step: int) -> bool:
        """No state is to be written."""
        return False

    def write(self, state: Any, step: int = 0) -> None:
        """Do nothing."""

    def end(self, state: Any) -> None:
        """Do nothing."""


UNKEPT = Unkept()


class Part:
    """The state of one part of a computation, inside the state of the whole."""

    def __init__(self, whole: Any, found: Any, wrap: Callable[[Any], Any]) -> None:
        self.whole, self.found, self.wrap = whole, found, wrap

    def is_due(self, step: int) -> bool:
        """As `Journal.is_due`."""
        return bool(self.whole.is_due(step))

    def write(self, state: Any, step: int = 0) -> None:
        """As `Journal.write`, with the state of the whole around."""
        self.whole.write(self.wrap(state), step)

    def end(self, state: Any) -> None:
        """Take the final state into that of the whole, which is written when it is due."""
        state = self.wrap(state)
        if self.is_due(len(state)):
            self.whole.write(state, len(state))

    def finished(self, key: str) -> Any:
        """As `Journal.finished`."""
        return self.found.get(key) if isinstance(self.found, dict) else None


class Relay:
    """In the place of a journal in a process of its own: states are sent to the process that has the file."""

    def __init__(self, journal: Journal, states: Mapping[Any, Any], send: Callable[[bytes], None]) -> None:
        self.journal, self.sent, self.send = journal, dict(states), send
        self.check, self.is_due = journal.check, journal.is_due

    def write(self, states: Mapping[Any, Any], step: int = 0) -> None:
        """Send the states that are new."""
        new = {key: state for key, state in states.items() if self.sent.get(key) is not state}
        if new:
            self.send(_encoded({}, new))
        self.sent = dict(states)
        self.journal.last, self.journal.last_step = time.monotonic(), step


class SharedJournal:
    """The states of several computations in the file of one call, also of computations side by side."""

    def __init__(self, journal: Journal) -> None:
        self.journal: Journal | Relay = journal
        self.states: dict[Any, Any] = dict(journal.found or {})

    def member(self, key: Any) -> MemberCheckpoint:
        """The checkpoint of one of the computations."""
        return MemberCheckpoint(self, key)

    def relay(self, send: Callable[[bytes], None]) -> None:
        """From now on, in a process of its own, send new states in the place of writing the file."""
        assert isinstance(self.journal, Journal)
        self.journal = Relay(self.journal, self.states, send)

    def take(self, content: bytes) -> None:
        """Take up the states that another process has sent."""
        self.states |= _decoded(content)[1]
        if self.journal.is_due(len(self.states)):
            self.journal.write(self.states, len(self.states))

    def end(self) -> None:
        """Write the states of all."""
        self.journal.write(self.states, len(self.states))


@dataclass(frozen=True)
class MemberCheckpoint:
    """The checkpoint of one of several computations."""

    several: SharedJournal
    key: Any

    def journal(self, **facts: Any) -> Part:
        """Its state, of a call with these facts.

        Raises:
            CheckpointError: the file belongs to another call.
        """
        written = {name: str(value) for name, value in facts.items()}
        states = self.several.states
        known = states.get(self.key)
        if known is not None:
            self.several.journal.check(written, known["facts"])

        def wrap(state: Any) -> Any:
            states[self.key] = {"facts": written, "state": state}
            return states

        return Part(self.several.journal, None if known is None else known["state"], wrap)


@dataclass(frozen=True)
class CallCheckpoint:
    """The checkpoint of a call of a function, before its data are known."""

    settings: Checkpoint
    function: str

    def journal(self, **facts: Any) -> Journal:
        """The journal of the call with these facts."""
        return Journal(self.settings, {"function": self.function, **{k: str(v) for k, v in facts.items()}})


def checkpoint_of(
    checkpoint: Any, function: Callable[..., Any], seconds: float = DEFAULT_SECONDS
) -> CallCheckpoint | None:
    """The checkpoint that a caller gives, a path or `Checkpoint`, of a call of the function.

    Args:
        checkpoint: what the caller gives, or None.
        function: the function that is called.
        seconds: between two writes, of a path.

    Raises:
        DataError: it is neither.
    """
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        try:
            checkpoint = Checkpoint(as_path("checkpoint", checkpoint), seconds)
        except DataError:
            raise DataError(
                "`checkpoint` must be a path, or neglog.Checkpoint(path, seconds=60); it is "
                f"{shown(checkpoint)}."
            ) from None
    return CallCheckpoint(checkpoint, function.__name__)


def digest(values: Iterable[Any]) -> str:
    """A digest of tensors, arrays, text, numbers and None, in their order."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            found.update(f"{array.dtype} {tuple(array.shape)} ".encode())
            found.update(array.reshape(-1).view(torch.uint8).numpy().data if array.numel() else b"")
        elif isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape} ".encode())
            found.update(repr(value.tolist()).encode() if value.dtype.kind == "O" else value.tobytes())
        else:
            found.update(f"{value!r} ".encode())
    return found.hexdigest()[:16]


def settings_of(value: Any) -> str:
    """A solver, or anything with settings, as text that is the same in every process."""
    parts = {name: _setting(each) for name, each in sorted(vars(value).items())}
    return f"{type(value).__name__}({', '.join(f'{name}={each}' for name, each in parts.items())})"


def _setting(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return digest([value])
    if isinstance(value, tuple | list | range):
        return f"({', '.join(map(_setting, value))})"
    if isinstance(identity := getattr(value, "identity", None), str):
        return identity
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key}: {_setting(each)}' for key, each in value.items())})"
    if callable(value) and not hasattr(value, "minimise"):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return repr(value) if isinstance(value, (*PLAIN, torch.dtype)) else settings_of(value)


def _encoded(facts: Mapping[str, str], state: Any) -> bytes:
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"facts": facts, "state": _plain(state, tensors)})
    content = save(tensors, metadata={"neglog": text})
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _decoded(content: bytes) -> tuple[dict[str, str], Any]:
    head, _, rest = content.partition(b"\n")
    if not head.startswith(MAGIC) or head[len(MAGIC) :] != hashlib.sha256(rest).hexdigest().encode():
        raise DataError("its content does not have the digest that it was written with")
    size = int.from_bytes(rest[:8], "little")
    text = json.loads(rest[8 : 8 + size])["__metadata__"]["neglog"]
    document = json.loads(text)
    return document["facts"], _value(document["state"], load(rest))


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors and arrays apart.

    Raises:
        ModelError: it is of another kind, such as a function.
    """
    if isinstance(value, Tensor | np.ndarray):
        return _apart(value, tensors)
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, tensors), _plain(each, tensors)] for key, each in value.items()]}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_plain(each, tensors) for each in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, PLAIN):
        return value
    raise ModelError(
        f"`checkpoint` cannot keep a {type(value).__name__}, which the state of this computation has. Leave "
        "`checkpoint` out."
    )


def _apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return {"objects": _plain(value.tolist(), tensors)}
    key, kind = str(len(tensors)), "tensor" if isinstance(value, Tensor) else "array"
    tensors[key] = torch.as_tensor(value).detach().cpu().clone().contiguous()
    return {kind: key}


def _value(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A value from the JSON that `_plain` made of it, and its tensors."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return tensors[content].clone()
        case "array":
            return tensors[content].clone().numpy()
        case "objects":
            return np.array(_value(content, tensors), dtype=object)
        case "float":
            return float(content)
        case "dict":
            return {_value(key, tensors): _value(each, tensors) for key, each in content}
    items = [_value(each, tensors) for each in content]
    return tuple(items) if kind == "tuple" else items
