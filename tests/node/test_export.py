"""An export is what its manifest says, or it is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.export import MANIFEST, Broken, Exported, Manifest, verify

FILES = {"messages.db": b"\x00\x01" * 100, "messages.ndjson": b"{}\n", "archive/messages_2025.db": b""}


def zipped(files: dict[str, bytes], manifest: Manifest | None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
        if manifest is not None:
            made.writestr(MANIFEST, msgspec.json.encode(manifest))
    return out.getvalue()


def manifest(files: dict[str, bytes], user: str = "ada") -> Manifest:
    listed = [Exported(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()]
    return Manifest(user, "2026-11-24T08:44:00.000000Z", "v1", listed)


WHOLE = zipped(FILES, manifest(FILES))


def test_a_whole_one_is_what_it_says() -> None:
    assert verify(io.BytesIO(WHOLE), "ada") == manifest(FILES)


@pytest.mark.parametrize(
    "content",
    [
        zipped(FILES, None),
        zipped(FILES, manifest(FILES, "bob")),
        zipped({**FILES, "more": b""}, manifest(FILES)),
        zipped({"messages.db": FILES["messages.db"]}, manifest(FILES)),
        zipped({**FILES, "messages.ndjson": b"{ }"}, manifest(FILES)),
        zipped({**FILES, "messages.ndjson": b""}, manifest(FILES)),
        b"",
        b"{}",
    ],
)
def test_one_that_is_not_is_refused(content: bytes) -> None:
    with pytest.raises(Broken):
        verify(io.BytesIO(content), "ada")


@given(st.integers(0, len(WHOLE) - 1))
def test_one_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(Broken):
        verify(io.BytesIO(WHOLE[:size]), "ada")
