"""Push, from a shard to a service that really decrypts."""

from __future__ import annotations

import asyncio
import json
import stat
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from node import ops, paths
from node.config import Push as Settings
from node.errors import BadField, NotFound, PoboxError, Unsure
from node.model import PushDevice
from node.placement import Placement
from node.slots import slot_of
from shard import subscriptions, webhook, webpush
from shard.doctor import Doctor
from shard.layout import lay_out
from shard.notice import PAYLOAD_MAX, Notice, payload
from shard.pusher import TRIES_MAX, Verdict, judge
from shard.subscriptions import Subscription
from shard.webpush import WebPush
from tests.push_service import Device, PushService

from .cluster import Cluster
from .running import Running, delivery, laid_out, letter, scratch, until, users_of

LOCAL = Settings(allow_private=True, rest_s=0.2, content="text")


@pytest.fixture
def service() -> Iterator[PushService]:
    with PushService() as running:
        yield running
    assert running.faults == []


def ask(user: str, device: str, made: dict[str, Any], priority_min: int = 1, table: int = 1) -> ops.PutPush:
    keys = made["keys"]
    return ops.PutPush(
        0, table, slot_of(user), user, device, made["endpoint"], keys["p256dh"], keys["auth"], priority_min
    )


async def subscribe(
    running: Running, service: PushService, user: str, device: str, priority_min: int = 1, name: str = ""
) -> bool:
    made = service.subscribe(name or device)
    return await running.while_alive(running.shard.push.put(ask(user, device, made, priority_min)))


async def listed(running: Running, user: str) -> list[PushDevice]:
    return (await running.shard.push.list(ops.ListPush(0, 1, slot_of(user), user))).devices


