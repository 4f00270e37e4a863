"""A real shard in the test's own process, without its socket: begun, asked, killed, begun again.

``kill`` is what SIGKILL does to the files: nothing is drained, let go or checkpointed. Data lies in
memory where there is a place for it; what needs a disk of its own says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import pytest

from node import ops, paths
from node.clock import iso
from node.config import Backup, Config, Push, Retry
from node.config import Shard as Settings
from node.errors import Refused
from node.model import MemberChanged, Message
from node.placement import Placement
from node.slots import slot_of, table_for
from shard.core import Shard
from shard.disk import Disk
from shard.layout import lay_out
from shard.mailbox import FILE
from tests import encrypted

T = TypeVar("T")

PATIENCE_S = 60.0
ONE = Placement(version=1, shards=1)
START_US = 1_795_000_000_000_000
RETRY = Retry(base_s=0.05, cap_s=0.1)
"""whoever waits for a box does so for a test's time"""
_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one example."""
    with tempfile.TemporaryDirectory(prefix="pobox-", dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        yield Path(name)


@contextlib.contextmanager
def laid_out(shards: int = 1) -> Iterator[Path]:
    """A new data directory for ``shards`` shards."""
    with scratch() as directory:
        lay_out(directory / "data", shards, encrypted.keyring(directory / "data"))
        yield directory / "data"


def letter(
    message_id: str,
    *,
    channel_id: str = "direct",
    priority: int = 5,
    at: int = 0,
    content: str = "content",
    timeout_s: float | None = None,
) -> ops.Letter:
    """A letter that was made ``at`` seconds after the start of all things."""
    moment = START_US + at * 1_000_000
    return ops.Letter(
        message_id, channel_id, "title", content, "text", priority, "sender", iso(moment), iso(moment), None, moment,
        timeout_s,
    )  # fmt: skip


def delivery(
    body: ops.Letter,
    users: list[str] | None = None,
    *,
    channel: str | None = None,
    digest: bytes = b"digest",
    fresh: bool = False,
    claim: bool = True,
    table: int = 1,
) -> ops.Deliver:
    named = users or []
    raw = msgspec.Raw(msgspec.msgpack.encode(body))
    slots = [slot_of(user) for user in named]
    digest = b"" if fresh else digest
    return ops.Deliver(0, table, body.id, digest, fresh, claim, channel, named, slots, raw, body.priority)


def users_of(shard: int, shards: int, count: int, prefix: str = "user") -> list[str]:
    """Names that live on ``shard`` of ``shards``."""
    table = table_for(shards)
    found: list[str] = []
    number = 0
    while len(found) < count:
        if table[slot_of(f"{prefix}{number}")] == shard:
            found.append(f"{prefix}{number}")
        number += 1
    return found


async def until(true: Callable[[], object], what: str, life: asyncio.Future[Any] | None = None) -> None:
    """Wait for ``true()``; the end of ``life`` meanwhile is raised."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            if life is not None and life.done():
                life.result()
                raise AssertionError(f"the shard ended, waiting for {what}")
            await asyncio.sleep(0.002)


