"""What the supervisor shows: every line of a child with the child's name in front.

On a terminal the JSON lines that children log are made readable; anywhere else they stay as they
are, for programs.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO

import msgspec
from rich.console import Console as RichConsole
from rich.text import Text

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}


class Console:
    """Prefixed lines of children on ``stream`` (standard error unless told)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._rich = RichConsole(file=self._stream, soft_wrap=True) if self._stream.isatty() else None
        self._colours: dict[str, str] = {}

    def line(self, name: str, line: str) -> None:
        """Show one line of ``name``. A stream that is gone is no reason to fail."""
        with contextlib.suppress(OSError, ValueError):
            if self._rich is None:
                self._stream.write(f"[{name}] {line}\n")
                self._stream.flush()
            else:
                colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
                self._rich.print(Text.assemble((f"[{name}] ", colour), readable(line)))


def readable(line: str) -> Text:
    """A logged JSON object as ``event key=value …``, anything else as it is."""
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return Text(line)
    text = Text(str(event.pop("event", "")), style=_LEVELS.get(str(event.pop("level", "")), ""))
    trace = event.pop("exception", None)
    for key, value in event.items():
        if key not in ("time", "process"):
            text.append(f" {key}={value}", style="dim")
    if trace:
        text.append(f"\n{trace}", style="dim")
    return text
