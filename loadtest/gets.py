"""wrk fetching paths at random from a list, and what it counted."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtest import load
from loadtest.errors import BenchError

SCRIPT = Path(__file__).parent / "wrk" / "get.lua"


class Gets(msgspec.Struct, frozen=True, kw_only=True):
    """What one run fetched; ``bytes`` with their headers."""

    answered: int
    refused: int
    errors: int
    bytes: int
    seconds: float
    p50_us: int
    p99_us: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def bytes_rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds


def run(url: str, paths: Sequence[str], scratch: Path, *, seconds: float, connections: int, seed: int = 1) -> Gets:
    """Fetch ``paths`` of ``url`` for ``seconds``. Raises :class:`BenchError` if anything was not answered 2xx."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is not installed (Debian: apt-get install wrk)")
    listed = scratch / "paths.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), url, "--", str(listed), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"wrk ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    gets = load.figures(done.stdout, Gets)
    if gets.refused or gets.errors or not gets.answered:
        raise BenchError(f"of {gets.answered} answers {gets.refused} were refusals; {gets.errors} were none")
    return gets
