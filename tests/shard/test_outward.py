"""Where a node sends at a stranger's word, and where not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from node.errors import BadField, Unavailable
from shard import outward
from shard.outward import Forbidden, Outward, is_public, origin_of
from tests.push_service import PushService


@pytest.mark.parametrize(
    "literal",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_of_a_network_of_ones_own_are_not_public(literal: str) -> None:
    assert not is_public(literal)


@pytest.mark.parametrize("literal", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_world_are(literal: str) -> None:
    assert is_public(literal)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://push.example/x", "ftp://push.example/x", "push.example/x", "https://", "https:///x", "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x", "https://user@push.example/x", "https://push.example:99999/x",
        "https://push.example/ x", "https://push.exämple/x", "https://push.example\\@localhost/x", "https://[broken/x",
        "https://push.example/" + "x" * 2_048,
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_push_service_is_refused(endpoint: str) -> None:
    with pytest.raises(BadField) as refused:
        origin_of(endpoint, allow_private=False)
    assert refused.value.field == "endpoint"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "2130706433", "0x7f000001", "0177.0.0.1",
        "127.1", "localhost", "no-such-host.invalid",
    ],
)  # fmt: skip
def test_a_private_address_is_refused_in_whatever_form_and_in_the_same_words(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host == "no-such-host.invalid":  # without asking a name server, which may not be there
        names(monkeypatch, socket.EAI_NONAME, socket.EAI_NONAME)

    async def go() -> None:
        outward = Outward(allow_private=False, connections=1)
        with pytest.raises(BadField, match=r"^endpoint must be at a public address$"):
            await outward.check(f"https://{host}/push")
        with pytest.raises(Forbidden):
            await outward.post(f"https://{host}/push", [], b"")
        await outward.close()

    asyncio.run(go())


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | int) -> None:
    """Name lookups give ``answers``, one after the other; a number is an error."""
    left = list(answers)

    async def getaddrinfo(_loop: Any, host: str, port: int, **_more: Any) -> list[Any]:
        answer = left.pop(0)
        if isinstance(answer, int):
            raise socket.gaierror(answer, "no")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


def test_a_name_that_turns_private_after_it_was_checked_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:

    async def go() -> None:
        port = int(service.origin.rpartition(":")[2])
        names(monkeypatch, ["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8", "10.0.0.1"])
        strangers = Outward(allow_private=False, connections=1)
        await strangers.check(f"https://rebinding.example:{port}/push")
        for _again in range(2):
            with pytest.raises(Forbidden):
                await strangers.post(f"https://rebinding.example:{port}/push", [], b"")
        await strangers.close()

    with PushService() as service:
        asyncio.run(go())
        assert service.asked == []


def test_a_lookup_that_fails_for_now_is_our_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        names(monkeypatch, socket.EAI_AGAIN, socket.EAI_AGAIN)
        with pytest.raises(Unavailable):
            await Outward(allow_private=False, connections=1).check("https://push.example/x")
        with pytest.raises(outward.Unreachable):
            await Outward(allow_private=False, connections=1).post("https://push.example/x", [], b"")

    asyncio.run(go())
