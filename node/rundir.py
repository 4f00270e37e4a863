"""What a running node leaves in its data directory: the lock that makes it the only one, and its pids.

``node.lock`` is held while the supervisor lives and released by the kernel however it dies.
``run/pids.json`` is rewritten at each change and removed at an orderly stop, for whoever looks. If the supervisor was
killed, children of it may be about to end: their journals and the port are theirs until they are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from node import paths
from node.errors import ConfigError
from node.owner import refusal

_NODE = "SUPERVISED_NODE"
"""not ``POBOX_…``: it isn't configuration"""
_LEFTOVER_MAX_S = 15.0  # a child's own orderly stop takes 10 s at most
_LEFTOVER_POLL_S = 0.05


class InUse(Exception):
    """Another node runs on this data directory."""


def create(data: Path) -> None:
    """Make ``data`` and what is in it for its owner only. Raises :class:`ConfigError`."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = paths.run_dir(data)
        run.mkdir(mode=0o700, exist_ok=True)
        run.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"[node] data: {refusal(Path(error.filename or data), error)}") from error


def lock(data: Path) -> int:
    """Hold ``node.lock``; the fd returned keeps it. Raises :class:`InUse` naming the holder's pid, and
    :class:`ConfigError`."""
    path = _lock_path(data)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(refusal(path, error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise InUse(f"another node runs on {data} (pid {holder})") from None
    with contextlib.suppress(OSError):  # on a full disk a node still runs, it's only not named
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _lock_path(data: Path) -> Path:
    return data / "node.lock"


def pids_path(data: Path) -> Path:
    return paths.run_dir(data) / "pids.json"


def write_pids(data: Path, pids: Mapping[str, int]) -> None:
    """``{"supervisor": pid, "shard-0": pid, …}``, replaced in one step."""
    fresh = pids_path(data).with_name("pids.json.new")
    fresh.write_bytes(msgspec.json.encode(dict(pids)) + b"\n")
    fresh.rename(pids_path(data))


def clear_pids(data: Path) -> None:
    pids_path(data).unlink(missing_ok=True)


def marked(data: Path) -> Mapping[str, str]:
    """What each child of the node on ``data`` has in its environment. The lock must be held."""
    state = _lock_path(data).stat()
    return {_NODE: f"{state.st_dev}:{state.st_ino}"}


def leftovers(data: Path) -> list[int]:
    """The pids of an earlier run's children that still live: those whose environment names this node's lock.

    All processes are looked at. One that was just being started when its supervisor was killed stands in no list, and
    has inherited the listening sockets. (The environment of a zombie is empty.)
    """
    try:
        [(variable, value)] = marked(data).items()
    except FileNotFoundError:
        return []
    mark = f"{variable}={value}".encode()
    living = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # somebody else's, or it has just ended
            if mark in environ.read_bytes().split(b"\0"):
                living.append(int(environ.parent.name))
    return sorted(living)


def await_leftovers(data: Path, bound_s: float = _LEFTOVER_MAX_S) -> bool:
    """Return when no child of an earlier run is left; after ``bound_s`` the last ones are killed. Whether that run was
    killed: then a port may be held for a moment still, since of a process that ends the environment goes before the
    files.

    Raises :class:`InUse` if one doesn't end even then (its disk doesn't answer).
    """
    if not _all_gone(data, bound_s):
        for pid in leftovers(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _all_gone(data, _LEFTOVER_MAX_S):
            pids = ", ".join(map(str, leftovers(data)))
            raise InUse(f"processes of an earlier run on {data} don't end: {pids}")
    was_killed = pids_path(data).exists()
    clear_pids(data)
    return was_killed


def _all_gone(data: Path, bound_s: float) -> bool:
    deadline = time.monotonic() + bound_s
    while leftovers(data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LEFTOVER_POLL_S)
    return True
