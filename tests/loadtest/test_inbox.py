"""The inbox's figures are measured on the page itself; here with a small box, for the words alone."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner

from loadtest.inbox import main


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's package chromium isn't installed")
def test_a_small_box_has_all_figures() -> None:
    said = CliRunner().invoke(main, ["--messages", "300", "--starts", "1"])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0].startswith("Machine: ")
    assert lines[1].startswith("box of 300 messages; first sync to the first rows ")
    assert [line.split(":")[0] for line in lines[2:4]] == [
        "warm start to the first rows",
        "a search, question to answer",
    ]
    assert lines[4].startswith("scrolling 178 frames: ")
