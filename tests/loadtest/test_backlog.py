"""The measuring of a backlog: what it prints is of a shard that holds no more than its window."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_it_tells_what_is_in_memory_and_how_soon_an_important_letter_is_in_its_box(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.backlog", "--letters", "3000", "--window-letters", "100"]
    done = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| \d+ \|", done.stdout, re.MULTILINE)
    assert rows == [("0", "0"), *((f"{number:,}", "100") for number in range(600, 3_001, 600))]
    assert "started again with 3,000 waiting" in done.stdout
    assert "a letter of priority 9 was in its box after" in done.stdout
    assert not list(tmp_path.iterdir())