# -- what goes over the wire ----------------------------------------------------------------------


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_example_of_rfc_8291_is_encrypted_byte_by_byte() -> None:
    number = int.from_bytes(raw("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), "big")
    sealed = webpush.encrypt(
        b"When I grow up, I want to be a watermelon",
        raw("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        raw("BTBZMqHH6r4Tts7J_aSIgg"),
        ec.derive_private_key(number, ec.SECP256R1()),
        raw("DGv6ra1nlYgDCS1FRnbzlw"),
    )
    assert sealed == raw(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@pytest.mark.parametrize("content", ["none", "title", "text"])
@pytest.mark.parametrize("text", ["short", "\x00" * 600, "𝄞" * 600, '"\\' * 300])
def test_a_payload_is_small_whatever_the_message_is(content: str, text: str) -> None:
    notice = Notice("i" * 128, "c" * 128, text[:200], text[:400], 5, "", None, 0.0)
    made = payload(notice, "u" * 128, content)
    assert len(made) <= PAYLOAD_MAX
    assert len(webpush.encrypt(made, Device().point, b"0" * 16)) <= 4_096
    if content == "none":
        assert b"title" not in made


def test_a_stored_message_is_told_to_each_device_that_wants_it(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                service.key = await running.shard.push.key(ops.AskPushKey(0))
                assert await subscribe(running, service, "ada", "phone")
                assert await subscribe(running, service, "ada", "watch", priority_min=8)
                await running.deliver(delivery(letter("one", channel_id="news", priority=5), ["ada", "bo"]))
                await until(lambda: service.said("phone"), "the first push", running.life)
                await running.deliver(delivery(letter("two", priority=9), ["ada"]))
                await until(lambda: service.said("watch") and len(service.said("phone")) == 2, "both", running.life)
                devices = running.shard.push.devices
                await until(lambda: devices.results["sent"] == 3, "the count", running.life)
                assert devices.sent_s.count == 3

    asyncio.run(go())
    first, second = (push for push in service.pushes if push.device == "phone")
    assert first.said == {
        "user": "ada", "count": 1, "priority": 5, "id": "one", "channelId": "news", "title": "title", "text": "content",
    }  # fmt: skip
    assert (first.headers["urgency"], second.headers["urgency"]) == ("normal", "high")
    assert len(first.headers["topic"]) == 32
    assert "news" not in first.headers["topic"]
    assert "topic" not in second.headers
    assert [said["id"] for said in service.said("watch")] == ["two"]


def test_of_a_muted_channel_only_what_is_urgent_is_told(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            for until_us in (4_000_000_000_000_000, 1, None):  # in force, over, taken back
                async with Running(data, push=LOCAL) as running:  # each time begun anew: the mute is known from disk
                    service.key = await running.shard.push.key(ops.AskPushKey(0))
                    await subscribe(running, service, "ada", "phone")
                    await running.put_channel("news")
                    await running.change("news", add=["ada"])
                    await running.while_alive(
                        running.shard.channels.mute(ops.SetMute(0, 1, slot_of("ada"), "ada", "news", until_us))
                    )
                async with Running(data, push=LOCAL) as running:
                    name = f"{until_us}"
                    await running.deliver(delivery(letter(f"{name} quiet", priority=7, channel_id="news"), ["ada"]))
                    await running.settled()
                    await running.deliver(delivery(letter(f"{name} loud", priority=8, channel_id="news"), ["ada"]))
                    await until(lambda: service.said("phone")[-1:] and name in service.said("phone")[-1]["id"], "it")  # noqa: B023
                    await until(lambda: any(s["id"] == f"{name} loud" for s in service.said("phone")), "loud")  # noqa: B023

    asyncio.run(go())
    told = [(said["id"], said["count"]) for said in service.said("phone")]
    assert told[0] == ("4000000000000000 loud", 1)
    assert sum(count for name, count in told if not name.startswith("4")) == 4


def test_without_content_a_push_says_only_where_to_look(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=Settings(allow_private=True, content="none")) as running:
                await subscribe(running, service, "ada", "phone")
                await running.deliver(delivery(letter("one"), ["ada"]))
                await until(lambda: service.said("phone"), "the push", running.life)

    asyncio.run(go())
    assert service.said("phone") == [{"user": "ada", "count": 1, "priority": 5, "id": "one", "channelId": "direct"}]


@pytest.mark.slow
def test_the_node_has_one_key_that_nobody_else_can_read() -> None:
    async def go() -> None:
        with scratch() as directory:
            data = directory / "data"
            lay_out(data, 2)
            kept = paths.vapid_path(data).read_bytes()
            async with Cluster(data, 2) as cluster:
                keys = [await one.shard.push.key(ops.AskPushKey(0)) for one in cluster.running]
                await cluster.change(3)
                keys += [await one.shard.push.key(ops.AskPushKey(0)) for one in cluster.running]
            assert len(set(keys)) == 1
            assert raw(keys[0])[0] == 4
            assert len(raw(keys[0])) == 65
            assert paths.vapid_path(data).read_bytes() == kept
            assert stat.S_IMODE(paths.vapid_path(data).stat().st_mode) == 0o600

    asyncio.run(go())


# -- what a push service says ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410])
def test_a_device_that_is_gone_is_forgotten(service: PushService, status: int) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "phone")
                await subscribe(running, service, "ada", "laptop")
                service.answers("phone", (status, {}))
                await running.deliver(delivery(letter("one"), ["ada"]))
                await until(lambda: len(running.shard.push.subscriptions) == 1, "its going", running.life)
                assert [device.device for device in await listed(running, "ada")] == ["laptop"]
                await until(lambda: service.said("laptop"), "the other", running.life)
            async with Running(data, push=LOCAL) as running:
                assert [device.device for device in await listed(running, "ada")] == ["laptop"]

    asyncio.run(go())


def test_a_commit_that_may_have_failed_ends_the_shard_also_where_a_device_is_forgotten(
    service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        with laid_out() as data:
            running = await Running(data, push=LOCAL).__aenter__()
            await subscribe(running, service, "ada", "phone")

            async def drop(_subscription: Subscription) -> None:
                raise Unsure("as if")

            monkeypatch.setattr(running.shard.push.subscriptions, "drop", drop)
            service.answers("phone", (410, {}))
            await running.deliver(delivery(letter("one"), ["ada"]))
            await running.ended_by(Unsure)
            await running.kill()

    asyncio.run(go())


@pytest.mark.slow
def test_who_says_when_to_come_again_is_obeyed_and_who_fails_is_asked_again(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "patient")
                await subscribe(running, service, "ada", "failing")
                service.answers("patient", (429, {"retry-after": "1"}))
                service.answers("failing", (500, {}), (503, {}))
                service.hangs |= {"patient", "failing"}
                await running.deliver(delivery(letter("one"), ["ada"]))
                await until(lambda: len(service.asked) == 2, "the first tries", running.life)
                await running.deliver(delivery(letter("two", priority=10), ["ada"]))
                await running.settled()
                service.hangs.clear()
                await until(lambda: len(service.pushes) == 2, "both", running.life)
                assert len(await listed(running, "ada")) == 2
                assert running.shard.push.devices.results["again"] == 3  # counted before it is tried again

    asyncio.run(go())
    first, second = service.times("patient")
    assert second - first >= 1.0
    assert len(service.times("failing")) == 3
    for device in ("patient", "failing"):  # what came meanwhile went with it
        assert [(said["count"], said["id"]) for said in service.said(device)] == [(2, "two")]


def test_what_an_answer_means() -> None:
    assert [judge(status, None, 1) for status in (200, 201, 204)] == [Verdict.SENT] * 3
    assert [judge(status, None, 1) for status in (404, 410)] == [Verdict.GONE] * 2
    assert {judge(status, None, 1) for status in (301, 307, 400, 401, 403, 413)} == {Verdict.REFUSED}
    assert {judge(status, None, 1) for status in (0, 408, 429, 500, 502, 503)} == {Verdict.AGAIN}
    assert judge(503, None, TRIES_MAX) is Verdict.GIVEN_UP
    assert judge(429, 86_400.0, 1) is Verdict.GIVEN_UP


def test_a_service_that_never_answers_holds_up_nothing(service: PushService, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("_ANSWER_S", "_ALL_S"):  # it is not given up before the others are served
        monkeypatch.setattr(f"shard.poster.{bound}", 600.0)

    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "tarpit")
                await subscribe(running, service, "bo", "phone")
                service.hangs.add("tarpit")
                for number in range(20):
                    await running.deliver(delivery(letter(f"n{number}"), ["ada", "bo"]))
                await running.settled()
                assert len(await running.ids("ada")) == 20
                await until(lambda: sum(said["count"] for said in service.said("phone")) == 20, "his", running.life)
                assert len(service.times("tarpit")) == 1

    asyncio.run(go())


def test_a_flood_is_a_few_notices_that_count(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=msgspec.structs.replace(LOCAL, rest_s=1.0)) as running:
                await subscribe(running, service, "ada", "phone")
                sends = [running.send(delivery(letter(f"n{n}", channel_id=f"c{n % 2}"), ["ada"])) for n in range(300)]
                await asyncio.gather(*sends)
                await until(lambda: sum(said["count"] for said in service.said("phone")) == 300, "all", running.life)
                assert len(running.shard.push.devices.outbox) <= 1

    asyncio.run(go())
    assert len(service.pushes) < 10


def test_what_is_replayed_is_not_told_again(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "phone")
                await running.deliver(delivery(letter("old"), ["ada"]))
                await until(lambda: service.said("phone"), "the push", running.life)
            async with Running(data, push=LOCAL) as running:
                await running.settled()
                await running.deliver(delivery(letter("new"), ["ada"]))
                await until(lambda: len(service.said("phone")) == 2, "the next", running.life)
                await running.stop()

    asyncio.run(go())
    assert [said["id"] for said in service.said("phone")] == ["old", "new"]


# -- subscriptions --------------------------------------------------------------------------------


@pytest.mark.slow
def test_subscriptions_outlive_a_kill_and_go_with_their_users(service: PushService) -> None:
    users = [f"user{number}" for number in range(12)]

    async def go() -> None:
        with scratch() as directory:
            data = directory / "data"
            async with Cluster(data, 2, LOCAL) as cluster:
                for user in users:
                    made = ask(user, "phone", service.subscribe(user))
                    assert await cluster.at_home(user).shard.push.put(made)
                for shards in (3, 1, 2):
                    await cluster.change(shards)
                    assert sum(len(one.shard.push.subscriptions) for one in cluster.running) == len(users)
                await cluster.deliver(letter("all"), users)
                await until(lambda: len(service.pushes) == len(users), "everybody's push")
                await cluster.kill()
            report = Doctor(data).examine()
            assert report.faults == []

    asyncio.run(go())
    assert {push.device for push in service.pushes} == set(users)


def test_the_doctor_names_a_subscription_that_is_of_another_shard(service: PushService) -> None:
    async def go() -> None:
        with laid_out(2) as data:
            stranger = users_of(1, 2, 1)[0]
            async with Running(data, Placement(version=1, shards=2), push=LOCAL) as running:
                made = service.subscribe("phone")
                point, secret = WebPush.keys_of(**made["keys"])
                one = subscriptions.Subscription(stranger, "phone", made["endpoint"], point, secret, 1, 0)
                await running.shard.push.subscriptions.put(one)
            faults = Doctor(data).examine().faults
            assert len(faults) == 1
            assert stranger in faults[0]

    asyncio.run(go())


def test_a_device_is_told_where_it_last_said_and_not_after_it_left(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                push = running.shard.push
                assert await subscribe(running, service, "ada", "phone", name="old")
                assert not await subscribe(running, service, "ada", "phone", name="new")
                made = service.subscribe("new")
                assert await push.put(ask("ada", "renamed", made))  # the same browser under another name
                assert [device.device for device in await listed(running, "ada")] == ["renamed"]
                await running.deliver(delivery(letter("one"), ["ada"]))
                await until(lambda: push.devices.results["sent"], "the push", running.life)
                await push.drop(ops.DropPush(0, 1, slot_of("ada"), "ada", "renamed"))
                with pytest.raises(NotFound):
                    await push.drop(ops.DropPush(0, 1, slot_of("ada"), "ada", "renamed"))
                assert not push.wants("ada")
                await running.deliver(delivery(letter("two"), ["ada"]))
                await running.settled()
                assert push.devices.outbox.idle

    asyncio.run(go())
    assert [push.device for push in service.pushes] == ["new"]


def test_what_is_listed_is_no_secret_and_how_many_there_may_be_is_bounded(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "a phone", priority_min=4)
                [device] = await listed(running, "ada")
                assert (device.device, device.host, device.priority_min) == ("a phone", "127.0.0.1", 4)
                assert await listed(running, "bo") == []
                for number in range(subscriptions.DEVICES_MAX - 1):
                    await subscribe(running, service, "ada", f"d{number}")
                with pytest.raises(BadField) as refused:
                    await subscribe(running, service, "ada", "one more")
                assert refused.value.field == "device"
                assert not await subscribe(running, service, "ada", "d0", name="d0 anew")

    asyncio.run(go())


def test_push_that_is_turned_off_is_not_there(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "phone")
            async with Running(data, push=Settings(enabled=False)) as running:
                with pytest.raises(NotFound):
                    await running.shard.push.key(ops.AskPushKey(0))
                with pytest.raises(NotFound):
                    await subscribe(running, service, "ada", "phone")
                await running.deliver(delivery(letter("one"), ["ada"]))
                await running.settled()
                assert len(running.shard.push.devices.outbox) == 0

    asyncio.run(go())


def test_a_redirect_is_not_followed(service: PushService) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=LOCAL) as running:
                await subscribe(running, service, "ada", "phone")
                service.answers("phone", (307, {"location": f"{service.origin}/elsewhere"}))
                await running.deliver(delivery(letter("one"), ["ada"]))
                await until(lambda: running.shard.push.devices.results["refused"], "its refusal", running.life)

    asyncio.run(go())
    assert [name for name, _at in service.asked] == ["phone"]


@pytest.mark.parametrize(
    "fault",
    [
        {"keys": {"p256dh": "BBBB", "auth": "A" * 22}},
        {"keys": {"p256dh": "B" + "A" * 86, "auth": "A" * 22}},
        {"keys": {"auth": "A" * 21}},
        {"keys": {"auth": "é" * 22}},
        {"endpoint": "https://127.0.0.1/x"},
    ],
)
def test_a_subscription_that_can_not_work_is_refused_and_not_kept(service: PushService, fault: dict[str, Any]) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                made = service.subscribe("phone")
                made["endpoint"] = "https://push.example/x"
                made = made | fault
                made["keys"] = service.subscribe("phone")["keys"] | made["keys"]
                with pytest.raises(PoboxError) as refused:
                    await running.while_alive(running.shard.push.put(ask("ada", "phone", made)))
                assert refused.value.status == 422
                assert str(refused.value.field).split(".")[0] in fault
                assert not running.shard.push.wants("ada")

    asyncio.run(go())


# -- the webhook ----------------------------------------------------------------------------------


def test_a_gateway_gets_each_message_for_each_user(service: PushService) -> None:
    settings = Settings(webhook=f"{service.origin}/hook-{{userId}}", content="text", priority_min=4)

    async def go() -> None:
        with laid_out() as data:
            async with Running(data, push=settings) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada", "bo"])
                await running.deliver(delivery(letter("one", channel_id="news", priority=5), channel="news"))
                await running.deliver(delivery(letter("low", priority=3), ["ada"]))
                await running.deliver(delivery(letter("two", priority=9), ["ada"]))
                await until(lambda: len(service.raw) == 3, "all of them", running.life)

    asyncio.run(go())
    bodies = {(name, json.loads(body)["id"]): json.loads(body) for name, _headers, body in service.raw}
    assert set(bodies) == {("/hook-ada", "one"), ("/hook-bo", "one"), ("/hook-ada", "two")}
    body = bodies["/hook-ada", "one"]
    assert (body["userId"], body["channelId"], body["priority"]) == ("ada", "news", 5)
    assert (body["title"], body["text"], body["sender"]) == ("title", "content", "sender")


def test_a_gateway_that_speaks_ntfy_gets_text_and_headers() -> None:
    notice = Notice("id", "news", "Grüße\nX-Evil: 1", "the text", 9, "", None, 0.0)
    made = webhook.request("http://gateway/{userId}", "ntfy", "a@b", notice, "text")
    headers = dict(made.headers)
    assert made.url == "http://gateway/a%40b"
    assert made.body == b"the text"
    assert headers["Priority"] == "5"
    assert headers["Title"] == "=?UTF-8?B?R3LDvMOfZQpYLUV2aWw6IDE=?="
    plain = dict(webhook.request("http://gateway/x", "ntfy", "a", notice, "none").headers)
    assert plain["Title"] == "pobox"
