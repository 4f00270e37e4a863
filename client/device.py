"""A device: a person's box in a local folder, and what the person does to it.

A sync is: check → read status both ways → delta or download → verify → fsync → rename → fsync of the
directory → notify. It may be killed anywhere: what is there then is the old file or the new one, and the next
sync goes on. Marks need no server: they wait in ``read_status.db``.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import apsw
import msgspec

from client import statuses
from client.errors import BadCall, Busy, DeviceError, NoRoom, Unavailable
from client.exchange import Exchange, Exchanged
from client.folder import SIDECARS, Folder, Held, Version
from client.marks import MARKS, Mark
from client.patience import Patience
from client.server import Server, address
from client.statuses import Statuses
from client.transfer import Transfer
from node.clock import now_us
from node.errors import BadField
from node.ids import check_name
from node.model import StatusConflict, SyncCheck
from node.placement import sync_directory

DEFAULT_SERVER = "http://127.0.0.1:8080"
NAME_MAX = 128
_ROUNDS_MAX = 3
_TRIES_MAX = 5
_LATEST_US = 253_000_000_000_000_000
"""in the year 9987: the last that any clock is believed"""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ASIDE_MAX = 2
_Result = TypeVar("_Result")


class Synced(msgspec.Struct, frozen=True):
    """What a sync did."""

    version: str
    """of the copy now"""
    size: int
    how: Literal["nothing", "delta", "download"]
    received: int
    """bytes of files and deltas"""
    sent: int
    """marks that the server has answered"""
    heard: int
    """statuses and positions that the server told"""
    conflicts: list[StatusConflict]
    """marks that didn't come through, and why"""
    dropped: list[str]
    """messages with a mark that the server couldn't take at all"""

    @property
    def changed(self) -> bool:
        """Something looks different to an app now."""
        return self.how != "nothing" or self.heard > 0


