"""Memory: the tightest bound above the process counts, and the page cache doesn't."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from shard.memory import Memory, Usage, trim

MB = 1024**2
TOTAL = 1_000 * MB


class Machine:
    """A file system with control groups, as the kernel shows it, and a machine with half of its memory free."""

    def __init__(self, path: Path) -> None:
        self.proc = path / "proc"
        self.mount = path / "cgroup dir"  # a blank, as it may be
        self.proc.mkdir()

    def belongs(self, membership: str, *, version: int, root: str = "/") -> None:
        system = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        point = str(self.mount).replace(" ", "\\040")
        (self.proc / "cgroup").write_text(f"3:cpu:/\n{membership}\n")
        (self.proc / "mountinfo").write_text(
            f"30 1 0:1 / /proc rw,nosuid shared:1 - proc proc rw\n31 1 0:2 {root} {point} rw shared:9 - {system}\n"
        )

    def group(self, name: str, **files: object) -> Path:
        path = self.mount / name
        path.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (path / file.replace("__", ".")).write_text(f"{content}\n")
        return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    class Virtual:
        total = TOTAL
        available = TOTAL // 2

    monkeypatch.setattr(psutil, "virtual_memory", Virtual)
    return Machine(tmp_path)


def stat(**values: int) -> str:
    return "\n".join(f"{name} {value * MB}" for name, value in values.items())


def test_without_a_control_group_it_is_the_machine(machine: Machine) -> None:
    usage = Memory(machine.proc).read()
    assert usage == Usage(TOTAL // 2, TOTAL)
    assert usage.percent == 50.0


def test_version_2_counts_neither_clean_cache_nor_slab_but_what_is_not_written_yet(machine: Machine) -> None:
    machine.belongs("0::/pobox", version=2)
    cache = stat(anon=20, inactive_file=30, active_file=20, file_dirty=10, file_writeback=5, slab_reclaimable=5)
    machine.group("pobox", memory__max=100 * MB, memory__current=98 * MB, memory__stat=cache)
    assert Memory(machine.proc).read() == Usage(58 * MB, 100 * MB)


def test_version_1_counts_the_groups_below_as_well(machine: Machine) -> None:
    machine.belongs("7:hugetlb,memory:/pobox", version=1)
    cache = stat(inactive_file=1, total_inactive_file=20, total_active_file=10, total_dirty=5, total_writeback=0)
    machine.group("pobox", memory__limit_in_bytes=100 * MB, memory__usage_in_bytes=90 * MB, memory__stat=cache)
    assert Memory(machine.proc).read() == Usage(65 * MB, 100 * MB)


def test_the_point_where_version_2_slows_down_is_a_bound(machine: Machine) -> None:
    machine.belongs("0::/pobox", version=2)
    machine.group("pobox", memory__max="max", memory__high=80 * MB, memory__current=60 * MB, memory__stat=stat(anon=60))
    assert Memory(machine.proc).read() == Usage(60 * MB, 80 * MB)


def test_the_fullest_group_above_counts(machine: Machine) -> None:
    machine.belongs("0::/slice/pobox", version=2)
    machine.group("", memory__stat=stat(anon=1))
    machine.group("slice", memory__max=200 * MB, memory__current=190 * MB, memory__stat=stat(anon=190))
    machine.group("slice/pobox", memory__max=100 * MB, memory__current=60 * MB, memory__stat=stat(anon=60))
    assert Memory(machine.proc).read() == Usage(190 * MB, 200 * MB)


@pytest.mark.parametrize("membership", ["0::/", "0::/../../other", "0::/docker/abc"])
def test_in_a_container_the_mount_is_the_group(machine: Machine, membership: str) -> None:
    machine.belongs(membership, version=2, root="/docker/abc")
    machine.group("", memory__max=100 * MB, memory__current=70 * MB, memory__stat=stat(anon=70))
    assert Memory(machine.proc).read() == Usage(70 * MB, 100 * MB)


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096, 2 * TOTAL, 0])
def test_a_group_without_a_limit_is_none(machine: Machine, limit: object) -> None:
    machine.belongs("0::/pobox", version=2)
    machine.group("pobox", memory__max=limit, memory__current=900 * MB, memory__stat=stat(anon=900))
    assert Memory(machine.proc).read() == Usage(TOTAL // 2, TOTAL)


@pytest.mark.parametrize("broken", ["memory.stat", "memory.current", "memory.max"])
def test_a_group_that_goes_away_or_makes_no_sense_disturbs_nobody(machine: Machine, broken: str) -> None:
    machine.belongs("0::/pobox", version=2)
    group = machine.group("pobox", memory__max=100 * MB, memory__current=90 * MB, memory__stat=stat(anon=90))
    memory = Memory(machine.proc)
    assert memory.read() == Usage(90 * MB, 100 * MB)
    (group / broken).unlink()
    assert memory.read() == Usage(TOTAL // 2, TOTAL)
    (group / broken).write_text("inactive_file nonsense\n")
    assert memory.read() == Usage(TOTAL // 2, TOTAL)


def test_a_new_limit_is_seen_at_once(machine: Machine) -> None:
    machine.belongs("0::/pobox", version=2)
    group = machine.group("pobox", memory__max="max", memory__current=90 * MB, memory__stat=stat(anon=90))
    memory = Memory(machine.proc)
    memory.read()
    (group / "memory.max").write_text(f"{100 * MB}\n")
    assert memory.read().percent == 90.0


def test_this_machine_can_be_read() -> None:
    usage = Memory().read()
    assert 0 < usage.used <= usage.limit <= psutil.virtual_memory().total


def test_what_was_freed_between_what_is_still_used_is_given_back() -> None:
    process = psutil.Process()
    kept = [bytes(10_000) for _ in range(10_000)]
    full = process.memory_info().rss
    del kept[: len(kept) - 1]
    trim()
    assert process.memory_info().rss < full - 50 * MB
