"""The commands against a real node, each as a program of its own where exit codes matter."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from node.cli import main
from tests.support import Node


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests here: they use names of their own."""
    with Node(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


def pobox(node: Node, *arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--server", node.url])


def test_a_message_is_delivered_read_and_has_a_receipt(served: Node) -> None:
    sent = pobox(served, "deliver", "--users", "ada,bob", "--title", "Hello", "--content", "First", "--id", "m1")
    assert (sent.exit_code, sent.output) == (0, "m1 accepted for 2\n")
    read = pobox(served, "read", "ada")
    assert read.output.split("\t")[1:] == ["direct", "", "Hello", "m1\n"]
    whole = pobox(served, "read", "bob", "--id", "m1")
    assert "title    Hello\n\nFirst\n" in whole.output
    receipt = pobox(served, "receipt", "m1")
    assert ": 2 targets, " in receipt.output
    assert receipt.exit_code == 0


def test_channels_from_creation_to_deletion(served: Node) -> None:
    made = pobox(served, "channel", "create", "crew", "--name", "The crew", "--description", "all of us")
    assert made.output.startswith("crew: The crew, 0 members, created ")
    assert pobox(served, "channel", "join", "crew", "cyd,dan", "eve").output == ("crew: 3 joined, 0 left, 3 members\n")
    assert pobox(served, "channel", "leave", "crew", "dan").output == "crew: 0 joined, 1 left, 2 members\n"
    assert pobox(served, "channel", "members", "crew").output == "cyd\neve\n"
    assert "crew\tThe crew\t2\t" in pobox(served, "channel", "list").output
    sent = pobox(served, "deliver", "--channel", "crew", "--title", "Ahoy", "--content", "")
    assert sent.output.endswith(" accepted for 2\n")
    assert "\tcrew\t\tAhoy\t" in pobox(served, "read", "eve", "--channel", "crew").output
    assert pobox(served, "channel", "delete", "crew").output == "crew deleted\n"
    gone = pobox(served, "channel", "show", "crew")
    assert (gone.exit_code, gone.output.count("\n")) == (1, 1)


def test_a_file_of_recorded_traffic_reaches_the_first_members_of_its_channels(served: Node, tmp_path: Path) -> None:
    lines = [
        {"id": f"rec-{n}", "channel_id": "rec", "title": f"t{n}", "content": "", "sender": "s"}
        | {"created_at": f"2020-01-01T00:00:{n:02}+01:00"}
        for n in range(20)
    ]
    file = tmp_path / "traffic.ndjson.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    members = tmp_path / "members.json"
    members.write_text('{"rec":["rec1","rec2","rec3"]}')
    for _ in range(2):  # the second time doubles nothing
        sent = pobox(served, "deliver", "--ndjson", file, "--members", members, "--first-members", 2)
        assert sent.exit_code == 0, sent.output
        assert sent.output.startswith("20 messages: 20 accepted, 0 rejected in ")
    for user, count in (("rec1", 20), ("rec2", 20)):
        assert pobox(served, "read", user, "--limit", 100).output.count("\n") == count
    assert "rec3" not in pobox(served, "channel", "members", "rec").output


@pytest.mark.slow
def test_lines_that_are_refused_are_named_and_fail_the_command(served: Node) -> None:
    lines = (
        b'{"users":["fay"],"title":"fine","content":""}\n\n'
        b'{"users":["fay"],"title":"","content":""}\nno json\n'
        b'{"users":["fay"],"title":"fine too","content":""}\n'
    )
    command = [sys.executable, "-m", "node", "deliver", "--ndjson", "-", "--server", served.url]
    sent = subprocess.run(command, input=lines, capture_output=True, check=False)
    assert sent.returncode == 1
    assert sent.stdout.startswith(b"4 messages: 2 accepted, 2 rejected in ")
    assert [line.partition(b":")[0] for line in sent.stderr.splitlines()] == [b"line 3", b"line 4"]
    assert pobox(served, "read", "fay").output.count("\n") == 2


def test_what_the_node_refuses_is_one_clear_line(served: Node) -> None:
    refused = pobox(served, "deliver", "--users", "no/path", "--title", "x", "--content", "x")
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
    assert "users[0]" in refused.output
    assert refused.output.count("\n") == 1
    assert pobox(served, "read", "../etc").exit_code == 1


def test_a_node_that_is_not_there_is_one_clear_line() -> None:
    asked = CliRunner().invoke(main, ["read", "ada", "--server", "http://127.0.0.1:1"])
    assert asked.exit_code == 1
    assert asked.output.startswith("Error: no answer from http://127.0.0.1:1: ")
    assert asked.output.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["deliver", "--title", "x", "--content", "x"],
        ["deliver", "--users", "a", "--title", "x"],
        ["deliver", "--ndjson", "-", "--users", "a"],
        ["deliver", "--users", "a", "--title", "x", "--content", "x", "--first-members", "3"],
        ["serve", "--shards", "0"],
        ["serve", "--host", "0.0.0.0"],
        ["serve", "--config", "absent.toml"],
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_anything_is_done(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_there_is_not_is_answered_with_those_that_may_be_meant() -> None:
    answered = CliRunner().invoke(main, ["serv"])
    assert answered.exit_code == 2
    assert "No such command 'serv'. Did you mean 'serve'?" in answered.output


@pytest.mark.slow
def test_the_doctor_says_by_its_exit_code_whether_all_is_well(tmp_path: Path) -> None:
    with Node(tmp_path / "data", shards=1) as node:
        assert pobox(node, "deliver", "--users", "ada", "--title", "x", "--content", "x").exit_code == 0
        assert httpx.get(f"{node.url}/api/v3/users/ada/messages", trust_env=False, timeout=30).status_code == 200

    def checked() -> tuple[int, str]:
        command = [sys.executable, "-m", "node", "doctor", "--data", node.data]
        doctor = subprocess.run(command, capture_output=True, text=True, check=False)
        return doctor.returncode, doctor.stdout + doctor.stderr

    code, output = checked()
    assert code == 0, output
    [box] = node.data.glob("user_storage/*/ada/messages.db")
    box.write_bytes(box.read_bytes()[:4096] + b"\xff" * (box.stat().st_size - 4096))
    code, output = checked()
    assert code == 1, output
    assert "ada" in output
