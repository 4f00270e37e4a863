"""What is done to an audit log shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import audit, audit_files, paths, placement
from node.audit import Entry, Place
from node.audit_chain import Chain
from node.audit_files import head_path
from node.audit_verify import heads, heard, said, verify
from node.errors import ConfigError
from tests.audited import NOON_US, SMALL, append, faults


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chains of several files."""
    data = tmp_path_factory.mktemp("written")
    append(data, 12)
    append(data, 12, name="router-1")
    return data


def files(data: Path) -> list[Path]:
    return sorted(paths.audit_dir(data).iterdir())


def split(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def swap(draw: st.DataObject, parts: list[bytes]) -> list[bytes]:
    one, other = draw.draw(st.lists(st.integers(0, len(parts) - 1), min_size=2, max_size=2, unique=True))
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def change_bytes(draw: st.DataObject, content: bytes) -> bytes:
    at = draw.draw(st.integers(0, len(content) - 1))
    byte = draw.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    return content[:at] + bytes([byte]) + content[at + 1 :]


def cut_out(draw: st.DataObject, content: bytes) -> bytes:
    first, last = sorted(draw.draw(st.lists(st.integers(0, len(content)), min_size=2, max_size=2, unique=True)))
    return content[:first] + content[last:]


def cut_lines(draw: st.DataObject, content: bytes) -> bytes:
    parts = split(content)
    first, last = sorted(draw.draw(st.lists(st.integers(0, len(parts)), min_size=2, max_size=2, unique=True)))
    return b"".join(parts[:first] + parts[last:])


def put_in(draw: st.DataObject, content: bytes) -> bytes:
    parts = split(content)
    line = draw.draw(st.sampled_from(parts) | st.just(b"\n") | st.binary(min_size=1, max_size=30))
    parts.insert(draw.draw(st.integers(0, len(parts))), line)
    return b"".join(parts)


def exchange_lines(draw: st.DataObject, content: bytes) -> bytes:
    return b"".join(swap(draw, split(content)))


def reseal(draw: st.DataObject, content: bytes) -> bytes:
    """One line anew, with a hash that is right for it."""
    parts = split(content)
    index = draw.draw(st.integers(0, len(parts) - 1))
    known = audit.read(parts[index][:-1])
    assert known is not None
    before = audit.read(parts[index - 1][:-1]) if index else None
    place = Place(known.n - 1, before.hash if before is not None else str(known.what["previous"]))
    parts[index] = audit.sealed(place, NOON_US, Entry(deed="nothing"))[0]
    return b"".join(parts)


CHANGES = [change_bytes, cut_out, cut_lines, put_in, exchange_lines, reseal]


@pytest.mark.slow
@settings(max_examples=400)
@given(st.data(), st.sampled_from(CHANGES))
def test_any_change_to_a_file_is_found(
    written: Path, data: st.DataObject, change: Callable[[st.DataObject, bytes], bytes]
) -> None:
    path = data.draw(st.sampled_from(files(written)))
    content = path.read_bytes()
    try:
        changed = change(data, content)
        path.write_bytes(changed)
        if changed != content:
            found = verify(written)
            assert found.faults or (changed.startswith(content) and found.notes)
    finally:
        path.write_bytes(content)
    assert faults(written) == []


@settings(max_examples=100)
@given(st.data(), st.sampled_from(["remove", "exchange", "copy"]))
def test_a_file_that_is_gone_moved_or_another_is_found(written: Path, data: st.DataObject, what: str) -> None:
    all_files = files(written)
    contents = {path: path.read_bytes() for path in all_files}
    one, other = data.draw(st.lists(st.sampled_from(all_files), min_size=2, max_size=2, unique=True))
    try:
        one.unlink()
        if what != "remove":
            one.write_bytes(contents[other])
        if what == "exchange":
            other.write_bytes(contents[one])
        assert faults(written)
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert faults(written) == []


@given(st.data())
def test_a_head_that_is_changed_or_gone_is_found(written: Path, data: st.DataObject) -> None:
    path = head_path(written, "router-0")
    content = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            changed = change_bytes(data, content)
            path.write_bytes(changed)
            known = audit_files.load_head(written, "router-0")
            if known is not None and msgspec.json.encode(known) + b"\n" == content:
                return
            before = msgspec.json.decode(content, type=audit.Head)
            if known is not None and msgspec.structs.replace(known, at=before.at) == before:
                return  # its time says nothing of the chain
        else:
            path.unlink()
        assert faults(written)
    finally:
        path.write_bytes(content)


def test_a_name_that_does_not_belong_there_is_found(written: Path) -> None:
    stranger = paths.audit_dir(written) / "router-0-000001.jsonl.bak"
    stranger.touch()
    try:
        assert faults(written) == [f"{stranger.name}: is no file of the audit log"]
    finally:
        stranger.unlink()


def test_who_makes_a_whole_chain_anew_is_found_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    append(tmp_path, 12)
    kept = heard("\n".join(said(head) for head in heads(tmp_path)))
    assert verify(tmp_path, kept).faults == []
    append(tmp_path, 3)
    assert verify(tmp_path, kept).faults == [], "more lines change nothing"
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    shutil.rmtree(paths.audit_dir(tmp_path))
    shutil.rmtree(paths.audit_heads_dir(tmp_path))
    assert verify(tmp_path).faults == [], "nothing here tells"
    assert f"router-0: line {kept[0].n} of --head is missing" in verify(tmp_path, kept).faults
    append(tmp_path, 25)
    assert verify(tmp_path).faults == []
    chain = Chain(tmp_path, "router-0", SMALL)
    chain.append([(NOON_US, Entry(deed="another"))], NOON_US)
    chain.close()
    anew = [msgspec.structs.replace(kept[0], hash=audit.ZERO)]
    assert verify(tmp_path, anew).faults == [f"router-0: line {kept[0].n} of --head is another one"]


@pytest.mark.parametrize("text", ["router-0", "router-0 x y", "router-0 1 2 3", "../x 1 ab", "router-0 ¹ ab"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--head"):
        heard(text)
