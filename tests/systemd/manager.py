"""A service manager of our own: the real systemd, process 1 of its own namespaces, with a node's units and no others.

It sees this machine's files, except for what is laid over them: ``/etc`` is a copy with the units and the user,
``/run``, ``/var/lib`` and ``/srv`` are empty. So it starts nothing of Debian's and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from node.commands_systemd import write
from node.config import Config, Node

ROOT = Path(__file__).parent.parent.parent
UNITS = Path("etc/systemd/system")
_SYSTEMD = Path("/lib/systemd/systemd")
_DEBIAN = Path("/lib/systemd/system")
_TARGETS = ("basic", "multi-user", "network", "network-online", "shutdown", "sockets", "sysinit", "umount")
_SETUP = Path(__file__).parent / "setup.sh"
_PATIENCE_S = 90.0
_UNSHARE = ("unshare", "-m", "-p", "-f", "-u", "-i", "-C", "--mount-proc", "--kill-child")
_PROBE = "cd /; umount -R /sys/fs/cgroup; mount -t cgroup2 c /sys/fs/cgroup && mkdir $0 && rmdir $0"


def why_not() -> str | None:
    """Why no manager can be started here, None if one can."""
    if os.geteuid() != 0:
        return "only root can start a service manager in namespaces of its own"
    if not _SYSTEMD.exists() or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if (
        subprocess.run(
            [*_UNSHARE, "sh", "-c", _PROBE, "/sys/fs/cgroup/probe"], check=False, capture_output=True
        ).returncode
        != 0
    ):
        return "this machine gives no namespaces with control groups"
    return None


def install(tree: Path, port: int, *, shards: int, routers: int, cores: list[int], python: str) -> None:
    """What ``pobox systemd install`` writes, below ``tree``."""
    node = Node(data="/var/lib/pobox", port=port, shards=shards, routers=routers)
    write(tree, Config(node=node), cores=cores, python=python)


class Manager:
    """``systemctl`` of the manager whose process is ``pid``, as this machine sees it."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    def run(self, *arguments: str) -> str:
        """What ``systemctl`` prints."""
        command = ["nsenter", "-t", str(self.pid), "-m", "-p", "systemctl", "--no-pager", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def show(self, unit: str, key: str) -> str:
        return self.run("show", "--value", f"--property={key}", unit)

    def await_active(self, *units: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while any(self.show(unit, "ActiveState") != "active" for unit in units):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.run('status', *units)}\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)


@contextlib.contextmanager
def managed(tree: Path, port: int, *, shards: int, routers: int) -> Iterator[Manager]:
    """A node under systemd; everything of it is gone at the end."""
    install(tree, port, shards=shards, routers=routers, cores=[0], python="/srv/venv/bin/python")
    units = tree / UNITS
    for name in _TARGETS:  # bare ones: what Debian hangs on them is not to be started
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    log = tree / "node.log"
    log.touch()
    here = ["[Service]", "Environment=PYTHONPATH=/srv/code"]
    here += [f"StandardOutput=append:/srv/{log.name}", f"StandardError=append:/srv/{log.name}"]
    if not sys.base_prefix.startswith("/usr"):
        here += ["ProtectHome=no"]
    (units / "pobox-.service.d/90-here.conf").write_text("\n".join(here) + "\n")
    (units / "pobox-shard@.service.d/95-soon.conf").write_text("[Service]\nWatchdogSec=5\n")
    (tree / "passwd").write_text("pobox:x:990:990::/var/lib/pobox:/usr/sbin/nologin\n")
    (tree / "group").write_text("pobox:x:990:\n")
    environ = {
        **os.environ,
        "TREE": str(tree),
        "BASE": sys.base_prefix,
        "VENV": sys.prefix,
        "CODE": str(ROOT),
        "LOG": str(log),
    }
    command = [*_UNSHARE, "sh", str(_SETUP)]
    with (
        (tree / "manager.log").open("wb") as output,
        subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        ) as outer,
    ):
        pid = outer.pid
        try:
            pid = _first_of(outer.pid)
            yield Manager(pid, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # with it the whole namespace
            outer.wait()


def _first_of(outer: int) -> int:
    """The process that ``outer`` has forked, as soon as it is the manager."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
                return int(children[0])
        time.sleep(0.05)
    raise AssertionError("the service manager did not start")
