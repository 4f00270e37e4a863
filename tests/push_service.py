"""A push service on loopback, for tests: it checks who sends, decrypts as a browser would, and answers as it is told.

What it knows of Web Push it has from RFC 8030, 8188, 8291 and 8292, and shares no code with what it tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_DAY_S = 86_400


class Push(NamedTuple):
    device: str
    headers: dict[str, str]
    said: Any
    at: float


class Device:
    """A browser's half of a subscription."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.secret = os.urandom(16)

    def decrypt(self, body: bytes) -> bytes:
        """RFC 8291 over RFC 8188: one record, with its padding taken off."""
        salt, size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
        sender, sealed = body[21 : 21 + length], body[21 + length :]
        assert len(sealed) <= size <= 4_096
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        shared = self.key.exchange(ec.ECDH(), theirs)
        mixed = _hkdf(self.secret, 32, b"WebPush: info\0" + self.point + sender, shared)
        key = _hkdf(salt, 16, b"Content-Encoding: aes128gcm\0", mixed)
        nonce = _hkdf(salt, 12, b"Content-Encoding: nonce\0", mixed)
        padded = AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\0")
        assert padded.endswith(b"\2")
        return padded[:-1]


class PushService:
    """Entered, it listens, in a thread of its own; ``pushes`` is what it took, ``asked`` how often it was asked, and
    ``faults`` what was wrong."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.raw: list[tuple[str, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, float]] = []
        self.faults: list[str] = []
        self.key = ""
        """the public key of the node, once it is known"""
        self.origin = ""
        self._devices: dict[str, Device] = {}
        self._answers: dict[str, deque[tuple[int, dict[str, str]]]] = {}
        self.hangs: set[str] = set()
        """devices for which nothing is answered as long as they are in it"""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> PushService:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connected, "127.0.0.1", 0), self._loop
        ).result(60)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def subscribe(self, name: str) -> dict[str, Any]:
        """What the browser of a new device ``name`` gives to its page."""
        device = self._devices[name] = Device()
        return {
            "endpoint": f"{self.origin}/push/{quote(name)}",
            "expirationTime": None,
            "keys": {"p256dh": _text(device.point), "auth": _text(device.secret)},
        }

    def answers(self, name: str, *answers: tuple[int, dict[str, str]]) -> None:
        """The next answers for ``name``; after them, 201."""
        self._answers.setdefault(name, deque()).extend(answers)

    def said(self, name: str) -> list[Any]:
        return [push.said for push in self.pushes if push.device == name]

    def times(self, name: str) -> list[float]:
        """When it was asked to push to ``name``."""
        return [at for device, at in self.asked if device == name]

    async def _end(self) -> None:
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                name = unquote(lines[0].split(" ")[1]).removeprefix("/push/")
                self.asked.append((name, time.monotonic()))
                while name in self.hangs:
                    await asyncio.sleep(0.01)
                status, more = self._answer(name, headers, body)
                said = "".join(f"{key}: {value}\r\n" for key, value in more.items())
                writer.write(f"HTTP/1.1 {status} It is so\r\n{said}content-length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()

    def _answer(self, name: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        planned = self._answers.get(name)
        if planned:
            return planned.popleft()
        if name not in self._devices:
            self.raw.append((name, headers, body))
            return 201, {}
        try:
            self._check_sender(headers)
            assert headers["content-encoding"] == "aes128gcm"
            assert int(headers["ttl"]) > 0
            said = json.loads(self._devices[name].decrypt(body))
        except Exception as error:
            self.faults.append(repr(error))
            return 400, {}
        self.pushes.append(Push(name, headers, said, time.monotonic()))
        return 201, {"location": f"/message/{len(self.pushes)}"}

    def _check_sender(self, headers: dict[str, str]) -> None:
        """RFC 8292: who signed, for whom, until when."""
        scheme, _, parameters = headers["authorization"].partition(" ")
        given = dict(part.strip().split("=", 1) for part in parameters.split(","))
        assert scheme == "vapid"
        if self.key:
            assert given["k"] == self.key
        head, claims, signature = given["t"].split(".")
        raw = _bytes(signature)
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _bytes(given["k"]))
        signed = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        public.verify(signed, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        assert json.loads(_bytes(head))["alg"] == "ES256"
        told = json.loads(_bytes(claims))
        assert told["aud"] == self.origin
        assert 0 < told["exp"] - time.time() <= _DAY_S
        assert told["sub"].startswith("mailto:")


def _hkdf(salt: bytes, length: int, info: bytes, key: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
