"""The lines of children on a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.text import Text

from node.console import logged

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}


class Terminal:
    """Of which ``stream`` is one."""

    def __init__(self, stream: TextIO) -> None:
        self._rich = Console(file=stream, soft_wrap=True)
        self._colours: dict[str, str] = {}

    def show(self, name: str, line: str) -> None:
        """One line of ``name``, which stands in front of it, in a colour of its own."""
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        self._rich.print(Text.assemble((f"[{name}] ", colour), readable(line)))


def readable(line: str) -> Text:
    """A logged JSON object as ``event key=value …``, anything else as it is."""
    event = logged(line)
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
