"""What may be asked about dead letters: which there are, and that one goes back into the journal or for good.

A letter that is requeued is journaled first, like any that is accepted, in the transaction that takes it from the dead;
so it is one of the two at any moment, and a caller that hears nothing may ask again. Its time (``timeoutSeconds``)
begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from node import ops
from node.clock import now_us
from node.errors import MailboxFull, NotFound
from shard import backlog as letters_of
from shard.dead_letters import DeadLetters, Moved
from shard.journal import MESSAGE, Journal
from shard.quotas import Quotas

_decode = msgspec.msgpack.Decoder(ops.Letter).decode


class Morgue:
    """``accepting`` raises if nothing is journaled just now; ``enter`` takes a journaled letter and its targets."""

    def __init__(
        self,
        journal: Journal,
        dead: DeadLetters,
        quotas: Quotas,
        *,
        accepting: Callable[[], None],
        enter: Callable[[letters_of.Letter, list[str]], None],
    ) -> None:
        self._journal = journal
        self._dead = dead
        self._quotas = quotas
        self._accepting = accepting
        self._enter = enter

    async def page(self, q: ops.ListDeadLetters) -> list[ops.DeadLetter]:
        return await self._journal.read(lambda: self._dead.page(q.user, q.reason, q.before, q.limit))

    async def requeue(self, q: ops.RequeueDeadLetter) -> None:
        self._accepting()
        if q.user in self._quotas.full:
            raise MailboxFull([q.user])

        def work() -> tuple[int, ops.Letter, bytes, Moved] | None:
            known, old = self._dead.requeue(q.user, q.id)
            if not known:
                raise _unknown()
            if old is None:
                return None
            letter = _anew(_decode(old), now_us())
            body = msgspec.msgpack.encode(letter)
            return self._journal.add_one(MESSAGE, q.id, [q.user], body), letter, body, Moved(-1, -len(old))

        done = await self._journal.write(work)
        if done is not None:
            seq, letter, body, moved = done
            self._dead.committed(moved)
            self._enter(letters_of.message(seq, 1, None, letter, len(body)), [q.user])

    async def drop(self, q: ops.DropDeadLetter) -> None:
        self._accepting()
        moved = await self._journal.write(lambda: self._dead.delete(q.user, q.id))
        if moved is None:
            raise _unknown()
        self._dead.committed(moved)


def _anew(letter: ops.Letter, now: int) -> ops.Letter:
    """``letter`` with all of its time before it once more."""
    if letter.timeout_s is None:
        return letter
    return msgspec.structs.replace(letter, timeout_s=letter.timeout_s + (now - letter.accepted_us) / 1e6)


def _unknown() -> NotFound:
    return NotFound("there is no such dead letter", field="deadLetterId")
