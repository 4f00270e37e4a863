from __future__ import annotations

import httpx
import msgspec
import pytest

from node.apiclient import said
from node.errors import BadField, MailboxFull, PoboxError


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (MailboxFull(["ada", "bob"]), "A mailbox is full: ada, bob"),
        (
            MailboxFull([f"u{n}" for n in range(23)]),
            f"A mailbox is full: {', '.join(f'u{n}' for n in range(20))} and 3 more",
        ),
        (BadField("users[0] is no userId", field="users[0]"), "A field is not acceptable: users[0] is no userId"),
        (BadField("is too long", field="title"), "A field is not acceptable (title): is too long"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_and_whom_it_is_about(problem: PoboxError, line: str) -> None:
    answer = httpx.Response(problem.status, content=msgspec.json.encode(problem.problem()))
    assert said(answer) == line
