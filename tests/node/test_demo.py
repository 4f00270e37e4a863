"""``pobox demo`` on real repositories and a real node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from node import commands_demo, keys
from node.cli import main
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("demo") / "data") as running:
        yield running


def _demo(node: Node, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, arguments), "--server", node.url, "--speed", "500"])


def _git(repo: Path, *arguments: str, author: str = "Ada Kern") -> None:
    name = {"GIT_AUTHOR_NAME": author, "GIT_COMMITTER_NAME": author}
    mail = {"GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_EMAIL": "a@example.org"}
    apart = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_COMMITTER_DATE": "2020-05-17T12:00:00+0200"}
    subprocess.run(
        ["git", "-C", repo, *arguments], check=True, capture_output=True, env=os.environ | name | mail | apart
    )


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    (repo / "kitchen").mkdir(parents=True)
    _git(tmp_path, "init", "-q", "repo")
    for number, author in enumerate(("Ada Kern", "陈晓", "Bo")):
        (repo / "kitchen" / f"soup {number}").write_text("salt\n")
        _git(repo, "add", ".")
        _git(repo, "commit", "-q", "-m", f"Soup {number}", "-m", "With **salt**", author=author)
    (repo / "README").write_text("x")
    _git(repo, "add", ".")
    _git(repo, "commit", "-q", "--allow-empty-message", "-m", "")
    return repo


def _box(node: Node, user: str) -> list[dict[str, object]]:
    answer = httpx.get(f"{node.url}/api/v3/users/{user}/messages?limit=500", trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    messages: list[dict[str, object]] = answer.json()["messages"]
    return messages


def test_a_log_becomes_mail_and_running_twice_doubles_nothing(served: Node, repo: Path) -> None:
    for _ in range(2):
        said = _demo(served, "--repo", repo)
        assert said.exit_code == 0, said.output
        assert f"Your inbox: {served.url}/inbox/?user=you\n" in said.output
        assert "4 messages, 2 channels, 3 authors" in said.output
    mine = {message["title"]: message for message in _box(served, "you") if message["channelId"] in ("kitchen", "top")}
    assert len(mine) == 4
    soup = mine["Soup 1"]
    assert (soup["sender"], soup["createdAt"]) == ("陈晓", "2020-05-17T10:00:00.000000Z")
    assert soup["content"] == "With **salt**\n\n- `kitchen/soup 1` +1 -0"
    assert {message["title"] for message in _box(served, "bo")} == {"Soup 0", "Soup 1", "Soup 2"}
    assert [message["title"] for message in _box(served, "you") if message["channelId"] == "direct"] == [
        "Welcome to pobox"
    ]


def test_without_a_log_of_its_own_there_is_a_small_set(
    served: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_demo, "_OWN", tmp_path)
    for _ in range(2):
        said = _demo(served)
        assert "small set of messages: 36 messages, 4 channels, 5 authors" in said.output, said.output
    assert len([message for message in _box(served, "you") if str(message["id"]).startswith("demo:")]) == 37


def test_a_repository_that_is_none_is_said_and_nothing_is_sent(served: Node, tmp_path: Path) -> None:
    said = _demo(served, "--repo", tmp_path)
    assert said.exit_code == 1
    assert "no git log of" in said.output
    assert "not a git repository" in said.output


def test_a_new_node_tells_of_the_demo(served: Node) -> None:
    eventually(lambda: f" demo --server {served.url}" in served.output(), "word of it")


def test_where_people_need_a_token_the_link_has_one(tmp_path: Path, repo: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    key = keys.create(data, "demo", ["deliver", "channels"])
    with Node(data, env={"POBOX_AUTH_MODE": "keys"}) as guarded:
        said = _demo(guarded, "--repo", repo, "--key", key, "--data", data)
        assert said.exit_code == 0, said.output
        link = next(line for line in said.output.splitlines() if line.startswith("Your inbox: ")).split()[-1]
        token = link.partition("#token=")[2]
        headers = {"authorization": f"Bearer {token}"}
        url = f"{guarded.url}/api/v3/users/you/messages"
        # The first token's secret is new, and routers look at it once a second.
        eventually(lambda: httpx.get(url, headers=headers, trust_env=False, timeout=30).status_code == 200, "the token")
        elsewhere = _demo(guarded, "--repo", repo, "--key", key, "--data", tmp_path / "none")
        assert elsewhere.exit_code == 0
        assert "pobox token you makes the token" in elsewhere.output
