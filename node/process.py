"""What a pobox process does first: die with its supervisor, take the cores and files it may.

A child outlives its supervisor by no more than its own orderly stop: the kernel sends it SIGTERM
when the supervisor is gone, however it went. So a node that was killed leaves nobody behind who
holds a lock, a socket or the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_PARENT = "SUPERVISOR_PID"
"""not ``POBOX_…``: it isn't configuration, and configuration refuses what it doesn't know"""
_PR_SET_PDEATHSIG = 1


def supervised_by(pid: int) -> Mapping[str, str]:
    """What a child needs in its environment for :func:`die_with_parent` to know its supervisor."""
    return {_PARENT: str(pid)}


def die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its supervisor dies.

    Called first thing by a child. Raises :class:`SystemExit` if the supervisor is gone already:
    between its fork and this call it may have been killed, and nobody would send the signal.
    """
    parent = int(os.environ.get(_PARENT, 0)) or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit("the supervisor is gone")


def cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0))


def affinities(shards: int, routers: int, allowed: list[int]) -> tuple[list[set[int]], set[int]]:
    """Where each shard and where the routers run: a core for each shard alone and the rest for the
    routers, if there is one for everybody; otherwise the scheduler knows better than any fixed
    plan, and all get all. Pure."""
    if shards + routers > len(allowed):
        return [set(allowed)] * shards, set(allowed)
    return [{core} for core in allowed[:shards]], set(allowed[shards:])


def pin(pid: int, allowed: set[int]) -> None:
    """Let ``pid`` run on ``allowed`` cores only; one that died meanwhile is nobody's trouble here."""
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(pid, allowed)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it: each open mailbox holds some."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
