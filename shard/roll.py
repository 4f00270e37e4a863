"""Which devices a person has, when each synced last, and which messages are in what it has.

A device has what it says it has: a download that was sent may never have arrived. So the version with which it
checks is noted, and how far the box went when that version was made: the last message and its row. Rows only grow
while that message is in its place; so what has a lower row was there, and what has a higher one came later. When
there is no being sure, the answer is that nobody knows. All of it is a cache (:mod:`shard.notes`): without it the
list is empty until the devices come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from node import ops, paths
from node.clock import iso, now_us
from node.errors import NotFound
from node.model import Device, Devices, Holder, Holders
from shard import notes
from shard.mailbox import Mailbox
from shard.notes import Seen

T = TypeVar("T")


class Roll:
    """``box`` holds a person's box; ``version`` names what is in a held one, None if no device can have that yet."""

    def __init__(
        self,
        data: Path,
        box: Callable[[str], AbstractAsyncContextManager[Mailbox]],
        version: Callable[[Mailbox], str | None],
    ) -> None:
        self._data = data
        self._box = box
        self._version = version
        self.pushed: Callable[[str, str], bool] = lambda _user, _device: False
        """whether a device of a user is told of new messages"""
        self._clerk = ThreadPoolExecutor(1, "notes")  # one: what is read there and written back is not lost between

    async def told(self, user: str, device: str, version: str) -> None:
        """``device`` gets a file of ``version``; whether it arrives nobody knows."""

        def work(directory: Path) -> None:
            known = notes.devices_of(directory).get(device)
            said = Seen(iso(now_us()), version, "download")
            if known is not None:
                said.has, said.row, said.last, said.exact = known.has, known.row, known.last, known.exact
            notes.seen(directory, device, said)

        await self._with(user, work)

    async def said(self, user: str, device: str, version: str, local: str | None, last: tuple[int, str] | None) -> None:
        """``device`` was told of ``version``, and has ``local``: up to ``last``, if that is known."""

        def work(directory: Path) -> None:
            said = Seen(iso(now_us()), version, "check", has=local)
            known = notes.devices_of(directory).get(device)
            if last is not None:
                said.row, said.last = last
                said.exact = True
            elif local is not None and known is not None and known.has is not None and known.has <= local:
                said.row, said.last = known.row, known.last  # nothing goes but what is removed for good
                said.exact = known.exact and known.has == local
            notes.seen(directory, device, said)

        await self._with(user, work)

    async def devices(self, q: ops.AskDevices) -> Devices:
        async with self._box(q.user) as box:
            newest = self._version(box)
        known = await self._known(q.user)
        return Devices(
            devices=[
                Device(
                    name=name,
                    last_sync=seen.at,
                    version=seen.has,
                    newest=seen.has is not None and seen.has == newest,
                    push=self.pushed(q.user, name),
                )
                for name, seen in known
            ]
        )

    async def forget(self, q: ops.ForgetDevice) -> None:
        if not await self._with(q.user, lambda directory: notes.forget(directory, q.device)):
            raise NotFound("no such device", field="device")

    async def holders(self, q: ops.AskHolders) -> Holders:
        async with self._box(q.user) as box:
            known = await self._known(q.user)

            def work() -> list[bool | None]:
                found = box.find([q.id]).get(q.id)
                if found is None:
                    raise NotFound("no such message", field="id")
                newest = self._version(box)
                return [_has(box, found[0], seen, newest) for _name, seen in known]

            has = await self.in_thread(work)
        return Holders(
            devices=[
                Holder(name=name, last_sync=seen.at, has=one) for (name, seen), one in zip(known, has, strict=True)
            ]
        )

    async def in_thread(self, work: Callable[[], T]) -> T:
        """``work`` in the thread that reads and writes the notes."""
        return await asyncio.get_running_loop().run_in_executor(self._clerk, work)

    def close(self) -> None:
        self._clerk.shutdown()

    async def _known(self, user: str) -> list[tuple[str, Seen]]:
        """Who synced last comes first."""
        known = await self._with(user, notes.devices_of)
        return sorted(known.items(), key=lambda entry: entry[1].at, reverse=True)

    async def _with(self, user: str, work: Callable[[Path], T]) -> T:
        directory = paths.user_dir(self._data, user)
        return await self.in_thread(lambda: work(directory))


def _has(box: Mailbox, row: int, seen: Seen, newest: str | None) -> bool | None:
    """Whether the message in ``row`` of ``box`` is in what a device has."""
    if seen.has is None:
        return None
    if seen.has == newest:
        return True
    if seen.row is None or not (seen.row == 0 or box.is_at(seen.row, seen.last)):
        return None
    if row <= seen.row:
        return True
    return False if seen.exact else None
