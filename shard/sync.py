"""What devices ask: which version is this box, and may I have it as a file.

Everything that waits for the person is delivered first. A box that is ``clean`` and whose version is known costs
neither copy nor hash. Otherwise one copy is made, whoever asks meanwhile waits for the same one, and version,
size and checksum are known from then on.

The copy is what a version's checksum is taken from, and what is downloaded; a copy made again for the same
version gives the same bytes. If it doesn't, somebody wrote into the file behind our back: that content gets a
version of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from node import ops
from node.clock import now_us
from node.errors import BadField, Overloaded, Unavailable
from shard import notes
from shard.copying import Hidden
from shard.mailbox import Mailbox
from shard.roll import Roll
from shard.snapshots import ENCODINGS, IDENTITY, Kept, Snapshots

_KNOWN_MAX = 16_384
_TRIES = 4

OpenBox = Callable[[str], AbstractAsyncContextManager[Mailbox]]


class Devices:
    """``box`` holds a person's box with everything in it; ``late`` says whether something could not be
    delivered, ``wrote`` notes a transaction, ``changed`` tells that an answer is not to be remembered."""

    def __init__(
        self,
        data: Path,
        snapshots: Snapshots,
        box: OpenBox,
        *,
        late: Callable[[str], bool],
        wrote: Callable[[str, int], None],
        changed: Callable[[str], None],
    ) -> None:
        self._data = data
        self._snapshots = snapshots
        self._box = box
        self._late = late
        self._wrote = wrote
        self._changed = changed
        self._known: OrderedDict[str, ops.SyncState] = OrderedDict()
        self._making: dict[tuple[str, str], asyncio.Task[Kept | None]] = {}
        self._false: dict[str, str] = {}
        """user → a version whose content was changed behind our back"""
        self.roll = Roll(data, box, self._version)
        """what the devices say of themselves"""
        self.checks = self.known = self.downloads = self.kept = 0
        """since the start: checks, those of them that needed no copy, downloads, those of a copy that was kept"""

    async def check(self, q: ops.AskSync) -> ops.SyncState:
        """The newest version; a copy is made only if nobody knows size and checksum."""
        self.checks += 1
        state, last = await self._known_or_made(q.user, q.local)
        if q.device is not None:
            await self.roll.said(q.user, q.device, state.version, q.local, last)
        return state

    async def snapshot(self, q: ops.AskSnapshot) -> ops.Snapshot:
        """A file: the version that is asked for if it is kept, else the newest."""
        if q.encoding not in ENCODINGS:
            raise BadField(f"encoding must be one of {', '.join(ENCODINGS)}", field="encoding")
        self.downloads += 1
        kept = None
        if q.version is not None:
            kept = self._snapshots.kept(q.user, q.version, q.encoding)
            self.kept += kept is not None
        if kept is None:
            kept = await self._newest_as(q.user, q.encoding)
        if q.device is not None:
            await self.roll.told(q.user, q.device, kept.state.version)
        return ops.Snapshot(kept.state, str(kept.path.relative_to(self._data)), kept.size, kept.hidden_by)

    async def forget(self, user: str) -> None:
        """Forget all of ``user``, whose box is held: what is known of it, and the copies."""
        while making := [task for key, task in self._making.items() if key[0] == user]:
            await asyncio.wait(making)
            await asyncio.sleep(0)
        await self._snapshots.forget_all(user)
        await self.roll.in_thread(lambda: None)  # what was to be noted down is
        self._known.pop(user, None)
        self._false.pop(user, None)

    def close(self) -> None:
        self.roll.close()
        self._snapshots.close()

    # -- versions ----------------------------------------------------------------------------------

    async def _known_or_made(self, user: str, local: str | None) -> tuple[ops.SyncState, tuple[int, str] | None]:
        """The newest version; and if that is ``local``, the last message in it."""
        async with self._box(user) as box:
            last = None
            if local is not None and local == self._version(box):
                last = await self.roll.in_thread(box.last)
            state = await self._known_of(box)
            self._warn(user)
            if state is not None:
                self.known += 1
                return state, last
            making = await self._make(box, None)
        kept = await asyncio.shield(making)
        return (kept or await self._newest(user)).state, last

    async def _newest_as(self, user: str, encoding: str) -> Kept:
        for _ in range(_TRIES):
            kept = await self._newest(user)
            if encoding == IDENTITY:
                return kept
            with contextlib.suppress(FileNotFoundError):  # let go of before it was packed: another one is made
                return await self._snapshots.packed(user, kept, encoding)
        raise Overloaded()

    async def _newest(self, user: str) -> Kept:
        for _ in range(_TRIES):
            async with self._box(user) as box:
                self._warn(user)
                kept = self._snapshots.kept(user, box.version or "", IDENTITY) if self._is_true(box) else None
                if kept is not None:
                    self.kept += 1
                    return kept
                making = await self._make(box, await self._known_of(box))
            made = await asyncio.shield(making)
            if made is not None:
                return made
        raise Unavailable("The mailbox is in use by another program")

    def _is_true(self, box: Mailbox) -> bool:
        """Whether the box holds what its version was issued for."""
        return box.clean and box.version != self._false.get(box.user)

    def _version(self, box: Mailbox) -> str | None:
        return box.version if self._is_true(box) else None

    def _warn(self, user: str) -> None:
        """What could not be delivered comes later without a word: nobody may rely on this answer till then."""
        if self._late(user):
            self._changed(user)

    async def _known_of(self, box: Mailbox) -> ops.SyncState | None:
        """Size and checksum of a held box, if they were found out before."""
        if not self._is_true(box):
            return None
        state = self._known.get(box.user)
        if state is None:
            note = await self.roll.in_thread(lambda: notes.load(box.path.parent, notes.MESSAGES, notes.Messages))
            if note is None:
                return None
            state = ops.SyncState(note.version, note.size, note.checksum)
        if state.version != box.version:
            return None
        self._remember(box.user, state)
        return state

    def _remember(self, user: str, state: ops.SyncState) -> None:
        self._known[user] = state
        self._known.move_to_end(user)
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)

    async def _make(self, box: Mailbox, known: ops.SyncState | None) -> asyncio.Task[Kept | None]:
        """Copy a held box; the rest is done in the task that is returned, and the box may be let go. Its result
        is None if the content is not what is ``known`` of this version: then ask again."""
        issue = not self._is_true(box)
        if not issue and (task := self._making.get((box.user, box.version or ""))) is not None:
            return task

        def version() -> str:
            if not issue:
                assert box.version is not None
                return box.version
            note = notes.load(box.path.parent, notes.MESSAGES, notes.Messages)
            return box.issue(now_us(), note.version if note else None)

        issued, path, hidden = await self._snapshots.copy(box, version)
        if issue:
            self._wrote(box.user, 0)
            self._false.pop(box.user, None)
        task = asyncio.create_task(self._finish(box.user, box.path.parent, issued, path, hidden, known))
        self._making[box.user, issued] = task
        task.add_done_callback(lambda task: self._made(box.user, issued, task))
        return task

    def _made(self, user: str, version: str, task: asyncio.Task[Kept | None]) -> None:
        del self._making[user, version]
        if not task.cancelled():
            task.exception()  # who waits for it is told; nobody may be left

    async def _finish(
        self, user: str, directory: Path, version: str, path: Path, hidden: Hidden, known: ops.SyncState | None
    ) -> Kept | None:
        kept = await self._snapshots.finish(user, version, path, hidden)
        if known is not None and known != kept.state:
            self._snapshots.forget(user, version)
            self._known.pop(user, None)
            self._false[user] = version
            self._changed(user)
            return None
        self._remember(user, kept.state)
        if known is None:
            state = kept.state
            note = notes.Messages(state.version, state.size, state.checksum)
            await self.roll.in_thread(lambda: notes.save(directory, notes.MESSAGES, note))
        return kept
