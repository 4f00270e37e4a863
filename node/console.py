"""What the supervisor shows of its children.

On a terminal every line has the child's name in front, and the JSON that children log is made readable. Anywhere else
each line is a JSON object, for programs: what was logged as it is, since it names its process itself, anything else
as an event of that process.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, TextIO

import msgspec

from node.clock import iso, now_us


class Console:
    """Lines of children on ``stream`` (standard error unless told)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._show = self._as_json
        if self._stream.isatty():
            from node.terminal import Terminal  # with rich, which a node that serves programs does without

            self._show = Terminal(self._stream).show

    def line(self, name: str, line: str) -> None:
        """Show one line of ``name``. A stream that is gone is no reason to fail."""
        with contextlib.suppress(OSError, ValueError):
            self._show(name, line)

    def _as_json(self, name: str, line: str) -> None:
        self._stream.write(f"{as_json(name, line)}\n")
        self._stream.flush()


def as_json(name: str, line: str) -> str:
    """What the process ``name`` logged as it is, anything else that it printed as an event of it. Pure but for the
    time."""
    if logged(line) is not None:
        return line
    return json.dumps({"event": line, "process": name, "level": "info", "time": iso(now_us())})


def logged(line: str) -> dict[str, Any] | None:
    """The event that ``line`` is, None if it is none."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
