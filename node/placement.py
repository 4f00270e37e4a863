"""``placement.json``: how many shards the data directory is laid out for, under which version, and who has whom.

Written atomically (new file, fsync, rename, fsync of the directory), so a change happens at one instant. A change of
the layout, on a stopped node, makes a new ``version``: before the rename the old journals count, after it the new ones.
On a running node slots change hands under the same version: before the rename the old owner counts, after it the new
one (:mod:`node.reshard`). Each such table has a number of its own, which every frame between router and shard names.

Whoever changes the file while a node runs holds its lock, and so does who must be sure that it is not just being
changed (:func:`changing`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from node.errors import ConfigError
from node.owner import refusal
from node.paths import handover_path, placement_lock, placement_path
from node.slots import SLOTS, Table, slot_of, table_for

FORMAT = 2
"""of all that lies in the data directory. It grows when an earlier program would do harm to what a later one wrote;
what is only added (a column, a table, a file of its own) leaves it as it is. 2 is what people have moved in while the
node ran: an earlier program would take them for whoever the number of shards says"""


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    version: int
    """of the layout; part of the journal directory's name"""
    shards: int
    format: int = 1
    """that an earlier program must know"""
    number: int = 0
    """of the table, where that has changed since the layout; otherwise it is the version"""
    starting: int = 0
    """so many shard processes are to run, if that is more than ``shards``: some begin, or are about to end"""
    slots: dict[int, int] = {}
    """who owns a slot, where it isn't whom ``shards`` makes it"""
    users: dict[str, int] = {}
    """people who were moved by themselves, and the slots that are theirs alone"""
    handover: str = ""
    """the name of the last handover of slots that came to its end"""

    @property
    def processes(self) -> int:
        """How many shard processes are to run."""
        return max(self.shards, self.starting)

    @property
    def table(self) -> Table:
        """Who owns whom: all 4096 slots, put together anew each time it is asked for."""
        return Table(self.number or self.version, self.shards, self.slots, self.users)


class _Format(msgspec.Struct):
    format: int = 1


def load(data: Path) -> Placement | None:
    """The placement of ``data``, None for a directory that never held a node. Raises :class:`ConfigError` if it can't
    be read, or is of a later format than this program knows."""
    try:
        content = placement_path(data).read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT:
            raise ConfigError(
                f"{data} is of format {found}, this pobox knows {FORMAT}: run the later pobox that made it so"
            )
        return decode(content)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ConfigError(refusal(placement_path(data), error)) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{placement_path(data)}: {error}") from error


def load_durable(data: Path) -> Placement | None:
    """As :func:`load`, with the lock held; no power cut takes that back any more, even if whoever renamed the file was
    killed before he had made it durable."""
    found = load(data)
    sync_directory(data)
    return found


class Watched:
    """``placement.json`` of ``data``, for who goes by it and looks for changes: only another file is read."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._seen: tuple[int, int] | None = None

    def news(self) -> Placement | None:
        """What the file says, if it is another than at the last time; None if not, or if it can't be read now."""
        try:
            status = os.stat(placement_path(self._data))
            if (seen := (status.st_ino, status.st_mtime_ns)) == self._seen:
                return None
            found = load(self._data)
        except (OSError, ConfigError):
            return None
        self._seen = seen
        return found


def decode(content: bytes) -> Placement:
    """What :func:`encode` made. Raises :class:`msgspec.DecodeError`, ``ValueError``."""
    found = msgspec.json.decode(content, type=Placement)
    owners = set(found.slots.values())
    if found.shards < 1 or not owners <= set(range(found.shards)):
        raise ValueError("a slot belongs to a shard that there isn't")
    if not set(found.users.values()) <= found.slots.keys():
        raise ValueError("somebody's own slot belongs to nobody")
    return found


def encode(placement: Placement) -> bytes:
    """As it stands in ``placement.json``."""
    return msgspec.json.encode(placement) + b"\n"


def save(data: Path, placement: Placement) -> None:
    """Make ``placement`` the one that counts, durably."""
    write_durably(placement_path(data), encode(placement))


def prepare(data: Path, placement: Placement) -> None:
    """Have ``placement`` on disk, beside the one that counts: :func:`put` needs no disk then."""
    _write_fresh(placement_path(data), encode(placement), durably=True)


