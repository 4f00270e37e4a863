"""``pobox sync`` and ``pobox mark``, as programs of their own where exit codes and signals matter."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.folder import checksum_of
from node.cli import main
from tests.client.conftest import Person

pytestmark = pytest.mark.slow


def _pobox(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_sync_mark_sync(person: Person) -> None:
    [id] = person.get_mail()
    place = person.place / "phone"
    first = _pobox("sync", person.name, "--to", place, "--server", person.node.url, "--device", "phone")
    assert first.exit_code == 0, first.output
    assert re.fullmatch(r"\S+Z: whole box, \d+ bytes\n", first.output)
    assert _pobox("mark", person.name, id, "read", "--to", place).output == ""
    second = _pobox("sync", person.name, "--to", place, "--server", person.node.url)
    assert re.fullmatch(r"\S+Z: nothing new, 1 marks sent, 1 statuses came\n", second.output)
    assert person.statuses()[id]["readDevice"] == "phone"
    _pobox("mark", person.name, "not-there", "read", "--to", place)
    third = _pobox("sync", person.name, "--to", place, "--server", person.node.url)
    assert "not-there was not marked read: the message isn't there\n" in third.output


def test_what_goes_wrong_is_one_clear_line_and_exit_code_1(person: Person) -> None:
    for arguments, words in (
        (("sync", "nobody-here", "--to", person.place / "x", "--server", person.node.url), "has no box for"),
        (("sync", "../etc", "--to", person.place / "x", "--server", person.node.url), "user must match"),
        (("sync", person.name, "--to", person.place / "x", "--server", "nonsense"), "is no address of a server"),
        (("mark", person.name, "a b", "read", "--to", person.place / "x"), "message id must match"),
    ):
        result = _pobox(*arguments)
        assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
        assert result.output.startswith("Error: ")
        assert words in result.output
    assert not (person.place / "x").exists()


@pytest.mark.parametrize("arguments", [["sync", "ada"], ["mark", "ada", "m", "eaten", "--to", "x"]])
def test_a_command_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    assert _pobox(*arguments).exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watching_keeps_the_copy_new_until_it_is_told_to_stop(person: Person, number: signal.Signals) -> None:
    person.get_mail()
    place = person.place / "phone"
    command = [sys.executable, "-m", "node", "sync", person.name, "--to", str(place), "--server", person.node.url]
    with subprocess.Popen([*command, "--watch", "--interval", "0.1"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "whole box" in watching.stdout.readline()
        person.get_mail(30)
        line = watching.stdout.readline()
        while line.split(": ")[0] != person.check()["serverVersion"]:
            line = watching.stdout.readline()
        assert checksum_of(place / "messages.db") == person.check()["serverChecksum"]
        watching.send_signal(number)
        assert watching.wait(60) == 0


def test_the_client_is_not_imported_before_it_is_asked_for() -> None:
    script = "import sys, node.cli; sys.exit(any(name.partition('.')[0] == 'client' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False).returncode == 0
    shown = _pobox("--help").output
    assert {"sync", "mark", "serve"} <= {line.split()[0] for line in shown.splitlines() if line.startswith("  ")}
