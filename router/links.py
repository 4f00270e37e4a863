"""The way from this process to every shard: one link each, and the table that says whose is whose.

People change hands while the node runs (:mod:`node.reshard`). A shard refuses what isn't its own by the table that
counts, and what it is just letting go of, as *moving*; nobody outside hears of that: the table is read again, and the
same is asked of whoever is right by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from node import ops
from node.breaker import SILENCE_S
from node.changes import Mark, News, Watch
from node.errors import Moving, NotFound, PoboxError, Problem, Refused, Unavailable
from node.link import Link, body_of
from node.paths import changes_path, socket_path
from node.placement import Placement, Watched
from router.shedding import Shedding

T = TypeVar("T")

_LOOK_S = 0.25
_PAUSE_S, _PAUSE_MAX_S = 0.005, 0.1


class Links:
    """A link to each shard of ``placement``."""

    def __init__(self, data: Path, placement: Placement, *, timeout_s: float, silence_s: float = SILENCE_S) -> None:
        self.data = data
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._links: list[Link] = []
        self.watches: list[Watch] = []
        """what each shard counts of who got something"""
        self.shedding: list[Shedding] = []
        """what each of them has no room for just now"""
        self._shut_until = 0.0
        """then at the latest everybody is asked again"""
        self._started = False
        self._looking: asyncio.Lock | None = None
        self._looker: asyncio.Task[None] | None = None
        self._leaving = set[asyncio.Task[None]]()
        self._placement = Watched(data)
        self._add(placement.shards)
        self._take(placement)

    def _take(self, placement: Placement) -> None:
        self.table = placement.table
        self.version = self.table.number
        self.shards = range(placement.shards)

    def _add(self, shards: int) -> list[Link]:
        """Links to the shards there are more."""
        more = range(len(self._links), shards)
        new = [
            Link(socket_path(self.data, index), timeout_s=self._timeout_s, silence_s=self._silence_s) for index in more
        ]
        self.watches += [Watch(changes_path(self.data, index)) for index in more]
        self.shedding += [Shedding() for _ in more]
        self._links += new
        return new

    def start(self) -> None:
        """Begin to connect; a shard that isn't there yet is connected to when it comes."""
        self._started = True
        for link in self._links:
            link.start()
        self._looker = asyncio.create_task(self._look_now_and_then(), name="placement")

    async def close(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looker
        await asyncio.gather(*self._leaving)
        for link in self._links:
            await link.close()

    def link(self, shard: int) -> Link:
        """The link to ``shard``. Raises :class:`Moving` if it is one that was no more when the table was read last."""
        if shard >= len(self._links):
            raise Moving()
        return self._links[shard]

    # -- the table -----------------------------------------------------------------------------------

    def home(self, name: str) -> int:
        """The shard that decides about ``name``, be it a channel or a message id."""
        return self.table.home(name)

    def mark(self, user: str) -> tuple[int, Mark] | None:
        """Whose ``user`` is, and that shard's marks of him; None while there is nothing to look at."""
        shard = self.table.shard_of(user)
        mark = self.watches[shard].mark(user)
        return None if mark is None else (shard, mark)

    def news(self, user: str) -> News | None:
        """As :meth:`node.changes.Watch.news`, of the shard that has ``user`` now."""
        return self.watches[self.table.shard_of(user)].news(user)

    async def look(self) -> None:
        """Go by the table in the file, if that is another by now."""
        if self._looking is None:
            self._looking = asyncio.Lock()
        async with self._looking:
            found = self._placement.news()
            if found is None or found.table.number <= self.version:
                return
            for link in self._add(found.shards):
                with contextlib.suppress(OSError):  # nobody is to meet a link that is about to be up
                    await link.connect()
                if self._started:
                    link.start()
            self._take(found)
            gone, self._links = self._links[found.shards :], self._links[: found.shards]
            del self.watches[found.shards :], self.shedding[found.shards :]
        for link in gone:
            leaving = asyncio.create_task(self._let_go(link), name=f"leaving {link.path}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _let_go(self, link: Link) -> None:
        """Close ``link`` when what is under way on it has its answer: a shard that leaves gives it before it ends."""
        until = asyncio.get_running_loop().time() + self._timeout_s
        while link.in_flight and link.up and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_PAUSE_MAX_S)
        await link.close()

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def steady(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of ``work``, which is harmless to repeat and is done again, by the table of then, while people
        move: for as long as a shard may take for an answer. Raises what it raises."""
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + self._timeout_s, _PAUSE_S
        while True:
            try:
                return await work()
            except PoboxError as error:
                if error.code != Moving.code:
                    raise
                if loop.time() >= until:
                    raise Unavailable() from error
            await self.look()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    # -- asking --------------------------------------------------------------------------------------

    async def ask(self, shard: int, request: ops.AnyRequest, answer: type[T], *, timeout_s: float | None = None) -> T:
        """As :meth:`node.link.Link.ask`."""
        try:
            return await self.link(shard).ask(request, answer, timeout_s=timeout_s)
        except Refused as error:
            self._note(shard, error)
            raise

    async def ask_about(self, request: ops.AnyAboutUser, answer: type[T], *, timeout_s: float | None = None) -> T:
        """The same, of whoever has the person that ``request`` is :func:`about`."""

        async def once() -> T:
            request.table = self.version
            request.slot, owner = self.table.place(request.user)
            return await self.ask(owner, request, answer, timeout_s=timeout_s)

        return await self.steady(once)

    async def ask_each(
        self, requests: Sequence[tuple[int, ops.AnyRequest]], answer: type[T], *, unknown: T | None = None
    ) -> list[T]:
        """Ask several shards at once; the answers in the order of ``requests``.

        ``unknown`` is what a shard's 404 counts as, if it counts. Raises the first other refusal,
        after all have answered: by then it is settled what each of them did. With a shard down, or
        one that has no room, nobody is asked.
        """
        self.check([shard for shard, _request in requests])
        futures = [(shard, self.link(shard).send_request(request)) for shard, request in requests]
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
            self.link(shard).check()

    def check_room(self, priority: int, users: Sequence[str] | None) -> None:
        """Raises :class:`Refused` if a shard of ``users`` (None: any shard) said a moment ago that it takes nothing of
        ``priority``."""
        shut = self._shut(priority)
        if not shut:
            return
        concerned = iter(shut) if users is None or len(shut) == len(self.shards) else map(self.table.shard_of, users)
        for shard in concerned:
            if shard in shut:
                self._refuse(shard, shut[shard])

    @property
    def are_refusing(self) -> bool:
        """Whether a shard may have said a moment ago that there is something it takes nothing of."""
        return asyncio.get_running_loop().time() < self._shut_until

    def check_room_anywhere(self, priority: int) -> None:
        """Raises :class:`Refused` if every shard said a moment ago that it takes nothing of ``priority``."""
        shut = self._shut(priority)
        if len(shut) == len(self.shards):
            self._refuse(*next(iter(shut.items())))

    def _shut(self, priority: int) -> dict[int, Problem]:
        """The shards that take nothing of ``priority`` just now, and why."""
        now = asyncio.get_running_loop().time()
        if now >= self._shut_until:
            return {}
        return {shard: why for shard in self.shards if (why := self.shedding[shard].refusal(priority, now)) is not None}

    def _refuse(self, shard: int, why: Problem) -> NoReturn:
        self.shedding[shard].count()
        raise Refused(why)

    def shed(self, shard: int) -> int:
        """How many letters were refused in that shard's name since it was told last."""
        return self.shedding[shard].report() if shard < len(self.shedding) else 0

    def _note(self, shard: int, error: Refused) -> None:
        if shard < len(self.shedding):
            until = self.shedding[shard].refused(error, asyncio.get_running_loop().time())
            self._shut_until = max(self._shut_until, until)


def about(user: str) -> tuple[int, int, int, str]:
    """What a question about ``user`` begins with; :meth:`Links.ask_about` fills in the table and the slot."""
    return 0, 0, 0, user
