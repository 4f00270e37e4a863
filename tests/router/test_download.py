"""Download: whole, in parts, packed, and never a part of something else."""

from __future__ import annotations

import gzip
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import ops, zstd
from router.download import etag_of, negotiated, parse_etag, parse_range
from router.problems import RangeNotSatisfiable
from tests.router.conftest import Running, running, until
from tests.router.test_bad_input import refused
from tests.router.test_sync import asked, put_box

pytestmark = pytest.mark.slow

CONTENT = random.Random(1).randbytes(700_000) + bytes(300_000)
PATH = "/api/v3/sync/ann/download"
V1, V2 = "2026-11-24T08:44:00.000000Z", "2026-11-24T08:45:00.000000Z"
PLAIN = {"Accept-Encoding": "identity"}
STALL_S = 2.5


@pytest.fixture(autouse=True)
def _box(router: Running) -> None:
    put_box(router, "ann", V1, CONTENT)


def raw(router: Running, headers: dict[str, str], path: str = PATH) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and the body as it came, not unpacked."""
    with router.http.stream("GET", path, headers=headers) as answer:
        return answer.status_code, dict(answer.headers), b"".join(answer.iter_raw())


def test_the_whole_file_comes_with_its_length_version_and_checksum(router: Running) -> None:
    code, headers, body = raw(router, PLAIN, f"{PATH}?device=phone")
    assert (code, body) == (200, CONTENT)
    assert headers["content-length"] == str(len(CONTENT)) == headers["pobox-size"]
    assert headers["content-type"] == "application/vnd.sqlite3"
    assert (headers["pobox-version"], headers["etag"]) == (V1, f'"{V1}"')
    assert headers["pobox-checksum"].startswith("sha256:")
    assert headers["vary"] == "Accept-Encoding"
    assert asked(router, ops.AskSnapshot, "ann")[-1].device == "phone"


def test_head_tells_the_same_without_a_body(router: Running) -> None:
    answer = router.http.head(PATH, headers=PLAIN)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == f'"{V1}"'


@pytest.mark.parametrize(("encoding", "unpack"), [("zstd", zstd.decompress), ("gzip", gzip.decompress)])
def test_it_is_packed_if_that_is_asked_for(router: Running, encoding: str, unpack: object) -> None:
    code, headers, body = raw(router, {"Accept-Encoding": encoding})
    assert (code, headers["content-encoding"], headers["etag"]) == (200, encoding, f'"{V1};{encoding}"')
    assert headers["content-length"] == str(len(body))
    assert headers["pobox-size"] == str(len(CONTENT))
    assert callable(unpack)
    assert unpack(body) == CONTENT
    part = raw(router, {"Accept-Encoding": encoding, "Range": "bytes=10-", "If-Range": headers["etag"]})
    assert (part[0], part[2]) == (206, body[10:])


def test_who_has_it_gets_304_and_no_file_is_made(router: Running) -> None:
    before = len(asked(router, ops.AskSnapshot, "ann"))
    for tags in (f'"{V1}"', f'W/"{V1}"', f'"x", "{V1}"', "*"):
        code, headers, body = raw(router, PLAIN | {"If-None-Match": tags})
        assert (code, headers["etag"], body) == (304, f'"{V1}"', b"")
    assert len(asked(router, ops.AskSnapshot, "ann")) == before
    for tags in ('"x"', f'"{V1};gzip"', V1):
        assert raw(router, PLAIN | {"If-None-Match": tags})[0] == 200


@pytest.mark.parametrize(
    ("asked_for", "first", "last"),
    [("bytes=0-", 0, 999_999), ("bytes=100-199", 100, 199), ("bytes=-5", 999_995, 999_999),
     ("bytes=999999-", 999_999, 999_999), ("bytes=5-99999999", 5, 999_999), ("bytes=-99999999", 0, 999_999)],
)  # fmt: skip
def test_a_part_comes_as_it_is_asked_for(router: Running, asked_for: str, first: int, last: int) -> None:
    code, headers, body = raw(router, PLAIN | {"Range": asked_for})
    assert (code, body) == (206, CONTENT[first : last + 1])
    assert headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert headers["content-length"] == str(len(body))


@pytest.mark.parametrize("asked_for", ["bytes=1000000-", "bytes=-0", "bytes=99999999999999999-"])
def test_a_part_that_is_not_there_is_416(router: Running, asked_for: str) -> None:
    answer = router.http.get(PATH, headers=PLAIN | {"Range": asked_for})
    refused(answer, 416, "Range")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert router.http.get(PATH, headers={"Accept-Encoding": "gzip", "Range": asked_for}).status_code == 416


@pytest.mark.parametrize("asked_for", ["bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b"])
def test_a_range_that_is_none_of_ours_gives_the_whole(router: Running, asked_for: str) -> None:
    assert raw(router, PLAIN | {"Range": asked_for})[0] == 200


def test_an_interrupted_download_goes_on_with_its_own_version_while_that_is_kept(router: Running) -> None:
    put_box(router, "ann", V2, b"new" * 100)
    rest = {"Range": "bytes=500000-", "If-Range": f'"{V1}"'}
    code, headers, body = raw(router, PLAIN | rest)
    assert (code, headers["pobox-version"], body) == (206, V1, CONTENT[500_000:])
    assert raw(router, PLAIN | {"If-Range": f'"{V1}"'})[1]["pobox-version"] == V2
    for tag in ('"never"', f'W/"{V1}"', f'"{V1};zstd"', "Tue, 24 Nov 2026 08:00:00 GMT", "rubbish"):
        code, headers, body = raw(router, PLAIN | rest | {"If-Range": tag})
        assert (code, headers["pobox-version"], body) == (200, V2, b"new" * 100)


def test_an_unknown_user_is_404_whatever_is_asked_with_it(router: Running) -> None:
    for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
        refused(router.http.get("/api/v3/sync/nobody/download", headers=headers), 404, "userId")
    refused(router.http.get("/api/v3/sync/-x/download"), 422, "userId")
    refused(router.http.get(f"{PATH}?version=1"), 422, "version")


def test_a_file_that_is_gone_before_it_is_opened_is_asked_for_again(
    router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = []
    for peer in router.peers:
        answer = peer.answer

        def losing(request: object, answer: object = answer) -> object:
            assert callable(answer)
            said = answer(request)
            if isinstance(said, ops.Snapshot) and len(gone) < 2:
                gone.append(said)
                said.file += ".gone"
            return said

        monkeypatch.setattr(peer, "answer", losing)
    assert raw(router, PLAIN)[2] == CONTENT
    assert len(gone) == 2


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router that soon gives up on who takes nothing."""
    with running(tmp_path_factory.mktemp("strict"), 1, settings={"stall_timeout_s": STALL_S}) as made:
        yield made