def put(data: Path) -> None:
    """What was prepared counts from now on. :func:`sync_directory` makes that durable, or whoever goes by it
    (:func:`load_durable`)."""
    _rename(placement_path(data))


# -- what may become of it. Pure -----------------------------------------------------------------------


def changed(old: Placement, *, shards: int, owners: Mapping[int, int], users: Mapping[str, int]) -> Placement:
    """The next placement after ``old``: ``owners`` of all slots among ``shards`` shards, of people's own too."""
    computed = table_for(shards)
    return msgspec.structs.replace(
        old,
        shards=shards,
        format=FORMAT,
        number=(old.number or old.version) + 1,
        slots={slot: owner for slot, owner in owners.items() if slot >= SLOTS or computed[slot] != owner},
        users=dict(users),
    )


def owners(old: Placement) -> dict[int, int]:
    """Who owns each slot, people's own among them."""
    return dict(enumerate(table_for(old.shards))) | old.slots


def with_slots(old: Placement, slots: Iterable[int], to: int) -> Placement:
    """``slots`` go to shard ``to``."""
    return changed(old, shards=old.shards, owners=owners(old) | dict.fromkeys(slots, to), users=old.users)


def with_user(old: Placement, user: str, to: int) -> Placement:
    """``user`` alone goes to shard ``to``."""
    slot = old.users.get(user)
    if slot is None:
        taken = set(old.users.values())
        slot = next(number for number in range(SLOTS, SLOTS + len(taken) + 1) if number not in taken)
    return changed(old, shards=old.shards, owners=owners(old) | {slot: to}, users=old.users | {user: slot})


def with_shards(old: Placement, shards: int) -> Placement:
    """``shards`` shards, each slot with the owner that it has; those that are to go must own nothing."""
    return changed(old, shards=shards, owners=owners(old), users=old.users)


def wanted(old: Placement, shards: int) -> dict[int, int]:
    """The slots that must change hands until ``shards`` shards own what is computed for them, and to whom. People who
    were moved by themselves stay where they are, as long as that shard does."""
    computed, table = table_for(shards), old.table
    found = {slot: owner for slot, owner in enumerate(computed) if table.owner(slot) != owner}
    for user, slot in old.users.items():
        if table.owner(slot) >= shards:
            found[slot] = computed[slot_of(user)]
    return found


# -- who may change it -------------------------------------------------------------------------------


@contextlib.contextmanager
def changing(data: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile, nor begins or ends a handover. Short: others wait."""
    fd = os.open(placement_lock(data), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def under_way(data: Path) -> str:
    """The name of the handover that has begun and is not at its end, "" if there is none."""
    try:
        return handover_path(data).read_text()
    except FileNotFoundError:
        return ""


def begin(data: Path, handover: str) -> None:
    """A handover of that name is under way. The lock is held."""
    replace(handover_path(data), handover.encode(), durably=False)


def call_off(data: Path) -> None:
    """Whatever handover is under way doesn't come to its end any more. The lock is held."""
    handover_path(data).unlink(missing_ok=True)


def settle(data: Path) -> Placement:
    """The placement that counts, and goes on to: a handover that was under way is called off. Raises
    :class:`ConfigError` if there is none."""
    with changing(data):
        call_off(data)
        found = load_durable(data)
    if found is None:
        raise ConfigError(f"{data} has no placement.json: it is not laid out yet")
    return found


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step that survives a power cut."""
    replace(path, content, durably=True)


def replace(path: Path, content: bytes, *, durably: bool) -> None:
    """Replace ``path`` by ``content`` in one step, or not at all; if not ``durably``, a power cut may leave neither old
    nor new."""
    _write_fresh(path, content, durably=durably)
    _rename(path)
    if durably:
        sync_directory(path.parent)


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _rename(path: Path) -> None:
    try:
        _fresh(path).rename(path)
    except BaseException:
        _fresh(path).unlink(missing_ok=True)
        raise


def _write_fresh(path: Path, content: bytes, *, durably: bool) -> None:
    fresh = _fresh(path)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, content)
        if durably:
            os.fsync(fd)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """All of ``content``: a disk that gets full takes a part of it first, and says so at the next write."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
