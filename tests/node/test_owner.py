"""A data directory that belongs to its own user: root and others at the command line."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.clock import iso, now_us
from tests import encrypted
from tests.support import Node

ROOT = Path(__file__).parents[2]
OWNER, OTHER = 65_534, 54_321
KEPT = {"POBOX_BACKUP_HISTORY_S": "3600", "POBOX_BACKUP_AT": ""}


@functools.cache
def python() -> tuple[str, dict[str, str]]:
    """A Python that others than root can run, and what it needs in its environment to find what is tested."""
    packages = {"PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])}
    for command in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        asked = [command, "-c", "import node.commands_serve, apsw"]
        try:
            done = subprocess.run(
                asked, user=OTHER, group=OTHER, cwd="/", env=packages, capture_output=True, check=False
            )
        except PermissionError:
            continue
        if done.returncode == 0:
            return command, packages
    pytest.skip("no other user can run this Python, or read this directory")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others may look; a directory of pytest's is its user's alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    made = Path(tempfile.mkdtemp(prefix="pobox-owner-"))
    try:
        made.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def data(place: Path) -> Path:
    """As systemd-tmpfiles makes it."""
    made = place / "data"
    made.mkdir(mode=0o700)
    os.chown(made, OWNER, OWNER)
    return made


def ran(data: Path, *arguments: str, user: int = 0, **settings: str) -> tuple[int, str]:
    """The exit code of ``pobox`` as ``user``, and what it said."""
    command, packages = python()
    done = subprocess.run(
        [command, "-m", "node", *arguments],
        user=user,
        group=user,
        cwd=data.parent,
        env={"PATH": os.environ["PATH"], "POBOX_NODE_DATA": str(data), **packages, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def said(data: Path, *arguments: str, **settings: str) -> str:
    """By root, for whom it has to do."""
    code, output = ran(data, *arguments, **settings)
    assert code == 0, output
    return output


def strangers(data: Path) -> list[str]:
    """What doesn't belong to the owner."""
    return [str(path) for path in [data, *data.rglob("*")] if path.lstat().st_uid != OWNER]


@pytest.mark.slow
@pytest.mark.long
def test_what_root_does_is_done_as_the_owner_before_while_and_after_a_node_runs(place: Path, data: Path) -> None:
    command, packages = python()
    store = place / "elsewhere"
    store.mkdir()
    os.chown(store, OWNER, OWNER)
    said(data, "key", "create", "--name", "shop", "--scope", "deliver")
    said(data, "token", "ada")
    assert strangers(data) == []
    settings = {**KEPT, **packages, "POBOX_BACKUP_STORE": f"file://{store}"}
    with Node(data, command=[command, "-m", "node"], env=settings) as node:  # by root
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in node.pids.values()} == {OWNER}
        said(data, "deliver", "--users", "ada", "--title", "x", "--content", "x", "--server", node.url)
        assert "copied" in said(data, "backup", "now", **settings)
        said(data, "restore", "ada", "--at", iso(now_us()))
        for shard in "01":  # she is at one of them
            said(data, "move", "ada", "--shard", shard)
        said(data, "reshard", "--shards", "1")
        assert '"os":"root"' in "".join(path.read_text() for path in data.glob("audit/cli-*"))
        for asked in (["backup", "now"], ["restore", "ada", "--at", "2026-11-24"], ["move", "ada", "--shard", "0"]):
            code, output = ran(data, *asked, user=OTHER)
            assert (code, output.count("\n")) == (1, 1)
            assert f"{data} belongs to nobody, and this is {OTHER}: sudo -u nobody --preserve-env=" in output
        assert "of another user" not in node.output()
    said(data, "doctor")
    assert strangers(data) == []

    again = place / "again"
    again.mkdir()
    os.chown(again, OWNER, OWNER)
    said(again, "restore", "--all", "--from", f"file://{store}")
    assert strangers(again) == []
    fresh = place / "fresh"
    said(fresh, "restore", "--all", "--from", f"file://{store}")
    assert fresh.stat().st_uid == 0, "who makes a directory has it"


@pytest.mark.parametrize("name", ["run", "node.lock", "placement.json"])
@pytest.mark.slow
def test_what_is_roots_in_it_is_named_when_the_node_starts(data: Path, name: str) -> None:
    """As an earlier pobox left it."""
    path = data / name
    path.mkdir(mode=0o700) if name == "run" else path.touch(0o600)
    code, output = ran(data, "serve", "--port", "0", user=OWNER)
    assert code == 2
    assert f"{path}: " in output
    assert "it belongs to root, and must to nobody, like all there (chown)\n" in output
    assert "Traceback" not in output


def test_a_copy_of_a_log_is_verified_by_whoever_may_read_it(data: Path) -> None:
    (data / "audit").mkdir(mode=0o755)
    data.chmod(0o755)
    assert ran(data, "audit", "verify", user=OTHER) == (0, "0 files, 0 faults\n")


@pytest.mark.slow
def test_a_secret_that_root_alone_can_read_is_read_before(place: Path, data: Path) -> None:
    command, packages = python()
    secret = place / "credentials"
    secret.write_text("AWS_SECRET_ACCESS_KEY=x\n")
    secret.chmod(0o600)
    code = (
        "import os, subprocess\n"
        "from node.config import load\n"
        "from node.owner import as_owner\n"
        "kept = as_owner(load()).backup.credentials\n"
        "assert not os.access(os.environ['POBOX_BACKUP_CREDENTIALS'], os.R_OK)\n"
        "print(os.getuid(), oct(os.stat(kept).st_mode & 0o777), open(kept).read(), end='')\n"
        "subprocess.run(['cat', kept], close_fds=False, check=True)\n"
    )
    settings = {"POBOX_NODE_DATA": str(data), "POBOX_BACKUP_CREDENTIALS": str(secret)}
    done = subprocess.run(
        [command, "-uc", code], cwd="/", env={**os.environ, **packages, **settings}, capture_output=True, text=True
    )
    assert done.stdout == f"{OWNER} 0o600 {secret.read_text()}{secret.read_text()}", done.stderr


@encrypted.needed
@pytest.mark.slow
def test_a_master_key_of_roots_opens_the_data_of_another_user(place: Path, data: Path) -> None:
    key, fresh = place / "master.key", place / "fresh.key"
    for path in (key, fresh):
        said(data, "master-key", "new", str(path))
    command, packages = python()
    env = {"PATH": os.environ["PATH"], "POBOX_NODE_DATA": str(data), **packages}
    subprocess.run([command, "-m", "shard.layout"], user=OWNER, group=OWNER, cwd="/", env=env, check=True)
    settings = {"POBOX_ENCRYPTION_ENABLED": "true", "POBOX_ENCRYPTION_MASTER_KEY": str(key)}
    assert "2 files" in said(data, "encrypt", **settings)
    said(data, "doctor", **settings)
    said(data, "master-key", "rotate", str(fresh), **settings)
    settings["POBOX_ENCRYPTION_MASTER_KEY"] = str(fresh)
    said(data, "master-key", "confirm", **settings)
    said(data, "doctor", **settings)
    assert strangers(data) == []
