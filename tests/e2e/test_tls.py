"""A node that speaks TLS: devices and commands talk to it, and it takes another certificate while they do."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node import keys, tokens
from tests import certificates
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Node]:
    certificate, key = certificates.make(folder)
    env = {"POBOX_AUTH_MODE": "keys", "POBOX_TLS_CERTIFICATE": str(certificate), "POBOX_TLS_KEY": str(key)}
    with Node(folder / "data", shards=1, env=env) as running:
        yield running


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "certificate.pem")


def print_of(node: Node) -> str:
    """SHA-256 of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = httpx.URL(node.url)
    with (
        socket.create_connection((url.host, url.port or 443), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return hashlib.sha256(shown).hexdigest()


def pobox(node: Node, folder: Path, *arguments: str, key: str) -> str:
    environ = {**os.environ, "SSL_CERT_FILE": str(folder / "certificate.pem"), "POBOX_KEY": key}
    command = [sys.executable, "-m", "node", *arguments, "--server", node.url]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def test_commands_and_devices_talk_to_it_with_keys_and_tokens(secure: Node, folder: Path) -> None:
    assert secure.url.startswith("https://")
    token = tokens.issue(secure.data, "ann", 600)
    key = keys.create(secure.data, "cli", ["deliver"])  # last: when it counts, so does the token
    with httpx.Client(base_url=secure.url, verify=trusting(folder), trust_env=False, timeout=30) as http:
        shown = {"authorization": f"Bearer {key}"}
        eventually(lambda: http.post("/api/v3/messages", headers=shown).status_code == 415, "the key counts")
        answer = http.get("/healthz")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "accepted for 1" in pobox(
        secure, folder, "deliver", "--users", "ann", "--title", "Hi", "--content", "c", key=key
    )
    assert "\tHi\t" in pobox(secure, folder, "read", "ann", key=token)
    assert "whole box" in pobox(secure, folder, "sync", "ann", "--to", str(folder / "device"), key=token)
    refused = subprocess.run(
        [sys.executable, "-m", "node", "read", "ann", "--server", secure.url], capture_output=True, text=True
    )
    assert (refused.returncode, "certificate" in refused.stderr) == (1, True), "whom nobody vouches for is not asked"


def test_another_certificate_is_taken_without_a_connection_being_dropped(secure: Node, folder: Path) -> None:
    with httpx.Client(base_url=secure.url, verify=trusting(folder), trust_env=False, timeout=30) as http:
        assert http.get("/healthz").status_code == 200
        before = print_of(secure)
        key = folder / "key.pem"
        content = key.read_bytes()
        key.write_text("no key")
        os.kill(secure.pids["supervisor"], signal.SIGHUP)
        eventually(lambda: "the certificate stays as it was" in secure.output(), "the bad one is told of")
        assert print_of(secure) == before
        key.write_bytes(content)
        certificates.make(folder)
        os.kill(secure.pids["supervisor"], signal.SIGHUP)
        eventually(lambda: print_of(secure) != before, "the new certificate")
        eventually(lambda: "certificate was read again" in secure.output(), "word of it")
        answer = http.get("/healthz")
        assert answer.status_code == 200, "on the connection from before, with the certificate from before"


def test_what_does_not_speak_tls_gets_nothing(secure: Node) -> None:
    url = httpx.URL(secure.url)
    with socket.create_connection((url.host, url.port or 443), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            got = plain.recv(1000)
        except ConnectionResetError:
            got = b""
    assert b"HTTP" not in got
