"""A whole node that asks who somebody is: people don't get at each other's mail, and secrets stay where they are."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from node import keys, tokens
from node.keys import Scope
from tests.support import Node

pytestmark = pytest.mark.slow

USERS = ("ann", "bob", "cyd", "dan")
REQUESTS = 10_000
AT_ONCE = 64
PATHS = (
    "/api/v3/users/{0}/messages",
    "/api/v3/users/{0}/messages/{0}-{1}",
    "/api/v3/users/{0}/counts",
    "/api/v3/sync/{0}/check",
    "/api/v3/sync/{0}/download",
    "/api/v3/sync/{0}/read-status",
)


class Guarded:
    """A node with mail for everybody: what belongs to ``ann`` has ``of-ann`` in it."""

    def __init__(self, node: Node, keys: dict[str, str], tokens: dict[str, str]) -> None:
        self.node = node
        self.keys = keys
        self.tokens = tokens
        self.http = httpx.Client(base_url=node.url, timeout=30, trust_env=False)


def shown(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp("strangers") / "data"
    data.mkdir(mode=0o700)
    scopes: dict[str, list[Scope]] = {
        "sender": ["deliver", "metrics"],
        "planted": ["deliver"],
        "reader": ["read", "channels", "admin"],
    }
    # Before the node starts: of two routers one may know a key a moment before the other.
    made_keys = {name: keys.create(data, name, rights) for name, rights in scopes.items()}
    made_tokens = {user: tokens.issue(data, user, 3_600) for user in USERS}
    with Node(data, routers=2, env={"POBOX_AUTH_MODE": "keys", "POBOX_PUSH_ENABLED": "false"}) as node:
        made = Guarded(node, made_keys, made_tokens)
        for user in USERS:
            for number in range(5):
                body = {"id": f"{user}-{number}", "users": [user], "title": f"of-{user}", "content": f"of-{user}"}
                made.http.post("/api/v3/messages", json=body, headers=shown(made.keys["sender"])).raise_for_status()
        yield made
        made.http.close()


def test_ten_thousand_requests_at_once_mix_nobodys_mail(guarded: Guarded) -> None:
    url = httpx.URL(guarded.node.url)
    seen = {200: 0, 403: 0}

    async def many(seed: int) -> None:
        """One after the other on a connection; the answer to one must not be that to another."""
        chance = random.Random(seed)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        for _ in range(REQUESTS // AT_ONCE + 1):
            asks, about = chance.choice(USERS), chance.choice(USERS)
            path = chance.choice(PATHS).format(about, chance.randrange(5))
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {guarded.tokens[asks]}\r\n\r\n"
            writer.write(head.encode())
            said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(said.split(" ")[1])
            content = await reader.readexactly(int(said.partition("content-length: ")[2].partition("\r\n")[0]))
            assert status == (200 if asks == about else 403), content
            seen[status] += 1
            for user in USERS:
                if user != asks:
                    assert f"of-{user}".encode() not in content
                    assert f"{user}-".encode() not in content
        writer.close()

    async def play() -> None:
        await asyncio.gather(*(many(seed) for seed in range(AT_ONCE)))

    asyncio.run(play())
    assert sum(seen.values()) >= REQUESTS
    assert seen[200] > REQUESTS // 10


TRICKS = [
    "..", "../..", "..%2f..%2f", "%2e%2e", "%2e%2e%2fann", "%252e%252e", "..%5c", "ann%00", "%00", "ann%0d%0a",
    "\uff0e\uff0e",
    "ann/../bob", "%c0%ae%c0%ae%2f", "%ef%bc%8e%ef%bc%8e", "ann%e2%80%ae", "an\u0301n", "~", "ann;x=1", "ann?x",
    "a" * 129, "//etc/passwd", "/proc/self/environ", "keys.json", "token.secret",
]  # fmt: skip
BEHIND = ["/messages", "/messages/..%2f..%2fkeys.json", "/channels", "/counts", "/push"]


def test_no_spelling_of_a_path_reaches_a_file(guarded: Guarded) -> None:
    reader = guarded.keys["reader"]
    url = httpx.URL(guarded.node.url)
    boxes = set((guarded.node.data / "user_storage").glob("*/*"))
    prefixes = ["/api/v3/users/", "/api/v3/sync/", "/api/v3/channels/", "/inbox/", "/"]
    with socket.create_connection((url.host, url.port or 80), timeout=60) as caller:
        stream = caller.makefile("rb")
        for prefix in prefixes:
            for trick in TRICKS:
                for behind in BEHIND if "users" in prefix else ["", "/check", "/download"]:
                    target = f"{prefix}{trick}{behind}".encode()
                    head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
                    caller.sendall(head % (target, reader.encode()))
                    status, content = answer(stream)
                    if status == 400 and b"this is not an HTTP request" in content:  # and the connection is closed
                        caller, stream = again(url)
                    assert status in (307, 400, 404, 405, 422) or (status == 200 and b"root:" not in content), target
                    for secret in (b"sha256", b"PATH=", b"root:x"):
                        assert secret not in content, target
    assert set((guarded.node.data / "user_storage").glob("*/*")) == boxes, "nobody got a box by that"


def again(url: httpx.URL) -> tuple[socket.socket, Any]:
    caller = socket.create_connection((url.host, url.port or 80), timeout=60)
    return caller, caller.makefile("rb")


def answer(stream: Any) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection."""
    status = int(stream.readline().split(b" ")[1])
    size = 0
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    return status, stream.read(size)


