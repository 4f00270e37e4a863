"""A private PostgreSQL cluster: made for one run, durable as by default, gone afterwards.

It listens on a Unix socket only. PostgreSQL refuses to run as root, so root
starts it as the user ``postgres``. A cluster of the system is never touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.children import Child, running
from loadtest.errors import BenchError

USER = "postgres"
_DEBIAN = Path("/usr/lib/postgresql")

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "wal_buffers": "16MB",
    "max_connections": "100",
    "listen_addresses": "",
    "logging_collector": "off",
}
"""Durability is the default, written out; memory as the manual advises; the rest is default."""


def _binary(name: str) -> str:
    """``name`` from the newest PostgreSQL here; Debian keeps the server's programs off the PATH."""
    versions = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3].split(".")[0]))
    found = shutil.which(name) or (str(versions[-1]) if versions else None)
    if found is None:
        raise BenchError(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


def version() -> str:
    """``postgres (PostgreSQL) 15.18 …``"""
    return subprocess.run([_binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Cluster:
    """Connect with ``host=str(sockets), user="postgres", database="postgres"``."""

    process: Child
    sockets: Path
    """directory of the Unix socket"""


@contextlib.contextmanager
def cluster(parent: Path) -> Iterator[Cluster]:
    """A running cluster with its files under ``parent``."""
    owner = USER if os.geteuid() == 0 else None
    parent.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    sockets = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path is 107 bytes at most
    try:
        if owner:
            shutil.chown(base, owner, owner)
            shutil.chown(sockets, owner, owner)
        made = subprocess.run(
            [_binary("initdb"), "-D", str(base / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"],
            capture_output=True,
            text=True,
            user=owner,
            group=owner,
            extra_groups=None if owner is None else [],
            cwd=base,
            check=False,
        )
        if made.returncode:
            raise BenchError(f"initdb failed (can user {USER} reach {base}?):\n{made.stdout}{made.stderr}")
        command = [_binary("postgres"), "-D", str(base / "data"), "-k", str(sockets)]
        for key, value in SETTINGS.items():
            command += ["-c", f"{key}={value}"]
        process = Child("PostgreSQL", command, base / "log", user=owner, stop_signal=signal.SIGINT)
        with running(process):
            process.wait_ready(lambda: "ready to accept connections" in process.text())
            yield Cluster(process, sockets)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)