def descriptors(router: Running) -> list[str]:
    found = []
    for link in Path(f"/proc/{router.process.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if "/snapshots/" in target:
            found.append(target)
    return found


def begin(router: Running, path: str) -> socket.socket:
    caller = socket.create_connection(router.address, timeout=60)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    assert caller.recv(12) == b"HTTP/1.1 200"
    return caller


def test_a_client_that_takes_nothing_is_given_up_and_the_file_is_let_go(strict: Running) -> None:
    put_box(strict, "slow", V1, bytes(20_000_000))
    asked_at = time.monotonic()
    caller = begin(strict, "/api/v3/sync/slow/download")
    assert descriptors(strict) or time.monotonic() - asked_at > STALL_S
    until(lambda: not descriptors(strict))
    caller.close()
    assert "Traceback" not in strict.log.read_text()


def test_a_client_that_takes_a_little_at_a_time_is_served(strict: Running) -> None:
    put_box(strict, "slow", V1, bytes(20_000_000))

    def is_served() -> bool:
        """For twice as long as one that takes nothing; False if it was we who took nothing."""
        with begin(strict, "/api/v3/sync/slow/download") as caller:
            took_at = time.monotonic()
            end = took_at + 2 * STALL_S
            while took_at < end:
                before, took_at = took_at, time.monotonic()
                if not caller.recv(20_000):
                    assert time.monotonic() - before > STALL_S
                    return False
                time.sleep(0.02)
            return bool(descriptors(strict))

    until(is_served)


def test_a_client_that_leaves_lets_the_file_go_at_once(router: Running) -> None:
    put_box(router, "ann", V1, bytes(20_000_000))
    for _ in range(5):
        begin(router, PATH).close()
    until(lambda: not descriptors(router))
    assert "Traceback" not in router.log.read_text()
    assert "shorter" not in router.log.read_text()


# -- pure ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(0, 2000), st.integers(0, 2000))
def test_a_range_lies_within_the_file(size: int, first: int, last: int) -> None:
    for text in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        try:
            span = parse_range(text, size)
        except RangeNotSatisfiable:
            continue
        if span is not None:
            at, length = span
            assert 0 <= at < at + length <= size


@given(st.text(max_size=40))
def test_any_text_is_a_range_or_none(text: str) -> None:
    for one in (text, f"bytes={text}"):
        try:
            parse_range(one, 100)
        except RangeNotSatisfiable:
            continue


@pytest.mark.parametrize("encoding", ["identity", "zstd", "gzip"])
def test_a_tag_names_version_and_encoding(encoding: str) -> None:
    assert parse_etag(etag_of(V1, encoding)) == (V1, encoding)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [(None, "identity"), ("", "identity"), ("gzip", "gzip"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"),
     ("gzip;q=1.0, zstd;q=0.5", "gzip"), ("gzip;q=0", "identity"), ("identity, gzip;q=0.5", "identity"),
     ("*", "identity"), ("br", "identity"), ("GZIP", "gzip"), ("gzip;q=x", "gzip"), (";;,,q=", "identity")],
)  # fmt: skip
def test_the_encoding_is_one_that_is_named(accepted: str | None, encoding: str) -> None:
    assert negotiated(accepted) == encoding
