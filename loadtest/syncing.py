"""check, download, delta, snapshot, crowd: what devices ask for, beside the floor, nginx and SQLite's own tools."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import apsw
import apsw.sqlite_extra
import httpx
import msgspec

from loadtest import gets, load
from loadtest.children import Child, python, reported
from loadtest.downloaders import Downloaded
from loadtest.errors import BenchError
from loadtest.figures import Result, Row, number, ratio
from loadtest.filled import Writer, fill, seed
from loadtest.nginx import nginx
from loadtest.rounds import Account, alone, post
from loadtest.settings import Settings
from loadtest.subjects import PoboxNode, directory, floor, pobox
from node import pages
from node.model import SyncCheck
from node.paths import user_dir

_LARGE = "large"
_MB = 1e6


def _place_large(base: Path, bytes_min: int) -> None:
    """A box of that size for the user ``large`` of the node that will be started in ``base``."""
    fill(user_dir(base / "node", _LARGE) / "messages.db", bytes_min)


def _check(http: httpx.Client, user: str, version: str | None = None) -> SyncCheck:
    answer = http.get(f"/api/v3/sync/{user}/check", params={"localVersion": version} if version else None)
    if answer.status_code != 200:
        raise BenchError(f"check: {answer.status_code} {answer.text[:500]}")
    return msgspec.json.decode(answer.content, type=SyncCheck)


def _client(node: PoboxNode) -> httpx.Client:
    return httpx.Client(base_url=node.url, timeout=120, trust_env=False)


# -- check -------------------------------------------------------------------------------------------


def check(settings: Settings) -> Result:
    """Devices that ask and there is nothing new."""
    with directory(settings.data, "check") as base, contextlib.ExitStack() as stack:
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=settings.routers))
        least = stack.enter_context(floor(base, shards=settings.shards, routers=settings.routers, fdatasync=False))
        accounts = [Account(node), Account(least)]
        users = [load.user(number) for number in range(settings.users)]
        with alone(accounts[1:]), _client(node) as http:
            accounts[0].warm_up(settings.users)
            versions = {user: _check(http, user).server_version for user in users}
        paths = [f"/api/v3/sync/{user}/check?localVersion={versions[user]}&device=phone" for user in users]
        asked = {node.name: paths, least.name: paths}
        took: dict[str, list[gets.Gets]] = {account.subject.name: [] for account in accounts}
        for round_ in range(-1, settings.rounds):
            for account in accounts:
                with alone([other for other in accounts if other is not account]):
                    name = account.subject.name
                    run = gets.run(
                        account.subject.url,
                        asked[name],
                        base,
                        seconds=settings.seconds,
                        connections=settings.connections,
                        seed=round_ + 2,
                    )
                if round_ >= 0:
                    took[name].append(run)
        with _client(node) as http:
            if any(_check(http, user, versions[user]).need_sync for user in users[:100]):
                raise BenchError("something was new")
        node.stop()
        ours, theirs = ([run.rate for run in took[account.subject.name]] for account in accounts)
        return Result(
            name="check",
            title="devices that ask, and there is nothing new",
            how=f"wrk, GET check of {number(settings.users)} users at random, each with its version. The floor: the "
            "same router and requests, with a handler that decodes and answers.",
            rows=[
                Row(label="pobox: check", values=ours, unit="req/s"),
                Row(label="floor", values=theirs, unit="req/s"),
                ratio("check / floor", ours, theirs, at_least=0.8),
                Row(label="pobox: answer, 99 %", values=[r.p99_us / 1e3 for r in took[node.name]], unit="ms"),
            ],
        )


# -- download ----------------------------------------------------------------------------------------


def download(settings: Settings) -> Result:
    """A large box, whole."""
    with directory(settings.data, "download") as base, contextlib.ExitStack() as stack:
        _place_large(base, settings.box_bytes)
        files = base / "files"
        files.mkdir()
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=1))
        peer = stack.enter_context(nginx(base / "nginx", files, workers=1))
        with _client(node) as http:
            said = _check(http, _LARGE)
            content = http.get(f"/api/v3/sync/{_LARGE}/download").content
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != said.server_checksum:
            raise BenchError("the download is not what the check said")
        (files / "box.db").write_bytes(content)
        accounts = [Account(node), Account(peer)]
        path = {node.name: f"/api/v3/sync/{_LARGE}/download", peer.name: "/box.db"}
        rows = []
        for connections in (1, 8):
            took: dict[str, list[float]] = {node.name: [], peer.name: []}
            for round_ in range(-1, settings.rounds):
                for account in accounts:
                    name = account.subject.name
                    with alone([other for other in accounts if other is not account]):
                        run = gets.run(
                            account.subject.url,
                            [path[name]],
                            base,
                            seconds=settings.seconds,
                            connections=connections,
                        )
                    if round_ >= 0:
                        took[name].append(run.bytes_rate / _MB)
            at_once = "one at a time" if connections == 1 else f"{connections} at once"
            rows += [
                Row(label=f"pobox, {at_once}", values=took[node.name], unit="MB/s"),
                Row(label=f"nginx, {at_once}", values=took[peer.name], unit="MB/s"),
                ratio(f"pobox / nginx, {at_once}", took[node.name], took[peer.name], at_least=0.8),
            ]
        node.stop()
        return Result(
            name="download",
            title=f"a box of {number(len(content) / _MB)} MB, downloaded again and again",
            how="wrk reads it over loopback; one router, and nginx with one worker and sendfile on the same bytes.",
            rows=rows,
        )


# -- delta -------------------------------------------------------------------------------------------


class _Rsync:
    """``sqlite3_rsync`` on two files that lie side by side."""

    def __init__(self, base: Path, bytes_min: int) -> None:
        self._origin, self._replica = base / "origin.db", base / "replica.db"
        fill(self._origin, bytes_min)
        shutil.copyfile(self._origin, self._replica)
        self._writer = Writer(2)
        self.program = str(apsw.sqlite_extra.path("sqlite3_rsync"))

    def one_message(self) -> tuple[float, int]:
        """Seconds for the sync after one more message, and bytes both ways."""
        seed(self._origin, self._writer, 1)
        began = time.perf_counter()
        command = [self.program, "-v", str(self._origin), str(self._replica)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        said = done.stdout + done.stderr
        moved = re.search(r"sent ([\d,]+) bytes, received ([\d,]+) bytes", said)
        if done.returncode or moved is None:
            raise BenchError(f"sqlite3_rsync ended with {done.returncode}:\n{said}")
        return took, sum(int(part.replace(",", "")) for part in moved.groups())


def delta(settings: Settings) -> Result:
    """One new message in a large box."""
    check_s, delta_s, beyond, hashes, whole_s, rsync_s, rsync_bytes = (list[float]() for _ in range(7))
    with directory(settings.data, "delta") as base, contextlib.ExitStack() as stack:
        _place_large(base, settings.box_bytes)
        rsync = _Rsync(base, settings.box_bytes) if apsw.sqlite_extra.has("sqlite3_rsync") else None
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=1))
        http = stack.enter_context(_client(node))
        mine = bytearray(http.get(f"/api/v3/sync/{_LARGE}/download").content)
        version = _check(http, _LARGE).server_version
        for round_ in range(-1, max(5, settings.rounds) * 2):
            post(node.url, {"users": [_LARGE], "title": f"message {round_}", "content": "one more " * 60})
            began = time.perf_counter()
            said = _check(http, _LARGE, version)
            checked = time.perf_counter()
            asked = pages.hashes(mine)
            hashed = time.perf_counter()
            answer = http.post(
                f"/api/v3/sync/{_LARGE}/delta", content=asked, headers={"content-type": "application/octet-stream"}
            )
            answered = time.perf_counter()
            if answer.status_code != 200:
                raise BenchError(f"delta: {answer.status_code} {answer.text[:500]}")
            size = int(answer.headers["pobox-size"])
            mine += bytes(max(0, size - len(mine)))
            for page, content in pages.records(answer.content):
                mine[page * pages.PAGE : page * pages.PAGE + pages.PAGE] = content
            if f"sha256:{hashlib.sha256(mine).hexdigest()}" != said.server_checksum:
                raise BenchError("the pages don't make the file")
            version, ended = said.server_version, time.perf_counter()
            if round_ >= 0:
                check_s.append(checked - began)
                delta_s.append(answered - hashed)
                whole_s.append(ended - began)
                hashes.append(len(asked))
                beyond.append(len(answer.content))
            if rsync is not None:
                took, moved = rsync.one_message()
                if round_ >= 0:
                    rsync_s.append(took)
                    rsync_bytes.append(moved)
        node.stop()
    rows = [
        Row(label="POST delta", values=[s * 1e3 for s in delta_s], unit="ms", at_most=100.0),
        Row(label="pages sent to the device", values=[n / 1024 for n in beyond], unit="kB", at_most=64.0),
        Row(label="hashes sent by the device", values=[n / 1024 for n in hashes], unit="kB"),
        Row(label="check before it: copy and sha256 of the new version", values=[s * 1e3 for s in check_s], unit="ms"),
        Row(label="all of it: check, hashes, delta, sha256", values=[s * 1e3 for s in whole_s], unit="ms"),
    ]
    if rsync_s:
        rows += [
            Row(label="sqlite3_rsync, a file beside a file", values=[s * 1e3 for s in rsync_s], unit="ms"),
            Row(label="sqlite3_rsync: both ways", values=[n / 1024 for n in rsync_bytes], unit="kB"),
            ratio("all of it / sqlite3_rsync, time", whole_s, rsync_s),
        ]
    return Result(
        name="delta",
        title=f"one new message in a box of {number(settings.box_bytes / _MB)} MB",
        how="A message is delivered, then a device with the version before asks, sends the hashes of its pages, and "
        "makes the new file of the pages that it gets, by HTTP over loopback; each result is proved by its sha256.",
        rows=rows,
    )


# -- snapshot ----------------------------------------------------------------------------------------


class Copied(msgspec.Struct, kw_only=True):
    """Seconds a copy with its checksum, one value a round."""

    ours: list[float] = []
    plain: list[float] = []
    bytes: int = 0


def snapshot(settings: Settings) -> Result:
    """The copy that a download is made of."""
    with directory(settings.data, "snapshot") as base:
        options = ("--bytes", str(settings.box_bytes), "--rounds", str(settings.rounds))
        copied = reported("loadtest.copying", Copied, str(base.resolve()), *options)
    return Result(
        name="snapshot",
        title=f"a copy of a box of {number(copied.bytes / _MB)} MB for devices",
        how="The shard's own code, beside SQLite's backup API and a sha256 of its result, in turns.",
        rows=[
            Row(label="pobox: issue a version, copy, seal, sha256", values=[s * 1e3 for s in copied.ours], unit="ms"),
            Row(label="backup API and sha256", values=[s * 1e3 for s in copied.plain], unit="ms"),
            ratio("pobox / backup API and sha256", copied.ours, copied.plain, at_most=1.5),
        ],
    )


# -- crowd -------------------------------------------------------------------------------------------


def crowd(settings: Settings) -> Result:
    """Many devices that download while mail for others comes in."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    router_mb, shard_mb, moved = list[float](), list[float](), list[float]()
    with directory(settings.data, "crowd") as base, contextlib.ExitStack() as stack:
        _place_large(base, settings.box_bytes)
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=settings.routers))
        account = Account(node)
        account.warm_up(settings.users)
        with _client(node) as http:
            _check(http, _LARGE)
        for round_ in range(-1, settings.rounds):
            for busy in (False, True):
                with contextlib.ExitStack() as turn:
                    devices = None
                    if busy:
                        url = f"{node.url}/api/v3/sync/{_LARGE}/download"
                        command = python(
                            "loadtest.downloaders", url, "--count", str(settings.devices), "--seconds", "3600",
                            "--bytes-per-second", str(settings.device_bytes_per_s),
                        )  # fmt: skip
                        devices = Child("devices", command, base / f"devices-{round_}.log")
                        turn.callback(devices.stop)
                        time.sleep(2.0)
                    run = account.turn(
                        [],
                        seconds=settings.seconds,
                        users=settings.users,
                        targets=1,
                        connections=settings.connections,
                        seed=round_ + 2,
                    )
                    if busy and round_ >= 0:
                        router_mb.append(max(p.memory_info().rss for p in node.processes("router")) / _MB)
                        shard_mb.append(max(p.memory_info().rss for p in node.processes("shard")) / _MB)
                if round_ < 0:
                    continue
                rates[busy].append(run.stored_rate)
                if devices is not None:
                    got = msgspec.json.decode(devices.text().splitlines()[-1], type=Downloaded)
                    if got.failed:
                        raise BenchError(f"{got.failed} downloads failed")
                    moved.append(got.bytes / got.seconds / _MB)
        node.stop()
    return Result(
        name="crowd",
        title=f"{number(settings.devices)} devices download {number(settings.box_bytes / _MB)} MB; mail for others",
        how=f"Deliveries to {number(settings.users)} users, one a request, with and without devices, in turns. Each "
        f"device takes {number(settings.device_bytes_per_s / _MB)} MB/s at the most; it runs on the same cores.",
        rows=[
            Row(label="deliveries, nobody downloads", values=rates[False], unit="msg/s"),
            Row(label="deliveries, all download", values=rates[True], unit="msg/s"),
            ratio("with / without", rates[True], rates[False], at_least=0.7),
            Row(label="downloaded meanwhile", values=moved, unit="MB/s"),
            Row(label="memory of the largest router", values=router_mb, unit="MB"),
            Row(label="memory of the largest shard", values=shard_mb, unit="MB"),
        ],
    )
