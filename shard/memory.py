"""How much of the memory that this process may have is used: of the machine, or of its control group.

What counts is what can't be had back at once. The page cache is full in every process that works
with files, and says nothing; so on the machine it is what the kernel calls available that is free,
and in a control group the clean part of its file cache is not counted as used. Of the machine and
every group above the process that has a limit (versions 1 and 2; also the point from which version
2 slows down), the fullest is what is read: whoever gets there first is killed first.

Use: one :class:`Memory` a process, :meth:`Memory.read` twice a second; about 0.1 ms, from files that
the kernel makes up, so it may run on the loop. All processes of a node in one group read the same.
What a process has freed it mostly keeps for itself, and the reading doesn't fall: call :func:`trim` when
memory is short and the backlog has gone, or nothing but the most important is taken ever after.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

_PROC = Path("/proc/self")
_libc = ctypes.CDLL(None)


class Usage(NamedTuple):
    """Bytes, and of how many."""

    used: int
    limit: int

    @property
    def percent(self) -> float:
        return 100.0 * self.used / self.limit


class Files(NamedTuple):
    """What a version of control groups calls things."""

    limits: tuple[str, ...]
    used: str
    reclaimable: frozenset[bytes]
    busy: frozenset[bytes]


_V1 = Files(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    frozenset((b"total_inactive_file", b"total_active_file")),
    frozenset((b"total_dirty", b"total_writeback")),
)
_V2 = Files(
    ("memory.max", "memory.high"),
    "memory.current",
    frozenset((b"inactive_file", b"active_file", b"slab_reclaimable")),
    frozenset((b"file_dirty", b"file_writeback")),
)


class Memory:
    """Knows the control groups of this process; ``proc`` is its directory in /proc."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._groups = _groups(proc)

    def read(self) -> Usage:
        """The fullest of what this process is bounded by."""
        machine = psutil.virtual_memory()
        fullest = Usage(machine.total - machine.available, machine.total)
        for group, files in self._groups:
            with contextlib.suppress(OSError, ValueError):  # it may be taken away at any time
                usage = _usage(group, files, machine.total)
                if usage is not None and usage.percent > fullest.percent:
                    fullest = usage
        return fullest


def trim() -> None:
    """Give freed memory back to the system, as far as the C library can. Takes 0.2 s for half a gigabyte that is
    given back: call it in a thread (it lets the loop run), at most every few seconds."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def _groups(proc: Path) -> list[tuple[Path, Files]]:
    """The directories of the memory groups that the process is in, itself first, then what is above it.

    Empty if there are none, or they aren't mounted.
    """
    try:
        memberships = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, Files]] = []
    for membership in memberships:
        number, controllers, path = membership.split(":", 2)
        if number == "0":
            files, kind, option = _V2, "cgroup2", ""
        elif "memory" in controllers.split(","):
            files, kind, option = _V1, "cgroup", "memory"
        else:
            continue
        for mount in mounts:
            place, _dash, system = mount.partition(" - ")
            if system.split()[0] == kind and (not option or option in system.split()[-1].split(",")):
                root, point = map(_plain, place.split()[3:5])
                found += [(group, files) for group in _upwards(root, point, path)]
                break
    return found


def _upwards(root: str, point: str, path: str) -> list[Path]:
    """From the group at ``path`` up to the mount at ``point``, which shows the groups from ``root`` on."""
    top = group = Path(point)
    if Path(path).is_relative_to(root) and ".." not in path.split("/"):
        group = top / Path(path).relative_to(root)
    if not group.is_dir():  # in a namespace of its own: the mount is as near as can be seen
        group = top
    return [group, *(above for above in group.parents if above.is_relative_to(top))]


def _plain(field: str) -> str:
    r"""A field of mountinfo, which writes a blank as \040."""
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _usage(group: Path, files: Files, machine: int) -> Usage | None:
    """What the group holds, None if it has no limit of its own. Raises OSError or ValueError if it can't be read."""
    limits = [int(text) for name in files.limits if (text := _text(group / name)) not in ("", "max")]
    limit = min(limits, default=0)
    if not 0 < limit < machine:
        return None
    spare = 0
    for line in (group / "memory.stat").read_bytes().splitlines():
        name, _blank, value = line.partition(b" ")
        if name in files.reclaimable:
            spare += int(value)
        elif name in files.busy:
            spare -= int(value)
    used = int(_text(group / files.used))
    return Usage(used - max(0, min(spare, used)), limit)


def _text(path: Path) -> str:
    """What the file says, nothing if there is none: the uppermost group has no limit to name."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
