"""What a running node leaves in its data directory: the lock that makes it the only one, and its pids.

``node.lock`` is held while the supervisor lives and released by the kernel however it dies.
``run/pids.json`` is rewritten at each change and removed at an orderly stop. If it is still there
at the next start, the supervisor was killed, and children of it may be about to end: their journals
and the port are theirs until they are gone.
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
from node.process import supervised_by

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
    path = data / "node.lock"
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


def pids_path(data: Path) -> Path:
    return paths.run_dir(data) / "pids.json"


def write_pids(data: Path, pids: Mapping[str, int]) -> None:
    """``{"supervisor": pid, "shard-0": pid, …}``, replaced in one step."""
    fresh = pids_path(data).with_name("pids.json.new")
    fresh.write_bytes(msgspec.json.encode(dict(pids)) + b"\n")
    fresh.rename(pids_path(data))


def clear_pids(data: Path) -> None:
    pids_path(data).unlink(missing_ok=True)


def leftovers(data: Path) -> list[int]:
    """The pids of an earlier run's children that still live.

    A pid alone proves nothing, it may be a stranger's by now; one whose environment names the same
    supervisor is the child that was meant. (The environment of a zombie is empty.)
    """
    try:
        pids = msgspec.json.decode(pids_path(data).read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    [(variable, value)] = supervised_by(pids.pop("supervisor", 0)).items()
    mark = f"{variable}={value}".encode()
    living = []
    for pid in pids.values():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                living.append(pid)
    return living


def await_leftovers(data: Path, bound_s: float = _LEFTOVER_MAX_S) -> None:
    """Return when no child of an earlier run is left; after ``bound_s`` the last ones are killed.

    Raises :class:`InUse` if one doesn't end even then (its disk doesn't answer).
    """
    if not _all_gone(data, bound_s):
        for pid in leftovers(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _all_gone(data, bound_s):
            pids = ", ".join(map(str, leftovers(data)))
            raise InUse(f"processes of an earlier run on {data} don't end: {pids}")
    clear_pids(data)


def _all_gone(data: Path, bound_s: float) -> bool:
    deadline = time.monotonic() + bound_s
    while leftovers(data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LEFTOVER_POLL_S)
    return True
