"""Push: devices that sleep are told that something came, after it is in the box.

What came is noted when it is stored, in memory, for those who have a device that wants to know (or for all, if there is
a webhook); that is all a delivery ever waits for. What was not sent when the shard ends is not sent any more, and what
the journal replays at a start was told before, or never is: a push is a hint, the message is in the box.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from node import ops
from node.clock import now_us
from node.config import Push as Settings
from node.errors import BadField, DiskFull, NotFound
from node.model import PushDevices
from shard import webhook
from shard.backlog import Letter
from shard.journal import Journal
from shard.lanes import HIGH
from shard.notice import Notice, notice_of
from shard.outward import Answer, Outward
from shard.pusher import Pusher, Verdict, judge
from shard.subscriptions import DEVICES_MAX, Subscription, Subscriptions

if TYPE_CHECKING:
    from shard.webpush import WebPush

_DRAIN_S = 2.0
_Device = tuple[str, str]
"""user and device; of a webhook user and message id: there each message is told by itself"""


class Push:
    """For the users whose subscriptions are in ``journal``. ``accepting`` raises if nothing may be written now;
    ``muted`` says of a channel whether a user wants to hear of it only what is urgent."""

    def __init__(
        self,
        settings: Settings,
        data: Path,
        journal: Journal,
        *,
        accepting: Callable[[], None],
        muted: Callable[[str, str], bool],
    ) -> None:
        self._settings = settings
        self._data = data
        self._accepting = accepting
        self._muted = muted
        self._webpush: WebPush | None = None
        self._after_seq = 0
        self.subscriptions = Subscriptions(journal)
        self._everybody = settings.enabled and bool(settings.webhook)
        self._some = self.subscriptions.of if settings.enabled else {}
        self._strangers = Outward(allow_private=settings.allow_private, connections=settings.concurrency)
        self._gateway = Outward(allow_private=True, connections=settings.concurrency)
        self.devices: Pusher[_Device] = Pusher(
            "device",
            send=self._to_device,
            most=settings.queue_max,
            concurrency=settings.concurrency,
            rest_s=settings.rest_s,
        )
        self.webhook: Pusher[_Device] = Pusher(
            "webhook",
            send=self._to_webhook,
            most=settings.queue_max,
            concurrency=settings.concurrency,
            rest_s=0,
        )

    def begin(self, after_seq: int) -> None:
        """Letters up to ``after_seq`` are replayed ones."""
        self._after_seq = after_seq

    def wants(self, user: str) -> bool:
        """Whether anybody is to be told of what comes for ``user``. Asked at each delivery."""
        return self._everybody or user in self._some

    def stored(self, user: str, letters: list[Letter]) -> None:
        """``letters`` are in the box of ``user``, who is wanted."""
        now = monotonic()
        devices = self.subscriptions.of.get(user, {}).values()
        for letter in letters:
            row = letter.row
            if row is None or letter.seq <= self._after_seq or row[5] < self._settings.priority_min:
                continue
            if letter.lane != HIGH and self._muted(row[1], user):
                continue
            for device in devices:
                if row[5] >= device.priority_min:
                    self.devices.put((user, device.device), notice_of(row, now))
            if self._settings.webhook:
                self.webhook.put((user, letter.id), notice_of(row, now))

    async def run(self) -> None:
        """Send until cancelled."""
        if not self._settings.enabled:
            await asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.devices.run(), name="push to devices")
                if self._settings.webhook:
                    group.create_task(self.webhook.run(), name="push to the webhook")
        finally:
            await self._strangers.close()
            await self._gateway.close()

    async def drain(self) -> None:
        """Send what is to be sent at once, as far as there is time."""
        await asyncio.gather(self.devices.drain(_DRAIN_S), self.webhook.drain(_DRAIN_S))

    # -- questions ---------------------------------------------------------------------------------

    async def key(self, _q: ops.AskPushKey) -> str:
        return (await self._services()).public_key

    async def put(self, q: ops.PutPush) -> bool:
        """Checked and durable when answered."""
        services = await self._services()
        self._accepting()
        point, secret = services.keys_of(q.p256dh, q.auth)
        await self._strangers.check(q.endpoint)
        devices = self.subscriptions.of.get(q.user, {})
        if q.device not in devices and len(devices) >= DEVICES_MAX:
            raise BadField(f"a user may have {DEVICES_MAX} devices that are pushed to", field="device")
        made = Subscription(q.user, q.device, q.endpoint, point, secret, q.priority_min, now_us())
        return await self.subscriptions.put(made)

    async def drop(self, q: ops.DropPush) -> None:
        found = self.subscriptions.find(q.user, q.device)
        if found is None:
            raise NotFound("this device has no subscription", field="device")
        await self.subscriptions.drop(found)

    async def list(self, q: ops.ListPush) -> PushDevices:
        devices = self.subscriptions.of.get(q.user, {})
        return PushDevices(devices=[devices[name].outward() for name in sorted(devices)])

    async def _services(self) -> WebPush:
        """How push services are asked."""
        if not self._settings.enabled:
            raise NotFound("push is turned off")
        if self._webpush is None:
            self._webpush = await asyncio.to_thread(self._loaded)
        return self._webpush

    def _loaded(self) -> WebPush:
        from shard.webpush import WebPush  # with libraries that a shard does without until somebody subscribes

        return WebPush.load(self._data, self._settings.subject, self._settings.content)

    # -- sending -----------------------------------------------------------------------------------

    async def _to_device(self, key: _Device, notice: Notice) -> Answer | None:
        subscription = self.subscriptions.find(*key)
        if subscription is None:
            return None
        services = await self._services()
        answer = await self._strangers.post(*services.request(subscription, notice))
        if judge(answer.status, None, 1) is Verdict.GONE:
            with contextlib.suppress(DiskFull):  # it is found gone again by the next message
                await self.subscriptions.drop(subscription)
        return answer

    async def _to_webhook(self, key: _Device, notice: Notice) -> Answer | None:
        settings = self._settings
        request = webhook.request(settings.webhook, settings.webhook_format, key[0], notice, settings.content)
        return await self._gateway.post(*request)
