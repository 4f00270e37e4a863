"""The blocks of docs/drills.md do what they say, pasted into a shell."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.children import kept_port
from tests.support import PATIENT

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "drills.md"
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BEFORE = "Before each"
_ADDRESS = "127.0.0.1:8080"
_LIMIT_S = 400
_PRELUDE = """
set -euo pipefail
patiently() { # a node on a busy machine may ask to come again
  local said tries=30
  until said=$("$@" 2>&1); do
    case $said in *"not available"*) ((--tries)) && sleep 0.5 ;; *) false ;; esac || { echo "$said"; return 1; }
  done
  echo "$said"
}
pobox() {
  case $1 in
    deliver|read|delete) patiently "$PYTHON" -m node "$@" --server "http://$ADDRESS" ;;
    serve) exec "$PYTHON" -m node "$@" ;;
    *) command "$PYTHON" -m node "$@" ;;
  esac
}
"""


def drills() -> dict[str, str]:
    found = {title: _BLOCK.findall(text) for title, text in _SECTION.findall(DOCUMENT.read_text())}
    return {title: "".join(blocks) for title, blocks in found.items() if blocks}


@pytest.mark.parametrize("title", [title for title in drills() if title != _BEFORE])
@pytest.mark.long
def test_a_drill_goes_as_it_is_written(title: str, tmp_path: Path) -> None:
    with kept_port() as port:  # its node may be down for a while: nobody else gets the port then
        said = _pasted(title, tmp_path, port)
    assert said.rstrip().endswith("the drill is over"), said


def _pasted(title: str, place: Path, port: int) -> str:
    """What the shell says."""
    script = _PRELUDE + drills()[_BEFORE] + drills()[title] + "echo the drill is over\n"
    env = {
        **os.environ,
        **PATIENT,
        "PYTHON": sys.executable,
        "ADDRESS": f"127.0.0.1:{port}",
        "POBOX_NODE_PORT": str(port),
        "PYTHONPATH": str(DOCUMENT.parents[1]),
        "NO_COLOR": "1",
    }
    shell = subprocess.Popen(
        ["bash", "-c", script.replace(_ADDRESS, f"127.0.0.1:{port}")],
        cwd=place,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        shell.wait(_LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the node it leaves behind: children of a supervisor die with it
    assert shell.stdout is not None
    return shell.stdout.read()
