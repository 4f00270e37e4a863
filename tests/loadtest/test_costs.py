"""Samples are put down to the function that is to blame."""

from __future__ import annotations

import pytest

from loadtest import costs
from loadtest.subjects import role_of

_BOTTOM = "_run_module_as_main (<frozen runpy>);main (/x/shard/__main__.py:40);Runner.run (asyncio/runners.py:190)"


@pytest.mark.parametrize(
    ("stack", "family"),
    [
        (f"{_BOTTOM};_deliver (/x/shard/postmen.py:10);insert (/x/shard/mailbox.py:150)", "shard/mailbox insert"),
        (f"{_BOTTOM};on_post (router/messages.py:3);decode (msgspec/json.py:9)", "router/messages on_post"),
        (f"{_BOTTOM};data_received (uvicorn/protocols/http/httptools_impl.py:1)", "uvicorn: HTTP in and out"),
        (f"{_BOTTOM};__call__ (falcon/asgi/app.py:300)", "falcon"),
        ("_bootstrap (threading.py:1);_worker (concurrent/futures/thread.py:83)", "handing over to threads"),
        (_BOTTOM, "event loop: sockets, epoll, timers"),
        (f"{_BOTTOM};Office.run (/x/shard/office.py:90)", "shard/office Office.run"),
        ("something strange", "other"),
    ],
)
def test_a_sample_belongs_to_the_innermost_frame_with_a_name(stack: str, family: str) -> None:
    assert costs.family(stack) == family


def test_samples_are_added_up() -> None:
    insert = f"{_BOTTOM};insert (/x/shard/mailbox.py:150)"
    elsewhere = f"{_BOTTOM};insert (/x/shard/mailbox.py:151)"
    counted = costs.families(f"{insert} 3\n{elsewhere} 4\n{_BOTTOM} 2\n\nno number\n")
    assert counted == {"shard/mailbox insert": 7, "event loop: sockets, epoll, timers": 2}


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["python", "-m", "shard", "--index", "0"], "shard"),
        (["python", "-m", "router", "--index", "0"], "router"),
        (["python", "-m", "node", "serve"], "supervisor"),
        (["/usr/lib/postgresql/15/bin/postgres", "-D", "data"], "postgres"),
        (["postgres: checkpointer "], "postgres"),
        (["python", "-m", "loadtest.peer_postgres", "--port", "1"], "web"),
        ([], "other"),
    ],
)
def test_a_process_is_known_by_its_command(command: list[str], role: str) -> None:
    assert role_of(command) == role
