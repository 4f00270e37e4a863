"""What a figure was measured on: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import apsw
import psutil  # type: ignore[import-untyped]

from loadtest import postgres

_LIBRARIES = ("falcon", "uvicorn", "uvloop", "httptools", "msgspec", "apsw", "asyncpg")


def cpu_model(cpuinfo: str) -> str:
    """The model's name in the text of ``/proc/cpuinfo``."""
    found = re.search(r"^(?:model name|Model|Processor)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` is on."""
    path = path.resolve()
    mounts = [p for p in psutil.disk_partitions(all=True) if path.is_relative_to(p.mountpoint)]
    return str(max(mounts, key=lambda p: len(p.mountpoint)).fstype) if mounts else "unknown"


def _wrk_version() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        return "wrk missing"
    done = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split()[:2])


def facts(data: Path) -> str:
    """The machine, in a few words."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{cpu_model(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores, "
        f"{memory_gib:.0f} GiB of memory, {platform.system()} {platform.release()}, data on {file_system(data)}"
    )


def describe() -> str:
    """What all sections of a page have in common, and the versions of the last run, as a Markdown paragraph."""
    versions = [f"Python {platform.python_version()}", f"SQLite {apsw.sqlite_lib_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
    versions += [postgres.version(), _wrk_version()]
    return (
        f"Versions, at the last run: {', '.join(versions)}. "
        "Load generator, node and PostgreSQL share these cores. Peers take turns; whoever isn't measured is "
        "stopped. Median and min to max over the rounds; ratios are made round by round."
    )
