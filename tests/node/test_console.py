from __future__ import annotations

import io
import json

import pytest

from node.console import Console
from node.show import printable
from node.terminal import readable


def test_each_line_for_programs_is_a_json_object_that_names_the_process() -> None:
    stream = io.StringIO()
    logged = '{"event":"ready","process":"shard-0"}'
    Console(stream).line("shard-0", logged)
    Console(stream).line("router-0", "Traceback \ud800")
    first, second = stream.getvalue().splitlines()
    assert first == logged
    assert json.loads(second).items() >= {"event": "Traceback \ud800", "process": "router-0"}.items()


def test_a_stream_that_is_gone_disturbs_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    Console(io.StringIO()).line("shard-0", "x")
    console = Console(io.StringIO())
    console._stream = stream
    console.line("shard-0", "x")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"event":"ready","level":"info","time":"t","process":"p","shard":0}', "ready shard=0"),
        ('{"event":"broke","exception":"Traceback"}', "broke\nTraceback"),
        ("no JSON [red]at all[/]", "no JSON [red]at all[/]"),
        ('["a list"]', '["a list"]'),
        ("\ud800", "\ud800"),
    ],
)
def test_logged_events_are_made_readable_and_the_rest_is_left_alone(line: str, shown: str) -> None:
    assert readable(line).plain == shown


def test_what_others_wrote_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\x9b1mc\r\n") == "a�[2Jb��1mc��"
    assert printable("a\n\tb\x1b", lines=True) == "a\n\tb�"
    assert printable("grüße 你好 🙂") == "grüße 你好 🙂"
