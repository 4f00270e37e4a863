"""One person's box as it was: a backup, and the letters since. While it is made everybody else is served, and he too.

The new file is made beside the old one. Only then does his mail wait, and whoever asks for his box is answered 503,
for the moment in which one takes the other's place: in one rename, so that a kill leaves either. The old one is kept.
Who is in which channel is not brought back: that is as the shard knows it now. A message that was given up is a dead
letter and in no box, so it isn't in this one either. The version is later than any before,
so every device fetches the box. What was accepted in the seconds before, and is in the journal still, may come again.

What was archived before the backup is so in the box that is made, and what its archive lacks of it is put back
(:mod:`shard.revival`). What was archived since is in that box itself, as it was in the one that was backed up.

A box that was found damaged, and set aside, is restored in the same way, to now, before its mail is put in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
import structlog

from node import ops, paths
from node.clock import iso, now_us
from node.errors import BadField, DiskFull, NotFound, PoboxError, Unavailable
from node.placement import sync_directory
from shard import archive, dead_letters, deeds, history, leftovers, notes
from shard import backup_files as files
from shard.deeds import ChannelRow, LetterOf
from shard.disk import Disk, full_is_507
from shard.history import Position
from shard.journal import Journal
from shard.keyring import Keyring
from shard.mailbox import CORRUPT_AT_OPENING, FILE, Mailbox, Standing, facts_of
from shard.mailboxes import Mailboxes
from shard.members import Members
from shard.postmen import Postmen
from shard.residents import Residents
from shard.retention import Retention
from shard.revival import Pinned, keep_aside, pin, revive, unpin
from shard.statuses import Statuses

T = TypeVar("T")
log = structlog.get_logger()

_NOW = sys.maxsize
_LOOK_S = 0.1
_AGAIN_S = 5.0
_ROWS = 20_000
_BEING_RESTORED = "The mailbox is being restored"
RESTORING = "restoring"
"""at the end of the name of a file in the making"""


class Restores:
    """For the boxes of ``residents``. ``changed`` is told whose box is another one."""

    def __init__(
        self,
        disk: Disk,
        residents: Residents,
        *,
        journal: Journal,
        members: Members,
        mailboxes: Mailboxes,
        statuses: Statuses,
        postmen: Postmen,
        retention: Retention,
        changed: Callable[[str], None],
        reserve_bytes: int,
        keyring: Keyring | None = None,
    ) -> None:
        self._disk = disk
        self._keyring = keyring
        self._residents = residents
        self._layout = residents.placement
        self._journal = journal
        self._members = members
        self._mailboxes = mailboxes
        self._statuses = statuses
        self._postmen = postmen
        self._retention = retention
        self._changed = changed
        self._reserve_bytes = reserve_bytes
        self._thread = ThreadPoolExecutor(1, "restore")
        self._at_work: set[str] = set()
        self.restored = self.given_up = 0
        """damaged boxes since the start: those that came back from a backup, and those that had none that is whole"""

    @property
    def at_work(self) -> frozenset[str]:
        """Whose box is being restored, or otherwise claimed."""
        return frozenset(self._at_work)

    @contextlib.contextmanager
    def claimed(self, user: str) -> Iterator[None]:
        """Nothing else of ``user`` is restored meanwhile; raises :class:`Unavailable` while that is being done."""
        if user in self._at_work:
            raise Unavailable(_BEING_RESTORED)
        self._at_work.add(user)
        try:
            yield
        finally:
            self._at_work.discard(user)

    # -- asked for ---------------------------------------------------------------------------------

    async def restore(self, q: ops.Restore) -> ops.Restored:
        """Bring a box to what it held at a moment. Raises :class:`BadField` for one that is still to come."""
        if q.at_us > now_us():
            raise BadField(f"at: {iso(q.at_us)} is in the future", field="at")
        with self.claimed(q.user):
            return await self._restore(q.user, q.at_us, with_statuses=True)

    async def _restore(self, user: str, at_us: int, *, with_statuses: bool) -> ops.Restored:
        fresh = paths.user_dir(self._disk.data, user) / f"{FILE}.{RESTORING}"
        try:
            base, pinned, after, count = await self._build(user, at_us, fresh)
            aside = f"replaced-{iso(now_us()).replace(':', '')}"
            version, had_one, after.archived = await self._swap(user, fresh, aside, pinned)
            before = await self._in_thread(lambda: self._facts_of_aside(user, aside)) if had_one else None
            statuses_us = await self._restore_statuses(user, at_us, aside) if with_statuses else 0
            await self._in_thread(lambda: leftovers.settle(fresh.parent, FILE, base.at_us, at_us))
            if statuses_us:
                marks = files.KINDS["read_status"]
                await self._in_thread(lambda: leftovers.settle(fresh.parent, marks, statuses_us, at_us))
        finally:
            await self._in_thread(lambda: _remove(fresh))
            await self._in_thread(lambda: unpin(fresh.parent, RESTORING))
        log.info(
            "a mailbox was restored", user=user, to=iso(min(at_us, now_us())), letters=count, messages=after.messages
        )
        return ops.Restored(
            base.at_us, count, before, after, f"{FILE}.{aside}" if had_one else "", statuses_us, version
        )

    # -- the new file ------------------------------------------------------------------------------

    async def _build(self, user: str, at_us: int, fresh: Path) -> tuple[files.Entry, Pinned, ops.BoxFacts, int]:
        """The box as it was, at ``fresh``: from which backup, the archive of that, what the box holds, and how many
        letters were put in."""
        base, pinned = await self._in_thread(lambda: self._thaw(user, at_us, fresh))
        after = Position(base.layout, base.seq)
        # The journal first: what goes from it meanwhile is in the history then.
        rows = await self._in_journal(user, after)
        db = self._journal.db
        dead, seqs = await self._journal.read(
            lambda: (dead_letters.given_up(db, user), dead_letters.letters_dead_for(db, user))
        )
        rows = [(position, row) for position, row in rows if row.seq not in seqs]
        return base, pinned, *(await self._in_thread(lambda: self._apply(user, base, after, rows, dead, at_us, fresh)))

    def _thaw(self, user: str, at_us: int, fresh: Path) -> tuple[files.Entry, Pinned]:
        place = files.directory(self._disk.data, user)
        index = files.load(place)
        found = self._last_whole(user, "messages", at_us, index)
        if found is None:
            raise NotFound("no backup from before that time", field="at")
        day, entry = found
        if self._disk.free_bytes() - 2 * entry.size < self._reserve_bytes:
            raise DiskFull()
        _remove(fresh)
        with full_is_507():
            files.thaw(files.file(place, "messages", day), fresh)
            return entry, pin(fresh.parent, index, day, RESTORING)

    def _last_whole(self, user: str, kind: str, before_us: int, index: files.Index) -> tuple[str, files.Entry] | None:
        """The day of the last backup from before that moment, and what it is; one that is damaged is passed over."""
        place = files.directory(self._disk.data, user)
        while (found := files.newest(index, kind, before_us)) is not None:
            day, entry = found
            path = files.file(place, kind, day)
            try:
                files.check_against(path, kind, entry, self._keyring)
            except files.Damaged as error:
                log.error("a backup is damaged", user=user, error=str(error))
                before_us = entry.at_us - 1
            else:
                return day, entry
        return None

    async def _in_journal(self, user: str, after: Position) -> list[tuple[Position, LetterOf]]:
        journal, version = self._journal, self._layout.version
        seq = after.seq if after.layout == version else 0
        seq = max(seq, self._residents.before(user))
        seq, last = max(seq, await journal.read(journal.oldest_seq) - 1), journal.last_seq
        found: list[tuple[Position, LetterOf]] = []
        while seq < last:
            first, seq = seq, min(last, seq + _ROWS)
            rows = await journal.read(lambda: journal.letters_for(user, first, seq))  # noqa: B023
            found += [(Position(version, row[0]), LetterOf(*row)) for row in rows]
        return found

    def _apply(
        self,
        user: str,
        base: files.Entry,
        after: Position,
        rows: list[tuple[Position, LetterOf]],
        dead: dict[str, int],
        at_us: int,
        fresh: Path,
    ) -> tuple[ops.BoxFacts, int]:
        letters = dict(rows)
        spans, layout = self._residents.spans(user), self._layout.version
        letters.update(history.since(self._disk.data, user, after, base.at_us, layout, spans, self._keyring))
        with full_is_507(), contextlib.closing(self._opened(user, fresh)) as box:
            wanted = (letters[position] for position in sorted(letters))
            count = deeds.apply(box, (row for row in wanted if not deeds.is_one_of(row, dead)), at_us)
            self._retention.clear(box, now_us())
            box.checkpoint(self._disk)
            return ops.BoxFacts(*box.facts()), count

    def _opened(self, user: str, path: Path) -> Mailbox:
        return Mailbox(user, path, keyring=self._keyring)

    # -- in its place ------------------------------------------------------------------------------

    async def _swap(self, user: str, fresh: Path, aside: str, pinned: Pinned) -> tuple[str, bool, int]:
        """Put ``fresh`` in the place of the box; its version, whether there was one, and how much is archived."""
        self._postmen.hold_back(user, _BEING_RESTORED)
        try:
            async with self._mailboxes.seize(user):
                # Changes of membership from now on wait with his other mail.
                joined = await self._journal.read(lambda: self._members.of(user))
                channels = {name: (self._members.channels[name].row(), how) for name, how in joined.items()}
                done = await self._in_thread(lambda: self._replace(user, fresh, aside, pinned, channels))
            self._statuses.forget(user)
        finally:
            self._postmen.let_in(user)
        self._changed(user)
        return done

    def _replace(
        self, user: str, fresh: Path, aside: str, pinned: Pinned, channels: dict[str, tuple[ChannelRow, Standing]]
    ) -> tuple[str, bool, int]:
        path = fresh.with_name(FILE)
        with full_is_507():
            with contextlib.closing(self._opened(user, fresh)) as box:
                if lost := revive(box, self._disk, pinned):
                    log.error("archived messages are in no backup", user=user, count=lost)
                self._retention.clear_archive(box, now_us())
                archived = box.count_archived()
                version, had_one = self._set_down(user, path, aside)
                if had_one:
                    kept = path.with_name(f"{archive.DIRECTORY}.{aside}")
                    with contextlib.closing(self._aside(user, aside)) as old:
                        keep_aside(old, box, kept)
                box.begin()
                for channel in box.channel_ids() - channels.keys():
                    box.leave(channel)
                for row, standing in channels.values():
                    box.join(row, standing)
                box.commit()
                note = notes.load(path.parent, notes.MESSAGES, notes.Messages)
                # Later than what was issued, and what any device has; a box that is gone says no more itself.
                known = max(version or "", note.version if note else "")
                version = box.issue(now_us(), known or None)
                box.checkpoint(self._disk)
            fresh.with_name(f"{fresh.name}-wal").unlink()
            self._disk.rename(fresh, path)
            notes.drop(path.parent, notes.LAST)  # its rows are others than those of which devices were noted
            return version, had_one, archived

    def _set_down(self, user: str, path: Path, aside: str) -> tuple[str | None, bool]:
        """Keep the box that is there under another name too, log included; its version, and whether there was one."""
        if not path.exists():
            log_path = path.with_name(f"{path.name}-wal")
            if log_path.exists():  # of a file that was taken away: it must not get into this one
                if self._keyring is None:
                    self._disk.rename(log_path, log_path.with_name(f"{log_path.name}.{aside}"))
                else:  # nobody could tell whether it is plain
                    self._disk.remove_log(log_path)
            return None, False
        try:
            with contextlib.closing(self._opened(user, path)) as box:
                box.checkpoint(self._disk)
                version = box.version
        except CORRUPT_AT_OPENING as error:
            self._mailboxes.opener.set_aside(path, error)
            return None, False
        os.link(path, path.with_name(f"{path.name}.{aside}"))
        sync_directory(path.parent)
        return version, True

    def _facts_of_aside(self, user: str, aside: str) -> ops.BoxFacts:
        with contextlib.closing(self._aside(user, aside)) as db:
            return ops.BoxFacts(*facts_of(db))

    def _aside(self, user: str, aside: str) -> apsw.Connection:
        """The box that was replaced."""
        return files.reading(paths.user_dir(self._disk.data, user) / f"{FILE}.{aside}", user, self._keyring)

    async def _restore_statuses(self, user: str, at_us: int, aside: str) -> int:
        """Read marks as of the last backup before that moment; when that was, 0 if there is none."""
        fresh = paths.user_dir(self._disk.data, user) / f"{files.KINDS['read_status']}.{RESTORING}"

        def thaw() -> int:
            place = files.directory(self._disk.data, user)
            found = self._last_whole(user, "read_status", at_us, files.load(place))
            if found is None:
                return 0
            day, entry = found
            with full_is_507():
                files.thaw(files.file(place, "read_status", day), fresh)
                self._disk.sync_file(fresh)
            return entry.at_us

        try:
            when_us = await self._in_thread(thaw)
            if when_us:
                await self._statuses.replace(user, fresh, aside)
        finally:
            await self._in_thread(lambda: _remove(fresh))
        return when_us

    # -- what was damaged --------------------------------------------------------------------------

    async def run(self) -> None:
        """Restore the boxes that were found damaged, until cancelled."""
        lost = self._mailboxes.opener.lost
        while True:
            while lost:
                users = {lost.popleft() for _ in range(len(lost))}
                for user in sorted(users - self._at_work):
                    await self._rescue(user)
            await asyncio.sleep(_LOOK_S)

    async def _rescue(self, user: str) -> None:
        path = self._mailboxes.opener.path(user)
        if path.exists() or not files.exist(path.parent) or self._mailboxes.is_away(user):
            return
        try:
            with self.claimed(user):
                done = await self._restore(user, _NOW, with_statuses=False)
        except NotFound:
            log.error("no backup of a damaged mailbox is whole: it begins anew", user=user)
            # Claimed before anybody else can: with a deletion in between, its hold on the mail would be let go here.
            with contextlib.suppress(DiskFull), self.claimed(user):
                async with self._mailboxes.seize(user):
                    await self._in_thread(lambda: self._mailboxes.opener.give_birth(path))
                self.given_up += 1
                self._postmen.let_in(user)
        except (PoboxError, apsw.Error, OSError) as error:
            log.error("a damaged mailbox could not be restored yet", user=user, error=str(error) or repr(error))
            await asyncio.sleep(_AGAIN_S)
            self._mailboxes.opener.lost.append(user)
        else:
            self.restored += 1
            log.warning("a damaged mailbox came back", user=user, backup=iso(done.base_us), letters=done.letters)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown()


def _remove(fresh: Path) -> None:
    """What is left of a file in the making."""
    for name in (fresh, fresh.with_name(f"{fresh.name}-wal")):
        name.unlink(missing_ok=True)
