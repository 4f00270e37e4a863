"""Devices and a real node: what is downloaded opens anywhere, is what was promised, and is never out of date."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node import pages
from node.paths import user_dir
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

NOBODY = 65_534
PLAIN = {"Accept-Encoding": "identity"}
_numbers = itertools.count()


class Person:
    """``name``, over HTTP."""

    def __init__(self, node: Node, http: httpx.Client, name: str) -> None:
        self.node = node
        self.http = http
        self.name = name
        self.sent = 0

    def url(self, what: str) -> str:
        return f"{self.node.url}/api/v3/sync/{self.name}/{what}"

    def send(self, content: str = "content") -> None:
        id = f"{self.name}-{self.sent}"
        message = {"id": id, "users": [self.name], "title": f"letter {self.sent}", "content": content}
        eventually(lambda: self._post(message), "a 202")
        self.sent += 1

    def _post(self, message: dict[str, object]) -> bool:
        try:
            return self.http.post(f"{self.node.url}/api/v3/messages", json=message).status_code == 202
        except httpx.TransportError:
            return False

    def check(self) -> dict[str, object]:
        answer = self.http.get(self.url("check"))
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def download(self) -> tuple[bytes, httpx.Headers]:
        answer = self.http.get(self.url("download"), headers=PLAIN)
        assert answer.status_code == 200
        proved(answer.content, answer.headers)
        return answer.content, answer.headers


def proved(content: bytes, headers: httpx.Headers) -> None:
    assert len(content) == int(headers["pobox-size"])
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == headers["pobox-checksum"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("sync") / "data") as running:
        yield running


@pytest.fixture
def ann(served: Node) -> Iterator[Person]:
    """Another one for each test."""
    with httpx.Client(timeout=60, trust_env=False) as http:
        yield Person(served, http, f"ann{next(_numbers)}")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def shell(file: Path, statement: str) -> list[str]:
    """What SQLite's own shell says, run by somebody who may not write there."""
    command = ["sqlite3", str(file), statement]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, user=NOBODY if os.geteuid() == 0 else None
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 shell")
def test_the_sqlite3_shell_opens_it_where_nothing_may_be_written(ann: Person, public: Path) -> None:
    for _ in range(30):
        ann.send("x" * 5_000)
    content, _headers = ann.download()
    file = public / "messages.db"
    file.write_bytes(content)
    file.chmod(0o444)
    public.chmod(0o555)
    assert shell(file, "PRAGMA integrity_check") == ["ok"]
    assert shell(file, "PRAGMA journal_mode") == ["delete"]
    assert shell(file, "SELECT title FROM messages ORDER BY rowid") == [f"letter {n}" for n in range(30)]
    assert [path.name for path in public.iterdir()] == ["messages.db"]


def test_a_device_comes_from_nothing_by_download_and_goes_on_by_deltas(ann: Person) -> None:
    chance = random.Random(5)
    for _ in range(40):
        ann.send(chance.randbytes(4_000).hex())
    mine, headers = ann.download()
    for _ in range(5):
        ann.send()
        assert ann.check()["serverVersion"] != headers["pobox-version"]
        answer = ann.http.post(
            ann.url("delta"), content=pages.hashes(mine), headers={"Content-Type": "application/octet-stream"}
        )
        assert answer.status_code == 200
        headers = answer.headers
        assert len(answer.content) <= 64_000
        size = int(headers["pobox-size"])
        made = bytearray(mine[:size].ljust(size, b"\0"))
        for number, page in pages.records(answer.content):
            made[number * pages.PAGE : (number + 1) * pages.PAGE] = page
        mine = bytes(made)
        proved(mine, headers)
        assert ann.check()["serverChecksum"] == headers["pobox-checksum"]
    assert mine == ann.download()[0]


def test_an_interrupted_download_goes_on_though_letters_came_meanwhile(ann: Person) -> None:
    for _ in range(20):
        ann.send("x" * 20_000)
    with ann.http.stream("GET", ann.url("download"), headers=PLAIN) as answer:
        headers = answer.headers
        first = next(answer.iter_raw(100_000))
    ann.send()
    assert ann.check()["serverVersion"] != headers["pobox-version"]
    rest = ann.http.get(
        ann.url("download"), headers=PLAIN | {"Range": f"bytes={len(first)}-", "If-Range": headers["etag"]}
    )
    assert rest.status_code == 206
    proved(first + rest.content, headers)


def test_a_check_is_never_out_of_date_whatever_is_killed(ann: Person) -> None:
    ann.send()
    last = ann.check()["serverVersion"]
    for name in ("shard-0", "shard-1", "router-0"):
        for _ in range(3):
            assert ann.check()["serverVersion"] == last
            ann.send()
            now = ann.check()["serverVersion"]
            assert str(now) > str(last)
            last = now
        ann.node.kill(name, signal.SIGKILL)
        ann.send()
        ann.node.wait_ready()
        now = ann.check()["serverVersion"]
        assert str(now) > str(last)
        last = now
    ann.node.restart()
    assert ann.check()["serverVersion"] == last


def test_downloads_and_deliveries_do_not_disturb_each_other(ann: Person) -> None:
    ann.send("x" * 500_000)
    ended = threading.Event()
    found: list[BaseException] = []

    def download() -> None:
        with httpx.Client(timeout=60, trust_env=False) as http:
            mine = Person(ann.node, http, ann.name)
            try:
                while not ended.is_set():
                    mine.download()
            except BaseException as error:
                found.append(error)

    devices = [threading.Thread(target=download) for _ in range(4)]
    for device in devices:
        device.start()
    try:
        for _ in range(100):
            ann.send("y" * 1_000)
    finally:
        ended.set()
        for device in devices:
            device.join()
    assert found == []
    receipt = f"{ann.node.url}/api/v3/messages/{ann.name}-99/receipt"
    eventually(lambda: ann.http.get(receipt).json()["stored"] == 1, "the last one in the box")


def test_an_unknown_user_is_404_and_gets_no_directory(ann: Person) -> None:
    for method, what in (("GET", "check"), ("GET", "download"), ("POST", "delta")):
        headers = {"Content-Type": "application/octet-stream"}
        answer = ann.http.request(method, ann.url(what), headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (404, "userId")
    assert not user_dir(ann.node.data, ann.name).exists()
