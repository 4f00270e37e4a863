from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.process import affinities, supervised_by
from tests.support import eventually, is_alive

DIES = "from node.process import die_with_parent; die_with_parent()"


@given(st.integers(1, 8), st.integers(1, 4), st.sets(st.integers(0, 63), min_size=1, max_size=16).map(sorted))
def test_shards_have_cores_of_their_own_exactly_where_there_are_enough(
    shards: int, routers: int, allowed: list[int]
) -> None:
    shard_cores, router_cores = affinities(shards, routers, allowed)
    assert len(shard_cores) == shards
    if shards + routers > len(allowed):
        assert [*shard_cores, router_cores] == [set(allowed)] * (shards + 1)
    else:
        assert [len(cores) for cores in shard_cores] == [1] * shards
        assert len(router_cores) >= routers
        assert set().union(*shard_cores, router_cores) == set(allowed)
        assert sum(map(len, shard_cores)) + len(router_cores) == len(allowed)


def test_a_process_ends_when_its_supervisor_is_killed() -> None:
    child = f"{DIES}; import time; print('up', flush=True); time.sleep(600)"
    parent = (
        "import subprocess, sys, time, os\n"
        "from node.process import supervised_by\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE,\n"
        "    env={**os.environ, **supervised_by(os.getpid())})\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert is_alive(pid)
        supervisor.kill()
    eventually(lambda: not is_alive(pid), "the end of the child")


def test_a_process_whose_supervisor_died_before_it_could_ask_ends_at_once() -> None:
    env = {**os.environ, **supervised_by(2**22 + 1)}  # above any pid: nobody's
    ended = subprocess.run([sys.executable, "-c", DIES], env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert "the supervisor is gone" in ended.stderr


def test_events_are_one_json_object_a_line_whoever_logs_them() -> None:
    source = (
        "import logging, structlog\n"
        "from node.logs import configure_logging\n"
        "configure_logging('shard-7')\n"
        "structlog.get_logger().info('hello', n=1)\n"
        "logging.getLogger('lib').warning('from %s', 'outside')\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError:\n    structlog.get_logger().exception('broke\\nin two')\n"
    )
    ended = subprocess.run([sys.executable, "-c", source], stderr=subprocess.PIPE, check=True)
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [event["event"] for event in events] == ["hello", "from outside", "broke\nin two"]
    assert [event["level"] for event in events] == ["info", "warning", "error"]
    assert {event["process"] for event in events} == {"shard-7"}
    assert "ZeroDivisionError" in events[2]["exception"]


def test_logging_to_nobody_is_no_error() -> None:
    source = (
        "import os, structlog\n"
        "from node.logs import configure_logging\n"
        "configure_logging('x')\n"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 2)\n"
        "structlog.get_logger().info('hello')\n"
        "print('still here', flush=True); os._exit(0)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", source]) == b"still here\n"


def test_the_limit_of_open_files_is_raised_to_what_is_allowed() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 64:
        pytest.skip("too few files to tell")
    source = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (32, {hard}))\n"
        "from node.process import raise_file_limit\n"
        "raise_file_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    assert int(subprocess.check_output([sys.executable, "-c", source])) == hard
