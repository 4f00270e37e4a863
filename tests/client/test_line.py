"""A device over a line that cuts, damages and delays: the copy is right in the end, or as it was."""

from __future__ import annotations

import random
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import Damaged, NoBox, Refused, Unavailable
from client.folder import checksum_of
from client.transfer import DOWNLOADS_MAX
from tests.client.conftest import Person
from tests.client.line import Fault, Line, Plan
from tests.support import Node

pytestmark = pytest.mark.slow


def _on(name: str, *faults: Fault | None, ever_after: Fault | None = None) -> Plan:
    """The first answers to ``…/name`` get these faults, the others ``ever_after``."""
    left = list(faults)

    def plan(_method: str, target: str) -> Fault | None:
        if not urlsplit(target).path.endswith("/" + name):
            return None
        return left.pop(0) if left else ever_after

    return plan


def _ranges(line: Line) -> list[str | None]:
    return [headers.get("range") for _, target, headers in line.asked if "/download" in target]


def test_a_download_that_is_cut_goes_on_where_it_ended(person: Person) -> None:
    person.get_mail(60)
    size = int(person.check()["serverSize"])
    with Line(person.node.url, _on("download", Fault(cut_at=100_000), Fault(cut_at=50_000))) as line:
        device = person.device(server=line.url)
        synced = device.sync()
    assert _ranges(line) == [None, "bytes=100000-", "bytes=150000-"]
    assert (synced.how, synced.received) == ("download", size)
    assert person.has(device)


def test_a_download_that_is_cut_and_given_up_goes_on_in_the_next_sync(person: Person) -> None:
    person.get_mail(60)
    with Line(person.node.url, _on("download", Fault(cut_at=90_000), ever_after=Fault(cut_at=0))) as line:
        device = person.device(server=line.url, patience_s=0.0)
        with pytest.raises(Unavailable):
            device.sync()
        with pytest.raises(Unavailable):
            device.sync()
        line.plan = None
        device.sync()
    assert _ranges(line) == [None, "bytes=90000-", "bytes=90000-"]
    assert person.has(device)


def test_a_part_of_an_older_version_goes_on_or_begins_anew_and_ends_in_the_newest(person: Person) -> None:
    person.get_mail(60)
    with Line(person.node.url, _on("download", Fault(cut_at=90_000))) as line:
        device = person.device(server=line.url, patience_s=0.0)
        with pytest.raises(Unavailable):
            device.sync()
        person.get_mail(1)
        device.sync()
    assert person.has(device)
    assert person.device().sync().how == "nothing"


def test_a_damaged_byte_in_a_part_costs_another_download(person: Person) -> None:
    person.get_mail(60)
    with Line(person.node.url, _on("download", Fault(flip_at=70_000, cut_at=90_000))) as line:
        device = person.device(server=line.url)
        device.sync()
    assert _ranges(line) == [None, "bytes=90000-", None]
    assert person.has(device)


def test_what_is_always_damaged_is_an_error_that_says_so_and_the_old_copy_stays(person: Person) -> None:
    person.get_mail(10)
    device = person.device()
    device.sync()
    before = checksum_of(device.directory / "messages.db")
    person.get_mail(60)
    with Line(person.node.url, _on("download", ever_after=Fault(flip_at=50_000))) as line:
        through = person.device(server=line.url)
        with pytest.raises(Damaged, match=r"damaged on the way, 3 times now: announced was sha256:\w+ with \d+ bytes"):
            through.sync()
    assert line.count("download") == DOWNLOADS_MAX
    assert checksum_of(device.directory / "messages.db") == before
    device.sync()
    assert person.has(device)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(flip_at=2),
        Fault(flip_at=3_000),
        Fault(headers={"pobox-checksum": "sha256:" + "0" * 64}),
        Fault(headers={"pobox-size": "4096"}),
        Fault(headers={"pobox-size": "1000000"}),
    ],
)
def test_a_delta_that_is_not_right_costs_a_download(person: Person, fault: Fault) -> None:
    person.get_mail(40)
    with Line(person.node.url) as line:
        device = person.device(server=line.url)
        device.sync()
        person.get_mail()
        line.plan = _on("delta", fault)
        assert device.sync().how == "download"
    assert person.has(device)


@pytest.mark.parametrize("cut_at", [0, 1, 4_099, 4_100, 5_000])
def test_a_delta_that_is_cut_is_asked_for_again(person: Person, cut_at: int) -> None:
    person.get_mail(40)
    with Line(person.node.url) as line:
        device = person.device(server=line.url)
        device.sync()
        person.get_mail()
        line.plan = _on("delta", Fault(cut_at=cut_at))
        assert device.sync().how == "delta"
    assert person.has(device)


