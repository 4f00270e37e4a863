"""What was acknowledged: the number of each letter that was answered 202, a line each, a file a process.

A letter's key is ``<run>-<number>``. It stands in the title (or, of a recorded letter, in the id), so that a box
shows whether something is there twice even if the node gave it two ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO


def key(run: str, number: int) -> str:
    return f"{run}-{number}"


def number_of(run: str, text: str) -> int | None:
    """The number in a key of ``run``, None if it is none."""
    prefix, _, digits = text.partition("-")
    return int(digits) if prefix == run and digits.isdecimal() else None


class Ledger:
    """Of this process, in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._file: TextIO = (directory / f"accepted-{os.getpid()}.txt").open("a")

    def accepted(self, numbers: Iterable[int]) -> None:
        self._file.write("".join(f"{number}\n" for number in numbers))

    def close(self) -> None:
        self._file.close()


def accepted(directory: Path) -> list[int]:
    """The numbers of all processes."""
    return [int(line) for path in sorted(directory.glob("accepted-*.txt")) for line in path.read_text().split()]
