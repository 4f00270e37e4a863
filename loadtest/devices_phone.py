"""A device under test: its folder, the process that watches it, the marks made on it, and what it must end with.

Of each message one device of its person alone makes the marks, or all of them do. Where it was one alone, its
last mark must hold in the end: nothing was in conflict with it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from client import Device, DeviceError
from client.marks import EFFECTS, MARKS
from loadtest.children import ROOT, python
from loadtest.kill_ledger import Faults
from node.clock import now_us

_AGAIN_S = 30.0
"""before a mark of the same field of a message that is ours alone: two that are on their way at once may swap"""
_GONE_S = 30.0
_FOUND_MAX = 200
_SHOWN = """
SELECT message_id, read_at, CASE WHEN read_at<>'' THEN read_device END, archived_at, starred_at FROM read_status"""

Row = tuple[str, str | None, str | None, str | None]
"""read_at, read_device, archived_at, starred_at"""
_COLUMN = {"read": 0, "archived": 2, "starred": 3}


class Phone:
    """Device ``index`` of ``of`` of ``user``. ``fragile``: its files get damaged, so only it may show that."""

    def __init__(
        self, user: str, index: int, of: int, place: Path, server: str, *, skew_us: int, fragile: bool
    ) -> None:
        self.user = user
        self.name = f"{user}-{'abcdefgh'[index]}"
        self.directory = place / self.name
        self.fragile = fragile
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self._index, self._of = index, of
        self._skew_us = skew_us
        self._server = server
        self._log = place / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._device = self._made(patience_s=60.0)
        self._last: dict[tuple[str, str], tuple[str, float]] = {}
        """of (message, field) that are ours alone: the last mark, and when"""

    def _made(self, patience_s: float) -> Device:
        return Device(
            self.user,
            self.directory,
            server=self._server,
            name=self.name,
            patience_s=patience_s,
            clock=lambda: now_us() + self._skew_us,
        )

    # -- the watching process ----------------------------------------------------------------------

    def start(self) -> None:
        command = python("loadtest.devices_watcher", self.user, str(self.directory), "--server", self._server)
        command += ["--name", self.name, "--skew-us", str(self._skew_us)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)

    def kill(self) -> None:
        """SIGKILL, wherever it is; a process that has ended by itself is a fault."""
        if self._process is None:
            return
        if (code := self._process.poll()) is not None:
            self.faults.say(f"{self.name}: the client ended with {code}; log: {self._log}")
        else:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(_GONE_S)
            self.counts["clients killed"] += 1
        self._process = None

    def count_syncs(self) -> None:
        """Take over what the watching processes printed."""
        for line in self._log.read_text(errors="replace").splitlines():
            kind, *words = line.split()[:5] or ("",)
            if kind in ("nothing", "delta", "download"):
                self.counts[f"syncs: {kind}"] += 1
                self.counts["bytes received"] += int(words[0])
                self.counts["conflicts"] += int(words[3])
            elif kind == "expected":
                self.counts["syncs that failed"] += 1
            elif kind:
                self.faults.say(f"{self.name}: {line}")

    # -- what happens to it ------------------------------------------------------------------------

    def use(self, rng: random.Random) -> None:
        """Open the copy as an app would, and mark some of what is in it."""
        try:
            ids = self._some(rng)
        except apsw.CantOpenError:
            return  # nothing has come yet, or it was deleted on purpose
        except apsw.Error as error:
            if not self.fragile:
                self.faults.say(f"{self.name}: an app can't read the copy: {error}")
            return
        for id in ids:
            status = rng.choice(MARKS)
            key = (id, EFFECTS[status][0])
            owner = zlib.crc32(id.encode()) % (self._of + 1)
            if owner not in (self._index, self._of):
                continue
            if owner == self._index and time.monotonic() - self._last.get(key, ("", -_AGAIN_S))[1] < _AGAIN_S:
                continue
            try:
                self._device.mark(id, status)
            except DeviceError as error:
                self.faults.say(f"{self.name}: a mark failed: {error}")
                return
            self.counts["marks"] += 1
            if owner == self._index:
                self._last[key] = (status, time.monotonic())

    def _some(self, rng: random.Random) -> list[str]:
        db = apsw.Connection(str(self.directory / "messages.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            self.counts["copies opened"] += 1
            if rng.random() < 0.1 and db.pragma("integrity_check") != "ok":
                raise apsw.CorruptError("integrity_check")
            ids = [row[0] for row in db.execute(f"SELECT id FROM messages ORDER BY random() LIMIT {_FOUND_MAX}")]
            return ids[: rng.randint(1, 10)]
        finally:
            db.close()

    def damage(self, rng: random.Random) -> None:
        """Do something to its files that a disk or a person might; marks are left alone."""
        copy = self.directory / "messages.db"
        way = rng.choice(("notes", "gone", "flipped", "cut", "stale log"))
        if not copy.exists():
            return
        if way == "notes":
            shutil.rmtree(self.directory / ".sync", ignore_errors=True)
        elif way == "gone":
            copy.unlink(missing_ok=True)
        elif way == "stale log":
            copy.with_name("messages.db-wal").write_bytes(rng.randbytes(10_000))
        else:
            copy.chmod(0o600)
            with copy.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if way == "cut":
                    file.truncate(rng.randrange(size))
                else:
                    file.seek(rng.randrange(size))
                    file.write(b"\xa5")
        self.counts["damages"] += 1

    # -- the judgement -----------------------------------------------------------------------------

    def sync(self) -> None:
        """Once, to the end."""
        try:
            self._device.sync()
        except DeviceError as error:
            self.faults.say(f"{self.name}: the last sync fails: {type(error).__name__}: {error}")

    def judge(self, checksum: str, found: str, server: dict[str, Row], messages: set[str]) -> None:
        """Compare with the node: ``checksum`` of its file, its statuses, and the ``messages`` that are there."""
        if found != checksum:
            self.faults.say(f"{self.name}: the copy is {found}, the node's is {checksum}")
            return
        mine = {id: row for id, row in self.shown().items() if id in messages}
        theirs = {id: row for id, row in server.items() if id in messages}
        for id in sorted(mine.keys() | theirs.keys()):
            if mine.get(id) != theirs.get(id):
                self.faults.say(f"{self.name}: {id} is {mine.get(id)}, the node's is {theirs.get(id)}")
        for (id, field), (status, _when) in self._last.items():
            holds = bool(theirs.get(id, ("", None, None, None))[_COLUMN[field]])
            if id in messages and holds != EFFECTS[status][1]:
                self.faults.say_lost(f"{self.name}: {id} was marked {status}, and isn't")
        self.counts["marks that must hold"] += sum(id in messages for id, _field in self._last)

    def shown(self) -> dict[str, Row]:
        return {id: (read or "", by, archived, starred) for id, read, by, archived, starred in self.rows(_SHOWN)}

    def messages(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT id FROM messages", "messages.db")}

    def rows(self, sql: str, file: str = "read_status.db") -> Sequence[tuple[Any, ...]]:
        db = apsw.Connection(str(self.directory / file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return list(db.execute(sql))
        finally:
            db.close()