def test_what_is_secret_is_in_no_log_figure_or_answer(guarded: Guarded) -> None:
    planted = "planted-3f9c1e"
    key = guarded.keys["planted"]
    secrets = {"content": planted, "key": key, "a wrong key": key[:-4] + "AAAA", **guarded.tokens}
    http, said = guarded.http, ""
    body = {"users": ["ann"], "title": planted, "content": planted, "metadata": {"x": planted}}
    bad: list[dict[str, Any]] = [
        {**body, "priority": 99},
        {**body, "users": [planted + "/"]},
        {**body, "id": "ann-0"},
        {**body, "messageType": 7},
    ]
    for sent in [body, *bad]:
        for secret in (key, secrets["a wrong key"], guarded.tokens["bob"]):
            said += http.post("/api/v3/messages", json=sent, headers=shown(secret)).text
    content = f'{{"title": "{planted}", "content": "{planted}"'
    said += http.post("/api/v3/messages", content=content, headers=shown(key)).text
    said += http.get(f"/api/v3/users/ann/messages/{planted}", headers=shown(guarded.tokens["bob"])).text
    for spelled in (key + key, "Basic " + key, key.replace("_", "."), guarded.tokens["ann"][:-1]):
        said += http.get("/api/v3/users/ann/messages", headers={"authorization": spelled}).text
    raw = httpx.URL(guarded.node.url)
    with socket.create_connection((raw.host, raw.port or 80), timeout=60) as caller:
        caller.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nbroken\r\n\r\n".encode())
        said += caller.recv(65_536).decode()
    guarded.node.kill("shard-0")  # whoever complains of that
    for _ in range(5):
        said += http.post("/api/v3/messages", json={**body, "users": list(USERS)}, headers=shown(key)).text
    guarded.node.wait_ready()
    said += http.get("/metrics", headers=shown(guarded.keys["sender"])).text
    said += http.get("/api/v3/alerts", headers=shown(guarded.keys["sender"])).text
    said += http.get("/openapi.json").text + http.get("/readyz").text
    said += guarded.node.output()
    files = [
        path for path in guarded.node.data.rglob("*") if path.is_file() and path.suffix in (".json", ".log", ".jsonl")
    ]
    assert any(path.parent.name == "audit" for path in files)
    said += "".join(path.read_text() for path in files)
    for name, secret in secrets.items():
        if name != "content":
            assert secret not in said
    assert key.split("_", 2)[2] not in said
    said = said.replace(f'"message":"{planted}"', "")  # whoever asks for a message of that id
    assert planted not in said.replace(f"{planted}/", "")
