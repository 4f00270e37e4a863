"""The desk where a person's own box is asked for. Whoever gets it finds everything in it that was accepted before.

What is in its way is said here, once for everybody who reads: a box that another program has, one that is damaged or
on its way back from a backup, a disk that gives errors or has no room. Each is ours and passes: 503 or 507.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import apsw
import structlog

from node import ops
from node.clock import now_us
from node.errors import DiskFull, Moving, NotFound, Unavailable
from node.model import Message, Messages, Usage, UserChannels
from shard import archive, deeds
from shard import backlog as letters_of
from shard.journal import REMOVAL, Journal
from shard.mailbox import CORRUPT, Mailbox
from shard.mailboxes import Away, Mailboxes
from shard.opener import Lost
from shard.postmen import Postmen
from shard.quotas import Quotas
from shard.trouble import NO_ROOM, OUT_OF_ORDER, word

log = structlog.get_logger()


class Desk:
    """``accepting`` raises if nothing is journaled just now; ``enter`` takes a journaled letter and its targets."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        postmen: Postmen,
        journal: Journal,
        quotas: Quotas,
        *,
        accepting: Callable[[], None],
        enter: Callable[[letters_of.Letter, list[str]], None],
    ) -> None:
        self._mailboxes = mailboxes
        self._postmen = postmen
        self._journal = journal
        self._quotas = quotas
        self._accepting = accepting
        self._enter = enter

    @contextlib.asynccontextmanager
    async def box(self, user: str) -> AsyncIterator[Mailbox]:
        """``user``'s box, held, with everything that waits for him in it. Raises :class:`NotFound` if there is none."""
        self._postmen.check(user)
        await self._postmen.deliver_now(user)
        try:
            async with self._mailboxes.hold(user, create=False) as box:
                if box is None:
                    raise NotFound("no such user", field="userId")
                try:
                    yield box
                except OUT_OF_ORDER:
                    self._mailboxes.discard(user)
                    raise
                except CORRUPT as error:  # while it is held: nobody else is in the file that is set aside
                    self._mailboxes.discard(user, error)
                    raise
        except Away as error:
            raise Moving() from error
        except Lost as error:
            raise Unavailable("The mailbox is being restored") from error
        except apsw.BusyError as error:
            raise Unavailable("The mailbox is in use by another program") from error
        except CORRUPT as error:
            raise Unavailable("The mailbox is damaged and is being put right") from error
        except OUT_OF_ORDER as error:
            if word(error) == NO_ROOM:
                raise DiskFull() from error
            log.warning("a mailbox can't be read", user=user, error=str(error) or repr(error))
            raise Unavailable("The mailbox can't be read just now") from error

    async def page(self, q: ops.Page) -> Messages:
        async with self.box(q.user) as box:
            return await self._mailboxes.read(lambda: archive.page(box, q.channel, q.limit, q.cursor))

    async def read_one(self, q: ops.ReadOne) -> Message:
        async with self.box(q.user) as box:
            found = await self._mailboxes.read(lambda: archive.read(box, q.id))
        if found is None:
            raise NotFound("no such message", field="id")
        return found

    async def channels(self, q: ops.AskUserChannels) -> UserChannels:
        async with self.box(q.user) as box:
            return await self._mailboxes.read(lambda: box.channels(now_us()))

    async def usage(self, q: ops.AskUsage) -> Usage:
        async with self.box(q.user) as box:
            return self._quotas.usage(q.user, await self._quotas.in_thread(box.usage))

    async def remove(self, q: ops.Remove) -> None:
        """Journaled first, like everything that changes a box."""
        self._accepting()
        at_us = now_us()
        async with self.box(q.user) as box:
            if not await self._mailboxes.read(lambda: box.has(q.id) or q.id in box.shelved([q.id])):
                raise NotFound("no such message", field="id")
            shelves = box.shelves
        seq = await self._journal.write(lambda: self._journal.add_one(REMOVAL, q.id, [q.user], deeds.encode(at_us)))
        self._enter(letters_of.removal(seq, q.id, at_us), [q.user])
        await self._postmen.deliver_now(q.user)
        if shelves:
            async with self.box(q.user) as box:
                await self._mailboxes.read(lambda: archive.forget(box, q.id))
