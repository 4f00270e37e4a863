"""A log as mail: every name is one that pobox takes, whatever the author is called."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import gitlog
from node.gitlog import Commit, Touched
from node.ids import check_name


def _commit(subject: str = "Change", *paths: str, author: str = "Ada Kern", email: str = "ada@example.org") -> Commit:
    files = tuple(Touched(path, 1, 2) for path in paths)
    return Commit("c0ffee" * 6 + "abcd", author, email, datetime(2026, 1, 2, tzinfo=UTC), subject, "", files)


def _written(*commits: tuple[str, ...], files: str = "") -> str:
    return "".join("\x01" + "\0".join(fields) + "\0" + files for fields in commits)


def test_fields_and_files_are_told_apart_whatever_is_in_them() -> None:
    log = _written(
        ("aa", "A", "a@x", "1700000000", "Subject", "body\n1\t2\tno/file\n\x01nor a commit\n"),
        files="\0\n5\t13\tshard/a b.py\0-\t-\tdocs/é\n.png\0",
    ) + _written(("bb", "B", "b@x", "0", "", ""))
    first, second = gitlog.commits(log)
    assert first.files == (Touched("shard/a b.py", 5, 13), Touched("docs/é\n.png", None, None))
    assert first.body.endswith("\x01nor a commit")
    assert (second.hash, second.subject, second.files, second.at.year) == ("bb", "", (), 1970)


@pytest.mark.parametrize(
    ("author", "email", "user"),
    [
        ("Ada Kern", "x@y", "ada.kern"),
        ("Åsa Öberg-Lind", "x@y", "asa.oberg-lind"),
        ("陈晓", "chen.xiao@example.org", "chen.xiao"),
        ("..", "@", "somebody"),
        ("-rf /", "x@y", "rf."),
    ],
)
def test_an_authors_name_becomes_a_user(author: str, email: str, user: str) -> None:
    assert gitlog.author_of(_commit(author=author, email=email)) == user


@given(st.text(max_size=200), st.text(max_size=200), st.lists(st.text(min_size=1, max_size=20), max_size=4))
def test_users_and_channels_are_always_names(author: str, email: str, paths: list[str]) -> None:
    commit = _commit("s", *paths, author=author, email=email)
    check_name(gitlog.author_of(commit), "author")
    check_name(gitlog.channel_of(commit), "channel")


def test_a_commit_goes_to_the_folder_of_most_of_its_files() -> None:
    assert gitlog.channel_of(_commit("x", "shard/a", "docs/a", "shard/b")) == "shard"
    assert gitlog.channel_of(_commit("x", "shard/a", "docs/a")) == "docs"
    assert gitlog.channel_of(_commit("x", "README.md")) == "top"
    assert gitlog.channel_of(_commit("x", ".github/ci.yml")) == "github"


def test_members_are_those_who_touched_the_folder() -> None:
    log = [_commit("x", "a/1"), _commit("x", "a/2", author="Bo"), _commit("x", "b/1", author="Bo"), _commit("x", "a/3")]
    assert gitlog.members(log) == {"a": ["ada.kern", "bo"], "b": ["bo"]}


def test_what_sounds_urgent_is_high_and_small_change_low() -> None:
    assert gitlog.priority(_commit("Fix a crash at start", "a/b")) == 8
    assert gitlog.priority(_commit("docs: spelling", "a/b")) == 3
    assert gitlog.priority(_commit("Documents are kept", "a/b")) == 5
    assert gitlog.priority(_commit("Big", *(f"a/{n}" for n in range(30)))) == 6


def test_the_message_names_the_files_as_code_and_is_never_without_a_title() -> None:
    message = gitlog.message(_commit("", "a/`b", *(f"a/{n}" for n in range(30))))
    assert message.title == "c0ffeec0ffee"
    assert message.content.startswith("- ``a/`b`` +1 -2\n- `a/0` +1 -2\n")
    assert message.content.endswith("- and 11 more")