@pytest.mark.parametrize(
    "headers",
    [
        {"pobox-checksum": "sha256:" + "0" * 64},
        {"pobox-size": "rubbish"},
        {"content-encoding": "gzip"},
        {"pobox-size": "4096"},
        {"content-length": "5000"},
        {"content-length": "9000000"},
    ],
)
def test_an_answer_with_wrong_headers_is_not_believed(person: Person, headers: dict[str, str]) -> None:
    person.get_mail(20)
    with Line(person.node.url, _on("download", Fault(headers=headers))) as line:
        device = person.device(server=line.url)
        device.sync()
    assert person.has(device)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-range": "bytes 0-5/6"},
        {"etag": '"another"'},
    ],
)
def test_a_rest_of_another_file_is_not_put_to_the_part(person: Person, headers: dict[str, str]) -> None:
    person.get_mail(60)
    with Line(person.node.url, _on("download", Fault(cut_at=90_000), Fault(headers=headers))) as line:
        device = person.device(server=line.url)
        device.sync()
    assert _ranges(line) == [None, "bytes=90000-", None]
    assert person.has(device)


def _answer(status: str, *headers: str, body: str = "") -> Fault:
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "connection: close", "", body]
    return Fault(instead="\r\n".join(lines).encode())


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests", "507 Insufficient Storage"])
@pytest.mark.parametrize("name", ["check", "download", "delta", "read-status"])
def test_whoever_is_asked_to_come_later_comes_when_told(person: Person, status: str, name: str) -> None:
    person.get_mail(20)
    with Line(person.node.url) as line:
        device = person.device(server=line.url)
        if name == "delta":
            device.sync()
            person.get_mail()
        line.plan = _on(name, _answer(status, "retry-after: 1"))
        device.sync()
        assert line.count(name) >= 2
    assert person.has(device)


def test_patience_ends_and_says_when_to_come_again(person: Person) -> None:
    person.get_mail()
    with Line(person.node.url, _on("check", ever_after=_answer("503 x", "retry-after: 7"))) as line:
        with pytest.raises(Unavailable) as caught:
            person.device(server=line.url, patience_s=1.0).sync()
        assert caught.value.after_s == 7
        assert line.count("check") == 1


def test_an_answer_that_is_not_from_pobox_is_not_taken_for_one(person: Person) -> None:
    person.get_mail()
    for fault, error in (
        (_answer("404 Not Found", body="<html>"), NoBox),
        (_answer("200 OK", body="<html>"), Unavailable),
        (_answer("302 Found", "location: http://elsewhere/"), Refused),
        (_answer("403 Forbidden"), Refused),
        (Fault(instead=b"\x00\x01rubbish\r\n\r\n"), Unavailable),
    ):
        with Line(person.node.url, _on("check", ever_after=fault)) as line:
            device = person.device(server=line.url, patience_s=0.2)
            with pytest.raises(error):
                device.sync()
            assert not device.directory.exists()


def test_marks_come_through_though_the_box_does_not(person: Person) -> None:
    [id] = person.get_mail()
    with Line(person.node.url, _on("download", ever_after=Fault(flip_at=9))) as line:
        device = person.device(server=line.url)
        device.mark(id, "read")
        with pytest.raises(Damaged):
            device.sync()
    assert person.statuses()[id]["readAt"] is not None


def test_the_box_comes_through_though_the_marks_do_not(person: Person) -> None:
    [id] = person.get_mail()
    with Line(person.node.url, _on("read-status", ever_after=_answer("500 Oops"))) as line:
        device = person.device(server=line.url, patience_s=0.2)
        device.mark(id, "read")
        with pytest.raises(Unavailable):
            device.sync()
        assert person.has(device)
        line.plan = None
        device.sync()
    assert person.statuses()[id]["readAt"] is not None


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_a_line_does_the_copy_is_right_or_as_it_was(
    served: Node, tmp_path_factory: pytest.TempPathFactory, seed: int, has_copy: bool
) -> None:
    rng = random.Random(seed)
    person = Person(served, tmp_path_factory.mktemp("person"))
    person.get_mail(rng.randint(1, 60))
    device = person.device()
    before = None
    if has_copy:
        device.sync()
        before = checksum_of(device.directory / "messages.db")
        person.get_mail(rng.randint(1, 60))

    def plan(_method: str, target: str) -> Fault | None:
        if not any(name in target for name in ("/download", "/delta")) or rng.random() < 0.3:
            return None
        size = rng.choice((10, 5_000, 60_000, 300_000))
        return rng.choice((Fault(cut_at=rng.randrange(size)), Fault(flip_at=rng.randrange(size)), Fault(delay_s=0.01)))

    with Line(person.node.url, plan) as line:
        through = person.device(server=line.url, patience_s=0.3)
        try:
            through.sync()
        except (Damaged, Unavailable):
            copy = device.directory / "messages.db"
            assert (checksum_of(copy) if copy.exists() else None) == before
        else:
            assert person.has(through)
        line.plan = None
        through.sync()
    assert person.has(through)
