from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import rundir
from node.errors import ConfigError


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Of a node that is about to start."""
    rundir.create(tmp_path / "data")
    fd = rundir.lock(tmp_path / "data")
    yield tmp_path / "data"
    os.close(fd)


@pytest.fixture
def orphan(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child of an earlier run that doesn't mind SIGTERM, and stands in no list: it had just been started."""
    source = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    env = {**os.environ, **rundir.marked(data)}
    with subprocess.Popen([sys.executable, "-c", source], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_child_of_an_earlier_run_that_does_not_end_is_killed(data: Path, orphan: subprocess.Popen[bytes]) -> None:
    rundir.write_pids(data, {"supervisor": 1})
    assert rundir.leftovers(data) == [orphan.pid]
    rundir.await_leftovers(data, bound_s=0.2)
    assert orphan.wait() == -9
    assert not rundir.pids_path(data).exists()


def test_another_nodes_child_is_left_alone(tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
    rundir.create(tmp_path / "other")
    os.close(rundir.lock(tmp_path / "other"))
    rundir.write_pids(tmp_path / "other", {"supervisor": 1, "shard-0": orphan.pid, "shard-1": os.getpid()})
    rundir.await_leftovers(tmp_path / "other", bound_s=0)
    assert orphan.poll() is None


def test_where_no_node_was_nobody_is_left(tmp_path: Path) -> None:
    assert rundir.leftovers(tmp_path) == []


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    fd = rundir.lock(tmp_path)
    with pytest.raises(rundir.InUse, match=rf"\(pid {os.getpid()}\)"):
        rundir.lock(tmp_path)
    os.close(fd)
    os.close(rundir.lock(tmp_path))


def test_a_data_directory_that_can_not_be_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        rundir.create(tmp_path / "file" / "data")
