"""What the commands write into the audit log, and what they say of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node import paths, placement
from node.audit_files import path_of
from node.audit_verify import Found, verify
from node.cli import main
from tests.audited import NOON_US, lines_of


def pobox(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--data", str(data)])


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new day would begin a new file."""
    monkeypatch.setattr("node.audit_deed.now_us", lambda: NOON_US)


@pytest.fixture
def deeds(tmp_path: Path) -> Path:
    """A data directory in which keys and tokens were made."""
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")
    pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")  # taken
    pobox(tmp_path, "token", "ada")
    pobox(tmp_path, "key", "revoke", "crm")
    return tmp_path


def test_the_commands_deeds_are_written_down_before_and_after(deeds: Path) -> None:
    written = [line for line in lines_of(deeds, "cli") if not str(line["deed"]).startswith("audit.")]
    assert [(line["deed"], line.get("state", line.get("status"))) for line in written] == [
        ("keys.create", "begins"), ("keys.create", "done"), ("keys.create", "begins"), ("keys.create", "bad_field"),
        ("tokens.issue", "begins"), ("tokens.issue", "done"), ("keys.revoke", "begins"), ("keys.revoke", "done"),
    ]  # fmt: skip
    assert all(line["of"] == before["n"] for before, line in zip(written[::2], written[1::2], strict=True))
    assert all(line["who"] for line in written)
    secret = (paths.token_secret_path(deeds)).read_text()
    log = path_of(deeds, "cli", 1).read_text()
    assert secret not in log
    assert "eyJ" not in log


def test_a_deed_that_can_not_be_written_down_is_not_done(tmp_path: Path) -> None:
    paths.audit_dir(tmp_path).write_text("no directory")
    refused = pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")
    assert refused.exit_code == 1
    assert "nothing is done, for the audit log can't be written" in refused.output
    assert not paths.keys_path(tmp_path).exists()


def test_verify_and_head_say_how_far_it_reaches_and_what_is_wrong(deeds: Path) -> None:
    head = pobox(deeds, "audit", "head")
    assert head.exit_code == 0
    kept = deeds / "head.txt"
    kept.write_text(head.output)
    right = pobox(deeds, "audit", "verify", "--head", str(kept))
    assert right.exit_code == 0, right.output
    assert "1 file, 0 faults" in right.output
    (line,) = [line for line in lines_of(deeds, "cli") if line["deed"] == "audit.verify"]
    assert (line["status"], line["what"]) == ("done", {"faults": 0, "anchors": 1})
    path = path_of(deeds, "cli", 1)
    path.write_bytes(path.read_bytes().replace(b'"ada"', b'"bob"'))
    wrong = pobox(deeds, "audit", "verify")
    assert wrong.exit_code == 1
    assert "FAULT  cli-000001.jsonl: line 6 doesn't follow line 5" in wrong.output


def test_a_copy_of_a_log_is_verified_and_nothing_is_written_there(deeds: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for directory in (paths.audit_dir, paths.audit_heads_dir):
        shutil.copytree(directory(deeds), directory(copy))
    before = lines_of(copy, "cli")
    assert pobox(copy, "audit", "verify").exit_code == 0
    assert lines_of(copy, "cli") == before


def test_where_there_is_no_node_there_is_no_log_that_could_be_whole(tmp_path: Path) -> None:
    nowhere = pobox(tmp_path / "typo", "audit", "verify")
    assert nowhere.exit_code == 1
    assert "holds neither a node nor an audit log" in nowhere.output
    assert not (tmp_path / "typo").exists()
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    assert verify(tmp_path) == Found()
