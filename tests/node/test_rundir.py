from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import rundir
from node.errors import ConfigError
from node.process import supervised_by

SUPERVISOR = 2**22 + 1  # above any pid: one that is dead for sure


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rundir.create(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def orphan() -> Iterator[subprocess.Popen[bytes]]:
    """A child of the dead supervisor that doesn't mind SIGTERM."""
    source = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    env = {**os.environ, **supervised_by(SUPERVISOR)}
    with subprocess.Popen([sys.executable, "-c", source], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_child_of_a_dead_supervisor_that_does_not_end_is_killed(data: Path, orphan: subprocess.Popen[bytes]) -> None:
    rundir.write_pids(data, {"supervisor": SUPERVISOR, "shard-0": orphan.pid})
    assert rundir.leftovers(data) == [orphan.pid]
    rundir.await_leftovers(data, bound_s=0.2)
    assert orphan.wait() == -9
    assert not rundir.pids_path(data).exists()


def test_somebody_elses_child_is_left_alone(data: Path, orphan: subprocess.Popen[bytes]) -> None:
    rundir.write_pids(data, {"supervisor": SUPERVISOR + 1, "shard-0": orphan.pid, "shard-1": os.getpid()})
    rundir.await_leftovers(data, bound_s=0)
    assert orphan.poll() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"supervisor":"x"}', b"{}"])
def test_a_damaged_list_of_pids_names_nobody(data: Path, content: bytes) -> None:
    rundir.pids_path(data).write_bytes(content)
    assert rundir.leftovers(data) == []


def test_the_lock_names_its_holder(data: Path) -> None:
    fd = rundir.lock(data)
    with pytest.raises(rundir.InUse, match=rf"\(pid {os.getpid()}\)"):
        rundir.lock(data)
    os.close(fd)
    os.close(rundir.lock(data))


def test_a_data_directory_that_can_not_be_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        rundir.create(tmp_path / "file" / "data")
