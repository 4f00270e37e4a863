"""Delta: the pages that differ make the new file; what makes no sense is refused."""

from __future__ import annotations

import hashlib
import random

import httpx
import pytest

from node import ops, pages
from tests.router.conftest import Running, running
from tests.router.test_bad_input import refused
from tests.router.test_sync import asked, put_box

PATH = "/api/v3/sync/ann/delta"
V1 = "2026-11-24T08:44:00.000000Z"
OLD = random.Random(2).randbytes(100 * pages.PAGE)
TYPE = {"Content-Type": "application/octet-stream"}


def post(router: Running, body: bytes, path: str = PATH, **headers: str) -> httpx.Response:
    return router.http.post(path, content=body, headers=TYPE | headers)


def changed(*numbers: int, to: int = 100) -> bytes:
    new = bytearray(OLD[: to * pages.PAGE].ljust(to * pages.PAGE, b"\1"))
    for number in numbers:
        new[number * pages.PAGE] ^= 1
    return bytes(new)


@pytest.mark.parametrize("new", [OLD, changed(0, 63, 99), changed(5, to=130), changed(5, to=70), changed(*range(50))])
def test_the_pages_that_differ_make_the_new_file(router: Running, new: bytes) -> None:
    put_box(router, "ann", V1, new)
    answer = post(router, pages.hashes(OLD), f"{PATH}?device=phone")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.pobox.delta")
    assert answer.headers["content-length"] == str(len(answer.content))
    size = int(answer.headers["pobox-size"])
    made = bytearray(OLD[:size].ljust(size, b"\0"))
    for number, page in pages.records(answer.content):
        made[number * pages.PAGE : (number + 1) * pages.PAGE] = page
    assert made == new
    assert answer.headers["pobox-checksum"] == f"sha256:{hashlib.sha256(new).hexdigest()}"
    assert answer.headers["pobox-version"] == V1
    assert asked(router, ops.AskSnapshot, "ann")[-1].device == "phone"


def test_a_large_delta_comes_in_portions(router: Running) -> None:
    new = random.Random(3).randbytes(1000 * pages.PAGE)
    put_box(router, "ann", V1, new)
    old = bytearray(pages.hashes(new))
    for number in range(0, 1000, 2):
        old[number * pages.HASH] ^= 1
    answer = post(router, bytes(old))
    assert [number for number, _page in pages.records(answer.content)] == list(range(0, 1000, 2))


@pytest.mark.parametrize("old", [b"", pages.hashes(OLD)[::-1], pages.hashes(changed(*range(51)))])
def test_when_a_download_is_cheaper_that_is_said(router: Running, old: bytes) -> None:
    put_box(router, "ann", V1, OLD)
    answer = post(router, old)
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/v3/sync/ann/download")
    assert answer.headers["pobox-version"] == V1


def test_a_file_that_is_not_made_of_whole_pages_is_downloaded(router: Running) -> None:
    put_box(router, "ann", V1, OLD[:-1])
    assert post(router, pages.hashes(OLD)).status_code == 303


def test_what_makes_no_sense_is_refused(router: Running) -> None:
    put_box(router, "ann", V1, OLD)
    refused(post(router, b"1234567"), 422, "body")
    refused(router.http.post(PATH, content=b"", headers={"Content-Type": "application/json"}), 415, "Content-Type")
    refused(router.http.post(PATH, content=b""), 415, "Content-Type")
    refused(post(router, b"", f"{PATH}?x=1"), 422, "x")
    refused(post(router, b"", "/api/v3/sync/nobody/delta"), 404, "userId")
    refused(post(router, b"", "/api/v3/sync/-/delta"), 422, "userId")
    assert router.http.get(PATH).status_code == 405


def test_more_hashes_than_allowed_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("small"), 1, settings={"delta_bytes_max": 800}) as router:
        put_box(router, "ann", V1, OLD)
        assert post(router, pages.hashes(OLD)).status_code == 200
        refused(post(router, pages.hashes(OLD) + bytes(8)), 413)
