"""Traffic for a node that is being killed: everything is sent again until it is answered.

Some workers act side by side; what they do, and what came of it, goes into the ledger. Whatever the node
says that it must not say (an id that was acknowledged is unknown, another body under an old id is taken,
a status that isn't in the book) is a fault at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec

from loadtest.kill_boxes import digest
from loadtest.kill_ledger import Faults, Ledger, Letter
from node.model import BatchAccepted, Message, Receipt

USERS_MAX = 30
_RECENT, _NEWEST = 2_000, 30
_BATCH_LINES, _FLOOD_LINES = (2, 40), (60, 120)
_PAUSE_S = (0.02, 0.3)
_TIMEOUT_S = 20.0
_REFUSED = frozenset({503, 507})
_ANSWER_OF = {"POST": 202, "PUT": 204, "DELETE": 204, "GET": 200}
_WORDS = ("Brief", "日本語", "naïve", "🙂", "\u0000", "line\nbreak", "'quoted'", '"')


class Load:
    """Against the node at ``url``; ``rng`` decides everything that chance decides.

    ``sees_at_once``: what was acknowledged must be seen by the next read. With a full disk there is no
    room to put it where it is read, so there it needn't.
    """

    def __init__(
        self, url: str, ledger: Ledger, rng: random.Random, *, workers: int = 12, sees_at_once: bool = True
    ) -> None:
        self.url = url
        self._sees_at_once = sees_at_once
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        """what was done, and how often no answer or a refusal came"""
        self._ledger = ledger
        self._rng = rng
        self._workers = workers
        self.flooded = asyncio.Event()
        """set whenever so much was acknowledged that some of it can't be in its boxes yet"""
        self._over = asyncio.Event()
        self._number = 0
        self._recent: deque[tuple[Letter, str]] = deque(maxlen=_RECENT)
        self._unasked: dict[str, int] = {}
        self._http: httpx.AsyncClient
        self._acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._single, 40),
            (self._nameless, 6),
            (self._to_channel, 8),
            (self._batch, 5),
            (self._flood, 2),
            (self._again, 12),
            (self._other_body, 3),
            (self._delete, 8),
            (self._read, 10),
            (self._join_or_leave, 8),
        ]

    async def set_up(self) -> None:
        """Make the channels, and let some users join."""
        async with self._client() as self._http:
            for channel in self._ledger.channels:
                await self._insist("PUT", f"/api/v3/channels/{channel}", expect=(200, 201))
                for user in self._rng.sample(self._ledger.users, len(self._ledger.users) // 2):
                    await self._change(channel, user, inside=True)

    async def run(self) -> None:
        """Until :meth:`finish`; then every worker ends what it began."""
        self._over.clear()
        async with self._client() as self._http, asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    def finish(self) -> None:
        self._over.set()

    async def ask_receipts(self, most: int) -> None:
        """All mail is stored: the receipts of up to ``most`` new messages must say so."""
        ids = self._rng.sample(sorted(self._unasked), min(most, len(self._unasked)))
        async with self._client() as self._http:
            for at in range(0, len(ids), self._workers):
                await asyncio.gather(*(self._ask_receipt(id) for id in ids[at : at + self._workers]))
        self._unasked.clear()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=_TIMEOUT_S, trust_env=False)

    async def _work(self) -> None:
        acts, weights = zip(*self._acts, strict=True)
        while not self._over.is_set():
            [act] = self._rng.choices(acts, weights)
            await act()

    # -- one request -------------------------------------------------------------------------------

    async def _try(self, method: str, path: str, body: bytes | None, media: str) -> httpx.Response | None:
        """One attempt; None without an answer, or with one that asks to come again."""
        headers = {} if body is None else {"content-type": media}
        try:
            response = await self._http.request(method, path, content=body, headers=headers)
        except httpx.TransportError:
            self.counts["unanswered"] += 1
            return None
        if response.status_code not in _REFUSED:
            return response
        self.counts["refused"] += 1
        if "retry-after" not in response.headers:
            self.faults.say(f"{method} {path}: {response.status_code} without Retry-After")
        return None

    async def _insist(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        media: str = "application/json",
        expect: tuple[int, ...] = (),
        tries: int | None = None,
    ) -> tuple[httpx.Response | None, bool]:
        """Try until there is an answer, ``tries`` times at most; and whether it was the first try.

        A status that isn't expected is a fault.
        """
        first = True
        while (response := await self._try(method, path, body, media)) is None:
            first = False
            if tries is not None and (tries := tries - 1) <= 0:
                return None, False
            await asyncio.sleep(self._rng.uniform(*_PAUSE_S))
        if response.status_code not in (expect or (_ANSWER_OF[method],)):
            self.faults.say(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return response, first

    # -- what is done ------------------------------------------------------------------------------

    def _write(self, *, users: list[str] | None, channel: str | None, named: bool = True) -> Letter:
        """A new message. It differs from every other, so that one that is doubled under another id shows."""
        rng = self._rng
        self._number += 1
        text = rng.choice(_WORDS) * rng.choice((1, 3, 40, 40, 400))
        message: dict[str, Any] = {"title": f"{self._number}", "content": f"{self._number}: {text}"}
        if rng.random() < 0.3:
            message |= {"metadata": {"n": self._number, "deep": [{"a": None}, 1.5, "x"]}, "sender": "kill"}
        if rng.random() < 0.3:
            message |= {"priority": rng.randint(1, 10), "messageType": "note"}
        said = digest(
            channel or "direct",
            message["title"],
            message["content"],
            message.get("messageType", "text"),
            message.get("priority", 5),
            message.get("sender"),
            message.get("metadata"),
        )
        if users is not None:
            message["users"] = users
        if channel is not None:
            message["channelId"] = channel
        id = f"{rng.getrandbits(48):012x}-{self._number}" if named else None
        if id is not None:
            message["id"] = id
        return Letter(id, users, channel, msgspec.json.encode(message), said)

    def _somebody(self) -> list[str]:
        return self._rng.sample(self._ledger.users, self._rng.choice((1, 1, 1, 2, 5, USERS_MAX)))

    def _new(self) -> Letter:
        label = self._rng.choice(self._ledger.channels) if self._rng.random() < 0.2 else None
        return self._write(users=self._somebody(), channel=label)

    async def _post(self, letter: Letter) -> None:
        """Send it until it is taken; now and then it is given up after some tries."""
        self._ledger.sending(letter)
        tries = self._rng.randint(1, 3) if self._rng.random() < 0.05 else None
        if letter.id is None:
            tries = 1  # the node would make another message of it
        response, _first = await self._insist("POST", "/api/v3/messages", letter.body, tries=tries)
        if response is None or response.status_code != 202:
            self.counts["given up"] += 1
            self._ledger.given_up(letter)
            return
        self._taken(letter, msgspec.json.decode(response.content)["id"])

    def _taken(self, letter: Letter, id: str) -> None:
        self._ledger.accepted(letter, id)
        self._recent.append((letter, id))
        self._unasked[id] = -1 if letter.users is None else len(letter.users)

    async def _single(self) -> None:
        self.counts["single"] += 1
        await self._post(self._new())

    async def _nameless(self) -> None:
        self.counts["id by node"] += 1
        await self._post(self._write(users=self._somebody(), channel=None, named=False))

    async def _to_channel(self) -> None:
        self.counts["channel"] += 1
        await self._post(self._write(users=None, channel=self._rng.choice(self._ledger.channels)))

    async def _batch(self) -> None:
        self.counts["batch"] += 1
        await self._post_lines([self._new() for _ in range(self._rng.randint(*_BATCH_LINES))])

    async def _flood(self) -> None:
        """A batch that no postman keeps up with."""
        self.counts["flood"] += 1
        users = [self._rng.sample(self._ledger.users, USERS_MAX) for _ in range(self._rng.randint(*_FLOOD_LINES))]
        await self._post_lines([self._write(users=some, channel=None) for some in users])
        self.flooded.set()

    async def _post_lines(self, left: list[Letter]) -> None:
        """Lines until all are taken; one of them is wrong, and must be the only one refused."""
        for letter in left:
            self._ledger.sending(letter)
        wrong = b'{"id": "bad-line", "users": ["%s"], "title": "", "content": ""}' % self._ledger.users[0].encode()
        while left:
            body = b"\n".join([*(letter.body for letter in left), wrong]) + b"\n"
            path, media = "/api/v3/messages/batch", "application/x-ndjson"
            response, _first = await self._insist("POST", path, body, media=media)
            if response is None or response.status_code != 202:
                return
            answer = msgspec.json.decode(response.content, type=BatchAccepted)
            refused = {line.line - 1 for line in answer.rejected if line.status in _REFUSED}
            strange = [line for line in answer.rejected if line.status not in _REFUSED]
            if [line.line - 1 for line in strange] != [len(left)] or strange[0].field != "title":
                self.faults.say(f"batch: the wrong line is {len(left)}, refused were {strange[:3]}")
            for index, letter in enumerate(left):
                if index not in refused:
                    assert letter.id is not None
                    self._taken(letter, letter.id)
            left = [letter for index, letter in enumerate(left) if index in refused]

    async def _again(self) -> None:
        """The same id and body once more: 202, and nothing changes."""
        if not self._recent:
            return
        letter, _id = self._choice()
        if letter.id is not None:
            self.counts["sent again"] += 1
            await self._insist("POST", "/api/v3/messages", letter.body)

    async def _other_body(self) -> None:
        """Another body under an old id is refused."""
        if not self._recent:
            return
        letter, _id = self._rng.choice(self._recent)
        if letter.id is not None:
            self.counts["other body"] += 1
            other = msgspec.json.decode(letter.body) | {"title": "another"}
            await self._insist("POST", "/api/v3/messages", msgspec.json.encode(other), expect=(409,))

    def _choice(self) -> tuple[Letter, str]:
        """One of those that were taken of late; every other time, of the very last."""
        newest = min(len(self._recent), self._rng.choice((_NEWEST, _RECENT)))
        return self._recent[-self._rng.randint(1, newest)]

    def _one_owed(self) -> tuple[str, str, str] | None:
        """Some user who must have some message, its id, its digest."""
        if not self._recent:
            return None
        letter, id = self._choice()
        user = self._rng.choice(letter.users or self._ledger.users)
        said = self._ledger.owed(user, id)
        return None if said is None else (user, id, said)

    async def _delete(self) -> None:
        """204; or 404 after a try that wasn't answered. Never 404 at once: it was acknowledged."""
        if (owed := self._one_owed()) is None:
            return
        user, id, said = owed
        self.counts["deleted"] += 1
        self._ledger.deleting(user, id)
        path = f"/api/v3/users/{user}/messages/{id}"
        response, first = await self._insist("DELETE", path, expect=(204, 404))
        if response is not None and response.status_code == 404 and not self._sees_at_once:
            self._ledger.not_deleted(user, id, said)
            return
        if response is not None and response.status_code == 404 and first:
            self.faults.say_lost(f"{user}: {id} was acknowledged and can't be deleted, it isn't there")
        self._ledger.deleted(user, id)

    async def _read(self) -> None:
        """What was acknowledged is seen by the next read."""
        if (owed := self._one_owed()) is None:
            return
        user, id, said = owed
        self.counts["read"] += 1
        response, _first = await self._insist("GET", f"/api/v3/users/{user}/messages/{id}", expect=(200, 404))
        if self._ledger.owed(user, id) is None:
            return  # deleted meanwhile
        if response is None or response.status_code == 404:
            if self._sees_at_once:
                self.faults.say_lost(f"{user}: {id} was acknowledged and isn't seen by a read")
            return
        seen = msgspec.json.decode(response.content, type=Message)
        found = digest(
            seen.channel_id, seen.title, seen.content, seen.message_type, seen.priority, seen.sender, seen.metadata
        )
        if found != said:
            self.faults.say(f"{user}: {id} reads differently from what was sent")

    async def _join_or_leave(self) -> None:
        channel, user = self._rng.choice(self._ledger.channels), self._rng.choice(self._ledger.users)
        if not self._ledger.is_changing(channel, user):
            self.counts["joined or left"] += 1
            await self._change(channel, user, inside=not self._ledger.is_inside(channel, user))

    async def _change(self, channel: str, user: str, *, inside: bool) -> None:
        self._ledger.changing(channel, user)
        method = "PUT" if inside else "DELETE"
        await self._insist(method, f"/api/v3/channels/{channel}/members/{user}")
        self._ledger.changed(channel, user, inside=inside)

    async def _ask_receipt(self, id: str) -> None:
        self.counts["receipts"] += 1
        response, _first = await self._insist("GET", f"/api/v3/messages/{id}/receipt")
        if response is None or response.status_code != 200:
            return
        receipt = msgspec.json.decode(response.content, type=Receipt)
        targets = self._unasked[id]
        whole = receipt.stored == receipt.targets and not receipt.pending and not receipt.failed
        if not whole or targets not in (-1, receipt.targets):
            self.faults.say(f"receipt of {id} to {targets}: {receipt}")
