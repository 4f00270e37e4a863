"""``pobox`` with fake children. Run as a program by the supervisor's tests."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from unittest import mock

from node import commands_serve
from node.cli import main
from node.supervisor import Commands, Supervisor

CHILD = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]


class FakeCommands(Commands):
    def layout(self) -> list[str]:
        return [*CHILD, "layout", "0", "-1"]

    def shard(self, index: int) -> list[str]:
        return [*CHILD, "shard", str(index), "-1"]

    def router(self, index: int, fd: int) -> list[str]:
        return [*CHILD, "router", str(index), str(fd)]

    def backup(self) -> list[str]:
        return [*CHILD, "backup", "0", "-1"]


if __name__ == "__main__":
    supervisor = functools.partial(Supervisor, commands=FakeCommands())
    with mock.patch.object(commands_serve, "Supervisor", supervisor):
        main(prog_name="pobox")