class Device:
    """``user``'s box in ``directory``. Any thread may mark while one syncs; processes take turns.

    ``key``: what the server is shown, the user's token. ``name``: what it knows this device by (kept in the folder;
    made up at first if not given). ``on_change(Synced)`` is called after a sync that changed something, when it is
    durable. ``patience_s``: how long trouble with the server is sat out. ``clock``: microseconds since 1970. All
    methods raise :class:`DeviceError`.
    """

    def __init__(
        self,
        user: str,
        directory: str | Path,
        *,
        server: str = DEFAULT_SERVER,
        key: str | None = None,
        name: str | None = None,
        on_change: Callable[[Synced], None] | None = None,
        patience_s: float = 30.0,
        timeout_s: float = 60.0,
        clock: Callable[[], int] = now_us,
    ) -> None:
        _named(user, "user")
        if name is not None and not (0 < len(name) <= NAME_MAX and name.isprintable()):
            raise BadCall(f"a device's name has 1 to {NAME_MAX} printable characters")
        self.user = user
        self.directory = Path(directory)
        self.server = address(server)
        self._key = key
        self._name = name
        self._on_change = on_change
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._clock = clock
        self._folder = Folder(self.directory, self.server, user)

    def sync(self, *, wait_s: float = 60.0) -> Synced:
        """Once; waits up to ``wait_s`` for another process that is syncing into the same folder."""
        asking = Server(self.server, self.user, key=self._key, timeout_s=self._timeout_s)
        with self._explained(), asking as server:
            if not self.directory.is_dir():
                self._check(server, None, Patience(self._patience_s))  # an unknown user leaves no trace
                self._make_directory()
            with self._folder.locked(wait_s):
                synced = self._sync(server)
        if synced.changed and self._on_change is not None:
            self._on_change(synced)
        return synced

    def watch(
        self,
        interval_s: float,
        stop: threading.Event,
        *,
        on_error: Callable[[DeviceError], None] | None = None,
    ) -> None:
        """Sync every ``interval_s`` seconds until ``stop`` is set; what fails is tried again."""
        while not stop.is_set():
            delay_s = interval_s
            try:
                self.sync()
            except DeviceError as error:
                if on_error is not None:
                    on_error(error)
                if isinstance(error, Unavailable) and error.after_s is not None:
                    delay_s = max(delay_s, error.after_s)
            stop.wait(delay_s)

    def mark(self, message_id: str, status: Mark) -> None:
        """Durable when this returns, with or without a server; the next sync sends it."""
        _named(message_id, "message id")
        if status not in MARKS:
            raise BadCall(f"{status} is none of {', '.join(MARKS)}")
        at_us = self._now_us()
        self._on_statuses(lambda local: local.mark(message_id, status, at_us))

    def move(self, channel_id: str, message_id: str, position: int = 0) -> None:
        """The person has read in the channel up to this message, and in it up to ``position``. Durable as a mark."""
        _named(channel_id, "channel id")
        _named(message_id, "message id")
        if not 0 <= position <= 2**53:
            raise BadCall("a position is a number from 0 to 2**53")
        at_us = self._now_us()
        self._on_statuses(lambda local: local.move(channel_id, message_id, position, at_us))

    # ----------------------------------------------------------------------------------------------

    def _sync(self, server: Server) -> Synced:
        held = self._folder.held()
        patience = Patience(self._patience_s)
        check = self._check(server, held, patience)  # 404 ends it here, before anything is touched
        trouble: DeviceError | None = None
        exchanged = Exchanged()

        def exchange(local: Statuses) -> Exchanged:
            self._name = local.name
            return Exchange(server, local, patience, self._now_us).run()

        try:
            exchanged = self._on_statuses(exchange)
        except DeviceError as error:  # the box doesn't depend on it
            trouble = error
        for tries_left in reversed(range(_TRIES_MAX)):
            try:
                how, received, of = self._fetch(server, held, check, patience)
                break
            except FileNotFoundError:  # the copy, or work in progress, was taken away under us: anew from what is there
                if not tries_left:
                    raise
                held = self._folder.held()
        if trouble is not None:
            raise trouble
        return Synced(
            of.version,
            of.size,
            how,
            received,
            exchanged.sent,
            exchanged.heard,
            exchanged.conflicts,
            exchanged.dropped,
        )

    def _check(self, server: Server, held: Held | None, patience: Patience) -> SyncCheck:
        params: dict[str, str | int | None] = {
            "localVersion": None if held is None else held.version,
            "device": self._name,
        }
        return server.ask("GET", "check", SyncCheck, patience, params=params)

    def _fetch(self, server: Server, held: Held | None, check: SyncCheck, patience: Patience) -> _Fetch:
        """Make the copy what ``check`` says, or something later: how, with how many bytes, and what it is now."""
        self._folder.drop_sidecars()
        how: Literal["nothing", "delta", "download"] = "nothing"
        received = 0
        of = _version(check)
        for _ in range(_ROUNDS_MAX):  # a download that goes on may bring an older version: then once more
            wanted = _version(check)
            if held is not None and held.checksum == wanted.checksum:
                of = wanted
                if not (held.noted and held.version == of.version):
                    self._folder.note(of)
                break
            transfer = Transfer(server, self._folder, self._name, patience)
            try:
                fetched = transfer.fetch(wanted.version)
                self._folder.replace(fetched.path, fetched.of)
            except OSError as error:
                if error.errno in _FULL:
                    self._folder.drop_work()
                raise
            how, of, received = fetched.how, fetched.of, received + transfer.received
            if of.version >= wanted.version:
                break
            held = Held(of.version, of.checksum, noted=True)
            check = self._check(server, held, patience)
        return how, received, of

    def _on_statuses(self, action: Callable[[Statuses], _Result]) -> _Result:
        """Do ``action`` with ``read_status.db``; one that is damaged is set aside, and made anew."""
        path = self.directory / statuses.FILE
        with self._explained():
            self._make_directory()
            inode = _inode(path)
            try:
                with Statuses(path, self.user, name=self._name) as local:
                    return action(local)
            except statuses.DAMAGE:
                if inode is not None and _inode(path) == inode:  # nobody else has done it meanwhile
                    _set_aside(path, self._now_us())
            with Statuses(path, self.user, name=self._name) as local:
                return action(local)

    def _make_directory(self) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self.directory.parent)

    def _now_us(self) -> int:
        return min(max(self._clock(), 0), _LATEST_US)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the folder's disk and SQLite complain about, in a line for people."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise NoRoom(f"no room in {self.directory}") from error
            raise DeviceError(f"{error.filename or self.directory}: {error.strerror or error}") from error
        except apsw.FullError as error:
            raise NoRoom(f"no room in {self.directory}") from error
        except (apsw.BusyError, apsw.LockedError) as error:
            raise Busy(f"{self.directory / statuses.FILE} is held by another program") from error
        except apsw.Error as error:
            raise DeviceError(f"{self.directory / statuses.FILE}: {error}") from error


_Fetch = tuple[Literal["nothing", "delta", "download"], int, Version]


def _version(check: SyncCheck) -> Version:
    return Version(check.server_version, check.server_size, check.server_checksum)


def _named(value: str, what: str) -> None:
    try:
        check_name(value, what)
    except BadField as error:
        raise BadCall(error.detail) from error


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _set_aside(path: Path, now_us: int) -> None:
    """Away with a damaged file and what belongs to it; the last few are kept for whoever wants to look."""
    aside = f"{path.name}.damaged-"
    for suffix in (*SIDECARS, ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(f"{aside}{now_us:020d}{suffix}"))
    kept = sorted(path.parent.glob(f"{aside}*[0-9]"))
    for old in kept[:-_ASIDE_MAX]:
        for suffix in ("", *SIDECARS):
            old.with_name(old.name + suffix).unlink(missing_ok=True)
