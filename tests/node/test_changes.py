"""Who looks at the counters before asking never takes an old answer for a new one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import changes as changes_module
from node.changes import SIZE, Changes, Watch


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "_LOOK_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "changes-0"


def test_a_change_is_seen_by_whom_it_is_for_and_by_everybody_if_it_is_for_anybody(path: Path) -> None:
    changes, watch = Changes(path), Watch(path)
    ada, bob = watch.mark("ada"), watch.mark("bob")
    assert ada is not None
    assert bob is not None
    changes.for_users(["ada"])
    assert watch.mark("ada") != ada
    assert watch.mark("bob") == bob
    changes.for_anybody()
    assert watch.mark("bob") != bob
    changes.close()


def test_a_start_changes_everything_even_with_the_clock_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Changes(path)
    watch = Watch(path)
    before = watch.mark("ada")
    first.close()
    monkeypatch.setattr("time.time_ns", lambda: 1)
    again = Changes(path)
    after = watch.mark("ada")
    assert before is not None
    assert after is not None
    assert after > before
    again.close()


def test_without_a_file_there_is_no_mark_until_it_comes(path: Path) -> None:
    watch = Watch(path)
    assert watch.mark("ada") is None
    changes = Changes(path)
    assert watch.mark("ada") is not None
    changes.close()


def test_a_file_that_was_replaced_is_opened_anew(path: Path) -> None:
    changes, watch = Changes(path), Watch(path)
    old = watch.mark("ada")
    path.unlink()
    assert watch.mark("ada") is None
    changes.close()
    again = Changes(path)
    assert watch.mark("ada") not in (None, old)
    again.for_users(["ada"])
    assert watch.mark("ada") not in (None, old)
    again.close()


def test_a_file_of_another_size_is_none(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(bytes(16))
    assert Watch(path).mark("ada") is None
    Changes(path).close()
    assert path.stat().st_size == SIZE


def test_on_a_full_disk_it_counts_for_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, at: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    changes = Changes(path)
    changes.for_users(["ada"])
    assert Watch(path).mark("ada") is None
    changes.close()


def test_a_file_that_was_replaced_is_found_out_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "_LOOK_S", 0.05)
    first, watch = Changes(path), Watch(path)
    old = watch.mark("ada")
    path.unlink()
    again = Changes(path)
    time.sleep(0.06)
    assert watch.mark("ada") not in (None, old)
    first.close()
    again.close()


_NAMES = st.sampled_from([f"user-{number}" for number in range(12)])


@given(st.lists(_NAMES))
def test_who_is_full_is_seen_and_nobody_who_shares_a_bit_with_somebody_is_forgotten(turned: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place, mock.patch.object(changes_module, "SLOTS", 5):
        path = Path(place) / "run" / "changes-0"
        changes, watch = Changes(path), Watch(path)
        full = set[str]()
        for user in turned:
            if user in full:
                full.remove(user)
                changes.not_full(user)
            else:
                full.add(user)
                changes.full(user)
            assert watch.is_any_full() == bool(full)
            assert all(watch.may_be_full(user) for user in full)
        for user in sorted(full):
            changes.not_full(user)
        assert not any(watch.may_be_full(user) for user in turned)
        changes.full("ada")
        changes.close()
        again = Changes(path)
        assert not Watch(path).is_any_full(), "a shard that starts says anew who is full"
        again.close()