class Running:
    """Shard ``index`` of ``layout`` on ``data``; entered, it has replayed and works; left, it is killed."""

    def __init__(
        self,
        data: Path,
        layout: Placement = ONE,
        index: int = 0,
        *,
        disk: Disk | None = None,
        push: Push | None = None,
        backup: Backup | None = None,
        retry: Retry | None = None,
        **settings: Any,
    ) -> None:
        known: dict[str, Any] = {"barrier_s": 3600, "disk_reserve_bytes": 0, "postmen": 3, **settings}
        self.data = data
        self.layout = layout
        self.disk = disk or Disk(data)
        config = Config(
            shard=Settings(**known), push=push or Push(), backup=backup or Backup(at=""), retry=retry or RETRY
        )
        self.shard = Shard(config, layout, index, self.disk, keyring=encrypted.keyring(data))
        self.life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Running:
        self.shard.start()
        self.life = asyncio.create_task(self.shard.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def kill(self) -> None:
        """What is in the files stays as it is."""
        if self.life is None:
            return
        self.shard.mailboxes.end()
        self.life.cancel()
        await asyncio.wait([self.life])
        self.life = None
        # A connection that is just being made would outlive its shard, here where the process does.
        await until(lambda: not self.shard.mailboxes._opening, "the end of what is being opened")
        self.shard.close()
        self.disk.close()

    async def stop(self) -> None:
        """As SIGTERM does it."""
        await self.while_alive(self.shard.drain())
        await self.kill()

    async def ended_by(self, kind: type[Exception]) -> None:
        """The shard ends by itself, for an error of ``kind``; its data stays open until :meth:`kill`."""
        assert self.life is not None
        await asyncio.wait([self.life], timeout=PATIENCE_S)
        with pytest.raises(BaseExceptionGroup) as ended:
            self.life.result()
        assert ended.group_contains(kind)

    async def while_alive(self, work: Awaitable[T]) -> T:
        """The result of ``work``; what ends the shard meanwhile is raised."""
        assert self.life is not None
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([task, self.life], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            self.life.result()
        return task.result()

    async def asked(self, question: Callable[[], T]) -> T:
        """The answer of the shard's database: its connection is the journal's thread's, never the test's."""
        return await self.while_alive(self.shard.journal.read(question))

    def send(self, request: ops.Deliver) -> asyncio.Future[int]:
        """The targets that the answer will name, or :class:`Refused`."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(frame: bytes) -> None:
            said = ops.decode_answer(frame)
            if isinstance(said, ops.Failed):
                future.set_exception(Refused(said.problem, said.shut))
            else:
                future.set_result(msgspec.msgpack.decode(said.body, type=ops.Taken).targets)

        self.shard.office.take(request, answer)
        return future

    async def deliver(self, request: ops.Deliver) -> int:
        return await self.while_alive(self.send(request))

    async def deliver_until_refused(self, status: int) -> list[str]:
        """Letters to ada until one is refused with ``status``; the ids that were accepted."""
        accepted: list[str] = []
        while True:
            body = letter(f"n{len(accepted)}", content="x" * 20_000)
            try:
                await self.deliver(delivery(body, ["ada"]))
            except Refused as refused:
                if refused.status != status:
                    raise
                return accepted
            accepted.append(body.id)

    async def settled(self) -> None:
        """Until everything accepted is in its box."""
        await until(lambda: not self.shard.backlog.waiting, "an empty backlog", self.life)

    async def rounded(self) -> None:
        """Until the round that begins with a start is over: nothing does chores by itself any more."""
        await until(lambda: self.shard.rounds.made, "the first round", self.life)

    async def let_go(self) -> None:
        """One barrier, and the rows that it covers are purged."""
        await self.while_alive(self.shard.barrier.flush())
        await self.while_alive(self.shard.office.drain())

    async def checkpointed(self, user: str) -> None:
        """Until ``user``'s box has no log any more; its birth must be covered by a barrier."""
        log = box_path(self.data, user).with_name(f"{FILE}-wal")
        await until(lambda: not log.stat().st_size, "the checkpoint", self.life)

    async def page(self, user: str) -> list[Message]:
        """All messages of ``user``, newest first; nobody has none."""
        question = ops.Page(0, self.layout.version, slot_of(user), user, None, 100_000, None)
        return (await self.while_alive(self.shard.desk.page(question))).messages

    async def ids(self, user: str) -> list[str]:
        return [message.id for message in await self.page(user)]

    async def remove(self, user: str, message_id: str) -> None:
        question = ops.Remove(0, self.layout.version, slot_of(user), user, message_id)
        await self.while_alive(self.shard.desk.remove(question))

    async def receipt(self, message_id: str) -> ops.ReceiptPart:
        return await self.while_alive(self.shard.receipt(ops.AskReceipt(0, message_id)))

    async def put_channel(self, name: str) -> bool:
        question = ops.PutChannel(0, name, None, None, None, START_US)
        return await self.while_alive(self.shard.channels.put(question))

    async def change(
        self, channel: str, *, add: list[str] | None = None, remove: list[str] | None = None
    ) -> MemberChanged:
        named = (add or []) + (remove or [])
        slots = [slot_of(user) for user in named]
        question = ops.ChangeMembers(0, self.layout.version, channel, add or [], remove or [], slots, START_US)
        return await self.while_alive(self.shard.channels.change_members(question))

    async def channels_of(self, user: str) -> list[str]:
        question = ops.AskUserChannels(0, self.layout.version, slot_of(user), user)
        return [channel.id for channel in (await self.while_alive(self.shard.desk.channels(question))).channels]


def box_path(data: Path, user: str) -> Path:
    return paths.user_dir(data, user) / FILE


def stored(data: Path) -> dict[str, list[str]]:
    """Who has which messages, read from the files of a shard that is gone."""
    found: dict[str, list[str]] = {}
    for path in sorted((data / "user_storage").glob(f"*/*/{FILE}")):
        db = encrypted.opened(path, data)
        try:
            assert db.pragma("integrity_check") == "ok"
            found[path.parent.name] = [row[0] for row in db.execute("SELECT id FROM messages ORDER BY id")]
        finally:
            db.close()
    return found
