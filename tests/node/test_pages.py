"""A delta makes the new file of any old one."""

from __future__ import annotations

import hashlib

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from node import pages

CONTENTS = st.lists(st.integers(0, 5), max_size=200).map(lambda fills: b"".join(bytes([n]) * pages.PAGE for n in fills))


def delta_of(new: bytes, old: bytes) -> bytes:
    numbers = pages.differing(pages.hashes(new), pages.hashes(old))
    return b"".join(pages.record(n, new[n * pages.PAGE : (n + 1) * pages.PAGE]) for n in numbers)


@given(CONTENTS, CONTENTS)
def test_written_over_the_old_file_a_delta_makes_the_new_one(new: bytes, old: bytes) -> None:
    made = bytearray(old[: len(new)].ljust(len(new), b"\0"))
    for number, page in pages.records(delta_of(new, old)):
        made[number * pages.PAGE : (number + 1) * pages.PAGE] = page
    assert hashlib.sha256(made).digest() == hashlib.sha256(new).digest()


@given(CONTENTS)
def test_what_is_alike_travels_not_at_all(content: bytes) -> None:
    assert delta_of(content, content) == b""


def test_one_page_of_many_is_found_wherever_it_is() -> None:
    old = bytes(300 * pages.PAGE)
    for number in (0, 63, 64, 255, 299):
        new = bytearray(old)
        new[number * pages.PAGE + 17] = 1
        assert pages.differing(pages.hashes(new), pages.hashes(old)) == [number]


def test_the_hash_is_the_one_that_the_document_names() -> None:
    page = bytes(range(256)) * 16
    assert pages.hashes(page) == xxhash.xxh64(page, seed=0).intdigest().to_bytes(8, "big")
    assert pages.hashes(page + bytes(pages.PAGE)).hex() == "0f6e64be186af6a4ac869b6f32d8bbdb"  # in docs/sync.md too


@given(st.integers(1, pages.RECORD - 1))
def test_a_delta_that_was_cut_is_no_delta(missing: int) -> None:
    delta = pages.record(0, bytes(pages.PAGE)) + pages.record(1, bytes(pages.PAGE))
    with pytest.raises(pages.DeltaError):
        list(pages.records(delta[:-missing]))
