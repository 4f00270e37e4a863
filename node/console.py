"""What the supervisor shows of its children.

On a terminal every line has the child's name in front, and the JSON that children log is made readable. Anywhere else
each line is a JSON object, for programs: what was logged as it is, since it names its process itself, anything else
as an event of that process.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from node.clock import iso, now_us

if TYPE_CHECKING:
    from rich.text import Text

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}


class Console:
    """Lines of children on ``stream`` (standard error unless told)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._rich = None
        if self._stream.isatty():
            from rich.console import Console as RichConsole  # 8 MB, and a fifth of the start

            self._rich = RichConsole(file=self._stream, soft_wrap=True)
        self._colours: dict[str, str] = {}

    def line(self, name: str, line: str) -> None:
        """Show one line of ``name``. A stream that is gone is no reason to fail."""
        with contextlib.suppress(OSError, ValueError):
            if self._rich is None:
                self._stream.write(f"{as_json(name, line)}\n")
                self._stream.flush()
            else:
                from rich.text import Text

                colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
                self._rich.print(Text.assemble((f"[{name}] ", colour), readable(line)))


def as_json(name: str, line: str) -> str:
    """What the process ``name`` logged as it is, anything else that it printed as an event of it. Pure but for the
    time."""
    if _logged(line) is not None:
        return line
    return json.dumps({"event": line, "process": name, "level": "info", "time": iso(now_us())})


def readable(line: str) -> Text:
    """A logged JSON object as ``event key=value …``, anything else as it is."""
    from rich.text import Text

    event = _logged(line)
    if event is None:
        return Text(line)
    text = Text(str(event.pop("event", "")), style=_LEVELS.get(str(event.pop("level", "")), ""))
    trace = event.pop("exception", None)
    for key, value in event.items():
        if key not in ("time", "process"):
            text.append(f" {key}={value}", style="dim")
    if trace:
        text.append(f"\n{trace}", style="dim")
    return text


def _logged(line: str) -> dict[str, Any] | None:
    """The event that ``line`` is, None if it is none."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
