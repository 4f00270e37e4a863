"""The way from this process to every shard: one link each, and the table that says whose is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from node import ops
from node.changes import Watch
from node.errors import NotFound, PoboxError, Refused
from node.link import Link, body_of
from node.paths import changes_path, socket_path
from node.placement import Placement
from node.slots import slot_of, table_for
from router.shedding import Shedding

T = TypeVar("T")


class Links:
    """A link to each shard of ``placement``."""

    def __init__(self, data: Path, placement: Placement, *, timeout_s: float) -> None:
        self.data = data
        self.table = table_for(placement.shards)
        self.version = placement.version
        self.shards = range(placement.shards)
        self.watches = [Watch(changes_path(data, shard)) for shard in self.shards]
        """what each shard counts of who got something"""
        self.shedding = [Shedding() for _ in self.shards]
        """what each of them has no room for just now"""
        self._shut_until = 0.0
        """then at the latest everybody is asked again"""
        self._links = [Link(socket_path(data, shard), timeout_s=timeout_s) for shard in self.shards]

    def start(self) -> None:
        """Begin to connect; a shard that isn't there yet is connected to when it comes."""
        for link in self._links:
            link.start()

    async def close(self) -> None:
        for link in self._links:
            await link.close()

    def link(self, shard: int) -> Link:
        """The link to ``shard``, to look at."""
        return self._links[shard]

    def place(self, user: str) -> tuple[int, int]:
        """The slot of ``user``, and the shard that owns it."""
        slot = slot_of(user)
        return slot, self.table[slot]

    def home(self, name: str) -> int:
        """The shard that decides about ``name``, be it a user, a channel or a message id."""
        return self.table[slot_of(name)]

    async def ask(self, shard: int, request: ops.AnyRequest, answer: type[T], *, timeout_s: float | None = None) -> T:
        """As :meth:`node.link.Link.ask`."""
        try:
            return await self._links[shard].ask(request, answer, timeout_s=timeout_s)
        except Refused as error:
            self._note(shard, error)
            raise

    async def ask_each(
        self, requests: Sequence[tuple[int, ops.AnyRequest]], answer: type[T], *, unknown: T | None = None
    ) -> list[T]:
        """Ask several shards at once; the answers in the order of ``requests``.

        ``unknown`` is what a shard's 404 counts as, if it counts. Raises the first other refusal,
        after all have answered: by then it is settled what each of them did. With a shard down, or
        one that has no room, nobody is asked.
        """
        self.check([shard for shard, _request in requests])
        futures = [(shard, self._links[shard].send_request(request)) for shard, request in requests]
        failure: PoboxError | None = None
        answers = []
        for shard, future in futures:
            try:
                answers.append(body_of(await future, answer))
            except PoboxError as error:
                if isinstance(error, Refused):
                    self._note(shard, error)
                if unknown is not None and isinstance(error, Refused) and error.status == NotFound.status:
                    answers.append(unknown)
                else:
                    failure = failure or error
        if failure is not None:
            raise failure
        return answers

    def check(self, shards: Sequence[int]) -> None:
        """Raises :class:`Unavailable` or :class:`Overloaded` if one of ``shards`` can't be asked now."""
        for shard in shards:
            self._links[shard].check()

    def check_room(self, priority: int, users: Sequence[str] | None) -> None:
        """Raises :class:`Refused` if a shard of ``users`` (None: any shard) said a moment ago that it takes nothing of
        ``priority``."""
        now = asyncio.get_running_loop().time()
        if now >= self._shut_until:
            return
        shut = {shard: why for shard in self.shards if (why := self.shedding[shard].refusal(priority, now)) is not None}
        if not shut:
            return
        concerned = iter(shut) if users is None or len(shut) == len(self.shards) else map(self.home, users)
        for shard in concerned:
            if shard in shut:
                self.shedding[shard].count()
                raise Refused(shut[shard])

    def _note(self, shard: int, error: Refused) -> None:
        until = self.shedding[shard].refused(error, asyncio.get_running_loop().time())
        self._shut_until = max(self._shut_until, until)
