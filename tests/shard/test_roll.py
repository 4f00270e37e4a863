"""Which devices have which messages: never a wrong answer, and none of "nobody knows" where it can be known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node import ops, paths
from node.errors import NotFound
from node.slots import slot_of
from shard import notes
from shard.subscriptions import Subscription

from .playing import played
from .running import Running, delivery, laid_out, letter
from .test_sync import check, ids, snapshot

DEVICES = ("phone", "laptop")


async def holders(running: Running, message_id: str) -> dict[str, bool | None]:
    question = ops.AskHolders(0, running.layout.version, slot_of("ada"), "ada", message_id)
    found = await running.while_alive(running.shard.devices.roll.holders(question))
    return {device.name: device.has for device in found.devices}


async def devices(running: Running) -> dict[str, tuple[str | None, bool]]:
    question = ops.AskDevices(0, running.layout.version, slot_of("ada"), "ada")
    found = await running.while_alive(running.shard.devices.roll.devices(question))
    return {device.name: (device.version, device.newest) for device in found.devices}


async def say(running: Running, device: str, local: str | None) -> None:
    question = ops.AskSync(0, running.layout.version, slot_of("ada"), "ada", device, local)
    await running.while_alive(running.shard.devices.check(question))


DEVICE = st.sampled_from(DEVICES)
STEP = st.one_of(
    st.tuples(st.just("deliver"), st.just("")),
    st.tuples(st.just("deliver"), st.just("")),
    st.tuples(st.just("remove the newest"), st.just("")),
    st.tuples(st.just("remove the oldest"), st.just("")),
    st.tuples(st.just("sync"), DEVICE),
    st.tuples(st.just("sync"), DEVICE),
    st.tuples(st.just("sync, and say so later"), DEVICE),
    st.tuples(st.just("say"), DEVICE),
    st.tuples(st.just("lose all"), DEVICE),
    st.tuples(st.just("start over"), st.just("")),
    st.tuples(st.just("drop the notes"), st.just("")),
)


async def _live(data: Path, steps: list[tuple[str, str]]) -> None:
    held: dict[str, tuple[str | None, set[str]]] = {device: (None, set()) for device in DEVICES}
    number, box = 0, list[str]()
    running = await Running(data).__aenter__()
    try:
        for kind, device in [("deliver", ""), *steps]:
            sure = False
            if kind == "deliver":
                await running.deliver(delivery(letter(f"m{number}", at=number), ["ada"]))
                box.append(f"m{number}")
                number += 1
            elif kind.startswith("remove") and box:
                await running.remove("ada", box.pop(-1 if kind.endswith("newest") else 0))
            elif kind.startswith("sync"):
                await say(running, device, held[device][0])
                made = await snapshot(running, device=device)
                held[device] = made.state.version, set(ids(running, made))
                sure = kind == "sync"
                if sure:
                    await say(running, device, held[device][0])
            elif kind == "say":
                await say(running, device, held[device][0])
            elif kind == "lose all":
                held[device] = None, set()
                await say(running, device, None)
            elif kind == "start over":
                await running.kill()
                running = await Running(data).__aenter__()
            elif kind == "drop the notes":
                (paths.user_dir(data, "ada") / ".sync" / notes.LAST).unlink(missing_ok=True)
            said = await devices(running)
            for message in box:
                for name, has in (await holders(running, message)).items():
                    if has is not None and said[name][0] == held[name][0]:
                        assert has == (message in held[name][1]), (kind, message, name)
                    if sure and name == device:
                        assert has is not None
            for name, (version, newest) in said.items():
                if newest:
                    assert version == held[name][0]
                    assert held[name][1] == set(box)
    finally:
        await running.kill()


@pytest.mark.slow
@settings(max_examples=60)
@example([("deliver", ""), ("sync", "phone"), ("remove the newest", ""), ("deliver", ""), ("deliver", "")])
@example([("sync", "phone"), ("remove the newest", ""), ("sync", "laptop"), ("deliver", ""), ("say", "phone")])
@example([("sync", "phone"), ("deliver", ""), ("sync, and say so later", "phone"), ("deliver", ""), ("say", "phone")])
@given(st.lists(STEP, max_size=16))
def test_a_device_has_what_it_got(steps: list[tuple[str, str]]) -> None:
    with laid_out() as data:
        asyncio.run(_live(data, steps))


@played
async def test_a_device_that_stays_behind_is_known_to_lack_what_came_since() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            version = (await check(running)).version
            await say(running, "phone", version)
            await running.deliver(delivery(letter("second"), ["ada"]))
            assert await holders(running, "first") == {"phone": True}
            assert await holders(running, "second") == {"phone": False}
            assert await devices(running) == {"phone": (version, False)}
        async with Running(data) as running:
            assert await holders(running, "second") == {"phone": False}
            await say(running, "phone", (await check(running)).version)
            assert await holders(running, "second") == {"phone": True}
            with pytest.raises(NotFound):
                await holders(running, "third")


@played
async def test_a_download_alone_says_nothing_of_what_arrived() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            await snapshot(running, device="phone")
            assert await holders(running, "m") == {"phone": None}
            assert await devices(running) == {"phone": (None, False)}


@played
async def test_a_device_is_forgotten_also_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            for name in DEVICES:
                await say(running, name, None)

            async def forget(name: str) -> None:
                question = ops.ForgetDevice(0, running.layout.version, slot_of("ada"), "ada", name)
                await running.while_alive(running.shard.devices.roll.forget(question))

            await forget("phone")
            assert list(await devices(running)) == ["laptop"]
            with pytest.raises(NotFound) as refused:
                await forget("phone")
            assert refused.value.field == "device"
            monkeypatch.setattr(notes, "save", lambda *_: None)
            await forget("laptop")
            assert await devices(running) == {}


@played
async def test_a_device_that_is_told_of_new_messages_says_so() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("n0"), ["ada"]))
            await say(running, "phone", None)
            await say(running, "laptop", None)
            made = Subscription("ada", "phone", "https://push.example/1", b"", b"", 1, 0)
            running.shard.push.subscriptions.of["ada"] = {"phone": made}
            question = ops.AskDevices(0, running.layout.version, slot_of("ada"), "ada")
            found = await running.while_alive(running.shard.devices.roll.devices(question))
            assert {device.name: device.push for device in found.devices} == {"phone": True, "laptop": False}
