"""What every answer says to browsers, who is believed about where callers come from, and who may be at the sockets."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import config, ops, placement, wire
from node.errors import ConfigError
from router.hops import Crowd, networks
from tests.router.conftest import ROOT, Running, launch, running, until
from tests.router.credentials import AUTH, key
from tests.support import Node

SAID = {
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
MAIL = "https://mail.example"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router behind a proxy on this machine, whose pages lie at another site."""
    settings = {"trusted_proxies": "127.0.0.1, 192.0.2.0/24", "cors_origins": MAIL, "headers_max": 30}
    with running(tmp_path_factory.mktemp("shown"), 1, settings=settings, auth=AUTH) as made:
        yield made


@pytest.mark.parametrize("path", ["/healthz", "/inbox/", "/nothing", "/api/v3/users/ann/messages", "/openapi.json"])
def test_every_answer_says_how_it_may_be_used(shown: Running, path: str) -> None:
    headers = shown.http.get(path).headers
    for name, value in SAID.items():
        assert value in headers.get_list(name)
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers
    assert "strict-transport-security" not in headers, "that is for the proxy to say, which speaks TLS"


def test_so_do_answers_to_what_is_no_request(shown: Running) -> None:
    with socket.create_connection(shown.address, timeout=60) as caller:
        caller.sendall(b"nonsense\r\n\r\n")
        answer = caller.recv(65_536).lower()
    assert answer.startswith(b"http/1.1 400")
    for name, value in SAID.items():
        assert f"{name}: {value}".encode() in answer


def test_more_headers_than_allowed_are_refused(shown: Running) -> None:
    few = {f"x-{number}": "y" for number in range(20)}
    assert shown.http.get("/healthz", headers=few).status_code == 200
    many = {f"x-{number}": "y" for number in range(40)}
    answer = shown.http.get("/healthz", headers=many)
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


@pytest.mark.slow
def test_pages_of_named_origins_may_ask_and_no_others(shown: Running) -> None:
    asks = {"Origin": MAIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = shown.http.options("/api/v3/messages", headers=asks).headers
    assert allowed["access-control-allow-origin"] == MAIL
    assert "POST" in allowed["access-control-allow-methods"]
    assert "authorization" in allowed["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed
    other = shown.http.options("/api/v3/messages", headers={**asks, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    sender = key(shown.log.parent, "cors", "deliver")
    body = {"users": ["ann"], "title": "t", "content": "c"}

    def post(origin: str) -> httpx.Response:
        headers = {**sender, "Origin": origin, "Sec-Fetch-Site": "cross-site"}
        return shown.http.post("/api/v3/messages", json=body, headers=headers)

    until(lambda: post(MAIL).status_code == 202)
    assert post(MAIL).headers["access-control-allow-origin"] == MAIL
    assert post("https://evil.example").status_code == 403


def test_a_proxy_that_was_not_named_is_not_believed(tmp_path: Path) -> None:
    """Nothing that is answered depends on it in keys mode, so the rule itself is looked at."""
    named = networks("10.0.0.0/8, ::1")
    assert [str(one) for one in named] == ["10.0.0.0/8", "::1/128"]
    for wrong in ("proxy.example", "10.0.0.1/8", "10.0.0"):
        with pytest.raises(ConfigError, match="trusted_proxies"):
            networks(wrong)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"trusted_proxies": "127.0.0.1"}, "behind a proxy"),
        ({"cors_origins": "*"}, "no origin"),
        ({"cors_origins": "https://mail.example/"}, "no origin"),
    ],
)
def test_settings_that_would_open_too_much_are_refused(tmp_path: Path, settings: dict[str, str], why: str) -> None:
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    made = config.load(environ={}, overrides={"node": {"data": str(tmp_path)}, "router": settings})
    process, _url, log = launch(tmp_path, made)
    assert process.wait(60) == 1
    assert why in log.read_text()


@given(st.lists(st.tuples(st.sampled_from(["192.0.2.7", "192.0.2.8", "127.0.0.1", "10.1.2.3"]), st.booleans())))
def test_one_address_takes_no_more_than_its_connections(moves: list[tuple[str, bool]]) -> None:
    crowd = Crowd(2, networks("10.0.0.0/8"))
    inside: dict[str, int] = {}
    for address, comes in moves:
        if comes:
            inside[address] = inside.get(address, 0) + 1
            stands_for_many = address in ("127.0.0.1", "10.1.2.3")
            assert crowd.enter(address) == (stands_for_many or inside[address] <= 2)
        elif inside.get(address):
            inside[address] -= 1
            crowd.leave(address)
    assert len(crowd) == sum(1 for count in inside.values() if count), "who is gone costs nothing"


@pytest.mark.slow
def test_a_shards_socket_is_for_its_own_user_alone(node: Node) -> None:
    run = node.data / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    sockets = sorted(run.glob("*.sock"))
    assert [path.name for path in sockets] == ["router-0.sock", "shard-0.sock", "shard-1.sock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    frame = wire.frame(ops.encode(ops.Ping(1)))
    assert asked_as(os.geteuid(), run, frame) > 0
    # As if the modes had been lost: the kernel still says who asks.
    run.chmod(0o755)
    for path in sockets:
        path.chmod(0o666)
    assert [asked_as(65_534, run, frame) for _ in range(3)] == [0, 0, 0]
    until(lambda: "a connection of another user" in node.output())
    assert node.output().count("a connection of another user") == 1, "a line a minute"


def asked_as(uid: int, run: Path, frame: bytes) -> int:
    """How many bytes shard 0 answers to a process of ``uid``."""
    code = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[1]))\n"
        "peer = socket.socket(socket.AF_UNIX)\n"
        "peer.settimeout(20)\n"
        "peer.connect('shard-0.sock')\n"
        "try:\n"
        "    peer.sendall(bytes.fromhex(sys.argv[2]))\n"
        "    print(len(peer.recv(1000)))\n"
        "except (ConnectionResetError, BrokenPipeError):\n"
        "    print(0)\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, str(uid), frame.hex()], cwd=run, capture_output=True, text=True, check=True
    )
    return int(asked.stdout)


def test_every_test_that_the_document_names_is_there() -> None:
    named = (ROOT / "docs" / "security.md").read_text()
    files = {name: (ROOT / name).read_text() for name in re.findall(r"`(tests/\S+\.py)`", named)}
    assert len(files) >= 10
    for test in re.findall(r"`(test_\w+)`", named):
        assert any(f"def {test}(" in content for content in files.values()), test
