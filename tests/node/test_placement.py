from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from node import placement
from node.errors import ConfigError
from node.placement import Placement, Watched


def test_what_is_saved_is_loaded_and_an_empty_directory_has_none(tmp_path: Path) -> None:
    assert placement.load(tmp_path) is None
    for version in (1, 2):
        placement.save(tmp_path, Placement(version=version, shards=version + 1))
        assert placement.load(tmp_path) == Placement(version=version, shards=version + 1)
    assert os.listdir(tmp_path) == ["placement.json"]


def test_what_is_prepared_counts_when_it_is_put_which_waits_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement.save(tmp_path, Placement(version=1, shards=1))
    placement.prepare(tmp_path, Placement(version=1, shards=2))
    assert placement.load(tmp_path) == Placement(version=1, shards=1)

    def hangs(_fd: int) -> None:
        raise AssertionError("whoever holds the lock waits for the disk")

    monkeypatch.setattr(os, "fsync", hangs)
    placement.put(tmp_path)
    assert placement.load(tmp_path) == Placement(version=1, shards=2)


def test_who_watches_it_hears_of_each_change_once(tmp_path: Path) -> None:
    file = Watched(tmp_path)
    assert file.news() is None
    for shards in (1, 2):
        placement.save(tmp_path, Placement(version=1, shards=shards))
        assert file.news() == Placement(version=1, shards=shards)
        assert file.news() is None
    (tmp_path / "placement.json").write_text("{")
    assert file.news() is None
    placement.save(tmp_path, Placement(version=1, shards=3))
    assert file.news() == Placement(version=1, shards=3)


def test_one_from_before_there_were_formats_is_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "placement.json").write_text('{"version":3,"shards":2}\n')
    assert placement.load(tmp_path) == Placement(version=3, shards=2, format=1)


def test_one_of_a_later_format_is_left_to_the_program_that_made_it(tmp_path: Path) -> None:
    later = placement.FORMAT + 1
    (tmp_path / "placement.json").write_text(f'{{"format":{later},"version":"of another kind"}}')
    with pytest.raises(ConfigError, match=f"is of format {later}, this pobox knows {placement.FORMAT}"):
        placement.load(tmp_path)


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_placement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    placement.save(tmp_path, Placement(version=1, shards=2))

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path if step == "rename" else os, step, fail)
    with pytest.raises(OSError, match="no"):
        placement.save(tmp_path, Placement(version=2, shards=3))
    assert placement.load(tmp_path) == Placement(version=1, shards=2)


def test_a_disk_that_gets_full_in_the_middle_of_a_write_leaves_the_old_placement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement.save(tmp_path, Placement(version=1, shards=2))
    write, room = os.write, [5]

    def short(fd: int, content: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "no room")
        return write(fd, content[: room.pop()])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="no room"):
        placement.save(tmp_path, Placement(version=2, shards=3))
    assert placement.load(tmp_path) == Placement(version=1, shards=2)


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(fd: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2])
        fsync(fd)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    placement.save(tmp_path, Placement(version=1, shards=1))
    assert steps == ["placement.json.new", "rename", tmp_path.name]


def test_a_damaged_placement_is_named(tmp_path: Path) -> None:
    (tmp_path / "placement.json").write_text('{"version":')
    with pytest.raises(ConfigError, match=r"placement\.json"):
        placement.load(tmp_path)
